"""The validation of a run: held-out orbits, and perhaps some training orbits, give losses, metrics, videos and sheets."""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from dataset.records import Records
from dataset.views import WHITE, load_orbit
from evaluation.held_out import HeldOut, encode_held_out, write_orbit
from evaluation.metrics import orbit_metrics
from models.conditioning import ELEVATION, with_elevation
from models.encoders import Encoders
from models.objective import denoising_loss
from models.sampling import sample_orbits
from training.launch import Accelerator, gather_objects
from training.masters import lend_unet
from training.schedule import due
from training.state import TrainState
from training.step_folders import step_folder, step_folders, step_of
from training.trackers import Trackers
from utils.errors import UserError
from utils.files import file_name, write_atomically
from utils.progress import minutes_left
from utils.randomness import generator
from utils.reading import Saved, read_json
from utils.schemas import DataSettings, ValidationSettings

# These and the noise are fixed, so that the validation loss is comparable between steps and between runs.
LOSS_SIGMAS = (0.1, 0.5, 2.0, 8.0, 32.0)
SEED = 0
DONE = "metrics.json"  # written last: it says that a validation is done
OTHERS_LOOKED_AT = 100  # records, for one of another elevation
SEEN = "seen_"  # begins the names of what was measured on training orbits

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
class ToMeasure:
    """An orbit, and whether it is trained on."""

    orbit: HeldOut
    seen: bool
    other_elevation_deg: float | None  # another orbit's, if one has another

    def row(self, numbers: dict[str, float]) -> dict[str, float]:
        return {f"{SEEN if self.seen else ''}{name}": number for name, number in numbers.items()}


@dataclass(frozen=True)
class Validation:
    """Validates when training calls it. It owns no weights."""

    folder: Path  # of the run
    records: Records  # held out
    training_records: Records
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
        means = mean_of(rows)
        self.trackers.scalars(step, {f"val/{name}": value for name, value in means.items()})
        for row in rows:
            self.trackers.video(step, f"val/{row['name']}", folder / f"{row['name']}.mp4")
        shown = ("loss", "psnr_novel", "input_repeated_psnr_novel")
        log.info(f"step {step}: " + " ".join(f"val/{name} {means[name]:.4g}" for name in shown))
        if state.accelerator.is_main_process:
            summary = {"mean": means, "records": rows, "settings": self.settings.model_dump()}
            write_atomically(folder / DONE, json.dumps(summary, indent=1) + "\n")

    def validate_orbits(self, folder: Path, state: TrainState) -> list[dict]:
        """Return a row of numbers for each orbit of this rank's share, and write its video to `folder`. Collective.

        `loss_raw` is measured with the weights as they are, everything else with their average.
        """
        accelerator = state.accelerator
        log.info(f"validating {folder.name}")
        started = time.monotonic()
        chosen = list(self.to_measure(accelerator))
        unet = lend_unet(state.unet, accelerator)
        rows = [
            {"name": each.orbit.name} | each.row({"loss_raw": validation_loss(unet, each.orbit)["loss"]})
            for each in chosen
        ]
        del unet
        with state.ema.in_place_of_masters():
            unet = lend_unet(state.unet, accelerator)
            for number, (each, row) in enumerate(zip(chosen, rows), start=1):
                orbit = each.orbit
                views = sample_orbits(unet, self.encoders, self.sigma_range, orbit.cond, orbit.noise, self.settings)[0]
                numbers = validation_loss(unet, orbit) | orbit_metrics(views, orbit.pixels)
                if ELEVATION in self.encoders.layout and each.other_elevation_deg is not None:
                    wrong = with_elevation(orbit.cond, self.encoders.layout, each.other_elevation_deg)
                    numbers["loss_other_elevation"] = validation_loss(unet, replace(orbit, cond=wrong))["loss"]
                row |= each.row(numbers)
                write_orbit(folder, orbit, views)
                left = minutes_left(started, number, len(chosen))
                log.info(f"validated {number}/{len(chosen)} of a process, {left:.1f} min left")
        return rows

    def to_measure(self, accelerator: Accelerator) -> Iterator[ToMeasure]:
        """Yield this rank's share of the held-out orbits, and of the training orbits that are measured as well."""
        for records, wanted, seen in (
            (self.records, self.settings.num_records, False),
            (self.training_records, self.settings.num_training_records, True),
        ):
            count = min(wanted, len(records))
            for index in range(accelerator.process_index, count, accelerator.num_processes):
                record = records[index]
                random = generator(SEED, index, "validation")
                name = f"{SEEN if seen else ''}{index:03d}_{file_name(record.id)}"
                orbit = load_orbit(record, self.data, 0, WHITE)
                encoded = encode_held_out(orbit, name, random, self.settings, self.encoders, accelerator.device)
                yield ToMeasure(encoded, seen, other_elevation(records, index))


def other_elevation(records: Records, index: int) -> float | None:
    """Return the elevation in degrees of the next record that has another than record `index`, if one is near."""
    own = records[index].elevations_deg[0]
    following = range(index + 1, index + min(len(records), OTHERS_LOOKED_AT + 1))
    found = (records[number % len(records)].elevations_deg[0] for number in following)
    return next((degrees for degrees in found if degrees != own), None)


def mean_of(rows: list[dict]) -> dict[str, float]:
    """Return the mean of each number over the rows that have it: those of training orbits have other names."""
    names = dict.fromkeys(name for row in rows for name in row if name != "name")
    columns = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}


def validation_due(step: int, every_steps: int, max_steps: int) -> bool:
    return every_steps > 0 and (due(step, every_steps) or step == max_steps)


def validation_folder(run_folder: Path, step: int) -> Path:
    return step_folder(run_folder / "validation", step)


def validations(run_folder: Path) -> list[Path]:
    """Return the folder of each validation of a run, in the order of their steps."""
    return step_folders(run_folder / "validation")


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


def summary_of(run_folder: Path) -> str:
    """Return a table of the first validation, one in the middle and the last, for the end of a run's log; empty without any.

    PSNR and SSIM are those of the novel views.
    """
    folders = [path for path in validations(run_folder) if validation_done(path)]
    if not folders:
        return ""
    picked = dict.fromkeys((folders[0], folders[len(folders) // 2], folders[-1]))
    means = {step_of(path): read_json(path / DONE, _Done).mean for path in picked}
    lines = ["", f"{'':<28}{'loss':>10}{'other elevation':>18}{'PSNR':>8}{'SSIM':>8}"]
    last = means[max(means)]
    for prefix, kind in (("", "held-out orbits"), (SEEN, "training orbits")):
        if f"{prefix}loss" not in last:
            continue
        rows = {f"{kind}, step {step}": (mean, prefix) for step, mean in means.items()}
        rows[f"{kind}, input view"] = (last, f"{prefix}input_repeated_")
        for name, (mean, start) in rows.items():
            cells = (mean.get(f"{start}{key}") for key in ("loss", "loss_other_elevation", "psnr_novel", "ssim_novel"))
            texts = ("" if cell is None else f"{cell:.3f}" for cell in cells)
            lines.append("{:<28}{:>10}{:>18}{:>8}{:>8}".format(name, *texts))
    return "\n".join(lines)
