"""The second opening of a large jsonl: quick, and never wrong."""

import errno
import json
import os

import pytest

import dataset.line_index
import dataset.records
from dataset.line_index import index_path
from dataset.records import Records, checked_fields
from tests.helpers.hostile import mutated_bytes
from utils.errors import UserError


def line(name: str, num_views: int = 6) -> str:
    return json.dumps(
        {"image_path": [f"{name}/{view:03d}.png" for view in range(num_views)], "elevation": [10.0] * num_views}
    )


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A jsonl of 20 records with empty lines between, which counts as large, and has been opened once."""
    monkeypatch.setattr(dataset.records, "SMALLEST", 1)
    path = tmp_path / "meta.jsonl"
    path.write_text("\n\n".join(line(f"object_{number}") for number in range(20)))
    Records(path, 3)
    assert index_path(path).is_file()
    return path


@pytest.fixture
def parsed(monkeypatch):
    """The places of all lines that are parsed from now on."""
    places = []

    def check(text, place, num_frames):
        places.append(place)
        return checked_fields(text, place, num_frames)

    monkeypatch.setattr(dataset.records, "checked_fields", check)
    return places


def ids(records: Records) -> list[str]:
    return [record.id for record in records]


def test_the_second_opening_reads_no_line_and_finds_the_same_records(path, parsed):
    records = Records(path, 3)
    assert parsed == []
    assert ids(records) == [f"object_{number}" for number in range(20)]
    assert records[7].place == f"{path}:15" and records[7].id == "object_7"


def test_a_file_that_was_written_to_is_read_again_whatever_its_time_says(path, parsed):
    before = path.stat()
    text = path.read_text()
    path.write_text(text.replace("object_3", "object_x"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    assert ids(Records(path, 3))[3] == "object_x"
    path.write_text(path.read_text() + "\n" + line("object_20"))
    assert len(Records(path, 3)) == 21
    parsed.clear()
    Records(path, 3)
    assert parsed == [], "the index was written anew"


def test_an_index_does_not_hide_a_line_that_does_not_fit_the_run(path):
    with pytest.raises(UserError, match=rf"{path}:1: an orbit holds 4 views or a multiple"):
        Records(path, 4)


def test_a_line_that_became_wrong_is_refused_with_its_number(path):
    path.write_text(path.read_text().replace("object_9/000.png", "../bject_9/0.png"))
    with pytest.raises(UserError, match=rf"{path}:19: "):
        Records(path, 3)


def test_a_damaged_index_is_never_trusted(path):
    expected = ids(Records(path, 3))
    whole = index_path(path).read_bytes()
    rebuilt = 0
    for damaged in mutated_bytes(whole, 200, seed=0):
        index_path(path).write_bytes(damaged)
        assert ids(Records(path, 3)) == expected
        rebuilt += index_path(path).read_bytes() != damaged
    assert rebuilt > 150


def test_a_place_that_cannot_be_written_to_is_read_every_time(path, parsed, monkeypatch):
    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system")

    index_path(path).unlink()
    monkeypatch.setattr(dataset.line_index, "new_file", refuse)
    assert len(Records(path, 3)) == len(Records(path, 3)) == 20
    assert len(parsed) == 40


def test_a_small_file_gets_no_index(path, monkeypatch):
    index_path(path).unlink()
    monkeypatch.setattr(dataset.records, "SMALLEST", 1 << 20)
    Records(path, 3)
    assert not index_path(path).exists()
