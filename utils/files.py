"""Files and folders that appear whole or not at all.

What is being written is called unfinished: it has a hidden name beside its final one, `.NAME.XXXXXXXX.unfinished`, is
written, synced to the disk and renamed. A process that is killed leaves it behind, and `remove_unfinished` removes it.
"""

import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError


def unfinished_path(path: Path) -> Path:
    """A new name beside `path` for what is to become it. It is random, since process ids repeat between machines."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")


def write_atomically(path: Path, data: str | bytes) -> None:
    with new_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """An unfinished file that takes the place of `path` once the block has ended well."""
    unfinished = unfinished_path(path)
    try:
        with open(unfinished, "xb") as file:
            yield file
        put_in_place(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An unfinished folder that takes the place of `folder` once the block has ended well."""
    folder = folder.resolve()
    unfinished = unfinished_path(folder)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        put_in_place(unfinished, folder)
    finally:
        remove(unfinished)


def put_in_place(unfinished: Path, path: Path) -> None:
    """Sync an unfinished file or folder and rename it to `path`, whose former content is removed.

    A former folder is moved out of sight first, next to `unfinished`: at no moment is half a folder in sight.
    """
    if not unfinished.is_dir():
        sync([unfinished])
        unfinished.replace(path)
        sync([path.parent])
        return
    sync([*unfinished.rglob("*"), unfinished])
    former = unfinished.with_name(unfinished_path(path).name)
    if os.path.lexists(path):
        path.rename(former)
    unfinished.rename(path)
    sync([path.parent])
    remove(former)


def remove_folder(folder: Path) -> None:
    """Move `folder` out of sight, then remove it: a kill in between leaves something unfinished, not half a folder."""
    unfinished = unfinished_path(folder)
    folder.rename(unfinished)
    remove(unfinished)


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left in `folder` of writing `name`, or of writing anything.

    To be called only where no other process can be writing the same.
    """
    pattern = "*" if name is None else glob.escape(name)
    for path in folder.glob(f".{pattern}.????????.unfinished"):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link but not what it points to; what is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(paths: Iterable[Path]) -> None:
    """Write files and folders through to the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
