"""The vectors of phone-home and appraisal: each is judged as it says, and every reason has one."""

import hashlib
import re
import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path

import make_vectors
import pytest

from attest import transcript
from attest.appraise import appraise
from attest.bootfacts import FileFacts
from attest.counters import Since
from attest.ekcert import decode_anchors
from attest.errors import CheckError
from attest.evidence import Evidence, Outcome, Signed, Verdict
from attest.expectation import BoxRecord, Expectation, ReferenceSet, SetState
from attest.policy import Policy
from attest.predict import Transport
from attest.quote import check_quote
from attest.reasons import Reason
from attest.transcript import Enrolment, Purpose, Session, SiteIdentity
from bootstrap.phonehome import decode_trouble
from keys.tpm_public import PublicArea

VECTORS = Path(__file__).parent / "vectors"
BOOTS = tomllib.loads((VECTORS / "eventlog" / "boots.toml").read_text())
ATTEST = sorted((VECTORS / "attest").glob("*.toml"))
PHONE_HOME = sorted((VECTORS / "phone-home").glob("*.toml"))
SWAPPED = [path for path in PHONE_HOME if path.stem.startswith("swapped-")]
RENEWAL_SWAPPED = [path for path in PHONE_HOME if path.stem.startswith("renewal-swapped-")]
UNKNOWN = [path for path in PHONE_HOME if path.stem.startswith("session-")]
TROUBLE = [path for path in PHONE_HOME if path.stem.startswith("trouble-")]


@cache
def load(path: Path) -> dict:
    return tomllib.loads(path.read_text())


def evidence_of(vector: dict) -> Evidence:
    def raw(name: str) -> bytes:
        return bytes.fromhex(vector[name])

    def signed(pair: list[str]) -> Signed:
        return Signed(attest=bytes.fromhex(pair[0]), signature=bytes.fromhex(pair[1]))

    return Evidence(
        nonce=raw("nonce"),
        ek_public=raw("ek_public"),
        ek_certificates=tuple(bytes.fromhex(item) for item in vector["ek_certificates"]),
        ak_public=raw("ak_public"),
        quotes=tuple(signed(pair) for pair in vector["quotes"]),
        pcrs={
            bank: {int(index): bytes.fromhex(value) for index, value in values.items()}
            for bank, values in vector["pcrs"].items()
        },
        event_log=(VECTORS / vector["log"]).read_bytes() if vector["log"] else b"",
        facts=raw("facts"),
        device_public=raw("device_public"),
        device=signed(vector["device"]) if vector["device"] else None,
    )


def expectation_of(vector: dict) -> Expectation:
    sets = tuple(
        ReferenceSet(
            digest=bytes([version]) * 32,
            name="enrol",
            version=version,
            state=SetState(vector["state"]),
            facts=FileFacts.from_json((VECTORS / "eventlog" / BOOTS[name]["facts"]).read_text()),
            transports=(Transport(BOOTS[name]["transport"]),),
            servers=("10.99.9.9", BOOTS[name]["server"]),
        )
        for version, name in enumerate(vector["sets"], 7)
    )
    files = [(f"anchor-{n}", bytes.fromhex(der)) for n, der in enumerate(vector["anchors"])]
    record = {**vector["record"]}
    record["differences"] = tuple(record.get("differences", ()))
    record["firmware"] = bytes.fromhex(record.get("firmware", ""))
    opened = record.get("opened", {})
    record["opened"] = {bank: bytes.fromhex(value) for bank, value in opened.items()}
    return Expectation(
        sets=sets,
        anchors=decode_anchors(files, rehearsal=vector["rehearsal"]),
        record=BoxRecord(**record),
    )


def judge(vector: dict):
    policy = replace(Policy.from_toml(vector["policy"]), rehearsal=vector["rehearsal"])
    return appraise(evidence_of(vector), expectation_of(vector), policy, vector["now"])


@pytest.mark.parametrize("path", ATTEST, ids=lambda path: path.stem)
def test_evidence_is_judged_as_its_vector_says(path: Path) -> None:
    vector = load(path)
    result = judge(vector)
    told = [(each.reason.code, each.detail) for each in result.findings]
    gating = [each.reason.code for each in result.findings if each.reason.gates]
    assert (gating or [""])[0] == vector["expect"], told
    assert result.verdict.value == vector["verdict"], told
    notes = [each.reason.code for each in result.findings if not each.reason.gates]
    assert notes == vector["notes"]
    if vector["verdict"] == "accepted":
        assert result.boot_set is not None
        assert result.boot_set.server == "10.77.0.1"
    assert [each.reason.rank for each in result.findings] == sorted(
        each.reason.rank for each in result.findings
    )


def test_a_verified_boot_names_each_pcr_and_its_tpm() -> None:
    result = judge(load(VECTORS / "attest" / "accepted.toml"))
    assert {index for index, told in result.pcrs.items() if told is Outcome.EQUAL} == {
        4, 5, 7, 8, 9, 11, 12, 13, 14, 15
    }  # fmt: skip
    assert result.tpm == "id:4E544300 NPCT75x id:00070002"
    assert result.tier.value == "boot verified, firmware provisional"
    assert len(result.measurements) == len(result.policy_digest) == 32


