"""The server's replies: which options, how large, and by which way they leave.

Builds bytes only; whether to answer and with which address is `netboot.dhcp`'s. RFC 2131, 4.1 and
table 3; RFC 2132 (9.3 overload), 3046 (82 last), 3396 (long options), 4039 (80), 4578 (PXE), 4702
(81), 5970 (HTTP boot), 6842 (61 back), 3011 (118 back).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from netboot.bootchoice import BootFile, Loading
from netboot.client import Facts
from netboot.dhcp_levels import Piece, Settings, Told
from netboot.dhcp_message import (
    BROADCAST_FLAG,
    CLIENT_PORT,
    HEADER_SIZE,
    SERVER_PORT,
    Message,
    encode_reply,
)
from netboot.dhcp_options import Code, MessageType, Options, encode_option
from netboot.network import ClientKind

LARGEST_REPLY = 1472
"""edk2 announces 65280 in option 57 and still drops what is larger than one frame."""
SMALLEST_LIMIT = 576
LONGEST_FILE = 127
LONGEST_SNAME = 63
_NOWHERE = IPv4Address(0)
_EVERYBODY = IPv4Address("255.255.255.255")
_PXE_NO_DISCOVERY = bytes((6, 1, 8, Code.END))
"""Option 43: PXE_DISCOVERY_CONTROL, take the boot file named here and ask no port 4011."""
_PI_BOOT = b"".join(
    (
        bytes((6, 1, 8)),
        bytes((9, 20, 0, 0, 17)) + b"Raspberry Pi Boot",
        bytes((10, 4, 0)) + b"PXE",
        bytes((Code.END,)),
    )
)
"""Option 43 as a Raspberry Pi's boot ROM looks for it: a boot menu with this one entry."""
_IPXE_NO_PROXY = bytes((176, 1, 1))
"""Option 175: iPXE need not wait 2 s for proxy offers."""
_LEFT_OUT_FIRST = (
    Code.IPXE,
    Code.BROADCAST,
    Code.CLIENT_UUID,
    Code.CLIENT_ID,
    Code.FQDN,
    Code.HOST_NAME,
    Code.SZTP_REDIRECT,
    Code.DOMAIN_NAME,
    Code.RELAY_AGENT,
)
"""What gives way when a reply grows too large; the client chooses the size of 61, 81, 82, 97."""
_NEVER_LEFT_OUT = frozenset(
    {
        Code.MESSAGE_TYPE,
        Code.SERVER_ID,
        Code.LEASE_TIME,
        Code.RENEWAL_TIME,
        Code.REBINDING_TIME,
        Code.SUBNET_MASK,
        Code.ROUTER,
    }
)
_KINDS = {kind: encode_option(Code.MESSAGE_TYPE, bytes((kind,))) for kind in MessageType}
_END = bytes((Code.END,))
_OVERLOAD_SIZE = 3
_NO_CODES: frozenset[int] = frozenset()


class Via(Enum):
    """How a reply leaves: a frame without ARP, a broadcast, or an ordinary datagram."""

    FRAME = "frame"
    BROADCAST = "broadcast"
    UNICAST = "unicast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """A reply to send from port 67 of `source`; `mac` for a frame only.

    `promises` means that it must not leave before the writes of its outcome are durable; `delay` in
    seconds, for clients that miss a reply that comes at once.
    """

    via: Via
    interface: str
    source: IPv4Address
    destination: IPv4Address
    port: int
    mac: bytes | None
    data: bytes
    promises: bool
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What an OFFER or ACK says: `address` and `seconds` are None for INFORM.

    `target` is where INFORM is answered to, `domain` the site's, for option 81.
    """

    settings: Settings
    server_id: IPv4Address
    address: IPv4Address | None
    seconds: int | None
    boot: BootFile | None
    domain: str
    ciaddr: IPv4Address = _NOWHERE
    rapid: bool = False
    target: IPv4Address | None = None


def reply(kind: MessageType, request: Message, facts: Facts, grant: Grant, interface: str) -> Send:
    """Build an OFFER or ACK. `sname` and `file` of the request are never echoed."""
    options, settings = request.options, grant.settings
    told = settings.told(options.get(Code.PARAMETER_LIST) or b"")
    head = [_KINDS[kind] + encode_option(Code.SERVER_ID, grant.server_id.packed)]
    if grant.seconds is not None:
        head.append(_times(settings, grant.seconds))
    tail: list[Piece] = []
    if grant.boot is not None:
        tail += _boot(facts, grant.boot, told.codes)
    tail += _answers(request, grant)
    file, sname = _header_names(options, settings, grant.boot)
    siaddr = settings.next_server
    if siaddr is None:
        siaddr = settings.subnet.appliance if grant.boot is not None else _NOWHERE
    address = grant.address or _NOWHERE
    room = _Room(limit=_limit(options), file=file, sname=sname)
    area, file, sname = room.fit(b"".join(head), told, tail)
    data = encode_reply(
        request,
        addresses=(grant.ciaddr, address, siaddr),
        flags=request.flags,
        names=(sname, file),
        options=area,
    )
    promises = kind is MessageType.ACK and grant.seconds is not None
    target = grant.target or grant.ciaddr
    return _send(request, settings, interface, data, (target, address), promises)


