"""The rogue watch's ears and voice: frames to `netboot.watch`, questions on the wire, port hints.

Packets are read with scapy behind a kernel filter; DHCP inside them with our own codec, because an
attacker shapes it. It asks as an ordinary client does (DISCOVER, Router Solicitation, ARP, one TFTP
request) and never takes an address or a file. A switch passes on broadcasts and what is meant for
us: whoever answers another box in unicast is not heard. RFC 2131, 4861, 1350, 826; IEEE 802.1AB.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from scapy.config import conf
from scapy.contrib.lldp import LLDPDUPortDescription, LLDPDUPortID, LLDPDUSystemName
from scapy.error import Scapy_Exception
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptPrefixInfo,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from netboot.dhcp_message import BOOTREPLY, BOOTREQUEST, BROADCAST_FLAG, Message
from netboot.dhcp_options import Code, MessageType, Options
from netboot.errors import PeerError, SiteError
from netboot.events import Event
from netboot.io.frame import interface_mac
from netboot.watch import Heard, Role, WatchEngine

ASK_SECONDS = 60.0
LINK_SECONDS = 5.0
"""After which an interface that cannot be listened on is tried again."""
_MOST_FRAMES = 256
"""Frames read from one interface in one turn."""
_MOST_SERVERS = 16
"""Servers of one interface that are asked for a file: many of them are deaf to a broadcast."""
_TFTP_QUESTION = b"\0\1doorstep-asks-who-serves\0octet\0"
_SYS = Path("/sys/class/net")
_BROADCAST = "ff:ff:ff:ff:ff:ff"
_ALL_ROUTERS = "ff02::2"
_FORWARDING_ENTRY = struct.Struct("=6sBBIB3x")
"""Kernel's `struct __fdb_entry`: MAC, port, is it ours, age, high byte of the port."""

Told = Callable[[Iterable[Event]], None]


def maker(mac: bytes) -> str | None:
    """Name the maker of a hardware address by its first bytes; None when nobody registered it."""
    text = mac.hex(":")
    if mac[0] & 2:
        return "made-up address"
    found = conf.manufdb.lookup(text)[1] if conf.manufdb else text
    return None if found.lower().startswith(text[:8]) else str(found)


def read_frame(frame: bytes, interface: str, tftp_port: int | None = None) -> Heard | None:
    """Read an Ethernet frame as something of interest; None for everything else, broken or not."""
    try:
        packet = Ether(frame)
        if ARP in packet:
            return _arp(packet, interface)
        if ICMPv6ND_RA in packet:
            return _router(packet, interface)
        if UDP in packet:
            return _datagram(packet, interface, tftp_port)
    except (PeerError, Scapy_Exception, struct.error, ValueError, IndexError, KeyError, TypeError):
        return None  # scapy raises these on bytes that were made to confuse it
    return None


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _arp(packet: Packet, interface: str) -> Heard | None:
    """Read who says that an address is his; questions of others say it of the asker (RFC 826)."""
    arp = packet[ARP]
    if arp.hwtype != 1 or arp.ptype != 0x0800 or arp.psrc == "0.0.0.0":
        return None
    return Heard(role=Role.GATEWAY, interface=interface, mac=_mac(arp.hwsrc), address=arp.psrc)


def _router(packet: Packet, interface: str) -> Heard | None:
    advertisement, source = packet[ICMPv6ND_RA], packet[IPv6]
    if source.hlim != 255:
        return None  # came through a router: RFC 4861, 6.1.2
    detail: list[tuple[str, str | int | float | bool]] = [
        ("router_seconds", int(advertisement.routerlifetime)),
        ("managed", bool(advertisement.M)),
    ]
    if ICMPv6NDOptPrefixInfo in packet:
        prefix = packet[ICMPv6NDOptPrefixInfo]
        detail.append(("prefix", f"{prefix.prefix}/{prefix.prefixlen}"))
    return Heard(
        role=Role.ROUTER6,
        interface=interface,
        mac=_mac(packet[Ether].src),
        address=source.src,
        detail=tuple(detail),
    )


def _datagram(packet: Packet, interface: str, tftp_port: int | None) -> Heard | None:
    udp, payload = packet[UDP], bytes(packet[UDP].payload)
    mac = _mac(packet[Ether].src)
    if IP in packet and udp.sport in (67, 4011):
        return _dhcp(payload, interface, mac, packet[IP].src)
    if IPv6 in packet and udp.sport == 547 and payload[:1] in (b"\x02", b"\x07"):
        return Heard(role=Role.DHCP6, interface=interface, mac=mac, address=packet[IPv6].src)
    if IP in packet and tftp_port is not None and udp.dport == tftp_port:
        if payload[:2] not in (b"\0\3", b"\0\5", b"\0\6"):  # DATA, ERROR, OACK
            return None
        return Heard(role=Role.TFTP, interface=interface, mac=mac, address=packet[IP].src)
    return None


