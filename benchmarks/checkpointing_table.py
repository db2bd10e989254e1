"""What do ways of activation checkpointing keep, and compute again? `python benchmarks/checkpointing_table.py`, some minutes.

It prints the table of docs/engines.md: the real UNet at 576 px, batch 1, in bf16, counted without data. Only whole blocks are
offered (`model.gradient_checkpointing`); the others are here to compare with.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from diffusers.models.attention import TemporalBasicTransformerBlock
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

sys.path.insert(0, str(Path(__file__).parent.parent))

from models.checkpointing import BLOCKS, checkpoint_blocks
from models.svd import SVD
from tests.helpers.counting import counted
from utils.schemas import ModelSettings

SIZE_PX = 576
ATTENTION = [  # whichever kernel a device takes
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
]


def diffusers_own(unet) -> None:
    unet.enable_gradient_checkpointing()


def diffusers_own_and_temporal_blocks(unet) -> None:
    unet.enable_gradient_checkpointing()
    recompute(unet, (TemporalBasicTransformerBlock,))


def blocks_but_attention(unet) -> None:
    recompute(unet, BLOCKS, context_fn=partial(create_selective_checkpoint_contexts, ATTENTION))


def recompute(unet, kinds: tuple[type, ...], **how) -> None:
    for module in unet.modules():
        if isinstance(module, kinds):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False, **how)


WAYS = {
    "everything": lambda unet: None,
    "diffusers' `enable_gradient_checkpointing()`": diffusers_own,
    "the same, and each `TemporalBasicTransformerBlock`": diffusers_own_and_temporal_blocks,
    "whole blocks, and the outputs of attention": blocks_but_attention,
    "**whole blocks**": checkpoint_blocks,
}


def main() -> None:
    print("| kept for the backward pass | GiB | the most in it | TFLOP per orbit |")
    print("|---|--:|--:|--:|")
    model = ModelSettings(base=SVD[0])
    for way, apply in WAYS.items():
        count = counted(model, apply, "bf16", SIZE_PX)
        print(f"| {way} | {count.kept / 2**30:.1f} | {count.peak / 2**30:.1f} | {count.flop / 1e12:.0f} |", flush=True)


if __name__ == "__main__":
    main()
