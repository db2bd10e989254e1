"""The torch Dataset: a sample's number gives the views of one orbit, which starts anywhere on it."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dataset.images import Box, check_side, object_box, square_box, to_float, to_view
from dataset.latents import LatentCache
from dataset.order import record_index
from dataset.records import OrbitRecord, Records, evenly_spread
from dataset.sources import open_views
from utils.errors import UserError
from utils.randomness import generator
from utils.schemas import MAX_ORBIT_PIXELS, DataSettings

WHITE = torch.ones(3)


@dataclass(frozen=True)
class Orbit:
    """The views once around an object. View 0 is the input view."""

    pixels: Tensor  # F 3 H W in [-1, 1]
    elevation_deg: Tensor  # of the input view; a single fp32 number
    place: str  # file:line of its record


@dataclass(frozen=True)
class Sample:
    """An orbit to train on. From a cache come latents, and of the pixels only those of the input view (F = 1) or none (F = 0)."""

    pixels: Tensor  # F 3 H W, 8-bit: a quarter of fp32 to move between processes and to a GPU
    elevation_deg: Tensor  # of the input view; a single fp32 number
    place: str  # file:line of its record
    n: int  # the sample's number
    latents: Tensor | None = None  # F C h w: the VAE's mode, not scaled
    image_embeds: Tensor | None = None  # D: CLIP of the input view


@dataclass(frozen=True)
class OrbitBatch:
    pixels: Tensor  # B F 3 H W, 8-bit; from a cache F is 1 or 0
    elevation_deg: Tensor  # B, fp32
    n: list[int]
    places: list[str]
    latents: Tensor | None = None  # B F C h w from a cache
    image_embeds: Tensor | None = None  # B D from a cache

    def pin_memory(self) -> "OrbitBatch":
        """A copy in page-locked memory, from which a GPU is fed without waiting. DataLoader(pin_memory=True) calls this."""
        pinned = {name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **pinned)


def load_orbit(record: OrbitRecord, data: DataSettings, start: int, background: Tensor) -> Orbit:
    """`data.num_frames` views once around, from view `start` in equal strides. Raises UserError with the image's path."""
    pixels, _ = load_views(record, data, start, background)
    return Orbit(to_float(pixels), torch.tensor(record.elevations_deg[start]), record.place)


def load_views(record: OrbitRecord, data: DataSettings, start: int, background: Tensor) -> tuple[Tensor, Box]:
    """F 3 H W in 8 bits, and the square that they were cropped to. Raises UserError with the image's path."""
    images = _open_views(record, data, start, data.num_frames)
    box = shared_box(images, data, record.place)
    return torch.stack([to_view(image, box, data.size_px, background) for image in images]), box


