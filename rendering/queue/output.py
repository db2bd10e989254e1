"""What `render` writes. A kill at any moment leaves nothing half written.

An orbit is OUT/ID/ with the views and transforms.json, renamed there when all of it is on disk, and then a line in
svd_meta.jsonl. A failure is a line in failures.jsonl. Object number n is rendered into OUT/.rendering/n under a lock of its own
(see locks.py). If a folder is there and its lock is free, a killed process left it.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from rendering.failure import Failure
from rendering.queue.locks import FILES, Locks
from rendering.queue.saved import FailureLine, OrbitLine, SavedRenderSettings, is_orbit
from utils.errors import UserError
from utils.files import remove, remove_unfinished, sync, write_atomically
from utils.held_out import HELD_OUT_META, META, held_out_of
from utils.jsonl import Lines
from utils.reading import read_json
from utils.sheets import spread

FAILURES, RENDER_SETTINGS, ACCEPTED, REJECTED = "failures.jsonl", "render.json", "accepted.png", "rejected.png"
OWN_NAMES = (META, HELD_OUT_META, FAILURES, RENDER_SETTINGS, ACCEPTED, REJECTED)


class Output:
    """A context manager, to be left only when no thread renders any more."""

    def __init__(self, folder: Path, held_out: float | None = None):
        """`held_out`: see held_out_of. Raises UserError if it cannot be written, or its file system knows no locks."""
        self.folder = folder
        self.held_out = held_out
        try:
            (folder / ".rendering").mkdir(parents=True, exist_ok=True)
            self._locks = Locks(folder / ".lock")
        except OSError as error:
            raise UserError(f"render.out: {folder} cannot be written: {error.strerror}") from None
        self._meta = Lines(folder / META, OrbitLine, "render")
        self._failures = Lines(folder / FAILURES, FailureLine, "render")
        splits = held_out is not None or (folder / HELD_OUT_META).exists()
        self._held_out = Lines(folder / HELD_OUT_META, OrbitLine, "render") if splits else None

    def __enter__(self):
        self._refuse_foreign()  # before a torn last line is cut off
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
        self._locks.close()

    def alone(self, byte: int) -> AbstractContextManager:
        return self._locks.alone(byte)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be alone with the jsonl files, which are read up to their ends."""
        files = self._files()
        with self._locks.thread_alone(FILES), ExitStack() as stack:
            while True:
                for lines in files:
                    lines.read_on()  # nearly all of it, while others may write
                stack.enter_context(self._locks.process_alone(FILES))
                if all(lines.read_to_end() for lines in files):
                    break
                stack.close()
            yield

    def finished(self) -> tuple[set[str], dict[str, str]]:
        """Return the ids that are rendered, and the kind of failure of those that failed."""
        with self.locked():
            rendered = self._rendered()
            return rendered, {name: kind for name, kind in self._failures.kinds.items() if name not in rendered}

    def open_ids(self, ids: Iterable[str], guest: str | None) -> set[str]:
        """Return those ids that are to be rendered. `guest`: the renderer, if the folder belongs to another one."""
        with self.locked():
            return {name for name in ids if self._is_open(name, guest)}

    def _is_open(self, object_id: str, guest: str | None) -> bool:
        if any(object_id in lines.places for lines in (self._meta, self._held_out) if lines is not None):
            return False
        if object_id not in self._failures.places:
            return guest is None
        if guest is None:
            return False
        line = json.loads(self._failures.line(object_id))
        return line["kind"] == "refused" and line.get("renderer") != guest

    @contextmanager
    def claim(self, object_id: str, guest: str | None = None) -> Iterator[Path | None]:
        """Lend an empty folder to render the object in, or None if another process is at it, or has finished it.

        Raises UserError if OUT/ID is there and no orbit of render's.
        """
        number = _number(object_id)
        if not self._locks.take(number):
            yield None
            return
        folder = self.folder / ".rendering" / f"{number:016x}"
        try:
            with self.locked():
                is_open = self._is_open(object_id, guest)
            if not is_open:
                yield None
            else:
                self._check_free(object_id)
                remove(folder)  # a process may have been killed since we looked
                self.strip_path(object_id).unlink(missing_ok=True)  # it shows a former rendering
                folder.mkdir()
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._locks.give_back(number)

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
        if os.path.lexists(final) and not is_orbit(final):
            raise UserError(f"{final} exists, and is not an orbit of render's: choose another render.out, or remove it")

    def fail(self, line: dict, failure: Failure) -> None:
        with self.locked():
            self._failures.append({**line, "kind": failure.kind, "reason": failure.reason})

    def settings(self, now: dict) -> dict:
        """Return the settings that the folder was made with, which are `now` if it is new.

        Raises UserError if something has the name of a file of ours, and no settings say that it is ours.
        """
        path = self.folder / RENDER_SETTINGS
        with self.locked():
            if not path.exists():
                self._refuse_foreign()
                write_atomically(path, json.dumps(now, indent=1) + "\n")
            return read_json(path, SavedRenderSettings).root

    def _refuse_foreign(self) -> None:
        """Raise UserError for a file with the name of one of ours, where no settings say that it is ours."""
        if (self.folder / RENDER_SETTINGS).exists():
            return
        for foreign in (self.folder / name for name in OWN_NAMES):
            if foreign.exists() and foreign.stat().st_size:  # an empty one we have just made
                raise UserError(
                    f"{foreign} is there, and no {RENDER_SETTINGS} says that it is ours: choose another render.out"
                )

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
            if re.fullmatch("[0-3][0-9a-f]{15}", path.name) and self._locks.take(number := int(path.name, 16)):
                remove(path)
                self._locks.give_back(number)


def _number(object_id: str) -> int:
    """Return 62 bits: the place of the object's lock, and the name of its folder."""
    return int.from_bytes(hashlib.sha256(object_id.encode()).digest()[:8], "big") >> 2
