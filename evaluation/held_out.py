"""A held-out orbit as validation and `evaluate` sample it, measure it and show it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.views import Orbit
from models.conditioning import Conditioning
from models.encoders import Encoders
from models.sampling import start_orbit
from utils.files import naming
from utils.schemas import SamplingSettings
from utils.sheets import contact_sheet
from utils.video import to_uint8, write_mp4


@dataclass(frozen=True)
class HeldOut:
    """One held-out orbit on the device. It holds all that is needed to sample and to measure it."""

    name: str  # what its files are called
    pixels: Tensor  # F 3 H W in [-1, 1]; the first is the input view
    latents: Tensor  # 1 F C h w, scaled
    cond: Conditioning
    noise: Tensor  # 1 F C h w, of standard deviation 1


def encode_held_out(
    orbit: Orbit,
    name: str,
    random: torch.Generator,
    sampling: SamplingSettings,
    encoders: Encoders,
    device: torch.device,
) -> HeldOut:
    """Encode an orbit for the sampler and the loss. Its noise follows from `random` alone."""
    pixels = orbit.pixels.to(device)
    latents = encoders.latents(pixels[None])
    cond, noise = start_orbit(pixels[:1], orbit.elevation_deg[None], len(pixels), sampling, encoders, random)
    return HeldOut(name, pixels, latents, cond, noise)


def write_orbit(folder: Path, orbit: HeldOut, views: Tensor) -> None:
    """Write NAME.mp4, which shows input, target and sample side by side, and the same as a sheet, NAME.png."""
    target = to_uint8(orbit.pixels)
    sample = to_uint8(views)
    frames = np.concatenate([np.broadcast_to(target[:1], target.shape), target, sample], axis=2)
    write_mp4(folder / f"{orbit.name}.mp4", frames)
    sheet = folder / f"{orbit.name}.png"
    with naming(sheet):
        contact_sheet({"input": target[:1], "target": target, "sample": sample}).save(sheet)
