"""`main.py evaluate`: held-out orbits -> metrics per view, per object and overall, beside two baselines, and a page to look at.

Every object's numbers and video are files of their own, written when they are complete: that is what ranks share, and where an
interrupted evaluation goes on.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from dataset.records import OrbitRecord, Records
from dataset.views import WHITE, load_orbit
from evaluation.held_out import HeldOut, encode_held_out, write_orbit
from evaluation.metrics import Metric, input_repeated, mse, per_view, psnr, ssim
from evaluation.perceptual import Unavailable, load_clip, load_lpips
from evaluation.report import protocol_differences, write_report
from models.sampling import sample_orbits
from models.svd import Svd
from training.checkpoint import checksums
from training.launch import gather_objects, hide_bar, launched_accelerator
from training.saved_model import SavedModel, find_saved_model, load_saved_model, require_elevation
from utils.config import read_json
from utils.errors import UserError
from utils.files import file_name, read_lines, write_atomically
from utils.randomness import generator
from utils.schemas import DataSettings, EvaluateConfig, EvaluateSettings

# Settings that do not change an object's numbers, so that an evaluation may go on with other values.
FREE_KEYS = ("checkpoint", "out", "protocol", "objects", "num_records", "elevations_deg", "views", "metrics")
SETTINGS = "settings.json"


def evaluate(cfg: EvaluateConfig) -> int:
    """0 if everything asked for was measured, else 1."""
    accelerator, settings = launched_accelerator(), cfg.evaluate
    saved = find_saved_model(settings)
    require_elevation(saved)
    data = evaluation_data(saved, settings)
    records = Records(settings.meta, data.num_frames)
    chosen, differences = choose_records(records, data, settings), protocol_differences(settings, data)
    check_results(Path(settings.out))
    svd = load_saved_model(saved, accelerator)
    metrics, unavailable = load_metrics(settings, accelerator.device, accelerator.local_main_process_first)
    if accelerator.is_main_process:
        open_results(Path(settings.out), fingerprint(saved, settings, accelerator.mixed_precision))
    accelerator.wait_for_everyone()
    mine = [index for _, index in sorted(chosen.items())][accelerator.process_index :: accelerator.num_processes]
    todo = [index for index in mine if not measured(results_file(settings, records[index].id), metrics)]
    hidden = hide_bar(accelerator)
    for index in tqdm(todo, unit="object", initial=len(mine) - len(todo), total=len(mine), disable=hidden):
        evaluate_record(records[index], index, data, svd, accelerator.device, metrics, settings)
        tqdm.write(records[index].id, file=sys.stdout)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        model = {"checkpoint": str(saved.folder), "weights": saved.weights, "step": saved.recipe["step"]}
        files = [results_file(settings, name) for name in sorted(chosen)]
        write_report(settings, model, differences, list(metrics), unavailable, files)
    accelerator.wait_for_everyone()  # a rank that ends with 1 has the launcher end the others
    accelerator.end_training()
    return 1 if unavailable else 0


def evaluation_data(saved: SavedModel, settings: EvaluateSettings) -> DataSettings:
    """The data as in training (views, crop), but of `settings` and on white. Raises UserError without a root."""
    root = settings.root or saved.data.root
    if not root:
        raise UserError(f"evaluate.root is missing: {saved.folder} does not say where the images of a meta file are")
    size_px = settings.size_px or saved.data.size_px
    return saved.data.model_copy(
        update={"root": root, "meta": settings.meta, "size_px": size_px, "background": "white"}
    )


def choose_records(records: Records, data: DataSettings, settings: EvaluateSettings) -> dict[str, int]:
    """{record id: index} of what is measured, by `evaluate.objects` or by hash. Raises UserError for one that cannot be."""
    by_id: dict[str, int] = {}
    names: dict[str, str] = {}
    for index in range(len(records)):
        record = records[index]
        other = names.setdefault(file_name(record.id).casefold(), record.id)
        if not file_name(record.id) or other != record.id or record.id in by_id:
            raise UserError(f"{record.place}: id '{record.id}' cannot be told from '{other}' of an earlier line")
        by_id[record.id] = index
    if settings.objects is not None:
        ids = read_objects(Path(settings.objects), by_id)
    else:
        ids = sorted(by_id, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[: settings.num_records]
    if settings.num_records and len(ids) != settings.num_records:
        where = settings.objects or settings.meta
        raise UserError(f"{where}: has {len(ids)} records, evaluate.num_records is {settings.num_records}")
    for name in ids:
        check_record(records[by_id[name]], data, settings)
    return {name: by_id[name] for name in ids}


def read_objects(path: Path, known: dict[str, int]) -> list[str]:
    """The ids in a list: one a line, # for comments. Raises UserError naming a line that is not in the meta file, or is double."""
    ids: list[str] = []
    for place, line in read_lines(path):
        name = line.partition("#")[0].strip()
        if name and (name not in known or name in ids):
            raise UserError(f"{place}: '{name}' " + ("stands twice" if name in ids else "is not in the meta file"))
        ids += [name] if name else []
    if not ids:
        raise UserError(f"{path}: names no object")
    return ids


