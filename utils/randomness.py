"""The random numbers of sample n. They follow from (seed, n) and from what they are for."""

import torch

PURPOSES = ("order", "view", "noise", "validation")
_MASK = 0xFFFFFFFF


def generator(seed: int, n: int, purpose: str) -> torch.Generator:
    """Return a CPU generator for `purpose` of sample (or epoch) `n`. It is the same on every rank, worker and machine.

    Each purpose has its own stream, so that one more draw for the data (or a cache that skips it) leaves the noise as it
    was. torch's CPU generator uses 32 bits of its seed, so we make the seed by a bijection of (n, purpose): up to n =
    2**30 no two samples of a run share a stream. A hash to 32 bits could not promise that after some 60,000 samples.
    """
    stream = n * len(PURPOSES) + PURPOSES.index(purpose)
    return torch.Generator().manual_seed(_scramble((stream + _scramble(seed)) & _MASK))


def _scramble(x: int) -> int:
    """Apply the 32-bit finaliser of MurmurHash3, a bijection that makes neighbours unrelated."""
    x = (x ^ (x >> 32)) & _MASK  # a seed may be longer than 32 bits
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)
