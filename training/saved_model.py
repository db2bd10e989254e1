"""A trained model to use: the newest checkpoint of a run, one checkpoint, or an exported folder, with how it was trained."""

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from accelerate import Accelerator
from pydantic import Field, ValidationError

from models.svd import PARTS, Base, Svd, find_parts, load_svd
from training.checkpoint import META, checkpoints, open_checkpoint, read_meta, verify
from training.masters import lend_unet
from training.meta import Sha256
from utils.config import Section
from utils.errors import UserError
from utils.reading import InsidePath, Saved, read_json
from utils.schemas import DataSettings, ModelSettings, NoiseSettings, SourceSettings

RECIPE = "svd_mv_recipe.json"  # in an exported folder: what meta.json is in a checkpoint
log = logging.getLogger("svd_mv")


class _Recipe(Saved):
    step: int = Field(ge=0)
    weights: Literal["ema", "raw"]
    config: dict[str, dict]
    samples: int = Field(0, ge=0)
    versions: dict[str, str] = Field(default_factory=dict)
    object_fill: float | None = Field(None, gt=0, le=1)
    files: Annotated[dict[InsidePath, Sha256], Field(min_length=1)] | None = None  # earlier versions wrote none


@dataclass(frozen=True)
class SavedModel:
    """Where a trained model lies and how it was trained; nothing is loaded yet."""

    folder: Path  # the checkpoint, or the exported folder
    base: Base
    model: ModelSettings
    data: DataSettings
    recipe: dict  # step, samples, config, versions, object_fill
    weights: str  # ema | raw


def find_saved_model(source: SourceSettings) -> SavedModel:
    """Find what `source.checkpoint` names. Raises UserError if it is none of the three, or holds another kind of model."""
    folder = Path(source.checkpoint)
    if not folder.is_dir():
        raise UserError(f"checkpoint: no folder '{folder}': expected a run, a checkpoint, or an exported model")
    if found := checkpoints(folder):
        folder = found[-1]
    if (folder / META).is_file():
        return _from_checkpoint(folder, source)
    if (folder / RECIPE).is_file():
        return _from_export(folder, source)
    raise UserError(
        f"checkpoint: '{folder}' holds no complete checkpoint, and is neither a checkpoint ({META}) nor an exported"
        f" model ({RECIPE})"
    )


def find_base(model: ModelSettings, config_only: bool = False) -> Base:
    """Find `model.base`: a hub id, a folder in the diffusers layout, or a checkpoint. Ours are verified.

    With `config_only` nothing but configs is downloaded or looked at.
    """
    folder = Path(model.base)
    if not (folder / META).is_file():
        return find_parts(model, config_only) if config_only else _find_verified(model)
    first = trained_from(folder)
    origin = model.model_copy(update={"base": first.base, "revision": first.revision, "variant": first.variant})
    if config_only:
        return replace(find_parts(origin, config_only), unet=folder / "unet")
    open_checkpoint(folder, "unet")
    return replace(_find_verified(origin), unet=folder / "unet")


def _find_verified(model: ModelSettings) -> Base:
    """Find `model.base`, which is no checkpoint. If it is a folder that we exported, its files are those that were written."""
    base = find_parts(model)
    if (base.rest / RECIPE).is_file():
        _verify_export(base.rest, read_json(base.rest / RECIPE, _Recipe).files)
    return base


def _verify_export(folder: Path, files: dict[str, str] | None) -> None:
    """Raise UserError if a part of an exported model is not what was written."""
    if files is None:
        if os.environ.get("RANK", "0") == "0":
            log.warning(f"{folder} was exported by an earlier version, without checksums: its weights are not verified")
        return
    for part in (*PARTS, "feature_extractor"):
        if (folder / part).is_dir():
            verify(folder, files, part, _damaged_export)


def _damaged_export(folder: Path, why: str) -> UserError:
    return UserError(f"{folder} is damaged: {why}; export it again")


def trained_from(checkpoint: Path) -> ModelSettings:
    """Return the settings of the first model behind a checkpoint, through all checkpoints that served as bases in between.

    Raises UserError if that goes round in a circle.
    """
    seen: set[Path] = set()
    folder = checkpoint
    while (folder / META).is_file():
        if folder.resolve() in seen:
            raise UserError(f"{checkpoint}: was trained from itself, says its {META}: there is no first model")
        seen.add(folder.resolve())
        model = _section(ModelSettings, read_meta(folder), "model", folder)
        folder = Path(model.base)
    return model


def _from_checkpoint(folder: Path, source: SourceSettings) -> SavedModel:
    part = "unet_ema" if source.weights == "ema" else "unet"
    recipe = open_checkpoint(folder, part)
    model = _section(ModelSettings, recipe, "model", folder)
    first = trained_from(folder)
    if source.base:
        first = first.model_copy(update={"base": source.base, "revision": None, "variant": None})
    base = replace(_find_verified(first), unet=folder / part)
    return _saved_model(folder, base, model, recipe, source.weights)


def _from_export(folder: Path, source: SourceSettings) -> SavedModel:
    recipe = read_json(folder / RECIPE, _Recipe).model_dump(exclude_unset=True)
    if source.weights == "raw" and recipe["weights"] != "raw":
        raise UserError(f"weights: {folder} holds the {recipe['weights']} weights only")
    if source.base:
        raise UserError(f"base: {folder} has its own VAE and CLIP; leave base out")
    here = {"base": str(folder), "revision": None, "variant": None}
    model = _section(ModelSettings, recipe, "model", folder).model_copy(update=here)
    return _saved_model(folder, _find_verified(model), model, recipe, recipe["weights"])


def _saved_model(folder: Path, base: Base, model: ModelSettings, recipe: dict, weights: str) -> SavedModel:
    # Sampling reads nothing of the noise, but it must be of a kind that is trained here.
    _section(NoiseSettings, recipe, "noise", folder)
    return SavedModel(folder, base, model, _section(DataSettings, recipe, "data", folder), recipe, weights)


def _section(section: type[Section], recipe: dict, name: str, folder: Path):
    try:
        return section.model_validate_json(json.dumps(recipe["config"][name]))
    except (KeyError, TypeError):
        raise UserError(f"{folder}: its config has no section '{name}'") from None
    except ValidationError as error:
        keys = ", ".join(f"{name}.{'.'.join(map(str, item['loc']))}" for item in error.errors())
        raise UserError(f"{folder}: was written by another version of this program: {keys}") from None


def require_elevation(saved: SavedModel) -> None:
    """Raise UserError for a UNet that is not told the elevation: asking it for another one would change nothing."""
    if "elevation_deg" not in saved.model.added_time_ids:
        ids = ", ".join(saved.model.added_time_ids)
        raise UserError(f"{saved.folder}: its UNet embeds {ids}, not elevation_deg: that is no multi-view model")


def load_saved_model(saved: SavedModel, accelerator: Accelerator) -> Svd:
    """Load it to sample with, on the rank's device: the UNet in the launch file's compute type, the encoders in fp32
    whatever they were in training.

    Collective: the ranks of a machine load one after the other, since a hub's base may have to be downloaded.
    """
    with accelerator.local_main_process_first():
        svd = load_svd(saved.base, saved.model.model_copy(update={"encoder_dtype": "fp32"}))
    unet = lend_unet(svd.unet.requires_grad_(False), accelerator).to(accelerator.device)  # cast before it is moved
    return replace(svd, unet=unet, encoders=svd.encoders.to(accelerator.device))
