"""Cameras -> angles -> rings: what was put in comes back, in whatever world, and what is no ring is refused with its reason."""

import numpy as np
import pytest

from dataset.importers.geometry import measure
from dataset.importers.rings import explain_left_over, find_rings
from dataset.importers.source import Refusal
from tests.helpers.make_renders import (
    GOBJAVERSE,
    MIRRORED,
    RING_12,
    RING_24,
    TILTED,
    Y_UP,
    Z_UP,
    camera,
    cameras,
)

OPENCV = np.diag([1, -1, -1, 1])


def measured(matrices: np.ndarray):
    return measure(matrices, [f"{number:05d}" for number in range(len(matrices))])


def rings(matrices: np.ndarray, min_views: int = 8):
    return find_rings(measured(matrices), min_views)


@pytest.mark.parametrize("world", [Z_UP, Y_UP], ids=["z_up", "y_up"])
def test_azimuth_elevation_and_distance_of_known_cameras_come_back_in_a_z_up_and_a_y_up_world(world):
    angles = measured(cameras(GOBJAVERSE, world))
    sides = [number for number, (_, elevation) in enumerate(GOBJAVERSE) if abs(elevation) < 90]
    expected = np.array(GOBJAVERSE)
    apart = (angles.azimuth_deg - expected[:, 0] + 180) % 360 - 180
    assert np.abs(apart[sides]).max() < 1e-6
    assert np.abs(angles.elevation_deg - expected[:, 1]).max() < 1e-4
    assert np.allclose(angles.distance, 1.896)
    assert angles.off_centre_deg.max() < 1e-4


def test_in_a_tilted_and_moved_world_rings_are_the_same_but_for_where_they_start():
    moved = cameras(RING_24, TILTED)
    moved[:, :3, 3] += (3, -2, 7)
    angles = measured(moved)
    (ring,) = find_rings(angles, 8).rings
    assert [(view - ring[0]) % 24 for view in ring] == [*range(24)], "counter-clockwise still"
    assert np.allclose(angles.elevation_deg, 12) and np.allclose(angles.distance, 1.896)


def test_a_mirrored_set_is_refused():
    with pytest.raises(Refusal, match="left-handed") as refusal:
        measured(cameras(RING_24, MIRRORED))
    assert refusal.value.kind == "cameras"


def test_opencv_axes_taken_for_opengl_ones_look_away_from_the_centre():
    angles = measured(cameras(RING_24) @ OPENCV)
    assert angles.off_centre_deg.min() > 179
    found = find_rings(angles, 8)
    assert not found.rings
    assert "look past the centre: 24," in explain_left_over(found.left_over, angles, [*map(str, range(24))], 8)


def test_what_is_no_upright_camera_is_refused_with_the_view_named():
    turn = np.eye(4)
    turn[:2, :2] = [[0.98, -0.2], [0.2, 0.98]]
    turn[:2, :2] /= np.linalg.norm(turn[:2, 0])
    spoilt = {
        "rolled": (lambda matrix: matrix @ turn, "00005 is rolled by 1"),
        "upside down": (lambda matrix: matrix @ np.diag([-1, -1, 1, 1]), "00005 is upside down"),
        "scaled": (lambda matrix: matrix @ np.diag([2, 2, 2, 1]), "00005: its matrix is not a rotation"),
        "nan": (lambda matrix: matrix * np.nan, "00005: its matrix has a number that is not finite"),
    }
    for spoil, reason in spoilt.values():
        matrices = cameras(RING_24)
        matrices[5] = spoil(matrices[5])
        with pytest.raises(Refusal, match=reason):
            measured(matrices)


def test_views_over_the_top_do_not_tell_which_way_is_up():
    with pytest.raises(Refusal, match="too few sides"):
        measured(cameras([(0.0, elevation) for elevation in range(-80, 81, 10)]))


def test_a_g_objaverse_object_gives_two_rings_without_repeated_views_and_poles():
    found = rings(cameras(GOBJAVERSE))
    assert found.rings == [[*range(24)], [*range(27, 39)]]
    assert not found.left_over


def test_rings_come_counter_clockwise_from_azimuth_0_in_whatever_order_they_are_listed():
    order = np.random.default_rng(0).permutation(24)
    shuffled = [RING_24[index] for index in order]
    assert [order[view] for view in rings(cameras(shuffled)).rings[0]] == [*range(24)]
    clockwise = [(-azimuth, elevation) for azimuth, elevation in RING_24]
    assert rings(cameras(clockwise)).rings == [[0, *range(23, 0, -1)]]


def test_two_rings_at_nearly_one_elevation_stay_two():
    near = [(azimuth + 7, 12.3) for azimuth, _ in RING_12]
    assert [len(ring) for ring in rings(cameras([*RING_24, *near])).rings] == [24, 12]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda azimuth, elevation: (azimuth + 0.05 * (azimuth == 30), elevation + 0.4 * (azimuth == 30)), None),
        (lambda azimuth, elevation: (azimuth + 0.2 * (azimuth == 30), elevation), "15.2 degrees follow azimuth 15"),
        (lambda azimuth, elevation: (azimuth * 23 / 24, elevation), "but 29.4 degrees follow azimuth"),
        (lambda azimuth, elevation: (azimuth, elevation + 0.7 * azimuth / 360), "elevation varies from 12.00 to 12.67"),
        (lambda azimuth, elevation: (azimuth, elevation + azimuth / 6), "at most 1 share an elevation"),
    ],
    ids=["within", "uneven", "open", "rising", "spiral"],
)
def test_a_ring_is_even_to_a_tenth_of_a_degree_and_level_to_half_a_degree(change, reason):
    matrices = cameras([change(*pose) for pose in RING_24])
    angles = measured(matrices)
    found = find_rings(angles, 8)
    assert bool(found.rings) == (reason is None)
    if reason:
        assert reason in explain_left_over(found.left_over, angles, [*map(str, range(24))], 8)


def test_the_distance_of_a_ring_may_vary_by_a_hundredth():
    for spread, accepted in ((0.009, True), (0.011, False)):
        matrices = np.stack(
            [camera(pose, distance=1.896 * (1 + spread * number / 23)) for number, pose in enumerate(RING_24)]
        )
        assert bool(rings(matrices).rings) == accepted


def test_a_view_that_looks_elsewhere_opens_its_ring_and_is_named():
    matrices = cameras(RING_24)
    matrices[7, :3, 3] += 0.3 * matrices[7, :3, 0]
    angles = measured(matrices)
    found = find_rings(angles, 8)
    reason = explain_left_over(found.left_over, angles, [f"{number:05d}" for number in range(24)], 8)
    assert not found.rings and "look past the centre: 1, 00007 by 9." in reason


def test_random_cameras_have_no_ring():
    random = np.random.default_rng(0)
    poses = [*zip(random.uniform(0, 360, 12), random.uniform(-20, 70, 12))]
    assert not rings(cameras(poses)).rings
