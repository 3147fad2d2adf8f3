"""An attacker on the wire: passes every frame between a box and the LAN, and changes some bytes.

For rehearsals: it shows that what is changed on the way to a box is found out. It replaces texts by
others of the same length in the payload of UDP and TCP, and mends the checksums. It runs as a
process of its own in the boxes' namespace and ends when its standard input is closed.
AF_PACKET with PACKET_VNET_HDR (packet(7)): offloaded checksums and segments stay the kernel's work.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bootstrap.errors import SiteError
from bootstrap.rehearsal.lan import Lan, inside

SOL_PACKET, PACKET_VNET_HDR, PACKET_OUTGOING = 263, 15, 4
VNET_HDR = 10
NEEDS_CSUM = 1
ETH_P_ALL = 3
TCP, UDP = 6, 17


@dataclass(frozen=True, slots=True)
class Swap:
    """One text and what the attacker puts in its place; both of one length."""

    old: bytes
    new: bytes

    def __post_init__(self) -> None:
        """Lengths must agree: the attacker moves nothing."""
        if len(self.old) != len(self.new) or not self.old:
            raise SiteError("a swap on the wire keeps the length")


class Wire:
    """One box's line with the attacker on it: `with Wire(lan, …) as wire`; plug into `tap`."""

    def __init__(self, lan: Lan, *, to_box: Sequence[Swap], to_site: Sequence[Swap] = ()) -> None:
        """Choose names; nothing exists before the context is entered."""
        self._lan = lan
        self._swaps = (tuple(to_site), tuple(to_box))
        self._process: subprocess.Popen[str] | None = None
        self.tap = ""

    def __enter__(self) -> Self:
        """Make the tap and the line, and start the attacker."""
        self.tap = self._lan.add_tap()
        namespace = self._lan.box_namespace
        near, far = f"n{self.tap}", f"f{self.tap}"
        for arguments in (
            ("link", "set", self.tap, "nomaster"),
            ("link", "add", near, "type", "veth", "peer", "name", far),
            ("link", "set", far, "master", Lan.BRIDGE, "up"),
            ("link", "set", near, "promisc", "on", "up"),
            ("link", "set", self.tap, "promisc", "on", "up"),
        ):
            subprocess.run(["ip", "-n", namespace, *arguments], check=True, capture_output=True)
        command = [sys.executable, "-m", "bootstrap.rehearsal.wire", self.tap, near]
        self._process = subprocess.Popen(
            inside(namespace, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        swaps = [[[s.old.hex(), s.new.hex()] for s in direction] for direction in self._swaps]
        self._process.stdin.write(json.dumps(swaps) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "ready\n":
            raise SiteError("the attacker on the wire did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the attacker and take the line away."""
        if self._process is not None:
            self._process.communicate(timeout=10)
        subprocess.run(
            ["ip", "-n", self._lan.box_namespace, "link", "delete", f"n{self.tap}"],
            check=False,
            capture_output=True,
        )


def change(frame: bytes, swaps: Sequence[Swap], *, mend: bool) -> bytes:
    """Apply the swaps to an Ethernet frame's UDP or TCP payload; `mend` computes the checksum."""
    changed = frame
    for swap in swaps:
        changed = changed.replace(swap.old, swap.new)
    if changed == frame or frame[12:14] != b"\x08\x00" or frame[23] not in (TCP, UDP):
        return frame
    return _mended(changed) if mend else changed


def _mended(frame: bytes) -> bytes:
    """Compute the UDP or TCP checksum of an IPv4 frame anew (RFC 768, RFC 9293)."""
    start = 14 + (frame[14] & 15) * 4
    end = 14 + struct.unpack_from(">H", frame, 16)[0]
    segment = bytearray(frame[start:end])
    at = 16 if frame[23] == TCP else 6
    segment[at : at + 2] = b"\0\0"
    pseudo = frame[26:34] + struct.pack(">HH", frame[23], len(segment))
    segment[at : at + 2] = _checksum(pseudo + bytes(segment))
    return frame[:start] + bytes(segment) + frame[end:]


def _checksum(data: bytes) -> bytes:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF or 0xFFFF)


def _open(interface: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
    sock.bind((interface, 0))
    return sock


def _serve(tap: str, near: str) -> None:
    """Pass frames until standard input ends."""
    to_site, to_box = (
        [Swap(bytes.fromhex(old), bytes.fromhex(new)) for old, new in direction]
        for direction in json.loads(sys.stdin.readline())
    )
    box, site = _open(tap), _open(near)
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        selector.register(box, selectors.EVENT_READ, (site, to_site))
        selector.register(site, selectors.EVENT_READ, (box, to_box))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                assert isinstance(key.fileobj, socket.socket)
                _pass_on(key.fileobj, *key.data)


def _pass_on(sock: socket.socket, other: socket.socket, swaps: Sequence[Swap]) -> None:
    data, address = sock.recvfrom(70000)
    if address[2] == PACKET_OUTGOING:
        return
    header, frame = data[:VNET_HDR], data[VNET_HDR:]
    try:
        other.send(header + change(frame, swaps, mend=not header[0] & NEEDS_CSUM))
    except OSError as error:  # a line that is down loses frames, as real ones do
        sys.stderr.write(f"wire: {error.strerror}\n")


if __name__ == "__main__":
    _serve(*sys.argv[1:])
