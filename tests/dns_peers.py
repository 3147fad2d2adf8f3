"""Signed zones of other makers below a root of their own, and the servers and validators of others.

dnssec-signzone and ldns-signzone sign, NSD serves, unbound iterates: once believing everything, as
the upstream of whoever validates, and once validating itself. Everything is on the loopback.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

HERE = "127.0.0.1"
TOP = "t."
HEAD = "$TTL 300\n@ SOA ns hostmaster 7 3600 600 604800 30\n@ NS ns\nns A 127.0.0.1\n"
CONTENT = (
    HEAD
    + """
@ TXT "apex"
www A 192.0.2.1
www A 192.0.2.2
www AAAA 2001:db8::1
mail MX 10 www
alias CNAME www
chain CNAME alias
dangling CNAME nothing
dangling2 CNAME nothing.wild.ent
away CNAME www.usub
into CNAME www.ssub
across CNAME www.bind-nsec-13.t.
astray CNAME nothing.bind-nsec-13.t.
*.wild A 192.0.2.3
*.wild TXT "wild"
exact.wild A 192.0.2.4
*.cwild CNAME www
*.dwild CNAME nothing
deep.one.ent A 192.0.2.5
moved DNAME target
www.target A 192.0.2.6
usub NS ns.usub
ns.usub A 127.0.0.1
u1 NS ns.usub
u2.ent2 NS ns.usub
ssub NS ns.ssub
ns.ssub A 127.0.0.1
_443._tcp.www TLSA 3 1 1 0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20
odd TYPE65400 \\# 3 abcdef
\\255\\000 A 192.0.2.7
"""
)
CHILD = HEAD + 'www A 192.0.2.8\n*.w TXT "child"\nalias CNAME www\n'
QUESTIONS = (
    *(("", one) for one in ("SOA", "NS", "TXT", "A", "DNSKEY", "NSEC3PARAM", "DS", "CAA")),
    *(("www", one) for one in ("A", "AAAA", "MX", "DS", "CNAME")),
    *((one, "A") for one in ("alias", "chain", "dangling", "dangling2", "away", "into")),
    *((one, "A") for one in ("across", "astray", "nothing", "x.nothing", "x.www", "odd")),
    *((one, "MX") for one in ("alias", "mail", "x.wild", "ent", "away", "x.cwild")),
    *((one, "A") for one in ("x.wild", "x.y.wild", "exact.wild", "x.exact.wild", "wild", "*.wild")),
    *((one, "A") for one in ("x.cwild", "x.dwild", "cwild", "x.y.cwild", "*.cwild")),
    *((one, "A") for one in ("ent", "one.ent", "deep.one.ent", "two.ent", "x.deep.one.ent")),
    *((one, "A") for one in ("moved", "www.moved", "nothing.moved", "moved.www", "www.target")),
    *((one, "DNAME") for one in ("moved", "www.moved", "www")),
    *((one, "A") for one in ("www.usub", "usub", "x.usub", "www.ssub", "ssub", "x.ssub")),
    *((one, "DS") for one in ("usub", "ssub", "u1", "u2.ent2", "ent2", "nothing", "x.usub")),
    *((one, "TXT") for one in ("x.w.ssub", "x.w.usub", "www.ssub", "alias.ssub", "x.wild")),
    ("_443._tcp.www", "TLSA"),
    ("_tcp.www", "TLSA"),
    ("odd", "TYPE65400"),
    ("\\255\\000", "A"),
    ("\\255\\001", "A"),
    ("ns.ssub", "A"),
    ("ns.usub", "A"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """How one zone is signed: by whom, with which algorithm, and words for its denial."""

    name: str
    maker: str
    algorithm: str
    words: tuple[str, ...] = ()
    fault: str = ""

    @property
    def origin(self) -> str:
        """Its zone."""
        return f"{self.name}.{TOP}"


def _bind(name: str, algorithm: str, *words: str, fault: str = "") -> Signing:
    return Signing(name=name, maker="bind", algorithm=algorithm, words=words, fault=fault)


def _ldns(name: str, algorithm: str, *words: str) -> Signing:
    return Signing(name=name, maker="ldns", algorithm=algorithm, words=words)


RSA, ECDSA, EDDSA = "RSASHA256", "ECDSAP256SHA256", "ED25519"
SIGNINGS = (
    _bind("bind-nsec-8", RSA),
    _bind("bind-nsec-13", ECDSA),
    _bind("bind-nsec-15", EDDSA),
    _bind("bind-nsec3-13", ECDSA, "-3", "-", "-H", "0"),
    _bind("bind-nsec3-1-8", RSA, "-3", "ab12", "-H", "1"),
    _bind("bind-nsec3-10-15", EDDSA, "-3", "0102030405060708", "-H", "10"),
    _bind("bind-open-13", ECDSA, "-3", "-", "-H", "0", "-A"),
    _bind("bind-open-1-8", RSA, "-3", "cafe", "-H", "1", "-A"),
    _ldns("ldns-nsec-13", ECDSA),
    _ldns("ldns-nsec-15", EDDSA),
    _ldns("ldns-nsec3-10-13", ECDSA, "-n", "-s", "beef", "-t", "10"),
    _ldns("ldns-open-1-8", RSA, "-n", "-s", "ab", "-t", "1", "-p"),
)
FAULTY = (
    _bind("expired", ECDSA, "-s", "20200101000000", "-e", "20200201000000"),
    _bind("other-ds", ECDSA, fault="ds"),
    _bind("bare", ECDSA, fault="bare"),
    _bind("no-proof", ECDSA, "-3", "-", "-H", "0", fault="proof"),
    _bind("costly", ECDSA, "-3", "-", "-H", "100"),
)


class World:
    """All zones on disk, signed; `zones` gives the file of each."""

    def __init__(self, work: Path, signings: Sequence[Signing]) -> None:
        """Sign from the leaves up."""
        self._work = work
        self.zones: dict[str, Path] = {}
        delegations = []
        for one in signings:
            ds = self._family(one)
            delegations.append(f"{one.name} NS ns.{one.name}\nns.{one.name} A 127.0.0.1\n{ds}")
        top = _bind("t", RSA, "-3", "-", "-H", "0", "-A")
        ds = self._sign(TOP, HEAD + "".join(delegations), top)
        root = HEAD.replace("ns", "ns.nic") + f"t NS ns.t\nns.t A 127.0.0.1\n{ds}"
        self.anchor = self._sign(".", root, _bind("root", ECDSA))

    def _family(self, one: Signing) -> str:
        """Sign a zone and its child; give the DS for the zone above."""
        origin = one.origin
        for label in ("usub", "u1", "u2.ent2"):
            self._put(f"{label}.{origin}", CHILD)
        ds = self._sign(f"ssub.{origin}", CHILD, _bind("child", ECDSA))
        ds = self._sign(origin, CONTENT + ds, one)
        if one.fault == "ds":
            return ds[:-9] + "00000000\n"
        path = self.zones[origin]
        lines = path.read_text().splitlines()
        if one.fault == "bare":
            kept = [line for line in lines if not _covers(line, f"www.{origin}", "A")]
            path.write_text("\n".join(kept) + "\n")
        if one.fault == "proof":
            kept = [line for line in lines if " NSEC3 " not in line.replace("\t", " ")]
            path.write_text("\n".join(kept) + "\n")
        return ds

    def _put(self, origin: str, content: str) -> Path:
        path = self._work / f"{origin.rstrip('.') or 'root'}.zone"
        path.write_text(content)
        self.zones[origin] = path
        return path

    def _sign(self, origin: str, content: str, how: Signing) -> str:
        """Sign a zone; give the DS of its key as a line of a zone file."""
        path = self._put(origin, content)
        keys = self._work / f"keys-{path.stem}"
        keys.mkdir()
        signed = path.with_suffix(".signed")
        if how.maker == "ldns":
            ds = self._sign_ldns(origin, path, signed, keys, how)
        else:
            ds = self._sign_bind(origin, path, signed, keys, how)
        self.zones[origin] = signed
        return ds

    @staticmethod
    def _sign_bind(origin: str, path: Path, signed: Path, keys: Path, how: Signing) -> str:
        made = ["dnssec-keygen", "-q", "-K", str(keys), "-a", how.algorithm]
        ksk = _run([*made, "-f", "KSK", origin], keys).strip()
        _run([*made, origin], keys)
        sign = ["dnssec-signzone", "-S", "-P", "-O", "full", "-K", str(keys), "-o", origin]
        _run([*sign, *how.words, "-f", str(signed), str(path)], keys)
        return _run(["dnssec-dsfromkey", "-2", str(keys / f"{ksk}.key")], keys)

    @staticmethod
    def _sign_ldns(origin: str, path: Path, signed: Path, keys: Path, how: Signing) -> str:
        made = ["ldns-keygen", "-a", how.algorithm]
        ksk = _run([*made, "-k", origin], keys).strip()
        zsk = _run([*made, origin], keys).strip()
        sign = ["ldns-signzone", *how.words, "-o", origin, "-f", str(signed), str(path)]
        _run([*sign, ksk, zsk], keys)
        return _run(["ldns-key2ds", "-n", "-2", f"{ksk}.key"], keys)


def _covers(line: str, owner: str, rtype: str) -> bool:
    words = line.split()
    return words[:1] == [owner] and "RRSIG" in words and words[words.index("RRSIG") + 1] == rtype


def _run(command: Sequence[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Ports: NSD's, that of unbound that believes all, and that of unbound that validates."""

    served: int
    believing: int
    validating: int
    anchor: Path


