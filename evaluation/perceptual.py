"""Metrics of learned networks, in [0, 1] like evaluation/metrics.py: LPIPS, and the similarity of CLIP embeddings."""

import warnings

import torch
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from evaluation.metrics import Metric
from utils.errors import UserError, first_line


class Unavailable(UserError):
    """A metric whose package or weights cannot be had here; its text says why."""


def load_lpips(net: str, device: torch.device) -> Metric:
    """Return LPIPS 0.1 of the `lpips` package (Zhang et al. 2018), which is lower for nearer views. Raises Unavailable."""
    try:
        import lpips
    except ImportError:
        raise Unavailable("the package is missing: pip install lpips") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torchvision warns about the way lpips loads its weights
            network = lpips.LPIPS(net=net, verbose=False).to(device).eval()
    except (OSError, RuntimeError) as error:
        raise Unavailable(f"{net}'s ImageNet weights are not in torch's cache, and cannot be loaded: {error}") from None

    @torch.no_grad()
    def distance(views: Tensor, targets: Tensor) -> Tensor:
        # LPIPS expects [-1, 1]. It gets a view at a time, since VGG keeps every layer.
        pairs = zip(views * 2 - 1, targets * 2 - 1)
        return torch.cat([network(view[None], target[None]).flatten() for view, target in pairs])

    return distance


def load_clip(name: str, device: torch.device) -> Metric:
    """Return the cosine of the CLIP embeddings of a view and its target, which is higher for nearer views. Raises Unavailable."""
    try:
        processor = CLIPImageProcessor.from_pretrained(name)
        network, info = CLIPVisionModelWithProjection.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise Unavailable(f"'{name}' cannot be loaded: {first_line(error)}") from None
    if missing := [*info["missing_keys"], *info["mismatched_keys"]]:  # they would be random
        raise Unavailable(f"'{name}' lacks weights: {', '.join(map(str, missing))[:200]}")
    network = network.to(device).eval()

    @torch.no_grad()
    def embed(views: Tensor) -> Tensor:
        pictures = list((views * 255).round().byte().cpu())  # in 8 bits, as if they came from files
        pixels = processor(images=pictures, return_tensors="pt").pixel_values
        return network(pixels.to(device)).image_embeds

    return lambda views, targets: torch.cosine_similarity(embed(views), embed(targets))
