"""Held-out orbits -> losses, metrics, videos and sheets: what training calls every N steps, with weights it does not own."""

import json
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import nn

from dataset.records import Records
from dataset.views import WHITE, load_orbit
from evaluation.held_out import HeldOut, encode_held_out, write_orbit
from evaluation.metrics import orbit_metrics
from models.objective import denoising_loss
from models.sampling import sample_orbits
from models.svd import Svd
from training.checkpoint import Training
from training.masters import lend_unet
from utils.config import Section
from utils.files import file_name
from utils.randomness import generator

# Fixed, as the noise that follows from SEED: the validation loss compares between steps and between runs.
LOSS_SIGMAS = (0.1, 0.5, 2.0, 8.0, 32.0)
SEED = 0


@torch.no_grad()
def validation_loss(unet: nn.Module, orbit: HeldOut) -> dict[str, float]:
    """The training objective at LOSS_SIGMAS with the orbit's fixed noise: each, and their mean."""
    losses = {}
    for sigma in LOSS_SIGMAS:
        sigmas = torch.tensor([sigma], device=orbit.latents.device)
        losses[f"loss_sigma_{sigma:g}"] = denoising_loss(unet, orbit.latents, orbit.cond, sigmas, orbit.noise).item()
    return {"loss": sum(losses.values()) / len(losses)} | losses


def validate_orbits(
    cfg: Section, records: Records, svd: Svd, training: Training, folder: Path
) -> tuple[dict[str, float], dict[str, Path]]:
    """Means over the held-out records, and the videos by name. Collective: each rank does its share of the records.

    The losses of the weights as they are and of their average; everything else is the average's.
    """
    validation, accelerator = cfg.validation, training.accelerator
    folder.mkdir(parents=True, exist_ok=True)
    mine = range(accelerator.process_index, min(validation.num_records, len(records)), accelerator.num_processes)
    orbits = []
    for index in mine:
        record = records[index]
        orbit, random = load_orbit(record, cfg.data, 0, WHITE, index), generator(SEED, index, "validation")
        name = f"{index:03d}_{file_name(record.id)}"
        orbits.append(encode_held_out(orbit, name, random, validation, svd.encoders, accelerator.device))
    unet = lend_unet(training.unet, accelerator)
    rows = [{"name": orbit.name, "loss_raw": validation_loss(unet, orbit)["loss"]} for orbit in orbits]
    del unet
    with training.ema.in_place_of_masters():
        unet = lend_unet(training.unet, accelerator)
        for orbit, row in zip(orbits, rows):
            views = sample_orbits(unet, svd.encoders, svd.sigma_range, orbit.cond, orbit.noise, validation)[0]
            row |= validation_loss(unet, orbit) | orbit_metrics(views, orbit.pixels)
            write_orbit(folder, orbit, views)
    rows = sorted(gather_object(rows), key=lambda row: row["name"])
    means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0] if key != "name"}
    if accelerator.is_main_process:
        report = {"mean": means, "records": rows, "settings": validation.model_dump()}
        (folder / "metrics.json").write_text(json.dumps(report, indent=1) + "\n")
    return means, {row["name"]: folder / f"{row['name']}.mp4" for row in rows}
