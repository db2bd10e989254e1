"""What a validation compares with what."""

from types import SimpleNamespace

import pytest

from training.validation import other_elevation


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [((5, 10, 15), (10, 15, 5)), ((5, 5, 10), (10, 10, 5)), ((5, 5), (None, None)), ((5,), (None,))],
)
def test_the_other_elevation_is_another_one_or_none(degrees, expected):
    records = [SimpleNamespace(elevations_deg=[float(value)] * 21) for value in degrees]
    assert tuple(other_elevation(records, index, len(records)) for index in range(len(records))) == expected


def test_only_records_that_are_measured_lend_their_elevation():
    records = [SimpleNamespace(elevations_deg=[value]) for value in (5.0, 5.0, 10.0)]
    assert other_elevation(records, 0, 2) is None
