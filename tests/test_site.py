"""The site file: what is read, and every mistake named at once with its dotted path."""

import json
import re
import tomllib
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bootstrap
from bootstrap.site import (
    AddressRange,
    Endpoint,
    SiteFileError,
    decode_duration,
    decode_site,
    known_keys,
)

EXAMPLE = (Path(bootstrap.__file__).parent / "example" / "site.toml").read_text()


def problems(text: str) -> dict[str, str]:
    with pytest.raises(SiteFileError) as caught:
        decode_site(text.encode())
    return {one.key: f"{one.what}: {one.remedy}" for one in caught.value.problems}


def test_the_example_is_read() -> None:
    site = decode_site(EXAMPLE.encode())
    (subnet,) = site.subnets
    assert subnet.network == IPv4Network("10.41.7.0/24")
    assert subnet.pools == (AddressRange.decode("10.41.7.100-10.41.7.199"),)
    assert subnet.lease == timedelta(hours=12)
    assert site.reservations[0].mac == bytes.fromhex("020000000011")
    assert site.page.listen == Endpoint(address=IPv4Address("10.41.7.2"), port=443)
    assert site.server_name == "appliance.shop-0417.example.net"
    assert site.role(None) is site.roles[0]
    assert site.role("none") is None
    assert site.subnet_of(IPv4Address("10.41.7.9")) is subnet
    assert site.subnet_of(IPv4Address("10.41.8.9")) is None


def keys_of(document: object, prefix: str = "") -> set[str]:
    found = set()
    if isinstance(document, list):
        for entry in document:
            found |= keys_of(entry, prefix)
    elif isinstance(document, dict):
        for key, value in document.items():
            found |= {prefix + key} | keys_of(value, f"{prefix}{key}.")
    return found


def test_the_example_shows_every_key_and_no_other() -> None:
    assert keys_of(tomllib.loads(EXAMPLE)) == known_keys()


def test_each_line_of_the_example_has_one_comment() -> None:
    for line in EXAMPLE.splitlines():
        if "=" in line and not line.startswith("#"):
            assert re.fullmatch(r"\S.*\S +# \S.*", line), line
            assert len(line) <= 100


MISTAKES = [
    (
        'network = "10',
        'netwrk = "10',
        {"subnet.tills.netwrk": "did you mean network", "subnet.tills.network": "missing"},
    ),
    (
        "memory_mib_min",
        "memory_min",
        {"role.pos.require.memory_min": "did you mean memory_mib_min"},
    ),
    ("[page]", "[pge]", {"pge": "did you mean page", "page": "missing"}),
    ("schema = 1", "schema = 2", {"schema": "should be 1"}),
    ('lease = "12h"', "lease = 12", {"subnet.tills.lease": "text in quotes"}),
    ('lease = "12h"', 'lease = "12"', {"subnet.tills.lease": "as in 12h"}),
    ('"10.41.7.0/24"', '"10.41.7.1/24"', {"subnet.tills.network": "host bits"}),
    ('"10.41.7.2"', '"10.41.7"', {"subnet.tills.appliance": "octets"}),
    ("10.41.7.100-10.41.7.199", "10.41.7.100", {"subnet.tills.pool.1": "two addresses"}),
    ("10.41.7.100-10.41.7.199", "10.41.7.9-10.41.7.8", {"subnet.tills.pool.1": "above the last"}),
    ('"10.41.7.2:443"', '"10.41.7.2"', {"page.listen": "a port"}),
    ('"10.41.7.2:443"', '"10.41.7.2:65536"', {"page.listen": "a port"}),
    ('"02:00:00:00:00:11"', '"02:00:00:00:00"', {"reservation.printer-1.mac": "six pairs"}),
    ('dhcp = "server"', 'dhcp = "proxy"', {"subnet.tills.dhcp": "server"}),
    ("boot = true", 'boot = "yes"', {"subnet.tills.boot": "boolean"}),
    ('"required"', '"optional"', {"boot.secure_boot": "required"}),
    ('"ek-listed"', '"always"', {"trust.approve": "ek-listed"}),
    ('"pos-{number:02}"', '"pos"', {"role.pos.hostname": "one {number}"}),
    ('"pos-{number:02}"', '"POS-{number}"', {"role.pos.hostname": "one {number}"}),
    ('"pos-{number:02}"', '"{number}-{number}"', {"role.pos.hostname": "one {number}"}),
    ('"templates/pos.yaml.j2"', '"../x"', {"role.pos.config": "without .."}),
    ('"trust/ek"', '"/etc"', {"trust.ek_anchors": "below the site's"}),
    ("certificate_days = 7", "certificate_days = 0", {"role.pos.certificate_days": "greater"}),
    ("certificate_days = 7", 'certificate_days = "7"', {"role.pos.certificate_days": "integer"}),
    ('"power-off"', '"reboot"', {"role.pos.after": "power-off"}),
    ('tier = "site"', 'tier = "box"', {"secret.pos-api-token.tier": "site"}),
    ('"shop-0417"', '"Shop 0417"', {"site.id": "pattern"}),
    ('"shop-0417.example.net"', '"localhost"', {"site.domain": "a domain"}),
    ('title = "Shop 417, Leeds"', 'title = ""', {"site.title": "at least 1"}),
    ('["pos-api-token"]', '"pos-api-token"', {"role.pos.secrets": "tuple"}),
    ('["pos-api-token"]', '["Pos"]', {"role.pos.secrets.1": "pattern"}),
]


