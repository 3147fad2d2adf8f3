"""DNS beside dnsmasq and unbound: local names, cached names of others, signed answers, memory.

All servers in one namespace at addresses of their own, each with one thread that answers; dnsperf
in another, a veth pair between them; an upstream that knows every name below cached.example. The
servers take turns. dnsmasq signs nothing and keeps at most 10,000 names: it is not in those
figures. At the end, lookups while many boxes boot (`dns_storm`). Needs root, dnsperf, dnsmasq and
unbound.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from keys.zone_keys import Span, point, sign_keys
from netboot.dns import DnsEngine, Generation, signed_zones
from netboot.dnssec import VALID_SECONDS, ZoneKeys, ZoneSigner
from netboot.io.dns import DnsRunner
from netboot.io.exchange import Exchange
from netboot.io.forwarder import Forwarder
from netboot.names import Labels, labels, text, wire
from netboot.rdata import Rtype, name_of, show
from netboot.resolver import ResolverConfig, Transport, Upstream
from netboot.zone import Zone, Zones
from netboot.zone_file import decode_zone
from tests.bench import dns_storm
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

NAMES = 1000
CACHED = 100_000
SECONDS = 3
SHARE = 0.6
TIMEOUT = 5.0
"""Of dnsperf, in seconds: what is lost took so long."""
_NETWORK = "10.99.53"
_UPSTREAM, _CLIENT = f"{_NETWORK}.9", f"{_NETWORK}.100"
_START_SECONDS = 20.0
_HEAD = "$TTL 300\n@ SOA ns hostmaster 1 3600 600 604800 30\n@ NS ns\nns A 192.0.2.1\n"
_RATE = re.compile(r"Queries per second:\s+([\d.]+)")
_COMPLETED = re.compile(r"Queries completed:\s+(\d+)")
_LOST = re.compile(r"Queries lost:\s+(\d+)")
_DELAY = re.compile(r"^> \S+ \S+ \S+ ([\d.]+)$", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Which questions are asked, of whom, with which more words for dnsperf."""

    name: str
    origin: str
    peers: tuple[str, ...]
    words: tuple[str, ...] = ()

    def questions(self, count: int = NAMES) -> str:
        """Give the questions as dnsperf reads them."""
        return "".join(f"host-{number}.{self.origin} A\n" for number in range(count))


LOADS = (
    Load(name="local names", origin="site.example", peers=("dnsmasq", "unbound")),
    Load(name="cached names", origin="cached.example", peers=("dnsmasq", "unbound")),
    Load(name="signed answers", origin="signed.example", peers=("unbound",), words=("-D",)),
)


def measure(lab: Lab) -> list[Figure]:
    """Start all servers, and let each be asked in its turn."""
    for tool in ("dnsperf", "dnsmasq", "unbound"):
        if shutil.which(tool) is None:
            raise BenchError(f"{tool} is missing: run .ci/setup")
    work = lab.work / "dns"
    work.mkdir()
    work.chmod(0o755)
    for load in LOADS:
        (work / load.origin).write_text(load.questions())
    (work / "many").write_text(LOADS[1].questions(CACHED))
    with ExitStack() as stack:
        inside, outside = stack.enter_context(_link())
        stack.enter_context(
            _running(inside, outside, _UPSTREAM, _ours(work, "upstream", _UPSTREAM))
        )
        processes = {
            name: stack.enter_context(_running(inside, outside, address, command))
            for name, (address, command) in servers(work).items()
        }
        asking = _Asking(outside, work, processes)
        figures = []
        for load in LOADS:
            lab.say(f"           dns: {load.name}")
            figures += _compare(lab, asking, load)
        lab.say("           dns: memory")
        figures.append(_memory(asking, processes))
    return [*figures, *dns_storm.measure(lab)]


