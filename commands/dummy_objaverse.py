"""`main.py dummy_objaverse`: renders the committed dataset anew, with its two jsonl files and a strip to look at."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.records import Records
from rendering.camera import azimuths_deg
from rendering.solid_objects import HELD_OUT, elevations_deg
from rendering.solids import render_view
from utils.errors import UserError
from utils.held_out import HELD_OUT_META, META
from utils.schemas_render import DummyObjaverseConfig
from utils.sheets import contact_sheet

NUM_VIEWS = 21
STRIP = {"rows": 6, "stride": 2}


def dummy_objaverse(cfg: DummyObjaverseConfig) -> None:
    root = Path(cfg.dummy_objaverse.out)
    lines = {META: [], HELD_OUT_META: []}
    for file_name in lines:
        refuse_others(root.parent / file_name)
    strip = {}
    for number, (name, elevation) in enumerate(elevations_deg().items(), start=1):
        folder = root / f"{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        size_px = cfg.dummy_objaverse.size_px
        views = np.stack([render_view(name, azimuth, elevation, size_px) for azimuth in azimuths_deg(NUM_VIEWS)])
        for view, pixels in enumerate(views):
            Image.fromarray(pixels).save(folder / f"{view:03d}.png", optimize=True)
        paths = [f"{number:03d}/{view:03d}.png" for view in range(NUM_VIEWS)]
        record = {"id": name, "image_path": paths, "elevation": [elevation] * NUM_VIEWS}
        lines[HELD_OUT_META if name in HELD_OUT else META].append(json.dumps(record))
        strip[name] = on_white(views[:: STRIP["stride"]])
        print(f"{name}: {folder}, {elevation} degrees")
    for file_name, records in lines.items():
        (root.parent / file_name).write_text("\n".join(records) + "\n")
    contact_sheet(dict(list(strip.items())[: STRIP["rows"]])).save(root / "strip.png", optimize=True)


def refuse_others(meta: Path) -> None:
    """Raise UserError if a list that would be replaced is not of this dataset."""
    if meta.exists() and not elevations_deg().keys() >= {record.id for record in Records(str(meta), NUM_VIEWS)}:
        raise UserError(f"{meta} lists other orbits, and would be replaced: choose another dummy_objaverse.out")


def on_white(rgba: np.ndarray) -> np.ndarray:
    """Composite F H W 4 (uint8) on white: F H W 3."""
    alpha = rgba[..., 3:] / 255
    return (rgba[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
