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
from bootstrap.site import SiteFileError, decode_netboot_site, decode_site, known_keys
from bootstrap.site_types import AddressRange, Endpoint, decode_duration

EXAMPLE = (Path(bootstrap.__file__).parent / "example" / "site.toml").read_text()


def problems(text: str) -> dict[str, str]:
    with pytest.raises(SiteFileError) as caught:
        decode_site(text.encode())
    return {one.key: f"{one.what}: {one.remedy}" for one in caught.value.problems}


def test_the_example_is_read() -> None:
    site = decode_site(EXAMPLE.encode())
    (subnet,) = site.subnets
    assert subnet.network == IPv4Network("10.41.7.0/24")
    assert subnet.ranges == (AddressRange.decode("10.41.7.100-10.41.7.199"),)
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


def test_boxes_that_stay_renew_at_half_of_a_certificates_life_or_as_told() -> None:
    def renewal(lines: str) -> timedelta | None:
        role = decode_site(EXAMPLE.replace('after = "power-off"', lines).encode()).role(None)
        assert role is not None
        return role.renewal

    assert renewal('after = "power-off"') is None
    assert renewal('after = "stay"') == timedelta(days=3.5)
    assert renewal('renew = "12h"\nafter = "stay"') == timedelta(hours=12)


def test_the_example_shows_no_other_keys() -> None:
    assert keys_of(tomllib.loads(EXAMPLE)) < known_keys()


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
    ('dhcp = "server"', 'dhcp = "relay"', {"subnet.tills.dhcp": "'server', 'proxy' or 'off'"}),
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
    ('tier = "site"', 'tier = "safe"', {"secret.pos-api-token.tier": "site"}),
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


NETBOOT = """
[site]
id = "lab"
domain = "lab.example.net"
[dhcp]
identify = "client-id"
quarantine = "10m"
lease = "1h"
options = { ntp-servers = "10.0.0.9", 150 = ["10.0.0.8"], 224 = "hex:0a" }
always = "ntp-servers"
reply_delay = "250ms"
[[shared_network]]
name = "hall"
options.domain-search = ["lab.example.net"]
[[subnet]]
name = "boxes"
interface = "eth1"
network = "10.0.0.0/24"
appliance = "10.0.0.1"
shared = "hall"
relays = "10.9.0.1"
authoritative = false
rapid_commit = true
lease_min = "5m"
pool = [
  "10.0.0.20-10.0.0.29",
  { range = "10.0.0.40-10.0.0.49", classes = "phones", options.routers = "10.0.0.2" },
]
[[class]]
name = "phones"
kind = ["pxe", "http"]
architecture = ["x64-uefi", 11, "0x10"]
vendor_class = "Acme"
user_class = "hex:0102"
mac = "00:04:f2"
uuid = "4c4c4544-0042-3510-8050-b7c04f4d3232"
circuit_id = ["port 1", "hex:0001"]
remote_id = "switch"
relay = "10.9.0.1"
option = { 43 = true, vendor-class-identifier = "Acme" }
known = false
boot_file = "phone.bin"
next_server = "10.0.0.7"
server_name = "phones"
[[reservation]]
client_id = "01:02:00:00:00:00:11"
address = "10.0.0.11"
[[reservation]]
name = "by-uuid"
uuid = "hex:00112233445566778899aabbccddeeff"
boot_set = "abcdef"
[boot]
files = "files"
https = true
[[boot.rule]]
name = "menu"
kind = "ipxe"
file = "menu.ipxe"
via = "http"
[[subnet6]]
name = "boxes6"
interface = "eth1"
network = "2001:db8::/64"
appliance = "2001:db8::1"
pool = "2001:db8::100-2001:db8::1ff"
options.dns-servers = "2001:db8::1"
[[reservation6]]
name = "six"
uuid = "4c4c4544-0042-3510-8050-b7c04f4d3232"
address = "2001:db8::11"
"""


def test_netboot_alone_needs_little_and_may_say_much() -> None:
    site = decode_netboot_site(NETBOOT.encode())
    assert (site.site.title, site.site.time_zone) == ("This site", "UTC")
    (subnet,) = site.subnets
    assert (subnet.dhcp, subnet.boot, subnet.relays) == ("server", True, (IPv4Address("10.9.0.1"),))
    assert [str(one.last) for one in subnet.ranges] == ["10.0.0.29", "10.0.0.49"]
    assert subnet.pools[1].classes == ("phones",)
    assert subnet.pools[1].options["routers"].data == IPv4Address("10.0.0.2").packed
    assert site.dhcp.options["150"].code == 150
    assert site.dhcp.always == (42,)
    assert site.dhcp.reply_delay == timedelta(milliseconds=250)
    (phones,) = site.classes
    assert phones.architecture == (7, 11, 16)
    assert phones.uuid == (bytes.fromhex("44454c4c420010358050b7c04f4d3232"),)
    assert phones.circuit_id == (b"port 1", b"\0\1")
    assert phones.option["43"] == (43, None)
    assert phones.option["vendor-class-identifier"] == (60, b"Acme")
    assert site.reservations[0].client_id == bytes.fromhex("01020000000011")
    assert site.reservations[1].uuid == bytes.fromhex("00112233445566778899aabbccddeeff")
    assert site.boot.rules[0].via == "http"
    decode_netboot_site(EXAMPLE.encode())


