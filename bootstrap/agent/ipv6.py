"""IPv6 of one NIC: the kernel hears the routers and makes addresses, our own DHCPv6 does the rest.

It asks for an address, then for settings alone, whatever advertisements say of either: what they
announce is a hint, and one of the two questions has no answer. It never decides which network is
used. RFC 8415, 18.2; RFC 4862, 5.4 (DAD); ipv6(7), proc(5) for if_inet6.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Interface
from pathlib import Path

from bootstrap.agent.dhcp6 import (
    Answer6,
    Lease6,
    decline,
    inform,
    read_answer,
    renew,
    request,
    solicit,
)
from bootstrap.agent.errors import BoxError, Code
from bootstrap.agent.ipv4 import TURN, Unwanted
from netboot.dhcp6_message import ALL_SERVERS, CLIENT_PORT6, SERVER_PORT6, Kind6

ADDRESSES = Path("/proc/net/if_inet6")
_TENTATIVE, _DAD_FAILED, _TEMPORARY = 0x40, 0x08, 0x01
_LINK_SCOPE, _GLOBAL_SCOPE = 0x20, 0x00
_SET_ADDRESS = 0x8916
_LOCAL_SECONDS = 5.0
"""For the link-local address: RFC 4862 waits up to 1 s, then asks for 1 s whether it is taken."""
_DAD_SECONDS = 5.0
_TRIES = (2.0, 4.0, 8.0)
_OFFER_WINDOW = 0.5
_RENEW_SECONDS = 4.0
_PAUSE = 0.05
_LONGEST = 65535

Write = Callable[[bytes, int, Lease6], bytes]
"""Writes a message about a lease: MAC and transaction come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    """One line of if_inet6."""

    address: IPv6Interface
    scope: int
    flags: int


def take_lease(name: str, mac: bytes, unwanted: Unwanted) -> Lease6 | None:
    """Take a lease on an interface, or settings for the address that the box made itself.

    None when nobody answers, or the kernel has no IPv6. BoxError when it cannot send.
    """
    local = _await_local(name, unwanted)
    if local is None:
        return None
    with _Exchange(name, mac, local) as exchange:
        for seconds in _TRIES:
            lease = exchange.take(seconds, unwanted)
            if lease is not None or unwanted():
                return lease
    return None


def renewed(name: str, mac: bytes, lease: Lease6) -> Lease6 | None:
    """Extend a lease; one that was not lent ends when the kernel says so. None when it ended."""
    if lease.server is None:
        return lease if _own_address(name) == lease.address else None
    local = _await_local(name, lambda: False)
    if local is None:
        return None
    with _Exchange(name, mac, local) as exchange:
        answer = exchange.ask(renew, lease, _RENEW_SECONDS)
    found = None if answer is None else answer.lease(lease.url)
    return found if found is not None and found.address == lease.address else None


def configure(name: str, mac: bytes, lease: Lease6) -> None:
    """Give the interface its address; BoxError when another machine has it, which is declined.

    Routes are the kernel's: of what is on the link and where to go beyond, routers tell.
    """
    if lease.server is None:
        return
    _set_address(name, lease.address)
    if _await_unique(name, lease.address):
        return
    local = _await_local(name, lambda: False)
    if local is not None:
        with _Exchange(name, mac, local) as exchange:
            exchange.ask(decline, lease, _RENEW_SECONDS)
    raise BoxError(Code.NET_NONE, f"another machine has {lease.address.ip}, which {name} was lent")


