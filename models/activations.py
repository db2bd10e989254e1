"""What a step holds in memory and computes, counted without either: the real modules run on tensors that have no data.

The modules that are given to the functions here are on the meta device, and stay as they are.
"""

import copy
import gc
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from models.conditioning import Conditioning
from models.edm import denoise
from models.encoders import Encoders
from models.objective import denoising_loss

aten = torch.ops.aten
# torch's counter knows the attention kernels of a GPU, and leaves the CPU's out.
FLOP = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(
        grad.shape, q.shape, k.shape, v.shape
    ),
}
# How the UNet computes: bf16 weights (DeepSpeed), fp32 weights under autocast (no engine, DDP), or fp32 throughout.
Precision = Literal["bf16", "autocast", "fp32"]


class Counter(TorchDispatchMode):
    """Counts the bytes of the tensors that are made within and still alive, their peak, and the operations computed."""

    def __init__(self, modules: Iterable[nn.Module]):
        super().__init__()
        self.live = 0
        self.peak = 0
        self.flop = 0
        held = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        self._known = {tensor.untyped_storage()._cdata for tensor in held}  # counted already, or weights

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if formula := FLOP.get(func._overloadpacket):
            self.flop += formula(*args, **kwargs, out_val=out)
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Within, the CPU's autocast, under which we count, computes the norms in fp32, as a GPU's does.

    The functions are exchanged themselves: a TorchFunctionMode is off while a backward pass computes blocks again.
    """
    plain = {name: getattr(F, name) for name in ("group_norm", "layer_norm")}

    def in_fp32(function):
        def norm(*args, **kwargs):
            if torch.is_autocast_enabled("cpu"):
                args, kwargs = tree_map_only(Tensor, Tensor.float, (args, kwargs))
            return function(*args, **kwargs)

        return norm

    try:
        for name, function in plain.items():
            setattr(F, name, in_fp32(function))
        yield
    finally:
        for name, function in plain.items():
            setattr(F, name, function)


@dataclass(frozen=True)
class Count:
    """Bytes beside those of weights and gradients, and operations: a multiplication with its addition is two."""

    kept: int  # by the forward pass, for the backward pass
    peak: int
    flop: int


def count_training(unet: nn.Module, precision: Precision, batch_size: int, latent_shape: tuple[int, ...]) -> Count:
    """Count the forward and backward pass of `batch_size` orbits, whose latents are `latent_shape` (F C h w)."""
    mode = FakeTensorMode()
    unet = _without_data(unet, mode, torch.bfloat16 if precision == "bf16" else torch.float32).train()
    for weight in unet.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))
    if precision == "autocast":
        unet.forward = torch.autocast("cpu", torch.bfloat16)(unet.forward)  # as accelerate does it
    with mode, Counter([unet]) as counter, cuda_autocast():
        latents = torch.randn(batch_size, *latent_shape)
        sigma = torch.rand(batch_size)
        losses = denoising_loss(unet, latents, _conditioning(unet, latents), sigma, torch.randn_like(latents))
        gc.collect()
        kept = counter.live
        losses.mean().backward()
    return Count(kept, counter.peak, counter.flop)


def count_encoding(encoders: Encoders, batch_size: int, num_views: int, size_px: int, cached: bool) -> Count:
    """Count what `commands.train.encode` does with `batch_size` orbits, of which `num_views` are read beside a cache, if any."""
    mode = FakeTensorMode()
    encoders = _encoders_without_data(encoders, mode)
    with mode, Counter([encoders.vae, encoders.image_encoder]) as counter:
        pixels = torch.rand(batch_size, num_views, 3, size_px, size_px)
        if not cached:
            encoders.modes(pixels)
            encoders.image_embeds(pixels[:, 0])
        if num_views:
            encoders.noised_mode(pixels[:, 0], torch.rand(batch_size), torch.randn_like(pixels[:, 0]))
    return Count(0, counter.peak, counter.flop)


@torch.no_grad()
def count_sampling(
    unet: nn.Module, encoders: Encoders, dtype: torch.dtype, latent_shape: tuple[int, ...], decode_chunk: int
) -> Count:
    """Count one guided step of sampling an orbit with a UNet in `dtype`, and its decoding."""
    mode = FakeTensorMode()
    unet = _without_data(unet, mode, dtype).eval()
    encoders = _encoders_without_data(encoders, mode)
    with mode, Counter([unet, encoders.vae]) as counter:
        latents = torch.randn(2, *latent_shape)
        denoise(unet, latents, torch.rand(2), _conditioning(unet, latents))
        encoders.decode(latents[0], decode_chunk)
    return Count(0, counter.peak, counter.flop)


def _without_data(module: nn.Module, mode: FakeTensorMode, dtype: torch.dtype | None = None) -> nn.Module:
    """Copy a module on the meta device to the CPU, where under `mode` its weights and buffers have no data."""
    copied = copy.deepcopy(module)
    with mode:
        for part in copied.modules():
            for name, weight in list(part.named_parameters(recurse=False)):
                empty = torch.empty(weight.shape, dtype=dtype or weight.dtype)
                part.register_parameter(name, nn.Parameter(empty, weight.requires_grad))
            for name, buffer in list(part.named_buffers(recurse=False)):
                setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return copied


def _encoders_without_data(encoders: Encoders, mode: FakeTensorMode) -> Encoders:
    vae, image_encoder = (_without_data(part, mode) for part in (encoders.vae, encoders.image_encoder))
    return replace(encoders, vae=vae, image_encoder=image_encoder)


def _conditioning(unet: nn.Module, latents: Tensor) -> Conditioning:
    batch_size = len(latents)
    num_ids = unet.config.projection_class_embeddings_input_dim // unet.config.addition_time_embed_dim
    embeds = torch.randn(batch_size, 1, unet.config.cross_attention_dim)
    return Conditioning(torch.randn_like(latents[:, 0]), embeds, torch.rand(batch_size, num_ids))
