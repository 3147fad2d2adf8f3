"""From rows to what a person is shown: cards and a timeline in plain sentences.

Pure. A sighting (by MAC) and a box (by EK) that phoned home with that MAC are one card. All text
that a box or a stranger chose passes `harmless` here, so page and command line get it fit to show.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from attest.evidence import Tier
from bootstrap.cards import SILENT_CODE, Card, full_sentence, harmless, next_step, quiet
from bootstrap.enrolment import Stage
from bootstrap.expected import expected_cards
from bootstrap.loading import Silence, file_name, portion, served, served_json, silence
from bootstrap.next_steps import NEXT_STEP
from bootstrap.renewing import certificate_text
from bootstrap.rows import BoxRow, Sighting
from keys.note import Entry

UNOPENED = "SECRET-UNOPENED"
"""A box could not open what headquarters wrapped for it."""
_BEFORE = (Stage.HEARD, Stage.BOOTING)
_SHORT, _NAME = 40, 63
_FIRMWARE = {Tier.VERIFIED.value: "known", Tier.PROVISIONAL.value: "not confirmed yet"}
_STOPPED = {Stage.HELD: Stage.CONTACTED, Stage.REFUSED: Stage.CONTACTED}


def cards(
    boxes: Iterable[BoxRow],
    sightings: Iterable[Sighting],
    now: float,
    *,
    expected: Collection[Entry] = (),
    since: float = 0.0,
) -> list[Card]:
    """One card for each box and for each MAC that no box has claimed, newest change first.

    After them, one for each box that is `expected` and was never heard since the site listens.
    """
    by_mac = {sighting.mac: sighting for sighting in sightings}
    shown = [_box_card(box, by_mac.pop(box.mac or "", None), now) for box in boxes]
    shown += [_sighting_card(sighting, now) for sighting in by_mac.values()]
    shown.sort(key=lambda card: card.since, reverse=True)
    return [*shown, *expected_cards(expected, by_mac.values(), since, now)]


def card_json(card: Card) -> Mapping[str, Any]:
    """Write a card for the socket; the page and the command line read this."""
    return {
        "key": card.key,
        "title": card.title,
        "stage": card.stage.value,
        "since": card.since,
        "first": card.first,
        "attempt": card.attempt,
        "facts": [list(pair) for pair in card.facts],
        "reasons": list(card.reasons),
        "sentence": card.sentence,
        "next_step": card.next_step,
        "quiet": card.quiet,
        "tone": card.tone,
        "code": card.code,
        "usual": card.usual,
        "step": card.step,
    }


def _box_card(box: BoxRow, sighting: Sighting | None, now: float) -> Card:
    seen = sighting if sighting is not None and _boots_again(sighting, box) else None
    stage, since = (seen.stage, seen.since) if seen else (box.stage, box.since)
    withheld = tuple(str(item["reason"]) for item in box.withheld)
    reasons = _told(seen, now) if seen else box.reasons + withheld
    missing = None
    if not reasons:
        missing = silence(seen, now) if seen else _silence(stage, since, now)
    smbios = box.facts.get("smbios") or {}
    serial = harmless(smbios.get("product_serial") or "", _SHORT)
    product = harmless(smbios.get("product_name") or "", _SHORT)
    facts = {
        "Serial": serial,
        "Model": product,
        "Loads": _loads(seen) if seen else "",
        "Address": harmless(box.address or "", _SHORT),
        "MAC": harmless(box.mac or "", _SHORT),
        "Role": harmless(box.role or "", _SHORT),
        "Certificate": "" if seen else certificate_text(box, now),
        "Firmware": _FIRMWARE.get(box.tier or "", ""),
        "Withheld": harmless(", ".join(str(item["name"]) for item in box.withheld), 200),
    }
    return Card(
        key=box.box,
        title=harmless(box.hostname or "", _NAME)
        or " ".join(filter(None, (product, serial)))
        or f"box {box.box[:8]}",
        stage=stage,
        since=since,
        first=seen.first if seen else box.first,
        attempt=box.attempt + (1 if seen else 0),
        facts=_filled(facts),
        reasons=reasons,
        sentence=full_sentence(
            _reason_sentence(reasons, seen.detail)
            if seen
            else box.sentence or withheld_sentence(box)
        ),
        next_step=next_step(stage, reasons) or _silent_step(missing),
        quiet=missing.sentence if missing else None,
        quiet_code=missing.code if missing else None,
        stopped_at=_STOPPED.get(stage),
    )


def _boots_again(sighting: Sighting, box: BoxRow) -> bool:
    """Tell a new start from a running system that renews its lease (which asks for no file)."""
    if sighting.since <= box.since or sighting.stage not in _BEFORE:
        return False
    return sighting.stage is Stage.BOOTING or bool(sighting.detail.get("boot_file"))


def withheld_sentence(box: BoxRow) -> str | None:
    """Say which secrets a box runs without: what it was not given, what it did not open."""
    if not box.withheld:
        return None
    names = ", ".join(map(_withheld_name, box.withheld))
    return f"It runs, but was not given: {names}"


def _withheld_name(item: Mapping[str, Any]) -> str:
    """Name one; of what a box could not open, with the code that it shows on its screen."""
    if item["reason"] != UNOPENED:
        return str(item["name"])
    said = item.get("said")
    return f"{item['name']} (it could not open it{f', {said}' if said else ''})"


def _sighting_card(sighting: Sighting, now: float) -> Card:
    reasons = _told(sighting, now)
    missing = None if reasons else silence(sighting, now)
    facts = {
        "Loads": _loads(sighting),
        "Address": harmless(sighting.address or "", _SHORT),
        "MAC": harmless(sighting.mac, _SHORT),
    }
    return Card(
        key=sighting.mac,
        title=f"new box {harmless(sighting.mac, _SHORT)[-8:]}",
        stage=sighting.stage,
        since=sighting.since,
        first=sighting.first,
        attempt=1,
        facts=_filled(facts),
        reasons=reasons,
        sentence=full_sentence(_reason_sentence(reasons, sighting.detail)),
        next_step=next_step(sighting.stage, reasons) or _silent_step(missing),
        quiet=missing.sentence if missing else None,
        quiet_code=missing.code if missing else None,
    )


def _told(sighting: Sighting, now: float) -> tuple[str, ...]:
    """Give the reason that stands; what loaders meet on their way only when nothing follows."""
    reason = sighting.reason
    if reason is None or (reason in _PASSING and silence(sighting, now) is None):
        return ()
    return (harmless(reason, _SHORT),)


def _loads(sighting: Sighting) -> str:
    loading = file_name(sighting.detail) if sighting.stage is Stage.BOOTING else ""
    return loading and f"{loading}{portion(sighting.detail)}"


_PASSING = frozenset({"NOT-FOUND", "IN-USE", "NOT-YOURS", "RESERVED"})
"""Reasons that loaders meet on their usual way; told only when nothing follows."""


def _silence(stage: Stage, since: float, now: float) -> Silence | None:
    sentence = quiet(stage, since, now)
    return Silence(sentence=sentence, code=SILENT_CODE[stage]) if sentence else None


def _silent_step(missing: Silence | None) -> str | None:
    return NEXT_STEP[missing.code] if missing else None


def _reason_sentence(reasons: Sequence[str], detail: Mapping[str, Any]) -> str | None:
    text = _REASON_SENTENCES.get("".join(reasons))
    server = harmless(detail.get("server") or "", _SHORT)
    return f"{text}: {server}" if text and server and reasons == ("OTHER-DHCP",) else text


def _filled(facts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, text) for name, text in facts.items() if text)


_REASON_SENTENCES = {
    "TPM-NONE": "It says that it has no security chip (TPM 2.0), or that the chip is off",
    "TPM-OWNED": "It says that somebody else's password locks its security chip (TPM)",
    "EK-NONE": "It says that its security chip (TPM) has no certificate of its maker",
    "ARCH": "It asked for a start file for a kind of processor that this site does not serve",
    "OTHER-DHCP": "It took the address that another device on this network offered",
    "POOL-EMPTY": "It asked for an address, and this network has none left",
    "NOT-FOUND": "It asked for a file that this site does not have",
    "FORBIDDEN": "It asked for a file by a name that is not allowed",
    "NOT-HERE": "It is on a network from which no box is started",
    "LOST": "Its start file is missing on the appliance",
    "IN-USE": "It says that another device uses the address it was offered",
    "RESERVED-IN-USE": "Another device uses the address that is reserved for it",
    "NOT-YOURS": "It asked for an address that it may not have",
    "RESERVED": "It asked for another address than the one that is reserved for it",
    "WRONG-NET": "It asked for an address of another network",
}
"""What was seen of a box that has not proved itself, by netboot's reason or its own claim."""

