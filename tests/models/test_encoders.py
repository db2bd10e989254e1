"""What VAE and CLIP compute in: `model.encoder_dtype`, and TF32."""

import copy
import json
import shutil

import pytest
import torch

from commands.train import encode
from dataset.views import OrbitBatch
from models.encoders import ENCODER_DTYPES, tf32_matmuls
from training.checkpoint import META, checkpoints
from training.launch import launched_accelerator
from training.saved_model import find_saved_model, load_saved_model
from utils.schemas import NoiseSettings, SourceSettings

NOISE = NoiseSettings(cond_dropout=0)


def encoded(encoders, views):
    orbits = OrbitBatch(views, torch.tensor([10.0]), n=[6], places=["a:1"])
    return encode(orbits, encoders, 0, NOISE, torch.device("cpu"))


def relative_error(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("name", "limit"), [("bf16", 6e-2), ("fp16", 8e-3)])
def test_encoding_in_half_precision_is_near_fp32_and_leaves_all_random_numbers_and_ids(name, limit, svd, orbit_views):
    half = copy.deepcopy(svd.encoders).computing_in(ENCODER_DTYPES[name])
    views = orbit_views[:, :2, :, 16:48, 16:48]
    expected_latents, expected, expected_draws = encoded(svd.encoders, views)
    latents, cond, draws = encoded(half, views)
    pairs = {
        "latents": (latents, expected_latents),
        "cond_latents": (cond.latents, expected.latents),
        "image_embeds": (cond.image_embeds, expected.image_embeds),
    }
    for what, (value, reference) in pairs.items():
        assert value.dtype == torch.float32
        assert 0 < relative_error(value, reference) < limit, (what, relative_error(value, reference))
    assert torch.equal(cond.added_time_ids, expected.added_time_ids)
    assert vars(draws).keys() == vars(expected_draws).keys()
    for what, value in vars(draws).items():
        assert torch.equal(value, getattr(expected_draws, what)) and value.dtype in (torch.float32, torch.bool)


def test_the_decoder_stays_fp32_whatever_the_encoders_compute_in(svd, orbit_pixels):
    latents = svd.encoders.latents(orbit_pixels[:, :3])[0]
    half = copy.deepcopy(svd.encoders).computing_in(torch.bfloat16)
    assert torch.equal(half.decode(latents, 3), svd.encoders.decode(latents, 3))


def test_fp32_matmuls_are_tf32_within_the_encoders_and_as_before_outside(svd, orbit_views):
    encoders = copy.deepcopy(svd.encoders)
    matmul = torch.backends.cuda.matmul
    seen = []
    for module in (encoders.vae.encoder, encoders.vae.decoder, encoders.image_encoder):
        module.register_forward_hook(lambda *_: seen.append(matmul.fp32_precision))
    before = matmul.fp32_precision
    latents, _, _ = encoded(encoders, orbit_views[:, :8])
    encoders.decode(latents[0, :2], 2)
    assert set(seen) == {"tf32"} and len(seen) == 5  # 8 views by 7, the input view twice, two views back
    assert matmul.fp32_precision == before != "tf32"
    with pytest.raises(ZeroDivisionError), tf32_matmuls():
        _ = 1 / 0
    assert matmul.fp32_precision == before


def test_a_model_is_sampled_with_fp32_encoders_whatever_it_was_trained_with(trained_run, tmp_path):
    checkpoint = shutil.copytree(checkpoints(trained_run)[-1], tmp_path / "step_0000001")
    meta = json.loads((checkpoint / META).read_text())
    assert meta["config"]["model"]["encoder_dtype"] == "fp32"
    meta["config"]["model"]["encoder_dtype"] = "bf16"
    (checkpoint / META).write_text(json.dumps(meta))
    saved = find_saved_model(SourceSettings(checkpoint=str(checkpoint)))
    assert saved.model.encoder_dtype == "bf16"
    encoders = load_saved_model(saved, launched_accelerator()).encoders
    assert {weight.dtype for part in (encoders.vae, encoders.image_encoder) for weight in part.parameters()} == {
        torch.float32
    }
