"""Reading what a run left in its folder."""

import json
from pathlib import Path

import torch

from training.checkpoint import META, checkpoints, checksums, load_unet_weights, read_meta
from training.saved_model import RECIPE

EXACT = (
    "train/loss",
    "train/loss_low_sigma",
    "train/loss_mid_sigma",
    "train/loss_high_sigma",
    "train/grad_norm",
    "train/lr",
)


def weights(checkpoint: Path, which: str = "unet") -> dict[str, torch.Tensor]:
    return load_unet_weights(checkpoint / which)


def metrics(run: Path, names=EXACT) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: line.get(name) for name in ("step", *names)} for line in lines if "train/loss" in line]


def update_error(run: Path, expected: Path, which: str = "unet") -> float:
    """Return the relative difference of two updates: those from the base's weights to the newest checkpoints of two runs."""
    start = weights(Path(read_meta(checkpoints(expected)[-1])["config"]["model"]["base"]))
    difference = total = 0.0
    ours = weights(checkpoints(run)[-1], which)
    theirs = weights(checkpoints(expected)[-1], which)
    for name, before in start.items():
        if not name.startswith("add_embedding.linear_1"):  # these are remapped when they are loaded
            difference += (ours[name] - theirs[name]).double().square().sum().item()
            total += (theirs[name] - before).double().square().sum().item()
    return (difference / total) ** 0.5


def sign(folder: Path) -> None:
    """Write the present checksums of the files of a checkpoint or an export into it, as if it had been saved like this."""
    path = folder / (META if (folder / META).exists() else RECIPE)
    files = {name: digest for name, digest in checksums(folder).items() if name not in (RECIPE, "README.md")}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": files}))
