"""What a validation compares with what."""

from types import SimpleNamespace

import pytest

from training.validation import OTHERS_LOOKED_AT, other_elevation


def records(*degrees: float) -> list[SimpleNamespace]:
    return [SimpleNamespace(elevations_deg=[float(value)] * 21) for value in degrees]


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [((5, 10, 15), (10, 15, 5)), ((5, 5, 10), (10, 10, 5)), ((5, 5), (None, None)), ((5,), (None,))],
)
def test_the_other_elevation_is_another_one_or_none(degrees, expected):
    found = records(*degrees)
    assert tuple(other_elevation(found, index) for index in range(len(found))) == expected


def test_of_a_million_records_of_one_elevation_few_are_read():
    same = [5] * OTHERS_LOOKED_AT
    assert other_elevation(records(5, *same[1:], 10), 0) == 10
    assert other_elevation(records(5, *same, 10, 5), 0) is None
