"""What was acknowledged is there after kill -9, at any moment, under load."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import threading
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from dhcp_lab import ADDRESS, config, mac, message, selecting, subnet
from dhcp_wire import Box, Lan, Process, die_with_parent, ip
from power_cut import Disk, files_of

from netboot.dhcp import DhcpEngine
from netboot.dhcp_options import Code, MessageType
from netboot.io.dhcp import DhcpRunner
from netboot.io.leases import NetbootStore
from netboot.leases import Lease, LeaseState
from netboot.network import Pool

SERVER = ADDRESS("10.41.7.2")
KILLS = 40
SECONDS = 14.0
"""How long the killing goes on, at most; what was seen by then counts."""
IN_FLIGHT = 24
WATCH_SECONDS = 4.0
POWER_CUTS = 36

SERVE = """
import os, sys
from pathlib import Path
from test_dhcp_crash import serve
print("serving", flush=True)
while True:
    child = os.fork()
    if not child:
        serve(Path(sys.argv[1]), sys.argv[2])
    os.waitpid(child, 0)
"""
"""Forks the server again whenever it is dead: what takes long, the imports, is done once."""


def serve(database: Path, interface: str) -> None:
    """Run the server until it is killed."""
    die_with_parent()
    plan = config(
        subnet(
            interface=interface,
            network=IPv4Network("10.41.0.0/16"),
            pools=(Pool(first=ADDRESS("10.41.8.0"), last=ADDRESS("10.41.60.0")),),
        )
    )
    store = NetbootStore(database)
    runner = DhcpRunner(DhcpEngine(plan, store.load_leases()), store, plan)
    print(os.getpid(), flush=True)
    while True:
        runner.turn(0.5)


class Clients:
    """Boxes that ask, renew, release and decline, and what they may rely on.

    A RELEASE or DECLINE has no answer. The ACK of a later REQUEST says that it was heard, and what
    was heard before an ACK is durable with it.
    """

    def __init__(self, box: Box, chance: random.Random) -> None:
        self.box, self.chance = box, chance
        self.bound: dict[bytes, IPv4Address] = {}
        self.released: dict[bytes, IPv4Address] = {}
        self.declined: set[IPv4Address] = set()
        self.acks = self.ends = 0
        self._number = 0
        self._sent = 0
        self._asked: dict[bytes, int] = {}
        self._unheard: list[tuple[int, MessageType, bytes, IPv4Address]] = []
        self.doubtful: set[bytes] = set()
        """Boxes whose last word may have been lost with the server."""

    def start(self) -> None:
        """Say something new: most often a new box, else an old one."""
        self._sent += 1
        known = [one for one in self.bound if one not in self.doubtful]
        turn = self.chance.random()
        if turn < 0.6 or len(known) < 10:
            self._number += 1
            client = mac(self._number)
            self.box.send(message(MessageType.DISCOVER, client), client)
            return
        client = self.chance.choice(known)
        address = self.bound[client]
        if turn < 0.8:
            self._asked[client] = self._sent
            renewal = message(MessageType.REQUEST, client, ciaddr=address)
            self.box.send(renewal, client, address)
            return
        kind = MessageType.RELEASE if turn < 0.9 else MessageType.DECLINE
        extra = [(Code.SERVER_ID, SERVER.packed)]
        header: dict[str, object] = {"ciaddr": address}
        if kind is MessageType.DECLINE:
            extra.append((Code.REQUESTED_ADDRESS, address.packed))
            header = {}
        self.doubtful.add(client)
        self._unheard.append((self._sent, kind, client, address))
        self.box.send(message(kind, client, *extra, **header), client)

    def listen(self) -> int:
        """Take what came, request what was offered; gives how many ACKs."""
        acks = 0
        for heard in self.box.hear():
            client = heard.message.chaddr
            if heard.kind is MessageType.OFFER:
                self._sent += 1
                self._asked[client] = self._sent
                self.box.send(selecting(client, heard.message.yiaddr), client)
            elif heard.kind is MessageType.ACK and client not in self.doubtful:
                acks += 1
                self.bound[client] = heard.message.yiaddr
                self._confirm(self._asked[client])
        self.acks += acks
        return acks

    def _confirm(self, asked: int) -> None:
        """Count on every RELEASE and DECLINE that was sent before an acknowledged request."""
        for sent, kind, client, address in self._unheard:
            if sent >= asked:
                continue
            self.ends += 1
            self.bound.pop(client, None)
            if kind is MessageType.RELEASE:
                self.released[client] = address
            else:
                self.declined.add(address)
        self._unheard = [entry for entry in self._unheard if entry[0] >= asked]

    def forget_in_flight(self) -> None:
        """The server is dead: what it did not acknowledge is open."""
        self._unheard.clear()
        self._asked.clear()

    def broken(self, rows: dict[IPv4Address, Lease]) -> list[str]:
        """Say which promises the table does not keep."""
        said = []
        for client, address in self.bound.items():
            row = rows.get(address)
            is_bound = row is not None and row.mac == client and row.state is LeaseState.BOUND
            if not is_bound and client not in self.doubtful:
                said.append(f"{client.hex()} has {address}, and the table says {row}")
        for client, address in self.released.items():
            row = rows.get(address)
            if row is not None and row.mac == client and row.state is LeaseState.BOUND:
                said.append(f"{client.hex()} gave {address} back, and the table says {row}")
        for address in self.declined:
            row = rows.get(address)
            if row is None or row.state is not LeaseState.DECLINED:
                said.append(f"{address} was declined, and the table says {row}")
        return said


def read(database: Path, copy: Path) -> dict[IPv4Address, Lease]:
    """Read a copy of what the dead process left, log and all, and check its integrity."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for part in database.parent.glob(f"{database.name}*"):
        if not part.name.endswith("-shm"):
            shutil.copy(part, copy / part.name)
    store = NetbootStore(copy / database.name)
    rows = {lease.address: lease for lease in store.load_leases()}
    store.close()
    with sqlite3.connect(copy / database.name) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return rows


