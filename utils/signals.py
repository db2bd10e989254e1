"""Signals that ask a program to stop. They are only noted: the program looks where it can stop well."""

import signal
from collections.abc import Callable


class StopSignals:
    """A context manager that notes the first of its signals in `number`, and leaves the handlers as it found them.

    Each further signal calls `on_second(number)`. A signal that was ignored stays so, as SIGHUP is under nohup.
    """

    def __init__(self, *numbers: int, on_second: Callable[[int], object] | None = None):
        self.number: int | None = None
        self._numbers = numbers
        self._on_second = on_second

    def __enter__(self):
        heeded = [number for number in self._numbers if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._on_signal) for number in heeded}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number, frame):
        if self.number is None:
            self.number = number
        elif self._on_second is not None:
            self._on_second(number)

    def requested(self) -> bool:
        return self.number is not None
