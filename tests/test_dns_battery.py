"""Our server on a real socket beside NSD with the same master files, every name and every type.

What differs is listed here as data, with the reason. Also `delv` and `kdig` as clients who check
signatures themselves, and the questions of RFC 8906, 8.1 and 8.2, as dig asks them.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zone
import pytest
from dns_lab import ORIGIN, World, zone_keys

from netboot.dns import Ask, DnsEngine, Generation, Resolved, signed_zones
from netboot.dnssec import ZoneSigner
from netboot.io.dns import MAX_CONNECTIONS, DnsRunner, Resolver
from netboot.names import text
from netboot.rdata import Rtype, name_of, show
from netboot.zone import Rcode, Zone, Zones
from netboot.zone_file import decode_zone, dump_zone

HERE = "127.0.0.1"
ZONE = r"""
$TTL 300
@ SOA ns hostmaster 7 3600 600 604800 30
@ NS ns
@ NS ns.other.example.
@ MX 10 mail
@ MX 20 mail.sub
@ TXT "v=spf1 -all"
ns A 192.0.2.1
ns AAAA 2001:db8::1
mail A 192.0.2.2
www 60 A 192.0.2.10
www 60 A 192.0.2.11
www AAAA 2001:db8::10
alias CNAME www
chain CNAME chain2
chain2 CNAME chain3
chain3 CNAME www
dangling CNAME nothing
outside CNAME www.other.example.
into-sub CNAME x.sub
into-wild CNAME a.wild
loop CNAME loop2
loop2 CNAME loop
self CNAME self
* TXT "any \"name\"" two
*.wild A 192.0.2.20
*.wild MX 10 mail
*.alias-wild CNAME www
below.exact.wild A 192.0.2.12
a.b.c.ent A 192.0.2.13
sub NS ns.sub
sub NS ns
sub NS elsewhere.example.org.
ns.sub A 192.0.2.53
ns.sub AAAA 2001:db8::53
mail.sub A 192.0.2.54
deep.sub NS ns.deep.sub
ns.deep.sub A 192.0.2.55
signed NS ns.signed
signed DS 12345 13 2 0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20
ns.signed A 192.0.2.56
lame NS ns.lame.example.
srv SRV 1 2 389 www
srv SRV 1 3 389 ns
naptr NAPTR 100 50 "s" "z3950+I2L+I2C" "" _z3950._tcp
caa CAA 0 issue "ca.example.net"
host SSHFP 4 2 0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20
_443._tcp.host TLSA 3 1 1 0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20
odd\.dot A 192.0.2.14
odd\032space A 192.0.2.15
new TYPE65400 \# 3 abcdef
svc HTTPS 1 . alpn=h2
hinfo HINFO "any" "box"
loc LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m
rp RP person.example.net. text.example.net.
old DNAME new-place
*.new-place A 192.0.2.21
away DNAME other.example.
"""
ZONE = ZONE.lstrip() + "".join(f"many A 10.1.0.{number}\n" for number in range(1, 201))
TYPES = (
    *("A", "AAAA", "NS", "SOA", "CNAME", "MX", "TXT", "SRV", "PTR", "DS", "CAA", "NAPTR"),
    *("SSHFP", "TLSA", "HTTPS", "LOC", "RP", "HINFO", "TYPE65400", "DNAME"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is compared of an answer; records without the data of signatures."""

    rcode: str
    aa: bool
    answer: frozenset[str]
    authority: frozenset[str]
    glue: frozenset[str]


def said(message: dns.message.Message) -> Said:
    def records(part: list[dns.rrset.RRset]) -> frozenset[str]:
        return frozenset(
            f"{one.name.canonicalize()} {one.ttl} {dns.rdatatype.to_text(one.rdtype)} "
            + ("" if one.rdtype == dns.rdatatype.RRSIG else data.to_digestable().hex())
            for one in part
            for data in one
        )

    is_referral = not message.answer and not message.flags & dns.flags.AA
    return Said(
        rcode=dns.rcode.to_text(message.rcode()),
        aa=bool(message.flags & dns.flags.AA),
        answer=records(message.answer),
        authority=records(message.authority),
        glue=records(message.additional) if is_referral else frozenset(),
    )


