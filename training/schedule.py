"""When things happen and how large an update is. These are pure functions of the step."""

import math

from utils.schemas import OptimSettings


def due(step: int, every: int) -> bool:
    """Return True at the multiples of `every`, and never if that is 0."""
    return every > 0 and step % every == 0


def lr_at(step: int, optim: OptimSettings, max_steps: int) -> float:
    """Return the learning rate of optimizer step `step`, of which 0 is the first.

    It rises linearly over `optim.warmup_steps`, then stays, or falls to 0 at `max_steps` along a line or half a cosine.
    """
    if step < optim.warmup_steps:
        return optim.learning_rate * (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, max_steps - optim.warmup_steps)
    factor = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[optim.schedule]
    return optim.learning_rate * factor


def ema_decay_at(step: int, decay: float, warmup: bool) -> float:
    """Return the average's decay in the update after `step` earlier ones: min(decay, (1 + step) / (10 + step)) with `warmup`.

    Without it, at a decay of 0.9999, the average is still nine tenths the base model after 1,000 steps.
    """
    return min(decay, (1 + step) / (10 + step)) if warmup else decay
