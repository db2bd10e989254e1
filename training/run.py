"""A run's surroundings: the Accelerator under any launcher, the run folder and its log, and requests to stop."""

import logging
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, broadcast_object_list, gather_object
from tqdm import tqdm

from training.masters import is_deepspeed
from utils.config import Section, to_yaml
from utils.errors import UserError
from utils.schemas import OptimSettings, RunSettings, TrainSettings

log = logging.getLogger("svd_mv")
PATIENCE = timedelta(hours=2)  # of ranks that wait for the first one to download a base or to save


def make_accelerator(train: TrainSettings, optim: OptimSettings) -> Accelerator:
    """The Accelerator of the launcher that started us, to train with. The YAML's batch, accumulation and clip value rule."""
    accelerator = launched_accelerator(gradient_accumulation_steps=train.grad_accum_steps)
    if is_deepspeed(accelerator):
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        settings["gradient_clipping"] = optim.max_grad_norm
        settings["gradient_accumulation_steps"] = train.grad_accum_steps
        settings["train_micro_batch_size_per_gpu"] = train.batch_size
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        # Otherwise an offloaded optimizer is exchanged for DeepSpeed's own Adam, without our betas.
        settings["zero_force_ds_cpu_optimizer"] = False
    return accelerator


def launched_accelerator(**settings) -> Accelerator:
    """The Accelerator of the launcher that started us, on the CPU where there is no GPU.

    Raises UserError where processes were asked for that do not run or would not synchronise, and for fp16.
    """
    on_cpu = not torch.cuda.is_available()
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"
    _check_processes_asked_for()
    backend = {"backend": "gloo"} if on_cpu and deepspeed else {}
    accelerator = Accelerator(
        cpu=on_cpu and not deepspeed,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE, **backend)],
        **settings,
    )
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise UserError(
            f"mixed_precision {accelerator.mixed_precision} of the launch file is not supported: use bf16 or no"
        )
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and accelerator.distributed_type == DistributedType.NO:
        raise UserError(
            "several processes were started, but they would not synchronise their gradients: see accelerate_config/"
        )
    if is_deepspeed(accelerator):
        # transformers looks for this object, and under ZeRO-3 would divide CLIP, which is not trained and needs no engine.
        accelerator.state.deepspeed_plugin.dschf = None
    return accelerator


def _check_processes_asked_for() -> None:
    """Refuse to go on when `accelerate launch` was asked for several processes and silently started one (MULTI_CPU)."""
    import psutil
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    try:
        parent = psutil.Process().parent()
        words = parent.cmdline() if parent else []
    except psutil.Error:  # it has gone, or is not ours to look at
        return
    names = ("launch", "launch.py", "accelerate-launch", "accelerate.commands.launch")
    launch = next((i for i, word in enumerate(words) if Path(word).name in names), None)
    if launch is None or "WORLD_SIZE" in os.environ or not any("accelerate" in word for word in words[: launch + 1]):
        return
    asked = launch_command_parser().parse_args(words[launch + 1 :])
    num_processes, config_file = asked.num_processes, asked.config_file or default_config_file
    if num_processes is None and Path(config_file).is_file():
        num_processes = load_config_from_file(config_file).num_processes
    if (num_processes or 1) > 1:
        raise UserError(
            f"{num_processes} processes were asked for, but accelerate started one:"
            " use distributed_type MULTI_GPU (with use_cpu: true on a CPU, as accelerate_config/cpu.yaml), not MULTI_CPU"
        )


def run_folder(run: RunSettings) -> Path:
    return Path(run.dir, run.name)


def open_run(run: RunSettings, accelerator: Accelerator) -> Path:
    """Make the run folder and its run.log, and return it. Raises UserError if it cannot be written, or is not shared."""
    folder = run_folder(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if accelerator.is_main_process:
            (folder / "STOP").unlink(missing_ok=True)
            _log_to(folder / "run.log")
        _check_shared(folder, accelerator)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    log.setLevel(logging.INFO if accelerator.is_main_process else logging.WARNING)
    return folder


def _check_shared(folder: Path, accelerator: Accelerator) -> None:
    """Every rank must see what the first one writes: checkpoints of several machines are one folder."""
    if accelerator.num_processes == 1:
        return
    name = broadcast_object_list([f".shared_{os.getpid()}_{time.time_ns()}"])[0]
    if accelerator.is_main_process:
        (folder / name).touch()
    accelerator.wait_for_everyone()
    unseen = any_rank(accelerator, not (folder / name).exists())
    if accelerator.is_main_process:
        (folder / name).unlink()
    if unseen:
        raise UserError(f"{folder} is not the same folder on all machines: run.dir must be on a shared file system")


def write_config(cfg: Section, folder: Path) -> None:
    """RUN/config.yaml: the resolved config."""
    try:
        with open(folder / "config.yaml", "w", encoding="utf-8") as file:
            to_yaml(cfg, file)
    except OSError as error:
        raise UserError(f"{folder / 'config.yaml'}: cannot be written: {error.strerror}") from None


class _Console(logging.Handler):
    """Lines to stdout, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)


def _log_to(path: Path) -> None:
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    for handler in (_Console(), logging.FileHandler(path)):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
    log.propagate = False


class StopRequests:
    """`touch RUN/STOP`, SIGTERM or SIGUSR1: finish the step, save, exit 0. A context manager that leaves handlers as found."""

    def __init__(self, folder: Path):
        self.file, self.signalled = folder / "STOP", False

    def __enter__(self):
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGUSR1)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number, frame):
        self.signalled = True

    def pending(self) -> bool:
        return self.signalled or self.file.exists()


def ignore_signals(_: int) -> None:
    """In a loading process: a signal to the whole process group is for the training process, which then ends this one."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def any_rank(accelerator: Accelerator, flag: bool) -> bool:
    """True on all ranks if it is true on any: one small all-reduce, so that all decide alike."""
    if accelerator.num_processes == 1:
        return flag
    count = torch.tensor(float(flag), device=accelerator.device)
    return bool(accelerator.reduce(count, reduction="sum") > 0)


def gather_objects(items: list) -> list:
    """The items of all ranks in the order of the ranks, on every rank. Collective."""
    return gather_object(items)
