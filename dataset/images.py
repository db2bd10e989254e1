"""From RGBA images to square views, composited on a background and cropped alike for a whole orbit."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from utils.errors import UserError

Box = tuple[int, int, int, int]  # left, upper, right, lower; may reach outside the image
MAX_SIDE_PX = 8192  # of a square; a view of 20000 x 1 pixels would take 1.6 GB


def square_box(size: tuple[int, int]) -> Box:
    """Return the smallest square around a whole image of `size` = (width, height). It may reach outside the image."""
    return _square_around((0, 0, *size), max(size))


def object_box(alphas: list[Image.Image], fill: float) -> Box:
    """Return one square for all views of an orbit. What any of them shows is in its middle and fills `fill` of its side."""
    boxes = [box for alpha in alphas if (box := alpha.getbbox())]
    if not boxes:
        return square_box(alphas[0].size)
    left, upper, right, lower = zip(*boxes)
    union = (min(left), min(upper), max(right), max(lower))
    return _square_around(union, max(1, round(max(union[2] - union[0], union[3] - union[1]) / fill)))


def check_side(box: Box, place: str | Path) -> None:
    """Raises UserError naming `place` if the square is larger than we are ready to hold in memory."""
    if (side := box[2] - box[0]) > MAX_SIDE_PX:
        raise UserError(f"{place}: a square around it has {side} pixels a side, the limit is {MAX_SIDE_PX}")


def _square_around(box: Box, side: int) -> Box:
    left, upper = (box[0] + box[2] - side) // 2, (box[1] + box[3] - side) // 2
    return (left, upper, left + side, upper + side)


def to_view(image: Image.Image, box: Box, size_px: int, background: Tensor) -> Tensor:
    """Crop 8-bit RGBA to a square box, composite it on `background` (3, in [0, 1]), resize it: 3 size_px size_px, 8-bit.

    It is composited before it is resized, so that the colour of transparent pixels cannot bleed in. Only the part that shows
    something is computed, which in renders is about half: the rest is background.
    """
    left, upper, right, _ = box
    side = right - left
    colour = (background * 255).round().byte()
    view = colour[:, None, None].repeat(1, size_px, size_px)
    shown = image.getbbox() or (left, upper, left, upper)
    x, view_x = _part(shown[0] - left, shown[2] - left, side, size_px)
    y, view_y = _part(shown[1] - upper, shown[3] - upper, side, size_px)
    if not (x and y):
        return view
    canvas = Image.new("RGB", (len(x), len(y)), tuple(colour.tolist()))
    canvas.paste(image, (-left - x.start, -upper - y.start), mask=image)
    pixels = torch.from_numpy(np.array(canvas)).permute(2, 0, 1)
    if side != size_px:
        # In 8 bits the overshoot beside an edge would be cut between the two passes: up to 4 steps of 255.
        size = (len(view_y), len(view_x))
        resized = F.interpolate(pixels[None].float(), size=size, mode="bicubic", antialias=True)[0]
        pixels = resized.clamp_(0, 255).round_().byte()
    view[:, view_y.start : view_y.stop, view_x.start : view_x.stop] = pixels
    return view


def _part(first: int, end: int, side: int, size_px: int) -> tuple[range, range]:
    """Return which pixels of a line of `side` can be seen after it is resized to `size_px`, and where, if [first, end) show.

    The part begins and ends where borders of small and large pixels meet, so that it is resized as the whole line would be,
    and reaches beyond the object by the filter's width, so that no pixel sees both the object and an end of the part.
    """
    if first == end:
        return range(0), range(0)
    step = side // math.gcd(side, size_px)
    reach = 0 if side == size_px else math.ceil(4 * max(1, side / size_px)) + 1
    start = max(0, (first - reach) // step * step)
    stop = min(side, -(-(end + reach) // step) * step)
    return range(start, stop), range(start * size_px // side, stop * size_px // side)


def to_float(pixels: Tensor) -> Tensor:
    """Turn 8-bit pixels of any shape into what the encoders take: fp32 in [-1, 1]."""
    assert pixels.dtype == torch.uint8, pixels.dtype
    return pixels.float() / 255 * 2 - 1
