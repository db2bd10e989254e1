import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from evaluation.metrics import mse, psnr, ssim


@pytest.fixture
def pair(random):
    targets = torch.rand(3, 3, 40, 48, generator=random)
    return (targets + 0.1 * torch.randn(targets.shape, generator=random)).clamp(0, 1), targets


def test_psnr_agrees_with_torchmetrics(pair):
    expected = torch.stack([peak_signal_noise_ratio(v[None], t[None], data_range=1.0) for v, t in zip(*pair)])
    torch.testing.assert_close(psnr(*pair), expected)


def test_ssim_agrees_with_torchmetrics(pair):
    expected = structural_similarity_index_measure(*pair, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(*pair), expected, atol=1e-5, rtol=1e-5)


def test_equal_views_are_perfect_and_finite(pair):
    views, _ = pair
    assert mse(views, views).eq(0).all()
    assert torch.allclose(psnr(views, views), torch.tensor(100.0))
    torch.testing.assert_close(ssim(views, views), torch.ones(3))
