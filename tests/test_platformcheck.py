"""Platform certificates beside the EK certificate and the facts of the same box."""

import json
from dataclasses import replace

import ek_forge as make
import forge
import make_ek_vectors as vectors
import pytest
from test_vectors import VECTORS, evidence_of, expectation_of, load

from attest.anchors import decode_anchors
from attest.appraise import appraise
from attest.der import decode_certificate
from attest.evidence import Verdict
from attest.platformcheck import CheckedPlatform, check_platform
from attest.policy import Policy
from attest.reasons import Reason

VECTOR = load(VECTORS / "attest" / "accepted.toml")
EVIDENCE = replace(
    evidence_of(VECTOR),
    ek_certificates=(b"no certificate", make.ek()),
    platform_certificates=(vectors.platform(vectors.V1, vectors.V2),),
    facts=json.dumps(
        {"smbios": {"product_serial": "SN 0815 ", "product_name": "Box 3000"}}
    ).encode(),
)
MACHINES = decode_anchors(
    [("ca", make.ca("Machine CA", "machine maker"))], rehearsal=False, platform=True
)
KNOWN = replace(expectation_of(VECTOR), platform_anchors=MACHINES)
LEAF = decode_certificate(make.ek()).fingerprint


def checked(**changes: object) -> CheckedPlatform:
    return check_platform(replace(EVIDENCE, **changes), KNOWN, LEAF, forge.NOW)


def facts(**smbios: object) -> bytes:
    return json.dumps({"smbios": smbios}).encode()


def test_one_that_holds_says_what_the_machine_is() -> None:
    found = checked()
    assert not found.findings
    assert found.facts == {
        "manufacturer": "Maker of boxes",
        "model": "Box 3000",
        "version": "1.0",
        "serial": "SN 0815",
        "component 0": "Intel I210 serial 7",
        "component 1": found.facts["component 1"],
    }
    assert found.facts["component 1"].startswith("Other")


def test_without_one_there_is_nothing_to_say() -> None:
    bare = replace(EVIDENCE, platform_certificates=())
    for known in (KNOWN, replace(KNOWN, platform_anchors=None)):
        assert check_platform(bare, known, None, forge.NOW) == CheckedPlatform()


def test_without_a_trusted_maker_of_machines_it_counts_for_nothing() -> None:
    known = replace(KNOWN, platform_anchors=None)
    found = check_platform(EVIDENCE, known, LEAF, forge.NOW)
    assert not found.findings
    assert found.facts == {"checked": "no: no maker of machines is trusted here"}


@pytest.mark.parametrize("fingerprint", [None, bytes(32)])
def test_it_needs_the_ek_certificate_that_is_in_use(fingerprint: bytes | None) -> None:
    (finding,) = check_platform(EVIDENCE, KNOWN, fingerprint, forge.NOW).findings
    assert finding.reason is Reason.PLATFORM_CERT


def test_one_that_does_not_hold_says_nothing_of_the_machine() -> None:
    found = checked(platform_certificates=(b"none",))
    assert [each.reason for each in found.findings] == [Reason.PLATFORM_CERT]
    strangers = replace(KNOWN, platform_anchors=replace(MACHINES, certificates=()))
    found = check_platform(EVIDENCE, strangers, LEAF, forge.NOW)
    assert [each.reason for each in found.findings] == [Reason.PLATFORM_CERT]
    assert not found.facts


def test_two_are_both_judged() -> None:
    found = checked(platform_certificates=(b"none", *EVIDENCE.platform_certificates))
    assert [each.reason for each in found.findings] == [Reason.PLATFORM_CERT]
    assert found.facts["model"] == "Box 3000"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (facts(product_serial="SN 0816", product_name="Box 3000"), "serial SN 0815"),
        (facts(product_serial="SN 0815", product_name="Box 4000"), "model Box 3000"),
    ],
)
def test_a_box_that_calls_itself_otherwise_is_found(changed: bytes, told: str) -> None:
    (finding,) = checked(facts=changed).findings
    assert finding.reason is Reason.FACTS_DIFFER
    assert told in finding.detail


@pytest.mark.parametrize(
    "silent",
    [
        None,
        b"",
        b"none",
        b"[]",
        b'{"smbios": null}',
        b'{"smbios": []}',
        facts(),
        facts(product_serial=""),
    ],
)
def test_a_box_that_says_nothing_of_itself_differs_in_nothing(silent: bytes | None) -> None:
    assert not checked(facts=silent).findings


def test_a_certificate_that_names_little_differs_in_nothing() -> None:
    names = tuple(pair for pair in vectors.MACHINE if pair[1] != "SN 0815")
    bare = make.seq(make.tlv(0x0C, b"Maker"), make.tlv(0x0C, b"Model"))
    little = vectors.platform(vectors.configuration(1, bare), names=names)
    found = checked(platform_certificates=(little,), facts=facts(product_serial="SN 0816"))
    assert not found.findings
    assert found.facts == {
        "manufacturer": "Maker of boxes",
        "model": "Box 3000",
        "version": "1.0",
        "component 0": "Maker Model",
    }


def test_appraisal_holds_a_box_for_it_and_tells_it() -> None:
    policy = Policy.from_toml(VECTOR["policy"])
    evidence = replace(evidence_of(VECTOR), platform_certificates=(b"none",))
    result = appraise(evidence, KNOWN, policy, VECTOR["now"])
    assert result.verdict is Verdict.HELD
    assert result.reasons == {Reason.PLATFORM_CERT}
    held = replace(evidence, platform_certificates=EVIDENCE.platform_certificates)
    told = appraise(held, KNOWN, policy, VECTOR["now"])
    assert told.verdict is Verdict.ACCEPTED
    assert told.platform["serial"] == "SN 0815"
    untrusted = replace(KNOWN, platform_anchors=None)
    assert "checked" in appraise(evidence, untrusted, policy, VECTOR["now"]).platform
