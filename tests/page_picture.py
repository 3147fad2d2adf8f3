"""Draws the picture of the page for the README: `python tests/page_picture.py docs/page.png`.

It starts the same real site as tests/test_page.py. Other views beside it: `--all DIRECTORY`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from page_site import PageSite, fill, note
from playwright.sync_api import Browser, sync_playwright

LARGE = "document.documentElement.style.fontSize = '200%'"


def shop(site: PageSite, now: float) -> None:
    """Fill the site as it looks two minutes after four boxes were switched on."""
    store = site.store()
    rows = fill(store, now)
    store.save_box(replace(rows["refused"], since=now - 2))
    store.save_box(replace(rows["held"], since=now - 4, first=now - 90))
    note(store, rows["enrolled"], now - 12, "enrolled", hostname="pos-02")


def shot(browser: Browser, url: str, path: Path, script: str = "", **options) -> None:
    size = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}
    context = browser.new_context(ignore_https_errors=True, **{**size, **options})
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(600)
    if script:
        page.evaluate(script)
    page.screenshot(path=path, full_page=True, animations="disabled")
    context.close()


def main(picture: Path, others: Path | None) -> None:
    site = PageSite()
    try:
        shop(site, time.time())
        site.start_netboot()
        site.start("keys", "control", "page", "nginx")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium",
                args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
            )
            wide = {"viewport": {"width": 820, "height": 1180}, "device_scale_factor": 1.5}
            context = browser.new_context(ignore_https_errors=True, **wide)
            page = context.new_page()
            page.goto(site.url)
            page.wait_for_timeout(1500)
            box = page.locator("article").nth(3).bounding_box()
            assert box is not None
            clip = {"x": 0, "y": 0, "width": 820, "height": box["y"] + box["height"] + 12}
            page.screenshot(path=picture, animations="disabled", full_page=True, clip=clip)
            if others is not None:
                draw_others(site, browser, others)
            browser.close()
    finally:
        site.close()


def draw_others(site: PageSite, browser: Browser, others: Path) -> None:
    others.mkdir(parents=True, exist_ok=True)
    refused = f"{site.url}/box/6f1c0a52-5f0e-5b1c-9d53-{3:012x}"
    small = {"viewport": {"width": 320, "height": 640}}
    shot(browser, site.url, others / "phone.png")
    shot(browser, site.url, others / "phone-dark.png", color_scheme="dark")
    shot(browser, site.url, others / "small-200.png", LARGE, **small)
    shot(browser, refused, others / "box.png")
    shot(browser, f"{site.url}/codes", others / "codes.png", device_scale_factor=0.5)
    context = browser.new_context(
        ignore_https_errors=True, viewport={"width": 390, "height": 844}, device_scale_factor=2
    )
    page = context.new_page()
    page.goto(site.url)
    site.kill("control")
    page.locator("#silent-control").wait_for(timeout=10_000)
    page.screenshot(path=others / "silent.png")
    site.kill("page")
    page.locator("#unreachable").wait_for(timeout=10_000)
    page.screenshot(path=others / "unreachable.png")
    context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[3]) if sys.argv[2:3] == ["--all"] else None)
