"""A real browser shows the pages of `evaluate` and `sample`, opened from disk, and turns the objects on them.

View k of an orbit is one gray level here, so that the colour of a panel says which view it shows.
"""

import numpy as np
import pytest

from commands.sample import orbit_html, sample_page
from evaluation.page import evaluation_page
from evaluation.report import PUBLISHED
from evaluation.turntable import pack_sheet
from tests.helpers.browser import PATIENCE_MS, colour, drag, needs_browser, open_browser, open_page
from utils.reading import read_yaml

VIEWS, STEP = 21, 12
HOSTILE = "cup</p><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


def levels(first: int, step: int) -> np.ndarray:
    return np.stack([np.full((32, 32, 3), first + step * view, np.uint8) for view in range(VIEWS)])


def report(ids) -> dict:
    means = {"psnr": {"novel": 20.0, "all": 21.0, "per_view": [20.0] * VIEWS}}
    return {
        "num_objects": len(ids), "step": 1, "checkpoint": HOSTILE, "weights": "ema", "unavailable": {"lpips": HOSTILE},
        "settings": {"views": "novel", "protocol": None}, "not_as_published": [], "objects_sha256": "",
        "per_view": {"sample": {"psnr": [20.0, 25.0] * 10 + [20.0]}}, "summary": {"sample": {"psnr": means["psnr"]}},
        "objects": [{"id": name, "elevation_deg": 5.0, "metrics": {"sample": means}} for name in ids],
    }  # fmt: skip


@pytest.fixture
def evaluation(tmp_path) -> str:
    """The address of an evaluation's page: input 90, truth 0, 12, 24 ..., sample 255, 243 ..."""
    panels = {"input": levels(90, 0)[:1], "truth": levels(0, STEP), "sample": levels(255, -STEP)}
    names = [HOSTILE, "boat"]
    published = read_yaml(PUBLISHED)["gso"]
    (tmp_path / "index.html").write_text(
        evaluation_page(report(names), published, dict.fromkeys(names, pack_sheet(panels)))
    )
    return f"file://{tmp_path}/index.html"


def shown(table) -> tuple[int, int, int]:
    """Return the level of the input, and the numbers of the views of truth and sample, by their colours."""
    level, truth, sample = (int(colour(view)[0]) for view in table.locator(".view").all())
    return level, round(truth / STEP), round((255 - sample) / STEP)


def test_dragging_and_keys_turn_truth_and_sample_in_step_and_leave_the_input(browser, evaluation):
    page, wrong = open_page(browser, evaluation, viewport={"width": 1000, "height": 800}, reduced_motion="reduce")
    table = page.locator("turn-table").first
    stage = table.get_by_role("slider")
    level = shown(table)[0]
    assert abs(level - 90) <= 3 and shown(table) == (level, 0, 0)
    width = table.locator(".view").first.bounding_box()["width"]
    drag(page, stage, dx=round(-width / 2))
    assert shown(table) == (level, 5, 5), "half a panel to the left is a quarter of a turn on"
    drag(page, stage, dx=round(width))
    assert shown(table) == (level, 16, 16), "and back past the first view"
    keys = {
        "ArrowRight": 17,
        "ArrowUp": 18,
        "ArrowLeft": 17,
        "End": 20,
        "ArrowDown": 19,
        "PageUp": 3,
        "PageDown": 19,
        "Home": 0,
    }
    for key, view in keys.items():
        stage.press(key)
        assert shown(table) == (level, view, view), key
        assert stage.get_attribute("aria-valuenow") == str(view)
    assert stage.get_attribute("aria-valuetext") == "azimuth 0°, view 1 of 21"
    assert stage.get_attribute("aria-label").startswith(HOSTILE)
    assert shown(page.locator("turn-table").nth(1)) == (level, 0, 0), "the other object stays"
    assert page.locator("#plot").bounding_box()["width"] > 400 and page.locator("#summary tr").count() == 1 + 1 + 8
    assert wrong == []


def test_objects_in_sight_turn_by_themselves_until_they_are_touched(browser, evaluation):
    from playwright.sync_api import expect

    page, wrong = open_page(browser, evaluation)
    stage = page.get_by_role("slider").first
    page.wait_for_timeout(500)
    assert stage.get_attribute("aria-valuenow") == "0", "it is below what the window shows"
    stage.scroll_into_view_if_needed()
    expect(stage).not_to_have_attribute("aria-valuenow", "0", timeout=PATIENCE_MS)
    drag(page, stage, dx=0)
    view = stage.get_attribute("aria-valuenow")
    page.wait_for_timeout(500)
    assert stage.get_attribute("aria-valuenow") == view
    page.get_by_role("button", name="turn").first.click()
    expect(stage).not_to_have_attribute("aria-valuenow", view, timeout=PATIENCE_MS)
    assert wrong == []


def test_a_finger_turns_the_sample_on_a_phone_and_the_page_fits_it(browser, tmp_path):
    about = {"image": f"x/{HOSTILE}", "seed": 3, "elevation_deg": 10.0}
    about["model"] = {"folder": HOSTILE, "step": 5, "weights": "ema"}
    (tmp_path / "index.html").write_text(sample_page(about, orbit_html(levels(90, 0)[:1], levels(0, STEP))))
    phone = {
        "viewport": {"width": 360, "height": 640},
        "has_touch": True,
        "is_mobile": True,
        "reduced_motion": "reduce",
    }
    page, wrong = open_page(browser, f"file://{tmp_path}/index.html", **phone)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    view = page.locator(".view").last
    box = view.bounding_box()
    assert box["width"] > 300, "the sample takes the width of the phone"
    session = page.context.new_cdp_session(page)
    for kind, x in (("touchStart", 300), ("touchMove", 250), ("touchMove", 300 - box["width"] / 2), ("touchEnd", None)):
        points = [] if x is None else [{"x": x, "y": box["y"] + 50}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert round(int(colour(view)[0]) / STEP) == 5
    assert wrong == []
