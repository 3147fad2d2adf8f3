"""What becomes of DNS messages, of others' answers and of master files (see `packets`).

Replies are read by dnslib. A *lie* of the validator is an answer that is called secure though it is
not what the zones of this world hold: another set of data, a name made to vanish, a longer life.
"""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Address, IPv4Network

import dns.edns
import dns.exception
import dns.message
import dnslib

from netboot.cookies import make
from netboot.dns import Ask, DnsEngine, Generation, signed_zones
from netboot.dns_cache import Known, Trust
from netboot.dnssec import ZoneSigner
from netboot.errors import SiteError
from netboot.names import Labels, labels
from netboot.rdata import Rtype
from netboot.upstream import NotAnsweredError, Question, make_question, read_answer
from netboot.validate import BogusError, Validator
from netboot.views import Views
from netboot.zone import Rcode, RRset, Zones
from netboot.zone_file import decode_zone, dump_zone
from tests.dns_lab import HEAD, NOW, ORIGIN, ZONE, World, zone, zone_keys
from tests.fuzz.lies import REFUSED, TAKEN, Lie

HERE, BOX, STRANGER, STRANGER6 = "127.0.0.1", "10.41.7.100", "198.51.100.9", "2001:db8::9"
WAYS = tuple((peer, is_tcp) for peer in (HERE, BOX, STRANGER, STRANGER6) for is_tcp in (0, 1))
_SECRET = b"k" * 32
_VIEWS = Views(
    site=(IPv4Network("10.41.7.0/24"),),
    boxes=(IPv4Network("10.41.7.0/24"),),
    known=frozenset({IPv4Address("10.41.7.20")}),
    names=frozenset({labels("www.example.net")}),
)
_LABELS = (
    *("www", "ns", "alias", "any.thing", "below.exact.wild", "exact.wild", "new", "svc", "host"),
    *("sub", "x.sub", "signed", "nothing", "caa", "_443._tcp.host"),
)
NAMES = (*(f"{one}.example.net." for one in _LABELS), "example.net.", "www.example.org.", ".")


def _demand(holds: bool, why: str) -> None:
    if not holds:
        raise Lie(why)


@cache
def _engine() -> DnsEngine:
    signer = ZoneSigner(zone(), zone_keys())
    engine = DnsEngine(Zones(()), "appliance", _SECRET)
    zones = signed_zones(Zones([zone()]), {ORIGIN: signer})
    engine.replace(Generation(zones=zones, signers={ORIGIN: signer}, views=_VIEWS, forwards=True))
    return engine


_second = 0


def query(data: bytes) -> str:
    """Send a message; the first byte chooses who sends it, and how."""
    global _second
    _second ^= 1  # strangers are answered again in another second
    peer, is_tcp = WAYS[data[0] % len(WAYS)] if data else WAYS[0]
    data = data[1:]
    reply = _engine().receive(data, peer, NOW + _second, is_tcp=bool(is_tcp))
    if reply is None:
        return REFUSED
    _demand(not data[2] & 0x80, "a reply to a reply")
    if isinstance(reply, Ask):
        _demand(peer == HERE, "others are asked for somebody who may not")
        return TAKEN
    _demand(reply[:2] == data[:2] and bool(reply[2] & 0x80), "no reply to this question")
    _demand((reply[2] ^ data[2]) & 0x78 == 0, "another opcode")
    wanted = data[2] & 1 if data[2] & 0x78 == 0 else 0  # of a QUERY alone
    _demand(reply[2] & 1 == wanted, "another RD")
    _read(reply)
    limit = 65535 if is_tcp else _limit(data)
    _demand(len(reply) <= limit, f"{len(reply)} bytes where {limit} fit")
    if peer.startswith(STRANGER[:4]) or peer == STRANGER6:
        is_known = _cookie(peer) in data
        _demand(is_tcp or is_known or len(reply) <= len(data), "a stranger got more than he sent")
    return TAKEN if reply[3] & 15 in (0, 3) else REFUSED


def _read(reply: bytes) -> None:
    """Read a reply with dnslib; names that are no UTF-8, which it cannot read, with dnspython."""
    try:
        dnslib.DNSRecord.parse(reply)
    except dnslib.DNSError as error:
        if "Invalid label" not in str(error):
            raise
        dns.message.from_wire(reply)


def _limit(data: bytes) -> int:
    """Say what a question allows by UDP."""
    try:
        asked = dns.message.from_wire(data, ignore_trailing=True, raise_on_truncation=False)
    except (dns.exception.DNSException, ValueError):
        return 1232 if b"\0\0\x29" in data else 512
    return min(max(512, asked.payload), 1232) if asked.edns >= 0 else 512


def _cookie(peer: str) -> bytes:
    return make(_SECRET, b"12345678", peer, NOW)