@contextmanager
def serving(world: World, work: Path) -> Iterator[Peers]:
    """Run the servers of others as long as the context lasts."""
    served, believing, validating = (free_port() for _ in range(3))
    (work / "nsd.conf").write_text(_nsd(world, work, served))
    ds = world.anchor.split(" DS ")[1] if " DS " in world.anchor else world.anchor.split("DS")[1]
    anchor = work / "anchor.key"
    anchor.write_text(f". IN DS {ds.strip()}\n")
    with ExitStack() as stack:
        stack.enter_context(_running(["nsd", "-d", "-c", str(work / "nsd.conf")], served))
        for port, modules in ((believing, "iterator"), (validating, "validator iterator")):
            file = work / f"unbound-{port}.conf"
            file.write_text(_unbound(world, work, port, served, modules, anchor))
            stack.enter_context(_running(["unbound", "-d", "-c", str(file)], port))
        yield Peers(served=served, believing=believing, validating=validating, anchor=anchor)


def _nsd(world: World, work: Path, port: int) -> str:
    zones = "".join(
        f'zone:\n name: "{origin}"\n zonefile: "{path}"\n' for origin, path in world.zones.items()
    )
    return (
        f'server:\n ip-address: {HERE}@{port}\n zonesdir: "{work}"\n username: ""\n chroot: ""\n'
        f' pidfile: "{work}/nsd.pid"\n database: ""\n xfrdfile: "{work}/xfrd"\n'
        f' zonelistfile: "{work}/zones"\n xfrdir: "{work}"\n server-count: 1\n verbosity: 0\n'
        f"remote-control:\n control-enable: no\n{zones}"
    )


