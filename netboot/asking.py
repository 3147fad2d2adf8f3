"""A DHCPv4 client as it would ask: the packets of firmware, iPXE and systems, built from few words.

What each kind asks for in option 55 is what edk2, iPXE and systemd-networkd ask for. It knows no
server. RFC 2131, 4.3.2; RFC 4578 (93, 97), 5970, 3046 (82).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from netboot.bootchoice import ARCHITECTURE_NAMES
from netboot.dhcp_message import BOOTREQUEST, BROADCAST_FLAG, Message
from netboot.dhcp_options import Code, MessageType, Options

XID = 0x12345678
_NOWHERE = IPv4Address(0)
_ASKED_BY_FIRMWARE = bytes((1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43))
_ASKED_BY_FIRMWARE += bytes((50, 51, 54, 58, 59, 60, 66, 67, 97, *range(128, 136)))
_ASKED_BY_HTTP = bytes((1, 3, 6, 12, 15, 28, 43, 60, 67, 97))
_ASKED_BY_IPXE = bytes((1, 3, 6, 7, 12, 15, 17, 26, 43, 60, 66, 67, 119, 128, 175, 203))
_ASKED_BY_SYSTEM = bytes((1, 3, 6, 12, 15, 26, 28, 33, 42, 119, 121))
"""What edk2, iPXE and a system's DHCP client ask for (option 55)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A client as it would ask; what is None or empty it does not send.

    `relay` is giaddr, `circuit_id` what the relay adds. `requests` is option 55, None for what such
    a client asks for. `interface` is where the packet comes in, None for the only likely one.
    """

    mac: bytes
    architectures: tuple[int, ...] = ()
    vendor_class: bytes = b""
    user_class: bytes = b""
    uuid: bytes | None = None
    client_id: bytes | None = None
    host_name: str | None = None
    relay: IPv4Address | None = None
    circuit_id: bytes | None = None
    interface: str | None = None
    kind: MessageType = MessageType.DISCOVER
    requests: bytes | None = None


def discover(asking: Asking) -> Message:
    """Build the DISCOVER that such a client sends."""
    vendor_class = asking.vendor_class or vendor_class_of(asking.architectures)
    items: list[tuple[int, bytes | None]] = [
        (Code.MESSAGE_TYPE, bytes((MessageType.DISCOVER,))),
        (Code.PARAMETER_LIST, _requests(asking, vendor_class)),
        (Code.HOST_NAME, asking.host_name.encode() if asking.host_name else None),
        (Code.VENDOR_CLASS, vendor_class or None),
        (Code.CLIENT_ID, asking.client_id),
        (Code.USER_CLASS, asking.user_class or None),
        (Code.ARCHITECTURE, b"".join(one.to_bytes(2, "big") for one in asking.architectures)),
        (Code.CLIENT_UUID, None if asking.uuid is None else b"\0" + asking.uuid),
        (Code.RELAY_AGENT, _agent(asking)),
    ]
    return Message(
        op=BOOTREQUEST,
        xid=XID,
        chaddr=asking.mac,
        flags=0 if asking.relay else BROADCAST_FLAG if asking.architectures else 0,
        giaddr=asking.relay or _NOWHERE,
        hops=1 if asking.relay else 0,
        options=Options(items=tuple((code, data) for code, data in items if data)),
    )


def vendor_class_of(architectures: tuple[int, ...]) -> bytes:
    """Give option 60 as firmware of this architecture writes it (RFC 4578, 2; 5970, 3)."""
    if not architectures:
        return b""
    name = next((name for name, one in ARCHITECTURE_NAMES.items() if one == architectures[0]), "")
    client = "HTTPClient" if name.endswith("-http") else "PXEClient"
    return f"{client}:Arch:{architectures[0]:05d}:UNDI:003016".encode()


def _requests(asking: Asking, vendor_class: bytes) -> bytes:
    if asking.requests is not None:
        return asking.requests
    if b"iPXE" in asking.user_class:
        return _ASKED_BY_IPXE
    if vendor_class.startswith(b"HTTPClient"):
        return _ASKED_BY_HTTP
    return _ASKED_BY_FIRMWARE if vendor_class.startswith(b"PXEClient") else _ASKED_BY_SYSTEM


def _agent(asking: Asking) -> bytes | None:
    if asking.circuit_id is None:
        return None
    return bytes((1, len(asking.circuit_id))) + asking.circuit_id


def request_after(message: Message, offer: Message) -> Message:
    """Build the REQUEST that follows an OFFER (RFC 2131, 4.3.2, SELECTING)."""
    server = offer.options.get(Code.SERVER_ID) or b""
    items: list[tuple[int, bytes]] = []
    for code, data in message.options.items:
        if code != Code.MESSAGE_TYPE:
            items.append((code, data))
            continue
        items.append((code, bytes((MessageType.REQUEST,))))
        items.append((Code.REQUESTED_ADDRESS, offer.yiaddr.packed))
        items.append((Code.SERVER_ID, server))
    return replace(message, options=Options(items=tuple(items)))
