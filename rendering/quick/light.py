"""The quick renderer's light: what an open environment gives to a normal and a roughness (split-sum, Karis 2013), times the part
that reaches the spot past the rest of the object, bounces included: found once, with rays from every triangle."""

import numpy as np
from PIL import Image

from rendering.job import environment_column
from rendering.light import directions
from rendering.quick.material import dot, unit
from rendering.quick.triangles import NORMAL, OPENNESS, POSITION, Asset

ROUGHNESSES, BLURRED = (0.0, 0.15, 0.3, 0.45, 0.65, 1.0), (64, 128)  # that the environment is blurred for, to this size
EPSILON, RAYS, BOUNCES = 1e-4, 4_000_000, 2  # where a ray starts, above its surface; how many for an object's light


class Sky:
    """An environment: H 2H 3, radiance in linear sRGB."""

    def __init__(self, radiance: np.ndarray):
        shrink = (Image.fromarray(channel).resize(BLURRED[::-1], Image.BOX) for channel in np.moveaxis(radiance, 2, 0))
        self.small = np.stack(list(shrink), axis=-1)
        self.levels = [radiance, *(_blurred(self.small, roughness) for roughness in ROUGHNESSES[1:])]
        self.diffuse = _blurred(self.small, None)

    def reflected(self, towards: np.ndarray, roughness: np.ndarray) -> np.ndarray:
        """N 3: what a mirror of that roughness shows in those directions."""
        level, shown = np.interp(roughness, ROUGHNESSES, range(len(ROUGHNESSES))), np.zeros_like(towards)
        for number, radiance in enumerate(self.levels):
            at = np.abs(level - number) < 1
            shown[at] += (1 - np.abs(level - number))[at, None] * look_up(radiance, towards[at])
        return shown

    def samples(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """K directions (K 3), the light from each (K 3) and the solid angle it stands for: half even, half where the light is."""
        towards, half = directions(BLURRED[0]).reshape(-1, 3), (np.arange(count // 2) + 0.5) / (count // 2)
        size = np.hypot(towards[:, 0], towards[:, 1])  # of each texel, up to a factor
        power = self.small.sum(axis=2).ravel() * size + 1e-12
        even = np.stack([np.arccos(1 - 2 * half) / np.pi, np.arange(count // 2) * 0.618034 % 1])  # rows and columns
        even = np.ravel_multi_index((even.T * BLURRED).astype(int).T, BLURRED)
        texel = np.append(even, np.searchsorted(np.cumsum(power) / power.sum(), half)).clip(0, len(size) - 1)
        chance = (size / size.sum() + power / power.sum()) / 2
        angle = (4 * np.pi * size / size.sum() / (len(texel) * chance))[texel]
        return np.float32(towards[texel]), self.small.reshape(-1, 3)[texel], np.float32(angle)


def look_up(radiance: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """N C, bilinear: where an H W C environment shows a direction."""
    height, width = radiance.shape[:2]
    column = environment_column(np.degrees(np.arctan2(directions[:, 1], directions[:, 0]))) * width - 0.5
    row = np.arccos(np.clip(directions[:, 2], -1, 1)) / np.pi * height - 0.5
    left, upper = np.floor(column).astype(int), np.floor(row).astype(int)
    x, y = (column - left)[:, None].astype(np.float32), (row - upper)[:, None].astype(np.float32)
    columns, rows = (left % width, (left + 1) % width), np.clip([upper, upper + 1], 0, height - 1)
    above, below = (radiance[row, columns[0]] * (1 - x) + radiance[row, columns[1]] * x for row in rows)
    return above * (1 - y) + below * y


def _blurred(radiance: np.ndarray, roughness: float | None) -> np.ndarray:
    """Every direction's mean over the lobe around it: GGX seen from its axis, or the cosine for None. In azimuth by FFT."""
    polar, azimuth = (np.arange(BLURRED[0]) + 0.5) / BLURRED[0] * np.pi, np.arange(BLURRED[1]) / BLURRED[1] * 2 * np.pi
    ring, level = np.sin(polar)[:, None], np.cos(polar)[:, None]
    cosine = ring[:, None] * ring * np.cos(azimuth) + level[:, None] * level  # H H W
    lobe = np.maximum(cosine, 0)
    if roughness is not None:
        lobe = (
            lobe / ((1 + cosine) / 2 * (roughness**4 - 1) + 1) ** 2
        )  # the half vector's cosine is that of half the angle
    lobe = lobe * ring
    mean = np.einsum("ijf,jfc->ifc", np.fft.rfft(lobe), np.fft.rfft(radiance, axis=1))
    return (np.fft.irfft(mean, BLURRED[1], axis=1) / lobe.sum(axis=(1, 2))[:, None, None]).astype(np.float32)


def light_up(asset: Asset, scene, sky: Sky) -> np.ndarray:
    """Fills in the corners' OPENNESS. Returns T 2 3: the radiance that leaves each triangle's front and back."""
    at = asset.corners.mean(axis=1)
    diffuse, specular, glow, _, _, alpha = asset.surface(at, asset.material_of)
    colour, glow = (alpha * (diffuse + specular))[:, None], (alpha * glow)[:, None]
    towards, light, angle = sky.samples(int(np.clip(RAYS / len(at), 16, 256)))
    face = unit(np.cross(*np.diff(asset.corners[..., POSITION], axis=1).transpose(1, 0, 2)))
    blocker, cosine = _cast(scene, at, face, towards)
    sides = np.stack([np.maximum(cosine, 0), np.maximum(-cosine, 0)], axis=1) * angle  # T 2 K
    free = sides @ light
    direct = arriving = (sides * np.where(blocker < 0, 1, 1 - alpha[blocker, 0])[:, None]) @ light
    place, ray = np.nonzero(blocker >= 0)
    source, weight = blocker[place, ray], (np.abs(cosine) * angle)[place, ray]
    source = 2 * source + (dot(towards[ray], face[source])[:, 0] > 0)  # the side that was hit
    target = 2 * place + (cosine[place, ray] < 0)
    for _ in range(BOUNCES):
        leaving = (glow + colour * arriving / np.pi).reshape(-1, 3)
        indirect = [np.bincount(target, weight * channel[source], 2 * len(at)) for channel in leaving.T]
        arriving = direct + np.stack(indirect, axis=1).reshape(-1, 2, 3)
    asset.corners[..., OPENNESS] = _smoothed(
        asset.corners, (arriving / np.maximum(free, 1e-3 * free.max() + 1e-9)).reshape(-1, 6)
    )
    return np.float32(glow + colour * arriving / np.pi)


def _cast(scene, at: np.ndarray, face: np.ndarray, towards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rays from each spot in each direction: T K first triangles met (-1: none), and cosines, below 0 behind the face."""
    blocker = np.empty((len(at), len(towards)), np.int32)
    cosine = np.empty(blocker.shape, np.float32)
    for part in (slice(start, start + 4096) for start in range(0, len(at), 4096)):
        side = np.sign(face[part] @ towards.T)
        cosine[part] = side * np.maximum(side * (unit(at[part, NORMAL]) @ towards.T), 0)
        origins = at[part, None, POSITION] + EPSILON * side[..., None] * face[part, None]
        rays = np.broadcast_to(towards, origins.shape).reshape(-1, 3)
        met = scene.run(np.float32(origins.reshape(-1, 3)), rays, query="INTERSECT", output=1)
        blocker[part] = met["primID"].reshape(side.shape)
    return blocker, cosine


def _smoothed(corners: np.ndarray, values: np.ndarray) -> np.ndarray:
    """T 6 of triangles -> T 3 6 of their corners: the mean over all that share a corner's place and normal."""
    keys = np.round(corners[..., : NORMAL.stop].reshape(-1, 6) * ([1e5] * 3 + [100] * 3)).astype(np.int64)
    _, vertex, counts = np.unique(keys @ 1_000_003 ** np.arange(6), return_inverse=True, return_counts=True)  # hashes
    means = [(np.bincount(vertex, np.repeat(channel, 3)) / counts)[vertex] for channel in values.T]
    return np.stack(means, axis=1).reshape(-1, 3, 6)
