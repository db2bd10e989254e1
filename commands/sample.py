"""`main.py sample`: samples 21 views around the object of each image, and writes them with their cameras."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from html import escape
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dataset.backgrounds import cut_out_of_plain
from dataset.inputs import InputImage, input_view, list_inputs
from evaluation.turntable import pack_sheet, page, turntable
from models.conditioning import Conditioning
from models.sampling import sample_orbits, start_orbit
from models.svd import Svd, require_size
from rendering.transforms import orbit_transforms, write_transforms
from training.launch import gather_objects, hide_bar, launched_accelerator
from training.saved_model import SavedModel, find_saved_model, load_saved_model, require_elevation
from utils.errors import UserError, one_line
from utils.files import new_folder, remove_unfinished, write_file
from utils.randomness import generator
from utils.reading import Saved, read_json
from utils.schemas import FramingSettings, SampleConfig, SampleSettings
from utils.sheets import contact_sheet
from utils.video import to_uint8, write_mp4

BACKGROUND_MODEL = "isnet-general-use"  # Apache-2.0; rembg's own default is not free for every use
ABOUT = "sample.json"  # says what a folder's views were sampled from, and which of its files are ours
USUAL_FILL = 0.8  # taken where the training data were opaque, so that nothing could be measured
Framed = TypeVar("Framed", bound=FramingSettings)


@dataclass(frozen=True)
class SampleTask:
    """An orbit that is to be sampled."""

    image: InputImage
    seed: int
    folder: Path  # its views go here


class SavedAbout(Saved):
    """The part of sample.json that is read again."""

    files: list[str]


def sample(cfg: SampleConfig) -> int:
    """Return 0, or 1 if images were left out: why, is said when it is found, and which, at the end."""
    accelerator = launched_accelerator()
    saved = find_saved_model(cfg.sample)
    require_elevation(saved)
    settings = as_trained(cfg.sample, saved)
    tasks = list_tasks(settings)
    for task in tasks:
        check_replaceable(task.folder)
    left_out = check_images(tasks, settings, lambda line: accelerator.print(one_line(line), file=sys.stderr))
    tasks = [task for task in tasks if task.image.path not in left_out]
    if accelerator.is_main_process:
        for task in tasks:
            remove_unfinished(task.folder.parent, task.folder.name)
    with accelerator.local_main_process_first():  # so that rembg's weights are downloaded once a machine
        cut_out = background_remover() if settings.remove_background else cut_out_of_plain
    svd = load_saved_model(saved, accelerator)
    require_size(svd.unet, svd.encoders, settings.size_px)
    prepare = partial(input_view, object_fill=settings.object_fill, size_px=settings.size_px, cut_out=cut_out)
    prepare = lru_cache(settings.batch_size)(prepare)  # an image's seeds follow each other
    mine = tasks[accelerator.process_index :: accelerator.num_processes]
    batches = [mine[at : at + settings.batch_size] for at in range(0, len(mine), settings.batch_size)]
    with tqdm(total=len(batches) * settings.num_inference_steps, unit="step", disable=hide_bar(accelerator)) as bar:
        for batch in batches:
            inputs = prepare_inputs(batch, prepare, left_out)
            batch = [task for task in batch if task in inputs]
            sampled = [inputs[task].to(accelerator.device) for task in batch]
            orbits = sample_tasks(batch, sampled, svd, saved.data.num_frames, settings, bar.update) if batch else []
            for task, views in zip(batch, orbits):
                about = describe(task, saved, settings, accelerator.mixed_precision)
                write_results(task, inputs[task], views, about, settings)
                tqdm.write(str(task.folder), file=sys.stdout)
    left_out = dict(gather_objects(list(left_out.items())))  # some may have been found late, on one rank
    if left_out:
        names = ", ".join(str(path) for path in left_out)
        accelerator.print(one_line(f"{len(left_out)} images were left out: {names}"), file=sys.stderr)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 1 if left_out else 0


def as_trained(settings: Framed, saved: SavedModel) -> Framed:
    """Return the settings. Where no size or framing is given, it is that of the training data."""
    fill = settings.object_fill or saved.recipe.get("object_fill") or USUAL_FILL
    return settings.model_copy(update={"object_fill": fill, "size_px": settings.size_px or saved.data.size_px})


def list_tasks(settings: SampleSettings) -> list[SampleTask]:
    """Return a task for each image with each seed, image by image."""
    out = Path(settings.out)
    return [
        SampleTask(image, seed, out / image.name / f"seed_{seed}")
        for image, seed in product(list_inputs(settings), settings.seeds)
    ]


def check_images(tasks: list[SampleTask], settings: SampleSettings, say: Callable[[str], object]) -> dict[Path, str]:
    """Open every image before the first minute of work, and return why some of them are left out.

    Raises UserError if all of them are.
    """
    paths = list(dict.fromkeys(task.image.path for task in tasks))
    look = partial(input_view, object_fill=settings.object_fill, size_px=settings.size_px)
    if settings.remove_background:  # rembg is loaded later
        look = partial(look, cut_out=lambda image: None)
    else:
        look = partial(look, warn=lambda line: say(f"warning: {line}"))
    left_out: dict[Path, str] = {}
    for path in paths:
        try:
            look(path)
        except UserError as error:
            left_out[path] = str(error)
    if len(left_out) == len(paths):
        raise UserError(
            left_out[paths[0]] if len(paths) == 1 else f"no image can be used; the first: {left_out[paths[0]]}"
        )
    for reason in left_out.values():
        say(f"left out: {reason}")
    return left_out


def prepare_inputs(
    tasks: list[SampleTask], prepare: Callable[[Path], Tensor], left_out: dict[Path, str]
) -> dict[SampleTask, Tensor]:
    """Return the input view, 1 3 H W, of each task. An image in which rembg finds no object, for one, is added to `left_out`."""
    inputs: dict[SampleTask, Tensor] = {}
    for task in tasks:
        path = task.image.path
        if path in left_out:
            continue
        try:
            inputs[task] = prepare(path)
        except UserError as error:
            left_out[path] = str(error)
            tqdm.write(f"left out: {one_line(str(error))}", file=sys.stderr)
    return inputs


def check_replaceable(folder: Path) -> None:
    """Raises UserError if the folder is a link, or holds anything that its sample.json does not list."""
    for path in (folder, *folder.parents):
        if path.is_file():
            raise UserError(f"{path}: is a file, and the views go into a folder")
    for path in (folder, folder.parent):
        if path.is_symlink():
            raise UserError(f"{path}: is a link, and what it points to would be replaced: choose another sample.out")
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    if not found:
        return
    ours = read_json(folder / ABOUT, SavedAbout).files if (folder / ABOUT).is_file() else []
    for path in found:
        if path.name not in ours or path.is_symlink() or not path.is_file():
            raise UserError(
                f"{folder} would be replaced, but holds {path.name}, which `sample` did not write: move it, or choose"
                " another sample.out"
            )


def background_remover() -> Callable[[Image.Image], Image.Image]:
    """Return rembg's background remover. Raises UserError if rembg, or its weights, cannot be had."""
    try:
        from rembg import new_session, remove
    except (ImportError, SystemExit) as error:  # without onnxruntime it exits
        raise UserError(f"sample.remove_background needs `pip install 'rembg[cpu]'` ({error})") from None
    try:
        session = new_session(BACKGROUND_MODEL)
    except (OSError, ValueError) as error:  # what its downloader raises without a network
        raise UserError(f"sample.remove_background: rembg has no weights, and cannot download them: {error}") from None
    return lambda image: remove(image, session=session)


