"""An orbit on a page: its pictures are packed into one of bounded size, and its texts are texts."""

import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from evaluation.turntable import MAX_SHEET_PX, MAX_TILE_PX, pack_sheet, page, turntable
from tests.helpers.pages import Page


@pytest.mark.parametrize("num_views", [2, 3, 21, 22])
def test_the_tiles_of_a_sheet_are_the_frames_in_order(num_views):
    frames = np.stack([np.full((16, 16, 3), 10 * view, np.uint8) for view in range(num_views)])
    sheet = np.asarray(Image.open(io.BytesIO(pack_sheet({"input": frames[-1:], "sample": frames}))).convert("RGB"))
    html = turntable(b"", {"input": 1, "sample": num_views}, "x")
    columns, rows = map(int, re.search(r"--columns:(\d+);--rows:(\d+);", html).groups())
    assert sheet.shape == (16 * rows, 16 * columns, 3) and columns * rows >= num_views + 1
    levels = [int(sheet[place // columns * 16 + 8, place % columns * 16 + 8, 0]) for place in range(num_views + 1)]
    expected = [10 * (num_views - 1), *(10 * view for view in range(num_views))]
    assert np.abs(np.subtract(levels, expected)).max() <= 4, "WebP loses a little"


@pytest.mark.parametrize(("num_views", "size_px"), [(21, 576), (1000, 64)])
def test_a_sheet_is_bounded_however_many_and_large_the_views_are(num_views, size_px):
    frames = np.broadcast_to(np.uint8(200), (num_views, size_px, size_px, 3))
    picture = Image.open(io.BytesIO(pack_sheet({"sample": frames})))
    columns = math.ceil(math.sqrt(num_views))
    assert max(picture.size) <= MAX_SHEET_PX and picture.width // columns <= min(MAX_TILE_PX, size_px)


HOSTILE = "</div><script>alert(1)</script><img src=x onerror=alert(1)>\"' onfocus='alert(1)' {{x}} ${x}"


def test_hostile_texts_stay_texts():
    harmless = Page(page("a", turntable(b"", {"b": 1, "c": 2}, "d")))
    hostile = Page(page(HOSTILE, turntable(b"", {HOSTILE: 1, "c": 2}, HOSTILE)))
    shape = [(tag, sorted(attributes)) for tag, attributes in hostile.tags]
    assert shape == [(tag, sorted(attributes)) for tag, attributes in harmless.tags]
    assert hostile.text.count(HOSTILE) == 2 and HOSTILE in [
        attributes.get("aria-label") for _, attributes in hostile.tags
    ]


def test_a_page_may_open_nothing_but_what_it_holds():
    [policy] = [attributes["content"] for _, attributes in Page(page("a", "")).tags if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none'; img-src data:; ") and "http:" not in policy
