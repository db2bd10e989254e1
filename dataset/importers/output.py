"""What `import_orbits` writes. Everything follows from one file, the journal, so that an interrupted import goes on.

OUT/objects.jsonl, the journal, has a line for every object that was looked at: its records and what was refused. From it
svd_meta.jsonl, svd_meta_held_out.jsonl, failures.jsonl and the sheets are written anew at the end of each import. OUT/import.json
has the settings that the journal depends on, and OUT/views/ the images that came out of archives.
"""

import errno
import fcntl
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, RootModel

from utils.errors import UserError, shown
from utils.files import new_file, remove, remove_unfinished, write_atomically
from utils.held_out import HELD_OUT_META, META, held_out_of
from utils.jsonl import Lines
from utils.reading import InsidePath, Saved, read_json

JOURNAL, FAILURES, SETTINGS, LOCK, STAGING, VIEWS, ACCEPTED, REJECTED = (
    "objects.jsonl",
    "failures.jsonl",
    "import.json",
    ".lock",
    ".importing",
    "views",
    "accepted.png",
    "rejected.png",
)


class _Record(Saved):
    id: str
    image_path: Annotated[list[InsidePath], Field(min_length=1)]
    elevation: Annotated[list[float], Field(min_length=1)]
    license: str | None = None


class _Failure(Saved):
    kind: str
    reason: str


class ObjectLine(Saved):
    """What must be in a line of the journal."""

    id: str
    records: list[_Record]
    failures: list[_Failure]


class SavedImportSettings(RootModel[dict[str, bool | int | str]]):
    """What may be in import.json."""

    model_config = ConfigDict(strict=True)


class ImportFolder:
    """A context manager: only one import at a time writes to a folder."""

    def __init__(self, folder: Path):
        """Raises UserError if the folder holds what is not ours, or another import is at it."""
        self.folder = folder
        if folder.is_dir() and not (folder / SETTINGS).exists() and (foreign := _foreign(folder)):
            raise UserError(
                f"import_orbits.out: {folder} holds {min(foreign)}, and no {SETTINGS} says that it is ours: choose another"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(folder / LOCK, "a")  # noqa: SIM115
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            taken = error.errno in (errno.EACCES, errno.EAGAIN)
            reason = "another import is writing to it" if taken else f"cannot be locked: {error.strerror}"
            raise UserError(f"import_orbits.out: {folder}: {reason}") from None
        self._journal = Lines(folder / JOURNAL, ObjectLine, "import_orbits")

    def __enter__(self):
        remove_unfinished(self.folder)
        remove(self.staging)
        self._journal.read_on()
        self._journal.read_to_end()
        return self

    def __exit__(self, *_):
        self._journal.close()
        remove(self.staging)
        self._lock.close()

    @property
    def staging(self) -> Path:
        return self.folder / STAGING

    def check_settings(self, now: dict[str, bool | int | str]) -> None:
        """Write the settings if the folder is new. Raises UserError if they differ from those that it was made with."""
        path = self.folder / SETTINGS
        if not path.exists():
            write_atomically(path, json.dumps(now, indent=1) + "\n")
        saved = read_json(path, SavedImportSettings).root
        if changed := [f"import_orbits.{key}={shown(saved.get(key))}" for key in now if saved.get(key) != now[key]]:
            raise UserError(f"{self.folder} was made with {', '.join(changed)}: choose another import_orbits.out")

    def saved_format(self) -> str | None:
        """Return the format that the folder was made with, if it was."""
        path = self.folder / SETTINGS
        return str(read_json(path, SavedImportSettings).root.get("format")) if path.exists() else None

    def done(self) -> set[str]:
        return {*self._journal.places}

    def add(self, lines: Sequence[dict]) -> None:
        self._journal.append(*lines)

    def forget_failures(self) -> None:
        """Remove the lines of objects of which something was refused, so that they are looked at again."""
        self._journal.rewrite([line["id"] for line in self.lines(self._journal.places) if not line["failures"]])

    def lines(self, ids: Iterable[str]) -> Iterator[dict]:
        """Yield the lines of these objects, as far as they are there, sorted by id."""
        for object_id in sorted(ids):
            if object_id in self._journal.places:
                yield json.loads(self._journal.line(object_id))

    def write_meta(self, ids: Sequence[str], held_out: float | None, records_of: Callable[[dict], list[dict]]) -> None:
        """Write the records of these objects. All rings of an object go to the same file.

        `held_out`: see held_out_of; it counts objects. `records_of` chooses among a line's records, and may add to them.
        """
        apart: set[str] = set()
        if held_out is None:
            (self.folder / HELD_OUT_META).unlink(missing_ok=True)
        else:
            apart = held_out_of([line["id"] for line in self.lines(ids) if records_of(line)], held_out)
            self._write(HELD_OUT_META, self.lines(apart), records_of)
        self._write(META, self.lines({*ids} - apart), records_of)

    def write_failures(self, ids: Sequence[str]) -> None:
        self._write(
            FAILURES, self.lines(ids), lambda line: [{"id": line["id"]} | failure for failure in line["failures"]]
        )

    def write_sheet(self, name: str, data: bytes | None) -> None:
        if data is None:
            (self.folder / name).unlink(missing_ok=True)
        else:
            write_atomically(self.folder / name, data)

    def _write(self, name: str, lines: Iterable[dict], rows_of: Callable[[dict], list[dict]]) -> None:
        with new_file(self.folder / name) as file:
            for line in lines:
                file.writelines(json.dumps(row).encode() + b"\n" for row in rows_of(line))


def _foreign(folder: Path) -> list[str]:
    """Return what is in a folder without settings, but for hidden files and the journal that we make before the settings."""
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    return [name for name in names if name != JOURNAL or (folder / name).stat().st_size]
