"""One object of a source -> the orbits in it, and what was refused, as one line of the journal. Many at a time, in processes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dataset.importers.formats import FORMATS
from dataset.importers.geometry import Angles, measure
from dataset.importers.images import check_images, extract
from dataset.importers.rings import explain_left_over, find_rings
from dataset.importers.source import Refusal, SourceItem, SourceObject, SourceView
from dataset.records import parse_record
from utils.errors import UserError
from utils.processes import in_processes

OBJECTS_PER_TASK = 8


@dataclass(frozen=True)
class ImportTask:
    """What the import of every object needs."""

    source: Path
    format: str
    out: Path
    staging: Path  # a folder in `out`, for what is half written
    min_views: int
    needs_alpha: bool


def import_all(items: Sequence[SourceItem], task: ImportTask, num_processes: int) -> Iterator[list[dict]]:
    """Yield the lines of a few objects at a time, in the items' order. Raises BrokenProcessPool."""
    batches = [items[at : at + OBJECTS_PER_TASK] for at in range(0, len(items), OBJECTS_PER_TASK)]
    yield from in_processes(partial(import_batch, task=task), batches, num_processes)


def import_batch(items: Sequence[SourceItem], task: ImportTask) -> list[dict]:
    return [import_object(item, task) for item in items]


def import_object(item: SourceItem, task: ImportTask) -> dict:
    """Return the object's line: its id, the records of its rings, and what was refused."""
    records: list[dict] = []
    failures: list[dict] = []
    try:
        found = read_object(item, task)
        if not found.views:
            raise Refusal("unreadable", "no view in it")
        if found.damaged:
            count = f"{len(found.damaged)} views: " if len(found.damaged) > 1 else ""
            failures.append(Refusal("unreadable", count + found.damaged[0]).line())
        cameras = np.stack([view.camera_to_world for view in found.views])
        names = [view.name for view in found.views]
        angles = measure(cameras, names)
        rings = find_rings(angles, task.min_views)
        for number, ring in enumerate(rings.rings):
            try:
                records.append(ring_record(found, ring, angles, f"{item.id}/ring_{number}", task))
            except Refusal as refusal:
                failures.append(refusal.line())
        if rings.left_over or not rings.rings:
            reason = explain_left_over(rings.left_over, angles, names, task.min_views)
            failures.append(Refusal("incomplete" if rings.rings else "no ring", reason).line())
    except Refusal as refusal:
        failures.append(refusal.line())
    return {"id": item.id, "records": records, "failures": failures}


def read_object(item: SourceItem, task: ImportTask) -> SourceObject:
    """Raises Refusal."""
    try:
        return FORMATS[task.format].read(task.source, item)
    except UserError as error:
        raise Refusal("unreadable", str(error)) from None
    except OSError as error:
        raise Refusal("unreadable", f"{error.filename or item.path}: {error.strerror}") from None


def ring_record(found: SourceObject, ring: Sequence[int], angles: Angles, record_id: str, task: ImportTask) -> dict:
    """Return a line of svd_meta.jsonl. Images that cannot stay where they are have been written by then. Raises Refusal."""
    views = [found.views[index] for index in ring]
    headers = check_images(views, task.needs_alpha)
    paths = [view.path for view in views]
    if None in paths:
        folder = Path("views", record_id)
        paths = [(folder / name).as_posix() for name in extract(views, headers, task.out / folder, task.staging)]
    record = {
        "id": record_id,
        "image_path": paths,
        "elevation": [round(float(angles.elevation_deg[index]), 3) for index in ring],
        "first_azimuth_deg": round(float(angles.azimuth_deg[ring[0]]), 3),
    } | _about(found, views)
    if found.archive is not None:
        path, size = found.archive
        record["archive"] = {"path": path, "size": size, "members": [view.span for view in views]}
    try:
        parse_record(json.dumps(record).encode(), record_id, len(ring))
    except UserError as error:  # such as a path that leaves its folder, or a name that is no text
        raise Refusal("unreadable", str(error)) from None
    return record


def _about(found: SourceObject, views: Sequence[SourceView]) -> dict:
    """Return what the source says beside angles, as far as it does."""
    about: dict = {}
    if views[0].fov_deg is not None:
        about["fov_deg"] = round(views[0].fov_deg, 3)
    if found.license is not None:
        about["license"] = found.license
    return about
