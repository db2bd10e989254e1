"""The exponential moving average of the trainable weights. It is fp32, and the same under every launcher."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SLICE = 2**24  # numbers that are exchanged at a time


class Ema:
    """The average of this rank's fp32 masters, as `training.masters.master_parts` gives them.

    Each rank keeps only its part, so that nothing is gathered: 4 bytes a trained parameter, divided by the ranks under ZeRO.

    With `on_host` the average is in the CPU's memory, page-locked where there is a GPU. It is computed on the masters' device
    all the same, a slice at a time, so that it is bitwise the same average. The slices travel in the order of the device's
    work, and nobody waits for them.
    """

    def __init__(self, masters: list[Tensor], on_host: bool = False):
        self.masters = masters
        self.on_host = on_host
        self.parts = [_copy_to_host(master) if on_host else master.detach().clone() for master in masters]
        assert all(part.dtype == torch.float32 for part in self.parts), "the masters are fp32"

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average by 1 - `decay` of its distance from the masters. `decay` is in [0, 1]."""
        if not self.on_host:
            torch._foreach_lerp_(self.parts, [master.detach() for master in self.masters], 1 - decay)
            return
        for master, part in self._slices():
            average = part.to(master.device, non_blocking=True)
            torch._foreach_lerp_([average], [master], 1 - decay)
            part.copy_(average, non_blocking=True)

    def saved(self) -> dict[str, Tensor]:
        """Return the parts by their numbers, as `load` takes them, once they have arrived where they are."""
        if self.on_host and torch.cuda.is_available():
            torch.cuda.synchronize()
        return {str(number): part.contiguous() for number, part in enumerate(self.parts)}

    @contextmanager
    def in_place_of_masters(self) -> Iterator[None]:
        """Exchange the masters with the average, so that `training.masters.full_weights` reads the average inside the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for master, part in self._slices():
            held = master.clone()
            master.copy_(part)
            part.copy_(held)

    def _slices(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through masters and average together, at most SLICE numbers at a time: under ZeRO one may be the whole model."""
        for master, part in zip(self.masters, self.parts, strict=True):
            yield from zip(master.detach().view(-1).split(SLICE), part.view(-1).split(SLICE))

    @torch.no_grad()
    def load(self, parts: list[Tensor]) -> None:
        """Take over the numbers of `parts`, which have the shapes of the masters."""
        for part, value in zip(self.parts, parts, strict=True):
            part.copy_(value)


def _copy_to_host(master: Tensor) -> Tensor:
    part = torch.empty(master.shape, dtype=master.dtype, pin_memory=torch.cuda.is_available())
    return part.copy_(master.detach())
