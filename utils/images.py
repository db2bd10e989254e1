"""Opening image files. Only formats of a list are opened, and every failure is one error.

Textures of 3D assets are opened elsewhere, in rendering/safety/textures.py and quick/mesh.py, but in the same formats.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import UserError, cut
from utils.files import open_file

# Pillow knows many more. Some run programs (EPS starts Ghostscript), others fail or hang on damaged files.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA")
_16_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


@contextmanager
def open_image(source: Path | bytes, name: str | Path) -> Iterator[Image.Image]:
    """Open an image of one of IMAGE_FORMATS, given as a file or as its bytes, and decode it.

    Raises UserError, beginning with `name`, if it cannot be opened or decoded. What fails inside the block is left as it is.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open_file(source) as file:
        with _name_damage(name), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # a small file may announce gigabytes
            image = Image.open(file, formats=IMAGE_FORMATS)
            image.load()
        yield image


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
