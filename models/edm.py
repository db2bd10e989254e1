"""EDM for sigma_data = 1 and a network that predicts v, as SVD has it (Karras et al. 2022, arXiv 2206.00364, table 1).

With x0 the scaled latents and n ~ N(0, I): noised = x0 + sigma n, D = c_skip noised + c_out F(c_in noised, c_noise).
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from models.conditioning import Conditioning


class Coefficients(NamedTuple):
    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def coefficients(sigma: Tensor) -> Coefficients:
    """Return the preconditioning of a network that predicts v, in fp32 and in the shape of `sigma`, which is above 0."""
    scale = (sigma.square() + 1).rsqrt()
    return Coefficients(c_skip=scale.square(), c_out=-sigma * scale, c_in=scale, c_noise=sigma.log() / 4)


def loss_weight(sigma: Tensor) -> Tensor:
    """Return EDM's weight for sigma_data = 1. It is chosen so that loss_weight * c_out**2 == 1."""
    return (sigma.square() + 1) / sigma.square()


def draw_sigma(random: Generator, P_mean: float, P_std: float) -> Tensor:
    """Draw one sigma, with ln sigma ~ N(P_mean, P_std**2). It comes from randn in fp32, so it is never 0 or infinite."""
    return (P_mean + P_std * torch.randn((), generator=random)).exp()


def denoise(unet: nn.Module, noised: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """Return D(noised; sigma), the estimate of x0: B F C h w, fp32. `noised` is B F C h w and `sigma` is B, both fp32.

    When training, pass the *prepared* UNet: the gradients of a module taken out of its wrapper are not synchronised.
    """
    *scales, c_noise = coefficients(sigma)
    c_skip, c_out, c_in = (scale.view(-1, 1, 1, 1, 1) for scale in scales)
    return c_skip * noised + c_out * network_output(unet, c_in * noised, c_noise, cond)


def network_output(unet: nn.Module, scaled: Tensor, c_noise: Tensor, cond: Conditioning) -> Tensor:
    """Return F, the network's v, in fp32. Its inputs are cast to the compute type, but c_noise and the ids stay fp32."""
    dtype = next(unet.parameters()).dtype  # bf16 under DeepSpeed; otherwise fp32, and autocast lowers it
    cond_latents = cond.latents[:, None].expand_as(scaled)
    unet_input = torch.cat([scaled, cond_latents], dim=2)  # B F 8 h w
    v = unet(unet_input.to(dtype), c_noise, cond.image_embeds.to(dtype), cond.added_time_ids, return_dict=False)[0]
    return v.float()
