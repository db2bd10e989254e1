"""What only a GPU can show: that it computes what the CPU does, and resumes. `make test-gpu`; nobody has run it yet."""

import copy
import json
import shutil

import pytest
import torch
from accelerate.state import AcceleratorState

import main
from commands.train import encode, train
from dataset.views import OrbitBatch
from models.objective import denoising_loss
from tests.helpers.runs import metrics, update_error
from training.checkpoint import checkpoints
from utils.schemas import NoiseSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def strict_fp32(monkeypatch):
    """No TF32, which convolutions use by default: what is left is the order of sums."""
    for backend in (torch.backends.cudnn.conv, torch.backends.cuda.matmul):
        monkeypatch.setattr(backend, "fp32_precision", "ieee")


def loss_and_gradient(svd, views, device, autocast=False):
    """Of one training step, whose latents and conditioning the CPU has encoded."""
    orbits = OrbitBatch(views, torch.tensor([10.0]), n=[6], places=["a:1"])
    latents, cond, draws = encode(orbits, svd.encoders, 0, NoiseSettings(cond_dropout=0), CPU)
    unet = copy.deepcopy(svd.unet).requires_grad_(True).train().to(device)
    cond = type(cond)(*(value.to(device) for value in vars(cond).values()))
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        loss = denoising_loss(unet, latents.to(device), cond, draws.sigma.to(device), draws.noise.to(device)).mean()
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten().cpu() for weight in unet.parameters()])


@pytest.mark.parametrize(("autocast", "limit"), [(False, 1e-4), (True, 5e-2)], ids=["fp32", "bf16"])
def test_a_gpus_loss_and_gradient_are_the_cpus(autocast, limit, svd, orbit_views, strict_fp32):
    expected_loss, expected = loss_and_gradient(svd, orbit_views, CPU)
    loss, gradient = loss_and_gradient(svd, orbit_views, GPU, autocast)
    assert loss == pytest.approx(expected_loss, rel=limit)
    assert (gradient - expected).norm() < limit * expected.norm()


def test_a_gpus_latents_and_conditioning_are_the_cpus_to_tf32(svd, orbit_views):
    orbits = OrbitBatch(orbit_views, torch.tensor([10.0]), n=[6], places=["a:1"])
    noise = NoiseSettings(cond_dropout=0)
    expected_latents, expected, expected_draws = encode(orbits, svd.encoders, 0, noise, CPU)
    on_gpu = type(svd.encoders)(**copy.deepcopy(vars(svd.encoders))).to(GPU)
    latents, cond, draws = encode(orbits, on_gpu, 0, noise, GPU)
    assert torch.equal(draws.noise.cpu(), expected_draws.noise)
    assert torch.equal(cond.added_time_ids.cpu(), expected.added_time_ids)
    for value, reference in (
        (latents, expected_latents),
        (cond.latents, expected.latents),
        (cond.image_embeds, expected.image_embeds),
    ):
        assert (value.cpu() - reference).norm() < 1e-2 * reference.norm()


def test_a_resumed_run_on_a_gpu_is_the_uninterrupted_one(tiny_config, tmp_path):
    """To the rounding of sums whose order a GPU does not fix."""
    words = ("run.name=r", "train.max_steps=4", "train.save_every_steps=2", "optim.name=sgd", "train.keep_last=9")
    for name in ("whole", "halves"):
        train(tiny_config(*words, f"run.dir={tmp_path}/{name}"))
    shutil.rmtree(checkpoints(tmp_path / "halves/r")[-1])  # as if it had been killed before it saved step 4
    train(tiny_config(*words, f"run.dir={tmp_path}/halves"))
    for which in ("unet", "unet_ema"):
        assert update_error(tmp_path / "halves/r", tmp_path / "whole/r", which) < 1e-3
    for mine, other in zip(metrics(tmp_path / "halves/r"), metrics(tmp_path / "whole/r"), strict=True):
        assert mine == pytest.approx(other, rel=1e-3)


@pytest.fixture
def one_gpu_launch(monkeypatch):
    """As accelerate_config/one_gpu.yaml launches."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state()  # it would keep the precision that it was first made with
    yield
    AcceleratorState._reset_state()


@pytest.mark.parametrize("trained", ["lora", "temporal", "all"])
def test_a_step_takes_the_memory_that_is_predicted_within_15_percent(trained, tmp_path, one_gpu_launch):
    """The real architecture with random weights at 320 px, as `check` measures it: one process, in bf16 by autocast."""
    words = (
        "check",
        "train_config/gpu_16gb_lora.yaml",
        f"model.train={trained}",
        f"check.json={tmp_path}/numbers.json",
    )
    assert main.main(list(words)) == 0
    predicted = json.loads((tmp_path / "numbers.json").read_text())["total_gib"]
    free = torch.cuda.mem_get_info()[0] / 2**30
    if predicted * 1.15 > free:
        pytest.skip(f"{predicted:.1f} GiB are predicted, and may be 15 % more; {free:.1f} are free")
    torch.cuda.reset_peak_memory_stats()
    assert main.main([*words, "check.measure_steps=2"]) == 0
    found = json.loads((tmp_path / "numbers.json").read_text())
    assert found["measured_peak_gib"] == pytest.approx(found["tensors_gib"], rel=0.15)
