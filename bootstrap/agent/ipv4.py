"""IPv4 of one NIC: DHCP by raw frames before there is an address, then address and route by ioctl.

It never decides which network is used. packet(7), netdevice(7), rtnetlink's older ioctl interface.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

from bootstrap.agent.dhcp import Lease, discover, read_reply, read_site, renew, request
from bootstrap.agent.errors import BoxError, Code
from netboot.dhcp_options import MessageType

Unwanted = Callable[[], bool]
"""Tells that nobody waits for the answer any more."""

TURN = 0.2
"""Seconds between two looks at whether the answer is still wanted."""
_SET_ADDRESS, _SET_NETMASK = 0x8916, 0x891C
_ADD_ROUTE = 0x890B
_ETH_P_IP = 0x0800
_TRIES = (2.0, 4.0, 8.0)
_OFFER_WINDOW = 0.5
_RENEW_SECONDS = 4.0


def take_lease(name: str, mac: bytes, unwanted: Unwanted) -> Lease | None:
    """Take a lease on an interface; None when nobody answers. BoxError when it cannot send."""
    with _open(name) as sock:
        for seconds in _TRIES:
            lease = _four_way(sock, name, mac, seconds, unwanted)
            if lease is not None or unwanted():
                return lease
    return None


def renewed(name: str, mac: bytes, lease: Lease) -> Lease | None:
    """Extend a lease; None when nobody does."""
    with _open(name) as sock:
        xid = _xid()
        _send(sock, name, renew(mac, xid, lease))
        found = _wait(sock, mac, xid, MessageType.ACK, _RENEW_SECONDS, lambda: False)
    return None if found is None else replace(found, url=found.url or lease.url)


def configure(name: str, lease: Lease) -> None:
    """Give the interface its address and the system its default route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _set_address(sock, name, _SET_ADDRESS, lease.address.ip)
        _set_address(sock, name, _SET_NETMASK, lease.address.netmask)
        if lease.gateway is not None:
            _add_default_route(sock, name, lease.gateway)


def _four_way(
    sock: socket.socket, name: str, mac: bytes, seconds: float, unwanted: Unwanted
) -> Lease | None:
    xid = _xid()
    _send(sock, name, discover(mac, xid))
    offer, url = _offers(sock, mac, xid, seconds, unwanted)
    if offer is None or unwanted():
        return None
    _send(sock, name, request(mac, xid, offer))
    lease = _wait(sock, mac, xid, MessageType.ACK, seconds, unwanted)
    return None if lease is None else replace(lease, url=lease.url or url)


def _offers(
    sock: socket.socket, mac: bytes, xid: int, seconds: float, unwanted: Unwanted
) -> tuple[Lease | None, str | None]:
    """Wait for an OFFER, and for the site that one without an address names.

    When the first names none, others get a moment: the appliance may stand beside another server.
    """
    offer: Lease | None = None
    url: str | None = None
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not unwanted():
        if not select.select([sock], [], [], min(left, TURN))[0]:
            continue
        packet = sock.recv(4096)
        url = url or read_site(packet, mac, xid)
        found = read_reply(packet, mac, xid)
        lease = found[1] if found is not None and found[0] is MessageType.OFFER else None
        if lease is not None and (offer is None or lease.url):
            offer = lease
            deadline = min(deadline, time.monotonic() + _OFFER_WINDOW)
        if offer is not None and (offer.url or url):
            break
    return offer, url


def _wait(
    sock: socket.socket,
    mac: bytes,
    xid: int,
    kind: MessageType,
    seconds: float,
    unwanted: Unwanted,
) -> Lease | None:
    """Wait for a reply of one kind; None after the time or a NAK."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and not unwanted():
        if not select.select([sock], [], [], min(left, TURN))[0]:
            continue
        found = read_reply(sock.recv(4096), mac, xid)
        if found is not None and found[0] is MessageType.NAK:
            return None
        if found is not None and found[0] is kind:
            return found[1]
    return None


def _open(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
    sock.bind((name, _ETH_P_IP))
    return sock


def _send(sock: socket.socket, name: str, packet: bytes) -> None:
    try:
        sock.sendto(packet, (name, _ETH_P_IP, 0, 1, b"\xff" * 6))
    except OSError as error:
        raise BoxError(Code.NET_NONE, f"{name} cannot send: {error.strerror}") from None


def _xid() -> int:
    return int.from_bytes(os.urandom(4), "big")


def _address(address: IPv4Address) -> bytes:
    """Give a struct sockaddr_in."""
    return struct.pack("=HH4s8x", socket.AF_INET, 0, address.packed)


def _set_address(sock: socket.socket, name: str, call: int, address: IPv4Address) -> None:
    fcntl.ioctl(sock, call, struct.pack("16s16s8x", name.encode(), _address(address)))


def _add_default_route(sock: socket.socket, name: str, gateway: IPv4Address) -> None:
    """Add the default route: struct rtentry of <linux/route.h>, up and through a gateway."""
    device = ctypes.create_string_buffer(name.encode())
    nowhere = _address(IPv4Address(0))
    addresses = nowhere + _address(gateway) + nowhere
    entry = struct.pack(
        "@L48sHhLPhPLLH",
        *(0, addresses, 0x0003, 0, 0, 0, 0, ctypes.addressof(device), 0, 0, 0),
    )
    try:
        fcntl.ioctl(sock, _ADD_ROUTE, entry.ljust(120, b"\0"))
    except FileExistsError:
        return
