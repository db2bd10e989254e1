"""Orbits whose views lie in one uncompressed tar or zip, and are read in one piece: one request instead of one for each view.

A line of the jsonl says where: see docs/data.md. What stands before a view's bytes in the archive must agree with it.
"""

import struct
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.local_copies import fetch_range
from utils.errors import UserError, shown
from utils.files import leaves_folder, open_file
from utils.schemas import DataSettings
from utils.urls import is_remote, joined, redacted

SUFFIXES = (".tar", ".zip")
MAX_IMAGE_BYTES = 256 << 20  # of one view's file
MAX_PIECE_BYTES = 1 << 30  # from the first to the last view of an orbit
_ZIP_HEADER = struct.Struct("<4s2xHH4xLLLHH")  # signature, flags, method, crc, two sizes, lengths of name and extra
_ENCRYPTED = 1
_SIZE_FOLLOWS = 8


@dataclass(frozen=True)
class Archive:
    """Where the views of an orbit lie in an archive."""

    path: str  # relative to data.root
    size: int  # bytes
    members: tuple[tuple[int, int], ...]  # of each view: the bytes at which its header begins and its content ends


def parse_archive(raw: object, num_views: int, place: str) -> Archive:
    """Return the archive that a line names. Raises UserError naming `place` for what cannot be inside one."""
    if not isinstance(raw, dict):
        raise UserError(f"{place}: 'archive' must be an object with path, size and members, found {shown(raw)}")
    path = raw.get("path")
    size = raw.get("size")
    members = raw.get("members")
    if not isinstance(path, str) or "\0" in path or leaves_folder(path) or not path.lower().endswith(SUFFIXES):
        raise UserError(f"{place}: archive.path must be a .tar or .zip inside data.root, found {shown(path)}")
    if type(size) is not int or not 0 < size < 2**63:
        raise UserError(f"{place}: archive.size must be a number of bytes, found {shown(size)}")
    if not isinstance(members, list) or len(members) != num_views:
        raise UserError(f"{place}: archive.members must be a list of {num_views} pairs, one for each view")
    for member in members:
        if not isinstance(member, list) or [type(number) for number in member] != [int, int]:
            raise UserError(f"{place}: archive.members: expected [first byte, end], found {shown(member)}")
        begin, end = member
        if not 0 <= begin < end <= size or end - begin > MAX_IMAGE_BYTES:
            raise UserError(f"{place}: archive.members: no view can lie at {member} of {size:,} bytes")
    first, last = min(members)[0], max(end for _, end in members)
    if last - first > MAX_PIECE_BYTES:
        raise UserError(
            f"{place}: archive.members lie {last - first:,} bytes apart: an orbit's views must lie together"
        )
    return Archive(path, size, tuple((begin, end) for begin, end in members))


def read_views(archive: Archive, paths: Sequence[str], views: Sequence[int], data: DataSettings) -> list[bytes]:
    """Return the files of `views`, of an orbit whose views are called `paths`. From an address it is one request, by which
    what lies between them is read as well.

    Raises UserError, with the archive's path or address, if it cannot be read or holds something else there.
    """
    spans = [archive.members[view] for view in views]
    if is_remote(data.root):
        url = joined(data.root, archive.path)
        name = redacted(url)
        begin = min(spans)[0]
        piece = fetch_range(url, data, begin, max(end for _, end in spans), archive.size)
        members = [piece[first - begin : last - begin] for first, last in spans]
    else:
        name = str(Path(data.root, archive.path))
        members = _read_local(Path(data.root, archive.path), spans, archive.size)
    return [member[header_length(member, len(member), paths[view], name) :] for view, member in zip(views, members)]


def _read_local(path: Path, spans: Sequence[tuple[int, int]], size: int) -> list[bytes]:
    with open_file(path) as file:
        if (found := file.seek(0, 2)) != size:
            raise UserError(f"{path}: has {found:,} bytes instead of {size:,}: run `main.py index_archives` again")
        members = []
        for begin, end in spans:
            file.seek(begin)
            members.append(file.read(end - begin))
        return members


def header_length(member: bytes, length: int, path: str, archive: str) -> int:
    """Return how many bytes of `member` come before the content. `length` is that of both; `member` may end before.

    Raises UserError unless it is a plain file, stored as it is, and called `path` or the end of it.
    """
    if member[:4] == b"PK\3\4":
        begin, name, content = _zip_header(member, length)
    else:
        begin, name, content = _tar_header(member)
    if name is None or begin + content != length or not is_called(path, name):
        found = "no plain stored file" if name is None else f"{shown(name)} of {content:,} bytes"
        raise UserError(
            f"{archive}: holds {found} where its line says that {shown(path)} is: run `main.py index_archives` again"
        )
    return begin


def is_called(path: str, name: str) -> bool:
    """Return whether a file of an archive may be the one at `path`, relative to data.root: it is called so, or like its end."""
    name = name.removeprefix("./")
    return path == name or path.endswith(f"/{name}")


def _tar_header(member: bytes) -> tuple[int, str | None, int]:
    """Return the length of the header, the member's name, None if it is no plain file, and the length of the content."""
    try:
        info = tarfile.TarInfo.frombuf(member[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return 0, None, 0
    plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
    return tarfile.BLOCKSIZE, info.name if plain else None, info.size


def _zip_header(member: bytes, length: int) -> tuple[int, str | None, int]:
    if len(member) < _ZIP_HEADER.size:
        return 0, None, 0
    _, flags, method, _, stored, size, name_length, extra_length = _ZIP_HEADER.unpack(member[: _ZIP_HEADER.size])
    begin = _ZIP_HEADER.size + name_length + extra_length
    if method != 0 or flags & _ENCRYPTED or (not flags & _SIZE_FOLLOWS and stored != size):
        return begin, None, 0
    name = member[_ZIP_HEADER.size : _ZIP_HEADER.size + name_length].decode(errors="surrogateescape")
    return begin, name, length - begin if flags & _SIZE_FOLLOWS else size
