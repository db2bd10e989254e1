"""What cameras tell: which way is up, what they look at, and from where. Pure functions of V 4 4 camera-to-world matrices.

A camera has OpenGL axes: x right, y up, -z forward. Nothing is assumed of the world but that views are upright: up is what all
their x axes are level to, so that a y-up world is read as well as a z-up one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset.importers.source import Refusal

MAX_ROLL_DEG = 1.0
MAX_OFF_CENTRE_DEG = 0.5
MAX_SKEW = 1e-3  # of a rotation's rows from right angles and from length 1
MAX_COORDINATE = 1e6
MIN_SPREAD = 0.05  # how far x axes reach into a second direction, of 0 to 0.7
Z = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Angles:
    """Where the cameras stand, seen from the centre: V numbers each."""

    azimuth_deg: np.ndarray  # [0, 360), counter-clockwise seen from above, from the world's x where z or y is up
    elevation_deg: np.ndarray
    distance: np.ndarray
    off_centre_deg: np.ndarray  # between where a camera looks and the centre


def measure(cameras: np.ndarray, names: Sequence[str]) -> Angles:
    """Raises Refusal, naming a view, if the cameras are no rotations, mirrored, rolled, or upside down."""
    check_rigid(cameras, names)
    up = find_up(cameras, names)
    origins = cameras[:, :3, 3]
    forwards = -cameras[:, :3, 2]
    centre = find_centre(origins, forwards)
    back = origins - centre
    distance = np.linalg.norm(back, axis=1)
    if not distance.min() > 0:
        raise Refusal(
            "cameras", f"view {names[int(distance.argmin())]} stands in the middle of what the others look at"
        )
    off_centre_deg = _angle_deg((-back * forwards).sum(axis=1) / distance)
    east, north, height = (back @ rotation_to_z(up).T).T
    azimuth_deg = np.degrees(np.arctan2(north, east)) % 360
    elevation_deg = np.degrees(np.arcsin(np.clip(height / distance, -1, 1)))
    return Angles(azimuth_deg, elevation_deg, distance, off_centre_deg)


def check_rigid(cameras: np.ndarray, names: Sequence[str]) -> None:
    """Raises Refusal for what is not a rotation and a place, and for a mirrored camera."""
    for name, camera in zip(names, cameras):
        axes = camera[:3, :3]
        if not np.isfinite(camera).all() or np.abs(camera).max() > MAX_COORDINATE:
            raise Refusal("cameras", f"view {name}: its matrix has a number that is not finite, or beyond any use")
        if np.abs(axes.T @ axes - np.eye(3)).max() > MAX_SKEW or np.abs(camera[3] - [0, 0, 0, 1]).max() > MAX_SKEW:
            raise Refusal("cameras", f"view {name}: its matrix is not a rotation and a place")
        if np.linalg.det(axes) < 0:
            raise Refusal(
                "cameras",
                f"view {name}: its axes are left-handed (determinant -1): the set is mirrored, and cameras alone do not"
                " tell whether world or images are",
            )


def find_up(cameras: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return the unit vector that all x axes are level to. Raises Refusal if there is none, or more than one."""
    rights = cameras[:, :3, 0]
    ups = cameras[:, :3, 1]
    _, spreads, directions = np.linalg.svd(rights, full_matrices=False)
    if len(cameras) < 3 or spreads[1] / np.sqrt(len(cameras)) < MIN_SPREAD:
        raise Refusal("no ring", f"{len(cameras)} views, from too few sides to tell which way is up")
    up = directions[2]
    up = up if (ups @ up).mean() > 0 else -up
    roll_deg = np.degrees(np.arcsin(np.clip(np.abs(rights @ up), 0, 1)))
    if roll_deg.max() > MAX_ROLL_DEG:
        worst = int(roll_deg.argmax())
        raise Refusal("cameras", f"view {names[worst]} is rolled by {roll_deg[worst]:.1f} degrees against the others")
    if (ups @ up).min() < -np.sin(np.radians(MAX_ROLL_DEG)):
        raise Refusal("cameras", f"view {names[int((ups @ up).argmin())]} is upside down against the others")
    return up


def find_centre(origins: np.ndarray, forwards: np.ndarray) -> np.ndarray:
    """Return what the cameras look at: the world's origin if half of them do, else the point nearest to all their axes."""
    distance = np.linalg.norm(origins, axis=1)
    cosine = -(origins * forwards).sum(axis=1) / np.maximum(distance, 1e-12)
    if (_angle_deg(cosine) <= MAX_OFF_CENTRE_DEG).mean() >= 0.5:
        return np.zeros(3)
    across = np.eye(3) - forwards[:, :, None] * forwards[:, None, :]  # V 3 3: what of an offset is beside an axis
    return np.linalg.lstsq(across.sum(axis=0), (across @ origins[:, :, None]).sum(axis=0)[:, 0], rcond=None)[0]


def rotation_to_z(up: np.ndarray) -> np.ndarray:
    """Return the shortest rotation, 3 3, that turns `up` to z. It leaves x where it is for a y-up world."""
    axis = np.cross(up, Z)
    cosine = up[2]
    if cosine < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + cosine)


def _angle_deg(cosine: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))
