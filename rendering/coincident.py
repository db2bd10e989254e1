"""Faces that lie on each other: which of them have the same corners. Both renderers call this.

It needs numpy only, since Blender's Python has nothing else.
"""

import numpy as np

ON_EACH_OTHER = "faces that lie on each other, with different materials"
_STEPS = 1 << 20  # the object's extent has so many: corners within one step are the same


def corner_hashes(points: np.ndarray, extent: float) -> np.ndarray:
    """Return N uint64 for N 3 points in [0, extent]. A face's key is the sum of its corners': it tells their sets apart."""
    steps = np.int64(np.round(points * (_STEPS / extent)))
    return _mixed((steps @ (1, 1 << 21, 1 << 42)).astype(np.uint64))


def first_with_same_corners(keys: np.ndarray) -> np.ndarray:
    """Return F: the number of the first face with the same key. A key of 0, of a face without an area, has none but its own."""
    _, first, where = np.unique(keys, return_index=True, return_inverse=True)
    return np.where(keys == 0, np.arange(len(keys)), first[where])


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Spread uint64 evenly, so that their sums tell sets apart: splitmix64 (Steele et al. 2014)."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