@pytest.mark.boots
def test_d39_what_was_acknowledged_is_there_after_kill_9(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lan = Lan()
    near, far = lan.near[0], lan.far[0]
    database = tmp_path / "netboot.db"
    process: Process | None = None
    try:
        ip("-n", lan.srv, "address", "add", "10.41.7.2/16", "dev", near)
        process = Process(lan.srv, SERVE, str(database), near)
        box = Box(lan.cli, far)
        clients = Clients(box, random.Random(39))
        kills = honoured = 0
        end = time.monotonic() + SECONDS
        while kills < KILLS and time.monotonic() < end:
            pid = int(process.line())
            honoured += ask_again(clients)
            load_until_killed(clients, pid)
            kills += 1
            assert clients.broken(read(database, tmp_path / "copy")) == []
        process.line()
        honoured += ask_again(clients)
    finally:
        if process is not None:
            process.kill()
        lan.close()
    with capsys.disabled():
        print(
            f" {kills} kills, {clients.acks} ACKs and {clients.ends} releases and declines seen, "
            f"0 lost; {honoured} boxes asked again and kept their address",
            end="",
        )
    assert kills >= 5
    assert clients.acks >= 100
    assert clients.ends >= 5
    assert honoured >= 5


def load_until_killed(clients: Clients, pid: int) -> None:
    """Keep the server busy and kill it at a moment that nothing in it chose."""
    killer = threading.Timer(clients.chance.uniform(0.02, 0.35), os.kill, (pid, 9))
    killer.start()
    last = time.monotonic()
    for _ in range(IN_FLIGHT):
        clients.start()
    while killer.is_alive() or time.monotonic() < last + 0.05:
        taken = clients.listen()
        if killer.is_alive():
            last = time.monotonic()
            for _ in range(max(taken, 1)):
                clients.start()
        time.sleep(0.001)
    clients.listen()
    clients.forget_in_flight()


def ask_again(clients: Clients) -> int:
    """Ask the server, newly started, for what some boxes have; gives how many it confirmed."""
    known = [one for one in clients.bound if one not in clients.doubtful]
    some = clients.chance.sample(known, min(3, len(known)))
    for client in some:
        heard = clients.box.request(client, clients.bound[client], None)
        assert heard is not None
        assert (heard.kind, heard.message.yiaddr) == (MessageType.ACK, clients.bound[client])
    return len(some)


@dataclass(frozen=True, slots=True)
class Seen:
    """What clients relied on when so much had come to the disk."""

    entries: int
    bound: dict[bytes, IPv4Address]
    released: dict[bytes, IPv4Address]
    declined: set[IPv4Address]


@pytest.mark.boots
def test_d39_what_was_acknowledged_is_there_after_a_power_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lan = Lan()
    process: Process | None = None
    chance = random.Random(391)
    disk = Disk(tmp_path)
    try:
        ip("-n", lan.srv, "address", "add", "10.41.7.2/16", "dev", lan.near[0])
        with disk.mounted() as root:
            process = Process(lan.srv, SERVE, str(root / "netboot.db"), lan.near[0])
            process.line()
            clients = Clients(Box(lan.cli, lan.far[0]), chance)
            seen = load_and_watch(clients, disk)
            process.kill()
    finally:
        if process is not None:
            process.kill()
        lan.close()
    cuts = promises = 0
    for entries, cut in disk.cuts(seen[0].entries, chance, POWER_CUTS):
        moment = [one for one in seen if one.entries <= entries][-1]
        clients.bound, clients.released = moment.bound, moment.released
        clients.declined = moment.declined
        copy = files_of(cut, tmp_path)
        assert clients.broken(read(copy / "netboot.db", tmp_path / "read")) == []
        cuts += 1
        promises += len(moment.bound) + len(moment.released) + len(moment.declined)
    with capsys.disabled():
        print(
            f" {cuts} power cuts of {clients.acks} ACKs on a disk of {len(disk.journal)} writes "
            f"and flushes, {promises} promises looked up, 0 lost",
            end="",
        )
    assert cuts >= 10
    assert promises >= 500


def load_and_watch(clients: Clients, disk: Disk) -> list[Seen]:
    """Keep the server busy for a while, and note what was acknowledged when."""
    seen: list[Seen] = []
    for _ in range(IN_FLIGHT):
        clients.start()
    end = time.monotonic() + WATCH_SECONDS
    last = time.monotonic()
    while time.monotonic() < end:
        taken = clients.listen()
        if taken:
            last = time.monotonic()
            seen.append(
                Seen(
                    len(disk.journal),
                    dict(clients.bound),
                    dict(clients.released),
                    set(clients.declined),
                )
            )
        elif time.monotonic() > last + 0.5:
            taken, last = IN_FLIGHT, time.monotonic()  # the socket's queue was full
        for _ in range(taken):
            clients.start()
        time.sleep(0.001)
    return seen
