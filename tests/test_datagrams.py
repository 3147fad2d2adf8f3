"""Many datagrams with one system call, against sockets as Python has them."""

from __future__ import annotations

import select
import socket

import pytest

from netboot.dns_message import UDP_SIZE
from netboot.io.datagrams import COUNT, LARGEST_IN, LARGEST_OUT, Datagrams

FAMILIES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


@pytest.fixture(params=FAMILIES, ids=["IPv4", "IPv6"])
def pair(request: pytest.FixtureRequest):
    """Give a server's socket, a client's that is connected to it, and what is tried."""
    family, address = request.param
    with (
        socket.socket(family, socket.SOCK_DGRAM) as server,
        socket.socket(family, socket.SOCK_DGRAM) as client,
    ):
        server.bind((address, 0))
        client.bind((address, 0))
        client.connect(server.getsockname())
        client.settimeout(5)
        yield server, client, Datagrams(family)


def received(server: socket.socket, datagrams: Datagrams) -> list[tuple[bytes, bytes]]:
    select.select([server], [], [], 5)
    return datagrams.receive(server)


def test_each_datagram_is_answered_to_its_sender(pair) -> None:
    server, client, datagrams = pair
    sent = [bytes((number,)) * (number + 1) for number in range(40)]
    for _ in range(3):  # the memory is used again
        for data in sent:
            client.send(data)
        found = received(server, datagrams)
        assert [data for data, _ in found] == sent
        assert {datagrams.address(name) for _, name in found} == {client.getsockname()[0]}
        assert {datagrams.peer(name) for _, name in found} == {client.getsockname()}
        datagrams.send(server, [(data[::-1] + b"!", name) for data, name in found])
        assert [client.recv(100) for _ in sent] == [data + b"!" for data in sent]


def test_nothing_there_is_nothing_and_more_than_one_call_takes_comes_with_the_next(pair) -> None:
    server, client, datagrams = pair
    assert datagrams.receive(server) == []
    for number in range(COUNT + 3):
        client.send(b"%d" % number)
    first = received(server, datagrams)
    second = received(server, datagrams)
    assert [data for data, _ in first + second] == [b"%d" % number for number in range(COUNT + 3)]
    assert len(first) == COUNT


def test_empty_and_long_datagrams(pair) -> None:
    server, client, datagrams = pair
    client.send(b"")
    client.send(b"x" * (LARGEST_IN + 1))
    client.send(b"y")
    assert [len(data) for data, _ in received(server, datagrams)] == [0, LARGEST_IN, 1]


def test_who_cannot_be_answered_costs_nobody_else_his_answer(pair) -> None:
    server, client, datagrams = pair
    client.send(b"question")
    ((_, name),) = received(server, datagrams)
    nobody = name[:2] + b"\0\0" + name[4:]
    assert datagrams.address(nobody) is None
    replies = [(b"1", name), (b"2", nobody), (b"3", nobody), (b"4", name), (b"5", nobody)]
    datagrams.send(server, replies)
    assert [client.recv(10), client.recv(10)] == [b"1", b"4"]


def test_a_scope_comes_back_with_its_sender() -> None:
    datagrams = Datagrams(socket.AF_INET6)
    name = bytes.fromhex("0a00 0045 00000000 fe80000000000000 0000000000000001 07000000")
    assert datagrams.peer(name) == ("fe80::1", 0x45, 0, 7)
    assert datagrams.address(name) == "fe80::1"


def test_the_largest_answer_by_udp_fits() -> None:
    assert UDP_SIZE <= LARGEST_OUT
