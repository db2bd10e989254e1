"""The average follows its formula, and lends itself to whoever reads the weights."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import training.ema
from training.ema import Ema
from training.schedule import ema_decay_at


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


def test_an_average_on_the_host_is_bitwise_the_same(monkeypatch):
    monkeypatch.setattr(training.ema, "SLICE", 64)
    random = torch.Generator().manual_seed(0)
    masters = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in ((7, 50), (64,), (1,), (3, 5, 11))]
    beside, on_host = Ema(masters), Ema(masters, on_host=True)
    for step in range(20):
        with torch.no_grad():
            for master in masters:
                master += 0.01 * torch.randn(master.shape, generator=random)
        for ema in (beside, on_host):
            ema.update(ema_decay_at(step, 0.999, warmup=True))
    saved = on_host.saved()
    for number, part in beside.saved().items():
        assert torch.equal(saved[number], part) and saved[number].device.type == "cpu"
    beside.load(list(saved.values()))
    with on_host.in_place_of_masters():
        assert all(torch.equal(master, part) for master, part in zip(masters, beside.parts))


def test_an_average_on_the_host_of_weights_on_a_gpu_is_computed_on_the_gpu(monkeypatch):
    """FakeTensorMode has tensors of a GPU without one, and no numbers in them. It does not check the devices of `_foreach_`."""
    devices = []
    monkeypatch.setattr(
        torch, "_foreach_lerp_", lambda *lists: devices.extend(part[0].device.type for part in lists[:2])
    )
    with FakeTensorMode():
        master = torch.empty(3, 5, device="cuda")
        ema = Ema([master], on_host=True)
        ema.update(0.9)
        with ema.in_place_of_masters():
            pass
        ema.load([torch.empty(3, 5)])
    assert devices == ["cuda", "cuda"] and ema.parts[0].device.type == "cpu"
