"""One DHCPv4 message as a value, to and from bytes.

Any bytes give a `Message` or PeerError. It knows the layout (RFC 2131, 2) and nothing of states,
addresses to give, or sockets. The box agent imports this module: standard library, `netboot.errors`
and `netboot.dhcp_options` only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from netboot.dhcp_options import Options, decode_options, encode_options
from netboot.errors import PeerError

SERVER_PORT = 67
CLIENT_PORT = 68
BOOTREQUEST = 1
BOOTREPLY = 2
ETHERNET = 1
BROADCAST_FLAG = 0x8000
MINIMUM_SIZE = 300
"""Bytes of a BOOTP message (RFC 951); some firmware drops shorter replies."""

LONGEST_FILE = 127
LONGEST_SNAME = 63
"""Bytes of a name in the fixed fields, without its NUL."""

_COOKIE = b"\x63\x82\x53\x63"
_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_NOWHERE = IPv4Address(0)
_ZERO = _NOWHERE.packed


_TYPED_KEPT = 1024
_typed: dict[bytes, IPv4Address] = {_ZERO: _NOWHERE}


def typed(raw: bytes) -> IPv4Address:
    """Make an address of 4 bytes; those of relays and servers come again with every packet."""
    found = _typed.get(raw)
    if found is None:
        if len(_typed) >= _TYPED_KEPT:
            _typed.clear()
            _typed[_ZERO] = _NOWHERE
        found = _typed[raw] = IPv4Address(raw)
    return found


@dataclass(slots=True, kw_only=True)
class Message:
    """A message; `chaddr` is `hlen` bytes, `sname` and `file` end before their first NUL.

    `sname` and `file` are empty when option 52 gave them to the options. Nobody changes it; not
    frozen, being made for each packet.
    """

    op: int
    xid: int
    chaddr: bytes
    htype: int = ETHERNET
    hops: int = 0
    secs: int = 0
    flags: int = 0
    ciaddr: IPv4Address = field(default=_NOWHERE)
    yiaddr: IPv4Address = field(default=_NOWHERE)
    siaddr: IPv4Address = field(default=_NOWHERE)
    giaddr: IPv4Address = field(default=_NOWHERE)
    sname: bytes = b""
    file: bytes = b""
    options: Options = field(default_factory=Options)

    @property
    def mac(self) -> bytes | None:
        """The Ethernet address; None for every other kind of hardware address."""
        return self.chaddr if self.htype == ETHERNET and len(self.chaddr) == 6 else None

    @property
    def wants_broadcast(self) -> bool:
        """Whether the client cannot hear a frame to an address that it does not have yet."""
        return bool(self.flags & BROADCAST_FLAG)

    @classmethod
    def decode(cls, data: bytes) -> Message:
        """Read a message of any size from 240 bytes; PeerError otherwise.

        Shorter than 300 bytes is accepted: a DECLINE of edk2 has 293.
        """
        if len(data) < _HEADER.size:
            raise PeerError(f"{len(data)} bytes are no DHCP message")
        (op, htype, hlen, hops, xid, secs, flags, *addresses, chaddr, sname, file, cookie) = (
            _HEADER.unpack_from(data)
        )
        if cookie != _COOKIE:
            raise PeerError("no DHCP magic cookie")
        if hlen > len(chaddr):
            raise PeerError(f"hardware address of {hlen} bytes")
        ciaddr, yiaddr, siaddr, giaddr = map(typed, addresses)
        options, overload = decode_options(data[_HEADER.size :], file, sname)
        return cls(
            op=op,
            htype=htype,
            hops=hops,
            xid=xid,
            secs=secs,
            flags=flags,
            ciaddr=ciaddr,
            yiaddr=yiaddr,
            siaddr=siaddr,
            giaddr=giaddr,
            chaddr=chaddr[:hlen],
            sname=b"" if overload & 2 or not sname[0] else sname.partition(b"\0")[0],
            file=b"" if overload & 1 or not file[0] else file.partition(b"\0")[0],
            options=options,
        )

    def encode(self) -> bytes:
        """Write the message, padded to 300 bytes; ValueError when a field does not fit."""
        if len(self.chaddr) > 16 or len(self.sname) > 63 or len(self.file) > 127:
            raise ValueError("chaddr, sname or file is longer than its field")
        header = _HEADER.pack(
            self.op,
            self.htype,
            len(self.chaddr),
            self.hops,
            self.xid,
            self.secs,
            self.flags,
            self.ciaddr.packed,
            self.yiaddr.packed,
            self.siaddr.packed,
            self.giaddr.packed,
            self.chaddr,
            self.sname,
            self.file,
            _COOKIE,
        )
        return (header + encode_options(self.options)).ljust(MINIMUM_SIZE, b"\0")


HEADER_SIZE = _HEADER.size
"""Bytes before the options: the fixed fields and the cookie."""


def encode_reply(
    request: Message,
    *,
    addresses: tuple[bytes, bytes, bytes],
    flags: int,
    names: tuple[bytes, bytes],
    options: bytes,
) -> bytes:
    """Write a reply whose options are written already, END and all; padded to 300 bytes.

    `addresses` are ciaddr, yiaddr and siaddr, `names` are sname and file, or the options in them.
    """
    header = _HEADER.pack(
        BOOTREPLY,
        request.htype,
        len(request.chaddr),
        0,
        request.xid,
        0,
        flags,
        *addresses,
        request.giaddr.packed,
        request.chaddr,
        *names,
        _COOKIE,
    )
    return (header + options).ljust(MINIMUM_SIZE, b"\0")
