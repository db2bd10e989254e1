"""`main.py tiny_base`: pretrains a small image-to-video SVD on turntables, from assets to a folder in the diffusers layout.

The stages come one after another. What a killed one has done stays: the same command goes on from there.
"""

import json
from collections import defaultdict
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from string import Template

import torch
from diffusers import AutoencoderKLTemporalDecoder, StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from commands.render import render
from commands.tiny_base_clips import encode_clips, write_clips, write_jsonl
from commands.tiny_base_fit import fit_image_encoder, fit_vae, reconstruction_psnr, retrieval
from commands.train import train
from dataset.records import OrbitRecord, Records
from dataset.views import WHITE, load_views
from models.svd import load_part
from models.tiny import tiny_clip, tiny_pipeline, tiny_unet
from models.tiny_vae import tiny_vae
from models.trainable import count_parameters
from rendering.toys import write_toy_orbit, write_toys
from training.checkpoint import checkpoints, read_meta
from training.run_folder import run_folder
from utils.errors import UserError
from utils.files import new_folder, remove_unfinished
from utils.held_out import HELD_OUT_META, META
from utils.processes import in_processes
from utils.progress import Progress
from utils.schemas import TINY_BASE_HELD_OUT, TinyBaseConfig
from utils.schemas_render import RenderConfig, RenderSettings

NAMES = "held_out.txt"  # beside the model: the objects that it was not trained on
CARD = Path(__file__).with_name("tiny_base_card.md")
MADE_ANEW = "The VAE came first, then the image encoder, then the UNet"
MADE_FROM_ANOTHER = "The encoders are those of an earlier base, and its UNet was trained on"


def tiny_base(cfg: TinyBaseConfig) -> int:
    """Returns the exit code: 0, or that of a rendering that was stopped.

    A training that was stopped exits with 0 as well, and `tiny_base.out` stays as it was.
    """
    work = Path(cfg.tiny_base.work)
    out = Path(cfg.tiny_base.out)
    if out.exists() and not (out / NAMES).is_file():
        raise UserError(f"{out} is there, and tiny_base did not write it: choose another tiny_base.out")
    if cfg.tiny_base.start is not None and not Path(cfg.model.base).exists():
        load_pipeline(Path(cfg.tiny_base.start))  # what is wrong with it is said before hours of rendering
    write_toys(work / "toys", cfg.tiny_base.num_toys, cfg.tiny_base.seed)
    for light in range(cfg.tiny_base.num_lights):
        for source, assets in (("assets", Path(cfg.tiny_base.assets)), ("toys", work / "toys")):
            if (code := render(render_config(cfg, source, assets, light))) > 1:
                return code
    draw_toys(cfg)
    gather(cfg, work)
    start(cfg, work)
    training, held_out = (Records(str(work / name), cfg.data.num_frames) for name in (META, HELD_OUT_META))
    write_clips(training, Path(cfg.data.meta), cfg.tiny_base.seed)
    write_clips(held_out, Path(cfg.validation.meta), cfg.tiny_base.seed, only_turns=True)
    encode_clips(cfg, work / META)
    train(cfg)
    saved = checkpoints(run_folder(cfg.run))
    if saved and read_meta(saved[-1])["step"] >= cfg.train.max_steps:
        finish(cfg, work, saved[-1])
    return 0


def render_config(cfg: TinyBaseConfig, source: str, assets: Path, light: int) -> RenderConfig:
    """Each light is a seed, which gives every object another elevation as well. Every other one takes environment maps."""
    return RenderConfig(
        render=RenderSettings(
            assets=str(assets),
            out=str(Path(cfg.data.root, f"{source}_{light}")),
            renderer="quick",
            size_px=cfg.data.size_px,
            num_views=cfg.data.num_frames,
            num_samples=4,
            num_processes=cfg.tiny_base.num_processes,
            seed=light,
            hdris=cfg.tiny_base.hdris if light % 2 else None,
            held_out=TINY_BASE_HELD_OUT,
            sheet_rows=0,
        )
    )


