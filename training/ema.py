"""The exponential moving average of the trainable weights. It is fp32, and the same under every launcher."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SLICE = 2**24  # numbers that are exchanged at a time


class Ema:
    """The average of this rank's fp32 masters, as `training.masters.master_parts` gives them.

    Each rank keeps only its part, so that nothing is gathered: 4 bytes a trained parameter, divided by the ranks under ZeRO.
    """

    def __init__(self, masters: list[Tensor]):
        self.masters = masters
        self.parts = [master.detach().clone() for master in masters]
        assert all(part.dtype == torch.float32 for part in self.parts), "the masters are fp32"

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average by 1 - `decay` of its distance from the masters. `decay` is in [0, 1]."""
        torch._foreach_lerp_(self.parts, [master.detach() for master in self.masters], 1 - decay)

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
        for master, part in zip(self.masters, self.parts, strict=True):
            # It is done in slices, since under ZeRO with one rank a part is the whole model.
            for one, other in zip(master.detach().view(-1).split(SLICE), part.view(-1).split(SLICE)):
                held = one.clone()
                one.copy_(other)
                other.copy_(held)

    @torch.no_grad()
    def load(self, parts: list[Tensor]) -> None:
        """Take over the numbers of `parts`, which have the shapes of the masters."""
        for part, value in zip(self.parts, parts, strict=True):
            part.copy_(value)
