"""The nearest thing to a GPU run without one: every forward path on fake CUDA tensors, which raise where devices differ."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from commands.sample import SampleTask, sample_tasks
from commands.train import encode
from dataset.inputs import InputImage
from dataset.views import Orbit, OrbitBatch
from evaluation.held_out import encode_held_out
from models.encoders import Encoders
from models.objective import denoising_loss
from models.svd import Svd
from tests.helpers.fake_cuda import CUDA, on_fake_cuda, watched
from tests.helpers.small_base import small_parts
from utils.schemas import NoiseSettings, SampleSettings

FRAMES, SIZE_PX = 3, 64
SETTINGS = SampleSettings(checkpoint="c", image="i", out="o", num_inference_steps=2)


def on_gpu(unet: nn.Module, vae: nn.Module, clip: nn.Module, dtype: torch.dtype) -> Svd:
    """A small model on the fake GPU, as training has it: UNet and encoders in `dtype`, the decoder in fp32."""
    for part in (unet, clip, vae.encoder, vae.quant_conv):
        on_fake_cuda(part, dtype)
    on_fake_cuda(vae.decoder, torch.float32)
    encoders = Encoders(vae, clip, ("fps_id", "elevation_deg", "noise_aug_strength"), encode_chunk=7)
    return Svd(unet, encoders, (0.002, 700.0))


FP32 = pytest.param(torch.float32, marks=pytest.mark.slow, id="fp32")  # the law is the same, and bf16 is what GPUs run


@pytest.mark.parametrize("dtype", [FP32, pytest.param(torch.bfloat16, id="bf16")])
def test_training_validating_and_sampling_never_mix_devices_nor_compute_in_fp64(dtype, tmp_path):
    with torch.device("meta"):
        modules = [part.eval() for part in small_parts()]
    tasks = [SampleTask(InputImage("a", tmp_path, 12.0), 0, tmp_path)]
    with watched() as watch:
        svd = on_gpu(*modules, dtype)
        pixels = torch.rand(2, FRAMES, 3, SIZE_PX, SIZE_PX)
        orbits = OrbitBatch(pixels.to(torch.uint8), torch.rand(2), n=[0, 1], places=["a", "b"])
        latents, cond, draws = encode(orbits, svd.encoders, 0, NoiseSettings(), CUDA)
        cache = {"latents": torch.rand(latents.shape), "image_embeds": torch.rand(2, 32)}
        from_cache = replace(orbits, pixels=orbits.pixels[:, :1], **cache)
        cached_latents, cached_cond, _ = encode(from_cache, svd.encoders, 0, NoiseSettings(), CUDA)
        losses = denoising_loss(svd.unet, latents, cond, draws.sigma, draws.noise)
        orbit = Orbit(pixels[0], orbits.elevation_deg[0], "a")
        held_out = encode_held_out(orbit, "a", torch.Generator(), SETTINGS, svd.encoders, CUDA)
        sigma = torch.tensor([2.0], device=CUDA)
        held_out_loss = denoising_loss(svd.unet, held_out.latents, held_out.cond, sigma, held_out.noise)
        inputs = [pixels[0, :1].to(CUDA)]
        views = sample_tasks(tasks, inputs, svd, FRAMES, SETTINGS, lambda: None)
    conditions = [tensor for each in (cond, cached_cond, held_out.cond) for tensor in vars(each).values()]
    numbers = (draws.sigma, draws.noise, draws.cond_noise, held_out.noise, held_out.latents)
    for tensor in (latents, cached_latents, losses, held_out_loss, *views, *conditions, *numbers):
        assert tensor.device.type == "cuda" and tensor.dtype == torch.float32
    assert [orbit.shape for orbit in views] == [(FRAMES, 3, SIZE_PX, SIZE_PX)]
    assert not watch.found, sorted(set(watch.found))
    assert dtype in watch.dtypes
