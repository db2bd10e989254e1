"""A lamp at a known place, for tests of directions."""

import numpy as np

from rendering.light import directions, normalise_radiance


def lamp(azimuth_deg: float, elevation_deg: float, half_width_deg: float = 10) -> np.ndarray:
    """Return one soft lamp in the dark, H 2H 3. At half_width_deg it is half as bright as in its middle."""
    azimuth = np.radians(azimuth_deg)
    elevation = np.radians(elevation_deg)
    place = [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    angle = np.degrees(np.arccos((directions(64) @ place).clip(-1, 1)))
    return normalise_radiance(np.repeat(0.5 ** ((angle / half_width_deg) ** 4)[..., None], 3, axis=-1))
