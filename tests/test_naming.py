"""Numbers, names and addresses: the lowest that was never given."""

from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bootstrap
from bootstrap.errors import SiteError
from bootstrap.naming import Given, choose
from bootstrap.site import Site, decode_site
from bootstrap.site_types import HostnamePattern

EXAMPLE = (Path(bootstrap.__file__).parent / "example" / "site.toml").read_text()
FREE = EXAMPLE.replace('addresses = "10.41.7.20-10.41.7.59"', "")
HERE = IPv4Address("10.41.7.120")


def site(text: str = EXAMPLE) -> Site:
    return decode_site(text.encode())


def box(number: int | None, hostname: str, address: str | None = None, role: str = "pos") -> Given:
    return Given(
        role=role,
        number=number,
        hostname=hostname,
        address=ip_address(address) if address else None,
    )


FIRST = box(1, "pos-01", "10.41.7.20")
SECOND = box(2, "pos-02", "10.41.7.21")

CASES = [
    ("first", EXAMPLE, [], None, (1, "pos-01", "10.41.7.20")),
    ("next", EXAMPLE, [FIRST, SECOND], None, (3, "pos-03", "10.41.7.22")),
    ("gap", EXAMPLE, [SECOND], None, (1, "pos-01", "10.41.7.20")),
    ("other role's number", EXAMPLE, [replace(FIRST, role="x")], None, (2, "pos-02", "10.41.7.21")),
    ("note names a number", EXAMPLE, [FIRST], "pos-07", (7, "pos-07", "10.41.7.26")),
    ("note names otherwise", EXAMPLE, [FIRST], "till-a", (2, "till-a", "10.41.7.21")),
    ("number zero is none", EXAMPLE, [], "pos-00", (1, "pos-00", "10.41.7.20")),
    ("no range", FREE, [], None, (1, "pos-01", "10.41.7.120")),
    ("no range, address taken", FREE, [box(1, "pos-01", str(HERE))], None, (2, "pos-02", None)),
    ("no range, note names", FREE, [], "till-a", (None, "till-a", "10.41.7.120")),
    (
        "a reservation's address is skipped",
        EXAMPLE.replace('"10.41.7.11"', '"10.41.7.20"'),
        [],
        None,
        (2, "pos-02", "10.41.7.21"),
    ),
    (
        "a reservation's name is skipped",
        EXAMPLE.replace('"printer-1"', '"pos-01"'),
        [],
        None,
        (2, "pos-02", "10.41.7.21"),
    ),
]


@pytest.mark.parametrize(
    ("text", "boxes", "wish", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_choice(text: str, boxes: list[Given], wish: str | None, expected: tuple) -> None:
    settings_ = site(text)
    found = choose(settings_, settings_.roles[0], boxes, wish=wish, present=HERE)
    number, hostname, address = expected
    assert (found.number, found.hostname) == (number, hostname)
    assert found.address == (IPv4Address(address) if address else None)


SIX = """
[[subnet6]]
name = "tills6"
interface = "eth1"
network = "fd00:41:7::/64"
appliance = "fd00:41:7::2"
pool = "fd00:41:7::1000-fd00:41:7::1fff"

[[reservation6]]
name = "pos-01"
mac = "02:00:00:00:00:12"
address = "fd00:41:7::1001"
"""


@pytest.mark.parametrize(
    ("present", "given", "wish", "number", "hostname", "kept"),
    [
        ("fd00:41:7::1000", [], None, 2, "pos-02", True),
        ("fd00:41:7::1000", [SECOND], None, 3, "pos-03", True),
        ("fd00:41:7::1000", [], "pos-07", 7, "pos-07", True),
        ("fd00:41:7::1001", [], None, 2, "pos-02", False),
        ("fd00:41:7::2", [], None, 2, "pos-02", False),
        ("fd00:41:7::1000", [box(2, "pos-02", "fd00:41:7::1000")], None, 3, "pos-03", False),
    ],
)
def test_a_box_that_phones_home_by_ipv6_keeps_its_address_and_has_a_number(
    present: str, given: list[Given], wish: str | None, number: int, hostname: str, kept: bool
) -> None:
    address = ip_address(present)
    settings_ = site(EXAMPLE + SIX)
    found = choose(settings_, settings_.roles[0], given, wish=wish, present=address)
    assert (found.number, found.hostname) == (number, hostname)
    assert found.address == (address if kept else None)


@pytest.mark.parametrize(
    ("boxes", "wish", "says"),
    [
        ([FIRST], "pos-01", "already given"),
        ([], "printer-1", "already given"),
        ([], "appliance", "already given"),
        ([box(2, "till-a", "10.41.7.21")], "pos-02", "address that is taken"),
        ([], "pos-41", "outside the range"),
        (
            [box(n, f"pos-{n:02}", f"10.41.7.{19 + n}") for n in range(1, 41)],
            None,
            "no free number",
        ),
    ],
)
def test_what_cannot_be_given(boxes: list[Given], wish: str | None, says: str) -> None:
    with pytest.raises(SiteError, match=says):
        choose(site(), site().roles[0], boxes, wish=wish, present=HERE)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([None, "till-a", "till-b", "pos-05", "pos-09"]), max_size=45))
def test_nothing_is_given_twice(wishes: list[str | None]) -> None:
    boxes: list[Given] = []
    for wish in wishes:
        try:
            found = choose(site(), site().roles[0], boxes, wish=wish, present=HERE)
        except SiteError:
            continue
        boxes.append(
            Given(role="pos", number=found.number, hostname=found.hostname, address=found.address)
        )
    for part in ("number", "hostname", "address"):
        values = [getattr(one, part) for one in boxes]
        assert len(set(values)) == len(values)
    assert len(boxes) >= min(40, sum(wish is None for wish in wishes))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**6), st.sampled_from(["pos-{number:02}", "{number}", "a{number:04}-b"]))
def test_a_name_leads_back_to_its_number(number: int, pattern: str) -> None:
    found = HostnamePattern.decode(pattern)
    assert found.number(found.name(number)) == number


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="pos-0123456789{}", max_size=12))
def test_any_text_has_one_number_or_none(text: str) -> None:
    pattern = HostnamePattern.decode("pos-{number:02}")
    number = pattern.number(text)
    assert number is None or pattern.name(number) == text
