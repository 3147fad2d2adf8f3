"""DHCPv6 and advertisements on a real wire: namespaces, dhclient, dhcpcd, dhcrelay, the kernel."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from dhcp6_lab import (
    FIRST,
    LAST,
    US,
    Wire6,
    config6,
    duid_ll,
    ia,
    mac,
    message6,
    read,
    run,
    serving6,
    stories,
    subnet6,
    until,
    until_local,
)
from dhcp_lab import end_by_pid_file

from netboot.dhcp6_message import Kind6, Packet6
from netboot.errors import SiteError
from netboot.io.dhcp6 import Dhcp6Runner
from netboot.io.leases import NetbootStore
from netboot.io.leases6 import current_leases6, holder6, load_leases6, server_duid
from netboot.leases import LeaseState
from netboot.leases6 import Lease6, LeaseWrite6

pytestmark = pytest.mark.boots
NETWORK = IPv6Network("fd00:41:7::/64")


@pytest.fixture
def wire() -> Iterator[Wire6]:
    made = Wire6()
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "netboot.db"


def tool(name: str) -> str:
    return shutil.which(name) or f"/usr/sbin/{name}"


def kinds(database: Path) -> list[str]:
    return [str(row["kind"]) for row in stories(database)]


def rows(database: Path) -> dict[IPv6Address, LeaseState]:
    found = read(database, "SELECT address, state FROM leases6")
    return {IPv6Address(address): LeaseState(state) for address, state in found}


def test_dhclient_gets_confirms_and_releases(wire: Wire6, database: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(
        '#!/bin/sh\n[ -n "$new_ip6_address" ] || exit 0\n'
        'ip -6 address replace "$new_ip6_address/64" dev "$interface" nodad\nexit 0\n'
    )
    script.chmod(0o755)
    settings = tmp_path / "dhclient.conf"
    settings.write_text("also request dhcp6.name-servers, dhcp6.domain-search;\n")
    files = ("-cf", str(settings), "-lf", str(tmp_path / "lf"), "-pf", str(tmp_path / "pid"))
    common = (tool("dhclient"), "-6", "-v", "-1", *files, "-sf", str(script), wire.ends[1])
    with serving6(wire.srv, database, wire.ends[0]):
        first = wire.inside(*common)
        assert "RCV: Advertise" in first
        assert "Server selected" in first or "Reply message" in first
        (address,) = wire.addresses()
        assert FIRST <= address <= LAST
        end_by_pid_file(tmp_path / "pid")
        lease = (tmp_path / "lf").read_text()
        assert f"option dhcp6.name-servers {US}" in lease
        assert 'option dhcp6.domain-search "shop.example.net."' in lease
        again = wire.inside(*common)  # what it holds it confirms
        assert "Confirm" in again
        assert "Solicit" not in again
        assert rows(database) == {address: LeaseState.BOUND}
        wire.inside(*common[:-1], "-r", wire.ends[1])
        until(lambda: rows(database) == {address: LeaseState.RELEASED})
        until(lambda: "dhcp-release" in kinds(database))
    assert {"dhcp-discover", "dhcp-offer", "dhcp-ack"} <= set(kinds(database))


@contextmanager
def dhcpcd(wire: Wire6, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Run dhcpcd with databases of its own, in a mount namespace; gives what it said so far."""
    config, state, log = tmp_path / "dhcpcd.conf", tmp_path / "dhcpcd", tmp_path / "dhcpcd.log"
    config.write_text("noipv4\nnoipv4ll\n")
    state.mkdir()
    inner = (
        f"mkdir -p /var/lib/dhcpcd /run/dhcpcd && mount --bind {state} /var/lib/dhcpcd && "
        f"mount -t tmpfs none /run/dhcpcd && exec {tool('dhcpcd')} -6 -B -d "
        f"-f {config} -c /bin/true {wire.ends[1]}"
    )
    inside = ("ip", "netns", "exec", wire.cli, "unshare", "--mount", "sh", "-c", inner)
    with log.open("w") as out, subprocess.Popen(inside, stdout=out, stderr=out) as process:
        try:
            yield log.read_text
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def test_dhcpcd_takes_its_address_from_a_stateful_network(
    wire: Wire6, database: Path, tmp_path: Path
) -> None:
    with serving6(wire.srv, database, wire.ends[0]), dhcpcd(wire, tmp_path) as said:
        until(lambda: "adding address" in said())
        (address,) = rows(database)
        assert f"adding address {address}/" in said()


def test_dhcpcd_takes_only_settings_from_a_stateless_network(
    wire: Wire6, database: Path, tmp_path: Path
) -> None:
    with (
        serving6(wire.srv, database, wire.ends[0], "{'dhcp': 'stateless'}"),
        dhcpcd(wire, tmp_path) as said,
    ):
        until(lambda: "adding address fd00:41:7:" in said())
        until(lambda: "REPLY6 received" in said())
        assert "INFORM6" in said()
        until(lambda: "dhcp-inform" in kinds(database))
    assert rows(database) == {}


