import os
import sys

import numpy as np
import pytest

from rendering.job import environment_column
from rendering.light import (
    MEAN_RADIANCE,
    WIDTH_PX,
    black_body,
    directions,
    environment_for,
    list_hdris,
    load_hdri,
    normalise_radiance,
    object_seed,
)
from tests.helpers.lamps import lamp
from utils.errors import UserError

HEADER = "#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {} +X {}\n"


def rgbe(radiance):
    exponents = np.where(radiance.max(axis=-1) > 0, np.frexp(radiance.max(axis=-1))[1], -128)
    mantissas = np.ldexp(radiance, 8 - exponents[..., None])
    return np.concatenate([mantissas, exponents[..., None] + 128], axis=-1).astype(np.uint8)


def write_hdr(path, radiance, packed=False):
    """Pack each channel's row as runs where it repeats, and as copies where it does not."""
    pixels = rgbe(radiance)
    body = pixels.tobytes() if not packed else b"".join(_packed_row(row) for row in pixels)
    path.write_bytes(HEADER.format(*radiance.shape[:2]).encode() + body)
    return path


def _packed_row(row):
    data = bytes([2, 2, len(row) >> 8, len(row) & 255])
    for channel in row.T:
        changes = [0, *(np.flatnonzero(np.diff(channel.astype(int))) + 1), len(channel)]
        for start, end in zip(changes, changes[1:]):
            for place in range(start, end, 100):
                count = min(100, end - place)
                data += (
                    bytes([128 + count, channel[place]]) if count > 2 else bytes([count]) + bytes(channel[place:end])
                )
    return data


def random_radiance(height=16):
    rng = np.random.default_rng(0)
    return np.repeat(rng.lognormal(0, 2, (height, height, 3)), 2, axis=1)


def sphere_mean(radiance):
    """Average over points that are spread evenly over the sphere, without weights."""
    height = len(radiance)
    up = np.linspace(-1, 1, 20001)[1:-1]
    rows = (np.arccos(up) / np.pi * height).astype(int)
    return radiance.mean(axis=(1, 2))[rows].mean()


def test_an_objects_seed_is_the_same_on_any_machine_and_in_any_order():
    assert object_seed("chairs/red", 0) == 0x3ABADCA5F4BE81A6  # `printf 0/chairs/red | sha256sum`
    assert len({object_seed(f"{name}", seed) for name in range(100) for seed in range(10)}) == 1000


def test_the_direction_of_a_pixel_is_the_azimuth_whose_column_it_is_in():
    towards = directions(8)
    np.testing.assert_allclose(np.linalg.norm(towards, axis=-1), 1)
    assert (np.diff(towards[..., 2], axis=0) < 0).all() and towards[0, 0, 2] > 0.98  # first row up
    azimuth_deg = np.degrees(np.arctan2(towards[..., 1], towards[..., 0]))
    np.testing.assert_allclose(environment_column(azimuth_deg), np.broadcast_to((np.arange(16) + 0.5) / 16, (8, 16)))


@pytest.mark.parametrize("azimuth_deg, elevation_deg", [(0, 0), (90, 20), (200, -30), (315, 60)])
def test_a_lamp_stands_where_it_is_said_to(azimuth_deg, elevation_deg):
    radiance = lamp(azimuth_deg, elevation_deg)
    row, column, _ = np.unravel_index(radiance.argmax(), radiance.shape)
    height, width = radiance.shape[:2]
    assert (row + 0.5) / height == pytest.approx(0.5 - elevation_deg / 180, abs=2 / height)
    off = (column + 0.5) / width - environment_column(azimuth_deg)
    assert min(off % 1, -off % 1) < 2 / width
    assert (radiance < 0.01).mean() > 0.9


@pytest.mark.parametrize("kind", ["noise", "sun", "procedural"])
def test_the_mean_over_all_directions_is_the_same_for_every_light(kind):
    radiance = random_radiance(64)
    if kind == "sun":
        radiance[10, 30] = 1e6
    radiance = environment_for(3, None) if kind == "procedural" else normalise_radiance(radiance)
    assert radiance.dtype == np.float32 and radiance.min() >= 0
    assert sphere_mean(radiance) == pytest.approx(MEAN_RADIANCE, rel=2e-3)


def test_a_sun_is_cut_but_keeps_its_colour_and_stays_the_brightest():
    radiance = np.full((64, 128, 3), 0.5)
    radiance[10, 30] = (3e5, 2e5, 1e5)
    cut = normalise_radiance(radiance)
    np.testing.assert_allclose(cut[10, 30] / cut[10, 30].max(), [1, 2 / 3, 1 / 3], rtol=1e-5)
    assert 50 < cut[10, 30].mean() / np.median(cut) < cut[10, 30].max() / np.median(cut) < 1e5
    even = random_radiance()
    np.testing.assert_allclose(
        normalise_radiance(even) / normalise_radiance(even)[0, 0, 0], even / even[0, 0, 0], rtol=1e-5
    )


