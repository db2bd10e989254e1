"""Opening image files. Only formats of a list are opened, and every failure is one error.

Textures of 3D assets are opened elsewhere, in rendering/safety/textures.py and quick/mesh.py, but in the same formats.
"""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import UserError, cut
from utils.files import open_file

# Pillow knows many more. Some run programs (EPS starts Ghostscript), others fail or hang on damaged files.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA")
PNG_TAIL_BYTES = 1 << 10  # in which a whole PNG has its last chunk
_16_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


@contextmanager
def open_image(source: Path | bytes, name: str | Path) -> Iterator[Image.Image]:
    """Open an image of one of IMAGE_FORMATS, given as a file or as its bytes, and decode it.

    Raises UserError, beginning with `name`, if it cannot be opened or decoded. What fails inside the block is left as it is.
    """
    with _open_source(source) as file:
        with _name_damage(name), _no_bombs():
            image = Image.open(file, formats=IMAGE_FORMATS)
            image.load()
        yield image


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself before its pixels."""

    size: tuple[int, int]
    format: str
    has_alpha: bool


def read_header(source: Path | bytes, name: str | Path) -> ImageHeader:
    """Look at an image without decoding it.

    Raises UserError, beginning with `name`, for what is no image, and for a PNG without its end, as a download that was cut off.
    """
    with _open_source(source) as file:
        with _name_damage(name), _no_bombs():
            image = Image.open(file, formats=IMAGE_FORMATS)
            header = ImageHeader(image.size, image.format, image.has_transparency_data)
        file.seek(max(0, file.seek(0, os.SEEK_END) - PNG_TAIL_BYTES))
        if header.format == "PNG" and b"IEND" not in file.read():
            raise UserError(f"{name}: is a PNG without its end")
    return header


def _open_source(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open_file(source)


@contextmanager
def _no_bombs() -> Iterator[None]:
    """Make an error of Pillow's warning of a small file that announces gigabytes, and ignore its other warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def _name_damage(name: str | Path) -> Iterator[None]:
    """Raise UserError for whatever Pillow raises, so that only calls of Pillow belong inside.

    A MemoryError stays one, since the image may be good.
    """
    try:
        yield
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name}: not an image file that we read ({', '.join(IMAGE_FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{name}: announces more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Exception as error:  # decoders raise anything on damaged data: struct.error, TypeError, zlib.error ...
        raise UserError(f"{name}: damaged or unreadable image: {cut(str(error)) or type(error).__name__}") from None


def open_rgba(source: Path | bytes, name: str | Path | None = None) -> Image.Image:
    """Open an image (palette, gray, 16-bit, CMYK, with or without alpha) as 8-bit RGBA.

    Raises UserError with `name`, by default the path.
    """
    import numpy as np  # the process that checks a 3D asset needs only IMAGE_FORMATS, and starts often

    name = name or (source if isinstance(source, Path) else "an image")
    with open_image(source, name) as image:
        if image.mode == "F":
            raise UserError(f"{name}: floating-point images are not supported; save it with 8 or 16 bits")
        with _name_damage(name):
            image = ImageOps.exif_transpose(image)
            if image.mode in _16_BIT_MODES:
                gray = np.asarray(image).astype(np.int64).clip(0, 65535)
                image = Image.fromarray((gray / 257).round().astype(np.uint8))
            return image.convert("RGBA")


def allow_only_image_formats() -> None:
    """Make Pillow open no other format in this process, whichever library calls it."""
    Image.init()
    Image.ID[:] = IMAGE_FORMATS
