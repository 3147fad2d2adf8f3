"""The server's replies: which options, how large, and by which way they leave.

Builds bytes only; whether to answer and with which address is `netboot.dhcp`'s. RFC 951; RFC 2131,
4.1 and table 3; RFC 2132 (9.3 overload), 3011 (118 back), 3046 (82 last), 3396 (long options), 4039
(80), 4578 (PXE), 4702 (81), 5970 (HTTP boot), 6842 (61 back).
"""

from __future__ import annotations

from collections.abc import Mapping
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
    LONGEST_FILE,
    LONGEST_SNAME,
    SERVER_PORT,
    Message,
    encode_reply,
)
from netboot.dhcp_options import Code, MessageType, encode_option
from netboot.dhcp_request import Request
from netboot.network import ClientKind

LARGEST_REPLY = 1472
"""edk2 announces 65280 in option 57 and still drops what is larger than one frame."""
SMALLEST_LIMIT = 548
"""What every client takes: an IP datagram of 576 bytes (RFC 2131, 2)."""
FOR_EVER = 0xFFFFFFFF
"""Seconds of a lease that never ends (RFC 2131, 3.3)."""
_VENDOR_AREA = 60
"""Bytes of BOOTP's vendor area after the cookie (RFC 951, 3)."""
_IP_UDP = 28
_NOWHERE = IPv4Address(0)
_EVERYBODY = IPv4Address("255.255.255.255")
PXE_NO_DISCOVERY = bytes((6, 1, 8, Code.END))
"""Option 43: PXE_DISCOVERY_CONTROL, take the boot file named here and ask no port 4011."""
PI_BOOT = b"".join(
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
)
"""What gives way when a reply grows too large; the client chooses the size of 61, 81 and 97."""
_NEVER_LEFT_OUT = frozenset(
    {
        Code.MESSAGE_TYPE,
        Code.SERVER_ID,
        Code.LEASE_TIME,
        Code.RENEWAL_TIME,
        Code.REBINDING_TIME,
        Code.SUBNET_MASK,
        Code.ROUTER,
        Code.RELAY_AGENT,
    }
)
_END = bytes((Code.END,))
_OVERLOAD_SIZE = 3
_NO_CODES: frozenset[int] = frozenset()
_ZERO = bytes(4)
_PARAMETER_LIST, _FQDN = int(Code.PARAMETER_LIST), int(Code.FQDN)
_ECHOED = (int(Code.SUBNET_SELECTION), int(Code.CLIENT_ID), int(Code.RELAY_AGENT))
_ECHOED_IN_NAK = _ECHOED[1:]
_OF_RELAY = _ECHOED[2:]


class Via(Enum):
    """How a reply leaves: a frame without ARP, a broadcast, or an ordinary datagram."""

    FRAME = "frame"
    BROADCAST = "broadcast"
    UNICAST = "unicast"


_FRAME, _BROADCAST, _UNICAST = Via
_ACK = MessageType.ACK


