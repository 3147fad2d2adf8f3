"""Every hash, MAC and signed message of the phone-home protocol, version 1, and its sessions.

Nothing is stored between step 1 and step 2: session, nonce and secret are MACs of the site's key
over what the box sent and a time slot. It never draws randomness and never speaks to a TPM.
Specification: docs/phone-home-v1.md.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from enum import StrEnum

from attest.errors import CheckError
from attest.reasons import Reason

SLOT_SECONDS = 60
SLOTS_ACCEPTED = 3
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Purpose(StrEnum):
    """What a session is for; each has a context of its own in Q."""

    ENROL = "enrol"
    RENEW = "renew"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteIdentity:
    """What ties a transcript to one site: its id and the SHA-256 of its root certificate's DER."""

    site_id: str
    root: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What step 1 answers and step 2 finds again: 16, 32 and 32 bytes."""

    session: bytes
    server_nonce: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """All that Q binds, apart from the site and the session; names are TPM names."""

    box_nonce: bytes
    ek_name: bytes
    ak_name: bytes
    hello_digest: bytes
    facts: bytes
    ephemeral: bytes
    device_public: bytes
    ssh_host_key: bytes


def digest(context: str, *fields: bytes) -> bytes:
    """Give T(context, fields…)."""
    state = hashlib.sha256(context.encode("ascii") + b"\0")
    for item in fields:
        state.update(struct.pack(">I", len(item)) + item)
    return state.digest()


def u64(number: int) -> bytes:
    """Encode an integer as a field."""
    return struct.pack(">Q", number)


def mac(key: bytes, context: str, message: bytes) -> bytes:
    """Give HMAC-SHA256(key, context ‖ 00 ‖ message)."""
    return hmac.digest(key, context.encode("ascii") + b"\0" + message, "sha256")


def hello_digest(hello: bytes) -> bytes:
    """Give H1 of the body of step 1, as it was sent."""
    return hashlib.sha256(hello).digest()


def slot(now: float) -> int:
    """Give the time slot of a unix time."""
    return int(now // SLOT_SECONDS)


def make_session(
    key: bytes, site: SiteIdentity, ek_name: bytes, ak_name: bytes, h1: bytes, time_slot: int
) -> Session:
    """Compute the session of a hello in a slot; `key` is K."""
    message = digest(
        "doorstep/v1/session",
        site.site_id.encode(),
        site.root,
        ek_name,
        ak_name,
        h1,
        u64(time_slot),
    )
    return Session(
        session=mac(key, "doorstep/v1/session-id", message)[:16],
        server_nonce=mac(key, "doorstep/v1/server-nonce", message),
        secret=mac(key, "doorstep/v1/credential-secret", message),
    )


def find_session(
    key: bytes,
    site: SiteIdentity,
    ek_name: bytes,
    ak_name: bytes,
    h1: bytes,
    *,
    now: float,
    session: bytes,
) -> Session:
    """Find the session that a path names among the slots still accepted, in constant time.

    CheckError with SESSION-UNKNOWN when there is none.
    """
    found = None
    for age in range(SLOTS_ACCEPTED):
        made = make_session(key, site, ek_name, ak_name, h1, slot(now) - age)
        if hmac.compare_digest(made.session, session):
            found = made
    if found is None:
        raise CheckError(Reason.SESSION_UNKNOWN)
    return found


def enrol_data(
    site: SiteIdentity,
    session: Session,
    enrolment: Enrolment,
    purpose: Purpose = Purpose.ENROL,
) -> bytes:
    """Give Q, the extraData of every quote."""
    return digest(
        f"doorstep/v1/{purpose.value}",
        site.site_id.encode(),
        site.root,
        session.session,
        enrolment.box_nonce,
        session.server_nonce,
        session.secret,
        enrolment.ek_name,
        enrolment.ak_name,
        enrolment.hello_digest,
        enrolment.facts,
        enrolment.ephemeral,
        enrolment.device_public,
        enrolment.ssh_host_key,
    )


def device_data(q: bytes) -> bytes:
    """Give the extraData of the device key's certification."""
    return digest("doorstep/v1/device-key", q)


def transcript(q: bytes, evidence_body: bytes) -> bytes:
    """Give X of a session from Q and the body of step 2, as it was sent."""
    return digest("doorstep/v1/transcript", q, hashlib.sha256(evidence_body).digest())


def answer_message(site_id: str, session: bytes, x: bytes, payload: bytes) -> bytes:
    """Give what the site signs for an answer to step 2."""
    return digest("doorstep/v1/answer", site_id.encode(), session, x, payload)


def receipt_message(site_id: str, session: bytes, x: bytes, payload: bytes) -> bytes:
    """Give what the site signs for an answer to step 4."""
    return digest("doorstep/v1/receipt", site_id.encode(), session, x, payload)


def report_message(site_id: str, session: bytes, x: bytes, report: bytes) -> bytes:
    """Give what the device key signs in step 4."""
    return digest("doorstep/v1/report", site_id.encode(), session, x, report)


def bundle_data(box: bytes, session: bytes, x: bytes, boot_set: bytes, expires: int) -> bytes:
    """Give the associated data of a bundle; `box` is the 16 bytes of its UUID."""
    return digest("doorstep/v1/bundle", box, session, x, boot_set, u64(expires))


def opened_data(x: bytes) -> bytes:
    """Give the event that the box extends into PCR 15 after it opened its bundle."""
    return b"doorstep/v1/opened\0" + x


def opened_value(bank: str, before: bytes, x: bytes) -> bytes:
    """Give PCR 15 of a bank after the bundle of X was opened: TPM2_PCR_Event (Part 3, 22.3)."""
    event = hashlib.new(bank, opened_data(x)).digest()
    return hashlib.new(bank, before + event).digest()


def secret_digest(content_key: bytes, name: str, value: bytes) -> bytes:
    """Give the MAC by which a box reports a secret's value without telling it."""
    return mac(content_key, "doorstep/v1/secret-digest", name.encode() + b"\0" + value)


def compare_code(secret: bytes, x: bytes) -> str:
    """Give the code that a person compares: the first 40 bits in Crockford's alphabet."""
    bits = int.from_bytes(mac(secret, "doorstep/v1/compare", x)[:5], "big")
    text = "".join(_CROCKFORD[bits >> shift & 31] for shift in range(35, -1, -5))
    return f"{text[:4]}-{text[4:]}"
