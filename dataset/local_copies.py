"""What is kept on this machine's disk of data that lies elsewhere, in the folder `data.local_cache`.

    kept/    every jsonl, and the head of every shard of a cache of latents: read in every sample, and never removed
    recent/  images, archives and latents, up to `data.local_cache_gib`; the least recently used go first

Any number of processes use it at once, and any may be killed: a file appears whole or not at all, and what a killed one left
is removed by the next that writes.
"""

import fcntl
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError
from utils.files import file_name, naming, new_file, remove_unfinished, unfinished_path, user_path
from utils.remote import Facts, look_at, read_file, read_range
from utils.schemas import DataSettings
from utils.urls import is_remote, redacted, without_user

CHUNK_BYTES = 16 << 20  # that are asked for at a time
MAX_KEPT_BYTES = 64 << 30  # a million records are 1.5 GB
CHECKSUM_BYTES = 4
FULL = 0.9  # a full folder is emptied to this share, so that it is not searched for every file


def local_path(place: str, local_cache: str) -> Path:
    """Return the path of a file, or of the copy of one at an address."""
    return keep_copy(place, local_cache) if is_remote(place) else Path(place)


def keep_copy(url: str, local_cache: str) -> Path:
    """Return a copy of a file that is fetched once: again only when its size or version there is another one."""

    def write(file: BinaryIO, facts: Facts) -> None:
        if facts.size > MAX_KEPT_BYTES:
            raise UserError(f"{redacted(url)}: has {facts.size >> 30:,} GiB, which cannot be meant")
        for start in range(0, facts.size, CHUNK_BYTES):
            file.write(read_range(url, start, min(start + CHUNK_BYTES, facts.size), facts.size))

    return keep(url, local_cache, write)


def keep(url: str, local_cache: str, write: Callable[[BinaryIO, Facts], None]) -> Path:
    """Return a file that `write` made from what lies at `url`, unless there is one of the same version."""
    facts = look_at(url)
    folder = user_path(local_cache) / "kept" / _key(url, facts.version)[:32]
    path = folder / (file_name(without_user(url).partition("?")[0].rpartition("/")[2]) or "file")
    if path.is_file():
        return path
    with naming_cache(local_cache), _locked(folder / ".lock"):
        if not path.is_file():
            remove_unfinished(folder)
            with new_file(path) as file:
                write(file, facts)
                if look_at(url) != facts:
                    raise UserError(f"{redacted(url)}: was written anew while it was read")
    return path


def fetch(url: str, data: DataSettings, limit: int) -> bytes:
    """Return a whole file of at most `limit` bytes, from this machine's disk if it is there. Raises UserError with the address."""
    return _recent(data).get(_key(url), lambda: read_file(url, limit))


def fetch_range(
    url: str, data: DataSettings, start: int, end: int, size: int | None = None, version: str = ""
) -> bytes:
    """Return bytes `start` to `end` of a file, likewise. `version` tells apart what the same address held at other times."""
    key = _key(url, version, str(start), str(end))
    return _recent(data).get(key, lambda: read_range(url, start, end, size))


def _recent(data: DataSettings) -> "RecentFiles":
    return RecentFiles(user_path(data.local_cache) / "recent", int(data.local_cache_gib * 2**30))


def _key(url: str, *more: str) -> str:
    return hashlib.sha256("\n".join((without_user(url), *more)).encode()).hexdigest()


@contextmanager
def naming_cache(folder: str | Path) -> Iterator[None]:
    """Raise UserError for a file that could not be written or read, as on a full disk."""
    try:
        yield
    except OSError as error:
        reason = f"cannot be used: {error.strerror}"
        raise UserError(
            f"{error.filename or folder}: {reason}: see data.local_cache and data.local_cache_gib"
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Yield an open file that one process at a time holds. The kernel gives it to the next one when its holder ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


@dataclass(frozen=True)
class RecentFiles:
    """A folder of at most `limit` bytes. Each file ends with a checksum, since it is not synced to the disk."""

    folder: Path
    limit: int

    def get(self, key: str, read: Callable[[], bytes]) -> bytes:
        """Return what is there under `key`, or what `read` returns, which is then put there."""
        if self.limit == 0:
            return read()
        with naming_cache(self.folder):
            found = self._find(key)
        if found is not None:
            return found
        data = read()
        with naming_cache(self.folder):
            self._put(key, data)
        return data

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    def _find(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)  # from now on it is the most recently used
        except FileNotFoundError:
            return None
        if _checksum(data[:-CHECKSUM_BYTES]) != data[-CHECKSUM_BYTES:]:
            path.unlink(missing_ok=True)
            return None
        return data[:-CHECKSUM_BYTES]

    def _put(self, key: str, data: bytes) -> None:
        """Write it, after others made room. Their sum stands in the file of the lock, and is never below what is there."""
        path = self._path(key)
        size = len(data) + CHECKSUM_BYTES
        if size > self.limit:
            return
        with _locked(self.folder / ".total") as lock:
            if path.exists():
                return
            total = _read_total(lock)
            if total is None or total + size > self.limit:
                total = self._make_room(size)
            os.pwrite(lock, b"%020d" % (total + size), 0)
            path.parent.mkdir(exist_ok=True)
            unfinished = unfinished_path(path)
            with naming(path), open(unfinished, "xb") as file:
                file.write(data)
                file.write(_checksum(data))
            unfinished.replace(path)

    def _make_room(self, size: int) -> int:
        """Remove files until another of `size` bytes fits, and return the sum of those left. Only the holder of the lock calls."""
        found = []
        for path in self.folder.glob("??/*"):
            if path.name.startswith("."):  # of a process that was killed
                path.unlink()
                continue
            with suppress(FileNotFoundError):  # another process found it damaged
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        if total + size <= self.limit:
            return total
        for _, freed, path in sorted(found):
            if total <= min(self.limit - size, int(self.limit * FULL)):
                break
            path.unlink(missing_ok=True)
            total -= freed
        return total


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "big")


def _read_total(lock: int) -> int | None:
    """Return the sum that the last holder of the lock wrote, or None if there is none to trust."""
    with suppress(ValueError):
        return int(os.pread(lock, 20, 0))
    return None
