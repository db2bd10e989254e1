"""The clips that `main.py tiny_base` trains its UNet on: turntables at several speeds, in both directions, of the same orbits."""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from commands.cache import cache
from dataset.latents import INDEX, CacheIndex, EncodedOrbit, record_digest, shard_path, write_shard
from dataset.records import OrbitRecord, Records
from utils.files import new_folder, write_atomically
from utils.reading import read_json
from utils.schemas import CacheConfig, CacheSettings, TinyBaseConfig

CLIPS_PER_ORBIT = 4


def turntable(kind: int, num_frames: int, random: np.random.Generator) -> np.ndarray:
    """Return which view each frame shows: one turn or two in either direction, or a swing there and back.

    All of them end where they begin, so that any frame may be the first.
    """
    frames = np.arange(num_frames)
    if kind == 0:
        return frames
    if kind == 1:
        return -frames % num_frames
    if kind == 2:
        return frames * random.choice([-2, 2]) % num_frames
    swing = random.choice([-1, 1]) * random.uniform(0.05, 0.5) * num_frames
    return np.round(swing * np.sin(2 * np.pi * frames / num_frames)).astype(int) % num_frames


def clips_of(record: OrbitRecord, seed: int, number: int, only_turns: bool = False) -> list[np.ndarray]:
    random = np.random.default_rng([seed, number])
    kinds = (0,) if only_turns else range(CLIPS_PER_ORBIT)
    return [turntable(kind, len(record.image_paths), random) for kind in kinds]


def write_clips(orbits: Records, out: Path, seed: int, only_turns: bool = False) -> None:
    """Write a record for each clip of each orbit: the same images in another order."""
    lines = []
    for number, record in enumerate(orbits):
        for turn, places in enumerate(clips_of(record, seed, number, only_turns)):
            paths = [record.image_paths[place] for place in places]
            lines.append({"id": f"{record.id}/clip_{turn}", "image_path": paths, "elevation": record.elevations_deg})
    write_jsonl(out, lines)


def write_jsonl(path: Path, lines: list[dict]) -> None:
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))


def encode_clips(cfg: TinyBaseConfig, meta: Path) -> None:
    """Write `data.cache`: the clips of the orbits in `meta`. A view is encoded once, however often the clips show it."""
    views = Path(cfg.tiny_base.work, "latents")
    of_orbits = cfg.data.model_copy(update={"meta": str(meta), "cache": None})
    settings = {name: getattr(cfg, name) for name in type(cfg).model_fields if name not in ("data", "tiny_base")}
    cache(CacheConfig(data=of_orbits, cache=CacheSettings(out=str(views)), **settings))
    clips = Path(cfg.data.cache)
    if clips.exists():
        return
    orbits = Records(str(meta), cfg.data.num_frames)
    records = Records(cfg.data.meta, cfg.data.num_frames)
    index = read_json(views / INDEX, CacheIndex)
    with new_folder(clips) as unfinished:
        for shard in range(index.num_shards):
            numbers = index.records_of(shard)
            with safe_open(shard_path(views, shard), "pt") as file:
                encoded = [
                    clip
                    for place, number in enumerate(numbers)
                    for clip in encoded_clips(file, place, number, orbits, records, cfg.tiny_base.seed)
                ]
            write_shard(shard_path(unfinished, shard), encoded)
        changed = {"num_records": len(records), "orbits_per_shard": CLIPS_PER_ORBIT * index.orbits_per_shard}
        text = json.dumps(index.model_copy(update=changed).model_dump())
        (unfinished / INDEX).write_text(text + "\n")


def encoded_clips(file, place: int, number: int, orbits: Records, clips: Records, seed: int) -> list[EncodedOrbit]:
    """Return the clips of orbit `number`, which is at `place` in its open shard."""
    latents, image_embeds, backgrounds, boxes = (
        file.get_tensor(f"{place}/{name}") for name in ("latents", "image_embeds", "backgrounds", "boxes")
    )
    return [
        EncodedOrbit(
            latents=latents[:, :, places],
            image_embeds=image_embeds[:, :, places],
            backgrounds=backgrounds.clone(),
            boxes=boxes.clone(),
            record=record_digest(clips[number * CLIPS_PER_ORBIT + turn]),
        )
        for turn, places in enumerate(clips_of(orbits[number], seed, number))
    ]
