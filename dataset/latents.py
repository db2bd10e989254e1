"""Views that were encoded once: the folder that `main.py cache` writes, and that training reads instead of encoding.

index.json says what was encoded and how. A shard holds the next `orbits_per_shard` records of the jsonl; for record i of it,
with K backgrounds, P circles of F views (an orbit of 84 views has 4 circles of 21) and h = w = size_px / 8:

    i/latents       K P F C h w   the VAE's mode, not scaled
    i/image_embeds  K P F D       of CLIP
    i/backgrounds   K 3           in [0, 1], fp32
    i/boxes         P 4           the square that the views of a circle were cropped to
    i/checksums     K P 3         CRC-32 of each circle's latents, of its embeddings, and of its background with its box
    i/record        32            SHA-256 of the record's paths and elevations

So what a sample needs lies together, and is all that is read. Each read is checked: shapes and types, record, checksums.
"""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from dataset.images import MAX_SIDE_PX, Box
from dataset.records import OrbitRecord
from dataset.shards import Form, LocalShard, RemoteShard, differing_form
from utils.errors import UserError, cut, first_line
from utils.files import new_file
from utils.reading import MAX_JSON_BYTES, Saved, parse_json, read_json
from utils.remote import list_names, look_at, read_file
from utils.schemas import DataSettings
from utils.urls import is_remote, joined, redacted

INDEX = "index.json"
VAE_SCALE = 8  # pixels to a side of a latent
STORED = {"fp16": "F16", "fp32": "F32"}  # as safetensors calls them
AGAIN = "run `main.py cache` again, which encodes anew what is missing or damaged"


class CacheIndex(Saved):
    """What a cache holds, and all that its content follows from."""

    fingerprint: dict[str, str | int | float | None]  # must equal that of the run which reads it
    num_records: int = Field(ge=1)
    orbits_per_shard: int = Field(ge=1)
    num_backgrounds: int = Field(ge=1)
    seed: int = Field(ge=0)  # of the backgrounds
    dtype: Literal["fp16", "fp32"]  # of latents and embeddings as stored
    encoder_dtype: str
    object_fill: float | None  # as measured on the views

    @property
    def num_shards(self) -> int:
        return -(-self.num_records // self.orbits_per_shard)

    def records_of(self, shard: int) -> range:
        first = shard * self.orbits_per_shard
        return range(first, min(first + self.orbits_per_shard, self.num_records))


@dataclass(frozen=True)
class Widths:
    """How many numbers the encoders of a run give."""

    latent_channels: int  # at each place of a latent
    image_embeds: int  # for a view


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
            [_checksums(*circle, background) for circle in zip(latents, embeds, self.boxes)]
            for latents, embeds, background in zip(self.latents, self.image_embeds, self.backgrounds)
        ]
        tensors = {**vars(self), "checksums": torch.tensor(sums)}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}  # convolutions leave other strides


@dataclass(frozen=True)
class EncodedViews:
    """What training reads for one sample."""

    latents: Tensor  # F C h w, fp32: the VAE's mode, not scaled
    image_embeds: Tensor  # D, fp32, of the input view
    background: Tensor  # 3 in [0, 1]
    box: Box


def record_digest(record: OrbitRecord) -> Tensor:
    """SHA-256 of what a record's views follow from, 32 bytes."""
    text = json.dumps([record.image_paths, record.elevations_deg])
    return torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)


def shard_name(shard: int) -> str:
    return f"shard_{shard:06d}.safetensors"


def shard_path(folder: Path, shard: int) -> Path:
    return folder / shard_name(shard)


def write_shard(path: Path, orbits: list[EncodedOrbit]) -> None:
    tensors = {
        f"{place}/{name}": tensor for place, orbit in enumerate(orbits) for name, tensor in orbit.tensors().items()
    }
    with new_file(path) as file:
        file.write(save(tensors))


def fault_of_shard(path: Path, index: CacheIndex, records: Sequence[OrbitRecord], widths: Widths) -> str | None:
    """Return what is wrong with a shard that is to hold `records`, or None. All of it is read."""
    if not path.is_file():
        return "it is missing"
    try:
        shard = LocalShard(path)
        count = sum(name.endswith("/record") for name in shard.names())
        if count != len(records):
            return f"it holds {count} records instead of {len(records)}"
        for place, record in enumerate(records):
            num_circles = _count_circles(shard, place, record, index, widths, str(path))
            for background, circle in product(range(index.num_backgrounds), range(num_circles)):
                _read_circle(shard, place, background, circle, record, str(path))
    except UserError as error:
        return str(error)
    except (OSError, SafetensorError) as error:
        return cut(first_line(error))
    return None


