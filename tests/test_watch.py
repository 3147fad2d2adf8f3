"""Who else speaks on the site's networks: the rule, the frames, and real rogues on a wire."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.lldp import (
    LLDPDU,
    LLDPDUChassisID,
    LLDPDUEndOfLLDPDU,
    LLDPDUPortDescription,
    LLDPDUPortID,
    LLDPDUSystemName,
    LLDPDUTimeToLive,
)
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from bootstrap.cli.main import main
from bootstrap.rehearsal.lan import Lan, inside
from netboot.allowed import decode_allowed, encode_allowed
from netboot.errors import SiteError
from netboot.events import EventKind
from netboot.io.watch import bridge_port, maker, read_frame, read_neighbour
from netboot.watch import (
    MOST_SENDERS,
    PRESENT_SECONDS,
    QUIET_SECONDS,
    Allowed,
    Heard,
    Role,
    WatchConfig,
    WatchEngine,
)

NOW = 1_800_000_000.0
OURS = bytes.fromhex("020000000001")
ROGUE = bytes.fromhex("0019bb0a0b0c")  # an address block of Hewlett Packard
OTHER = bytes.fromhex("0019bb0a0b0d")
GATEWAYS = {"eth1": frozenset({"10.41.7.1"})}


def heard(role: Role = Role.DHCP, mac: bytes = ROGUE, address: str = "10.41.7.66") -> Heard:
    return Heard(role=role, interface="eth1", mac=mac, address=address)


def engine(*allowed: Allowed) -> WatchEngine:
    config = WatchConfig(ours=frozenset({OURS}), gateways=GATEWAYS, allowed=allowed)
    return WatchEngine(config, maker)


def test_a_rogue_is_told_of_once_an_hour_with_maker_and_port() -> None:
    watch = engine()
    (event,) = watch.hear(heard(), "behind port 7 of switch hut-1", NOW)
    assert (event.kind, event.reason, event.mac) == (EventKind.FOREIGN, "FOREIGN-DHCP", ROGUE)
    detail = dict(event.detail)
    assert detail["maker"] == "Hewlett Packard"
    assert detail["port"] == "behind port 7 of switch hut-1"
    for seconds in (1, 60, QUIET_SECONDS - 1):
        assert watch.hear(heard(), None, NOW + seconds) == ()
    assert len(watch.hear(heard(), None, NOW + QUIET_SECONDS)) == 1
    assert len(watch.hear(heard(), None, NOW - 10)) == 1  # the clock was set back


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.GATEWAY])
def test_each_role_has_its_event_and_ours_and_allowed_have_none(role: Role) -> None:
    (event,) = engine().hear(heard(role), None, NOW)
    assert event.reason is not None and dict(event.detail)["role"] == role.value
    assert engine().hear(heard(role, mac=OURS), None, NOW) == ()
    for address, other in (("10.41.7.66", 0), (None, 0), ("10.41.7.67", 1)):
        allowed = Allowed(role=role, mac=ROGUE, address=address)
        assert len(engine(allowed).hear(heard(role), None, NOW)) == other
    wrong = Role.TFTP if role is not Role.TFTP else Role.DHCP
    assert len(engine(Allowed(role=wrong, mac=ROGUE)).hear(heard(role), None, NOW)) == 1


def test_the_gateway_is_first_seen_then_compared() -> None:
    watch = engine()
    gateway = heard(Role.GATEWAY, address="10.41.7.1")
    (seen,) = watch.hear(gateway, None, NOW)
    assert (seen.kind, seen.reason) == (EventKind.GATEWAY_SEEN, None)
    assert watch.hear(gateway, None, NOW + 1) == ()
    assert watch.hear(heard(Role.GATEWAY, address="10.41.7.9", mac=OTHER), None, NOW) == ()
    changed = heard(Role.GATEWAY, address="10.41.7.1", mac=OTHER)
    (event,) = watch.hear(changed, None, NOW + 2)
    assert (event.kind, event.reason) == (EventKind.GATEWAY_CHANGED, "GATEWAY-CHANGED")
    assert dict(event.detail)["before"] == ROGUE.hex(":")


def test_a_gateway_that_a_person_confirmed_needs_no_first_look() -> None:
    allowed = Allowed(role=Role.GATEWAY, mac=ROGUE, address="10.41.7.1")
    assert engine(allowed).hear(heard(Role.GATEWAY, address="10.41.7.1"), None, NOW) == ()
    first = heard(Role.GATEWAY, mac=OTHER, address="10.41.7.1")
    (event,) = engine(allowed).hear(first, None, NOW)
    assert event.reason == "GATEWAY-CHANGED"
    watch = engine()
    watch.know_gateway("eth1", "10.41.7.1", OTHER)
    assert watch.hear(first, None, NOW) == ()


def test_who_is_there_is_said_in_a_sentence_and_ends() -> None:
    watch = engine()
    watch.hear(heard(), "port eth4", NOW)
    (sender,) = watch.senders(NOW + 1)
    assert sender.sentence == (
        "another DHCP server answers: 10.41.7.66 (00:19:bb:0a:0b:0c, Hewlett Packard), "
        "heard on eth1, port eth4"
    )
    assert watch.senders(NOW + PRESENT_SECONDS + 1) == ()
    watch.replace(WatchConfig(ours=frozenset(), allowed=(Allowed(role=Role.DHCP, mac=ROGUE),)))
    assert watch.senders(NOW + 1) == ()


def test_made_up_senders_are_one_event_and_bounded() -> None:
    watch = engine()
    events = []
    for number in range(4 * MOST_SENDERS):
        mac = b"\2\2" + number.to_bytes(4, "big")
        events += watch.hear(heard(mac=mac), None, NOW + number / 1000)
    assert len(events) == MOST_SENDERS + 1
    assert events[-1].kind is EventKind.WATCH_FLOOD
    later = NOW + QUIET_SECONDS + 60
    (event,) = watch.hear(heard(), None, later)  # those of the flood are forgotten
    assert event.kind is EventKind.FOREIGN


def test_the_list_is_read_as_it_was_written() -> None:
    entries = (
        Allowed(role=Role.DHCP, mac=ROGUE, address="10.41.7.66"),
        Allowed(role=Role.GATEWAY, mac=OTHER),
    )
    written = encode_allowed([(entries[0], 'the "old" router'), (entries[1], "")])
    assert decode_allowed(written) == entries


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[allowed", "not TOML"),
        ("allow = 1", "more than"),
        ("[[allowed]]\nrole = 'dhcp'\nmac = '02'", "six pairs"),
        ("[[allowed]]\nrole = 'router'\nmac = '02:00:00:00:00:01'", "role is one of"),
        ("[[allowed]]\nrole = 'dhcp'\nmak = '02:00:00:00:00:01'", "unknown key mak"),
        ("[[allowed]]\nrole = 3", "text in quotes"),
    ],
)
def test_a_wrong_list_says_where_and_what(text: str, says: str) -> None:
    with pytest.raises(SiteError, match=says):
        decode_allowed(text.encode())


def frame(packet: Packet) -> bytes:
    return bytes(packet)


def ether() -> Ether:
    return Ether(src=ROGUE.hex(":"), dst="ff:ff:ff:ff:ff:ff")


def offer(yiaddr: str, *options: tuple[str, object], sport: int = 67) -> bytes:
    return frame(
        ether()
        / IP(src="10.41.7.66", dst="255.255.255.255")
        / UDP(sport=sport, dport=68)
        / BOOTP(op=2, yiaddr=yiaddr, chaddr=OURS)
        / DHCP(options=[("message-type", "offer"), *options, "end"])
    )


def test_frames_are_read_as_what_they_are() -> None:
    whole = offer("10.41.7.200", ("server_id", "10.41.7.67"), ("lease_time", 600))
    found = read_frame(whole, "eth1")
    assert found == Heard(
        role=Role.DHCP,
        interface="eth1",
        mac=ROGUE,
        address="10.41.7.66",
        detail=(("names_itself", "10.41.7.67"),),
    )
    proxy = offer("0.0.0.0", ("vendor_class_id", b"PXEClient"), (67, b"evil.efi\0"))
    found = read_frame(proxy, "eth1")
    assert found is not None and found.role is Role.PROXY
    assert found.detail == (("boot_file", "evil.efi"),)
    on_4011 = read_frame(offer("0.0.0.0", ("vendor_class_id", b"PXEClient"), sport=4011), "eth1")
    assert on_4011 is not None and on_4011.role is Role.PROXY
    request = ether() / IP() / UDP(sport=68, dport=67) / BOOTP(op=1) / DHCP()
    assert read_frame(frame(request), "eth1") is None


def test_routers_dhcp6_tftp_and_gateways_are_read() -> None:
    advertisement = (
        Ether(src=ROGUE.hex(":"))
        / IPv6(src="fe80::66", dst="ff02::1", hlim=255)
        / ICMPv6ND_RA(M=1, routerlifetime=1800)
        / ICMPv6NDOptPrefixInfo(prefix="2001:db8::", prefixlen=64)
    )
    found = read_frame(frame(advertisement), "eth1")
    assert found is not None and (found.role, found.address) == (Role.ROUTER6, "fe80::66")
    assert dict(found.detail) == {
        "router_seconds": 1800,
        "managed": True,
        "prefix": "2001:db8::/64",
    }
    advertisement[IPv6].hlim = 254  # forwarded: RFC 4861, 6.1.2
    assert read_frame(frame(advertisement), "eth1") is None
    six = Ether(src=ROGUE.hex(":")) / IPv6(src="fe80::66") / UDP(sport=547, dport=546)
    found = read_frame(frame(six / DHCP6_Advertise()), "eth1")
    assert found is not None and found.role is Role.DHCP6
    data = ether() / IP(src="10.41.7.66") / UDP(sport=3000, dport=4444) / b"\0\3\0\1whole"
    found = read_frame(frame(data), "eth1", tftp_port=4444)
    assert found is not None and found.role is Role.TFTP
    assert read_frame(frame(data), "eth1", tftp_port=4445) is None
    arp = ether() / ARP(op=2, hwsrc=ROGUE.hex(":"), psrc="10.41.7.1")
    found = read_frame(frame(arp), "eth1")
    assert found is not None and (found.role, found.address) == (Role.GATEWAY, "10.41.7.1")


@given(st.binary(max_size=400) | st.binary(max_size=80).map(lambda tail: offer("0.0.0.0") + tail))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_left(data: bytes) -> None:
    assert read_frame(data, "eth1", 4444) is None or data
    assert read_neighbour(data) is None or data


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_mutated_offers_are_read_or_left(data: st.DataObject) -> None:
    whole = bytearray(offer("10.41.7.200", ("server_id", "10.41.7.67"), (67, b"x" * 40)))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    found = read_frame(bytes(whole[: data.draw(st.integers(0, len(whole)))]), "eth1")
    assert found is None or isinstance(found, Heard)


def test_the_switch_says_where_we_are_plugged_in() -> None:
    word = (
        Ether(src=OTHER.hex(":"), dst="01:80:c2:00:00:0e", type=0x88CC)
        / LLDPDU()
        / LLDPDUChassisID(subtype=4, id=OTHER.hex(":"))
        / LLDPDUPortID(subtype=7, id=b"ge-0/0/7")
        / LLDPDUTimeToLive(ttl=120)
        / LLDPDUPortDescription(description=b"hut uplink")
        / LLDPDUSystemName(system_name=b"hut-1")
        / LLDPDUEndOfLLDPDU()
    )
    assert read_neighbour(frame(word)) == "behind port hut uplink of switch hut-1"
    assert read_neighbour(offer("10.41.7.200")) is None


def test_makers_are_named_and_made_up_addresses_are_not() -> None:
    assert maker(ROGUE) == "Hewlett Packard"
    assert maker(OURS) == "made-up address"
    assert maker(bytes.fromhex("00ffff000001")) is None


# On a wire


ADDRESS = IPv4Interface("10.41.7.2/24")
EXAMPLE = Path(__file__).parent.parent / "bootstrap/example/site.toml"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    directory = tmp_path / "site"
    directory.mkdir()
    (directory / "site.toml").write_bytes(EXAMPLE.read_bytes())
    return directory


def say(lan: Lan, *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        inside(lan.box_namespace, command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


ROGUES = """
import sys, time
from scapy.layers.inet6 import *
from scapy.layers.l2 import *
from scapy.sendrecv import sendp
mac = "00:19:bb:0a:0b:0c"
ra = Ether(src=mac, dst="33:33:00:00:00:01") / IPv6(src="fe80::66", dst="ff02::1", hlim=255)
ra /= ICMPv6ND_RA(routerlifetime=1800)
first = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=2, hwsrc=mac, psrc="10.41.7.1")
later = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=2, hwsrc=mac[:-1] + "d", psrc="10.41.7.1")
while True:
    sendp([ra, first], iface="br0", verbose=0)
    time.sleep(0.5)
    sendp([later], iface="br0", verbose=0)
