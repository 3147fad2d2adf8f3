"""The server's replies: which options, how large, and by which way they leave.

Builds values only; whether to answer and with which address is `netboot.dhcp`'s. RFC 2131, 4.1 and
table 3; RFC 3046 (82 last), 6842 (61 back), 4578 (PXE), 5970 (HTTP boot), 8572 (143).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address

from netboot.bootchoice import BootFile, Loading
from netboot.client import HTTP_CLASS, PXE_CLASS, is_ipxe
from netboot.dhcp_message import BOOTREPLY, BROADCAST_FLAG, CLIENT_PORT, SERVER_PORT, Message
from netboot.dhcp_options import Code, MessageType, Options, encode_uris
from netboot.network import SubnetPlan

LARGEST_REPLY = 1472
"""edk2 announces 65280 in option 57 and still drops what is larger than one frame."""
SMALLEST_LIMIT = 576
_NOWHERE = IPv4Address(0)
_PXE_NO_DISCOVERY = bytes((6, 1, 8, Code.END))
"""Option 43: PXE_DISCOVERY_CONTROL, take the boot file named here and ask no port 4011."""
_IPXE_NO_PROXY = bytes((176, 1, 1))
"""Option 175: iPXE need not wait 2 s for proxy offers."""
_LEFT_OUT_FIRST = (
    Code.IPXE,
    Code.BROADCAST,
    Code.CLIENT_UUID,
    Code.CLIENT_ID,
    Code.HOST_NAME,
    Code.SZTP_REDIRECT,
    Code.DOMAIN_NAME,
    Code.RELAY_AGENT,
)
"""What gives way when a reply grows too large; the client chooses the size of 61 and 82."""

Items = list[tuple[int, bytes]]


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
    """What an OFFER or ACK says beside its type: settings, and the address unless for INFORM."""

    address: IPv4Address | None
    domain: str
    name: str | None
    boot: BootFile | None


def reply(
    kind: MessageType, request: Message, subnet: SubnetPlan, grant: Grant, *, ciaddr: IPv4Address
) -> Message:
    """Build an OFFER or ACK. `sname` and `file` of the request are never echoed."""
    items: Items = [
        (Code.MESSAGE_TYPE, bytes((kind,))),
        (Code.SERVER_ID, subnet.appliance.packed),
    ]
    if grant.address is not None:
        items += _times(subnet)
    items += _settings(request, subnet, grant)
    in_header = b""
    if grant.boot is not None:
        items += _boot(request.options, grant.boot)
        in_header = _header_file(request.options, grant.boot)
    items += _echoes(request.options)
    message = Message(
        op=BOOTREPLY,
        htype=request.htype,
        xid=request.xid,
        flags=request.flags,
        ciaddr=ciaddr,
        yiaddr=grant.address or _NOWHERE,
        siaddr=subnet.appliance if grant.boot is not None else _NOWHERE,
        giaddr=request.giaddr,
        chaddr=request.chaddr,
        file=in_header,
        options=_options(items),
    )
    return _fit(message, request)


def nak(request: Message, subnet: SubnetPlan, text: str) -> Message:
    """Build a NAK: 53, 54, 56, 61 and 82 only; through a relay it asks for broadcast."""
    items: Items = [
        (Code.MESSAGE_TYPE, bytes((MessageType.NAK,))),
        (Code.SERVER_ID, subnet.appliance.packed),
        (Code.MESSAGE, text.encode("ascii")),
        *_echoes(request.options),
    ]
    relayed = request.giaddr != _NOWHERE
    message = Message(
        op=BOOTREPLY,
        htype=request.htype,
        xid=request.xid,
        flags=request.flags | (BROADCAST_FLAG if relayed else 0),
        giaddr=request.giaddr,
        chaddr=request.chaddr,
        options=_options(items),
    )
    return _fit(message, request)


def send(message: Message, subnet: SubnetPlan, interface: str, *, promises: bool) -> Send:
    """Choose the way of RFC 2131, 4.1: relay, ciaddr, broadcast, or a frame to the client."""
    is_nak = message.options.message_type is MessageType.NAK
    destination, port, via, mac = IPv4Address("255.255.255.255"), CLIENT_PORT, Via.BROADCAST, None
    if message.giaddr != _NOWHERE:
        destination, port, via = message.giaddr, SERVER_PORT, Via.UNICAST
    elif message.ciaddr != _NOWHERE:
        destination, via = message.ciaddr, Via.UNICAST
    elif not (is_nak or message.wants_broadcast or message.mac is None):
        destination, via, mac = message.yiaddr, Via.FRAME, message.mac
    return Send(
        via=via,
        interface=interface,
        source=subnet.appliance,
        destination=destination,
        port=port,
        mac=mac,
        data=message.encode(),
        promises=promises,
    )


def _times(subnet: SubnetPlan) -> Items:
    """Lease, T1 = 0.5 and T2 = 0.875 of it (RFC 2131, 4.4.5), in seconds."""
    seconds = int(subnet.lease.total_seconds())
    return [
        (Code.LEASE_TIME, seconds.to_bytes(4, "big")),
        (Code.RENEWAL_TIME, (seconds // 2).to_bytes(4, "big")),
        (Code.REBINDING_TIME, (seconds * 7 // 8).to_bytes(4, "big")),
    ]


def _settings(request: Message, subnet: SubnetPlan, grant: Grant) -> Items:
    asked = request.options.parameters
    items: Items = [(Code.SUBNET_MASK, subnet.network.netmask.packed)]
    if subnet.gateway is not None:
        items.append((Code.ROUTER, subnet.gateway.packed))
    items.append((Code.DNS_SERVER, subnet.appliance.packed))
    items.append((Code.DOMAIN_NAME, grant.domain.encode("ascii")))
    if grant.name is not None:
        items.append((Code.HOST_NAME, grant.name.encode("ascii")))
    if Code.BROADCAST in asked:
        items.append((Code.BROADCAST, subnet.network.broadcast_address.packed))
    if subnet.enrols and Code.SZTP_REDIRECT in asked:
        items.append((Code.SZTP_REDIRECT, encode_uris([subnet.phone_home])))
    return items


def _boot(options: Options, boot: BootFile) -> Items:
    items: Items = []
    if options.vendor_class.startswith(HTTP_CLASS):
        items.append((Code.VENDOR_CLASS, HTTP_CLASS))
    elif options.vendor_class.startswith(PXE_CLASS):
        items.append((Code.VENDOR_CLASS, PXE_CLASS))
        items.append((Code.VENDOR_SPECIFIC, _PXE_NO_DISCOVERY))
    uuid = options.get(Code.CLIENT_UUID)
    if uuid is not None:
        items.append((Code.CLIENT_UUID, uuid))
    if _in_option(options, boot):
        # edk2 writes a NUL over the next option's code where the name does not end with one.
        items.append((Code.BOOT_FILE, boot.name.encode("ascii") + b"\0"))
    if is_ipxe(options):
        items.append((Code.IPXE, _IPXE_NO_PROXY))
    return items


def _in_option(options: Options, boot: BootFile) -> bool:
    """Name the file in option 67 to whom asks for it (U-Boot does not), and every URL."""
    return Code.BOOT_FILE in options.parameters or boot.loading is Loading.HTTP


def _header_file(options: Options, boot: BootFile) -> bytes:
    return b"" if _in_option(options, boot) else boot.name.encode("ascii")


def _echoes(options: Options) -> Items:
    """Give back 61 (RFC 6842) and, last, 82 (RFC 3046, 2.2)."""
    echoed = ((code, options.get(code)) for code in (Code.CLIENT_ID, Code.RELAY_AGENT))
    return [(code, data) for code, data in echoed if data is not None]


def _options(items: Iterable[tuple[int, bytes]]) -> Options:
    return Options(items=tuple(items))


def _fit(message: Message, request: Message) -> Message:
    """Leave out options until the reply is no larger than the client and one frame take."""
    asked = request.options.number(Code.MAX_SIZE, 2) or SMALLEST_LIMIT
    limit = max(min(asked, LARGEST_REPLY), SMALLEST_LIMIT)
    for code in _LEFT_OUT_FIRST:
        if len(message.encode()) <= limit:
            break
        kept = (item for item in message.options.items if item[0] != code)
        message = replace(message, options=_options(kept))
    return message
