"""What a client would be told over IPv6, option by option: a SOLICIT through the real engine.

Nothing is sent and nothing is written; leases are what the caller gives. The words are read from
the reply's bytes, so this cannot say what the engine would not. RFC 8415, 21; 5970.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

from netboot.dhcp6 import Dhcp6Engine
from netboot.dhcp6_boot import BOOT_ENTERPRISE
from netboot.dhcp6_config import Dhcp6Config
from netboot.dhcp6_message import Kind6, Message6, Packet6, Relay6
from netboot.dhcp6_options import (
    Association,
    Code6,
    Options6,
    Status,
    StatusCode,
    VendorClass,
    decode_counted,
    decode_names,
    encode_counted,
    uuid_duid,
)
from netboot.dhcp6_reply import Arrival6, Send6
from netboot.dhcp_options import decode_uris
from netboot.errors import PeerError
from netboot.leases6 import Lease6

_DUID = uuid_duid(b"explain-explain-")
_SZTP = 136
_ASKED = (Code6.DNS_SERVERS, Code6.DOMAIN_LIST, Code6.BOOT_URL, Code6.BOOT_PARAMETERS, _SZTP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking6:
    """Who asks; `mac` 6 bytes, `uuid` 16 bytes (the DUID is made of it where it is given).

    `vendor_class` as option 16 of enterprise 343 holds it; `relay` is a relay's link address.
    """

    mac: bytes
    interface: str
    uuid: bytes | None = None
    architectures: tuple[int, ...] = ()
    vendor_class: bytes = b""
    user_class: bytes = b""
    relay: IPv6Address | None = None

    @property
    def source(self) -> IPv6Address:
        """The link-local address that the NIC makes itself (RFC 4291, A)."""
        eui = bytes((self.mac[0] ^ 2,)) + self.mac[1:3] + b"\xff\xfe" + self.mac[3:]
        return IPv6Address(b"\xfe\x80" + bytes(6) + eui)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionLine:
    """One option of a reply: its code, its bytes, and what they say."""

    code: int
    data: bytes
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation6:
    """The datagram as it was asked, the answer as it would leave (None: silence), its options."""

    request: bytes
    reply: Send6 | None
    options: tuple[OptionLine, ...]


def solicit(asking: Asking6) -> Packet6:
    """Write the SOLICIT that firmware or a system sends."""
    duid = uuid_duid(asking.uuid) if asking.uuid else b"\0\3\0\1" + asking.mac
    items: list[tuple[int, bytes]] = [
        (Code6.CLIENT_ID, duid),
        (Code6.IA_NA, Association(iaid=1).encode()),
        (Code6.ELAPSED_TIME, bytes(2)),
        (Code6.OPTION_REQUEST, b"".join(code.to_bytes(2, "big") for code in _ASKED)),
    ]
    if asking.architectures:
        data = b"".join(code.to_bytes(2, "big") for code in asking.architectures)
        items.append((Code6.ARCHITECTURE, data))
    if asking.vendor_class:
        vendor = VendorClass(enterprise=BOOT_ENTERPRISE, classes=(asking.vendor_class,))
        items.append((Code6.VENDOR_CLASS, vendor.encode()))
    if asking.user_class:
        items.append((Code6.USER_CLASS, encode_counted((asking.user_class,))))
    message = Message6(kind=Kind6.SOLICIT, transaction=1, options=Options6(items=tuple(items)))
    if asking.relay is None:
        return Packet6(message=message)
    relay = Relay6(kind=Kind6.RELAY_FORWARD, hops=0, link=asking.relay, peer=asking.source)
    return Packet6(message=message, relays=(relay,))


def explain6(
    asking: Asking6,
    config: Dhcp6Config,
    leases: Iterable[Lease6],
    now: float,
    duid: bytes = _DUID,
) -> Explanation6:
    """Say what the client is told; `duid` is the server's own, where the caller knows it."""
    arrival = Arrival6(interface=asking.interface, source=asking.relay or asking.source)
    request = solicit(asking).encode()
    sends = Dhcp6Engine(config, leases, duid).receive(request, arrival, now).sends
    if not sends:
        return Explanation6(request=request, reply=None, options=())
    told = Packet6.decode(sends[0].data).message.options.items
    lines = tuple(OptionLine(code=code, data=data, words=words6(code, data)) for code, data in told)
    return Explanation6(request=request, reply=sends[0], options=lines)


def words6(code: int, data: bytes) -> str:
    """Say what an option's bytes mean; as hex where they are not of its kind."""
    try:
        return ", ".join(_words(code, data))
    except (PeerError, ValueError):
        return data.hex()


def _words(code: int, data: bytes) -> Iterator[str]:
    if code == Code6.IA_NA:
        yield from _of_association(Association.decode(data))
    elif code == Code6.STATUS:
        yield _of_status(Status.decode(data))
    elif code == Code6.DNS_SERVERS:
        for at in range(0, len(data), 16):
            yield str(IPv6Address(data[at : at + 16]))
    elif code == Code6.DOMAIN_LIST:
        yield from decode_names(data)
    elif code == Code6.BOOT_URL:
        yield data.decode()
    elif code == Code6.VENDOR_CLASS:
        enterprise, classes = int.from_bytes(data[:4], "big"), decode_counted(data[4:])
        yield f"enterprise {enterprise}"
        yield from (one.decode() for one in classes)
    elif code == _SZTP:
        yield from decode_uris(data)
    elif code in (Code6.PREFERENCE, Code6.REFRESH_TIME, Code6.SOL_MAX_RT, Code6.INF_MAX_RT):
        yield str(int.from_bytes(data, "big"))
    else:
        yield data.hex()


def _of_association(association: Association) -> Iterator[str]:
    yield f"IAID {association.iaid}"
    if association.status is not None:
        yield _of_status(association.status)
    for lent in association.addresses:
        yield f"{lent.address} preferred {lent.preferred} s, valid {lent.valid} s"
        yield f"T1 {association.t1} s, T2 {association.t2} s"


def _of_status(status: Status) -> str:
    known = {code.value: code.name.lower().replace("_", " ") for code in StatusCode}
    return f"{known.get(status.code, status.code)}: {status.text}"
