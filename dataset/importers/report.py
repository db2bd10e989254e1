"""What an import says of itself: numbers in words, and the sheets accepted.png and rejected.png."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from dataset.importers.output import ACCEPTED, FAILURES, REJECTED, ImportFolder
from dataset.importers.source import Refusal, SourceItem
from dataset.importers.work import ImportTask, read_object
from dataset.records import parse_record
from dataset.sources import view_sources
from utils.errors import UserError
from utils.images import read_header
from utils.schemas import MAX_ORBIT_PIXELS, TRAINED_ELEVATIONS_DEG, DataSettings
from utils.sheets import NUM_VIEWS, label, sheet, spread, tiles


class Counts:
    """What is in the lines of a journal, with the records that were chosen of each."""

    def __init__(self, lines: Iterable[dict], records_of: Callable[[dict], list[dict]]):
        self.looked_at = 0
        self.accepted = 0  # objects that gave an orbit
        self.num_views: Counter[int] = Counter()  # {views of an orbit: orbits}
        self.elevations_deg: list[float] = []  # of each orbit
        self.kinds: Counter[str] = Counter()  # {kind of refusal: how many}
        for line in lines:
            self.looked_at += 1
            records = records_of(line)
            self.accepted += bool(records)
            self.num_views.update(len(record["image_path"]) for record in records)
            self.elevations_deg += [record["elevation"][0] for record in records]
            self.kinds.update(failure["kind"] for failure in line["failures"])


def summary(counts: Counts, out: Path) -> str:
    """Return the import in a few lines. Raises UserError if there is no orbit."""
    refused = ", ".join(f"{kind} {count}" for kind, count in counts.kinds.most_common())
    lengths = ", ".join(f"{count} of {views} views" for views, count in sorted(counts.num_views.items(), reverse=True))
    if not lengths:
        refused = refused or "none was refused: see import_orbits.num_frames"
        raise UserError(f"none of {counts.looked_at} objects gave an orbit ({refused}): see {out / FAILURES}")
    total = counts.num_views.total()
    lines = [f"{counts.accepted} of {counts.looked_at} objects gave {total} orbits: {lengths}"]
    if refused:
        lines.append(f"refused: {refused}; see {out / FAILURES}")
    low, high = TRAINED_ELEVATIONS_DEG
    outside = sum(not low <= degrees <= high for degrees in counts.elevations_deg)
    span = f"elevations from {min(counts.elevations_deg):g} to {max(counts.elevations_deg):g} degrees"
    lines.append(span + (f"; {outside} orbits are outside the {low:g} to {high:g} of the paper" if outside else ""))
    return "\n".join(lines)


def num_frames_for(counts: Counts) -> int:
    """Return the most frames that all orbits can be trained with together."""
    return int(np.gcd.reduce([*counts.num_views]))


def write_sheets(
    items: Sequence[SourceItem], task: ImportTask, root: Path, folder: ImportFolder, num_rows: int
) -> None:
    """Draw orbits, and refused objects, evenly spread over the ids. A sheet without a row is removed."""
    by_id = {item.id: item for item in items}
    accepted: list[str] = []
    refused: list[str] = []
    for line in folder.lines(by_id):
        (accepted if line["records"] else refused).append(line["id"])
    rows: dict[str, np.ndarray] = {}
    for line in folder.lines(spread(accepted, num_rows)):
        record = line["records"][0]
        text = f"{record['elevation'][0]:g} degrees, {len(record['image_path'])} views"
        rows |= _row(label(record["id"], text), _images_in(record, root))
    folder.write_sheet(ACCEPTED, sheet(rows))
    rows = {}
    for line in folder.lines(spread(refused, num_rows)):
        text = label(line["id"], *(failure["reason"] for failure in line["failures"]))
        rows |= _row(text, _images_of(by_id[line["id"]], task))
    folder.write_sheet(REJECTED, sheet(rows))


def _images_in(record: dict, root: Path) -> list[Path | bytes]:
    try:
        orbit = parse_record(json.dumps(record).encode(), record["id"], 1)
        views = spread(range(len(orbit.image_paths)), NUM_VIEWS)
        return [image for _, image in view_sources(orbit, DataSettings(root=str(root), meta=""), views)]
    except UserError:  # such as for a tar that was written anew
        return []


def _images_of(item: SourceItem, task: ImportTask) -> list[Path | bytes]:
    try:
        return [view.image for view in read_object(item, task).views if view.image is not None]
    except Refusal:
        return []


def _row(text: str, images: Sequence[Path | bytes]) -> dict[str, np.ndarray]:
    """Return a row of a sheet, or none without an image, or with one that cannot be read, or would take long to."""
    images = spread(images, NUM_VIEWS)
    try:
        sizes = [read_header(image, "an image").size for image in images]
        if sum(width * height for width, height in sizes) > MAX_ORBIT_PIXELS:
            return {}
        return {text: tiles(images)} if images else {}
    except UserError:
        return {}
