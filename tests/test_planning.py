"""The plan follows from settings, boxes and published sets, and netboot can always run it."""

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import bootstrap
from bootstrap.enrolment import Stage
from bootstrap.planning import grub_cfg_files, make_plan
from bootstrap.rows import BoxRow
from bootstrap.site import Site, decode_site
from netboot.bootset import BootFile, BootSetManifest, Role, grub_cfg
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
    made = make_plan(site, boxes, manifest(2), [manifest(1)], 7)
    assert check(made) == ()
    assert Plan.decode(made.encode()) == made
    return made


def names(made: Plan) -> dict[str, str]:
    return {f"{one.name} {one.type.value}": one.value for one in made.records}


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


def test_without_a_served_set_nothing_is_booted() -> None:
    made = make_plan(SITE, [], None, [manifest(1)], 1)
    assert made.boot is None
    assert check(made) == ()


def test_without_a_booting_subnet_nothing_is_booted() -> None:
    site = decode_site(EXAMPLE.replace("boot = true", "boot = false").encode())
    assert make_plan(site, [], manifest(2), [], 1).boot is None
    assert list(grub_cfg_files(site, manifest(2))) == []


def test_the_grub_cfg_that_is_stored_is_the_one_in_the_plan() -> None:
    assert list(grub_cfg_files(SITE, manifest(2))) == [
        grub_cfg(manifest(2), IPv4Address("10.41.7.2"))
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
        st.none() | st.integers(0, 255).map("10.41.7.{}".format),
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
