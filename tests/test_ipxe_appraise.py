"""Boots by iPXE as they are appraised, and whose Secure Boot may be off."""

import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path

import make_ipxe_vectors
import pytest
from test_vectors import evidence_of

from attest.appraise import appraise
from attest.bootfacts import facts_from_json
from attest.ekcert import decode_anchors
from attest.evidence import AttestationResult
from attest.expectation import BoxRecord, Expectation, ReferenceSet, SetState
from attest.imagefacts import digests
from attest.policy import Policy
from attest.predict import Transport

VECTORS = Path(__file__).parent / "vectors"
ALL = sorted((VECTORS / "ipxe").glob("*.toml"))
BOOTS = {
    **tomllib.loads((VECTORS / "eventlog" / "boots.toml").read_text()),
    "debian13-ipxe": {"facts": "facts-debian13-ipxe.json", "transport": "ipxe", "server": ""},
}


@cache
def load(name: str) -> dict:
    return tomllib.loads((VECTORS / "ipxe" / f"{name}.toml").read_text())


def expectation_of(vector: dict) -> Expectation:
    sets = tuple(
        ReferenceSet(
            digest=bytes([version]) * 32,
            name="enrol",
            version=version,
            state=SetState(vector["state"]),
            facts=facts_from_json((VECTORS / "eventlog" / BOOTS[name]["facts"]).read_text()),
            transports=(Transport(BOOTS[name]["transport"]),),
            servers=(BOOTS[name]["server"],),
        )
        for version, name in enumerate(vector["sets"], 7)
    )
    files = [(f"anchor-{n}", bytes.fromhex(der)) for n, der in enumerate(vector["anchors"])]
    return Expectation(
        sets=sets,
        anchors=decode_anchors(files, rehearsal=False),
        record=BoxRecord(**vector["record"]),
    )


def judge(vector: dict) -> AttestationResult:
    policy = Policy.from_toml(vector["policy"])
    return appraise(evidence_of(vector), expectation_of(vector), policy, vector["now"])


@pytest.mark.parametrize("name", [path.stem for path in ALL])
def test_a_boot_by_ipxe_is_judged_as_its_vector_says(name: str) -> None:
    vector = load(name)
    result = judge(vector)
    told = [(each.reason.code, each.detail) for each in result.findings]
    gating = [each.reason.code for each in result.findings if each.reason.gates]
    assert (gating or [""])[0] == vector["expect"], told
    assert result.verdict.value == vector["verdict"], told
    assert [each.reason.code for each in result.released] == vector["released"]


def test_where_nobody_knows_the_box_no_role_of_it_counts() -> None:
    vector = load("role-named")
    unknown = replace(expectation_of(vector), record=None)
    result = appraise(
        evidence_of(vector), unknown, Policy.from_toml(vector["policy"]), vector["now"]
    )
    assert [each.reason.code for each in result.findings] == ["SECURE-BOOT-OFF"]


def test_the_vectors_are_those_that_are_made() -> None:
    made = make_ipxe_vectors.files()
    kept = {path.name: path.read_bytes() for path in (VECTORS / "ipxe").iterdir()}
    assert kept == made


def test_the_set_that_matched_says_how_it_was_started() -> None:
    for name in ("role-named", "beside-a-grub-set"):
        found = judge(load(name)).boot_set
        assert found is not None
        assert (found.transport, found.server) == ("ipxe", "")


def test_an_initrd_of_a_withdrawn_set_is_named() -> None:
    vector = load("initrd-changed")
    expectation = expectation_of(vector)
    assert expectation.sets is not None
    (served,) = expectation.sets
    facts = replace(served.facts, initrd_loaded=digests(b"another"), command_line="vmlinuz other")
    older = ReferenceSet(
        digest=b"o" * 32,
        name="enrol",
        version=3,
        state=SetState.WITHDRAWN,
        facts=facts,
        transports=(Transport.IPXE,),
        servers=("",),
    )
    result = appraise(
        evidence_of(vector),
        Expectation(sets=(served, older), anchors=expectation.anchors, record=expectation.record),
        Policy.from_toml(vector["policy"]),
        vector["now"],
    )
    assert result.findings[0].sentence.startswith(
        "The box loaded the initrd of boot set 3 (enrol), which this site no longer accepts"
    )


def test_an_expectation_with_such_a_set_is_read_as_it_was_written() -> None:
    expectation = expectation_of(load("role-named"))
    again = Expectation.from_json(expectation.to_json(), rehearsal=False)
    assert again == expectation
    assert again.digest == expectation.digest
    nameless = expectation_of(load("role-not-of-the-note"))
    assert '"role"' not in nameless.to_json()
    assert nameless.digest != expectation.digest
