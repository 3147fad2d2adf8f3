"""Master-file text: plain lines by the shorter way, and the same zone as by dnspython alone."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from netboot.names import labels
from netboot.rdata import Rtype
from netboot.zone import Zone
from netboot.zone_text import BrokenError, read_by_dnspython, read_text

ORIGIN = labels("example.net")
SOA = "@ SOA ns hostmaster 7 3600 600 604800 30"
LINES = (
    *("$TTL 300", "$ttl 1h", "$TTL x", "$ORIGIN sub.example.net.", "$ORIGIN deep", "$ORIGIN @"),
    *("", "   ", '; comment ( "', "\t; (", "$GENERATE 1-3 g$ A 10.0.0.$", "$NOTHING"),
    *("www A 192.0.2.1", "www 60 A 192.0.2.2", "WWW IN A 192.0.2.3", "www 60 IN A 192.0.2.4"),
    *("www IN 60 A 192.0.2.5", "www 1h A 192.0.2.6", "  A 192.0.2.7", "\tIN AAAA 2001:db8::1"),
    *("www a 192.0.2.8 ; comment", "www A 192.0.2.300", "www A 192.0.2.01", "www A 1.2.3"),
    *("six AAAA 2001:DB8::6", "six AAAA ::ffff:192.0.2.1", "six AAAA 1::2::3", "A A 192.0.2.9"),
    *("IN A 192.0.2.10", "60 A 192.0.2.11", "IN IN A 192.0.2.12", "@ A 192.0.2.13", "@ NS ns"),
    *("alias CNAME www", "alias CNAME other", "alias A 192.0.2.14", "c2 CNAME @", "c3 CNAME a.b."),
    *("sub NS ns.sub", "sub.example.net. NS ns", "ptr PTR Host.Example.Org.", "p2 60 PTR x_y-z.*"),
    *("out.example.org. A 192.0.2.15", "www.example.net. A 192.0.2.16", "*.w A 192.0.2.17"),
    *("a..b A 192.0.2.18", ".x A 192.0.2.19", "x. A 192.0.2.20", f"{'l' * 64} A 192.0.2.21"),
    *(f"{'.'.join(['l' * 60] * 4)} A 192.0.2.22", "odd\\.dot A 192.0.2.23", "é A 192.0.2.24"),
    *('t TXT "a ; b ( c" d', "t TXT (a", "b )", ")", "m MX 10 mail", 'q TXT "open', "d DNAME x"),
    *("www 4000000000 A 192.0.2.25", "www 999999999 A 192.0.2.26", "www 60 60 A 192.0.2.27"),
    *("u TYPE1 \\# 4 c0000201", "u TYPE65400 \\# 1 ab", "s SOA a b 1 2 3 4 5", "www CH A 1.2.3.4"),
    *(
        "www A 192.0.2.28 192.0.2.29",
        "www A 192.0.2.30\r",
        "www  A\t192.0.2.31  ",
        "- A 192.0.2.32",
    ),
)


def zone_of(read, content: str) -> Zone | None:
    try:
        return read(content, ORIGIN).zone()
    except BrokenError:
        return None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(LINES), max_size=14), st.booleans())
@example(["$ORIGIN sub.example.net.", "www 60 A 192.0.2.2", "  A 192.0.2.7", "c2 CNAME @"], False)
@example(["www 60 A 192.0.2.2", "t TXT (a", "www A 192.0.2.1", "b )", "www A 192.0.2.1"], True)
@example(["out.example.org. A 192.0.2.15", "  A 192.0.2.7", "www A 192.0.2.1"], True)
def test_the_shorter_way_leads_to_the_same_zone(lines: list[str], has_ttl: bool) -> None:
    content = "\n".join([*(["$TTL 77"] if has_ttl else []), SOA, "@ NS ns", *lines, ""])
    assert zone_of(read_text, content) == zone_of(read_by_dnspython, content)


@pytest.mark.parametrize("line", LINES)
def test_each_line_by_itself_leads_to_the_same_zone(line: str) -> None:
    for before in ("", "$TTL 77\n", "$TTL 77\n$ORIGIN deep.example.net.\n", "x 5 A 192.0.2.99\n"):
        content = f"{SOA}\n{before}{line}\nlast A 192.0.2.98\n A 192.0.2.97\n"
        assert zone_of(read_text, content) == zone_of(read_by_dnspython, content)


def test_a_line_that_is_wrong_has_its_number() -> None:
    for number, line in ((4, "www CNAME a"), (5, "; c\nwww MX x")):
        content = f"$TTL 5\n{SOA}\nwww A 192.0.2.1\n{line}\nlast A 192.0.2.2\n"
        with pytest.raises(BrokenError) as caught:
            read_text(content, ORIGIN)
        assert caught.value.line in (number, number + 1)


def test_plain_lines_are_in_the_zone() -> None:
    content = f"$TTL 5\n{SOA}\n" + "".join(f"h{n} A 192.0.2.{n}\n" for n in range(200))
    zone = read_text(content, ORIGIN, is_signed=True).zone()
    assert zone.is_signed and len(zone.names) == 201
    assert zone.names[(b"h7", *ORIGIN)][Rtype.A].rdatas == (bytes((192, 0, 2, 7)),)
    assert zone.names[(b"h7", *ORIGIN)][Rtype.A].ttl == 5
