"""What a box booted: banks, log, boot set, Secure Boot keys, firmware and kernel modules.

Values decide; the log proves key databases and names what differed. It raises on nothing a box
sent but a broken rule of its own order (`attest.appraise` turns that into a finding). TCG PFP 1.06,
3.3.4 (PCR use); the rules of each PCR are in docs/verifier.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attest.baseline import Baseline, Machine
from attest.bootmatch import (
    WITHOUT_LOG,
    Match,
    candidates,
    compare_values,
    known_variables,
    switched_off,
    unknown_variables,
)
from attest.errors import AttestSiteError, EvidenceError
from attest.eventlog import EventLog, decode
from attest.evidence import BootSetMatch, Change, Evidence, Outcome
from attest.expectation import Expectation, ReferenceSet
from attest.explain import Explanation, explain_mismatch, withdrawn
from attest.firmware import Measured, check_firmware, machine_of
from attest.ima import check_ima
from attest.logcheck import check_log
from attest.policy import BOOT_PCRS, Policy, Rule
from attest.predict import PREDICTED_PCRS
from attest.quote import Values
from attest.reasons import Finding, Reason
from attest.secureboot import KeyLists, check_keys, check_not_forbidden, key_lists
from attest.variables import SecureBootVariables, variables_from_log

_IMA_TRUTH = (Reason.IMA_MALFORMED, Reason.IMA_REPLAY, Reason.IMA_VIOLATION)
_STRONGEST = ("sha384", "sha256", "sha512", "sha1")


@dataclass(slots=True)
class BootChecks:
    """What was found; `match` is set only where one acceptable set fits as a whole."""

    findings: list[Finding] = field(default_factory=list)
    workarounds: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    match: BootSetMatch | None = None
    reference: ReferenceSet | None = None
    nearest: str = ""
    changes: tuple[Change, ...] = ()
    pcrs: dict[int, Outcome] = field(default_factory=dict)
    firmware: bytes = b""
    firmware_source: str = ""

    def add(self, reason: Reason, detail: str = "") -> None:
        """Note a finding."""
        self.findings.append(Finding(reason=reason, detail=detail))


def check_boot(
    evidence: Evidence, values: Values, expectation: Expectation, policy: Policy
) -> BootChecks:
    """Check quoted values and logs against the expectation; AttestSiteError where it is empty."""
    checks = BootChecks(pcrs=dict.fromkeys(BOOT_PCRS, Outcome.UNCHECKED))
    if not values:
        checks.not_checked.append("what was booted (no quoted values)")
        _check_form(checks, evidence.event_log)
        return checks
    log = _check_log(checks, evidence.event_log, values)
    bank = next(name for name in _STRONGEST if name in values)
    demanded = policy.secure_boot_required or expectation.sets is not None
    variables = _variables(checks, log, bank, demanded=demanded)
    if variables is not None and policy.secure_boot_required and not variables.secure_boot:
        checks.add(Reason.SECURE_BOOT_OFF)
    lists = None if variables is None else _keys(checks, variables)
    if expectation.sets is None:
        checks.not_checked.append("which boot set it ran (no boot set is given)")
    elif not expectation.sets:
        raise AttestSiteError("no boot set is known here")
    else:
        _check_sets(checks, values, log, variables, bank, expectation.sets, policy)
    machine = machine_of(evidence.facts)
    if lists is not None:
        allowed = _allowed_keys(policy, expectation.baseline, machine)
        checks.findings += check_keys(lists, allowed, policy.dbx_minimum)
        if checks.reference is not None:
            checks.findings += check_not_forbidden(lists, checks.reference.facts)
    elif evidence.event_log is not None and (policy.allowed_keys is not None or policy.dbx_minimum):
        checks.add(Reason.SECURE_BOOT_UNPROVED, "no log proves the keys that the policy asks about")
    keys = frozenset() if lists is None or policy.allowed_keys is not None else lists.fingerprints
    measured = Measured(values=values, log=log, keys=keys)
    _check_firmware(checks, measured, machine, expectation, policy)
    secure_boot = variables is not None and variables.secure_boot
    _check_ima(checks, evidence.ima_log, values, secure_boot=secure_boot)
    return checks


def _quoted(values: Values) -> frozenset[int]:
    """Name the PCRs that are quoted in every bank."""
    first, *others = values.values()
    return frozenset(first).intersection(*others)


def _allowed_keys(
    policy: Policy, baseline: Baseline, machine: Machine | None
) -> frozenset[bytes] | None:
    """Add the keys that a machine is delivered with to the policy's list, where it keeps one."""
    if policy.allowed_keys is None:
        return None
    delivered = (entry.keys for entry in baseline.entries if entry.machine == machine)
    return policy.allowed_keys.union(*delivered)


def _check_firmware(
    checks: BootChecks,
    measured: Measured,
    machine: Machine | None,
    expectation: Expectation,
    policy: Policy,
) -> None:
    indices = [index for index, rule in policy.rules.items() if rule is Rule.BASELINE]
    record = expectation.record
    if record is None and not expectation.baseline.entries:
        checks.not_checked.append("the firmware (no baseline is given)")
        return
    checked = check_firmware(
        measured,
        baseline=expectation.baseline,
        machine=machine,
        indices=indices,
        released=b"" if record is None else record.firmware,
    )
    checks.findings += checked.findings
    checks.pcrs.update(checked.outcomes)
    checks.firmware, checks.firmware_source = checked.digest, checked.source


