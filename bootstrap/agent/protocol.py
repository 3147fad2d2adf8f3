"""The box's side of the phone-home protocol: bodies out, signed answers in, the bundle opened.

Pure: randomness and keys are arguments. Nothing of an answer is used before its signature, its
session and its transcript were checked. docs/phone-home-v1.md.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

from attest import transcript as hashes_of
from attest.transcript import Enrolment, Purpose, Session, SiteIdentity
from bootstrap.agent.errors import Code, PeerError
from bootstrap.agent.tpm_keys import BOOT_PCRS, SEALED_PCRS, Counters

MEDIA_TYPE = "application/vnd.doorstep.phone-home.v1+json"
HANDOFF_TYPE = "application/vnd.doorstep.handoff.v1+json"
MAX_LOG = 4 * 1024 * 1024
_OID_NAMESPACE = UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")
_STATUSES = {
    "answer": ("held", "refused"),
    "receipt": ("ready", "enrolled"),
}
_GIVEN = {Purpose.ENROL: "enrolled", Purpose.RENEW: "renewed"}
"""The status of an answer with a bundle: it is never that of a session for something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What the box trusts: `root` is the site root's DER; all of it comes from the initrd."""

    site_id: str
    server_name: str
    release: str
    root: bytes
    root_pem: str

    @property
    def site(self) -> SiteIdentity:
        """What ties a transcript to this site."""
        return SiteIdentity(site_id=self.site_id, root=hashlib.sha256(self.root).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Step 1 as it was sent, with the names that follow from its keys."""

    body: bytes
    box_nonce: bytes
    ek_name: bytes
    ak_name: bytes

    @property
    def box(self) -> UUID:
        """The id of this box."""
        return uuid5(_OID_NAMESPACE, self.ek_name.hex())


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """The answer to step 1, before the TPM opened the credential."""

    session: bytes
    server_nonce: bytes
    credential_blob: bytes
    encrypted_secret: bytes
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """Everything of step 2 that the TPM made."""

    quotes: tuple[tuple[bytes, bytes], ...]
    pcrs: Mapping[str, tuple[bytes, ...]]
    device_attest: bytes
    device_signature: bytes
    platform_certificates: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """Boot log and IMA list, as the kernel gives them; empty when there is none."""

    event_log: bytes
    ima_log: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dance:
    """One session on the box's side."""

    anchor: Anchor
    hello: Hello
    session: Session
    facts: bytes
    ephemeral: bytes
    device_public: bytes
    ssh_host_key: bytes = b""
    purpose: Purpose = Purpose.ENROL

    @property
    def q(self) -> bytes:
        """Q, the extraData of the quotes."""
        enrolment = Enrolment(
            box_nonce=self.hello.box_nonce,
            ek_name=self.hello.ek_name,
            ak_name=self.hello.ak_name,
            hello_digest=hashes_of.hello_digest(self.hello.body),
            facts=self.facts,
            ephemeral=self.ephemeral,
            device_public=self.device_public,
            ssh_host_key=self.ssh_host_key,
        )
        return hashes_of.enrol_data(self.anchor.site, self.session, enrolment, self.purpose)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle, still closed."""

    sealed_public: bytes
    duplicate: bytes
    seed: bytes
    ephemeral: bytes
    nonce: bytes
    ciphertext: bytes = field(repr=False)
    counters: Counters
    boot_set: bytes
    expires: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A signed answer that was checked; `bundle` where one is given, a reason with the others."""

    status: str
    reason: str = ""
    sentence: str = ""
    retry_seconds: int = 0
    bundle: Bundle | None = None
    withheld: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What was in a bundle; nothing here shows itself."""

    document: bytes = field(repr=False)
    content_key: bytes = field(repr=False)


def b64u(data: bytes) -> str:
    """Encode bytes as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encode(fields: Mapping[str, Any]) -> bytes:
    """Write a body."""
    return json.dumps({"v": 1, **fields}, separators=(",", ":")).encode()


def make_hello(
    *,
    ek_public: bytes,
    ak_public: bytes,
    certificates: tuple[bytes, ...],
    box_nonce: bytes,
    purpose: Purpose = Purpose.ENROL,
) -> Hello:
    """Write step 1; what enrols says no purpose, as sites of older releases expect it."""
    from keys.tpm_public import PublicArea

    body = encode(
        {
            "ek_public": b64u(ek_public),
            "ek_certificates": [b64u(one) for one in certificates],
            "ak_public": b64u(ak_public),
            "box_nonce": b64u(box_nonce),
            **({} if purpose is Purpose.ENROL else {"purpose": purpose.value}),
        }
    )
    return Hello(
        body=body,
        box_nonce=box_nonce,
        ek_name=PublicArea.decode(ek_public).name(),
        ak_name=PublicArea.decode(ak_public).name(),
    )


def read_challenge(body: bytes) -> Challenge:
    """Read the answer to step 1; it is not signed, the credential proves itself."""
    names = {"session", "server_nonce", "credential_blob", "encrypted_secret", "pcrs", "seconds"}
    fields = Fields.read(body, names | {"v"})
    fields.version()
    if fields.take("pcrs", list) != list(BOOT_PCRS):
        raise _malformed("the site asks for other PCRs than 0 to 15")
    return Challenge(
        session=fields.data("session", 16),
        server_nonce=fields.data("server_nonce", 32),
        credential_blob=fields.data("credential_blob"),
        encrypted_secret=fields.data("encrypted_secret"),
        seconds=fields.number("seconds"),
    )


def evidence_body(dance: Dance, quoted: Quoted, logs: Logs) -> bytes:
    """Write step 2; a log that is too long is left out, so that the site can say so.

    Without platform certificates the field is left out too: a site of an older release takes it.
    """
    platform = [b64u(one) for one in quoted.platform_certificates]
    event_log = logs.event_log if len(logs.event_log) <= MAX_LOG else b""
    return encode(
        {
            "hello": b64u(dance.hello.body),
            "quotes": [{"attest": b64u(a), "signature": b64u(s)} for a, s in quoted.quotes],
            "pcrs": {bank: [b64u(v) for v in values] for bank, values in quoted.pcrs.items()},
            "event_log": b64u(event_log),
            "ima_log": b64u(logs.ima_log if len(logs.ima_log) <= MAX_LOG // 4 else b""),
            "facts": b64u(dance.facts),
            "ephemeral": b64u(dance.ephemeral),
            "device_public": b64u(dance.device_public),
            "device_attest": b64u(quoted.device_attest),
            "device_signature": b64u(quoted.device_signature),
            "ssh_host_key": b64u(dance.ssh_host_key),
            **({"platform_certificates": platform} if platform else {}),
        }
    )


def read_answer(body: bytes, dance: Dance, x: bytes, *, context: str = "answer") -> Answer:
    """Check a signed answer (`context`: answer or receipt), then read it; PeerError otherwise."""
    from bootstrap.agent.signature import check_signed

    outer = Fields.read(body, {"v", "answer", "signature", "chain"})
    outer.version()
    payload = outer.data("answer")
    message = hashes_of.digest(
        f"doorstep/v1/{context}",
        dance.anchor.site_id.encode(),
        dance.session.session,
        x,
        payload,
    )
    chain = [unb64u(one) for one in outer.take("chain", list)]
    check_signed(dance.anchor.root, chain, message, outer.data("signature", 64))
    fields = Fields.read(payload, None)
    _check_same(fields, dance, x)
    status = fields.take("status", str)
    given = _GIVEN[dance.purpose]
    if status not in _STATUSES[context] and (context, status) != ("answer", given):
        raise _malformed(f"the site's answer has the status {status[:20]!r}")
    if context == "receipt":
        names = tuple(map(_withheld_name, fields.take("withheld", list)))
        return Answer(status=status, withheld=names)
    if status == given:
        return Answer(status=status, bundle=_read_bundle(fields.take("bundle", dict)))
    return Answer(
        status=status,
        reason=fields.take("reason", str),
        sentence=fields.take("sentence", str),
        retry_seconds=fields.number("retry_seconds"),
    )


def open_bundle(
    bundle: Bundle, dance: Dance, x: bytes, *, share: bytes, ephemeral_private: Any
) -> Opened:
    """Decrypt a bundle with the share that the TPM gave and our X25519 private key."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        shared = ephemeral_private.exchange(X25519PublicKey.from_public_bytes(bundle.ephemeral))
        key = _hkdf(share + shared, x, b"doorstep/v1/content-key")
        data = hashes_of.bundle_data(
            dance.hello.box.bytes, dance.session.session, x, bundle.boot_set, bundle.expires
        )
        plain = AESGCM(key).decrypt(bundle.nonce, bundle.ciphertext, data)
    except (InvalidTag, ValueError):
        raise PeerError(Code.BUNDLE_CLOSED, "the bundle does not decrypt") from None
    return Opened(document=plain, content_key=key)


def report_bodies(
    checks: Mapping[str, str], digests: Mapping[str, bytes], *, medium_needed: bool
) -> bytes:
    """Write the part of step 4 that the device key signs."""
    report = {
        "checks": dict(checks),
        "secrets": {name: b64u(value) for name, value in digests.items()},
        "medium_needed": medium_needed,
    }
    return json.dumps(report, separators=(",", ":")).encode()


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Derive 32 bytes by HKDF-SHA256 (RFC 5869): one block of the expansion."""
    extracted = hmac.digest(salt, key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def _check_same(fields: Fields, dance: Dance, x: bytes) -> None:
    """Check that a signed answer is for this session, this transcript and this box."""
    if fields.data("session", 16) != dance.session.session:
        raise PeerError(Code.ANSWER_OTHER, "the answer is for another session")
    if fields.data("transcript", 32) != x:
        raise PeerError(Code.ANSWER_OTHER, "the answer is for another transcript")
    if fields.take("box", str) != str(dance.hello.box):
        raise PeerError(Code.ANSWER_OTHER, "the answer is for another box")


def _read_bundle(value: dict[str, Any]) -> Bundle:
    fields = Fields(value)
    if fields.take("pcrs", list) != list(SEALED_PCRS):
        raise _malformed("the bundle is sealed to other PCRs than the specification's")
    counters = Counters(
        reset_count=fields.number("reset_count", 32),
        restart_count=fields.number("restart_count", 32),
        clock_before=fields.number("clock_before", 64),
    )
    return Bundle(
        sealed_public=fields.data("sealed_public"),
        duplicate=fields.data("duplicate"),
        seed=fields.data("seed"),
        ephemeral=fields.data("ephemeral", 32),
        nonce=fields.data("nonce", 12),
        ciphertext=fields.data("ciphertext"),
        counters=counters,
        boot_set=fields.data("boot_set", 32),
        expires=fields.number("expires", 64),
    )


def _withheld_name(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else value
    return name if isinstance(name, str) else "?"


def _malformed(sentence: str) -> PeerError:
    return PeerError(Code.ANSWER_MALFORMED, sentence)


def unb64u(text: Any) -> bytes:
    """Decode base64url without padding; PeerError for any second spelling."""
    try:
        data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (AttributeError, ValueError):
        raise _malformed("the site's answer holds bytes that are not base64url") from None
    if b64u(data) != text:
        raise _malformed("the site's answer holds bytes that are not base64url")
    return data


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key twice")
    return fields


class Fields:
    """A JSON object, read field by field; every wrong type is a PeerError."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[str, Any]) -> None:
        """Take an object that was parsed."""
        self._fields = fields

    @classmethod
    def read(cls, data: bytes, names: set[str] | None) -> Fields:
        """Parse an object with exactly these names (None: any)."""
        try:
            value = json.loads(data.decode(), object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError):
            raise _malformed("the site's answer is no JSON") from None
        if not isinstance(value, dict) or (names is not None and set(value) != names):
            raise _malformed("the site's answer has not the fields of version 1")
        return cls(value)

    def version(self) -> None:
        """Check that it is version 1."""
        if self.number("v") != 1:
            raise _malformed("the site speaks another version")

    def take(self, name: str, kind: type) -> Any:
        """Give a field of this type."""
        value = self._fields.get(name)
        if not isinstance(value, kind):
            raise _malformed(f"the field {name} of the site's answer is missing or wrong")
        return value

    def number(self, name: str, bits: int = 32) -> int:
        """Give an unsigned integer of at most `bits` bits."""
        value = self.take(name, int)
        if isinstance(value, bool) or not 0 <= value < 1 << bits:
            raise _malformed(f"the field {name} of the site's answer is out of range")
        return int(value)

    def data(self, name: str, size: int | None = None) -> bytes:
        """Give bytes, of exactly `size` when that is given."""
        value = unb64u(self.take(name, str))
        if size is not None and len(value) != size:
            raise _malformed(f"the field {name} of the site's answer has a wrong size")
        return value

    def optional(self, name: str, kind: type) -> Any:
        """Give a field of this type or None when it is absent."""
        return self.take(name, kind) if name in self._fields else None