@dataclass(slots=True, kw_only=True)
class Send:
    """A reply to send from port 67 of `source`; `mac` for a frame only.

    `promises` means that it must not leave before the writes of its outcome are durable; `delay` in
    seconds, for clients that miss a reply that comes at once. Nobody changes it; not frozen, being
    made for each packet.
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


@dataclass(slots=True, kw_only=True, eq=False)
class Grant:
    """What an OFFER or ACK says: `address` and `seconds` are None for INFORM.

    `target` is where INFORM is answered to, `domain` the site's, for option 81. Not frozen, being
    made for each packet.
    """

    settings: Settings
    server_id: bytes
    address: IPv4Address | None
    seconds: int | None
    boot: BootFile | None
    domain: str
    ciaddr: IPv4Address
    rapid: bool = False
    target: IPv4Address | None = None


def reply(kind: MessageType, request: Request, grant: Grant) -> Send:
    """Build an OFFER or ACK. `sname` and `file` of the request are never echoed."""
    message, settings, boot = request.message, grant.settings, grant.boot
    said = message.options.by_code
    told = settings.told(said.get(_PARAMETER_LIST, b""))
    head = settings.head(kind, grant.server_id, grant.seconds)
    tail = _answers(said, grant)
    file, siaddr = b"", settings.next_server
    if boot is not None:
        tail = _boot(request.facts, boot, told.codes) + tail
        file = _header_file(said, settings, boot)
        siaddr = siaddr or settings.appliance
    area, file, sname = _fit(said, head, told, tail, (file, settings.server_name))
    address = grant.address or _NOWHERE
    data = encode_reply(
        message,
        addresses=(grant.ciaddr.packed, address.packed, siaddr or _ZERO),
        flags=message.flags,
        names=(sname, file),
        options=area,
    )
    promises = kind is _ACK and grant.seconds is not None
    return _send(request, settings, data, (grant.target or grant.ciaddr, address), promises)


def bootp_reply(request: Request, grant: Grant) -> Send:
    """Build a BOOTP reply: no option of DHCP, and no more than a vendor area of 64 bytes holds.

    A relay's 82 comes beside that: the relay takes it out. RFC 951; RFC 1534, 2; RFC 3046, 2.1.
    """
    message, settings, boot = request.message, grant.settings, grant.boot
    area, room = b"", _VENDOR_AREA - len(_END)
    for _, wire in settings.told(b"").pieces:
        if len(area) + len(wire) <= room:
            area += wire
    area += b"".join(wire for _, wire in _echoes(message.options.by_code, _OF_RELAY))
    name = boot.name.encode("ascii") if boot is not None else b""
    siaddr = settings.next_server or (settings.appliance if name else _ZERO)
    address = grant.address or _NOWHERE
    data = encode_reply(
        message,
        addresses=(grant.ciaddr.packed, address.packed, siaddr),
        flags=message.flags,
        names=(settings.server_name, name if len(name) <= LONGEST_FILE else b""),
        options=area + _END,
    )
    return _send(request, settings, data, (grant.ciaddr, address), promises=True)


def nak(
    message: Message,
    settings: Settings,
    server_id: bytes,
    text: str,
    interface: str,
    relay_port: int = SERVER_PORT,
) -> Send:
    """Build a NAK: 53, 54, 56, 61 and 82 only; through a relay it asks for broadcast."""
    said = message.options.by_code
    head = settings.head(MessageType.NAK, server_id, None)
    head += encode_option(Code.MESSAGE, text.encode("ascii"))
    tail = _echoes(said, _ECHOED_IN_NAK)
    area, file, sname = _fit(said, head, _NOTHING_TOLD, tail, (b"", b""))
    is_relayed = int(message.giaddr) != 0
    data = encode_reply(
        message,
        addresses=(_ZERO, _ZERO, _ZERO),
        flags=message.flags | (BROADCAST_FLAG if is_relayed else 0),
        names=(sname, file),
        options=area,
    )
    return Send(
        via=Via.UNICAST if is_relayed else Via.BROADCAST,
        interface=interface,
        source=settings.subnet.appliance,
        destination=message.giaddr if is_relayed else _EVERYBODY,
        port=relay_port if is_relayed else CLIENT_PORT,
        mac=None,
        data=data,
        promises=False,
        delay=settings.delay,
    )


_NOTHING_TOLD = Told(pieces=(), joined=b"", codes=_NO_CODES)


def _send(
    request: Request,
    settings: Settings,
    data: bytes,
    targets: tuple[IPv4Address, IPv4Address],
    promises: bool,
) -> Send:
    """Choose the way of RFC 2131, 4.1: relay, ciaddr, broadcast, or a frame to the client.

    `targets` are ciaddr and yiaddr of the reply.
    """
    message, (ciaddr, yiaddr) = request.message, targets
    port, via, destination, mac = CLIENT_PORT, _BROADCAST, _EVERYBODY, None
    if int(message.giaddr):
        port, via, destination = request.relay_port, _UNICAST, message.giaddr
    elif int(ciaddr):
        via, destination = _UNICAST, ciaddr
    elif not message.wants_broadcast and request.client.mac is not None:
        via, destination, mac = _FRAME, yiaddr, request.client.mac
    return Send(
        via=via,
        interface=request.arrival.interface,
        source=settings.subnet.appliance,
        destination=destination,
        port=port,
        mac=mac,
        data=data,
        promises=promises,
        delay=settings.delay,
    )


def _boot(facts: Facts, boot: BootFile, told: frozenset[int]) -> list[Piece]:
    """Say what belongs to a boot file, but for what the plan's own options say already."""
    items: list[tuple[int, bytes]] = []
    if facts.kind is ClientKind.RASPBERRY_PI:
        items = [(Code.VENDOR_CLASS, b"PXEClient"), (Code.VENDOR_SPECIFIC, PI_BOOT)]
    elif facts.vendor_class.startswith(b"HTTPClient"):
        items = [(Code.VENDOR_CLASS, b"HTTPClient")]
    elif facts.vendor_class.startswith(b"PXEClient"):
        items = [(Code.VENDOR_CLASS, b"PXEClient"), (Code.VENDOR_SPECIFIC, PXE_NO_DISCOVERY)]
    uuid = facts.options.get(Code.CLIENT_UUID)
    if uuid is not None:
        items.append((Code.CLIENT_UUID, uuid))
    if _in_option(facts.options.by_code, boot):
        # edk2 writes a NUL over the next option's code where the name does not end with one.
        items.append((Code.BOOT_FILE, boot.name.encode("ascii") + b"\0"))
    if facts.kind is ClientKind.IPXE:
        items.append((Code.IPXE, _IPXE_NO_PROXY))
    return [(code, encode_option(code, data)) for code, data in items if code not in told]