def _open_views(record: OrbitRecord, data: DataSettings, start: int, num_frames: int) -> list[Image.Image]:
    """The first `num_frames` of the orbit's `data.num_frames` views, all of one size. Raises UserError with the place."""
    num_views = len(record.image_paths)
    places = [(start + frame * (num_views // data.num_frames)) % num_views for frame in range(num_frames)]
    images: list[Image.Image] = []
    for name, image in open_views(record, data, places):
        images.append(image)
        if image.size != images[0].size:
            raise UserError(f"{record.place}: {name} is {image.size}, the orbit's other views are {images[0].size}")
        check_pixels(image, num_frames, record.place)
    return images


def check_pixels(image: Image.Image, num_frames: int, place: str) -> None:
    """Raises UserError naming `place` if so many views of this size are more than we are ready to hold in memory."""
    if (pixels := image.width * image.height * num_frames) > MAX_ORBIT_PIXELS:
        raise UserError(
            f"{place}: {num_frames} views of {image.width} x {image.height} have {pixels:,} pixels together,"
            f" the limit is {MAX_ORBIT_PIXELS:,}: make them smaller"
        )


def shared_box(images: list[Image.Image], data: DataSettings, place: str) -> Box:
    """The square that all views of a circle are cropped to. Raises UserError naming `place` if it is too large."""
    if data.object_fill is None:
        box = square_box(images[0].size)
    else:
        box = object_box([image.getchannel("A") for image in images], data.object_fill)
    check_side(box, place)
    return box


def measure_object_fill(records: Records, data: DataSettings, num_records: int = 32) -> float | None:
    """How much of the frame's side the object's longer side takes up in an input view, as training sees it.

    This is the median over one view each of `num_records` records, evenly spread. None if no view has an object cut out.
    """
    shares = []
    for turn, record in enumerate(evenly_spread(records, num_records)):
        num_frames = 1 if data.object_fill is None else data.num_frames  # a crop is shared by all views
        images = _open_views(record, data, turn * 8 % len(record.image_paths), num_frames)
        alpha = images[0].getchannel("A")
        frame = shared_box(images, data, record.place)
        if (box := alpha.getbbox()) and alpha.getextrema()[0] < 255:
            shares.append(max(box[2] - box[0], box[3] - box[1]) / (frame[2] - frame[0]))
    return round(float(np.median(shares)), 4) if shares else None


def try_images(records: Records, data: DataSettings, num_records: int = 32) -> None:
    """Open the first and the last view of `num_records` records, evenly spread. Raises UserError with line and image."""
    for record in evenly_spread(records, num_records):
        for _ in open_views(record, data, (0, len(record.image_paths) - 1)):
            pass


def draw_view(seed: int, n: int, num_views: int) -> tuple[int, Tensor]:
    """Where the orbit of sample n starts, and 3 uniform numbers in [0, 1): its colour, where the background is random."""
    random = generator(seed, n, "view")
    start = int(torch.randint(num_views, (), generator=random))
    return start, torch.rand(3, generator=random)


class OrbitViews(Dataset):
    """The training samples: `views[n]` is sample number n, for any n >= 0. All that is random in it follows from (seed, n)."""

    def __init__(self, records: Records, data: DataSettings, seed: int):
        self.records = records
        self.data = data
        self.seed = seed

    def __getitem__(self, n: int) -> Sample:
        record = self.records[record_index(self.seed, n, len(self.records))]
        start, colour = draw_view(self.seed, n, len(record.image_paths))
        background = colour if self.data.background == "random" else WHITE
        pixels, _ = load_views(record, self.data, start, background)
        return Sample(pixels, torch.tensor(record.elevations_deg[start]), record.place, n)

    def measure_object_fill(self) -> float | None:
        return measure_object_fill(self.records, self.data)


class CachedViews(Dataset):
    """The same samples from a cache. Of a random background, sample n gets one of those that its record was encoded with."""

    def __init__(self, records: Records, data: DataSettings, seed: int, cache: LatentCache, with_input_view: bool):
        self.records = records
        self.data = data
        self.seed = seed
        self.cache = cache
        self.with_input_view = with_input_view  # whether the input view itself is needed, to be noised

    def __getitem__(self, n: int) -> Sample:
        index = record_index(self.seed, n, len(self.records))
        record = self.records[index]
        start, colour = draw_view(self.seed, n, len(record.image_paths))
        views = self.cache.views(index, record, start, choice=float(colour[0]))
        pixels = torch.empty(0, 3, self.data.size_px, self.data.size_px, dtype=torch.uint8)
        if self.with_input_view:
            [(_, image)] = open_views(record, self.data, [start])
            pixels = to_view(image, views.box, self.data.size_px, views.background)[None]
        elevation_deg = torch.tensor(record.elevations_deg[start])
        return Sample(pixels, elevation_deg, record.place, n, views.latents, views.image_embeds)

    def measure_object_fill(self) -> float | None:
        return self.cache.index.object_fill


def collate(samples: list[Sample]) -> OrbitBatch:
    cached = samples[0].latents is not None
    return OrbitBatch(
        torch.stack([sample.pixels for sample in samples]),
        torch.stack([sample.elevation_deg for sample in samples]),
        [sample.n for sample in samples],
        [sample.place for sample in samples],
        torch.stack([sample.latents for sample in samples]) if cached else None,
        torch.stack([sample.image_embeds for sample in samples]) if cached else None,
    )
