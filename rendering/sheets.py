"""OUT/accepted.png and OUT/rejected.png: what the filter of `render` let through and what it left out, to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from rendering.queue.locks import SHEETS
from rendering.queue.output import ACCEPTED, REJECTED, Output
from utils.errors import UserError
from utils.images import open_image
from utils.sheets import NUM_VIEWS, TILE_PX, label, sheet, spread, tile, tiles


def strip(views: np.ndarray) -> Image.Image:
    """Draw some of V H W 4 views in a row, small, on white."""
    row = np.full((TILE_PX, TILE_PX * NUM_VIEWS, 3), 255, np.uint8)
    drawn = np.concatenate([tile(Image.fromarray(view)) for view in spread(views, NUM_VIEWS)], axis=1)
    row[:, : drawn.shape[1]] = drawn
    return Image.fromarray(row)


def write_sheets(output: Output, num_rows: int) -> None:
    """Draw orbits that are evenly spread over the ids. A sheet without a row is not written, and an older one is removed."""
    with output.alone(SHEETS):  # whoever writes last has seen all lines
        accepted, rejected = output.sample(num_rows)
        sheets = {
            ACCEPTED: {
                label(line["id"], f"{line['elevation'][0]:g} degrees"): _orbit(output.folder, line["image_path"])
                for line in accepted
            },
            REJECTED: {
                label(line["id"], line.get("reason", "")): _tiles(output.strip_path(line["id"])) for line in rejected
            },
        }
        for name, rows in sheets.items():
            # Views may be removed or damaged. There is no strip of what was left out for its licence, or is being
            # rendered again by another process.
            output.write_sheet(name, sheet({label: row for label, row in rows.items() if row is not None}))


def _orbit(folder: Path, names: Sequence[str]) -> np.ndarray | None:
    """Return small views of an orbit, or None if one of them cannot be read."""
    try:
        return tiles([folder / name for name in names])
    except UserError:
        return None


def _tiles(path: Path) -> np.ndarray | None:
    """Return the views of a strip, or None if it cannot be read."""
    try:
        with open_image(path, path) as row:
            size = (TILE_PX * NUM_VIEWS, TILE_PX)
            return np.stack(np.split(np.asarray(row.convert("RGB")), NUM_VIEWS, axis=1)) if row.size == size else None
    except UserError:
        return None
