"""A box that renews: is it in the boot that it was handed over to, as it was then?

Pure: what was kept of its bundles, what it shows now and what appraisal says of that in, one
decision out. Nothing of it makes a renewal easier than an enrolment: appraisal judged the same
evidence by the same rules before. docs/phone-home-v1.md, "Renewal".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from attest.expectation import SetState
from attest.reasons import Reason
from attest.transcript import digest, opened_value
from bootstrap.cards import age
from bootstrap.enrolment import Finding, Outcome, Release, Stage
from bootstrap.judgement import Judgement, Proved
from bootstrap.rows import BoxRow

RENEWS = (Stage.ENROLLED, Stage.READY, Stage.STALE)
"""Where a box may renew. A stale one too: a controller that was away must not restart its site."""
KERNEL_PCR, OPENED_PCR = 10, 15
"""The two that go on while a box runs: IMA's list explains one, its bundles explain the other."""
LATE, MARGIN = 1.5, 60.0
"""After so many times its renewal, and so many seconds more, a box is overdue."""
GRACE = 600.0
"""So long after its own start control calls nobody overdue: boxes could not have renewed."""

_OTHER_BOOT = Finding(
    code="RENEWAL-OTHER-BOOT",
    sentence="The TPM of this box was restarted since its hand-over: start the box again.",
    release=Release.NEVER,
)
_OTHER_KEYS = Finding(
    code="RENEWAL-OTHER-KEYS",
    sentence="The keys of this box are not those of its hand-over: start the box again.",
    release=Release.NEVER,
)
_CLOCK = Finding(
    code=Reason.COUNTER_BACK.code, sentence=Reason.COUNTER_BACK.sentence, release=Release.NEVER
)
_CHANGED = Finding(
    code=Reason.PCR_MISMATCH.code,
    sentence="A measurement of the boot changed while this box ran: start the box again.",
    release=Release.NEVER,
)
_OLD_SET = Finding(
    code="BOOT-SET-OLD",
    sentence="This box runs a boot set that this site no longer accepts: start the box again.",
    release=Release.PERSON,
)
OVERDUE = Finding(
    code="RENEWAL-OVERDUE",
    sentence="It did not renew its certificate in time",
    release=Release.FREE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """One bundle that a box was given, and what it showed for it.

    `keys` and `base` are digests: of AK, device key and SSH host key, and of PCR 0 to 9 and 11 to
    14 of all banks. `before` is PCR 15 as quoted, by bank. `reasons` were released by a person.
    """

    session: bytes
    box: str
    transcript: bytes
    reset_count: int
    restart_count: int
    boot_set: bytes
    keys: bytes
    base: bytes
    before: Mapping[str, bytes]
    reasons: frozenset[str] = frozenset()

    @property
    def after(self) -> Mapping[str, bytes]:
        """Give PCR 15 by bank, once the box opened it."""
        return {
            bank: opened_value(bank, value, self.transcript) for bank, value in self.before.items()
        }

    def same_boot(self, other: Opening) -> bool:
        """Tell whether both are of one boot."""
        return (self.reset_count, self.restart_count) == (other.reset_count, other.restart_count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What a box that renews is told: accepted without a finding, else the finding that counts."""

    outcome: Outcome
    finding: Finding | None = None


def opening_of(
    proved: Proved, judgement: Judgement, boot_set: bytes, reasons: Iterable[str] = ()
) -> Opening:
    """Say what a box showed, to be kept with the bundle that it is given for it.

    Only for evidence whose quotes held: before that nothing of it is true.
    """
    body = proved.evidence
    return Opening(
        session=proved.session.session,
        box="",
        transcript=proved.transcript,
        reset_count=judgement.reset_count or 0,
        restart_count=judgement.restart_count or 0,
        boot_set=boot_set,
        keys=digest(
            "doorstep/v1/renewal-keys", proved.ak_name, body.device_public, body.ssh_host_key
        ),
        base=base_digest(body.pcrs),
        before={bank: values[OPENED_PCR] for bank, values in body.pcrs.items()},
        reasons=frozenset(reasons),
    )


def base_digest(pcrs: Mapping[str, Sequence[bytes]]) -> bytes:
    """Hash what a boot measured once and for all: PCR 0 to 9 and 11 to 14 of every bank."""
    state = hashlib.sha256(b"doorstep/v1/boot-base\0")
    for bank in sorted(pcrs):
        for index, value in enumerate(pcrs[bank]):
            if index not in (KERNEL_PCR, OPENED_PCR):
                state.update(f"{bank}:{index}={value.hex()}\n".encode())
    return state.digest()


def expected_opened(
    openings: Sequence[Opening], pcrs: Mapping[str, Sequence[bytes]], *, forgot: bool = False
) -> Mapping[str, bytes]:
    """Say what PCR 15 must hold by bank, of the bundles of a boot, the newest first.

    A bundle that the box never opened (its answer was lost) is passed over; where none fits, what
    the newest would have left, so that appraisal says that it differs. A site that came out of a
    backup since (`forgot`) may not know the last ones: once, it takes any value that is not zero.
    """
    quoted = {bank: values[OPENED_PCR] for bank, values in pcrs.items()}
    if forgot and all(any(value) for value in quoted.values()):
        return quoted
    fitting = (one.after for one in openings if one.after == quoted)
    return next(fitting, openings[0].after)


def decide(
    openings: Sequence[Opening],
    shown: Opening,
    judgement: Judgement,
    *,
    clock: int | None,
    state: SetState | None,
) -> Decided:
    """Decide about a renewal; `openings` of the last hand-over's boot, the newest first.

    `clock` is that of the TPM when it last had a bundle, in ms. `state` is what the site says now
    of the boot set of the hand-over; None when it is not published any more.
    """
    handover = openings[-1]
    never = [one for one in judgement.findings if one.release is Release.NEVER]
    broken = next((one for one in never if one.code in _UNPROVED), None)
    if broken is not None:
        return Decided(outcome=Outcome.REFUSE, finding=broken)
    if judgement.reset_count is None or not shown.same_boot(handover):
        return Decided(outcome=Outcome.REFUSE, finding=_OTHER_BOOT)
    for wrong, finding in (
        (clock is not None and (judgement.clock or 0) <= clock, _CLOCK),
        (shown.keys != handover.keys, _OTHER_KEYS),
        (shown.base != handover.base, _CHANGED),
    ):
        if wrong:
            return Decided(outcome=Outcome.REFUSE, finding=finding)
    if state is None:
        return Decided(outcome=Outcome.HOLD, finding=_OLD_SET)
    return _by_findings(judgement, never, handover, state)


def _by_findings(
    judgement: Judgement, never: Sequence[Finding], handover: Opening, state: SetState
) -> Decided:
    """Refuse for what the box is; hold for what the site can no longer say of it."""
    old = Reason.BOOT_SET_WITHDRAWN.code
    if state is SetState.OLDER:
        never = [one for one in never if one.code != old]
    own = next((one for one in never if one.code != Reason.VERIFIER_FAULT.code), None)
    if own is not None:
        return Decided(outcome=Outcome.REFUSE, finding=own)
    if state is SetState.OLDER:
        return Decided(outcome=Outcome.HOLD, finding=_OLD_SET)
    gating = (one for one in judgement.findings if one.gates and one.code not in handover.reasons)
    held = next(gating, None)
    if held is not None:
        return Decided(outcome=Outcome.HOLD, finding=held)
    return Decided(outcome=Outcome.ACCEPT)


_UNPROVED = frozenset(
    one.code for one in Reason if Reason.EK_STRUCTURE.rank <= one.rank <= Reason.DEVICE_KEY.rank
)
"""Reasons for which nothing else of the evidence is true."""


def certificate_text(box: BoxRow, now: float) -> str:
    """Say of an enrolled box until when its certificate is good, and how often it renewed.

    Ages in whole hours, so that a card does not change all the time.
    """
    if box.stage not in RENEWS or box.certificate_until is None:
        return ""
    until = datetime.fromtimestamp(box.certificate_until, UTC)
    text = f"until {until:%Y-%m-%d %H:%M} UTC"
    if not box.renewals or box.proved is None:
        return text
    hours = max(0, int((now - box.proved) // 3600))
    ago = "less than 1 h ago" if not hours else f"{age(hours * 3600)} ago"
    times = "once" if box.renewals == 1 else f"{box.renewals} times"
    return f"{text}, renewed {times}, last {ago.replace(' 0 min', '')}"


def is_overdue(box: BoxRow, now: float, started: float) -> bool:
    """Tell whether a box should have renewed long ago; `started`: control, as `now` in seconds."""
    if box.stage not in (Stage.ENROLLED, Stage.READY) or box.renew is None or box.proved is None:
        return False
    late = LATE * box.renew + min(MARGIN, box.renew)
    return now - box.proved > late and now - started > min(GRACE, box.renew)
