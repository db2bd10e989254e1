"""A batch -> its loss per sample, and the random numbers of its samples; the same for training and validation."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from models.conditioning import Conditioning
from models.edm import denoise, draw_sigma, loss_weight
from utils.randomness import generator
from utils.schemas import NoiseSettings


@dataclass(frozen=True)
class Draws:
    """What is random about the samples of a batch, fp32."""

    sigma: Tensor  # B
    noise_aug_strength: Tensor  # B
    dropped: Tensor  # B, bool: loses both image conditions
    noise: Tensor  # B F 4 h w
    cond_noise: Tensor  # B 3 H W

    def to(self, device: torch.device) -> "Draws":
        """On a GPU the copies start from page-locked memory, so that nobody waits for them."""
        drawn = {field.name: getattr(self, field.name) for field in fields(self)}
        if device.type == "cuda":
            drawn = {name: value.pin_memory() for name, value in drawn.items()}
        return Draws(**{name: value.to(device, non_blocking=True) for name, value in drawn.items()})


def draw(
    seed: int, n: Sequence[int], noise: NoiseSettings, latent_shape: Sequence[int], view_shape: Sequence[int]
) -> Draws:
    """The draws of samples `n`: each a function of (seed, n) alone, whatever the batch, worker or rank.

    latent_shape: F 4 h w, view_shape: 3 H W. The scalars come first, so that they do not depend on the resolution.
    """
    rows = []
    for random in (generator(seed, number, "noise") for number in n):
        sigma = draw_sigma(random, noise.P_mean, noise.P_std)
        noise_aug_strength = draw_sigma(random, noise.cond_P_mean, noise.cond_P_std)
        dropped = torch.rand((), generator=random) < noise.cond_dropout
        latent_noise = torch.randn(tuple(latent_shape), generator=random)
        rows.append(
            (sigma, noise_aug_strength, dropped, latent_noise, torch.randn(tuple(view_shape), generator=random))
        )
    return Draws(*(torch.stack(column) for column in zip(*rows)))


def denoising_loss(unet: nn.Module, latents: Tensor, cond: Conditioning, sigma: Tensor, noise: Tensor) -> Tensor:
    """EDM's weighted squared error of each sample, B, fp32. latents, noise: B F 4 h w; sigma: B, one per orbit."""
    assert latents.shape == noise.shape and sigma.shape == latents.shape[:1], (latents.shape, noise.shape, sigma.shape)
    noised = latents + sigma.view(-1, 1, 1, 1, 1) * noise
    denoised = denoise(unet, noised, sigma, cond)
    return loss_weight(sigma) * (denoised - latents).square().mean(dim=(1, 2, 3, 4))
