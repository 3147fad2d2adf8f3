"""`doorstep rehearse`: a whole site with a virtual box, before anybody travels.

It prepares a site of its own, builds and measures a boot set, starts the appliance, enrols a box
that boots with real firmware, and, when asked, attacks what it has just shown. It is the operator's
first check, the demo and the end-to-end test at once. Nothing in it decides whether a box is let
in: the site does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from ipaddress import IPv6Interface
from pathlib import Path
from typing import Any

from bootstrap.build.apt import LockStaleError
from bootstrap.build.iso import build_iso
from bootstrap.build.parts import Parts, build_parts, committed_lock, default_cache, resolve
from bootstrap.errors import BootstrapError, SiteError
from bootstrap.io.publishing import Shelf
from bootstrap.phonehome import b64u
from bootstrap.rehearsal.appliance import Appliance
from bootstrap.rehearsal.attacks import changed_release, other_anchor
from bootstrap.rehearsal.box import Boot, Network, TpmCa, VirtualBox
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.place import Place, expect, make_boot_set, prepare
from bootstrap.rehearsal.replay import replay_bundle
from bootstrap.rehearsal.story import Chapter, Say, Storyteller
from bootstrap.rehearsal.wire import Wire
from bootstrap.rehearsal.wrapping import wrap_secrets
from netboot.bootset import AMD64, Architecture, BootSetManifest
from netboot.io.bootsets import REHEARSAL, REHEARSAL_SIGNATURE

MACS = ("52:54:00:d0:00:01", "52:54:00:d0:00:02", "52:54:00:d0:00:03")
INSECURE = 3
"""Number of the box whose Secure Boot is off."""
READY = ("ready", "held", "refused", "trouble", "report")
TURNED_AWAY = ("refused", "held", "ready")
KEEP = timedelta(days=14)
CONSOLE_SECONDS = 60.0
_STARTED = {Boot.PXE: "", Boot.HTTP: ", by UEFI HTTP boot", Boot.ISO: ", from an ISO"}
NAME_SECONDS = 5.0
"""How long netboot may take to run the plan that names the box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack: how it had to end, how it ended, in one sentence."""

    title: str
    wanted: str
    got: str
    sentence: str

    @property
    def refused(self) -> bool:
        """Tell whether it was refused for its own reason."""
        return self.got == self.wanted


@dataclass(slots=True, kw_only=True)
class Result:
    """All that a rehearsal showed."""

    ok: bool = False
    chapters: list[Chapter] = field(default_factory=list)
    received: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    attacks: list[Attack] = field(default_factory=list)
    failure: str | None = None


class Rehearsal:
    """One rehearsal from an empty directory to its end; use `started` for the appliance's life."""

    def __init__(self, work: Path, source: Path | None, say: Say) -> None:
        """Prepare site and boxes in `work`; nothing runs yet."""
        self.work = work
        self.say = say
        self.place: Place = prepare(work, source)
        ca = TpmCa(work / "tpm-ca")
        self.boxes = [
            VirtualBox(
                work / f"box-{number}",
                mac=mac,
                tpm_ca=ca,
                serial_number=f"REHEARSAL-{number}",
                secure_boot=number != INSECURE,
            )
            for number, mac in enumerate(MACS, 1)
        ]
        self.shelf = Shelf(directory=self.place.layout.site, state=self.place.layout.state)
        self.wrapped: Mapping[str, Mapping[str, bytes]] = {}
        self._started = time.monotonic()

    def step(self, text: str) -> None:
        """Tell what begins now, with the time since the beginning of all."""
        self.say(f"[{time.monotonic() - self._started:6.1f} s] {text}")

    def prepare_boxes(self) -> None:
        """Make the boxes' TPMs and put them on the signed delivery note."""
        self.step("making boxes: firmware, TPM, endorsement certificate; signing the note")
        for box in self.boxes:
            box.create()
        expect(self.place, self.boxes)

    def prepare_boot_sets(self) -> tuple[BootSetManifest, BootSetManifest]:
        """Build two sets that differ in their release text; measure one, publish the first."""
        self.step("building the boot set: shim, GRUB, kernel, enrolment system, anchor")
        parts = self.parts()
        old, new = (
            make_boot_set(self.place, parts, version=number, release=f"rehearsal release {number}")
            for number in (1, 2)
        )
        self.step(f"measuring it: a virtual box boots the exact bytes of {old.digest.hex()[:12]}")
        self.shelf.rehearse(old.digest, self.work / "measured")
        for name in (REHEARSAL, REHEARSAL_SIGNATURE):
            self.shelf.store.put(new.digest, name, self.shelf.store.get(old.digest, name))
        self.step("the measurement equals the prediction; publishing it")
        self.shelf.publish(old.digest, KEEP)
        return old, new

    def parts(self, architecture: Architecture = AMD64) -> Parts:
        """Build what sets are made of, from the lock or from what the mirror has now."""
        try:
            return build_parts(committed_lock(architecture), default_cache())
        except LockStaleError as error:
            self.say(f"          {error}")
            self.say("          taking what the mirror has now instead")
            return build_parts(resolve(architecture), default_cache())

    @contextmanager
    def started(self) -> Iterator[tuple[Lan, Appliance]]:
        """Run the appliance in a network of its own."""
        subnet = self.place.site.subnets[0]
        with Lan(self.place.address, subnet.interface) as lan:
            for six in self.place.site.subnets6:
                if six.interface == subnet.interface and not six.relayed:
                    lan.add_address(IPv6Interface((six.appliance, six.network.prefixlen)))
            self.step("starting the appliance: keys, control, netboot, enroll, page, nginx")
            with Appliance(self.place, lan.appliance_namespace) as appliance:
                self.step("it answers")
                self.wrapped = wrap_secrets(self.place, appliance, self.boxes)
                yield lan, appliance

    def power_on(
        self,
        title: str,
        box: VirtualBox,
        lan: Lan,
        teller: Storyteller,
        ends: tuple[str, ...],
        *,
        tap: str | None = None,
        way: Boot = Boot.PXE,
        iso: Path | None = None,
    ) -> Chapter:
        """Switch a box on and follow it to one of the events `ends`; it stays on."""
        self.step(title)
        chapter = Chapter(title=title)
        network = Network(namespace=lan.box_namespace, tap=tap or lan.add_tap())
        power_on = time.time()
        box.start(way, network=network, iso=iso)
        teller.follow(chapter, box, ends, power_on)
        return chapter

    def look_up(self, lan: Lan, chapter: Chapter, appliance: Appliance) -> Mapping[str, str]:
        """Ask our DNS for the new name and back, as the box would."""
        shown = appliance.ask("control", "box", {"box": chapter.end["box"]})["box"]
        name = f"{shown['hostname']}.{self.place.site.site.domain}"
        server = str(self.place.site.subnets[0].appliance)
        questions = {name: [name, "A"], str(shown["address"]): ["-x", str(shown["address"])]}
        dig = ["dig", "+short", "+time=2", f"@{server}"]
        answers: dict[str, str] = {}
        deadline = time.monotonic() + NAME_SECONDS
        while not all(answers.get(asked) for asked in questions):
            for asked, question in questions.items():
                command = lan.appliance_command([*dig, *question])
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                answers[asked] = done.stdout.strip()
            if time.monotonic() > deadline:
                break
        return answers


