"""The verifier against a real software TPM: keys, quotes, certificates, credential, archive."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from attest_box import (
    KEY,
    LISTED,
    REHEARSAL,
    SELECTION,
    SITE,
    anchors,
    attest,
    changed,
    expectation,
    log_of,
    reference,
)
from software_tpm import (
    SoftwareTpm,
    activate,
    create_child,
    create_ek,
    create_primary,
    quote,
    read_nv,
    read_pcrs,
)
from tpm2_pytss.constants import ESYS_TR

from attest.ak import AK_TEMPLATE, check_ak, check_under_ek
from attest.appraise import appraise
from attest.credential import RANDOM_BYTES, check_keys, make_challenge
from attest.ekcert import check_ek_certificate, decode_anchors
from attest.ektemplate import TEMPLATES, check_ek_template, id_template
from attest.errors import AttestSiteError, CheckError
from attest.evidence import Verdict
from attest.expectation import BoxRecord, SetState
from attest.io.archive import read_evidence, transcript_fields, write_evidence
from attest.policy import Policy
from attest.quote import check_quote
from attest.reasons import Reason
from attest.transcript import make_session, transcript

NOW = time.time() + 3600
CERTIFICATES = {0x01C00002: TEMPLATES[1], 0x01C00016: TEMPLATES[4]}


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory):
    software = SoftwareTpm(Path(tmp_path_factory.mktemp("tpm")), certificates=True)
    yield software
    software.stop()


@pytest.mark.parametrize(
    "name", ["debian12-tftp", "debian13-http", "debian13-cd", "debian13-second-cd"]
)
def test_an_honest_box_is_accepted(tpm, name):
    made = attest(tpm, log_of(name))
    result = appraise(made.evidence, expectation(tpm, reference(name)), REHEARSAL, NOW)
    assert result.verdict is Verdict.ACCEPTED
    assert not result.findings
    assert {each.reason for each in result.released} == {Reason.FIRMWARE_UNKNOWN}
    assert result.boot_set.name == "enrol-7"
    assert result.clock.reset_count > 0


def test_a_virtual_tpm_proves_no_machine_outside_a_rehearsal(tpm):
    made = attest(tpm, log_of("debian12-tftp"))
    expected = expectation(tpm, reference("debian12-tftp"))
    result = appraise(made.evidence, expected, Policy(), NOW)
    assert result.verdict is Verdict.REFUSED
    assert Reason.EK_VIRTUAL in result.reasons


def test_evidence_of_another_session_is_refused(tpm):
    made = attest(tpm, log_of("debian12-tftp"))
    later = attest(tpm, log_of("debian12-tftp"), slot=1001)
    expected = expectation(tpm, reference("debian12-tftp"))
    mixed = changed(made, quotes=later.evidence.quotes)
    result = appraise(mixed, expected, REHEARSAL, NOW)
    # The AK is new in every boot, so an old quote fails before its nonce is even looked at.
    assert result.findings[0].reason is Reason.QUOTE_SIGNATURE
    stale = changed(later, nonce=made.evidence.nonce)
    result = appraise(stale, expected, REHEARSAL, NOW)
    assert result.findings[0].reason is Reason.QUOTE_NONCE
    assert result.values == {}


def test_a_restarted_box_counts_up_and_its_old_evidence_is_behind(tpm):
    first = attest(tpm, log_of("debian12-tftp")).evidence
    second = attest(tpm, log_of("debian12-tftp")).evidence
    boot_set = reference("debian12-tftp")
    earlier = appraise(first, expectation(tpm, boot_set), REHEARSAL, NOW)
    later = appraise(second, expectation(tpm, boot_set), REHEARSAL, NOW)
    assert later.clock.reset_count > earlier.clock.reset_count
    record = replace(
        LISTED,
        reset_count=later.clock.reset_count,
        restart_count=later.clock.restart_count,
        clock=0,
    )
    again = appraise(first, expectation(tpm, boot_set, record=record), REHEARSAL, NOW)
    assert again.findings[0].reason is Reason.COUNTER_BACK


def test_a_withdrawn_set_is_named_beside_the_served_one(tpm):
    made = attest(tpm, log_of("debian12-tftp"))
    sets = (
        reference("debian13-tftp", version=8),
        reference("debian12-tftp", SetState.WITHDRAWN, version=7),
    )
    result = appraise(made.evidence, expectation(tpm, *sets), REHEARSAL, NOW)
    assert result.findings[0].sentence.startswith("This box still runs boot set 7 (enrol-7)")


@pytest.mark.parametrize("index", CERTIFICATES, ids=hex)
def test_certificates_of_swtpm_setup_hold_in_a_rehearsal(tpm, index):
    with tpm.open() as esys:
        handle, ek = create_ek(esys, CERTIFICATES[index].public)
        certificate = read_nv(esys, index)
        esys.flush_context(handle)
    assert check_ek_template(ek) is CERTIFICATES[index]
    root, issuer = anchors(tpm).certificates
    one = decode_anchors([("root.pem", root.der)], rehearsal=True)
    for sent in ((certificate, issuer.der), (issuer.der, certificate + b"\xff" * 40)):
        trust = check_ek_certificate(sent, one, ek, NOW, rehearsal=True)
        assert trust.findings == ()
        assert trust.chain == ("unknown", "swtpm-localca", "swtpm-localca-rootca")
        assert trust.model == "swtpm"
    alone = check_ek_certificate((certificate,), one, ek, NOW, rehearsal=True)
    assert [each.reason for each in alone.findings] == [Reason.EK_UNKNOWN]
    real = check_ek_certificate((certificate,), anchors(tpm), ek, NOW, rehearsal=False)
    assert [each.reason for each in real.findings] == [Reason.EK_VIRTUAL]


def test_an_anchor_of_a_virtual_tpm_is_a_site_error_that_names_its_file(tpm):
    for path in (tpm.ca / "swtpm-localca-rootca-cert.pem", tpm.ca / "issuercert.pem"):
        with pytest.raises(AttestSiteError, match=path.name):
            decode_anchors([(path.name, path.read_bytes())], rehearsal=False)
    with tpm.open() as esys:
        leaf = read_nv(esys, 0x01C00002)
    with pytest.raises(AttestSiteError, match=r"leaf\.der.*not a CA certificate"):
        decode_anchors([("leaf.der", leaf)], rehearsal=True)


def test_the_id_ek_is_looked_for_in_a_fixed_order():
    assert id_template(frozenset({0x01C00016, 0x01C00002})).name == "L-1"
    assert id_template(frozenset({0x01C0000A, 0x01C00002})).name == "L-2"
    assert id_template(frozenset({0x01C00016})).name == "H-3"
    assert id_template(frozenset({0x01C08000})) is None


def test_the_challenge_of_step_1_opens_in_the_box(tpm):
    with tpm.open() as esys:
        ek_handle, ek = create_ek(esys, TEMPLATES[1].public)
        ak_handle, ak = create_child(esys, ek_handle, ek, AK_TEMPLATE)
        keys = check_keys(ek.encode(), ak.encode())
        session = make_session(KEY, SITE, ek.name(), ak.name(), bytes(32), 7)
        challenge = make_challenge(keys, session.secret, bytes(range(RANDOM_BYTES)))
        opened = activate(
            esys,
            ak_handle,
            ek_handle,
            ek,
            challenge.credential_blob[2:],
            challenge.encrypted_secret[2:],
        )
        esys.flush_context(ak_handle)
        esys.flush_context(ek_handle)
    assert opened == session.secret


@pytest.mark.parametrize("hierarchy", [ESYS_TR.OWNER, ESYS_TR.ENDORSEMENT])
def test_a_primary_ak_is_not_under_the_ek(tpm, hierarchy):
    with tpm.open() as esys:
        ek_handle, ek = create_ek(esys, TEMPLATES[1].public)
        esys.flush_context(ek_handle)
        handle, ak = create_primary(esys, AK_TEMPLATE, hierarchy)
        data, signature = quote(esys, handle, SELECTION, b"nonce")
        values = {"sha256": read_pcrs(esys, "sha256")}
        esys.flush_context(handle)
    check_ak(ak)
    verified = check_quote(
        attest=data, signature=signature, ak=ak, extra_data=b"nonce", values=values
    )
    with pytest.raises(CheckError) as refused:
        check_under_ek(verified.qualified_signer, ek, ak)
    assert refused.value.reason is Reason.AK_NOT_UNDER_EK


def test_the_archive_gives_the_same_verdict_again(tpm, tmp_path):
    made = attest(tpm, log_of("debian12-tftp"))
    expected = expectation(tpm, reference("debian12-tftp"))
    result = appraise(made.evidence, expected, REHEARSAL, NOW)
    names = made.enrolment
    session = make_session(KEY, SITE, names.ek_name, names.ak_name, names.hello_digest, 1000)
    target = tmp_path / "box" / "2026-11-21T05:00:00Z-00"
    arguments = {
        "evidence": made.evidence,
        "transcript": transcript_fields(
            SITE, session, made.enrolment, transcript(made.evidence.nonce, b"body")
        ),
        "expectation": expected,
        "policy": REHEARSAL,
        "result": result,
        "appraised": NOW,
    }
    assert write_evidence(target, **arguments) == target
    assert read_evidence(target) == made.evidence
    assert appraise(read_evidence(target), expected, REHEARSAL, NOW) == result
    kept = json.loads((target / "result.json").read_text())
    assert kept["verdict"] == "accepted"
    assert kept["policy"] == REHEARSAL.digest.hex()
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    with pytest.raises(AttestSiteError, match="already"):
        write_evidence(target, **arguments)
    (target / "quote0.sig").unlink()
    with pytest.raises(AttestSiteError, match="cannot be read"):
        read_evidence(target)


def test_a_box_of_the_signed_note_needs_no_maker(tpm):
    made = attest(tpm, log_of("debian12-tftp"))
    bare = changed(made, ek_certificates=())
    record = BoxRecord(listed=True, note_names_ek=True)
    expected = expectation(tpm, reference("debian12-tftp"), record=record)
    result = appraise(bare, expected, REHEARSAL, NOW)
    assert result.verdict is Verdict.ACCEPTED
    released = {each.reason for each in result.released}
    assert released == {Reason.EK_UNKNOWN, Reason.FIRMWARE_UNKNOWN}
