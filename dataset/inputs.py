"""The images to sample from: each has an elevation, and becomes the input view that training would have made of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dataset.backgrounds import cut_out_of_plain
from dataset.images import Box, check_side, object_box, square_box, to_float, to_view
from dataset.records import check_elevation
from dataset.views import WHITE
from utils.errors import UserError, escaped, shown
from utils.files import file_name, read_lines
from utils.images import open_rgba
from utils.reading import parse_json_line
from utils.schemas import SampleSettings

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MIN_ALPHA = 16  # of 255; a pixel with less does not belong to the object
LEAST_CLEAR = 0.01  # of all pixels, or
CLEAR_BORDER = 0.5  # of the outermost ones: with fewer transparent ones an image is not cut out
MIN_SIDE_PX = 16  # an image, or an object in it, that is smaller shows nothing


@dataclass(frozen=True)
class InputImage:
    name: str  # that of the folder for its results
    path: Path
    elevation_deg: float


def list_inputs(sample: SampleSettings) -> list[InputImage]:
    """Return the images that `sample.image` names: a file, a folder of images, or a jsonl.

    Raises UserError if there is none, or if the results of two would go into one folder.
    """
    path = Path(sample.image)
    if path.is_dir():
        files = sorted(file for file in path.glob("[!.]*") if file.suffix.lower() in SUFFIXES)
        inputs = [InputImage(_name(file.stem, file), file, _elevation(sample, file)) for file in files]
    elif path.suffix == ".jsonl":
        inputs = [_from_line(line, place, path, sample) for place, line in read_lines(path)]
    else:
        inputs = [InputImage(_name(path.stem, path), path, _elevation(sample, path))]
    if not inputs:
        raise UserError(f"{path}: no image in it ({', '.join(SUFFIXES)})")
    by_name: dict[str, InputImage] = {}
    for item in inputs:
        if (other := by_name.setdefault(item.name.casefold(), item)) is not item:
            both = f"{escaped(other.path)} and {escaped(item.path)}"
            raise UserError(f"{both} would both be written to {sample.out}/{item.name}")
    return inputs


def _elevation(sample: SampleSettings, path: Path) -> float:
    if sample.elevation_deg is None:
        raise UserError(f"sample.elevation_deg is missing: how far above the horizon was the camera of {path}?")
    return sample.elevation_deg


def _from_line(line: str, place: str, path: Path, sample: SampleSettings) -> InputImage:
    """Parse {"image": FILE, "elevation_deg": 12, "id": NAME}, or a line of svd_meta.jsonl, whose first view is taken."""
    raw = parse_json_line(line.encode(), place)
    try:
        image = raw.get("image")
        elevation = raw.get("elevation_deg", sample.elevation_deg)
        if image is None and "image_path" in raw:
            image = raw["image_path"][0]
            elevation = raw["elevation"][0]
    except (AttributeError, KeyError, TypeError, IndexError):
        image = elevation = None
    if not isinstance(image, str) or not image:
        raise UserError(f'{place}: expected {{"image": FILE, "elevation_deg": DEGREES}}, or a line of svd_meta.jsonl')
    check_elevation(elevation, place)
    name = raw.get("id")
    name = _name(os.path.splitext(image)[0] if name is None else str(name), place)
    return InputImage(name, Path(sample.root or path.parent, image), float(elevation))


def _name(text: str, place: str | Path) -> str:
    if not (name := file_name(text)):
        raise UserError(f"{place}: {shown(text)} has no letter or digit in it to name a folder by")
    return name


def input_view(
    path: Path,
    object_fill: float,
    size_px: int,
    cut_out: Callable[[Image.Image], Image.Image | None] = cut_out_of_plain,
    warn: Callable[[str], object] = lambda message: None,
) -> Tensor:
    """Return the input view on white: 1 3 size_px size_px in [-1, 1].

    `cut_out` gives an image with hardly a transparent pixel an alpha. If it cannot, the image is taken whole, in a square, and
    `warn` is called with one line. What is not transparent is recentred to `object_fill`. Raises UserError, with the path, if
    no object is seen.
    """
    image = open_rgba(path)
    if min(image.size) < MIN_SIDE_PX:
        raise UserError(
            f"{path}: {image.width} x {image.height} pixels is too small: at least {MIN_SIDE_PX} pixels a side are needed"
        )
    is_opaque = not _is_cut_out(image)
    if is_opaque:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    cut = cut_out(image) if is_opaque else image
    if cut is None:
        warn(f"{path}: has no plain background, and is taken whole: sample.remove_background=true cuts the object out")
        frame = square_box(image.size)
    else:
        image = cut.convert("RGBA")
        frame = _object_frame(image, path, object_fill, "background" if is_opaque else "transparent")
    check_side(frame, path)
    return to_float(to_view(image, frame, size_px, WHITE))[None]


def _is_cut_out(image: Image.Image) -> bool:
    """Say whether the background is transparent. A stray pixel or rounded corners, as of a screenshot, are no background.

    It may be little, around an object that nearly fills the image.
    """
    clear = np.asarray(image.getchannel("A")) < MIN_ALPHA
    border = np.concatenate([clear[0], clear[-1], clear[:, 0], clear[:, -1]])
    return bool(clear.mean() > LEAST_CLEAR or border.mean() > CLEAR_BORDER)


def _object_frame(image: Image.Image, path: Path, object_fill: float, rest: str) -> Box:
    """Return the square around what is not transparent. Raises UserError, calling the rest `rest`, if that is too little."""
    # A faint stray pixel must not widen the frame.
    alpha = image.getchannel("A").point(lambda level: level if level >= MIN_ALPHA else 0)
    if (box := alpha.getbbox()) is None:
        raise UserError(f"{path}: shows no object, all of it is {rest}")
    if max(box[2] - box[0], box[3] - box[1]) < MIN_SIDE_PX:
        raise UserError(f"{path}: what is not {rest} has less than {MIN_SIDE_PX} pixels a side")
    return object_box([alpha], object_fill)
