"""The frozen VAE and CLIP: pixels to latents and back, image embeddings, and the conditioning that they make.

Latents are C h w: SVD has C = 4 channels, at an eighth of the views' height and width. An embedding has D numbers, SVD's 1024.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import Tensor
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from models.conditioning import Conditioning, added_time_ids

ENCODER_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def tf32_matmuls() -> Iterator[None]:
    """Within, a GPU's fp32 matmuls run in TF32, as its convolutions do by torch's default. Nothing changes on a CPU."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


@dataclass(frozen=True)
class Encoders:
    """The VAE and CLIP. They work without gradients, on pixels in [-1, 1].

    What goes in and comes out is fp32. Between, CLIP and the VAE's encoder compute in `dtype`; the VAE's decoder stays fp32.
    """

    vae: AutoencoderKLTemporalDecoder
    image_encoder: CLIPVisionModelWithProjection
    layout: tuple[str, ...]
    encode_chunk: int

    def to(self, device: torch.device) -> "Encoders":
        return replace(self, vae=self.vae.to(device), image_encoder=self.image_encoder.to(device))

    def computing_in(self, dtype: torch.dtype) -> "Encoders":
        """Return the encoders with `dtype` for computing. Their weights are rounded in place."""
        self.vae.encoder.to(dtype)
        self.vae.quant_conv.to(dtype)
        return replace(self, image_encoder=self.image_encoder.to(dtype))

    @property
    def dtype(self) -> torch.dtype:
        return self.image_encoder.dtype

    def describe(self) -> str:
        """Return a line for the log."""
        on_gpu = self.image_encoder.device.type == "cuda"
        return f"VAE and CLIP encode in {self.dtype}" + ("; what is fp32 in them multiplies in TF32" if on_gpu else "")

    @torch.no_grad()
    @tf32_matmuls()
    def modes(self, pixels: Tensor) -> Tensor:
        """Encode B F 3 H W as B F C h w: the VAE's mode, `encode_chunk` views at a time."""
        modes = torch.cat([self._mode(views) for views in pixels.flatten(0, 1).split(self.encode_chunk)])
        return modes.unflatten(0, pixels.shape[:2])

    def latents(self, pixels: Tensor) -> Tensor:
        """Encode B F 3 H W as what the UNet denoises: the VAE's mode times its scaling_factor, B F C h w."""
        return self.scaled(self.modes(pixels))

    def scaled(self, modes: Tensor) -> Tensor:
        return modes * self.vae.config.scaling_factor

    def _mode(self, views: Tensor) -> Tensor:
        """Encode N 3 H W as N C h w, not scaled."""
        return self.vae.encode(views.to(self.dtype)).latent_dist.mode().float()

    def latent_shape(self, num_frames: int, size_px: int) -> tuple[int, int, int, int]:
        """Return F C h w, the shape of the latents of square views."""
        side = size_px // 2 ** (len(self.vae.config.block_out_channels) - 1)
        return (num_frames, self.vae.config.latent_channels, side, side)

    @torch.no_grad()
    @tf32_matmuls()
    def image_embeds(self, view: Tensor) -> Tensor:
        """Embed B 3 H W as B 1 D."""
        return self.image_encoder(clip_pixels(view).to(self.dtype)).image_embeds[:, None].float()

    @torch.no_grad()
    @tf32_matmuls()
    def noised_mode(self, view: Tensor, noise_aug_strength: Tensor, cond_noise: Tensor) -> Tensor:
        """Encode input views (B 3 H W) with strength x `cond_noise` added: the VAE's mode, B C h w, not scaled."""
        return self._mode(view + noise_aug_strength.view(-1, 1, 1, 1) * cond_noise)

    def condition(
        self, view: Tensor, elevation_deg: Tensor, noise_aug_strength: Tensor, cond_noise: Tensor
    ) -> Conditioning:
        """Return the conditioning of input views (B 3 H W). Only the VAE sees them with strength x `cond_noise` added."""
        mode = self.noised_mode(view, noise_aug_strength, cond_noise)
        return self.condition_encoded(mode, self.image_embeds(view), elevation_deg, noise_aug_strength)

    def condition_encoded(
        self, mode: Tensor, image_embeds: Tensor, elevation_deg: Tensor, noise_aug_strength: Tensor
    ) -> Conditioning:
        """Return the conditioning of encoded input views: their mode is not scaled (B C h w), as in SVD's own training."""
        ids = added_time_ids(self.layout, elevation_deg, noise_aug_strength)
        return Conditioning(mode, image_embeds, ids)

    @torch.no_grad()
    @tf32_matmuls()
    def decode(self, latents: Tensor, decode_chunk: int) -> Tensor:
        """Decode F C h w to F 3 H W in [-1, 1]. The result depends on `decode_chunk`, the views that are decoded together."""
        chunks = (latents / self.vae.config.scaling_factor).split(decode_chunk)
        return torch.cat([self.vae.decode(chunk, num_frames=len(chunk)).sample for chunk in chunks]).clamp(-1, 1)


def clip_pixels(view: Tensor) -> Tensor:
    """Return what CLIP sees of B 3 H W: as in SVD's pipeline it is blurred, resized to 224 by bicubic, and normalised once."""
    resized = (_resize_with_antialiasing(view, (224, 224)) + 1) / 2
    mean, std = (resized.new_tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (resized - mean) / std
