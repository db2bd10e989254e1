"""What does the small base draw by itself? `python benchmarks/base_sheet.py sheet.png [ID ...]`: two minutes of a core.

Stock diffusers turns the first view of dummies, none of which the base was trained on, with one seed for all of them. A
row shows that view and every other of the 21 frames. Without ids all 20 dummies are drawn.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from dataset.records import Records
from dataset.views import WHITE, load_views
from utils.schemas import DataSettings
from utils.sheets import contact_sheet

SIZE_PX = 64
NUM_INFERENCE_STEPS = 8  # as the card of tiny_svd says


def main() -> None:
    path, *ids = sys.argv[1:]
    data = DataSettings(root="dummy_objaverse", meta="svd_meta.jsonl", size_px=SIZE_PX)
    records = [record for name in (data.meta, "svd_meta_held_out.jsonl") for record in Records(name, data.num_frames)]
    pipeline = StableVideoDiffusionPipeline.from_pretrained("tiny_svd")
    pipeline.set_progress_bar_config(disable=True)
    rows = {}
    for record in records:
        if record.id in ids or not ids:
            view = load_views(record, data, 0, WHITE)[0][0].permute(1, 2, 0).numpy()
            frames = pipeline(
                Image.fromarray(view),
                height=SIZE_PX,
                width=SIZE_PX,
                num_frames=data.num_frames,
                num_inference_steps=NUM_INFERENCE_STEPS,
                decode_chunk_size=7,
                generator=torch.manual_seed(0),
            ).frames[0]
            rows[record.id] = np.stack([view, *map(np.asarray, frames[::2])])
    contact_sheet(rows).quantize(128).save(Path(path), optimize=True)


if __name__ == "__main__":
    main()
