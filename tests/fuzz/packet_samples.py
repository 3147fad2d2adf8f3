"""Mutated packets to netboot's servers: DHCP, TFTP, DNS and the rest, each with its judge.

Most are our own packets changed without knowing what they are; DHCP options and DNS sections are
also changed so that the rest stays whole; some are made up by scapy's `fuzz`.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dns import DNS, DNSQR
from scapy.packet import Packet, fuzz

from tests.dhcp_lab import mac
from tests.fuzz import dns_packets, packet_seeds, packets
from tests.fuzz.lies import Lie
from tests.fuzz.million import Maker
from tests.fuzz.mutate import Mutator

SHARES = {
    "dhcp": 0.35,
    "dns": 0.35,
    "tftp": 0.18,
    "dhcp6": 0.04,
    "http": 0.03,
    "dns-answer": 0.02,
    "tftp-transfer": 0.01,
    "frame": 0.01,
    "proxy-dhcp": 0.01,
}
_JUDGES: dict[str, Callable[[bytes], str]] = {
    "dhcp": packets.dhcp,
    "dns": dns_packets.query,
    "tftp": packets.tftp,
    "dhcp6": packets.dhcp6,
    "http": packets.request_head,
    "dns-answer": dns_packets.answer,
    "tftp-transfer": packets.transfer,
    "frame": packets.frame,
    "proxy-dhcp": packets.proxy,
}
_MADE_UP = 0.005
"""Share of DHCP and DNS that scapy makes up: it takes a hundred times as long."""


class PacketSamples(Maker):
    """Changed packets."""

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self._seeds: dict[str, Sequence[bytes]] = {
            "dhcp": packet_seeds.DHCP,
            "dns": dns_packets.query_seeds(),
            "tftp": packet_seeds.TFTP,
            "dhcp6": packet_seeds.DHCP6,
            "http": packet_seeds.HTTP,
            "dns-answer": dns_packets.answer_seeds(),
            "tftp-transfer": packet_seeds.TRANSFER_SEEDS,
            "frame": packet_seeds.FRAMES,
            "proxy-dhcp": packet_seeds.DHCP,
        }

    def make(self, kind: str, number: int) -> Callable[[], str]:
        """Make packet `number`; what is wrong with an answer is told with the packet's bytes."""
        data, judge = self.packet(kind, number), _JUDGES[kind]

        def judged() -> str:
            try:
                return judge(data)
            except Lie as lie:
                raise Lie(f"{lie}: {data.hex()}") from None
            except Exception as error:
                error.add_note(data.hex())
                raise

        return judged

    def packet(self, kind: str, number: int) -> bytes:
        """Make the bytes of a sample."""
        change = Mutator(f"{self.seed}:{kind}:{number}")
        seeds = self._seeds[kind]
        data = change.choice(seeds)
        way = change.random()
        if way < _MADE_UP and kind in ("dhcp", "dns"):
            return _made_up(kind, change)
        if way < 0.4 and kind in ("dhcp", "proxy-dhcp"):
            data = _options4(change, data)
        elif way < 0.3 and kind == "dns":
            data = _counts(change, data)
        for _ in range(change.choice((0, 1, 1, 2, 4))):
            data = change.raw(data, seeds)
        return data[:4096]


def _made_up(kind: str, change: Mutator) -> bytes:
    """Let scapy make a packet up; it draws from the random numbers of this process."""
    random.seed(change.getrandbits(32))
    made: Packet
    if kind == "dns" and change.random() < 0.5:
        made = fuzz(DNS(qr=0))
    elif kind == "dns":
        made = DNS(qr=0, opcode=change.choice((0, 0, 4, 5)), qd=fuzz(DNSQR()))
    else:
        made = fuzz(BOOTP(op=1, chaddr=mac(change.randrange(9)))) / fuzz(DHCP())
    try:
        data = bytes(made)
    except (ValueError, TypeError, AttributeError, struct.error):
        return b""  # scapy made up what it cannot write
    return bytes((change.randrange(8),)) + data if kind == "dns" else data


def _options4(change: Mutator, data: bytes) -> bytes:
    """Change one option of a DHCP message, or where it stands; the others stay whole."""
    options, rest = [], data[240:]
    while len(rest) > 2 and rest[0] not in (0, 255):
        options.append(rest[: 2 + rest[1]])
        rest = rest[2 + rest[1] :]
    at = change.randrange(len(options))
    code, value = options[at][0], options[at][2:]
    match change.randrange(8):
        case 0:
            options[at] = bytes((code, change.randrange(256))) + value  # its length is a lie
        case 1:
            new = change.randbytes(change.choice((0, 1, 2, 3, 4, 5, 16, 255)))
            options[at] = bytes((code, len(new))) + new
        case 2:
            options.append(options[at])  # in two pieces (RFC 3396)
        case 3:
            options.insert(change.randrange(len(options)), options.pop(at))
        case 4:
            options.insert(at, bytes((change.randrange(256), 4)) + change.randbytes(4))
        case 5:
            del options[at]
        case 6:
            options.insert(at, bytes((52, 1, change.choice((0, 1, 2, 3, 3, 4)))))
        case _:
            options[at] = bytes((change.randrange(256),)) + options[at][1:]
    end = change.choice((b"\xff", b"\xff", b"\xff", b"", bytes(60), b"\xff" + change.randbytes(9)))
    head = data[:240]
    if change.random() < 0.1:
        head = head[:108] + change.randbytes(128) + head[236:]
    return head + b"".join(options) + end


def _counts(change: Mutator, data: bytes) -> bytes:
    """Change the counts of a DNS message, or put records behind its question."""
    head = bytearray(data[:13])
    extra = b""
    if change.random() < 0.5:
        place = change.choice((5, 7, 9, 11))
        head[place : place + 2] = struct.pack("!H", change.choice((0, 1, 2, 16, 17, 255, 65535)))
    else:
        owner = change.choice((b"\0", b"\xc0\x0c", b"\1a\xc0\x0c", b"\xc0\xff", b"\x3f"))
        kind = change.choice((41, 41, 1, 6, 250, 24))
        value = change.randbytes(change.choice((0, 4, 12, 40)))
        if kind == 41 and change.random() < 0.7:
            value = struct.pack("!HH", change.choice((3, 8, 10, 12, 15)), len(value)) + value
        fields = (kind, change.choice((512, 1232, 4096, 0, 65535)), change.getrandbits(32))
        extra = owner + struct.pack("!HHIH", *fields, len(value)) + value
        head[12] = (head[12] + 1) & 255
    return bytes(head) + data[13:] + extra
