"""The light of an object: an environment map, chosen and turned by the object's seed, the same for all its views.

An environment is float32 H 2H 3: radiance in linear sRGB, laid out as job.environment_column says.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from utils.camera import direction
from utils.errors import UserError
from utils.files import open_file

# Of twelve maps of Poly Haven, a matt white of 0.8 comes to 0.6 to 1.1 where it is turned to the light and to 0.04 to 0.22 where it
# is turned away; at 0.75 it would burn, in eleven of them, on a tenth to a quarter of all sides.
MEAN_RADIANCE = 0.5
# The brightest pixel over the mean. A sun in one pixel leaves everything else in the dark, and sparkles where
# rays meet it by chance.
PEAK = 300
WIDTH_PX = 512
MAX_PIXELS = 8192 * 4096
MAX_BYTES = 600 << 20  # MAX_PIXELS of four floats each are 512 MiB
LIGHT_STREAM = 1  # what is drawn from an object's seed has a number each; orbits.py has another
# The colour of a black body at these temperatures in linear sRGB, its brightest channel 1.
TEMPERATURES_K = (2700, 4000, 5500, 6500, 9000)
BLACK_BODY = np.array([(1, 0.42, 0.1), (1, 0.64, 0.36), (1, 0.85, 0.74), (1, 0.95, 0.98), (0.65, 0.75, 1)])


def object_seed(object_id: str, seed: int) -> int:
    """Return a seed below 2**64 that depends on the id and the run's seed alone, not on order, machine or other objects."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{object_id}".encode("utf-8", "surrogateescape")).digest()[:8], "big")


def list_hdris(folder: Path) -> tuple[Path, ...]:
    """Return the .hdr and .exr files of a folder, by name. Raises UserError if there are none."""
    found = sorted(
        path
        for path in folder.glob("*")
        if path.suffix.lower() in READERS and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise UserError(f"{folder}: {'holds no .hdr or .exr file' if folder.is_dir() else 'no such folder'}")
    return tuple(found)


def describe_hdris(hdris: Sequence[Path]) -> str:
    """Say how many maps there are, and a hash of their names and sizes: with one more, most objects get another map."""
    listed = "\n".join(f"{path.stat().st_size} {path.name}" for path in hdris)
    return f"{len(hdris)} maps, {hashlib.sha256(listed.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def environment_for(seed: int, hdris: Sequence[Path] | None) -> np.ndarray:
    """Return H 2H 3 of mean radiance MEAN_RADIANCE: one of `hdris`, or without any a sky and lamps, turned by any angle."""
    random = np.random.default_rng([seed, LIGHT_STREAM])
    radiance = load_hdri(hdris[random.integers(len(hdris))]) if hdris else sky_and_lamps(random)
    return np.roll(normalise_radiance(radiance), random.integers(radiance.shape[1]), axis=1)


def normalise_radiance(radiance: np.ndarray) -> np.ndarray:
    """Cut peaks to PEAK times the mean, in their own colour; then bring the mean over all directions to MEAN_RADIANCE."""
    brightness = radiance.mean(axis=-1)
    limit = PEAK * _sphere_mean(brightness)
    cut = radiance * np.minimum(1, limit / np.maximum(brightness, limit))[..., None]
    return (cut * (MEAN_RADIANCE / _sphere_mean(cut.mean(axis=-1)))).astype(np.float32)


def _sphere_mean(values: np.ndarray) -> float:
    """Average H W over the sphere, weighted by solid angle."""
    weights = np.cos(_elevations(len(values)))
    return float(values.mean(axis=1) @ weights / weights.sum())


def _elevations(height: int) -> np.ndarray:
    """Return the elevation of each row in radians, from straight up."""
    return np.pi / 2 - (np.arange(height) + 0.5) / height * np.pi


def directions(height: int) -> np.ndarray:
    """Return H 2H 3: the unit vector from the object to where a pixel's light comes from; the inverse of environment_column."""
    elevation = _elevations(height)[:, None]
    azimuth = (0.5 - (np.arange(2 * height) + 0.5) / (2 * height)) * 2 * np.pi
    x, y = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)
    return np.stack([x, y, np.broadcast_to(np.sin(elevation), x.shape)], axis=-1)


