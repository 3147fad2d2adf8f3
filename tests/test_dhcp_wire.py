"""The DHCP server on wires of its own making: squatters, links that come and go, floods, clocks."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from dhcp_lab import ADDRESS, RESERVED_MAC, config, mac, message, selecting, subnet
from dhcp_wire import NOWHERE, Box, Lan, inside, ip, until

from netboot.dhcp import Arrival, DhcpConfig, DhcpEngine
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.events import Event, EventKind
from netboot.io.arp import ALL_CLAIMS, CLAIM_SECONDS, CLAIMS, Claims
from netboot.io.dhcp import DhcpRunner
from netboot.io.frame import arp_probe, read_arp
from netboot.io.leases import EventLog, NetbootStore
from netboot.leases import Lease, LeaseState, LeaseWrite
from netboot.network import Parameters, Pool, SubnetPlan

OURS = ADDRESS("10.41.7.2")
FIRST = ADDRESS("10.41.7.100")


@pytest.fixture
def lan() -> Iterator[Lan]:
    made = Lan(links=2)
    yield made
    made.close()


class Serving:
    """A runner in a thread of its own, in the server's namespace."""

    def __init__(self, lan: Lan, path: Path, plan: DhcpConfig, *, probe: bool = False) -> None:
        self.store = NetbootStore(path)
        self._lan, self._plan, self._probe = lan, plan, probe
        self._is_over = threading.Event()
        self._is_ready = threading.Event()
        self.runner: DhcpRunner | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._is_ready.wait(20)

    def _run(self) -> None:
        with inside(self._lan.srv):
            engine = DhcpEngine(self._plan, self.store.load_leases())
            self.runner = DhcpRunner(engine, self.store, self._plan, probe=self._probe)
            self._is_ready.set()
            while not self._is_over.is_set():
                self.runner.turn(0.05)
            self.runner.close()

    @property
    def trouble(self) -> str | None:
        assert self.runner is not None
        return self.runner.trouble

    def events(self, kind: str) -> list[dict[str, object]]:
        return [row for row in EventLog(self.store).after(0, 10_000) if row["kind"] == kind]

    def close(self) -> None:
        self._is_over.set()
        self._thread.join(20)
        self.store.close()


@contextmanager
def serving(lan: Lan, path: Path, *subnets: SubnetPlan, **more: object) -> Iterator[Serving]:
    probe = bool(more.pop("probe", False))
    plan = config(*(subnets or (subnet(interface=lan.near[0]),)), **more)
    server = Serving(lan, path, plan, probe=probe)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "netboot.db"


def give(namespace: str, interface: str, address: str) -> None:
    ip("-n", namespace, "address", "add", address, "dev", interface)


def second(lan: Lan) -> SubnetPlan:
    return subnet(
        name="scales",
        interface=lan.near[1],
        network=IPv4Network("10.41.8.0/24"),
        appliance=ADDRESS("10.41.8.2"),
        gateway=None,
        pools=(Pool(first=ADDRESS("10.41.8.100"), last=ADDRESS("10.41.8.109")),),
    )


# Addresses asked by ARP ahead of time


@pytest.mark.boots
def test_d28_a_squatted_address_is_never_offered_and_no_offer_waits(
    lan: Lan, database: Path
) -> None:
    give(lan.srv, lan.near[0], "10.41.7.2/24")
    give(lan.cli, lan.far[0], f"{FIRST}/24")
    box = Box(lan.cli, lan.far[0])
    with serving(lan, database, probe=True) as server:
        until(lambda: server.events("address-in-use"))
        # Only the squatter answers, and it is asked without being told an address of ours.
        offers = [box.discover(mac(number)).message.yiaddr for number in range(1, 6)]
        assert FIRST not in offers
        assert len(set(offers)) == 5
        (event,) = server.events("address-in-use")
        until(lambda: LeaseState.DECLINED in {one.state for one in server.store.load_leases()})
        # While the rest of the pool is being asked, clients are served.
        assert box.bind(mac(7)).message.yiaddr not in (FIRST, *offers)
    assert (event["address"], event["mac"], event["reason"]) == (
        str(FIRST),
        box.mac.hex(":"),
        "IN-USE",
    )
    probes = [read_arp(frame) for frame in box.arp if frame[20:22] == b"\0\1"]
    assert {sender for _, sender, _ in filter(None, probes)} == {NOWHERE}
    box.close()


