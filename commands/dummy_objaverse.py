"""`main.py dummy_objaverse`: renders the committed dataset anew, with its two jsonl files."""

import json
from pathlib import Path

from PIL import Image

from dataset.dummy_objaverse import HELD_OUT, elevations_deg, render_view
from utils.config import DummyObjaverseConfig

NUM_VIEWS = 21


def dummy_objaverse(cfg: DummyObjaverseConfig) -> None:
    root = Path(cfg.dummy_objaverse.out)
    lines = {"svd_meta.jsonl": [], "svd_meta_held_out.jsonl": []}
    for number, (name, elevation) in enumerate(elevations_deg().items(), start=1):
        folder = root / f"{number:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for view in range(NUM_VIEWS):
            pixels = render_view(name, 360 * view / NUM_VIEWS, elevation, cfg.dummy_objaverse.size_px)
            Image.fromarray(pixels).save(folder / f"{view:03d}.png", optimize=True)
        paths = [f"{number:03d}/{view:03d}.png" for view in range(NUM_VIEWS)]
        record = {"id": name, "image_path": paths, "elevation": [elevation] * NUM_VIEWS}
        lines["svd_meta_held_out.jsonl" if name in HELD_OUT else "svd_meta.jsonl"].append(json.dumps(record))
        print(f"{name}: {folder}, {elevation} degrees")
    for file_name, records in lines.items():
        (root.parent / file_name).write_text("\n".join(records) + "\n")