def test_choice_and_turn_follow_from_the_seed_alone(tmp_path):
    for number in range(3):
        write_hdr(tmp_path / f"{number}.hdr", random_radiance() * (np.arange(3) == number))
    hdris = list_hdris(tmp_path)
    again = [environment_for(seed, hdris) for seed in range(30)]
    for seed in reversed(range(30)):
        np.testing.assert_array_equal(environment_for(seed, hdris), again[seed])
    assert {int(light.mean(axis=(0, 1)).argmax()) for light in again} == {0, 1, 2}
    unturned = [normalise_radiance(load_hdri(path)) for path in hdris]
    turns = set()
    for light in again:
        base = unturned[light.mean(axis=(0, 1)).argmax()]
        turns |= {turn for turn in range(32) if np.array_equal(np.roll(base, turn, axis=1), light)}
    assert len(turns) > 10


def test_procedural_lights_differ_and_come_from_above():
    lights = [environment_for(seed, None) for seed in range(8)]
    assert all(light.shape == (WIDTH_PX // 2, WIDTH_PX, 3) for light in lights)
    assert all(light[: WIDTH_PX // 4].mean() > light[WIDTH_PX // 4 :].mean() for light in lights)
    means = np.array([light.mean(axis=(0, 1)) for light in lights])
    assert np.ptp(means[:, 2] / means[:, 0]) > 0.1  # warm and cold ones
    assert black_body(3000)[0] > black_body(3000)[2] and black_body(9000)[0] < black_body(9000)[2]


@pytest.mark.parametrize("packed", [False, True])
def test_an_hdr_is_read_back_to_the_precision_of_its_format(tmp_path, packed):
    radiance = random_radiance()
    radiance[3, 5:9] = 0
    read = load_hdri(write_hdr(tmp_path / "a.hdr", radiance, packed))
    assert (abs(read - radiance) <= radiance.max(axis=-1, keepdims=True) / 128).all()
    assert (read[3, 5:9] == 0).all()


@pytest.mark.parametrize("height", [WIDTH_PX, WIDTH_PX - 100])
def test_a_large_map_is_averaged_down(tmp_path, height):
    radiance = np.repeat(np.repeat(random_radiance(8), height // 8, axis=0), height // 8, axis=1)
    radiance = radiance[: height // 8 * 8, : height // 8 * 16]
    read = load_hdri(write_hdr(tmp_path / "a.hdr", radiance, packed=True))
    assert read.shape == (WIDTH_PX // 2, WIDTH_PX, 3)
    assert read.mean() == pytest.approx(radiance.mean(), rel=0.02)


BAD = {
    "text.hdr": b"I am a light",
    "empty.hdr": b"",
    "short.hdr": HEADER.format(16, 32).encode() + b"\1" * 100,
    "run_too_long.hdr": HEADER.format(1, 8).encode() + bytes([2, 2, 0, 8, 255, 1]) + b"\1" * 30,
    "huge.hdr": HEADER.format(99999, 99999).encode(),
    "square.hdr": HEADER.format(2, 2).encode() + b"\1" * 16,
    "dark.hdr": HEADER.format(2, 4).encode() + b"\0" * 32,
    "xyze.hdr": HEADER.format(2, 4).replace("rgbe", "xyze").encode() + b"\1" * 32,
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_environment_is_one_error_with_the_path(tmp_path, name):
    (tmp_path / name).write_bytes(BAD[name])
    with pytest.raises(UserError) as error:
        environment_for(0, list_hdris(tmp_path))
    assert str(error.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_radiance_that_cannot_be_is_an_error_with_the_path(tmp_path, monkeypatch, value):
    monkeypatch.setitem(sys.modules["rendering.light"].READERS, ".hdr", lambda path: np.full((4, 8, 3), value))
    (tmp_path / "a.hdr").touch()
    with pytest.raises(UserError, match=r"a\.hdr: holds negative or infinite"):
        load_hdri(tmp_path / "a.hdr")


def test_a_pipe_is_no_map_and_a_map_of_gigabytes_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.hdr")
    with pytest.raises(UserError, match=r"holds no \.hdr"):
        list_hdris(tmp_path)
    with pytest.raises(UserError, match=r"pipe\.hdr: cannot be read: it is not a regular file"):
        load_hdri(tmp_path / "pipe.hdr")
    with open(tmp_path / "sparse.hdr", "wb") as file:
        file.truncate(5 << 30)
    with pytest.raises(UserError, match=r"sparse\.hdr: is larger than 600 MiB"):
        load_hdri(tmp_path / "sparse.hdr")


def test_a_folder_without_maps_and_an_exr_without_its_library_are_errors(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=str(folder)):
            list_hdris(folder)
    (tmp_path / "a.exr").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(UserError, match=r"a\.exr: .*pip install OpenEXR"):
        load_hdri(list_hdris(tmp_path)[0])