def test_d28_nobody_talks_us_out_of_a_whole_pool() -> None:
    claims = Claims()
    assert [claims.is_credible(mac(1), 0.0) for _ in range(CLAIMS + 1)] == [True] * CLAIMS + [False]
    others = [claims.is_credible(mac(number), 1.0) for number in range(2, ALL_CLAIMS)]
    assert others.count(True) == ALL_CLAIMS - CLAIMS
    assert not claims.is_credible(mac(9999), CLAIM_SECONDS - 1)
    assert claims.is_credible(mac(1), CLAIM_SECONDS + 2)


def test_an_arp_probe_is_what_rfc_5227_says() -> None:
    frame = arp_probe(mac(1), FIRST)
    assert len(frame) == 42
    assert read_arp(frame) == (mac(1), NOWHERE, FIRST)
    assert read_arp(frame[:41]) is None
    assert read_arp(frame[:12] + b"\x08\x00" + frame[14:]) is None
    assert read_arp(frame[:18] + b"\x08" + frame[19:]) is None


# How replies leave


@pytest.mark.boots
def test_d41_two_interfaces_two_subnets_and_frames_without_arp(lan: Lan, database: Path) -> None:
    give(lan.srv, lan.near[0], "10.41.7.2/24")
    give(lan.srv, lan.near[1], "10.41.8.2/24")
    boxes = [Box(lan.cli, end) for end in lan.far]
    with serving(lan, database, subnet(interface=lan.near[0]), second(lan)):
        for box, ours, first in zip(boxes, ("10.41.7.2", "10.41.8.2"), (7, 8), strict=True):
            ack = box.bind(mac(first))
            assert ack.message.yiaddr in IPv4Network(f"10.41.{first}.0/24")
            assert ack.message.options.address(Code.SERVER_ID) == ack.source == ADDRESS(ours)
            assert (ack.target, ack.destination) == (mac(first), ack.message.yiaddr)
            other = boxes[1 - boxes.index(box)]
            assert [one for one in other.hear() if one.message.chaddr == mac(first)] == []
            asks_to_all = box.discover(mac(first), flags=0x8000)
            assert (asks_to_all.target, str(asks_to_all.destination)) == (
                b"\xff" * 6,
                "255.255.255.255",
            )
    assert [frame for box in boxes for frame in box.arp] == []
    for box in boxes:
        box.close()


@pytest.mark.boots
def test_a_relay_and_a_renewing_client_are_answered_from_the_address_they_asked(
    lan: Lan, database: Path
) -> None:
    give(lan.srv, lan.near[0], "10.41.7.2/24")
    give(lan.srv, lan.near[0], "10.41.7.5/24")
    give(lan.cli, lan.far[0], "10.41.7.3/24")
    with serving(lan, database), inside(lan.cli), relay() as wire:
        for ours in ("10.41.7.5", "10.41.7.2"):
            asked = message(MessageType.DISCOVER, mac(1), giaddr=ADDRESS("10.41.7.3"))
            offer, source = exchange(wire, asked, ours)
            assert (source, offer.giaddr) == ((ours, 67), ADDRESS("10.41.7.3"))
        asked = selecting(mac(1), offer.yiaddr, giaddr=ADDRESS("10.41.7.3"))
        ack, _ = exchange(wire, asked, "10.41.7.2")
        assert ack.options.message_type is MessageType.ACK
        give(lan.cli, lan.far[0], f"{ack.yiaddr}/24")
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with client:
            client.bind((str(ack.yiaddr), 68))
            renewal = message(MessageType.REQUEST, mac(1), ciaddr=ack.yiaddr)
            again, source = exchange(client, renewal, "10.41.7.2")
        assert again.options.message_type is MessageType.ACK
        assert (again.ciaddr, source) == (ack.yiaddr, ("10.41.7.2", 67))


def relay() -> socket.socket:
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wire.bind(("10.41.7.3", 67))
    return wire


def exchange(wire: socket.socket, data: bytes, server: str) -> tuple[Message, tuple[str, int]]:
    wire.settimeout(1)
    for _ in range(10):
        wire.sendto(data, (server, 67))
        try:
            answer, source = wire.recvfrom(2000)
        except TimeoutError:
            continue
        return Message.decode(answer), source
    raise AssertionError("no answer")


@pytest.mark.boots
def test_d35_a_delayed_reply_holds_nobody_else_back(lan: Lan, database: Path) -> None:
    give(lan.srv, lan.near[0], "10.41.7.2/24")
    box = Box(lan.cli, lan.far[0])
    slow = subnet(
        interface=lan.near[0],
        parameters=Parameters(reply_delay=timedelta(seconds=0.7)),
    )
    with serving(lan, database, slow, second(lan)):
        quick = Box(lan.cli, lan.far[1])
        sent = time.monotonic()
        box.send(message(MessageType.DISCOVER, mac(1)), mac(1))
        answers = [quick.bind(mac(number)) for number in range(10, 15)]
        assert [one for one in box.hear() if one.message.chaddr == mac(1)] == [] or (
            time.monotonic() - sent >= 0.7
        )
        until(lambda: list(box.hear()))
        assert time.monotonic() - sent >= 0.7
        assert len(answers) == 5
        quick.close()
    box.close()