def _dhcp(payload: bytes, interface: str, mac: bytes, source: str) -> Heard | None:
    message = Message.decode(payload)
    options = message.options
    kind = options.message_type
    if message.op != BOOTREPLY or kind not in (MessageType.OFFER, MessageType.ACK):
        return None
    is_proxy = (
        message.yiaddr == IPv4Address(0)
        and options.get(Code.LEASE_TIME) is None
        and options.vendor_class.startswith(b"PXEClient")
    )
    detail: list[tuple[str, str | int | float | bool]] = []
    server = options.address(Code.SERVER_ID)
    if server is not None and str(server) != source:
        detail.append(("names_itself", str(server)))
    file = options.text(Code.BOOT_FILE) or _printable(message.file)
    if file:
        detail.append(("boot_file", file[:120]))
    role = Role.PROXY if is_proxy else Role.DHCP
    return Heard(role=role, interface=interface, mac=mac, address=source, detail=tuple(detail))


def _printable(data: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in data)


def read_neighbour(frame: bytes) -> str | None:
    """Read the switch's own word on where we are plugged in (LLDP); None for other frames."""
    try:
        packet = Ether(frame)
        if not isinstance(packet, Ether) or packet.type != 0x88CC:
            return None  # scapy reads a frame with a length for a type as something else
        name = packet[LLDPDUSystemName].system_name if LLDPDUSystemName in packet else b""
        port = b""
        if LLDPDUPortDescription in packet:
            port = packet[LLDPDUPortDescription].description
        elif LLDPDUPortID in packet:
            port = packet[LLDPDUPortID].id
    except (Scapy_Exception, struct.error, ValueError, IndexError, KeyError, TypeError):
        return None
    texts = [
        _printable(part if isinstance(part, bytes) else str(part).encode())[:60]
        for part in (name, port)
    ]
    if not texts[1]:
        return None
    return f"behind port {texts[1]} of switch {texts[0] or 'without a name'}"


def bridge_port(interface: str, mac: bytes, sys: Path = _SYS) -> str | None:
    """Name the port of our own bridge that leads to a hardware address; None if there is none."""
    ports = {}
    for path in (sys / interface / "brif").glob("*/port_no"):
        with contextlib.suppress(OSError, ValueError):
            ports[int(path.read_text(), 16)] = path.parent.name
    try:
        table = (sys / interface / "brforward").read_bytes()
    except OSError:
        return None
    whole = len(table) - len(table) % _FORWARDING_ENTRY.size
    for found, low, is_local, _, high in _FORWARDING_ENTRY.iter_unpack(table[:whole]):
        if found == mac and not is_local:
            return ports.get(low | high << 8)
    return None


@dataclass(slots=True)
class _Link:
    """One interface: what is heard there, and the port that answers to our TFTP question reach."""

    name: str
    mac: bytes
    ears: Any
    mouth: Any
    asker: socket.socket
    servers: set[str]
    neighbour: str | None = None

    @property
    def tftp_port(self) -> int:
        return int(self.asker.getsockname()[1])

    def meet(self, address: str) -> None:
        """Ask a server for a file as soon as it is heard of."""
        if address not in self.servers and len(self.servers) < _MOST_SERVERS:
            self.servers.add(address)
            self.ask_for_file(address)

    def ask_for_file(self, address: str) -> None:
        with contextlib.suppress(OSError):
            self.asker.sendto(_TFTP_QUESTION, (address, 69))

    def close(self) -> None:
        self.ears.close()
        self.mouth.close()
        self.asker.close()


