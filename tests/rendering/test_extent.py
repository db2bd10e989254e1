"""The oriented box around what is drawn: whatever way an object lies, its sides are its own."""

import itertools

import numpy as np
import pytest

from rendering.extent import oriented_box, place

CORNERS = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))


def turned(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn the points at random."""
    return points @ np.linalg.qr(rng.normal(size=(3, 3)))[0].T


def sides_and_points(rng: np.random.Generator, thinnest: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the sides of a box or an ellipsoid, longest first, and points of its surface."""
    sides = np.sort(np.append(10 ** rng.uniform(np.log10(thinnest), 0, 2), 1))[::-1]
    points = CORNERS
    if rng.random() < 0.5:
        points = rng.normal(size=(3000, 3))
        points /= 2 * np.linalg.norm(points, axis=1, keepdims=True)
    return sides, turned(points * sides, rng)


def test_the_sides_of_boxes_and_ellipsoids_are_found_however_they_lie():
    rng = np.random.default_rng(0)
    for _ in range(40):
        sides, points = sides_and_points(rng, 0.003)
        np.testing.assert_allclose(oriented_box(points), sides, rtol=0.05)


def test_what_lies_in_a_plane_has_no_thickness():
    rng = np.random.default_rng(1)
    for _ in range(20):
        points = turned(rng.uniform(size=(50, 3)) * [1, rng.uniform(0.05, 1), 0], rng)
        assert oriented_box(points)[2] < 1e-4 * oriented_box(points)[1]


def test_no_point_is_outside_however_many_there_are():
    rng = np.random.default_rng(2)
    points = rng.normal(size=(40_000, 3)) * [1, 0.3, 0.1]
    few = oriented_box(points[:3000])
    many = oriented_box(points)
    assert (many > few * 0.9).all() and np.prod(many) <= np.prod(np.ptp(points, axis=0)) * 1.05


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_placement_does_not_depend_on_where_a_file_has_its_origin_and_its_unit(scale):
    points = CORNERS * [2, 1, 0.5]
    placement = place(points * scale + [5 * scale, 0, -3 * scale])
    moved = (points * scale + [5 * scale, 0, -3 * scale] - placement.centre) * placement.scale
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 0.5, rtol=1e-6)
    np.testing.assert_allclose(placement.centre, [5 * scale, 0, -3 * scale], atol=1e-6 * scale)
    np.testing.assert_allclose(np.array(placement.box) / placement.scale, np.array([2, 1, 0.5]) * scale, rtol=1e-3)
