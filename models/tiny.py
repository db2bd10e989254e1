"""A small SVD: the classes of the real one, in sizes that train on a CPU. `main.py tiny_base` pretrains it."""

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

EMBED_DIM = 32  # of CLIP's embedding
LATENT_CHANNELS = 8  # SVD has 4; at 64 px a view has few latents, and four channels of them hold too little


def tiny_unet() -> UNetSpatioTemporalConditionModel:
    return UNetSpatioTemporalConditionModel(
        sample_size=8,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 64),
        num_attention_heads=(2, 4),
        cross_attention_dim=EMBED_DIM,
        layers_per_block=1,
        num_frames=21,
    )


def tiny_vae() -> AutoencoderKLTemporalDecoder:
    """The classes normalise in 32 groups of channels, here of two each, and what is normalised loses its mean and scale.

    So the last layers before the closing norms of encoder and decoder begin with large biases, of opposite signs within a
    group. They give a group its mean and scale, and colours pass.
    """
    widths = (64, 64, 64, 64)
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        block_out_channels=widths,
        latent_channels=LATENT_CHANNELS,
        sample_size=64,
        scaling_factor=1.0,
    )
    for last in (vae.encoder.mid_block.resnets[-1], vae.decoder.up_blocks[-1].resnets[-1].spatial_res_block):
        last.conv2.bias.data = torch.tensor([3.0, -3.0]).repeat(widths[0] // 2)
    return vae


def tiny_clip() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            patch_size=32,
            projection_dim=EMBED_DIM,
        )
    )


def svd_scheduler() -> EulerDiscreteScheduler:
    """Return a scheduler with the settings of SVD-XT's repository."""
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
