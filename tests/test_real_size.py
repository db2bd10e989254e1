"""The full 1.52 B UNet on a CPU, so that nothing depends on tiny shapes. Minutes and gigabytes: `make test-slow`."""

import json
import resource
import shutil

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from safetensors import safe_open
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from models.checkpointing import checkpoint_blocks
from models.conditioning import Conditioning, added_time_ids
from models.objective import denoising_loss, draw
from models.svd import SVD
from models.trainable import choose_trainable
from tests.helpers.counting import counted, saved_bytes
from tests.helpers.launch import accelerate_launch
from training.checkpoint import checkpoints
from utils.schemas import ModelSettings, NoiseSettings

pytestmark = pytest.mark.slow
LATENT, VIEW = (21, 4, 8, 8), (3, 64, 64)


def full_unet(dtype: torch.dtype) -> UNetSpatioTemporalConditionModel:
    """Random weights of the real architecture, made in `dtype`."""
    torch.set_default_dtype(dtype)
    try:
        return UNetSpatioTemporalConditionModel(num_frames=21)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_real_unet_trains_and_is_saved_under_zero_2_with_its_temporal_weights(small_base, tmp_path):
    """One process, the launch file of one GPU: two steps, with a checkpoint and a resume between.

    With SGD it peaks at 19.6 GiB; Adam's two states of 2.6 GB each would not fit in 24 GiB.
    """
    base = tmp_path / "base"
    shutil.copytree(small_base, base, ignore=shutil.ignore_patterns("unet", "image_encoder"))
    clip = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=32,
        projection_dim=1024,
    )
    CLIPVisionModelWithProjection(clip).save_pretrained(base / "image_encoder")
    torch.manual_seed(0)
    unet = full_unet(torch.bfloat16)
    choose_trainable(unet, ModelSettings(base="tiny_svd", train="temporal"))
    unet.save_pretrained(base / "unet")
    del unet
    words = (
        f"model.base={base}", f"run.dir={tmp_path}", "run.name=r", "run.tracker=none", "model.train=temporal",
        "model.gradient_checkpointing=true", "data.num_frames=7", "data.size_px=64", "data.num_workers=0", "optim.name=sgd",
        "train.batch_size=1", "train.log_every_steps=1", "validation.every_steps=0",
    )  # fmt: skip
    launch = (
        "--config_file",
        "accelerate_config/deepspeed_zero_2_one_gpu.yaml",
        "--main_process_port",
        "0",
        "main.py",
        "train",
    )
    for max_steps in (1, 2):
        start = (*launch, "train_config/tiny_cpu.yaml", *words, f"train.max_steps={max_steps}")
        answer = accelerate_launch(*start, timeout=1500)
        assert answer.returncode == 0, answer.stdout[-4000:]
    assert "resumed from" in answer.stdout
    print(
        [
            line["train/peak_memory_gib"]
            for line in map(json.loads, (tmp_path / "r/metrics.jsonl").read_text().splitlines())
        ]
    )
    last = checkpoints(tmp_path / "r")[-1]
    with safe_open(last / "unet/diffusion_pytorch_model.safetensors", "pt") as file:
        assert file.get_tensor("conv_in.weight").dtype == torch.float32 and len(file.keys()) > 1000


def test_the_objective_of_the_real_unet_goes_forward_and_backward():
    torch.manual_seed(0)
    unet = full_unet(torch.bfloat16).train()
    checkpoint_blocks(unet)
    draws = draw(0, [0], NoiseSettings(), LATENT, VIEW)
    latents = torch.randn(1, *LATENT)
    ids = added_time_ids(
        ("fps_id", "elevation_deg", "noise_aug_strength"), torch.tensor([10.0]), draws.noise_aug_strength
    )
    cond = Conditioning(torch.randn(1, 4, 8, 8), torch.randn(1, 1, 1024), ids)
    loss = denoising_loss(unet, latents, cond, draws.sigma, draws.noise)
    assert loss.dtype == torch.float32 and loss.isfinite().all() and 0.1 < loss.item() < 20
    loss.mean().backward()
    missing = [name for name, parameter in unet.named_parameters() if parameter.grad is None]
    assert not missing
    assert all(parameter.grad.isfinite().all() for parameter in unet.parameters())
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


@pytest.mark.parametrize("checkpoint", [checkpoint_blocks, lambda unet: None], ids=["blocks", "nothing"])
def test_what_check_counts_of_the_real_unet_is_within_a_tenth_of_what_it_saves(checkpoint):
    expected = counted(ModelSettings(base=SVD[0]), checkpoint, "bf16", 64).kept
    unet = full_unet(torch.bfloat16).train()
    checkpoint(unet)
    saved = saved_bytes(unet)
    print(f"counted {expected / 2**20:.2f} MiB, saved {saved / 2**20:.2f} MiB")
    assert saved == pytest.approx(expected, rel=0.1)
