"""DNS rules N2 to N24 against the engine, with dnslib as the second opinion; real `dig` on TCP."""

import socket
import struct
import subprocess
import threading
from ipaddress import IPv4Address

import dnslib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import DOMAIN
from test_zone import PRINTER, ZONE_PLAN, record

from netboot.dns import MAX_CACHED, DnsEngine, Generation
from netboot.dns_message import decode_query
from netboot.io.dns import DnsRunner
from netboot.zone_build import LeaseName, build

LONG = tuple(record("long", "TXT", f"{number:03} " + "x" * 150) for number in range(20))


def zones(leases=()):
    plan = ZONE_PLAN
    plan = type(plan)(
        number=plan.number,
        site=plan.site,
        domain=plan.domain,
        subnets=plan.subnets,
        records=(*plan.records, *LONG, record("big", "TXT", "y" * 600)),
    )
    return build(plan, leases, 42)


NOW = 1_800_000_000.0


class Server(DnsEngine):
    """The engine as somebody on this machine sees it."""

    def receive(self, data, peer="127.0.0.1", now=NOW, *, is_tcp):
        return super().receive(data, peer, now, is_tcp=is_tcp)


def engine(leases=()) -> Server:
    return Server(zones(leases), "appliance")


def opt(*, size=4096, version=0, flags=0, options: bytes = b"", owner: bytes = b"\0") -> bytes:
    ttl = version << 16 | flags
    return owner + struct.pack("!HHIH", 41, size, ttl, len(options)) + options


def wire(name: str) -> bytes:
    parts = [part for part in name.split(".") if part]
    return b"".join(bytes((len(part),)) + part.encode() for part in parts) + b"\0"


def ask(name=f"till-1.{DOMAIN}", kind=1, klass=1, *, flags=0x0100, extra=(), number=0x1234):
    head = struct.pack("!HHHHHH", number, flags, 1, 0, 0, len(extra))
    return head + wire(name) + struct.pack("!HH", kind, klass) + b"".join(extra)


def answer(query: bytes, *, is_tcp=False, leases=()) -> dnslib.DNSRecord:
    reply = engine(leases).receive(query, is_tcp=is_tcp)
    assert reply is not None
    return dnslib.DNSRecord.parse(reply)


def rcode(query: bytes) -> str:
    return dnslib.RCODE[answer(query).header.rcode]


def test_an_address_is_answered_with_authority() -> None:
    reply = answer(ask())
    assert reply.header.id == 0x1234
    assert (reply.header.aa, reply.header.rd, reply.header.ra, reply.header.tc) == (1, 1, 0, 0)
    assert [str(one.rdata) for one in reply.rr] == ["10.41.7.20"]
    assert str(reply.rr[0].rname) == f"till-1.{DOMAIN}."


def test_every_type_of_record_is_written_as_others_read_it() -> None:
    def told(name: str, kind: str) -> list[str]:
        return [str(one.rdata) for one in answer(ask(name, getattr(dnslib.QTYPE, kind))).rr]

    assert told(f"_pos._tcp.{DOMAIN}", "SRV") == ["0 5 443 a.b."]
    assert told("9.7.41.10.in-addr.arpa", "PTR") == [f"x.{DOMAIN}."]
    assert told(DOMAIN, "NS") == [f"appliance.{DOMAIN}."]
    assert told("localhost", "AAAA") == ["::1"]
    assert told(f"www.{DOMAIN}", "A") == [f"appliance.{DOMAIN}.", "10.41.7.2"]
    big = answer(ask(f"big.{DOMAIN}", 16, extra=[opt()])).rr[0].rdata
    assert b"".join(big.data) == b"y" * 600


@pytest.mark.parametrize("count", [0, 2, 8000])
def test_n2_anything_but_one_question_is_formerr(count) -> None:
    question = wire("a.b") + b"\0\1\0\1"
    query = struct.pack("!HHHHHH", 1, 0, count, 0, 0, 0) + question * min(count, 8000)
    reply = engine().receive(query, is_tcp=True)
    assert reply == b"\0\1\x80\1" + bytes(8)


