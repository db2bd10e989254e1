"""How fast a run goes and how much memory it takes, for its log. Devices are read at the log's lines alone."""

from dataclasses import dataclass

from torch import nn

from models.activations import count_training
from models.lora import empty_copy
from training.launch import Accelerator, gather_objects
from training.memory import memory_peaks
from training.window import Window


@dataclass(frozen=True)
class Gauge:
    accelerator: Accelerator
    tflop_per_orbit: float | None  # None where it was not counted

    def read(self, window: Window) -> dict[str, float]:
        """Return orbits/s and TFLOP/s of a device, and the highest peaks of memory of all ranks, in GiB. Collective."""
        orbits_per_s = window.means()["orbits_per_s"] / self.accelerator.num_processes
        speed = {"orbits_per_s_per_device": orbits_per_s}
        if self.tflop_per_orbit is not None:
            speed["tflop_per_s_per_device"] = orbits_per_s * self.tflop_per_orbit
        peaks = gather_objects([memory_peaks(self.accelerator.device)])
        return speed | {name: max(peak[name] for peak in peaks) for name in peaks[0]}


def make_gauge(unet: nn.Module, latent_shape: tuple[int, int, int, int], accelerator: Accelerator) -> Gauge:
    """Count the work of an orbit where it is shown: on the first rank, and on a GPU, since counting takes seconds."""
    counts = accelerator.is_main_process and accelerator.device.type == "cuda"
    return Gauge(accelerator, tflop_per_orbit(unet, latent_shape) if counts else None)


def tflop_per_orbit(unet: nn.Module, latent_shape: tuple[int, int, int, int]) -> float:
    """Return the work of the UNet's forward and backward pass for an orbit of latents F C h w, in TFLOP.

    An empty copy is counted: nothing is computed again in it, whatever the run does, and no engine divides its weights.
    """
    copy = empty_copy(unet)
    for weight, trained in zip(copy.parameters(), unet.parameters(), strict=True):
        weight.requires_grad_(trained.requires_grad)
    return count_training(copy, "bf16", 1, latent_shape).flop / 1e12
