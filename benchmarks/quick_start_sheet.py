"""What does the quick start draw? `python benchmarks/quick_start_sheet.py runs/tiny_cpu sheet.png ID ...`, after `make train`.

For each dummy a row of its true views, and a row of those that the averaged weights draw from the first of them, in eight
steps with guidance: clearer than the three steps of the validation, whose blur has the better PSNR.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from dummies import DATA, read_dummies, views_of

from utils.sheets import contact_sheet

ROOT = Path(__file__).parents[1]
SAMPLING = ("sample.num_inference_steps=8", "sample.guidance=constant", "sample.guidance_max=2")


def main() -> None:
    run, path, *ids = sys.argv[1:]
    records = {name: record for name, record in read_dummies().items() if name in ids}
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "dummies.jsonl")
        lines = [
            {"id": name, "image": record.image_paths[0], "elevation_deg": record.elevations_deg[0]}
            for name, record in records.items()
        ]
        images.write_text("".join(json.dumps(line) + "\n" for line in lines))
        words = (run, f"sample.image={images}", f"sample.root={DATA.root}", f"sample.out={folder}/out", *SAMPLING)
        subprocess.run([sys.executable, "main.py", "sample", *words], cwd=ROOT, check=True)
        for name in ids:
            rows[name] = views_of(records[name])
            views = sorted(Path(folder, "out", name, "seed_0").glob("[0-9]*.png"))
            rows[f"{name},\nsampled"] = np.stack([np.asarray(Image.open(view).convert("RGB")) for view in views])
    contact_sheet(rows).quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