def draw_toys(cfg: TinyBaseConfig) -> None:
    """Draw the toys whose numbers follow on those that are rendered, and list them. What is there already stays."""
    folder = Path(cfg.data.root, drawn_folder(cfg))
    numbers = range(cfg.tiny_base.num_toys, cfg.tiny_base.num_toys + cfg.tiny_base.num_drawn_toys)
    if not numbers:
        return
    remove_unfinished(folder)
    kind = {"seed": cfg.tiny_base.seed, "num_views": cfg.data.num_frames, "size_px": cfg.data.size_px}
    write = partial(write_toy_orbit, folder, **kind)
    lines = []
    with Progress(len(numbers), "toys") as progress:
        try:
            for line in in_processes(write, numbers, cfg.tiny_base.num_processes):
                lines.append(line)
                progress.advance()
        except BrokenProcessPool:
            raise UserError("a process that draws toys died: the same command goes on from here") from None
    write_jsonl(folder / META, lines[TINY_BASE_HELD_OUT:])
    write_jsonl(folder / HELD_OUT_META, lines[:TINY_BASE_HELD_OUT])


def drawn_folder(cfg: TinyBaseConfig) -> str:
    """Where drawn toys lie in `data.root`: apart from those of another seed."""
    return f"drawn_{cfg.tiny_base.seed}"


def gather(cfg: TinyBaseConfig, work: Path) -> None:
    """Write one list of all training orbits, and one of all held-out ones. Their objects differ, under every light."""
    folders = [f"{source}_{light}" for source in ("assets", "toys") for light in range(cfg.tiny_base.num_lights)]
    if cfg.tiny_base.num_drawn_toys:
        folders.append(drawn_folder(cfg))
    for name in (META, HELD_OUT_META):
        lines = []
        for folder in sorted(Path(cfg.data.root, folder) for folder in folders):
            for record in Records(str(folder / name), cfg.data.num_frames):
                paths = [f"{folder.name}/{path}" for path in record.image_paths]
                lines.append(
                    {"id": f"{folder.name}/{record.id}", "image_path": paths, "elevation": record.elevations_deg}
                )
        write_jsonl(work / name, lines)


def start(cfg: TinyBaseConfig, work: Path) -> None:
    """Write `model.base`: encoders that are trained here and a UNet with random weights, or the parts of `tiny_base.start`."""
    folder = Path(cfg.model.base)
    if folder.exists():
        return
    objects = objects_of(cfg, work / META)
    held_out = load_objects(cfg, objects_of(cfg, work / HELD_OUT_META))
    if cfg.tiny_base.start is None:
        pipeline = new_pipeline(cfg, work, load_objects(cfg, objects))
    else:
        pipeline = load_pipeline(Path(cfg.tiny_base.start))
    views = [orbits.flatten(0, 1) for orbits in held_out]
    found = {
        "vae_psnr": reconstruction_psnr(pipeline.vae, torch.cat(held_out)),
        "retrieval": retrieval(pipeline.image_encoder, views, cfg.tiny_base.seed),
        "num_objects": len(objects),
        "num_orbits": sum(len(orbits) for orbits in objects),
    }
    print(f"held-out: VAE {found['vae_psnr']:.2f} dB, image encoder finds the same object in {found['retrieval']:.0%}")
    with new_folder(folder) as unfinished:
        pipeline.save_pretrained(unfinished)
        (unfinished / "measured.json").write_text(json.dumps(found) + "\n")


def new_pipeline(cfg: TinyBaseConfig, work: Path, objects: list[Tensor]) -> StableVideoDiffusionPipeline:
    """Return a VAE and an image encoder that were trained on the orbits of `objects`, and a UNet with random weights."""
    torch.manual_seed(cfg.tiny_base.seed)
    vae = tiny_vae()
    fit_vae(vae, torch.cat(objects), cfg.tiny_base.vae_steps, cfg.tiny_base.seed, work / "vae.pt")
    clip = tiny_clip()
    views = [orbits.flatten(0, 1) for orbits in objects]
    fit_image_encoder(clip, views, cfg.tiny_base.image_encoder_steps, cfg.tiny_base.seed, work / "image_encoder.pt")
    return tiny_pipeline(vae, clip, tiny_unet())


