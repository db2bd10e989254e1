"""A jsonl file of lines with an `id` that many processes append to, each under the lock of output.py."""

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path

from utils.config import UserError


class Lines:
    """The last line of an id counts. Holds where the lines are, not what they say: one of 84 views takes 4 kB."""

    def __init__(self, path: Path):
        self.path = path
        self.places: dict[str, tuple[int, int]] = {}  # id -> offset and length
        self.kinds: dict[str, str | None] = {}
        # Opened anew at every look, which makes NFS look too; kept open till then, so that no new file gets its inode.
        self._file = None
        self._end = 0

    def read_on(self) -> None:
        """What others have appended. A torn last line, of a kill or a full disk, is cut off. Raises UserError with file:line."""
        before, self._file = self._file, open(self.path, "a+b")  # noqa: SIM115
        if before is None or not os.path.samestat(os.fstat(before.fileno()), os.fstat(self._file.fileno())):
            self.places, self.kinds, self._end = {}, {}, 0
        if before is not None:
            before.close()
        self._file.seek(self._end)
        for raw in self._file:
            line = _parse(raw)
            if line is None and not raw.endswith(b"\n"):
                self._file.truncate(self._end)
                return
            if line is None:
                number = self.path.read_bytes()[: self._end].count(b"\n") + 1
                raise UserError(
                    f"{self.path}:{number}: not a line of render's; remove it, or choose another render.out"
                )
            if not raw.endswith(b"\n"):  # an editor's
                self._file.write(b"\n")
                self._file.flush()
            self._note(line, len(raw.rstrip(b"\n")) + 1)

    def _note(self, line: dict, length: int) -> None:
        self.places[line["id"]], self.kinds[line["id"]] = (self._end, length), line.get("kind")
        self._end += length

    def line(self, object_id: str) -> bytes:
        offset, length = self.places[object_id]
        return os.pread(self._file.fileno(), length, offset)

    def append(self, line: dict) -> None:
        """In one write, then to disk. Raises OSError if the disk is full; `read_on` cuts off what was written of it."""
        data = json.dumps(line).encode() + b"\n"
        if os.write(self._file.fileno(), data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._file.fileno())
        self._note(line, len(data))

    def rewrite(self, ids: Iterable[str]) -> None:
        """These lines only, in order of the ids, in one move."""
        ids, end = sorted(ids), 0
        for offset, length in (self.places[name] for name in ids):
            end = end + length if offset == end else -1
        if end == self._end:  # so they are
            return
        fresh = self.path.with_name(f".{self.path.name}")
        with open(fresh, "wb") as file:
            file.writelines(self.line(name) for name in ids)
        sync([fresh])
        fresh.rename(self.path)
        sync([self.path.parent])
        self.read_on()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _parse(raw: bytes) -> dict | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("id"), str) else None


def sync(paths: Iterable[Path]) -> None:
    """Files and folders, to disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
