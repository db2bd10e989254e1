"""A base smaller than tiny_svd, with random weights and SVD's four latent channels, for tests of what training does with any."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from models.tiny import tiny_pipeline
from tests.helpers.launch import ROOT

TINY_SVD = ROOT / "tiny_svd"
UNET = {
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal",),
    "up_block_types": ("CrossAttnUpBlockSpatioTemporal",),
    "num_attention_heads": (2,),
    "block_out_channels": (32,),
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 3 * 32,
}
VAE = {"latent_channels": 4, "block_out_channels": (32,) * 4}
CLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def small_parts() -> tuple[
    UNetSpatioTemporalConditionModel, AutoencoderKLTemporalDecoder, CLIPVisionModelWithProjection
]:
    """Return UNet, VAE and CLIP, with the same weights every time: 0.50 M, 0.41 M and 0.12 M parameters, on torch's default device.

    The UNet has each kind of block, and one level of them.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet, vae = (
            cls.from_config(cls.load_config(TINY_SVD, subfolder=part), **smaller)
            for cls, part, smaller in (
                (UNetSpatioTemporalConditionModel, "unet", UNET),
                (AutoencoderKLTemporalDecoder, "vae", VAE),
            )
        )
        clip = CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(TINY_SVD / "image_encoder", **CLIP))
    return unet, vae, clip


def write_small_base(folder: Path) -> None:
    """Write it to `folder`, in the diffusers layout."""
    unet, vae, clip = small_parts()
    tiny_pipeline(vae, clip, unet).save_pretrained(folder)
