"""OUT/accepted.png and OUT/rejected.png: what the filter of `render` let through and what it left out, to look at."""

import io
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image

from rendering.queue.output import ACCEPTED, REJECTED, SHEETS, Output

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
        # There is none for what was left out for its licence, or is being rendered again by another process.
        strips = {
            line["id"]: tiles for line in rejected if (tiles := _tiles(output.strip_path(line["id"]))) is not None
        }
        sheets = {
            ACCEPTED: {
                _label(line, f"{line['elevation'][0]:g} degrees"): _orbit(output.folder, line) for line in accepted
            },
            REJECTED: {_label(line, line["reason"]): strips[line["id"]] for line in rejected if line["id"] in strips},
        }
        for name, rows in sheets.items():
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


def _orbit(folder: Path, line: dict) -> np.ndarray:
    from utils.images import open_rgba

    paths = [folder / name for name in _some(line["image_path"])]
    views = np.stack([np.asarray(open_rgba(path).resize((TILE_PX, TILE_PX), Image.Resampling.BOX)) for path in paths])
    return _split(strip(views))[: len(paths)]


def _tiles(path: Path) -> np.ndarray | None:
    try:
        with Image.open(path, formats=["PNG"]) as row:
            return _split(row)
    except FileNotFoundError:
        return None


def _split(row: Image.Image) -> np.ndarray:
    """Cut a strip into views, TILE TILE 3."""
    return np.stack(np.split(np.asarray(row), NUM_VIEWS, axis=1))
