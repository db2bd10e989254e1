"""Checkpoints: RUN/checkpoints/step_XXXXXXX, complete or not there at all.

In one: `unet/` and `unet_ema/` (diffusers folders, fp32), the optimizer's state (`optimizer.pt`; under DeepSpeed `engine/` and
each rank's part of the average), and `meta.json` with step, config, versions, and the checksum of every other file.
"""

import hashlib
import json
import os
import pickle
import platform
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.ema import Ema
from training.masters import full_weights, is_deepspeed
from utils.config import Section, to_json
from utils.errors import UserError
from utils.files import put_in_place, remove_folder, remove_unfinished, unfinished_path
from utils.schemas import TrainSettings

META = "meta.json"
META_KEYS = ("step", "samples", "window", "config", "engine", "files")
ENGINE_TAG = "zero"
FIXED_KEYS = ("optim.name", "model.train", "model.added_time_ids")  # the optimizer's state would not fit


@dataclass(frozen=True)
class Training:
    """What is trained, and what of it a checkpoint keeps."""

    accelerator: Accelerator
    unet: nn.Module  # inside `model`
    model: nn.Module  # as prepared: the one to call
    optimizer: torch.optim.Optimizer
    ema: Ema
    frozen: dict[str, Tensor]  # the UNet's untrained weights, fp32
    write_unet: Callable[[dict[str, Tensor], Path], None]  # a state dict -> a UNet folder


