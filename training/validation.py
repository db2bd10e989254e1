"""Held-out orbits -> losses, metrics, videos and sheets: what training calls every N steps, with weights it does not own."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from dataset.records import Records
from dataset.views import WHITE, Orbit, load_orbit
from evaluation.metrics import psnr, ssim
from models.conditioning import Conditioning, guidance_scales
from models.encoders import Encoders
from models.objective import denoising_loss
from models.sampling import karras_sigmas, sample_views
from models.svd import Svd
from training.checkpoint import Training
from training.masters import lend_unet
from utils.config import Section
from utils.files import file_name
from utils.randomness import generator
from utils.schemas import SamplingSettings
from utils.video import contact_sheet, to_uint8, write_mp4

# Fixed, as the noise that follows from SEED: the validation loss compares between steps and between runs.
LOSS_SIGMAS = (0.1, 0.5, 2.0, 8.0, 32.0)
SEED = 0


@dataclass(frozen=True)
class HeldOut:
    """One held-out orbit on the device: its views from view 0 on white, its latents, its conditioning and its noise."""

    name: str
    pixels: Tensor  # F 3 H W
    latents: Tensor  # 1 F 4 h w
    cond: Conditioning
    noise: Tensor  # 1 F 4 h w


def encode_held_out(
    orbit: Orbit,
    name: str,
    random: torch.Generator,
    sampling: SamplingSettings,
    encoders: Encoders,
    device: torch.device,
) -> HeldOut:
    pixels = orbit.pixels.to(device)
    latents = encoders.latents(pixels[None])
    cond, noise = start_video(pixels[:1], orbit.elevation_deg[None], len(pixels), sampling, encoders, random)
    return HeldOut(name, pixels, latents, cond, noise)


def start_video(
    view: Tensor,
    elevation_deg: Tensor,
    num_frames: int,
    sampling: SamplingSettings,
    encoders: Encoders,
    random: torch.Generator,
) -> tuple[Conditioning, Tensor]:
    """What a video starts from: the conditioning of its input view (1 3 H W), and unit noise (1 F 4 h w), on the view's device."""
    shape = (1, *encoders.latent_shape(num_frames, view.shape[-1]))
    noise, cond_noise = (torch.randn(size, generator=random).to(view.device) for size in (shape, view.shape))
    strength = torch.tensor([sampling.noise_aug_strength], device=view.device)
    return encoders.condition(view, elevation_deg.to(view.device), strength, cond_noise), noise


@torch.no_grad()
def validation_loss(unet: nn.Module, orbit: HeldOut) -> dict[str, float]:
    """The training objective at LOSS_SIGMAS with the orbit's fixed noise: each, and their mean."""
    losses = {}
    for sigma in LOSS_SIGMAS:
        sigmas = torch.tensor([sigma], device=orbit.latents.device)
        losses[f"loss_sigma_{sigma:g}"] = denoising_loss(unet, orbit.latents, orbit.cond, sigmas, orbit.noise).item()
    return {"loss": sum(losses.values()) / len(losses)} | losses


def sample_orbits(
    unet: nn.Module,
    cond: Conditioning,
    noise: Tensor,
    svd: Svd,
    sampling: SamplingSettings,
    on_step: Callable[[], object] | None = None,
) -> list[Tensor]:
    """B videos of F 3 H W in [-1, 1], view 0 at the input's azimuth, from noise B F 4 h w."""
    sigmas = karras_sigmas(sampling.num_inference_steps, svd.sigma_min, svd.sigma_max)
    guidance = guidance_scales(sampling.guidance, noise.shape[1], sampling.guidance_min, sampling.guidance_max)
    latents = sample_views(unet, cond, noise, sigmas, guidance, on_step)
    return [svd.encoders.decode(video, sampling.decode_chunk) for video in latents]


def per_view(
    candidates: dict[str, Tensor], targets: Tensor, metrics: dict[str, Callable[[Tensor, Tensor], Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """{row: {metric: F}} of F 3 H W in [-1, 1] against targets of the same shape; the metrics are given [0, 1]."""
    truth = (targets + 1) / 2
    return {
        row: {name: metric((views + 1) / 2, truth) for name, metric in metrics.items()}
        for row, views in candidates.items()
    }


def over_views(values: Tensor) -> dict[str, float]:
    """The mean of a metric, F, over the novel views (all but the input's, the first) and over all."""
    return {"novel": values[1:].mean().item(), "all": values.mean().item()}


def orbit_metrics(views: Tensor, targets: Tensor) -> dict[str, float]:
    """PSNR and SSIM of F 3 H W in [-1, 1], beside the input repeated."""
    rows = per_view({"": views, "input_repeated_": input_repeated(targets)}, targets, {"psnr": psnr, "ssim": ssim})
    return {
        f"{row}{name}_{which}": mean
        for row, metrics in rows.items()
        for name, values in metrics.items()
        for which, mean in over_views(values).items()
    }


def input_repeated(targets: Tensor) -> Tensor:
    """What a model that ignores the camera would draw: the first view of F 3 H W, F times."""
    return targets[:1].expand_as(targets)


def write_orbit(folder: Path, orbit: HeldOut, views: Tensor) -> None:
    """NAME.mp4 (input | target | sample, side by side) and NAME.png (the same as a sheet)."""
    target, sample = to_uint8(orbit.pixels), to_uint8(views)
    frames = np.concatenate([np.broadcast_to(target[:1], target.shape), target, sample], axis=2)
    write_mp4(folder / f"{orbit.name}.mp4", frames)
    contact_sheet({"input": target[:1], "target": target, "sample": sample}).save(folder / f"{orbit.name}.png")


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
            views = sample_orbits(unet, orbit.cond, orbit.noise, svd, validation)[0]
            row |= validation_loss(unet, orbit) | orbit_metrics(views, orbit.pixels)
            write_orbit(folder, orbit, views)
    rows = sorted(gather_object(rows), key=lambda row: row["name"])
    means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0] if key != "name"}
    if accelerator.is_main_process:
        report = {"mean": means, "records": rows, "settings": validation.model_dump()}
        (folder / "metrics.json").write_text(json.dumps(report, indent=1) + "\n")
    return means, {row["name"]: folder / f"{row['name']}.mp4" for row in rows}
