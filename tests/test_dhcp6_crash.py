"""What DHCPv6 acknowledged is there after kill -9, at any moment, under load."""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from dhcp6_lab import US, Wire6, duid_ll, ia, mac, message6, run, serving6

from netboot.dhcp6_message import Kind6, Message6, Packet6, Relay6
from netboot.dhcp6_options import Code6
from netboot.io.leases import NetbootStore
from netboot.io.leases6 import load_leases6, server_duid
from netboot.leases import LeaseState

pytestmark = pytest.mark.boots
KILLS, MOST_KILLS = 8, 60
IN_FLIGHT = 40
LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
from test_dhcp6_crash import load
load(*map(int, sys.argv[2:]))
"""


@pytest.fixture
def wire() -> Iterator[Wire6]:
    made = Wire6()
    yield made
    made.close()


class Load:
    """A relay for boxes that ask; every fourth gives its address back, every fourth declines it.

    `told` is what each may rely on: its address and what became of it. Whose last word had no
    answer is not in it.
    """

    def __init__(self) -> None:
        self.told: dict[int, tuple[IPv6Address, LeaseState]] = {}
        self._open: dict[int, IPv6Address] = {}
        self._relay = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._relay.bind(("fd00:41:7::5", 547))
        self._relay.settimeout(0.5)

    def send(self, number: int, kind: Kind6, server: bytes | None, *held: IPv6Address) -> None:
        asked = (kind, duid_ll(mac(number)), ia(number, *held))
        message = Packet6.decode(message6(*asked, server=server, transaction=kind)).message
        peer = IPv6Address(int(IPv6Address("fe80::1:0")) + number)
        relay = Relay6(kind=Kind6.RELAY_FORWARD, hops=0, link=US, peer=peer)
        packet = Packet6(message=message, relays=(relay,))
        self._relay.sendto(packet.encode(), (str(US), 547))

    def hear(self) -> bool | None:
        """Take one reply and say the next word; True at a box's last, None when nobody speaks."""
        try:
            reply = Packet6.decode(self._relay.recv(4000)).message
        except TimeoutError:
            return None
        (association,) = reply.options.associations
        number, server = association.iaid, reply.options.get(Code6.SERVER_ID)
        if reply.kind is Kind6.ADVERTISE:
            self.send(number, Kind6.REQUEST, server)
            return False
        if reply.transaction == Kind6.REQUEST:
            return self._bound(number, association.addresses[0].address, server)
        self._ended(number, reply)
        return True

    def _bound(self, number: int, address: IPv6Address, server: bytes | None) -> bool:
        last = {0: Kind6.RELEASE, 1: Kind6.DECLINE}.get(number % 4)
        if last is None:
            self.told[number] = address, LeaseState.BOUND
            return True
        self._open[number] = address
        self.send(number, last, server, address)
        return False

    def _ended(self, number: int, reply: Message6) -> None:
        is_release = reply.transaction == Kind6.RELEASE
        state = LeaseState.RELEASED if is_release else LeaseState.DECLINED
        self.told[number] = self._open.pop(number), state


def load(first: int, server: int, milliseconds: int) -> None:
    """Keep the server busy, kill it at a moment that nothing in it chose; print what it said."""
    boxes = Load()
    killer = threading.Timer(milliseconds / 1000, os.kill, (server, 9))
    number = first
    for number in range(first, first + IN_FLIGHT):
        boxes.send(number, Kind6.SOLICIT, None)
    while boxes.hear() is None:
        boxes.send(number, Kind6.SOLICIT, None)
    killer.start()
    while (is_over := boxes.hear()) is not None or killer.is_alive():
        if is_over is not False:
            number += 1
            boxes.send(number, Kind6.SOLICIT, None)
    for number, (address, state) in boxes.told.items():
        print(number, address, state.value)


def is_enough(told: dict[int, tuple[IPv6Address, LeaseState]]) -> bool:
    """Tell whether enough was acknowledged to say something of it: a busy machine does less."""
    states = [state for _, state in told.values()]
    return len(states) >= 100 and all(states.count(state) >= 10 for state in LeaseState)


def test_d39_what_dhcpv6_acknowledged_is_there_after_kill_9(
    wire: Wire6, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relay = ("address", "add", "fd00:41:7::5/64", "dev", wire.ends[1], "nodad")
    run("ip", "-n", wire.cli, *relay)
    database, chance = tmp_path / "netboot.db", random.Random(39)
    told: dict[int, tuple[IPv6Address, LeaseState]] = {}
    duids = set()
    for turn in range(MOST_KILLS):
        if turn >= KILLS and is_enough(told):
            break
        with serving6(wire.srv, database, wire.ends[0]) as server:
            words = (10_000 * (turn + 1), server.pid, chance.randrange(40, 600))
            here = str(Path(__file__).parent)
            text = wire.inside(sys.executable, "-c", LOAD, here, *map(str, words))
            assert server.wait(5) == -9
        for line in text.splitlines():
            number, address, state = line.split()
            told[int(number)] = IPv6Address(address), LeaseState(state)
        store = NetbootStore(database)
        duids.add(server_duid(store))
        rows = {row.iaid: (row.address, row.state) for row in load_leases6(store)}
        store.close()
        lost = {number: said for number, said in told.items() if rows.get(number) != said}
        assert lost == {}
    states = [state for _, state in told.values()]
    assert is_enough(told)
    with capsys.disabled():
        said = ", ".join(f"{states.count(state)} {state.value}" for state in LeaseState)
        print(f" {turn} kills, {len(told)} boxes were told: {said}; 0 lost", end="")
    assert len(duids) == 1  # one server for its clients, whatever happens to the process
