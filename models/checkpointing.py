"""Activation checkpointing: what a block of the UNet computes is computed again in the backward pass, instead of being kept."""

from collections.abc import Callable
from functools import partial

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

BLOCKS = (SpatioTemporalResBlock, TransformerSpatioTemporalModel)  # of the UNet: one checkpoint each


def checkpoint_blocks(unet: UNetSpatioTemporalConditionModel) -> None:
    """Keep only the inputs of each block for the backward pass. Names, weights and results stay the same, bit by bit.

    diffusers' own `enable_gradient_checkpointing` leaves the temporal blocks out, and keeps fifteen times as much.
    """
    for module in unet.modules():
        if isinstance(module, BLOCKS):
            block = partial(_recomputed_first, module.forward)
            # To stop early would skip the hooks in which ZeRO-3 gives the weights of the last modules back.
            module.forward = partial(checkpoint, block, use_reentrant=False, early_stop=False)


def _recomputed_first(forward: Callable, *args, **kwargs):
    return tree_map_only(Tensor, _RecomputeFirst.apply, forward(*args, **kwargs))


class _RecomputeFirst(torch.autograd.Function):
    """The last operation of a block, so the first of its backward pass, where reading what it saved computes the block again.

    Otherwise that would happen once ZeRO-3 has gathered the weights of the block's last module for its backward pass, and
    would give them back too early.
    """

    @staticmethod
    def forward(ctx, output: Tensor) -> Tensor:
        ctx.save_for_backward(output)
        return output.view_as(output)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        _ = ctx.saved_tensors
        return gradient
