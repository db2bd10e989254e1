"""The images of a ring: whether all are there and alike, by their headers, and how they come out of an archive."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.importers.source import Refusal, SourceView
from utils.errors import UserError
from utils.files import open_file, put_in_place, remove, unfinished_path, write_file
from utils.images import open_image
from utils.schemas_render import MAX_ORBIT_PIXELS

SUFFIXES = {"PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "GIF": ".gif", "TGA": ".tga"}  # of formats with alpha
PNG_TAIL_BYTES = 1 << 10  # in which a whole PNG has its last chunk


@dataclass(frozen=True)
class Header:
    size: tuple[int, int]
    format: str
    has_alpha: bool


def check_images(views: Sequence[SourceView], needs_alpha: bool) -> list[Header]:
    """Return the headers of a ring's images. Pixels are not decoded: `check` does that.

    Raises Refusal if one is missing, damaged, opaque where alpha is needed, or of another size than the first.
    """
    headers: list[Header] = []
    for view in views:
        if view.image is None:
            raise Refusal("images", f"view {view.name} has no image")
        try:
            header = read_header(view.image, f"view {view.name}")
        except UserError as error:
            raise Refusal("images", str(error)) from None
        headers.append(header)
        if needs_alpha and not header.has_alpha:
            raise Refusal("images", f"view {view.name} is opaque: it has no alpha")
        if header.size != headers[0].size:
            raise Refusal("images", f"view {view.name} is {header.size}, the ring's first is {headers[0].size}")
        if header.size[0] * header.size[1] * len(views) > MAX_ORBIT_PIXELS:
            raise Refusal("images", f"{len(views)} views of {header.size} are more pixels than an orbit may have")
    return headers


def read_header(image: Path | bytes, name: str) -> Header:
    """Raises UserError, beginning with `name`, for what is no image, and for a PNG that ends too early."""
    with open_image(image, name) as opened:
        header = Header(opened.size, opened.format, opened.has_transparency_data)
    if header.format == "PNG" and b"IEND" not in _tail(image):
        raise UserError(f"{name} is a PNG without its end: was the download cut off?")
    return header


def _tail(image: Path | bytes) -> bytes:
    if isinstance(image, bytes):
        return image[-PNG_TAIL_BYTES:]
    with open_file(image) as file:
        file.seek(max(0, file.seek(0, 2) - PNG_TAIL_BYTES))
        return file.read()


def extract(views: Sequence[SourceView], headers: Sequence[Header], folder: Path, staging: Path) -> list[str]:
    """Write the images of a ring into `folder`, all or none, and return their names in it."""
    unfinished = unfinished_path(staging / folder.name)
    unfinished.mkdir(parents=True)
    names = [view.name + SUFFIXES.get(header.format, ".png") for view, header in zip(views, headers)]
    for name, view in zip(names, views):
        data = view.image if isinstance(view.image, bytes) else view.image.read_bytes()
        write_file(unfinished / name, data)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove(folder)  # of an import that was killed before it wrote its line, or of one that failed
    put_in_place(unfinished, folder)
    return names
