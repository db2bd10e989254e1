"""transforms.json as nerfstudio, NeRF and our own renderer write it: `transform_matrix` is camera-to-world, in OpenGL axes."""

import math
import posixpath
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from dataset.importers.source import SourceItem, SourceObject, SourceView
from utils.errors import UserError
from utils.reading import InsidePath, Saved, read_json

Row = tuple[float, float, float, float]


class Lens(Saved):
    """The intrinsics, for all frames or of one."""

    camera_angle_x: Annotated[float, Field(gt=0, lt=math.pi)] | None = None  # radians
    fl_x: Annotated[float, Field(gt=0)] | None = None  # pixels
    w: Annotated[float, Field(gt=0)] | None = None  # pixels

    def fov_deg(self) -> float | None:
        if self.fl_x is not None and self.w is not None:
            return math.degrees(2 * math.atan(self.w / (2 * self.fl_x)))
        return None if self.camera_angle_x is None else math.degrees(self.camera_angle_x)


class SourceFrame(Lens):
    file_path: InsidePath
    transform_matrix: tuple[Row, Row, Row, Row]


class Transforms(Lens):
    """What is read of the file."""

    frames: Annotated[list[SourceFrame], Field(min_length=1, max_length=4096)]
    license: str | None = None


def objects_in(files: set[str], folders: set[str]) -> tuple[list[str], bool]:
    """See gobjaverse.objects_in. `transforms_test.json` and the like are objects too."""
    found = sorted(name for name in files if name.startswith("transforms") and name.endswith(".json"))
    return found, not found


def read(source: Path, item: SourceItem) -> SourceObject:
    """Raises UserError."""
    data = read_json(item.path, Transforms)
    folder = item.path.parent
    views = tuple(_view(frame, data, source, folder) for frame in data.frames)
    return SourceObject(item.id, views, data.license)


def _view(frame: SourceFrame, lens: Lens, source: Path, folder: Path) -> SourceView:
    name = posixpath.normpath(frame.file_path)
    if not posixpath.splitext(name)[1]:  # as the files of NeRF's synthetic scenes have it
        name += ".png"
    image = folder / name
    try:
        present = image.is_file()
    except (OSError, ValueError) as error:
        raise UserError(f"file_path: {error}") from None
    path = image.relative_to(source).as_posix()
    fov_deg = frame.fov_deg() or lens.fov_deg()
    return SourceView(name, np.array(frame.transform_matrix), fov_deg, image if present else None, path)
