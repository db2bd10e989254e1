"""An open glTF 2.0 file (.glb, .gltf): its JSON, its arrays, its images. Numbers in comments are the specification's sections.

The bytes are trusted to hold what they announce, since safety/ has looked. What still makes no sense is a Failure, "refused".
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rendering.failure import Failure
from rendering.safety.companions import resolve_uri

COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
# What reading a wrong file can raise: its values, their types, names that point nowhere, its images, other files.
DAMAGE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, SyntaxError, OSError)


def refused(reason: str) -> Failure:
    return Failure("refused", reason)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn an error of what only reads the file, so that the file is to blame, into a Failure that names the part."""
    try:
        yield
    except DAMAGE as error:
        raise refused(f"{what} is damaged or incomplete") from error


def fractions(values: np.ndarray) -> np.ndarray:
    """Convert integers to what they stand for where an accessor is `normalized`: 0 to 1, or -1 to 1 (3.6.2.2)."""
    return np.maximum(values / np.float32(np.iinfo(values.dtype).max), -1)


class Gltf:
    """An open file. `tree` is its JSON; `folder` is where the files are that it names."""

    def __init__(self, data: bytes, folder: Path):
        self.folder = folder
        self.binary = b""
        self._buffers: dict[int, bytes] = {}
        text = data
        if data[:4] == b"glTF":  # 4.4
            length = int.from_bytes(data[12:16], "little")
            text = data[20 : 20 + length]
            self.binary = data[28 + length :]
        with reading("its JSON"):
            self.tree = json.loads(text)

    def image(self, index: int) -> bytes:
        image = self.tree["images"][index]
        return self._resource(image["uri"]) if "uri" in image else self.view(image["bufferView"])

    def accessor(self, index: int) -> np.ndarray:
        """Return N C. Normalized integers become fractions, sparse values are filled in (3.6.2)."""
        accessor = self.tree["accessors"][index]
        count = accessor["count"]
        width = WIDTHS[accessor["type"]]
        dtype = COMPONENTS[accessor["componentType"]]
        if "bufferView" in accessor:
            values = self._elements(accessor, dtype, count, width)
        else:
            values = np.zeros((count, width), dtype)
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            index_type = COMPONENTS[sparse["indices"]["componentType"]]
            places = self._elements(sparse["indices"], index_type, sparse["count"], 1)[:, 0]
            values = values.copy()
            values[places] = self._elements(sparse["values"], dtype, sparse["count"], width)
        return fractions(values) if accessor.get("normalized") else values

    def _elements(self, place: dict, dtype, count: int, width: int) -> np.ndarray:
        """Return count x width elements of a buffer view, whose stride may leave gaps."""
        size = np.dtype(dtype).itemsize
        stride = self.tree["bufferViews"][place["bufferView"]].get("byteStride", size * width)
        data = self.view(place["bufferView"])
        return np.ndarray((count, width), dtype, data, place.get("byteOffset", 0), (stride, size))

    def view(self, index: int) -> bytes:
        view = self.tree["bufferViews"][index]
        start = view.get("byteOffset", 0)
        return self._buffer(view["buffer"])[start : start + view["byteLength"]]

    def _buffer(self, index: int) -> bytes:
        """Return a buffer, which is read once: a file may have thousands of views of it."""
        if index not in self._buffers:
            buffer = self.tree["buffers"][index]
            self._buffers[index] = self._resource(buffer["uri"]) if "uri" in buffer else self.binary
        return self._buffers[index]

    def _resource(self, uri: str) -> bytes:
        found = resolve_uri(self.folder, uri)
        return found if isinstance(found, bytes) else found.read_bytes()
