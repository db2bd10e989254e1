"""`main.py export`: the trained weights as a folder that stock `StableVideoDiffusionPipeline` loads, with a model card."""

import json
from pathlib import Path
from string import Template

from diffusers import AutoencoderKLTemporalDecoder, StableVideoDiffusionPipeline
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from models.svd import load_part, load_scheduler, load_unet, save_layout
from training.checkpoint import META
from training.saved_model import RECIPE, SavedModel, find_saved_model, require_elevation
from utils.config import read_json
from utils.errors import UserError
from utils.files import new_folder, remove_unfinished
from utils.schemas import ExportConfig

# The three ids that the stock pipeline gives, the elevation in the motion bucket's place. An id that is not among them was at its
# usual value all through the training, so that folding it into the bias changes nothing.
LAYOUT = ("fps_id", "elevation_deg", "noise_aug_strength")
CARD = Path(__file__).with_name("model_card.md")


def export(cfg: ExportConfig) -> None:
    out = Path(cfg.export.out)
    saved = find_saved_model(cfg.export)
    require_elevation(saved)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already: choose another export.out, or remove it")
    card = model_card(saved, cfg)
    unet = load_unet(saved.base, saved.model.model_copy(update={"added_time_ids": LAYOUT}))
    rest, variant = saved.base.rest, saved.base.variant
    processor = rest / "feature_extractor"
    pipeline = StableVideoDiffusionPipeline(
        vae=load_part(AutoencoderKLTemporalDecoder, rest, "vae", variant),
        image_encoder=load_part(CLIPVisionModelWithProjection, rest, "image_encoder", variant),
        unet=unet,
        scheduler=load_scheduler(rest),
        feature_extractor=CLIPImageProcessor.from_pretrained(processor) if processor.is_dir() else CLIPImageProcessor(),
    )
    remove_unfinished(out.resolve().parent, out.resolve().name)
    with new_folder(out) as unfinished:
        pipeline.save_pretrained(unfinished, max_shard_size="10GB")
        save_layout(LAYOUT, unfinished / "unet")
        (unfinished / RECIPE).write_text(json.dumps(recipe(saved, LAYOUT), indent=1) + "\n")
        (unfinished / "README.md").write_text(card, encoding="utf-8")
    print(f"{out}: step {saved.recipe['step']}, {saved.weights} weights")


def recipe(saved: SavedModel, layout: tuple[str, ...]) -> dict:
    """What the folder is, for a reader and for `find_saved_model`; without the paths of the machine it was trained on."""
    of = saved.recipe
    model = saved.model.model_dump(mode="json") | {"base": base_name(saved), "added_time_ids": layout}
    data = saved.data.model_dump(mode="json") | {"root": "", "meta": Path(saved.data.meta).name}
    config = of["config"] | {"model": model, "data": data}
    kept = {key: config[key] for key in ("model", "noise", "data", "optim", "train") if key in config}
    numbers = {key: of[key] for key in ("step", "samples", "versions", "object_fill") if key in of}
    return numbers | {"weights": saved.weights, "config": kept}


def base_name(saved: SavedModel) -> str:
    """Of what the weights were trained from in the first place: a hub id as it is, of a folder the last part."""
    base = saved.recipe["config"]["model"]["base"]
    while (Path(base) / META).is_file():  # a run that started from another one's checkpoint
        base = read_json(Path(base) / META, "config")["config"]["model"]["base"]
    return Path(base).resolve().name if Path(base).exists() else base


def model_card(saved: SavedModel, cfg: ExportConfig) -> str:
    about = recipe(saved, saved.model.added_time_ids)
    fill = about.get("object_fill")
    rows = {
        f"{section}.{key}": value
        for section, keys in about["config"].items()
        for key, value in keys.items()
        if value is not None and f"{section}.{key}" != "data.root"
    }
    return Template(CARD.read_text(encoding="utf-8")).substitute(
        base=base_name(saved),
        name=Path(cfg.export.out).name,
        num_frames=saved.data.num_frames,
        size_px=saved.data.size_px,
        margin=f"its longer side {100 * fill:.0f} % of the frame's" if fill else "framed as in the training data",
        weights=saved.weights.upper() if saved.weights == "ema" else saved.weights,
        step=about["step"],
        samples=f"{about['samples']:,}" if "samples" in about else "?",
        recipe="\n".join(f"| `{key}` | {json.dumps(value)} |" for key, value in rows.items()),
        metrics=metrics_table(cfg.export.metrics, saved),
    )


def metrics_table(path: str | None, saved: SavedModel) -> str:
    """Of an evaluation's metrics.json. Raises UserError if it is none, or of other weights."""
    if path is None:
        return "Not evaluated."
    report = read_json(Path(path), "step", "weights", "summary", "num_objects", "settings")
    if (report["step"], report["weights"]) != (saved.recipe["step"], saved.weights):
        raise UserError(
            f"{path}: was measured on the {report['weights']} weights of step {report['step']}, these are the"
            f" {saved.weights} weights of step {saved.recipe['step']}"
        )
    try:
        return _metrics_table(report)
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: is not the metrics.json of an evaluation") from None


def _metrics_table(report: dict) -> str:
    views = report["settings"]["views"]
    names = list(report["summary"]["sample"])
    lines = ["| | " + " | ".join(names) + " |", "|--|" + "--:|" * len(names)]
    lines += [
        f"| {row} | " + " | ".join(f"{of[name][views]:.4g}" for name in names) + " |"
        for row, of in report["summary"].items()
    ]
    about = (
        f"{report['num_objects']} objects, {views} views, protocol {report['settings']['protocol'] or 'of our own'}:"
    )
    return "\n".join([about, "", *lines])
