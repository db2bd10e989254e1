"""Finds the views of a jsonl's records in archives, and writes down where: see dataset/archives.py."""

import json
import posixpath
import struct
import tarfile
import zipfile
from functools import lru_cache
from pathlib import Path

from dataset.archives import SUFFIXES, header_length
from dataset.records import parse_record
from utils.errors import UserError
from utils.files import open_file
from utils.reading import parse_json_line

HEAD_BYTES = 1 << 17  # in which a member's header ends: a zip's may hold two texts of 64 KiB
_ZIP_HEADER_BYTES = 30
Members = dict[str, tuple[int, int]]  # {name: the bytes at which its header begins and its content ends}


def add_archive(line: bytes, place: str, root: Path) -> tuple[str, str]:
    """Return a line of a jsonl with the archive that holds its views, and that archive's path.

    Raises UserError naming `place` if there is no archive, or if a view is not in it as a plain stored file.
    """
    raw = parse_json_line(line, place)
    if isinstance(raw, dict):
        raw.pop("archive", None)
    record = parse_record(json.dumps(raw).encode(), place, 1)
    path = find_archive(record.image_paths[0], root)
    if path is None:
        tried = " or ".join(posixpath.dirname(record.image_paths[0]) + suffix for suffix in SUFFIXES)
        raise UserError(f"{place}: there is no {tried} in {root}, nor one of a folder above")
    status = (root / path).stat()
    try:
        members = list_members(root / path, status.st_size, status.st_mtime_ns)
        spans = [_find_member(members, view, path) for view in record.image_paths]
        with open_file(root / path) as file:
            for (begin, end), view in zip(spans, record.image_paths):
                file.seek(begin)
                header_length(file.read(min(HEAD_BYTES, end - begin)), end - begin, view, str(path))
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    raw["archive"] = {"path": str(path), "size": status.st_size, "members": [list(span) for span in spans]}
    text = json.dumps(raw)
    parse_record(text.encode(), place, 1)
    return text, str(path)


def find_archive(view: str, root: Path) -> Path | None:
    """Return the archive named like the folder of a view, or like one above it: of a/b/0.png a/b.tar, a/b.zip, a.tar or a.zip."""
    folder = posixpath.dirname(view)
    while folder:
        for suffix in SUFFIXES:
            if (root / (folder + suffix)).is_file():
                return Path(folder + suffix)
        folder = posixpath.dirname(folder)
    return None


@lru_cache(maxsize=4)
def list_members(path: Path, size: int, written_ns: int) -> Members:
    """Return the members of an archive, which is read once for records that follow each other. Raises UserError if it is damaged.

    `size` and `written_ns` are those of the file.
    """
    try:
        return _zip_members(path) if path.suffix.lower() == ".zip" else _tar_members(path)
    except (tarfile.TarError, zipfile.BadZipFile, struct.error, EOFError, ValueError) as error:
        raise UserError(f"{path}: is no uncompressed {path.suffix[1:]}, or damaged: {error}") from None


def _tar_members(path: Path) -> Members:
    with tarfile.open(path, "r:") as archive:
        plain = [member for member in archive if member.isreg() and not member.issparse()]
        return {
            member.name: (member.offset_data - tarfile.BLOCKSIZE, member.offset_data + member.size) for member in plain
        }


def _zip_members(path: Path) -> Members:
    members = {}
    with open_file(path) as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            file.seek(info.header_offset)
            header = file.read(_ZIP_HEADER_BYTES)
            length = _ZIP_HEADER_BYTES + sum(struct.unpack("<HH", header[-4:]))
            members[info.filename] = (info.header_offset, info.header_offset + length + info.compress_size)
    return members


def _find_member(members: Members, view: str, archive: Path) -> tuple[int, int]:
    """Return where a view lies. Its member is called like the view's path or the end of it, the longer the better."""
    parts = view.split("/")
    for first in range(len(parts)):
        name = "/".join(parts[first:])
        for candidate in (name, f"./{name}"):
            if candidate in members:
                return members[candidate]
    raise UserError(f"{archive}: holds no plain file {view}, nor one called like the end of it")
