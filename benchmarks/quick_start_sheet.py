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

from dataset.records import Records
from dataset.views import WHITE, load_views
from utils.schemas import DataSettings
from utils.sheets import contact_sheet

ROOT = Path(__file__).parents[1]
SAMPLING = ("sample.num_inference_steps=8", "sample.guidance=constant", "sample.guidance_max=2")


def main() -> None:
    run, path, *ids = sys.argv[1:]
    data = DataSettings(root="dummy_objaverse", meta="svd_meta.jsonl", size_px=64)
    metas = (data.meta, "svd_meta_held_out.jsonl")
    records = {record.id: record for meta in metas for record in Records(meta, data.num_frames)}
    lines = {json.loads(line)["id"]: line for meta in metas for line in (ROOT / meta).open()}
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "dummies.jsonl")
        images.write_text("".join(lines[name] for name in ids))
        words = (run, f"sample.image={images}", f"sample.root={data.root}", f"sample.out={folder}/out", *SAMPLING)
        subprocess.run([sys.executable, "main.py", "sample", *words], cwd=ROOT, check=True)
        for name in ids:
            rows[name] = load_views(records[name], data, 0, WHITE)[0].permute(0, 2, 3, 1).numpy()
            views = sorted(Path(folder, "out", name, "seed_0").glob("[0-9]*.png"))
            rows[f"{name},\nsampled"] = np.stack([np.asarray(Image.open(view).convert("RGB")) for view in views])
    contact_sheet(rows).quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
