"""The cameras of an orbit: pure maths, shared by the renderers, the dummy dataset and transforms.py.

World: z up, the object's bounding box centred on the origin, its farthest vertex at RADIUS. Azimuth 0 is a camera on +x, 90 one
on +y: counter-clockwise seen from above. A camera has OpenGL axes: x right, y up, -z forward. Pixel (0, 0) covers [0, 1] x
[0, 1] at the upper left. The numbers are SV3D's (arXiv 2403.12008), the distance the one at which a sphere of RADIUS fills FILL of
the frame.
"""

import numpy as np

FOV_DEG = 33.8
RADIUS = 0.5
FILL = 0.9


def orbit_distance(fov_deg: float = FOV_DEG, radius: float = RADIUS, fill: float = FILL) -> float:
    """Return the distance from which a sphere of `radius` fills `fill` of the frame's width: 1.896 by default."""
    return radius / np.sin(np.arctan(fill * np.tan(np.radians(fov_deg / 2))))


def azimuths_deg(num_views: int) -> np.ndarray:
    """Divide one turn into even steps, from 0."""
    return np.arange(num_views) * 360 / num_views


def focal_length_px(size_px: int, fov_deg: float = FOV_DEG) -> float:
    """Return the focal length of a square view, whose principal point is its middle."""
    return size_px / 2 / np.tan(np.radians(fov_deg / 2))


def project(points: np.ndarray, to_world: np.ndarray, focal_px: float, size_px: int) -> np.ndarray:
    """Project N 3 world points to N 2 pixels, x to the right and y down."""
    seen = (points - to_world[:3, 3]) @ to_world[:3, :3]
    return np.stack([seen[:, 0], -seen[:, 1]], axis=1) / -seen[:, 2:] * focal_px + size_px / 2
