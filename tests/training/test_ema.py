"""The average follows its formula, and lends itself to whoever reads the weights."""

import torch

from training.ema import Ema


def test_the_average_follows_its_formula_and_moves_by_less_than_bf16_can_hold():
    weight = torch.nn.Parameter(torch.ones(3))
    ema = Ema([weight])
    expected = torch.ones(3, dtype=torch.float64)
    for step in range(100):
        with torch.no_grad():
            weight += 1e-5 * (step % 3)
        ema.update(0.9999)
        expected = expected * 0.9999 + weight.detach().double() * 1e-4
    torch.testing.assert_close(ema.parts[0].double(), expected, atol=2e-6, rtol=0)
    assert ema.parts[0][0] > 1 and ema.parts[0].bfloat16()[0] == 1


def test_within_the_swap_the_weights_are_the_average_and_afterwards_they_are_back():
    weight = torch.nn.Parameter(torch.zeros(3))
    ema = Ema([weight])
    with torch.no_grad():
        weight += 1
    ema.update(0.5)
    try:
        with ema.in_place_of_masters():
            assert weight.tolist() == [0.5] * 3
            raise KeyError
    except KeyError:
        pass
    assert weight.tolist() == [1.0] * 3 and ema.parts[0].tolist() == [0.5] * 3
