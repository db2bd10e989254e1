"""The learning rate and the average's decay are what they are said to be at each step."""

import pytest

from training.schedule import due, ema_decay_at, lr_at
from utils.schemas import OptimSettings


def test_due_is_at_the_multiples_and_never_for_zero():
    assert [step for step in range(1, 10) if due(step, 3)] == [3, 6, 9]
    assert not any(due(step, 0) for step in range(10))


def test_warmup_rises_linearly_to_the_peak():
    optim = OptimSettings(learning_rate=1e-3, warmup_steps=4)
    assert [lr_at(step, optim, 10) for step in range(5)] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


@pytest.mark.parametrize(
    ("schedule", "half", "last"), [("constant", 1, 1), ("linear", 0.5, 0.01), ("cosine", 0.5, 2.47e-4)]
)
def test_schedules_start_at_the_peak_and_end_where_they_say(schedule, half, last):
    optim = OptimSettings(learning_rate=1.0, schedule=schedule)
    assert lr_at(0, optim, 100) == 1.0
    assert lr_at(50, optim, 100) == pytest.approx(half)
    assert lr_at(99, optim, 100) == pytest.approx(last, rel=1e-2)


def test_a_warmup_longer_than_the_run_never_reaches_the_peak():
    assert lr_at(2, OptimSettings(learning_rate=1.0, warmup_steps=10, schedule="cosine"), 3) == pytest.approx(0.3)


def test_ema_warms_up_and_then_holds_its_decay():
    assert ema_decay_at(0, 0.9999, warmup=True) == 0.1
    assert ema_decay_at(990, 0.9999, warmup=True) == pytest.approx(0.991)
    assert ema_decay_at(10**6, 0.9999, warmup=True) == 0.9999


def test_without_a_warmup_the_first_update_has_the_ema_decay_too():
    assert ema_decay_at(0, 0.995, warmup=False) == 0.995
