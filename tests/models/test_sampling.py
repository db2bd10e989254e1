"""Our sampler equals stock `StableVideoDiffusionPipeline` on the same weights, image and noise."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from PIL import Image

from models.conditioning import Conditioning
from models.edm import denoise
from models.sampling import karras_sigmas, orbit_guidance, sample_latents
from models.svd import save_unet

STRENGTH = 0.05
ELEVATION = 17.0
FRAMES = 6
STEPS = 5


@pytest.fixture(scope="module")
def pipeline(svd, tmp_path_factory):
    """Have stock diffusers load the base's folder with a UNet that we saved. No code of ours takes part."""
    import shutil

    folder = tmp_path_factory.mktemp("stock") / "base"
    shutil.copytree("tiny_svd", folder, ignore=shutil.ignore_patterns("unet"))
    save_unet(svd.unet, svd.encoders.layout, svd.unet.state_dict(), folder / "unet")
    pipeline = StableVideoDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def image():
    """Return an image at the target size. The pipeline would resize another by Lanczos, which is not compared here."""
    y, x = np.mgrid[:64, :64]
    return Image.fromarray(np.stack([4 * x, 4 * y, 128 + 60 * np.sin(x / 5)], axis=-1).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def view(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def condition(svd, view, random):
    noise = torch.randn(view.shape, generator=random)
    return svd.encoders.condition(view, torch.tensor([ELEVATION]), torch.tensor([STRENGTH]), noise)


def test_sigmas_are_those_of_svds_scheduler():
    scheduler = EulerDiscreteScheduler.from_pretrained("tiny_svd", subfolder="scheduler")
    for steps in (2, 25, 50):
        scheduler.set_timesteps(steps)
        torch.testing.assert_close(karras_sigmas(steps, 0.002, 700.0), scheduler.sigmas, rtol=1e-5, atol=1e-7)


def test_clip_embeddings_are_the_pipelines(svd, pipeline, image, view):
    expected = pipeline._encode_image(image, "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(svd.encoders.image_embeds(view), expected, atol=1e-5, rtol=1e-5)


def test_conditioning_latents_are_the_pipelines_and_not_scaled(svd, pipeline, image, view, random):
    noise = torch.randn(view.shape, generator=random)
    cond = svd.encoders.condition(view, torch.tensor([ELEVATION]), torch.tensor([STRENGTH]), noise)
    noised = pipeline.video_processor.preprocess(image, 64, 64) + STRENGTH * noise
    torch.testing.assert_close(cond.latents, pipeline._encode_vae_image(noised, "cpu", 1, False), atol=1e-4, rtol=1e-5)
    scaled = svd.encoders.latents((view + STRENGTH * noise)[:, None])[:, 0]
    torch.testing.assert_close(scaled, cond.latents * svd.encoders.vae.config.scaling_factor)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@torch.no_grad()
def test_our_sampler_is_the_stock_pipeline_driven_with_motion_bucket_id_as_elevation(
    svd, pipeline, image, view, guidance
):
    stock = {
        "height": 64, "width": 64, "num_frames": FRAMES, "num_inference_steps": STEPS, "decode_chunk_size": 4,
        "min_guidance_scale": guidance, "max_guidance_scale": guidance, "fps": 7, "motion_bucket_id": ELEVATION,
        "noise_aug_strength": STRENGTH,
    }  # fmt: skip
    expected = pipeline(image, generator=torch.Generator().manual_seed(3), output_type="latent", **stock).frames
    random = torch.Generator().manual_seed(
        3
    )  # as the pipeline draws: first the noise of the image, then that of the latents
    cond = condition(svd, view, random)
    noise = torch.randn(1, *svd.encoders.latent_shape(FRAMES, 64), generator=random)
    latents = sample_latents(
        svd.unet.eval(),
        cond,
        noise,
        karras_sigmas(STEPS, *svd.sigma_range),
        torch.full((FRAMES,), guidance),
    )
    assert expected.abs().max() > 0.1
    assert (latents - expected).abs().max() < 1e-4
    frames = pipeline(image, generator=torch.Generator().manual_seed(3), output_type="pt", **stock).frames[0]
    assert (svd.encoders.decode(latents[0], 4) / 2 + 0.5 - frames).abs().max() < 1e-4


@torch.no_grad()
def test_guidance_per_view_moves_each_view_by_its_own_scale(svd, view, random):
    """This holds since one Euler step to sigma 0 returns the guided estimate itself."""
    cond = condition(svd, view, random)
    noise = torch.randn(1, *svd.encoders.latent_shape(3, 64), generator=random)
    sigmas = torch.tensor([2.0, 0.0])
    sigma = sigmas[:1]
    start = noise * 5**0.5
    with_ = denoise(svd.unet, start, sigma, cond)
    without = denoise(svd.unet, start, sigma, type(cond)(cond.latents * 0, cond.image_embeds * 0, cond.added_time_ids))
    scales = torch.tensor([1.0, 2.5, 1.5])
    expected = without + scales.view(1, 3, 1, 1, 1) * (with_ - without)
    torch.testing.assert_close(sample_latents(svd.unet, cond, noise, sigmas, scales), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("guidance", "sizes"), [(1.0, [2, 1]), (2.0, [2, 2, 2])])
def test_more_orbits_than_attention_takes_are_denoised_in_parts_and_come_out_the_same(
    svd, view, random, monkeypatch, guidance, sizes
):
    cond = Conditioning.cat([condition(svd, view * shade, random) for shade in (1.0, 0.5, -1.0)])
    noise = torch.randn(3, *svd.encoders.latent_shape(3, 64), generator=random)
    given = (cond, noise, torch.tensor([2.0, 0.0]), torch.full((3,), guidance))
    whole = sample_latents(svd.unet, *given)
    seen = []
    hook = svd.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    monkeypatch.setattr("models.sampling.MAX_SEQUENCES", 2 * 8 * 8 + 1)
    in_parts = sample_latents(svd.unet, *given)
    hook.remove()
    assert seen == sizes
    torch.testing.assert_close(in_parts, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_frames", [7, 20, 21])
def test_guidance_is_a_triangle_over_the_orbit(num_frames):
    guidance = orbit_guidance(num_frames, 1.0, 2.5)
    assert guidance[0] == 1.0 and guidance.max() <= 2.5 and guidance.shape == (num_frames,)
    torch.testing.assert_close(guidance[1:], guidance[1:].flip(0))
    behind = guidance.argmax()
    assert abs(behind * 360 / num_frames - 180) <= 180 / num_frames
    assert guidance[:behind].diff().gt(0).all()


def test_the_decoder_sees_chunks_of_the_given_size(svd, random):
    vae = copy.deepcopy(svd.encoders.vae)
    torch.nn.init.normal_(vae.decoder.time_conv_out.weight, std=0.1, generator=random)  # the tiny one mixes no frames
    encoders = replace(svd.encoders, vae=vae)
    latents = torch.randn(encoders.latent_shape(6, 64), generator=random)
    whole = encoders.decode(latents, 6)
    in_threes = encoders.decode(latents, 3)
    torch.testing.assert_close(in_threes[:3], encoders.decode(latents[:3], 3))
    assert (whole - in_threes).abs().max() > 1e-6, "the temporal decoder depends on the chunk"


def test_encoding_does_not_depend_on_the_chunk(svd, orbit_pixels):
    expected = replace(svd.encoders, encode_chunk=21).latents(orbit_pixels)
    torch.testing.assert_close(
        replace(svd.encoders, encode_chunk=5).latents(orbit_pixels), expected, atol=1e-4, rtol=1e-5
    )
