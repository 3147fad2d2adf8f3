"""What the page says of secrets: a license that ends soon, and what a box could not open.

Needs root, nginx, chromium and axe-playwright-python, as tests/test_page.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from page_site import PageSite, box_row
from playwright.sync_api import Browser, expect, sync_playwright
from test_page import SHORTLY, axe, look

from bootstrap.enrolment import Stage
from bootstrap.next_steps import NEXT_STEP
from keys.envelope import b64u
from keys.io.rpc import call

HOSTILE = "vault-<b>key\u202e"
LICENSE = (
    '\n[[secret]]\nname = "till-license"\nkind = "license"\ntier = "site"\nask = "Kassen & Co"\n'
)
BOX = f"6f1c0a52-5f0e-5b1c-9d53-{7:012x}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site() -> Iterator[PageSite]:
    site = PageSite()
    try:
        path = site.layout.site / "site.toml"
        roles = 'secrets = ["pos-api-token"'
        text = path.read_text().replace(roles, f'{roles}, "till-license"', 1)
        path.write_text(text + LICENSE)
        withheld = (
            {"name": HOSTILE, "reason": "SECRET-UNOPENED", "since": 1, "said": "BUNDLE-CLOSED"},
            {"name": "wifi-psk", "reason": "SECRET-EXPIRED", "since": 1},
        )
        now = time.time()
        site.store().save_box(
            box_row(7, Stage.ENROLLED, now - 5, hostname="pos-07", role="pos", withheld=withheld)
        )
        site.start_netboot()
        site.start("keys", "control", "page", "nginx")
        ends = (datetime.now(UTC) + timedelta(days=12.5)).strftime("%Y-%m-%dT%H:%MZ")
        given = {"name": "till-license", "value": b64u(b"seats=4"), "until": ends}
        call(site.layout.socket("keys"), "secret_put", given)
        yield site
    finally:
        site.close()


def test_a_license_that_ends_soon_is_among_the_first_and_says_whom_to_ask(
    site: PageSite, chromium: Browser
) -> None:
    page = look(chromium, site)
    said = "License till-license of pos ends in 12 days: ask Kassen & Co for a new one."
    expect(page.locator("#notices")).to_contain_text(said, timeout=SHORTLY)
    alone = page.locator("#alone")
    day = (datetime.now(UTC) + timedelta(days=12.5)).strftime("%Y-%m-%d")
    expect(alone.locator("li").first).to_contain_text("License till-license", timeout=SHORTLY)
    assert day in alone.inner_text()
    assert "then license till-license ends" in alone.inner_text()
    assert page.wrongs == []
    page.context.close()


def test_a_box_that_could_not_open_a_secret_names_it_with_reason_and_next_step(
    site: PageSite, chromium: Browser
) -> None:
    page = look(chromium, site)
    card = page.locator(f"#card-{BOX}")
    assert "SECRET-UNOPENED" in card.inner_text()
    assert NEXT_STEP["SECRET-UNOPENED"] in card.inner_text()
    assert "it could not open it, BUNDLE-CLOSED" in card.inner_text()
    card.locator("h2 a").tap()
    page.wait_for_url("**/box/*")
    parts = page.locator("#withheld li").all_inner_texts()
    assert len(parts) == 2
    assert parts[0].startswith("SECRET-UNOPENED vault-<b>key")
    assert "its screen says BUNDLE-CLOSED" in parts[0]
    assert parts[0].endswith(NEXT_STEP["SECRET-UNOPENED"])
    assert parts[1] == f"SECRET-EXPIRED wifi-psk {NEXT_STEP['SECRET-EXPIRED']}"
    assert page.locator("main b").count() == 0
    assert "\u202e" not in page.content()
    assert axe(page) == []
    assert page.wrongs == []
    page.context.close()
