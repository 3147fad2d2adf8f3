"""The table of IPv6 leases under any order of events: no address has two holders."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import IPv6Address

from dhcp6_lab import (
    FIRST,
    NOW,
    SERVER_DUID,
    Server6,
    config6,
    duid_ll,
    duid_llt,
    duid_of_uuid,
    firmware,
    given,
    ia,
    link_local,
    mac,
    message6,
    subnet6,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from netboot.dhcp6 import Dhcp6Engine
from netboot.dhcp6_message import Kind6, Packet6
from netboot.leases import LeaseState
from netboot.leases6 import TABLE_LIMIT, Lease6
from netboot.network import Reservation6

LEASE = 3600
RESERVED = IPv6Address("fd00:41:7::77")
PLAN = config6(
    subnet6(pools=((FIRST, FIRST + 3),), lease=timedelta(seconds=LEASE)),
    reservations=(Reservation6(mac=mac(0), address=RESERVED, name="till-0"),),
    quarantine=timedelta(minutes=10),
)
NICS = st.integers(0, 5)
NAMES = st.sampled_from([duid_ll, duid_llt, lambda nic: duid_of_uuid(int.from_bytes(nic, "big"))])
KINDS = st.sampled_from([Kind6.RENEW, Kind6.REBIND, Kind6.RELEASE, Kind6.DECLINE])


class Leases(RuleBasedStateMachine):
    """Six NICs of six boxes at four addresses and a reservation; `believed` is what they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server6(PLAN)
        self.disk: dict[IPv6Address, Lease6] = {}
        self.believed: dict[int, tuple[IPv6Address, float]] = {}

    def send(self, nic: int, data: bytes) -> None:
        outcome = self.server.send(data, link_local(mac(nic)))
        for write in outcome.writes:
            self.disk.pop(write.address, None)
            if write.lease is not None:
                self.disk[write.address] = write.lease
        for sent in outcome.sends:
            reply = Packet6.decode(sent.data).message
            if reply.kind is Kind6.REPLY:
                if reply.options.associations:
                    self.believed.pop(nic, None)
                for lent in given(reply):
                    self.believed[nic] = lent.address, self.server.now + lent.valid

    @rule(nic=NICS, name=NAMES, iaid=st.integers(1, 2))
    def boot(self, nic: int, name, iaid: int) -> None:
        asked = (name(mac(nic)), ia(iaid), *firmware())
        self.send(nic, message6(Kind6.SOLICIT, *asked))
        self.send(nic, message6(Kind6.REQUEST, *asked, server=SERVER_DUID))

    @rule(nic=NICS, name=NAMES, kind=KINDS, wanted=st.integers(0, 4))
    def speak(self, nic: int, name, kind: Kind6, wanted: int) -> None:
        held = self.believed.get(nic)
        address = held[0] if held is not None else FIRST + wanted
        server = None if kind is Kind6.REBIND else SERVER_DUID
        if kind in (Kind6.RELEASE, Kind6.DECLINE):
            self.believed.pop(nic, None)
        self.send(nic, message6(kind, name(mac(nic)), ia(1, address), server=server))

    @rule(seconds=st.sampled_from([1, 700, LEASE, 2 * LEASE]))
    def wait(self, seconds: int) -> None:
        self.server.now += seconds

    @rule()
    def restart(self) -> None:
        self.server.engine = Dhcp6Engine(PLAN, tuple(self.disk.values()), SERVER_DUID)

    @invariant()
    def nobody_shares(self) -> None:
        now = self.server.now
        held = [address for address, until in self.believed.values() if until > now]
        assert len(set(held)) == len(held)
        for nic, (address, until) in self.believed.items():
            if until > now:
                row = self.disk[address]
                assert row.is_bound(now)
                assert row.mac == mac(nic)
        assert all(address != RESERVED or nic == 0 for nic, (address, _) in self.believed.items())

    @invariant()
    def memory_is_what_the_disk_says(self) -> None:
        table = {lease.address: lease for lease in self.server.engine._table.leases()}
        assert table == self.disk
        # RFC 8415, 12: an IA of a system is its own; whatever else a box calls itself, it is one
        bound = [(row.mac, row.iaid) for row in table.values() if row.state is LeaseState.BOUND]
        assert len(set(bound)) == len(bound)


Leases.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLeases = Leases.TestCase


def test_ten_thousand_boxes_of_one_subnet_are_looked_up_at_once() -> None:
    """The way from a NIC to its lease does not walk the table."""
    leases = tuple(
        Lease6(
            subnet="tills",
            address=FIRST + number,
            duid=duid_ll(mac(number)),
            iaid=1,
            mac=mac(number),
            uuid=None,
            state=LeaseState.BOUND,
            expires=NOW + LEASE,
            name=None,
        )
        for number in range(4000)
    )
    server = Server6(config6(), leases)
    for number in (0, 1999, 3999):
        duid, source = duid_of_uuid(number + 1), link_local(mac(number))
        assert server.bound(duid, 7, source) == FIRST + number
    assert len(server.engine.leases(NOW)) == 4000


def test_d38_a_flood_of_made_up_clients_leaves_reservations_and_known_boxes_served() -> None:
    leases = tuple(
        Lease6(
            subnet="tills",
            address=IPv6Address(int(FIRST) + number),
            duid=duid_ll(mac(number)),
            iaid=1,
            mac=mac(number),
            uuid=None,
            state=LeaseState.BOUND,
            expires=NOW + (LEASE if number else -1),
            name=None,
        )
        for number in range(TABLE_LIMIT)
    )
    pool = (FIRST, IPv6Address(int(FIRST) + (1 << 62)))
    entry = Reservation6(mac=mac(1 << 20), address=RESERVED, name=None)
    server = Server6(config6(subnet6(pools=(pool,)), reservations=(entry,)), leases)
    assert server.bound(duid_ll(mac(1 << 20)), 1, link_local(mac(1 << 20))) == RESERVED
    assert server.bound(duid_ll(mac(77)), 1, link_local(mac(77))) == FIRST + 77
    stranger = duid_ll(mac(1 << 21))
    assert server.bound(stranger, 1, link_local(mac(1 << 21))) == FIRST  # the one that had ended
    refused = server.request(duid_ll(mac(1 << 22)), source=link_local(mac(1 << 22)))
    assert given(refused) == ()
    assert len(server.engine._table.leases()) == TABLE_LIMIT + 1