def nak(
    request: Message, settings: Settings, server_id: IPv4Address, text: str, interface: str
) -> Send:
    """Build a NAK: 53, 54, 56, 61 and 82 only; through a relay it asks for broadcast."""
    head = b"".join(
        (
            _KINDS[MessageType.NAK],
            encode_option(Code.SERVER_ID, server_id.packed),
            encode_option(Code.MESSAGE, text.encode("ascii")),
        )
    )
    tail = _echoes(request.options, (Code.CLIENT_ID, Code.RELAY_AGENT))
    room = _Room(limit=_limit(request.options), file=b"", sname=b"")
    area, file, sname = room.fit(head, _NOTHING_TOLD, tail)
    is_relayed = request.giaddr != _NOWHERE
    data = encode_reply(
        request,
        addresses=(_NOWHERE, _NOWHERE, _NOWHERE),
        flags=request.flags | (BROADCAST_FLAG if is_relayed else 0),
        names=(sname, file),
        options=area,
    )
    return _send(request, settings, interface, data, (_NOWHERE, _NOWHERE), False)


_NOTHING_TOLD = Told(pieces=(), joined=b"", codes=_NO_CODES)


def _send(
    request: Message,
    settings: Settings,
    interface: str,
    data: bytes,
    targets: tuple[IPv4Address, IPv4Address],
    promises: bool,
) -> Send:
    """Choose the way of RFC 2131, 4.1: relay, ciaddr, broadcast, or a frame to the client.

    `targets` are ciaddr and yiaddr of the reply; a NAK has neither and is broadcast.
    """
    ciaddr, yiaddr = targets
    port, via, destination, mac = CLIENT_PORT, Via.BROADCAST, _EVERYBODY, None
    if request.giaddr != _NOWHERE:
        port, via, destination = SERVER_PORT, Via.UNICAST, request.giaddr
    elif ciaddr != _NOWHERE:
        via, destination = Via.UNICAST, ciaddr
    elif yiaddr != _NOWHERE and not request.flags & BROADCAST_FLAG and request.mac is not None:
        via, destination, mac = Via.FRAME, yiaddr, request.mac
    return Send(
        via=via,
        interface=interface,
        source=settings.subnet.appliance,
        destination=destination,
        port=port,
        mac=mac,
        data=data,
        promises=promises,
        delay=settings.delay,
    )


def _times(settings: Settings, seconds: int) -> bytes:
    """Lease, T1 = 0.5 and T2 = 0.875 of it (RFC 2131, 4.4.5), unless T1 or T2 is configured."""
    renewal = seconds // 2 if settings.renewal is None else settings.renewal
    rebinding = seconds * 7 // 8 if settings.rebinding is None else settings.rebinding
    return (
        b"\x33\x04"
        + seconds.to_bytes(4, "big")
        + b"\x3a\x04"
        + renewal.to_bytes(4, "big")
        + b"\x3b\x04"
        + rebinding.to_bytes(4, "big")
    )


def _boot(facts: Facts, boot: BootFile, told: frozenset[int]) -> list[Piece]:
    """Say what belongs to a boot file, but for what the plan's own options say already."""
    items: list[tuple[int, bytes]] = []
    if facts.kind is ClientKind.RASPBERRY_PI:
        items = [(Code.VENDOR_CLASS, b"PXEClient"), (Code.VENDOR_SPECIFIC, _PI_BOOT)]
    elif facts.vendor_class.startswith(b"HTTPClient"):
        items = [(Code.VENDOR_CLASS, b"HTTPClient")]
    elif facts.vendor_class.startswith(b"PXEClient"):
        items = [(Code.VENDOR_CLASS, b"PXEClient"), (Code.VENDOR_SPECIFIC, _PXE_NO_DISCOVERY)]
    uuid = facts.options.get(Code.CLIENT_UUID)
    if uuid is not None:
        items.append((Code.CLIENT_UUID, uuid))
    if _in_option(facts.options, boot):
        # edk2 writes a NUL over the next option's code where the name does not end with one.
        items.append((Code.BOOT_FILE, boot.name.encode("ascii") + b"\0"))
    if facts.kind is ClientKind.IPXE:
        items.append((Code.IPXE, _IPXE_NO_PROXY))
    return [(code, encode_option(code, data)) for code, data in items if code not in told]


def _in_option(options: Options, boot: BootFile) -> bool:
    """Name the file in option 67 to whom asks for it (U-Boot does not), and every URL."""
    wishes = options.get(Code.PARAMETER_LIST) or b""
    return Code.BOOT_FILE in wishes or boot.loading is not Loading.TFTP