# Links that come and go


@pytest.mark.boots
def test_an_interface_goes_down_comes_back_is_another_and_gets_its_address_late(
    lan: Lan, database: Path
) -> None:
    near, far = lan.near[0], lan.far[0]
    with serving(lan, database) as server:
        box = Box(lan.cli, far)
        address = box.bind(mac(1)).message.yiaddr  # our address is not there yet
        assert box.discover(mac(2), flags=0x8000).kind is MessageType.OFFER
        give(lan.srv, near, "10.41.7.2/24")
        assert box.bind(mac(2)).source == OURS
        ip("-n", lan.srv, "link", "set", near, "down")
        ip("-n", lan.srv, "link", "set", near, "up")
        assert box.bind(mac(1)).message.yiaddr == address
        box.close()
        ip("-n", lan.srv, "link", "delete", near)
        until(lambda: server.trouble is not None)
        assert "No such device" in str(server.trouble)
        lan.join(0)
        until(lambda: server.trouble is None)
        box = Box(lan.cli, far)
        assert box.bind(mac(1)).message.yiaddr == address
        box.close()


# Restart, floods, exhaustion, clocks


@pytest.mark.boots
def test_d40_after_a_restart_the_same_boxes_have_the_same_addresses_and_no_nak(
    lan: Lan, database: Path
) -> None:
    give(lan.srv, lan.near[0], "10.41.7.2/24")
    box = Box(lan.cli, lan.far[0])
    with serving(lan, database):
        before = {number: box.bind(mac(number)).message.yiaddr for number in range(10)}
    with serving(lan, database) as server:
        after = {}
        for number in reversed(range(10)):
            rebooting = number % 2
            if rebooting:
                after[number] = box.bind(mac(number)).message.yiaddr
                continue
            ack = box.request(mac(number), before[number], None)  # INIT-REBOOT
            assert ack is not None
            assert ack.kind is MessageType.ACK
            after[number] = ack.message.yiaddr
        assert after == before
        assert server.events("dhcp-nak") == []
    box.close()


@pytest.mark.boots
def test_d38_a_flood_of_macs_leaves_reservations_and_known_boxes_served(
    lan: Lan, database: Path
) -> None:
    give(lan.srv, lan.near[0], "10.41.7.2/24")
    box, flood = Box(lan.cli, lan.far[0]), Box(lan.cli, lan.far[0])
    with serving(lan, database) as server:
        known = [(mac(number), box.bind(mac(number)).message.yiaddr) for number in range(4)]
        packets = [message(MessageType.DISCOVER, mac(number)) for number in range(1000, 11_000)]
        threading.Thread(target=pour, args=(flood, packets), daemon=True).start()
        for _ in range(3):
            for client, address in known:
                assert box.bind(client).message.yiaddr == address
            assert box.bind(RESERVED_MAC).message.yiaddr == ADDRESS("10.41.7.11")
            ack = box.request(known[0][0], known[0][1], None)
            assert ack is not None
            assert ack.kind is MessageType.ACK
        until(lambda: not packets, 40)
        assert box.bind(RESERVED_MAC).message.yiaddr == ADDRESS("10.41.7.11")
        until(lambda: server.events("dhcp-pool-empty"))
        told = EventLog(server.store).last()
        assert told < 9000  # not one for each packet
        assert server.events("dhcp-flood")
    flood.close()
    box.close()


def pour(box: Box, packets: list[bytes], pause: float = 0.01) -> None:
    """Send them all, from so many MACs; with this pause in about ten seconds."""
    while packets:
        data = packets.pop()
        try:
            box.send(data, Message.decode(data).chaddr)
        except BlockingIOError:
            packets.append(data)
        if len(packets) % 10 == 0:
            time.sleep(pause)


