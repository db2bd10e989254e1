"""`main.py tiny_base`: writes a tiny random SVD in the diffusers layout, of the same classes as the real one."""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from tqdm import tqdm
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from dataset.records import Records
from dataset.views import WHITE, load_orbit
from models.trainable import count_parameters
from utils.schemas import DataSettings, TinyBaseConfig

EMBED_DIM = 32
VAE_DATA = DataSettings(root="dummy_objaverse", meta="svd_meta.jsonl", size_px=64)
CLIP_VIEWS = 7  # views that the VAE sees together; the default of validation.decode_chunk


def tiny_base(cfg: TinyBaseConfig) -> None:
    torch.manual_seed(cfg.tiny_base.seed)
    folder = Path(cfg.tiny_base.out)
    vae = tiny_vae()
    fit_vae(vae, cfg.tiny_base.vae_steps)
    pipeline = StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=tiny_clip(),
        unet=tiny_unet(),
        scheduler=svd_scheduler(),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.save_pretrained(folder)
    sizes = [
        f"{name} {count_parameters(getattr(pipeline, name))[1] / 1e6:.2f} M"
        for name in ("unet", "vae", "image_encoder")
    ]
    print(f"{folder}: {', '.join(sizes)} parameters")


def fit_vae(vae: AutoencoderKLTemporalDecoder, steps: int, learning_rate: float = 2e-3) -> None:
    """Teach the VAE to draw the dummy training orbits, so that a validation shows what the UNet has learned.

    It reconstructs views from latents with a little noise. Then `scaling_factor` is set so that latents have a standard
    deviation of 1, as those of SVD have.
    """
    if not steps:
        return
    records = Records(VAE_DATA.meta, VAE_DATA.num_frames)
    orbits = torch.stack([load_orbit(records[i], VAE_DATA, 0, WHITE).pixels for i in range(len(records))])
    optimizer = torch.optim.Adam(vae.parameters(), lr=learning_rate)
    for step in tqdm(range(steps), disable=None):
        optimizer.param_groups[0]["lr"] = learning_rate * min(1, (step + 1) / 20) * (1 - step / steps)
        picked = [(int(torch.randint(len(orbits), ())), int(torch.randint(VAE_DATA.num_frames, ()))) for _ in range(2)]
        views = torch.cat([orbits[orbit].roll(shift, 0)[:CLIP_VIEWS] for orbit, shift in picked])  # 14 3 H W
        latents = vae.encode(views).latent_dist.mode()
        decoded = vae.decode(latents + 0.05 * torch.randn_like(latents), num_frames=CLIP_VIEWS).sample
        loss = F.mse_loss(decoded, views) + 0.1 * F.l1_loss(decoded, views) + 1e-4 * latents.square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        latents = torch.cat([vae.encode(orbit).latent_dist.mode() for orbit in orbits])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    print(f"VAE: {steps} steps, last loss {loss.item():.4f}, scaling_factor {vae.config.scaling_factor}")


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
    widths = (32, 32, 64, 64)
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
