"""Checkpoints: RUN/checkpoints/step_XXXXXXX, complete or not there at all.

In one: `unet/` and `unet_ema/` (diffusers folders, fp32), the optimizer's state (`optimizer.pt`; under DeepSpeed `engine/` and each
rank's part of the average), and `meta.json` with the step, the config and the versions.
"""

import json
import os
import platform
import re
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from utils.config import Section, Train, UserError
from utils.ema import Ema
from utils.weights import full_weights, is_deepspeed

META = "meta.json"
ENGINE_TAG = "zero"
SaveUnet = Callable[[dict[str, Tensor], Path], None]


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
    try:
        return json.loads((checkpoint / META).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint / META}: cannot be read: {error}") from None


def changed_keys(saved: dict, cfg: Section) -> list[str]:
    """Keys whose value differs from the saved config's. Raises UserError for model.* and noise.* not in run.allow_changed."""
    now = cfg.model_dump(mode="json", by_alias=True)
    changed = [
        f"{section}.{key}"
        for section, keys in now.items()
        for key, value in keys.items()
        if section != "run" and saved.get(section, {}).get(key) != value
    ]
    refused = [key for key in changed if key.split(".")[0] in ("model", "noise") and key not in cfg.run.allow_changed]
    if refused:
        raise UserError(
            f"the checkpoint was trained with other values of {', '.join(refused)}:"
            " start a new run.name, or name these keys in run.allow_changed"
        )
    return changed


def check_engine(checkpoint: Path, accelerator: Accelerator) -> None:
    """Refuse an optimizer state of another engine, or of another number of ZeRO processes, before anything is loaded."""
    saved, now = read_meta(checkpoint)["engine"], engine(accelerator)
    same = saved["type"] == now["type"] and (now["type"] == "plain" or saved["num_processes"] == now["num_processes"])
    if not same:
        raise UserError(
            f"{checkpoint} was saved by {saved['num_processes']} process(es) under {saved['type']}, this is {now['num_processes']}"
            f" under {now['type']}: launch it as before, or start a new run.name from its weights with model.base={checkpoint}"
        )


def engine(accelerator: Accelerator) -> dict:
    """How the optimizer's state is cut: one process and DDP keep the same whole state, ZeRO a part per process."""
    stage = accelerator.state.deepspeed_plugin.zero_stage if is_deepspeed(accelerator) else None
    return {"type": "plain" if stage is None else f"ZeRO-{stage}", "num_processes": accelerator.num_processes}


def save_checkpoint(
    run_folder: Path,
    meta: dict,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer,
    ema: Ema,
    frozen: dict[str, Tensor],
    save_unet: SaveUnet,
) -> Path:
    """Collective. Written to a temporary folder, synced to disk, then renamed: at no moment is half a checkpoint in sight.

    `frozen`: the UNet's untrained weights (main process); `meta` needs `step`; `save_unet` writes a state dict as a UNet folder.
    """
    final = run_folder / "checkpoints" / f"step_{meta['step']:07d}"
    partial = final.with_name(f".saving_{final.name}")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    _save_weights(partial / "unet", accelerator, model, frozen, save_unet)
    with ema.in_place_of_masters():
        _save_weights(partial / "unet_ema", accelerator, model, frozen, save_unet)
    if is_deepspeed(accelerator):
        model.save_checkpoint(str(partial / "engine"), tag=ENGINE_TAG, exclude_frozen_parameters=True)
        save_file({str(i): part.contiguous() for i, part in enumerate(ema.parts)}, _ema_part(partial, accelerator))
    elif accelerator.is_main_process:
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        about = {"engine": engine(accelerator), "versions": _versions()}
        (partial / META).write_text(json.dumps(meta | about, indent=1) + "\n")
        _sync_to_disk(partial)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _sync_to_disk(final.parent, files=False)
    accelerator.wait_for_everyone()
    return final


def _save_weights(
    folder: Path, accelerator: Accelerator, model: nn.Module, frozen: dict[str, Tensor], save_unet: SaveUnet
) -> None:
    trained = {}
    for name, weight in full_weights(accelerator.unwrap_model(model), accelerator):
        if accelerator.is_main_process:
            trained[name] = weight.cpu()
    if accelerator.is_main_process:
        save_unet(frozen | trained, folder)


def load_checkpoint(checkpoint: Path, accelerator: Accelerator, model: nn.Module, optimizer, ema: Ema) -> None:
    """The optimizer's state and the average; the weights too under DeepSpeed (elsewhere the UNet was loaded from `unet/`)."""
    if is_deepspeed(accelerator):
        with _weights_only_unpickling():
            model.load_checkpoint(str(checkpoint / "engine"), tag=ENGINE_TAG, load_module_strict=False)
        parts = load_file(_ema_part(checkpoint, accelerator))
        ema.load([parts[str(i)] for i in range(len(parts))])
        return
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True))
    saved = load_unet_weights(checkpoint / "unet_ema")
    names = [name for name, parameter in accelerator.unwrap_model(model).named_parameters() if parameter.requires_grad]
    ema.load([saved[name] for name in names])


def load_unet_weights(folder: Path) -> dict[str, Tensor]:
    """The state dict of a UNet folder, in one file or several."""
    return {name: weight for file in sorted(folder.glob("*.safetensors")) for name, weight in load_file(file).items()}


def _ema_part(checkpoint: Path, accelerator: Accelerator) -> Path:
    return checkpoint / f"ema_rank_{accelerator.process_index:05d}.safetensors"


class _weights_only_unpickling:
    """DeepSpeed loads with weights_only=False; within, torch overrides it, so that a checkpoint cannot carry code."""

    def __enter__(self):
        from deepspeed.runtime.fp16.loss_scaler import LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address

        torch.serialization.add_safe_globals([fragment_address, LossScaler, ZeroStageEnum])
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"

    def __exit__(self, *_):
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]


def prune(run_folder: Path, train: Train) -> None:
    """Keep the `keep_last` newest checkpoints and those at multiples of `keep_every_steps`; remove torsos of earlier saves."""
    for torso in (run_folder / "checkpoints").glob(".*_step_*"):
        shutil.rmtree(torso)
    for checkpoint in checkpoints(run_folder)[: -train.keep_last]:
        step = int(checkpoint.name.removeprefix("step_"))
        if not (train.keep_every_steps and step % train.keep_every_steps == 0):
            hidden = checkpoint.rename(checkpoint.with_name(f".removing_{checkpoint.name}"))
            shutil.rmtree(hidden)


def _versions() -> dict[str, str]:
    packages = ("torch", "diffusers", "transformers", "accelerate", "deepspeed")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _sync_to_disk(folder: Path, files: bool = True) -> None:
    for path in [*(folder.rglob("*") if files else ()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
