"""The DHCP server on a real wire: namespaces, dhclient, udhcpc, dnsmasq, kill -9."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from itertools import groupby
from pathlib import Path

import pytest
from dhcp_lab import (
    ADDRESS,
    NOW,
    OURS_RELAY,
    config,
    end_by_pid_file,
    mac,
    message,
    selecting,
    start_server,
    subnet,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from netboot.dhcp import DhcpConfig, DhcpEngine
from netboot.dhcp_message import Message
from netboot.dhcp_options import MessageType
from netboot.errors import SiteError
from netboot.io.dhcp import DhcpRunner
from netboot.io.frame import checksum, udp_frame
from netboot.io.leases import EventLog, NetbootStore
from netboot.io.probe import ForeignServer, read_offer, refuse_foreign
from netboot.network import Pool

PROBE = """
import sys
from netboot.io.probe import probe
for found in probe([sys.argv[1]], float(sys.argv[2])):
    print(found.interface, found.address, found.mac.hex(":"))
"""


def run(*command: str, check: bool = True) -> str:
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": root}
    )
    assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


class Wire:
    """Two namespaces joined by a veth pair: `srv` with 10.41.7.2, `cli` with nothing."""

    def __init__(self) -> None:
        tag = f"{os.getpid():x}"
        self.srv, self.cli = f"dh-s{tag}", f"dh-c{tag}"
        self.ends = f"s{tag}", f"c{tag}"
        for namespace in (self.srv, self.cli):
            run("ip", "netns", "add", namespace)
        one, two = self.ends
        run(
            "ip",
            "link",
            "add",
            one,
            "netns",
            self.srv,
            "type",
            "veth",
            "peer",
            two,
            "netns",
            self.cli,
        )
        for namespace, end in ((self.srv, one), (self.cli, two)):
            run("ip", "-n", namespace, "link", "set", "lo", "up")
            run("ip", "-n", namespace, "link", "set", end, "up")
        run("ip", "-n", self.srv, "address", "add", "10.41.7.2/24", "dev", one)

    def inside(self, *command: str, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.cli, *command, check=check)

    def address(self) -> str | None:
        text = self.inside("ip", "-4", "-o", "address", "show", "dev", self.ends[1])
        found = re.search(r"inet ([0-9.]+)", text)
        return found[1] if found else None

    def close(self) -> None:
        for namespace in (self.srv, self.cli):
            run("ip", "netns", "delete", namespace, check=False)


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "netboot.db"


@pytest.fixture
def server(wire: Wire, database: Path) -> Iterator[subprocess.Popen[str]]:
    process = start_server(wire.srv, database, wire.ends[0])
    yield process
    process.kill()
    process.wait()


def kinds(database: Path) -> list[str]:
    return [row["kind"] for row in EventLog(NetbootStore(database)).after(0)]


def test_a_frame_is_what_scapy_would_send() -> None:
    frame = udp_frame(
        macs=(mac(1), mac(2)),
        addresses=(ADDRESS("10.41.7.2"), ADDRESS("10.41.7.100")),
        ports=(67, 68),
        payload=b"odd",
    )
    read = Ether(frame)
    assert (read.src, read.dst) == ("02:01:00:00:00:01", "02:01:00:00:00:02")
    for layer in (IP, UDP):
        del read[layer].chksum
    assert bytes(read) == frame
    assert checksum(b"\xff\xff") == 0


@pytest.mark.boots
def test_dhclient_gets_renews_and_releases(
    wire: Wire, server: subprocess.Popen[str], database: Path, tmp_path: Path
) -> None:
    dhclient, end = shutil.which("dhclient") or "/usr/sbin/dhclient", wire.ends[1]
    settings = tmp_path / "dhclient.conf"
    settings.write_text(
        "option sztp-redirect code 143 = string;\n"
        "request subnet-mask, routers, domain-name, domain-name-servers, sztp-redirect;\n"
    )
    script = tmp_path / "script"
    script.write_text(
        '#!/bin/sh\n[ -n "$new_ip_address" ] || exit 0\n'
        'ip address replace "$new_ip_address/24" dev "$interface"\n'
        "exit 0\n"
    )
    script.chmod(0o755)
    files = ("-cf", str(settings), "-lf", str(tmp_path / "lf"), "-pf", str(tmp_path / "pid"))
    common = (dhclient, "-4", "-v", *files, "-sf", str(script))
    first = wire.inside(*common, "-1", end)
    assert "bound to 10.41.7.20" in first
    end_by_pid_file(tmp_path / "pid")
    lease = (tmp_path / "lf").read_text()
    assert 'option domain-name "shop.example.net"' in lease
    assert "option domain-name-servers 10.41.7.2" in lease
    assert '"\\000\\026https://10.41.7.2:8443"' in lease or "0:16:68:74:74:70:73" in lease
    again = wire.inside(*common, "-1", end)  # INIT-REBOOT from the lease file
    assert "DHCPREQUEST" in again
    assert "DHCPDISCOVER" not in again
    assert "bound to 10.41.7.20" in again
    wire.inside(*common, "-r", end)
    deadline = time.monotonic() + 5
    while "dhcp-release" not in kinds(database) and time.monotonic() < deadline:
        time.sleep(0.05)
    story = [kind for kind, _ in groupby(kinds(database))]
    assert story == ["dhcp-discover", "dhcp-offer", "dhcp-ack", "dhcp-release"]
    assert kinds(database).count("dhcp-ack") >= 2
    assert NetbootStore(database).current_leases(time.time()) == ()


@pytest.mark.boots
def test_udhcpc_gets_renews_and_releases_with_no_arp_from_us(
    wire: Wire, server: subprocess.Popen[str], database: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text(
        '#!/bin/sh\ncase "$1" in bound|renew) ip address replace "$ip/24" dev "$interface";; esac\n'
        f'echo "$1 $ip" >> {tmp_path}/log\n'
    )
    script.chmod(0o755)
    capture = tmp_path / "arp.txt"
    with capture.open("w") as out:
        tcpdump = subprocess.Popen(
            ["ip", "netns", "exec", wire.cli, "tcpdump", "-lnni", wire.ends[1], "arp or port 68"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tcpdump.stderr is not None
        while "listening" not in tcpdump.stderr.readline():
            continue
        client = subprocess.Popen(
            ["ip", "netns", "exec", wire.cli, shutil.which("udhcpc") or "/usr/sbin/udhcpc"]
            + ["-f", "-i", wire.ends[1], "-s", str(script)],
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: "bound 10.41.7.20" in read(tmp_path / "log"))
            offered = capture_text(capture)
            client.send_signal(10)  # SIGUSR1: renew
            until(lambda: "renew 10.41.7.20" in read(tmp_path / "log"))
            client.send_signal(12)  # SIGUSR2: release
            until(lambda: "dhcp-release" in kinds(database))
        finally:
            client.kill()
            client.wait()
            tcpdump.terminate()
            tcpdump.wait()
            tcpdump.stderr.close()
    assert "ARP, Request who-has 10.41.7.20 tell 10.41.7.2" not in offered
    assert "10.41.7.2.67 > 10.41.7.20.68" in offered  # a frame, not a broadcast
    # a client on a busy machine asks again, and each time is answered
    assert kinds(database).count("dhcp-ack") >= 2


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def capture_text(path: Path) -> str:
    until(lambda: path.read_text().count("10.41.7.2.67 >") >= 2)
    return path.read_text()


def until(happened: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
from test_dhcp_net import load
load(*map(int, sys.argv[2:]))
"""


