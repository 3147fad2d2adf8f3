"""A box for tests of the verifier: a real software TPM that holds a captured boot."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from software_tpm import (
    SoftwareTpm,
    certify,
    create_child,
    create_ek,
    create_primary,
    quote,
    read_nv,
    read_pcrs,
)
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG
from tpm2_pytss.types import TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

from attest import eventlog
from attest.ak import AK_TEMPLATE
from attest.bootfacts import FileFacts
from attest.certify import DEVICE_TEMPLATE
from attest.ekcert import Anchors, decode_anchors
from attest.ektemplate import TEMPLATES
from attest.evidence import Evidence, Signed
from attest.expectation import BoxRecord, Expectation, ReferenceSet, SetState
from attest.policy import Policy
from attest.predict import Transport
from attest.reasons import Reason
from attest.transcript import (
    Enrolment,
    SiteIdentity,
    device_data,
    enrol_data,
    hello_digest,
    make_session,
)

VECTORS = Path(__file__).parent / "vectors"
BOOTS = tomllib.loads((VECTORS / "eventlog" / "boots.toml").read_text())
SITE = SiteIdentity(site_id="shop-0417", root=bytes(range(32)))
KEY, HELLO, FACTS = b"K" * 32, b'{"v":1}', b'{"nics":[]}'
SELECTION = "sha256:0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
REHEARSAL = Policy(rehearsal=True, waived=frozenset({Reason.FIRMWARE_UNKNOWN}))
LISTED = BoxRecord(listed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Evidence with what it was made of."""

    evidence: Evidence
    enrolment: Enrolment


def log_of(name: str) -> bytes:
    """Give a captured boot's log."""
    return (VECTORS / "eventlog" / BOOTS[name]["log"]).read_bytes()


def reference(name: str, state: SetState = SetState.SERVED, version: int = 7) -> ReferenceSet:
    """Give the boot set that a captured boot booted."""
    facts = FileFacts.from_json((VECTORS / "eventlog" / BOOTS[name]["facts"]).read_text())
    return ReferenceSet(
        digest=bytes([version]) * 32,
        name=f"enrol-{version}",
        version=version,
        state=state,
        facts=facts,
        transports=(Transport(BOOTS[name]["transport"]),),
        servers=(BOOTS[name]["server"],),
    )


def measure(esys, log: bytes) -> None:
    """Extend a log's digests into the TPM, bank by bank as the log has them."""
    for event in eventlog.decode(log).events:
        if event.type == eventlog.EventType.NO_ACTION:
            continue
        digest = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=event.digests["sha256"]))
        esys.pcr_extend(
            pcr_handle=getattr(ESYS_TR, f"PCR{event.pcr}"),
            digests=TPML_DIGEST_VALUES([digest]),
        )


def anchors(tpm: SoftwareTpm) -> Anchors:
    """Trust the CA of this software TPM, as a rehearsal does."""
    root = tpm.ca / "swtpm-localca-rootca-cert.pem"
    issuer = tpm.ca / "issuercert.pem"
    files = [(path.name, path.read_bytes()) for path in (root, issuer)]
    return decode_anchors(files, rehearsal=True)


def attest(tpm: SoftwareTpm, log: bytes, *, events: bool = True, slot: int = 1000) -> Made:
    """Boot the box on a log and let it attest as the protocol says."""
    tpm.stop()
    with tpm.open() as esys:
        if events:
            measure(esys, log)
        certificate = read_nv(esys, 0x01C00002)
        ek_handle, ek = create_ek(esys, TEMPLATES[1].public)
        ak_handle, ak = create_child(esys, ek_handle, ek, AK_TEMPLATE)
        esys.flush_context(ek_handle)
        device_handle, device = create_primary(esys, DEVICE_TEMPLATE, ESYS_TR.OWNER)
        enrolment = Enrolment(
            box_nonce=bytes(32),
            ek_name=ek.name(),
            ak_name=ak.name(),
            hello_digest=hello_digest(HELLO),
            facts=FACTS,
            ephemeral=b"E" * 32,
            device_public=device.encode(),
            ssh_host_key=b"",
        )
        session = make_session(KEY, SITE, ek.name(), ak.name(), hello_digest(HELLO), slot)
        q = enrol_data(SITE, session, enrolment)
        quoted = quote(esys, ak_handle, SELECTION, q)
        signed = Signed(attest=quoted[0], signature=quoted[1])
        certified = certify(esys, device_handle, ak_handle, device_data(q))
        evidence = Evidence(
            nonce=q,
            ek_public=ek.encode(),
            ek_certificates=(certificate,),
            ak_public=ak.encode(),
            quotes=(signed,),
            pcrs={"sha256": read_pcrs(esys, "sha256")},
            event_log=log,
            facts=FACTS,
            device_public=device.encode(),
            device=Signed(attest=certified[0], signature=certified[1]),
        )
        for handle in (ak_handle, device_handle):
            esys.flush_context(handle)
    return Made(evidence=evidence, enrolment=enrolment)


def expectation(tpm: SoftwareTpm, *sets: ReferenceSet, record: BoxRecord = LISTED) -> Expectation:
    """Expect these sets of a box whose TPM is this one."""
    return Expectation(sets=sets, anchors=anchors(tpm), record=record)


def changed(made: Made, **changes: object) -> Evidence:
    """Give the evidence with fields replaced."""
    return replace(made.evidence, **changes)
