"""Which assets there are, what their objects are called, and which of them are this process's share."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rendering.queue.output import OWN_NAMES
from utils.errors import UserError

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")


@dataclass(frozen=True)
class Asset:
    id: str  # the object's: names the orbit's folder, seeds its camera and light
    source: str  # what the jsonl says it was made of


@dataclass(frozen=True)
class Fetched:
    path: Path
    about: dict  # more for the jsonl


class AssetFolder:
    """Every asset below a folder. Hidden files and folders are left out, linked folders are not entered."""

    def __init__(self, root: Path):
        """Raises UserError if there is none, or if two would get one orbit."""
        self.root = root
        found = sorted(path.relative_to(root) for path in _files(root) if path.suffix.lower() in SUFFIXES)
        if not found:
            raise UserError(f"{root}: holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
        self.assets = sorted((Asset(object_id(path), path.as_posix()) for path in found), key=lambda asset: asset.id)
        check_ids(self.assets)

    @contextmanager
    def fetched(self, asset: Asset, index_lock: AbstractContextManager) -> Iterator[Fetched]:
        """The file, for as long as it is needed. There is no index to lock, unlike with ObjaverseList."""
        yield Fetched(self.root / asset.source, {})


def _files(root: Path) -> Iterator[Path]:
    def stop(error: OSError):
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def object_id(relative: Path) -> str:
    """The path below the assets' folder, without its suffix: `chairs/red.glb` is `chairs/red`. What could not stand in a
    jsonl's image_path (a backslash, control characters, bytes that are no UTF-8) becomes `_`."""
    name = relative.with_suffix("").as_posix()
    return "".join(letter if letter.isprintable() and letter != "\\" else "_" for letter in name)


def check_ids(assets: Sequence[Asset]) -> None:
    """Raises UserError naming two assets whose orbits would get in each other's way, or one called as what render writes."""
    sources = {}
    for asset in assets:
        if asset.id in sources:
            raise UserError(f"{sources[asset.id]} and {asset.source} would both be object '{asset.id}': rename one")
        sources[asset.id] = asset.source
    for asset in assets:
        if asset.id.split("/")[0] in OWN_NAMES:
            raise UserError(f"{asset.source}: '{asset.id}' is a name that render needs itself: rename it")
        for folder in PurePosixPath(asset.id).parents:
            if str(folder) in sources:
                raise UserError(
                    f"{asset.source} would be rendered into the folder of {sources[str(folder)]}'s views: rename one"
                )


@dataclass(frozen=True)
class Share:
    """Every `count`-th asset, from `index`."""

    index: int
    count: int

    def of(self, assets: Sequence[Asset]) -> list[Asset]:
        return list(assets[self.index :: self.count])


def share_of(environment: Mapping[str, str]) -> Share:
    """Of one task of a Slurm array (any first id, any step) x one process of `accelerate launch` (RANK of WORLD_SIZE, which can be
    set by hand too) or of `srun`. Raises UserError for an array with gaps."""
    tasks = _array_share(environment)
    if "WORLD_SIZE" in environment:
        processes = Share(_number(environment, "RANK"), _number(environment, "WORLD_SIZE"))
    elif (
        "SLURM_STEP_NUM_TASKS" in environment
    ):  # only srun sets it: SLURM_NTASKS also stands in a batch script's own shell
        processes = Share(_number(environment, "SLURM_PROCID"), _number(environment, "SLURM_STEP_NUM_TASKS"))
    else:
        processes = Share(0, 1)
    if not 0 <= processes.index < processes.count:
        raise UserError(f"process {processes.index} of {processes.count} cannot be: see RANK and WORLD_SIZE")
    return Share(tasks.index * processes.count + processes.index, tasks.count * processes.count)


def _array_share(environment: Mapping[str, str]) -> Share:
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return Share(0, 1)
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT")
    task, first, last, count = (_number(environment, name) for name in names)
    step = (last - first) // (count - 1) if count > 1 else 1
    if first + step * (count - 1) != last or (task - first) % step:
        raise UserError(
            f"a Slurm array of {count} tasks from {first} to {last} has gaps, so the assets cannot be divided by it:"
            " submit the whole array again; what is rendered already is left alone"
        )
    return Share((task - first) // step, count)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise UserError(f"the environment variable {name} must be a number, found '{text}'")
    return int(text)
