import pytest
import torch
from diffusers import EDMEulerScheduler

from models.conditioning import Conditioning
from models.edm import coefficients, denoise, draw_sigma, loss_weight

SIGMAS = torch.logspace(-2.7, 2.85, 40)


def test_coefficients_agree_with_diffusers_edm_scheduler():
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=700, sigma_data=1.0, prediction_type="v_prediction")
    sample, output = torch.randn(2, 4), torch.randn(2, 4)
    for sigma in SIGMAS:
        c_skip, c_out, c_in, c_noise = coefficients(sigma)
        torch.testing.assert_close(c_in * sample, scheduler.precondition_inputs(sample, sigma))
        torch.testing.assert_close(c_noise, scheduler.precondition_noise(sigma))
        torch.testing.assert_close(
            c_skip * sample + c_out * output, scheduler.precondition_outputs(sample, output, sigma)
        )


def test_weight_times_c_out_squared_is_one():
    torch.testing.assert_close(loss_weight(SIGMAS) * coefficients(SIGMAS).c_out.square(), torch.ones_like(SIGMAS))


def test_ln_sigma_is_normal_and_sigma_is_never_zero_or_infinite(random):
    sigma = torch.stack([draw_sigma(random, 1.0, 1.6) for _ in range(20_000)])
    assert sigma.dtype == torch.float32 and sigma.isfinite().all() and (sigma > 0).all()
    assert sigma.log().mean().item() == pytest.approx(1.0, abs=0.05)
    assert sigma.log().std().item() == pytest.approx(1.6, abs=0.05)


class Spy(torch.nn.Module):
    """Stands in for the UNet, and keeps what it is called with."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=dtype))

    def forward(self, sample, timestep, encoder_hidden_states, added_time_ids, return_dict):
        self.call = (sample, timestep, encoder_hidden_states, added_time_ids)
        return (sample[:, :, :4],)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_network_call_is_in_low_precision(dtype, random):
    cond = Conditioning(torch.randn(2, 4, 2, 2), torch.randn(2, 1, 8), torch.tensor([[6.0, 29.37, 0.02]] * 2))
    noised = torch.randn(2, 3, 4, 2, 2, generator=random)
    sigma = torch.tensor([0.7, 30.0])
    unet = Spy(dtype)
    denoised = denoise(unet, noised, sigma, cond)
    sample, timestep, embeds, ids = unet.call
    assert denoised.dtype == torch.float32 and denoised.shape == noised.shape
    assert sample.dtype == embeds.dtype == dtype and sample.shape == (2, 3, 8, 2, 2)
    assert timestep.dtype == ids.dtype == torch.float32, "bf16 would turn 29.37 degrees into 29.375"
    torch.testing.assert_close(timestep, sigma.log() / 4)
    assert torch.equal(sample[:, 1, 4:], cond.latents.to(dtype)), "every frame sees the conditioning latents, unscaled"
