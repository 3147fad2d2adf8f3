"""Why a boot matched no set of this site, as findings with sentences a technician can act on.

Values have decided already; this only names what differed. A text of the log is shown only when
its hash is the measured digest. It never turns a mismatch into a match.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attest.bootfacts import Digests, FileFacts, IpxeFacts
from attest.bootmatch import Candidate, Match
from attest.compare import Comparison, Difference, compare
from attest.errors import EvidenceError
from attest.eventlog import EventLog
from attest.evidence import Change
from attest.expectation import ReferenceSet, SetState
from attest.predict import Subject
from attest.reasons import Finding, Reason

_MAX_TEXT = 400
MAX_CHANGES = 200
REASONS = {
    Subject.SECURE_BOOT: Reason.SECURE_BOOT_OFF,
    Subject.INITRD: Reason.INITRD_UNKNOWN,
    Subject.KERNEL: Reason.KERNEL_UNKNOWN,
    Subject.GRUB_CFG: Reason.GRUB_CFG_UNKNOWN,
    Subject.COMMAND_LINE: Reason.COMMAND_LINE_UNKNOWN,
    Subject.LOADER: Reason.LOADER_UNKNOWN,
    Subject.PARAMETERS: Reason.EXTRA_PARAMETERS,
    Subject.PROGRAM: Reason.OTHER_PROGRAM,
    Subject.KEYS: Reason.SECURE_BOOT_KEYS,
    Subject.OWNER_KEYS: Reason.MOK_ENROLLED,
    Subject.GRUB_COMMAND: Reason.GRUB_CFG_UNKNOWN,
    Subject.FIRMWARE: Reason.PCR_MISMATCH,
    Subject.OTHER: Reason.PCR_MISMATCH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Findings for the operator, and event by event what differs from the set called `nearest`."""

    findings: tuple[Finding, ...]
    nearest: str = ""
    changes: tuple[Change, ...] = ()


def explain_mismatch(
    matches: Sequence[Match],
    log: EventLog | None,
    bank: str,
    references: Sequence[ReferenceSet],
) -> Explanation:
    """Name what differs from the set that is nearest; `log` only if it replays to the quote."""
    if not matches:
        detail = "no boot set of this site can start with the key databases of this box"
        return Explanation(findings=(Finding(reason=Reason.SECURE_BOOT_KEYS, detail=detail),))
    nearest = None if log is None else _nearest(matches, log, bank)
    if nearest is not None:
        match, differences = nearest
        return Explanation(
            findings=_findings(differences, bank, references),
            nearest=_title(match.candidate),
            changes=tuple(_change(each) for each in differences[:MAX_CHANGES]),
        )
    by_value = min(matches, key=lambda match: len(match.differing))
    title, pcrs = _title(by_value.candidate), ", ".join(map(str, by_value.differing))
    finding = Finding(reason=Reason.PCR_MISMATCH, detail=f"{title}: PCR {pcrs}")
    return Explanation(findings=(finding,), nearest=title)


def withdrawn(match: Match, references: Sequence[ReferenceSet]) -> Finding:
    """Name the set that a box still runs although this site no longer accepts it."""
    reference = match.candidate.reference
    was = "withdrawn" if reference.state is SetState.WITHDRAWN else "replaced"
    served = next((each for each in references if each.state is SetState.SERVED), None)
    current = f" (current is {_name(served)})" if served is not None else ""
    return Finding(
        reason=Reason.BOOT_SET_WITHDRAWN,
        detail=reference.digest.hex(),
        told=f"This box still runs boot set {_name(reference)}, which was {was}{current}:"
        " start it again from the network.",
    )


def _change(difference: Difference) -> Change:
    return Change(
        pcr=difference.pcr,
        kind=difference.kind.value,
        label=difference.label,
        expected=difference.expected,
        measured=difference.measured,
        expected_text=difference.expected_text,
        text=difference.text,
        claim=difference.claim,
    )


def _nearest(
    matches: Sequence[Match], log: EventLog, bank: str
) -> tuple[Match, tuple[Difference, ...]] | None:
    """Compare with the sets that may be accepted first, so that the sentence names what is due."""
    compared: list[tuple[Match, Comparison]] = []
    for match in sorted(matches, key=lambda one: not one.candidate.reference.state.acceptable):
        try:
            compared.append((match, compare(log, match.candidate.prediction, bank)))
        except EvidenceError:
            continue
    different = [(match, found) for match, found in compared if found.differences]
    if not different:
        return None
    match, found = max(different, key=lambda pair: pair[1].matched)
    return match, found.differences


def _findings(
    differences: Iterable[Difference], bank: str, references: Sequence[ReferenceSet]
) -> tuple[Finding, ...]:
    found: dict[Reason, Finding] = {}
    for difference in differences:
        reason = REASONS[difference.subject]
        if reason not in found:
            told = _older_initrd(difference, bank, references)
            found[reason] = Finding(reason=reason, detail=describe(difference), told=told)
    if Reason.LOADER_UNKNOWN in found:
        # Another shim brings its own key lists, so PCR 14 says nothing about the owner's keys.
        found.pop(Reason.MOK_ENROLLED, None)
    return tuple(found.values())


def describe(difference: Difference) -> str:
    """Tell one difference in a line: what, expected, measured; claims are marked as such."""
    parts = [f"PCR {difference.pcr}: {difference.label} {difference.kind.value}"]
    if difference.expected is not None:
        parts.append(f"expected {difference.expected.hex()}")
    if difference.expected_text:
        parts.append(f"expected text {difference.expected_text[:_MAX_TEXT]!r}")
    if difference.measured is not None:
        parts.append(f"measured {difference.measured.hex()}")
    if difference.text:
        parts.append(f"measured text {difference.text[:_MAX_TEXT]!r}")
    if difference.claim:
        parts.append(f"the box calls it {difference.claim[:_MAX_TEXT]!r} (unproven)")
    return "; ".join(parts)


def _older_initrd(difference: Difference, bank: str, references: Sequence[ReferenceSet]) -> str:
    if difference.subject is not Subject.INITRD:
        return ""
    for reference in references:
        if reference.state.acceptable:
            continue
        if any(known[bank] == difference.measured for known in _initrds(reference)):
            return (
                f"The box loaded the initrd of boot set {_name(reference)}, which this site no"
                " longer accepts."
            )
    return ""


def _initrds(reference: ReferenceSet) -> tuple[Digests, ...]:
    facts = reference.facts
    if isinstance(facts, FileFacts):
        return facts.initrds
    if isinstance(facts, IpxeFacts):
        return (facts.initrd_loaded,)
    return tuple(part.content for part in facts.sections if part.name == ".initrd")


def _name(reference: ReferenceSet) -> str:
    return f"{reference.version} ({reference.name})"


def _title(candidate: Candidate) -> str:
    return f"boot set {_name(candidate.reference)} by {candidate.transport.value}"
