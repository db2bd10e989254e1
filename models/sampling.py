"""Noise -> the latents of an orbit: Euler steps of the same denoise() that is trained, with guidance per view."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.conditioning import Conditioning, drop_conditions
from models.edm import denoise


def karras_sigmas(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """num_steps + 1 falling sigmas, the last one 0 (Karras et al. 2022, eq. 5), fp32."""
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)]).float()


@torch.no_grad()
def sample_views(
    unet: nn.Module,
    cond: Conditioning,
    noise: Tensor,
    sigmas: Tensor,
    guidance: Tensor,
    on_step: Callable[[], object] | None = None,
) -> Tensor:
    """B F 4 h w latents from unit noise of that shape. `guidance`: the scale of each view, F; up to 1 there is none.

    As in the stock pipeline the first sigma scales the noise by sqrt(sigma**2 + 1), and unconditional means zero image
    conditions with the same ids.
    """
    latents = noise * (sigmas[0].square() + 1).sqrt()
    guided = bool(guidance.max() > 1)
    weight = guidance.view(1, -1, 1, 1, 1).to(noise)
    for sigma, next_sigma in zip(sigmas.to(noise.device), sigmas[1:].to(noise.device)):
        if guided:
            without, with_ = denoise(
                unet, latents.repeat(2, 1, 1, 1, 1), sigma.expand(2 * len(noise)), _doubled(cond)
            ).chunk(2)
            denoised = without + weight * (with_ - without)
        else:
            denoised = denoise(unet, latents, sigma.expand(len(noise)), cond)
        latents = latents + (latents - denoised) / sigma * (next_sigma - sigma)
        if on_step:
            on_step()
    return latents


def _doubled(cond: Conditioning) -> Conditioning:
    dropped = torch.ones(len(cond.latents), dtype=torch.bool, device=cond.latents.device)
    return Conditioning.cat([drop_conditions(cond, dropped), cond])
