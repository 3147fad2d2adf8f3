"""Finds the network: every NIC with carrier in turn, our own DHCP, address and route by ioctl.

It needs no other program. It never decides whom to trust: the URL may come from anybody, TLS proves
the site. packet(7), netdevice(7), rtnetlink's older ioctl interface.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from bootstrap.agent import facts
from bootstrap.agent.dhcp import Lease, discover, read_reply, read_site, renew, request
from bootstrap.agent.errors import BoxError, Code
from netboot.dhcp_options import MessageType

Say = Callable[[str], None]

_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914
_SET_ADDRESS, _SET_NETMASK = 0x8916, 0x891C
_ADD_ROUTE = 0x890B
_UP = 0x1
_ETH_P_IP = 0x0800
_CARRIER_SECONDS = 15.0
_NIC_SECONDS = 5.0
_TRIES = (2.0, 4.0, 8.0)
_OFFER_WINDOW = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The interface in use, its MAC and its lease; `since` by the monotonic clock."""

    name: str
    mac: bytes
    lease: Lease
    since: float

    def used(self) -> dict[str, str]:
        """Give the fact `used`."""
        return {"mac": self.mac.hex(":"), "address": str(self.lease.address.ip)}


def find(say: Say) -> Network | None:
    """Take a lease on each NIC with carrier until one names a site; else the first with a lease.

    None when the kernel knows no Ethernet interface at all; BoxError NET-NONE without any lease.
    """
    names = _wait_for_nics()
    if not names:
        return None
    for name in ("lo", *names):
        _link_up(name)
    first: Network | None = None
    for name in _wait_for_carrier(names):
        network = _lease_on(name, say)
        if network is not None and network.lease.url:
            configure(network)
            return network
        first = first or network
    if first is None:
        raise BoxError(Code.NET_NONE, f"no address on {', '.join(names)}: check cable and switch")
    return first


def keep(network: Network, say: Say) -> Network:
    """Renew the lease when half of it is over; the network as it then is."""
    now = time.monotonic()
    if now - network.since < network.lease.seconds / 2:
        return network
    with _open(network.name) as sock:
        xid = _xid()
        _send(sock, network.name, renew(network.mac, xid, network.lease))
        lease = _wait(sock, network.mac, xid, MessageType.ACK, 4.0)
    if lease is None:
        say(f"the lease of {network.name} was not renewed")
        return find(say) or network
    lease = replace(lease, url=lease.url or network.lease.url)
    return Network(name=network.name, mac=network.mac, lease=lease, since=now)


def configure(network: Network) -> None:
    """Give the interface its address and the system its default route and name servers."""
    lease = network.lease
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        _set_address(sock, network.name, _SET_ADDRESS, lease.address.ip)
        _set_address(sock, network.name, _SET_NETMASK, lease.address.netmask)
        if lease.gateway is not None:
            _add_default_route(sock, network.name, lease.gateway)
    text = "".join(f"nameserver {server}\n" for server in lease.dns)
    Path("/etc").mkdir(exist_ok=True)
    Path("/etc/resolv.conf").write_text(text)


def _wait_for_nics() -> list[str]:
    deadline = time.monotonic() + _NIC_SECONDS
    while True:
        names = [str(nic["name"]) for nic in facts.nics()]
        if names or time.monotonic() > deadline:
            return names
        time.sleep(0.1)


def _wait_for_carrier(names: list[str]) -> list[str]:
    """Give the interfaces with carrier; wait for the first, then a moment for the others."""
    deadline = time.monotonic() + _CARRIER_SECONDS
    while time.monotonic() < deadline:
        ready = [str(nic["name"]) for nic in facts.nics() if nic["carrier"]]
        if ready:
            return [name for name in names if name in ready]
        time.sleep(0.05)
    raise BoxError(Code.NET_NONE, f"no cable on {', '.join(names)}")


def _lease_on(name: str, say: Say) -> Network | None:
    mac = bytes.fromhex((facts.SYS / "class/net" / name / "address").read_text().replace(":", ""))
    say(f"asking for an address on {name} ({mac.hex(':')})")
    with _open(name) as sock:
        for seconds in _TRIES:
            lease = _four_way(sock, name, mac, seconds)
            if lease is not None:
                where = f", site at {lease.url}" if lease.url else ", no site named"
                say(f"{name} has {lease.address}{where}")
                return Network(name=name, mac=mac, lease=lease, since=time.monotonic())
    return None


def _four_way(sock: socket.socket, name: str, mac: bytes, seconds: float) -> Lease | None:
    xid = _xid()
    _send(sock, name, discover(mac, xid))
    offer, url = _offers(sock, mac, xid, seconds)
    if offer is None:
        return None
    _send(sock, name, request(mac, xid, offer))
    lease = _wait(sock, mac, xid, MessageType.ACK, seconds)
    return None if lease is None else replace(lease, url=lease.url or url)


def _offers(
    sock: socket.socket, mac: bytes, xid: int, seconds: float
) -> tuple[Lease | None, str | None]:
    """Wait for an OFFER, and for the site that one without an address names.

    When the first names none, others get a moment: the appliance may stand beside another server.
    """
    offer: Lease | None = None
    url: str | None = None
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([sock], [], [], left)[0]:
            break
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
    sock: socket.socket, mac: bytes, xid: int, kind: MessageType, seconds: float
) -> Lease | None:
    """Wait for a reply of one kind; None after the time or a NAK."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([sock], [], [], left)[0]:
            return None
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


def _link_up(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        data = struct.pack("16sH14x", name.encode(), 0)
        flags = struct.unpack_from("H", fcntl.ioctl(sock, _GET_FLAGS, data), 16)[0]
        fcntl.ioctl(sock, _SET_FLAGS, struct.pack("16sH14x", name.encode(), flags | _UP))


def _address(address: IPv4Address) -> bytes:
    """Give a struct sockaddr_in."""
    return struct.pack("=HH4s8x", socket.AF_INET, 0, address.packed)


def _set_address(sock: socket.socket, name: str, call: int, address: IPv4Address) -> None:
    fcntl.ioctl(sock, call, struct.pack("16s16s8x", name.encode(), _address(address)))


def _add_default_route(sock: socket.socket, name: str, gateway: IPv4Address) -> None:
    """Add the default route: struct rtentry of <linux/route.h>, up and through a gateway."""
    import ctypes

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
