"""The loading of a rank's micro-batches, in processes beside the training process."""

import time
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from dataset.views import OrbitBatch, OrbitViews, collate
from training.stop import ignore_signals


def load_batches(views: OrbitViews, numbers: Iterator[list[int]], num_workers: int) -> Iterator[OrbitBatch]:
    """Yield the batches of sample `numbers`, from page-locked memory where there is a GPU.

    One iterator serves the whole run: its processes stay, and each keeps two batches ready. The loader is not `prepare`d:
    which rank computes which sample is for `Share` to say.
    """
    loader = DataLoader(
        views,
        batch_sampler=numbers,
        num_workers=num_workers,
        collate_fn=collate,
        worker_init_fn=ignore_signals,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def timed_next(batches: Iterator[OrbitBatch]) -> tuple[OrbitBatch, float]:
    """Return the next batch, and the seconds that the step waited for it."""
    started = time.perf_counter()
    orbits = next(batches)
    return orbits, time.perf_counter() - started
