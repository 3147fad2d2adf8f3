"""The DHCP server from outside: its own process in a namespace, packets by scapy in another.

A lab has one wire, with a relay at its far end, and more wires with clients of their own. What the
server is told is a site file, what it answers are frames.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from typing import Any

from dhcp_wire import ROOT, die_with_parent, inside, ip, until
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from netboot.io.frame import interface_mac

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
EVERYBODY = "255.255.255.255"
RELAY, US = "10.99.0.2", "10.99.0.1"
_numbers = count()
_xids = count(0x51000000)
_HEAD = """
[site]
id = "outside"
domain = "lab.example.net"
[[reservation]]
mac = "02:fe:fe:fe:fe:fe"
address = "10.99.0.9"
[[subnet]]
name = "relayed"
interface = "{near}"
network = "10.99.0.0/24"
appliance = "10.99.0.1"
"""
_FROM_SERVER = (
    (0x28, 0, 0, 12),
    (0x15, 0, 5, 0x0800),
    (0x30, 0, 0, 23),
    (0x15, 0, 3, 17),
    (0x28, 0, 0, 34),
    (0x15, 0, 1, 67),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)
"""What a wire hears: IPv4, UDP, from port 67 (bpf(2), classic; SO_ATTACH_FILTER)."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A reply as it was on the wire; `options` by code, joined, in wire order."""

    target: bytes
    destination: str
    source: str
    port: int
    data: bytes
    fields: Any
    options: Mapping[int, bytes]

    @property
    def kind(self) -> int:
        return self.options[53][0]


