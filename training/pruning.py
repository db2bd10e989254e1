"""Which checkpoints a run keeps."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.checkpoint import checkpoints
from training.step_folders import step_of
from utils.files import remove_folder, remove_unfinished
from utils.schemas import TrainSettings

log = logging.getLogger("svd_mv")


def prune(run_folder: Path, train: TrainSettings) -> None:
    """Keep the `keep_last` newest checkpoints and those at multiples of `keep_every_steps`."""
    with _only_warns(run_folder / "checkpoints"):
        remove_unfinished(run_folder / "checkpoints")
    for checkpoint in checkpoints(run_folder)[: -train.keep_last]:
        if not (train.keep_every_steps and step_of(checkpoint) % train.keep_every_steps == 0):
            with _only_warns(checkpoint):
                remove_folder(checkpoint)


@contextmanager
def _only_warns(folder: Path) -> Iterator[None]:
    """Log an OSError of removing `folder`, and go on: on NFS a folder is not empty while a process reads one of its files."""
    try:
        yield
    except OSError as error:
        log.warning(f"{folder}: cannot be removed: {error.strerror}; the next save tries again")
