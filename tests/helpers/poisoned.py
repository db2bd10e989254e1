"""This is `main.py`, but in its third micro-step rank 1 has a loss, or a gradient, that is not finite: POISON=loss | gradient."""

import os
import sys
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import commands.train
import main

objective = commands.train.denoising_loss
calls = count(1)


def poisoned(unet, *arguments):
    losses = objective(unet, *arguments)
    if int(os.environ["RANK"]) == 1 and next(calls) == 3:
        # The square root of 0 is finite, but its slope is not.
        return losses * float("nan") if os.environ["POISON"] == "loss" else losses + (losses * 0).abs().sqrt()
    return losses


commands.train.denoising_loss = poisoned
sys.exit(main.main(sys.argv[1:]))
