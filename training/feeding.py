"""Where training takes its samples from: the images, or a cache of latents that was made for just this run."""

import logging
import math

from dataset.latents import LatentCache, Widths
from dataset.records import Records
from dataset.views import CachedViews, OrbitViews
from models.svd import Base, weights_digest
from training.launch import Accelerator, from_first_rank, gather_objects
from training.saved_model import find_base
from utils.errors import UserError
from utils.reading import Saved, read_json
from utils.schemas import DataSettings, NoiseSettings, TrainConfig
from utils.urls import redacted

PREPROCESSING = 1  # goes up when the same image gives other pixels, or the same pixels another latent or embedding
# A noise of at most this strength is far below a step of 8 bits (8e-3): nobody can tell the two latents apart.
FAINT = 1e-4

log = logging.getLogger("svd_mv")


def fingerprint(base: Base, data: DataSettings) -> dict:
    """What latents and embeddings of a view follow from, beside its image and the type that the encoders compute in.

    A run takes a cache of any such type: those of one in fp32 are the nearest to the truth whatever the run encodes in.
    """
    return {
        "VAE": weights_digest(base, "vae"),
        "CLIP": weights_digest(base, "image_encoder"),
        "preprocessing": PREPROCESSING,
        "data.num_frames": data.num_frames,
        "data.size_px": data.size_px,
        "data.object_fill": data.object_fill,
        "data.background": data.background,
    }


class _VaeConfig(Saved):
    latent_channels: int = 4  # the libraries' defaults


class _ImageEncoderConfig(Saved):
    projection_dim: int = 512


def read_widths(base: Base) -> Widths:
    """Return what the configs of a base's VAE and CLIP say. Raises UserError."""
    vae = read_json(base.rest / "vae/config.json", _VaeConfig)
    image_encoder = read_json(base.rest / "image_encoder/config.json", _ImageEncoderConfig)
    return Widths(vae.latent_channels, image_encoder.projection_dim)


def open_cache(cfg: TrainConfig, num_records: int) -> LatentCache:
    """Raises UserError if the cache is not complete, or was made for another run."""
    base = find_base(cfg.model)
    return LatentCache(cfg.data, fingerprint(base, cfg.data), num_records, read_widths(base))


def open_records(cfg: TrainConfig, accelerator: Accelerator) -> tuple[Records, Records]:
    """The training and the held-out records. Collective. Raises UserError if the processes do not have the same ones."""
    both = [Records(meta, cfg.data.num_frames, cfg.data.local_cache) for meta in (cfg.data.meta, cfg.validation.meta)]
    everywhere = gather_objects([[records.description for records in both]])
    for meta, *found in zip((cfg.data.meta, cfg.validation.meta), *everywhere):
        if any(other != found[0] for other in found):
            counts = sorted({each["count"] for each in found})
            how = f"{counts[0]} to {counts[-1]} records" if len(counts) > 1 else "other lines"
            raise UserError(f"{redacted(meta)} is not the same file for all processes ({how})")
    return both[0], both[1]


def open_samples(records: Records, cfg: TrainConfig, accelerator: Accelerator) -> OrbitViews | CachedViews:
    """The training samples. Collective. Raises UserError if `data.cache` does not fit."""
    if cfg.data.cache is None:
        return OrbitViews(records, cfg.data, cfg.run.seed)
    cache = from_first_rank(accelerator, lambda: open_cache(cfg, len(records)))
    noised = noises_input_view(cfg.noise)
    own = f"; the input view is read, noised and encoded in {cfg.model.encoder_dtype}" if noised else ""
    log.info(f"latents from {redacted(cfg.data.cache)}, encoded in {cache.index.encoder_dtype}{own}")
    return CachedViews(records, cfg.data, cfg.run.seed, cache, with_input_view=noised)


def num_views_read(cfg: TrainConfig) -> int:
    """How many views of an orbit training reads as images, and encodes."""
    if cfg.data.cache is None:
        return cfg.data.num_frames
    return 1 if noises_input_view(cfg.noise) else 0


def noises_input_view(noise: NoiseSettings) -> bool:
    """Whether the input view's noise can be seen, so that its latent cannot come from a cache."""
    return noise.cond_P_std > 0 or math.exp(noise.cond_P_mean) > FAINT