_SENTENCES = {
    "dhcp-discover": "asked for an address",
    "dhcp-offer": "was offered {address}",
    "dhcp-ack": "has the address {address}",
    "dhcp-nak": "was denied the address {address}",
    "dhcp-decline": "found its address {address} in use",
    "dhcp-elsewhere": "took the address that {server} offered",
    "dhcp-pool-empty": "was given no address: none is left",
    "dhcp-inform": "asked for network settings",
    "dhcp-release": "gave {address} back",
    "arch-unknown": "asked for a start file that this site does not have",
    "foreign-dhcp": "another DHCP server answers on this network: {address}",
    "foreign-proxy-dhcp": "another server offers boot files on this network: {address}",
    "foreign-dhcp6": "another DHCPv6 server answers on this network: {address}",
    "foreign-router": "another device acts as an IPv6 router on this network: {address}",
    "foreign-tftp": "another TFTP server answers on this network: {address}",
    "gateway-seen": "is the router of this network: {address}",
    "gateway-changed": "took the place of the router {address}",
    "dns-hijack": "answers about names are changed on the way: {sentence}",
    "watch-flood": "something pretends to be many servers on this network",
    "address-in-use": "uses {address}, which no lease gives it",
    "disk-refused": "no lease can be given, the disk refuses: {sentence}",
    "disk-works": "the disk works again, after {seconds} s",
    "hello-refused": "could not begin to prove itself",
    "evidence-refused": "could not prove itself",
    "session": "began to prove itself",
    "verified": "proved itself: {tier}",
    "held": "must wait: {sentence}",
    "refused": "was refused: {sentence}",
    "enrolled": "was given its name {hostname} and its configuration",
    "ready": "reported ready",
    "report": "reported, and is not ready yet: {sentence}",
    "renewed": "proved itself again and renewed its certificate, for the {times}. time",
    "renewal-held": "could not renew, and keeps what it has: {sentence}",
    "renewal-refused": "was refused a renewal: {sentence}",
    "stale": "did not renew its certificate in time",
    "trouble": "says of itself: {sentence}",
    "approved": "was approved by a person",
    "revoked": "was taken out of service by a person",
    "replaced": "was taken out of service: another box took its place",
    "firmware-known": "its firmware is known now: {source}",
    "doubted": "was judged again and is refused: {sentence}",
    "not-appraised": "was not judged again: {sentence}",
    "replay": "sent another answer to an old question",
    "lease-requested": "a lease was asked for from headquarters",
    "lease-applied": "a lease of headquarters was taken",
    "leases-ended": "every lease of this site was ended",
    "secrets-swept": "what had ended a week ago was shredded",
    "secret-fetched": "version {upstream_version} of {name} was fetched from {source}",
    "secrets-renewed": "secrets were confirmed by their upstreams and last on",
    "secret-gone": "its upstream withdrew {name} ({status}): it was purged",
    "upstream-refused": "what {source} gave for {name} was not taken: {code}",
    "upstream-login": "a login of upstream {upstream} was stored",
    "upstream-trouble": "an upstream does not answer: {sentence}",
    "upstream-answers": "upstream {upstream} answers again",
    "tpm-clock-off": "the clock of the controller's TPM does not run as the machine's does",
    "audit-anchored": "the record of this site is anchored in its TPM",
    "audit-broken": "the record of this site was cut off, or an older copy was put back",
    "handover": "a hand-over was sealed for it",
    "renewal": "a renewal was sealed for it",
    "handover-refused": "the key service refused a hand-over",
    "ssh-withheld": "has no SSH certificate: another box in service is called {name}",
    "answer-signed": "its answer was signed",
    "receipt-signed": "its receipt was signed",
}


