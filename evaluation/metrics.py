"""Metrics, which give a number for each view, and their means. Every function is pure.

Views are F 3 H W. A metric (`mse`, `psnr`, `ssim`, and those in perceptual.py) takes them in [0, 1]; the functions below take
them as the model gives them, in [-1, 1].
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Metric = Callable[[Tensor, Tensor], Tensor]  # views and targets, each F 3 H W in [0, 1] -> F


def mse(views: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of each view (F). Both are F 3 H W."""
    return (views - targets).square().mean(dim=(1, 2, 3))


def psnr(views: Tensor, targets: Tensor) -> Tensor:
    """Return the PSNR of each view (F) in dB. Both are F 3 H W. Equal views give 100 instead of infinity."""
    return -10 * mse(views, targets).clamp_min(1e-10).log10()


def ssim(views: Tensor, targets: Tensor) -> Tensor:
    """Return the SSIM of each view (F). Both are F 3 H W with sides of at least 6 pixels.

    It is that of Wang et al. 2004: the window is a Gaussian of 11 pixels with sigma 1.5, and borders are reflected.
    """
    place = torch.arange(11, dtype=views.dtype, device=views.device) - 5
    gauss = (-(place**2) / (2 * 1.5**2)).exp()
    gauss = gauss / gauss.sum()
    kernel = (gauss[:, None] * gauss[None]).expand(views.shape[1], 1, 11, 11)

    def blur(x):
        return F.conv2d(F.pad(x, (5, 5, 5, 5), mode="reflect"), kernel, groups=x.shape[1])

    mean_x = blur(views)
    mean_y = blur(targets)
    var_x = (blur(views * views) - mean_x**2).clamp_min(0)
    var_y = (blur(targets * targets) - mean_y**2).clamp_min(0)
    covariance = blur(views * targets) - mean_x * mean_y
    c1 = 0.01**2
    c2 = 0.03**2
    similarity = (
        (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    )
    return similarity.mean(dim=(1, 2, 3))


def per_view(
    candidates: dict[str, Tensor], targets: Tensor, metrics: dict[str, Metric]
) -> dict[str, dict[str, Tensor]]:
    """Measure every candidate (F 3 H W in [-1, 1]) with every metric against `targets`: {candidate: {metric: F}}."""
    truth = (targets + 1) / 2
    return {
        row: {name: metric((views + 1) / 2, truth) for name, metric in metrics.items()}
        for row, views in candidates.items()
    }


def over_views(values: Tensor) -> dict[str, float]:
    """Return the mean of a metric (F) over the novel views, which are all but the first, and over all views."""
    return {"novel": values[1:].mean().item(), "all": values.mean().item()}


def orbit_metrics(views: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the mean PSNR and SSIM of sampled views (F 3 H W in [-1, 1]), and those of the input view repeated."""
    rows = per_view({"": views, "input_repeated_": input_repeated(targets)}, targets, {"psnr": psnr, "ssim": ssim})
    return {
        f"{row}{name}_{which}": mean
        for row, values_by_metric in rows.items()
        for name, values in values_by_metric.items()
        for which, mean in over_views(values).items()
    }


def input_repeated(targets: Tensor) -> Tensor:
    """Return the first view (of F 3 H W) F times. A model that ignores the camera would draw that."""
    return targets[:1].expand_as(targets)
