"""Files and folders that appear whole or not at all."""

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError

TORSOS = ".*.torso"  # what a kill may leave beside a file


def write_atomically(path: Path, data: str | bytes) -> None:
    with new_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A temporary file beside `path` that takes its place, on the disk too, once the block has ended well."""
    torso = path.with_name(f".{path.name}.{secrets.token_hex(4)}.torso")  # process ids repeat from machine to machine
    try:
        with open(torso, "xb") as file:
            yield file
        sync([torso])
        torso.replace(path)
        sync([path.parent])
    finally:
        torso.unlink(missing_ok=True)


def sync(paths: Iterable[Path]) -> None:
    """Files and folders, to disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name, and its place, once the block has ended well."""
    folder = folder.resolve()
    torso = folder.with_name(f".writing_{folder.name}_{os.getpid()}")
    shutil.rmtree(torso, ignore_errors=True)
    try:
        torso.mkdir(parents=True)
        yield torso
        if folder.exists():
            shutil.rmtree(folder)
        torso.rename(folder)
    finally:
        shutil.rmtree(torso, ignore_errors=True)


def read_lines(path: Path) -> list[tuple[str, str]]:
    """(file:line, text) of the lines of a UTF-8 text that are not empty. Raises UserError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    return [(f"{path}:{number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def file_name(record_id: str) -> str:
    """An id as the name of a file or folder: letters, digits, `_.-`, not hidden, at most 80 characters; "" if none is left."""
    return re.sub(r"[^\w.-]", "_", record_id).lstrip("._")[:80]
