"""Finds the network: every NIC with carrier in turn, IPv4 and IPv6 of it side by side.

It needs no other program. It never decides whom to trust: the URL may come from anybody, TLS proves
the site. netdevice(7).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue

from bootstrap.agent import facts, ipv4, ipv6
from bootstrap.agent.dhcp import Lease
from bootstrap.agent.dhcp6 import Lease6
from bootstrap.agent.errors import BoxError, Code

Say = Callable[[str], None]
Ask = Callable[[str, bytes, ipv4.Unwanted], Lease | Lease6 | None]

_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914
_UP = 0x1
_CARRIER_SECONDS = 15.0
_NIC_SECONDS = 5.0
_OTHER_SECONDS = 4.0
"""How long the other protocol may still answer when one has a lease that names no site, or when
IPv6 was first: roles number IPv4 addresses, so a box that can have one takes it."""
_FAMILIES: tuple[Ask, ...] = (ipv4.take_lease, ipv6.take_lease)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The interface in use, its MAC and its lease; `since` by the monotonic clock."""

    name: str
    mac: bytes
    lease: Lease | Lease6
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
    lease = network.lease
    renewed = (
        ipv4.renewed(network.name, network.mac, lease)
        if isinstance(lease, Lease)
        else ipv6.renewed(network.name, network.mac, lease)
    )
    if renewed is None:
        say(f"the lease of {network.name} was not renewed")
        return find(say) or network
    return replace(network, lease=renewed, since=now)


def configure(network: Network) -> None:
    """Give the interface its address and the system its routes and name servers."""
    if isinstance(network.lease, Lease):
        ipv4.configure(network.name, network.lease)
    else:
        ipv6.configure(network.name, network.mac, network.lease)
    text = "".join(f"nameserver {server}\n" for server in network.lease.dns)
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
    """Ask by IPv4 and IPv6 at once; IPv4 is taken where both name a site in time."""
    mac = bytes.fromhex((facts.SYS / "class/net" / name / "address").read_text().replace(":", ""))
    say(f"asking for an address on {name} ({mac.hex(':')})")
    answers: SimpleQueue[tuple[int, Lease | Lease6 | None]] = SimpleQueue()
    is_over = threading.Event()

    def ask(number: int) -> None:
        lease = None
        try:
            lease = _FAMILIES[number](name, mac, is_over.is_set)
        except (BoxError, OSError) as error:
            say(f"{name}: {error}")
        finally:
            answers.put((number, lease))

    for number in range(len(_FAMILIES)):
        threading.Thread(target=ask, args=(number,), daemon=True).start()
    found = _best(answers)
    is_over.set()
    if found is None:
        return None
    where = f", site at {found.url}" if found.url else ", no site named"
    say(f"{name} has {found.address}{where}")
    return Network(name=name, mac=mac, lease=found, since=time.monotonic())


def _best(answers: SimpleQueue[tuple[int, Lease | Lease6 | None]]) -> Lease | Lease6 | None:
    """Choose a lease that names a site before one that does not, then IPv4 before IPv6."""
    found: dict[int, Lease | Lease6] = {}
    deadline: float | None = None
    for _ in _FAMILIES:
        try:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            number, lease = answers.get(timeout=left)
        except Empty:
            break
        if lease is None:
            continue
        found[number] = lease
        if number == 0 and lease.url:
            break
        deadline = time.monotonic() + _OTHER_SECONDS
    leases = [found[number] for number in sorted(found)]
    return next((one for one in leases if one.url), next(iter(leases), None))


def _link_up(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        data = struct.pack("16sH14x", name.encode(), 0)
        flags = struct.unpack_from("H", fcntl.ioctl(sock, _GET_FLAGS, data), 16)[0]
        fcntl.ioctl(sock, _SET_FLAGS, struct.pack("16sH14x", name.encode(), flags | _UP))