"""


@pytest.mark.boots
def test_real_rogues_are_heard_and_the_allowed_one_is_not(site: Path, tmp_path: Path) -> None:
    with Lan(ADDRESS, interface="eth1") as lan:
        ip = ("ip", "address", "add", "10.41.7.66/24", "dev", "br0")
        subprocess.run(inside(lan.box_namespace, ip), check=True)
        tftp = tmp_path / "tftp"
        tftp.mkdir()
        dnsmasq = ["dnsmasq", "-d", "-C", "/dev/null", "--port=0", "-i", "br0", "--bind-dynamic"]
        dnsmasq += ["--dhcp-range=10.41.7.200,10.41.7.210", "--dhcp-authoritative", "--user=root"]
        dnsmasq += [f"--dhcp-leasefile={tmp_path}/leases", "--enable-tftp", f"--tftp-root={tftp}"]
        rogues = [say(lan, *dnsmasq), say(lan, sys.executable, "-c", ROGUES)]
        try:
            reasons = watch(lan, site, {"FOREIGN-DHCP", "FOREIGN-BOOT", "FOREIGN-ROUTER"})
            assert "GATEWAY-CHANGED" in reasons
            mac = bridge_mac(lan)
            allowed = Allowed(role=Role.DHCP, mac=mac, address="10.41.7.66")
            (site / "allowed-servers.toml").write_bytes(encode_allowed([(allowed, "")]))
            found = watch(lan, site, {"FOREIGN-BOOT", "FOREIGN-ROUTER"})
            assert "FOREIGN-DHCP" not in found
        finally:
            for rogue in rogues:
                rogue.terminate()
                rogue.wait()


def bridge_mac(lan: Lan) -> bytes:
    show = inside(lan.box_namespace, ["cat", "/sys/class/net/br0/address"])
    text = subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip()
    return bytes.fromhex(text.replace(":", ""))


def watch(lan: Lan, site: Path, wanted: set[str]) -> set[str]:
    """Run the watch until it told what is wanted, and give all reasons that it told."""
    command = [sys.executable, "-m", "bootstrap.cli", "watch", "run", "--json", "--seconds=90"]
    command += ["--site", str(site)]
    process = subprocess.Popen(
        lan.appliance_command(command),
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    found: set[str] = set()
    until = time.monotonic() + 60
    try:
        for line in process.stdout:
            found.add(json.loads(line)["reason"] or "")
            if wanted | {"GATEWAY-CHANGED"} <= found:
                return found
            assert time.monotonic() < until, found
    finally:
        process.terminate()
        process.wait()
    raise AssertionError(found)


@pytest.mark.boots
def test_our_own_bridge_names_the_port_of_a_sender(tmp_path: Path) -> None:
    with Lan(ADDRESS, interface="eth1") as lan:
        send = "import socket; socket.socket(2, 2).sendto(b'', ('10.41.7.66', 9))"
        ping = [sys.executable, "-c", send]
        ip = ("ip", "address", "add", "10.41.7.66/24", "dev", "br0")
        subprocess.run(inside(lan.box_namespace, ip), check=True)
        subprocess.run(lan.appliance_command(ping), check=True)
        show = lan.appliance_command(["cat", "/sys/class/net/eth1/address"])
        text = subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip()
        ask = "from netboot.io.watch import bridge_port; import sys;"
        ask += "print(bridge_port('br0', bytes.fromhex(sys.argv[1])))"
        command = inside(lan.box_namespace, [sys.executable, "-c", ask, text.replace(":", "")])
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
        )
        assert done.stdout.strip() == "site"
    assert bridge_port("br0", ROGUE, tmp_path) is None


def test_learn_asks_and_list_shows(site: Path) -> None:
    allowed = Allowed(role=Role.TFTP, mac=ROGUE, address="10.41.7.66")
    (site / "allowed-servers.toml").write_bytes(encode_allowed([(allowed, "old server")]))
    shown = CliRunner().invoke(main, ["watch", "list", "--site", str(site), "--json"])
    assert json.loads(shown.output) == [
        {"role": "tftp", "mac": ROGUE.hex(":"), "address": "10.41.7.66"}
    ]
