"""The hot loop does not wait for the device, and yet stops before anything that is not finite changes the weights."""

from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import commands.train
from commands.train import train
from dataset.views import OrbitBatch

READERS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__")


class Reads(TorchDispatchMode):
    """Counts what would make the host wait for a GPU. `events` also says when a step and when a micro-step begins."""

    def __init__(self):
        super().__init__()
        self.events: list[str] = []
        self.inside = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func == torch.ops.aten._local_scalar_dense.default and not self.inside:
            self.events.append("read")
        return func(*args, **(kwargs or {}))

    def watch(self, monkeypatch, owner, name: str, event: str) -> None:
        original = getattr(owner, name)

        def watched(*arguments, **keywords):
            self.events.append(event)
            outside, self.inside = self.inside, event == "read" or self.inside
            try:
                return original(*arguments, **keywords)
            finally:
                self.inside = outside

        monkeypatch.setattr(owner, name, watched)


@pytest.fixture
def reads(monkeypatch):
    """Give a counter that watches the training loop. Its run loads data in another process, where nothing is counted."""
    reads = Reads()
    for name in READERS:
        reads.watch(monkeypatch, torch.Tensor, name, "read")
    reads.watch(monkeypatch, commands.train, "lr_at", "step")
    reads.watch(monkeypatch, commands.train, "timed_next", "micro-step")
    return reads


@pytest.mark.parametrize("grad_accum_steps", [1, 3])
def test_a_step_reads_from_the_device_twice_at_most_and_only_in_its_last_micro_step(
    grad_accum_steps, reads, tiny_config
):
    words = ("run.name=r", "train.max_steps=4", "train.log_every_steps=4", "data.num_workers=1")
    with reads:
        train(tiny_config(*words, f"train.grad_accum_steps={grad_accum_steps}"))
    places = [place for place, event in enumerate(reads.events) if event == "step"]
    assert len(places) == 4
    steps = [reads.events[start + 1 : end] for start, end in pairwise(places)]  # the last one also logs and saves
    for events in steps:
        begin_of_last = max(place for place, event in enumerate(events) if event == "micro-step")
        assert events.count("micro-step") == grad_accum_steps
        assert "read" not in events[:begin_of_last]
        assert 1 <= events[begin_of_last:].count("read") <= 2


def test_the_counter_sees_every_way_to_read(reads):
    value = torch.ones(2)
    with reads:
        for read in (
            lambda: value[0].item(),
            lambda: value.tolist(),
            lambda: value.cpu(),
            lambda: value.numpy(),
            lambda: bool(value[0]),
            lambda: float(value[0]),
            lambda: value[int(value[0])],
            lambda: torch.ops.aten._local_scalar_dense(value[0]),
        ):
            before = len(reads.events)
            read()
            assert len(reads.events) == before + 1


def test_batches_are_pinned_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    batch = OrbitBatch(torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), torch.zeros(1), [0], ["a:1"], torch.zeros(1))
    pinned = torch.utils.data._utils.pin_memory.pin_memory(batch)
    assert all((tensor == 1).all() for tensor in (pinned.pixels, pinned.elevation_deg, pinned.latents))
    assert pinned.n == [0] and pinned.image_embeds is None
