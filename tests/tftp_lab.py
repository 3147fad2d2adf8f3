"""Shared by the TFTP tests: an engine over a few files, packets as clients send them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from netboot.files import FileMap
from netboot.tftp import Outcome, Send, TftpEngine
from netboot.tftp_transfer import BytesContent

US = IPv4Address("10.41.7.2")
BOX = ("10.41.7.100", 2070)
US6 = IPv6Address("fd41::2")
BOX6 = ("fe80::5054:ff:fe12:3456%eth0", 2070, 0, 2)
SMALL = bytes(range(256)) * 5  # 1280 bytes: two and a half blocks of 512
STORE = {
    "/shimx64.efi": SMALL,
    "/exact": bytes(1024),
    "/empty": b"",
    "/text": b"one\ntwo\r\n",
    "/grub/grub.cfg": b"boot\n",
    "/pxelinux.cfg/Default": b"x",
    "/Twin": b"1",
    "/twin": b"2",
    "/large": bytes(40 << 20),
}
DIGESTS = {path: bytes([number]) * 32 for number, path in enumerate(STORE)}


def engine(mtu: int = 1500) -> TftpEngine:
    files = FileMap(DIGESTS, [US])
    return TftpEngine(files, lambda entry: BytesContent(STORE[entry.path]), mtu)


def rrq(name: str | bytes, *options: tuple[str, object], mode: str = "octet") -> bytes:
    name = name if isinstance(name, bytes) else name.encode()
    fields = [name, mode.encode()]
    fields += [str(field).encode() for option in options for field in option]
    return b"\0\1" + b"".join(field + b"\0" for field in fields)


def packets(outcome: Outcome) -> list[bytes]:
    return [
        send.data[at : at + send.segment]
        for send in outcome.sends
        for at in range(0, len(send.data), send.segment)
    ]


def numbers(data: list[bytes]) -> list[int]:
    assert all(packet[:2] == b"\0\3" for packet in data)
    return [int.from_bytes(packet[2:4], "big") for packet in data]


def answer(server: TftpEngine, number: int, data: bytes, peer=None, now=0.0) -> Outcome:
    """Do as the runner does: the usual way where there is one."""
    peer = BOX if peer is None else peer
    transfer = server.transfer(number)
    if transfer is None or data != transfer.usual or peer != transfer.peer:
        return server.receive_on(number, data, peer, now)
    send = Send(transfer=number, peer=peer, data=transfer.ready, segment=transfer.segment)
    return Outcome(sends=(send,), events=server.follow(transfer, now))


def ack(number: int) -> bytes:
    return struct.pack("!HH", 4, number & 0xFFFF)


def error(code: int) -> bytes:
    return struct.pack("!HH", 5, code) + b"x\0"


def code_of(outcome: Outcome) -> int:
    (send,) = outcome.sends
    assert send.data[:2] == b"\0\5"
    assert send.data.endswith(b"\0")
    return struct.unpack("!H", send.data[2:4])[0]


def options_of(outcome: Outcome) -> list[tuple[str, str]]:
    (send,) = outcome.sends
    assert send.data[:2] == b"\0\6"
    fields = send.data[2:].decode().split("\0")[:-1]
    return list(zip(fields[::2], fields[1::2], strict=True))


def fetch(server: TftpEngine, request: bytes, *, peer=BOX, now=0.0, window=1) -> bytes:
    """Be a client that acknowledges every window; return what arrived."""
    outcome = server.receive(request, peer, US, now)
    number = outcome.sends[0].transfer
    assert number is not None, outcome
    content, expected, block = bytearray(), 1, 512
    if outcome.sends[0].data[:2] == b"\0\6":
        block = int(dict(options_of(outcome)).get("blksize", 512))
        outcome = answer(server, number, ack(0), peer, now)
    while True:
        arrived = packets(outcome)
        assert 1 <= len(arrived) <= window
        for packet in arrived:
            assert packet[:4] == struct.pack("!HH", 3, expected & 0xFFFF)
            content += packet[4:]
            expected += 1
        outcome = answer(server, number, ack(expected - 1), peer, now)
        if len(arrived[-1]) - 4 < block:
            assert outcome.closed == (number,)
            return bytes(content)


def details(outcome: Outcome) -> list[dict]:
    return [dict(event.detail) for event in outcome.events]
