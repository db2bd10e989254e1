"""A folder of `000.png` with `000.npy` beside it: world-to-camera, 3 4 or 4 4, in OpenGL axes, as Zero123's renders have it."""

import io
import warnings
from pathlib import Path

import numpy as np

from dataset.importers.source import Refusal, SourceItem, SourceObject, SourceView, damage
from utils.files import open_file

SHAPES = ((3, 4), (4, 4))
SUFFIXES = (".png", ".webp")
MAX_BYTES = 1 << 12
MAX_VIEWS = 4096


def objects_in(files: set[str], folders: set[str]) -> tuple[list[str], bool]:
    """See gobjaverse.objects_in."""
    found = any(name.endswith(".npy") and name[:-4] + suffix in files for name in files for suffix in SUFFIXES)
    return ([""] if found else []), not found


def read(source: Path, item: SourceItem) -> SourceObject:
    """Raises Refusal, or UserError."""
    cameras = sorted(item.path.glob("[!.]*.npy"))
    if len(cameras) > MAX_VIEWS:
        raise Refusal("unreadable", f"more than {MAX_VIEWS} views")
    views: list[SourceView] = []
    for path in cameras:
        candidates = (path.with_suffix(suffix) for suffix in SUFFIXES)
        image = next((candidate for candidate in candidates if candidate.is_file()), None)
        place = None if image is None else image.relative_to(source).as_posix()
        views.append(SourceView(path.stem, _camera_to_world(path), None, image, place))
    return SourceObject(item.id, tuple(views))


def _camera_to_world(path: Path) -> np.ndarray:
    with open_file(path) as file:
        data = file.read(MAX_BYTES + 1)
    with damage(f"{path.name}: not a 3 4 world-to-camera matrix"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of a header that Python 2 wrote
        if len(data) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        matrix = np.eye(4)
        values = _read_array(data)
        matrix[: len(values)] = values
        return np.linalg.inv(matrix)


def _read_array(data: bytes) -> np.ndarray:
    """Read an array whose header is looked at first, since it may announce any size and kind."""
    file = io.BytesIO(data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = readers[version](file)
    if shape not in SHAPES or dtype.kind != "f":
        raise ValueError(f"it holds {dtype} of {shape}")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
