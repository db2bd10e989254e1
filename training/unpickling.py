"""Reading pickles that anyone may have written: they hold tensors and plain values, or they are refused; they never run code."""

import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from utils.errors import UserError, cut, first_line


def read_pickle(path: Path) -> object:
    """Return what torch.save wrote, on the CPU. Tensors are mapped from the file, so nothing is read before it is used.

    Raises UserError naming the file. Under DeepSpeed call it within `weights_only_unpickling`, which knows its classes.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path.name}: a pickle in it is refused: {_why_refused(error)}") from None
    except MemoryError:
        raise
    except Exception as error:  # unpickling raises anything on hostile data
        raise UserError(f"{path.name}: cannot be read: {cut(first_line(error))}") from None


def _why_refused(error: Exception) -> str:
    name = re.search(r"GLOBAL (\S+)", str(error))
    return f"it would run {name[1]}" if name else "it holds more than numbers"


@contextmanager
def weights_only_unpickling() -> Iterator[None]:
    """Have torch override the weights_only=False that DeepSpeed loads with, and let it read DeepSpeed's three classes."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals([fragment_address, LossScaler, ZeroStageEnum]):
            yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
