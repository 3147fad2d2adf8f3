"""Evidence that was not kept whole: what is absent is named, and nothing is good by it."""

from collections.abc import Callable
from dataclasses import replace

import forge
import pytest
from eventlog_forge import encode, with_events
from test_vectors import VECTORS, evidence_of, expectation_of, load

from attest import eventlog
from attest.appraise import appraise
from attest.evidence import AttestationResult, Evidence, Outcome, Signed, Tier, Verdict
from attest.expectation import Expectation
from attest.policy import Policy
from attest.reasons import Reason
from attest.wire import encode_signature

VECTOR = load(VECTORS / "attest" / "accepted.toml")
GOOD, KNOWN = evidence_of(VECTOR), expectation_of(VECTOR)
POLICY = Policy.from_toml(VECTOR["policy"])
NOTHING = Expectation(sets=None, anchors=None, record=None)
BARE = replace(GOOD, ek_public=None, device_public=None, device=None, facts=None, ima_log=None)


def judged(
    evidence: Evidence = GOOD, known: Expectation = KNOWN, policy: Policy | None = POLICY
) -> AttestationResult:
    return appraise(evidence, known, policy, VECTOR["now"])


def missing(result: AttestationResult) -> str:
    return "; ".join(result.not_checked)


def signed(data: bytes) -> Signed:
    key = forge.private_key("ak of box A")
    return Signed(attest=data, signature=encode_signature(forge.sign(key, data)))


ABSENT: dict[str, tuple[Callable[[], AttestationResult], str]] = {
    "nonce": (lambda: judged(replace(GOOD, nonce=None, device=None, device_public=None)), "nonce"),
    "attestation key": (lambda: judged(replace(GOOD, ak_public=None)), "ak.pub"),
    "endorsement key": (
        lambda: judged(replace(GOOD, ek_public=None, ek_certificates=())),
        "ek.pub",
    ),
    "quotes": (lambda: judged(replace(GOOD, quotes=None)), "quote*.attest"),
    "values": (lambda: judged(replace(GOOD, pcrs=None)), "pcrs.json"),
    "log": (lambda: judged(replace(GOOD, event_log=None)), "eventlog.bin"),
    "device key": (lambda: judged(replace(GOOD, device=None, device_public=None)), "device.pub"),
    "boot sets": (lambda: judged(known=replace(KNOWN, sets=None)), "no boot set is given"),
    "anchors": (lambda: judged(known=replace(KNOWN, anchors=None)), "trust anchors"),
    "record": (lambda: judged(known=replace(KNOWN, record=None)), "what the site knows"),
    "policy": (lambda: judged(known=replace(KNOWN, record=None), policy=None), "policy.toml"),
}


@pytest.mark.parametrize(("judge", "name"), ABSENT.values(), ids=ABSENT)
def test_what_is_absent_is_named_and_keeps_the_verdict_open(
    judge: Callable[[], AttestationResult], name: str
) -> None:
    result = judge()
    assert name in missing(result)
    assert result.verdict is Verdict.INCOMPLETE
    assert result.tier is Tier.NOT_VERIFIED
    assert result.sentence.startswith("Nothing speaks against this box, but")


def test_nothing_is_missing_of_a_session() -> None:
    result = judged()
    assert GOOD.is_whole
    assert not result.not_checked
    assert result.verdict is Verdict.ACCEPTED
    assert result.sentence == (
        "The box runs what this site serves; its firmware is not confirmed yet."
    )


def test_a_lie_is_refused_however_much_is_missing() -> None:
    assert judged(replace(BARE, nonce=bytes(32)), NOTHING, None).reasons == {Reason.QUOTE_NONCE}
    assert judged(replace(BARE, pcrs=None, nonce=bytes(32)), NOTHING, None).reasons == {
        Reason.QUOTE_NONCE
    }
    assert judged(replace(BARE, event_log=b"\1\2", pcrs=None), NOTHING, None).reasons == {
        Reason.LOG_MALFORMED
    }
    cut = GOOD.quotes[0]
    broken = replace(cut, attest=cut.attest[:-1])
    for pcrs in (GOOD.pcrs, None):
        for nonce in (GOOD.nonce, None):
            found = judged(replace(BARE, quotes=(broken,), pcrs=pcrs, nonce=nonce), NOTHING, None)
            assert found.verdict is Verdict.REFUSED
            assert found.findings[0].reason in (Reason.QUOTE_STRUCTURE, Reason.QUOTE_SIGNATURE)