@pytest.mark.boots
def test_an_exhausted_pool_is_told_and_a_clock_set_back_or_forward_gives_no_address_twice(
    lan: Lan, database: Path
) -> None:
    give(lan.srv, lan.near[0], "10.41.7.2/24")
    box = Box(lan.cli, lan.far[0])
    small = subnet(
        interface=lan.near[0],
        pools=(Pool(first=FIRST, last=FIRST + 2),),
        lease=timedelta(minutes=5),
    )
    with serving(lan, database, small) as server:
        held = {mac(number): box.bind(mac(number)).message.yiaddr for number in range(3)}
        late = message(MessageType.DISCOVER, mac(9))
        assert box.ask(late, mac(9), 1) is None
        until(lambda: server.events("dhcp-pool-empty"))
    assert set(held.values()) == {FIRST, FIRST + 1, FIRST + 2}
    store = NetbootStore(database)
    rows = store.load_leases()
    store.close()
    latest = max(row.expires for row in rows)
    arrival = Arrival(interface=lan.near[0], source=NOWHERE)
    for now in (latest - 365 * 86400, latest - 300, latest - 299):
        engine = DhcpEngine(config(small), rows)  # restarted with a clock that says something else
        assert engine.receive(late, arrival, now).sends == ()
        for client, address in held.items():
            (ack,) = engine.receive(selecting(client, address), arrival, now).sends
            assert Message.decode(ack.data).yiaddr == address
            (nak,) = engine.receive(selecting(mac(9), address), arrival, now).sends
            assert Message.decode(nak.data).options.message_type is MessageType.NAK
    engine = DhcpEngine(config(small), rows)
    later = latest + 400 * 86400
    (offer,) = engine.receive(late, arrival, later).sends
    assert Message.decode(offer.data).yiaddr in held.values()  # every lease is over by then
    box.close()


NO_WRITES = """
import sys
sys.path.insert(0, sys.argv[1])
from test_dhcp_wire import refuse_where_nothing_can_be_written
refuse_where_nothing_can_be_written(sys.argv[2])
print("passed")
"""


@pytest.mark.boots
def test_nothing_is_said_durable_by_a_disk_that_takes_no_writes(lan: Lan, tmp_path: Path) -> None:
    command = [sys.executable, "-c", NO_WRITES, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(
        ["ip", "netns", "exec", lan.srv, *command],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.stdout == "passed\n", done.stderr


def refuse_where_nothing_can_be_written(place: str) -> None:
    """Run in a process of its own, for the limit is the process's."""
    database = Path(place, "netboot.db")
    store = NetbootStore(database)
    store.commit((), [Event(at=time.time(), kind=EventKind.FLOOD)], ())
    refusals: list[object] = []
    lease = Lease(
        subnet="tills",
        address=FIRST,
        key=mac(1),
        mac=mac(1),
        state=LeaseState.BOUND,
        expires=time.time() + 60,
        name=None,
    )
    write = LeaseWrite(address=FIRST, lease=lease)
    with frozen_file(database):
        store.submit([write], (), (), refusals.append)
        until(lambda: refusals)
        assert isinstance(refusals[0], sqlite3.Error)
        assert store.trouble is not None
        assert store.load_leases() == ()
    until(lambda: store.trouble is None)
    assert store.load_leases() == (lease,)
    store.close()


@contextmanager
def frozen_file(database: Path) -> Iterator[None]:
    """Let no process write more than a byte of a file (RLIMIT_FSIZE): EFBIG, as a bad disk's EIO.

    A read-only remount is refused while files are open for writing.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert database.exists()


@pytest.mark.boots
def test_d38_what_was_promised_goes_before_a_flood_and_what_is_left_out_is_counted(
    lan: Lan, database: Path
) -> None:
    give(lan.srv, lan.near[0], "10.41.7.2/24")
    box, flood = Box(lan.cli, lan.far[0]), Box(lan.cli, lan.far[0])
    store = NetbootStore(database)
    plan = config(subnet(interface=lan.near[0]))
    with inside(lan.srv):
        runner = DhcpRunner(DhcpEngine(plan, ()), store, plan, probe=False)
        for number in range(1000, 1200):
            flood.send(message(MessageType.DISCOVER, mac(number)), mac(number))
        box.send(selecting(RESERVED_MAC, ADDRESS("10.41.7.11")), RESERVED_MAC)
        runner.turn(1)  # one alone, with all of it waiting
        until(store.load_leases)
        offers = [one for one in box.hear() if one.kind is MessageType.OFFER]
        assert len(offers) < 100
        packets = [message(MessageType.DISCOVER, mac(number)) for number in range(2000, 8000)]
        pour(flood, packets, pause=0)
        end = time.monotonic() + 20
        while not unanswered(store) and time.monotonic() < end:
            runner.turn(0.05)
        runner.close()
    assert unanswered(store) > 0
    store.close()
    flood.close()
    box.close()


def unanswered(store: NetbootStore) -> int:
    """Count the DISCOVERs that the events say nobody answered."""
    details = [row["detail"] for row in EventLog(store).after(0, 10_000)]
    return sum(detail.get("unanswered", 0) for detail in details)
