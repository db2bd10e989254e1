"""Cutting an object out of a plain background, where an image has no alpha to say where the object is.

The colour of the background is the median of the border. A pixel is plain if none of its channels is further from that
colour than a tolerance, which is smaller on white, so that more of a white object's shading is seen.

The border is plain if MIN_SHARE of it is, and CORNER_SHARE of each of its corners. So an object may touch the border, as
in a tight crop, but a horizon, a table or a gradient reaches a corner. What is plain and connected with the border becomes
transparent. What an object encloses stays, since a gray object on gray would lose its middle otherwise.
"""

import numpy as np
from PIL import Image, ImageChops, ImageFilter

# Levels of 255. With them an object's box is right to 3 pixels at a JPEG quality of 50; with 16 it was wrong by 10.
TOLERANCE = 32
TOLERANCE_ON_WHITE = 24
WHITE_FROM = 240  # a background is white if none of its channels is below this
MIN_SHARE = 0.5
CORNER_SHARE = 0.9
MAX_SWEEPS = 64  # each follows the paths around one more corner; real objects need fewer than ten


def cut_out_of_plain(image: Image.Image) -> Image.Image | None:
    """Return an opaque RGBA image with its background transparent, or None if its border is not plain."""
    width = max(2, min(image.size) // 100)
    rgb = image.convert("RGB")
    border = np.ones((image.height, image.width), bool)
    border[width:-width, width:-width] = False
    # Of two halves the median is one, not the colour between them, which both may be near.
    colour = np.percentile(np.asarray(rgb)[border], 50, axis=0, method="lower")
    plain = _near(rgb, colour)
    ends = (slice(width), slice(-width, None))
    corners = [plain[rows, columns] for rows in ends for columns in ends]
    if plain[border].mean() < MIN_SHARE or min(corner.mean() for corner in corners) < CORNER_SHARE:
        return None
    alpha = Image.fromarray(~_connected_with_border(plain)).convert("L")
    cut = image.copy()
    cut.putalpha(alpha.filter(ImageFilter.MedianFilter(3)))  # single pixels of noise must not widen the frame
    return cut


def _near(rgb: Image.Image, colour: np.ndarray) -> np.ndarray:
    """Return which pixels differ from `colour` by the tolerance at most in every channel: H W."""
    tolerance = TOLERANCE_ON_WHITE if colour.min() >= WHITE_FROM else TOLERANCE
    tables = [np.where(abs(np.arange(256) - level) <= tolerance, 255, 0).tolist() for level in colour]
    red, green, blue = (channel.point(table) for channel, table in zip(rgb.split(), tables))
    return np.asarray(ImageChops.darker(ImageChops.darker(red, green), blue)) > 0


def _connected_with_border(plain: np.ndarray) -> np.ndarray:
    """Return which plain pixels (H W) can be reached from the border through plain ones, up, down, left and right."""
    reached = plain.copy()
    reached[1:-1, 1:-1] = False
    for _ in range(MAX_SWEEPS):
        before = reached.sum()
        reached = _whole_runs(reached, plain)
        reached = _whole_runs(reached.T, plain.T).T
        if reached.sum() == before:
            break
    return reached


def _whole_runs(reached: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """Extend `reached` (H W) along the rows. A run of plain pixels is reached as a whole if one of them is."""
    walls = np.pad(~plain, ((0, 0), (0, 1)), constant_values=True)  # one more wall ends each row
    runs = np.cumsum(walls, dtype=np.int32).reshape(walls.shape)[:, :-1]
    is_reached = np.zeros(runs.max() + 1, bool)
    is_reached[runs[reached]] = True
    return is_reached[runs] & plain
