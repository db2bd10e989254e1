"""Sampling: Euler steps with the denoise() that was trained turn noise into latents, and the VAE turns these into views."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.conditioning import Conditioning, drop_conditions
from models.edm import denoise
from models.encoders import Encoders
from utils.schemas import SamplingSettings

# A GPU's attention kernels take so many sequences. Temporal attention has one for each place of each orbit's latents.
MAX_SEQUENCES = 65_535


def start_orbit(
    view: Tensor,
    elevation_deg: Tensor,
    num_frames: int,
    sampling: SamplingSettings,
    encoders: Encoders,
    random: torch.Generator,
) -> tuple[Conditioning, Tensor]:
    """Return what an orbit is sampled from: the conditioning of its input view, and unit noise (1 F C h w).

    `view` is 1 3 H W in [-1, 1]. The results are on its device, whatever device `random` draws on.
    """
    noise = torch.randn((1, *encoders.latent_shape(num_frames, view.shape[-1])), generator=random)
    cond_noise = torch.randn(view.shape, generator=random)
    strength = torch.tensor([sampling.noise_aug_strength], device=view.device)
    cond = encoders.condition(view, elevation_deg.to(view.device), strength, cond_noise.to(view.device))
    return cond, noise.to(view.device)


def sample_orbits(
    unet: nn.Module,
    encoders: Encoders,
    sigma_range: tuple[float, float],
    cond: Conditioning,
    noise: Tensor,
    sampling: SamplingSettings,
    on_step: Callable[[], object] | None = None,
) -> list[Tensor]:
    """Sample B orbits from unit noise (B F C h w). Each is F 3 H W in [-1, 1] and starts at the input view's azimuth.

    `sigma_range` is the scheduler's (lowest, highest) sigma; `on_step` is called after every Euler step.
    """
    sigmas = karras_sigmas(sampling.num_inference_steps, *sigma_range)
    scales = guidance_scales(sampling.guidance, noise.shape[1], sampling.guidance_min, sampling.guidance_max)
    latents = sample_latents(unet, cond, noise, sigmas, scales, on_step)
    return [encoders.decode(orbit, sampling.decode_chunk) for orbit in latents]


def karras_sigmas(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Return num_steps + 1 falling sigmas in fp32. The last one is 0 (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    low = sigma_min ** (1 / rho)
    high = sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)]).float()


def guidance_scales(kind: str, num_frames: int, guidance_min: float, guidance_max: float) -> Tensor:
    """Return the guidance scale of each view (F).

    `orbit` is orbit_guidance, `linear` rises along the views as in the stock pipeline, `constant` is the maximum everywhere.
    """
    if kind == "orbit":
        return orbit_guidance(num_frames, guidance_min, guidance_max)
    return torch.linspace(guidance_min if kind == "linear" else guidance_max, guidance_max, num_frames)


def orbit_guidance(num_frames: int, guidance_min: float, guidance_max: float) -> Tensor:
    """Return scales (F) that rise from the minimum at the input view to the maximum behind the object, and fall again.

    That is SV3D's triangle (arXiv 2403.12008), as a function of the azimuth. With an odd number of views none is exactly
    behind: from 1 to 2.5 over 21 views the highest scale is 2.43, where SV3D has 2.5. A scale that rises along the views,
    as for videos, over-sharpens the last ones, which are next to the input.
    """
    azimuth_deg = torch.arange(num_frames) * 360 / num_frames
    return guidance_min + (guidance_max - guidance_min) * (1 - (azimuth_deg - 180).abs() / 180)


@torch.no_grad()
def sample_latents(
    unet: nn.Module,
    cond: Conditioning,
    noise: Tensor,
    sigmas: Tensor,
    scales: Tensor,
    on_step: Callable[[], object] | None = None,
) -> Tensor:
    """Turn unit noise (B F C h w) into latents of that shape, by Euler steps along the falling `sigmas`.

    `scales` (F) is the guidance of each view. If none is above 1, the unconditional pass is left out. As in the stock
    pipeline, the noise is first scaled by sqrt(sigma**2 + 1) of the first sigma.
    """
    latents = noise * (sigmas[0].square() + 1).sqrt()
    guided = bool(scales.max() > 1)
    scales = scales.view(1, -1, 1, 1, 1).to(noise)
    sigmas = sigmas.to(noise.device)
    for sigma, next_sigma in zip(sigmas, sigmas[1:]):
        sigma_b = sigma.expand(len(noise))
        if guided:
            denoised = _denoise_guided(unet, latents, sigma_b, cond, scales)
        else:
            denoised = _denoise(unet, latents, sigma_b, cond)
        latents = latents + (latents - denoised) / sigma * (next_sigma - sigma)
        if on_step:
            on_step()
    return latents


def _denoise_guided(unet: nn.Module, latents: Tensor, sigma: Tensor, cond: Conditioning, scales: Tensor) -> Tensor:
    """Denoise with classifier-free guidance. As in the stock pipeline, the unconditional pass has no image but the same ids."""
    dropped = torch.ones(len(latents), dtype=torch.bool, device=latents.device)
    both = Conditioning.cat([drop_conditions(cond, dropped), cond])
    without, with_ = _denoise(unet, latents.repeat(2, 1, 1, 1, 1), sigma.repeat(2), both).chunk(2)
    return without + scales * (with_ - without)


def _denoise(unet: nn.Module, noised: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """Denoise a batch, no more orbits at a time than MAX_SEQUENCES allows: 12 at 576 px, where guidance doubles a batch."""
    at_once = max(1, MAX_SEQUENCES // noised[0, 0, 0].numel())
    parts = zip(noised.split(at_once), sigma.split(at_once), cond.split(at_once))
    return torch.cat([denoise(unet, *part) for part in parts])
