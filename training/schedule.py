"""When things happen and how large an update is. These are pure functions of the step."""

import math

from utils.schemas import OptimSettings


def due(step: int, every: int) -> bool:
    """Return True at the multiples of `every`, and never if that is 0."""
    return every > 0 and step % every == 0


def lr_at(step: int, optim: OptimSettings, max_steps: int) -> float:
    """Return the learning rate of optimizer step `step`, counted from 0. After a linear warm-up it follows `optim.schedule`."""
    if step < optim.warmup_steps:
        return optim.learning_rate * (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, max_steps - optim.warmup_steps)
    factor = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[optim.schedule]
    return optim.learning_rate * factor


def ema_decay_at(step: int, decay: float) -> float:
    """Return the decay of the EMA's update number `step`, counted from 0. It begins low, as little is averaged yet."""
    return min(decay, (1 + step) / (10 + step))
