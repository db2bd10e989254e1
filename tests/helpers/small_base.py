"""A base smaller than tiny_svd, with random weights and SVD's four latent channels, for tests of what training does with any."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder, StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from models.tiny import svd_scheduler


def write_small_base(folder: Path) -> None:
    """Write it to `folder`, in the diffusers layout: 0.64 M parameters in the UNet, 0.40 M in the VAE."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNetSpatioTemporalConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            block_out_channels=(32, 32),
            num_attention_heads=(2, 2),
            cross_attention_dim=32,
            addition_time_embed_dim=32,
            projection_class_embeddings_input_dim=3 * 32,
            layers_per_block=1,
            num_frames=21,
        )
        vae = AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 4, block_out_channels=(32,) * 4, sample_size=64
        )
        clip = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                patch_size=32,
                projection_dim=32,
            )
        )
    parts = {"unet": unet, "vae": vae, "image_encoder": clip}
    pipeline = StableVideoDiffusionPipeline(**parts, scheduler=svd_scheduler(), feature_extractor=CLIPImageProcessor())
    pipeline.save_pretrained(folder)
