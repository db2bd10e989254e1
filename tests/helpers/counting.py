"""Counting what a step keeps, without data and with it."""

import torch
from torch import nn

from models.activations import Count, count_training
from models.blank import blank_svd
from models.conditioning import Conditioning
from models.objective import denoising_loss
from models.svd import find_parts
from utils.schemas import ModelSettings


def counted(model: ModelSettings, checkpoint, precision: str, size_px: int) -> Count:
    """Count the training step of one orbit of 21 views, without data. `checkpoint` may change the UNet before."""
    with torch.device("meta"):
        unet, encoders = blank_svd(find_parts(model, config_only=True), model)
    checkpoint(unet)
    return count_training(unet, precision, 1, encoders.latent_shape(21, size_px))


def saved_bytes(unet: nn.Module) -> int:
    """The bytes of all tensors but weights that a forward pass at 64 px saves for the backward pass; on the meta device too."""
    weights = {weight.untyped_storage()._cdata for weight in unet.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage  # held, so that no address is used twice
        return tensor

    with next(unet.parameters()).device:
        latents = torch.randn(1, 21, unet.config.out_channels, 8, 8)
        embeds = torch.randn(1, 1, unet.config.cross_attention_dim)
        cond = Conditioning(latents[:, 0], embeds, torch.tensor([[6.0, 10.0, 0.02]]))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            denoising_loss(unet, latents, cond, torch.ones(1), torch.randn_like(latents))
    return sum(storage.nbytes() for storage in saved.values())
