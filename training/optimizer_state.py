"""The optimizer's part of a checkpoint: `optimizer.pt`, or under DeepSpeed `engine/`, which holds the weights as well.

What is read is compared with the optimizer that it is for before either library gets it: they do not look themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from training.masters import is_deepspeed, master_parts
from training.optimizer import REPLACED
from training.state import TrainState
from training.state_form import AtLeast, Equal, Floats, OfType, require_form
from training.unpickling import read_pickle, weights_only_unpickling
from utils.errors import UserError, first_line

PLAIN = "optimizer.pt"
ENGINE = "engine"
ENGINE_TAG = "zero"
VERSION = r"\d+(\.\d+)*(\+\w+)?"


def save_optimizer_state(folder: Path, state: TrainState) -> None:
    """Write it into an unfinished checkpoint. Every rank must call this. Raises OSError where the disk is full."""
    with _disk_errors():
        if is_deepspeed(state.accelerator):
            state.model.save_checkpoint(str(folder / ENGINE), tag=ENGINE_TAG, exclude_frozen_parameters=True)
        elif state.accelerator.is_main_process:
            torch.save(state.optimizer.state_dict(), folder / PLAIN)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Make an OSError of what torch.save raises on a full disk, a RuntimeError. CUDA and NCCL raise classes derived from it."""
    try:
        yield
    except RuntimeError as error:
        if type(error) is not RuntimeError:
            raise
        raise OSError(f"PyTorch could not write it, as on a full disk: {first_line(error)}") from error


def read_optimizer_state(checkpoint: Path, state: TrainState, step: int) -> dict | None:
    """Return what optimizer.pt holds of `step`; None under DeepSpeed, which reads its files itself. Nothing is loaded.

    Raises UserError, naming the file, if what this rank would load cannot be read, or does not fit its optimizer.
    """
    if not is_deepspeed(state.accelerator):
        saved = read_pickle(checkpoint / PLAIN)
        require_form(saved, expected_state(state.optimizer.optimizer, step), PLAIN)
        return saved
    folder = checkpoint / ENGINE / ENGINE_TAG
    rank = state.accelerator.process_index
    whose = f"zero_pp_rank_{rank}_" if state.model.zero_optimization_partition_weights() else ""  # ZeRO-3 divides it
    zero = state.optimizer.optimizer
    with weights_only_unpickling():
        path = _only_file(folder, f"*zero_pp_rank_{rank}_mp_rank_*_optim_states.pt")
        expected = expected_zero_state(zero, master_parts(state.unet, state.optimizer), step)
        require_form(read_pickle(path), AtLeast(optimizer_state_dict=expected), path.name)
        path = _only_file(folder, f"{whose}mp_rank_*_model_states.pt")
        require_form(read_pickle(path), expected_engine_state(state.model), path.name)
    return None


def _only_file(folder: Path, pattern: str) -> Path:
    """The one file of this name. Without it DeepSpeed would go on with a fresh optimizer."""
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise UserError(f"{ENGINE}/{ENGINE_TAG} holds {len(found) or 'no'} files {pattern}, where one is expected")
    return found[0]


def load_optimizer_state(checkpoint: Path, state: TrainState, saved: dict | None) -> None:
    """Load what `read_optimizer_state` has approved of on every rank, under DeepSpeed the weights too. Collective."""
    if saved is None:
        with weights_only_unpickling():
            state.model.load_checkpoint(str(checkpoint / ENGINE), tag=ENGINE_TAG, load_module_strict=False)
        return
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    for values in state.optimizer.state.values():
        for name, value in values.items():
            if (
                isinstance(value, Tensor) and value.device.type == "cpu"
            ):  # still the file's pages, and the file will be removed
                values[name] = value.detach().clone()


def expected_state(optimizer: torch.optim.Optimizer, step: int) -> dict:
    """The form of optimizer.pt. Of the parameter groups only the parameters count, since the settings are the YAML's."""
    updated = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    groups = [AtLeast(params=group["params"]) for group in optimizer.state_dict()["param_groups"]]
    return {"state": _moments(optimizer, updated, step), "param_groups": groups}


def _moments(optimizer: torch.optim.Optimizer, updated: list[Tensor], step: int) -> dict[int, dict]:
    """The form of what the optimizer keeps of each tensor that it updates, after `step` steps."""
    if isinstance(optimizer, torch.optim.SGD):
        return {}
    if not isinstance(optimizer, torch.optim.AdamW):
        return {number: _eight_bits(part, step) for number, part in enumerate(updated)}
    steps = Equal(torch.tensor(float(step)))
    return {number: {"step": steps, "exp_avg": part, "exp_avg_sq": part} for number, part in enumerate(updated)}


def _eight_bits(part: Tensor, step: int) -> dict:
    """The form of what bitsandbytes' AdamW8bit (0.50) keeps of a tensor: bytes and a scale for every 256; a small one as it is."""
    if part.numel() < 4096:
        moments = {"state1": part, "state2": part}
    else:
        of_each = {
            "state": torch.empty_like(part, dtype=torch.uint8, device="meta"),
            "qmap": torch.empty(256),
            "absmax": torch.empty(-(-part.numel() // 256)),
        }
        moments = {f"{name}{moment}": like for name, like in of_each.items() for moment in (1, 2)}
    return {"step": step, "__bnb_optimizer_quant_state__": moments}


def expected_zero_state(zero, masters: list[Tensor], step: int) -> dict:
    """The form of what DeepSpeed's ZeRO optimizer saves of a rank, whose torch optimizer updates `masters`."""
    state = zero.state_dict()
    inner = "base_optimizer_state" if "base_optimizer_state" in state else "optimizer_state_dict"  # ZeRO-2, ZeRO-3
    groups = [
        group | {key: OfType(kind) for key, kind in REPLACED.items() if key in group}
        for group in state[inner]["param_groups"]
    ]
    kept = _moments(zero.optimizer, masters, step)
    if inner == "base_optimizer_state":
        # ZeRO-2 has looked up the state of every part, and SGD has an empty one of each since.
        kept = {number: kept.get(number, {}) for number in range(len(masters))}
    moments = {"state": kept, "param_groups": groups}
    replaced = {"clip_grad": OfType(float), "overflow": OfType(bool), "ds_version": OfType(str, VERSION)}
    return state | {inner: moments} | {key: value for key, value in replaced.items() if key in state}


def expected_engine_state(engine: nn.Module) -> dict:
    """The form of what DeepSpeed saves beside the optimizer, as far as loading reads it."""
    module = engine.module_state_dict(exclude_frozen_parameters=True)
    parameters = dict(engine.module.named_parameters())
    for name, weight in module.items():
        is_divided = hasattr(parameters.get(name), "ds_tensor")  # by ZeRO-3, which saves an empty tensor in its place
        module[name] = Floats(torch.empty(0) if is_divided else weight)
    numbers = {name: OfType(int) for name in ("global_steps", "global_samples", "skipped_steps")}
    sizes = {"dp_world_size": engine.seq_dp_world_size, "mp_world_size": engine.mp_world_size}
    return AtLeast(module=module, frozen_param_fragments=None, lr_scheduler=None, **numbers, **sizes)
