"""The window: what happened since the last line of metrics. Its sums are exact, so that a resume does not show in them."""

import math
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from training.launch import Accelerator, gather_objects

_THIRD = 0.4307273  # a standard normal is below -_THIRD, between, and above _THIRD with probability 1/3 each


@dataclass
class Window:
    """This rank's samples as (loss, ln sigma in standard deviations from P_mean), gradient norms and times, as numbers."""

    samples: list[tuple[float, float]] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    wait_seconds: float = 0.0  # waiting for data; part of `seconds`
    seconds: float = 0.0  # in steps: neither saving nor validating

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, saved: dict) -> "Window":
        return cls(**saved)

    def means(self) -> dict[str, float]:
        """Return loss, loss by third of the sigmas, grad_norm, orbits_per_s, and data_wait_s, the wait for data per step.

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


class Meter:
    """Fills this rank's window. Losses and norms stay on the device until somebody reads them: no step waits for it."""

    def __init__(self, window: Window, P_mean: float, P_std: float):
        """Begin with `window`: what a resumed run had not logged yet."""
        self.window = window
        self.P_mean = P_mean
        self.P_std = P_std
        self._samples: list[Tensor] = []  # 2 B each: losses, and where their sigmas lie
        self._grad_norms: list[Tensor] = []

    def add(self, losses: Tensor, sigma: Tensor) -> None:
        self._samples.append(torch.stack([losses.detach(), (sigma.log() - self.P_mean) / self.P_std]))

    def end_step(self, grad_norm: Tensor, seconds: float, wait_seconds: float) -> None:
        self._grad_norms.append(grad_norm)
        self.window.seconds += seconds
        self.window.wait_seconds += wait_seconds

    def gathered(self, accelerator: Accelerator) -> Window:
        """Return the window, with the samples of all ranks and this one's norms and times. Collective; waits for the device."""
        window = self.window
        if self._samples:
            window.samples += zip(*torch.cat(self._samples, dim=1).tolist())
            window.grad_norms += torch.stack(self._grad_norms).tolist()
        self._samples = []
        self._grad_norms = []
        return Window(gather_objects(window.samples), window.grad_norms, window.wait_seconds, window.seconds)

    def clear(self) -> None:
        self.window = Window()
