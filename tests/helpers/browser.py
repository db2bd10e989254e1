"""A real browser, without a network of its own. Where there is none, the tests that need it are skipped."""

import importlib.util
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync"
PATIENCE_MS = 120_000  # the machine may be busy
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and importlib.util.find_spec("playwright")),
    reason="needs Chromium (apt-get install chromium) and playwright",
)


@contextmanager
def open_browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


def open_page(browser, address: str, **context) -> tuple:
    """Return a page in a context of its own, and a list of what goes wrong on it: errors, and requests to another place."""
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(PATIENCE_MS)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on("request", lambda request: wrong.append(request.url) if leaves(request.url, address) else None)
    page.goto(address)
    return page, wrong


def leaves(url: str, address: str) -> bool:
    return not url.startswith(("data:", "blob:", address.rpartition("/")[0] + "/"))


def colour(element) -> np.ndarray:
    """Return the colour in the middle of an element, as it is drawn: 3 uint8."""
    picture = np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"))
    return picture[picture.shape[0] // 2, picture.shape[1] // 2]


def drag(page, element, dx: int) -> None:
    """Drag from the middle of an element, `dx` pixels to the right."""
    element.scroll_into_view_if_needed()
    box = element.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y, steps=3)
    page.mouse.up()
