"""Evidence that was not kept whole: what is absent is named, and nothing is good by it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import forge
import ima_forge
import pytest
from test_vectors import VECTORS, evidence_of, expectation_of, load

from attest import eventlog
from attest.appraise import appraise
from attest.baseline import Baseline, FirmwareEntry, Machine
from attest.evidence import AttestationResult, Evidence, Outcome, Signed, Tier, Verdict
from attest.expectation import Expectation, SetState
from attest.ima import replay_ima
from attest.imalog import ImaEntry
from attest.policy import Policy, Rule
from attest.reasons import Reason
from attest.secureboot import key_lists
from attest.variables import variables_from_log
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
    known_ek = replace(BARE, ek_public=GOOD.ek_public, quotes=(broken,), nonce=None)
    assert judged(known_ek, NOTHING, None).reasons == {Reason.QUOTE_STRUCTURE}


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


def test_a_good_certificate_of_another_tpm_vouches_for_nothing() -> None:
    good = forge.evidence(GOOD.event_log, forge.Box(label="box B")).ek_certificates
    strange = evidence_of(load(VECTORS / "attest" / "ek-certificate-strange-ca.toml"))
    known = replace(NOTHING, anchors=KNOWN.anchors)
    for order in ((*good, *strange.ek_certificates), (*strange.ek_certificates, *good)):
        found = judged(replace(BARE, ek_certificates=order), known, None)
        assert Reason.EK_UNKNOWN in found.reasons


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


def test_without_values_a_nonce_need_not_be_known() -> None:
    result = judged(replace(BARE, pcrs=None, nonce=None), NOTHING, None)
    assert result.verdict is Verdict.INCOMPLETE
    assert "what was booted" in missing(result)


def test_a_device_key_hangs_on_what_certifies_it() -> None:
    result = judged(replace(GOOD, nonce=None))
    assert "device key" in missing(result)
    assert not any(each.gates for each in result.reasons)
    assert judged(replace(GOOD, device=None)).reasons == {Reason.DEVICE_KEY}
    assert judged(replace(GOOD, device_public=None)).reasons == {Reason.DEVICE_KEY}


def test_a_set_that_is_accepted_is_matched_before_one_that_is_not() -> None:
    (served,) = KNOWN.sets or ()
    older = replace(served, state=SetState.WITHDRAWN)
    result = judged(known=replace(KNOWN, sets=(older, served)))
    assert result.verdict is Verdict.ACCEPTED
    refused = judged(known=replace(KNOWN, sets=(older, replace(served, servers=("10.0.0.9",)))))
    assert refused.reasons == {Reason.BOOT_SET_WITHDRAWN}
    assert "(current is 7 (enrol))" in refused.sentence


def test_a_part_of_the_pcrs_is_compared_and_never_accepted() -> None:
    few = {"sha256": {index: GOOD.pcrs["sha256"][index] for index in range(8)}}
    box = forge.Box()
    quote = signed(box.attest(forge.quote_info(few), GOOD.nonce).encode())
    result = judged(replace(BARE, quotes=(quote,), pcrs=few))
    assert result.verdict is Verdict.INCOMPLETE
    assert result.pcrs[4] is Outcome.EQUAL
    assert result.pcrs[9] is Outcome.UNCHECKED
    assert "PCR 0 to 10 are not all quoted" in missing(result)


def test_the_firmware_is_judged_where_a_baseline_is_given() -> None:
    bare = judged(known=replace(KNOWN, record=None))
    assert "the firmware (no baseline is given)" in missing(bare)
    entry = FirmwareEntry(
        machine=Machine(vendor="V", model="M", version="1"), values={"sha256": {0: bytes(32)}}
    )
    known = replace(KNOWN, record=None, baseline=Baseline(entries=(entry,)))
    assert Reason.FIRMWARE_UNKNOWN in judged(known=known, policy=Policy()).reasons


def test_keys_that_a_policy_asks_about_are_proved_by_a_log() -> None:
    without = forge.evidence(b"", values=GOOD.pcrs)
    assert judged(without).reasons == {Reason.LOG_MISSING}
    some = frozenset({bytes(32)})
    for policy in (replace(POLICY, allowed_keys=some), replace(POLICY, dbx_minimum=some)):
        assert judged(without, policy=policy).reasons >= {Reason.SECURE_BOOT_UNPROVED}
        elsewhere = judged(replace(BARE, event_log=None), NOTHING, policy)
        assert not any(each.gates for each in elsewhere.reasons)


def test_known_firmware_is_what_a_verified_box_needs() -> None:
    values = GOOD.pcrs["sha256"]
    keys = key_lists(variables_from_log(eventlog.decode(GOOD.event_log), "sha256")).fingerprints
    machine = Machine(vendor="V", model="M", version="1")
    entry = FirmwareEntry(
        machine=machine,
        values={"sha256": {i: values[i] for i in (0, 2, 3, 6)}},
        keys=keys,
        source="headquarters",
    )
    facts = {"sys_vendor": "V", "product_name": "M", "bios_version": "1"}
    box = forge.evidence(GOOD.event_log)
    made = replace(box, facts=json.dumps({"smbios": facts}).encode())
    known = replace(KNOWN, baseline=Baseline(entries=(entry,)))
    result = judged(made, known, Policy())
    assert result.tier is Tier.VERIFIED
    assert result.verdict is Verdict.ACCEPTED
    assert result.firmware_source == "headquarters"
    strict = replace(Policy(), allowed_keys=frozenset())
    assert judged(made, known, strict).verdict is Verdict.ACCEPTED
    assert judged(replace(made, facts=b"{}"), known, strict).reasons >= {Reason.SECURE_BOOT_KEYS}
    assert judged(made, KNOWN, strict).reasons >= {Reason.SECURE_BOOT_KEYS}
    assert judged(made, KNOWN, Policy()).verdict is Verdict.HELD
    lenient = replace(Policy(), rules={**Policy().rules, **dict.fromkeys((0, 2, 3, 6), Rule.LOG)})
    assert judged(made, KNOWN, lenient).tier is Tier.PROVISIONAL


def with_ima(entries: list[ImaEntry], modules: dict[str, bytes]) -> tuple[Evidence, Expectation]:
    """Boot the good box once more, with a kernel that measured what it loaded."""
    values = dict(GOOD.pcrs["sha256"])
    aggregate = ima_forge.aggregate({"sha256": values})
    listed = ima_forge.make_list([aggregate, *entries])
    *_, values[10] = replay_ima(listed, "sha256")
    made = forge.evidence(GOOD.event_log, values={"sha256": values})
    (served,) = KNOWN.sets or ()
    contents = tuple(ima_forge.digests(content) for content in modules.values())
    known = replace(served, facts=replace(served.facts, modules=contents))
    return replace(made, ima_log=ima_forge.encode(listed)), replace(KNOWN, sets=(known,))


def test_what_the_kernel_loaded_is_part_of_the_boot_set() -> None:
    entries = [
        ima_forge.make_entry(hashlib.sha256(content).digest(), name)
        for name, content in ima_forge.MODULES.items()
    ]
    evidence, known = with_ima(entries, ima_forge.MODULES)
    result = judged(evidence, known)
    assert result.verdict is Verdict.ACCEPTED
    assert result.pcrs[10] is Outcome.EQUAL
    fewer = {name: content for name, content in ima_forge.MODULES.items() if name != "virtio_net"}
    evidence, known = with_ima(entries, fewer)
    assert judged(evidence, known).reasons == {Reason.MODULE_UNKNOWN}
    elsewhere = judged(evidence, replace(known, sets=None))
    assert not any(each.gates for each in elsewhere.reasons)
    assert "no boot set to compare with" in missing(elsewhere)
    assert "ima.bin" in missing(judged(replace(evidence, ima_log=None), known))
    assert "ima.bin" not in missing(judged(BARE, NOTHING, None))


def test_a_kernel_that_should_measure_does() -> None:
    (served,) = KNOWN.sets or ()
    module = ima_forge.digests(b"a module")
    known = replace(KNOWN, sets=(replace(served, facts=replace(served.facts, modules=(module,))),))
    assert judged(known=known).reasons == {Reason.IMA_MISSING}
    off = load(VECTORS / "attest" / "secure-boot-off.toml")
    (unsafe,) = expectation_of(off).sets or ()
    facts = replace(unsafe.facts, modules=(module,))
    result = judged(
        evidence_of(off), replace(expectation_of(off), sets=(replace(unsafe, facts=facts),))
    )
    assert result.reasons == {Reason.SECURE_BOOT_OFF}


def test_workarounds_of_the_kernels_list_are_told() -> None:
    entry = ima_forge.make_entry(hashlib.sha1(b"a module").digest(), "a module", algorithm="sha1")
    evidence, known = with_ima([entry], {"a module": b"a module"})
    result = judged(evidence, known)
    assert result.verdict is Verdict.ACCEPTED
    assert any("SHA-1" in each for each in result.workarounds)


def test_a_list_that_is_none_is_refused_with_and_without_a_boot_set() -> None:
    evidence, known = with_ima([], {})
    for sets in (known.sets, None):
        found = judged(replace(evidence, ima_log=b"\1"), replace(known, sets=sets))
        assert found.reasons == {Reason.IMA_MALFORMED}
