"""Another DHCPv6 server: found before ours serves, told of, and never served beside unasked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dhcp6_lab import LINK_LOCAL, US, Wire6, config6, mac, run, serving6, subnet6, until
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.dhcp6_message import Kind6, Message6, Packet6
from netboot.dhcp6_options import Code6
from netboot.events import Event, EventKind
from netboot.io.dhcp6_service import Dhcp6Service
from netboot.io.leases import NetbootStore
from netboot.io.probe6 import probe6, questions, read_answer
from netboot.io.workers import State

ASKED = 0x123456
SECONDS = 3.0


def frame(kind: Kind6 = Kind6.ADVERTISE, transaction: int = ASKED, port: int = 546) -> bytes:
    """An Ethernet frame with an answer of a server at LINK_LOCAL, mac(9)."""
    data = Message6(kind=kind, transaction=transaction).encode()
    length = (8 + len(data)).to_bytes(2, "big")
    udp = (547).to_bytes(2, "big") + port.to_bytes(2, "big") + length + bytes(2) + data
    head = bytes((0x60, 0, 0, 0)) + length + bytes((17, 64))
    packet = head + LINK_LOCAL.packed + bytes(16) + udp
    return mac(1) + mac(9) + b"\x86\xdd" + packet


def test_an_answer_names_its_server() -> None:
    for kind in (Kind6.ADVERTISE, Kind6.REPLY):
        assert read_answer(frame(kind), ASKED) == (LINK_LOCAL, mac(9))
    assert read_answer(frame() + bytes(20), ASKED) == (LINK_LOCAL, mac(9))  # padded by Ethernet


@pytest.mark.parametrize(
    "data",
    [
        frame(Kind6.SOLICIT),
        frame(transaction=ASKED + 1),
        frame(port=547),
        frame()[:61],
        frame().replace(b"\x86\xdd", b"\x08\x00"),
        frame()[:20] + b"\x3a" + frame()[21:],
    ],
    ids=["a client's", "of another question", "to a server", "cut", "IPv4", "ICMPv6"],
)
def test_what_is_no_answer_to_us_is_passed_over(data: bytes) -> None:
    assert read_answer(data, ASKED) is None


@settings(max_examples=100)
@given(st.binary(max_size=90), st.integers(0, 90))
def test_any_frame_is_borne(data: bytes, cut: int) -> None:
    for one in (data, frame()[:cut] + data):
        read_answer(one, ASKED)


def test_it_asks_as_a_client_that_names_no_server() -> None:
    kinds = {}
    for data in questions(mac(1), ASKED):
        message = Packet6.decode(data).message
        kinds[message.kind] = message.options
        assert (message.transaction, message.options.client_id) == (ASKED, b"\0\3\0\1" + mac(1))
        assert message.options.get(Code6.SERVER_ID) is None
    assert set(kinds) == {Kind6.SOLICIT, Kind6.INFORMATION_REQUEST}
    assert kinds[Kind6.INFORMATION_REQUEST].associations == ()


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from test_dhcp6_probe import {what}
{what}(*sys.argv[2:])
print("passed")
"""


@pytest.fixture
def wire() -> Iterator[Wire6]:
    made = Wire6()
    yield made
    made.close()


def within(wire: Wire6, what: str, *words: str) -> None:
    here = str(Path(__file__).parent)
    said = wire.inside(sys.executable, "-c", CHILD.format(what=what), here, *words)
    assert said.endswith("passed\n"), said


def nobody_answers(interface: str) -> None:
    assert probe6([interface], 0.5) == ()


def serves_alone(database: str, interface: str, foreign: str) -> None:
    """Refuse while the other serves; begin when it is gone and was looked for again."""
    store = NetbootStore(Path(database))
    told: list[Event] = []
    service = Dhcp6Service(store, told.extend, seconds=SECONDS, look_out=0.1)
    plan = config6(subnet6(interface=interface, appliance=US + 1))
    service.replace(plan)

    def settled() -> bool:
        service.turn(0.05)
        return service.state not in (State.LOOKING, State.WAITING)

    until(settled)
    assert service.state is (State.REFUSED if foreign == "there" else State.SERVING)
    if foreign == "there":
        (server,) = service.foreign
        assert (server.interface, server.address.is_link_local) == (interface, True)
        assert service.sentence is not None
        assert f"another DHCP server answers on {interface}: {server.address}" in service.sentence
        assert [(event.kind, event.reason) for event in told] == [
            (EventKind.FOREIGN_DHCP6, "FOREIGN-DHCP")
        ]
    service.close()
    store.close()


@pytest.mark.boots
def test_nothing_is_served_beside_another_server(wire: Wire6, tmp_path: Path) -> None:
    far = wire.ends[1]
    within(wire, "nobody_answers", far)
    within(wire, "serves_alone", str(tmp_path / "ours.db"), far, "gone")
    with serving6(wire.srv, tmp_path / "netboot.db", wire.ends[0]):
        within(wire, "serves_alone", str(tmp_path / "ours.db"), far, "there")
        # one that gives settings alone is a server too
    stateless = "{'dhcp': 'stateless'}"
    with serving6(wire.srv, tmp_path / "netboot.db", wire.ends[0], stateless):
        within(wire, "serves_alone", str(tmp_path / "ours.db"), far, "there")
    run("ip", "-n", wire.cli, "link", "set", far, "down")
    within(wire, "nobody_answers", far)
