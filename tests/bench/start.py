"""Start to ready: from exec of the supervisor, beside dnsmasq's start to its first offer.

Ours is a start after the first one, its authorities signed: every service answers, netboot runs a
plan, a malformed phone-home is refused by control through nginx and enroll, the page comes. To the
first DHCP offer is told apart: for some seconds we look for another DHCP server before we offer
anything, which dnsmasq does not.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bootstrap.io.nginx import PHONE_HOME_PORT
from bootstrap.io.site_dir import ROOT_PEM
from bootstrap.rehearsal.appliance import Appliance
from bootstrap.rehearsal.lan import Lan, inside
from keys.errors import KeysError
from tests.bench import peer
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab
from tests.bench.probe import GIVE_UP_SECONDS

_POLL_SECONDS = 0.02


def measure(lab: Lab) -> list[Figure]:
    """Start both as often as the lab says."""
    root = lab.work / "peer-start" / "served"
    peer.write_served(lab, root)
    with lab.rehearsal.started():
        lab.say("           that was the first start, with signing; from here it is measured")
    ready, offer, theirs = [], [], []
    for _ in range(lab.runs):
        seconds = _start_ours(lab)
        ready.append(seconds[0])
        offer.append(seconds[1])
        theirs.append(_start_peer(lab, root))
    name = f"{peer.version()} to its first DHCP offer"
    return [
        Figure(name=title, unit="s", ours=tuple(ours), peer=tuple(theirs), peer_name=name)
        for title, ours in (
            ("start to phone-home, page and a running plan", ready),
            ("start to the first DHCP offer", offer),
        )
    ]


def _start_ours(lab: Lab) -> tuple[float, float]:
    """Give the seconds until everything answers, and until the first offer."""
    place = lab.rehearsal.place
    with Lan(place.address, place.site.subnets[0].interface) as lan:
        address = place.address.ip
        phone_home = f"400:POST:{address}:{PHONE_HOME_PORT}/v1/sessions"
        targets = [phone_home, f"200:GET:{place.site.page.listen}/"]
        tls = ["tls", str(place.layout.site / ROOT_PEM), place.site.server_name, *targets]
        offers = _probe(lan.box_namespace, ["dhcp", Lan.BRIDGE])
        answers = _probe(lan.appliance_namespace, tls)
        appliance = Appliance(place, lan.appliance_namespace)
        started = time.monotonic()
        try:
            appliance.start()
            plan = _plan_runs(appliance)
            last = max(plan, _moment(answers))
            return last - started, _moment(offers) - started
        finally:
            appliance.stop()
            for probe in (offers, answers):
                probe.kill()
                probe.communicate()


def _start_peer(lab: Lab, root: Path) -> float:
    with Lan(lab.rehearsal.place.address) as lan:
        offers = _probe(lan.box_namespace, ["dhcp", Lan.BRIDGE])
        started = time.monotonic()
        try:
            with peer.serving(lan, root):
                return _moment(offers) - started
        finally:
            offers.kill()
            offers.communicate()


def _plan_runs(appliance: Appliance) -> float:
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < deadline:
        try:
            if appliance.ask("netboot", "status").get("running"):
                return time.monotonic()
        except KeysError:
            pass
        time.sleep(_POLL_SECONDS)
    raise BenchError(f"netboot runs no plan; see {appliance.log}")


def _probe(namespace: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Start a probe and wait until it has been asking for a while."""
    command = inside(namespace, [sys.executable, "-m", "tests.bench.probe", *arguments])
    probe = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(1.0)
    return probe


def _moment(probe: subprocess.Popen[str]) -> float:
    """Wait for a probe and give the moment of its answer."""
    said, _ = probe.communicate(timeout=GIVE_UP_SECONDS + 10)
    if probe.returncode:
        raise BenchError("a probe had no answer: see above")
    return float(said)
