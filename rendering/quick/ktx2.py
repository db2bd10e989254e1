"""Textures under KHR_texture_basisu, which the optional package alktx2 decodes: `pip install alktx2`.

The decoder believes its input, so it belongs into a process with limits, as the quick renderer's worker is.
"""

import importlib.util
import io

from PIL import Image

from rendering.gltf import refused
from rendering.safety.textures import MAX_TEXTURE_PX

EXTENSION = "KHR_texture_basisu"
IDENTIFIER = b"\xabKTX 20\xbb\r\n\x1a\n"  # KTX 2.0, 3.1
DAMAGED = "its KTX2 data is damaged"


def is_installed() -> bool:
    return importlib.util.find_spec("alktx2") is not None


def decode(data: bytes) -> Image.Image:
    """Return the largest level of a texture in 8 bits a channel, as it is stored: sRGB or not. Raises Failure."""
    import alktx2

    width, height = (int.from_bytes(data[start : start + 4], "little") for start in (20, 24))
    if not data.startswith(IDENTIFIER) or not width or not height:
        raise refused(DAMAGED)
    if max(width, height) > MAX_TEXTURE_PX or width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise refused(f"a KTX2 texture announces {width} x {height} pixels, too many to be read")
    try:
        decoded, _ = alktx2.decode_ktx2_to_bytes(data, format="png")
    except (RuntimeError, ValueError):
        raise refused(DAMAGED) from None
    return Image.open(io.BytesIO(decoded), formats=["PNG"])
