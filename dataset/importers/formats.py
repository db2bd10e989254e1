"""The formats, and the objects that a source holds in one of them."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from dataset.importers import gobjaverse, npy, parquet, transforms
from dataset.importers.source import SourceItem
from utils.errors import UserError, escaped, shown

FORMATS: dict[str, ModuleType] = {
    "gobjaverse": gobjaverse,
    "parquet": parquet,
    "transforms": transforms,
    "npy": npy,
}


def detect(source: Path, out: Path) -> str:
    """Return the name of the format of the first object in the source. Raises UserError if there is none."""
    for _, files, folders in _walk(source, out, lambda *_: True):
        for name, format_ in FORMATS.items():
            if format_.objects_in(files, folders)[0]:
                return name
    expected = "campos_512_v4 folders, .tar or .parquet files, transforms.json, or .npy beside images"
    raise UserError(f"import_orbits.source: {source} holds nothing to import: expected {expected}")


def find_items(source: Path, out: Path, name: str) -> list[SourceItem]:
    """Return the source's objects, sorted by id. `out` is left out. Raises UserError if there is none, or two of one id."""
    format_ = FORMATS[name]
    items: dict[str, SourceItem] = {}
    for folder, files, folders in _walk(source, out, lambda *entries: format_.objects_in(*entries)[1]):
        for entry in format_.objects_in(files, folders)[0]:
            path = folder / entry
            item = SourceItem(_id(path, source), path)
            if (other := items.setdefault(item.id, item)) is not item:
                raise UserError(
                    f"{escaped(other.path)} and {escaped(path)} would both be {shown(item.id)}: move one of them away"
                )
    if not items:
        raise UserError(f"import_orbits.source: {source} holds no object in the format {name}")
    return [items[object_id] for object_id in sorted(items)]


def _id(path: Path, source: Path) -> str:
    """Return an object's id: its path in the source, without a suffix, and without `transforms.json`."""
    place = path.relative_to(source)
    if place.name == "transforms.json":
        place = place.parent
    elif place.suffix in (".tar", ".parquet", ".json"):
        place = place.with_suffix("")
    return place.as_posix() if place.parts else source.name


def _walk(source: Path, out: Path, descends) -> Iterator[tuple[Path, set[str], set[str]]]:
    """Yield folders with the names of files and folders in them, and look into these where `descends(files, folders)`.

    Links are followed, each place once; hidden names and `out` are left out.
    """
    seen = {os.path.realpath(source)}
    stack = [source]
    while stack:
        folder = stack.pop()
        files: set[str] = set()
        folders: set[str] = set()
        for entry in os.scandir(folder):
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                files.add(entry.name)
            elif folder / entry.name != out and (not entry.is_symlink() or _is_new(entry.path, seen)):
                folders.add(entry.name)
        yield folder, files, folders
        if descends(files, folders):
            stack += [folder / name for name in sorted(folders, reverse=True)]


def _is_new(link: str, seen: set[str]) -> bool:
    place = os.path.realpath(link)
    if place in seen:
        return False
    seen.add(place)
    return True
