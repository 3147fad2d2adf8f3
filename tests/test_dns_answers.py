"""The DNS engine beyond plain answers: the battery of RFC 8906, cookies, views, signatures."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import pytest
from dns_lab import NOW, ORIGIN, zone, zone_keys
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.cookies import OLD_SECONDS
from netboot.dns import STRANGER_PER_SECOND, Ask, DnsEngine, Generation, Resolved, signed_zones
from netboot.dns_message import ExtendedError
from netboot.dnssec import ZoneSigner
from netboot.names import labels
from netboot.rdata import Rtype
from netboot.views import View, Views
from netboot.zone import Rcode, RRset, Zones

HERE, BOX, ENROLLED, STRANGER = "127.0.0.1", "10.41.7.100", "10.41.7.20", "198.51.100.9"
VIEWS = Views(
    site=(IPv4Network("10.41.7.0/24"), IPv4Network("10.42.0.0/16")),
    boxes=(IPv4Network("10.41.7.0/24"),),
    known=frozenset({IPv4Address(ENROLLED)}),
    names=frozenset({labels("www.example.net")}),
)


def engine(*, forwards: bool = False, views: Views = VIEWS) -> DnsEngine:
    signer = ZoneSigner(zone(), zone_keys())
    signers = {ORIGIN: signer}
    made = DnsEngine(Zones(()), "appliance", b"k" * 32)
    zones = signed_zones(Zones([zone()]), signers)
    made.replace(Generation(zones=zones, signers=signers, views=views, forwards=forwards))
    return made


def ask(
    name: str = "www.example.net.",
    rtype: str = "A",
    *,
    server: DnsEngine | None = None,
    peer: str = HERE,
    now: float = NOW,
    is_tcp: bool = False,
    **how: object,
) -> dns.message.Message:
    query = dns.message.make_query(name, rtype, **how)  # type: ignore[arg-type]
    reply = (server or engine()).receive(query.to_wire(), peer, now, is_tcp=is_tcp)
    assert isinstance(reply, bytes)
    return dns.message.from_wire(reply)


def sections(message: dns.message.Message) -> tuple[list[str], ...]:
    return tuple(
        [dns.rdatatype.to_text(one.rdtype) for one in part]
        for part in (message.answer, message.authority, message.additional)
    )


# RFC 8906, 8.1 and 8.2, by the names of its tests


def test_n1_plain_dns() -> None:
    for rtype, flag in (("SOA", 0), ("TYPE1000", 0), ("SOA", dns.flags.CD), ("SOA", dns.flags.AD)):
        query = dns.message.make_query("example.net.", rtype, flags=flag)
        reply = dns.message.from_wire(
            engine().receive(query.to_wire(), HERE, NOW, is_tcp=False)  # type: ignore[arg-type]
        )
        assert reply.rcode() == 0 and reply.flags & dns.flags.AA
        assert bool(reply.answer) == (rtype == "SOA")
        assert reply.edns == -1
        assert not reply.flags & (dns.flags.AD | 0x40 | dns.flags.RD)


def test_n1_reserved_flag_and_opcode() -> None:
    query = dns.message.make_query("example.net.", "SOA", flags=0x40).to_wire()
    reply = engine().receive(query, HERE, NOW, is_tcp=False)
    assert isinstance(reply, bytes) and reply[3] & 0x40 == 0
    opcode = struct.pack("!HHHHHH", 1, 15 << 11, 0, 0, 0, 0)
    reply = engine().receive(opcode, HERE, NOW, is_tcp=False)
    assert isinstance(reply, bytes) and reply[3] & 15 == 4


def test_n1_edns_in_each_form() -> None:
    for how, rcode, soa in (
        ({"use_edns": 0}, 0, True),
        ({"use_edns": 1}, 16, False),
        ({"use_edns": 0, "options": [dns.edns.GenericOption(100, b"x")]}, 0, True),
        ({"use_edns": 0, "ednsflags": 0x40}, 0, True),
        ({"use_edns": 1, "options": [dns.edns.GenericOption(100, b"x")]}, 16, False),
        ({"use_edns": 1, "ednsflags": 0x40}, 16, False),
        ({"want_dnssec": True}, 0, True),
    ):
        reply = ask("example.net.", "SOA", **how)
        assert (reply.rcode(), bool(reply.answer)) == (rcode, soa), how
        assert reply.edns == 0
        assert reply.ednsflags & 0x40 == 0
        assert not [one for one in reply.options if one.otype == 100]


def test_n1_over_tcp_and_truncated() -> None:
    assert ask("example.net.", "DNSKEY", is_tcp=True).answer
    small = ask("example.net.", "DNSKEY", want_dnssec=True, payload=512)
    assert small.flags & dns.flags.TC or len(small.to_wire()) <= 512


# signatures


@pytest.mark.parametrize(
    ("name", "rtype", "answer", "authority"),
    [
        ("www.example.net.", "A", ["A", "RRSIG"], []),
        ("alias.example.net.", "A", ["CNAME", "RRSIG", "A", "RRSIG"], []),
        ("example.net.", "DNSKEY", ["DNSKEY", "RRSIG"], []),
        ("any.example.net.", "TXT", ["TXT", "RRSIG"], ["NSEC3", "RRSIG"]),
        ("www.example.net.", "AAAA", [], ["SOA", "RRSIG", "NSEC3", "RRSIG"]),
        ("x.sub.example.net.", "A", [], ["NS", "NSEC3", "RRSIG"]),
        ("x.signed.example.net.", "A", [], ["NS", "DS", "RRSIG"]),
    ],
)
def test_who_sets_do_gets_signatures_and_nobody_else(name, rtype, answer, authority) -> None:
    with_do = sections(ask(name, rtype, want_dnssec=True))
    assert with_do[:2] == (answer, authority)
    plain = sections(ask(name, rtype))
    assert not {"RRSIG", "NSEC3"} & {kind for part in plain for kind in part}


def test_hosts_that_are_named_come_along() -> None:
    found = ask("example.net.", "NS")
    assert [str(one.name) for one in found.additional] == ["ns.example.net."]


# cookies


def cookie(client: bytes, server: bytes = b"") -> dns.edns.Option:
    return dns.edns.GenericOption(10, client + server)


def cookie_of(message: dns.message.Message) -> bytes:
    (found,) = [one for one in message.options if one.otype == 10]
    return found.to_wire()


def test_n31_a_client_gets_a_cookie_and_a_bad_one_is_refused() -> None:
    server = engine()
    first = ask(server=server, options=[cookie(b"12345678")])
    whole = cookie_of(first)
    assert len(whole) == 24 and whole[:8] == b"12345678" and first.answer
    again = ask(server=server, options=[dns.edns.GenericOption(10, whole)])
    assert again.answer
    for bad, peer, now in (
        (whole[:-1] + bytes((whole[-1] ^ 1,)), HERE, NOW),
        (whole, "10.42.0.9", NOW),
        (whole, HERE, NOW + OLD_SECONDS + 1),
        (b"87654321" + whole[8:], HERE, NOW),
    ):
        reply = ask(server=server, peer=peer, now=now, options=[dns.edns.GenericOption(10, bad)])
        assert reply.rcode() == 23 and not reply.answer
        assert len(cookie_of(reply)) == 24
    by_tcp = ask(
        server=server, is_tcp=True, options=[dns.edns.GenericOption(10, whole[:-1] + b"x")]
    )
    assert by_tcp.answer  # RFC 7873, 5.2.4: TCP proves the address as well


@pytest.mark.parametrize("size", [1, 7, 9, 15, 41])
def test_n31_a_cookie_of_another_size_is_formerr(size: int) -> None:
    query = dns.message.make_query(
        "www.example.net.", "A", options=[dns.edns.GenericOption(10, b"x" * size)]
    )
    reply = engine().receive(query.to_wire(), HERE, NOW, is_tcp=False)
    assert isinstance(reply, bytes) and reply[3] & 15 == 1


# views


def test_a_box_that_is_not_enrolled_finds_what_it_needs_and_nothing_else() -> None:
    server = engine(forwards=True)
    assert ask(server=server, peer=BOX).answer
    for name in ("ns.example.net.", "www.example.org.", "nothing.example.net."):
        reply = ask(name, server=server, peer=BOX, use_edns=0)
        assert reply.rcode() == 5
        (why,) = reply.extended_errors()
        assert why.code == ExtendedError.PROHIBITED
    assert ask("ns.example.net.", server=server, peer=ENROLLED).answer
    assert ask("ns.example.net.", server=server, peer="10.42.0.1").answer


def test_what_is_kept_for_one_view_is_not_given_to_another() -> None:
    server = engine()
    query = dns.message.make_query("ns.example.net.", "A").to_wire()
    codes = {}
    for peer in (ENROLLED, BOX, ENROLLED, BOX):
        reply = server.receive(query, peer, NOW, is_tcp=False)
        assert isinstance(reply, bytes)
        codes.setdefault(peer, set()).add(reply[3] & 15)
    assert codes == {ENROLLED: {0}, BOX: {5}}


@pytest.mark.parametrize(
    ("peer", "view"),
    [
        ("127.0.0.1", View.FULL),
        ("::1", View.FULL),
        (BOX, View.ENROLMENT),
        (f"::ffff:{BOX}", View.ENROLMENT),
        (ENROLLED, View.FULL),
        ("10.42.3.4", View.FULL),
        ("fe80::1%eth0", View.ENROLMENT),
        (STRANGER, View.STRANGER),
        ("2001:db8::1", View.STRANGER),
    ],
)
def test_views_of_addresses(peer: str, view: View) -> None:
    assert VIEWS.of(peer) is view


# strangers


def test_a_stranger_gets_no_more_bytes_than_he_sent_unless_he_has_a_cookie() -> None:
    server = engine()
    query = dns.message.make_query("www.example.net.", "A", want_dnssec=True).to_wire()
    reply = server.receive(query, STRANGER, NOW, is_tcp=False)
    assert isinstance(reply, bytes) and len(reply) <= len(query)
    assert dns.message.from_wire(reply).flags & dns.flags.TC
    by_tcp = server.receive(query, STRANGER, NOW, is_tcp=True)
    assert isinstance(by_tcp, bytes) and len(by_tcp) > len(query)
    first = ask(server=server, peer=STRANGER, is_tcp=True, options=[cookie(b"12345678")])
    known = [dns.edns.GenericOption(10, cookie_of(first))]
    assert ask(server=server, peer=STRANGER, options=known, want_dnssec=True).answer


def test_strangers_of_one_network_get_few_answers_and_nobody_else_fewer() -> None:
    server = engine()
    query = dns.message.make_query("www.example.net.", "A").to_wire()
    answered = sum(
        server.receive(query, f"198.51.100.{number % 250 + 1}", NOW, is_tcp=False) is not None
        for number in range(500)
    )
    assert answered == STRANGER_PER_SECOND
    assert server.receive(query, "203.0.113.1", NOW, is_tcp=False) is not None
    assert server.receive(query, ENROLLED, NOW, is_tcp=False) is not None
    assert server.receive(query, STRANGER, NOW + 1, is_tcp=False) is not None


def test_an_open_resolver_it_is_not() -> None:
    server = engine(forwards=True)
    query = dns.message.make_query("www.example.org.", "A").to_wire()
    reply = server.receive(query, STRANGER, NOW, is_tcp=False)
    assert isinstance(reply, bytes) and reply[3] & 15 == 5 and not reply[3] & 0x80


@pytest.mark.parametrize(
    ("peer", "is_served"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("10.42.0.200", True),
        ("192.0.2.9", True),
        ("::ffff:192.0.2.9", True),
        ("192.0.3.9", False),
        ("2001:db8::1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_whoever_is_not_allowed_is_answered_for_our_zones_alone(peer: str, is_served: bool) -> None:
    networks = (IPv4Network("10.42.0.0/16"), IPv4Network("192.0.2.0/24"))
    server = engine(forwards=True, views=Views(site=networks, others=View.ZONES))
    for _ in range(3 * STRANGER_PER_SECOND):  # of the zones everybody is told, whole
        reply = ask(server=server, peer=peer, want_dnssec=True)
        assert reply.answer and bool(reply.flags & dns.flags.RA) is is_served
    query = dns.message.make_query("www.example.org.", "A", use_edns=0).to_wire()
    found = server.receive(query, peer, NOW, is_tcp=False)
    assert isinstance(found, Ask) is is_served
    if isinstance(found, bytes):
        refused = dns.message.from_wire(found)
        assert refused.rcode() == 5 and not refused.flags & dns.flags.RA
        assert [one.code for one in refused.extended_errors()] == [ExtendedError.PROHIBITED]


# others


def asked(name: str = "www.example.org.", **how: object) -> tuple[DnsEngine, Ask]:
    server = engine(forwards=True)
    query = dns.message.make_query(name, "A", **how)  # type: ignore[arg-type]
    found = server.receive(query.to_wire(), HERE, NOW, is_tcp=False)
    assert isinstance(found, Ask)
    return server, found


def test_what_is_not_ours_is_handed_on_and_written_when_it_comes() -> None:
    server, one = asked(use_edns=0)
    rrset = RRset(owner=one.name, rtype=Rtype.A, ttl=30, rdatas=(bytes((192, 0, 2, 7)),))
    resolved = Resolved(
        rcode=Rcode.NOERROR, answers=(rrset,), error=ExtendedError.STALE, said="7 s old"
    )
    reply = dns.message.from_wire(server.finish(one, resolved))
    assert reply.flags & dns.flags.RA and not reply.flags & (dns.flags.AA | dns.flags.AD)
    assert reply.answer[0].ttl == 30
    assert reply.extended_errors()[0].code == 3


def test_what_others_answered_is_given_again_for_the_rest_of_the_second_and_view() -> None:
    server = engine(forwards=True)
    query = dns.message.make_query("www.example.org.", "A", id=1).to_wire()

    def receive(peer: str = ENROLLED, now: float = NOW, is_tcp: bool = False):
        return server.receive(b"\0\2" + query[2:], peer, now, is_tcp=is_tcp)

    asked = receive()
    assert isinstance(asked, Ask)
    reply = server.finish(asked, Resolved(rcode=Rcode.NXDOMAIN))
    server.keep(query, ENROLLED, reply)
    assert receive() == b"\0\2" + reply[2:]
    assert receive("10.42.0.1", NOW + 0.9) == reply
    for other in (receive(BOX), receive(STRANGER)):
        assert isinstance(other, bytes) and other[3] & 15 == 5
    assert isinstance(receive(is_tcp=True), Ask)
    assert isinstance(receive(now=NOW + 1), Ask)
    assert isinstance(receive(now=NOW), Ask)
    server.keep(query, ENROLLED, reply)
    server.replace(server._generation)
    assert isinstance(receive(now=NOW), Ask)


def test_a_stranger_who_is_answered_from_no_shelf_cannot_have_more_than_his_share() -> None:
    server = engine()
    long = dns.message.make_query("www.example.net.", "A", use_edns=0, pad=512).to_wire()
    answers = [server.receive(long, STRANGER, NOW, is_tcp=False) for _ in range(50)]
    assert sum(one is not None for one in answers) == STRANGER_PER_SECOND


def test_secure_answers_have_ad_for_who_asks_so() -> None:
    for how, is_told in (({"want_dnssec": True}, True), ({}, False)):
        server, one = asked(**how)
        resolved = Resolved(rcode=Rcode.NOERROR, is_secure=True)
        reply = dns.message.from_wire(server.finish(one, resolved))
        assert bool(reply.flags & dns.flags.AD) == is_told


def test_without_recursion_wanted_nobody_is_asked() -> None:
    reply = ask("www.example.org.", server=engine(forwards=True), flags=0, use_edns=0)
    assert reply.rcode() == 5
    assert reply.extended_errors()[0].code == ExtendedError.NOT_AUTHORITATIVE


PEERS = st.sampled_from([HERE, BOX, ENROLLED, STRANGER, "fe80::2%eth0"])


@settings(max_examples=150, deadline=None)
@given(st.data(), PEERS, st.booleans())
def test_any_bytes_from_anybody_give_nothing_or_an_answer(data, peer, is_tcp) -> None:
    server = engine(forwards=True)
    query = bytearray(
        dns.message.make_query(
            "alias.example.net.", "A", want_dnssec=True, options=[cookie(b"12345678")]
        ).to_wire()
    )
    for _ in range(data.draw(st.integers(0, 5))):
        query[data.draw(st.integers(0, len(query) - 1))] = data.draw(st.integers(0, 255))
    message = bytes(query[: data.draw(st.integers(0, len(query)))])
    reply = server.receive(message, peer, NOW, is_tcp=is_tcp)
    if isinstance(reply, bytes):
        assert reply[:2] == message[:2] and reply[2] & 0x80
        assert len(reply) <= (65535 if is_tcp else 1232)
        if peer == STRANGER and not is_tcp:
            assert len(reply) <= max(len(message), 12)


# Flags and EDNS, as compliance tests of others send and judge them (RFC 8906, 8; RFC 6891, 6.1.3)

ALL_FLAGS = 0x07F0
TC, RD, RA, Z, AD, CD, AA = 0x0200, 0x0100, 0x0080, 0x0040, 0x0020, 0x0010, 0x0400
NSID, SUBNET, EXPIRE, UNKNOWN = b"\0\3\0\0", b"\0\x08\0\4\0\1\0\0", b"\0\x09\0\0", b"\0\x64\0\0"
COOKIE = b"\0\x0a\0\x08\1\2\3\4\5\6\7\x08"


def raw(
    flags: int,
    *,
    rtype: int | None = Rtype.SOA,
    edns: tuple[int, int, int, bytes] | None = None,
) -> bytes:
    """A message; `edns` is size, version, flags and options."""
    question = b"" if rtype is None else b"\7example\3net\0" + struct.pack("!HH", rtype, 1)
    opt = b""
    if edns is not None:
        size, version, extended, options = edns
        head = struct.pack("!HHBBHH", Rtype.OPT, size, 0, version, extended, len(options))
        opt = b"\0" + head + options
    counts = struct.pack("!HHHH", int(bool(question)), 0, 0, int(bool(opt)))
    return struct.pack("!HH", 77, flags) + counts + question + opt


@pytest.mark.parametrize("flags", [0, AA, TC, RD, RA, Z, AD, CD, ALL_FLAGS])
@pytest.mark.parametrize("peer", [HERE, "203.0.113.5"])
def test_n4_flags_of_a_question_are_not_echoed_but_rd_and_cd(flags: int, peer: str) -> None:
    views = Views(site=(IPv4Network("127.0.0.0/8"),), others=View.ZONES)
    reply = engine(views=views).receive(raw(flags), peer, NOW, is_tcp=False)
    assert isinstance(reply, bytes)
    got = int.from_bytes(reply[2:4])
    assert got & ~RD == 0x8000 | AA and got & RD == flags & RD


@pytest.mark.parametrize("flags", [0, ALL_FLAGS])
@pytest.mark.parametrize("opcode", [1, 2, 3, 6, 15])
def test_n3_of_an_unknown_opcode_no_flag_comes_back(opcode: int, flags: int) -> None:
    """RD too means something for QUERY alone."""
    for rtype in (None, Rtype.SOA):
        asked = raw(opcode << 11 | flags, rtype=rtype)
        reply = engine().receive(asked, HERE, NOW, is_tcp=False)
        assert reply == struct.pack("!HHHHHH", 77, 0x8000 | opcode << 11 | 4, 0, 0, 0, 0)


@pytest.mark.parametrize("options", [b"", NSID, SUBNET, EXPIRE, UNKNOWN, COOKIE, NSID + SUBNET])
@pytest.mark.parametrize("extended", [0, 0x8000, 0x0080, 0x7FFF])
@pytest.mark.parametrize("version", [0, 1, 255])
def test_n5_n6_whatever_edns_asks(version: int, extended: int, options: bytes) -> None:
    asked = raw(0, edns=(4096, version, extended, options))
    reply = engine().receive(asked, HERE, NOW, is_tcp=False)
    assert isinstance(reply, bytes)
    found = dns.message.from_wire(reply)
    assert (found.edns, found.payload) == (0, 1232)
    assert found.ednsflags & 0xFFFF == extended & 0x8000
    assert found.rcode() == (16 if version else 0)
    assert bool(found.answer) is not bool(version)
    codes = {int(one.otype) for one in found.options}
    assert codes == ({10} if options == COOKIE and not version else set())


@pytest.mark.parametrize(
    "rtype", [*range(1, 66), 99, *range(104, 110), 256, 257, 258, 259, 666, 1000, 32768, 32769]
)
def test_n18_every_type_at_a_zones_own_name_is_answered(rtype: int) -> None:
    if rtype == Rtype.OPT:
        return
    reply = engine().receive(raw(0, rtype=rtype), HERE, NOW, is_tcp=False)
    assert isinstance(reply, bytes)
    found = dns.message.from_wire(reply)
    assert found.rcode() == 0 and found.flags & dns.flags.AA and found.edns < 0
    assert found.answer or [one.rdtype for one in found.authority] == [Rtype.SOA]


def test_n31_who_asks_for_a_cookie_alone_gets_one() -> None:
    """RFC 7873, 5.4: without any question."""
    reply = engine().receive(raw(0, rtype=None, edns=(1232, 0, 0, COOKIE)), HERE, NOW, is_tcp=False)
    assert isinstance(reply, bytes)
    found = dns.message.from_wire(reply)
    assert found.rcode() == 0 and not found.question and len(cookie_of(found)) == 24
    for nothing in (raw(0, rtype=None), raw(0, rtype=None, edns=(1232, 0, 0, NSID))):
        reply = engine().receive(nothing, HERE, NOW, is_tcp=False)
        assert isinstance(reply, bytes) and reply[3] & 15 == 1


def test_a_signature_that_is_asked_for_by_itself_is_there() -> None:
    for name in ("example.net.", "www.example.net.", "alias.example.net."):
        reply = ask(name, "RRSIG", want_dnssec=True)
        assert sections(reply)[0] == ["RRSIG"] and reply.flags & dns.flags.AA
        assert len(reply.answer[0]) == 1
    for name in ("wild.example.net.", "nothing.exact.wild.example.net.", "x.sub.example.net."):
        assert not ask(name, "RRSIG", want_dnssec=True).answer
