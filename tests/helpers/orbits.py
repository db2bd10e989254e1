"""A small data set of plain images."""

import json
from pathlib import Path

from PIL import Image

from utils.schemas import DataSettings

NUM_RECORDS = 5
NUM_VIEWS = 8


def write_orbits(folder: Path, name: str = "{record}_{view}.png") -> DataSettings:
    """Write five orbits of eight views. View v of record r has one colour, which tells r and v, and elevation r + v / 100."""
    lines = []
    for record in range(NUM_RECORDS):
        paths = [name.format(record=record, view=view) for view in range(NUM_VIEWS)]
        for view, path in enumerate(paths):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (16, 16), (record * 40, view * 30, 0, 255)).save(folder / path)
        lines.append(json.dumps({"image_path": paths, "elevation": [record + view / 100 for view in range(NUM_VIEWS)]}))
    (folder / "meta.jsonl").write_text("\n".join(lines))
    return DataSettings(root=str(folder), meta=str(folder / "meta.jsonl"), num_frames=4, size_px=8)