@pytest.mark.parametrize("counts", [(0, 0), (2, 0), (65535, 0), (1, 1)])
def test_n2_the_counts_decide_whatever_follows(counts) -> None:
    questions, answers = counts
    query = ask()
    query = query[:4] + struct.pack("!HH", questions, answers) + query[8:]
    assert engine().receive(query, is_tcp=False)[3] & 15 == 1


@pytest.mark.parametrize("opcode", [1, 2, 3, 6, 15])
def test_n3_unknown_opcodes_are_notimp_even_as_a_header_alone(opcode) -> None:
    head = struct.pack("!HHHHHH", 5, opcode << 11, 0, 0, 0, 0)
    for query in (head, ask(flags=opcode << 11)):
        reply = engine().receive(query, is_tcp=False)
        assert reply[3] & 15 == 4
        assert reply[2] >> 3 & 15 == opcode


def test_n4_reserved_flags_are_never_echoed() -> None:
    reply = engine().receive(ask(flags=0x0070, extra=[opt(flags=0x7FFF)]), is_tcp=False)
    assert reply[3] & 0x70 == 0
    (edns,) = dnslib.DNSRecord.parse(reply).ar
    assert edns.ttl == 0
    assert answer(ask(extra=[opt(flags=0x8000)])).ar[0].ttl == 0x8000


def test_n5_edns_version_1_is_badvers_with_version_0() -> None:
    reply = answer(ask(extra=[opt(version=1)]))
    assert reply.header.rcode == 0
    assert not reply.rr
    assert reply.ar[0].ttl == 1 << 24


def test_n6_unknown_edns_options_are_ignored() -> None:
    assert answer(ask(extra=[opt(options=b"\xff\xf0\0\3abc")])).rr


@pytest.mark.parametrize(
    "extra",
    [
        [opt(options=b"\0\1\0")],
        [opt(options=b"\0\1\0\5ab")],
        [opt(), opt()],
        [opt(owner=b"\1a\0")],
        [b"\0\0"],
        [opt()[:-1]],
        [opt() + b"junk"],
    ],
)
def test_malformed_additions_are_formerr(extra) -> None:
    assert rcode(ask(extra=extra)) == "FORMERR"


def test_other_records_behind_the_question_are_passed_over() -> None:
    behind = struct.pack("!HHIH", 250, 255, 0, 3) + b"abc"
    for owner in (b"\xc0\x0c", b"\3key\0", b"\3key\xc0\x0c"):
        assert answer(ask(extra=[owner + behind, opt()])).rr
    for owner in (b"\x40" + b"a" * 64 + b"\0", b"\3ke", b"\xc0"):
        assert rcode(ask(extra=[owner + behind])) == "FORMERR"
    assert rcode(ask(kind=41)) == "FORMERR"


def test_n7_opt_in_the_reply_exactly_when_asked() -> None:
    assert not answer(ask()).ar
    (edns,) = answer(ask(extra=[opt()])).ar
    assert (edns.rtype, edns.rclass) == (41, 1232)
    (edns,) = answer(ask("example.org", extra=[opt()])).ar
    assert edns.rtype == 41


@pytest.mark.parametrize(("size", "limit"), [(None, 512), (100, 512), (1000, 1000), (9000, 1232)])
def test_n8_truncation_keeps_question_and_opt(size, limit) -> None:
    extra = [] if size is None else [opt(size=size)]
    query = ask(f"long.{DOMAIN}", 16, extra=extra)
    reply = engine().receive(query, is_tcp=False)
    assert len(reply) <= limit
    parsed = dnslib.DNSRecord.parse(reply)
    assert (parsed.header.tc, len(parsed.rr), len(parsed.ar)) == (1, 0, len(extra))
    assert str(parsed.q.qname) == f"long.{DOMAIN}."


def test_n9_the_same_question_over_tcp_gives_everything() -> None:
    query = ask(f"long.{DOMAIN}", 16)
    server = engine()
    assert dnslib.DNSRecord.parse(server.receive(query, is_tcp=False)).header.tc == 1
    reply = dnslib.DNSRecord.parse(server.receive(query, is_tcp=True))
    assert (reply.header.tc, len(reply.rr)) == (0, len(LONG))


