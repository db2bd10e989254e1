"""How far a long command is: a bar where there is a terminal, and a line a minute where there is none."""

import sys
import time

from tqdm import tqdm

LINE_EVERY_S = 60


def minutes_left(started: float, done: int, total: int) -> float:
    """Return how long the rest takes if it goes on as since `started`, a time of time.monotonic()."""
    return (time.monotonic() - started) / done * (total - done) / 60


class Progress:
    """A context manager. `what` is the plural of what is counted."""

    def __init__(self, total: int, what: str, done: int = 0):
        self.what = what
        self._bar = tqdm(total=total, initial=done, unit=what.removesuffix("s"), disable=not sys.stderr.isatty())
        self._done = done
        self._printed = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def advance(self, count: int = 1) -> None:
        self._bar.update(count)
        self._done += count
        if self._bar.disable and time.monotonic() - self._printed > LINE_EVERY_S:
            self._printed = time.monotonic()
            self.say(f"{self._done} of {self._bar.total} {self.what}")

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar.disable:
            print(line, flush=True)
        else:
            tqdm.write(line)
