"""Which record is sample number n, and which samples of a step are a rank's. Every rank computes the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

from utils.randomness import generator


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, num_records: int) -> torch.Tensor:
    return torch.randperm(num_records, generator=generator(seed, epoch, "order"))


def record_index(seed: int, n: int, num_records: int) -> int:
    """The number of the record of sample n. Each epoch is a fresh permutation, so that it holds every record once."""
    epoch, place = divmod(n, num_records)
    return int(_epoch_order(seed, epoch, num_records)[place])


@dataclass(frozen=True)
class Share:
    """A rank's share of the samples. A step takes the next `global_batch` numbers.

    They are dealt out micro-step by micro-step, and within one rank by rank. Who computes a sample depends on ranks,
    batch size and accumulation; which samples make up a step depends on their product only.
    """

    rank: int
    num_ranks: int
    batch_size: int
    grad_accum_steps: int

    @property
    def global_batch(self) -> int:
        return self.num_ranks * self.batch_size * self.grad_accum_steps

    def micro_batches(self, first_sample: int, num_steps: int) -> Iterator[list[int]]:
        """The sample numbers of this rank's micro-batches in `num_steps` steps, when `first_sample` have been seen."""
        for micro_step in range(num_steps * self.grad_accum_steps):
            start = first_sample + (micro_step * self.num_ranks + self.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))
