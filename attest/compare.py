"""The differences between a measured log and a prediction, for people, most telling first.

It explains and never decides: a verdict rests on quoted values. A text of the log is given only
when it hashes to the measured digest; paths of programs and files are marked as claims, because
no digest covers them.
TCG PFP 1.06, 10.4; GRUB manual 2.12, 17.2; systemd-stub(7).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import Enum

from attest.errors import EvidenceError
from attest.eventlog import Event, EventLog, EventType, type_name
from attest.predict import PREDICTED_PCRS, PredictedEvent, Prediction, Subject
from attest.predictuki import SECTION, SECTION_NAME, section_subject
from attest.uefi import ImageLoad, Variable, device_path_text

MAX_EVENTS_PER_PCR = 512
MAX_TEXT = 4096

_GRUB_PREFIXES = (b"grub_cmd: ", b"kernel_cmdline: ")
# TCG_PCClientTaggedEvent: identifier and size (PFP 1.06, 10.4.2.1).
_TAG_HEADER = 8
_VARIABLE_TYPES = (EventType.EFI_VARIABLE_DRIVER_CONFIG, EventType.EFI_VARIABLE_AUTHORITY)
_RANK = {subject: rank for rank, subject in enumerate(Subject)}


class Kind(Enum):
    """How an event differs."""

    CHANGED = "changed"
    EXTRA = "extra"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference; `expected` and `measured` are digests, None where there is no such event.

    `text` is what the box measured and `expected_text` what was predicted, both proven by digest
    and None where that is not text. `claim` is unproven: a path that the box named.
    """

    kind: Kind
    subject: Subject
    pcr: int
    label: str
    expected: bytes | None
    measured: bytes | None
    expected_text: str | None
    text: str | None
    claim: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All differences in PREDICTED_PCRS, the most telling first; `matched` counts equal events."""

    differences: tuple[Difference, ...]
    matched: int

    @property
    def equal(self) -> bool:
        """Tell whether log and prediction have the same events in the same order."""
        return not self.differences


def compare(log: EventLog, prediction: Prediction, bank: str) -> Comparison:
    """Compare the events of every predicted PCR; raise EvidenceError where the log is unusable."""
    if bank not in {known.name for known in log.banks}:
        raise EvidenceError(f"the event log has no {bank} digests")
    predicted = prediction.events(bank)
    differences: list[Difference] = []
    matched = 0
    for pcr in PREDICTED_PCRS:
        measured = _measured(log, pcr, bank)
        wanted = [event for event in predicted if event.pcr == pcr]
        found, same = _compare_pcr(wanted, measured, bank)
        differences += found
        matched += same
    differences.sort(key=lambda difference: _RANK[difference.subject])
    return Comparison(differences=tuple(differences), matched=matched)


def _measured(log: EventLog, pcr: int, bank: str) -> list[Event]:
    found = [
        event for event in log.events if event.pcr == pcr and event.type != EventType.NO_ACTION
    ]
    if len(found) > MAX_EVENTS_PER_PCR:
        raise EvidenceError(f"the event log holds {len(found)} events for PCR {pcr}")
    if any(bank not in event.digests for event in found):
        raise EvidenceError(f"an event of PCR {pcr} lacks its {bank} digest")
    return found


def _compare_pcr(
    wanted: list[PredictedEvent], measured: list[Event], bank: str
) -> tuple[list[Difference], int]:
    """Align by digest; what stands opposite each other in a gap is a change."""
    left = [event.digest for event in wanted]
    right = [event.digests[bank] for event in measured]
    matcher = SequenceMatcher(a=left, b=right, autojunk=False)
    differences: list[Difference] = []
    matched = 0
    for operation, a, b, c, d in matcher.get_opcodes():
        if operation == "equal":
            matched += b - a
            continue
        differences += _gap(wanted[a:b], measured[c:d], bank)
    return differences, matched


def _gap(wanted: list[PredictedEvent], measured: list[Event], bank: str) -> list[Difference]:
    rest = list(measured)
    differences: list[Difference] = []
    for event in wanted:
        partner = next((other for other in rest if _alike(event, other, bank)), None)
        if partner is None:
            differences.append(_missing(event))
            continue
        rest.remove(partner)
        differences.append(_changed(event, partner, bank))
    return differences + [_extra(event, bank) for event in rest]


def _alike(wanted: PredictedEvent, measured: Event, bank: str) -> bool:
    """Guess whether an event is the changed form of a predicted one.

    The guess may use claims: it decides only which two events one sentence names.
    """
    separator = wanted.label == "separator"
    if separator or measured.type == EventType.SEPARATOR:
        return separator and measured.type == EventType.SEPARATOR
    word = (wanted.text or "").split(" ")[0]
    if wanted.pcr == 7:
        return _variable_name(measured) == word
    if wanted.pcr == 8:
        is_line = measured.data.startswith(b"kernel_cmdline: ")
        if (wanted.label == "kernel command line") != is_line:
            return False
        text = proven_text(measured, bank)
        return is_line or text is None or text.split(" ")[0] == word
    if wanted.pcr == 11:
        return wanted.label == _section_label(measured, bank)
    if wanted.pcr == 9:
        return (measured.type == EventType.EVENT_TAG) == ("seen by the kernel" in wanted.label)
    action = wanted.subject is Subject.FIRMWARE
    return action == (measured.type == EventType.EFI_ACTION)


def _section_label(event: Event, bank: str) -> str | None:
    """Tell which section of a unified image an event is about, and whether it is the name.

    The name beside a section's content is a claim; beside the name's own digest it is proven.
    """
    if event.pcr != 11 or event.type != EventType.IPL:
        return None
    claimed = _wide_text(event.data)
    digest = hashlib.new(bank, f"{claimed}\0".encode()).digest()
    kind = SECTION_NAME if digest == event.digests[bank] else SECTION
    return f"{kind} {claimed}"


def _wide_text(data: bytes) -> str:
    """Read UTF-16 up to its NUL, as systemd's programs write it."""
    return _clean(data[: 2 * MAX_TEXT].decode("utf-16-le", "replace").split("\0")[0])


