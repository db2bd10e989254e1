"""The validation of a run: held-out orbits give losses, metrics, videos and sheets."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dataset.records import Records
from dataset.views import WHITE, load_orbit
from evaluation.held_out import HeldOut, encode_held_out, write_orbit
from evaluation.metrics import orbit_metrics
from models.encoders import Encoders
from models.objective import denoising_loss
from models.sampling import sample_orbits
from training.launch import gather_objects
from training.masters import lend_unet
from training.schedule import due
from training.state import TrainState
from training.trackers import Trackers
from utils.errors import UserError
from utils.files import file_name, write_atomically
from utils.randomness import generator
from utils.reading import Saved, read_json
from utils.schemas import DataSettings, ValidationSettings

# These and the noise are fixed, so that the validation loss is comparable between steps and between runs.
LOSS_SIGMAS = (0.1, 0.5, 2.0, 8.0, 32.0)
SEED = 0
DONE = "metrics.json"  # written last: it says that a validation is done

log = logging.getLogger("svd_mv")


@torch.no_grad()
def validation_loss(unet: nn.Module, orbit: HeldOut) -> dict[str, float]:
    """Return the training objective at each of LOSS_SIGMAS with the orbit's fixed noise, and their mean as `loss`."""
    losses = {}
    for sigma in LOSS_SIGMAS:
        sigmas = torch.tensor([sigma], device=orbit.latents.device)
        losses[f"loss_sigma_{sigma:g}"] = denoising_loss(unet, orbit.latents, orbit.cond, sigmas, orbit.noise).item()
    return {"loss": sum(losses.values()) / len(losses)} | losses


@dataclass(frozen=True)
class Validation:
    """Validates when training calls it. It owns no weights."""

    folder: Path  # of the run
    records: Records  # held out
    data: DataSettings
    settings: ValidationSettings
    encoders: Encoders
    sigma_range: tuple[float, float]  # the scheduler's sigma_min and sigma_max
    trackers: Trackers

    def run(self, step: int, state: TrainState) -> None:
        """Measure, write videos and sheets, tell the trackers, and note that it is done. Collective.

        The note comes last: a run that is killed before it validates this step again.
        """
        folder = validation_folder(self.folder, step)
        folder.mkdir(parents=True, exist_ok=True)
        rows = sorted(gather_objects(self.validate_orbits(folder, state)), key=lambda row: row["name"])
        means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0] if key != "name"}
        self.trackers.scalars(step, {f"val/{name}": value for name, value in means.items()})
        for row in rows:
            self.trackers.video(step, f"val/{row['name']}", folder / f"{row['name']}.mp4")
        shown = ("loss", "psnr_novel", "input_repeated_psnr_novel")
        log.info(f"step {step}: " + " ".join(f"val/{name} {means[name]:.4g}" for name in shown))
        if state.accelerator.is_main_process:
            summary = {"mean": means, "records": rows, "settings": self.settings.model_dump()}
            write_atomically(folder / DONE, json.dumps(summary, indent=1) + "\n")

    def validate_orbits(self, folder: Path, state: TrainState) -> list[dict]:
        """Return a row of numbers for each held-out record of this rank's share, and write its video to `folder`. Collective.

        `loss_raw` is measured with the weights as they are, everything else with their average.
        """
        accelerator = state.accelerator
        count = min(self.settings.num_records, len(self.records))
        orbits = []
        for index in range(accelerator.process_index, count, accelerator.num_processes):
            record = self.records[index]
            orbit = load_orbit(record, self.data, 0, WHITE)
            random = generator(SEED, index, "validation")
            name = f"{index:03d}_{file_name(record.id)}"
            orbits.append(encode_held_out(orbit, name, random, self.settings, self.encoders, accelerator.device))
        unet = lend_unet(state.unet, accelerator)
        rows = [{"name": orbit.name, "loss_raw": validation_loss(unet, orbit)["loss"]} for orbit in orbits]
        del unet
        with state.ema.in_place_of_masters():
            unet = lend_unet(state.unet, accelerator)
            for orbit, row in zip(orbits, rows):
                views = sample_orbits(unet, self.encoders, self.sigma_range, orbit.cond, orbit.noise, self.settings)[0]
                row |= validation_loss(unet, orbit) | orbit_metrics(views, orbit.pixels)
                write_orbit(folder, orbit, views)
        return rows


def validation_due(step: int, every_steps: int, max_steps: int) -> bool:
    return every_steps > 0 and (due(step, every_steps) or step == max_steps)


def validation_folder(run_folder: Path, step: int) -> Path:
    return run_folder / "validation" / f"step_{step:07d}"


class _Done(Saved):
    mean: dict
    records: list[dict]


def validation_done(folder: Path) -> bool:
    """Return whether a validation came to its end. An unreadable file counts as not done."""
    try:
        read_json(folder / DONE, _Done)
    except UserError:
        return False
    return True