def _in_option(said: Mapping[int, bytes], boot: BootFile) -> bool:
    """Name the file in option 67 to whom asks for it (U-Boot does not), and every URL."""
    return Code.BOOT_FILE in said.get(_PARAMETER_LIST, b"") or boot.loading is not Loading.TFTP


def _header_file(said: Mapping[int, bytes], settings: Settings, boot: BootFile) -> bytes:
    """Give the header's `file`; one of the plan's own parameters stands there in any case."""
    if settings.boot_file is None and _in_option(said, boot):
        return b""
    name = boot.name.encode("ascii")
    return name if len(name) <= LONGEST_FILE else b""


def _answers(said: Mapping[int, bytes], grant: Grant) -> list[Piece]:
    """Give back what a server must: 80, 81, 118, 61 (RFC 6842) and, last, 82 (RFC 3046, 2.2)."""
    pieces: list[Piece] = []
    if grant.rapid:
        pieces.append((Code.RAPID_COMMIT, encode_option(Code.RAPID_COMMIT, b"")))
    fqdn = said.get(_FQDN)
    if fqdn is not None and len(fqdn) >= 3:
        answer = _fqdn(fqdn, grant.settings.name, grant.domain)
        pieces.append((Code.FQDN, encode_option(Code.FQDN, answer)))
    return pieces + _echoes(said, _ECHOED)


def _echoes(said: Mapping[int, bytes], codes: tuple[int, ...]) -> list[Piece]:
    return [(code, encode_option(code, said[code])) for code in codes if code in said]


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


def _limit(said: Mapping[int, bytes]) -> int:
    """Bytes that a reply may have: what option 57 takes, one frame at most."""
    data = said.get(Code.MAX_SIZE)
    asked = int.from_bytes(data, "big") if data is not None and len(data) == 2 else 0
    # Whether 57 counts the headers of IP and UDP is not said; most servers take it that it does.
    return max(min(asked - _IP_UDP, LARGEST_REPLY), SMALLEST_LIMIT)


def _fit(
    said: Mapping[int, bytes],
    head: bytes,
    told: Told,
    tail: list[Piece],
    names: tuple[bytes, bytes],
) -> tuple[bytes, bytes, bytes]:
    """Give the options area with END, `file` and `sname`, which `names` are so far."""
    area = b"".join((head, told.joined, *[wire for _, wire in tail], _END))
    size = HEADER_SIZE + len(area)
    if size <= SMALLEST_LIMIT or size <= _limit(said):
        return area, *names
    return _overloaded(_limit(said), head, [*told.pieces, *tail], names)


def _overloaded(
    limit: int, head: bytes, pieces: list[Piece], names: tuple[bytes, bytes]
) -> tuple[bytes, bytes, bytes]:
    """Put options into `file` and `sname` (RFC 2132, 9.3), and leave out what fits nowhere.

    82 stays last of the options field, where relays look for it.
    """
    free = limit - HEADER_SIZE - len(head) - _OVERLOAD_SIZE - len(_END)
    spare = [(1, LONGEST_FILE)] * (not names[0]) + [(2, LONGEST_SNAME)] * (not names[1])
    order = sorted(pieces, key=lambda piece: _weight(piece[0]))
    areas: dict[int, list[Piece]] = {0: [], 1: [], 2: []}
    rooms = dict([(0, free), *spare])
    for piece in order:
        within = (0,) if piece[0] == Code.RELAY_AGENT else tuple(rooms)
        fitting = (area for area in within if len(piece[1]) <= rooms[area])
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
        joined[1] + _END if areas[1] else names[0],
        joined[2] + _END if areas[2] else names[1],
    )


def _weight(code: int) -> int:
    """Order pieces by how much a client needs them: what must be first, what gives way last."""
    if code in _NEVER_LEFT_OUT:
        return -1
    if code in _LEFT_OUT_FIRST:
        return len(_LEFT_OUT_FIRST) - _LEFT_OUT_FIRST.index(Code(code))
    return 0
