"""The records of a svd_meta.jsonl. Every line is checked when the file is opened, and every error names file:line."""

import hashlib
import os
import posixpath
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dataset.archives import Archive, parse_archive
from dataset.line_index import SMALLEST, identity, read_index, write_index
from dataset.local_copies import local_path
from utils.errors import UserError, shown
from utils.files import leaves_folder, open_file
from utils.reading import parse_json_line
from utils.schemas import LOCAL_CACHE
from utils.urls import redacted

DIGESTED = 1000  # lines, evenly spread, whose content tells two files apart
MAX_LINE_BYTES = 1 << 24
RULES = 2  # goes up when a line is checked for more than before
MAX_ELEVATION_SPREAD_DEG = 0.5  # orbits are at constant elevation


@dataclass(frozen=True)
class OrbitRecord:
    """One line: N views once around an object, in order of azimuth, counter-clockwise seen from above."""

    id: str
    image_paths: tuple[str, ...]  # relative to data.root
    elevations_deg: tuple[float, ...]  # of each view, [-90, 90]
    place: str  # file:line
    archive: Archive | None = None  # which holds the images; None: each is a file


class Records:
    """The records of a jsonl file. Only their offsets are held, 12 bytes a line, so that a million cost workers nothing."""

    def __init__(self, path: str | Path, num_frames: int, local_cache: str = LOCAL_CACHE):
        """`path` may be an address; the file is then fetched once, and kept in `local_cache`.

        Raises UserError with file:line for the first line that is not a record of k x `num_frames` views.
        """
        self.name = redacted(str(path))
        self.path = local_path(str(path), local_cache)
        self.num_frames = num_frames
        with open_file(self.path) as file:
            status = os.fstat(file.fileno())
            large = status.st_size >= SMALLEST
            wanted = identity(status, f"{RULES} {num_frames}")
            found = read_index(self.path, wanted) if large else None
            self._offsets, self._lines = found or self._check_lines(file)
            unchanged = identity(os.fstat(file.fileno()), wanted["rules"]) == wanted
        if large and found is None and unchanged:
            write_index(self.path, wanted, self._offsets, self._lines)

    def _check_lines(self, file: BinaryIO) -> tuple[np.ndarray, np.ndarray]:
        """Check every line; return where each record begins, and the number of its line."""
        offsets = array("q")
        lines = array("i")
        for number, offset, line in numbered_lines(file):
            checked_fields(line, f"{self.name}:{number}", self.num_frames)
            offsets.append(offset)
            lines.append(number)
        if not offsets:
            raise UserError(f"{self.name}: holds no record")
        return np.array(offsets, dtype=np.int64), np.array(lines, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._offsets)

    @cached_property
    def description(self) -> dict[str, int | str]:
        """Which records these are: their number, and a digest of where all lines begin and of what DIGESTED of them hold."""
        digest = hashlib.sha256(self._offsets.tobytes())
        with open_file(self.path) as file:
            for index in _spread(len(self), DIGESTED):
                file.seek(self._offsets[index])
                digest.update(file.readline().strip())
        return {"count": len(self), "sha256": digest.hexdigest()}

    def __iter__(self) -> Iterator[OrbitRecord]:
        with open_file(self.path) as file:
            for offset, number in zip(self._offsets, self._lines):
                file.seek(offset)
                yield parse_record(file.readline(), f"{self.name}:{number}", self.num_frames)

    def __getitem__(self, index: int) -> OrbitRecord:
        with open_file(self.path) as file:
            file.seek(self._offsets[index])
            return parse_record(file.readline(), f"{self.name}:{self._lines[index]}", self.num_frames)


