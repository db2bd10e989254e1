"""A jsonl file of lines with an `id`. Many processes may append to it, each under a lock that they share."""

import errno
import json
import os
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

from pydantic import BaseModel

from utils.errors import UserError
from utils.files import naming, new_file

BLOCK_BYTES = 1 << 20


class Lines:
    """Keeps the place of each line, not its text: a line with 84 views is 4 kB long. The last line of an id counts."""

    def __init__(self, path: Path, schema: type[BaseModel], command: str):
        """`command` writes the file. Raises UserError in what reads, for a line that the schema does not allow."""
        self.path = path
        self.schema = schema
        self.command = command
        self.places: dict[str, tuple[int, int]] = {}  # id -> offset and length
        self.kinds: dict[str, str | None] = {}
        # Opened anew at every look, which makes NFS look too; kept open till then, so that no new file gets its inode.
        self._file = None
        self._end = 0

    def read_on(self) -> None:
        """Read what others have appended, up to the last line break. Raises UserError with file:line.

        This needs no lock: what is before a line break stays as it is, for only a last line without one is ever cut off.
        """
        before = self._file
        self._file = open(self.path, "a+b")  # noqa: SIM115
        if before is None or not os.path.samestat(os.fstat(before.fileno()), os.fstat(self._file.fileno())):
            self.places = {}
            self.kinds = {}
            self._end = 0
        if before is not None:
            before.close()
        stop = self._last_break()
        self._file.seek(self._end)
        while self._end < stop:
            raw = self._file.readline()
            line = self._parse(raw)
            if line is None:
                number = self.path.read_bytes()[: self._end].count(b"\n") + 1
                raise UserError(
                    f"{self.path}:{number}: not a line of {self.command}'s; remove it, or choose another {self.command}.out"
                )
            self._note(line, len(raw))

    def read_to_end(self) -> bool:
        """Read the last line too, under the lock. One torn by a kill or a full disk is cut off, a whole one gets its line break.

        Returns False if the file was replaced since `read_on`, which then reads all of it anew and should not do so under the lock.
        """
        if not self._is_at_its_path():
            return False
        self.read_on()
        tail = os.pread(self._file.fileno(), os.fstat(self._file.fileno()).st_size - self._end, self._end)
        line = self._parse(tail)
        if tail and line is None:
            with naming(self.path):
                self._file.truncate(self._end)
        elif tail:  # an editor's
            with naming(self.path):
                self._file.write(b"\n")
                self._file.flush()
            self._note(line, len(tail) + 1)
        return True

    def _is_at_its_path(self) -> bool:
        with open(self.path, "ab") as now:  # not by stat: NFS looks anew at what is opened
            return os.path.samestat(os.fstat(now.fileno()), os.fstat(self._file.fileno()))

    def _last_break(self) -> int:
        """Return the offset after the last line break, which is at or after the end of what is known."""
        place = os.fstat(self._file.fileno()).st_size
        while place > self._end:
            start = max(self._end, place - BLOCK_BYTES)
            found = os.pread(self._file.fileno(), place - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            place = start
        return self._end

    def _note(self, line: dict, length: int) -> None:
        self.places[line["id"]] = (self._end, length)
        self.kinds[line["id"]] = line.get("kind")
        self._end += length

    def line(self, object_id: str) -> bytes:
        offset, length = self.places[object_id]
        return os.pread(self._file.fileno(), length, offset)

    def append(self, *lines: dict) -> None:
        """Write lines at once and sync them. Raises OSError if the disk is full; `read_to_end` cuts off what is torn."""
        rows = [json.dumps(line).encode() + b"\n" for line in lines]
        data = b"".join(rows)
        with naming(self.path):
            if os.write(self._file.fileno(), data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        for line, row in zip(lines, rows):
            self._note(line, len(row))

    def rewrite(self, ids: Iterable[str], other: "Lines | None" = None) -> None:
        """Replace the file by one of these lines only, sorted by id. Lines that it lacks are copied from `other`."""
        ids = sorted(ids)
        end = 0
        for offset, length in (self.places.get(name, (-1, 0)) for name in ids):
            end = end + length if offset == end else -1
        if end == self._end:  # they are sorted, and all of the file
            return
        sources = [self if name in self.places else other for name in ids]
        with new_file(self.path) as file:
            file.writelines(lines.line(name) for name, lines in zip(ids, sources))
        kinds = {name: lines.kinds[name] for name, lines in zip(ids, sources)}
        lengths = [lines.places[name][1] for name, lines in zip(ids, sources)]
        self._file.close()
        self._file = open(self.path, "a+b")  # noqa: SIM115
        self.places = dict(zip(ids, zip(accumulate(lengths, initial=0), lengths)))
        self.kinds = kinds
        self._end = sum(lengths)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _parse(self, raw: bytes) -> dict | None:
        try:
            line = json.loads(raw)
            self.schema.model_validate(line)
        except (ValueError, RecursionError):
            return None
        return line
