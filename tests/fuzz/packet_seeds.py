"""Packets that clients, servers and operators mean, for mutation to start from."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from scapy.contrib.lldp import (
    LLDPDU,
    LLDPDUChassisID,
    LLDPDUEndOfLLDPDU,
    LLDPDUPortDescription,
    LLDPDUPortID,
    LLDPDUSystemName,
    LLDPDUTimeToLive,
)
from scapy.layers import dhcp
from scapy.layers.dhcp6 import DHCP6_Advertise
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, IPv6
from scapy.layers.l2 import ARP, Ether

from netboot.dhcp6_message import Kind6
from netboot.dhcp_options import Code, MessageType
from netboot.network import ClientClass, Match, OptionValue, Parameters, Pool, Reservation
from tests import dhcp6_lab
from tests.dhcp_lab import (
    ADDRESS,
    RESERVED,
    RESERVED_MAC,
    config,
    http_client,
    mac,
    message,
    pxe,
    selecting,
    subnet,
)

HOLDER = mac(1)
_OURS = (Code.SERVER_ID, ADDRESS("10.41.7.2").packed)
DHCP_PLAN = config(
    subnet(rapid_commit=True, shared="hall"),
    subnet(
        name="far",
        network=IPv4Network("10.9.0.0/24"),
        pools=(Pool(first=ADDRESS("10.9.0.5"), last=ADDRESS("10.9.0.9")),),
        relayed=True,
        relays=(ADDRESS("203.0.113.1"),),
    ),
    classes=(
        ClientClass(
            name="x",
            match=Match(vendor_class=(b"P",)),
            parameters=Parameters(options=(OptionValue(code=200, data=bytes(300), always=True),)),
        ),
    ),
    reservations=(RESERVED, Reservation(uuid=bytes(range(16)), address=None, name="a")),
)
PROXY_PLAN = config(subnet(dhcp="proxy", pools=()), reservations=())
_AGENT = (82, b"\1\1x\5\4\x0a\x09\0\0")
DHCP = (
    message(MessageType.DISCOVER, HOLDER, *pxe()),
    message(MessageType.DISCOVER, mac(2), *http_client(), (Code.RAPID_COMMIT, b"")),
    message(MessageType.DISCOVER, mac(3), (81, b"\0\0\0abc"), _AGENT),
    message(MessageType.DISCOVER, mac(4), *pxe(0), (77, b"iPXE"), (175, b"\xb1\1\1\xeb\1\1")),
    message(MessageType.DISCOVER, mac(5), (60, b"x" * 300), (82, bytes((1, 200)) + b"c" * 200)),
    message(MessageType.DISCOVER, mac(6), giaddr=ADDRESS("10.9.0.1"), htype=32),
    selecting(HOLDER, ADDRESS("10.41.7.100"), (Code.CLIENT_ID, b"\1abc")),
    selecting(RESERVED_MAC, ADDRESS("10.41.7.11")),
    message(MessageType.REQUEST, HOLDER, ciaddr=ADDRESS("10.41.7.100")),
    message(MessageType.REQUEST, HOLDER, (50, ADDRESS("10.41.7.100").packed)),
    message(MessageType.REQUEST, HOLDER, _OURS, giaddr=ADDRESS("10.9.0.1")),
    message(MessageType.DECLINE, HOLDER, _OURS, (50, ADDRESS("10.41.7.100").packed)),
    message(MessageType.RELEASE, HOLDER, _OURS, ciaddr=ADDRESS("10.41.7.100")),
    message(MessageType.INFORM, HOLDER, *pxe(), ciaddr=ADDRESS("10.41.7.100")),
    message(MessageType.REQUEST, HOLDER, *pxe(), ciaddr=ADDRESS("10.41.7.100")),
)


def _overloaded() -> bytes:
    """Put options into `file` and `sname` too (RFC 2132, 9.3)."""
    whole = bytearray(message(MessageType.DISCOVER, mac(7), (199, b"\3")))
    whole[whole.index(b"\xc7\1\3")] = 52
    whole[108:112] = bytes((60, 1, 80, 255))
    whole[44:50] = bytes((61, 2, 1, 2, 0, 255))
    return bytes(whole)


DHCP += (_overloaded(),)

# DHCPv6 and router solicitations

DHCP6_PLAN = dhcp6_lab.config6(dhcp6_lab.subnet6(rapid_commit=True))
_DUID = dhcp6_lab.duid_llt(mac(1))
_OF_US = dhcp6_lab.SERVER_DUID
_IA = dhcp6_lab.ia(1, dhcp6_lab.FIRST)


def _relayed(inner: bytes) -> bytes:
    head = b"\x0c\0" + dhcp6_lab.US.packed + dhcp6_lab.LINK_LOCAL.packed
    options = struct.pack("!HH", 18, 2) + b"if" + struct.pack("!HH", 9, len(inner))
    return head + options + inner


DHCP6 = (
    dhcp6_lab.message6(Kind6.SOLICIT, _DUID, _IA, *dhcp6_lab.firmware()),
    dhcp6_lab.message6(Kind6.SOLICIT, _DUID, dhcp6_lab.ia(), (14, b"")),
    dhcp6_lab.message6(Kind6.SOLICIT, dhcp6_lab.duid_of_uuid(9), _IA, *dhcp6_lab.firmware(16)),
    *(
        dhcp6_lab.message6(kind, _DUID, _IA, server=_OF_US)
        for kind in (Kind6.REQUEST, Kind6.RENEW, Kind6.RELEASE, Kind6.DECLINE)
    ),
    dhcp6_lab.message6(Kind6.REBIND, _DUID, _IA),
    dhcp6_lab.message6(Kind6.CONFIRM, _DUID, _IA),
    dhcp6_lab.message6(Kind6.INFORMATION_REQUEST, _DUID, dhcp6_lab.oro(23, 24, 32)),
)
DHCP6 += (_relayed(DHCP6[0]), _relayed(_relayed(DHCP6[3])))
SOLICITATIONS = (
    bytes((133, 0, 0, 0, 0, 0, 0, 0)),
    bytes((133, 0, 0, 0, 0, 0, 0, 0, 1, 1)) + mac(1),
    bytes((133, 0, 0, 0, 0, 0, 0, 0, 14, 2)) + bytes(14),
)

# TFTP

US = IPv4Address("10.41.7.2")
BOX = ("10.41.7.100", 2070)
LARGE = bytes(number * 7 & 255 for number in range(200_003))
TEXT = b"one\ntwo\r\n" * 80
FILES = {"/shimx64.efi": LARGE, "/empty": b"", "/grub/grub.cfg": b"boot\n", "/text": TEXT}


def rrq(name: bytes, *fields: bytes, mode: bytes = b"octet", opcode: int = 1) -> bytes:
    """Write a request."""
    return struct.pack("!H", opcode) + b"".join(part + b"\0" for part in (name, mode, *fields))


TFTP = (
    rrq(b"shimx64.efi"),
    rrq(b"/grub/grub.cfg", b"tsize", b"0"),
    rrq(b"shimx64.efi", b"tsize", b"0", b"blksize", b"1468", b"windowsize", b"4"),
    rrq(b"\\grub\\grub.cfg", b"blksize", b"65464", b"timeout", b"3", mode=b"OCTET"),
    rrq(b"text", mode=b"netascii"),
    rrq(b"../../etc/passwd"),
    rrq(b"C:\\..\\shimx64.efi\xff"),
    rrq(b"x" * 400),
    rrq(b"file", opcode=2),
    b"\0\4\0\0",
    b"\0\5\0\1no\0",
    b"\0\3\0\1data",
    b"\0\6blksize\x001468\0",
)
TRANSFERS = (
    (rrq(b"shimx64.efi"), 1, 512),
    (rrq(b"shimx64.efi", b"blksize", b"1468", b"windowsize", b"16"), 16, 1468),
    (rrq(b"shimx64.efi", b"blksize", b"8", b"windowsize", b"64"), 64, 8),
)


def _conversation(which: int, *packets: bytes) -> bytes:
    return bytes((which,)) + b"".join(bytes((len(one),)) + one for one in packets)


def _acks(*numbers: int) -> list[bytes]:
    return [struct.pack("!HH", 4, number) for number in numbers]


TRANSFER_SEEDS = (
    _conversation(0, *_acks(1, 2, 3)),
    _conversation(1, *_acks(0, 16, 20, 32)),
    _conversation(2, *_acks(0, 64, 63, 64, 65535, 128)),
    _conversation(1, b"\0\5\0\x08abort\0", *_acks(0)),
)

# HTTP

HTTP = (
    b"GET /shimx64.efi HTTP/1.1\r\nHost: x",
    b"HEAD /grub/grub.cfg HTTP/1.1\r\nHost: 10.41.7.2\r\nUser-Agent: UefiHttpBoot/1.0",
    b"GET /shimx64.efi HTTP/1.1\r\nHost: x\r\nRange: bytes=100-200\r\nConnection: close",
    b'GET /shimx64.efi HTTP/1.1\r\nHost: x\r\nRange: bytes=-5\r\nIf-Range: "x"',
    b'GET /%73himx64.efi?a=b HTTP/1.0\r\nIf-None-Match: W/"x", *',
    b"GET http://x/grub/grub.cfg HTTP/1.1\r\nHost: x\r\nX-Doorstep-Address: 10.0.0.1",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3",
    b"GET /../etc/passwd HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked",
)

# Frames


def _frames() -> Iterable[bytes]:
    ether = Ether(src="00:19:bb:0a:0b:0c", dst="ff:ff:ff:ff:ff:ff")
    ip = IP(src="10.41.7.66", dst="255.255.255.255")
    offer = [("message-type", "offer"), ("server_id", "10.41.7.66"), "end"]
    proxy = [("message-type", "offer"), ("vendor_class_id", b"PXEClient"), "end"]
    for options in (offer, proxy):
        boot = dhcp.BOOTP(op=2, yiaddr="10.41.7.9", file=b"pxelinux.0") / dhcp.DHCP(options=options)
        yield bytes(ether / ip / UDP(sport=67, dport=68) / boot)
    six = IPv6(src="fe80::9", dst="ff02::1", hlim=255)
    prefix = ICMPv6NDOptPrefixInfo(prefix="fd00:9::", prefixlen=64)
    yield bytes(ether / six / ICMPv6ND_RA(routerlifetime=1800) / prefix)
    yield bytes(ether / six / UDP(sport=547, dport=546) / DHCP6_Advertise(trid=7))
    yield bytes(ether / ip / UDP(sport=69, dport=4444) / b"\0\3\0\1data")
    yield bytes(12) + b"\0\x20" + bytes(40)  # a length for a type (IEEE 802.3)
    yield bytes(ether / ARP(op=2, psrc="10.41.7.1", hwsrc="00:19:bb:0a:0b:0c"))
    lldp = LLDPDUChassisID(subtype=4, id="00:19:bb:0a:0b:0c") / LLDPDUPortID(subtype=5, id=b"7")
    words = LLDPDUPortDescription(description=b"7") / LLDPDUSystemName(system_name=b"hall")
    ended = LLDPDUTimeToLive(ttl=120) / words / LLDPDUEndOfLLDPDU()
    yield bytes(Ether(src="00:19:bb:0a:0b:0c", type=0x88CC) / LLDPDU() / lldp / ended)


FRAMES = tuple(_frames())
