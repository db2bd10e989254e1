"""Requests to stop a run."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError
from utils.signals import StopSignals

FROM_A_TERMINAL = (signal.SIGINT, signal.SIGHUP)
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, *FROM_A_TERMINAL)
DATA_S = 20.0  # that a step may still wait for data after a signal; Slurm kills after 30


class StopRequests(StopSignals):
    """A context manager for `touch RUN/STOP` and signals: the run finishes its step, saves and exits with 0.

    A second Ctrl-C or SIGHUP ends the process at once. A second SIGTERM does not: launchers pass on what the group got too.
    """

    def __init__(self, folder: Path):
        super().__init__(*SIGNALS, on_second=self._end_at_once)
        self.file = folder / "STOP"
        self._waiting = False

    def pending(self) -> bool:
        return self.requested() or self.file.exists()

    @contextmanager
    def while_waiting(self) -> Iterator[None]:
        """The block waits for data. It raises UserError if none has come DATA_S after a signal, as from a server that hangs."""
        before = signal.signal(signal.SIGALRM, self._give_up)
        self._waiting = True
        try:
            if self.requested():
                signal.setitimer(signal.ITIMER_REAL, DATA_S)
            yield
        finally:
            self._waiting = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _give_up(self, number, frame):
        raise UserError(
            f"stopped by {signal.Signals(self.number).name}: no data came for {DATA_S:g} s, so the step was not finished;"
            " the same command goes on from the last checkpoint"
        )

    def _on_signal(self, number, frame):
        if self.number is None and self._waiting:
            signal.setitimer(signal.ITIMER_REAL, DATA_S)
        super()._on_signal(number, frame)

    def _end_at_once(self, number: int) -> None:
        if number not in FROM_A_TERMINAL:
            return
        for process in multiprocessing.active_children():
            process.kill()
        os.write(2, b"stopped at once; the same command goes on from the last checkpoint\n")
        os._exit(128 + number)