class LatentCache:
    """A finished cache, in a folder or at an address. Files are opened when they are read: loading processes share nothing."""

    def __init__(self, data: DataSettings, fingerprint: dict, num_records: int, widths: Widths):
        """Raises UserError if it is not complete, or was made for another run: from other weights, sizes or records."""
        self.data = data
        self.widths = widths
        self.name = redacted(data.cache)
        self.index = _read_index(data.cache)
        require_fingerprint(self.name, self.index.fingerprint, fingerprint)
        if self.index.num_records != num_records:
            raise UserError(
                f"{self.name}: holds {self.index.num_records} records, data.meta has {num_records}; {AGAIN}"
            )
        names = [shard_name(shard) for shard in range(self.index.num_shards)]
        there = _names_in(data.cache)
        if there is None:
            look_at(joined(data.cache, names[-1]))
        elif missing := sum(name not in there for name in names):
            raise UserError(f"{self.name}: {missing} of {len(names)} shards are missing; {AGAIN}")

    def views(self, index: int, record: OrbitRecord, start: int, choice: float) -> EncodedViews:
        """The orbit of record number `index` from view `start`, on one of its backgrounds: `choice` is in [0, 1).

        Raises UserError with the shard if it is damaged, or holds another record.
        """
        name = shard_name(index // self.index.orbits_per_shard)
        place = index % self.index.orbits_per_shard
        background = int(choice * self.index.num_backgrounds)
        path = f"{self.name}/{name}"
        try:
            shard = self._open(name)
            num_circles = _count_circles(shard, place, record, self.index, self.widths, path)
            circle = start % num_circles
            latents, embeds, colour, box = _read_circle(shard, place, background, circle, record, path)
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{path}: cannot be read: {cut(first_line(error))}; {AGAIN}") from None
        first = start // num_circles
        return EncodedViews(latents.roll(-first, 0).float(), embeds[first].float(), colour, box)

    def _open(self, name: str) -> LocalShard | RemoteShard:
        if is_remote(self.data.cache):
            return RemoteShard(joined(self.data.cache, name), self.data)
        return LocalShard(Path(self.data.cache, name))


def _read_index(cache: str) -> CacheIndex:
    if not is_remote(cache):
        return read_json(Path(cache, INDEX), CacheIndex)
    url = joined(cache, INDEX)
    return parse_json(read_file(url, MAX_JSON_BYTES), CacheIndex, redacted(url))


def _names_in(cache: str) -> set[str] | None:
    """Return the names of the files in a cache, or None where they cannot be listed, as over HTTP."""
    if is_remote(cache):
        return list_names(cache)
    return {path.name for path in Path(cache).glob("shard_*.safetensors")}


def require_fingerprint(folder: str | Path, found: dict, wanted: dict) -> None:
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


def _count_circles(
    shard: LocalShard | RemoteShard, place: int, record: OrbitRecord, index: CacheIndex, widths: Widths, path: str
) -> int:
    """Return how many circles a record has. Raises UserError if the shard holds something of another form."""
    num_frames = index.fingerprint["data.num_frames"]
    num_circles = len(record.image_paths) // num_frames
    circles = [index.num_backgrounds, num_circles]
    side = index.fingerprint["data.size_px"] // VAE_SCALE
    expected: dict[str, Form] = {
        f"{place}/latents": (STORED[index.dtype], [*circles, num_frames, widths.latent_channels, side, side]),
        f"{place}/image_embeds": (STORED[index.dtype], [*circles, num_frames, widths.image_embeds]),
        f"{place}/backgrounds": ("F32", [index.num_backgrounds, 3]),
        f"{place}/boxes": ("I64", [num_circles, 4]),
        f"{place}/checksums": ("I64", [*circles, None]),
        f"{place}/record": ("U8", [32]),
    }
    if fault := differing_form(shard, expected):
        raise UserError(f"{path}: {fault}; {AGAIN}")
    return num_circles


def _read_circle(
    shard: LocalShard | RemoteShard, place: int, background: int, circle: int, record: OrbitRecord, path: str
) -> tuple[Tensor, Tensor, Tensor, Box]:
    """Return latents (F C h w) and embeddings (F D) as stored, the background (3) and the square.

    Raises UserError if they are damaged, or of another record.
    """
    parts = {
        "record": (),
        "checksums": (background, circle),
        "latents": (background, circle),
        "image_embeds": (background, circle),
        "backgrounds": (background,),
        "boxes": (circle,),
    }
    values = shard.read([(f"{place}/{name}", index) for name, index in parts.items()])
    digest, sums, latents, embeds, background, box = values
    if not torch.equal(digest, record_digest(record)):
        raise UserError(f"{path}: holds other views than {record.place} names: data.meta was changed; {AGAIN}")
    found = _checksums(latents, embeds, box, background)
    if sums.tolist() not in (found, found[:2]):  # earlier versions wrote two
        raise UserError(f"{path}: is damaged: the checksum of its orbit {place} does not fit; {AGAIN}")
    left, upper, right, lower = square = tuple(box.tolist())
    fits = 0 < right - left == lower - upper <= MAX_SIDE_PX and max(map(abs, square)) <= 2 * MAX_SIDE_PX
    if not fits or not ((background >= 0) & (background <= 1)).all():
        raise UserError(f"{path}: holds a crop or a background that cannot be; {AGAIN}")
    return latents, embeds, background, square


def _checksums(latents: Tensor, embeds: Tensor, box: Tensor, background: Tensor) -> list[int]:
    sums = [zlib.crc32(tensor.contiguous().numpy()) for tensor in (latents, embeds, background)]
    return [*sums[:2], zlib.crc32(box.numpy(), sums[2])]
