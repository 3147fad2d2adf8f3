"""A box as a program: the agent's own protocol code with a software TPM that holds a boot.

Run in the boxes' network namespace: `container_box.py SOCKET LOG ROOT URL NAME SITE FACTS`. It
prints what it received as JSON. What process 1 does around it (modules, DHCP, seed) is not here.
"""

import json
import secrets
import sys
from pathlib import Path

from attest_box import measure
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from attest import transcript
from attest.transcript import Session
from bootstrap.agent.client import Client
from bootstrap.agent.protocol import (
    Anchor,
    Dance,
    Hello,
    Logs,
    Opened,
    Quoted,
    b64u,
    encode,
    evidence_body,
    make_hello,
    open_bundle,
    read_answer,
    read_challenge,
    report_bodies,
    unb64u,
)
from bootstrap.agent.tpm import Tpm


def contact(tpm: Tpm, client: Client) -> tuple[Hello, Session]:
    """Step 1: who we are, and the credential that only our TPM opens."""
    hello = make_hello(
        ek_public=tpm.load_ek(),
        ak_public=tpm.load_ak(),
        certificates=tpm.ek_certificates(),
        box_nonce=secrets.token_bytes(32),
    )
    challenge = read_challenge(client.post("/v1/sessions", hello.body))
    secret = tpm.activate(challenge.credential_blob, challenge.encrypted_secret)
    return hello, Session(
        session=challenge.session, server_nonce=challenge.server_nonce, secret=secret
    )


def quoted(tpm: Tpm, q: bytes) -> Quoted:
    """Everything of step 2 that the TPM makes."""
    measured = tpm.quote(q)
    attest, signature = tpm.certify_device(transcript.device_data(q))
    return Quoted(
        quotes=measured.quotes,
        pcrs=measured.pcrs,
        device_attest=attest,
        device_signature=signature,
    )


def enrol(tpm: Tpm, client: Client, anchor: Anchor, log: bytes, facts: bytes) -> dict:
    """Play one session to its end."""
    hello, session = contact(tpm, client)
    private = X25519PrivateKey.generate()
    dance = Dance(
        anchor=anchor,
        hello=hello,
        session=session,
        facts=facts,
        ephemeral=private.public_key().public_bytes_raw(),
        device_public=tpm.load_device(),
    )
    body = evidence_body(dance, quoted(tpm, dance.q), Logs(event_log=log))
    x = transcript.transcript(dance.q, body)
    place = f"/v1/sessions/{session.session.hex()}"
    answer = read_answer(client.post(f"{place}/evidence", body), dance, x)
    if answer.bundle is None:
        return {"status": answer.status, "reason": answer.reason, "sentence": answer.sentence}
    bundle = answer.bundle
    tpm.drop_ak()
    share = tpm.open_share(bundle.sealed_public, bundle.duplicate, bundle.seed, bundle.counters)
    opened = open_bundle(bundle, dance, x, share=share, ephemeral_private=private)
    tpm.extend_opened(transcript.opened_data(x))
    receipt = read_answer(
        client.post(f"{place}/report", report(tpm, dance, x, opened)), dance, x, context="receipt"
    )
    return {"status": receipt.status, "handoff": json.loads(opened.document)}


def report(tpm: Tpm, dance: Dance, x: bytes, opened: Opened) -> bytes:
    """Step 4: what we took over, signed by the device key."""
    document = json.loads(opened.document)
    digests = {
        one["name"]: transcript.secret_digest(opened.content_key, one["name"], unb64u(one["value"]))
        for one in document["secrets"]
    }
    names = ("signature", "opened-in-tpm", "certificate-matches-key", "seed-written")
    said = report_bodies(dict.fromkeys(names, "ok"), digests, medium_needed=False)
    message = transcript.report_message(dance.anchor.site_id, dance.session.session, x, said)
    return encode({"report": b64u(said), "signature": b64u(tpm.sign(message))})


def main() -> None:
    """Boot, that is to extend the log's digests, then enrol."""
    socket, log_file, root, url, name, site, facts = sys.argv[1:]
    log, pem = Path(log_file).read_bytes(), Path(root).read_text()
    anchor = Anchor(
        site_id=site,
        server_name=name,
        release="container test",
        root=load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER),
        root_pem=pem,
    )
    with Tpm(f"swtpm:path={socket}") as tpm:
        measure(tpm.esys, log)
        print(json.dumps(enrol(tpm, Client(url, pem, name), anchor, log, facts.encode())))


if __name__ == "__main__":
    main()
