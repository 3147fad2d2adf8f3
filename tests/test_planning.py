"""The plan follows from settings, boxes and published sets, and netboot can always run it."""

import base64
import hashlib
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from test_site import NETBOOT

import bootstrap
from bootstrap.box_keys import sshfp
from bootstrap.enrolment import Stage
from bootstrap.planning import grub_cfg_files, make_plan
from bootstrap.rows import BoxRow
from bootstrap.site import Site, decode_netboot_site, decode_site
from netboot.bootchoice import BootRule, Loading
from netboot.bootset import BootFile, BootSetManifest, Role, grub_cfg, ipxe_script
from netboot.network import ClientKind, Identify, Match, swapped_uuid
from netboot.plan import Plan
from netboot.plan_check import check

EXAMPLE = (Path(bootstrap.__file__).parent / "example" / "site.toml").read_text()
SITE = decode_site(EXAMPLE.encode())


def manifest(mark: int) -> BootSetManifest:
    roles = {
        role: BootFile(name=f"{role.value}.bin", sha256=bytes([mark, number]) * 16, size=1)
        for number, role in enumerate(Role)
    }
    return BootSetManifest(name="enrol", version=mark, created=0, release="test", roles=roles)


def box(number: int, **changes: object) -> BoxRow:
    row = BoxRow(
        box=f"box-{number}",
        ek_name=bytes([number]),
        ek_public=b"",
        stage=Stage.ENROLLED,
        since=0.0,
        first=0.0,
        role="pos",
        number=number,
        hostname=f"pos-{number:02}",
        address=f"10.41.7.{19 + number}",
        mac=f"52:54:00:00:00:{number:02x}",
        facts={},
    )
    return replace(row, **changes)


def plan(*boxes: BoxRow, site: Site = SITE) -> Plan:
    made = make_plan(site, boxes, [manifest(2)], [manifest(1)], 7)
    assert check(made) == ()
    assert Plan.decode(made.encode()) == made
    return made


def names(made: Plan) -> dict[str, str]:
    return {f"{one.name} {one.type}": one.value for one in made.records}


def test_the_site_itself() -> None:
    made = plan()
    assert (made.number, made.site, made.domain) == (7, "shop-0417", "shop-0417.example.net")
    (subnet,) = made.subnets
    assert subnet.phone_home == "https://10.41.7.2:8443"
    (pool,) = subnet.pools
    assert (str(pool.first), str(pool.last)) == ("10.41.7.100", "10.41.7.199")
    assert names(made) == {
        "appliance.shop-0417.example.net A": "10.41.7.2",
        "2.7.41.10.in-addr.arpa PTR": "appliance.shop-0417.example.net",
        "printer-1.shop-0417.example.net A": "10.41.7.11",
        "11.7.41.10.in-addr.arpa PTR": "printer-1.shop-0417.example.net",
    }
    assert [one.name for one in made.reservations] == ["printer-1"]


def test_what_is_booted() -> None:
    made = plan()
    assert made.boot is not None
    served, before = made.boot.sets
    assert served.boot_set == manifest(2).digest
    assert before.boot_set == manifest(1).digest
    assert served.names["/shimx64.efi"] == manifest(2).roles[Role.SHIM].sha256
    assert before.names["/shimx64.efi"] == manifest(1).roles[Role.SHIM].sha256
    assert not any(path.startswith("/f/") for path in served.names)
    for each in (manifest(1), manifest(2)):
        kernel = each.roles[Role.KERNEL]
        assert made.boot.files[kernel.path] == kernel.sha256


def test_an_accepted_set_that_is_served_too_is_there_once() -> None:
    made = make_plan(SITE, [], [manifest(2)], [manifest(2), manifest(1)], 1)
    assert made.boot is not None
    assert [one.boot_set for one in made.boot.sets] == [manifest(2).digest, manifest(1).digest]


def test_every_table_of_netboot_reaches_the_plan() -> None:
    files = {"/menu.ipxe": bytes(32)}
    site = decode_netboot_site(NETBOOT.encode())
    made = make_plan(site, [], [], [], 3, files=files, enrols=False)
    assert check(made) == ()
    assert Plan.decode(made.encode()) == made
    assert (made.identify, made.quarantine) == (Identify.CLIENT_ID, timedelta(minutes=10))
    said = {one.code: one for one in made.parameters.options}
    assert (said[42].always, said[150].always) == (True, False)
    assert made.parameters.reply_delay == timedelta(milliseconds=250)
    (subnet,) = made.subnets
    assert (subnet.lease, subnet.enrols, subnet.shared) == (timedelta(hours=1), False, "hall")
    assert {one.code for one in subnet.parameters.options} == {119}
    assert subnet.parameters.lease_min == timedelta(minutes=5)
    assert (subnet.relays, subnet.authoritative) == ((IPv4Address("10.9.0.1"),), False)
    assert subnet.rapid_commit
    assert subnet.pools[1].classes == {"phones"}
    (phones,) = made.classes
    assert phones.match.kinds == {ClientKind.PXE, ClientKind.HTTP}
    assert phones.match.architectures == {7, 11, 16}
    assert len(phones.match.uuid) == 2
    assert phones.parameters.next_server == IPv4Address("10.0.0.7")
    by_id, by_uuid = made.reservations
    assert (by_id.client_id, by_id.address) == (b"\1\2\0\0\0\0\x11", IPv4Address("10.0.0.11"))
    assert (by_uuid.address, by_uuid.boot_set) == (None, None)
    assert made.boot is not None
    assert made.boot.rules == (
        BootRule(
            match=Match(kinds=frozenset({ClientKind.IPXE})),
            file="menu.ipxe",
            loading=Loading.HTTP,
        ),
    )
    assert made.boot.files == files
    assert made.subnets6[0].pools[0][0] == IPv6Address("2001:db8::100")
    assert {f"{one.name} {one.type}" for one in made.records} >= {
        "appliance.lab.example.net AAAA",
        "six.lab.example.net AAAA",
    }


