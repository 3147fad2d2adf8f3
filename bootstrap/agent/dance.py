"""One session from hello to receipt, over an open TPM and a client for the site.

It decides nothing the specification leaves open, tries no session twice and keeps no secret longer
than the session. docs/phone-home-v1.md.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attest import transcript as hashes_of
from attest.transcript import Purpose, Session
from bootstrap.agent import handoff, protocol, wrapped
from bootstrap.agent.errors import TROUBLE, AgentError, BoxError, Code
from bootstrap.agent.protocol import Anchor, Answer, Bundle, Dance, Logs, Opened, Quoted, b64u
from bootstrap.agent.ssh import DRAWN_BYTES, HostKey, make_host_key

if TYPE_CHECKING:
    from bootstrap.agent.client import Client
    from bootstrap.agent.tpm import AkParts, Tpm

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a box that stays keeps in memory to renew; `renew` in seconds, 0 for never."""

    ak: AkParts
    host_key: HostKey = field(repr=False)
    renew: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a session ended; `status` is ready, enrolled (something withheld), held or refused."""

    status: str
    box: str
    session: bytes
    reason: str = ""
    sentence: str = ""
    retry_seconds: int = 0
    compare_code: str = ""
    fqdn: str = ""
    after: str = ""
    withheld: tuple[str, ...] = ()
    kept: Kept | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """The X25519 key that opens the bundle of one session, the SSH host key of the boot."""

    ephemeral: Any
    host_key: HostKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a dance needs of the machine it runs on."""

    seed: Path
    say: Say
    set_clock: Callable[[int], None] | None = None
    medium_needed: bool = False


def load_anchor(directory: Path) -> Anchor:
    """Read the anchor; BoxError ANCHOR when a file is missing or is no certificate."""
    from ssl import PEM_cert_to_DER_cert

    try:
        pem = (directory / "site-root.pem").read_text()
        lines = {n: (directory / n).read_text().strip() for n in ("site-id", "server-name")}
        release = (directory / "release").read_text().strip()
        root = PEM_cert_to_DER_cert(pem.strip())
    except (OSError, ValueError) as error:
        raise BoxError(Code.ANCHOR, f"the initrd of this site is not usable: {error}") from None
    return Anchor(
        site_id=lines["site-id"],
        server_name=lines["server-name"],
        release=release,
        root=root,
        root_pem=pem,
    )


def enrol(
    tpm: Tpm,
    client: Client,
    anchor: Anchor,
    facts: bytes,
    logs: Logs,
    place: Place,
    kept: Kept | None = None,
) -> Outcome:
    """Run one session, with `kept` to renew; AgentError says what went wrong."""
    from tpm2_pytss import TSS2_Exception

    try:
        begun = _begin(tpm, client, anchor, facts, place.say, kept)
        return _go_on(tpm, client, begun, logs, place)
    except TSS2_Exception as error:
        raise BoxError(Code.TPM_FAILED, f"the TPM refuses: {error}") from None


def _go_on(
    tpm: Tpm, client: Client, begun: tuple[Dance, _Drawn], logs: Logs, place: Place
) -> Outcome:
    dance, drawn = begun
    x, answer = _prove(tpm, client, dance, logs, place.say)
    if answer.bundle is None:
        return _not_yet(dance, x, answer, place.say)
    opened = _open(tpm, dance, x, answer.bundle, drawn.ephemeral)
    tried = wrapped.open_all(tpm, dance, answer.bundle, opened, place.say)
    # From here on the bundle cannot be opened again: extend first, then use.
    tpm.extend_opened(hashes_of.opened_data(x))
    document = handoff.read_handoff(opened, dance, answer.bundle)
    document = handoff.add_unwrapped(document, tried.opened)
    if place.set_clock is not None:
        place.set_clock(document.issued)
    checks = _use(tpm, document, place, drawn.host_key) | tried.checks
    digests = handoff.digests(document, opened)
    receipt = _report(tpm, client, dance, x, checks, digests, place)
    assert tpm.ak_parts is not None  # of `_begin`
    kept = Kept(ak=tpm.ak_parts, host_key=drawn.host_key, renew=document.renew)
    return replace(_done(dance, document, receipt, digests, place.say), kept=kept)


def tell_trouble(client: Client, error: AgentError, facts: bytes) -> None:
    """Tell the site why this box cannot begin, if it is one of the reasons it takes.

    A failure to tell is not told: the trouble itself is what the screen must show.
    """
    if error.code not in TROUBLE:
        return
    body = protocol.encode({"reason": error.code.value, "facts": b64u(facts)})
    with contextlib.suppress(AgentError):
        client.post("/v1/trouble", body)


