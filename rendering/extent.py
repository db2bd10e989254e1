"""How large and how flat an asset is, from the vertices of what is drawn of it. Both renderers call this.

It needs numpy only, since Blender's Python has nothing else.
"""

from dataclasses import dataclass

import numpy as np

from rendering.camera import RADIUS

NUM_DIRECTIONS = 256  # in which the outermost points are looked for
NUM_STARTS = 6  # of these, from which the thinnest direction is searched
POINTS_AT_ONCE = 1 << 13
SMALLEST_STEP = 1e-4  # radians, about
GOLDEN_ANGLE = np.pi * (3 - 5**0.5)


@dataclass(frozen=True)
class Placement:
    """How an asset was brought into the world: a point of its own, with the up axis turned to z, is at (point - centre) * scale."""

    centre: tuple[float, float, float]  # the middle of the bounding box of what is drawn, in the file's unit
    scale: float  # brings the farthest vertex to RADIUS
    box: tuple[float, float, float]  # the sides of the oriented box around it, longest first, in the world's unit


def centre_and_farthest(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the middle of the bounding box of N 3 points (3), and the largest distance of a point from it."""
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    return centre, float(np.linalg.norm(points - centre, axis=-1).max())


def place(points: np.ndarray) -> Placement:
    """Return where an asset goes, by its N 3 vertices, z up: they are finite, and two are apart."""
    centre, farthest = centre_and_farthest(points)
    box = oriented_box((points - centre) / farthest) * RADIUS
    return Placement(tuple(centre.tolist()), RADIUS / farthest, tuple(box.tolist()))


def oriented_box(points: np.ndarray) -> np.ndarray:
    """Return the sides of a box that holds N 3 points of size about 1 and is turned to fit them, longest first.

    Its shortest side lies where the points are thinnest. Seen along it, the box is the rectangle of the smallest area.
    """
    centred = points - points.mean(axis=0)
    variance, axes = np.linalg.eigh(centred.T @ centred)
    # We search among the points stretched to the same spread along all axes: there a ribbon is as easy as a cube.
    spread = np.sqrt(np.maximum(variance, 1e-14 * variance[-1]))
    outer = _outermost(centred @ axes / spread)
    thin = axes @ (_thinnest_direction(outer, spread) / spread)
    thin /= np.linalg.norm(thin)
    across = _plane(thin)
    turn = _smallest_rectangle(outer * spread @ axes.T @ across.T)
    sides = np.stack([thin, *(turn @ across)])
    return np.sort(np.ptp(points @ sides.T, axis=0))[::-1]


def _hemisphere(count: int) -> np.ndarray:
    """Return unit vectors (count 3), spread evenly in a golden spiral."""
    z = (np.arange(count) + 0.5) / count
    angle = np.arange(count) * GOLDEN_ANGLE
    ring = np.sqrt(1 - z**2)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)


def _plane(direction: np.ndarray) -> np.ndarray:
    """Return two unit vectors (2 3) that are perpendicular to a unit vector, and to each other."""
    first = np.cross(direction, np.eye(3)[np.abs(direction).argmin()])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(direction, first)])


def _outermost(points: np.ndarray) -> np.ndarray:
    """Return the few hundred points that reach farthest in some direction: nearly the corners of the convex hull."""
    directions = np.float32(_hemisphere(NUM_DIRECTIONS))
    found = []
    for start in range(0, len(points), POINTS_AT_ONCE):
        part = points[start : start + POINTS_AT_ONCE]
        heights = directions @ np.float32(part.T)
        found.append(part[np.unique([heights.argmin(axis=1), heights.argmax(axis=1)])])
    outer = np.concatenate(found)
    return outer if len(found) == 1 else _outermost(outer)


def _thinnest_direction(stretched: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return the unit vector (3) along whose image, e / spread, the unstretched points are thinnest."""

    def widths(directions: np.ndarray) -> np.ndarray:
        return np.ptp(stretched @ directions.T, axis=0) / np.linalg.norm(directions / spread, axis=1)

    starts = np.concatenate([np.eye(3), _hemisphere(NUM_DIRECTIONS)])
    starts = starts[np.argsort(widths(starts))[:NUM_STARTS]]
    found = np.stack([_descend(widths, start) for start in starts])
    return found[widths(found).argmin()]


def _descend(widths, direction: np.ndarray) -> np.ndarray:
    """Walk to a minimum of widths (M 3 unit vectors -> M): look around in a ring, and in smaller rings where none is lower."""
    lowest = widths(direction[None])[0]
    step = 0.1
    turn = 0.0
    failed = 0
    while step > SMALLEST_STEP:
        angles = turn + np.arange(12) * np.pi / 6
        ring = direction + step * (np.stack([np.cos(angles), np.sin(angles)], axis=1) @ _plane(direction))
        ring /= np.linalg.norm(ring, axis=1, keepdims=True)
        found = widths(ring)
        failed += 1
        turn += GOLDEN_ANGLE  # a valley may be narrower than the ring's steps
        if found.min() < lowest:
            lowest = found.min()
            direction = ring[found.argmin()]
            failed = 0
        elif failed == 3:
            step /= 2
            failed = 0
    return direction


def _smallest_rectangle(points: np.ndarray) -> np.ndarray:
    """Return the axes (2 2) of the rectangle around N 2 points that has the smallest area."""
    best = 0.0
    span = np.pi / 2
    while span > SMALLEST_STEP / 100:  # of a long and narrow one a thousandth of a radian would be seen
        angles = best + np.linspace(-span / 2, span / 2, 91)
        axes = np.stack([np.cos(angles), np.sin(angles), -np.sin(angles), np.cos(angles)], axis=1).reshape(-1, 2, 2)
        areas = np.ptp(points @ axes.transpose(0, 2, 1), axis=1).prod(axis=1)
        best = angles[areas.argmin()]
        span /= 30
    return np.array([[np.cos(best), np.sin(best)], [-np.sin(best), np.cos(best)]])
