"""The Accelerator of whatever launcher started us, and how its ranks agree. The other rooms take both from here."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor

from training.launch_file import computes_in_bf16
from training.masters import is_deepspeed
from utils.errors import UserError
from utils.schemas import OptimSettings, TrainSettings

# How long ranks wait for the first one to download a base or to save.
PATIENCE = timedelta(hours=2)
T = TypeVar("T")


def make_accelerator(train: TrainSettings, optim: OptimSettings) -> Accelerator:
    """Return the Accelerator to train with. The YAML's batch size, accumulation and clip value rule, not the launch file's."""
    accelerator = launched_accelerator(gradient_accumulation_steps=train.grad_accum_steps)
    if is_deepspeed(accelerator):
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        refuse_unsafe_settings(settings)
        settings["gradient_clipping"] = optim.max_grad_norm
        settings["gradient_accumulation_steps"] = train.grad_accum_steps
        settings["train_micro_batch_size_per_gpu"] = train.batch_size
        settings["train_batch_size"] = "auto"
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        # Otherwise an offloaded optimizer is exchanged for DeepSpeed's own Adam, without our betas.
        settings["zero_force_ds_cpu_optimizer"] = False
    return accelerator


# Switches of a DeepSpeed config that only one value is safe of, and why. In 0.19.8 ZeRO-2 looks at a bf16 gradient, and at its
# norm, only where check_grad_overflow is true: without it the weights are changed by what is not finite. ZeRO-3 always looks.
SAFE_SWITCHES = {
    ("bf16", "check_grad_overflow"): (True, "a gradient that is not finite would change the weights"),
    ("bfloat16", "check_grad_overflow"): (True, "a gradient that is not finite would change the weights"),
    ("zero_optimization", "compute_grad_norm"): (True, "the gradient could not be clipped or checked"),
    ("zero_optimization", "elastic_checkpoint"): (False, "its checkpoints have another form, which is not read here"),
}


def refuse_unsafe_settings(deepspeed_config: dict) -> None:
    """Raise UserError for what in the launch file's DeepSpeed config would break a promise of a run."""
    for section in ("optimizer", "scheduler"):
        if section in deepspeed_config:
            raise UserError(f"{section} of the DeepSpeed config must be left out: optim.* of the YAML rules")
    for (section, key), (safe, why) in SAFE_SWITCHES.items():
        keys = deepspeed_config.get(section)
        if isinstance(keys, dict) and keys.get(key, safe) is not safe:
            raise UserError(f"{section}.{key} of the DeepSpeed config must be {str(safe).lower()}: {why}")


def launched_accelerator(**settings) -> Accelerator:
    """Return the Accelerator of the launcher that started us, on the CPU where there is no GPU.

    Raises UserError where several processes would not synchronise, and for fp16.
    """
    grow_segments()
    on_cpu = not torch.cuda.is_available()
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"
    backend = {"backend": "gloo"} if on_cpu and deepspeed else {}
    accelerator = Accelerator(
        cpu=on_cpu and not deepspeed,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=PATIENCE, **backend),
            # DDP reduces the gradients where they are, without a second copy of them: 6.1 GB of the full UNet's.
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        ],
        **settings,
    )
    computes_in_bf16(accelerator.mixed_precision)  # or raises
    refuse_other_engines(accelerator)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and accelerator.distributed_type == DistributedType.NO:
        raise UserError(
            "several processes were started, but they would not synchronise their gradients: see accelerate_config/"
        )
    if is_deepspeed(accelerator):
        # transformers looks for this object, and under ZeRO-3 would divide CLIP, which is not trained and needs no engine.
        accelerator.state.deepspeed_plugin.dschf = None
    return accelerator


def refuse_other_engines(accelerator: Accelerator) -> None:
    """Raise UserError for an engine whose weights are divided in a way that saving, loading and the average know nothing of."""
    name = accelerator.distributed_type.value
    if name in ("FSDP", "MEGATRON_LM", "XLA"):
        raise UserError(f"distributed_type {name} of the launch file is not supported: see accelerate_config/")
    if is_deepspeed(accelerator) and accelerator.state.deepspeed_plugin.zero_stage == 0:
        raise UserError(
            "zero_stage 0 of the launch file is not supported: use 1, 2 or 3, or accelerate_config/multi_gpu.yaml"
        )


def grow_segments() -> None:
    """Have torch's GPU allocator grow its segments, so that blocks of many sizes leave fewer holes.

    It reads the environment at its first allocation. What is set there already, under either name, rules.
    """
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def engine(accelerator: Accelerator) -> dict:
    """Say how the optimizer's state is divided: one process and DDP keep the same whole state, ZeRO a part per process.

    The precision is that of ZeRO only, whose files depend on it.
    """
    about = {"type": "plain", "num_processes": accelerator.num_processes, "mixed_precision": None}
    if is_deepspeed(accelerator):
        about["type"] = f"ZeRO-{accelerator.state.deepspeed_plugin.zero_stage}"
        about["mixed_precision"] = accelerator.mixed_precision
    return about


def describe_launch(accelerator: Accelerator) -> str:
    """Return a line for the log. It shows how many processes really run: `accelerate launch` with MULTI_CPU starts only one."""
    count = accelerator.num_processes
    name = engine(accelerator)["type"] if is_deepspeed(accelerator) else "DDP" if count > 1 else "no engine"
    processes = "1 process trains" if count == 1 else f"{count} processes train"
    return f"{processes}, under {name}, on {accelerator.device.type}, mixed precision {accelerator.mixed_precision}"


def any_rank(accelerator: Accelerator, *flags: bool | Tensor) -> list[bool]:
    """Return, for each flag, whether it is true on any rank, so that all ranks decide alike. Collective.

    It takes one small all-reduce and one wait for the device. A flag may be a tensor on the device.
    """
    device = accelerator.device
    counts = [
        flag.float() if isinstance(flag, Tensor) else torch.full((), float(flag), device=device) for flag in flags
    ]
    together = torch.stack(counts)
    if accelerator.num_processes > 1:
        together = accelerator.reduce(together, reduction="sum")
    return [count > 0 for count in together.tolist()]


def gather_objects(items: list) -> list:
    """Return the items of all ranks in the order of the ranks, on every rank. Collective."""
    return gather_object(items)


def from_first_rank(accelerator: Accelerator, compute: Callable[[], T]) -> T:
    """Return on every rank what `compute` returns on the first one, or raise its UserError or OSError. Collective."""
    outcome: list = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = compute()
        except (UserError, OSError) as error:
            outcome[1] = error
    value, failure = broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    return value


def hide_bar(accelerator: Accelerator) -> bool:
    """Return whether a progress bar would disturb: on all ranks but the first, and where nobody looks at a terminal."""
    return not (accelerator.is_main_process and sys.stderr.isatty())
