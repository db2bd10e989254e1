"""What to try when memory runs out, and how much was used."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.errors import UserError

ADVICE = (
    "try train.batch_size=1 with more train.grad_accum_steps, model.gradient_checkpointing=true, model.train=temporal (or"
    " attention, or lora), train.ema_device=cpu,"
    " or a launch file that divides the optimizer, or keeps it in the CPU's memory, of which that takes 40 GiB"
    " for the full UNet (accelerate_config/deepspeed_zero_2_offload.yaml)"
)


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Raise UserError with advice, in one line, where memory runs out."""
    try:
        yield
    # torch.OutOfMemoryError is a RuntimeError; on a CPU torch has no class of its own for it.
    except (RuntimeError, MemoryError) as error:
        on_cpu = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
        if not (on_cpu or isinstance(error, torch.OutOfMemoryError)):
            raise
        what = str(error).partition("\n")[0][:200]
        raise UserError(f"out of memory ({what}): {ADVICE}") from error


def memory_peaks(device: torch.device) -> dict[str, float]:
    """Return peak_memory_gib and, of a GPU, what its allocator held at most: what runs out, with the holes between blocks."""
    peaks = {"peak_memory_gib": peak_memory_gib(device)}
    if device.type == "cuda":
        peaks["peak_memory_reserved_gib"] = torch.cuda.max_memory_reserved(device) / 2**30
    return peaks


def peak_memory_gib(device: torch.device) -> float:
    """Return the highest memory use since the start: the GPU's, or this process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