class _Exchange:
    """The socket of DHCPv6 on one interface."""

    def __init__(self, name: str, mac: bytes, local: IPv6Address) -> None:
        self._name, self._mac = name, mac
        self._index = socket.if_nametoindex(name)
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
        try:
            self._socket.bind((str(local), CLIENT_PORT6, 0, self._index))
        except OSError as error:
            self._socket.close()
            raise BoxError(Code.NET_NONE, f"{name}, port 546: {error.strerror}") from None

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def take(self, seconds: float, unwanted: Unwanted) -> Lease6 | None:
        """Ask for an address, then for settings where that was not enough; take what was offered.

        Who lends an address and who names a site may be two servers.
        """
        solicited, informed = _transaction(), _transaction()
        self._send(solicit(self._mac, solicited))
        heard, begun, is_informed = _Heard(), time.monotonic(), False
        for data in self._datagrams(seconds, unwanted):
            if data:
                heard.offered(read_answer(data, self._mac, solicited))
                heard.told(read_answer(data, self._mac, informed))
            passed = time.monotonic() - begun
            if heard.has_all:
                break
            if passed > _OFFER_WINDOW and not is_informed:
                self._send(inform(self._mac, informed))
                is_informed = True
            elif passed > 2 * _OFFER_WINDOW and (heard.offer or self._own(heard)):
                break
        if unwanted():
            return None
        if heard.offer is not None:
            answer = self.ask(request, heard.offer, seconds)
            return None if answer is None else answer.lease(heard.url)
        return self._own(heard)

    def _own(self, heard: _Heard) -> Lease6 | None:
        """Give the address that the box made itself, once a server gave the settings."""
        own = _own_address(self._name) if heard.settings is not None else None
        if own is None or heard.settings is None:
            return None
        return Lease6(address=own, dns=heard.settings.dns, server=None, seconds=0, url=heard.url)

    def ask(self, write: Write, lease: Lease6, seconds: float) -> Answer6 | None:
        """Send a message about a lease to its server, and wait for the REPLY."""
        transaction = _transaction()
        self._send(write(self._mac, transaction, lease))
        for data in self._datagrams(seconds, lambda: False):
            answer = read_answer(data, self._mac, transaction) if data else None
            if answer is not None and answer.kind is Kind6.REPLY and answer.server == lease.server:
                return answer
        return None

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, (str(ALL_SERVERS), SERVER_PORT6, 0, self._index))
        except OSError as error:
            raise BoxError(Code.NET_NONE, f"{self._name} cannot send: {error.strerror}") from None

    def _datagrams(self, seconds: float, unwanted: Unwanted) -> Iterator[bytes | None]:
        """Give what comes within the time, and None at every turn without anything."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not unwanted():
            is_there = select.select([self._socket], [], [], min(left, TURN))[0]
            yield self._socket.recv(_LONGEST) if is_there else None


@dataclass(slots=True)
class _Heard:
    """What servers said so far: the best offer, settings, and the first site that was named."""

    offer: Lease6 | None = None
    settings: Answer6 | None = None
    url: str | None = None

    @property
    def has_all(self) -> bool:
        return self.offer is not None and self.url is not None

    def offered(self, answer: Answer6 | None) -> None:
        """Take an ADVERTISE; one that names a site is better than one that was first."""
        if answer is None or answer.kind is not Kind6.ADVERTISE:
            return
        self.url = self.url or answer.url
        lease = answer.lease(None)
        if lease is not None and (self.offer is None or lease.url and not self.offer.url):
            self.offer = lease

    def told(self, answer: Answer6 | None) -> None:
        """Take a REPLY with settings."""
        if answer is None or answer.kind is not Kind6.REPLY:
            return
        self.url = self.url or answer.url
        if self.settings is None or answer.url and not self.settings.url:
            self.settings = answer


def _transaction() -> int:
    return int.from_bytes(os.urandom(3), "big")


def _set_address(name: str, address: IPv6Interface) -> None:
    """Add an address: struct in6_ifreq of <linux/ipv6.h>."""
    index, size = socket.if_nametoindex(name), address.network.prefixlen
    request = struct.pack("=16sIi", address.ip.packed, size, index)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SET_ADDRESS, request)
        except FileExistsError:
            return


def _await_local(name: str, unwanted: Unwanted) -> IPv6Address | None:
    """Wait for the link-local address; None when there is none in time."""
    deadline = time.monotonic() + _LOCAL_SECONDS
    while time.monotonic() < deadline and not unwanted():
        ready = (one for one in _addresses(name) if one.scope == _LINK_SCOPE)
        found = next((one for one in ready if not one.flags & (_TENTATIVE | _DAD_FAILED)), None)
        if found is not None:
            return found.address.ip
        time.sleep(_PAUSE)
    return None


def _await_unique(name: str, address: IPv6Interface) -> bool:
    """Wait until the kernel knows whether another machine has the address; True when none has."""
    deadline = time.monotonic() + _DAD_SECONDS
    while time.monotonic() < deadline:
        flags = [one.flags for one in _addresses(name) if one.address.ip == address.ip]
        if not flags or flags[0] & _DAD_FAILED:
            return False
        if not flags[0] & _TENTATIVE:
            return True
        time.sleep(_PAUSE)
    return True


def _own_address(name: str) -> IPv6Interface | None:
    """Find an address that the kernel made of an advertised prefix, once it may be used."""
    unfit = _TENTATIVE | _DAD_FAILED | _TEMPORARY
    fit = (one for one in _addresses(name) if one.scope == _GLOBAL_SCOPE and not one.flags & unfit)
    return next((one.address for one in fit), None)


def _addresses(name: str) -> Iterator[_Address]:
    try:
        lines = ADDRESSES.read_text().splitlines()
    except OSError:
        return  # a kernel without IPv6
    for line in lines:
        packed, _, size, scope, flags, of = line.split()
        if of == name:
            address = IPv6Interface((bytes.fromhex(packed), int(size, 16)))
            yield _Address(address=address, scope=int(scope, 16), flags=int(flags, 16))
