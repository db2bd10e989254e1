import numpy as np
import pytest

from rendering.camera import FILL, RADIUS, azimuths_deg, focal_length_px, orbit_distance, project
from utils.camera import camera_to_world


def test_the_distance_lets_the_bounding_sphere_fill_nine_tenths_of_the_frame():
    assert orbit_distance() == pytest.approx(1.896, abs=5e-4)
    distance = orbit_distance()
    focal_px = focal_length_px(1000)
    edge = np.sqrt(distance**2 - RADIUS**2)  # from the camera to where its rays touch the sphere
    outline_px = focal_px * RADIUS / edge
    assert 2 * outline_px == pytest.approx(FILL * 1000)


def test_a_camera_is_a_rotation_that_looks_at_the_origin_with_level_horizon():
    for azimuth, elevation in [(0, 0), (77, 30), (200, -5), (359, 89)]:
        matrix = camera_to_world(azimuth, elevation, 1.9)
        right, up, back = matrix[:3, :3].T
        np.testing.assert_allclose(matrix[:3, :3].T @ matrix[:3, :3], np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)
        np.testing.assert_allclose(matrix[:3, 3], back * 1.9)
        assert right[2] == 0 and up[2] >= 0


def test_azimuth_0_is_on_x_and_turns_towards_y_and_elevation_rises():
    np.testing.assert_allclose(camera_to_world(0, 0, 2)[:3, 3], [2, 0, 0], atol=1e-12)
    np.testing.assert_allclose(camera_to_world(90, 0, 2)[:3, 3], [0, 2, 0], atol=1e-12)
    assert camera_to_world(0, 20, 2)[2, 3] > 0
    np.testing.assert_allclose(azimuths_deg(21)[:3], [0, 360 / 21, 720 / 21])


def test_projection_from_the_front_shows_y_to_the_right_and_z_up():
    focal_px = focal_length_px(100)
    points = np.array([[0, 0, 0], [0, 0.2, 0], [0, 0, 0.2]])
    centre, right, up = project(points, camera_to_world(0, 0, 2), focal_px, 100)
    np.testing.assert_allclose(centre, [50, 50])
    np.testing.assert_allclose(right, [50 + focal_px * 0.1, 50])
    np.testing.assert_allclose(up, [50, 50 - focal_px * 0.1])
