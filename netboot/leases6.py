"""Who holds which IPv6 address: clients, reservations and leases as one pure table.

One box on one link keeps one address, whatever DUID and IAID its firmware, loader and system send.
Nothing is held for an ADVERTISE: an address is chosen by a hash of who asks, so that a flood of
them leaves no trace and the next message finds the same one. It never reads a clock or a file:
what must be durable it returns as writes. RFC 8415, 6 and 18.3.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from ipaddress import IPv6Address
from typing import TypeVar

from netboot.dhcp6_options import duid_mac, duid_uuid
from netboot.leases import LeaseState
from netboot.links6 import (
    Link,
    Span6,
    check_plan6,
    identities,
    is_in_pools,
    nth,
    same_uuid,
    subnet_of,
)
from netboot.network import Identify, Reservation6, Subnet6Plan
from netboot.pools import PoolState

MEMORY_SECONDS = 86400.0
"""How long after its lease a box's address is kept from strangers that ask for it by name."""
TABLE_LIMIT = 65536
"""Rows of all links: a flood of made-up clients ends here. Then ended leases are given again."""
_SLACK = 64
_PROBES = 32
"""Places that are tried for each client; beyond, an address is no more the same after a loss."""
_HEIRS = 16
"""Rows by one name that are looked at: a bridge or a relay may send for thousands by one MAC."""

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Client6:
    """Who asks: `duid` as it came, `mac` of the NIC that asks, where the network tells it.

    `circuit_id` and `remote_id` are what the relay next to the client adds, `boots` is true for
    firmware and loaders, `classes` are names.
    """

    duid: bytes
    mac: bytes | None
    circuit_id: bytes | None = None
    remote_id: bytes | None = None
    boots: bool = False
    classes: frozenset[str] = frozenset()

    @property
    def uuid(self) -> bytes | None:
        """The box's UUID, the same for either byte order."""
        return same_uuid(duid_uuid(self.duid))

    @property
    def told_mac(self) -> bytes | None:
        """The NIC's address, else the one in the DUID, which may be of another NIC of the box."""
        return self.mac or duid_mac(self.duid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease6:
    """One address and its last holder; `mac` of the NIC if known, `uuid` as `same_uuid` gives it.

    `expires` in unix seconds, of the quarantine if declined.
    """

    subnet: str
    address: IPv6Address
    duid: bytes
    iaid: int
    mac: bytes | None
    uuid: bytes | None
    state: LeaseState
    expires: float
    name: str | None

    def blocks(self, now: float) -> bool:
        """Tell whether the address is taken, by its holder or by quarantine."""
        return self.state is not LeaseState.RELEASED and self.expires > now

    def is_bound(self, now: float) -> bool:
        """Tell whether the holder may use the address now."""
        return self.state is LeaseState.BOUND and self.expires > now


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWrite6:
    """A row to make durable: the lease of this address from now on, None to remove it."""

    address: IPv6Address
    lease: Lease6 | None


class LeaseTable6:
    """Leases and quarantine of all links; `replace` changes the plan and keeps them."""

    def __init__(
        self,
        subnets: Iterable[Subnet6Plan],
        reservations: Iterable[Reservation6],
        leases: Iterable[Lease6] = (),
        identify: Identify = Identify.MAC,
    ) -> None:
        """Take a plan and what was given before; SiteError."""
        self._leases: dict[IPv6Address, Lease6] = {}
        self._numbers: set[int] = set()
        self._known: dict[bytes, dict[IPv6Address, None]] = {}
        self._exact: dict[tuple[bytes, int], dict[IPv6Address, None]] = {}
        self._ends: defaultdict[str, list[tuple[float, IPv6Address]]] = defaultdict(list)
        self._most = _SLACK
        self.replace(subnets, reservations, identify)
        for lease in leases:
            self._store(lease)

    def replace(
        self,
        subnets: Iterable[Subnet6Plan],
        reservations: Iterable[Reservation6],
        identify: Identify = Identify.MAC,
    ) -> None:
        """Take another plan and keep what was given; SiteError, and the old plan stays."""
        subnets, reservations = tuple(subnets), tuple(reservations)
        check_plan6(subnets, reservations)
        self._identify = identify
        self._ours = frozenset(subnet.appliance for subnet in subnets)
        self._reserved = {entry.address: entry for entry in reservations if entry.address}
        never = frozenset(map(int, (*self._reserved, *self._ours)))
        self._pools = {
            subnet.name: tuple(
                PoolState(Span6(first=first, last=last), never) for first, last in subnet.pools
            )
            for subnet in subnets
        }
        self._reservations: dict[bytes, tuple[Reservation6, ...]] = {}
        for entry in reservations:
            name = identities(entry)[0]
            self._reservations[name] = (*self._reservations.get(name, ()), entry)

    def leases(self) -> tuple[Lease6, ...]:
        """Every row, bound or not."""
        return tuple(self._leases.values())

    def reservation(self, client: Client6, link: Link) -> Reservation6 | None:
        """Find the client's reservation on this link, else one without an address.

        By DUID, UUID, MAC, then by its relay.
        """
        if not self._reservations:
            return None
        found = None
        told = (
            (b"d", client.duid),
            (b"u", client.uuid),
            (b"m", client.mac),
            (b"m", duid_mac(client.duid)),
            (b"c", client.circuit_id),
            (b"r", client.remote_id),
        )
        for letter, name in told:
            for entry in self._reservations.get(letter + name, ()) if name else ():
                if entry.address is None:
                    found = found or entry
                elif subnet_of(entry.address, link) is not None:
                    return entry
        return found

    def row(self, client: Client6, iaid: int, link: Link, others: Collection[int]) -> Lease6 | None:
        """Find what this IA holds or held last, else what the same NIC did by another name.

        `others` are the IAIDs beside it in one message: what those hold is never taken over.
        """
        exact = self._exact.get((client.duid, iaid), {})
        row = next((row for row in self._fitting(client, exact, link)), None)
        if row is not None or self._identify is Identify.CLIENT_ID:
            return row
        heirs = self._fitting(client, self._names_of(client), link)
        found = {
            row.address: row
            for row in heirs
            if row.iaid not in others and self._is_heir(client, row)
        }
        return self._nearest(client, iaid, link, found)

    def _nearest(
        self, client: Client6, iaid: int, link: Link, found: Mapping[IPv6Address, Lease6]
    ) -> Lease6 | None:
        """Choose among several rows the one nearest to where the client's walk begins.

        Firmware that boots asks beside that as a plain host, with another IAID: what it booted with
        is the system's, however the two were renewed and released since.
        """
        if len(found) > 1:
            walk = (one for subnet in link for one in self._probe(client, iaid, subnet))
            nearest = next((address for address in walk if address in found), None)
            if nearest is not None:
                return found[nearest]
        return next(iter(found.values()), None)

    def _fitting(
        self, client: Client6, addresses: Iterable[IPv6Address], link: Link
    ) -> Iterator[Lease6]:
        """Give the rows of a link that no other NIC holds."""
        is_by_duid = self._identify is Identify.CLIENT_ID
        for row in (self._leases[address] for address in addresses):
            is_its_nic = row.mac in (None, client.mac) or client.mac is None
            is_held = row.state is not LeaseState.DECLINED
            if is_held and (is_by_duid or is_its_nic) and subnet_of(row.address, link) is not None:
                yield row

    def _is_heir(self, client: Client6, row: Lease6) -> bool:
        """Tell whether a row of this NIC or box is the client's under another DUID or IAID.

        Systems on one wire that name two NICs in their DUIDs are two clients, wherever their
        packets come from: so do relays, bridges and test suites send. RFC 8415, 11.
        """
        if row.duid == client.duid:
            # firmware makes up another IAID at each boot; IAs of a system are each their own
            is_firmware = client.boots or duid_uuid(client.duid) is not None
            return is_firmware and client.mac is not None and row.mac == client.mac
        theirs, ours = duid_mac(row.duid), duid_mac(client.duid)
        return theirs is None or ours is None or theirs == ours

    def _names_of(self, client: Client6) -> dict[IPv6Address, None]:
        """Give the addresses of rows that go by any of the client's names."""
        found: dict[IPv6Address, None] = {}
        for name in (client.duid, client.mac, client.uuid, duid_mac(client.duid)):
            if name is not None:
                found |= self._known.get(name, {})
        return found

    def may_have(
        self, client: Client6, row: Lease6 | None, address: IPv6Address, link: Link, now: float
    ) -> bool:
        """Tell whether the plan allows the client this address and nobody else has it."""
        subnet = subnet_of(address, link)
        if subnet is None or subnet.dhcp != "stateful":
            return False
        is_kept = row is not None and row.address == address and row.is_bound(now)
        if not is_kept and not _may_enter(client, subnet):
            return False
        reserved = self._reserved.get(address)
        if reserved is not None:
            if reserved is not self.reservation(client, link):
                return False
        elif address in self._ours or not is_in_pools(address, subnet):
            return False
        return self._is_free(row, address, now)

    def _is_free(self, row: Lease6 | None, address: IPv6Address, now: float) -> bool:
        lease = self._leases.get(address)
        return lease is None or not lease.blocks(now) or lease == row

    def choose(
        self,
        client: Client6,
        iaid: int,
        link: Link,
        *,
        wanted: Iterable[IPv6Address],
        others: Collection[int],
        taken: Collection[IPv6Address],
        now: float,
    ) -> IPv6Address | None:
        """Choose reserved, held before, wanted, fresh, longest unused; None when there is none.

        `taken` are addresses of the client's other IAs in the same message.
        """
        row = self.row(client, iaid, link, others)
        for address in self._favourites(client, row, link, wanted, now):
            if address not in taken and self.may_have(client, row, address, link, now):
                return address
        fresh = None
        if len(self._leases) < TABLE_LIMIT:
            fresh = self._fresh(client, iaid, link, taken)
        return fresh or self._unused(client, link, taken, now)

    def _fresh(
        self, client: Client6, iaid: int, link: Link, taken: Collection[IPv6Address]
    ) -> IPv6Address | None:
        """Find an address that nobody had: near a place of the client's own, else the lowest."""
        open_to = [one for one in link if one.dhcp == "stateful" and _may_enter(client, one)]
        for subnet in open_to:
            for address in self._probe(client, iaid, subnet):
                is_lent = address in self._leases or address in taken
                if not is_lent and address not in self._reserved and address not in self._ours:
                    return address
        lowest = (self._lowest(subnet, taken) for subnet in open_to)
        return next((address for address in lowest if address is not None), None)

    def _lowest(self, subnet: Subnet6Plan, taken: Collection[IPv6Address]) -> IPv6Address | None:
        numbers = frozenset(map(int, taken))
        for pool in self._pools.get(subnet.name, ()):
            found = pool.fresh(lambda one: one in self._numbers or one in numbers)
            for number in numbers:
                pool.give_back(number)  # it is not lent, only not to be named twice
            if found is not None:
                return IPv6Address(found)
        return None

    def _favourites(
        self,
        client: Client6,
        row: Lease6 | None,
        link: Link,
        wanted: Iterable[IPv6Address],
        now: float,
    ) -> Iterator[IPv6Address]:
        reservation = self.reservation(client, link)
        if reservation is not None and reservation.address is not None:
            yield reservation.address
        if row is not None:
            yield row.address
        for address in wanted:
            lease = self._leases.get(address)
            if lease is None or lease.expires + MEMORY_SECONDS <= now:
                yield address

    def _probe(self, client: Client6, iaid: int, subnet: Subnet6Plan) -> Iterator[IPv6Address]:
        """Walk the pools from a place that the client alone decides (RFC 7943, 4.1, in spirit)."""
        sizes = [int(last) - int(first) + 1 for first, last in subnet.pools]
        total = sum(sizes)
        named = duid_mac(client.duid)
        name = (named or client.mac or client.uuid or client.duid) + iaid.to_bytes(4, "big")
        if self._identify is Identify.CLIENT_ID:
            name = client.duid + iaid.to_bytes(4, "big")
        elif client.mac is not None and named in (None, client.mac):
            name = client.mac  # firmware makes up another IAID at each boot
        start = int.from_bytes(hashlib.sha256(name).digest()[:16], "big") % max(total, 1)
        for step in range(min(total, _PROBES)):
            yield nth(subnet, sizes, (start + step) % total)

    def _unused(
        self, client: Client6, link: Link, taken: Collection[IPv6Address], now: float
    ) -> IPv6Address | None:
        """Find the address whose lease ended first."""
        found = (self._oldest(client, subnet.name, link, taken, now) for subnet in link)
        return min((note for note in found if note), default=(0.0, None))[1]

    def _oldest(
        self,
        client: Client6,
        subnet: str,
        link: Link,
        taken: Collection[IPv6Address],
        now: float,
    ) -> tuple[float, IPv6Address] | None:
        """Find the note of the row of one subnet that ended first and that the client may have."""
        notes, passed = self._ends[subnet], []
        found = None
        while notes and notes[0][0] <= now and found is None:
            note = heappop(notes)
            lease = self._leases.get(note[1])
            if lease is None or lease.expires != note[0]:
                continue
            passed.append(note)
            if note[1] not in taken and self.may_have(client, None, note[1], link, now):
                found = note
        for note in passed:
            heappush(notes, note)
        return found

    def bind(
        self,
        client: Client6,
        iaid: int,
        address: IPv6Address,
        link: Link,
        *,
        others: Collection[int],
        now: float,
    ) -> tuple[LeaseWrite6, ...]:
        """Give the address for its subnet's lease time; the IA's row before, if elsewhere, goes."""
        subnet = subnet_of(address, link)
        if subnet is None:
            raise ValueError(f"{address} is not on this link")
        before = self.row(client, iaid, link, others)
        entry = self._reserved.get(address)
        if entry is None:
            own = self.reservation(client, link)
            entry = own if own is not None and own.address is None else None
        lease = Lease6(
            subnet=subnet.name,
            address=address,
            duid=client.duid,
            iaid=iaid,
            mac=client.mac or (before.mac if before is not None else None),
            uuid=client.uuid or (before.uuid if before is not None else None),
            state=LeaseState.BOUND,
            expires=now + subnet.lease.total_seconds(),
            name=entry.name if entry is not None else None,
        )
        writes = []
        if before is not None and before.address != address:
            self._forget(before.address)
            writes.append(LeaseWrite6(address=before.address, lease=None))
        self._store(lease)
        return (*writes, LeaseWrite6(address=address, lease=lease))

    def end(self, row: Lease6, state: LeaseState, until: float) -> tuple[LeaseWrite6, ...]:
        """End a lease: released (the row stays, for the same box), or declined until a time."""
        ended = replace(row, state=state, expires=until)
        self._store(ended)
        return (LeaseWrite6(address=row.address, lease=ended),)

    def _store(self, lease: Lease6) -> None:
        self._forget(lease.address)
        self._leases[lease.address] = lease
        self._numbers.add(int(lease.address))
        self._exact.setdefault((lease.duid, lease.iaid), {})[lease.address] = None
        for name in _names(lease):
            found = self._known.setdefault(name, {})
            found[lease.address] = None
            if len(found) > _HEIRS:
                del found[next(iter(found))]
        heappush(self._ends[lease.subnet], (lease.expires, lease.address))
        if sum(map(len, self._ends.values())) > self._most:
            self._ends.clear()
            for row in self._leases.values():
                self._ends[row.subnet].append((row.expires, row.address))
            for notes in self._ends.values():
                heapify(notes)
            self._most = 2 * len(self._leases) + _SLACK

    def _forget(self, address: IPv6Address) -> None:
        lease = self._leases.pop(address, None)
        if lease is None:
            return
        self._numbers.discard(int(address))
        for pool in self._pools.get(lease.subnet, ()):
            pool.give_back(int(address))
        _drop(self._exact, (lease.duid, lease.iaid), address)
        for name in _names(lease):
            _drop(self._known, name, address)


def _drop(index: dict[_Key, dict[IPv6Address, None]], key: _Key, address: IPv6Address) -> None:
    addresses = index.get(key, {})
    addresses.pop(address, None)
    if not addresses:
        index.pop(key, None)


def _names(lease: Lease6) -> frozenset[bytes]:
    names = (lease.duid, lease.mac, lease.uuid, duid_mac(lease.duid))
    return frozenset(name for name in names if name is not None)


def _may_enter(client: Client6, subnet: Subnet6Plan) -> bool:
    """Tell whether addresses of this subnet are lent to a client of these classes."""
    return not subnet.classes or not subnet.classes.isdisjoint(client.classes)
