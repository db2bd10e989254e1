"""Contact sheets of orbits: for each a label, and some of its views, small, on white."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from utils.errors import one_line
from utils.images import open_rgba

NUM_VIEWS, TILE_PX = 8, 96
LABEL_PX, LABEL_LETTERS, LABEL_LINES = 300, 46, 7


def spread(items: Sequence, count: int) -> Sequence:
    """Return at most `count` of the items, evenly spread from the first on."""
    return items if len(items) <= count else [items[index * len(items) // count] for index in range(count)]


def tile(view: Image.Image) -> np.ndarray:
    """Draw an RGBA view small, on white: TILE TILE 3 uint8."""
    small = view.resize((TILE_PX, TILE_PX), Image.Resampling.BOX)
    ground = Image.new("RGB", small.size, "white")
    ground.paste(small, (0, 0), small)
    return np.asarray(ground)


def tiles(images: Sequence[Path | bytes]) -> np.ndarray:
    """Draw at most NUM_VIEWS of an orbit's images: V TILE TILE 3. Raises UserError for one that cannot be read."""
    return np.stack([tile(open_rgba(image)) for image in spread(images, NUM_VIEWS)])


def label(*texts: str) -> str:
    """Wrap texts so that they fit beside a row."""
    lines = [line for text in texts for line in textwrap.wrap(one_line(text), LABEL_LETTERS)]
    return "\n".join(lines[:LABEL_LINES])


def sheet(rows: dict[str, np.ndarray]) -> bytes | None:
    """Return {label: V TILE TILE 3} as a PNG, or None without a row."""
    if not rows:
        return None
    data = io.BytesIO()
    contact_sheet(rows, LABEL_PX).save(data, "PNG")
    return data.getvalue()


def contact_sheet(rows: dict[str, np.ndarray], label_width: int = 64) -> Image.Image:
    """Draw all frames (F H W 3 for each label) as one picture, with a row for each label. Rows may differ in length."""
    gap = 2
    columns = max(len(frames) for frames in rows.values())
    picture = Image.new("RGB", (label_width + columns * (TILE_PX + gap), len(rows) * (TILE_PX + gap)), "white")
    draw = ImageDraw.Draw(picture)
    for row, (text, frames) in enumerate(rows.items()):
        lines = text.count("\n") + 1
        draw.text((6, row * (TILE_PX + gap) + TILE_PX // 2 - 6 * lines), text, fill="black", spacing=1)
        for column, frame in enumerate(frames):
            view = Image.fromarray(frame).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)
            picture.paste(view, (label_width + column * (TILE_PX + gap), row * (TILE_PX + gap)))
    return picture
