"""The folder of an evaluation: the settings, and for each object a file of numbers, a video, and pictures of its views.

An object counts once its file of numbers is there, which is written last. Ranks share the objects, and an interrupted
evaluation goes on from them.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import RootModel

from utils.errors import UserError
from utils.files import file_name, refuse_link, remove_unfinished, write_atomically
from utils.reading import InsidePath, Saved, read_json
from utils.schemas import EvaluateSettings

CONDITIONS = "settings.json"
# Settings that do not change an object's numbers, so that an evaluation may go on with other values.
FREE_KEYS = ("checkpoint", "out", "protocol", "objects", "num_records", "elevations_deg", "views", "metrics")


class ObjectFile(Saved):
    """The file of one object. `metrics` is {row: {metric: a number for each view}}."""

    id: str
    elevation_deg: float
    video: InsidePath
    metrics: dict[str, dict[str, list[float]]]


def conditions(
    settings: EvaluateSettings, meta: Path, weights: str, unet: dict[str, str], mixed_precision: str
) -> dict:
    """Return everything that an object's numbers depend on. `unet` holds the checksums of the UNet's files."""
    keys = {key: value for key, value in settings.model_dump(mode="json").items() if key not in FREE_KEYS}
    with open(meta, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return keys | {"unet": unet, "mixed_precision": mixed_precision, "weights": weights, "meta": digest}


def check_results(out: Path) -> None:
    """Raises UserError if `out` is there and is not the folder of an evaluation."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file")
    if out.is_dir() and not (out / CONDITIONS).exists() and any(out.glob("[!.]*")):
        raise UserError(f"{out} is not empty, and holds no evaluation: choose another evaluate.out")


def open_results(out: Path, now: dict) -> None:
    """Make the folder, or check that it was measured with the same settings. Raises UserError naming those that differ.

    A link in it is refused: what it points to would be shown on the page, and be written over.
    """
    for pattern in ("*", "objects/*", "videos/*", "sheets/*"):
        for path in out.glob(pattern):
            refuse_link(path)
    path = out / CONDITIONS
    if path.exists():
        before = read_json(path, RootModel[dict]).root
        differing = [key for key in now.keys() | before.keys() if now.get(key) != before.get(key)]
        if differing:
            raise UserError(
                f"{out} holds an evaluation with other values of {', '.join(sorted(differing))}: choose another"
                " evaluate.out, or remove it"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(now, indent=1) + "\n")
    for folder in ("objects", "videos", "sheets"):
        (out / folder).mkdir(exist_ok=True)
    for folder in (out, out / "objects", out / "sheets"):
        remove_unfinished(folder)


def object_file(out: Path, record_id: str) -> Path:
    return out / "objects" / f"{file_name(record_id)}.json"


def video_file(record_id: str) -> str:
    """Return an object's video as a path in the folder of the evaluation."""
    return f"videos/{file_name(record_id)}.mp4"


def sheet_file(out: Path, record_id: str) -> Path:
    """Return where an object's input, true and sampled views are, packed for the page."""
    return out / "sheets" / f"{file_name(record_id)}.webp"


def is_measured(out: Path, record_id: str, metrics: Iterable[str]) -> bool:
    """Return whether an object's sheet is there, and its file, with all these metrics."""
    path = object_file(out, record_id)
    if not (path.exists() and sheet_file(out, record_id).exists()):
        return False
    return set(metrics) <= read_json(path, ObjectFile).metrics.get("sample", {}).keys()


def read_objects(out: Path, ids: Iterable[str], metrics: Sequence[str]) -> list[dict]:
    """Read the files of the objects, which may hold other metrics too, as those of an earlier start do.

    Raises UserError naming a file that is not as the others are.
    """
    objects: list[dict] = []
    for name in ids:
        path = object_file(out, name)
        objects.append(read_json(path, ObjectFile).model_dump())
        told = (objects[-1]["id"], objects[-1]["video"], _shape(objects[-1], metrics))
        if told != (name, video_file(name), _shape(objects[0], metrics)):
            raise UserError(
                f"{path}: is not what this evaluation wrote of '{name}': remove it, and it is measured again"
            )
    return objects


def _shape(item: dict, metrics: Sequence[str]) -> dict:
    """Return how many views each of `metrics` has in each row."""
    return {row: {name: len(values.get(name, ())) for name in metrics} for row, values in item["metrics"].items()}
