"""The loading of a rank's micro-batches, in processes beside the training process that end with it."""

import ctypes
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.process import BaseProcess

import torch
from torch.utils.data import DataLoader, Dataset

from dataset.views import OrbitBatch, collate
from training.stop import FROM_A_TERMINAL, SIGNALS

PR_SET_PDEATHSIG = 1  # of Linux's prctl


@contextmanager
def load_batches(views: Dataset, numbers: Iterator[list[int]], num_workers: int) -> Iterator[Iterator[OrbitBatch]]:
    """Give the batches of sample `numbers`, from page-locked memory where there is a GPU, until the block ends.

    One iterator serves the whole run: its processes stay, and each keeps two batches ready. The loader is not `prepare`d:
    which rank computes which sample is for `Share` to say.
    """
    loader = DataLoader(
        views,
        batch_sampler=numbers,
        num_workers=num_workers,
        collate_fn=collate,
        worker_init_fn=begin_loading,
        multiprocessing_context=start_method(num_workers),
        pin_memory=torch.cuda.is_available(),
    )
    others = set(multiprocessing.active_children())
    batches = iter(loader)
    processes = set(multiprocessing.active_children()) - others
    try:
        yield batches
    finally:
        end_processes(processes)


def start_method(num_workers: int) -> str | None:
    """Return how a DataLoader starts its processes, if it has any; None: as Python does.

    Python 3.14 starts them on Linux from a server of its own, which a signal to all of a run's processes would end.
    """
    return "fork" if num_workers and sys.platform == "linux" else None


def begin_loading(_: int) -> None:
    """In a loading process: leave signals to the training process, which gets them too, and die when it does."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_interrupts(_: int) -> None:
    """In a loading process that ends by SIGTERM: what a terminal sends is for the process that it loads for, which gets it too."""
    for number in FROM_A_TERMINAL:
        signal.signal(number, signal.SIG_IGN)


def end_processes(processes: set[BaseProcess]) -> None:
    """End processes with SIGKILL: they ignore SIGTERM and may hang in a read, and Python waits for them at its exit."""
    # The loader's own handler raises an error when one of them is killed.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def timed_next(batches: Iterator[OrbitBatch], waiting: AbstractContextManager) -> tuple[OrbitBatch, float]:
    """Return the next batch, and the seconds that the step waited for it, inside `waiting`."""
    started = time.perf_counter()
    with waiting:
        orbits = next(batches)
    return orbits, time.perf_counter() - started
