"""The quick renderer's image-based light: an environment map, prefiltered for a few roughnesses (Karis 2013, split sum)."""

import numpy as np
from PIL import Image

from rendering.job import environment_column
from rendering.light import directions

# The environment is prefiltered for these roughnesses, at this size (H W).
ROUGHNESSES = (0.0, 0.15, 0.3, 0.45, 0.65, 1.0)
PREFILTERED_SIZE = (64, 128)


class Environment:
    """A prefiltered environment map, made from H 2H 3 of radiance in linear sRGB."""

    def __init__(self, radiance: np.ndarray):
        channels = np.moveaxis(radiance, 2, 0)
        shrunk = (Image.fromarray(channel).resize(PREFILTERED_SIZE[::-1], Image.BOX) for channel in channels)
        self.small = np.stack(list(shrunk), axis=-1)
        self.levels = [radiance, *(_prefilter(self.small, roughness) for roughness in ROUGHNESSES[1:])]
        self.irradiance = _prefilter(self.small, None)  # divided by pi

    def prefiltered_radiance(self, directions: np.ndarray, roughness: np.ndarray) -> np.ndarray:
        """Return the mean radiance (N 3) of the GGX lobe of a roughness (N) around each direction (N 3)."""
        level = np.interp(roughness, ROUGHNESSES, range(len(ROUGHNESSES)))
        radiance = np.zeros_like(directions)
        for number, prefiltered in enumerate(self.levels):
            near = np.abs(level - number) < 1
            radiance[near] += (1 - np.abs(level - number))[near, None] * look_up(prefiltered, directions[near])
        return radiance

    def importance_samples(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return K directions (K 3), the radiance from each (K 3) and the solid angle that each stands for (K).

        Half of the directions are spread evenly, half are drawn in proportion to the light.
        """
        texels = directions(PREFILTERED_SIZE[0]).reshape(-1, 3)
        steps = (np.arange(count // 2) + 0.5) / (count // 2)
        size = np.hypot(texels[:, 0], texels[:, 1])  # the solid angle of each texel, up to a factor
        power = self.small.sum(axis=2).ravel() * size + 1e-12
        # Rows and columns of a golden spiral.
        even = np.stack([np.arccos(1 - 2 * steps) / np.pi, np.arange(count // 2) * 0.618034 % 1])
        even = np.ravel_multi_index((even.T * PREFILTERED_SIZE).astype(int).T, PREFILTERED_SIZE)
        bright = np.searchsorted(np.cumsum(power) / power.sum(), steps)
        texel = np.append(even, bright).clip(0, len(size) - 1)
        probability = (size / size.sum() + power / power.sum()) / 2
        solid_angle = (4 * np.pi * size / size.sum() / (len(texel) * probability))[texel]
        return np.float32(texels[texel]), self.small.reshape(-1, 3)[texel], np.float32(solid_angle)


def look_up(radiance: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return what an environment of H W C shows in N 3 directions (N C), bilinear."""
    height, width = radiance.shape[:2]
    column = environment_column(np.degrees(np.arctan2(directions[:, 1], directions[:, 0]))) * width - 0.5
    row = np.arccos(np.clip(directions[:, 2], -1, 1)) / np.pi * height - 0.5
    left = np.floor(column).astype(int)
    upper = np.floor(row).astype(int)
    x, y = (column - left)[:, None].astype(np.float32), (row - upper)[:, None].astype(np.float32)
    columns = (left % width, (left + 1) % width)
    rows = np.clip([upper, upper + 1], 0, height - 1)
    above, below = (radiance[row, columns[0]] * (1 - x) + radiance[row, columns[1]] * x for row in rows)
    return above * (1 - y) + below * y


def _prefilter(radiance: np.ndarray, roughness: float | None) -> np.ndarray:
    """Average the radiance over the lobe around every direction: GGX seen along its axis, or the cosine for None.

    The average over azimuth is a convolution, which the Fourier transform turns into a product.
    """
    height, width = PREFILTERED_SIZE
    polar = (np.arange(height) + 0.5) / height * np.pi
    azimuth = np.arange(width) / width * 2 * np.pi
    sine, cosine = np.sin(polar)[:, None], np.cos(polar)[:, None]
    between = sine[:, None] * sine * np.cos(azimuth) + cosine[:, None] * cosine  # H H W: cosines of angles
    lobe = np.maximum(between, 0)
    if roughness is not None:
        # The squared cosine of the half vector follows from the cosine of the whole angle.
        lobe = lobe / ((1 + between) / 2 * (roughness**4 - 1) + 1) ** 2
    lobe = lobe * sine
    mean = np.einsum("ijf,jfc->ifc", np.fft.rfft(lobe), np.fft.rfft(radiance, axis=1))
    return (np.fft.irfft(mean, width, axis=1) / lobe.sum(axis=(1, 2))[:, None, None]).astype(np.float32)
