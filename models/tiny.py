"""A small SVD: the classes of the real one, in sizes that train on a CPU. `main.py tiny_base` pretrains it."""

from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from models.tiny_vae import LATENT_CHANNELS, keep_colours

EMBED_DIM = 32  # of CLIP's embedding


def tiny_unet() -> UNetSpatioTemporalConditionModel:
    """Return the UNet with random weights. Its closing norm would lose what the VAE's would lose (`keep_colours`)."""
    unet = UNetSpatioTemporalConditionModel(
        sample_size=8,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(64, 64),
        num_attention_heads=(2, 2),
        cross_attention_dim=EMBED_DIM,
        layers_per_block=1,
        num_frames=21,
    )
    keep_colours(unet.up_blocks[-1].resnets[-1].spatial_res_block, unet.conv_norm_out, unet.conv_out)
    return unet


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


def tiny_pipeline(
    vae: AutoencoderKLTemporalDecoder,
    image_encoder: CLIPVisionModelWithProjection,
    unet: UNetSpatioTemporalConditionModel,
) -> StableVideoDiffusionPipeline:
    """Return the parts as a pipeline of stock diffusers, which saves them in SVD's layout."""
    return StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=image_encoder,
        unet=unet,
        scheduler=svd_scheduler(),
        feature_extractor=CLIPImageProcessor(),
    )