def enrol(rehearsal: Rehearsal, via: str, result: Result, attacks: bool) -> None:
    """Play the whole rehearsal; `result` is filled as it goes."""
    rehearsal.prepare_boxes()
    old, new = rehearsal.prepare_boot_sets()
    box = rehearsal.boxes[0]
    way = Boot(via)
    iso = rehearsal.work / "boot.iso" if way is Boot.ISO else None
    if iso is not None:
        build_iso(old, rehearsal.shelf.store, iso)
    with rehearsal.started() as (lan, appliance):
        teller = Storyteller(appliance, rehearsal.say)
        title = "power on: an empty box, on the delivery note" + _STARTED[way]
        chapter = rehearsal.power_on(title, box, lan, teller, READY, way=way, iso=iso)
        result.chapters.append(chapter)
        if chapter.end["kind"] != "ready":
            raise SiteError(f"the box was not enrolled: {chapter.end['sentence']}")
        rehearsal.say(f"           timeline: {chapter.timeline()}")
        _tell_received(rehearsal, result, chapter, appliance, box)
        result.names = rehearsal.look_up(lan, chapter, appliance)
        for asked, answer in result.names.items():
            rehearsal.say(f"           dig {asked}: {answer or 'no answer'}")
        if not all(result.names.values()):
            raise SiteError("our DNS does not know the new name")
        box.stop()
        if attacks:
            _attack(rehearsal, result, lan, appliance, teller, old, new)
    result.ok = all(attack.refused for attack in result.attacks)


