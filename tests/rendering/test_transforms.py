"""transforms.json is what nerfstudio reads, and says more than that."""

import numpy as np
import pytest

from rendering.camera import orbit_distance, project
from rendering.transforms import orbit_transforms


@pytest.mark.parametrize(("fov_deg", "distance"), [(33.8, None), (60.0, 2.5)])
def test_a_reader_can_project_with_its_intrinsics_and_its_matrices_alone(fov_deg, distance):
    transforms = orbit_transforms([f"{view:03d}.png" for view in range(21)], 12.5, 64, fov_deg, distance)
    point = np.array([[0.1, -0.2, 0.3]])
    for frame in transforms["frames"]:
        x, y, z = (np.linalg.inv(frame["transform_matrix"]) @ [*point[0], 1])[:3]
        seen = [transforms["cx"] + transforms["fl_x"] * x / -z, transforms["cy"] + transforms["fl_y"] * y / z]
        expected = project(point, np.array(frame["transform_matrix"]), transforms["fl_x"], transforms["w"])[0]
        np.testing.assert_allclose(seen, expected)
    assert transforms["fl_x"] == pytest.approx(32 / np.tan(transforms["camera_angle_x"] / 2))
    assert transforms["camera_angle_x"] == pytest.approx(np.radians(transforms["fov_deg"]))


def test_angles_and_distance_are_those_of_the_matrices():
    transforms = orbit_transforms(["000.png", "001.png", "002.png"], -5.0, 64)
    assert transforms["distance"] == pytest.approx(orbit_distance())
    for frame in transforms["frames"]:
        x, y, z = np.array(frame["transform_matrix"])[:3, 3]
        assert np.hypot(np.hypot(x, y), z) == pytest.approx(transforms["distance"])
        assert np.degrees(np.arctan2(y, x)) % 360 == pytest.approx(frame["azimuth_deg"])
        assert np.degrees(np.arcsin(z / transforms["distance"])) == pytest.approx(frame["elevation_deg"]) == -5


def test_no_key_of_ours_is_one_that_instant_ngp_reads_otherwise():
    keys = orbit_transforms(["000.png"], 0.0, 64).keys() | {"renderer", "object"}
    assert not keys & {"scale", "offset", "aabb", "aabb_scale", "from_na", "up", "white_transparent"}