def load(first: int, server: int, count: int) -> None:
    """Ask for leases as a relay does, print each that was acknowledged, and kill -9 the server.

    The kill follows the last ACK at once: a server that acknowledged before its commit has lost it.
    """
    relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    relay.bind(("10.41.7.3", 67))
    relay.settimeout(1)
    giaddr = ADDRESS("10.41.7.3")
    for number in range(first, first + 2 * count):
        relay.sendto(message(MessageType.DISCOVER, mac(number), giaddr=giaddr), OURS_RELAY)
    acknowledged: list[Message] = []
    while True:
        try:
            reply = Message.decode(relay.recv(2000))
        except TimeoutError:
            break
        if reply.options.message_type is MessageType.OFFER:
            relay.sendto(selecting(reply.chaddr, reply.yiaddr, giaddr=giaddr), OURS_RELAY)
            continue
        acknowledged.append(reply)
        if len(acknowledged) == count:
            os.kill(server, 9)
            relay.settimeout(0.3)
    for ack in acknowledged:
        print(ack.chaddr.hex(), ack.yiaddr)


@pytest.mark.boots
def test_d39_every_acknowledged_lease_is_there_after_kill_9(wire: Wire, database: Path) -> None:
    run("ip", "-n", wire.cli, "address", "add", "10.41.7.3/24", "dev", wire.ends[1])
    acknowledged: list[tuple[bytes, IPv4Address]] = []
    for turn, count in enumerate((1, 7, 30, 2, 11)):
        server = start_server(wire.srv, database, wire.ends[0])
        numbers = (str(1000 * turn), str(server.pid), str(count))
        text = wire.inside(sys.executable, "-c", LOAD, str(Path(__file__).parent), *numbers)
        assert server.wait(5) == -9
        lines = [line.split() for line in text.splitlines()]
        assert len(lines) >= count
        acknowledged += [(bytes.fromhex(client), ADDRESS(address)) for client, address in lines]
    rows = {lease.address: lease.mac for lease in NetbootStore(database).load_leases()}
    lost = [entry for entry in acknowledged if rows.get(entry[1]) != entry[0]]
    assert lost == []


