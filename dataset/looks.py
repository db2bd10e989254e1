"""What one line of a svd_meta.jsonl and its images turn out to be, looked at before GPU hours are spent on them."""

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from dataset.records import OrbitRecord, parse_record
from dataset.sources import open_views
from dataset.turning import (
    HEIGHT,
    MIN_VIEWS,
    STRONG,
    WIDTH,
    distances,
    in_order,
    outlines,
    some_views,
    steps,
    turn_evidence,
)
from dataset.views import check_pixels, shared_box
from utils.errors import UserError
from utils.reading import mistakes
from utils.schemas import DataSettings
from utils.sheets import NUM_VIEWS, spread, tile

EMPTY = 0.002  # mean difference from the background, of 1; the thinnest things seen from their edge had 0.007
REPEATED = 0.1  # of how much the orbit's neighbours usually differ; those measured differ by 0.2 of it at least

KINDS = {
    "line": "is no record: training ends as it starts",
    "image": "an image is missing, damaged or too large: training ends at this orbit",
    "sizes": "views of different sizes: training ends at this orbit",
    "empty": "views that show nothing",
    "repeated": "views that are the same",
    "order": "views that are not in the order of their azimuths",
    "turn": "orbits whose camera goes the wrong way around",
    "start": "orbits of one object (X/ring_0, X/ring_1 ...) that start at different azimuths",
    "twice": "an orbit that stands in the file, or in the other file, before",
    "elevation": "orbits outside the elevations of the paper, or held-out ones outside those of the training",
}
ENDS_TRAINING = ("line", "image", "sizes")


@dataclass
class Look:
    """What is known of a line when its images have been seen. Of a line that is no record only the problems."""

    place: str  # file:line
    problems: list[tuple[str, str]] = field(default_factory=list)  # (one of KINDS, text)
    id: str = ""
    elevation_deg: float | None = None
    marks: dict[str, str | int] = field(default_factory=dict)  # what no other orbit may have
    evidence: float | None = None  # of the way it turns: see turning.turn_evidence
    ends_open: bool | None = None  # whether the step from the last view to the first is the largest
    outlines: np.ndarray | None = None  # see turning.outlines; of views that are in order
    tiles: np.ndarray | None = None  # some views, for a sheet


def look_at(line: bytes, place: str, data: DataSettings, is_drawn: bool) -> Look:
    """Look at all views of a line. Some come with it for a sheet if `is_drawn`, or if they may be wrong."""
    look = Look(place)
    try:
        record = parse_record(line, place, data.num_frames)
    except UserError as error:
        look.problems.append(("line", _without(place, error)))
        return look
    look.id = record.id
    look.elevation_deg = record.elevations_deg[0]
    look.marks = {"id": record.id, "first image": record.image_paths[0]}
    seen = _Views(record, data, look)
    if len(seen.small) == len(record.image_paths):
        look.marks["pixels"] = hash(tuple(sorted(seen.sums.values())))  # wherever the orbit starts
        _compare(seen, look)
    turns_back = look.evidence is not None and look.evidence <= -STRONG
    if is_drawn or look.problems or turns_back:
        look.tiles = seen.tiles()
    return look