def _tell_received(
    rehearsal: Rehearsal,
    result: Result,
    chapter: Chapter,
    appliance: Appliance,
    box: VirtualBox,
) -> None:
    shown = appliance.ask("control", "box", {"box": chapter.end["box"]})["box"]
    role = rehearsal.place.site.role(shown["role"])
    for name in role.secrets if role else ():
        box.wait_for(f"secret {name} ".encode(), CONSOLE_SECONDS)
    console = box.console.decode(errors="replace").splitlines()
    digests = [line.partition("secret ")[2].strip() for line in console if "sha256-keyed" in line]
    result.received = {
        "box": shown["box"],
        "hostname": shown["hostname"],
        "address": shown["address"],
        "role": shown["role"],
        "boot_set": shown["boot_set"],
        "secrets": digests,
        "withheld": shown["withheld"],
    }
    rehearsal.say("           the box received:")
    for name, value in result.received.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        rehearsal.say(f"             {name}: {text or '-'}")


def _attack(
    rehearsal: Rehearsal,
    result: Result,
    lan: Lan,
    appliance: Appliance,
    teller: Storyteller,
    old: BootSetManifest,
    new: BootSetManifest,
) -> None:
    store = rehearsal.shelf.store
    _, box, insecure = rehearsal.boxes

    def turned_away(title: str, wanted: str, box: VirtualBox, **how: Any) -> None:
        chapter = rehearsal.power_on(title, box, lan, teller, TURNED_AWAY, **how)
        box.stop()
        got = chapter.end["reason"] or chapter.end["kind"]
        sentence = str(chapter.end["detail"].get("sentence", chapter.end["sentence"]))
        result.chapters.append(chapter)
        _tell_attack(rehearsal, result, title, wanted, got, sentence)

    with Wire(lan, to_box=changed_release(store, old)) as wire:
        turned_away(
            "attack: one byte of the anchor initrd is changed on the wire",
            "INITRD-UNKNOWN",
            box,
            tap=wire.tap,
        )
    turned_away("attack: Secure Boot is switched off", "SECURE-BOOT-OFF", insecure)
    rehearsal.shelf.publish(new.digest, KEEP)
    rehearsal.shelf.withdraw(old.digest)
    appliance.ask("keys", "withdraw", {"boot_set": b64u(old.digest)})
    appliance.ask("control", "reload")
    to_box, to_site = other_anchor(store, new, old)
    with Wire(lan, to_box=to_box, to_site=to_site) as wire:
        turned_away(
            "attack: the box is given an older boot set, which was withdrawn",
            "BOOT-SET-WITHDRAWN",
            box,
            tap=wire.tap,
        )
    title = "attack: the first box is rebooted and tries to open its captured bundle again"
    rehearsal.step(title)
    got, sentence = replay_bundle(
        rehearsal.work / "attacker",
        rehearsal.place,
        rehearsal.boxes[0],
        str(result.chapters[0].end["box"]),
        new,
    )
    told = f"its TPM refuses: {sentence}"
    _tell_attack(rehearsal, result, title, "BUNDLE-OTHER-BOOT", got, told)
    if rehearsal.place.controller is not None:
        title = "attack: the controller is stolen, and started more often than its lease allows"
        rehearsal.step(title)
        got, sentence = appliance.steal()
        _tell_attack(rehearsal, result, title, "LEASE-ENDED", got, sentence)


def _tell_attack(
    rehearsal: Rehearsal, result: Result, title: str, wanted: str, got: str, sentence: str
) -> None:
    attack = Attack(title=title, wanted=wanted, got=got, sentence=sentence)
    result.attacks.append(attack)
    word = "refused" if attack.refused else f"NOT REFUSED AS IT MUST BE ({wanted})"
    rehearsal.say(f"           {word}: {got}: {sentence}")


def rehearse(
    *,
    site: Path | None,
    work: Path | None,
    via: str,
    as_json: bool,
    attacks: bool = False,
    say: Callable[[str], None] | None = None,
) -> Result:
    """Rehearse a site, or the shipped example (`site` None); tell it live, or end in JSON."""
    if os.geteuid() != 0:
        raise SiteError("a rehearsal needs root, for its network and the users of its services")
    stream = sys.stderr if as_json else sys.stdout
    tell = say or (lambda text: print(text, file=stream, flush=True))  # noqa: T201 - its output
    result, kept = Result(), work is not None
    directory = work or Path(tempfile.mkdtemp(prefix="doorstep-rehearsal-"))
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    try:
        rehearsal = Rehearsal(directory, site, tell)
        try:
            enrol(rehearsal, via, result, attacks)
            rehearsal.step("all of it happened" if result.ok else "not all attacks were refused")
        finally:
            for box in rehearsal.boxes:
                box.stop()
    except BootstrapError as error:
        result.failure = str(error)
        tell(f"the rehearsal failed: {error}")
    if result.ok and not kept:
        shutil.rmtree(directory)
    else:
        tell(f"everything is kept in {directory}")
    if as_json:
        print(json.dumps(asdict(result), default=str))  # noqa: T201 - this is its output
    return result