def sample_tasks(
    tasks: list[SampleTask],
    inputs: list[Tensor],
    svd: Svd,
    num_frames: int,
    settings: SampleSettings,
    on_step: Callable[[], object],
) -> list[Tensor]:
    """Sample the views of each task, F 3 H W in [-1, 1], from its input view, 1 3 H W.

    An orbit's noise follows from its seed alone. Batch, rank and the other images do not matter.
    """
    conds: list[Conditioning] = []
    noises: list[Tensor] = []
    for task, input_ in zip(tasks, inputs):
        elevation_deg = torch.tensor([task.image.elevation_deg])
        random = generator(task.seed, 0, "validation")
        cond, noise = start_orbit(input_, elevation_deg, num_frames, settings, svd.encoders, random)
        conds.append(cond)
        noises.append(noise)
    cond = Conditioning.cat(conds)
    return sample_orbits(svd.unet, svd.encoders, svd.sigma_range, cond, torch.cat(noises), settings, on_step)


def describe(task: SampleTask, saved: SavedModel, settings: SampleSettings, mixed_precision: str) -> dict:
    """Return the content of sample.json, which is enough to sample the same orbit again."""
    return {
        "image": str(task.image.path),
        "elevation_deg": task.image.elevation_deg,
        "seed": task.seed,
        "model": {"folder": str(saved.folder), "weights": saved.weights, "step": saved.recipe["step"]},
        "mixed_precision": mixed_precision,
        "settings": settings.model_dump(mode="json"),
    }


def write_results(task: SampleTask, input_: Tensor, views: Tensor, about: dict, framing: FramingSettings) -> None:
    """Write 000.png ..., video.mp4, sheet.png, index.html, input.png, transforms.json and sample.json as the task's folder."""
    frames = to_uint8(views)
    shown = to_uint8(input_)
    names = [f"{number:03d}.png" for number in range(len(frames))]
    transforms = orbit_transforms(names, task.image.elevation_deg, frames.shape[1], framing.fov_deg, framing.distance)
    check_replaceable(task.folder)  # once more, since sampling takes long
    with new_folder(task.folder) as unfinished:
        for name, frame in zip(names, frames):
            Image.fromarray(frame).save(unfinished / name)
        Image.fromarray(shown[0]).save(unfinished / "input.png")
        write_mp4(unfinished / "video.mp4", frames)
        contact_sheet({"input": shown, "sample": frames}).save(unfinished / "sheet.png")
        write_file(unfinished / "index.html", sample_page(about, orbit_html(shown, frames)))
        write_transforms(unfinished, transforms)
        files = sorted([*(path.name for path in unfinished.iterdir()), ABOUT])
        (unfinished / ABOUT).write_text(json.dumps(about | {"files": files}, indent=1) + "\n")


def orbit_html(input_: np.ndarray, frames: np.ndarray) -> str:
    """Return the input (1 H W 3) beside the sampled views (F H W 3, which turn), as HTML."""
    panels = {"input": input_, "sample": frames}
    counts = {label: len(pictures) for label, pictures in panels.items()}
    return turntable(pack_sheet(panels), counts, "the input, and the views that were sampled from it")


def sample_page(about: dict, orbit: str) -> str:
    """Return a page that shows an orbit. `about` is what sample.json holds."""
    title = f"{Path(about['image']).name}, seed {about['seed']}"
    model = about["model"]
    facts = (
        f"{model['folder']}, step {model['step']}, {model['weights']} weights; elevation {about['elevation_deg']:g}°."
    )
    note = f"<p class=note>{escape(facts)} Drag to turn it, or use the arrow keys.</p>"
    return page(title, f"<h1>{escape(title)}</h1>{note}{orbit}")