def _unbound(world: World, work: Path, port: int, served: int, modules: str, anchor: Path) -> str:
    stubs = "".join(
        f'stub-zone:\n name: "{origin}"\n stub-addr: {HERE}@{served}\n' for origin in world.zones
    )
    trusted = f' trust-anchor-file: "{anchor}"\n' if "validator" in modules else ""
    return (
        f'server:\n interface: {HERE}\n port: {port}\n username: ""\n chroot: ""\n'
        f' directory: "{work}"\n pidfile: ""\n use-syslog: no\n verbosity: 0\n'
        f" do-daemonize: no\n do-not-query-localhost: no\n num-threads: 1\n"
        f' module-config: "{modules}"\n aggressive-nsec: no\n qname-minimisation: no\n'
        f' access-control: 127.0.0.0/8 allow\n target-fetch-policy: "0 0 0 0 0"\n{trusted}'
        f"remote-control:\n control-enable: no\n{stubs}"
    )


def free_port() -> int:
    """Find a port that is free for UDP and TCP."""
    with socket.create_server((HERE, 0)) as probe, socket.socket(type=socket.SOCK_DGRAM) as other:
        port = probe.getsockname()[1]
        other.bind((HERE, port))
        return int(port)


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    if shutil.which(command[0]) is None:
        raise AssertionError(f"{command[0]} is missing: run .ci/setup")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 30
        query = dns.message.make_query(".", "SOA")
        while True:
            try:
                if dns.query.udp(query, HERE, 1, port=port).rcode() == dns.rcode.NOERROR:
                    break
            except (OSError, dns.exception.Timeout):
                pass
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                assert process.stderr is not None
                raise AssertionError(f"{command}: {process.stderr.read().decode()}")
        yield
    finally:
        process.terminate()
        process.wait(10)
        assert process.stderr is not None
        process.stderr.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a validator says: secure, insecure or bogus, the code, and the types of the answer."""

    trust: str
    code: str = ""
    answer: frozenset[str] = frozenset()


BOGUS = Verdict(trust="bogus")


def unbound_says(peers: Peers, name: str, rtype: str) -> Verdict:
    """Ask unbound, which validates."""
    query = dns.message.make_query(name, rtype, want_dnssec=True)
    reply = dns.query.udp(query, HERE, 20, port=peers.validating)
    if reply.flags & dns.flags.TC:
        reply = dns.query.tcp(query, HERE, 20, port=peers.validating)
    if reply.rcode() == dns.rcode.SERVFAIL:
        return BOGUS
    kinds = {dns.rdatatype.to_text(one.rdtype) for one in reply.answer} - {"RRSIG"}
    trust = "secure" if reply.flags & dns.flags.AD else "insecure"
    return Verdict(trust=trust, code=dns.rcode.to_text(reply.rcode()), answer=frozenset(kinds))


DELV: Mapping[str, str] = {
    "; fully validated": "secure",
    "; negative response, fully validated": "secure",
    "; unsigned answer": "insecure",
    "; negative response, unsigned answer": "insecure",
}


def delv_says(peers: Peers, name: str, rtype: str) -> str:
    """Ask delv, which validates what unbound found."""
    fields = peers.anchor.read_text().split(maxsplit=6)
    tag, algorithm, kind, digest = fields[3:7]
    file = peers.anchor.with_suffix(".delv")
    content = f'. static-ds {tag} {algorithm} {kind} "{"".join(digest.split())}";'
    file.write_text(f"trust-anchors {{ {content} }};\n")
    command = ["delv", f"@{HERE}", "-p", str(peers.believing), "-a", str(file), "+root=.", name]
    done = subprocess.run(
        [*command, rtype], capture_output=True, text=True, check=False, timeout=60
    )
    said = done.stdout + done.stderr
    lines = said.splitlines()
    found = [DELV[line] for line in lines if line in DELV]
    if not found or any("resolution failed" in line and "ncache" not in line for line in lines):
        return "bogus"
    return "insecure" if "insecure" in found else "secure"
