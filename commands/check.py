"""`main.py check`: prints the resolved config and what a step of it will take, and on demand measures what it does take."""

import io
import json
import os
from pathlib import Path

from diffusers import UNetSpatioTemporalConditionModel

from commands.check_data import check_data
from commands.check_measure import measure
from dataset.records import Records, in_both
from dataset.views import try_images
from training.footprint import CARDS, GIB
from training.launch_file import find_launch
from training.prediction import PEAK_TFLOPS, SHARE, SHOWN, Prediction, predict
from training.run_folder import run_folder
from training.saved_model import find_base
from utils.config import to_yaml
from utils.errors import MAX_VALUE, one_line
from utils.files import write_atomically
from utils.schemas import TrainConfig
from utils.urls import is_remote


def check(cfg: TrainConfig) -> int:
    """Return the exit code: 1 if training would end because of its data."""
    is_first = os.environ.get("RANK", "0") == "0"
    numbers = {}
    if is_first:
        print_config(cfg)
        warn_of_size(cfg)
        if cfg.check.data and check_data(cfg):
            return 1
        print_data(cfg)
        prediction = predict(cfg, find_launch(cfg.check))
        print_prediction(prediction, cfg)
        numbers = prediction.to_json()
        write_numbers(numbers, cfg.check.json)  # before minutes of measuring, in case it cannot be written
    if cfg.check.measure_steps:
        numbers |= measure(cfg, numbers)
        if is_first:
            write_numbers(numbers, cfg.check.json)
    return 0


def write_numbers(numbers: dict, path: str | None) -> None:
    """Write what is predicted, and measured, as `check.json`, if it is given."""
    if path is not None:
        write_atomically(Path(path), json.dumps(numbers, indent=1) + "\n")


def print_config(cfg: TrainConfig) -> None:
    text = io.StringIO()
    to_yaml(cfg, text)
    print(f"{text.getvalue()}\n# run folder: {run_folder(cfg.run)}")
    share = 100 * cfg.optim.warmup_steps / cfg.train.max_steps
    print(f"# {cfg.optim.warmup_steps} of {cfg.train.max_steps} steps are warm-up ({share:.0f} %)")


def warn_of_size(cfg: TrainConfig) -> None:
    """Say so if the views are far from what the base knows. SVD's 576 x 1024 pixels are those of a square of 768."""
    latent_side = UNetSpatioTemporalConditionModel.load_config(find_base(cfg.model, config_only=True).unet)[
        "sample_size"
    ]
    known_px = 8 * latent_side
    if not 0.5 <= cfg.data.size_px / known_px <= 1.5:
        print(
            f"# warning: data.size_px={cfg.data.size_px} is far from the {known_px} pixels a side that the base knows"
        )


def print_data(cfg: TrainConfig) -> None:
    """How many records there are, and how often each is seen. Raises UserError for data that is there and wrong."""
    paths = {"data.meta": cfg.data.meta, "validation.meta": cfg.validation.meta}
    if absent := [f"{key}={path}" for key, path in paths.items() if not is_remote(path) and not Path(path).exists()]:
        print(f"# the data is not here and was not checked: no file {', '.join(absent)}")
        return
    records, held_out = (Records(meta, cfg.data.num_frames, cfg.data.local_cache) for meta in paths.values())
    for meta in (records, held_out):
        try_images(meta, cfg.data)
    print(f"# {len(records)} training and {len(held_out)} held-out records")
    if shared := in_both(records, held_out):
        names = one_line(", ".join(shared), MAX_VALUE)
        print(f"# warning: {len(shared)} held-out records are in {records.name} too, and would be trained on: {names}")
    for num_processes in sorted({1, 8, 64, int(os.environ.get("WORLD_SIZE", 1))}):
        global_batch = num_processes * cfg.train.batch_size * cfg.train.grad_accum_steps
        samples = global_batch * cfg.train.max_steps
        print(
            f"# {num_processes} process(es): global batch {global_batch}, {samples:,} samples, {samples / len(records):,.2f} epochs"
        )


def print_prediction(prediction: Prediction, cfg: TrainConfig) -> None:
    memory = prediction.footprint
    for line in prediction.trained:
        print(f"# {line}")
    print(f"#\n# Predicted, not measured, for {prediction.launch.describe()}")
    views = f"{cfg.data.num_frames} views of {cfg.data.size_px} px"
    print(f"# GiB on a GPU, with {cfg.train.batch_size} orbit(s) of {views} at a time:")
    rows = memory.held | memory.phases["forward and backward"]
    for name, size in rows.items():
        print(f"#   {name:<30}{size / GIB:7.1f}")
    for phase, size in memory.peaks.items():
        print(f"#   = {phase:<28}{size / GIB:7.1f}")
    for card, usable in CARDS.items():
        verdict = "fits" if memory.total <= usable * GIB else "does not fit"
        print(f"#   a card of {card} GB gives {usable:.1f}: {memory.total / GIB:.1f} {verdict}")
    for name, size in memory.machine.items():
        print(f"# GiB of a machine's memory, {name}: {size / GIB:.0f}")
    again = " with what is computed again" if cfg.model.gradient_checkpointing else ""
    encoding = f"{prediction.encode_tflop_per_orbit:.3g} in VAE and CLIP"
    print(f"# work per orbit: {prediction.tflop_per_orbit:.3g} TFLOP in the UNet{again}, {encoding}")
    known = {name: PEAK_TFLOPS[name] for name in SHOWN}
    peaks = {"this GPU": cfg.check.peak_tflops} if cfg.check.peak_tflops else known
    speeds = ", ".join(f"{name} {prediction.orbits_per_s(peak):.2f}" for name, peak in peaks.items())
    unlike = ", in which this launch does not compute" if prediction.launch.precision == "fp32" else ""
    print(f"# orbits per second and GPU, at {SHARE:.0%} of its peak in bf16{unlike}: {speeds}")
