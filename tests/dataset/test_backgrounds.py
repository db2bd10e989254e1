"""An object on a plain background is framed as one with alpha; whatever else is opaque is taken whole, with a warning."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dataset.backgrounds import TOLERANCE_ON_WHITE, cut_out_of_plain
from dataset.images import object_box
from dataset.inputs import input_view
from utils.errors import UserError

OBJECTS = {"red": (210, 30, 40), "blue": (20, 40, 220), "black": (6, 6, 6), "gray": (160, 160, 160)}
BACKGROUNDS = {"white": (255, 255, 255), "cream": (240, 236, 228), "gray": (110, 110, 110), "green": (30, 170, 70)}


def disc_on(size: tuple[int, int], background: tuple, colour: tuple, centre=(0.62, 0.45), radius=0.3) -> Image.Image:
    """A disc with smooth edges. Its centre is in shares of the sides, its radius in shares of the shorter one."""
    image = Image.new("RGB", [4 * side for side in size], background)
    x, y = 4 * size[0] * centre[0], 4 * size[1] * centre[1]
    radius *= 4 * min(size)
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return image.resize(size, Image.Resampling.BOX)


def with_alpha(size: tuple[int, int], colour: tuple) -> Image.Image:
    """The same disc, cut out."""
    image = Image.new("RGBA", size, colour)
    image.putalpha(disc_on(size, (0, 0, 0), (255, 255, 255)).convert("L"))
    return image


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize("quality", [None, 95, 75, 50, 30])
@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("size", [(120, 160), (512, 384)])
def test_an_object_on_a_plain_background_is_framed_and_seen_as_one_with_alpha(tmp_path, size, background, quality):
    for colour in OBJECTS.values():
        image = disc_on(size, BACKGROUNDS[background], colour)
        name = "image.jpg" if quality else "image.png"
        image.save(tmp_path / name, **({"quality": quality} if quality else {}))
        with_alpha(size, colour).save(tmp_path / "alpha.png")
        view, expected = input_view(tmp_path / name, 0.8, 64), input_view(tmp_path / "alpha.png", 0.8, 64)
        assert view[..., :4, :].min() > 0.99 and view[..., -4:, :].min() > 0.99, "white, not the image's background"
        assert (view - expected).abs().mean() < 0.1, (colour, quality)


@pytest.mark.parametrize("corner", [(0, 0, 0, 0), (255, 255, 255, 254)])
def test_a_few_transparent_pixels_are_no_cut_out_background(tmp_path, corner):
    """A stray pixel, or the rounded corners of a screenshot: the object is still found on its plain background."""
    image = disc_on((200, 160), BACKGROUNDS["white"], OBJECTS["red"])
    image.save(tmp_path / "opaque.png")
    image.putalpha(255)
    for x, y in ((0, 0), (1, 0), (0, 1), (199, 159)):
        image.putpixel((x, y), corner)
    image.save(tmp_path / "corners.png")
    warnings = []
    expected, view = (
        input_view(tmp_path / f"{name}.png", 0.8, 64, warn=warnings.append) for name in ("opaque", "corners")
    )
    assert (view - expected).abs().mean() < 0.01 and not warnings
    box = Image.new("RGBA", (1000, 1000), (0, 0, 0, 0))
    box.paste((30, 60, 90, 255), (2, 2, 998, 998))
    box.save(tmp_path / "tight.png")  # cut out, and cropped to two pixels around it
    assert input_view(tmp_path / "tight.png", 0.8, 64)[0, 0, 0, 0] == 1, "white: it is framed"
    image.putalpha(100)
    image.save(tmp_path / "faint.png")
    assert input_view(tmp_path / "faint.png", 0.8, 64)[0, :, 0, 0].tolist() == [1, 1, 1], "on white, and framed"


def test_what_an_object_encloses_stays_and_so_does_what_is_as_gray_as_the_background():
    image = disc_on((200, 200), (128, 128, 128), (200, 40, 40), (0.5, 0.5))
    ImageDraw.Draw(image).rectangle((90, 90, 110, 110), fill=(128, 128, 128))
    alpha = np.asarray(cut_out_of_plain(image.convert("RGBA")).getchannel("A"))
    assert alpha[100, 100] == 255 and alpha[0, 0] == 0


def test_a_path_of_background_around_many_corners_is_followed():
    """A comb: the background reaches between its teeth."""
    image = Image.new("RGB", (200, 200), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 40, 160, 160), outline="black", width=6)
    draw.rectangle((60, 60, 140, 140), outline="black", width=6)
    draw.rectangle((95, 35, 105, 50), fill="white")  # a gate in the outer wall, and one far from it in the inner wall
    draw.rectangle((95, 130, 105, 145), fill="white")
    alpha = np.asarray(cut_out_of_plain(image.convert("RGBA")).getchannel("A"))
    assert alpha[100, 100] == 0 and alpha[42, 60] == 255


def test_an_object_may_touch_the_border_and_is_recentred_all_the_same():
    image = disc_on((300, 300), (255, 255, 255), (20, 40, 220), (0.5, 0.8), 0.3)  # a third of the lower side is covered
    cut = cut_out_of_plain(image.convert("RGBA"))
    left, upper, right, lower = object_box([cut.getchannel("A")], 0.5)
    assert ((left + right) / 2, (upper + lower) / 2) == pytest.approx((150, 225), abs=2)
    tight = image.crop((60, 150, 240, 300))
    assert cut_out_of_plain(tight.convert("RGBA")) is not None, "a tight crop, whose corners are background"


def ramp(low: int, high: int) -> np.ndarray:
    return np.repeat(np.linspace(low, high, 200)[:, None, None], 200, 1).repeat(3, 2)


@pytest.mark.parametrize("kind", ["studio gradient", "horizon", "table", "noise", "frame", "vignette"])
def test_a_background_that_is_not_plain_is_taken_whole_with_one_line_that_says_what_to_do(tmp_path, kind):
    pixels = np.full((200, 200, 3), 230.0)
    if kind == "studio gradient":
        pixels = ramp(230, 140)
    elif kind == "horizon":
        pixels[100:] = 90
    elif kind == "table":
        pixels[170:] = 120
    elif kind == "noise":
        pixels = np.random.default_rng(0).uniform(0, 255, pixels.shape)
    elif kind == "frame":
        pixels[:, :3] = 0
    elif kind == "vignette":
        y, x = np.mgrid[-1:1:200j, -1:1:200j]
        pixels -= 80 * (x**2 + y**2)[..., None]
    image = Image.fromarray(pixels.astype(np.uint8))
    ImageDraw.Draw(image).ellipse((60, 60, 100, 100), fill=(200, 20, 20))
    image.save(tmp_path / "photo.jpg", quality=90)
    lines = []
    view = input_view(tmp_path / "photo.jpg", 0.8, 100, warn=lines.append)
    assert len(lines) == 1 and "sample.remove_background=true" in lines[0] and "photo.jpg" in lines[0]
    red = ((view[0, 0] > 0.3) & (view[0, 1:].amax(dim=0) < -0.6)).nonzero().float().median(dim=0).values
    torch.testing.assert_close(red, torch.tensor([40.0, 40.0]), atol=1.5, rtol=0)


def test_a_plain_background_and_alpha_draw_no_warning(tmp_path):
    def fail(line):
        raise AssertionError(line)

    disc_on((64, 64), (255, 255, 255), (0, 0, 0)).save(tmp_path / "plain.png")
    slight = np.clip(ramp(215, 175), 0, 255).astype(np.uint8)  # within the tolerance on both sides of its middle
    slight[60:140, 60:140] = 20
    Image.fromarray(slight).save(tmp_path / "slight.png")
    for path in (tmp_path / "plain.png", tmp_path / "slight.png", "dummy_objaverse/017/003.png"):
        input_view(path, 0.8, 32, warn=fail)


def test_of_a_white_object_on_white_only_what_is_shaded_counts(tmp_path):
    image = Image.new("RGB", (200, 200), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((50, 50, 150, 150), fill=(255 - TOLERANCE_ON_WHITE,) * 3)  # too faint
    image.save(tmp_path / "faint.png")
    with pytest.raises(UserError, match=r"faint.png: shows no object, all of it is background"):
        input_view(tmp_path / "faint.png", 0.8, 32)
    draw.rectangle((50, 120, 150, 150), fill=(254 - TOLERANCE_ON_WHITE,) * 3)  # its shaded side
    assert cut_out_of_plain(image.convert("RGBA")).getchannel("A").getbbox() == (50, 120, 151, 151)
