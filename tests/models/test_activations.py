"""What is counted without data is what real tensors take."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.activations import Counter, cuda_autocast
from models.blank import blank_svd
from models.checkpointing import checkpoint_blocks
from models.svd import CONFIGS, Base, load_scheduler
from models.trainable import count_parameters
from tests.helpers.counting import counted, saved_bytes
from utils.schemas import ModelSettings

SVD = ModelSettings(base="stabilityai/stable-video-diffusion-img2vid-xt")
GIB = 2**30


def test_the_configs_that_are_shipped_are_those_of_the_published_sizes():
    """In millions: the UNet and CLIP ViT-H as published, the VAE with its temporal decoder."""
    with torch.device("meta"):
        unet, encoders = blank_svd(Base(CONFIGS / "unet", CONFIGS, None), SVD)
    parts = (unet, encoders.vae, encoders.image_encoder)
    assert [round(count_parameters(part)[1] / 1e6, 1) for part in parts] == [1524.6, 97.7, 632.1]
    scheduler = load_scheduler(CONFIGS).config
    assert (scheduler.sigma_min, scheduler.sigma_max) == (0.002, 700.0)


def test_whole_blocks_keep_less_than_a_quarter_of_what_diffusers_own_checkpointing_keeps():
    """The full UNet at 64 px in bf16, without data."""
    kept = []
    for checkpoint in (checkpoint_blocks, lambda unet: unet.enable_gradient_checkpointing()):
        with torch.device("meta"):
            unet = blank_svd(Base(CONFIGS / "unet", CONFIGS, None), SVD)[0].bfloat16().train()
        checkpoint(unet)
        kept.append(saved_bytes(unet.to("meta")))
    blocks, diffusers = kept
    assert 0 < blocks < diffusers / 4


@pytest.mark.slow
def test_the_real_unet_at_576_px_is_the_known_count():
    """54.8 GiB were counted from the saved tensors, and 105 TFLOP with attention by hand (105 M a parameter and orbit)."""
    count = counted(SVD, lambda unet: None, "bf16", 576)
    assert count.kept / GIB == pytest.approx(54.8, rel=0.05)
    assert count.flop / 1e12 == pytest.approx(105, rel=0.02)


@pytest.mark.parametrize(
    ("checkpointed", "precision"),
    [pytest.param(False, "fp32", marks=pytest.mark.slow), (True, "fp32"), (False, "autocast")],
)
def test_what_is_counted_is_within_a_tenth_of_what_a_real_forward_pass_saves(checkpointed, precision, svd):
    checkpoint = checkpoint_blocks if checkpointed else lambda unet: None
    expected = counted(ModelSettings(base="tiny_svd"), checkpoint, precision, 64).kept
    unet = copy.deepcopy(svd.unet).train()
    checkpoint(unet)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"), cuda_autocast():
        assert saved_bytes(unet) == pytest.approx(expected, rel=0.1)


def test_operations_and_the_peak_of_a_small_network_are_those_of_its_arithmetic():
    layer = nn.Linear(8, 16, bias=False)
    query = torch.randn(2, 4, 32, 8)
    with Counter([layer]) as counter:
        F.scaled_dot_product_attention(query, query, query)
        attention = counter.flop
        made = layer(torch.ones(5, 8))
        assert counter.live == 4 * (5 * 8 + 5 * 16)
        del made
    assert attention == 2 * 2 * (2 * 4 * 32 * 32 * 8)
    assert counter.flop - attention == 2 * 5 * 8 * 16
    assert counter.live == 0 and counter.peak >= 4 * (5 * 8 + 5 * 16)