def test_a_whole_site_file_may_say_it_too() -> None:
    head, _, rest = NETBOOT.partition("[boot]")
    extra = "[dhcp]" + head.partition("[dhcp]")[2] + rest.partition("https = true")[2]
    site = decode_site((EXAMPLE + extra).encode())
    assert [one.name for one in site.subnets] == ["tills", "boxes"]
    assert site.boot.rules[0].name == "menu"


NETBOOT_MISTAKES = [
    ('domain = "lab.example.net"\n[dhcp]', "[dhcp]", {"site.domain": "is missing"}),
    ('"client-id"', '"serial"', {"dhcp.identify": "'mac' or 'client-id'"}),
    ("ntp-servers =", "ntp-server =", {"dhcp.options.ntp-server": "did you mean ntp-servers?"}),
    ('"10.0.0.9"', '"10.0.0"', {"dhcp.options.ntp-servers": "expected a list of IPv4"}),
    ("150 =", "53 =", {"dhcp.options.53": "option 53 cannot be set"}),
    ('always = "ntp', 'always = "ntq', {"dhcp.always": "there is no option ntq-servers"}),
    ('"250ms"', '"1m"', {"dhcp.reply_delay": "as in 250ms"}),
    ('"10.0.0.20-10.0.0.29"', '"10.0.0.20"', {"subnet.boxes.pool.1": "two addresses"}),
    ("{ range =", "{ rnge =", {"subnet.boxes.pool.2.rnge": "did you mean range"}),
    ('kind = ["pxe", "http"]', 'kind = "bios"', {"class.phones.kind": "one of pxe, http, ipxe"}),
    ('"x64-uefi"', '"x65-uefi"', {"class.phones.architecture.1": "its name: "}),
    ('"0x10"', "65536", {"class.phones.architecture.3": "its name: "}),
    ('"00:04:f2"', '"00:04:f"', {"class.phones.mac": "one to six pairs"}),
    ('uuid = "4c4c', 'uuid = "4c4', {"class.phones.uuid": "expected a UUID"}),
    ('"hex:0001"', '"hex:001"', {"class.phones.circuit_id.2": "pairs of hex digits"}),
    ("known = false", 'known = "no"', {"class.phones.known": "boolean"}),
    ('boot_file = "phone.bin"', 'boot_file = "é"', {"class.phones.boot_file": "a plain text"}),
    ('"hex:0011', '"hex:11', {"reservation.by-uuid.uuid": "16 bytes"}),
    ('via = "http"', 'via = "ftp"', {"boot.rule.menu.via": "'tftp'"}),
    ('files = "files"', 'files = "/srv"', {"boot.files": "below the site's"}),
    ('"2001:db8::/64"', '"10.0.0.0/8"', {"subnet6.boxes6.network": "parts expected"}),
    ("options.dns-servers", "options.3", {"subnet6.boxes6.options.3": "cannot be set"}),
    ('"2001:db8::100-', '"2001:db8::fff-', {"subnet6.boxes6.pool": "above the last"}),
]


@pytest.mark.parametrize(("old", "new", "expected"), NETBOOT_MISTAKES)
def test_a_mistake_of_netboot_is_named(old: str, new: str, expected: dict[str, str]) -> None:
    assert old in NETBOOT
    with pytest.raises(SiteFileError) as caught:
        decode_netboot_site(NETBOOT.replace(old, new, 1).encode())
    found = {one.key: f"{one.what}: {one.remedy}" for one in caught.value.problems}
    assert set(expected) <= set(found), found
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


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(known_keys())), VALUES)
def test_any_value_for_any_key_gives_a_site_or_problems(key: str, value: object) -> None:
    if value is None:
        return
    document = tomllib.loads(EXAMPLE)
    at, steps = document, key.split(".")
    for step in steps[:-1]:
        inner = at.setdefault(step, {})
        at = inner[0] if isinstance(inner, list) and isinstance(inner[0], dict) else inner
        if not isinstance(at, dict):
            return  # a pool in its short form
    at[steps[-1]] = value
    for decode in (decode_site, decode_netboot_site):
        try:
            decode(to_toml(document).encode())
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
