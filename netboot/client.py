"""What a message says about the client that sent it: every fact here is a claim.

Derived once per message, for classes, boot choice and reservations. It decides nothing. RFC 4578
(93, 97), 3004 (77), 3046 (82); option 175 is iPXE's.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, Options
from netboot.network import ClientKind

PXE_CLASS = b"PXEClient"
HTTP_CLASS = b"HTTPClient"
UBOOT_CLASS = b"U-Boot"
AGENT_CLASS = b"doorstep-agent"
"""Our enrolment system, which asks where the site is (option 143)."""
CIRCUIT_ID = 1
REMOTE_ID = 2
LINK_SELECTION = 5
"""Sub-option of 82: the subnet to choose from, when it is not giaddr's (RFC 3527)."""
SERVER_ID_OVERRIDE = 11
"""Sub-option of 82: what clients behind this relay must take for the server (RFC 5107)."""
_PI_OUIS = frozenset(
    bytes.fromhex(oui)
    for oui in ("28cdc1", "2ccf67", "88a29e", "b827eb", "d83add", "dca632", "e45f01")
)
"""IEEE registrations of Raspberry Pi: its boot ROM says architecture 0, BIOS, whatever it is."""
_BIOS = 0
_NO_UUIDS = (bytes(16), b"\xff" * 16)
"""What firmware without a UUID sends in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one message claims; empty or None where it says nothing.

    `uuid` 16 bytes as they came in option 97; `relay` is giaddr, None for a direct client; `known`
    means that the client has a reservation.
    """

    kind: ClientKind
    options: Options
    mac: bytes | None
    architectures: tuple[int, ...] = ()
    vendor_class: bytes = b""
    user_classes: tuple[bytes, ...] = ()
    uuid: bytes | None = None
    circuit_id: bytes | None = None
    remote_id: bytes | None = None
    relay: IPv4Address | None = None
    known: bool = False

    @property
    def wants_boot(self) -> bool:
        """Tell whether the client is one that boots from the network."""
        return self.kind is not ClientKind.OTHER


def facts_of(message: Message, *, known: bool = False) -> Facts:
    """Derive the facts; PeerError where an option cannot be read."""
    options = message.options
    agent = options.get(Code.RELAY_AGENT)
    architectures = options.architectures
    return Facts(
        kind=_kind(options, architectures, message.mac),
        options=options,
        mac=message.mac,
        architectures=architectures,
        vendor_class=options.vendor_class,
        user_classes=options.user_classes,
        uuid=uuid_of(options),
        circuit_id=sub_option(agent, CIRCUIT_ID) if agent else None,
        remote_id=sub_option(agent, REMOTE_ID) if agent else None,
        relay=message.giaddr if int(message.giaddr) else None,
        known=known,
    )


def uuid_of(options: Options) -> bytes | None:
    """Read the 16 bytes of option 97; None when absent, of another type, or made of one byte."""
    data = options.get(Code.CLIENT_UUID)
    if data is None or len(data) != 17 or data[0] != 0 or data[1:] in _NO_UUIDS:
        return None
    return data[1:]


def sub_option(data: bytes, wanted: int) -> bytes | None:
    """Read one sub-option of option 82; None when absent or cut off."""
    at = 0
    while at + 2 <= len(data):
        end = at + 2 + data[at + 1]
        if data[at] == wanted and end <= len(data):
            return data[at + 2 : end]
        at = end
    return None


def is_ipxe(options: Options) -> bool:
    """Tell iPXE from firmware: option 175 is there, or a user class is iPXE."""
    return Code.IPXE in options or any(b"iPXE" in user_class for user_class in options.user_classes)


def _kind(options: Options, architectures: tuple[int, ...], mac: bytes | None) -> ClientKind:
    if is_ipxe(options):
        return ClientKind.IPXE
    vendor_class = options.vendor_class
    if vendor_class.startswith(HTTP_CLASS):
        return ClientKind.HTTP
    if vendor_class.startswith(UBOOT_CLASS):
        return ClientKind.UBOOT
    if not architectures and not vendor_class.startswith(PXE_CLASS):
        return ClientKind.OTHER
    # Pi 4 and 5 are told by their OUI; with UEFI on them they say what they are (11).
    if mac is not None and mac[:3] in _PI_OUIS and architectures in ((), (_BIOS,)):
        return ClientKind.RASPBERRY_PI
    return ClientKind.PXE
