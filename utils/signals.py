"""Signals that ask a program to stop. A command that can stop well only notes them, and elsewhere they are an error like Ctrl-C."""

import os
import signal
import stat
import sys
import time
from collections.abc import Callable

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AT_ONCE_S = 0.2  # within which two signals are one: a closing terminal and launchers send them twice


class StopSignals:
    """A context manager that notes the first of its signals in `number`, and leaves the handlers as it found them.

    Each later signal calls `on_second(number)`, but not one that comes within AT_ONCE_S of the first. A signal that was ignored
    stays so, as SIGHUP is under nohup.
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
        if number == signal.SIGHUP:
            leave_terminal()
        if self.number is None:
            self.number, self._noted = number, time.monotonic()
        elif self._on_second is not None and time.monotonic() - self._noted >= AT_ONCE_S:
            self._on_second(number)

    def requested(self) -> bool:
        return self.number is not None


class Interrupted(KeyboardInterrupt):
    """A signal asks the program to end. On its way up, this error passes all who remove what they leave unfinished."""

    def __init__(self, number: int = signal.SIGINT):
        super().__init__(number)
        self.number = number


class Interrupts(StopSignals):
    """A context manager in which SIGINT, SIGTERM and SIGHUP raise Interrupted, once. A second one ends the process at once.

    After a signal the handlers stay beyond the block, since the program is ending then.
    """

    def __init__(self):
        super().__init__(*STOPPING, on_second=end_at_once)

    def __exit__(self, *_):
        if self.number is None:
            super().__exit__()

    def _on_signal(self, number, frame):
        first = self.number is None
        super()._on_signal(number, frame)
        if first:
            raise Interrupted(number)


def end_at_once(number: int) -> None:
    os._exit(128 + number)


def leave_terminal() -> None:
    """Print to nowhere from now on: writing to a terminal that has closed is an error, which would end the run."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):  # None: it was closed from the start
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
