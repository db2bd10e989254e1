"""Work that is divided among processes of one machine."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(work: Callable[[Item], Result], items: Iterable[Item], num_processes: int) -> Iterator[Result]:
    """Yield work(item) for each item, in their order; with one process in ours. Raises BrokenProcessPool if another one dies."""
    if num_processes == 1:
        yield from map(work, items)
        return
    # Spawned, not forked: our process may have threads.
    with ProcessPoolExecutor(num_processes, get_context("spawn"), _end_with_parent) as pool:
        try:
            yield from pool.map(work, items)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it ends, by SIGKILL too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
