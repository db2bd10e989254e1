"""Image metrics of views in [0, 1], a number per view. Pure."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mse(views: Tensor, targets: Tensor) -> Tensor:
    """F 3 H W each -> F."""
    return (views - targets).square().mean(dim=(1, 2, 3))


def psnr(views: Tensor, targets: Tensor) -> Tensor:
    """F 3 H W each -> F, in dB; equal views give 100 instead of infinity."""
    return -10 * mse(views, targets).clamp_min(1e-10).log10()


def ssim(views: Tensor, targets: Tensor) -> Tensor:
    """F 3 H W each, at least 6 pixels a side -> F. Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5; borders reflect."""
    place = torch.arange(11, dtype=views.dtype, device=views.device) - 5
    gauss = (-(place**2) / (2 * 1.5**2)).exp()
    gauss = gauss / gauss.sum()
    kernel = (gauss[:, None] * gauss[None]).expand(views.shape[1], 1, 11, 11)

    def blur(x):
        return F.conv2d(F.pad(x, (5, 5, 5, 5), mode="reflect"), kernel, groups=x.shape[1])

    mean_x, mean_y = blur(views), blur(targets)
    var_x = (blur(views * views) - mean_x**2).clamp_min(0)
    var_y = (blur(targets * targets) - mean_y**2).clamp_min(0)
    covariance = blur(views * targets) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (
        (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    )
    return similarity.mean(dim=(1, 2, 3))
