"""A real browser shows the page of an evaluation, opened from disk."""

import shutil

import pytest

import main

FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync"
STATE = "[...document.querySelectorAll('video')].map(v => ({time: v.currentTime, width: v.videoWidth, error: v.error?.message}))"


@pytest.mark.slow
def test_the_page_opens_from_disk_without_an_error_and_its_videos_play(trained_run, tmp_path):
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "this test needs Chromium: apt-get install chromium"
    words = ("evaluate.meta=svd_meta_held_out.jsonl", "evaluate.num_inference_steps=2", "evaluate.metrics=[psnr]")
    assert main.main(["evaluate", str(trained_run), *words, f"evaluate.out={tmp_path}/out"]) == 0
    messages = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1100, "height": 4000})
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: messages.append(request.url) if request.url.startswith("http") else None)
        page.goto(f"file://{tmp_path}/out/index.html")
        page.wait_for_timeout(500)
        first = page.evaluate(STATE)
        page.wait_for_timeout(700)
        second = page.evaluate(STATE)
        plot = page.locator("#plot").bounding_box()
        summary = page.locator("#summary tr").count()
        broken = page.get_by_text("cannot be played").count()
        browser.close()
    assert messages == [] and broken == 0
    assert len(second) == 4 and all(video["width"] == 3 * 192 and video["error"] is None for video in second)
    assert all(before["time"] != after["time"] for before, after in zip(first, second)), "every video in sight plays"
    assert plot["width"] > 400 and plot["height"] > 200 and summary == 1 + 3 + 8