def test_without_values_it_is_still_a_quote_of_the_right_key() -> None:
    bare = replace(BARE, pcrs=None)
    assert judged(bare, NOTHING, None).verdict is Verdict.INCOMPLETE
    certified = replace(bare, quotes=(GOOD.device,), nonce=None)
    assert judged(certified, NOTHING, None).reasons == {Reason.QUOTE_STRUCTURE}
    box = forge.Box()
    info = forge.quote_info(forge.values_of(GOOD.event_log))
    other = signed(box.attest(info, GOOD.nonce, qualified_signer=b"\0\x0b" + bytes(32)).encode())
    for pcrs in (None, GOOD.pcrs):
        found = judged(replace(BARE, quotes=(other,), pcrs=pcrs), NOTHING, None)
        assert found.reasons == {Reason.AK_NOT_UNDER_EK}


def test_an_ek_computed_from_its_certificate_must_have_made_the_ak() -> None:
    known = replace(NOTHING, anchors=KNOWN.anchors)
    assert judged(BARE, known, None).tpm == "id:4E544300 NPCT75x id:00070002"
    other = forge.evidence(GOOD.event_log, forge.Box(label="box B"))
    stolen = replace(BARE, ek_certificates=other.ek_certificates)
    assert judged(stolen, known, None).reasons == {Reason.AK_NOT_UNDER_EK}
    both = replace(BARE, ek_certificates=(*other.ek_certificates, *GOOD.ek_certificates))
    assert not any(each.gates for each in judged(both, NOTHING, None).reasons)
    unreadable = replace(BARE, ek_certificates=(b"none", *GOOD.ek_certificates))
    assert not any(each.gates for each in judged(unreadable, NOTHING, None).reasons)


def test_other_selections_are_taken_and_told_but_not_in_a_session() -> None:
    values = forge.values_of(GOOD.event_log)
    few = {"sha256": {index: values["sha256"][index] for index in range(8)}}
    more = {"sha256": {**values["sha256"], 16: bytes(32), 23: bytes(32)}}
    box = forge.Box()
    for pcrs, left_out in ((few, "PCR 8, 9, 10, 11, 12, 13, 14, 15 (not quoted)"), (more, "")):
        quote = signed(box.attest(forge.quote_info(pcrs), GOOD.nonce).encode())
        partial = replace(BARE, quotes=(quote,), pcrs=pcrs)
        result = judged(partial, NOTHING, None)
        assert result.verdict is Verdict.INCOMPLETE, result.findings
        assert left_out in missing(result)
        assert result.values == pcrs
        whole = judged(replace(GOOD, quotes=(quote,), pcrs=pcrs))
        assert whole.reasons >= {Reason.QUOTE_SELECTION}


def test_without_a_policy_nothing_is_demanded_of_secure_boot() -> None:
    off = load(VECTORS / "attest" / "secure-boot-off.toml")
    evidence = evidence_of(off)
    assert Reason.SECURE_BOOT_OFF not in judged(evidence, NOTHING, None).reasons
    assert Reason.SECURE_BOOT_OFF in judged(evidence, NOTHING, POLICY).reasons


def test_what_the_kernel_loaded_is_checked_as_far_as_it_goes() -> None:
    extended = bytes([7]) * 32
    decoded = eventlog.decode(GOOD.event_log)
    log = encode(with_events(decoded, list(decoded.events[1:])))
    values = {"sha256": {**forge.values_of(log)["sha256"], 10: extended}}
    made = forge.evidence(log, values=values)
    elsewhere = replace(made, ek_public=None, device=None, device_public=None, ima_log=None)
    assert "ima.bin" in missing(judged(elsewhere, NOTHING, None))
    told = judged(replace(elsewhere, ima_log=b"\1"), NOTHING, None)
    assert told.reasons == {Reason.IMA_MALFORMED}
    assert "no boot set to compare with" in missing(told)
    inside = judged(made)
    assert inside.reasons == {Reason.IMA_MISSING}
    assert inside.pcrs[10] is Outcome.UNCHECKED
