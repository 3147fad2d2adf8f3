"""What becomes of packets that anybody can send to netboot, and what a reply must not be.

Each function takes one packet, as it came, and gives "taken" (something was answered, stored or
believed) or "refused"; `Lie` says what was wrong about the answer. Its options are walked again
here, without netboot's code; replies are read by scapy and http.client.
"""

from __future__ import annotations

import http.client
import io
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Address, IPv6Address

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise, DHCP6_Reply
from scapy.layers.tftp import TFTP
from scapy.packet import Raw

from netboot.dhcp import DhcpEngine
from netboot.dhcp6 import Dhcp6Engine
from netboot.dhcp6_message import Packet6
from netboot.dhcp6_reply import Arrival6
from netboot.dhcp_request import Arrival
from netboot.errors import PeerError
from netboot.files import FileMap
from netboot.http_message import RequestError, decode_request, encode_date, refuse, send_file
from netboot.io.watch import read_frame, read_neighbour
from netboot.leases import Lease
from netboot.proxy import ProxyEngine
from netboot.ra import RaEngine, advertisement
from netboot.tftp import Outcome as TftpOutcome
from netboot.tftp import TftpEngine, to_netascii
from netboot.tftp_transfer import BytesContent
from tests import dhcp6_lab, dhcp_lab
from tests.fuzz import packet_seeds as seeds
from tests.fuzz.lies import REFUSED, TAKEN, Lie

NOW = dhcp_lab.NOW
NOWHERE = IPv4Address(0)
_COOKIE = b"\x63\x82\x53\x63"
_OVERLOAD, _END = 52, 255


def _demand(holds: bool, why: str) -> None:
    if not holds:
        raise Lie(why)


# DHCPv4


@cache
def _leases() -> tuple[Lease, ...]:
    server = dhcp_lab.Server(seeds.DHCP_PLAN)
    server.bound(seeds.HOLDER)
    return server.engine.leases(NOW)


def dhcp(data: bytes) -> str:
    """Send a datagram to port 67, where one client has a lease and another an offer."""
    engine = DhcpEngine(seeds.DHCP_PLAN, _leases())
    arrival = Arrival(interface="eth1", source=NOWHERE)
    engine.receive(seeds.DHCP[1], arrival, NOW)
    outcome = engine.receive(data, arrival, NOW + 1)
    held = [lease.address for lease in engine.leases(NOW + 1)]
    _demand(len(held) == len(set(held)), "one address is lent twice")
    if not outcome.sends and not outcome.writes:
        return REFUSED
    _demand(is_whole4(data), "an option that runs past the end was passed over")
    _demand(len(outcome.sends) <= 1, "more than one reply")
    for send in outcome.sends:
        _reply4(send.data, data)
        address = IPv4Address(send.data[16:20])
        (lease,) = _leases()
        is_holder = data[28:34] == seeds.HOLDER
        _demand(is_holder or address != lease.address, "the address of another client was given")
    return TAKEN


def _reply4(reply: bytes, data: bytes) -> None:
    _demand(data[0] == 1, "a reply to a reply")
    _demand(300 <= len(reply) <= 1472, f"a reply of {len(reply)} bytes")
    read = BOOTP(reply)
    _demand(read.op == 2 and reply[4:8] == data[4:8], "a reply to another question")
    options = dict(one[:2] for one in read[DHCP].options if isinstance(one, tuple))
    _demand(options.get("message-type") in (2, 5, 6), f"no reply: {options.get('message-type')}")
    _demand("end" in read[DHCP].options, "options without an end")


def is_whole4(data: bytes) -> bool:
    """Walk the options as RFC 2131, 4.1 and RFC 3396 have them; False when one is cut off."""
    found = _walk4(data[240:])
    if data[236:240] != _COOKIE or found is None:
        return False
    if _OVERLOAD not in found:
        return True
    (overload,) = found[_OVERLOAD] if len(found[_OVERLOAD]) == 1 else b"\0"
    areas = {1: data[108:236], 2: data[44:108]}
    return overload in (1, 2, 3) and all(
        _walk4(area) is not None for bit, area in areas.items() if overload & bit
    )