RUNNER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_dhcp_net import refuse_on_a_full_disk, replace_while_running
refuse_on_a_full_disk(sys.argv[2])
replace_while_running(sys.argv[2], sys.argv[3])
print("passed")
"""


def ask(runner: DhcpRunner, data: bytes, seconds: float = 5) -> MessageType | None:
    """Send one packet by way of a relay on the loopback interface, and read the answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay:
        relay.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        relay.bind(("127.0.0.9", 67))
        relay.setblocking(False)
        relay.sendto(data, ("127.0.0.1", 67))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            runner.turn(0.02)
            try:
                answer, source = relay.recvfrom(2000)
            except BlockingIOError:
                continue
            assert source == ("127.0.0.1", 67)
            return Message.decode(answer).options.message_type
    return None


def loopback(**changes: object) -> DhcpConfig:
    pools = (Pool(first=ADDRESS("127.0.1.1"), last=ADDRESS("127.0.1.9")),)
    network, appliance = IPv4Network("127.0.0.0/16"), ADDRESS("127.0.0.1")
    values = {"interface": "lo", "network": network, "appliance": appliance, "gateway": None}
    return config(subnet(**(values | {"pools": pools} | changes)), reservations=())


def refuse_on_a_full_disk(directory: str) -> None:
    """Hold the ACK back while there is no room, offer all the same, and recover with the disk.

    The table keeps what it gave: the address is not given to another, and is on disk at the end.
    """
    mount("-t", "tmpfs", "-o", "size=2m", "disk", directory)
    store = NetbootStore(Path(directory, "netboot.db"))
    plan = loopback()
    runner = DhcpRunner(DhcpEngine(plan, ()), store, plan)
    relayed = {"giaddr": ADDRESS("127.0.0.9")}
    asked = selecting(mac(1), ADDRESS("127.0.1.1"), server="127.0.0.1", **relayed)
    filler = Path(directory, "filler")
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    assert ask(runner, message(MessageType.DISCOVER, mac(1), **relayed)) is MessageType.OFFER
    assert ask(runner, asked, 0.5) is None
    assert runner.trouble is not None
    assert "netboot.db cannot be written" in runner.trouble
    assert store.load_leases() == ()
    other = selecting(mac(2), ADDRESS("127.0.1.1"), server="127.0.0.1", **relayed)
    assert ask(runner, other) is MessageType.NAK
    filler.unlink()
    until(lambda: runner.trouble is None)
    assert [lease.mac for lease in store.load_leases()] == [mac(1)]
    assert ask(runner, asked) is MessageType.ACK
    until(lambda: "disk-works" in [row["kind"] for row in EventLog(store).after(0)])
    told = [row for row in EventLog(store).after(0) if row["kind"].startswith("disk")]
    assert [row["kind"] for row in told] == ["disk-refused", "disk-works"]
    assert told[0]["detail"]["sentence"] == "database or disk is full"
    assert told[1]["detail"]["held_back"] >= 1
    runner.close()
    store.close()
    run("umount", directory)


