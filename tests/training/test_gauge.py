"""Speed and memory in the log."""

import copy
from types import SimpleNamespace

import pytest
import torch

from models.activations import Count, Counter
from models.checkpointing import checkpoint_blocks
from models.conditioning import Conditioning
from models.objective import denoising_loss
from models.tiny_vae import LATENT_CHANNELS
from models.trainable import choose_trainable
from training.gauge import Gauge, make_gauge, tflop_per_orbit
from training.launch import launched_accelerator
from training.window import Window
from utils.schemas import ModelSettings

LATENTS = (3, LATENT_CHANNELS, 8, 8)


def test_the_work_of_an_orbit_is_three_forward_passes(svd):
    """Backward costs two. A real forward pass is counted here, without data the work of both."""
    cond = Conditioning(torch.randn(1, *LATENTS[1:]), torch.randn(1, 1, 32), torch.rand(1, 3))
    latents = torch.randn(1, *LATENTS)
    with torch.no_grad(), Counter([]) as forward:
        denoising_loss(svd.unet, latents, cond, torch.ones(1), torch.randn_like(latents))
    unet = copy.deepcopy(svd.unet).requires_grad_(True)
    assert tflop_per_orbit(unet, LATENTS) * 1e12 == pytest.approx(3 * forward.flop, rel=0.02)


def test_what_is_counted_trains_what_the_unet_trains_and_computes_nothing_again(svd, monkeypatch):
    counted = []
    monkeypatch.setattr(
        "training.gauge.count_training", lambda unet, *_: counted.append(unet) or Count(0, 0, 5 * 10**12)
    )
    unet = copy.deepcopy(svd.unet)
    choose_trainable(unet, ModelSettings(base="tiny_svd", train="lora"))
    checkpoint_blocks(unet)
    assert tflop_per_orbit(unet, LATENTS) == 5
    weights = [
        {name: (weight.shape, weight.requires_grad) for name, weight in each.named_parameters()}
        for each in (counted[0], unet)
    ]
    assert weights[0] == weights[1] and 0 < sum(trained for _, trained in weights[0].values()) < len(weights[0])
    assert not any("forward" in vars(module) for module in counted[0].modules())


def test_work_is_counted_on_the_first_rank_of_gpus_alone(svd, monkeypatch):
    monkeypatch.setattr("training.gauge.tflop_per_orbit", lambda unet, latents: 0.5)
    for kind, first, expected in (("cuda", True, 0.5), ("cuda", False, None), ("cpu", True, None)):
        accelerator = SimpleNamespace(device=torch.device(kind), is_main_process=first)
        assert make_gauge(svd.unet, LATENTS, accelerator).tflop_per_orbit == expected


def test_speed_is_divided_by_the_devices_and_memory_is_the_highest_of_all_ranks(monkeypatch):
    window = Window(samples=[(1.0, 0.0)] * 12, grad_norms=[1.0, 1.0], seconds=2.0)
    accelerator = launched_accelerator()
    peaks = [
        {"peak_memory_gib": 3.0, "peak_memory_reserved_gib": 4.0},
        {"peak_memory_gib": 2.0, "peak_memory_reserved_gib": 5.0},
    ]
    monkeypatch.setattr("training.gauge.gather_objects", lambda mine: peaks)
    monkeypatch.setattr(type(accelerator), "num_processes", 2)
    expected = {"orbits_per_s_per_device": 3.0, "peak_memory_gib": 3.0, "peak_memory_reserved_gib": 5.0}
    assert Gauge(accelerator, None).read(window) == expected
    assert Gauge(accelerator, 100.0).read(window) == expected | {"tflop_per_s_per_device": 300.0}
