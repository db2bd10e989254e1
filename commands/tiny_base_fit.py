"""The first half of `main.py tiny_base`: the VAE learns to draw views, and the image encoder to tell objects apart.

Batch number i follows from (seed, i) alone. A fit writes its state down now and then, and goes on from there.
"""

import io
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPVisionModelWithProjection

from dataset.images import to_float
from evaluation.metrics import psnr
from models.encoders import clip_pixels
from models.tiny_vae import resting_blocks, start_from_patches
from training.schedule import due
from training.unpickling import read_pickle
from utils.files import write_atomically
from utils.randomness import generator

SAVE_EVERY_STEPS = 100
WARMUP_STEPS = 50
VAE_BATCH = 8  # views
VAE_LR = 1e-3
LATENT_NOISE = 0.05  # what the UNet leaves of noise does not hurt the decoder then
TEMPERATURE = 0.1  # of the contrastive loss


def fit_vae(vae: AutoencoderKLTemporalDecoder, orbits: Tensor, steps: int, seed: int, state: Path) -> None:
    """Teach the VAE to reconstruct views (N F 3 H W, 8-bit) from latents with a little noise.

    Then `scaling_factor` is set so that latents have a standard deviation of 1, as those of SVD have.
    """
    views = orbits.flatten(0, 1)
    some = to_float(views[:: max(1, len(views) // 2000)])

    def loss(step: int) -> Tensor:
        random = generator(seed, step, "view")
        batch = to_float(views[torch.randint(len(views), (VAE_BATCH,), generator=random)])
        latents = vae.encode(batch).latent_dist.mode()
        noise = LATENT_NOISE * torch.randn(latents.shape, generator=random)
        decoded = vae.decode(latents + noise, num_frames=1).sample
        return F.mse_loss(decoded, batch) + 0.1 * F.l1_loss(decoded, batch) + 1e-4 * latents.square().mean()

    start_from_patches(vae, some)
    with resting_blocks(vae):
        _fit(vae, loss, steps, VAE_LR, state)
    with torch.no_grad():
        latents = torch.cat([vae.encode(part).latent_dist.mode() for part in some.split(32)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKLTemporalDecoder, orbits: Tensor, decode_chunk: int = 7) -> float:
    """Return the mean PSNR of the views of N F 3 H W (8-bit) after encoding and decoding, in dB."""
    values = []
    for views in to_float(orbits):
        latents = vae.encode(views).latent_dist.mode()
        decoded = torch.cat([vae.decode(chunk, num_frames=len(chunk)).sample for chunk in latents.split(decode_chunk)])
        values.append(psnr((decoded.clamp(-1, 1) + 1) / 2, (views + 1) / 2).mean())
    return torch.stack(values).mean().item()


def fit_image_encoder(
    encoder: CLIPVisionModelWithProjection, objects: list[Tensor], steps: int, seed: int, state: Path
) -> None:
    """Teach the encoder to tell objects apart: two views of one object lie closer together than views of different ones.

    `objects` are N 3 H W (8-bit) each, all views that there are of one. The loss is SimCLR's NT-Xent.
    """

    def loss(step: int) -> Tensor:
        views = _pairs(objects, generator(seed, step, "view"), 32)
        return contrastive_loss(F.normalize(encoder(clip_pixels(to_float(views))).image_embeds, dim=1))

    _fit(encoder, loss, steps, 1e-3, state)


def _pairs(objects: list[Tensor], random: torch.Generator, count: int) -> Tensor:
    """Return 2 x `count` views: one of each of `count` objects, then another of each, in the same order."""
    chosen = [objects[index] for index in torch.randperm(len(objects), generator=random)[:count].tolist()]
    places = [torch.randperm(len(views), generator=random)[:2].tolist() for views in chosen]
    return torch.stack([views[place[turn]] for turn in range(2) for views, place in zip(chosen, places)])


def contrastive_loss(embeds: Tensor) -> Tensor:
    """Return NT-Xent (Chen et al. 2020) of 2N unit vectors, of which number i and number i + N belong together."""
    similarity = (embeds @ embeds.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(embeds)).roll(len(embeds) // 2)
    return F.cross_entropy(similarity, partner)


@torch.no_grad()
def retrieval(encoder: CLIPVisionModelWithProjection, objects: list[Tensor], seed: int) -> float:
    """Return how often the nearest of all other views is one of the same object, with two views of each object."""
    views = _pairs(objects, generator(seed, 0, "validation"), len(objects))
    embeds = torch.cat([encoder(clip_pixels(to_float(part))).image_embeds for part in views.split(32)])
    embeds = F.normalize(embeds, dim=1)
    nearest = (embeds @ embeds.T).fill_diagonal_(-torch.inf).argmax(dim=1)
    return (nearest == torch.arange(len(embeds)).roll(len(embeds) // 2)).float().mean().item()


def _fit(module: nn.Module, loss_of: Callable[[int], Tensor], steps: int, learning_rate: float, state: Path) -> None:
    """Take Adam's steps to `steps`, from where `state` is. The rate rises, then falls to nothing along a line."""
    module.train()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate, betas=(0.9, 0.99))
    first = _restore(state, module, optimizer)
    for step in (bar := tqdm(range(first, steps), initial=first, total=steps, desc=state.stem, disable=None)):
        optimizer.param_groups[0]["lr"] = learning_rate * min(1, (step + 1) / WARMUP_STEPS) * (1 - step / steps)
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if due(step + 1, SAVE_EVERY_STEPS) or step + 1 == steps:
            _save(state, module, optimizer, step + 1)
            bar.write(f"{state.stem}: step {step + 1} of {steps}, loss {loss.item():.4f}")
    module.eval()


def _save(state: Path, module: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    data = io.BytesIO()
    torch.save({"step": step, "module": module.state_dict(), "optimizer": optimizer.state_dict()}, data)
    write_atomically(state, data.getvalue())


def _restore(state: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load what `_save` wrote, if there is something; return its step. Raises UserError for a damaged file."""
    if not state.exists():
        return 0
    saved = read_pickle(state)
    module.load_state_dict(saved["module"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"]
