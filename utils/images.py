"""Any image file as 8-bit RGBA."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import UserError

_16_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def open_rgba(path: Path) -> Image.Image:
    """Any image file (palette, gray, 16-bit, CMYK, with or without alpha) as 8-bit RGBA. Raises UserError with the path."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # a header that announces gigabytes
            with Image.open(path) as image:
                image = ImageOps.exif_transpose(image)
                if image.mode in _16_BIT_MODES:
                    gray = np.asarray(image).astype(np.int64).clip(0, 65535)
                    image = Image.fromarray((gray / 257).round().astype(np.uint8))
                elif image.mode == "F":
                    raise UserError(f"{path}: floating-point images are not supported; save it with 8 or 16 bits")
                return image.convert("RGBA")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"{path}: no such image file") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{path}: announces more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except UserError:
        raise
    except (OSError, EOFError, SyntaxError, ValueError, RuntimeError) as error:  # PIL's decoders on damaged data
        raise UserError(f"{path}: damaged or unreadable image: {error}") from None
