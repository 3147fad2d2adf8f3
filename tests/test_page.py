"""The page as a technician meets it: real control, keys, nginx and Chromium, a phone's screen.

Needs root (each process has its own user), nginx, chromium and axe-playwright-python.
"""

import http.client
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import axe_playwright_python
import pytest
from page_site import PageSite, box_row, cards_of, fill, note
from playwright.sync_api import Browser, Page, expect, sync_playwright

from bootstrap.cards import age
from bootstrap.enrolment import Stage
from bootstrap.io.page import HEADERS
from bootstrap.io.watch import MAX_STREAMS
from bootstrap.next_steps import NEXT_STEP

AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
SMALL = {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True}
SHORTLY = 15_000
HOSTILE = '"><img src=/static/icon.svg onerror=document.title=1>\u202e<b>\x1b[2J'


@pytest.fixture(scope="module")
def site() -> Iterator[PageSite]:
    site = PageSite()
    try:
        _fill(site)
        site.start_netboot()
        yield site.start("keys", "control", "page", "nginx")
    finally:
        site.close()


@pytest.fixture(scope="module")
def rehearsal() -> Iterator[PageSite]:
    site = PageSite(rehearsal=True)
    try:
        fill(site.store(), time.time())
        yield site.start("keys", "control", "page", "nginx")
    finally:
        site.close()


def _fill(site: PageSite) -> None:
    store, now = site.store(), time.time()
    fill(store, now)
    facts = {"smbios": {"product_name": HOSTILE, "product_serial": HOSTILE}}
    row = box_row(9, Stage.HELD, now - 4000, facts=facts, sentence=HOSTILE, reasons=("NEW-ONE",))
    store.save_box(row)
    note(store, row, now - 4000, "held", sentence=HOSTILE, findings=[[HOSTILE, HOSTILE]])


REFUSED, HELD, READY, HOSTILE_BOX = (f"6f1c0a52-5f0e-5b1c-9d53-{n:012x}" for n in (3, 4, 1, 9))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        yield browser
        browser.close()