def mount(*arguments: str) -> None:
    """Mount in this process's own view, which `ip netns exec` has made."""
    run("mount", *arguments)


def replace_while_running(directory: str, other: str) -> None:
    store = NetbootStore(Path(directory, "netboot.db"))
    plan = loopback()
    runner = DhcpRunner(DhcpEngine(plan, store.load_leases()), store, plan)
    (before,) = runner.sockets()
    with pytest.raises(SiteError, match="no-such0"):
        runner.replace(loopback(interface="no-such0"), NOW)
    with pytest.raises(SiteError, match="lease is shorter"):
        runner.replace(loopback(interface=other, lease=timedelta(0)), NOW)
    assert runner.sockets() == (before,)
    runner.replace(loopback(interface=other), NOW)
    (after,) = runner.sockets()
    assert before.fileno() == -1
    name = after.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0")
    assert name == other.encode()
    runner.replace(loopback(interface=other, dhcp="off"), NOW)
    assert runner.sockets() == ()
    store.close()


@pytest.mark.boots
def test_no_ack_on_a_full_disk_and_sockets_follow_the_plan(wire: Wire, tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    command = ("ip", "netns", "exec", wire.srv, sys.executable, "-c", RUNNER)
    assert run(*command, here, str(tmp_path), wire.ends[0]).endswith("passed\n")


@pytest.mark.boots
def test_a_foreign_server_is_found_and_named(wire: Wire, tmp_path: Path) -> None:
    assert look(wire, 1) == []
    dnsmasq = subprocess.Popen(
        [
            "ip",
            "netns",
            "exec",
            wire.srv,
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
        ]
        + [
            "--port=0",
            "--no-ping",
            f"--interface={wire.ends[0]}",
            "--bind-interfaces",
            "--user=root",
        ]
        + ["--dhcp-range=10.41.7.200,10.41.7.210,2m", f"--dhcp-leasefile={tmp_path}/leases"]
        + ["--pid-file="],
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: bool(look(wire, 1.5)), 15)
        (line,) = look(wire, 2)
    finally:
        dnsmasq.kill()
        dnsmasq.wait()
    text = run("ip", "-n", wire.srv, "-o", "link", "show", wire.ends[0])
    found = re.search(r"link/ether ([0-9a-f:]+)", text)
    assert found is not None
    assert line == f"{wire.ends[1]} 10.41.7.2 {found[1]}"


def look(wire: Wire, seconds: float) -> list[str]:
    text = run(
        "ip", "netns", "exec", wire.cli, sys.executable, "-c", PROBE, wire.ends[1], str(seconds)
    )
    return text.splitlines()


def test_we_refuse_to_serve_beside_another() -> None:
    refuse_foreign(())
    other = ForeignServer(interface="eth1", address=ADDRESS("10.41.7.1"), mac=mac(1))
    with pytest.raises(SiteError, match=r"eth1: 10\.41\.7\.1 \(02:01:00:00:00:01\)"):
        refuse_foreign([other])


def test_only_an_offer_to_our_question_counts() -> None:
    def frame(kind: MessageType, xid: int = 7, port: int = 68) -> bytes:
        return udp_frame(
            macs=(mac(9), mac(1)),
            addresses=(ADDRESS("10.0.0.1"), ADDRESS("10.0.0.9")),
            ports=(67, port),
            payload=message(kind, mac(1), op=2, xid=xid),
        )

    offer = frame(MessageType.OFFER)
    assert read_offer(offer, 7) == (ADDRESS("10.0.0.1"), mac(9))
    for other in (
        frame(MessageType.NAK),
        frame(MessageType.OFFER, xid=8),
        frame(MessageType.OFFER, port=69),
        offer[:60],
        offer[:12] + b"\x86\xdd" + offer[14:],
        offer[:14] + b"\x65" + offer[15:],
        offer[:23] + b"\x06" + offer[24:],
    ):
        assert read_offer(other, 7) is None
