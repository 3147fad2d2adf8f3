"""What a message says about the client that sent it: every fact here is a claim.

Derived once per message of either family, for classes, boot choice and reservations. It decides
nothing. RFC 4578 (93, 97), 3004 (77), 3046 (82); option 175 is iPXE's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from netboot.dhcp6_options import Options6
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
RELAY_PORT = 19
"""Sub-option of 82: the relay asks from another port than 67 (RFC 8357)."""
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

    `uuid` 16 bytes as they came in option 97 or in a DUID; `relay` is giaddr or the link address,
    None for a direct client; `known` means that the client has a reservation, `classes` are the
    names of those that it was found to be in. `options` are those
    of DHCPv4, `options6` and `relay6` those of a DHCPv6 message and of the relay next to the
    client: of the other family they are empty.
    """

    kind: ClientKind
    mac: bytes | None
    options: Options = field(default_factory=Options)
    options6: Options6 = field(default_factory=Options6)
    relay6: Options6 = field(default_factory=Options6)
    architectures: tuple[int, ...] = ()
    vendor_classes: tuple[bytes, ...] = ()
    user_classes: tuple[bytes, ...] = ()
    uuid: bytes | None = None
    circuit_id: bytes | None = None
    remote_id: bytes | None = None
    relay: IPv4Address | IPv6Address | None = None
    known: bool = False
    classes: frozenset[str] = frozenset()

    @property
    def vendor_class(self) -> bytes:
        """The first vendor class, empty when there is none."""
        return self.vendor_classes[0] if self.vendor_classes else b""

    def all(self, code: int) -> tuple[bytes, ...]:
        """Give an option of DHCPv4; empty when it is absent."""
        data = self.options.get(code)
        return () if data is None else (data,)

    def all6(self, code: int) -> tuple[bytes, ...]:
        """Give the options of DHCPv6 of one code."""
        return self.options6.all(code)

    def of_relay(self, code: int) -> tuple[bytes, ...]:
        """Give a sub-option of option 82, or the options of a DHCPv6 relay, of one code."""
        agent = self.options.get(Code.RELAY_AGENT)
        data = sub_option(agent, code) if agent else None
        return self.relay6.all(code) if data is None else (data,)

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
        vendor_classes=(options.vendor_class,) if options.vendor_class else (),
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
