"""What meta.json says of a checkpoint. Anyone may have written it, so it is read by this schema, and nothing else is trusted."""

from typing import Annotated

from pydantic import Field

from utils.reading import InsidePath, Saved

Count = Annotated[int, Field(ge=0, le=10**15)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SavedWindow(Saved):
    """The fields of training/window.py's Window."""

    samples: list[tuple[float, float]]
    grad_norms: list[float]
    wait_seconds: Annotated[float, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]


class SavedEngine(Saved):
    type: str
    num_processes: Annotated[int, Field(ge=1)]
    mixed_precision: str | None = None  # under ZeRO, since it is saved


class SavedRecords(Saved):
    """Which records data.meta held, the description of dataset/records.py."""

    count: Annotated[int, Field(ge=1)]
    sha256: Sha256


class Meta(Saved):
    step: Count
    samples: Count
    window: SavedWindow
    config: dict[str, dict[str, object]]
    records: SavedRecords | None = None  # since it is saved
    object_fill: Annotated[float, Field(gt=0)] | None = None
    engine: SavedEngine
    optimizer_groups: Count = 1  # as it was before it was saved
    versions: Annotated[dict[str, str], Field(default_factory=dict)]
    files: Annotated[dict[InsidePath, Sha256], Field(min_length=1)]