def look(chromium: Browser, site: PageSite, path: str = "/", **options) -> Page:
    """Open a page in a context of its own; whatever it complains of is kept in `page.wrongs`."""
    context = chromium.new_context(ignore_https_errors=True, **{**PHONE, **options})
    context.set_default_timeout(SHORTLY)
    page = context.new_page()
    page.wrongs = []
    page.requests = []
    page.on("pageerror", lambda error: page.wrongs.append(str(error)))
    page.on("console", lambda said: page.wrongs.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(site.url + path, wait_until="load")
    return page


def axe(page: Page) -> list[str]:
    """Run axe-core's rules for WCAG 2.2 AA and its best practice; what it finds, by line."""
    page.evaluate(AXE.read_text() + "; true")
    options = {"runOnly": {"type": "tag", "values": WCAG}}
    found = page.evaluate("options => axe.run(document, options)", options)
    assert len(found["passes"]) > 15
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


# what is shown


def test_a_phone_shows_one_card_a_box_newest_first(site: PageSite, chromium: Browser) -> None:
    page = look(chromium, site)
    titles = page.locator("article h2 bdi").all_inner_texts()
    assert titles[:6] == [
        "new box 41:07:05",
        "pos-02",
        "TillBox 300 TB3-004173",
        "new box 41:07:06",
        "TillBox 300 TB3-004174",
        "pos-01",
    ]
    assert page.locator("h1").inner_text() == "Shop 417, Leeds"
    assert page.locator("#notices li").count() >= 1
    assert "in a TPM" in page.locator("#notices").inner_text()
    assert page.screenshot(full_page=True)[:4] == b"\x89PNG"
    assert page.wrongs == []
    page.context.close()


def test_a_refused_card_says_what_happened_what_to_do_whom_to_call_and_one_code(
    site: PageSite, chromium: Browser
) -> None:
    page = look(chromium, site)
    card = page.locator(f"#card-{REFUSED}")
    told = dict(
        zip(
            card.locator(".trouble dt").all_inner_texts(),
            card.locator(".trouble dd").all_inner_texts(),
            strict=True,
        )
    )
    assert told["What happened"].startswith("Secure Boot is off")
    assert told["Do this now"] == NEXT_STEP["SECURE-BOOT-OFF"]
    assert told["Whom to call"] == "Field desk, +44 113 496 0000"
    assert told["Reason code"] == "SECURE-BOOT-OFF and 1 more"
    assert "Refused" in card.inner_text()
    assert "Stopped at step 3 of 6, attempt 2" in card.inner_text()
    assert card.locator("a[href='tel:+441134960000']").count() == 1
    page.context.close()


def test_a_busy_card_has_an_age_that_grows_and_the_usual_time(
    site: PageSite, chromium: Browser
) -> None:
    page = look(chromium, site)
    ready = page.locator(f"#card-{READY} .age").first
    first = page.locator("#card-" + r"52\:54\:00\:41\:07\:05 .stage")
    assert "(usually 1 min)" in first.inner_text()
    assert "min" in ready.inner_text()
    page.context.close()


def test_quiet_for_three_times_the_usual_time_is_amber_and_says_so(
    site: PageSite, chromium: Browser
) -> None:
    page = look(chromium, site)
    card = page.locator(r"#card-52\:54\:00\:41\:07\:06")
    assert "wait" in card.get_attribute("class")
    assert "did not ask for its start file" in card.inner_text()
    assert "DHCP-NOBOOT" in card.inner_text()
    page.context.close()


def test_details_show_findings_and_fold_earlier_attempts(site: PageSite, chromium: Browser) -> None:
    page = look(chromium, site)
    page.locator(f"#card-{REFUSED} h2 a").tap()
    page.wait_for_url("**/box/*")
    assert page.locator(".findings code").all_inner_texts() == ["SECURE-BOOT-OFF", "PCR-MISMATCH"]
    assert page.locator("#story li").count() == 5
    assert "was refused" in page.locator("#story li").first.inner_text()
    assert not page.locator("#earlier ol").is_visible()
    page.locator("#earlier summary").tap()
    assert page.locator("#earlier li").count() == 5
    page.reload()
    page.get_by_role("link", name="All boxes").tap()
    page.wait_for_url("**/")
    assert page.wrongs == []
    page.context.close()


def test_codes_page_lists_every_code(site: PageSite, chromium: Browser) -> None:
    page = look(chromium, site, "/codes")
    assert page.locator("dt code").all_inner_texts() == sorted(NEXT_STEP)
    page.context.close()


# hostile text


def test_text_of_a_box_stays_text(site: PageSite, chromium: Browser) -> None:
    for path in ("/", f"/box/{HOSTILE_BOX}"):
        page = look(chromium, site, path)
        card = page.locator(f"#card-{HOSTILE_BOX}")
        shown = card.inner_text()
        assert "<img src=" in shown
        assert "\u202e" not in page.content()
        assert "\x1b" not in page.content()
        assert page.locator("main img, main b").count() == 0
        assert page.title() != "1"
        assert page.wrongs == []
        page.context.close()


def test_nothing_foreign_is_asked_for_and_the_policy_is_strict(
    site: PageSite, chromium: Browser
) -> None:
    page = look(chromium, site, f"/box/{REFUSED}")
    page.wait_for_timeout(1500)
    assert len(page.requests) >= 5
    assert all(url.startswith(site.url + "/") for url in page.requests)
    page.context.close()
    for path in ("/", "/cards", "/static/page.js", "/no-such-page", f"/box/{REFUSED}/details"):
        headers = get(site, path)[1]
        assert {name: headers[name] for name in HEADERS} == HEADERS, path
        assert "set-cookie" not in headers
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/no-such-page", 404),
        ("/box/52:54:00:00:00:99", 404),
        ("/box/%3Cscript%3E", 404),
        ("/static/../base.html", 404),
    ],
)
def test_unknown_paths_are_a_page_and_never_a_traceback(
    site: PageSite, path: str, status: int
) -> None:
    found, _, body = get(site, path)
    assert found == status
    assert "All boxes" in body
    assert "<script>" not in body
    assert "Traceback" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_page_only_reads(site: PageSite, method: str) -> None:
    for path in ("/", "/cards", f"/box/{REFUSED}"):
        assert get(site, path, method)[0] == 405