def test_v6_4_the_kernel_makes_an_address_where_dhcpv6_gives_none(
    wire: Wire6, database: Path
) -> None:
    end = wire.ends[1]
    for setting in ("accept_ra=2", "accept_ra_min_hop_limit=64"):
        wire.sysctl(wire.cli, f"net.ipv6.conf.{end}.{setting}")
    with serving6(wire.srv, database, wire.ends[0], "{'dhcp': 'stateless', 'router': True}"):
        until(wire.addresses)
        (made,) = wire.addresses()
        assert made in NETWORK
        assert not FIRST <= made <= LAST
        assert "default via fe80::" in wire.inside("ip", "-6", "route")


def test_v6_4_the_kernel_makes_no_address_where_dhcpv6_gives_them(
    wire: Wire6, database: Path
) -> None:
    with serving6(wire.srv, database, wire.ends[0]):
        until(lambda: "expires" in wire.inside("ip", "-6", "route", "show", str(NETWORK)))
        seen = wire.inside(tool("rdisc6"), "-1", "-q", wire.ends[1], check=False)
        heard = wire.inside(tool("rdisc6"), "-1", wire.ends[1])
        assert wire.addresses() == []
        assert "default" not in wire.inside("ip", "-6", "route")
    assert str(NETWORK) in seen
    told = dict(re.findall(r"^ *(.+?) *: +(.+)$", heard, re.MULTILINE))
    assert told["Stateful address conf."].strip() == "Yes"
    assert told["Stateful other conf."].strip() == "Yes"
    assert told["Router lifetime"].startswith("0 ")
    assert told["Recursive DNS server"].strip() == str(US)


def test_a_default_route_ends_with_the_service(wire: Wire6, database: Path) -> None:
    wire.sysctl(wire.cli, f"net.ipv6.conf.{wire.ends[1]}.accept_ra=2")
    here = str(Path(__file__).parent)
    inside = ["ip", "netns", "exec", wire.srv, sys.executable, "-c", ROUTER]
    command = [*inside, here, str(database), wire.ends[0]]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        until(lambda: "default via fe80::" in wire.inside("ip", "-6", "route"))
        process.communicate(b"end\n")
    until(lambda: "default" not in wire.inside("ip", "-6", "route"))


ROUTER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_dhcp6_net import route_until_told
route_until_told(sys.argv[2], sys.argv[3])
"""


def route_until_told(database: str, interface: str) -> None:
    store = NetbootStore(Path(database))
    service = Dhcp6Runner(store)
    service.replace(config6(subnet6(interface=interface, router=True)))
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        while not selector.select(0.0):
            service.turn(0.05)
    service.close()
    store.close()


def test_dhcrelay_stands_between(wire: Wire6, database: Path, tmp_path: Path) -> None:
    """Client, relay, server: the relay's namespace has a second link, fd00:99::/64."""
    far, tag = f"d6-f{os.getpid():x}", f"{os.getpid():x}"
    run("ip", "netns", "add", far)
    try:
        pair = ("type", "veth", "peer", f"g{tag}", "netns", far)
        run("ip", "link", "add", f"f{tag}", "netns", wire.cli, *pair)
        run("ip", "-n", wire.cli, "address", "add", "fd00:41:7::5/64", "dev", wire.ends[1], "nodad")
        run("ip", "-n", wire.cli, "address", "add", "fd00:99::1/64", "dev", f"f{tag}", "nodad")
        for namespace, end in ((wire.cli, f"f{tag}"), (far, f"g{tag}")):
            wire.sysctl(namespace, f"net.ipv6.conf.{end}.accept_dad=0")
            run("ip", "-n", namespace, "link", "set", end, "up")
        until_local(wire.cli, f"f{tag}")
        until_local(far, f"g{tag}")
        relay = subprocess.Popen(
            ["ip", "netns", "exec", wire.cli, tool("dhcrelay"), "-6", "-d", "-I", "--no-pid"]
            + ["-l", f"f{tag}", "-u", f"{US}%{wire.ends[1]}"],
            stderr=subprocess.DEVNULL,
        )
        changes = (
            "{'network': IPv6Network('fd00:99::/64'), 'relayed': True, "
            "'pools': ((IPv6Address('fd00:99::10'), IPv6Address('fd00:99::20')),)}"
        )
        try:
            with serving6(wire.srv, database, wire.ends[0], changes):
                common = (tool("dhclient"), "-6", "-d", "-1", "-sf", "/bin/true")
                files = ("-lf", str(tmp_path / "lf"), "-pf", str(tmp_path / "pid"))
                inside = ("ip", "netns", "exec", far)
                client = subprocess.Popen(
                    [*inside, *common, *files, f"g{tag}"], stderr=subprocess.DEVNULL
                )
                try:
                    until(lambda: rows(database) != {})
                finally:
                    client.kill()
                    client.wait()
        finally:
            relay.kill()
            relay.wait()
    finally:
        run("ip", "netns", "delete", far, check=False)
    ((address, state),) = rows(database).items()
    assert address in IPv6Network("fd00:99::/64")
    assert state is LeaseState.BOUND


