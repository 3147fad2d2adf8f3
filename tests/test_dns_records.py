"""Records of other servers' messages: any byte in a name, compression, and nothing that loops."""

from __future__ import annotations

import struct

import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.dns_records import Record, RecordError, read_name, read_records
from netboot.names import labels, wire
from netboot.rdata import Rtype, encode
from netboot.upstream import make_question, read_answer
from netboot.zone import Rcode

HEAD = 12
LABELS = st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=4)
TEXTS = (
    ("NS", "ns.example.net."),
    ("SOA", "ns.example.net. host.example.net. 1 2 3 4 5"),
    ("MX", "10 mail.example.net."),
    ("SRV", "1 2 3 host.example.net."),
    ("NAPTR", '100 50 "s" "z3950+I2L" "" _z._tcp.example.net.'),
    ("RP", "a.example.net. b.example.net."),
    ("AFSDB", "1 a.example.net."),
    ("RT", "1 a.example.net."),
    ("PX", "1 a.example.net. b.example.net."),
    ("KX", "1 a.example.net."),
    ("DNAME", "other.example.net."),
    ("TXT", '"any" "text"'),
    ("A", "192.0.2.1"),
    ("AAAA", "2001:db8::1"),
    ("DS", "1 13 2 " + "ab" * 32),
    ("DNSKEY", "257 3 13 " + "ABCD" * 8),
    ("NSEC", "b.example.net. A TXT"),
    ("NSEC3", "1 0 10 abcd 0123456789abcdefghijklmnopqrstuv A"),
    ("RRSIG", "A 13 2 60 20260101000000 20250101000000 7 example.net. ABCDABCD"),
    ("CAA", '0 issue "ca.example.org"'),
    ("HTTPS", "1 . alpn=h2"),
    ("TYPE65400", "\\# 3 abcdef"),
)


@pytest.mark.parametrize(("kind", "value"), TEXTS)
def test_data_that_was_compressed_is_as_it_is_kept(kind: str, value: str) -> None:
    """dnspython compresses what it may, and writes names as they were written."""
    rdtype = dns.rdatatype.from_text(kind)
    message = dns.message.make_response(dns.message.make_query("WWW.Example.NET.", rdtype))
    cased = value.replace("example.net", "EXAMPLE.net")
    message.answer.append(dns.rrset.from_text("WWW.Example.NET.", 60, "IN", kind, cased))
    data = message.to_wire()
    at = data.index(b"\3NET\0", HEAD) + 9
    (record,), end = read_records(data, at, 1)
    assert (record.owner, record.rtype, record.ttl) == (labels("www.example.net"), rdtype, 60)
    wanted = encode(int(rdtype), cased if kind == "NSEC" else value)
    assert record.data.lower() == wanted.lower() and end == len(data)
    assert record.data == wanted or kind == "NSEC"


@settings(max_examples=100, deadline=None)
@given(LABELS, LABELS)
def test_any_byte_passes_in_every_name(owner: list[bytes], target: list[bytes]) -> None:
    """Through the whole path: asked, compressed by somebody else, read and shown."""
    name = tuple(label.lower() for label in owner)
    question = make_question(name, Rtype.CNAME, bytes(40))
    asked = dns.message.from_wire(question.encode(pads=False))
    reply = dns.message.make_response(asked)
    data = dns.rdata.from_wire(1, Rtype.CNAME, wire(tuple(target)), 0, len(wire(tuple(target))))
    rrset = dns.rrset.from_rdata(dns.name.Name([*owner, b""]), 60, data)
    reply.answer.append(rrset)
    found = read_answer(reply.to_wire(), question)
    assert found.rcode is Rcode.NOERROR
    assert [one.owner for one in found.answers] == [name]
    assert found.answers[0].rdatas == (wire(tuple(label.lower() for label in target)),)


def message_of(*parts: bytes) -> bytes:
    return bytes(HEAD) + b"".join(parts)


def record(owner: bytes, rtype: int, data: bytes) -> bytes:
    return owner + struct.pack("!HHIH", rtype, 1, 60, len(data)) + data


@pytest.mark.parametrize(
    "data",
    [
        b"\xc0\x0c",  # to itself
        b"\1a\xc0\x0c",  # round and round
        b"\xc0\x20",  # forwards
        b"\xc0",
        b"\x40a\0",
        b"\5ab",
        b"",
        b"\1a" * 128 + b"\0",
    ],
)
def test_a_name_that_is_none(data: bytes) -> None:
    with pytest.raises(RecordError, match="malformed"):
        read_name(message_of(data), HEAD)


def test_a_chain_of_pointers_costs_no_stack() -> None:
    pointers = b"\0\0" + b"".join((0xC000 | HEAD + 2 * at).to_bytes(2, "big") for at in range(5000))
    assert read_name(message_of(pointers), HEAD + 2 * 5000) == ((), HEAD + 2 * 5001)


@pytest.mark.parametrize(
    ("rtype", "data"),
    [
        (Rtype.A, b"abc"),
        (Rtype.AAAA, bytes(15)),
        (Rtype.CNAME, b"\1a\0x"),
        (Rtype.CNAME, b""),
        (Rtype.SOA, bytes(21)),
        (Rtype.MX, b"\0"),
        (Rtype.SRV, bytes(6)),
        (Rtype.NAPTR, b"\0\0\0\0\1a\7b\0\0"),
        (Rtype.DS, b"abc"),
        (Rtype.RRSIG, bytes(18)),
        (Rtype.NSEC, b"\1a"),
        (Rtype.NSEC3, b"\1\0\0"),
    ],
)
def test_data_that_does_not_fit_its_type(rtype: int, data: bytes) -> None:
    with pytest.raises(RecordError):
        read_records(message_of(record(b"\0", rtype, data)), HEAD, 1)


def test_what_is_cut_off() -> None:
    whole = message_of(record(b"\1a\0", Rtype.A, b"abcd"))
    assert read_records(whole, HEAD, 1)[0] == [
        Record(owner=(b"a",), rtype=1, rclass=1, ttl=60, data=b"abcd")
    ]
    for end in range(HEAD, len(whole)):
        with pytest.raises(RecordError):
            read_records(whole[:end], HEAD, 1)
    with pytest.raises(RecordError):
        read_records(whole, HEAD, 2)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 4), st.integers(0, 20))
def test_any_bytes_are_records_or_an_error(data: bytes, count: int, at: int) -> None:
    try:
        found, end = read_records(data, at, count)
    except RecordError:
        return
    assert len(found) == count and end <= max(len(data), at)