def test_sentences_fit_the_case() -> None:
    withdrawn = judge(load(VECTORS / "attest" / "boot-set-withdrawn.toml"))
    assert withdrawn.findings[0].sentence.startswith(
        "This box still runs boot set 7 (enrol), which was withdrawn"
    )
    initrd = judge(load(VECTORS / "attest" / "initrd-changed.toml"))
    assert initrd.findings[0].sentence == (
        "The box loaded an initrd that is in no boot set this site accepts."
    )
    extra = judge(load(VECTORS / "attest" / "grub-command-extra.toml"))
    assert "'set evil=1'" in extra.findings[0].detail


def test_an_initrd_of_an_older_set_is_named() -> None:
    vector = load(VECTORS / "attest" / "initrd-changed.toml")
    expectation = expectation_of(vector)
    (served,) = expectation.sets
    measured = hashlib.sha256(b"something else").digest()
    facts = replace(served.facts, initrds=({"sha256": measured}, served.facts.initrds[1]))
    for state, told in (
        (SetState.OLDER, "The box loaded the initrd of boot set 6 (enrol-6), which this site no"),
        (SetState.ACCEPTED, "The box loaded an initrd that is in no boot set this site accepts."),
    ):
        # another command line, so that this set does not match as a whole
        older = replace(
            served,
            facts=replace(facts, commands=("linux /old", *facts.commands[1:])),
            state=state,
            version=6,
            name="enrol-6",
        )
        result = appraise(
            evidence_of(vector),
            replace(expectation, sets=(served, older)),
            Policy(),
            vector["now"],
        )
        assert result.findings[0].reason is Reason.INITRD_UNKNOWN
        assert result.findings[0].sentence.startswith(told)


def test_another_shim_is_no_word_about_owner_keys() -> None:
    vector = {**load(VECTORS / "attest" / "accepted.toml"), "sets": ["debian13-tftp"]}
    result = judge(vector)
    assert Reason.LOADER_UNKNOWN in result.reasons
    assert Reason.MOK_ENROLLED not in result.reasons
    assert result.verdict is Verdict.REFUSED
    assert result.boot_set is None
    assert result.pcrs[4] is Outcome.DIFFERS


def test_details_name_expected_and_measured() -> None:
    kernel = judge(load(VECTORS / "attest" / "kernel-changed.toml")).findings[0].detail
    assert re.fullmatch(
        r"PCR 9: file kernel changed; expected [0-9a-f]{64}; measured [0-9a-f]{64};"
        r" the box calls it '.*vmlinuz.*' \(unproven\)",
        kernel,
    )
    command = judge(load(VECTORS / "attest" / "command-line-changed.toml")).findings[0].detail
    assert "expected text '/vmlinuz" in command
    assert "measured text" not in command


def test_workarounds_are_told() -> None:
    told = {
        name: judge(load(VECTORS / "attest" / f"{name}.toml")).workarounds
        for name in ("earlier-boot-option", "exit-events-not-logged")
    }
    assert "PCR 4: 1 earlier boot options gave up" in told["earlier-boot-option"]
    assert "missing ExitBootServices events in PCR 5" in told["exit-events-not-logged"]
    power_cut = judge(load(VECTORS / "attest" / "clock-fell-in-power-cut.toml"))
    assert power_cut.since is Since.POWER_CUT
    assert "4194304 ms" in power_cut.findings[0].detail


def test_the_vectors_are_what_the_generator_makes() -> None:
    written = {
        path.relative_to(VECTORS): path.read_bytes()
        for topic in ("attest", "phone-home")
        for path in (VECTORS / topic).iterdir()
    }
    assert make_vectors.files() == written


# --- phone-home


def session_vector(name: str = "session") -> dict:
    vector = dict(load(VECTORS / "phone-home" / f"{name}.toml"))
    texts = {"expect", "site_id", "compare_code", "secret_name", "purpose"}
    return {
        name: bytes.fromhex(value) if isinstance(value, str) and name not in texts else value
        for name, value in vector.items()
    }


def parts(vector: dict) -> tuple[SiteIdentity, Session, Enrolment]:
    names = make_vectors.BOX_FIELDS
    return (
        SiteIdentity(site_id=vector["site_id"], root=vector["root"]),
        Session(**{name: vector[name] for name in ("session", "server_nonce", "secret")}),
        Enrolment(**{name: vector[name] for name in names}),
    )