def query_seeds() -> list[bytes]:
    """Give questions of all kinds, from everywhere."""
    found = []
    for number, name in enumerate(NAMES):
        for rtype in ("A", "TXT", "ANY", "DS", "SOA"):
            asked = dns.message.make_query(name, rtype, want_dnssec=number % 2 == 0, id=number)
            found.append(bytes((number % 2,)) + asked.to_wire())
    for way, (peer, _) in enumerate(WAYS):
        for cookie in (_cookie(peer), _cookie(peer)[:8], _cookie(HERE)):
            options = [dns.edns.GenericOption(10, cookie), dns.edns.GenericOption(8, b"\0\1\0\0")]
            asked = dns.message.make_query("www.example.net.", "A", options=options, id=7)
            found.append(bytes((way,)) + asked.to_wire())
        for edns in ({"use_edns": 0, "payload": 512}, {"use_edns": 1}, {"use_edns": 0}):
            asked = dns.message.make_query("example.net.", "DNSKEY", id=7, **edns)
            found.append(bytes((way,)) + asked.to_wire())
    whole = found[0]
    found += [bytes((way,)) + whole[1:3] + b"\x80" + whole[4:] for way in range(2)]
    found += [b"\0" + whole[1:3] + bytes((opcode << 3,)) + whole[4:] for opcode in (1, 2, 4, 5, 9)]
    found.append(b"\0" + dns.message.make_query("version.bind.", "TXT", "CH", id=7).to_wire())
    return found


# What others answer

CASES: tuple[tuple[str, int], ...] = (
    ("www.example.net", Rtype.A),
    ("alias.example.net", Rtype.A),
    ("any.thing.example.net", Rtype.TXT),
    ("www.example.net", Rtype.AAAA),
    ("nothing.exact.wild.example.net", Rtype.A),
    ("example.net", Rtype.DS),
    ("nothing.net", Rtype.A),
    ("plain.net", Rtype.DS),
    ("www.plain.net", Rtype.A),
)


class _Cases:
    """The world with its true answers, and what was fetched once."""

    def __init__(self) -> None:
        self.world = World()
        self.questions = [make_question(labels(name), kind, bytes(40)) for name, kind in CASES]
        self.answers = [self.ask(one) for one in self.questions]
        pairs = zip(self.answers, self.questions, strict=True)
        self.truth = [read_answer(data, one) for data, one in pairs]
        self._fetched: dict[tuple[Labels, int], Known] = {}

    def ask(self, question: Question) -> bytes:
        """Let the resolver of somebody else answer."""
        asked = question.encode(pads=False)
        reply = self.world.engine.receive(asked, HERE, NOW, is_tcp=True)
        assert isinstance(reply, bytes)
        return reply

    def fetch(self, name: Labels, qtype: int) -> Known:
        """Fetch keys and delegations as they are."""
        if (name, qtype) not in self._fetched:
            self._fetched[name, qtype] = self.world.fetch(name, qtype)
        return self._fetched[name, qtype]


@cache
def cases() -> _Cases:
    """Give the world of a process."""
    return _Cases()


def answer(data: bytes) -> str:
    """Receive an answer; the first byte chooses to which question."""
    known_cases = cases()
    which = (data[0] if data else 0) % len(CASES)
    question, truth = known_cases.questions[which], known_cases.truth[which]
    try:
        known = read_answer(data[1:], question)
    except NotAnsweredError:
        return REFUSED
    validator = Validator(known_cases.fetch, NOW, blind=False, anchors=known_cases.world.anchors)
    try:
        trust = validator.check(known, question.name, question.qtype)
    except BogusError:
        return REFUSED
    if trust is not Trust.SECURE:
        _demand(CASES[which][0].endswith("plain.net"), "a signed zone is called unsigned")
        return TAKEN
    if known.rcode is not truth.rcode:
        _demand(known.rcode is not Rcode.NXDOMAIN, "a name that is there is said not to be")
    _demand(_said(known) == _said(truth), "other data than what was signed")
    return TAKEN


def _said(known: Known) -> set[tuple[Labels, int, frozenset[bytes]]]:
    def whole(one: RRset) -> tuple[Labels, int, frozenset[bytes]]:
        return one.owner, one.rtype, frozenset(one.rdatas)

    return {whole(one) for one in known.answers if one.rtype != Rtype.RRSIG}


def answer_seeds() -> list[bytes]:
    """Give the true answers, and each as if it answered the next question."""
    known_cases = cases()
    found = [bytes((at,)) + data for at, data in enumerate(known_cases.answers)]
    for at, question in enumerate(known_cases.questions):
        other = known_cases.answers[(at + 1) % len(CASES)]
        asked = known_cases.answers[at]
        end = 12 + len(question.encode(pads=False)) - 12 - 11
        other_end = other.index(b"\0", 12) + 5
        found.append(bytes((at,)) + asked[:4] + other[4:12] + asked[12:end] + other[other_end:])
    return found


# Master files


def master_file(data: bytes) -> str:
    """Read a master file, write it, and read it again."""
    try:
        read = decode_zone(data, ORIGIN, "example.zone")
    except SiteError:
        return REFUSED
    again = decode_zone(dump_zone(read).encode(), ORIGIN, "again")
    _demand(again == read, "a zone is another one after it was written")
    return TAKEN


MASTER_FILES = (
    ZONE.encode(),
    HEAD.encode(),
    b"$ORIGIN net.\n$TTL 1h\nexample SOA a b ( 1 2 ; c\n 3 4 5 )\nexample 1d IN NS a\n",
    HEAD.encode() + b'$GENERATE 1-9/2 h${0,3,x} A 10.0.0.$\nx TXT "a\\"b" c\\032d\n',
    HEAD.encode() + b"a LOC 52 22 23 N 4 53 32 E -2m 0m 10000m 10m\nb NAPTR 1 2 u s !^.*$!x! .\n",
    HEAD.encode() + b'a TYPE1 \\# 4 0a000001\nb CLASS1 TYPE99 \\# 0\nc CAA 0 issue "x;y=z"\n',
)
