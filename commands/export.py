"""`main.py export`: the trained weights as a folder that stock `StableVideoDiffusionPipeline` loads, with a model card."""

import json
from pathlib import Path
from string import Template

from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, StableVideoDiffusionPipeline
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from commands.trained import RECIPE, Trained, find_trained
from models.svd import load_part, load_unet, read_json, save_layout
from utils.config import ExportConfig, UserError
from utils.files import new_folder

CARD = Path(__file__).with_name("model_card.md")


def export(cfg: ExportConfig) -> None:
    out, trained = Path(cfg.export.out), find_trained(cfg.export)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already: choose another export.out, or remove it")
    layout = stock_layout(trained.model.added_time_ids)
    unet = load_unet(trained.base, trained.model.model_copy(update={"added_time_ids": layout}))
    rest, variant = trained.base.rest, trained.base.variant
    processor = rest / "feature_extractor"
    pipeline = StableVideoDiffusionPipeline(
        vae=load_part(AutoencoderKLTemporalDecoder, rest, "vae", variant),
        image_encoder=load_part(CLIPVisionModelWithProjection, rest, "image_encoder", variant),
        unet=unet,
        scheduler=EulerDiscreteScheduler.from_pretrained(rest, subfolder="scheduler"),
        feature_extractor=CLIPImageProcessor.from_pretrained(processor) if processor.is_dir() else CLIPImageProcessor(),
    )
    card = model_card(trained, cfg)
    with new_folder(out) as torso:
        pipeline.save_pretrained(torso, max_shard_size="10GB")
        save_layout(layout, torso / "unet")
        (torso / RECIPE).write_text(json.dumps(recipe(trained, layout), indent=1) + "\n")
        (torso / "README.md").write_text(card, encoding="utf-8")
    print(f"{out}: step {trained.recipe['step']}, {trained.weights} weights")


def stock_layout(ids: tuple[str, ...]) -> tuple[str, ...]:
    """The three ids that the stock pipeline gives, under the names of what they mean for a UNet trained with `ids`.

    The elevation takes the motion bucket's place. Ids that training kept at their usual value fold into the bias, so that
    nothing changes: motion_bucket_id beside elevation_deg always was.
    """
    return ("fps_id", "elevation_deg" if "elevation_deg" in ids else "motion_bucket_id", "noise_aug_strength")


def recipe(trained: Trained, layout: tuple[str, ...]) -> dict:
    """What the folder is, for a reader and for `find_trained`; without the paths of the machine it was trained on."""
    of = trained.recipe
    model = trained.model.model_dump(mode="json") | {"base": base_name(trained), "added_time_ids": layout}
    data = trained.data.model_dump(mode="json") | {"root": "", "meta": Path(trained.data.meta).name}
    config = of["config"] | {"model": model, "data": data}
    kept = {key: config[key] for key in ("model", "noise", "data", "optim", "train") if key in config}
    numbers = {key: of[key] for key in ("step", "samples", "versions", "object_fill") if key in of}
    return numbers | {"weights": trained.weights, "config": kept}


def base_name(trained: Trained) -> str:
    """A hub id as it is, of a folder the last part."""
    base = trained.model.base
    return Path(base).resolve().name if Path(base).exists() else base


def model_card(trained: Trained, cfg: ExportConfig) -> str:
    about = recipe(trained, trained.model.added_time_ids)
    fill = about.get("object_fill")
    rows = {
        f"{section}.{key}": value
        for section, keys in about["config"].items()
        for key, value in keys.items()
        if value is not None and f"{section}.{key}" != "data.root"
    }
    return Template(CARD.read_text(encoding="utf-8")).substitute(
        base=base_name(trained),
        name=Path(cfg.export.out).name,
        num_frames=trained.data.num_frames,
        size_px=trained.data.size_px,
        margin=f"its longer side {100 * fill:.0f} % of the frame's" if fill else "framed as in the training data",
        weights=trained.weights.upper() if trained.weights == "ema" else trained.weights,
        step=about["step"],
        samples=f"{about['samples']:,}" if "samples" in about else "?",
        recipe="\n".join(f"| `{key}` | {json.dumps(value)} |" for key, value in rows.items()),
        metrics=metrics_table(cfg.export.metrics),
    )


def metrics_table(path: str | None) -> str:
    """Of an evaluation's metrics.json. Raises UserError if it is none."""
    if path is None:
        return "Not evaluated."
    report = read_json(Path(path), "summary", "num_objects", "settings")
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
