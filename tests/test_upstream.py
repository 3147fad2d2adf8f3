"""What of another server's answer is believed, and nothing else of it."""

from __future__ import annotations

import struct

import dnslib
import pytest
from dns_lab import NOW, zone, zone_keys
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.dns import DnsEngine, Generation, signed_zones
from netboot.dns_cache import Known
from netboot.dnssec import ZoneSigner
from netboot.names import labels, wire
from netboot.rdata import Rtype, encode
from netboot.upstream import (
    NotAnsweredError,
    Question,
    TruncatedError,
    make_question,
    read_answer,
    without_private,
)
from netboot.zone import Rcode, RRset, Zones

WWW = labels("www.example.net")
DRAWN = bytes(range(7, 40))


def question(name: str = "www.example.net", qtype: int = Rtype.A) -> Question:
    return make_question(labels(name), qtype, DRAWN)


def server() -> DnsEngine:
    signer = ZoneSigner(zone(), zone_keys())
    signers = {signer.zone.origin: signer}
    engine = DnsEngine(Zones(()), "upstream")
    zones = signed_zones(Zones([zone()]), signers)
    engine.replace(Generation(zones=zones, signers=signers))
    return engine


SERVER = server()


def ask(one: Question, *, is_tcp: bool = True) -> bytes:
    reply = SERVER.receive(one.encode(pads=True), "127.0.0.1", NOW, is_tcp=is_tcp)
    assert isinstance(reply, bytes)
    return reply


def test_n25_a_question_has_a_random_number_and_random_case() -> None:
    one, other = question(), make_question(WWW, Rtype.A, bytes(40))
    assert one.number == 0x0708 and other.number == 0
    assert other.cased == WWW
    assert one.cased != WWW and tuple(label.lower() for label in one.cased) == WWW


def test_questions_over_tls_have_one_length() -> None:
    sizes = {len(question("x" * size + ".example.net").encode(pads=True)) for size in range(1, 40)}
    assert sizes == {128}
    assert len(question().encode(pads=False)) < 60


@pytest.mark.parametrize(
    ("name", "qtype", "rcode", "types"),
    [
        ("www.example.net", Rtype.A, Rcode.NOERROR, [Rtype.A, Rtype.RRSIG]),
        (
            "alias.example.net",
            Rtype.A,
            Rcode.NOERROR,
            [Rtype.CNAME, Rtype.RRSIG, Rtype.A, Rtype.RRSIG],
        ),
        ("any.example.net", Rtype.TXT, Rcode.NOERROR, [Rtype.TXT, Rtype.RRSIG]),
        ("caa.example.net", Rtype.CAA, Rcode.NOERROR, [Rtype.CAA, Rtype.RRSIG]),
        ("new.example.net", 65400, Rcode.NOERROR, [65400, Rtype.RRSIG]),
        ("svc.example.net", Rtype.HTTPS, Rcode.NOERROR, [Rtype.HTTPS, Rtype.RRSIG]),
        ("host.example.net", Rtype.SSHFP, Rcode.NOERROR, [Rtype.SSHFP, Rtype.RRSIG]),
    ],
)
def test_an_answer_is_taken_byte_for_byte(name, qtype, rcode, types) -> None:
    found = read_answer(ask(question(name, qtype)), question(name, qtype))
    assert (found.rcode, [one.rtype for one in found.answers]) == (rcode, types)
    mine = Zones([zone()]).lookup(labels(name), qtype).answers
    assert [one.rdatas for one in found.answers if one.rtype != Rtype.RRSIG] == [
        one.rdatas for one in mine
    ]
    assert bool(found.authority) == (name == "any.example.net")  # a wildcard's proof


def test_what_is_not_there_comes_with_its_proofs() -> None:
    found = read_answer(
        ask(question("nothing.example.net", Rtype.MX)), question("nothing.example.net", Rtype.MX)
    )
    types = [one.rtype for one in found.authority]
    assert types.count(Rtype.SOA) == 1 and types.count(Rtype.NSEC3) >= 2
    assert types.count(Rtype.RRSIG) == types.count(Rtype.NSEC3) + 1


def test_n25_what_does_not_match_is_not_an_answer() -> None:
    one = question()
    good = ask(one)
    swapped = good[:12] + good[12:29].swapcase() + good[29:]
    for bad in (
        good[:1] + bytes((good[1] ^ 1,)) + good[2:],
        good[:2] + bytes((good[2] & 0x7F,)) + good[3:],
        good[:2] + bytes((good[2] | 0x08,)) + good[3:],
        swapped,
        good[:5] + b"\2" + good[6:],
        good[:12],
        b"",
        ask(question("alias.example.net")),
    ):
        with pytest.raises(NotAnsweredError):
            read_answer(bad, one)
    cut = good[:2] + bytes((good[2] | 0x02,)) + good[3:]
    with pytest.raises(TruncatedError):
        read_answer(cut, one)


