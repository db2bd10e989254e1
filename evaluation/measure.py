"""Measuring one object: its sampled orbit and two baselines are compared with the truth, and numbers and pictures written."""

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.records import OrbitRecord
from dataset.views import WHITE, load_orbit
from evaluation.held_out import HeldOut, encode_held_out, write_orbit
from evaluation.metrics import Metric, input_repeated, mse, per_view, psnr, ssim
from evaluation.perceptual import Unavailable, load_clip, load_lpips
from evaluation.results import object_file, sheet_file, video_file
from evaluation.turntable import pack_sheet
from models.sampling import sample_orbits
from models.svd import Svd
from utils.files import file_name, write_atomically
from utils.randomness import generator
from utils.schemas import DataSettings, EvaluateSettings
from utils.video import to_uint8


def load_metrics(settings: EvaluateSettings, device: torch.device) -> tuple[dict[str, Metric], dict[str, str]]:
    """Return the metrics that were asked for and can be loaded, and for each of the others the reason why not."""
    loaders = {
        "psnr": lambda: psnr,
        "ssim": lambda: ssim,
        "mse": lambda: mse,
        "lpips": partial(load_lpips, settings.lpips_net, device),
        "clip": partial(load_clip, settings.clip_model, device),
    }
    metrics: dict[str, Metric] = {}
    unavailable: dict[str, str] = {}
    for name in settings.metrics:
        try:
            metrics[name] = loaders[name]()
        except Unavailable as error:
            unavailable[name] = " ".join(str(error).split())
    return metrics, unavailable


def measure_record(
    record: OrbitRecord,
    data: DataSettings,
    svd: Svd,
    device: torch.device,
    metrics: dict[str, Metric],
    settings: EvaluateSettings,
) -> None:
    """Sample the record's orbit, and write its numbers, video and sheet into the folder of the evaluation."""
    orbit = load_orbit(record, data, settings.input_view, WHITE)
    number = int(hashlib.sha256(record.id.encode()).hexdigest()[:7], 16)  # so an object's noise is the same in any list
    random = generator(settings.seed, number, "validation")
    held_out = encode_held_out(orbit, file_name(record.id), random, settings, svd.encoders, device)
    views = sample_orbits(svd.unet, svd.encoders, svd.sigma_range, held_out.cond, held_out.noise, settings)[0]
    candidates = {
        "sample": views,
        "input_repeated": input_repeated(held_out.pixels),
        "vae_reconstruction": svd.encoders.decode(held_out.latents[0], settings.decode_chunk),
    }
    rows = per_view(candidates, held_out.pixels, metrics)
    _write_pictures(Path(settings.out), record.id, held_out, views, settings.video_px)
    result = {
        "id": record.id,
        "elevation_deg": float(orbit.elevation_deg),
        "video": video_file(record.id),
        "metrics": {row: {name: values.tolist() for name, values in by_name.items()} for row, by_name in rows.items()},
    }
    write_atomically(object_file(Path(settings.out), record.id), json.dumps(result) + "\n")


def _write_pictures(out: Path, record_id: str, orbit: HeldOut, views: Tensor, video_px: int) -> None:
    """Write input, truth and sample, each `video_px` wide: side by side as a video, and as the sheet that the page shows."""
    resize = partial(F.interpolate, size=(video_px, video_px), mode="bicubic", antialias=True)
    small = replace(orbit, pixels=resize(orbit.pixels))
    sample = resize(views)
    write_orbit(out / "videos", small, sample)
    truth = to_uint8(small.pixels)
    sheet = pack_sheet({"input": truth[:1], "truth": truth, "sample": to_uint8(sample)})
    write_atomically(sheet_file(out, record_id), sheet)
