"""`main.py cache`: the VAE's latents and CLIP's embeddings of every training view, written once instead of in every epoch.

Processes share the work as those of `render` do: each encodes every N-th shard, and none waits for another. A shard
appears whole or not at all, so that the same command goes on after a kill.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset.images import Box, to_float
from dataset.latents import (
    INDEX,
    CacheIndex,
    EncodedOrbit,
    Widths,
    fault_of_shard,
    record_digest,
    require_fingerprint,
    shard_path,
    write_shard,
)
from dataset.records import Records
from dataset.views import WHITE, load_views, measure_object_fill
from models.encoders import ENCODER_DTYPES, Encoders
from models.svd import load_encoders
from training.feeding import fingerprint, read_widths
from training.loading import leave_interrupts, start_method
from training.saved_model import find_base
from utils.division import division_of, place_on_machine
from utils.errors import UserError
from utils.files import remove_unfinished, write_atomically
from utils.progress import Progress
from utils.randomness import generator
from utils.reading import read_json
from utils.schemas import CacheConfig, DataSettings
from utils.urls import refuse_remote


def cache(cfg: CacheConfig) -> None:
    refuse_remote(cfg.cache.out, "cache.out")
    records = Records(cfg.data.meta, cfg.data.num_frames, cfg.data.local_cache)
    base = find_base(cfg.model)
    folder = Path(cfg.cache.out)
    index = open_index(folder, cfg, fingerprint(base, cfg.data), records)
    mine = division_of(os.environ).of(range(index.num_shards))
    widths = read_widths(base)
    todo = [shard for shard in mine if needs_encoding(folder, index, shard, records, widths)]
    count = sum(len(index.records_of(shard)) for shard in todo)
    print(f"{folder}: {len(mine) - len(todo)} of {len(mine)} shards are there, {count} records to encode", flush=True)
    if todo:
        device = own_device()
        encoders = load_encoders(base, cfg.model).to(device)
        started = time.monotonic()
        with Progress(count, "orbits") as progress:
            for shard in todo:
                encode_shard(folder, index, shard, records, cfg.data, encoders, device, progress)
        print(f"{(time.monotonic() - started) / count:.2f} s an orbit", flush=True)
    print(f"{folder}: {size_of(folder) / 1e9:.2f} GB; train with data.cache={folder}")


def own_device() -> torch.device:
    """Return this process's GPU, or the CPU. Where `srun` shows each process one GPU, that is the first."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", place_on_machine(os.environ) % torch.cuda.device_count())
    torch.cuda.set_device(device)  # the loader pins memory with the current one
    return device


def open_index(folder: Path, cfg: CacheConfig, wanted: dict, records: Records) -> CacheIndex:
    """Write what the cache is to hold, or compare it with what is written there. Raises UserError where they differ."""
    settings = {
        "orbits_per_shard": cfg.cache.orbits_per_shard,
        "num_backgrounds": cfg.cache.num_backgrounds if cfg.data.background == "random" else 1,
        "seed": cfg.run.seed,
        "dtype": cfg.cache.dtype,
        "encoder_dtype": cfg.model.encoder_dtype,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / INDEX
    if path.exists():
        found = read_json(path, CacheIndex)
        require_fingerprint(folder, found.fingerprint | found.model_dump(include=set(settings)), wanted | settings)
        if found.num_records == len(records):
            return found
    elif any(folder.glob("[!.]*")):
        raise UserError(f"{folder}: is not empty and no cache ({INDEX}): choose another cache.out")
    fill = measure_object_fill(records, cfg.data)
    index = CacheIndex(fingerprint=wanted, num_records=len(records), object_fill=fill, **settings)
    write_atomically(path, json.dumps(index.model_dump(), indent=1) + "\n")
    return index


def needs_encoding(folder: Path, index: CacheIndex, shard: int, records: Records, widths: Widths) -> bool:
    """Whether a shard is not there, is damaged, or holds other records; what was there is said."""
    path = shard_path(folder, shard)
    if not path.exists():
        return True
    fault = fault_of_shard(path, index, [records[number] for number in index.records_of(shard)], widths)
    if fault:
        print(f"{path.name} is encoded anew: {fault}", flush=True)
    return fault is not None


class ViewsToEncode(Dataset):
    """Every circle of a shard's records on every background: item (record, background, circle) -> F 3 H W, and its square."""

    def __init__(self, records: Records, data: DataSettings, seed: int, num_backgrounds: int):
        self.records = records
        self.data = data
        self.seed = seed
        self.num_backgrounds = num_backgrounds

    def items(self, number: int) -> list[tuple[int, int, int]]:
        num_circles = len(self.records[number].image_paths) // self.data.num_frames
        return [(number, k, circle) for k in range(self.num_backgrounds) for circle in range(num_circles)]

    def background(self, number: int, k: int) -> Tensor:
        if self.data.background == "white":
            return WHITE
        return torch.rand(3, generator=generator(self.seed, number * self.num_backgrounds + k, "view"))

    def __getitem__(self, item: tuple[int, int, int]) -> tuple[Tensor, Box]:
        number, k, circle = item
        return load_views(self.records[number], self.data, circle, self.background(number, k))


def encode_shard(
    folder: Path,
    index: CacheIndex,
    shard: int,
    records: Records,
    data: DataSettings,
    encoders: Encoders,
    device: torch.device,
    progress: Progress,
) -> None:
    views = ViewsToEncode(records, data, index.seed, index.num_backgrounds)
    numbers = index.records_of(shard)
    items = [item for number in numbers for item in views.items(number)]
    loader = DataLoader(
        views,
        batch_size=None,
        sampler=items,
        num_workers=data.num_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=leave_interrupts,
        multiprocessing_context=start_method(data.num_workers),
    )
    loaded = iter(loader)
    orbits = []
    for number in numbers:
        orbits.append(encode_record(views, number, loaded, encoders, ENCODER_DTYPES[index.dtype], device))
        progress.advance()
    path = shard_path(folder, shard)
    remove_unfinished(folder, path.name)
    write_shard(path, orbits)


def encode_record(
    views: ViewsToEncode,
    number: int,
    loaded: Iterator[tuple[Tensor, Box]],
    encoders: Encoders,
    dtype: torch.dtype,
    device: torch.device,
) -> EncodedOrbit:
    """All circles of one record on all backgrounds. Raises UserError if a number does not fit into the stored type."""
    record = views.records[number]
    boxes: dict[int, Box] = {}
    latents = []
    image_embeds = []
    for _, _, circle in views.items(number):
        pixels, boxes[circle] = next(loaded)
        pixels = to_float(pixels.to(device, non_blocking=True))
        latents.append(encoders.modes(pixels[None])[0].to(dtype).cpu())
        chunks = pixels.split(encoders.encode_chunk)
        image_embeds.append(torch.cat([encoders.image_embeds(chunk)[:, 0] for chunk in chunks]).to(dtype).cpu())
    if not all(tensor.isfinite().all() for tensor in latents + image_embeds):
        raise UserError(
            f"{record.place}: its latents are not finite in {dtype}: use cache.dtype=fp32 and model.encoder_dtype=fp32"
        )
    shape = (views.num_backgrounds, len(boxes))
    return EncodedOrbit(
        latents=torch.stack(latents).unflatten(0, shape),
        image_embeds=torch.stack(image_embeds).unflatten(0, shape),
        backgrounds=torch.stack([views.background(number, k) for k in range(views.num_backgrounds)]),
        boxes=torch.tensor([boxes[circle] for circle in range(len(boxes))]),
        record=record_digest(record),
    )


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("shard_*.safetensors"))