def _walk4(area: bytes) -> dict[int, bytes] | None:
    found: dict[int, bytes] = {}
    rest = area
    while rest and rest[0] != _END:
        if rest[0] == 0:
            rest = rest[1:]
            continue
        if len(rest) < 2 or len(rest) < 2 + rest[1]:
            return None
        found[rest[0]] = found.get(rest[0], b"") + rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    return found


def proxy(data: bytes) -> str:
    """Send a datagram to both ports of proxyDHCP."""
    engine, told = ProxyEngine(seeds.PROXY_PLAN), REFUSED
    arrival = Arrival(interface="eth1", source=IPv4Address("10.41.7.100"))
    for listener in (67, 4011):
        outcome = engine.receive(data, arrival, NOW, listener=listener, port=4011)
        _demand(len(outcome.sends) <= 1, "more than one reply")
        for send in outcome.sends:
            told = TAKEN
            _demand(is_whole4(data), "an option that runs past the end was passed over")
            _reply4(send.data, data)
            _demand(send.data[16:20] == bytes(4), "a proxy gave an address")
            _demand(b"\x33\x04" not in send.data[240:243], "a proxy gave a lease time")
    return told


# DHCPv6 and router solicitations


def dhcp6(data: bytes) -> str:
    """Send a datagram to port 547."""
    engine = Dhcp6Engine(seeds.DHCP6_PLAN, (), dhcp6_lab.SERVER_DUID)
    arrival = Arrival6(interface="eth1", source=dhcp6_lab.LINK_LOCAL)
    outcome = engine.receive(data, arrival, NOW)
    if not outcome.sends and not outcome.writes:
        return REFUSED
    _demand(is_whole6(data), "an option that runs past the end was passed over")
    _demand(len(outcome.sends) <= 1, "more than one reply")
    for send in outcome.sends:
        reply = send.data
        _demand(reply[0] == (13 if data[0] == 12 else reply[0]), "a relay was not answered as one")
        inner, asked = Packet6.decode(reply).message, Packet6.decode(data).message
        _demand(asked.kind in (1, 3, 4, 5, 6, 8, 9, 11), "a reply to what is no question")
        _demand(inner.kind in (2, 7), f"message {inner.kind} is no reply")
        _demand(inner.transaction == asked.transaction, "a reply to another question")
        _demand(inner.options.get(2) == dhcp6_lab.SERVER_DUID, "a reply of nobody")
        read = _KINDS6[int(inner.kind)](inner.encode())
        while read.payload:
            read = read.payload
        _demand(not isinstance(read, Raw), "scapy cannot read the reply")
    return TAKEN


_KINDS6 = {2: DHCP6_Advertise, 7: DHCP6_Reply}


def is_whole6(data: bytes) -> bool:
    """Walk a message and those that relays wrapped; False when an option is cut off."""
    is_relay = data[:1] in (b"\x0c", b"\x0d")
    rest = data[34 if is_relay else 4 :]
    while rest:
        size = int.from_bytes(rest[2:4], "big")
        if len(rest) < 4 + size:
            return False
        if is_relay and rest[:2] == b"\0\x09" and not is_whole6(rest[4 : 4 + size]):
            return False
        rest = rest[4 + size :]
    return True


def solicitation(data: bytes) -> str:
    """Send an ICMPv6 message to all routers."""
    said = advertisement([dhcp6_lab.subnet6()], "eth1", domain="x.example", mtu=1500, mac=None)
    assert said is not None
    engine = RaEngine(said, NOW)
    told = REFUSED
    for source in (dhcp6_lab.LINK_LOCAL, IPv6Address(0)):
        with suppress(PeerError):
            sends = engine.receive(data, source, 255, NOW)
            told = TAKEN
            _demand(data[0] == 133, "a reply to what is no solicitation")
            _demand(len(sends) <= 1, "more than one reply")
            _demand(all(send.data[0] == 134 for send in sends), "no advertisement")
    return told


# TFTP


@cache
def _files() -> FileMap:
    return FileMap({path: bytes([at]) * 32 for at, path in enumerate(seeds.FILES)}, [seeds.US])


def _tftp() -> TftpEngine:
    return TftpEngine(_files(), lambda entry: BytesContent(seeds.FILES[entry.path]), 1500)


