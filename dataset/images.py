"""From RGBA images to square views in [-1, 1], composited on a background and cropped alike for a whole orbit."""

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
    """Crop 8-bit RGBA to a square box, composite it on `background` (3, in [0, 1]), resize it: 3 size_px size_px in [-1, 1].

    It is composited before it is resized, so that the colour of transparent pixels cannot bleed in.
    """
    rgba = torch.from_numpy(np.array(image.crop(box))).permute(2, 0, 1).float() / 255  # 4 H W
    rgb, alpha = rgba[:3], rgba[3:]
    composited = alpha * rgb + (1 - alpha) * background.view(3, 1, 1)
    resized = F.interpolate(composited[None], size=(size_px, size_px), mode="bicubic", antialias=True)[0]
    return resized.clamp(0, 1) * 2 - 1
