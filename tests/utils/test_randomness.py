"""Everything random about a sample follows from (seed, n), and no two samples share it."""

import torch

from utils.randomness import PURPOSES, _scramble, generator


def first(seed, n, purpose):
    return torch.randn(4, generator=generator(seed, n, purpose))


def test_the_same_sample_has_the_same_stream_and_others_have_others():
    assert torch.equal(first(1, 7, "noise"), first(1, 7, "noise"))
    streams = {
        tuple(first(seed, n, purpose).tolist()) for seed in (0, 1, 2**40) for n in range(50) for purpose in PURPOSES
    }
    assert len(streams) == 3 * 50 * len(PURPOSES)


def test_no_two_samples_of_a_run_share_a_seed():
    """The scrambling is a bijection of 32 bits, so no two numbers collide. Of a random hash some five of 200,000 would."""
    assert len({_scramble(x) for x in range(200_000)}) == 200_000


def test_neighbouring_samples_are_uncorrelated_normals():
    draws = torch.stack([torch.randn(64, generator=generator(0, n, "noise")) for n in range(2000)])
    assert abs(draws.mean()) < 0.01 and abs(draws.std() - 1) < 0.01
    neighbours = (draws[1:] * draws[:-1]).mean(dim=1)
    assert abs(neighbours.mean()) < 0.01 and abs(neighbours.std() - 1 / 8) < 0.01
