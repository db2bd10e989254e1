"""The quick renderer's light: the environment blurred for every roughness, and how much of it reaches each triangle.

The light on a surface is what the whole environment would give to a surface of its normal and roughness (split-sum approximation,
Karis 2013), times the part that reaches the spot past the rest of the object, bounces among its faces included. That part is
found once an object, with rays from every triangle.
"""

import numpy as np
from PIL import Image

from dataset.rendering.gltf_material import unit
from dataset.rendering.job import environment_column
from dataset.rendering.triangles import NORMAL, OPENNESS, POSITION, Asset

ROUGHNESSES = (0.0, 0.15, 0.3, 0.45, 0.65, 1.0)  # that the environment is blurred for
BLURRED = (64, 128)  # their height and width
EPSILON = 1e-4  # how far from its surface a ray starts
RAYS, BOUNCES = 4_000_000, 2


class Sky:
    """An environment: H 2H 3, radiance in linear sRGB."""

    def __init__(self, radiance: np.ndarray):
        shrink = (Image.fromarray(channel).resize(BLURRED[::-1], Image.BOX) for channel in np.moveaxis(radiance, 2, 0))
        self.small = np.stack(list(shrink), axis=-1)
        self.levels = [radiance, *(_blurred(self.small, roughness) for roughness in ROUGHNESSES[1:])]
        self.diffuse = _blurred(self.small, None)

    def reflected(self, directions: np.ndarray, roughness: np.ndarray) -> np.ndarray:
        """N 3: what a mirror of that roughness shows in those directions."""
        level, shown = np.interp(roughness, ROUGHNESSES, range(len(ROUGHNESSES))), np.zeros_like(directions)
        for number, radiance in enumerate(self.levels):
            share = np.maximum(0, 1 - np.abs(level - number))
            at = share > 0
            shown[at] += share[at, None] * look_up(radiance, directions[at])
        return shown

    def samples(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """K 3 directions, half of them even, half where the light is; and the solid angle that each stands for."""
        height, width = BLURRED
        number = np.arange(count // 2) + 0.5
        z, turn = 1 - 2 * number / len(number), number * np.pi * (3 - np.sqrt(5))
        even = np.stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z], axis=1)
        polar = (np.arange(height) + 0.5) / height * np.pi
        power = self.small.sum(axis=2) * np.sin(polar)[:, None] + 1e-9
        texel = np.searchsorted(np.cumsum(power) / power.sum(), number / len(number)).clip(0, power.size - 1)
        row, azimuth = texel // width, np.radians((0.5 - (texel % width + 0.5) / width) * 360)
        ring = np.sin(polar[row])
        bright = np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), np.cos(polar[row])], axis=1)
        directions = np.concatenate([even, bright]).astype(np.float32)
        density = (
            look_up((power / power.sum() / np.sin(polar)[:, None])[..., None], directions)[:, 0]
            * power.size
            / (2 * np.pi**2)
        )
        return directions, 1 / (len(directions) * (0.5 * density + 0.5 / (4 * np.pi)))


