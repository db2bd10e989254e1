"""This is `main.py`, but it crashes on the first rank in its second step.

The environment's LOADER says what its loading processes do meanwhile: idle, busy, or stuck in a read. With stuck-only it
does not crash, but waits for the stuck processes.
"""

import os
import sys
import time
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import commands.train
import main
from dataset.views import OrbitViews

loader = os.environ["LOADER"]
original_item = OrbitViews.__getitem__
original_loss = commands.train.denoising_loss
calls = count(1)


def item(self, n: int):
    if loader == "busy" and n >= 4:
        end = time.monotonic() + 3600
        while time.monotonic() < end:
            pass
    if loader.startswith("stuck") and n >= 4:
        print("STUCK", flush=True)
        os.read(os.pipe()[0], 1)
    return original_item(self, n)


def loss(*arguments):
    if next(calls) == 2 and loader != "stuck-only" and os.environ.get("RANK", "0") == "0":
        time.sleep(2)  # by then the loading processes are where they should be
        print("CRASHING", flush=True)
        raise KeyError("a crash in a step")
    return original_loss(*arguments)


OrbitViews.__getitem__ = item
commands.train.denoising_loss = loss
sys.exit(main.main(sys.argv[1:]))