@pytest.mark.parametrize(("old", "new", "expected"), MISTAKES)
def test_a_mistake_is_named(old: str, new: str, expected: dict[str, str]) -> None:
    assert old in EXAMPLE
    found = problems(EXAMPLE.replace(old, new, 1))
    assert set(found) == set(expected)
    for key, says in expected.items():
        assert says in found[key]


def test_all_mistakes_at_once() -> None:
    text = EXAMPLE.replace("title =", "titel =").replace("boot = true", "boot = 1")
    assert set(problems(text)) == {"site.title", "site.titel", "subnet.tills.boot"}


def test_lists_that_must_not_be_empty() -> None:
    head, _, _ = EXAMPLE.partition("[[subnet]]")
    rest = EXAMPLE[EXAMPLE.index("[page]") : EXAMPLE.index("[[role]]")]
    found = problems(head.replace("schema = 1", "schema = 1\nsubnet = []\nrole = []") + rest)
    assert found == {
        "subnet": "at least one is needed: correct it",
        "role": "at least one is needed: correct it",
    }


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"\xff", "is not UTF-8"), (b"a =", "is not TOML"), (b"a=1\na=2", "not TOML")],
)
def test_a_file_that_is_no_toml(data: bytes, says: str) -> None:
    with pytest.raises(SiteFileError, match=says):
        decode_site(data)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_any_bytes_give_a_site_or_problems(data: bytes) -> None:
    try:
        decode_site(data)
    except SiteFileError as error:
        assert error.problems


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(known_keys())), VALUES)
def test_any_value_for_any_key_gives_a_site_or_problems(key: str, value: object) -> None:
    if value is None:
        return
    document = tomllib.loads(EXAMPLE)
    at, steps = document, key.split(".")
    for step in steps[:-1]:
        at = at[step][0] if isinstance(at[step], list) else at[step]
    at[steps[-1]] = value
    try:
        decode_site(to_toml(document).encode())
    except SiteFileError as error:
        assert error.problems


def to_toml(document: dict[str, object]) -> str:
    def inline(value: object) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(inline, value)) + "]"
        if value is None:
            return '"none"'
        return json.dumps(value)

    return "".join(f"{json.dumps(k)} = {inline(v)}\n" for k, v in document.items())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999999), st.sampled_from("smhd"))
def test_durations(number: int, unit: str) -> None:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    assert decode_duration(f"{number}{unit}").total_seconds() == number * seconds


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="0123456789.-", max_size=24))
def test_any_text_is_a_range_or_none(text: str) -> None:
    try:
        found = AddressRange.decode(text)
    except ValueError:
        return
    assert found.first in found
    assert found.last in found
    assert len(found) == int(found.last) - int(found.first) + 1