def test_n11_the_case_of_the_question_is_kept() -> None:
    query = ask(f"TiLl-1.{DOMAIN}")
    reply = engine().receive(query, is_tcp=False)
    assert reply[12 : len(query)] == query[12:]
    assert answer(query).rr


def test_n12_negative_answers_carry_the_soa_with_the_smaller_ttl() -> None:
    for name, kind, code in ((f"no.{DOMAIN}", 1, 3), (f"till-1.{DOMAIN}", 28, 0)):
        reply = answer(ask(name, kind))
        assert (reply.header.rcode, reply.header.aa) == (code, 1)
        (soa,) = reply.auth
        assert (soa.rtype, soa.ttl, str(soa.rname)) == (6, 30, f"{DOMAIN}.")
        assert soa.rdata.times == (42, 3600, 600, 604800, 30)


def test_n13_empty_non_terminals_are_nodata() -> None:
    reply = answer(ask(f"deep.{DOMAIN}"))
    assert (reply.header.rcode, len(reply.rr), len(reply.auth)) == (0, 0, 1)


def test_n17_any_is_small() -> None:
    assert len({one.rtype for one in answer(ask(DOMAIN, 255)).rr}) == 1


def test_n18_unknown_types_are_nodata() -> None:
    reply = answer(ask(kind=65280))
    assert (reply.header.rcode, len(reply.rr)) == (0, 0)


def test_n19_names_of_others_are_refused() -> None:
    reply = answer(ask("www.example.org"))
    assert (reply.header.rcode, reply.header.aa, len(reply.auth)) == (5, 0, 0)


def test_n20_chaos_and_other_classes() -> None:
    assert str(answer(ask("version.bind", 16, 3)).rr[0].rdata) == '"Doorstep"'
    assert str(answer(ask("hostname.bind", 16, 3)).rr[0].rdata) == '"appliance"'
    assert answer(ask("version.bind", 16, 3)).rr[0].rclass == 3
    assert rcode(ask("authors.bind", 16, 3)) == "REFUSED"
    assert rcode(ask(klass=4)) == "REFUSED"
    assert rcode(ask(klass=255)) == "REFUSED"


def test_n21_transfers_updates_and_notifies_are_refused() -> None:
    assert rcode(ask(DOMAIN, 252)) == "REFUSED"
    assert rcode(ask(DOMAIN, 251)) == "REFUSED"
    for opcode in (4, 5):
        reply = engine().receive(ask(DOMAIN, 6, flags=opcode << 11), is_tcp=False)
        assert reply[3] & 15 == 5


def test_n22_a_lease_and_its_reverse_change_in_one_step_though_answers_are_kept() -> None:
    server = engine([PRINTER])
    forward, back = ask(f"printer-1.{DOMAIN}"), ask("11.7.41.10.in-addr.arpa", 12)
    for query in (forward, back, forward, back):
        assert dnslib.DNSRecord.parse(server.receive(query, is_tcp=False)).rr
    server.replace(Generation(zones=zones()))
    for query in (forward, back):
        assert server.receive(query, is_tcp=False)[3] & 15 == 3


@pytest.mark.parametrize("query", [b"", b"\0" * 11, ask(flags=0x8000), ask(flags=0x8100)])
def test_replies_and_shreds_get_no_answer(query) -> None:
    assert engine().receive(query, is_tcp=False) is None


@pytest.mark.parametrize(
    "name",
    [b"\x3f" + b"a" * 5, b"\xc0\x0c", b"\x40a\0", b"\3abc", (b"\x3f" + b"a" * 63) * 4 + b"\0"],
)
def test_malformed_names_are_formerr(name) -> None:
    query = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + name + b"\0\1\0\1"
    reply = engine().receive(query, is_tcp=False)
    assert reply[3] & 15 == 1