class _Views:
    """The views of a record as far as they can be read: small ones, and a checksum of each."""

    def __init__(self, record: OrbitRecord, data: DataSettings, look: Look):
        self.small: dict[int, np.ndarray] = {}  # HEIGHT WIDTH 3 in [0, 1]: on white, as they are trained on
        self.sums: dict[int, int] = {}
        self._tiles: dict[int, np.ndarray] = {}
        drawn = spread(range(len(record.image_paths)), NUM_VIEWS)
        unreadable = []
        stride = len(record.image_paths) // data.num_frames
        for circle in range(stride):  # those of a circle are trained on together, and are in memory together here too
            images: dict[int, Image.Image] = {}
            for view in range(circle, len(record.image_paths), stride):
                try:
                    [(_, image)] = open_views(record, data, [view])
                    check_pixels(image, data.num_frames, record.place)
                    images[view] = image
                except UserError as error:
                    unreadable.append(_without(record.place, error))
            for view, image in images.items():
                self.small[view] = small_view(image)
                self.sums[view] = zlib.crc32(image.tobytes())
                if view in drawn:
                    self._tiles[view] = tile(image)
            look.problems += _size_problems(images, data, record.place)
        if unreadable:
            look.problems.append(("image", f"{len(unreadable)} of {len(record.image_paths)}: {mistakes(unreadable)}"))

    def tiles(self) -> np.ndarray | None:
        return np.stack([self._tiles[view] for view in sorted(self._tiles)]) if self._tiles else None


def _size_problems(images: dict[int, Image.Image], data: DataSettings, place: str) -> Iterator[tuple[str, str]]:
    """Say what the sizes of a circle's views are too large or too different for."""
    if not images:
        return
    sizes = {view: image.size for view, image in images.items()}
    [((width, height), _)] = Counter(sizes.values()).most_common(1)
    others = [f"view {view} is {w} x {h}" for view, (w, h) in sizes.items() if (w, h) != (width, height)]
    if others:
        yield "sizes", f"most views are {width} x {height}, but {mistakes(others)}"
        return
    try:
        shared_box([*images.values()], data, place)
    except UserError as error:
        yield "image", _without(place, error)


def small_view(image: Image.Image) -> np.ndarray:
    """Return what the orbit is judged from: HEIGHT WIDTH 3 in [0, 1], on white."""
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image)
    return np.asarray(canvas.resize((WIDTH, HEIGHT), Image.Resampling.BOX), dtype=np.float32) / 255


def _compare(seen: _Views, look: Look) -> None:
    """Note what views show beside each other: nothing, the same, or a turn."""
    order = sorted(seen.small)
    views = np.stack([seen.small[view] for view in order])  # V H W 3
    border = np.concatenate([views[:, 0], views[:, -1], views[:, :, 0], views[:, :, -1]], axis=1)
    ground = np.median(border, axis=1)[:, None, None]
    shown = abs(views - ground).max(axis=-1).mean(axis=(1, 2))  # V
    empty = np.flatnonzero(shown < EMPTY).tolist()
    if empty:
        text = "nothing is seen, or only what is as white as the background"
        look.problems.append(("empty", f"{text}: {_listed(empty)} of {len(views)}"))
    same = _same(views, [seen.sums[view] for view in order])
    if same:
        look.problems.append(("repeated", same))
    judged = some_views(views)
    if empty or same or len(judged) < MIN_VIEWS:
        return
    apart = distances(judged)
    if not in_order(apart):
        look.problems.append(("order", "its views do not follow each other around the object"))
        return
    look.evidence = turn_evidence(judged, apart)
    look.outlines = outlines(views)
    look.ends_open = int(steps(apart).argmax()) == len(judged) - 1


def _same(views: np.ndarray, sums: list[int]) -> str | None:
    """Say which views repeat another one: to the pixel, or its neighbour so nearly that the camera cannot have moved."""
    if len(set(sums)) == 1:
        return f"all {len(sums)} views are the same"
    repeats = {view for view, value in enumerate(sums) if value in sums[:view]}
    change = np.square(views - np.roll(views, 1, axis=0)).mean(axis=(1, 2, 3)) ** 0.5  # from the view before
    repeats |= {*np.flatnonzero(change < REPEATED * np.median(change)).tolist()}
    return f"the same as another view: {_listed(sorted(repeats))} of {len(sums)}" if repeats else None


def _listed(views: list[int]) -> str:
    return f"view {views[0]}" if len(views) == 1 else f"views {', '.join(map(str, views))}"


def _without(place: str, error: UserError) -> str:
    return str(error).removeprefix(f"{place}: ")
