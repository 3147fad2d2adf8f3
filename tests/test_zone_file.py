"""Master files: read, checked, written, and read again to the same zone."""

from __future__ import annotations

import contextlib

import pytest
from dns_lab import HEAD, ORIGIN, zone
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.errors import SiteError
from netboot.names import labels
from netboot.rdata import Rtype
from netboot.zone import Absence, Rcode, Zones
from netboot.zone_file import decode_zone, dump_zone


def look(name: str, rtype: int = Rtype.A):
    return Zones([zone()]).lookup(labels(name), rtype)


def test_what_is_written_is_read_as_the_same_zone() -> None:
    first = zone()
    written = dump_zone(first)
    assert written.splitlines()[1].startswith("example.net. 300 IN SOA ns.example.net. ")
    assert decode_zone(written.encode(), ORIGIN, "again") == first


def test_generate_escapes_and_unknown_types() -> None:
    assert look("pos-3.example.net").answers[0].rdatas == (bytes((10, 0, 0, 3)),)
    assert look("new.example.net", 65400).answers[0].rdatas == (b"\xab\xcd\xef",)
    assert zone().names[(b"odd.dot", *ORIGIN)][Rtype.A].rdatas == (bytes((192, 0, 2, 13)),)


def test_an_rrset_takes_its_lowest_ttl() -> None:
    (found,) = look("www.example.net").answers
    assert (found.ttl, len(found.rdatas)) == (60, 2)


def test_n16_a_wildcard_answers_only_what_does_not_exist() -> None:
    (found,) = look("nothing.example.net", Rtype.TXT).answers
    assert found.owner == labels("nothing.example.net")
    assert found.source == labels("*.example.net")
    assert look("nothing.example.net", Rtype.TXT).missing[0].absence is Absence.EXACT
    assert look("deep.er.example.net", Rtype.TXT).answers  # several labels: RFC 4592, 4.3
    for name in ("www", "exact.wild", "wild"):  # a name, two empty non-terminals
        found = look(f"{name}.example.net", Rtype.TXT)
        assert (found.rcode, found.answers) == (Rcode.NOERROR, ())
    nodata = look("nothing.example.net", Rtype.MX)
    assert nodata.missing[0].absence is Absence.WILDCARD_TYPE
    below = look("x.exact.wild.example.net", Rtype.MX)  # RFC 4592, 2.2.2: the closest encloser
    assert below.rcode is Rcode.NXDOMAIN


def test_a_dname_moves_what_is_below_it_and_nothing_else() -> None:
    found = look("moved.old.example.net")
    assert [one.rtype for one in found.answers] == [Rtype.DNAME, Rtype.CNAME, Rtype.A]
    assert found.answers[1].is_made and found.answers[1].ttl == found.answers[0].ttl
    assert [one.rtype for one in look("moved.old.example.net", Rtype.CNAME).answers] == [
        *(Rtype.DNAME, Rtype.CNAME)
    ]
    assert look("old.example.net").answers == ()
    assert look("old.example.net", Rtype.DNAME).answers
    assert look("nothing.old.example.net").rcode is Rcode.NXDOMAIN
    long = zone(HEAD + f"old DNAME {'a' * 60}.{'b' * 60}.{'c' * 60}.new\n")
    asked = labels(f"{'d' * 60}.old.example.net")
    too_long = Zones([long]).lookup(asked, Rtype.A)
    assert too_long.rcode is Rcode.YXDOMAIN
    assert [one.rtype for one in too_long.answers] == [Rtype.DNAME]


def test_a_delegation_refers_with_glue_and_its_ds_is_ours() -> None:
    found = look("host.sub.example.net")
    assert (found.rcode, found.is_authoritative, found.answers) == (Rcode.NOERROR, False, ())
    assert [one.rtype for one in found.authority] == [Rtype.NS]
    assert [one.owner for one in found.additional] == [labels("ns.sub.example.net")]
    assert found.missing[0].absence is Absence.DS
    signed = look("x.signed.example.net")
    assert [one.rtype for one in signed.authority] == [Rtype.NS, Rtype.DS]
    asked = look("signed.example.net", Rtype.DS)
    assert asked.is_authoritative and asked.answers[0].rtype == Rtype.DS
    absent = look("sub.example.net", Rtype.DS)
    assert absent.is_authoritative and absent.missing[0].absence is Absence.TYPE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("$TTL 60\nwww A 192.0.2.1\n", "no SOA"),
        ("@ 60 SOA a b 1 2 3 4 5\n", "no NS"),
        (HEAD + "www A 192.0.2.300\n", "^example.zone:5: .*: correct that line$"),
        (HEAD + "www A 192.0.2.300", "^example.zone:5: "),
        (HEAD + "\n; 6\nwww A 192.0.2.300\nx A 192.0.2.1\n", "^example.zone:7: "),
        (HEAD + "www WHAT x\nx A 192.0.2.1\n", "^example.zone:5: unknown rdatatype 'WHAT'"),
        (HEAD + "x A (\n192.0.2.1 5\n)\n", "^example.zone:6: expected EOL"),
        (HEAD + 'x TXT "a\nx A 192.0.2.1\n', "^example.zone:5: newline in"),
        (HEAD + "$INCLUDE other.zone\n", "example.zone:5"),
        (HEAD + "www A 192.0.2.1\nwww CNAME ns\n", "^example.zone:6: .*CNAME"),
        (HEAD + "www CNAME ns\nwww A 192.0.2.1\n", "^example.zone:6: .*CNAME"),
        (HEAD + "www CNAME ns\nwww CNAME www\nx A 192.0.2.1\n", "^example.zone:6: .*another CN"),
        (HEAD + "@ SOA a b 1 2 3 4 5\n", "^example.zone:5: .*another SOA"),
        (HEAD + "deep SOA a b 1 2 3 4 5\n", "^example.zone:5: a SOA is at the zone's own name"),
        (HEAD + "www 4000000000 A 192.0.2.1\n", "^example.zone:5: "),
        (HEAD + "x.example.org. A 192.0.2.1\nwww TYPE255 \\# 0\n", "no zone|TYPE255|ANY"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(text: str, says: str) -> None:
    with pytest.raises(SiteError, match=says):
        zone(text)


@given(st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_zone_or_a_sentence(text: str) -> None:
    with contextlib.suppress(SiteError):
        decode_zone((HEAD + text).encode("utf-8", "replace"), ORIGIN, "f")