def _begin(
    tpm: Tpm, client: Client, anchor: Anchor, facts: bytes, say: Say, kept: Kept | None
) -> tuple[Dance, _Drawn]:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    tpm.check_ownership()
    say("making the keys of this box in its TPM")
    purpose = Purpose.ENROL if kept is None else Purpose.RENEW
    ek = tpm.load_ek()
    hello = protocol.make_hello(
        ek_public=ek,
        ak_public=tpm.load_ak(None if kept is None else kept.ak),
        certificates=tpm.ek_certificates(),
        box_nonce=os.urandom(32),
        purpose=purpose,
    )
    say(f"this box is {hello.box}")
    challenge = protocol.read_challenge(client.post("/v1/sessions", hello.body))
    secret = tpm.activate(challenge.credential_blob, challenge.encrypted_secret)
    drawn = _Drawn(
        ephemeral=X25519PrivateKey.generate(),
        host_key=make_host_key(os.urandom(DRAWN_BYTES)) if kept is None else kept.host_key,
    )
    session = Session(session=challenge.session, server_nonce=challenge.server_nonce, secret=secret)
    dance = Dance(
        anchor=anchor,
        hello=hello,
        session=session,
        facts=facts,
        ephemeral=drawn.ephemeral.public_key().public_bytes_raw(),
        device_public=tpm.load_device(),
        ssh_host_key=drawn.host_key.public,
        purpose=purpose,
    )
    return dance, drawn


def _prove(tpm: Tpm, client: Client, dance: Dance, logs: Logs, say: Say) -> tuple[bytes, Answer]:
    from bootstrap.agent.client import LONG, SHORT

    q = dance.q
    measured = tpm.quote(q)
    attest, signature = tpm.certify_device(hashes_of.device_data(q))
    quoted = Quoted(
        quotes=measured.quotes,
        pcrs=measured.pcrs,
        device_attest=attest,
        device_signature=signature,
        platform_certificates=tpm.platform_certificates(),
    )
    body = protocol.evidence_body(dance, quoted, logs)
    say("showing the site what was booted")
    path = f"/v1/sessions/{dance.session.session.hex()}/evidence"
    # The same bytes again after a lost reply: the site answers with what it stored.
    # Who renews has other things to do meanwhile, and comes again.
    pauses = LONG if dance.purpose is Purpose.ENROL else SHORT
    reply = client.post(path, body, pauses=pauses)
    x = hashes_of.transcript(q, body)
    return x, protocol.read_answer(reply, dance, x)


def _open(tpm: Tpm, dance: Dance, x: bytes, bundle: Bundle, private: Any) -> Opened:
    share = tpm.open_share(bundle.sealed_public, bundle.duplicate, bundle.seed, bundle.counters)
    return protocol.open_bundle(bundle, dance, x, share=share, ephemeral_private=private)


def _use(tpm: Tpm, document: handoff.Handoff, place: Place, host_key: HostKey) -> dict[str, str]:
    """Write the seed and try the new certificate; say what is well."""
    checks = {"signature": "ok", "opened-in-tpm": "ok"}
    matches = handoff.check_identity(document, tpm.sign, os.urandom(32))
    checks["certificate-matches-key"] = "ok" if matches else "failed"
    try:
        handoff.write_seed(document, host_key, place.seed)
        checks["seed-written"] = "ok"
        certified = ", certified by the site" if document.ssh_certificate else ""
        place.say(f"ssh host key {host_key.fingerprint}{certified}")
    except OSError as error:
        checks["seed-written"] = f"failed: {error.strerror}"
    return checks


def _report(
    tpm: Tpm,
    client: Client,
    dance: Dance,
    x: bytes,
    checks: dict[str, str],
    digests: dict[str, bytes],
    place: Place,
) -> Answer:
    from bootstrap.agent.client import LONG, SHORT

    report = protocol.report_bodies(checks, digests, medium_needed=place.medium_needed)
    session = dance.session.session
    message = hashes_of.report_message(dance.anchor.site_id, session, x, report)
    body = protocol.encode({"report": b64u(report), "signature": b64u(tpm.sign(message))})
    # The bundle is open and opens no second time: nothing but this report can finish an enrolment.
    patient = itertools.chain(LONG, itertools.repeat(60))
    pauses = patient if dance.purpose is Purpose.ENROL else iter(SHORT)
    reply = client.post(f"/v1/sessions/{session.hex()}/report", body, pauses=pauses)
    return protocol.read_answer(reply, dance, x, context="receipt")


def _not_yet(dance: Dance, x: bytes, answer: Answer, say: Say) -> Outcome:
    say(f"{answer.status}: {answer.reason}: {answer.sentence}")
    code = ""
    if answer.status == "held":
        code = hashes_of.compare_code(dance.session.secret, x)
        say(f"compare code {code}")
    return Outcome(
        status=answer.status,
        box=str(dance.hello.box),
        session=dance.session.session,
        reason=answer.reason,
        sentence=answer.sentence,
        retry_seconds=answer.retry_seconds,
        compare_code=code,
    )


def _done(
    dance: Dance,
    document: handoff.Handoff,
    receipt: Answer,
    digests: dict[str, bytes],
    say: Say,
) -> Outcome:
    withheld = tuple(dict.fromkeys((*document.withheld, *receipt.withheld)))
    say(f"{receipt.status} as {document.fqdn}")
    for name, digest in digests.items():
        say(f"secret {name} sha256-keyed {digest.hex()[:16]}")
    for name in withheld:
        say(f"secret {name} was withheld")
    return Outcome(
        status=receipt.status,
        box=str(dance.hello.box),
        session=dance.session.session,
        fqdn=document.fqdn,
        after=document.after,
        withheld=withheld,
    )