def sky_and_lamps(random: np.random.Generator) -> np.ndarray:
    """Draw H 2H 3: a sky over a darker ground, and two to four soft lamps of any warmth that give 0.35 to 0.6 of the light."""
    towards = directions(WIDTH_PX // 2)
    up = towards[..., 2:]
    zenith, horizon, ground = (black_body(random.uniform(*span)) for span in ((6500, 9000), (4500, 7500), (4000, 6500)))
    sky = horizon + (zenith * random.uniform(0.4, 1.4) - horizon) * np.maximum(up, 0) ** 0.5
    above = 1 / (1 + np.exp(-up / 0.05))
    radiance = above * sky + (1 - above) * ground * random.uniform(0.2, 0.5)
    share = random.uniform(0.35, 0.6)
    strengths = random.uniform(0.2, 1, random.integers(2, 5))
    radiance *= (1 - share) / _sphere_mean(radiance.mean(axis=-1))
    for strength in share * strengths / strengths.sum():
        place = direction(np.radians(random.uniform(0, 360)), np.radians(random.uniform(0, 70)))
        patch = _patch(towards, place, random.uniform(8, 25))
        radiance += strength / _sphere_mean(patch) * patch[..., None] * black_body(random.uniform(2700, 9000))
    return radiance


def _patch(towards: np.ndarray, place: np.ndarray, half_width_deg: float) -> np.ndarray:
    """Return H W: 1 around `place`, half of it at half_width_deg, 0 soon after."""
    angle = np.degrees(np.arccos((towards @ place).clip(-1, 1)))
    return 0.5 ** ((angle / half_width_deg) ** 4)


def black_body(temperature_k: float) -> np.ndarray:
    """Return linear sRGB of mean 1."""
    colour = np.array([np.interp(temperature_k, TEMPERATURES_K, channel) for channel in BLACK_BODY.T])
    return colour / colour.mean()


@lru_cache(maxsize=64)  # all objects share a folder of maps
def load_hdri(path: Path) -> np.ndarray:
    """Read H 2H 3, WIDTH_PX wide or as wide as the file, if that is less. Raises UserError with the path."""
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise UserError(f"{path}: is larger than {MAX_BYTES >> 20} MiB")
    try:
        radiance = READERS[path.suffix.lower()](path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    height, width = radiance.shape[:2]
    if width != 2 * height or height < 2:
        raise UserError(f"{path}: {width} x {height} pixels; an environment map is twice as wide as high")
    if not np.isfinite(radiance).all() or radiance.min() < 0 or radiance.max() == 0:
        raise UserError(f"{path}: holds negative or infinite radiance, or none at all")
    return _smaller(radiance, min(width, WIDTH_PX))


def _smaller(radiance: np.ndarray, width: int) -> np.ndarray:
    """Average over blocks, which differ by a pixel where the sizes do not divide."""
    for axis, size in ((0, width // 2), (1, width)):
        edges = np.linspace(0, radiance.shape[axis], size + 1).astype(int)
        counts = np.diff(edges).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        radiance = np.add.reduceat(radiance, edges[:-1], axis=axis) / counts
    return radiance


def _read_hdr(path: Path) -> np.ndarray:
    """Read Radiance RGBE, an exponent shared by a pixel's channels. Rows are flat, or their channels run-length encoded in turn."""
    data = path.read_bytes()
    header = re.match(rb"#\?.*?\n\n-Y (\d{1,5}) \+X (\d{1,5})\n", data[:65536], re.DOTALL)
    if not header or b"FORMAT=32-bit_rle_rgbe" not in header[0]:
        raise UserError(f"{path}: not a Radiance .hdr of RGBE pixels, from the upper left")
    height, width = int(header[1]), int(header[2])
    _check_size(path, width, height)
    body = data[header.end() :]
    try:
        if len(body) == height * width * 4:
            rgbe = np.frombuffer(body, np.uint8).reshape(height, width, 4)
        else:
            rgbe = _unpack(body, height, width)
    except (IndexError, ValueError):
        raise UserError(f"{path}: cut off or damaged: not the pixels of {width} x {height}") from None
    exponents = rgbe[..., 3:].astype(np.int32)
    return np.where(exponents > 0, np.ldexp(rgbe[..., :3].astype(np.float32), exponents - 136), 0)


def _unpack(data: bytes, height: int, width: int) -> np.ndarray:
    """Decode rows, each of which starts with 2, 2 and its width: a count above 128 repeats the next byte, another copies bytes."""
    pixels = bytearray()
    place = 0
    for row in range(height):
        if data[place : place + 4] != bytes([2, 2, width >> 8, width & 255]):
            raise ValueError
        place += 4
        end = (row + 1) * 4 * width
        while len(pixels) < end:
            count = data[place]
            if count > 128:
                pixels += data[place + 1 : place + 2] * (count - 128)
                place += 2
            else:
                pixels += data[place + 1 : place + 1 + count]
                place += 1 + count
    return np.frombuffer(pixels, np.uint8).reshape(height, 4, width).transpose(0, 2, 1)


def _read_exr(path: Path) -> np.ndarray:
    try:
        import OpenEXR
    except ImportError:
        raise UserError(f"{path}: reading .exr takes `pip install OpenEXR`; an .hdr takes nothing") from None
    try:
        window = OpenEXR.File(str(path), header_only=True).header()["dataWindow"]
        width, height = (int(size) for size in window[1] - window[0] + 1)
        _check_size(path, width, height)
        channels = OpenEXR.File(str(path)).channels()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not an .exr that can be read: {error}") from None
    colour = next((channels[name].pixels for name in ("RGB", "RGBA") if name in channels), None)
    if colour is None:
        raise UserError(f"{path}: has the channels {', '.join(channels)}, not RGB")
    return colour[..., :3].astype(np.float32)


def _check_size(path: Path, width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise UserError(f"{path}: announces {width} x {height} pixels; at most {MAX_PIXELS:,} are read")


READERS = {".hdr": _read_hdr, ".exr": _read_exr}
