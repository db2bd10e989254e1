"""What `render` writes. A kill at any moment leaves nothing half written.

An orbit is OUT/ID/ with the views and cameras.json, renamed there when all of it is on disk, and then a line in svd_meta.jsonl. A
failure is a line in failures.jsonl. OUT/.lock is never written to: the kernel's locks on its bytes go when their process does.
Byte 0 is held by whoever writes a file of OUT's own, byte 1 + n by whoever renders object number n, into OUT/.rendering/n. If a
folder is there and its byte is free, a killed process left it. This works across machines that share the file system. Two more
bytes are for what takes long and must not hold up the others: see `alone`.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel, field_validator

from rendering.failure import KINDS, Failure
from utils.errors import UserError
from utils.files import leaves_folder, remove, remove_unfinished, sync, write_atomically
from utils.held_out import held_out_of
from utils.jsonl import Lines
from utils.reading import InsidePath, Saved, read_json
from utils.sheets import spread

META, HELD_OUT, FAILURES, RENDER_SETTINGS, ACCEPTED, REJECTED = OWN_NAMES = (
    "svd_meta.jsonl",
    "svd_meta_held_out.jsonl",
    "failures.jsonl",
    "render.json",
    "accepted.png",
    "rejected.png",
)
CAMERAS = "cameras.json"  # of an orbit
FILES, SHEETS, INDEX = 0, 2**62 + 1, 2**62 + 2  # bytes: OUT's own files, the sheets' drawing, Objaverse's index


class OrbitLine(Saved):
    """What must be in a line of svd_meta.jsonl."""

    id: str
    image_path: Annotated[list[str], Field(min_length=1)]
    elevation: Annotated[list[float], Field(min_length=1)]

    @field_validator("image_path")
    @classmethod
    def _inside(cls, paths: list[str]) -> list[str]:
        if any(not path or "\0" in path or leaves_folder(path) for path in paths):
            raise ValueError("a path leaves the folder")
        return paths


class FailureLine(Saved):
    """What must be in a line of failures.jsonl."""

    id: str
    kind: Literal[tuple(KINDS)]
    reason: str = ""


class Frame(Saved):
    """What must be in a camera of an orbit."""

    file_path: InsidePath
    azimuth_deg: float
    elevation_deg: float


class OrbitCameras(Saved):
    """What must be in an orbit's cameras file."""

    frames: Annotated[list[Frame], Field(min_length=1)]


class SavedSettings(RootModel[dict[str, int | float | str | None]]):
    """What may be in render.json."""

    model_config = ConfigDict(strict=True)


