"""DHCP: four-way exchanges per second and their delay, and memory, beside Kea and dnsmasq.

perfdhcp acts as a relay at the other end of a veth. The rate is raised until more than 1 % of the
exchanges are lost; the figure is what the highest rate without that comes to, as the time of a
thousand exchanges. The delay is the ACK's, at half of that rate, or at 1,000 a second.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench.dhcp_servers import (
    CLIENT,
    SERVER,
    Server,
    Wire,
    dnsmasq,
    kea,
    ours,
    processor_time,
    resident,
    serving,
)
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

CLIENTS = (200, 1000, 20_000)
LOST = 0.01
"""The share of exchanges that may be lost at a rate that counts."""
SHORTFALL = 0.05
"""By how much perfdhcp may miss the rate that it was asked for."""
_SECONDS = 4
_STEP = 1.5
_STEPS = 4
_LEAST = 10.0
_DELAY_RATE = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What perfdhcp saw, and each ACK's delay in ms."""

    asked: float
    seconds: int
    begun: int
    ended: int
    delays: tuple[float, ...]

    @property
    def is_held(self) -> bool:
        """Tell whether the server kept up."""
        is_tried = self.begun >= self.asked * self.seconds * (1 - SHORTFALL)
        return is_tried and self.ended >= self.begun * (1 - LOST)

    @property
    def rate(self) -> float:
        """Exchanges a second that came to their end."""
        return self.ended / self.seconds

    def percentile(self, share: float) -> float:
        """Give a delay that this share of the ACKs did not exceed."""
        ordered = sorted(self.delays)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One server under so many clients: ms for 1,000 exchanges, ms for 99 % of ACKs, MB.

    `work` is what 1,000 exchanges cost it in processor time, in ms: other work on the machine
    disturbs that least.
    """

    pace: float
    work: float
    delay: float
    memory: float


def load(wire: Wire, rate: float, clients: int, seconds: int = _SECONDS) -> Load:
    """Run perfdhcp as a relay."""
    command = ["ip", "netns", "exec", wire.client, "perfdhcp", "-4", "-r", str(int(rate))]
    command += ["-R", str(clients), "-p", str(seconds), "-L", "67", "-l", str(CLIENT)]
    done = subprocess.run(
        [*command, "-x", "t", "-W", "500000", str(SERVER)],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    return read(done.stdout, rate, seconds)


def read(text: str, asked: float, seconds: int) -> Load:
    """Read perfdhcp's report; BenchError when there is none."""
    sent = [int(number) for number in re.findall(r"^sent packets: (\d+)", text, re.M)]
    got = [int(number) for number in re.findall(r"^received packets: (\d+)", text, re.M)]
    if len(sent) != 2 or not sent[0]:
        raise BenchError(f"perfdhcp: {text[-500:]}")
    _, _, times = text.partition("Timestamps for packets: REQUEST-ACK")
    pairs = re.findall(r"sent / received: ([0-9.]+) / ([0-9.]+)", times)
    delays = tuple(1000 * (float(back) - float(out)) for out, back in pairs)
    return Load(asked=asked, seconds=seconds, begun=sent[0], ended=got[1], delays=delays)


def highest(wire: Wire, clients: int, start: float) -> Load:
    """Find the highest rate that the server holds: up by steps, then closer by halves."""
    best: Load | None = None
    good, bad = 0.0, 0.0
    rate = start
    for _ in range(20):
        taken = load(wire, rate, clients)
        if not taken.is_held:  # perhaps the machine had something else to do
            taken = load(wire, rate, clients)
        if taken.is_held:
            best, good = taken, rate
        else:
            bad = rate
        if good and bad and bad / good < 1.08:
            break
        if not bad:
            rate *= _STEP
        elif good:
            rate = (good + bad) / 2
        else:
            rate /= _STEP**2
            if rate < _LEAST:
                break
    if best is None:
        raise BenchError("no rate is held, not even the lowest")
    return best


def take(server: Server, work: Path, clients: int, start: float) -> Taken:
    """Measure one server under so many clients, from an empty table on."""
    wire = Wire()
    try:
        with serving(server, wire, work / f"{server.name.split()[0]}-{clients}") as pid:
            load(wire, start / 2, clients)
            best = highest(wire, clients, start)
            before = processor_time(pid)
            calm = load(wire, min(_DELAY_RATE, best.rate / 2), clients)
            return Taken(
                pace=1e6 / best.rate,
                work=1e6 * (processor_time(pid) - before) / calm.ended,
                delay=calm.percentile(0.99),
                memory=resident(pid),
            )
    finally:
        wire.close()


def measure(lab: Lab) -> list[Figure]:
    """Measure all three under each number of clients."""
    figures = []
    for clients in CLIENTS:
        mine = _told(lab, ours(), clients, 2000)
        for peer, start in ((kea(), 3000), (dnsmasq(), 300)):
            theirs = _told(lab, peer, clients, start)
            figures += _figures(f"{clients:,} clients", mine, theirs, peer.name)
    return figures


def _told(lab: Lab, server: Server, clients: int, start: float) -> Taken:
    taken = take(server, lab.work / "dhcp", clients, start)
    lab.say(
        f"{server.name}, {clients:,} clients: {1e6 / taken.pace:,.0f} exchanges a second, "
        f"{taken.work:.0f} us of processor each, "
        f"99 % of ACKs in {taken.delay:.1f} ms, {taken.memory:.0f} MB"
    )
    return taken


def _figures(name: str, mine: Taken, theirs: Taken, peer: str) -> list[Figure]:
    return [
        Figure(name=f"DHCP, {name}: {what}", unit=unit, ours=(one,), peer=(two,), peer_name=peer)
        for what, unit, one, two in (
            ("1,000 exchanges at the highest rate", "ms", mine.pace, theirs.pace),
            ("processor time of 1,000 exchanges", "ms", mine.work, theirs.work),
            ("99 % of ACKs", "ms", mine.delay, theirs.delay),
            ("memory", "MB", mine.memory, theirs.memory),
        )
    ]
