"""Files and folders that appear whole or not at all.

Until it is complete, a file or folder is called unfinished and has a hidden name beside its final one,
`.NAME.XXXXXXXX.unfinished`. Then it is synced to the disk and renamed. A process that is killed leaves it behind, and
`remove_unfinished` removes it.
"""

import glob
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError, cut

FORMER = ".former"  # the end of the hidden name of a folder that is being replaced
MAX_NAME_BYTES = 200  # of a name made from an id
MAX_SHOWN_PATH = 1000  # characters of a path that an error repeats
MAX_LIST_BYTES = 1 << 30  # of a file of ids or images: a million lines are some 50 MB


def unfinished_path(path: Path) -> Path:
    """Return a new hidden name beside `path`. It is random, since process ids repeat between machines."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")


def write_atomically(path: Path, data: str | bytes) -> None:
    with new_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put `path` into an OSError that names no file. A write that fails, as on a full disk, does not say where."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_file(path: Path, data: str | bytes) -> None:
    with naming(path), open(path, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield an unfinished file. It takes the place of `path` when the block ends without an error.

    Raises UserError if `path` is a folder, a link, or a device: /dev/null would be a file from then on.
    """
    refuse_link(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}: choose another place")
    unfinished = unfinished_path(path)
    try:
        with naming(path), open(unfinished, "xb") as file:
            yield file
        put_in_place(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an unfinished folder. It takes the place of `folder` when the block ends without an error. Links are refused."""
    refuse_link(folder)
    folder = folder.resolve()
    unfinished = unfinished_path(folder)
    try:
        with naming(folder):
            unfinished.mkdir(parents=True)
            yield unfinished
            put_in_place(unfinished, folder)
    finally:
        remove(unfinished)


def put_in_place(unfinished: Path, path: Path) -> None:
    """Sync an unfinished file or folder and rename it to `path`, whose former content is removed.

    A former folder is first renamed to `.NAME.XXXXXXXX.former`. If we are killed before its successor is in place,
    `remove_unfinished` brings it back. Raises UserError if a folder would replace a link.
    """
    if not unfinished.is_dir():
        sync([unfinished])
        unfinished.replace(path)
        sync([path.parent])
        return
    sync([*unfinished.rglob("*"), unfinished])
    refuse_link(path)
    former = unfinished_path(path).with_suffix(FORMER)
    if os.path.lexists(path):
        path.rename(former)
    unfinished.rename(path)
    sync([path.parent])
    remove(former)


def refuse_link(path: Path) -> None:
    """Raise UserError for a link: neither it nor what it points to is ours to replace."""
    if path.is_symlink():
        raise UserError(f"{path}: is a link: choose another place, or remove it")


def remove_folder(folder: Path) -> None:
    """Hide `folder`, then remove it. If we are killed in between, what is left is unfinished, not half a folder."""
    unfinished = unfinished_path(folder)
    folder.rename(unfinished)
    remove(unfinished)


def remove_unfinished(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left in `folder` when they wrote `name`, or when they wrote anything.

    A former folder without its successor comes back. Call this only where no other process can be writing the same.
    """
    pattern = "*" if name is None else glob.escape(name)
    for path in folder.glob(f".{pattern}.????????{FORMER}"):
        final = path.with_name(path.name[1 : -len(".XXXXXXXX" + FORMER)])
        if os.path.lexists(final):
            remove(path)
        else:
            path.rename(final)
    for path in folder.glob(f".{pattern}.????????.unfinished"):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file, a folder with its content, or a link but not what it points to. It need not be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(paths: Iterable[Path]) -> None:
    """Write files and folders through to the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            with naming(path):
                os.fsync(handle)
        finally:
            os.close(handle)


def user_path(text: str) -> Path:
    """Return a path that a user wrote, in which `~` and `~NAME` are home folders. Raises UserError if there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{cut(text, MAX_SHOWN_PATH)}: there is no such home folder") from None


def open_file(path: Path) -> BinaryIO:
    """Open a file to read it. Raises UserError if it is not there, or is no regular file but a folder, a pipe or a device.

    It is opened without waiting, since a pipe that nobody writes to would never answer.
    """
    name = cut(str(path), MAX_SHOWN_PATH)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise UserError(f"{name}: cannot be read: no such file") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None
    except ValueError:  # a character that no path can have
        raise UserError(f"{name}: cannot be read: not the name of a file") from None
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        raise UserError(f"{name}: cannot be read: it is {'a folder' if stat.S_ISDIR(kind) else 'not a regular file'}")
    return open(handle, "rb")


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return (file:line, text) of each line of a UTF-8 file that is not empty. Raises UserError."""
    with open_file(path) as file:
        data = file.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        raise UserError(f"{path}: is larger than {MAX_LIST_BYTES >> 20} MiB")
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot be read: not UTF-8 text") from None
    return [(f"{path}:{number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def leaves_folder(path: str) -> bool:
    """Return whether a relative path, written with `/`, leads out of the folder that it is relative to."""
    return path.startswith("/") or "\\" in path or (".." in path and ".." in path.split("/"))


def file_name(record_id: str) -> str:
    """Turn an id into the name of a file or folder: letters, digits and `_.-`, of which the last three do not begin it.

    It has at most MAX_NAME_BYTES, so that suffixes and the hidden names above fit into the 255 bytes of a file system. It
    is empty if the id has no letter or digit.
    """
    name = re.sub(r"[^\w.-]", "_", record_id).lstrip("._-")
    return name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
