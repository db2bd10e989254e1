import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dataset.images import object_box, square_box, to_float, to_view
from utils.errors import UserError
from utils.images import open_rgba

WHITE = torch.ones(3)


def save(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def disc(size=64, radius=20, centre=(32, 32), colour=(200, 30, 60)):
    y, x = np.mgrid[:size, :size]
    rgba = np.zeros((size, size, 4), np.uint8)
    rgba[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = (*colour, 255)
    return Image.fromarray(rgba)


def test_every_mode_opens_as_the_same_colour(tmp_path):
    rgb = Image.new("RGB", (8, 8), (200, 200, 200))
    palette_with_hole = Image.new("P", (8, 8), 1)
    palette_with_hole.putpalette([0, 0, 0, 200, 200, 200])
    palette_with_hole.putpixel((0, 0), 0)
    files = {
        "rgb.png": (rgb, {}), "gray.png": (rgb.convert("L"), {}), "cmyk.jpg": (rgb.convert("CMYK"), {"quality": 100}),
        "la.png": (rgb.convert("LA"), {}), "p.png": (rgb.quantize(4), {}), "hole.png": (palette_with_hole, {"transparency": 0}),
        "16.png": (Image.fromarray(np.full((8, 8), 200 * 257, np.uint16)), {}), "rgb.webp": (rgb, {"lossless": True}),
        "one_bit.png": (Image.new("1", (8, 8), 1), {}),
    }  # fmt: skip
    for name, (image, options) in files.items():
        opened = open_rgba(save(tmp_path, image, name, **options))
        assert opened.mode == "RGBA" and opened.size == (8, 8)
        expected = 255 if name == "one_bit.png" else 200
        pixel = opened.getpixel((4, 4))
        assert all(abs(channel - expected) <= 2 for channel in pixel[:3]) and pixel[3] == 255, (name, pixel)
    assert open_rgba(tmp_path / "hole.png").getpixel((0, 0))[3] == 0


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "empty", "truncated", "float"])
def test_what_is_no_image_is_one_error_with_the_path(tmp_path, kind):
    path = tmp_path / "a.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("I am a picture")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        whole = save(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)))
        whole.write_bytes(whole.read_bytes()[:3000])
    elif kind == "float":
        path = save(tmp_path, Image.fromarray(np.zeros((8, 8), np.float32)), "a.tiff")
    with pytest.raises(UserError) as error:
        open_rgba(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_header_that_announces_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="announces more than 100 pixels"):
        open_rgba(save(tmp_path, Image.new("RGB", (20, 20))))


def test_alpha_is_composited_on_the_background_and_mapped_to_minus_one_to_one():
    half = Image.new("RGBA", (16, 16), (255, 0, 0, 51))  # alpha 0.2
    view = to_view(half, square_box(half.size), 16, torch.tensor([0.5, 1.0, 0.0]))
    expected = torch.tensor([0.2 + 0.8 * 0.5, 0.8, 0.0]) * 2 - 1
    torch.testing.assert_close(to_float(view)[:, 8, 8], expected, atol=1 / 255, rtol=0)


@pytest.mark.parametrize("size_px", [64, 48, 20, 90])
def test_a_view_is_its_composite_in_floats_resized_in_floats_to_half_a_step_of_8_bits(size_px):
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (64, 48, 4), dtype=np.uint8)
    noise[:20, :, 3] = 255
    noise[40:, :, 3] = 0
    rgba = Image.fromarray(noise).resize((48, 64), Image.BICUBIC)
    box = square_box(rgba.size)
    levels = torch.from_numpy(np.array(rgba.crop(box))).permute(2, 0, 1).float() / 255
    composite = levels[3:] * levels[:3] + (1 - levels[3:])
    resized = F.interpolate(composite[None], size=(size_px, size_px), mode="bicubic", antialias=True)[0].clamp(0, 1)
    error = (to_float(to_view(rgba, box, size_px, WHITE)) + 1) / 2 - resized
    assert error.abs().max() < 1 / 255


@pytest.mark.parametrize("size_px", [128, 64, 96, 50, 127, 200])
def test_the_part_that_shows_something_is_resized_as_the_whole_would_be(size_px):
    random = np.random.default_rng(0)
    background = torch.tensor([1.0, 0.2, 0.0])
    for first, end in ((0, 1), (0, 128), (30, 31), (37, 90), (120, 128), (50, 50)):
        noise = np.zeros((128, 128, 4), np.uint8)
        noise[first:end, 10:70] = random.integers(0, 256, (end - first, 60, 4))
        for box in (square_box((128, 128)), (-20, 5, 90, 115), (100, 0, 140, 40)):
            view = to_view(Image.fromarray(noise), box, size_px, background)
            whole = Image.new("RGB", (box[2] - box[0],) * 2, tuple((background * 255).round().int().tolist()))
            whole.paste(Image.fromarray(noise), (-box[0], -box[1]), mask=Image.fromarray(noise))
            levels = torch.from_numpy(np.array(whole)).permute(2, 0, 1)[None].float()
            expected = F.interpolate(levels, size=(size_px, size_px), mode="bicubic", antialias=True)[0].clamp(0, 255)
            assert (view - expected).abs().max() <= 0.51


def test_the_colour_of_transparent_pixels_does_not_bleed_into_the_edge():
    white_disc = np.array(disc(colour=(255, 255, 255)))
    white_disc[white_disc[..., 3] == 0, :3] = (0, 0, 0)
    view = to_float(to_view(Image.fromarray(white_disc), square_box((64, 64)), 24, WHITE))
    assert view.min() > 0.999, "a white object on white shows no dark fringe"


def test_the_resize_is_antialiased():
    stripes = np.full((64, 64, 4), 255, np.uint8)
    stripes[:, ::2, :3] = 0
    view = to_float(to_view(Image.fromarray(stripes), square_box((64, 64)), 16, WHITE))
    assert view[:, 4:-4, 4:-4].abs().max() < 0.05, "one-pixel stripes become gray"


def test_a_wide_image_keeps_its_aspect_and_gets_background_above_and_below():
    wide = Image.new("RGBA", (64, 32), (0, 0, 0, 255))
    view = to_float(to_view(wide, square_box(wide.size), 64, WHITE))
    assert (view[0] < 0).sum() == 64 * 32
    assert view[0, :14].min() > 0.99 and view[0, -14:].min() > 0.99 and view[0, 20:44].max() < -0.99


def test_one_square_crops_all_views_so_that_the_object_fills_its_share():
    views = [disc(centre=(24, 32), radius=8), disc(centre=(40, 32), radius=8)]
    box = object_box([view.getchannel("A") for view in views], fill=0.5)
    assert box[2] - box[0] == box[3] - box[1]
    shown = [(to_view(view, box, 128, WHITE)[1] < 128).any(dim=0).nonzero()[:, 0] for view in views]
    extent = max(x.max() for x in shown) - min(x.min() for x in shown)
    assert abs(extent / 128 - 0.5) < 0.03
    assert abs((max(x.max() for x in shown) + min(x.min() for x in shown)) / 2 - 64) <= 3, "centred"


def test_the_crop_of_an_empty_orbit_is_the_whole_image():
    empty = Image.new("L", (20, 10), 0)
    assert object_box([empty, empty], 0.9) == square_box((20, 10))
