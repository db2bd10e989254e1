"""Directions, and the matrix of a camera, from angles: shared by what renders and by what reads the renders of others."""

import numpy as np


def direction(azimuth: float, elevation: float) -> np.ndarray:
    """Return the unit vector to a place on the sphere, its angles in radians. The world: see rendering/camera.py."""
    return np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])


def camera_to_world(azimuth_deg: float, elevation_deg: float, distance: float) -> np.ndarray:
    """Return the 4 4 of a camera that looks at the origin, its x axis level. World and axes: see rendering/camera.py."""
    azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
    back = direction(azimuth, elevation)
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0])
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, np.cross(back, right), back, back * distance], axis=1)
    return matrix
