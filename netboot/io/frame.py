"""Ethernet frames as the services send them where the kernel would ask for an address first.

RFC 791, 768 and 1071; RFC 826 and 5227 for ARP. Values in, bytes out, but for the one question what
an interface's own address is.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from ipaddress import IPv4Address

from netboot.errors import SiteError

BROADCAST_MAC = b"\xff" * 6
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
_SIOCGIFHWADDR = 0x8927
_TTL = 64
_HEADER = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_START = struct.pack("!HHBB", 1, ETHERTYPE_IPV4, 6, 4)


def interface_mac(name: str) -> bytes:
    """Read an interface's Ethernet address; SiteError when there is no such interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFHWADDR, struct.pack("256s", name.encode()[:15]))
        except OSError as error:
            raise SiteError(f"interface {name}: {error.strerror}") from error
    return answer[18:24]


def checksum(data: bytes) -> int:
    """Compute the internet checksum (RFC 1071): to add words with carry is to count mod 65535."""
    number = int.from_bytes(data, "big") << 8 * (len(data) % 2)
    total = number % 0xFFFF
    return 0xFFFF - (total or (0xFFFF if number else 0))


def udp_frame(
    *,
    macs: tuple[bytes, bytes],
    addresses: tuple[IPv4Address, IPv4Address],
    ports: tuple[int, int],
    payload: bytes,
) -> bytes:
    """Build an Ethernet frame with IPv4 and UDP, both checksummed; each pair is source, target."""
    source, target = addresses[0].packed, addresses[1].packed
    length = 8 + len(payload)
    pseudo = struct.pack("!4s4sHH", source, target, socket.IPPROTO_UDP, length)
    udp_sum = checksum(pseudo + _UDP.pack(*ports, length, 0) + payload) or 0xFFFF
    fields = (0x45, 0, 20 + length, 0, 0x4000, _TTL, socket.IPPROTO_UDP)
    header_sum = checksum(_HEADER.pack(*fields, 0, source, target))
    return b"".join(
        (
            macs[1],
            macs[0],
            b"\x08\x00",
            _HEADER.pack(*fields, header_sum, source, target),
            _UDP.pack(*ports, length, udp_sum),
            payload,
        )
    )


def arp_probe(mac: bytes, address: IPv4Address) -> bytes:
    """Ask who has an address without claiming one: sender 0.0.0.0 (RFC 5227, 2.1.1)."""
    ethernet = BROADCAST_MAC + mac + b"\x08\x06"
    return ethernet + _ARP.pack(1, 0x0800, 6, 4, 1, mac, bytes(4), bytes(6), address.packed)


def read_arp(frame: bytes) -> tuple[bytes, IPv4Address, IPv4Address] | None:
    """Read (sender's MAC, sender's address, target's address) of an ARP frame, or None."""
    if len(frame) < 42 or frame[12:14] != b"\x08\x06" or frame[14:20] != _ARP_START:
        return None
    return frame[22:28], IPv4Address(frame[28:32]), IPv4Address(frame[38:42])