def walk(area: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the options of one field; AssertionError when it does not end as RFC 2132, 3.2 says."""
    at = 0
    while area[at] != 255:
        if area[at]:
            yield area[at], area[at + 2 : at + 2 + area[at + 1]]
            at += 1 + area[at + 1]
        at += 1
    assert not any(area[at + 1 :]), "bytes after END"


def read_frame(raw: bytes) -> Frame:
    outer = Ether(raw)
    data = bytes(outer[UDP].payload)[: outer[UDP].len - 8]
    fields = BOOTP(data)
    options: dict[int, bytes] = {}
    areas = [data[240:]]
    for area in areas:
        for code, value in walk(area):
            options[code] = options.get(code, b"") + value
        if area is areas[0]:
            overload = options.get(52, b"\0")[0]
            areas += [data[108:236]] * (overload & 1) + [data[44:108]] * (overload >> 1)
    return Frame(
        target=raw[:6],
        destination=outer[IP].dst,
        source=outer[IP].src,
        port=outer[UDP].dport,
        data=data,
        fields=fields,
        options=options,
    )


class Wire:
    """The far end of one wire, by whole frames."""

    def __init__(self, namespace: str, interface: str) -> None:
        with inside(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
            code = b"".join(struct.pack("HBBI", *line) for line in _FROM_SERVER)
            self._filter = ctypes.create_string_buffer(code)
            program = struct.pack("HL", len(_FROM_SERVER), ctypes.addressof(self._filter))
            self._socket.setsockopt(socket.SOL_SOCKET, 26, program)
            self._socket.bind((interface, 3))
            wanted = struct.pack("iHH8s", socket.if_nametoindex(interface), 1, 0, b"")
            self._socket.setsockopt(263, 1, wanted)
        self.mac = self._socket.getsockname()[4]

    def send(self, frame: Any) -> None:
        self._socket.send(bytes(frame))

    def hear(self, seconds: float) -> Frame | None:
        """Wait for the next DHCP reply."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                raw, place = self._socket.recvfrom(65535)
            except TimeoutError:
                return None
            is_reply = raw[12:14] == b"\x08\x00" and raw[23] == 17 and raw[34:36] == b"\0\x43"
            if is_reply and place[2] != socket.PACKET_OUTGOING and raw[42] == 2:
                return read_frame(raw)
        return None

    def close(self) -> None:
        self._socket.close()


@dataclass
class Lab:
    """Two namespaces; wire 0 has a relay at 10.99.0.2 behind which all of 10.77.0.0/16 is."""

    base: Path
    wires: int
    tag: str = field(default_factory=lambda: f"{next(_numbers)}{time.time_ns() % 0xFFFFF:x}")
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.srv, self.cli = f"do-s{self.tag}", f"do-c{self.tag}"
        self.site, self.log = self.base / "site.toml", self.base / "log"
        for name in (self.srv, self.cli):
            ip("netns", "add", name)
        near, far = [], ["address add 10.99.0.2/24 dev f0"]
        for number in range(self.wires):
            near += [f"link add n{number} type veth peer f{number} netns {self.cli}"]
            near += [f"link set n{number} up"]
            far += [f"link set f{number} up"]
        near += ["link set lo up", "address add 10.99.0.1/24 dev n0"]
        self.batch(self.srv, near)
        self.batch(self.cli, far)
        self.batch(self.srv, ["route add 10.77.0.0/16 via 10.99.0.2"])
        self.far = [Wire(self.cli, f"f{number}") for number in range(self.wires)]
        with inside(self.srv):
            self.mac = interface_mac("n0")

    def batch(self, namespace: str, lines: list[str]) -> None:
        text = "\n".join(lines).encode()
        subprocess.run(["ip", "-n", namespace, "-batch", "-"], input=text, check=True, timeout=30)

    def command(self, *words: str) -> list[str]:
        netns = ["ip", "netns", "exec", self.srv, sys.executable, "-m", "bootstrap.cli", "netboot"]
        return [*netns, *words, "--site", str(self.site), "--state", str(self.base / "state")]

    def write(self, text: str) -> None:
        fresh = self.base / "site.new"
        fresh.write_text(_HEAD.format(near="n0") + text)
        fresh.rename(self.site)

    def start(self, text: str) -> None:
        self.write(text)
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("run", "--no-probe"),
                stderr=log,
                cwd=ROOT,
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        until(lambda: "doorstep: serving " in self.said())

    def said(self) -> str:
        text = self.log.read_text(errors="replace")
        assert self.process is None or self.process.poll() is None, text
        return text

    def change(self, text: str) -> None:
        """Have another site file taken; everything before it has been answered by then."""
        before = self.said().count("doorstep: serving ")
        self.write(text)
        until(lambda: self.said().count("doorstep: serving ") > before)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for wire in self.far:
            wire.close()
        for name in (self.srv, self.cli):
            subprocess.run(["ip", "netns", "delete", name], check=False)

    # One packet

    def ask(self, wire: int, packet: Any, *, is_answered: bool) -> Frame | None:
        """Send, and give the one reply; None when nothing came before what was asked later."""
        far = self.far[wire]
        far.send(packet)
        if is_answered:
            return far.hear(5)
        return self.silence(wire)

    def silence(self, wire: int) -> Frame | None:
        """Ask as a client whose ACK comes after all that was asked before; give what came."""
        mac, xid = b"\x02" + b"\xfe" * 5, next(_xids)
        chosen = [("server_id", US), ("requested_addr", "10.99.0.9")]
        self.far[0].send(direct(message(REQUEST, mac, *chosen, xid=xid), mac))
        found = None
        while (heard := self.far[0].hear(10)) is not None:
            if heard.fields.xid == xid:
                break
            found = heard
        assert heard is not None, "the server is not there any more"
        return found if wire == 0 else self.far[wire].hear(0.0005)


def message(kind: int | None, mac: bytes, *options: Any, **header: Any) -> Any:
    """Make a message; option 53 first where there is a kind."""
    first = [] if kind is None else [("message-type", kind)]
    said = {"op": 1, "htype": 1, "hlen": 6, "chaddr": mac, "xid": next(_xids)} | header
    return BOOTP(**said) / DHCP(options=[*first, *options, "end"])


def direct(payload: Any, mac: bytes, source: str = "0.0.0.0", to: str = EVERYBODY) -> Any:
    """Broadcast it as a client does."""
    sport = IP(src=source, dst=to) / UDP(sport=68, dport=67)
    return Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / sport / payload


def relayed(payload: Any, lab: Lab, giaddr: str) -> Any:
    """Send it to us as a relay does."""
    return (
        Ether(src=lab.far[0].mac, dst=lab.mac)
        / IP(src=giaddr, dst=US)
        / UDP(sport=67, dport=67)
        / payload
    )


def packed(text: str) -> bytes:
    return IPv4Address(text).packed
