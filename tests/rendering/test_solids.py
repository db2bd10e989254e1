import numpy as np
import pytest
from PIL import Image

from rendering.solid_objects import OBJECTS, elevations_deg
from rendering.solids import render_view


@pytest.mark.parametrize("number", [1, 8, 15, 18])
def test_the_committed_views_are_what_the_command_renders(number):
    name = list(OBJECTS)[number - 1]
    rendered = render_view(name, 360 * 5 / 21, elevations_deg()[name], 128)
    committed = np.asarray(Image.open(f"dummy_objaverse/{number:03d}/005.png"))
    assert np.abs(rendered.astype(int) - committed).max() <= 1


def column_of_blue(azimuth_deg: float) -> float:
    """Return the mean column, in [-1, 1] from left to right, of the blue arm at the -y side of the robot, which faces +x."""
    view = render_view("robot", azimuth_deg, 0.0, 64).astype(int)
    blue = (view[..., 2] > view[..., 1] + 60) & (view[..., 3] > 0)
    return blue.nonzero()[1].mean() / 31.5 - 1


def test_the_azimuth_is_counter_clockwise_seen_from_above():
    """From the front (+x) the -y side is left. From the back it is right, and from -y it is in the middle."""
    assert column_of_blue(0) < -0.3
    assert column_of_blue(180) > 0.3
    assert abs(column_of_blue(270)) < 0.2, "from -y the arm is in front, in the middle"


def test_views_have_straight_alpha_and_transparent_pixels_are_black():
    view = render_view("duck", 40, 10, 64)
    assert view.dtype == np.uint8 and view.shape == (64, 64, 4)
    assert (view[..., 3] == 0).mean() > 0.4 and (view[..., 3] == 255).mean() > 0.1
    edge = (view[..., 3] > 60) & (view[..., 3] < 200)
    assert edge.any() and view[edge][:, 0].mean() > 150, (
        "an edge pixel has the duck's colour, not one darkened by the void"
    )