def free_port() -> int:
    with socket.create_server((HERE, 0)) as probe, socket.socket(type=socket.SOCK_DGRAM) as other:
        port = probe.getsockname()[1]
        other.bind((HERE, port))
        return int(port)


@contextmanager
def ours(engine: DnsEngine, resolver: Resolver | None = None) -> Iterator[int]:
    """Serve on a port of the loopback interface."""
    port = free_port()
    runner = DnsRunner(engine, port, resolver)
    runner.listen([IPv4Address(HERE)])
    end = threading.Event()

    def run() -> None:
        while not end.is_set():
            runner.turn(0.05)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield port
    finally:
        end.set()
        thread.join()
        runner.close()


@contextmanager
def nsd(work: Path, content: str, origin: str = "example.net") -> Iterator[int]:
    """Serve a master file with NSD."""
    port = free_port()
    (work / "zone").write_text(content)
    (work / "nsd.conf").write_text(
        f'server:\n ip-address: {HERE}@{port}\n zonesdir: "{work}"\n username: ""\n chroot: ""\n'
        f' database: ""\n pidfile: "{work}/pid"\n xfrdfile: "{work}/xfrd"\n xfrdir: "{work}"\n'
        f' zonelistfile: "{work}/list"\n server-count: 1\n minimal-responses: yes\n'
        f' cookie-secret-file: ""\n'
        f"remote-control:\n control-enable: no\n"
        f'zone:\n name: "{origin}"\n zonefile: "zone"\n'
    )
    process = subprocess.Popen(
        ["nsd", "-d", "-c", work / "nsd.conf"], stderr=subprocess.PIPE, text=True
    )
    try:
        query = dns.message.make_query(origin, "SOA")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if dns.query.udp(query, HERE, 0.3, port=port).answer:
                    break
            except (OSError, dns.exception.Timeout):
                assert process.poll() is None, process.stderr and process.stderr.read()
        yield port
    finally:
        process.terminate()
        process.wait(10)


def names_of(content: str, origin: str = "example.net") -> list[str]:
    """Give every name of a zone, those between, one below and one beside each of them."""
    found = dns.zone.from_text(content, origin=origin, relativize=False, check_origin=False)
    apex = dns.name.from_text(origin)
    names: dict[str, None] = {}
    for name in sorted(found.nodes):
        while name != apex:
            below = dns.name.Name((b"zz", *name.labels))
            beside = dns.name.Name((name.labels[0] + b"z", *name.labels[1:]))
            names |= dict.fromkeys(str(one) for one in (name, below, beside))
            name = name.parent()
    return [origin + ".", *names, "other.example."]


def differences(
    our_port: int, port: int, names: list[str], *, do: bool
) -> dict[tuple[str, str], list[Said]]:
    """Ask both for everything and give what they do not agree on."""
    found: dict[tuple[str, str], list[Said]] = {}
    with socket.create_connection((HERE, our_port)) as one:
        for name in names:
            with socket.create_connection((HERE, port)) as other:
                for rtype in TYPES:
                    query = dns.message.make_query(name, rtype, want_dnssec=do, flags=0)
                    replies = []
                    for sock in (one, other):
                        dns.query.send_tcp(sock, query)
                        replies.append(said(dns.query.receive_tcp(sock)[0]))
                    if replies[0] != replies[1]:
                        found[name, rtype] = replies
    return found


def engine_of(zone: Zone, *, is_signed: bool) -> DnsEngine:
    signers = {ORIGIN: ZoneSigner(zone, zone_keys())} if is_signed else {}
    engine = DnsEngine(Zones(()), "here")
    zones = signed_zones(Zones([zone]), signers)
    engine.replace(Generation(zones=zones, signers=signers))
    return engine


def signed_file(engine: DnsEngine) -> str:
    """Write the zone with what our signer makes, its SOA first."""
    (signer,) = engine._generation.signers.values()
    rrsets = sorted(signer.everything(time.time()), key=lambda one: one.rtype != Rtype.SOA)
    return "".join(
        f"{text(one.owner)} {one.ttl} IN {name_of(one.rtype)} {show(one.rtype, data)}\n"
        for one in rrsets
        for data in one.rdatas
    )


