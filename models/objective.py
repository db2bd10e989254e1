"""The loss of each sample of a batch, and the random numbers that it takes. Training and validation share them."""

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
    """All that a step draws for the samples of a batch, in fp32."""

    sigma: Tensor  # B
    noise_aug_strength: Tensor  # B
    dropped: Tensor  # B, bool: the sample loses both image conditions
    noise: Tensor  # B F C h w
    cond_noise: Tensor  # B 3 H W

    def to(self, device: torch.device) -> "Draws":
        """Copy to `device`. A copy to a GPU starts from page-locked memory, so that nobody waits for it."""
        drawn = {field.name: getattr(self, field.name) for field in fields(self)}
        if device.type == "cuda":
            drawn = {name: value.pin_memory() for name, value in drawn.items()}
        return Draws(**{name: value.to(device, non_blocking=True) for name, value in drawn.items()})


def draw(
    seed: int, n: Sequence[int], noise: NoiseSettings, latent_shape: Sequence[int], view_shape: Sequence[int]
) -> Draws:
    """Draw for the samples with the numbers `n`. Each depends on (seed, its number) alone, not on batch, worker or rank.

    `latent_shape` is F C h w and `view_shape` 3 H W. The scalars come first, so that they do not depend on the resolution.
    """
    rows = []
    for random in (generator(seed, number, "noise") for number in n):
        sigma = draw_sigma(random, noise.P_mean, noise.P_std)
        noise_aug_strength = draw_sigma(random, noise.cond_P_mean, noise.cond_P_std)
        dropped = torch.rand((), generator=random) < noise.cond_dropout
        latent_noise = torch.randn(tuple(latent_shape), generator=random)
        cond_noise = torch.randn(tuple(view_shape), generator=random)
        rows.append((sigma, noise_aug_strength, dropped, latent_noise, cond_noise))
    return Draws(*(torch.stack(column) for column in zip(*rows)))


def denoising_loss(unet: nn.Module, latents: Tensor, cond: Conditioning, sigma: Tensor, noise: Tensor) -> Tensor:
    """Return EDM's weighted squared error of each sample: B, fp32. `latents` and `noise` are B F C h w, `sigma` is B."""
    assert latents.shape == noise.shape and sigma.shape == latents.shape[:1], (latents.shape, noise.shape, sigma.shape)
    noised = latents + sigma.view(-1, 1, 1, 1, 1) * noise
    denoised = denoise(unet, noised, sigma, cond)
    return loss_weight(sigma) * (denoised - latents).square().mean(dim=(1, 2, 3, 4))
