"""What appraisal puts together: releases, counters, banks, unified images, explanations."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace

import forge
import ima_forge
import pytest
from eventlog_forge import encode, with_events
from test_attest_elsewhere import BARE, GOOD, KNOWN, NOTHING, POLICY, judged, signed, with_ima
from test_vectors import VECTORS, evidence_of, expectation_of, judge, load

from attest import eventlog
from attest.bootfacts import FileFacts, facts_from_json
from attest.bootmatch import Candidate, Match, unknown_variables
from attest.counters import Since
from attest.eventlog import Event, EventType
from attest.evidence import Verdict
from attest.expectation import BoxRecord, Expectation, ReferenceSet, SetState
from attest.explain import explain_mismatch
from attest.policy import Policy
from attest.predict import Transport
from attest.prediction import Prediction, Step, Subject
from attest.reasons import Reason
from attest.replay import replay
from attest.ukifacts import UkiFacts

LOGS = VECTORS / "eventlog"
UKIS = tomllib.loads((LOGS / "ukis.toml").read_text())
FIRMWARE = 0x2000_1234_0000_0001


def recorded(**record: object) -> Expectation:
    return replace(KNOWN, record=BoxRecord(listed=True, **record))


def values_of(log: bytes, *banks: str) -> Mapping[str, Mapping[int, bytes]]:
    decoded = eventlog.decode(log)
    return {bank: {i: replay(decoded, bank)[i] for i in range(16)} for bank in banks}


def booted(log: bytes, facts: FileFacts | UkiFacts, *ways: Transport) -> Expectation:
    reference = ReferenceSet(
        digest=bytes(32),
        name="other",
        version=3,
        state=SetState.SERVED,
        facts=facts,
        transports=ways,
        servers=("10.77.0.1",),
    )
    return replace(KNOWN, sets=(reference,))


def test_a_note_releases_what_a_note_may_and_nothing_else() -> None:
    found = judged(known=recorded(note_names_ek=True, differences=("memory",)))
    assert found.verdict is Verdict.HELD
    assert found.reasons == {Reason.FACTS_DIFFER}
    strangers = replace(KNOWN.anchors, certificates=())
    noted = replace(recorded(note_names_ek=True), anchors=strangers)
    assert judged(known=noted).verdict is Verdict.ACCEPTED
    assert judged(known=replace(recorded(), anchors=strangers)).reasons == {Reason.EK_UNKNOWN}


def test_the_tpm_firmware_is_compared_and_told() -> None:
    assert judged(known=recorded(tpm_firmware=FIRMWARE)).findings == ()
    assert judged(known=recorded(tpm_firmware=7)).reasons == {Reason.TPM_FIRMWARE_CHANGED}
    assert judged().firmware_version == FIRMWARE


def test_a_record_with_one_counter_alone_is_compared_by_it() -> None:
    assert judged(known=recorded(reset_count=11)).since is Since.REBOOT
    assert judged(known=recorded(reset_count=13)).reasons == {Reason.COUNTER_BACK}
    assert judged(known=recorded(reset_count=12, clock=1)).since is Since.RESUMED


def test_what_was_tolerated_of_a_certificate_is_told() -> None:
    result = judge(load(VECTORS / "attest" / "ek-certificate-without-usage.toml"))
    assert result.verdict is Verdict.ACCEPTED
    assert any("key usage" in each for each in result.workarounds)


def test_a_session_quotes_sha256_whatever_else_it_quotes() -> None:
    log = (LOGS / "uki257-banks.bin").read_bytes()
    for bank in ("sha384", "sha512"):
        made = forge.evidence(log, values=values_of(log, bank))
        assert judged(made).reasons >= {Reason.QUOTE_SELECTION}


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384", "sha512"])
def test_one_bank_of_elsewhere_is_read(bank: str) -> None:
    log = (LOGS / "uki257-banks.bin").read_bytes()
    values = values_of(log, bank)
    quote = signed(forge.Box().attest(forge.quote_info(values), GOOD.nonce).encode())
    result = judged(replace(BARE, event_log=log, quotes=(quote,), pcrs=values), NOTHING, None)
    expected = {Reason.BANK_SHA1_ONLY} if bank == "sha1" else set()
    assert {each for each in result.reasons if each.gates} == expected
    lenient = Policy(sha1_alone=True)
    again = judged(replace(BARE, event_log=log, quotes=(quote,), pcrs=values), NOTHING, lenient)
    assert not {each for each in again.reasons if each.gates}


def test_an_unknown_secure_boot_state_matters_where_something_is_demanded() -> None:
    vector = load(VECTORS / "attest" / "secure-boot-unknown.toml")
    evidence, known = evidence_of(vector), expectation_of(vector)
    bare = replace(evidence, ek_public=None, device=None, device_public=None)
    quiet = judged(bare, NOTHING, None)
    assert not any(each.gates for each in quiet.reasons)
    assert any(each.startswith("Secure Boot and its keys") for each in quiet.not_checked)
    lenient = replace(POLICY, secure_boot_required=False)
    assert Reason.SECURE_BOOT_UNPROVED not in judged(bare, NOTHING, lenient).reasons
    assert Reason.SECURE_BOOT_UNPROVED in judged(bare, NOTHING, POLICY).reasons
    assert Reason.SECURE_BOOT_UNPROVED in judged(evidence, known, lenient).reasons


def test_a_kernels_list_must_be_true_without_a_boot_set_too() -> None:
    evidence, known = with_ima(ima_forge.modules(), ima_forge.MODULES)
    bare = replace(known, sets=None)
    cut = evidence.ima_log[: len(evidence.ima_log) // 2]
    shorter = ima_forge.encode(ima_forge.make_list([ima_forge.aggregate(evidence.pcrs)]))
    assert judged(replace(evidence, ima_log=cut), bare).reasons == {Reason.IMA_MALFORMED}
    assert judged(replace(evidence, ima_log=shorter), bare).reasons == {Reason.IMA_REPLAY}
    broken = ima_forge.make_entry(bytes(32), "a file", violation=True)
    evidence, _ = with_ima([broken], {})
    assert judged(evidence, bare).reasons == {Reason.IMA_VIOLATION}


@pytest.mark.parametrize("name", ["uki257", "uki257-cd", "uki257-banks", "uki252", "uki262"])
def test_a_unified_image_is_a_boot_set(name: str) -> None:
    boot = UKIS[name]
    log = (LOGS / boot["log"]).read_bytes()
    facts = facts_from_json((LOGS / boot["facts"]).read_text())
    assert isinstance(facts, UkiFacts)
    evidence = forge.evidence(log, values=values_of(log, *boot["values"]))
    result = judged(evidence, booted(log, facts, Transport.HTTP, Transport.ISO))
    assert result.verdict is Verdict.ACCEPTED, [str(each) for each in result.findings]
    assert result.boot_set is not None
    assert (result.boot_set.transport, result.boot_set.server) == ("http", "")
    parts = tuple(
        replace(part, content=dict.fromkeys(part.content, bytes(32)))
        if part.name == ".cmdline"
        else part
        for part in facts.sections
    )
    other = judged(evidence, booted(log, replace(facts, sections=parts), Transport.HTTP))
    assert other.reasons == {Reason.COMMAND_LINE_UNKNOWN}
    assert "UKI section .cmdline" in other.findings[0].detail


def test_a_signature_without_certificates_is_passed_over() -> None:
    facts = FileFacts.from_json((LOGS / "facts-debian13-medium.json").read_text())
    odd = replace(facts, signers=((), *facts.signers))
    assert unknown_variables(odd) == unknown_variables(facts)


def test_extra_parameters_of_a_unified_image_are_named() -> None:
    boot = UKIS["uki257-extra-parameters"]
    log = (LOGS / boot["log"]).read_bytes()
    facts = facts_from_json((LOGS / boot["facts"]).read_text())
    evidence = forge.evidence(log, values=values_of(log, "sha256"))
    result = judged(evidence, booted(log, facts, Transport.HTTP))
    assert Reason.EXTRA_PARAMETERS in result.reasons
    assert result.verdict is Verdict.REFUSED


def test_an_older_unified_image_is_named_by_its_initrd() -> None:
    boot = UKIS["uki257"]
    log = (LOGS / boot["log"]).read_bytes()
    facts = facts_from_json((LOGS / boot["facts"]).read_text())
    blank = dict.fromkeys(("sha1", "sha256", "sha384", "sha512"), bytes(32))
    served = replace(
        facts,
        sections=tuple(
            replace(part, content=blank) if part.name == ".initrd" else part
            for part in facts.sections
        ),
    )
    (current,) = booted(log, served, Transport.HTTP).sets or ()
    older = replace(
        current,
        name="old",
        version=2,
        state=SetState.OLDER,
        facts=replace(facts, command_line="another", image=served.image),
    )
    evidence = forge.evidence(log, values=values_of(log, "sha256"))
    result = judged(evidence, replace(KNOWN, sets=(current, older)))
    assert result.findings[0].reason is Reason.INITRD_UNKNOWN
    assert "the initrd of boot set 2 (old)" in result.sentence


@pytest.mark.parametrize("name", ["uki257-by-digest"])
def test_without_a_log_an_image_that_no_key_signed_refuses_and_never_raises(name: str) -> None:
    boot = UKIS[name]
    log = (LOGS / boot["log"]).read_bytes()
    facts = facts_from_json((LOGS / boot["facts"]).read_text())
    evidence = forge.evidence(b"", values=values_of(log, "sha256"))
    result = judged(evidence, booted(log, facts, Transport.HTTP))
    assert result.verdict is Verdict.REFUSED
    assert Reason.VERIFIER_FAULT not in result.reasons


def test_a_set_may_lie_in_any_of_the_drives() -> None:
    log = (LOGS / "debian13-second-cd.bin").read_bytes()
    facts = FileFacts.from_json((LOGS / "facts-debian13-medium.json").read_text())
    evidence = forge.evidence(log)
    result = judged(evidence, booted(log, facts, Transport.ISO))
    assert result.verdict is Verdict.ACCEPTED
    assert result.boot_set is not None
    assert result.boot_set.transport == "iso"


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


@pytest.mark.parametrize("subject", Subject)
def test_a_difference_of_every_subject_has_its_reason(subject: Subject) -> None:
    (reference,) = KNOWN.sets or ()
    step = Step(pcr=15, subject=subject, label="what was due", content=b"x")
    candidate = Candidate(
        reference=reference,
        transport=Transport.TFTP,
        server="10.77.0.1",
        prediction=Prediction(steps=(step,)),
    )
    match = Match(candidate=candidate, differing=(15,), workarounds=())
    log = with_events(eventlog.decode(GOOD.event_log), [])
    (finding,) = explain_mismatch([match], log, "sha256", [reference]).findings
    assert finding.reason is REASONS[subject]
    assert "what was due missing" in finding.detail


def test_a_replaced_set_is_named_beside_the_current_one() -> None:
    (served,) = KNOWN.sets or ()
    older = replace(served, state=SetState.OLDER, version=6)
    accepted = replace(served, state=SetState.ACCEPTED, version=8, servers=("10.0.0.8",))
    current = replace(served, version=9, servers=("10.0.0.9",))
    sentence = judged(known=replace(KNOWN, sets=(older, accepted, current))).sentence
    assert "boot set 6 (enrol), which was replaced (current is 9 (enrol))" in sentence


def test_a_log_of_too_many_events_is_explained_by_values_alone() -> None:
    decoded = eventlog.decode(GOOD.event_log)
    extra = Event(
        pcr=8,
        type=EventType.IPL,
        digests={"sha256": forge.hashlib.sha256(b"x").digest()},
        data=b"grub_cmd: x\0",
    )
    log = encode(with_events(decoded, [*decoded.events[1:], *[extra] * 600]))
    result = judged(forge.evidence(log))
    assert result.reasons == {Reason.PCR_MISMATCH}
    assert "PCR 8" in result.findings[0].detail


def test_an_initrd_that_is_missing_is_one_that_differs() -> None:
    decoded = eventlog.decode(GOOD.event_log)
    events = list(decoded.events[1:])
    last = max(at for at, event in enumerate(events) if event.pcr == 9)
    del events[last]
    result = judged(forge.evidence(encode(with_events(decoded, events))))
    assert result.findings[0].reason is Reason.INITRD_UNKNOWN
    assert result.changes[0].kind == "missing"
