"""What happened since the last line of metrics: summed up exactly, so that a resumed run logs the uninterrupted run's numbers."""

import math
from dataclasses import asdict, dataclass, field, replace

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

_THIRD = 0.4307273  # a standard normal is below -_THIRD, between, and above _THIRD with probability 1/3 each


@dataclass
class Window:
    """Samples as (loss, ln sigma in standard deviations from P_mean) and gradient norms; this rank's."""

    samples: list[tuple[float, float]] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    wait_seconds: float = 0.0  # of them, waiting for data
    seconds: float = 0.0  # in steps: neither saving nor validating

    def add(self, losses: Tensor, sigma: Tensor, P_mean: float, P_std: float) -> None:
        self.samples += zip(losses.tolist(), ((sigma.log() - P_mean) / P_std).tolist())

    def end_step(self, grad_norm: float, seconds: float) -> None:
        self.grad_norms.append(grad_norm)
        self.seconds += seconds

    def clear(self) -> None:
        self.__init__()

    def gathered(self, accelerator: Accelerator) -> "Window":
        """The samples of all ranks, the rest of this one. Collective."""
        return replace(self, samples=gather_object(self.samples))

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, saved: dict) -> "Window":
        return cls(**saved)

    def means(self) -> dict[str, float]:
        """loss, loss by sigma third, grad_norm; orbits/s and the wait for data per step.

        fsum is exact, so that neither the order of the ranks nor a resume shows.
        """
        thirds = {
            "loss": self.samples,
            "loss_low_sigma": [row for row in self.samples if row[1] < -_THIRD],
            "loss_mid_sigma": [row for row in self.samples if -_THIRD <= row[1] <= _THIRD],
            "loss_high_sigma": [row for row in self.samples if row[1] > _THIRD],
        }
        means = {name: math.fsum(loss for loss, _ in rows) / len(rows) for name, rows in thirds.items() if rows}
        steps = len(self.grad_norms)
        speed = {"orbits_per_s": len(self.samples) / self.seconds, "data_wait_s": self.wait_seconds / steps}
        return means | {"grad_norm": math.fsum(self.grad_norms) / steps} | speed


def peak_memory_gib(device: torch.device) -> float:
    """Of the GPU, or of this process on a CPU, since the start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