def check_record(record: OrbitRecord, data: DataSettings, settings: EvaluateSettings) -> None:
    if settings.input_view >= len(record.image_paths):
        raise UserError(f"{record.place}: has {len(record.image_paths)} views, no input_view {settings.input_view}")
    if settings.elevations_deg is not None:
        low, high = settings.elevations_deg
        if not low <= min(record.elevations_deg) <= max(record.elevations_deg) <= high:
            raise UserError(
                f"{record.place}: elevation {record.elevations_deg[0]:g} is outside evaluate.elevations_deg,"
                f" {low:g} to {high:g}"
            )
    missing = next((path for path in record.image_paths if not Path(data.root, path).is_file()), None)
    if missing:
        raise UserError(f"{record.place}: {Path(data.root, missing)}: no such image file")


def fingerprint(saved: SavedModel, settings: EvaluateSettings, mixed_precision: str) -> dict:
    """What an object's numbers follow from."""
    keys = {key: value for key, value in settings.model_dump(mode="json").items() if key not in FREE_KEYS}
    with open(settings.meta, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    unet = {"unet": checksums(saved.base.unet), "mixed_precision": mixed_precision}
    return keys | unet | {"weights": saved.weights, "meta": digest}


def check_results(out: Path) -> None:
    """Raises UserError if `out` is there and no evaluation's."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file")
    if out.is_dir() and not (out / SETTINGS).exists() and any(out.glob("[!.]*")):
        raise UserError(f"{out} is not empty, and holds no evaluation: choose another evaluate.out")


def open_results(out: Path, now: dict) -> None:
    """Make the folder, or check that what is in it was measured alike. Raises UserError naming the keys that differ."""
    path = out / SETTINGS
    if path.exists():
        before = read_json(path)
        differing = [key for key in now.keys() | before.keys() if now.get(key) != before.get(key)]
        if differing:
            raise UserError(
                f"{out} holds an evaluation with other values of {', '.join(sorted(differing))}: choose another"
                " evaluate.out, or remove it"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(now, indent=1) + "\n")
    for folder in ("objects", "videos"):
        (out / folder).mkdir(exist_ok=True)


def load_metrics(
    settings: EvaluateSettings, device: torch.device, one_after_the_other: Callable
) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics asked for, and why those are missing that cannot be had on some rank."""
    loaders = {
        "psnr": lambda: psnr,
        "ssim": lambda: ssim,
        "mse": lambda: mse,
        "lpips": partial(load_lpips, settings.lpips_net, device),
        "clip": partial(load_clip, settings.clip_model, device),
    }
    metrics, unavailable = {}, {}
    with one_after_the_other():  # weights are downloaded once a machine
        for name in settings.metrics:
            try:
                metrics[name] = loaders[name]()
            except Unavailable as error:
                unavailable[name] = " ".join(str(error).split())
    unavailable = dict(gather_objects(list(unavailable.items())))
    return {name: metric for name, metric in metrics.items() if name not in unavailable}, unavailable


def results_file(settings: EvaluateSettings, record_id: str) -> Path:
    return Path(settings.out, "objects", f"{file_name(record_id)}.json")


def measured(path: Path, metrics: dict[str, Metric]) -> bool:
    """Whether an object's file is there, with all these metrics."""
    return path.exists() and metrics.keys() <= read_json(path, "metrics")["metrics"]["sample"].keys()


def evaluate_record(
    record: OrbitRecord,
    index: int,
    data: DataSettings,
    svd: Svd,
    device: torch.device,
    metrics: dict[str, Metric],
    settings: EvaluateSettings,
) -> None:
    """Sample one orbit, measure it and its two baselines, and write its video and its numbers."""
    orbit = load_orbit(record, data, settings.input_view, WHITE, index)
    number = int(hashlib.sha256(record.id.encode()).hexdigest()[:7], 16)  # an object's noise is the same in any list
    random = generator(settings.seed, number, "validation")
    held_out = encode_held_out(orbit, file_name(record.id), random, settings, svd.encoders, device)
    views = sample_orbits(svd.unet, svd.encoders, svd.sigma_range, held_out.cond, held_out.noise, settings)[0]
    candidates = {
        "sample": views,
        "input_repeated": input_repeated(held_out.pixels),
        "vae_reconstruction": svd.encoders.decode(held_out.latents[0], settings.decode_chunk),
    }
    rows = per_view(candidates, held_out.pixels, metrics)
    write_small_video(held_out, views, settings)
    numbers = {row: {name: values.tolist() for name, values in of.items()} for row, of in rows.items()}
    about = {"id": record.id, "elevation_deg": float(orbit.elevation_deg), "video": f"videos/{held_out.name}.mp4"}
    write_atomically(results_file(settings, record.id), json.dumps(about | {"metrics": numbers}) + "\n")


def write_small_video(orbit: HeldOut, views: Tensor, settings: EvaluateSettings) -> None:
    """Input | truth | sample, for the page."""
    size = (settings.video_px, settings.video_px)
    pixels, views = (F.interpolate(x, size=size, mode="bicubic", antialias=True) for x in (orbit.pixels, views))
    write_orbit(Path(settings.out, "videos"), replace(orbit, pixels=pixels), views)