def servers(work: Path) -> Mapping[str, tuple[str, Sequence[str]]]:
    """Ours and the peers': address and command; files are written where they need them."""
    hosts = (f"10.1.{number >> 8}.{number & 255} host-{number}.site.example" for number in _ALL)
    (work / "hosts").write_text("\n".join(hosts) + "\n")
    dnsmasq = ["dnsmasq", "-k", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-hosts"]
    dnsmasq += [f"--addn-hosts={work}/hosts", f"--server={_UPSTREAM}", "--no-resolv"]
    dnsmasq += ["--cache-size=10000", "--bind-interfaces", f"--listen-address={_NETWORK}.2"]
    (work / "unbound.conf").write_text(_unbound(work, f"{_NETWORK}.3"))
    return {
        "ours": (f"{_NETWORK}.1", _ours(work, "serve", f"{_NETWORK}.1")),
        "dnsmasq": (f"{_NETWORK}.2", dnsmasq),
        "unbound": (f"{_NETWORK}.3", ["unbound", "-d", "-c", str(work / "unbound.conf")]),
    }


_ALL = range(NAMES)


def _ours(work: Path, what: str, address: str) -> Sequence[str]:
    return [sys.executable, "-m", "tests.bench.dns", what, str(work), address]


def _unbound(work: Path, address: str) -> str:
    signer = _signer(labels("signed.example"))
    records = sorted(signer.everything(time.time()), key=lambda one: one.rtype != Rtype.SOA)
    (work / "signed.zone").write_text(
        "".join(
            f"{text(one.owner)} {one.ttl} IN {name_of(one.rtype)} {show(one.rtype, data)}\n"
            for one in records
            for data in one.rdatas
        )
    )
    data = "".join(
        f' local-data: "host-{number}.site.example. 300 A 10.1.{number >> 8}.{number & 255}"\n'
        for number in _ALL
    )
    return (
        f'server:\n interface: {address}\n access-control: 0.0.0.0/0 allow\n username: ""\n'
        f' chroot: ""\n directory: "{work}"\n pidfile: ""\n use-syslog: no\n do-daemonize: no\n'
        ' num-threads: 1\n module-config: "iterator"\n msg-cache-size: 64m\n'
        " rrset-cache-size: 128m\n do-not-query-localhost: no\n outgoing-range: 400\n"
        f' local-zone: "site.example." static\n{data}'
        f'auth-zone:\n name: "signed.example"\n zonefile: "{work}/signed.zone"\n'
        " for-downstream: yes\n for-upstream: no\n fallback-enabled: no\n"
        f'forward-zone:\n name: "."\n forward-addr: {_UPSTREAM}\n'
    )


@dataclass(frozen=True, slots=True)
class _Asking:
    """Who asks, from where."""

    namespace: str
    work: Path
    processes: Mapping[str, int]

    def dnsperf(self, address: str, file: str, *words: str) -> str:
        """Ask all questions of a file; what it printed."""
        command = ["dnsperf", "-s", address, "-d", str(self.work / file), *words]
        done = subprocess.run(
            _in(self.namespace, command), capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode:
            raise BenchError(f"dnsperf: {done.stderr.strip()}")
        return done.stdout

    def rate(self, name: str, load: Load) -> tuple[float, float]:
        """Ask as much as can be; what passed and what the server worked, each in s per question."""
        address, before = _ADDRESSES[name], _processor_seconds(self.processes[name])
        said = self.dnsperf(
            address, load.origin, "-l", str(SECONDS), "-c", "8", "-q", "200", *load.words
        )
        used = _processor_seconds(self.processes[name]) - before
        return 1 / float(_found(_RATE, said)), used / int(_found(_COMPLETED, said))

    def delay(self, address: str, load: Load, rate: float) -> float:
        """Give the 99th percentile of the delay at a rate, in milliseconds; the lost count too."""
        words = ("-l", str(SECONDS), "-c", "8", "-q", "2000", "-Q", str(int(rate)), "-v")
        said = self.dnsperf(address, load.origin, *words, *load.words)
        delays = sorted(map(float, _DELAY.findall(said)))
        lost = int(_found(_LOST, said))
        at = int(0.99 * (len(delays) + lost))
        return (delays[at] if at < len(delays) else TIMEOUT) * 1000


def _found(pattern: re.Pattern[str], said: str) -> str:
    found = pattern.search(said)
    if found is None:
        raise BenchError(f"dnsperf says no {pattern.pattern}: {said[-200:]}")
    return found[1]


_ADDRESSES = {"ours": f"{_NETWORK}.1", "dnsmasq": f"{_NETWORK}.2", "unbound": f"{_NETWORK}.3"}


def _compare(lab: Lab, asking: _Asking, load: Load) -> list[Figure]:
    names = ("ours", *load.peers)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for name in names:
        asking.dnsperf(_ADDRESSES[name], load.origin, "-n", "1", *load.words)  # fills caches
    for _ in range(lab.runs):
        for name in names:
            taken[name].append(asking.rate(name, load))
    figures = []
    for peer in load.peers:
        figures += [
            Figure(
                name=f"DNS, {load.name}{what}",
                unit="s per million questions",
                ours=tuple(1e6 * one[at] for one in taken["ours"]),
                peer=tuple(1e6 * one[at] for one in taken[peer]),
                peer_name=peer,
            )
            for at, what in enumerate(("", ", processor time of the server"))
        ]
        common = SHARE / max(min(one for one, _ in taken[name]) for name in ("ours", peer))
        delays: dict[str, list[float]] = {"ours": [], peer: []}
        for _ in range(lab.runs):
            for name, found in delays.items():
                found.append(asking.delay(_ADDRESSES[name], load, common))
        figures.append(
            Figure(
                name=f"DNS, {load.name}, 99th percentile at {common:.0f} questions/s",
                unit="ms",
                ours=tuple(delays["ours"]),
                peer=tuple(delays[peer]),
                peer_name=peer,
            )
        )
    return figures


def _memory(asking: _Asking, processes: Mapping[str, int]) -> Figure:
    """Have 100,000 names asked, of which each server keeps as many as it can."""
    for name in ("ours", "unbound"):
        asking.dnsperf(_ADDRESSES[name], "many", "-n", "1", "-q", "50", "-t", "20")
    return Figure(
        name=f"DNS, resident memory with {CACHED} cached names",
        unit="MB",
        ours=(_resident(processes["ours"]),),
        peer=(_resident(processes["unbound"]),),
        peer_name="unbound",
    )


def _processor_seconds(pid: int) -> float:
    """Read what a process has used in user and system mode (proc(5), stat, 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
    if found is None:
        raise BenchError(f"process {pid} has ended")
    return int(found[1]) / 1000


@contextmanager
def _link() -> Iterator[tuple[str, str]]:
    """Make two namespaces on a veth pair: for all servers, and for who asks."""
    inside, outside = f"bd-s{os.getpid():x}", f"bd-c{os.getpid():x}"
    try:
        for namespace in (inside, outside):
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        ends = ("netns", inside, "type", "veth", "peer", "name", "e0", "netns", outside)
        _ip("link", "add", "e0", *ends)
        for namespace, some in ((outside, [_CLIENT]), (inside, [*_ADDRESSES.values(), _UPSTREAM])):
            for address in some:
                _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "e0")
            _ip("-n", namespace, "link", "set", "e0", "up")
        yield inside, outside
    finally:
        for namespace in (inside, outside):
            subprocess.run(
                ["ip", "netns", "delete", namespace], stderr=subprocess.DEVNULL, check=False
            )


@contextmanager
def _running(inside: str, outside: str, address: str, command: Sequence[str]) -> Iterator[int]:
    """Run a server as long as the context lasts; give its process id once it has answered."""
    process = subprocess.Popen(
        _in(inside, command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    ask = _in(outside, ["dig", f"@{address}", "+tries=1", "+time=1", "host-1.cached.example"])
    try:
        end = time.monotonic() + _START_SECONDS
        while subprocess.run(ask, capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > end:
                raise BenchError(f"{command[0]} does not answer")
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def _in(namespace: str, command: Sequence[str]) -> list[str]:
    return ["ip", "netns", "exec", namespace, *command]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


# Our server, as a process


def _hosts(origin: str) -> Zone:
    lines = (f"host-{number} A 10.1.{number >> 8}.{number & 255}\n" for number in _ALL)
    return decode_zone((_HEAD + "".join(lines)).encode(), labels(origin), origin)


def _signer(origin: Labels) -> ZoneSigner:
    ksk, zsk = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    span = Span.starting(time.time(), VALID_SECONDS)
    keys, rrsigs = sign_keys(wire(origin), [ksk], [point(zsk.public_key())], span)
    return ZoneSigner(_hosts("signed.example"), ZoneKeys(dnskeys=keys, rrsigs=rrsigs, private=zsk))


def serve(work: Path, address: str) -> None:
    """Be our server until terminated."""
    upstream = Upstream(address=_UPSTREAM, port=53, transport=Transport.PLAIN)
    config = ResolverConfig(upstreams=(upstream,), anchors={})
    forwarder = Forwarder(config, work / "cache.sqlite3", Exchange(), lambda: False)
    forwarder.start()
    signer = _signer(labels("signed.example"))
    signers = {signer.zone.origin: signer}
    zones = signed_zones(Zones([_hosts("site.example"), signer.zone]), signers)
    engine = DnsEngine(Zones(()), "bench", os.urandom(32))
    engine.replace(Generation(zones=zones, signers=signers, forwards=True))
    _loop(DnsRunner(engine, 53, forwarder), address)


def serve_upstream(address: str) -> None:
    """Be the upstream, which knows every name."""
    content = _HEAD + "* A 192.0.2.7\n"
    zone = decode_zone(content.encode(), labels("cached.example"), "upstream")
    _loop(DnsRunner(DnsEngine(Zones([zone]), "upstream"), 53), address)


def _loop(runner: DnsRunner, address: str) -> None:
    runner.listen([IPv4Address(address)])
    while True:
        runner.turn(1.0)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]), sys.argv[3])
    else:
        serve_upstream(sys.argv[3])