def _missing(event: PredictedEvent) -> Difference:
    return Difference(
        kind=Kind.MISSING,
        subject=event.subject,
        pcr=event.pcr,
        label=event.label,
        expected=event.digest,
        measured=None,
        expected_text=event.text,
        text=None,
        claim=None,
    )


def _changed(event: PredictedEvent, measured: Event, bank: str) -> Difference:
    return Difference(
        kind=Kind.CHANGED,
        subject=event.subject,
        pcr=event.pcr,
        label=event.label,
        expected=event.digest,
        measured=measured.digests[bank],
        expected_text=event.text,
        text=proven_text(measured, bank),
        claim=_claim(measured),
    )


def _extra(event: Event, bank: str) -> Difference:
    subject, label = _subject(event, bank)
    return Difference(
        kind=Kind.EXTRA,
        subject=subject,
        pcr=event.pcr,
        label=label,
        expected=None,
        measured=event.digests[bank],
        expected_text=None,
        text=proven_text(event, bank),
        claim=_claim(event),
    )


_EXTRA_SUBJECTS = {
    7: (Subject.KEYS, "a key or variable"),
    8: (Subject.GRUB_COMMAND, "grub command"),
    9: (Subject.OTHER, "a file"),
    12: (Subject.PARAMETERS, "extra parameters"),
    13: (Subject.PARAMETERS, "a system extension"),
    14: (Subject.OWNER_KEYS, "machine owner keys"),
}


def _subject(event: Event, bank: str) -> tuple[Subject, str]:
    if event.type in (EventType.EFI_ACTION, EventType.SEPARATOR):
        return Subject.FIRMWARE, type_name(event.type)
    if event.pcr == 4:
        return Subject.PROGRAM, "a program"
    if label := _section_label(event, bank):
        return section_subject(label.rpartition(" ")[2]), label
    return _EXTRA_SUBJECTS.get(event.pcr, (Subject.OTHER, type_name(event.type)))


def proven_text(event: Event, bank: str) -> str | None:
    """Give the text of an event if it hashes to its digest, else None."""
    digest = event.digests.get(bank)
    for content in _candidates(event):
        if hashlib.new(bank, content).digest() == digest:
            return _readable(event, content)
    return None


def _candidates(event: Event) -> Iterator[bytes]:
    """Give what the digest of an event may be over."""
    yield event.data
    if event.type == EventType.EVENT_TAG:
        yield event.data[_TAG_HEADER:]
    if event.type != EventType.IPL:
        return
    bare = event.data.removesuffix(b"\0")
    yield bare
    for prefix in _GRUB_PREFIXES:
        if bare.startswith(prefix):
            yield bare.removeprefix(prefix)
    if event.pcr == 11:
        yield f"{_wide_text(event.data)}\0".encode()


def _readable(event: Event, content: bytes) -> str | None:
    if event.type == EventType.SEPARATOR:
        return None
    if event.type in _VARIABLE_TYPES:
        try:
            variable = Variable.decode(content)
        except EvidenceError:
            return None
        return _clean(f"{variable.name} ({len(variable.data)} bytes)")
    # systemd's programs measure what they hand over as UTF-16.
    if event.pcr == 12 and not any(content[1::2]):
        return _wide_text(content)
    return _clean(content[:MAX_TEXT].decode("utf-8", "replace").removesuffix("\0"))


def _clean(text: str) -> str:
    """Replace what could steer a terminal or reorder a line."""
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def _variable_name(event: Event) -> str | None:
    if event.type not in _VARIABLE_TYPES:
        return None
    try:
        return Variable.decode(event.data).name
    except EvidenceError:
        return None


def _claim(event: Event) -> str | None:
    """Give the path that a program or file record names; nothing proves it."""
    if event.type == EventType.EFI_BOOT_SERVICES_APPLICATION:
        try:
            return _clean(device_path_text(ImageLoad.decode(event.data).path)) or None
        except EvidenceError:
            return None
    if event.type == EventType.IPL and event.pcr == 9:
        return _clean(event.data[:MAX_TEXT].removesuffix(b"\0").decode("utf-8", "replace"))
    return None