def test_n26_other_names_in_an_answer_are_dropped() -> None:
    one = question()
    message = dnslib.DNSRecord.parse(ask(one))
    for section in (message.rr, message.auth, message.ar):
        for text in ("evil.example.org 60 A 192.0.2.66", "bank.example.net 60 A 192.0.2.66"):
            section.extend(dnslib.RR.fromZone(text))
    message.auth.extend(dnslib.RR.fromZone("org 60 SOA a b 1 2 3 4 5"))
    found = read_answer(bytes(message.pack()), one)
    assert {rrset.owner for rrset in found.answers} == {WWW}
    assert found.authority == ()


def test_a_proof_counts_in_the_zone_of_its_signer_wherever_its_owner_is() -> None:
    """The NSEC before a name may belong to one that is deeper, or below another branch."""
    one = question("nothing.example.net")
    message = dnslib.DNSRecord.parse(ask(question("nothing.exact.wild.example.net")))
    message.header.id = one.number
    message.questions = [dnslib.DNSQuestion(dnslib.DNSLabel(list(one.cased)), one.qtype)]
    for owner, signer in (("a.deep.name", "example.net"), ("b.deep.name", "other.example")):
        data = f"NSEC 13 4 30 20300101000000 20200101000000 7 {signer}. ABCDABCD"
        for line in (f"NSEC zz.{signer}. A", f"RRSIG {data}"):
            rtype, _, value = line.partition(" ")
            rdata = dnslib.RD(encode(Rtype[rtype], value))
            owned = f"{owner}.{signer}"
            message.auth.append(dnslib.RR(owned, Rtype[rtype], rdata=rdata, ttl=30))
    unsigned = dnslib.RD(encode(Rtype.NSEC, "zz.example.net. A"))
    message.auth.append(dnslib.RR("c.example.net", Rtype.NSEC, rdata=unsigned, ttl=30))
    found = read_answer(bytes(message.pack()), one)
    owners = [rrset.owner for rrset in found.authority if rrset.rtype == Rtype.NSEC]
    assert owners == [labels("a.deep.name.example.net")]


def test_chains_that_loop_end() -> None:
    one = question()
    text = "www.example.net 60 CNAME b.example.net"
    message = dnslib.DNSRecord.parse(ask(one))
    message.rr = dnslib.RR.fromZone(f"{text}\nb.example.net 60 CNAME www.example.net")
    found = read_answer(bytes(message.pack()), one)
    assert [rrset.rtype for rrset in found.answers] == [Rtype.CNAME, Rtype.CNAME]


@pytest.mark.parametrize(
    ("data", "is_kept"),
    [
        (bytes((192, 168, 1, 1)), False),
        (bytes((127, 0, 0, 1)), False),
        (bytes((8, 8, 8, 8)), True),
        (bytes.fromhex("fd00" + "00" * 13 + "01"), False),
        (bytes.fromhex("00000000000000000000ffff0a000001"), False),
        (bytes.fromhex("20010db8" + "00" * 11 + "01"), True),
    ],
)
def test_n27_private_addresses_are_dropped_from_public_names(data: bytes, is_kept: bool) -> None:
    rtype = Rtype.A if len(data) == 4 else Rtype.AAAA
    rrset = RRset(owner=WWW, rtype=rtype, ttl=60, rdatas=(data,))
    known = Known(rcode=Rcode.NOERROR, answers=(rrset,))
    found, dropped = without_private(known, [])
    assert (bool(found.answers), dropped) == (is_kept, not is_kept)
    assert without_private(known, [labels("example.net")]) == (known, False)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_an_answer_or_none(data: st.DataObject) -> None:
    one = question("nothing.example.net", Rtype.MX)
    whole = bytearray(ask(one))
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    message = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for noise in (message, data.draw(st.binary(max_size=80))):
        try:
            found = read_answer(noise, one)
        except NotAnsweredError:
            continue
        assert all(rrset.rdatas for rrset in found.answers)


def test_eight_thousand_records_are_not_parsed() -> None:
    one = question()
    head = struct.pack("!HHHHHH", one.number, 0x8180, 1, 8000, 0, 0)
    body = wire(one.cased) + struct.pack("!HH", one.qtype, 1)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes(4)
    with pytest.raises(NotAnsweredError, match="too many"):
        read_answer(head + body + record * 4000, one)
