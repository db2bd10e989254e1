"""LPIPS and CLIP similarity agree with their packages. Tests download no weights, so random ones stand in for them."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluation.metrics import psnr
from evaluation.perceptual import Unavailable, load_clip, load_lpips

CPU = torch.device("cpu")


@pytest.fixture
def squeeze_weights(tmp_path, monkeypatch):
    """Put a SqueezeNet into torch's cache, under the name to which torchvision would download it."""
    import torchvision

    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    name = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), folder / name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.fixture
def clip_folder(tmp_path):
    shutil.copytree("tiny_svd/image_encoder", tmp_path / "clip")
    shutil.copy("tiny_svd/feature_extractor/preprocessor_config.json", tmp_path / "clip")
    return str(tmp_path / "clip")


def test_lpips_is_the_packages_on_minus_one_to_one_and_zero_for_equal_views(squeeze_weights, random):
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchvision warns about how lpips asks for weights
        ours = load_lpips("squeeze", CPU)
        theirs = lpips.LPIPS(net="squeeze", verbose=False).eval()
    views = torch.rand(3, 3, 64, 64, generator=random)
    targets = torch.rand(3, 3, 64, 64, generator=random)
    with torch.no_grad():
        expected = theirs(views, targets, normalize=True).flatten()  # `normalize` is its switch for [0, 1]
    torch.testing.assert_close(ours(views, targets), expected)
    assert ours(views, views).abs().max() < 1e-6 and expected.min() > 1e-3


def test_clip_similarity_is_one_for_equal_views_and_falls_with_noise(clip_folder, random):
    clip = load_clip(clip_folder, CPU)
    views = torch.rand(2, 3, 48, 48, generator=random)
    noisy = (views + 0.8 * torch.randn(views.shape, generator=random)).clamp(0, 1)
    torch.testing.assert_close(clip(views, views), torch.ones(2))
    assert (clip(views, noisy) < clip(views, views) - 1e-4).all() and (psnr(views, noisy) < 20).all()


def test_clip_embeds_what_its_own_preprocessing_of_the_8_bit_picture_gives(clip_folder, random):
    """The views have another size than CLIP's input, so that the resize is tested too."""
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    pictures = [
        Image.fromarray(torch.randint(0, 256, (96, 96, 3), generator=random).byte().numpy()).resize((300, 300), 3)
        for _ in range(2)
    ]
    processor = CLIPImageProcessor.from_pretrained(clip_folder)
    network = CLIPVisionModelWithProjection.from_pretrained(clip_folder)
    with torch.no_grad():
        one, two = network(processor(pictures, return_tensors="pt").pixel_values).image_embeds
    views = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 for picture in pictures])
    found = load_clip(clip_folder, CPU)(views[:1], views[1:])
    torch.testing.assert_close(found, torch.cosine_similarity(one, two, dim=0)[None], atol=1e-5, rtol=1e-5)


def test_clip_weights_that_are_missing_are_not_made_up(clip_folder):
    weights = load_file(f"{clip_folder}/model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, f"{clip_folder}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Unavailable, match=r"lacks weights: visual_projection.weight"):
        load_clip(clip_folder, CPU)


def test_missing_weights_or_package_say_why(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", _no_network)
    with pytest.raises(Unavailable, match=r"squeeze's ImageNet weights .* no network here"):
        load_lpips("squeeze", CPU)
    with pytest.raises(Unavailable, match="'nobody/clip' cannot be loaded"):
        load_clip("nobody/clip", CPU)
    monkeypatch.setitem(__import__("sys").modules, "lpips", None)
    with pytest.raises(Unavailable, match="pip install lpips"):
        load_lpips("squeeze", CPU)


def _no_network(*_, **__):
    raise OSError("no network here")
