"""Which assets there are, and what their objects are called."""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rendering.queue.output import OWN_NAMES
from utils.errors import UserError, escaped

MAX_CLASHES = 50  # that one message names
SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")  # the first that there is of an object is taken


@dataclass(frozen=True)
class Asset:
    """A file to render."""

    id: str  # names the orbit's folder, and seeds its camera and light
    source: str  # what the jsonl says that the orbit was made of


@dataclass(frozen=True)
class Fetched:
    """An asset's file, on this machine."""

    path: Path
    about: dict  # further entries of the orbit's jsonl line


class AssetFolder:
    """Every asset below a folder. Hidden files and folders are left out, linked folders are not entered.

    Of an object that is there in several formats, `chair.glb` and `chair.obj`, the first of SUFFIXES is taken.
    """

    def __init__(self, root: Path):
        """Raises UserError if there is no asset, or if two would get one orbit."""
        self.root = root
        found = sorted(path.relative_to(root) for path in _files(root) if path.suffix.lower() in SUFFIXES)
        if not found:
            raise UserError(f"{root}: holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
        every = sorted((Asset(object_id(path), path.as_posix()) for path in found), key=lambda asset: asset.id)
        self.assets = preferred(every)
        taken = set(self.assets)
        self.left_out = [asset.source for asset in every if asset not in taken]
        check_ids(self.assets)

    @contextmanager
    def fetched(self, asset: Asset, index_lock: AbstractContextManager) -> Iterator[Fetched]:
        """Lend the file. There is no index to lock here, unlike in ObjaverseList."""
        yield Fetched(self.root / asset.source, {})


def _files(root: Path) -> Iterator[Path]:
    def stop(error: OSError):
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def object_id(relative: Path) -> str:
    """Return the path below the assets' folder without its suffix: `chairs/red.glb` is `chairs/red`.

    What could not stand in a jsonl's image_path (a backslash, control characters, bytes that are no UTF-8) becomes `_`.
    """
    name = relative.with_suffix("").as_posix()
    return "".join(letter if letter.isprintable() and letter != "\\" else "_" for letter in name)


def preferred(assets: Sequence[Asset]) -> list[Asset]:
    """Leave out every asset of whose object there is one with an earlier suffix."""
    best: dict[str, int] = {}
    for asset in assets:
        best[asset.id] = min(_rank(asset), best.get(asset.id, len(SUFFIXES)))
    return [asset for asset in assets if _rank(asset) == best[asset.id]]


def _rank(asset: Asset) -> int:
    return SUFFIXES.index(PurePosixPath(asset.source).suffix.lower())


def check_ids(assets: Sequence[Asset]) -> None:
    """Raises UserError, with all of them, if orbits would get in each other's way, or have a name that render needs."""
    sources: dict[str, str] = {}
    found = []
    for asset in assets:
        if asset.id in sources:
            found.append(f"{escaped(sources[asset.id])} and {escaped(asset.source)} would both be object '{asset.id}'")
        sources.setdefault(asset.id, asset.source)
    for asset in assets:
        if asset.id.split("/")[0] in OWN_NAMES:
            found.append(f"{escaped(asset.source)}: '{asset.id}' is a name that render needs itself")
        for folder in PurePosixPath(asset.id).parents:
            if str(folder) in sources:
                other = escaped(sources[str(folder)])
                found.append(f"{escaped(asset.source)} would be rendered into the folder of {other}'s views")
    if found:
        more = f"; and {len(found) - MAX_CLASHES} more" if len(found) > MAX_CLASHES else ""
        raise UserError(f"{'; '.join(found[:MAX_CLASHES])}{more}: rename one of each")
