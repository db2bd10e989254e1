"""LoRA by peft: low-rank updates of linear layers, saved as diffusers saves them, and merged into the weights they update.

A layer of weight W computes W x + scale B A x. Only A and B are trained, and the UNet's `add_embedding`, in full.
"""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from utils.errors import UserError, cut, first_line
from utils.reading import Saved, read_json
from utils.schemas import ModelSettings

WEIGHTS = "pytorch_lora_weights.safetensors"  # diffusers' name
EMBEDDING = "add_embedding.safetensors"  # the layers that are trained in full
ABOUT = "svd_mv_lora.json"
_OURS, _DIFFUSERS = ".default.weight", ".weight"  # how names end in the UNet, and in WEIGHTS


class _About(Saved):
    base_sha256: str


def lora_scale(model: ModelSettings) -> float:
    return 1.0 if model.lora_alpha is None else model.lora_alpha / model.lora_rank


def add_adapter(unet: UNetSpatioTemporalConditionModel, model: ModelSettings, seed: int) -> None:
    """Give every layer that `model.lora_targets` names an adapter, in place. It starts without effect: B is zero.

    A is drawn from `seed`, the same on every rank. Raises UserError for targets that are no linear layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    _check_targets(unet, model.lora_targets)
    alpha = lora_scale(model) * model.lora_rank
    config = LoraConfig(r=model.lora_rank, lora_alpha=alpha, target_modules=list(model.lora_targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, unet)


def _check_targets(unet: nn.Module, targets: tuple[str, ...]) -> None:
    for target in targets:
        found = {name: module for name, module in unet.named_modules() if f".{name}".endswith(f".{target}")}
        if not found:
            raise UserError(f"model.lora_targets: no layer of the UNet has a name that ends in '{target}'")
        for name, module in found.items():
            if not isinstance(module, nn.Linear) or name.startswith("add_embedding."):
                why = "is trained in full" if name.startswith("add_embedding.") else "is no linear layer"
                raise UserError(f"model.lora_targets: '{target}' names {name}, which {why}")


def empty_copy(unet: UNetSpatioTemporalConditionModel) -> UNetSpatioTemporalConditionModel:
    """A UNet of the same config, with the same adapter if it has one, on the meta device."""
    with torch.device("meta"):
        copy = type(unet).from_config(unet.config)
    if hasattr(unet, "peft_config"):
        from peft import inject_adapter_in_model

        inject_adapter_in_model(unet.peft_config["default"], copy)
    return copy


def merge(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The state dict of a UNet with an adapter -> that of a stock UNet which computes the same: W + scale B A, rounded once.

    Without an adapter it is returned as it is.
    """
    merged = {}
    for name, weight in weights.items():
        layer, base, kind = name.partition(".base_layer.")
        if base and kind == "weight":
            down, up = (weights[f"{layer}.lora_{part}{_OURS}"].double() for part in "AB")
            weight = (weight.double() + scale * (up @ down)).to(weight.dtype)
        if ".lora_" not in name:
            merged[f"{layer}.{kind}" if base else name] = weight
    return merged


def save_adapter(
    unet: UNetSpatioTemporalConditionModel,
    trained: Mapping[str, Tensor],
    base_sha256: str,
    model: ModelSettings,
    folder: Path,
) -> None:
    """Save the weights that a LoRA run trains, by their names in the UNet.

    WEIGHTS holds the adapter in diffusers' format, EMBEDDING the weights of `add_embedding`, and ABOUT what both are for.
    """
    layers = {name.replace(_OURS, _DIFFUSERS): weight for name, weight in trained.items() if ".lora_" in name}
    embedding = {name: weight for name, weight in trained.items() if ".lora_" not in name}
    config = unet.peft_config["default"].to_dict()
    config |= {"target_modules": sorted(config["target_modules"])}  # a set's order changes from process to process
    StableDiffusionLoraLoaderMixin.save_lora_weights(folder, unet_lora_layers=layers, unet_lora_adapter_metadata=config)
    save_file({name.removeprefix("add_embedding."): weight for name, weight in embedding.items()}, folder / EMBEDDING)
    about = {"base": model.base, "revision": model.revision, "base_sha256": base_sha256}
    about |= {"added_time_ids": model.added_time_ids, "rank": model.lora_rank, "scale": lora_scale(model)}
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n")


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """What `save_adapter` has saved, by the names in the UNet."""
    layers = load_file(folder / WEIGHTS)
    adapter = {name.removeprefix("unet.").replace(_DIFFUSERS, _OURS): weight for name, weight in layers.items()}
    return adapter | {f"add_embedding.{name}": weight for name, weight in load_file(folder / EMBEDDING).items()}


def restore_adapter(unet: UNetSpatioTemporalConditionModel, folder: Path) -> None:
    """Load a saved adapter into a UNet with a new one.

    Raises UserError if it is another kind of adapter, or if the base below it is not the one that it was trained on.
    """
    frozen = {name: weight for name, weight in unet.named_parameters() if not weight.requires_grad}
    if read_json(folder / ABOUT, _About).base_sha256 != sha256_of_weights(frozen):
        raise UserError(
            f"{folder} was trained on other weights than those that model.base has now: bring these back, or start a new"
            f" run.name from the merged weights, with model.base={folder.parent}"
        )
    try:
        saved = read_adapter(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be read: {cut(first_line(error))}") from None
    trained = {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}
    for name in sorted(saved.keys() | trained.keys()):
        found, wanted = (_form(weights.get(name)) for weights in (saved, trained))
        if found != wanted:
            raise UserError(f"{folder} holds another adapter than the config says: {name} is {found}, not {wanted}")
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(saved[name])


def _form(weight: Tensor | None) -> str:
    return "missing" if weight is None else f"{weight.dtype} of {[*weight.shape]}"


def sha256_of_weights(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names and values of weights on the CPU, whatever their order."""
    names = sorted(weights)
    with ThreadPoolExecutor() as pool:  # hashlib lets threads run side by side
        digests = list(pool.map(lambda name: hashlib.sha256(weights[name].detach().flatten().numpy()), names))
    return hashlib.sha256(
        "".join(f"{name} {digest.hexdigest()}\n" for name, digest in zip(names, digests)).encode()
    ).hexdigest()
