"""What the files say that rendering writes and reads back. Anyone may have changed them since."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel, model_validator

from rendering.failure import KINDS
from rendering.transforms import TRANSFORMS
from utils.errors import UserError
from utils.reading import InsidePath, Saved, read_json

Side = Annotated[float, Field(ge=0)]


class OrbitLine(Saved):
    """What must be in a line of svd_meta.jsonl."""

    id: str
    image_path: Annotated[list[InsidePath], Field(min_length=1)]
    elevation: Annotated[list[float], Field(min_length=1)]


class FailureLine(Saved):
    """What must be in a line of failures.jsonl."""

    id: str
    kind: Literal[tuple(KINDS)]
    reason: str = ""
    renderer: str | None = None


class SavedRenderSettings(RootModel[dict[str, int | float | str | None]]):
    """What may be in render.json."""

    model_config = ConfigDict(strict=True)


class SavedPlacement(Saved):
    """What must be in a result's `object`."""

    centre: tuple[float, float, float]
    scale: Annotated[float, Field(gt=0)]
    box: tuple[Side, Side, Side]


class SavedResult(Saved):
    """What must be in a result.json of a renderer."""

    refused: str | None
    object: SavedPlacement | None

    @model_validator(mode="after")
    def _one_of_the_two(self):
        if (self.refused is None) == (self.object is None):
            raise ValueError("either `refused` or `object` is null")
        return self


class SavedCheck(Saved):
    """What must be in the result of a check: null, or the kind and the reason of a Failure."""

    failure: tuple[Literal[tuple(KINDS)], str] | None


class CameraFrame(Saved):
    """What must be in a camera of an orbit."""

    file_path: InsidePath
    azimuth_deg: float
    elevation_deg: float


class OrbitTransforms(Saved):
    """What must be in an orbit's transforms.json. Other programs write such files too, without our keys."""

    renderer: str
    frames: Annotated[list[CameraFrame], Field(min_length=1)]


def is_orbit(folder: Path) -> bool:
    """Return whether all that is in a folder is a transforms.json as render writes it, and the numbered views that it lists."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        names = [frame.file_path for frame in read_json(folder / TRANSFORMS, OrbitTransforms).frames]
    except UserError:
        return False
    numbered = all(re.fullmatch(rf"{number:03d}\.(png|webp)", name) for number, name in enumerate(names))
    return numbered and {path.name for path in folder.iterdir()} <= {TRANSFORMS, *names}
