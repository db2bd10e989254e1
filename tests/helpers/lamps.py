"""A light whose place is known, for tests of where things are."""

import numpy as np

from rendering.light import directions, normalise_radiance


def lamp(azimuth_deg: float, elevation_deg: float, half_width_deg: float = 10) -> np.ndarray:
    """Return H 2H 3: one soft lamp in the dark, half as bright at half_width_deg as in its middle."""
    azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
    place = [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    angle = np.degrees(np.arccos((directions(64) @ place).clip(-1, 1)))
    return normalise_radiance(np.repeat(0.5 ** ((angle / half_width_deg) ** 4)[..., None], 3, axis=-1))