def load_pipeline(base: Path) -> StableVideoDiffusionPipeline:
    return tiny_pipeline(
        load_part(AutoencoderKLTemporalDecoder, base, "vae", None),
        load_part(CLIPVisionModelWithProjection, base, "image_encoder", None),
        load_part(UNetSpatioTemporalConditionModel, base, "unet", None),
    )


def objects_of(cfg: TinyBaseConfig, meta: Path) -> list[list[OrbitRecord]]:
    """Return the orbits of each object."""
    objects = defaultdict(list)
    for record in Records(str(meta), cfg.data.num_frames):
        source, _, name = record.id.partition("/")
        objects[source.partition("_")[0], name].append(record)
    return list(objects.values())


def load_objects(cfg: TinyBaseConfig, objects: list[list[OrbitRecord]]) -> list[Tensor]:
    """Return the views of each object, N F 3 H W in 8 bits."""
    return [torch.stack([load_views(record, cfg.data, 0, WHITE)[0] for record in orbits]) for orbits in objects]


def keep_ids(unet: UNetSpatioTemporalConditionModel, before: UNetSpatioTemporalConditionModel) -> None:
    """Give `unet` the embedding of the added time ids that it had `before`.

    A base is told the same ids in every step. After 6,500 more of them, models that were fine-tuned from it no longer
    learned a new id, the elevation, in the 40 steps that had been enough before.
    """
    unet.add_embedding.load_state_dict(before.add_embedding.state_dict())


def round_trained(unet: nn.Module, before: nn.Module) -> None:
    """Round the weights that differ from those `before` to 3 bits of mantissa. Git packs them into half of the bytes then."""
    for weight, old in zip(unet.parameters(), before.parameters(), strict=True):
        if not torch.equal(weight, old):
            mantissa, exponent = torch.frexp(weight.data)
            weight.data = torch.ldexp((mantissa * 2**4).round() / 2**4, exponent)


def finish(cfg: TinyBaseConfig, work: Path, checkpoint: Path) -> None:
    """Write `tiny_base.out`: the base with the averaged UNet of `checkpoint`, and its card."""
    base = Path(cfg.model.base)
    pipeline = load_pipeline(base)
    before = pipeline.unet
    pipeline.unet = load_part(UNetSpatioTemporalConditionModel, checkpoint, "unet_ema", None)
    if cfg.tiny_base.start is not None:
        keep_ids(pipeline.unet, before)
    round_trained(pipeline.unet, before)
    numbers = json.loads((base / "measured.json").read_text())
    meta = read_meta(checkpoint)
    held_out = sorted(
        {record.id.partition("/")[2] for record in Records(str(work / HELD_OUT_META), cfg.data.num_frames)}
    )
    card = Template(CARD.read_text(encoding="utf-8")).substitute(
        made=MADE_ANEW if cfg.tiny_base.start is None else MADE_FROM_ANOTHER,
        steps=meta["step"],
        samples=f"{meta['samples']:,}",
        num_objects=numbers["num_objects"],
        num_orbits=f"{numbers['num_orbits']:,}",
        vae_psnr=f"{numbers['vae_psnr']:.1f}",
        retrieval=f"{numbers['retrieval']:.0%}",
        sizes=", ".join(
            f"{name} {count_parameters(getattr(pipeline, name))[1] / 1e6:.2f} M"
            for name in ("unet", "vae", "image_encoder")
        ),
    )
    pipeline.vae.half()  # half of the bytes; diffusers loads them in fp32
    pipeline.unet.half()
    with new_folder(Path(cfg.tiny_base.out)) as unfinished:
        pipeline.save_pretrained(unfinished)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        (unfinished / NAMES).write_text("".join(f"{name}\n" for name in held_out), encoding="utf-8")
    print(f"{cfg.tiny_base.out}: step {meta['step']}")
