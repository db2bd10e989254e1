"""The images of a ring: whether all are there and alike, by their headers, and how they come out of an archive."""

from collections.abc import Sequence
from pathlib import Path

from dataset.importers.source import Refusal, SourceView
from utils.errors import UserError
from utils.files import put_in_place, remove, unfinished_path, write_file
from utils.images import ImageHeader, read_header
from utils.schemas import MAX_ORBIT_PIXELS

SUFFIXES = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "GIF": ".gif",
    "PPM": ".ppm",
    "TGA": ".tga",
}


def check_images(views: Sequence[SourceView], needs_alpha: bool) -> list[ImageHeader]:
    """Return the headers of a ring's images. Pixels are not decoded.

    Raises Refusal if one is missing, damaged, opaque where alpha is needed, or of another size than the first.
    """
    headers: list[ImageHeader] = []
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


def extract(views: Sequence[SourceView], headers: Sequence[ImageHeader], folder: Path, staging: Path) -> list[str]:
    """Write the images of a ring into `folder`, all or none, and return their names in it."""
    unfinished = unfinished_path(staging / folder.name)
    unfinished.mkdir(parents=True)
    names = [view.name + SUFFIXES[header.format] for view, header in zip(views, headers)]
    for name, view in zip(names, views):
        data = view.image if isinstance(view.image, bytes) else view.image.read_bytes()
        write_file(unfinished / name, data)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove(folder)  # of an import that was killed before it wrote its line, or of one that failed
    put_in_place(unfinished, folder)
    return names
