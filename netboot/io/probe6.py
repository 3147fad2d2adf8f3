"""Look for another DHCPv6 server before serving beside it.

Sends SOLICIT and INFORMATION-REQUEST as an ordinary client and lists who answers; it never requests
an address. Answers are read as whole frames: they tell the server's MAC. RFC 8415, 18.2.
"""

from __future__ import annotations

import contextlib
import secrets
import selectors
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

from netboot.dhcp6_message import ALL_SERVERS, CLIENT_PORT6, SERVER_PORT6, Kind6, Message6, Packet6
from netboot.dhcp6_options import Association, Code6, Options6
from netboot.errors import PeerError, SiteError
from netboot.io.frame import interface_mac
from netboot.io.probe import PROBE_SECONDS, ForeignServer

_REPEAT_SECONDS = 1.0
_ETHERTYPE_IPV6 = 0x86DD
_UDP = 17
_IP_AT, _UDP_AT, _PAYLOAD_AT = 14, 54, 62
"""Where the headers begin; a server that answers with extension headers is not known."""
_ANSWERS = (Kind6.ADVERTISE, Kind6.REPLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ears:
    """The sockets of one interface: one to ask by UDP, one that hears whole frames."""

    name: str
    index: int
    asking: socket.socket
    hearing: socket.socket


def probe6(interfaces: Iterable[str], seconds: float = PROBE_SECONDS) -> tuple[ForeignServer, ...]:
    """Ask on all interfaces at once for `seconds`; SiteError when one cannot be used."""
    transaction = secrets.randbits(24)
    found: dict[ForeignServer, None] = {}
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        all_ears = [_listen(name, stack) for name in interfaces]
        for ears in all_ears:
            selector.register(ears.hearing, selectors.EVENT_READ, ears)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for ears in all_ears:
                _ask(ears, transaction)
            wait = min(left, _REPEAT_SECONDS)
            found |= dict.fromkeys(_collect(selector, transaction, wait))
    return tuple(found)


def read_answer(frame: bytes, transaction: int) -> tuple[IPv6Address, bytes] | None:
    """Read an Ethernet frame as an answer to our question: (server, its MAC), or None.

    UDP checksums are not looked at: inside virtual machines they are left to the hardware.
    """
    if len(frame) < _PAYLOAD_AT or frame[12:14] != struct.pack("!H", _ETHERTYPE_IPV6):
        return None
    if frame[20] != _UDP or frame[_UDP_AT + 2 : _UDP_AT + 4] != struct.pack("!H", CLIENT_PORT6):
        return None
    length = int.from_bytes(frame[_UDP_AT + 4 : _UDP_AT + 6], "big")
    try:
        message = Packet6.decode(frame[_PAYLOAD_AT : _UDP_AT + length]).message
    except PeerError:
        return None
    if message.kind not in _ANSWERS or message.transaction != transaction:
        return None
    return IPv6Address(frame[_IP_AT + 8 : _IP_AT + 24]), frame[6:12]


def questions(mac: bytes, transaction: int) -> tuple[bytes, bytes]:
    """Write what is asked: for an address, and for settings alone."""
    identity = (int(Code6.CLIENT_ID), b"\0\3\0\1" + mac)
    elapsed = (int(Code6.ELAPSED_TIME), bytes(2))
    asked = (int(Code6.OPTION_REQUEST), int(Code6.DNS_SERVERS).to_bytes(2, "big"))
    association = (int(Code6.IA_NA), Association(iaid=1).encode())
    kinds = (
        (Kind6.SOLICIT, (identity, elapsed, asked, association)),
        (Kind6.INFORMATION_REQUEST, (identity, elapsed, asked)),
    )
    solicit, inform = (
        Message6(kind=kind, transaction=transaction, options=Options6(items=items)).encode()
        for kind, items in kinds
    )
    return solicit, inform


def _listen(name: str, stack: contextlib.ExitStack) -> _Ears:
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    asking = stack.enter_context(socket.socket(socket.AF_INET6, kind))
    raw = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    protocol = socket.htons(_ETHERTYPE_IPV6)
    hearing = stack.enter_context(socket.socket(socket.AF_PACKET, raw, protocol))
    try:
        index = socket.if_nametoindex(name)
        hearing.bind((name, _ETHERTYPE_IPV6))
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
        with contextlib.suppress(OSError):  # a client of this machine has it: it works anyhow
            asking.bind(("::", CLIENT_PORT6))
    except OSError as error:
        raise SiteError(f"interface {name}: {error.strerror}") from error
    return _Ears(name=name, index=index, asking=asking, hearing=hearing)


def _ask(ears: _Ears, transaction: int) -> None:
    """Send, or not: on an interface that is down nobody answers."""
    for data in questions(interface_mac(ears.name), transaction):
        with contextlib.suppress(OSError):
            ears.asking.sendto(data, (str(ALL_SERVERS), SERVER_PORT6, 0, ears.index))


def _collect(
    selector: selectors.BaseSelector, transaction: int, seconds: float
) -> Iterator[ForeignServer]:
    """Give the servers that answer within `seconds`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            try:
                frame, address = key.data.hearing.recvfrom(65535)
            except OSError:
                continue
            is_ours = address[2] == socket.PACKET_OUTGOING
            answer = None if is_ours else read_answer(frame, transaction)
            if answer is not None:
                yield ForeignServer(interface=key.data.name, address=answer[0], mac=answer[1])