def numbered_lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yield the number, the offset and the content of each line that is not empty. A line that is too long comes cut."""
    offset = 0
    for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES + 1), b""), start=1):
        if not line.isspace():
            yield number, offset, line
        offset += len(line)
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES + 1)
            offset += len(line)


def evenly_spread(records: Records, count: int) -> Iterator[OrbitRecord]:
    """At most `count` of the records, from the first to the last."""
    for index in _spread(len(records), count):
        yield records[index]


def _spread(total: int, count: int) -> np.ndarray:
    return np.linspace(0, total - 1, min(count, total)).round().astype(int)


def in_both(records: Records, others: Records) -> list[str]:
    """The ids of those `others` that `records` holds too, under the same id or with the same first image."""
    names = {name: other.id for other in others for name in (other.id, other.image_paths[0])}
    return sorted({names[name] for record in records for name in (record.id, record.image_paths[0]) if name in names})


def parse_record(line: bytes, place: str, num_frames: int) -> OrbitRecord:
    """The record that a line holds. Raises UserError naming `place` if it is none, or has not k x `num_frames` views."""
    fields = checked_fields(line, place, num_frames)
    elevations_deg = tuple(map(float, fields["elevation"]))
    return OrbitRecord(fields["id"], tuple(fields["image_path"]), elevations_deg, place, fields.get("archive"))


def checked_fields(line: bytes, place: str, num_frames: int) -> dict:
    """The object that a line holds, with its id and its Archive. Raises as parse_record does, which takes a third longer."""
    if len(line) > MAX_LINE_BYTES:
        raise UserError(f"{place}: a line of more than {MAX_LINE_BYTES >> 20} MiB cannot be a record")
    raw = parse_json_line(line, place)
    if not isinstance(raw, dict):
        raise UserError(f"{place}: expected an object with image_path and elevation, found {type(raw).__name__}")
    for key in ("image_path", "elevation"):
        if not isinstance(raw.get(key), list):
            raise UserError(
                f"{place}: '{key}' must be a list, one entry per view" + ("" if key in raw else "; it is missing")
            )
    paths = raw["image_path"]
    elevations = raw["elevation"]
    if not paths or len(paths) % num_frames:
        raise UserError(f"{place}: an orbit holds {num_frames} views or a multiple of it, found {len(paths)}")
    if len(elevations) != len(paths):
        raise UserError(f"{place}: expected {len(paths)} elevations, found {len(elevations)}")
    _check_paths(paths, place)
    _check_elevations(elevations, place)
    record_id = raw["id"] if "id" in raw else posixpath.dirname(paths[0]) or posixpath.splitext(paths[0])[0]
    if not isinstance(record_id, (str, int)):
        raise UserError(f"{place}: 'id' must be a text or an integer, found {shown(record_id)}")
    if not str(record_id).isascii() and re.search("[\ud800-\udfff]", str(record_id)):
        raise UserError(f"{place}: 'id' holds half a character: {shown(record_id)}")
    raw["id"] = str(record_id)
    if "archive" in raw:
        raw["archive"] = parse_archive(raw["archive"], len(paths), place)
    return raw


def _check_paths(paths: list, place: str) -> None:
    """Look at all of them at once, and only where something may be wrong at each: a million records are checked so."""
    try:
        text = "/".join(["", *paths, ""])
    except TypeError:
        text = "//"
    if not ("//" in text or "/.." in text or "\\" in text or "\0" in text):
        return
    for path in paths:
        if not isinstance(path, str) or not path or "\0" in path:
            raise UserError(f"{place}: expected an image path, found {shown(path)}")
        if leaves_folder(path):
            raise UserError(f"{place}: {shown(path)} leaves data.root; paths are relative to it, with / and without ..")


def check_elevation(elevation, place: str) -> None:
    """Raises UserError naming `place` for what is not a number of degrees in [-90, 90], as nan is not."""
    if type(elevation) not in (int, float) or not abs(elevation) <= 90:
        raise UserError(f"{place}: an elevation is a number of degrees in [-90, 90], found {shown(elevation)}")


def _check_elevations(elevations: list, place: str) -> None:
    first = elevations[0]
    if elevations.count(first) == len(elevations) == [*map(type, elevations)].count(float):  # as they usually are
        return check_elevation(first, place)
    for elevation in elevations:
        check_elevation(elevation, place)
    spread = max(elevations) - min(elevations)
    if spread > MAX_ELEVATION_SPREAD_DEG:
        raise UserError(
            f"{place}: elevations vary by {spread:g} degrees, more than {MAX_ELEVATION_SPREAD_DEG};"
            " an orbit is at constant elevation"
        )