def test_kept_answers_equal_fresh_ones_and_are_bounded() -> None:
    server = engine()
    fresh = server.receive(ask(number=1), is_tcp=False)
    assert server.receive(ask(number=2), is_tcp=False) == b"\0\2" + fresh[2:]
    for number in range(MAX_CACHED + 500):
        server.receive(ask(f"n{number}.{DOMAIN}"), is_tcp=False)
    assert all(len(shelf.udp) <= MAX_CACHED for shelf in server._shelves.values())
    assert server.receive(ask(number=1), is_tcp=False) == fresh


MUTATION = st.tuples(st.integers(0, 80), st.binary(min_size=1, max_size=3))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.lists(MUTATION, max_size=4), st.booleans())
def test_any_bytes_give_nothing_or_an_answer_that_others_can_read(noise, mutations, is_tcp) -> None:
    query = bytearray(ask(extra=[opt(options=b"\0\12\0\2ab")]))
    for position, data in mutations:
        query[position : position + len(data)] = data
    server = engine([LeaseName(name="p", address=IPv4Address("10.41.7.12"))])
    for message in (bytes(query), noise, bytes(query) + noise):
        reply = server.receive(message, is_tcp=is_tcp)
        if reply is None:
            continue
        assert reply[:2] == message[:2]
        assert reply[2] & 0x80
        assert reply[3] & 0x70 == 0
        if len(reply) == 12 or decode_query(message).question.isascii():
            dnslib.DNSRecord.parse(reply)  # it refuses names that are no UTF-8
        assert server.receive(message, is_tcp=is_tcp) == reply


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        chosen = probe.getsockname()[1]
    runner = DnsRunner(DnsEngine(zones([PRINTER]), "appliance"), chosen)
    runner.listen([IPv4Address("127.0.0.1")])
    end = threading.Event()

    def run() -> None:
        while not end.is_set():
            runner.turn(0.05)

    thread = threading.Thread(target=run)
    thread.start()
    yield chosen
    end.set()
    thread.join()
    runner.close()


def dig(port: int, *words: str) -> str:
    command = ["dig", "@127.0.0.1", "-p", str(port), "+tries=1", "+time=3", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_dig_is_content(port: int) -> None:
    assert dig(port, "+short", f"printer-1.{DOMAIN}").strip() == "10.41.7.11"
    assert dig(port, "+short", "-x", "10.41.7.11").strip() == f"printer-1.{DOMAIN}."
    long = dig(port, f"long.{DOMAIN}", "TXT", "+bufsize=512")
    assert "Truncated, retrying in TCP mode" in long
    assert long.count("\tTXT\t") == len(LONG)
    text = dig(port, f"no.{DOMAIN}", "+dnssec", "+cookie")
    assert "status: NXDOMAIN" in text
    assert "Got bad packet" not in text
    assert "status: REFUSED" in dig(port, "example.org")
    assert "BADVERS" in dig(port, f"till-1.{DOMAIN}", "+edns=1", "+noednsneg")


def receive_messages(sock: socket.socket, count: int) -> list[bytes]:
    received = bytearray()
    messages = []
    while len(messages) < count:
        while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2]):
            data = sock.recv(65536)
            assert data
            received += data
        end = 2 + int.from_bytes(received[:2])
        messages.append(bytes(received[2:end]))
        del received[:end]
    return messages


def test_n10_pipelined_questions_are_all_answered(port: int) -> None:
    queries = [ask(f"long.{DOMAIN}", 16, number=number) for number in range(300)]
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        data = b"".join(struct.pack("!H", len(query)) + query for query in queries)
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        replies = receive_messages(sock, len(queries))
        sender.join()
    assert sorted(reply[:2] for reply in replies) == [query[:2] for query in queries]


def test_n10_a_dribble_of_bytes_stalls_nobody(port: int) -> None:
    slow = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(30)]
    for sock in slow:
        sock.send(b"\0")
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        query = ask()
        for byte in struct.pack("!H", len(query)) + query:
            sock.send(bytes((byte,)))
        (reply,) = receive_messages(sock, 1)
    assert dnslib.DNSRecord.parse(reply).rr
    assert dig(port, "+short", f"till-1.{DOMAIN}").strip() == "10.41.7.20"
    for sock in slow:
        sock.close()
