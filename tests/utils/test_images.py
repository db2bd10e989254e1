"""Whatever a file holds, opening it as an image gives an image or one error, and runs nothing."""

import io
import time

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from tests.helpers.hostile import mutated_bytes
from utils.errors import UserError
from utils.images import IMAGE_FORMATS, allow_only_image_formats, open_image, open_rgba

NOISE = np.random.default_rng(0).integers(0, 255, (24, 24, 4), np.uint8)
SAVED_AS = [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("BMP", "RGB"),
            ("TIFF", "RGBA"), ("GIF", "P"), ("PPM", "RGB"), ("TGA", "RGBA")]  # fmt: skip
OTHERS = ["EPS", "DDS", "QOI", "SGI", "ICO", "ICNS", "PCX", "IM", "SPIDER", "JPEG2000", "AVIF", "PDF"]


def saved(format_: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(NOISE)
    if mode == "I;16":
        image = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
    elif format_ == "SPIDER":
        image = Image.fromarray(NOISE[..., 0].astype(np.float32))
    else:
        image = image.convert("RGB").convert(mode) if mode != "RGBA" else image
    image.save(buffer, format_)
    return buffer.getvalue()


def mistake(path) -> str | None:
    try:
        assert open_rgba(path).mode == "RGBA"
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("format_", "mode"), SAVED_AS)
def test_a_mutated_image_is_an_image_or_one_short_error(format_, mode, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # for speed
    path, whole = tmp_path / "000.png", saved(format_, mode)
    path.write_bytes(whole)
    assert mistake(path) is None
    refused, slowest = 0, 0.0
    for mutant in mutated_bytes(whole, 300, seed=SAVED_AS.index((format_, mode))):
        path.write_bytes(mutant)
        started = time.perf_counter()
        message = mistake(path)
        slowest = max(slowest, time.perf_counter() - started)
        if message:
            refused += 1
            assert message.startswith(f"{path}: ") and len(message) < 300 + len(str(path))
    assert refused > 20, "the mutations do no harm"
    assert slowest < 5


@pytest.mark.parametrize("format_", OTHERS)
def test_formats_that_are_not_on_the_list_are_refused_whatever_their_name(format_, tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    path = tmp_path / "000.png"
    path.write_bytes(saved(format_))
    assert mistake(path).startswith(f"{path}: not an image file that we read (PNG, ")
    for mutant in mutated_bytes(path.read_bytes(), 30, seed=OTHERS.index(format_)):
        path.write_bytes(mutant)
        assert mistake(path).startswith(f"{path}: ")


def test_no_library_of_the_process_opens_another_format_once_told(monkeypatch):
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    allow_only_image_formats()
    assert set(Image.ID) == set(IMAGE_FORMATS)
    for format_ in ("EPS", "DDS"):
        with pytest.raises(OSError, match="cannot identify"):
            Image.open(io.BytesIO(saved(format_)))
    for format_, mode in SAVED_AS:
        assert Image.open(io.BytesIO(saved(format_, mode))).size == (24, 24)


def test_bytes_are_opened_like_a_file_under_their_name():
    with open_image(saved("PNG"), "the texture") as image:
        assert image.size == (24, 24)
    with (
        pytest.raises(UserError, match="the texture: not an image"),
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0", "the texture"),
    ):
        pass


@pytest.mark.parametrize("error", [MemoryError(), KeyError("a slip of ours"), OSError(28, "No space left on device")])
def test_what_the_caller_raises_is_no_damage_of_the_image(error):
    with pytest.raises(type(error)) as raised, open_image(saved("PNG"), "the texture"):
        raise error
    assert raised.value is error


def test_a_damaged_image_is_one_error_before_the_caller_gets_it():
    whole = saved("PNG")
    with pytest.raises(UserError, match=r"^the texture: damaged"), open_image(whole[: len(whole) // 2], "the texture"):
        pytest.fail("the caller got it")


def test_too_little_memory_says_nothing_about_the_image(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError), open_image(saved("PNG"), "the texture"):
        pytest.fail("the caller got it")
