"""`main.py sample`: 21 views around the object of each image, with the cameras to reconstruct it from."""

import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from commands.trained import Sampler, Trained, find_trained, load_sampler, require_elevation
from commands.validation import start_video
from dataset.inputs import InputImage, input_view, list_inputs
from dataset.rendering.camera import orbit_cameras
from models.conditioning import Conditioning
from utils.config import Sample, SampleConfig, UserError
from utils.files import new_folder
from utils.randomness import generator
from utils.run import launched_accelerator
from utils.video import contact_sheet, to_uint8, write_mp4

BACKGROUND_MODEL = "isnet-general-use"  # Apache-2.0; rembg's own default is not free for every use
USUAL_FILL = 0.8  # where the training data were opaque, so that there was nothing to measure


def sample(cfg: SampleConfig) -> None:
    accelerator = launched_accelerator()
    trained, settings = find_trained(cfg.sample), cfg.sample
    require_elevation(trained)
    inputs, cut_out = list_inputs(settings), background_remover() if settings.remove_background else None
    prepare = view_maker(settings, trained, cut_out)
    for item in inputs:  # every mistake before the first minute of work
        prepare(item.path)
    with accelerator.local_main_process_first():
        sampler = load_sampler(trained, accelerator)

    todo = list(product(inputs, settings.seeds))[accelerator.process_index :: accelerator.num_processes]
    batches = [todo[at : at + settings.batch_size] for at in range(0, len(todo), settings.batch_size)]
    hide_bar = not (accelerator.is_main_process and sys.stderr.isatty())
    with tqdm(total=len(batches) * settings.num_inference_steps, unit="step", disable=hide_bar) as bar:
        for batch in batches:
            views = [prepare(item.path) for item, _ in batch]
            videos = sample_batch(batch, views, sampler, settings, bar.update)
            for (item, seed), view, video in zip(batch, views, videos):
                folder = Path(settings.out, item.name, f"seed_{seed}")
                with new_folder(folder) as torso:
                    write_video(torso, view, video, item, settings)
                    write_settings(torso, item, seed, trained, settings)
                tqdm.write(str(folder), file=sys.stdout)
    accelerator.end_training()


def view_maker(settings: Sample, trained: Trained, cut_out) -> Callable[[Path], Tensor]:
    """An image's path -> its input view, 1 3 H W, framed as the training data were."""
    fill = settings.object_fill or trained.recipe.get("object_fill") or USUAL_FILL
    size_px = settings.size_px or trained.data.size_px
    return lambda path: input_view(path, fill, size_px, cut_out)


def background_remover() -> Callable[[Image.Image], Image.Image]:
    """rembg's. Raises UserError if it, or its weights, cannot be had."""
    try:
        from rembg import new_session, remove
    except (ImportError, SystemExit) as error:  # without onnxruntime it exits
        raise UserError(f"sample.remove_background needs `pip install 'rembg[cpu]'` ({error})") from None
    try:
        session = new_session(BACKGROUND_MODEL)
    except (OSError, ValueError) as error:  # what its downloader raises without a network
        raise UserError(f"sample.remove_background: rembg has no weights, and cannot download them: {error}") from None
    return lambda image: remove(image, session=session)


def sample_batch(
    batch: list[tuple[InputImage, int]], views: list[Tensor], sampler: Sampler, settings: Sample, on_step
) -> list[Tensor]:
    """F 3 H W of each (image, seed). Its noise depends on the seed alone: not on its batch, its rank or the other images."""
    conds, noises = [], []
    for (item, seed), view in zip(batch, views):
        elevation = torch.tensor([item.elevation_deg])
        random = generator(seed, 0, "validation")
        cond, noise = start_video(
            view.to(sampler.device), elevation, sampler.num_frames, settings, sampler.svd.encoders, random
        )
        conds.append(cond)
        noises.append(noise)
    return sampler(Conditioning.cat(conds), torch.cat(noises), settings, on_step)


def write_video(folder: Path, view: Tensor, video: Tensor, item: InputImage, settings: Sample) -> None:
    """000.png ..., video.mp4, sheet.png, input.png and transforms.json."""
    frames, shown = to_uint8(video), to_uint8(view)
    names = [f"{number:03d}.png" for number in range(len(frames))]
    for name, frame in zip(names, frames):
        Image.fromarray(frame).save(folder / name)
    Image.fromarray(shown[0]).save(folder / "input.png")
    write_mp4(folder / "video.mp4", frames)
    contact_sheet({"input": shown, "sample": frames}).save(folder / "sheet.png")
    cameras = orbit_cameras(names, item.elevation_deg, frames.shape[1], settings.fov_deg, settings.distance)
    (folder / "transforms.json").write_text(json.dumps(cameras, indent=1) + "\n")


def write_settings(folder: Path, item: InputImage, seed: int, trained: Trained, settings: Sample) -> None:
    """sample.json: what it takes to make the same video again."""
    model = {"checkpoint": str(trained.folder), "weights": trained.weights, "step": trained.recipe["step"]}
    asked = settings.model_dump(mode="json") | {"checkpoint": settings.checkpoint}
    about = {"image": str(item.path), "elevation_deg": item.elevation_deg, "seed": seed, "model": model}
    (folder / "sample.json").write_text(json.dumps(about | {"settings": asked}, indent=1) + "\n")
