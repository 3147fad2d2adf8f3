"""Power-on to ready: a whole enrolment, beside a bare boot that proves and enrols nothing.

Ours ends when control has committed the box's signed report; the peer's when its init printed a
line. Every run has a box that was never seen before, ours and the peer's in turn.
"""

from __future__ import annotations

import time

from bootstrap.rehearsal.appliance import Appliance
from bootstrap.rehearsal.box import Boot, Network
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.run import READY
from bootstrap.rehearsal.story import Storyteller
from tests.bench import peer
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

PEER_SECONDS = 180.0


def measure(lab: Lab) -> list[Figure]:
    """Enrol a box and boot a bare one, as often as the lab says."""
    root = lab.work / "peer" / "served"
    peer.write_served(lab, root)
    lab.say(f"           the appliance serves {lab.published.digest.hex()[:12]}")
    ours, theirs = [], []
    with (
        lab.rehearsal.started() as (lan, appliance),
        Lan(lab.rehearsal.place.address) as other,
        peer.serving(other, root),
    ):
        for number in range(lab.runs):
            theirs.append(_boot_bare(lab, other, number))
            lab.say(f"           a bare boot by dnsmasq: {theirs[-1]:.1f} s")
            ours.append(_enrol(lab, lan, appliance, number))
            lab.say(f"           an enrolment: {ours[-1]:.1f} s")
    return [
        Figure(
            name="power-on to ready",
            unit="s",
            ours=tuple(ours),
            peer=tuple(theirs),
            peer_name=f"bare boot by {peer.version()}, nothing proved",
        )
    ]


def _enrol(lab: Lab, lan: Lan, appliance: Appliance, number: int) -> float:
    rehearsal, box = lab.rehearsal, lab.rehearsal.boxes[number]
    teller = Storyteller(appliance, lambda text: None)
    try:
        chapter = rehearsal.power_on(f"run {number + 1}: enrolment", box, lan, teller, READY)
    finally:
        box.stop()
    seconds = chapter.seconds("ready")
    if seconds is None:
        raise BenchError(f"the box was not enrolled: {chapter.end['sentence']}")
    return seconds


def _boot_bare(lab: Lab, lan: Lan, number: int) -> float:
    network = Network(namespace=lan.box_namespace, tap=lan.add_tap())
    with lab.peer_box(number) as box:
        power_on = time.monotonic()
        box.start(Boot.PXE, network=network)
        box.wait_for(peer.MARKER, PEER_SECONDS)
        return time.monotonic() - power_on
