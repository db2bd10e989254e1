"""`main.py tiny_base`: a tiny random SVD in the diffusers layout, of the same classes as the real one."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from utils.config import TinyBaseConfig

EMBED_DIM = 32


def tiny_base(cfg: TinyBaseConfig) -> None:
    torch.manual_seed(cfg.tiny_base.seed)
    folder = Path(cfg.tiny_base.out)
    pipeline = StableVideoDiffusionPipeline(
        vae=tiny_vae(),
        image_encoder=tiny_clip(),
        unet=tiny_unet(),
        scheduler=svd_scheduler(),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.save_pretrained(folder)
    millions = {
        name: sum(p.numel() for p in getattr(pipeline, name).parameters()) / 1e6
        for name in ("unet", "vae", "image_encoder")
    }
    print(f"{folder}: " + ", ".join(f"{name} {size:.2f} M" for name, size in millions.items()) + " parameters")


def tiny_unet() -> UNetSpatioTemporalConditionModel:
    return UNetSpatioTemporalConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 64),
        num_attention_heads=(2, 4),
        cross_attention_dim=EMBED_DIM,
        layers_per_block=1,
        num_frames=21,
    )


def tiny_vae() -> AutoencoderKLTemporalDecoder:
    widths = (32, 32, 32, 32)
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        block_out_channels=widths,
        sample_size=64,
        scaling_factor=0.18215,
    )


def tiny_clip() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            patch_size=32,
            projection_dim=EMBED_DIM,
        )
    )


def svd_scheduler() -> EulerDiscreteScheduler:
    """The scheduler of SVD-XT's repository."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        sigma_min=0.002,
        sigma_max=700.0,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
