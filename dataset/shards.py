"""Reading some tensors of a safetensors file: on this machine by memory map, elsewhere by the byte ranges that are needed."""

import json
import math
import struct
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from pydantic import RootModel
from safetensors import safe_open
from torch import Tensor

from dataset.local_copies import fetch_range, keep
from utils.errors import UserError
from utils.reading import Saved, parse_json
from utils.remote import Facts, read_range
from utils.schemas import DataSettings
from utils.urls import redacted

LARGE = ("latents", "image_embeds")  # ends of names; all other tensors of a shard are small
MAX_HEADER_BYTES = 100 << 20  # as safetensors has it
LENGTH_BYTES = 8
NEAR_BYTES = 64 << 10  # what lies nearer together is asked for in one request
DTYPES = {"F16": torch.float16, "F32": torch.float32, "I64": torch.int64, "U8": torch.uint8}
_HOLE = struct.Struct("<QQ")
Part = tuple[str, tuple[int, ...]]  # a tensor's name, and leading indices into it
Span = tuple[int, int]  # of bytes in the file
Form = tuple[str, list[int | None]]  # a tensor's type, as safetensors calls it, and its shape; None is any size


class LocalShard:
    """Raises OSError or SafetensorError for what cannot be read."""

    def __init__(self, path: Path):
        self._file = safe_open(path, "pt")

    def names(self) -> list[str]:
        return list(self._file.keys())

    def form(self, name: str) -> Form:
        found = self._file.get_slice(name)
        return found.get_dtype(), found.get_shape()

    def read(self, parts: list[Part]) -> list[Tensor]:
        return [self._file.get_slice(name)[index] if index else self._file.get_tensor(name) for name, index in parts]


class RemoteShard:
    """The same for an address. Its head, all that is not latents and embeddings, is fetched once and kept on this machine."""

    def __init__(self, url: str, data: DataSettings):
        """Raises UserError with the address if it cannot be read."""
        self.url = url
        self.data = data
        self._path = _head_path(url, data.local_cache)
        self._head = _read_head(self._path)

    def form(self, name: str) -> Form:
        found = self._head.tensors[name]
        return found["dtype"], found["shape"]

    def read(self, parts: list[Part]) -> list[Tensor]:
        """Return parts of tensors. What lies close together is read in one request."""
        spans = [self._span(name, index) for name, index in parts]
        pieces = {span: self._fetch(span) for span in merged([span for span in spans if not self._is_kept(span)])}
        tensors = []
        for (name, index), span in zip(parts, spans):
            found = self._head.tensors[name]
            content = self._from_head(span) if self._is_kept(span) else _cut_out(span, pieces)
            tensor = torch.frombuffer(content, dtype=DTYPES[found["dtype"]])
            tensors.append(tensor.reshape(found["shape"][len(index) :]))
        return tensors

    def _span(self, name: str, index: tuple[int, ...]) -> Span:
        found = self._head.tensors[name]
        begin, end = (self._head.begin + offset for offset in found["data_offsets"])
        for number, size in zip(index, found["shape"]):
            if number >= size:
                raise UserError(f"{redacted(self.url)}: holds no {name}{list(index)}")
            step = (end - begin) // size
            begin, end = begin + number * step, begin + (number + 1) * step
        return begin, end

    def _is_kept(self, span: Span) -> bool:
        first, last = self._head.hole
        return span[1] <= first or last <= span[0]

    def _fetch(self, span: Span) -> bytes:
        return fetch_range(self.url, self.data, *span, version=self._path.parent.name)

    def _from_head(self, span: Span) -> bytearray:
        first, last = self._head.hole
        with open(self._path, "rb") as file:
            file.seek(span[0] if span[1] <= first else span[0] - (last - first))
            return bytearray(file.read(span[1] - span[0]))


def differing_form(shard: LocalShard | RemoteShard, expected: dict[str, Form]) -> str | None:
    """Return how the first tensor differs that has not the form that is expected of it, or None."""
    for name, (dtype, shape) in expected.items():
        found, sizes = shard.form(name)
        fits = len(sizes) == len(shape) and all(want in (None, size) for size, want in zip(sizes, shape))
        if found != dtype or not fits:
            return f"{name} is {found} of {sizes}, not {dtype} of {shape}"
    return None


def merged(spans: list[Span]) -> list[Span]:
    """Return spans that hold all of these, with those in one that lie near each other."""
    pieces: list[Span] = []
    for begin, end in sorted(spans):
        if pieces and begin - pieces[-1][1] <= NEAR_BYTES:
            pieces[-1] = (pieces[-1][0], max(end, pieces[-1][1]))
        else:
            pieces.append((begin, end))
    return pieces


def _cut_out(span: Span, pieces: dict[Span, bytes]) -> bytearray:
    piece = next(piece for piece in pieces if piece[0] <= span[0] and span[1] <= piece[1])
    return bytearray(pieces[piece][span[0] - piece[0] : span[1] - piece[0]])


class Head(NamedTuple):
    """What is kept of a shard. In the file are its bytes before the hole, those after it, and where the hole is."""

    tensors: dict[str, dict]  # safetensors' header: dtype, shape, data_offsets
    begin: int  # of what the offsets are counted from
    hole: Span  # from the first large tensor to the last


_paths: dict[tuple[str, str], Path] = {}  # of heads that this process has seen


def _head_path(url: str, local_cache: str) -> Path:
    """Return where the head of a shard is kept. Whether the shard has another version is asked once a process."""
    key = (url, local_cache)
    if key not in _paths:
        _paths[key] = keep(url, local_cache, lambda file, facts: _write_head(file, facts, url))
    return _paths[key]


@lru_cache(maxsize=16)
def _read_head(path: Path) -> Head:
    content = path.read_bytes()
    begin = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    tensors = json.loads(content[LENGTH_BYTES:begin])
    return Head(tensors, begin, _HOLE.unpack(content[-_HOLE.size :]))


class _Tensor(Saved):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class _Header(RootModel[dict[str, _Tensor]]):
    """Where the tensors of a file lie."""


def _write_head(file: BinaryIO, facts: Facts, url: str) -> None:
    """Read the head of a shard into `file`. Raises UserError unless its header tells where each tensor is."""
    length = read_range(url, 0, LENGTH_BYTES)
    count = int.from_bytes(length, "little")
    begin = LENGTH_BYTES + count
    if count > MAX_HEADER_BYTES or begin > facts.size:
        raise UserError(f"{redacted(url)}: is no safetensors file")
    header = read_range(url, LENGTH_BYTES, begin)
    tensors = parse_json(header, _Header, f"{redacted(url)}: is no shard").root
    for name, tensor in tensors.items():
        first, last = tensor.data_offsets
        wanted = math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize if tensor.dtype in DTYPES else -1
        if not 0 <= first <= last <= facts.size - begin or last - first != wanted:
            raise UserError(f"{redacted(url)}: its header does not say where {name} is")
    large = [tensor.data_offsets for name, tensor in tensors.items() if name.endswith(LARGE)]
    if not large:
        raise UserError(f"{redacted(url)}: is no shard: it holds no latents")
    hole = (begin + min(first for first, _ in large), begin + max(last for _, last in large))
    file.write(length + header + read_range(url, begin, hole[0]) + read_range(url, hole[1], facts.size))
    file.write(_HOLE.pack(*hole))
