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

from dummies import DATA, read_dummies, views_of

from utils.sheets import contact_sheet

NUM_INFERENCE_STEPS = 8  # as the card of tiny_svd says


def main() -> None:
    path, *ids = sys.argv[1:]
    pipeline = StableVideoDiffusionPipeline.from_pretrained("tiny_svd")
    pipeline.set_progress_bar_config(disable=True)
    rows = {}
    for name, record in read_dummies().items():
        if name in ids or not ids:
            view = views_of(record)[0]
            frames = pipeline(
                Image.fromarray(view),
                height=DATA.size_px,
                width=DATA.size_px,
                num_frames=DATA.num_frames,
                num_inference_steps=NUM_INFERENCE_STEPS,
                decode_chunk_size=7,
                generator=torch.manual_seed(0),
            ).frames[0]
            rows[name] = np.stack([view, *map(np.asarray, frames[::2])])
    contact_sheet(rows).quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
