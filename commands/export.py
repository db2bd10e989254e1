"""`main.py export`: writes the trained weights as a folder that stock diffusers loads, with a model card."""

import json
from pathlib import Path
from string import Template
from typing import Literal

from diffusers import AutoencoderKLTemporalDecoder, StableVideoDiffusionPipeline
from pydantic import field_validator
from safetensors import SafetensorError
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from models.svd import is_hub_id, load_part, load_scheduler, load_unet, save_layout
from training.checkpoint import META, checksums
from training.saved_model import RECIPE, SavedModel, find_saved_model, require_elevation, trained_from
from utils.errors import UserError, first_line
from utils.files import new_folder, remove_unfinished
from utils.reading import Saved, read_json
from utils.schemas import ExportConfig

# These are the three ids of the stock pipeline, with the elevation in the motion bucket's place. Any other id had its usual
# value all through the training, so folding it into the bias changes nothing.
LAYOUT = ("fps_id", "elevation_deg", "noise_aug_strength")
CARD = Path(__file__).with_name("model_card.md")


class _Mean(Saved):
    novel: float
    all: float


class _Settings(Saved):
    views: Literal["novel", "all"]
    protocol: str | None


class _Report(Saved):
    """What the model card shows of an evaluation's metrics.json."""

    step: int
    weights: str
    unet: dict[str, str]  # the checksums of its files
    num_objects: int
    settings: _Settings
    summary: dict[str, dict[str, _Mean]]

    @field_validator("summary")
    @classmethod
    def _has_a_sample(cls, summary):
        if "sample" not in summary:
            raise ValueError("has no row 'sample'")
        return summary


def export(cfg: ExportConfig) -> None:
    out = Path(cfg.export.out).absolute()
    saved = find_saved_model(cfg.export)
    require_elevation(saved)
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UserError(f"{out} is there already: choose another export.out, or remove it")
    card = model_card(saved, out.name, metrics_table(cfg.export.metrics, saved))
    pipeline = stock_pipeline(saved)
    remove_unfinished(out.resolve().parent, out.resolve().name)
    with new_folder(out) as unfinished:
        try:
            pipeline.save_pretrained(unfinished, max_shard_size="10GB")
        except SafetensorError as error:  # a full disk is none of Python's own errors here
            raise UserError(f"{out}: cannot be written: {first_line(error)}") from None
        save_layout(LAYOUT, unfinished / "unet")
        recipe = public_recipe(saved, LAYOUT) | {"files": checksums(unfinished)}
        (unfinished / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n")
        (unfinished / "README.md").write_text(card, encoding="utf-8")
    print(f"{cfg.export.out}: step {saved.recipe['step']}, {saved.weights} weights")


def stock_pipeline(saved: SavedModel) -> StableVideoDiffusionPipeline:
    """Return the model as a pipeline of stock diffusers. Its UNet is remapped to LAYOUT."""
    rest = saved.base.rest
    variant = saved.base.variant
    processor = rest / "feature_extractor"
    return StableVideoDiffusionPipeline(
        vae=load_part(AutoencoderKLTemporalDecoder, rest, "vae", variant),
        image_encoder=load_part(CLIPVisionModelWithProjection, rest, "image_encoder", variant),
        unet=load_unet(saved.base, saved.model.model_copy(update={"added_time_ids": LAYOUT})),
        scheduler=load_scheduler(rest),
        feature_extractor=CLIPImageProcessor.from_pretrained(processor) if processor.is_dir() else CLIPImageProcessor(),
    )


def public_recipe(saved: SavedModel, layout: tuple[str, ...]) -> dict:
    """Return what is written about the model, for readers and for `find_saved_model`, without paths of this machine."""
    recipe = saved.recipe
    model = saved.model.model_dump(mode="json") | {"base": base_name(saved), "added_time_ids": layout}
    if saved.model.train != "lora":
        model = {key: value for key, value in model.items() if not key.startswith("lora_")}
    here = ("cache", "local_cache", "local_cache_gib")
    data = saved.data.model_dump(mode="json", exclude=set(here)) | {"root": "", "meta": Path(saved.data.meta).name}
    config = recipe["config"] | {"model": model, "data": data}
    kept = {key: config[key] for key in ("model", "noise", "data", "optim", "train") if key in config}
    numbers = {key: recipe[key] for key in ("step", "samples", "versions", "object_fill") if key in recipe}
    return numbers | {"weights": saved.weights, "config": kept}


def base_name(saved: SavedModel) -> str:
    """Return the name of the original base: a hub id, or the last part of a folder."""
    base = saved.recipe["config"]["model"]["base"]
    if (saved.folder / META).is_file():
        base = trained_from(saved.folder).base
    if Path(base).exists():
        return Path(base).resolve().name
    return base if is_hub_id(base) else Path(base).name


def model_card(saved: SavedModel, name: str, metrics: str) -> str:
    """Return the text of the model card. `name` is that of the folder, and `metrics` is the table of an evaluation."""
    recipe = public_recipe(saved, saved.model.added_time_ids)
    fill = recipe.get("object_fill")
    rows = {
        f"{section}.{key}": value
        for section, keys in recipe["config"].items()
        for key, value in keys.items()
        if value is not None and f"{section}.{key}" != "data.root"
    }
    return Template(CARD.read_text(encoding="utf-8")).substitute(
        base=base_name(saved),
        name=name,
        num_frames=saved.data.num_frames,
        size_px=saved.data.size_px,
        margin=f"its longer side {100 * fill:.0f} % of the frame's" if fill else "framed as in the training data",
        weights=saved.weights.upper() if saved.weights == "ema" else saved.weights,
        step=recipe["step"],
        samples=f"{recipe['samples']:,}" if "samples" in recipe else "?",
        recipe="\n".join(f"| `{key}` | {json.dumps(value)} |" for key, value in rows.items()),
        metrics=metrics,
    )


def metrics_table(path: str | None, saved: SavedModel) -> str:
    """Return an evaluation's numbers as a Markdown table.

    Raises UserError if the file is no evaluation, or measured other weights.
    """
    if path is None:
        return "Not evaluated."
    report = read_json(Path(path), _Report)
    if (report.step, report.weights) != (saved.recipe["step"], saved.weights):
        raise UserError(
            f"{path}: was measured on the {report.weights} weights of step {report.step}, these are the"
            f" {saved.weights} weights of step {saved.recipe['step']}"
        )
    if report.unet != checksums(saved.base.unet):
        raise UserError(f"{path}: was measured on another UNet than that of {saved.folder}, of the same step")
    if not all(means.keys() == report.summary["sample"].keys() for means in report.summary.values()):
        raise UserError(f"{path}: is not the metrics.json of an evaluation: its rows have different metrics")
    return _as_markdown(report)


def _as_markdown(report: _Report) -> str:
    views = report.settings.views
    protocol = report.settings.protocol or "of our own"
    names = list(report.summary["sample"])
    lines = [f"{report.num_objects} objects, {views} views, protocol {protocol}:", ""]
    lines.append("| | " + " | ".join(names) + " |")
    lines.append("|--|" + "--:|" * len(names))
    for row, means in report.summary.items():
        lines.append(f"| {row} | " + " | ".join(f"{getattr(means[name], views):.4g}" for name in names) + " |")
    return "\n".join(lines)
