"""`main.py check`: prints the resolved config and what follows from it. It trains nothing and loads no weights."""

import io
import os

from dataset.records import Records, in_both
from dataset.views import try_images
from models.svd import unet_skeleton
from models.trainable import choose_trainable, trained_parts
from training.run_folder import run_folder
from training.saved_model import find_base
from utils.config import to_yaml
from utils.errors import cut
from utils.schemas import TrainConfig


def check(cfg: TrainConfig) -> None:
    text = io.StringIO()
    to_yaml(cfg, text)
    records, held_out = (Records(meta, cfg.data.num_frames) for meta in (cfg.data.meta, cfg.validation.meta))
    for meta in (records, held_out):
        try_images(meta, cfg.data.root)
    unet = unet_skeleton(find_base(cfg.model, config_only=True), cfg.model)
    trained = choose_trainable(unet, cfg.model)
    print(f"{text.getvalue()}\n# run folder: {run_folder(cfg.run)}\n# {trained}")
    for part, (tensors, parameters) in trained_parts(unet).items():
        print(f"#   {part}: {parameters / 1e6:,.2f} M in {tensors} tensors")
    print(f"# {len(records)} training and {len(held_out)} held-out records")
    if shared := in_both(records, held_out):
        names = cut(", ".join(shared))
        print(f"# warning: {len(shared)} held-out records are in {cfg.data.meta} too, and would be trained on: {names}")
    share = 100 * cfg.optim.warmup_steps / cfg.train.max_steps
    print(f"# {cfg.optim.warmup_steps} of {cfg.train.max_steps} steps are warm-up ({share:.0f} %)")
    for num_processes in sorted({1, 8, 64, int(os.environ.get("WORLD_SIZE", 1))}):
        global_batch = num_processes * cfg.train.batch_size * cfg.train.grad_accum_steps
        samples = global_batch * cfg.train.max_steps
        print(
            f"# {num_processes} process(es): global batch {global_batch}, {samples:,} samples, {samples / len(records):,.2f} epochs"
        )
