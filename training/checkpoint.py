"""Checkpoints: RUN/checkpoints/step_XXXXXXX, complete or not there at all.

In one: `unet/` and `unet_ema/` (diffusers folders, fp32), `lora/` and `lora_ema/` if an adapter is trained, which is merged into
them, the optimizer's state (`optimizer.pt`; under DeepSpeed `engine/` and
each rank's part of the average), and `meta.json` with step, config, versions, and the checksum of every other file.
"""

import hashlib
import json
import platform
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.lora import lora_scale, merge, read_adapter, save_adapter
from models.svd import save_unet
from training.launch import engine, gather_objects
from training.masters import full_weights, is_deepspeed
from training.meta import Meta
from training.optimizer import NUM_GROUPS
from training.optimizer_state import load_optimizer_state, read_optimizer_state, save_optimizer_state
from training.state import TrainState
from training.state_form import AtLeast, require_form
from training.step_folders import step_folder, step_folders, step_of
from utils.errors import UserError, first_line
from utils.files import put_in_place, unfinished_path, write_atomically
from utils.reading import read_json

META = "meta.json"
LATEST = "latest_checkpoint"  # in the run folder: the name of the newest one, to know of it when it is gone


def checkpoints(run_folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    return [path for path in step_folders(run_folder / "checkpoints") if (path / META).exists()]


def incomplete_checkpoints(run_folder: Path) -> list[Path]:
    """Return what has a checkpoint's name and no meta.json: saving cannot leave it behind, something else has happened to it."""
    return [path for path in step_folders(run_folder / "checkpoints") if not (path / META).exists()]


def read_meta(checkpoint: Path) -> dict:
    """Return what meta.json says. Raises UserError if it cannot be read, or does not say what a checkpoint says."""
    try:
        meta = read_json(checkpoint / META, Meta).model_dump()
    except UserError as error:
        why = str(error).removeprefix(f"{checkpoint / META}: ")
        raise damaged(checkpoint, f"{META} is not one of a checkpoint: {why}") from None
    named = re.fullmatch(r"step_(\d{7,})", checkpoint.name)
    if named and int(named[1]) != meta["step"]:
        raise damaged(checkpoint, f"its {META} is of step {meta['step']}")
    return meta


def open_checkpoint(checkpoint: Path, part: str) -> dict:
    """Return what meta.json says, once the files of `part` (unet or unet_ema) are known to be those that were saved."""
    meta = read_meta(checkpoint)
    verify(checkpoint, meta["files"], part)
    return meta


def damaged(checkpoint: Path, why: str) -> UserError:
    """Return the error of a checkpoint that must not be used. It names the checkpoint to go on from instead."""
    of_this_run = checkpoints(checkpoint.parent.parent)
    earlier = of_this_run[: of_this_run.index(checkpoint)] if checkpoint in of_this_run else []
    way_on = f"remove it, and the same command goes on from {earlier[-1]}" if earlier else "there is no earlier one"
    return UserError(f"{checkpoint} is damaged: {why}; {way_on}")


def misfit(checkpoint: Path, why: str) -> UserError:
    """Return the error of a checkpoint under DeepSpeed, whose config decides on the form of what is saved."""
    return UserError(
        f"{checkpoint} does not fit: {why}. If the DeepSpeed config has changed, launch it as before. Otherwise start a new"
        f" run.name from its weights with model.base={checkpoint}"
    )


def verify(
    folder: Path, files: dict[str, str], part: str = "", error: Callable[[Path, str], UserError] = damaged
) -> None:
    """Compare the files of `part`, or all files, with their checksums. Raises `error` naming the first that differs.

    A file that was not saved with the others is refused too: the libraries would load it as weights.
    """
    prefix = f"{part}/" if part else ""
    expected = {name: digest for name, digest in files.items() if name.startswith(prefix)}
    found = {prefix + name: digest for name, digest in checksums(folder / part).items()}
    if not expected:
        raise error(folder, f"no file of {part} is listed")
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise error(folder, f"{name} is missing")
        if name not in expected:
            if _is_read(name):
                raise error(folder, f"{name} was not saved with it")
        elif found[name] != expected[name]:
            raise error(folder, f"{name} is not what was saved (its checksum differs)")


def _is_read(name: str) -> bool:
    """Return whether a file is one that we or the libraries would read; notes and a .DS_Store are not."""
    return ("/" in name and not Path(name).name.startswith(".")) or name.endswith((".safetensors", ".pt", ".bin"))


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but meta.json by its relative path. A file that has not changed is read only once."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != META)
    with ThreadPoolExecutor() as pool:  # hashlib lets threads run side by side
        digests = pool.map(_checksum, paths)
        return {path.relative_to(folder).as_posix(): digest for path, digest in zip(paths, digests)}


def _checksum(path: Path) -> str:
    status = path.stat()
    return _sha256(path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256(path: Path, inode: int, size: int, mtime_ns: int) -> str:
    """Return the SHA-256 of a file. The other arguments are only the key: a remembered checksum holds while they are the same."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(run_folder: Path, meta: dict, state: TrainState) -> Path:
    """Save a checkpoint and return its folder. Every rank must call this. It is renamed from a hidden name when complete.

    `meta`: step, samples, window, config, records, object_fill. Raises UserError if it cannot be written; earlier checkpoints
    stay.
    """
    final = step_folder(run_folder / "checkpoints", meta["step"])
    accelerator = state.accelerator
    unfinished = Path(broadcast_object_list([str(unfinished_path(final))])[0])
    try:
        if accelerator.is_main_process:
            unfinished.mkdir(parents=True)
        accelerator.wait_for_everyone()
        _write_state(unfinished, state)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            about = {"engine": engine(accelerator), "optimizer_groups": NUM_GROUPS, "versions": _versions()}
            about |= {"files": checksums(unfinished)}
            (unfinished / META).write_text(json.dumps(meta | about, indent=1) + "\n")
            put_in_place(unfinished, final)
            write_atomically(run_folder / LATEST, final.name + "\n")
    except (OSError, SafetensorError, UserError) as error:
        if accelerator.is_main_process:  # what other ranks still write of it goes at the next start
            shutil.rmtree(unfinished, ignore_errors=True)
        kept = checkpoints(run_folder)
        last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        raise UserError(f"{final}: cannot be saved: {first_line(error)}; {last}") from error
    accelerator.wait_for_everyone()
    return final


def _write_state(folder: Path, state: TrainState) -> None:
    _write_weights(folder / "unet", state)
    with state.ema.in_place_of_masters():
        _write_weights(folder / "unet_ema", state)
    save_optimizer_state(folder, state)
    if is_deepspeed(state.accelerator):
        save_file(state.ema.saved(), folder / _ema_part(state.accelerator))


def _write_weights(folder: Path, state: TrainState) -> None:
    trained = {}
    for name, weight in full_weights(state.unet, state.accelerator):
        if state.accelerator.is_main_process:
            trained[name] = weight.to("cpu", copy=True)  # ZeRO hands out views of larger buffers
    if state.accelerator.is_main_process:
        model = state.settings
        save_unet(state.unet, model.added_time_ids, merge(state.frozen | trained, lora_scale(model)), folder)
        if model.train == "lora":
            save_adapter(state.unet, trained, state.frozen_sha256, model, _adapter_of(folder))
    # Here the others have PATIENCE with the first rank. In the collectives of DeepSpeed, which come next, they have minutes.
    state.accelerator.wait_for_everyone()


def _adapter_of(unet_folder: Path) -> Path:
    """lora/ beside unet/, and lora_ema/ beside unet_ema/."""
    return unet_folder.with_name(unet_folder.name.replace("unet", "lora"))


def load_checkpoint(checkpoint: Path, state: TrainState) -> None:
    """Load the optimizer's state and the average, and under DeepSpeed the weights too; elsewhere they are loaded from `unet/`.

    Collective. Raises UserError, on every rank, if on any of them a file is damaged, is a pickle that would run code, or
    holds something of another form than what it is for. Then nothing has been loaded.
    """
    mistakes = []
    try:
        optimizer_state = read_optimizer_state(checkpoint, state, step_of(checkpoint))
        average = _read_average(checkpoint, state)
    except UserError as error:
        mistakes.append(str(error))
    for mistake in gather_objects(mistakes):
        raise misfit(checkpoint, mistake) if is_deepspeed(state.accelerator) else damaged(checkpoint, mistake)
    load_optimizer_state(checkpoint, state, optimizer_state)
    state.ema.load(average)


def _read_average(checkpoint: Path, state: TrainState) -> list[Tensor]:
    """Return the saved average of each master of this rank, in their order. Raises UserError naming the file."""
    if is_deepspeed(state.accelerator):
        place = _ema_part(state.accelerator)
        load = load_file
        expected = {str(i): part for i, part in enumerate(state.ema.parts)}
    else:
        is_lora = state.settings.train == "lora"
        place = "lora_ema" if is_lora else "unet_ema"
        load = read_adapter if is_lora else load_unet_weights
        trained = [name for name, weight in state.unet.named_parameters() if weight.requires_grad]
        expected = AtLeast(zip(trained, state.ema.parts, strict=True))
    try:
        saved = load(checkpoint / place)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{place}: {first_line(error)}") from None
    require_form(saved, expected, place)
    return [saved[name] for name in expected]


def load_unet_weights(folder: Path) -> dict[str, Tensor]:
    """Return the state dict of a UNet folder, whose weights are in one file or several."""
    return {name: weight for file in sorted(folder.glob("*.safetensors")) for name, weight in load_file(file).items()}


def _ema_part(accelerator: Accelerator) -> str:
    return f"ema_rank_{accelerator.process_index:05d}.safetensors"


def _versions() -> dict[str, str]:
    packages = ("torch", "diffusers", "transformers", "accelerate", "deepspeed")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