class Watcher:
    """Listens on interfaces and asks there from time to time; `turn` is one turn of a loop."""

    def __init__(self, engine: WatchEngine, tell: Told, ask_seconds: float = ASK_SECONDS) -> None:
        """Listen nowhere yet; needs NET_RAW when it does."""
        self._engine, self._tell, self._ask_seconds = engine, tell, ask_seconds
        self._selector = selectors.DefaultSelector()
        self._links: dict[str, _Link] = {}
        self._gateways: Mapping[str, frozenset[str]] = {}
        self._ask_at = 0.0
        self._open_at = 0.0
        self.trouble: dict[str, str] = {}

    @property
    def ours(self) -> frozenset[bytes]:
        """Our hardware addresses, as far as interfaces are there."""
        return frozenset(link.mac for link in self._links.values())

    def listen(self, gateways: Mapping[str, frozenset[str]]) -> None:
        """Listen on these interfaces, each with the gateway addresses to watch."""
        self._gateways = gateways
        for name in set(self._links) - set(gateways):
            self._close(name)
        self.trouble = {name: text for name, text in self.trouble.items() if name in gateways}
        self._open_missing()
        self._ask_at = 0.0

    def _open_missing(self) -> None:
        self._open_at = time.monotonic() + LINK_SECONDS
        for name in sorted(set(self._gateways) - set(self._links)):
            try:
                self._links[name] = link = _open(name)
            except SiteError as error:
                self.trouble[name] = str(error)
                continue
            self.trouble.pop(name, None)
            self._selector.register(link.ears, selectors.EVENT_READ, name)

    def _close(self, name: str) -> None:
        link = self._links.pop(name)
        self._selector.unregister(link.ears)
        link.close()

    def turn(self, timeout: float) -> None:
        """Ask where that is due, wait at most `timeout` seconds, and take what was heard."""
        now = time.monotonic()
        if now >= self._open_at:
            self._open_missing()
        if now >= self._ask_at:
            self._ask_at = now + self._ask_seconds
            for link in self._links.values():
                self._ask(link)
        for key, _ in self._selector.select(timeout):
            link = self._links[key.data]
            try:
                self._hear(link)
            except OSError as error:
                self.trouble[link.name] = f"interface {link.name}: {error.strerror}"
                self._close(link.name)

    def _hear(self, link: _Link) -> None:
        for _ in range(_MOST_FRAMES):
            frame = link.ears.recv_raw()[1]
            if frame is None:
                return
            link.neighbour = read_neighbour(frame) or link.neighbour
            heard = read_frame(frame, link.name, link.tftp_port)
            if heard is not None:
                if heard.role in (Role.DHCP, Role.PROXY):
                    link.meet(heard.address)
                port = bridge_port(link.name, heard.mac)
                hint = f"port {port}" if port else link.neighbour
                self._tell(self._engine.hear(heard, hint, time.time()))
            if not select.select([link.ears], [], [], 0)[0]:
                return

    def _ask(self, link: _Link) -> None:
        """Put every question once; on an interface that is down nobody answers."""
        with contextlib.suppress(OSError):
            for frame in _questions(link.mac, self._gateways.get(link.name, frozenset())):
                link.mouth.send(frame)
        for address in ("255.255.255.255", *link.servers):
            link.ask_for_file(address)
        while True:
            try:
                link.asker.recv(1024)  # heard as a frame, with its sender's hardware address
            except OSError:
                return

    def close(self) -> None:
        """Close everything."""
        for name in tuple(self._links):
            self._close(name)
        self._selector.close()


def _open(name: str) -> _Link:
    mac = interface_mac(name)
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        asker.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        asker.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
        asker.bind(("0.0.0.0", 0))
        port = asker.getsockname()[1]
        ears = conf.L2listen(iface=name, filter=_filter(port))
        mouth = conf.L2socket(iface=name)
    except (OSError, Scapy_Exception) as error:
        asker.close()
        raise SiteError(f"interface {name}: {error}") from error
    return _Link(name=name, mac=mac, ears=ears, mouth=mouth, asker=asker, servers=set())


def _filter(tftp_port: int) -> str:
    """What the kernel passes on: nothing of the traffic of boxes that boot."""
    served = "src port 67 or src port 4011 or src port 547"
    return (
        f"arp or ether proto 0x88cc or (udp and ({served} or dst port {tftp_port}))"
        " or (icmp6 and ip6[40] = 134)"
    )


def _questions(mac: bytes, gateways: frozenset[str]) -> list[Packet]:
    text = mac.hex(":")
    discover = Message(
        op=BOOTREQUEST,
        xid=secrets.randbits(32),
        chaddr=mac,
        flags=BROADCAST_FLAG,
        options=_discover_options(),
    ).encode()
    ethernet = Ether(src=text, dst=_BROADCAST)
    datagram = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    questions = [
        ethernet / datagram / discover,
        Ether(src=text, dst="33:33:00:00:00:02")
        / IPv6(src="::", dst=_ALL_ROUTERS, hlim=255)
        / ICMPv6ND_RS(),
    ]
    questions += [ethernet / ARP(op=1, hwsrc=text, psrc="0.0.0.0", pdst=one) for one in gateways]
    return questions


def _discover_options() -> Options:
    """Ask as UEFI firmware does, so that proxies answer too (RFC 4578)."""
    return Options(
        items=(
            (Code.MESSAGE_TYPE, bytes((MessageType.DISCOVER,))),
            (Code.PARAMETER_LIST, bytes((1, 3, 43, 54, 60, 66, 67))),
            (Code.CLIENT_UUID, bytes(17)),
            (Code.ARCHITECTURE, b"\0\7"),
            (94, b"\1\3\0"),
            (Code.VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003000"),
        )
    )
