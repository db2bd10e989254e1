"""What a source of renders gives, whatever its format: objects, and their views with the cameras that drew them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import ItemFailure, UserError, first_line

MAX_BYTES = 1 << 30  # of the files of an object that is read whole, from a tar or a parquet file

KINDS = {
    "unreadable": "its cameras, or the file that holds it, cannot be read",
    "cameras": "its cameras are mirrored, rolled or upside down, or look past the object",
    "no ring": "no views stand once around it, at even steps and one elevation",
    "incomplete": "some views belong to no full ring; its other rings were taken",
    "images": "a ring lacks an image, or has one that is damaged, opaque or of another size",
}


class Refusal(ItemFailure):
    """Why an object, or a part of its views, becomes no orbit."""

    KINDS = KINDS

    def line(self) -> dict:
        """Return it as failures.jsonl has it."""
        return {"kind": self.kind, "reason": self.reason}


@contextmanager
def damage(what: str) -> Iterator[None]:
    """Raise Refusal for whatever a library raises on damaged data, so that only a library's calls belong inside."""
    try:
        yield
    except (Refusal, UserError):
        raise
    except (
        Exception
    ) as error:  # tarfile, pyarrow and numpy raise anything: RecursionError, TypeError, OverflowError ...
        raise Refusal("unreadable", f"{what}: {first_line(error)}") from None


@dataclass(frozen=True)
class SourceItem:
    """Where in the source an object is."""

    id: str
    path: Path


@dataclass(frozen=True)
class SourceView:
    name: str  # within its object
    camera_to_world: np.ndarray  # 4 4, OpenGL axes: x right, y up, -z forward
    fov_deg: float | None  # from left to right; None: the source does not say
    image: Path | bytes | None  # a file, or what a file in an archive holds; None: there is none
    path: str | None = None  # of the image, relative to the source, where it can be used in place
    span: tuple[int, int] | None = None  # in the object's archive, as in Archive.members


@dataclass(frozen=True)
class SourceObject:
    id: str
    views: tuple[SourceView, ...]  # in the source's order
    license: str | None = None
    archive: tuple[str, int] | None = None  # which holds the images: its path, relative to the source, and its bytes
    damaged: tuple[str, ...] = ()  # why views cannot be read, one reason each; the others may do without them
