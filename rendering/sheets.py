"""OUT/accepted.png and OUT/rejected.png: what the filter of `render` let through and what it left out, to look at."""

import io
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image

from rendering.queue.output import ACCEPTED, REJECTED, SHEETS, Output
from utils.errors import UserError
from utils.images import open_image, open_rgba

NUM_VIEWS, TILE_PX = 8, 96
LABEL_PX, LABEL_LETTERS, LABEL_LINES = 300, 46, 7


def strip(views: np.ndarray) -> Image.Image:
    """Draw some of V H W 4 views in a row, small, on white."""
    row = Image.new("RGB", (TILE_PX * NUM_VIEWS, TILE_PX), "white")
    for column, view in enumerate(_some(views)):
        tile = Image.fromarray(view).resize((TILE_PX, TILE_PX), Image.Resampling.BOX)
        row.paste(tile, (TILE_PX * column, 0), tile)
    return row


def write_sheets(output: Output, num_rows: int) -> None:
    """Draw orbits that are evenly spread over the ids. A sheet without a row is not written, and an older one is removed."""
    from utils.video import contact_sheet  # it imports torch, which nothing else here needs

    with output.alone(SHEETS):  # whoever writes last has seen all lines
        accepted, rejected = output.sample(num_rows)
        sheets = {
            ACCEPTED: {
                _label(line, f"{line['elevation'][0]:g} degrees"): _orbit(output.folder, line) for line in accepted
            },
            REJECTED: {_label(line, line["reason"]): _tiles(output.strip_path(line["id"])) for line in rejected},
        }
        for name, all_rows in sheets.items():
            # Views may be removed or damaged. There is no strip of what was left out for its licence, or is being
            # rendered again by another process.
            rows = {label: tiles for label, tiles in all_rows.items() if tiles is not None}
            data = io.BytesIO()
            if rows:
                contact_sheet(rows, LABEL_PX).save(data, "PNG")
            output.write_sheet(name, data.getvalue() or None)


def _some(views):
    count = min(NUM_VIEWS, len(views))
    return [views[index * len(views) // count] for index in range(count)]


def _label(line: dict, text: str) -> str:
    lines = [*textwrap.wrap(line["id"], LABEL_LETTERS), *textwrap.wrap(text, LABEL_LETTERS)]
    return "\n".join(lines[:LABEL_LINES])


def _orbit(folder: Path, line: dict) -> np.ndarray | None:
    """Return small views of an orbit, or None if one of them cannot be read."""
    paths = [folder / name for name in _some(line["image_path"])]
    try:
        images = [open_rgba(path) for path in paths]
    except UserError:
        return None
    views = np.stack([np.asarray(image.resize((TILE_PX, TILE_PX), Image.Resampling.BOX)) for image in images])
    return _split(strip(views))[: len(paths)]


def _tiles(path: Path) -> np.ndarray | None:
    """Return the views of a strip, or None if it cannot be read."""
    try:
        with open_image(path, path) as row:
            return _split(row.convert("RGB")) if row.size == (TILE_PX * NUM_VIEWS, TILE_PX) else None
    except UserError:
        return None


def _split(row: Image.Image) -> np.ndarray:
    """Cut a strip into views, TILE TILE 3."""
    return np.stack(np.split(np.asarray(row), NUM_VIEWS, axis=1))
