"""A trained model to use: from a run (its newest checkpoint), a checkpoint, or an exported folder, with what it was trained as."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import Tensor

from models.conditioning import Conditioning
from models.svd import Base, Svd, find_base, load_svd
from training.checkpoint import META, checkpoints, read_meta
from training.masters import lend_unet
from training.validation import sample_orbits
from utils.config import Section, read_json
from utils.errors import UserError
from utils.schemas import DataSettings, ModelSettings, NoiseSettings, SamplingSettings, SourceSettings

RECIPE = "svd_mv_recipe.json"  # in an exported folder: what meta.json is in a checkpoint


@dataclass(frozen=True)
class Trained:
    folder: Path  # the checkpoint, or the exported folder
    base: Base
    model: ModelSettings
    data: DataSettings
    recipe: dict  # step, samples, config, versions, object_fill
    weights: str  # ema | raw


def find_trained(source: SourceSettings) -> Trained:
    """Nothing is loaded yet. Raises UserError if `source.checkpoint` is none of the three, or is of another kind of model."""
    folder = Path(source.checkpoint)
    if not folder.is_dir():
        raise UserError(f"checkpoint: no folder '{folder}': expected a run, a checkpoint, or an exported model")
    if found := checkpoints(folder):
        folder = found[-1]
    if (folder / META).is_file():
        return _of_checkpoint(folder, source)
    if (folder / RECIPE).is_file():
        return _of_export(folder, source)
    raise UserError(
        f"checkpoint: '{folder}' holds no complete checkpoint, and is neither a checkpoint ({META}) nor an exported"
        f" model ({RECIPE})"
    )


def _of_checkpoint(folder: Path, source: SourceSettings) -> Trained:
    recipe = read_meta(folder)
    model = _section(ModelSettings, recipe, "model", folder)
    elsewhere = {"base": source.base, "revision": None, "variant": None} if source.base else {}
    base = find_base(model.model_copy(update=elsewhere))
    base = replace(base, unet=folder / ("unet_ema" if source.weights == "ema" else "unet"))
    return _trained(folder, base, model, recipe, source.weights)


def _of_export(folder: Path, source: SourceSettings) -> Trained:
    recipe = read_json(folder / RECIPE, "step", "config", "weights")
    if source.weights == "raw" and recipe["weights"] != "raw":
        raise UserError(f"weights: {folder} holds the {recipe['weights']} weights only")
    if source.base:
        raise UserError(f"base: {folder} has its own VAE and CLIP; leave base out")
    model = _section(ModelSettings, recipe, "model", folder).model_copy(
        update={"base": str(folder), "revision": None, "variant": None}
    )
    return _trained(folder, find_base(model), model, recipe, recipe["weights"])


def _trained(folder: Path, base: Base, model: ModelSettings, recipe: dict, weights: str) -> Trained:
    _section(
        NoiseSettings, recipe, "noise", folder
    )  # sampling needs none of it, but it must be of a noise that is trained here
    return Trained(folder, base, model, _section(DataSettings, recipe, "data", folder), recipe, weights)


def _section(section: type[Section], recipe: dict, name: str, folder: Path):
    try:
        return section.model_validate_json(json.dumps(recipe["config"][name]))
    except (KeyError, TypeError):
        raise UserError(f"{folder}: its config has no section '{name}'") from None
    except ValidationError as error:
        keys = ", ".join(f"{name}.{'.'.join(map(str, item['loc']))}" for item in error.errors())
        raise UserError(f"{folder}: was written by another version of this program: {keys}") from None


def require_elevation(trained: Trained) -> None:
    """Raises UserError for a UNet that is not told the elevation: asking it for another one would change nothing."""
    if "elevation_deg" not in trained.model.added_time_ids:
        ids = ", ".join(trained.model.added_time_ids)
        raise UserError(f"{trained.folder}: its UNet embeds {ids}, not elevation_deg: that is no multi-view model")


@dataclass(frozen=True)
class Sampler:
    """A loaded model that samples orbits; its UNet in the launch file's compute type, the encoders in fp32."""

    svd: Svd
    num_frames: int
    device: torch.device

    def __call__(self, cond: Conditioning, noise: Tensor, sampling: SamplingSettings, on_step=None) -> list[Tensor]:
        return sample_orbits(self.svd.unet, cond, noise, self.svd, sampling, on_step)


def load_sampler(trained: Trained, accelerator: Accelerator) -> Sampler:
    """On every rank, one after the other on a machine where a hub's base may have to be downloaded."""
    with accelerator.local_main_process_first():
        svd = load_svd(trained.base, trained.model)
    unet = lend_unet(svd.unet.requires_grad_(False), accelerator).to(accelerator.device)  # cast before it is moved
    svd = replace(svd, unet=unet, encoders=svd.encoders.to(accelerator.device))
    return Sampler(svd, trained.data.num_frames, accelerator.device)
