"""Requests to stop a run, and what ends with it."""

import signal
from pathlib import Path

from utils.signals import StopSignals

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequests(StopSignals):
    """A context manager for `touch RUN/STOP`, SIGTERM and SIGUSR1: the run finishes its step, saves and exits with 0."""

    def __init__(self, folder: Path):
        super().__init__(*SIGNALS)
        self.file = folder / "STOP"

    def pending(self) -> bool:
        return self.requested() or self.file.exists()


def ignore_signals(_: int) -> None:
    """In a loading process: a signal to the whole process group is for the training process, which then ends this one."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
