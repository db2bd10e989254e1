"""This is `main.py`, but it is killed as its first validation is told to the trackers.

The environment's KILLED says when: before the row of numbers is written, or after.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import main
from training.trackers import Trackers

original = Trackers.scalars


def scalars(self, step, values):
    is_val = any(name.startswith("val/") for name in values)
    if not is_val or os.environ["KILLED"] == "after":
        original(self, step, values)
    if is_val:
        os.kill(os.getpid(), signal.SIGKILL)


Trackers.scalars = scalars
sys.exit(main.main(sys.argv[1:]))
