"""The header of a texture, looked at before any renderer opens it."""

import io
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from rendering.safety.companions import unreadable
from utils.images import IMAGE_FORMATS

MAX_TEXTURE_PX = 16384  # a side


def check_texture(source: Path | bytes, name: str) -> None:
    """Reads an image's header only. Raises Failure if there is none, or it announces too many pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                size = image.size
    except Image.DecompressionBombError:
        raise unreadable(f"{name} announces more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise unreadable(f"{name} is no image of a known kind") from None
    except (OSError, EOFError, SyntaxError, ValueError) as error:  # PIL's decoders on damaged headers
        raise unreadable(f"{name} is damaged: {error}") from None
    if max(size) > MAX_TEXTURE_PX:
        raise unreadable(f"{name} announces {size[0]} x {size[1]} pixels, more than {MAX_TEXTURE_PX} a side")
