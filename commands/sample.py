"""`main.py sample`: 21 views around the object of each image, with the cameras to reconstruct it from."""

import json
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dataset.inputs import InputImage, input_view, list_inputs
from models.conditioning import Conditioning
from models.sampling import sample_orbits, start_orbit
from models.svd import Svd
from rendering.camera import orbit_cameras
from training.launch import hide_bar, launched_accelerator
from training.saved_model import SavedModel, find_saved_model, load_saved_model, require_elevation
from utils.errors import UserError
from utils.files import new_folder, remove_unfinished
from utils.randomness import generator
from utils.schemas import SampleConfig, SampleSettings
from utils.video import contact_sheet, to_uint8, write_mp4

BACKGROUND_MODEL = "isnet-general-use"  # Apache-2.0; rembg's own default is not free for every use
OUR_FILES = re.compile(r"\d{3}\.png|(input|sheet)\.png|video\.mp4|(transforms|sample)\.json")
USUAL_FILL = 0.8  # where the training data were opaque, so that there was nothing to measure


def sample(cfg: SampleConfig) -> None:
    accelerator, settings = launched_accelerator(), cfg.sample
    saved = find_saved_model(settings)
    require_elevation(saved)
    inputs = list_inputs(settings)
    for item, seed in product(inputs, settings.seeds):  # every mistake before the first minute of work
        check_replaceable(results_folder(settings, item, seed))
    if accelerator.is_main_process:
        for item, seed in product(inputs, settings.seeds):
            folder = results_folder(settings, item, seed).resolve()
            remove_unfinished(folder.parent, folder.name)
    settings = resolved(settings, saved)
    for item in inputs:
        input_view(item.path, settings.object_fill, settings.size_px)
    with accelerator.local_main_process_first():
        cut_out = background_remover() if settings.remove_background else None
    svd = load_saved_model(saved, accelerator)

    prepare = lru_cache(settings.batch_size)(
        lambda path: input_view(path, settings.object_fill, settings.size_px, cut_out)
    )
    todo = list(product(inputs, settings.seeds))[accelerator.process_index :: accelerator.num_processes]
    batches = [todo[at : at + settings.batch_size] for at in range(0, len(todo), settings.batch_size)]
    with tqdm(total=len(batches) * settings.num_inference_steps, unit="step", disable=hide_bar(accelerator)) as bar:
        for batch in batches:
            views = [prepare(item.path) for item, _ in batch]
            inputs_ = [view.to(accelerator.device) for view in views]
            videos = sample_batch(batch, inputs_, svd, saved.data.num_frames, settings, bar.update)
            for (item, seed), view, video in zip(batch, views, videos):
                with new_folder(results_folder(settings, item, seed)) as unfinished:
                    write_video(unfinished, view, video, item, settings)
                    precision = accelerator.mixed_precision
                    write_settings(unfinished, item, seed, saved, settings, precision)
                tqdm.write(str(results_folder(settings, item, seed)), file=sys.stdout)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def results_folder(settings: SampleSettings, item: InputImage, seed: int) -> Path:
    return Path(settings.out, item.name, f"seed_{seed}")


def check_replaceable(folder: Path) -> None:
    """Raises UserError if it is there with anything in it that we did not write."""
    for path in (folder, *folder.parents):
        if path.is_file():
            raise UserError(f"{path}: is a file, and the views go into a folder")
    foreign = [path.name for path in folder.glob("*") if not OUR_FILES.fullmatch(path.name)]
    if foreign:
        raise UserError(f"{folder} would be replaced, but holds {foreign[0]}: move it, or choose another sample.out")


def resolved(settings: SampleSettings, saved: SavedModel) -> SampleSettings:
    """With the size and the framing of the training data where none is given."""
    fill = settings.object_fill or saved.recipe.get("object_fill") or USUAL_FILL
    return settings.model_copy(update={"object_fill": fill, "size_px": settings.size_px or saved.data.size_px})


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
    batch: list[tuple[InputImage, int]],
    views: list[Tensor],
    svd: Svd,
    num_frames: int,
    settings: SampleSettings,
    on_step: Callable[[], object],
) -> list[Tensor]:
    """F 3 H W of each (image, seed). Its noise depends on the seed alone: not on its batch, its rank or the other images."""
    conds, noises = [], []
    for (item, seed), view in zip(batch, views):
        elevation = torch.tensor([item.elevation_deg])
        cond, noise = start_orbit(view, elevation, num_frames, settings, svd.encoders, generator(seed, 0, "validation"))
        conds.append(cond)
        noises.append(noise)
    cond, noise = Conditioning.cat(conds), torch.cat(noises)
    return sample_orbits(svd.unet, svd.encoders, svd.sigma_range, cond, noise, settings, on_step)


def write_video(folder: Path, view: Tensor, video: Tensor, item: InputImage, settings: SampleSettings) -> None:
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


def write_settings(
    folder: Path, item: InputImage, seed: int, saved: SavedModel, settings: SampleSettings, precision: str
) -> None:
    """sample.json: what it takes to make the same video again."""
    model = {"folder": str(saved.folder), "weights": saved.weights, "step": saved.recipe["step"]}
    about = {"image": str(item.path), "elevation_deg": item.elevation_deg, "seed": seed, "model": model}
    about |= {"mixed_precision": precision, "settings": settings.model_dump(mode="json")}
    (folder / "sample.json").write_text(json.dumps(about, indent=1) + "\n")