def event_sentence(event: Mapping[str, Any]) -> str:
    """Say what an event means in the words of the page; the kind itself where no words exist."""
    detail = event.get("detail") or {}
    if event["kind"] == "boot-file":
        return _boot_file_sentence(detail)
    given = {"address": event.get("address") or "an address", **detail}
    values = _Blank({name: harmless(value, 200) for name, value in given.items()})
    kind = harmless(event["kind"], _SHORT)
    return _SENTENCES.get(kind, kind.replace("{", "").replace("}", "")).format_map(values)


def _boot_file_sentence(detail: Mapping[str, Any]) -> str:
    name = file_name(detail) or "a file"
    if detail.get("phase") == "refused":
        return f"asked for {name}: {harmless(detail.get('sentence') or 'refused', 100)}"
    if detail.get("phase") == "start":
        return f"began to load {name}"
    if detail.get("phase") == "progress":
        return f"is loading {name}"
    if detail.get("offset"):
        return f"loaded a part of {name}"
    return f"loaded {name}{portion(detail)}"


class _Blank(dict[str, str]):
    """Text from a peer never breaks a sentence: what is missing is a dash."""

    def __missing__(self, key: str) -> str:
        return "-"


_GAP_SECONDS = 600.0


def attempts(events: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Part the events of a box (oldest first) into its attempts, the present one last.

    A new attempt is a start from the network, or a new proof, after it had begun to prove itself or
    after ten quiet minutes. A running system that renews its lease starts none.
    """
    parts: list[list[Mapping[str, Any]]] = [[]]
    proved, last = False, 0.0
    for event in events:
        late = event["at"] - last > _GAP_SECONDS
        if parts[-1] and _begins(event) and (proved or late):
            parts.append([])
            proved = False
        proved, last = proved or event["kind"] == "session", event["at"]
        parts[-1].append(event)
    return parts


def last_served(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Give what the last start from the network was sent, for the socket."""
    sent = (served(part) for part in reversed(attempts(events)))
    return served_json(next((files for files in sent if files), ()))


def _begins(event: Mapping[str, Any]) -> bool:
    detail = event.get("detail") or {}
    vendor = str(detail.get("vendor_class") or "")
    return (
        event["kind"] in ("session", "boot-file")
        or vendor.startswith(("PXEClient", "HTTPClient"))
        or bool(detail.get("boot_file"))
    )


def told_once(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Join neighbours that say the same: the last of them, with `times`."""
    out: list[dict[str, Any]] = []
    for event in events:
        if out and out[-1]["sentence"] == event["sentence"]:
            out[-1] = {**event, "times": out[-1]["times"] + 1}
        else:
            out.append({**event, "times": 1})
    return out