def look_up(radiance: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """N C, bilinear: where an H W C environment shows a direction."""
    height, width = radiance.shape[:2]
    column = environment_column(np.degrees(np.arctan2(directions[:, 1], directions[:, 0]))) * width - 0.5
    row = np.arccos(np.clip(directions[:, 2], -1, 1)) / np.pi * height - 0.5
    left, upper = np.floor(column).astype(int), np.floor(row).astype(int)
    x, y = (column - left)[:, None].astype(np.float32), (row - upper)[:, None].astype(np.float32)
    columns, rows = (left % width, (left + 1) % width), np.clip((upper, upper + 1), 0, height - 1)
    above = radiance[rows[0], columns[0]] * (1 - x) + radiance[rows[0], columns[1]] * x
    below = radiance[rows[1], columns[0]] * (1 - x) + radiance[rows[1], columns[1]] * x
    return above * (1 - y) + below * y


def _blurred(radiance: np.ndarray, roughness: float | None) -> np.ndarray:
    """Every direction's mean over the lobe around it: GGX seen from its axis, or the cosine for None. In azimuth by FFT."""
    height, width = radiance.shape[:2]
    polar, azimuth = (np.arange(height) + 0.5) / height * np.pi, np.arange(width) / width * 2 * np.pi
    level, ring = np.cos(polar), np.sin(polar)
    cosine = ring[:, None, None] * ring[:, None] * np.cos(azimuth) + (level[:, None] * level)[..., None]  # H H W
    lobe = np.maximum(cosine, 0)
    if roughness is not None:
        half = (1 + cosine) / 2  # cosine squared of half the angle
        lobe = lobe / (half * (roughness**4 - 1) + 1) ** 2
    lobe = lobe * ring[:, None]
    mean = np.einsum("ijf,jfc->ifc", np.fft.rfft(lobe), np.fft.rfft(radiance, axis=1))
    return (np.fft.irfft(mean, width, axis=1) / lobe.sum(axis=(1, 2))[:, None, None]).astype(np.float32)


def light_up(asset: Asset, scene, sky: Sky) -> np.ndarray:
    """Fills in the corners' OPENNESS. Returns T 2 3: the radiance that leaves each triangle's front and back."""
    at = asset.corners.mean(axis=1)
    one, two = np.diff(asset.corners[..., POSITION], axis=1).transpose(1, 0, 2)
    face = unit(np.cross(one, two))
    normal = unit(at[:, NORMAL])
    diffuse, specular, glow, _, _, alpha = asset.surface(at, asset.material_of)
    directions, angle = sky.samples(int(np.clip(RAYS / len(at), 16, 256)))
    blocker, cosine = _cast(scene, at[:, POSITION], face, normal, directions)
    colour = alpha * (diffuse + specular)
    light = look_up(sky.small, directions) * angle[:, None]
    passing = np.where(blocker < 0, 1, 1 - alpha[blocker, 0])
    free, direct = (
        np.stack([(part * (cosine > 0)) @ light, (part * (cosine < 0)) @ light], axis=1)
        for part in (np.abs(cosine), np.abs(cosine) * passing)
    )
    place, ray = np.nonzero(blocker >= 0)
    source = blocker[place, ray]
    target, source = (
        place * 2 + (cosine[place, ray] < 0),
        source * 2 + ((directions[ray] * face[source]).sum(axis=1) > 0),
    )
    weight = np.abs(cosine[place, ray]) * angle[ray]
    glow = (alpha * glow)[:, None]
    arriving = direct
    for _ in range(BOUNCES):
        leaving = (glow + colour[:, None] * arriving / np.pi).reshape(-1, 3)
        sums = [np.bincount(target, weight * channel[source], 2 * len(at)) for channel in leaving.T]
        arriving = direct + np.stack(sums, axis=1).reshape(-1, 2, 3)
    asset.corners[..., OPENNESS] = _smoothed(asset.corners, (arriving / np.maximum(free, 1e-6)).reshape(-1, 6))
    return (glow + colour[:, None] * arriving / np.pi).astype(np.float32)


def _cast(
    scene, points: np.ndarray, face: np.ndarray, normal: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """From each point in all directions: T K first triangles met (-1: none), and cosines to the normal, below 0 behind the face."""
    blocker = np.empty((len(points), len(directions)), np.int32)
    cosine = np.empty(blocker.shape, np.float32)
    for start in range(0, len(points), 4096):
        part = slice(start, start + 4096)
        side = np.sign(face[part] @ directions.T)
        cosine[part] = side * np.maximum(side * (normal[part] @ directions.T), 0)
        origins = points[part, None] + EPSILON * side[..., None] * face[part, None]
        rays = np.broadcast_to(directions, origins.shape).reshape(-1, 3)
        blocker[part] = scene.run(np.float32(origins.reshape(-1, 3)), rays, query="INTERSECT", output=1)[
            "primID"
        ].reshape(side.shape)
    return blocker, cosine


def _smoothed(corners: np.ndarray, values: np.ndarray) -> np.ndarray:
    """T 6 of triangles -> T 3 6 of their corners: the mean over all that share a corner's place and normal."""
    keys = np.round(corners[..., : NORMAL.stop].reshape(-1, 6) * ([1e5] * 3 + [100] * 3)).astype(np.int64)
    _, vertex = np.unique(
        keys @ np.array([1, 1_000_003, 998_244_353, 1_000_000_007, 754_974_721, 167_772_161]), return_inverse=True
    )
    counts = np.bincount(vertex)
    means = [np.bincount(vertex, np.repeat(channel, 3)) / counts for channel in values.T]
    return np.stack(means, axis=1)[vertex].reshape(*corners.shape[:2], 6)