def test_a_rule_for_a_file_that_is_not_there_is_told() -> None:
    made = make_plan(decode_netboot_site(NETBOOT.encode()), [], [], [], 3)
    assert check(made) == ("boot rule 1: there is no file menu.ipxe",)


def test_a_box_may_be_given_another_set_by_the_start_of_its_digest() -> None:
    start = manifest(1).digest.hex()[:8]
    site = decode_netboot_site(NETBOOT.replace("abcdef", start).encode())
    made = make_plan(site, [], [manifest(2)], [manifest(1)], 3, files={"/menu.ipxe": bytes(32)})
    assert made.reservations[1].boot_set == manifest(1).digest
    assert check(made) == ()


def test_both_orders_of_a_uuid_are_one_turn_apart() -> None:
    uuid = bytes(range(16))
    assert swapped_uuid(uuid) == bytes((3, 2, 1, 0, 5, 4, 7, 6, *range(8, 16)))
    assert swapped_uuid(swapped_uuid(uuid)) == uuid


def test_without_a_served_set_nothing_is_booted() -> None:
    made = make_plan(SITE, [], [], [manifest(1)], 1)
    assert made.boot is None
    assert check(made) == ()


def test_without_a_booting_subnet_nothing_is_booted() -> None:
    site = decode_site(EXAMPLE.replace("boot = true", "boot = false").encode())
    assert make_plan(site, [], [manifest(2)], [], 1).boot is None
    assert list(grub_cfg_files(site, manifest(2))) == []


def test_the_grub_cfg_that_is_stored_is_the_one_in_the_plan() -> None:
    assert list(grub_cfg_files(SITE, manifest(2))) == [
        grub_cfg(manifest(2), IPv4Address("10.41.7.2")),
        ipxe_script(manifest(2)),
    ]


def test_a_box_has_reservation_and_names() -> None:
    made = plan(box(1))
    assert made.reservations[1].address == IPv4Address("10.41.7.20")
    assert made.reservations[1].mac == bytes.fromhex("525400000001")
    assert names(made)["pos-01.shop-0417.example.net A"] == "10.41.7.20"
    assert names(made)["20.7.41.10.in-addr.arpa PTR"] == "pos-01.shop-0417.example.net"


def test_boxes_that_are_not_in_the_plan() -> None:
    nothing = plan()
    assert plan(box(1, stage=Stage.REVOKED)) == nothing
    assert plan(box(1, stage=Stage.REPLACED)) == nothing
    assert plan(box(1, hostname=None)) == nothing
    assert plan(box(1, address=None)) == nothing


def test_a_box_outside_of_a_changed_site_is_left_out() -> None:
    nothing = plan()
    for address in ("10.9.9.9", "10.41.7.2", "10.41.7.1", "10.41.7.0", "10.41.7.255", "10.41.7.11"):
        assert plan(box(1, address=address)) == nothing, address


def test_a_box_that_says_it_is_the_printer_does_not_get_its_address() -> None:
    made = plan(box(1, mac="02:00:00:00:00:11"))
    assert [one.name for one in made.reservations] == ["printer-1"]
    assert "pos-01.shop-0417.example.net A" in names(made)


SIX = decode_site(
    (
        EXAMPLE
        + """
[[subnet6]]
name = "tills6"
interface = "eth1"
network = "fd00:41:7::/64"
appliance = "fd00:41:7::2"
pool = "fd00:41:7::1000-fd00:41:7::1fff"

[[reservation6]]
name = "printer-2"
mac = "02:00:00:00:00:12"
address = "fd00:41:7::12"
"""
    ).encode()
)