# it updates itself


def test_a_new_box_appears_without_reload_and_focus_and_open_parts_stay(
    site: PageSite, chromium: Browser
) -> None:
    page = look(chromium, site)
    page.locator("#missing summary").tap()
    page.locator(f"#title-{HELD}").focus()
    page.evaluate("window.kept = true")
    mac = "52:54:00:41:07:77"
    vendor = "PXEClient:Arch:00007:UNDI:003001"
    site.happens("dhcp-discover", mac, vendor_class=vendor)
    card = page.locator(r"#card-52\:54\:00\:41\:07\:77")
    expect(card).to_contain_text("Heard", timeout=6000)
    assert page.locator("article").first.get_attribute("id") == f"card-{mac}"
    expect(page.locator("#said")).to_contain_text("new box 41:07:77: Heard")
    site.happens("dhcp-ack", mac, address="10.41.7.177", boot_file="shimx64.efi")
    site.happens("boot-file", mac, address="10.41.7.177", name="/shimx64.efi", phase="start")
    expect(card).to_contain_text("Loading", timeout=6000)
    site.happens("arch-unknown", mac, "ARCH", vendor_class=vendor)
    expect(card).to_contain_text(NEXT_STEP["ARCH"], timeout=6000)
    assert page.evaluate("window.kept")
    assert page.evaluate("document.activeElement.id") == f"title-{HELD}"
    assert page.locator("#missing").get_attribute("open") is not None
    assert page.wrongs == []
    page.context.close()


def test_the_script_writes_ages_as_the_server_does(site: PageSite, chromium: Browser) -> None:
    page = look(chromium, site)
    spans = [-3, 0, 59.9, 60, 3599, 3600, 11100, 86399, 86400, 187200, 1e7]
    assert page.evaluate("spans => spans.map(age)", spans) == [age(span) for span in spans]
    page.context.close()


def test_a_silent_netboot_is_told_with_since_when(site: PageSite, chromium: Browser) -> None:
    page = look(chromium, site)
    assert page.locator("#silent-netboot").count() == 0
    site.kill("netboot")
    banner = page.locator("#silent-netboot")
    expect(banner).to_contain_text("Network boot (netboot) is silent since", timeout=SHORTLY)
    expect(banner).to_contain_text("No box gets an address")
    site.start_netboot()
    expect(banner).to_have_count(0, timeout=SHORTLY)
    page.context.close()


def test_a_killed_control_is_told_at_once_and_old_data_is_grey_until_it_is_back(
    site: PageSite, chromium: Browser
) -> None:
    page, plain = look(chromium, site), look(chromium, site, java_script_enabled=False)
    details = look(chromium, site, f"/box/{REFUSED}")
    site.kill("control")
    try:
        banner = page.locator("#silent-control")
        expect(banner).to_contain_text("Controller (control) is silent since", timeout=8000)
        expect(banner).to_contain_text("What you see is as of")
        assert "stale" in page.locator("#fresh").get_attribute("class")
        assert page.locator(f"#card-{REFUSED}").is_visible()
        before = page.locator(f"#card-{READY} .age").first.inner_text()
        assert axe(page) == []
        expect(details.locator("#silent-control")).to_be_visible(timeout=8000)
        expect(details.locator(f"#card-{REFUSED}")).to_contain_text("SECURE-BOOT-OFF")
        plain.reload()
        expect(plain.locator("#silent-control")).to_contain_text("is silent since")
        assert plain.locator("#fresh.stale").count() == 1
        assert plain.locator(f"#card-{REFUSED}").count() == 1
        assert page.locator(f"#card-{READY} .age").first.inner_text() == before
    finally:
        site.start("control")
    expect(page.locator("#silent-control")).to_have_count(0, timeout=SHORTLY)
    expect(page.locator("#fresh")).not_to_have_class("stale")
    for one in (page, plain, details):
        one.context.close()