def checkpoints(run_folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = (run_folder / "checkpoints").glob("step_*")
    return sorted(path for path in found if re.fullmatch(r"step_\d{7,}", path.name) and (path / META).exists())


def find_checkpoint(run_folder: Path, cfg: Section) -> Path | None:
    """The checkpoint to go on from, None to start anew, as `run.resume` says. Raises UserError if they do not fit."""
    found = checkpoints(run_folder)
    if cfg.run.resume == "never" and found:
        raise UserError(f"run.resume=never, but {found[-1]} exists: choose another run.name, or remove it")
    if cfg.run.resume == "must" and not found:
        raise UserError(f"run.resume=must, but there is no checkpoint in {run_folder}/checkpoints")
    return found[-1] if found else None


def read_meta(checkpoint: Path) -> dict:
    """Raises UserError if it cannot be read, or does not say what a checkpoint says."""
    try:
        meta = json.loads((checkpoint / META).read_text())
    except (OSError, ValueError) as error:
        raise damaged(checkpoint, f"{META} cannot be read: {error}") from None
    missing = [key for key in META_KEYS if not isinstance(meta, dict) or key not in meta]
    if missing:
        raise damaged(checkpoint, f"{META} lacks {', '.join(missing)}")
    return meta


def damaged(checkpoint: Path, why: str) -> UserError:
    """The error of a checkpoint that must not be used, with the one to go on from instead."""
    earlier = [path for path in checkpoints(checkpoint.parent.parent) if path.name < checkpoint.name]
    way_on = f"remove it, and the same command goes on from {earlier[-1]}" if earlier else "there is no earlier one"
    return UserError(f"{checkpoint} is damaged: {why}; {way_on}")


def verify(checkpoint: Path, files: dict[str, str]) -> None:
    """Compare every file with its checksum in meta.json. Raises UserError naming the first that differs."""
    found = checksums(checkpoint)
    for name, expected in files.items():
        if name not in found:
            raise damaged(checkpoint, f"{name} is missing")
        if found[name] != expected:
            raise damaged(checkpoint, f"{name} is not what was saved (its checksum differs)")


def checksums(checkpoint: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file but meta.json; hashlib lets threads run side by side."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != META)
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_sha256, paths)
    return {path.relative_to(checkpoint).as_posix(): digest for path, digest in zip(paths, digests)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed_keys(saved: dict, cfg: Section) -> list[str]:
    """Keys whose value differs from the saved config's. Raises UserError for those that must not, or that nobody allowed."""
    changed = [
        f"{section}.{key}"
        for section, keys in to_json(cfg).items()
        for key, value in keys.items()
        if (section != "run" or key == "seed") and saved.get(section, {}).get(key) != value
    ]
    fixed = [key for key in changed if key in FIXED_KEYS]
    if fixed:
        raise UserError(
            f"the checkpoint's optimizer state does not fit other values of {', '.join(fixed)}:"
            " start a new run.name from its weights, with model.base=CHECKPOINT"
        )
    guarded = [key for key in changed if key.split(".")[0] in ("model", "noise", "run")]
    refused = [key for key in guarded if key not in cfg.run.allow_changed]
    if refused:
        raise UserError(
            f"the checkpoint was trained with other values of {', '.join(refused)}:"
            " start a new run.name, or name these keys in run.allow_changed"
        )
    return changed


def check_engine(checkpoint: Path, saved: dict, accelerator: Accelerator) -> None:
    """Refuse an optimizer state of another engine, or of another number of ZeRO processes, before anything is loaded."""
    now = engine(accelerator)
    if saved["type"] != now["type"] or (now["type"] != "plain" and saved["num_processes"] != now["num_processes"]):
        raise UserError(
            f"{checkpoint} was saved by {saved['num_processes']} process(es) under {saved['type']}, this is"
            f" {now['num_processes']} under {now['type']}: launch it as before, or start a new run.name from its weights"
            f" with model.base={checkpoint}"
        )


def engine(accelerator: Accelerator) -> dict:
    """How the optimizer's state is cut: one process and DDP keep the same whole state, ZeRO a part per process."""
    stage = accelerator.state.deepspeed_plugin.zero_stage if is_deepspeed(accelerator) else None
    return {"type": "plain" if stage is None else f"ZeRO-{stage}", "num_processes": accelerator.num_processes}


def save_checkpoint(run_folder: Path, meta: dict, training: Training) -> Path:
    """Collective. Written to an unfinished folder, which then takes its name: at no moment is half a checkpoint in sight.

    `meta`: step, samples, window, config. Raises UserError if it cannot be written; earlier checkpoints stay.
    """
    final = run_folder / "checkpoints" / f"step_{meta['step']:07d}"
    main, accelerator = training.accelerator.is_main_process, training.accelerator
    unfinished = Path(broadcast_object_list([str(unfinished_path(final))])[0])
    try:
        if main:
            unfinished.mkdir(parents=True)
        accelerator.wait_for_everyone()
        _write_state(unfinished, training)
        accelerator.wait_for_everyone()
        if main:
            about = {"engine": engine(accelerator), "versions": _versions(), "files": checksums(unfinished)}
            (unfinished / META).write_text(json.dumps(meta | about, indent=1) + "\n")
            put_in_place(unfinished, final)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save says RuntimeError of a full disk
        kept = checkpoints(run_folder)
        last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        raise UserError(f"{final}: cannot be saved: {str(error).splitlines()[0]}; {last}") from error
    accelerator.wait_for_everyone()
    return final


def _write_state(folder: Path, training: Training) -> None:
    _write_weights(folder / "unet", training)
    with training.ema.in_place_of_masters():
        _write_weights(folder / "unet_ema", training)
    if is_deepspeed(training.accelerator):
        training.model.save_checkpoint(str(folder / "engine"), tag=ENGINE_TAG, exclude_frozen_parameters=True)
        parts = {str(i): part.contiguous() for i, part in enumerate(training.ema.parts)}
        save_file(parts, _ema_part(folder, training.accelerator))
    elif training.accelerator.is_main_process:
        torch.save(training.optimizer.state_dict(), folder / "optimizer.pt")


def _write_weights(folder: Path, training: Training) -> None:
    trained = {}
    for name, weight in full_weights(training.unet, training.accelerator):
        if training.accelerator.is_main_process:
            trained[name] = weight.to("cpu", copy=True)  # ZeRO hands out views of larger buffers
    if training.accelerator.is_main_process:
        training.write_unet(training.frozen | trained, folder)


def load_checkpoint(checkpoint: Path, training: Training) -> None:
    """The optimizer's state and the average; the weights too under DeepSpeed (elsewhere the UNet was loaded from `unet/`).

    Raises UserError if a file is damaged, or is a pickle that would run code.
    """
    try:
        if is_deepspeed(training.accelerator):
            with _weights_only_unpickling():
                path, _ = training.model.load_checkpoint(
                    str(checkpoint / "engine"), tag=ENGINE_TAG, load_module_strict=False
                )
            if path is None:
                raise damaged(checkpoint, "DeepSpeed found no state in engine/")
            parts = load_file(_ema_part(checkpoint, training.accelerator))
            training.ema.load([parts[str(i)] for i in range(len(parts))])
            return
        state = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
        training.optimizer.load_state_dict(state)
        saved = load_unet_weights(checkpoint / "unet_ema")
        names = [name for name, parameter in training.unet.named_parameters() if parameter.requires_grad]
        training.ema.load([saved[name] for name in names])
    except pickle.UnpicklingError as error:
        raise damaged(checkpoint, f"a pickle in it is refused: {_why_refused(error)}") from None
    except (OSError, EOFError, KeyError, SafetensorError) as error:
        raise damaged(checkpoint, str(error).splitlines()[0]) from None


def _why_refused(error: Exception) -> str:
    name = re.search(r"GLOBAL (\S+)", str(error))
    return f"it would run {name[1]}" if name else "it holds more than numbers"


def load_unet_weights(folder: Path) -> dict[str, Tensor]:
    """The state dict of a UNet folder, in one file or several."""
    return {name: weight for file in sorted(folder.glob("*.safetensors")) for name, weight in load_file(file).items()}


def _ema_part(checkpoint: Path, accelerator: Accelerator) -> Path:
    return checkpoint / f"ema_rank_{accelerator.process_index:05d}.safetensors"


@contextmanager
def _weights_only_unpickling() -> Iterator[None]:
    """DeepSpeed loads with weights_only=False; within, torch overrides it, so that a checkpoint cannot carry code."""
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


def prune(run_folder: Path, train: TrainSettings) -> None:
    """Keep the `keep_last` newest checkpoints and those at multiples of `keep_every_steps`."""
    remove_unfinished(run_folder / "checkpoints")
    for checkpoint in checkpoints(run_folder)[: -train.keep_last]:
        step = int(checkpoint.name.removeprefix("step_"))
        if not (train.keep_every_steps and step % train.keep_every_steps == 0):
            remove_folder(checkpoint)


def _versions() -> dict[str, str]:
    packages = ("torch", "diffusers", "transformers", "accelerate", "deepspeed")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