class Output:
    """A context manager, to be left only when no thread renders any more."""

    def __init__(self, folder: Path, held_out: float | None = None):
        """`held_out`: see held_out_of. Raises UserError if it cannot be written, or its file system knows no locks."""
        self.folder = folder
        self.held_out = held_out
        # The kernel's locks are the process's: they do not part its threads.
        self._threads = {byte: threading.Lock() for byte in (FILES, SHEETS, INDEX)}
        try:
            (folder / ".rendering").mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"render.out: {folder} cannot be written: {error.strerror}") from None
        self._meta = Lines(folder / META, OrbitLine, "render")
        self._failures = Lines(folder / FAILURES, FailureLine, "render")
        splits = held_out is not None or (folder / HELD_OUT).exists()
        self._held_out = Lines(folder / HELD_OUT, OrbitLine, "render") if splits else None

    def __enter__(self):
        try:
            with self.locked():
                self._sweep()
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise UserError(f"render.out: {self.folder} is on a file system without locks") from None
            raise
        return self

    def __exit__(self, *_):
        for lines in self._files():
            lines.close()
        os.close(self._lock)

    @contextmanager
    def alone(self, byte: int) -> Iterator[None]:
        """Be the only thread of the only process, on any machine, that works on FILES, SHEETS or INDEX."""
        with self._threads[byte], self._kernel_lock(byte):
            yield

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be alone with the jsonl files, which are read up to their ends."""
        files = self._files()
        with self._threads[FILES], ExitStack() as stack:
            while True:
                for lines in files:
                    lines.read_on()  # nearly all of it, while others may write
                stack.enter_context(self._kernel_lock(FILES))
                if all(lines.read_to_end() for lines in files):
                    break
                stack.close()
            yield

    @contextmanager
    def _kernel_lock(self, byte: int) -> Iterator[None]:
        fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, byte)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, byte)

    def finished(self) -> tuple[set[str], dict[str, str]]:
        """Return the ids that are rendered, and the kind of failure of those that failed."""
        with self.locked():
            rendered = self._rendered()
            return rendered, {name: kind for name, kind in self._failures.kinds.items() if name not in rendered}

    @contextmanager
    def claim(self, object_id: str) -> Iterator[Path | None]:
        """Lend an empty folder to render the object in, or None if another process is at it, or has finished it.

        Raises UserError if OUT/ID is there and no orbit of render's.
        """
        number = _number(object_id)
        if not self._take(number):
            yield None
            return
        folder = self.folder / ".rendering" / f"{number:016x}"
        try:
            with self.locked():
                done = object_id in self._rendered() or object_id in self._failures.places
            if done:
                yield None
            else:
                self._check_free(object_id)
                remove(folder)  # a process may have been killed since we looked
                self.strip_path(object_id).unlink(missing_ok=True)  # it shows a former rendering
                folder.mkdir()
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, 1 + number)

    def keep(self, line: dict, orbit: Path) -> None:
        """Rename the folder `orbit` to OUT/ID and add `line`. Raises UserError as `claim` does."""
        final = self.folder / line["id"]
        final.parent.mkdir(parents=True, exist_ok=True)
        self._check_free(line["id"])  # once more, since rendering takes long
        if final.exists():
            final.rename(orbit.with_name("replaced"))  # this is removed with the claim
        # An id may be as long as a file system allows, so no longer, unfinished name stands beside it.
        sync([*orbit.iterdir(), orbit])
        orbit.rename(final)
        sync(parent for parent in final.parents if parent.is_relative_to(self.folder))
        with self.locked():
            # Which of all orbits are a given number of them is not known before the end: see tidy.
            apart = self.held_out is not None and self.held_out < 1 and held_out_of([line["id"]], self.held_out)
            (self._held_out if apart else self._meta).append(line)

    def _check_free(self, object_id: str) -> None:
        """Raise UserError if OUT/ID is no orbit of render's. One may be there of a run killed before it wrote the line."""
        final = self.folder / object_id
        if os.path.lexists(final) and not _is_orbit(final):
            raise UserError(f"{final} exists, and is not an orbit of render's: choose another render.out, or remove it")

    def fail(self, line: dict, failure: Failure) -> None:
        with self.locked():
            self._failures.append({**line, "kind": failure.kind, "reason": failure.reason})

    def settings(self, now: dict) -> dict:
        """Return the settings that the folder was made with, which are `now` if it is new."""
        path = self.folder / RENDER_SETTINGS
        with self.locked():
            if not path.exists():
                write_atomically(path, json.dumps(now, indent=1) + "\n")
            return read_json(path, SavedSettings).root

    def strip_path(self, object_id: str) -> Path:
        """Return where a filtered object's views are kept, small, for a sheet."""
        folder = self.folder / ".rejected"
        folder.mkdir(exist_ok=True)
        return folder / f"{_number(object_id):016x}.png"

    def forget_failures(self, ids: Iterable[str]) -> None:
        ids = set(ids)
        with self.locked():
            if not ids.isdisjoint(self._failures.places):
                self._failures.rewrite(self._failures.places.keys() - ids)

    def tidy(self, ids: Iterable[str]) -> bool:
        """If every object of `ids` has its line, sort the files by id, and split off what is held out.

        So neither kills nor the order of work leave a trace. Returns whether every object has its line.
        """
        with self.locked():
            rendered = self._rendered()
            if any(name not in rendered and name not in self._failures.places for name in ids):
                return False
            self._split(rendered)
            self._failures.rewrite(self._failures.places.keys() - rendered)
            return True

    def _files(self) -> list[Lines]:
        return [lines for lines in (self._meta, self._held_out, self._failures) if lines is not None]

    def _rendered(self) -> set[str]:
        return self._meta.places.keys() | (self._held_out.places.keys() if self._held_out else set())

    def _split(self, rendered: set[str]) -> None:
        """Bring every orbit's line to the file where it belongs: first copy lines, then leave out. A kill loses none."""
        if self._held_out is None:
            self._meta.rewrite(rendered)
            return
        apart = held_out_of(rendered, self.held_out)
        self._meta.rewrite(self._meta.places.keys() | (rendered - apart), self._held_out)
        self._held_out.rewrite(apart, self._meta)
        self._meta.rewrite(rendered - apart)

    def sample(self, num_lines: int) -> tuple[list[dict], list[dict]]:
        """Return lines of orbits, and of filtered ones, evenly spread over the sorted ids."""
        with self.locked():
            filtered = [name for name, kind in self._failures.kinds.items() if kind == "filtered"]
            return tuple(
                [json.loads(lines.line(name)) for name in spread(sorted(ids), num_lines)]
                for lines, ids in ((self._meta, self._meta.places), (self._failures, filtered))
            )

    def write_sheet(self, name: str, data: bytes | None) -> None:
        """Write a sheet. Without data, remove the old sheet, which is out of date."""
        with self.alone(FILES):
            if data is None:
                (self.folder / name).unlink(missing_ok=True)
            else:
                write_atomically(self.folder / name, data)

    def _sweep(self) -> None:
        remove_unfinished(self.folder)  # all are written under the lock that we hold
        for path in (self.folder / ".rendering").iterdir():
            # What is not called as a claim is, such as a file manager's .DS_Store, is not ours.
            if re.fullmatch("[0-3][0-9a-f]{15}", path.name) and self._take(number := int(path.name, 16)):
                remove(path)
                fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, 1 + number)

    def _take(self, number: int) -> bool:
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + number)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True


def _is_orbit(folder: Path) -> bool:
    """Whether all that is in a folder is a cameras file as render writes it, and the numbered views that it lists."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        names = [frame.file_path for frame in read_json(folder / CAMERAS, OrbitCameras).frames]
    except UserError:
        return False
    numbered = all(re.fullmatch(rf"{number:03d}\.(png|webp)", name) for number, name in enumerate(names))
    return numbered and {path.name for path in folder.iterdir()} <= {CAMERAS, *names}


def _number(object_id: str) -> int:
    """Return 62 bits: the place of the object's lock, and the name of its folder."""
    return int.from_bytes(hashlib.sha256(object_id.encode()).digest()[:8], "big") >> 2