RUNNER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_dhcp6_net import no_promise_without_a_disk, sockets_follow_the_plan
no_promise_without_a_disk(sys.argv[2], sys.argv[3])
sockets_follow_the_plan(sys.argv[2], sys.argv[3], sys.argv[4])
print("passed")
"""


def exchange(service: Dhcp6Runner, interface: str, data: bytes) -> Kind6 | None:
    """Send one multicast as a client does, let the service turn, and read the answer."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        index = socket.if_nametoindex(interface)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        client.bind(("::", 546))
        client.settimeout(0.2)
        client.sendto(data, ("ff02::1:2", 547, 0, index))
        for _ in range(5):
            service.turn(0.05)
        try:
            return Packet6.decode(client.recv(2000)).message.kind
        except TimeoutError:
            return None


def refuse_writes(store: NetbootStore, how: str) -> None:
    store._db.execute(f"PRAGMA query_only = {how}")


def no_promise_without_a_disk(database: str, interface: str) -> None:
    store = NetbootStore(Path(database))
    service = Dhcp6Runner(store)
    service.replace(config6(subnet6(interface=interface)))
    duid = server_duid(store)
    address = FIRST + 7
    asked = message6(Kind6.REQUEST, duid_ll(mac(1)), ia(1, address), server=duid)
    released = message6(Kind6.RELEASE, duid_ll(mac(1)), ia(1, address), server=duid)
    refuse_writes(store, "ON")
    assert exchange(service, interface, message6(Kind6.SOLICIT, duid_ll(mac(1)), ia())) is (
        Kind6.ADVERTISE
    )
    assert exchange(service, interface, asked) is None
    assert service.trouble is not None
    assert "netboot.db cannot be written" in service.trouble
    refuse_writes(store, "OFF")
    assert exchange(service, interface, asked) is Kind6.REPLY
    assert service.trouble is None
    assert [row.address for row in load_leases6(store)] == [address]
    refuse_writes(store, "ON")
    assert exchange(service, interface, released) is None
    refuse_writes(store, "OFF")
    # what the disk refused is written when it works again
    until(lambda: [row.state for row in load_leases6(store)] == [LeaseState.RELEASED])
    service.close()
    store.close()


def sockets_follow_the_plan(database: str, interface: str, other: str) -> None:
    store = NetbootStore(Path(database))
    service = Dhcp6Runner(store)
    asked = message6(Kind6.SOLICIT, duid_ll(mac(1)), ia())
    service.replace(config6(subnet6(interface=interface)))
    with pytest.raises(SiteError, match="no-such0"):
        service.replace(config6(subnet6(interface="no-such0")))
    with pytest.raises(SiteError, match="shorter than a second"):
        service.replace(config6(subnet6(interface=interface, preferred=None, lease=timedelta(0))))
    assert exchange(service, interface, asked) is Kind6.ADVERTISE
    service.replace(config6(subnet6(interface=other)))
    assert exchange(service, interface, asked) is None
    service.replace(config6(subnet6(interface=interface, dhcp="off")))
    assert exchange(service, interface, asked) is None
    service.close()
    store.close()


def test_no_reply_without_a_disk_and_sockets_follow_the_plan(wire: Wire6, database: Path) -> None:
    one, two = wire.ends[0], f"o{wire.ends[0]}"
    run("ip", "-n", wire.srv, "link", "add", two, "type", "veth", "peer", f"p{wire.ends[0]}")
    here = str(Path(__file__).parent)
    command = ("ip", "netns", "exec", wire.srv, sys.executable, "-c", RUNNER)
    assert run(*command, here, str(database), one, two).endswith("passed\n")


def test_a_row_that_cannot_be_read_is_named(database: Path) -> None:
    store = NetbootStore(database)
    store.close()
    with sqlite3.connect(database) as db:
        values = "'x', 's', x'00', 1, NULL, NULL, 'bound', 1.0, NULL"
        db.execute(f"INSERT INTO leases6 VALUES ({values})")
    store = NetbootStore(database)
    with pytest.raises(SiteError, match="table leases6"):
        load_leases6(store)
    store.close()


def test_who_has_an_address_is_known_after_its_release_too(database: Path) -> None:
    store = NetbootStore(database)
    kinds_of = {1: LeaseState.BOUND, 2: LeaseState.RELEASED, 3: LeaseState.DECLINED}
    leases = [
        Lease6(
            subnet="tills",
            address=FIRST + number,
            duid=duid_ll(mac(number)),
            iaid=1,
            mac=mac(9) if number == 1 else None,
            uuid=None,
            state=state,
            expires=100.0,
            name=None,
        )
        for number, state in kinds_of.items()
    ]
    store.commit([LeaseWrite6(address=one.address, lease=one) for one in leases], (), ())
    found = [holder6(store, FIRST + number) for number in range(4)]
    assert found == [None, mac(9), mac(2), None]
    assert current_leases6(store, 99.0) == (leases[0],)
    assert current_leases6(store, 100.0) == ()
    assert load_leases6(store) == tuple(leases)
    store.commit([LeaseWrite6(address=one.address, lease=None) for one in leases], (), ())
    assert load_leases6(store) == ()
    store.close()