def is_explained(name: str, replies: list[Said]) -> bool:
    """A question for the name of a wildcard itself, which exists: NSD proves more than it must.

    RFC 5155, 7.2.3: the record of that name alone; NSD gives those of 7.2.5 too.
    """
    first, second = replies
    more = second.authority - first.authority
    is_more_proof = all(one.split()[2] in ("NSEC3", "RRSIG") for one in more)
    is_same = replace(first, authority=second.authority) == second
    return (
        name.startswith("*.") and is_same and is_more_proof and first.authority < second.authority
    )


ZONE_READ = decode_zone(ZONE.encode(), ORIGIN, "zone")


def test_every_name_and_type_is_answered_as_nsd_does(tmp_path: Path) -> None:
    names = names_of(ZONE)
    assert len(names) * len(TYPES) > 3000
    engine = engine_of(ZONE_READ, is_signed=False)
    with nsd(tmp_path, ZONE) as port, ours(engine) as our_port:
        assert differences(our_port, port, names, do=False) == {}


@pytest.mark.parametrize("do", [False, True])
def test_n34_every_name_of_a_signed_zone_is_answered_and_denied_as_nsd_does(
    tmp_path: Path, do: bool
) -> None:
    engine = engine_of(ZONE_READ, is_signed=True)
    with nsd(tmp_path, signed_file(engine)) as port, ours(engine) as our_port:
        found = differences(our_port, port, names_of(ZONE), do=do)
    unexplained = {key: one for key, one in found.items() if not is_explained(key[0], one)}
    assert unexplained == {}
    checked = subprocess.run(
        ["ldns-verify-zone", tmp_path / "zone"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_we_dump_is_the_same_zone_to_nsd(tmp_path: Path) -> None:
    engine = engine_of(ZONE_READ, is_signed=False)
    with nsd(tmp_path, dump_zone(ZONE_READ)) as port, ours(engine) as our_port:
        assert differences(our_port, port, names_of(ZONE)[::3], do=False) == {}


# Clients who check signatures themselves


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[int, str]]:
    """Serve three signed zones and an unsigned one; give the port and the root's DS."""
    made = World(time.time())
    rdata = made.anchors[()][0]
    with ours(made.engine) as port:
        yield port, show(Rtype.DS, rdata)


@pytest.mark.parametrize(
    ("name", "rtype", "says"),
    [
        ("www.example.net", "A", "; fully validated"),
        ("alias.example.net", "A", "; fully validated"),
        ("any.thing.example.net", "TXT", "; fully validated"),
        ("moved.old.example.net", "A", "; fully validated"),
        ("www.example.net", "AAAA", "; negative response, fully validated"),
        ("exact.wild.example.net", "A", "; negative response, fully validated"),
        ("nothing.exact.wild.example.net", "A", "; negative response, fully validated"),
        ("plain.net", "DS", "; negative response, fully validated"),
        ("www.plain.net", "A", "; unsigned answer"),
        ("nothing.plain.net", "A", "; negative response, unsigned answer"),
        ("example.net", "DNSKEY", "; fully validated"),
    ],
)
def test_n34_delv_agrees(
    world: tuple[int, str], tmp_path: Path, name: str, rtype: str, says: str
) -> None:
    port, anchor = world
    tag, algorithm, digest, data = anchor.split(maxsplit=3)
    file = tmp_path / "anchor"
    content = f'. static-ds {tag} {algorithm} {digest} "{data.replace(" ", "")}";'
    file.write_text(f"trust-anchors {{ {content} }};\n")
    command = ["delv", f"@{HERE}", "-p", str(port), "-a", str(file), "+root", name, rtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert says in done.stdout + done.stderr


def kdig(port: int, *words: str) -> str:
    command = ["kdig", f"@{HERE}", "-p", str(port), "+retry=0", "+timeout=5", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def test_kdig_is_content(world: tuple[int, str]) -> None:
    port, _ = world
    plain = kdig(port, "www.example.net", "A", "+dnssec", "+cookie", "+nsid")
    assert "status: NOERROR" in plain and "RRSIG" in plain and "COOKIE" in plain
    assert "WARNING" not in plain
    assert kdig(port, "+tcp", "+short", "www.example.net").split() == ["192.0.2.10", "192.0.2.11"]
    padded = kdig(port, "+tcp", "+padding=128", "+bufsize=4096", "example.net", "DNSKEY", "+dnssec")
    assert padded.count("\tDNSKEY\t") == 2


# RFC 8906, 8.1 and 8.2, as dig asks


BATTERY = (
    ("8.1.1", "SOA", "+noedns", "NOERROR", True, ""),
    ("8.1.2", "TYPE1000", "+noedns", "NOERROR", False, ""),
    ("8.1.3.1", "SOA", "+noedns +cdflag", "NOERROR", True, ""),
    ("8.1.3.2", "SOA", "+noedns +adflag", "NOERROR", True, ""),
    ("8.1.3.3", "SOA", "+noedns +zflag", "NOERROR", True, ""),
    ("8.1.3.4", "SOA", "+noedns +rdflag", "NOERROR", True, ""),
    ("8.1.4", "SOA", "+noedns +opcode=15 +header-only", "NOTIMP", False, ""),
    ("8.1.5", "SOA", "+noedns +tcp", "NOERROR", True, ""),
    ("8.2.1", "SOA", "+edns=0", "NOERROR", True, "version: 0"),
    ("8.2.2", "SOA", "+edns=1 +noednsnegotiation", "BADVERS", False, "version: 0"),
    ("8.2.3", "SOA", "+edns=0 +ednsopt=100", "NOERROR", True, "version: 0"),
    ("8.2.4", "SOA", "+edns=0 +ednsflags=0x40", "NOERROR", True, "flags:; udp"),
    ("8.2.5", "SOA", "+edns=1 +noednsnegotiation +ednsflags=0x40", "BADVERS", False, "flags:; udp"),
    ("8.2.6", "SOA", "+edns=1 +noednsnegotiation +ednsopt=100", "BADVERS", False, "version: 0"),
    ("8.2.7", "DNSKEY", "+edns=0 +dnssec +bufsize=512 +ignore", "NOERROR", None, "version: 0"),
    ("8.2.8", "SOA", "+edns=0 +dnssec", "NOERROR", True, "flags: do; udp"),
    ("8.2.9", "SOA", "+edns=1 +noednsnegotiation +dnssec", "BADVERS", False, "version: 0"),
    ("8.2.10a", "SOA", "+edns=0 +cookie", "NOERROR", True, "COOKIE: "),
    ("8.2.10b", "SOA", "+edns=0 +nsid +expire +subnet=0/0", "NOERROR", True, "version: 0"),
    ("8.2.10c", "SOA", "+edns=0 +nsid +expire +cookie +subnet=0/0", "NOERROR", True, "COOKIE: "),
)


@pytest.mark.parametrize(
    ("rtype", "words", "status", "has_soa", "says"),
    [row[1:] for row in BATTERY],
    ids=[row[0] for row in BATTERY],
)
def test_n1_the_battery_of_rfc_8906(
    world: tuple[int, str], rtype: str, words: str, status: str, has_soa: bool | None, says: str
) -> None:
    port, _ = world
    command = ["dig", f"@{HERE}", "-p", str(port), "+norec", "+noad", "+nocookie", "+tries=1"]
    command += [*words.split(), *([] if "header-only" in words else ["example.net", rtype])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    reply = done.stdout
    assert f"status: {status}," in reply
    flags = next(line for line in reply.splitlines() if line.startswith(";; flags:"))
    assert " ad" not in flags and "MBZ" not in reply and " z" not in flags
    assert ("OPT PSEUDOSECTION" in reply) == ("+noedns" not in words.split())
    assert says in reply
    if status == "NOERROR":
        assert " aa" in flags
    if has_soa is not None:
        assert (f"\t{rtype}\t" in reply.partition("ANSWER SECTION")[2]) is has_soa
    assert "OPT=100" not in reply and "Malformed" not in reply


# TCP


def test_n10_a_thousand_idle_clients_cost_nobody_an_answer(world: tuple[int, str]) -> None:
    port, _ = world
    query = dns.message.make_query("www.example.net", "A")
    idle = []
    try:
        with socket.create_connection((HERE, port), source_address=("127.0.0.2", 0)) as busy:
            for number in range(1000):
                source = (f"127.0.{1 + number % 100}.1", 0)
                idle.append(socket.create_connection((HERE, port), 10, source_address=source))
                if number % 50 == 0:  # who is served meanwhile is not sent away
                    dns.query.send_tcp(busy, query)
                    assert dns.query.receive_tcp(busy)[0].answer
        assert dns.query.tcp(query, HERE, 10, port=port).answer
        assert dns.query.udp(query, HERE, 10, port=port).answer
    finally:
        for sock in idle:
            sock.close()


def test_n10_many_connections_of_one_address_are_all_pipelined(world: tuple[int, str]) -> None:
    """RFC 7766, 6.2.1.1: whole sites sit behind one address."""
    port, _ = world
    names = [f"{label}.example.net" for label in ("www", "ns", "alias", "nothing")] * 25
    socks = [socket.create_connection((HERE, port), 10) for _ in range(60)]
    try:
        for sock in socks:
            queries = [dns.message.make_query(name, "A", id=at) for at, name in enumerate(names)]
            sock.sendall(b"".join(one.to_wire(prepend_length=True) for one in queries))
        for sock in socks:
            sock.settimeout(20)
            replies = [dns.query.receive_tcp(sock)[0] for _ in names]
            assert sorted(one.id for one in replies) == list(range(len(names)))
            assert all(str(one.question[0].name).startswith(names[one.id]) for one in replies)
    finally:
        for sock in socks:
            sock.close()


def test_n10_who_holds_most_connections_gives_up_his_own(world: tuple[int, str]) -> None:
    port, _ = world
    query = dns.message.make_query("www.example.net", "A")
    greedy: list[socket.socket] = []
    with socket.create_connection((HERE, port), 10, source_address=("127.0.0.3", 0)) as quiet:
        try:
            for _ in range(MAX_CONNECTIONS + 50):
                greedy.append(socket.create_connection((HERE, port), 10))
                dns.query.send_tcp(greedy[-1], query)
                assert dns.query.receive_tcp(greedy[-1])[0].answer
            dns.query.send_tcp(quiet, query)
            assert dns.query.receive_tcp(quiet)[0].answer
            assert greedy[0].recv(1) == b""
        finally:
            for sock in greedy:
                sock.close()


class _Slow:
    """Somebody else's server that answers the second question first."""

    def __init__(self) -> None:
        self._first: Callable[[Resolved], None] | None = None

    def lookup(self, ask: Ask, now: float) -> Resolved | None:
        """Know nothing."""
        return None

    def ask(self, ask: Ask, done: Callable[[Resolved], None]) -> None:
        """Answer when there are two questions."""
        if self._first is None:
            self._first = done
            return
        done(Resolved(rcode=Rcode.NXDOMAIN))
        self._first(Resolved(rcode=Rcode.NOERROR))


def test_n10_answers_come_out_of_order_by_tcp() -> None:
    engine = DnsEngine(Zones(()), "here")
    engine.replace(Generation(zones=Zones(()), forwards=True))
    with ours(engine, _Slow()) as port, socket.create_connection((HERE, port), 10) as sock:
        queries = [dns.message.make_query(f"{name}.example.org", "A") for name in ("a", "b")]
        for query in queries:
            dns.query.send_tcp(sock, query)
        replies = [dns.query.receive_tcp(sock)[0] for _ in queries]
    assert [one.id for one in replies] == [queries[1].id, queries[0].id]
    assert [one.rcode() for one in replies] == [dns.rcode.NXDOMAIN, dns.rcode.NOERROR]


# RFC 6891


@pytest.mark.parametrize(("size", "limit"), [(0, 512), (100, 512), (512, 512), (900, 900)])
def test_n7_the_size_of_a_client_is_kept_to(world: tuple[int, str], size: int, limit: int) -> None:
    port, _ = world
    query = dns.message.make_query("example.net", "DNSKEY", want_dnssec=True, payload=size)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(query.to_wire(), (HERE, port))
        data = sock.recv(65535)
    reply = dns.message.from_wire(data)
    assert len(data) <= limit
    assert reply.edns == 0 and reply.payload == 1232 and reply.question == query.question
    assert reply.answer or reply.flags & dns.flags.TC
