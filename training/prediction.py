"""What a step of a run will take, predicted from its config alone: memory, work, and the speed that follows from a GPU's peak."""

import re
from dataclasses import dataclass

import torch

from models.activations import Precision, count_encoding, count_sampling, count_training
from models.blank import blank_svd
from models.checkpointing import checkpoint_blocks
from models.svd import require_size
from models.trainable import choose_trainable, count_parameters, trained_parts
from training.feeding import num_views_read
from training.footprint import CARDS, GIB, Footprint, Sizes, footprint
from training.launch_file import Launch
from training.optimizer import EIGHT_BITS_ON_HOST
from training.saved_model import find_base
from utils.errors import UserError
from utils.schemas import TrainConfig

# Dense bf16, in TFLOP/s, by a part of torch's name of the card. Longer names come first.
PEAK_TFLOPS = {
    "RTX A6000": 155, "RTX 4090": 165, "RTX 3090": 71, "A100": 312, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989,
    "H200": 989, "L40S": 362, "A10G": 70, "A10": 125,
}  # fmt: skip
SHOWN = ("RTX 4090", "L40S", "A100", "H100")
SHARE = 0.4  # of its peak that a GPU is taken to reach


@dataclass(frozen=True)
class Prediction:
    launch: Launch
    batch_size: int
    encoder_dtype: str
    trained: list[str]  # lines that say what is trained
    sizes: Sizes
    footprint: Footprint

    @property
    def tflop_per_orbit(self) -> float:
        """Of the UNet's forward and backward pass, with what is computed again."""
        return self.sizes.training.flop / self.batch_size / 1e12

    @property
    def encode_tflop_per_orbit(self) -> float:
        return self.sizes.encoding.flop / self.batch_size / 1e12

    def orbits_per_s(self, peak_tflops: float) -> float:
        """Of one GPU at SHARE of its peak in bf16. Encoders in fp32 are computed in TF32, half as fast."""
        slower = 2 if self.encoder_dtype == "fp32" else 1
        return SHARE * peak_tflops / (self.tflop_per_orbit + slower * self.encode_tflop_per_orbit)

    def to_json(self) -> dict:
        in_gib = {name: size / GIB for name, size in self.footprint.held.items()}
        return {
            "launch": self.launch.__dict__,
            "batch_size": self.batch_size,
            "total_gib": self.footprint.total / GIB,
            "tensors_gib": self.footprint.tensors / GIB,
            "activations_gib": self.sizes.training.kept / GIB,
            "recomputed_gib": (self.sizes.training.peak - self.sizes.training.kept) / GIB,
            "held_gib": in_gib,
            "phases_gib": {
                phase: {name: size / GIB for name, size in rows.items()}
                for phase, rows in self.footprint.phases.items()
            },
            "peaks_gib": {phase: size / GIB for phase, size in self.footprint.peaks.items()},
            "machine_gib": {name: size / GIB for name, size in self.footprint.machine.items()},
            "fits_gb": {size: self.footprint.total <= usable * GIB for size, usable in CARDS.items()},
            "parameters": self.sizes.parameters,
            "trained_parameters": self.sizes.trained,
            "tflop_per_orbit": self.tflop_per_orbit,
            "encode_tflop_per_orbit": self.encode_tflop_per_orbit,
            "orbits_per_s": {name: self.orbits_per_s(PEAK_TFLOPS[name]) for name in SHOWN},
        }


def predict(cfg: TrainConfig, launch: Launch) -> Prediction:
    """Predict a step of the config under a launch. Raises UserError for a base that is none, and for what no run could do."""
    if cfg.optim.name == "adamw_8bit" and launch.optimizer_on_host:
        raise UserError(EIGHT_BITS_ON_HOST)
    sizes, trained = count_sizes(cfg, launch.precision)
    return Prediction(launch, cfg.train.batch_size, cfg.model.encoder_dtype, trained, sizes, footprint(launch, sizes))


def count_sizes(cfg: TrainConfig, precision: Precision) -> tuple[Sizes, list[str]]:
    """Count one step of the config's real modules, without memory for them; and say what is trained."""
    base = find_base(cfg.model, config_only=True)
    with torch.device("meta"):
        unet, encoders = blank_svd(base, cfg.model)
        require_size(unet, encoders, cfg.data.size_px)
        trained = [choose_trainable(unet, cfg.model, cfg.run.seed)]
    for part, (tensors, parameters) in trained_parts(unet).items():
        trained.append(f"  {part}: {parameters / 1e6:,.2f} M in {tensors} tensors")
    if cfg.model.gradient_checkpointing:
        checkpoint_blocks(unet)
    shape = encoders.latent_shape(cfg.data.num_frames, cfg.data.size_px)
    training = count_training(unet, precision, cfg.train.batch_size, shape)
    views, cached = num_views_read(cfg), cfg.data.cache is not None
    encoding = count_encoding(encoders, cfg.train.batch_size, views, cfg.data.size_px, cached)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    sampling = count_sampling(unet, encoders, dtype, shape, cfg.validation.decode_chunk)
    trainable, total = count_parameters(unet)
    frozen = [*encoders.vae.parameters(), *encoders.image_encoder.parameters()]
    encoder_bytes = sum(weight.numel() * weight.element_size() for weight in frozen)
    on_host, accumulates = cfg.train.ema_device == "cpu", cfg.train.grad_accum_steps > 1
    sizes = Sizes(total, trainable, encoder_bytes, cfg.optim.name, on_host, accumulates, training, encoding, sampling)
    return sizes, trained


def peak_tflops(name: str) -> float | None:
    """The peak of the GPU that torch calls `name`, if it is a known one."""
    if "Laptop" in name:
        return None
    return next((float(peak) for part, peak in PEAK_TFLOPS.items() if re.search(rf"\b{part}\b", name)), None)
