"""The run folder, RUN = run.dir/run.name: opened, seen by all machines, with its log and its config."""

import errno
import fcntl
import glob
import io
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from training.launch import any_rank, describe_launch
from training.masters import is_deepspeed
from utils.config import Section, to_yaml
from utils.errors import UserError, drop_output
from utils.files import write_atomically
from utils.schemas import RunSettings

log = logging.getLogger("svd_mv")
LOCK = ".lock"


def run_folder(run: RunSettings) -> Path:
    return Path(run.dir, run.name)


@contextmanager
def open_run(run: RunSettings, accelerator: Accelerator) -> Iterator[Path]:
    """Make the run folder and its run.log, and give the folder, in which no other training may be until the block ends.

    Raises UserError, on every rank, if another one is at it, if it cannot be written, or if it is not shared.
    """
    folder = run_folder(run)
    if is_deepspeed(accelerator) and glob.has_magic(run.dir):
        raise UserError(f"run.dir={run.dir}: DeepSpeed finds no checkpoint in a folder with [, * or ? in its name")
    lock = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if accelerator.is_main_process:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        [taken] = any_rank(accelerator, lock is not None and not _lock(lock))
        if taken:
            raise UserError(f"{folder}: another training is at this run: stop it first, or choose another run.name")
        if accelerator.is_main_process:
            (folder / "STOP").unlink(missing_ok=True)
            _log_to(folder / "run.log")
        _check_shared(folder, accelerator)
        log.setLevel(logging.INFO if accelerator.is_main_process else logging.WARNING)
        log.info(describe_launch(accelerator))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        yield folder
    finally:
        if lock is not None:
            os.close(lock)


def _lock(lock: int) -> bool:
    """Take the kernel's lock on an open file, which ends with this process however it ends; False if another one has it.

    It holds between machines that share the file system. One that knows no locks is trusted to have no second training.
    """
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def _check_shared(folder: Path, accelerator: Accelerator) -> None:
    """Raise UserError if a rank does not see what the first one writes: the checkpoints of several machines are one folder."""
    if accelerator.num_processes == 1:
        return
    name = broadcast_object_list([f".shared_{os.getpid()}_{time.time_ns()}"])[0]
    if accelerator.is_main_process:
        (folder / name).touch()
    accelerator.wait_for_everyone()
    [unseen] = any_rank(accelerator, not (folder / name).exists())
    if accelerator.is_main_process:
        (folder / name).unlink()
    if unseen:
        raise UserError(f"{folder} is not the same folder on all machines: run.dir must be on a shared file system")


def write_config(cfg: Section, folder: Path) -> None:
    """Write RUN/config.yaml, the resolved config."""
    text = io.StringIO()
    to_yaml(cfg, text)
    try:
        write_atomically(folder / "config.yaml", text.getvalue())
    except OSError as error:
        raise UserError(f"{folder / 'config.yaml'}: cannot be written: {error.strerror}") from None


class _Console(logging.Handler):
    """Writes lines to stdout, above the progress bar if there is one. A run goes on when nobody reads them any more."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except OSError:
            drop_output()


class _RunLog(logging.FileHandler):
    """Writes lines to run.log. Where that fails, as on a full disk, it says so once; the lines are on the terminal too."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.failed:
            self.failed = True
            print(f"warning: {self.baseFilename}: cannot be written: {sys.exc_info()[1]}", file=sys.stderr)


def _log_to(path: Path) -> None:
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    for handler in (_Console(), _RunLog(path)):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        log.addHandler(handler)
    log.propagate = False
