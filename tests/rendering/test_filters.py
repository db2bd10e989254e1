"""The filter keeps what an object looks like, thin ones too, and says with numbers why it leaves another out."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rendering.camera import azimuths_deg, focal_length_px, orbit_distance, project
from rendering.filters import why_rejected
from utils.camera import camera_to_world
from utils.schemas_render import FilterSettings

SIZE = 256
CUBE = (1, 1, 1)


def box_views(
    sides: tuple[float, float, float], turn_deg: float, elevation_deg: float, num_views: int = 21
) -> np.ndarray:
    """Draw a box by our own projection, each face in a colour of its own: V H W 4."""
    half = np.array(sides) / np.linalg.norm(sides) * 0.5
    turn = np.radians(turn_deg)
    rotation = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    signs = np.array(list(itertools.product((-1, 1), repeat=3)))
    views = np.zeros((num_views, SIZE, SIZE, 4), np.uint8)
    for view, azimuth in zip(views, azimuths_deg(num_views)):
        to_world = camera_to_world(azimuth, elevation_deg, orbit_distance())
        corners = project(signs * half @ rotation, to_world, focal_length_px(SIZE), SIZE) * 2  # oversampled
        image = Image.new("RGBA", (SIZE * 2, SIZE * 2))
        draw = ImageDraw.Draw(image)
        for axis, side in itertools.product(range(3), (-1, 1)):
            face = corners[signs[:, axis] == side][[0, 1, 3, 2]]
            draw.polygon([tuple(corner) for corner in face], fill=(90 + 40 * axis, 120 + 50 * side, 150, 255))
        view[:] = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))
    return views


KEPT = {
    "cube": (1, 1, 1),
    "door": (1, 0.05, 2),
    "tile": (1, 1, 0.05),
    "book": (1, 0.1, 1.4),
    "sword": (0.1, 0.02, 1),
    "lying sword": (1, 0.1, 0.02),
    "rod": (0.02, 0.02, 1),
    "lying rod": (1, 0.02, 0.02),
}
FLAT = {"card": (1, 0.001, 1.2), "strip": (1, 0.5, 0.001), "plane": (1, 1, 0)}


@pytest.mark.parametrize(("turn_deg", "elevation_deg"), [(13, -5), (45, 30)])
@pytest.mark.parametrize("name", KEPT)
def test_solid_objects_are_kept_however_thin(name, turn_deg, elevation_deg):
    views = box_views(KEPT[name], turn_deg, elevation_deg)
    assert why_rejected(views, sorted(KEPT[name], reverse=True), FilterSettings()) is None


@pytest.mark.parametrize("name", FLAT)
def test_planes_are_left_out_whatever_the_views_show_of_them(name):
    reason = why_rejected(box_views(KEPT["cube"], 13, 10), sorted(FLAT[name], reverse=True), FilterSettings())
    assert reason.startswith("flat: its thickness is 0.00")


def changed(change) -> str | None:
    views = box_views((1, 0.8, 1.1), 20, 10)
    change(views)
    return why_rejected(views, CUBE, FilterSettings())


def test_empty_views():
    assert changed(lambda views: views.fill(0)) == "empty: no view shows anything"


def test_transparent_objects():
    def fade(views):
        views[..., 3] //= 8

    assert changed(fade).startswith("transparent: its pixels have a mean alpha of 0.1")


def test_an_object_lost_in_the_frame():
    def shrink(views):
        small = views[:, ::20, ::20].copy()
        views[:] = 0
        views[:, 100 : 100 + small.shape[1], 100 : 100 + small.shape[2]] = small

    assert changed(shrink).startswith("tiny: it covers at most 0.00")


@pytest.mark.parametrize(("value", "reason"), [(252, "over-exposed: 1.000 of its"), (4, "under-exposed: 1.000 of its")])
def test_burnt_and_black_objects(value, reason):
    def paint(views):
        views[..., :3] = value

    assert changed(paint).startswith(reason)


def test_an_object_that_vanishes_on_white_in_one_view_only():
    def brighten(views):
        views[..., :3] = (215, 225, 235)
        views[::2, ..., 2] = 190
        views[7, ..., :3] = (240, 243, 246)

    assert changed(brighten) == "white on white: in view 7 it differs from white by 0.059, less than 0.15"


def test_a_pale_colour_and_a_white_object_with_shadows_are_seen():
    def make_yellow(views):
        views[..., :3] = (255, 255, 200)
        views[::2, ..., 2] = 150

    def make_shaded(views):
        shade = np.linspace(140, 255, SIZE).astype(np.uint8)
        views[..., :3] = shade[:, None]
        views[::2, ..., :3] -= 20

    assert changed(make_yellow) is None and changed(make_shaded) is None


def test_of_an_object_no_more_than_a_quarter_may_vanish_on_white_however_dark_the_rest_is():
    def whiten(part):
        def change(views):
            views[..., :3] = (90, 80, 85)
            views[::2, ..., :3] += 20
            rows = np.nonzero(views[0, ..., 3].any(axis=1))[0]
            views[:, rows[: round(part * len(rows))], :, :3] = 255

        return change

    assert changed(whiten(0.2)) is None
    assert changed(whiten(0.35)).startswith("white on white: in view 0 it differs from white by 0.1")


def test_dim_objects_and_a_bright_red_one():
    def dim(views):
        views[..., :3] = (0, 7, 7)

    def redden(views):
        views[..., :3] = (255, 30, 20)
        views[::2, ..., 1] = 60

    assert changed(dim).startswith("under-exposed: its mean brightness is 0.02")
    assert changed(redden) is None


def test_views_that_do_not_turn():
    def hold(views):
        views[:] = views[0]

    assert changed(hold).startswith("all views the same: they differ by 0.0000")


def test_a_uniform_ball_under_uniform_light_does_not_turn():
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    ball = np.zeros((21, SIZE, SIZE, 4), np.uint8)
    ball[:, x**2 + y**2 < 100**2] = (120, 130, 140, 255)
    assert why_rejected(ball, CUBE, FilterSettings()) == "all views the same: they differ by 0.0000, less than 0.004"


def test_thresholds_are_the_configs():
    views = box_views(KEPT["cube"], 20, 10)
    assert why_rejected(views, (1, 1, 0.001), FilterSettings(min_thickness=0)) is None
    assert why_rejected(views, (1, 1, 0.4), FilterSettings(min_thickness=0.5)).startswith(
        "flat: its thickness is 0.400"
    )
    assert why_rejected(views, CUBE, FilterSettings(min_coverage=0.9)).startswith("tiny")
