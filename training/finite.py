"""The law of a step that is not finite: it stops all ranks before the weights change, and names the samples."""

import torch
from torch import Tensor

from training.launch import Accelerator, any_rank, gather_objects
from utils.errors import UserError


class StepCheck:
    """Watches the losses and the gradient norm of one step. They stay on the device until the step's last micro-step."""

    def __init__(self, step: int, accelerator: Accelerator):
        self.step = step
        self.accelerator = accelerator
        self.numbers: list[int] = []
        self.places: list[str] = []
        self.losses: list[Tensor] = []

    def add(self, numbers: list[int], places: list[str], losses: Tensor) -> None:
        """Note the samples of a micro-step, by their numbers and records (file:line), and their losses (B)."""
        self.numbers += numbers
        self.places += places
        self.losses.append(losses.detach())

    def agree(self, stop: bool) -> bool:
        """Return whether any rank was asked to `stop`. Raises UserError, on every rank, if any rank has a loss that is not finite.

        To be called before the step's last backward. Under DeepSpeed that backward also steps the optimizer.
        """
        bad = ~torch.cat(self.losses).isfinite()
        any_bad, any_stop = any_rank(self.accelerator, bad.any(), stop)
        if any_bad:
            self._fail("loss", bad.tolist())
        return any_stop

    def require_finite(self, grad_norm: Tensor) -> None:
        """Raise UserError if the norm is not finite. It is the norm over all ranks, so each of them finds the same.

        DeepSpeed leaves the weights alone in a step whose gradient is not finite, and says that its norm is infinite.
        """
        if not grad_norm.isfinite():
            self._fail("gradient norm", [True] * len(self.numbers))

    def _fail(self, what: str, bad: list[bool]) -> None:
        samples = zip(self.numbers, self.places, bad, strict=True)
        suspects = gather_objects([f"sample {n} ({place})" for n, place, is_bad in samples if is_bad])
        raise UserError(f"step {self.step}: {what} is not finite, the weights were not changed: {', '.join(suspects)}")
