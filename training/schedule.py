"""When things happen and how large a step is: pure functions of the step."""

import math

from utils.schemas import OptimSettings


def due(step: int, every: int) -> bool:
    """True at the multiples of `every`; never when it is 0."""
    return every > 0 and step % every == 0


def lr_at(step: int, optim: OptimSettings, max_steps: int) -> float:
    """The learning rate of optimizer step `step` (0 is the first): linear warm-up, then constant, cosine or linear to 0."""
    if step < optim.warmup_steps:
        return optim.learning_rate * (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, max_steps - optim.warmup_steps)
    factor = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[optim.schedule]
    return optim.learning_rate * factor


def ema_decay_at(step: int, decay: float) -> float:
    """EMA decay of the update after `step` earlier ones: min(decay, (1 + step) / (10 + step)), so that it warms up."""
    return min(decay, (1 + step) / (10 + step))
