"""Views that were encoded once: the folder that `main.py cache` writes, and that training reads instead of encoding.

index.json says what was encoded and how. A shard holds the next `orbits_per_shard` records of the jsonl; for record i of it,
with K backgrounds, P circles of F views (an orbit of 84 views has 4 circles of 21) and h = w = size_px / 8:

    i/latents       K P F 4 h w   the VAE's mode, not scaled
    i/image_embeds  K P F C       of CLIP
    i/backgrounds   K 3           in [0, 1], fp32
    i/boxes         P 4           the square that the views of a circle were cropped to
    i/checksums     K P 2         CRC-32 of each circle's latents and embeddings
    i/record        32            SHA-256 of the record's paths and elevations

So what a sample needs lies together, and is all that is read. Each read is checked against the checksum and the record.
"""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dataset.images import Box
from dataset.records import OrbitRecord
from utils.errors import UserError
from utils.files import new_file
from utils.reading import Saved, read_json

INDEX = "index.json"
AGAIN = "run `main.py cache` again, which encodes anew what is missing or damaged"


class CacheIndex(Saved):
    """What a cache holds, and all that its content follows from."""

    fingerprint: dict[str, str | int | float | None]  # must equal that of the run which reads it
    num_records: int = Field(ge=1)
    orbits_per_shard: int = Field(ge=1)
    num_backgrounds: int = Field(ge=1)
    seed: int = Field(ge=0)  # of the backgrounds
    dtype: str  # of latents and embeddings as stored
    encoder_dtype: str
    object_fill: float | None  # as measured on the views

    @property
    def num_shards(self) -> int:
        return -(-self.num_records // self.orbits_per_shard)

    def records_of(self, shard: int) -> range:
        first = shard * self.orbits_per_shard
        return range(first, min(first + self.orbits_per_shard, self.num_records))


@dataclass(frozen=True)
class EncodedOrbit:
    """A record's views as they go into a shard; the names and shapes are those above."""

    latents: Tensor
    image_embeds: Tensor
    backgrounds: Tensor
    boxes: Tensor
    record: Tensor

    def tensors(self) -> dict[str, Tensor]:
        sums = [
            [[_crc(latents), _crc(embeds)] for latents, embeds in zip(*both)]
            for both in zip(self.latents, self.image_embeds)
        ]
        tensors = {**vars(self), "checksums": torch.tensor(sums)}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}  # convolutions leave other strides


@dataclass(frozen=True)
class EncodedViews:
    """What training reads for one sample."""

    latents: Tensor  # F 4 h w, fp32: the VAE's mode, not scaled
    image_embeds: Tensor  # C, fp32, of the input view
    background: Tensor  # 3 in [0, 1]
    box: Box


def record_digest(record: OrbitRecord) -> Tensor:
    """SHA-256 of what a record's views follow from, 32 bytes."""
    text = json.dumps([record.image_paths, record.elevations_deg])
    return torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard_{shard:06d}.safetensors"


def write_shard(path: Path, orbits: list[EncodedOrbit]) -> None:
    tensors = {
        f"{place}/{name}": tensor for place, orbit in enumerate(orbits) for name, tensor in orbit.tensors().items()
    }
    with new_file(path) as file:
        file.write(save(tensors))


def fault_of_shard(path: Path, records: Sequence[OrbitRecord]) -> str | None:
    """Return what is wrong with a shard that is to hold `records`, or None. All of it is read."""
    if not path.is_file():
        return "it is missing"
    try:
        with safe_open(path, "pt") as shard:
            names = shard.keys()
            count = sum(name.endswith("/record") for name in names)
            if count != len(records):
                return f"it holds {count} records instead of {len(records)}"
            for place, record in enumerate(records):
                _check_record(shard, place, record, path)
                num_backgrounds, num_circles, _ = shard.get_tensor(f"{place}/checksums").shape
                for background, circle in product(range(num_backgrounds), range(num_circles)):
                    _read_circle(shard, place, background, circle, path)
    except (OSError, SafetensorError, UserError) as error:
        return str(error)
    return None


class LatentCache:
    """A finished cache. Files are opened when they are read, so that loading processes share nothing."""

    def __init__(self, folder: str, fingerprint: dict, num_records: int):
        """Raises UserError if it is not complete, or was made for another run: from other weights, sizes or records."""
        self.folder = Path(folder)
        self.index = read_json(self.folder / INDEX, CacheIndex)
        require_fingerprint(self.folder, self.index.fingerprint, fingerprint)
        if self.index.num_records != num_records:
            raise UserError(f"{folder}: holds {self.index.num_records} records, data.meta has {num_records}; {AGAIN}")
        there = {path.name for path in self.folder.glob("shard_*.safetensors")}
        missing = sum(shard_path(self.folder, shard).name not in there for shard in range(self.index.num_shards))
        if missing:
            raise UserError(f"{folder}: {missing} of {self.index.num_shards} shards are missing; {AGAIN}")

    def views(self, index: int, record: OrbitRecord, start: int, choice: float) -> EncodedViews:
        """The orbit of record number `index` from view `start`, on one of its backgrounds: `choice` is in [0, 1).

        Raises UserError with the shard if it is damaged, or holds another record.
        """
        path = shard_path(self.folder, index // self.index.orbits_per_shard)
        place = index % self.index.orbits_per_shard
        try:
            with safe_open(path, "pt") as shard:
                _check_record(shard, place, record, path)
                num_circles = shard.get_slice(f"{place}/latents").get_shape()[1]
                circle = start % num_circles
                background = int(choice * self.index.num_backgrounds)
                latents, embeds = _read_circle(shard, place, background, circle, path)
                colour = shard.get_tensor(f"{place}/backgrounds")[background]
                box = tuple(shard.get_tensor(f"{place}/boxes")[circle].tolist())
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read: {error}; {AGAIN}") from None
        first = start // num_circles
        return EncodedViews(latents.roll(-first, 0).float(), embeds[first].float(), colour, box)


def require_fingerprint(folder: Path, found: dict, wanted: dict) -> None:
    """Raises UserError with each part in which a cache differs from what a run would encode."""
    parts = [
        f"{name} ({_shortly(found.get(name))}, here {_shortly(wanted.get(name))})"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if parts:
        raise UserError(
            f"{folder}: was encoded with another {', '.join(parts)}: write a new one, with another cache.out"
        )


def _shortly(value) -> str:
    return value[:12] if isinstance(value, str) else str(value)


def _check_record(shard, place: int, record: OrbitRecord, path: Path) -> None:
    if not torch.equal(shard.get_tensor(f"{place}/record"), record_digest(record)):
        raise UserError(f"{path}: holds other views than {record.place} names: data.meta was changed; {AGAIN}")


def _read_circle(shard, place: int, background: int, circle: int, path: Path) -> tuple[Tensor, Tensor]:
    """F 4 h w and F C as stored."""
    sums = shard.get_tensor(f"{place}/checksums")
    both = [shard.get_slice(f"{place}/{name}")[background, circle] for name in ("latents", "image_embeds")]
    if [_crc(tensor) for tensor in both] != sums[background, circle].tolist():
        raise UserError(f"{path}: is damaged: the checksum of its orbit {place} does not fit; {AGAIN}")
    return both[0], both[1]


def _crc(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().numpy())
