"""The box's own DHCPv6 client as values: messages to send, and what replies to them say.

Pure: no socket, no clock; the transaction id is an argument. The lease is the one that the firmware
had, because server and relay know the NIC by its MAC. RFC 8415; 8572, 8.2 (option 136), 3646 (23).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Interface

from netboot.dhcp6_message import Kind6, Message6, Packet6
from netboot.dhcp6_options import Association, Code6, DuidType, Lent, Options6
from netboot.dhcp_options import decode_uris
from netboot.errors import PeerError

_SZTP_REDIRECT = 136
_WANTED = (Code6.DNS_SERVERS, _SZTP_REDIRECT, Code6.SOL_MAX_RT)
_WANTED_WITHOUT_ADDRESS = (*_WANTED[:-1], Code6.REFRESH_TIME, Code6.INF_MAX_RT)
"""What each kind of message must ask for beside our own (RFC 8415, 21.7, 21.23 to 21.25)."""
_ETHERNET = 1
_HOST = 128
"""DHCPv6 lends without a prefix: what is on the link, advertisements say (RFC 5942, 4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease6:
    """The address to use; `url` is the first https URL of option 136.

    `server` is the DUID of who lent the address, None for one that the box made itself (SLAAC):
    that one ends with the advertisements, not after `seconds`.
    """

    address: IPv6Interface
    dns: tuple[IPv6Address, ...]
    server: bytes | None
    seconds: int
    url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer6:
    """What one ADVERTISE or REPLY says; `address` None when none is lent to us."""

    kind: Kind6
    server: bytes
    address: IPv6Address | None
    seconds: int
    dns: tuple[IPv6Address, ...]
    url: str | None

    def lease(self, url: str | None) -> Lease6 | None:
        """Give the lease, with `url` where this server names no site."""
        if self.address is None:
            return None
        return Lease6(
            address=IPv6Interface((self.address, _HOST)),
            dns=self.dns,
            server=self.server,
            seconds=self.seconds,
            url=self.url or url,
        )


def solicit(mac: bytes, transaction: int) -> bytes:
    """Write a SOLICIT for one address."""
    return _message(Kind6.SOLICIT, mac, transaction, _ia(mac))


def inform(mac: bytes, transaction: int) -> bytes:
    """Write an INFORMATION-REQUEST, for networks where addresses are made by the box itself."""
    return _message(Kind6.INFORMATION_REQUEST, mac, transaction)


def request(mac: bytes, transaction: int, offer: Lease6) -> bytes:
    """Write the REQUEST that takes an offer."""
    return _of_lease(Kind6.REQUEST, mac, transaction, offer)


def renew(mac: bytes, transaction: int, lease: Lease6) -> bytes:
    """Write a RENEW to the server that lent the address."""
    return _of_lease(Kind6.RENEW, mac, transaction, lease)


def decline(mac: bytes, transaction: int, lease: Lease6) -> bytes:
    """Write a DECLINE: somebody else has this address."""
    return _of_lease(Kind6.DECLINE, mac, transaction, lease)


def read_answer(data: bytes, mac: bytes, transaction: int) -> Answer6 | None:
    """Read a datagram as an ADVERTISE or REPLY to us (RFC 8415, 16.3 and 16.10), else None."""
    try:
        packet = Packet6.decode(data)
        message = packet.message
        options = message.options
        server = options.get(Code6.SERVER_ID)
        if packet.relays or message.kind not in (Kind6.ADVERTISE, Kind6.REPLY):
            return None
        if message.transaction != transaction or options.client_id != _duid(mac) or not server:
            return None
        lent, renewal = _lent(options, mac)
        return Answer6(
            kind=message.kind,
            server=server,
            address=None if lent is None else lent.address,
            seconds=_seconds(lent, renewal),
            dns=_addresses(options.get(Code6.DNS_SERVERS) or b"")[:3],
            url=_url(options.get(_SZTP_REDIRECT) or b""),
        )
    except PeerError:
        return None


def _lent(options: Options6, mac: bytes) -> tuple[Lent | None, int]:
    """Find the first address of our IA that may be used, and when the IA wants to be renewed."""
    for found in options.associations:
        if found.iaid == _iaid(mac) and found.status is None:
            usable = (one for one in found.addresses if one.valid and one.status is None)
            return next(usable, None), found.t1
    return None, 0


def _seconds(lent: Lent | None, renewal: int) -> int:
    """Give the time of which half may pass before renewal: T1 is that half, where it is said."""
    if lent is None:
        return 0
    return min(lent.valid, 2 * renewal) if renewal else lent.valid


def _addresses(data: bytes) -> tuple[IPv6Address, ...]:
    if len(data) % 16:
        raise PeerError("option 23 is no list of addresses")
    return tuple(IPv6Address(data[at : at + 16]) for at in range(0, len(data), 16))


def _url(data: bytes) -> str | None:
    """Take the first https URL; it is shown on a console, so nothing unprintable is one."""
    fit = (url for url in decode_uris(data) if url.startswith("https://") and url.isprintable())
    return next(fit, None)


def _duid(mac: bytes) -> bytes:
    """Give the DUID-LL: the same at every boot, with nothing stored (RFC 8415, 11.4)."""
    return DuidType.LINK_LAYER.to_bytes(2, "big") + _ETHERNET.to_bytes(2, "big") + mac


def _iaid(mac: bytes) -> int:
    return int.from_bytes(mac[-4:], "big")


def _ia(mac: bytes, *addresses: IPv6Address) -> tuple[int, bytes]:
    lent = tuple(Lent(address=one, preferred=0, valid=0) for one in addresses)
    return Code6.IA_NA, Association(iaid=_iaid(mac), addresses=lent).encode()


def _of_lease(kind: Kind6, mac: bytes, transaction: int, lease: Lease6) -> bytes:
    server = (Code6.SERVER_ID, lease.server or b"")
    return _message(kind, mac, transaction, server, _ia(mac, lease.address.ip))


def _message(kind: Kind6, mac: bytes, transaction: int, *extra: tuple[int, bytes]) -> bytes:
    is_without = kind is Kind6.INFORMATION_REQUEST
    codes = _WANTED_WITHOUT_ADDRESS if is_without else _WANTED
    wanted = b"".join(code.to_bytes(2, "big") for code in codes)
    items = (
        (int(Code6.CLIENT_ID), _duid(mac)),
        *((int(code), data) for code, data in extra),
        (int(Code6.ELAPSED_TIME), bytes(2)),
        *(() if kind is Kind6.DECLINE else ((int(Code6.OPTION_REQUEST), wanted),)),
    )
    return Message6(kind=kind, transaction=transaction, options=Options6(items=items)).encode()
