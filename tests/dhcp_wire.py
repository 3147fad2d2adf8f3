"""Shared by the DHCP tests on a wire: namespaces, clients with sockets of their own, a server.

Sockets are opened by this process inside a namespace, so that a test is both ends of the wire.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path

from dhcp_lab import message

from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.errors import PeerError
from netboot.io.frame import BROADCAST_MAC, interface_mac, udp_frame

ROOT = Path(__file__).parent.parent
NOWHERE, EVERYBODY = IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = count()


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have this thread open its sockets, and look for interfaces, in a namespace."""
    ours, theirs = Path("/proc/thread-self/ns/net"), Path("/run/netns", namespace)
    with ours.open() as here, theirs.open() as there:
        assert _libc.setns(there.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert _libc.setns(here.fileno(), _CLONE_NEWNET) == 0


def die_with_parent() -> None:
    """Have this process killed when the one that forked it is (prctl(2), PR_SET_PDEATHSIG)."""
    assert _libc.prctl(1, signal.SIGKILL) == 0


def until(happened: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class Lan:
    """Namespaces `srv` and `cli`, joined by as many veth pairs as were asked for."""

    def __init__(self, links: int = 1) -> None:
        tag = f"{os.getpid():x}{next(_numbers)}"
        self.srv, self.cli = f"dw-s{tag}", f"dw-c{tag}"
        self.near = [f"s{tag}.{number}" for number in range(links)]
        self.far = [f"c{tag}.{number}" for number in range(links)]
        for namespace in (self.srv, self.cli):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        for number in range(links):
            self.join(number)

    def join(self, number: int) -> None:
        """Add one veth pair, and bring it up."""
        near, far = self.near[number], self.far[number]
        pair = ("type", "veth", "peer", far, "netns", self.cli)
        ip("link", "add", near, "netns", self.srv, *pair)
        for namespace, end in ((self.srv, near), (self.cli, far)):
            ip("-n", namespace, "link", "set", end, "up")

    def close(self) -> None:
        for namespace in (self.srv, self.cli):
            subprocess.run(["ip", "netns", "delete", namespace], check=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A reply as it was on the wire."""

    target: bytes
    source: IPv4Address
    destination: IPv4Address
    message: Message

    @property
    def kind(self) -> MessageType | None:
        return self.message.options.message_type


class Box:
    """Boxes at one end of a wire, by whole frames: they need no address, and have many MACs."""

    def __init__(self, namespace: str, interface: str) -> None:
        with inside(namespace):
            self.mac = interface_mac(interface)
            self.wire = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(0x0003)
            )
            self.wire.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
            self.wire.bind((interface, 0x0003))
            promiscuous = struct.pack("iHH8s", socket.if_nametoindex(interface), 1, 0, b"")
            self.wire.setsockopt(263, 1, promiscuous)
        self.arp: list[bytes] = []

    def send(self, data: bytes, mac: bytes, source: IPv4Address = NOWHERE) -> None:
        """Broadcast a message from port 68."""
        frame = udp_frame(
            macs=(mac, BROADCAST_MAC), addresses=(source, EVERYBODY), ports=(68, 67), payload=data
        )
        self.wire.send(frame)

    def hear(self) -> Iterator[Heard]:
        """Give the DHCP replies that have come; ARP frames are kept in `arp`."""
        while True:
            try:
                frame, place = self.wire.recvfrom(65535)
            except (BlockingIOError, OSError):
                return
            if place[2] == socket.PACKET_OUTGOING:
                continue
            if frame[12:14] == b"\x08\x06":
                self.arp.append(frame)
            elif frame[12:14] == b"\x08\x00" and frame[36:38] in (b"\0\x44", b"\0\x43"):
                with contextlib.suppress(PeerError):
                    yield Heard(
                        target=frame[:6],
                        source=IPv4Address(frame[26:30]),
                        destination=IPv4Address(frame[30:34]),
                        message=Message.decode(frame[42:]),
                    )

    def ask(self, data: bytes, mac: bytes, seconds: float = 10) -> Heard | None:
        """Send and wait for the first reply to this MAC; asks again each second, as boxes do."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            self.send(data, mac)
            while time.monotonic() < min(end, now + 1):
                for heard in self.hear():
                    if heard.message.chaddr == mac:
                        return heard
                time.sleep(0.002)
        return None

    def discover(self, mac: bytes, *extra: tuple[int, bytes], **header: object) -> Heard:
        heard = self.ask(message(MessageType.DISCOVER, mac, *extra, **header), mac)
        assert heard is not None, "no OFFER came"
        return heard

    def request(self, mac: bytes, address: IPv4Address, server: IPv4Address | None) -> Heard | None:
        extra = [(Code.REQUESTED_ADDRESS, address.packed)]
        if server is not None:
            extra.insert(0, (Code.SERVER_ID, server.packed))
        return self.ask(message(MessageType.REQUEST, mac, *extra), mac)

    def bind(self, mac: bytes) -> Heard:
        """Go through a whole four-way exchange."""
        offer = self.discover(mac)
        server = offer.message.options.address(Code.SERVER_ID)
        ack = self.request(mac, offer.message.yiaddr, server)
        assert ack is not None
        assert ack.kind is MessageType.ACK
        return ack

    def close(self) -> None:
        self.wire.close()


class Process:
    """A server process in a namespace; `code` prints "serving" when it does."""

    def __init__(self, namespace: str, code: str, *arguments: str) -> None:
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", code, *arguments]
        path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
        )
        assert self.line() == "serving"

    def line(self) -> str:
        """Read one line that it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