def _header_names(
    options: Options, settings: Settings, boot: BootFile | None
) -> tuple[bytes, bytes]:
    """Give `file` and `sname`; a file of the plan's own parameters stands there in any case."""
    name = b""
    if boot is not None and (settings.boot_file is not None or not _in_option(options, boot)):
        name = boot.name.encode("ascii")
    sname = (settings.server_name or "").encode("ascii")
    return name if len(name) <= LONGEST_FILE else b"", sname


def _answers(request: Message, grant: Grant) -> list[Piece]:
    """Give back what a server must: 80, 81, 118, 61 (RFC 6842) and, last, 82 (RFC 3046, 2.2)."""
    options = request.options
    pieces: list[Piece] = []
    if grant.rapid:
        pieces.append((Code.RAPID_COMMIT, encode_option(Code.RAPID_COMMIT, b"")))
    fqdn = options.get(Code.FQDN)
    if fqdn is not None and len(fqdn) >= 3:
        answer = _fqdn(fqdn, grant.settings.name, grant.domain)
        pieces.append((Code.FQDN, encode_option(Code.FQDN, answer)))
    codes = (Code.SUBNET_SELECTION, Code.CLIENT_ID, Code.RELAY_AGENT)
    return pieces + _echoes(options, codes)


def _echoes(options: Options, codes: tuple[Code, ...]) -> list[Piece]:
    return [
        (code, encode_option(code, data))
        for code in codes
        if (data := options.get(code)) is not None
    ]


def _fqdn(asked: bytes, name: str | None, domain: str) -> bytes:
    """Answer option 81: the site writes its names itself, those of reservations and no others.

    Flags of RFC 4702, 2.1: S we keep the A record, O that is not what was asked, E canonical form,
    N no records are kept.
    """
    wants_s, is_wire = asked[0] & 1, asked[0] & 4
    if name is None:
        return bytes((is_wire | 8 | (2 if wants_s else 0), 255, 255)) + asked[3:]
    full = f"{name}.{domain}" if domain else name
    flags = is_wire | 1 | (0 if wants_s else 2)
    if not is_wire:
        return bytes((flags, 255, 255)) + full.encode("ascii")
    labels = (label.encode("ascii") for label in full.split(".") if label)
    wire = b"".join(bytes((len(label),)) + label for label in labels)
    return bytes((flags, 255, 255)) + wire + b"\0"


def _limit(options: Options) -> int:
    """Bytes that a reply may have: what option 57 takes, one frame at most."""
    data = options.get(Code.MAX_SIZE)
    asked = int.from_bytes(data, "big") if data is not None and len(data) == 2 else 0
    return max(min(asked, LARGEST_REPLY), SMALLEST_LIMIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """How much a reply can hold; `file` and `sname` hold options too where they are empty."""

    limit: int
    file: bytes
    sname: bytes

    def fit(self, head: bytes, told: Told, tail: list[Piece]) -> tuple[bytes, bytes, bytes]:
        """Give the options area with END, `file` and `sname`."""
        area = b"".join((head, told.joined, *(wire for _, wire in tail), _END))
        if HEADER_SIZE + len(area) <= self.limit:
            return area, self.file, self.sname
        return self._overloaded(head, [*told.pieces, *tail])

    def _overloaded(self, head: bytes, pieces: list[Piece]) -> tuple[bytes, bytes, bytes]:
        """Put options into `file` and `sname` (RFC 2132, 9.3), and leave out what fits nowhere.

        82 stays last of the options field, where relays look for it.
        """
        free = self.limit - HEADER_SIZE - len(head) - _OVERLOAD_SIZE - len(_END)
        spare = [(1, LONGEST_FILE)] * (not self.file) + [(2, LONGEST_SNAME)] * (not self.sname)
        order = sorted(pieces, key=lambda piece: _weight(piece[0]))
        areas: dict[int, list[Piece]] = {0: [], 1: [], 2: []}
        rooms = dict([(0, free), *spare])
        for piece in order:
            fitting = (area for area in rooms if len(piece[1]) <= rooms[area])
            area = next(fitting, None)
            if area is not None:
                areas[area].append(piece)
                rooms[area] -= len(piece[1])
        overload = sum(area for area in (1, 2) if areas[area])
        mark = bytes((Code.OVERLOAD, 1, overload)) if overload else b""
        place = {id(piece): number for number, piece in enumerate(pieces)}
        joined = [
            b"".join(wire for _, wire in sorted(found, key=lambda piece: place[id(piece)]))
            for found in areas.values()
        ]
        return (
            head + mark + joined[0] + _END,
            joined[1] + _END if areas[1] else self.file,
            joined[2] + _END if areas[2] else self.sname,
        )


def _weight(code: int) -> int:
    """Order pieces by how much a client needs them: what must be first, what gives way last."""
    if code in _NEVER_LEFT_OUT:
        return -1
    if code in _LEFT_OUT_FIRST:
        return len(_LEFT_OUT_FIRST) - _LEFT_OUT_FIRST.index(Code(code))
    return 0
