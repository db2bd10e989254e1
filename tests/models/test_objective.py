import copy

import pytest
import torch

from models.conditioning import Conditioning
from models.edm import coefficients, network_output
from models.objective import Draws, denoising_loss, draw
from models.tiny_vae import LATENT_CHANNELS
from utils.schemas import NoiseSettings

LATENT = (5, LATENT_CHANNELS, 4, 4)  # F C h w
VIEW = (3, 32, 32)  # 3 H W


def batch(size: int, random):
    latents = torch.randn(size, *LATENT, generator=random)
    cond = Conditioning(
        torch.randn(size, *LATENT[1:], generator=random),
        torch.randn(size, 1, 32, generator=random),
        torch.tensor([[6.0, 10.0 * row, 0.02] for row in range(size)]),
    )
    return latents, cond, draw(0, range(size), NoiseSettings(), LATENT, VIEW)


def rows(value, start: int, stop: int):
    return type(value)(**{name: tensor[start:stop] for name, tensor in vars(value).items()})


@pytest.mark.parametrize("division", [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[3], [1], [0], [2]]])
def test_the_same_sample_number_gives_the_same_draw_whatever_the_batch(division):
    whole = draw(5, range(4), NoiseSettings(), LATENT, VIEW)
    for numbers in division:
        part = draw(5, numbers, NoiseSettings(), LATENT, VIEW)
        for name, tensor in vars(part).items():
            assert torch.equal(tensor, getattr(whole, name)[numbers]), name


def test_other_samples_and_other_seeds_draw_otherwise():
    draws = [draw(seed, [n], NoiseSettings(), LATENT, VIEW) for seed in (0, 1) for n in (0, 1)]
    assert len({d.sigma.item() for d in draws}) == len({d.noise.sum().item() for d in draws}) == 4


def test_scalars_do_not_depend_on_the_resolution():
    small = draw(0, [3], NoiseSettings(), LATENT, VIEW)
    large = draw(0, [3], NoiseSettings(), (21, LATENT_CHANNELS, 8, 8), (3, 64, 64))
    for name in ("sigma", "noise_aug_strength", "dropped"):
        assert torch.equal(getattr(small, name), getattr(large, name)), name


def test_draws_have_the_configured_distributions():
    draws: Draws = draw(0, range(3000), NoiseSettings(cond_dropout=0.2), (1, 1, 1, 1), (1, 1, 1))
    assert draws.sigma.log().mean().item() == pytest.approx(1.0, abs=0.1)
    assert draws.noise_aug_strength.log().mean().item() == pytest.approx(-3.0, abs=0.03)
    assert draws.noise_aug_strength.log().std().item() == pytest.approx(0.5, abs=0.03)
    assert draws.dropped.float().mean().item() == pytest.approx(0.2, abs=0.025), "each sample has a coin of its own"


def test_the_loss_is_the_plain_mse_between_the_networks_output_and_v(svd, random):
    latents, cond, draws = batch(3, random)
    sigma = torch.tensor([0.05, 1.0, 40.0])
    losses = denoising_loss(svd.unet, latents, cond, sigma, draws.noise)
    broad = sigma.view(-1, 1, 1, 1, 1)
    noised = latents + broad * draws.noise
    c_skip, c_out, c_in, c_noise = coefficients(sigma)
    v = (draws.noise - broad * latents) / (broad.square() + 1).sqrt()  # (x0 - c_skip noised) / c_out
    torch.testing.assert_close(
        v, (latents - c_skip.view_as(broad) * noised) / c_out.view_as(broad), atol=1e-3, rtol=1e-3
    )
    predicted = network_output(svd.unet, c_in.view_as(broad) * noised, c_noise, cond)
    torch.testing.assert_close(losses, (predicted - v).square().mean(dim=(1, 2, 3, 4)), atol=1e-5, rtol=1e-4)


def test_accumulating_two_batches_of_one_gives_the_gradient_of_a_batch_of_two(svd, random):
    latents, cond, draws = batch(2, random)
    whole = copy.deepcopy(svd.unet)
    accumulated = copy.deepcopy(svd.unet)
    denoising_loss(whole, latents, cond, draws.sigma, draws.noise).mean().backward()
    for row in range(2):
        part = rows(draws, row, row + 1)
        loss = denoising_loss(accumulated, latents[row : row + 1], rows(cond, row, row + 1), part.sigma, part.noise)
        (loss.mean() / 2).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in whole.parameters()])
    actual = torch.cat([parameter.grad.flatten() for parameter in accumulated.parameters()])
    assert (actual - expected).norm() / expected.norm() < 1e-5