def _check_ima(
    checks: BootChecks, data: bytes | None, values: Values, *, secure_boot: bool
) -> None:
    """Judge PCR 10; without a boot set only whether the list explains it."""
    if not _quoted(values).issuperset(range(11)):
        checks.not_checked.append("the kernel's measurements (PCR 0 to 10 are not all quoted)")
        return
    extended = any(any(given[10]) for given in values.values())
    if extended and data is None:
        checks.not_checked.append("the kernel's measurements (ima.bin)")
        return
    reference = checks.reference
    modules = () if reference is None else reference.facts.modules
    checked = check_ima(data, values, modules, secure_boot=secure_boot)
    checks.workarounds += checked.workarounds
    if reference is not None:
        checks.findings += checked.findings
        checks.pcrs[10] = checked.outcome
        return
    # Which modules belong to the boot nobody can say; the list must be true all the same.
    checks.not_checked.append("what the kernel loaded (no boot set to compare with)")
    checks.findings += (each for each in checked.findings if each.reason in _IMA_TRUTH)


def _check_log(checks: BootChecks, data: bytes | None, values: Values) -> EventLog | None:
    if data is None:
        checks.not_checked.append("the boot log (eventlog.bin)")
        return None
    checked = check_log(data, values)
    checks.findings += checked.findings
    checks.workarounds += checked.workarounds
    return checked.log


def _check_form(checks: BootChecks, data: bytes | None) -> None:
    """Without quoted values a log can be found to be none, and nothing more."""
    try:
        if data:
            decode(data)
    except EvidenceError as error:
        checks.add(Reason.LOG_MALFORMED, str(error))


def _variables(
    checks: BootChecks, log: EventLog | None, bank: str, *, demanded: bool
) -> SecureBootVariables | None:
    """Read the key databases; where nobody demands anything of them, an odd log is no fault."""
    if log is None:
        return None
    try:
        return variables_from_log(log, bank)
    except EvidenceError as error:
        if demanded:
            checks.add(Reason.SECURE_BOOT_UNPROVED, str(error))
        else:
            checks.not_checked.append(f"Secure Boot and its keys ({error})")
        return None


def _keys(checks: BootChecks, variables: SecureBootVariables) -> KeyLists | None:
    try:
        return key_lists(variables)
    except EvidenceError as error:
        checks.add(Reason.SECURE_BOOT_UNPROVED, str(error))
        return None


def _check_sets(
    checks: BootChecks,
    values: Values,
    log: EventLog | None,
    variables: SecureBootVariables | None,
    bank: str,
    sets: tuple[ReferenceSet, ...],
    policy: Policy,
) -> None:
    # All of them are quoted in a box's own session (`attest.quote.check_coverage`).
    quoted = _quoted(values)
    wanted = PREDICTED_PCRS if variables is not None else WITHOUT_LOG
    indices = tuple([index for index in wanted if index in quoted])
    known = unknown_variables if variables is None else known_variables(variables)
    matches: list[Match] = []
    for candidate in candidates(sets, known):
        matches.append(compare_values(candidate, values, indices))
        if not matches[-1].differing and candidate.reference.state.acceptable:
            _matched(checks, matches[-1], indices, sets)
            return
    whole = next((match for match in matches if not match.differing), None)
    if whole is not None:
        _matched(checks, whole, indices, sets)
        return
    if variables is None and _boots_without_secure_boot(checks, values, sets, policy, indices):
        return
    explained = explain_mismatch(matches, log, bank, sets)
    checks.findings += explained.findings
    _explained(checks, explained)
    nearest = min(matches, key=lambda match: len(match.differing), default=None)
    _outcomes(checks, nearest, indices)


def _explained(checks: BootChecks, explained: Explanation) -> None:
    checks.nearest = explained.nearest
    checks.changes = explained.changes


def _matched(
    checks: BootChecks, match: Match, indices: tuple[int, ...], sets: tuple[ReferenceSet, ...]
) -> None:
    checks.workarounds += match.workarounds
    _outcomes(checks, match, indices)
    checks.reference = match.candidate.reference
    if match.candidate.reference.state.acceptable:
        checks.match = _boot_set(match)
    else:
        checks.findings.append(withdrawn(match, sets))


def _outcomes(checks: BootChecks, match: Match | None, indices: tuple[int, ...]) -> None:
    if match is not None:
        for index in indices:
            equal = index not in match.differing
            checks.pcrs[index] = Outcome.EQUAL if equal else Outcome.DIFFERS


def _boots_without_secure_boot(
    checks: BootChecks,
    values: Values,
    sets: tuple[ReferenceSet, ...],
    policy: Policy,
    indices: tuple[int, ...],
) -> bool:
    """Find out without a log whether the values are those of a set with Secure Boot off.

    GRUB 2.06 hands over no log then, so this is what an honest box with Secure Boot off sends.
    """
    for candidate in candidates(sets, switched_off):
        match = compare_values(candidate, values, indices)
        if match.differing:
            continue
        if policy.secure_boot_required:
            checks.add(Reason.SECURE_BOOT_OFF)
        _matched(checks, match, indices, sets)
        return True
    return False


def _boot_set(match: Match) -> BootSetMatch:
    reference = match.candidate.reference
    return BootSetMatch(
        digest=reference.digest,
        name=reference.name,
        version=reference.version,
        transport=match.candidate.transport.value,
        server=match.candidate.server,
    )