def test_a_control_that_hangs_does_not_hang_the_page(site: PageSite) -> None:
    site.signal("control", signal.SIGSTOP)
    try:
        time.sleep(1)
        for path in ("/", f"/box/{REFUSED}"):
            began = time.monotonic()
            status, _, body = get(site, path)
            assert time.monotonic() - began < 6
            assert (status, "Controller (control) is silent since" in body) == (200, True)
            assert "SECURE-BOOT-OFF" in body
    finally:
        site.signal("control", signal.SIGCONT)
    deadline = time.monotonic() + 10
    while "is silent since" in get(site, "/")[2]:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_page_that_cannot_reach_the_site_says_so_by_itself(
    site: PageSite, chromium: Browser
) -> None:
    page = look(chromium, site)
    assert not page.locator("#unreachable").is_visible()
    page.context.set_offline(True)
    banner = page.locator("#unreachable")
    expect(banner).to_be_visible(timeout=SHORTLY)
    expect(banner).to_contain_text("Lost contact with the controller. What you see is as of")
    assert "stale" in page.locator("#fresh").get_attribute("class")
    page.context.set_offline(False)
    expect(page.locator("#unreachable")).to_be_hidden(timeout=SHORTLY)
    page.context.close()


def test_a_page_service_that_died_and_came_back(site: PageSite, chromium: Browser) -> None:
    page = look(chromium, site)
    site.kill("page")
    expect(page.locator("#unreachable")).to_be_visible(timeout=SHORTLY)
    site.start("page")
    expect(page.locator("#unreachable")).to_be_hidden(timeout=SHORTLY)
    page.context.close()


def test_it_works_without_script(site: PageSite, chromium: Browser) -> None:
    page = look(chromium, site, java_script_enabled=False)
    assert f"card-{REFUSED}" in cards_of(page.content()) or page.locator("article").count() >= 6
    assert page.locator("meta[http-equiv=refresh]").get_attribute("content") == "10"
    page.get_by_role("link", name="Stop that").tap()
    page.wait_for_url("**/?reload=off")
    assert page.locator("meta[http-equiv=refresh]").count() == 0
    page.locator("#missing summary").tap()
    assert page.locator("#missing ol").is_visible()
    page.locator(f"#card-{REFUSED} h2 a").tap()
    page.wait_for_url("**/box/*")
    assert page.locator("#story li").count() == 5
    page.context.close()


# many phones


