"""Ed25519 signatures in the file format of minisign, each bound to one purpose.

The trusted comment begins with a context (`doorstep/v1/delivery-note …`), so a signature for one
purpose never serves another; stock minisign verifies and shows it. It never reads a file and never
judges what the trusted comment says. Only the prehashed form (`ED`, BLAKE2b-512) is made and
accepted: with the legacy form (`Ed`) the second signature of one file can be the first of another.
Format: the minisign manual, "Signature format" and "Public key format".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from enum import Enum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keys.errors import PeerError

UNTRUSTED = b"untrusted comment: "
TRUSTED = b"trusted comment: "
KEY_ALGORITHM = b"Ed"
PREHASHED = b"ED"
MAX_FILE = 4096


class ManifestReason(Enum):
    """Why a signature was not accepted; also the `expect` of the vectors."""

    MALFORMED = "SIGNATURE-MALFORMED"
    LEGACY = "SIGNATURE-LEGACY"
    OTHER_KEY = "SIGNATURE-OTHER-KEY"
    WRONG = "SIGNATURE-WRONG"
    COMMENT = "SIGNATURE-COMMENT"
    CONTEXT = "SIGNATURE-CONTEXT"


class ManifestError(PeerError):
    """The signed document must not be used; `reason` says why."""

    def __init__(self, reason: ManifestReason, sentence: str) -> None:
        """Keep the reason beside the sentence."""
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """An Ed25519 public key (32 bytes) with the id (8 bytes) that its signatures name."""

    key_id: bytes
    key: bytes

    @classmethod
    def of(cls, public: Ed25519PublicKey) -> PublicKey:
        """Derive the id from the key, so that it needs no randomness and no second file."""
        raw = public.public_bytes_raw()
        derived = hashlib.sha256(b"doorstep/v1/minisign-key-id\0" + raw).digest()[:8]
        return cls(key_id=derived, key=raw)

    @classmethod
    def decode(cls, text: bytes) -> PublicKey:
        """Read a minisign public key file, with one comment line or none."""
        lines = _lines(text)
        if lines[0].startswith(UNTRUSTED):
            lines = lines[1:]
        if len(lines) != 1:
            raise _malformed("a public key file has one comment and one key")
        raw = _base64(lines[0], 42)
        if raw[:2] != KEY_ALGORITHM:
            raise _malformed("the public key is not of the algorithm Ed")
        return cls(key_id=raw[2:10], key=raw[10:])

    def encode(self) -> bytes:
        """Write the public key file as minisign does."""
        shown = self.key_id[::-1].hex().upper()
        body = base64.b64encode(KEY_ALGORITHM + self.key_id + self.key)
        return UNTRUSTED + f"minisign public key {shown}\n".encode() + body + b"\n"


def sign(
    private_key: Ed25519PrivateKey, data: bytes, *, trusted_comment: str, context: str
) -> bytes:
    """Sign a document for one purpose and return the content of its `.minisig` file.

    `trusted_comment` is what the signer says with it; ValueError when it is not one line.
    """
    comment = f"{context} {trusted_comment}".encode()
    if not context or " " in context or any(byte < 0x20 for byte in comment):
        raise ValueError("context is one word and the trusted comment one line")
    key_id = PublicKey.of(private_key.public_key()).key_id
    signature = private_key.sign(_digest(data))
    over_all = private_key.sign(signature + comment)
    first = base64.b64encode(PREHASHED + key_id + signature)
    second = base64.b64encode(over_all)
    head = UNTRUSTED + b"signature of " + context.encode()
    return b"\n".join((head, first, TRUSTED + comment, second, b""))


def verify(public_key: bytes, data: bytes, signature: bytes, *, context: str) -> str:
    """Check a document against its `.minisig` and return the trusted comment without the context.

    `public_key` is the content of the public key file. ManifestError when anything differs.
    """
    known = PublicKey.decode(public_key)
    lines = _lines(signature)
    if len(lines) != 4 or not lines[0].startswith(UNTRUSTED) or not lines[2].startswith(TRUSTED):
        raise _malformed("a signature file has four lines: comment, signature, comment, signature")
    first, second = _base64(lines[1], 74), _base64(lines[3], 64)
    if first[:2] == KEY_ALGORITHM:
        raise ManifestError(ManifestReason.LEGACY, "signed in the legacy form: sign without `-l`")
    if first[:2] != PREHASHED:
        raise _malformed("the signature is not of the algorithm ED")
    if first[2:10] != known.key_id:
        raise ManifestError(ManifestReason.OTHER_KEY, "signed by another key than this site's")
    comment = lines[2][len(TRUSTED) :]
    _check(known, first[10:], _digest(data), ManifestReason.WRONG)
    _check(known, second, first[10:] + comment, ManifestReason.COMMENT)
    return _strip_context(comment, context)


def _strip_context(comment: bytes, context: str) -> str:
    found, space, rest = comment.partition(b" ")
    if not space or found != context.encode():
        raise ManifestError(
            ManifestReason.CONTEXT, f"signed for another purpose than {context}: refused"
        )
    try:
        return rest.decode()
    except UnicodeDecodeError:
        raise _malformed("the trusted comment is not UTF-8") from None


def _check(known: PublicKey, signature: bytes, message: bytes, reason: ManifestReason) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(known.key).verify(signature, message)
    except InvalidSignature:
        what = "document" if reason is ManifestReason.WRONG else "trusted comment"
        raise ManifestError(reason, f"the {what} is not what was signed") from None


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()


def _lines(text: bytes) -> list[bytes]:
    if len(text) > MAX_FILE:
        raise _malformed(f"larger than {MAX_FILE} bytes")
    return text.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")


def _base64(line: bytes, length: int) -> bytes:
    try:
        raw = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("not base64") from None
    if len(raw) != length or base64.b64encode(raw) != line:
        raise _malformed(f"expected {length} bytes in base64")
    return raw


def _malformed(sentence: str) -> ManifestError:
    return ManifestError(ManifestReason.MALFORMED, sentence)