def test_a_session_comes_out_byte_by_byte() -> None:
    vector = session_vector()
    site, session, enrolment = parts(vector)
    ek, ak = (PublicArea.decode(vector[name]) for name in ("ek_public", "ak_public"))
    assert (ek.name(), ak.name()) == (enrolment.ek_name, enrolment.ak_name)
    assert transcript.hello_digest(vector["hello"]) == enrolment.hello_digest
    made = transcript.make_session(
        vector["key"],
        site,
        ek.name(),
        ak.name(),
        enrolment.hello_digest,
        transcript.slot(vector["now"]),
    )
    assert made == session
    q = transcript.enrol_data(site, session, enrolment)
    x = transcript.transcript(q, vector["body"])
    assert (q, x) == (vector["q"], vector["transcript"])
    signed = (site.site_id, session.session, x)
    assert transcript.device_data(q) == vector["device_data"]
    assert transcript.compare_code(session.secret, x) == vector["compare_code"]
    assert transcript.answer_message(*signed, vector["payload"]) == vector["answer_message"]
    assert transcript.receipt_message(*signed, vector["payload"]) == vector["receipt_message"]
    assert transcript.report_message(*signed, vector["report"]) == vector["report_message"]
    assert transcript.opened_data(x) == vector["opened"]
    bundle = (vector["box"], session.session, x, vector["boot_set"], vector["expires"])
    assert transcript.bundle_data(*bundle) == vector["bundle_data"]
    secret = (vector["content_key"], vector["secret_name"], vector["secret_value"])
    assert transcript.secret_digest(*secret) == vector["secret_digest"]


@pytest.mark.parametrize("path", [*SWAPPED, *RENEWAL_SWAPPED], ids=lambda path: path.stem)
def test_a_field_of_another_session_makes_another_q(path: Path) -> None:
    is_renewal = path in RENEWAL_SWAPPED
    swap, vector = load(path), session_vector("renewal" if is_renewal else "session")
    vector.setdefault("purpose", "enrol")
    value = bytes.fromhex(swap["value"])
    is_text = swap["field"] in ("site_id", "purpose")
    assert vector[swap["field"]] != (value.decode() if is_text else value)
    vector[swap["field"]] = value.decode() if is_text else value
    with pytest.raises(CheckError) as refused:
        check_quote(
            attest=vector["quote_attest"],
            signature=vector["quote_signature"],
            ak=PublicArea.decode(vector["ak_public"]),
            extra_data=transcript.enrol_data(*parts(vector), Purpose(vector["purpose"])),
            values={},
        )
    assert refused.value.reason.code == swap["expect"]


def test_every_field_of_q_has_a_swapped_vector() -> None:
    fields = {"site_id", "root", "session", "server_nonce", "secret", "purpose"}
    fields |= set(make_vectors.BOX_FIELDS)
    for paths in (SWAPPED, RENEWAL_SWAPPED):
        assert {load(path)["field"] for path in paths} == fields


def test_a_renewal_comes_out_byte_by_byte() -> None:
    vector = session_vector("renewal")
    site, session, enrolment = parts(vector)
    assert transcript.hello_digest(vector["hello"]) == enrolment.hello_digest
    assert find(vector) == session
    q = transcript.enrol_data(site, session, enrolment, Purpose.RENEW)
    x = transcript.transcript(q, vector["body"])
    assert (q, x) == (vector["q"], vector["transcript"])
    assert transcript.device_data(q) == vector["device_data"]
    before = {bank: bytes.fromhex(value) for bank, value in vector["pcr15"].items()}
    for bank, value in before.items():
        zero = bytes(len(value))
        assert transcript.opened_value(bank, zero, vector["enrolled"]) == value
    assert vector["enrolled"] == session_vector()["transcript"]
    after = transcript.opened_value("sha256", before["sha256"], x)
    assert after.hex() == vector["pcr15_after"]["sha256"]


def find(vector: dict) -> Session:
    site, _, enrolment = parts(vector)
    return transcript.find_session(
        vector["key"],
        site,
        PublicArea.decode(vector["ek_public"]).name(),
        PublicArea.decode(vector["ak_public"]).name(),
        transcript.hello_digest(vector["hello"]),
        now=vector["now"],
        session=vector["session"],
    )


@pytest.mark.parametrize("later", [0, 60, 120])
def test_a_session_is_found_in_its_slot_and_the_two_after(later: int) -> None:
    vector = session_vector()
    assert find({**vector, "now": vector["now"] + later}) == parts(vector)[1]


@pytest.mark.parametrize("path", UNKNOWN, ids=lambda path: path.stem)
def test_other_sessions_are_unknown(path: Path) -> None:
    changes = {
        name: bytes.fromhex(value) if isinstance(value, str) and name != "expect" else value
        for name, value in load(path).items()
    }
    if "site_id" in changes:
        changes["site_id"] = changes["site_id"].decode()
    with pytest.raises(CheckError) as refused:
        find({**session_vector(), **changes})
    assert refused.value.reason.code == changes["expect"]


def test_another_body_is_another_transcript() -> None:
    vector = session_vector()
    other = bytes.fromhex(load(VECTORS / "phone-home" / "another-body.toml")["body"])
    assert transcript.transcript(vector["q"], other) != vector["transcript"]


@pytest.mark.parametrize("path", TROUBLE, ids=lambda path: path.stem)
def test_trouble_claims_carry_their_reason(path: Path) -> None:
    assert decode_trouble(bytes.fromhex(load(path)["body"])).reason == load(path)["expect"]