def tftp(data: bytes) -> str:
    """Send a datagram to port 69."""
    outcome = _tftp().receive(data, seeds.BOX, seeds.US, NOW)
    sent = _datagrams(outcome)
    if not sent:
        return REFUSED
    _demand(data[:2] in (b"\0\1", b"\0\2"), "a reply to what is no request")
    _demand(len(sent) == 1, "more than one packet before the client acknowledged")
    (reply,) = sent
    kind = TFTP(reply).op
    _demand(kind in (3, 5, 6), f"packet {kind} is no reply")
    if kind == 3:
        is_text = data[2:].split(b"\0")[1].lower() == b"netascii"
        contents = [to_netascii(one) if is_text else one for one in seeds.FILES.values()]
        _demand(reply[4:] in [one[:512] for one in contents], "what is in no file was sent")
    return REFUSED if kind == 5 else TAKEN


def transfer(data: bytes) -> str:
    """Send datagrams to a transfer's own port: which request, then each after its length."""
    engine = _tftp()
    requests = seeds.TRANSFERS
    asked, window, block = requests[data[0] % len(requests)] if data else requests[0]
    begun = engine.receive(asked, seeds.BOX, seeds.US, NOW)
    number, told, rest, now = begun.sends[0].transfer, REFUSED, data[1:], NOW
    assert number is not None
    while rest:
        packet, rest = rest[1 : 1 + (rest[0] & 63)], rest[1 + (rest[0] & 63) :]
        peer = seeds.BOX if rest[:1] != b"\xee" else ("10.41.7.101", 2070)
        now += 0.01
        sent = _datagrams(engine.receive_on(number, packet, peer, now))
        _demand(not sent or packet[:2] != b"\0\5", "a reply to an error")
        _demand(len(sent) <= window, "more than a window")
        for one in sent:
            if one[:2] == b"\0\3":
                told = TAKEN
                at = int.from_bytes(one[2:4], "big") * block - block
                _demand(peer == seeds.BOX, "a stranger got data")
                _demand(one[4:] == seeds.LARGE[at : at + block], "other bytes than the file's")
    return told


def _datagrams(outcome: TftpOutcome) -> list[bytes]:
    return [
        send.data[at : at + send.segment]
        for send in outcome.sends
        for at in range(0, len(send.data), send.segment)
    ]


# HTTP

_DATE = encode_date(0)


def request_head(data: bytes) -> str:
    """Send a request head; its answer is read by http.client."""
    size = len(seeds.LARGE)
    try:
        request = decode_request(data)
    except RequestError as error:
        _demand(400 <= error.status < 500, "our fault")
        _response(refuse(error.status, str(error), keep=False, date=_DATE).head, "GET")
        return REFUSED
    found = _files().find(request.path, seeds.US)
    response = send_file(request, path="/x.efi", sha256=bytes(32), size=size, date=_DATE)
    answer = _response(response.head, request.method.name)
    span = response.offset + response.length
    _demand(0 <= response.offset <= span <= size, "bytes outside of the file")
    if request.method.name == "GET" and answer.status in (200, 206):
        _demand(answer.length == response.length, "another length than what follows")
    return TAKEN if hasattr(found, "sha256") else REFUSED


class _Socket:
    """What http.client wants of a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        """Give what was received."""
        return io.BytesIO(self._data)


_FIELDS = {"date", "content-type", "etag", "accept-ranges", "content-length", "content-range"}


def _response(head: bytes, method: str) -> http.client.HTTPResponse:
    answer = http.client.HTTPResponse(_Socket(head), method=method)  # type: ignore[arg-type]
    answer.begin()
    names = {name.lower() for name, _ in answer.getheaders()}
    _demand(names <= _FIELDS | {"connection", "allow"}, f"fields of somebody else: {names}")
    return answer


# Frames of the rogue watch


def frame(data: bytes) -> str:
    """Hear a frame."""
    heard = read_frame(data, "eth1", tftp_port=4444)
    if heard is not None:
        _demand(len(heard.mac) == 6, "a hardware address of another length")
        _demand(all(str(value).isprintable() for _, value in heard.detail), "control characters")
    neighbour = read_neighbour(data)
    _demand(neighbour is None or neighbour.isprintable(), "control characters of a switch")
    return TAKEN if heard or neighbour else REFUSED