def get(site: PageSite, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    connection = _connect(site)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def _connect(site: PageSite) -> http.client.HTTPSConnection:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(site.address, 8444, timeout=15, context=context)


def open_stream(site: PageSite) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
    connection = _connect(site)
    connection.request("GET", "/events")
    return connection, connection.getresponse()


def test_thirty_open_streams_leave_the_page_quick_and_too_many_are_told(site: PageSite) -> None:
    time.sleep(5)  # streams of the tests before are noticed as gone at their next beat
    streams = [open_stream(site) for _ in range(30)]
    try:
        assert {answer.status for _, answer in streams} == {200}
        for _, answer in streams:
            assert answer.readline() == b"retry: 3000\n"
        began = time.monotonic()
        for _ in range(5):
            assert get(site, "/")[0] == 200
        assert time.monotonic() - began < 2.5
        site.happens("dhcp-discover", "52:54:00:41:07:88", vendor_class="PXEClient")
        began = time.monotonic()
        for _, answer in streams:
            while answer.readline() != b"event: change\n":
                assert time.monotonic() - began < 10
        streams += [open_stream(site) for _ in range(MAX_STREAMS - 30 + 1)]
        connection, answer = streams.pop()
        assert (answer.status, answer.getheader("Retry-After")) == (503, "60")
        connection.close()
        assert get(site, "/cards")[0] == 200
    finally:
        for connection, answer in streams:
            answer.close()
            connection.close()
    deadline = time.monotonic() + 15
    while True:
        connection, answer = open_stream(site)
        connection.close()
        if answer.status == 200:
            break
        assert time.monotonic() < deadline, "places are not given back"
        time.sleep(1)


# everybody can read it


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", f"/box/{REFUSED}", "/codes", "/no-such-page"])
def test_wcag_2_2_aa(site: PageSite, chromium: Browser, path: str, scheme: str) -> None:
    page = look(chromium, site, path, color_scheme=scheme)
    for details in page.locator("details").all():
        details.evaluate("node => { node.open = true; }")
    assert axe(page) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(15, 20, 25)") is (scheme == "dark")
    page.context.close()


@pytest.mark.parametrize("path", ["/", f"/box/{REFUSED}", f"/box/{HOSTILE_BOX}", "/codes"])
def test_320_pixels_and_double_text_need_no_sideways_scrolling(
    site: PageSite, chromium: Browser, path: str
) -> None:
    page = look(chromium, site, path, **SMALL)
    for size in ("100%", "200%"):
        page.evaluate("size => { document.documentElement.style.fontSize = size; }", size)
        for details in page.locator("details").all():
            details.evaluate("node => { node.open = true; }")
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        outside = page.evaluate(
            "[...document.querySelectorAll('body *:not(.unseen)')].filter(n => {"
            " const r = n.getBoundingClientRect();"
            " return r.width && (r.right > 321 || r.left < -1);"
            "}).map(n => n.outerHTML.slice(0, 90))"
        )
        assert outside == []
    page.context.close()


@pytest.mark.parametrize("path", ["/", f"/box/{REFUSED}", "/codes", "/no-such-page"])
def test_everything_to_tap_is_at_least_56_pixels_high(
    site: PageSite, chromium: Browser, path: str
) -> None:
    page = look(chromium, site, path, **SMALL)
    sizes = page.evaluate(
        "[...document.querySelectorAll('a, button, summary, input')].map(n => {"
        " const r = n.getBoundingClientRect(); return [n.textContent.trim(), r.height, r.width]; })"
    )
    assert sizes
    assert [one for one in sizes if one[1] < 56 or one[2] < 56] == []
    page.context.close()


def test_reduced_motion_moves_nothing(site: PageSite, chromium: Browser) -> None:
    moving = "document.getAnimations().filter(a => a.playState === 'running').length"
    page = look(chromium, site, reduced_motion="reduce")
    assert page.evaluate(moving) == 0
    page.context.close()
    page = look(chromium, site, reduced_motion="no-preference")
    assert page.evaluate(moving) > 0
    page.context.close()


def test_a_screen_reader_meets_silence_first_then_cards_then_services(
    site: PageSite, chromium: Browser
) -> None:
    page = look(chromium, site)
    heads = page.locator("h1, h2").all_inner_texts()
    assert heads[0] == "Shop 417, Leeds"
    assert heads[-3:] == ["Services", "On its own", "Notices"]
    tree = page.locator("body").aria_snapshot()
    assert "✕" not in tree, "signs are for the eye; the words say the same"
    assert "Refused" in tree
    roles = page.locator("[role=status], [role=alert]")
    assert {roles.nth(i).get_attribute("id") for i in range(roles.count())} == {
        "unreachable",
        "said",
        "alarm",
    }
    assert page.locator("#fresh").get_attribute("aria-live") is None, "ages must not be read out"
    page.context.close()


def test_a_rehearsal_is_marked_on_every_page(rehearsal: PageSite, chromium: Browser) -> None:
    for path in ("/", f"/box/{REFUSED}", "/codes", "/no-such-page", "/box/52:54:00:00:00:99"):
        page = look(chromium, rehearsal, path)
        assert page.title().startswith("Rehearsal: ")
        assert "Rehearsal." in page.locator("body > :first-child").inner_text()
        assert axe(page) == []
        page.context.close()


def test_a_site_that_is_real_is_not_marked(site: PageSite) -> None:
    assert "Rehearsal" not in get(site, "/")[2]