def test_a_box_that_enrolled_by_ipv6_has_reservation_and_names() -> None:
    nothing = plan(site=SIX)
    made = plan(box(1, address="fd00:41:7::1000"), box(2), site=SIX)
    (own,) = set(made.reservations6) - set(nothing.reservations6)
    assert (own.mac, own.name) == (bytes.fromhex("525400000001"), "pos-01")
    assert own.address == IPv6Address("fd00:41:7::1000")
    assert own.address in made.views().known
    found = names(made)
    assert found["pos-01.shop-0417.example.net AAAA"] == "fd00:41:7::1000"
    assert "pos-01.shop-0417.example.net A" not in found
    assert found["pos-02.shop-0417.example.net A"] == "10.41.7.21"
    (subnet,) = made.subnets6
    assert (subnet.phone_home, subnet.enrols) == ("https://[fd00:41:7::2]:8443", True)


def test_an_ipv6_box_outside_of_a_changed_site_is_left_out() -> None:
    nothing = plan(site=SIX)
    for end in ("8::1000", "7::", "7::2", "7::12"):
        assert plan(box(1, address=f"fd00:41:{end}"), site=SIX) == nothing, end
    assert plan(box(1, address="fd00:41:7::1000")) == plan()
    said = plan(box(1, address="fd00:41:7::1000", mac="02:00:00:00:00:12"), site=SIX)
    assert [one.name for one in said.reservations6] == ["printer-2"]


def test_grub_cfg_and_files_are_there_where_ipv6_alone_boots() -> None:
    text = EXAMPLE.replace("boot = true", "boot = false")
    assert plan(site=decode_site(text.encode())).boot is None
    six = SIX.model_copy(update={"subnets": decode_site(text.encode()).subnets})
    made = plan(site=six)
    assert made.boot is not None and made.boot.sets
    assert list(grub_cfg_files(six, manifest(2))) == [
        grub_cfg(manifest(2), IPv6Address("fd00:41:7::2")),
        ipxe_script(manifest(2)),
    ]


def test_two_boxes_that_say_the_same_mac_get_one_reservation() -> None:
    made = plan(box(1), box(2, mac="52:54:00:00:00:01"))
    assert [one.name for one in made.reservations] == ["printer-1", "pos-01"]


def test_a_mac_that_no_machine_has_reserves_nothing() -> None:
    for mac in ("01:00:5e:00:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "52:54", "", None):
        assert [one.name for one in plan(box(1, mac=mac)).reservations] == ["printer-1"], mac


MACS = st.integers(0, 20).map("02:00:00:00:00:{:02x}".format) | st.text(max_size=17)

BOXES = st.lists(
    st.builds(
        lambda number, address, mac, stage: box(number, address=address, mac=mac, stage=stage),
        st.integers(1, 40),
        st.none()
        | st.integers(0, 255).map("10.41.7.{}".format)
        | st.integers(0, 20).map("fd00:41:7::{:x}".format),
        st.none() | MACS,
        st.sampled_from(list(Stage)),
    ),
    max_size=8,
    unique_by=(lambda one: one.box, lambda one: one.address or one.box),
)


@settings(max_examples=60, deadline=None)
@given(BOXES)
def test_whatever_boxes_say_netboot_can_run_the_plan(boxes: list[BoxRow]) -> None:
    plan(*boxes)
    plan(*boxes, site=SIX)


ED25519 = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
ED25519_DIGEST = hashlib.sha256(base64.b64decode(ED25519)).hexdigest()


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (f"ssh-ed25519 {ED25519} box".encode(), f"4 2 {ED25519_DIGEST}"),
        (base64.b64decode(ED25519), f"4 2 {ED25519_DIGEST}"),
        (b"", None),
        (b"ssh-ed25519 !!", None),
        (b"ssh-dss AAAA", None),
        (b"\0\0\0\x0bssh-ed25519", None),
        (b"\xff" * 9, None),
    ],
)
def test_the_fingerprint_of_an_ssh_host_key(key: bytes, told: str | None) -> None:
    assert sshfp(key) == told


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_keys_a_box_names_the_plan_can_be_run(data: bytes) -> None:
    made = plan(box(1, ssh_host_key=data, device_public=data))
    assert "A" in {one.type for one in made.records}


def test_an_enrolled_box_has_its_keys_in_dns_and_one_that_is_held_has_not() -> None:
    private = ec.derive_private_key(7, ec.SECP256R1())
    numbers = private.public_key().public_numbers()
    x, y = (one.to_bytes(32, "big") for one in (numbers.x, numbers.y))
    device = bytes.fromhex("0023000b0000007200000010001000030010")
    device += b"".join(len(one).to_bytes(2, "big") + one for one in (x, y))
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    keys = {"device_public": device, "ssh_host_key": f"ssh-ed25519 {ED25519}".encode()}
    domain = SITE.site.domain
    found = names(plan(box(1, **keys)))
    assert found[f"pos-01.{domain} SSHFP"] == f"4 2 {ED25519_DIGEST}"
    assert found[f"_443._tcp.pos-01.{domain} TLSA"] == f"3 1 1 {hashlib.sha256(spki).hexdigest()}"
    for stage in (Stage.HELD, Stage.REFUSED, Stage.REVOKED):
        told = names(plan(box(1, stage=stage, **keys)))
        assert not any(one.endswith((" SSHFP", " TLSA")) for one in told)
