"""Secrets of tier `box`: wrapped at headquarters for one box, opened in that box's TPM alone.

A share is sealed to the box's EK under PolicyAuthorize of the site's wrap key: so the box opens it
only in a boot that `keys` attested and approved, and the appliance, which holds that key, has no
TPM to open it in. Pure: randomness and times are arguments. It never decides who gets a secret.
docs/phone-home-v1.md, "Wrapped secrets"; TPM 2.0 Library, Part 3, 23.16 (PolicyAuthorize).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keys.envelope import b64u, bind, unb64u
from keys.errors import PeerError
from keys.lease import authority_area
from keys.policy import TpmPolicy, approved
from keys.protect import RANDOM_BYTES, duplicate
from keys.rules import MAX_SECRET
from keys.secret import Secret
from keys.signed import WRAPPED, check_signed
from keys.tpm_public import (
    HASH_IDS,
    Attributes,
    PublicArea,
    sealed_object,
    sealed_sensitive,
    sealed_unique,
    sized,
)

CONTEXT = WRAPPED.context
KEY_CONTEXT = "wrap-key"
"""Under which a site signs the public half of its wrap key for headquarters."""
TYPE = "doorstep/wrapped/v1"
MAX_FILE = WRAPPED.max_bytes
MAX_NUMBER = 1 << 53
"""Versions and times stay below it: JSON numbers are exact only so far."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_NAME_SIZES = (34, 50, 66)
_PLAIN = ("site", "name", "serial", "version", "issued", "expires")
_NAMES = ("ek_name", "key_name")
_SIZES: Mapping[str, int] = {
    "sealed_public": 1024,
    "duplicate": 1024,
    "seed": 1024,
    "nonce": 12,
    "ciphertext": MAX_SECRET + 16,
    "proof": 32,
}
_EXACT = frozenset({"nonce", "proof"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What a wrapped secret is and for whom; times in unix seconds, `*_name` are TPM names."""

    site: str
    name: str
    version: int
    serial: str
    issued: int
    expires: int
    ek_name: bytes
    key_name: bytes

    @property
    def reference(self) -> bytes:
        """Give the policyRef: what an approval of a boot is good for (32 bytes)."""
        return bind("doorstep/v1/wrap-reference", *self._identity)

    def policy(self) -> TpmPolicy:
        """Give the policy of the sealed share."""
        return TpmPolicy().authorize(self.key_name, self.reference)

    @property
    def _identity(self) -> tuple[str, bytes, str, int]:
        return self.site, self.ek_name, self.name, self.version

    def derive(self, context: str, share: bytes) -> bytes:
        """Derive 32 bytes from the share, for one purpose."""
        info = bind(context, *self._identity)
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(share)

    def associated_data(self) -> bytes:
        """Give what AES-GCM authenticates beside the value."""
        return bind("doorstep/v1/wrapped-value", *self._identity)

    def comment(self) -> str:
        """Write what the signer says with the signature."""
        return f"site={self.site} secret={self.name} serial={self.serial} version={self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Share and value, both closed; `proof` is what shows `keys` that a box opened the share."""

    sealed_public: bytes
    duplicate: bytes
    seed: bytes
    nonce: bytes
    ciphertext: bytes
    proof: bytes


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Randomness:
    """What one wrapping draws: share 32, object seed 32, wrapper 64, nonce 12 bytes."""

    share: bytes
    object_seed: bytes
    wrapper: bytes
    nonce: bytes

    SIZE = 32 + 32 + RANDOM_BYTES + 12

    @classmethod
    def cut(cls, drawn: bytes) -> Randomness:
        """Cut SIZE fresh random bytes into the parts."""
        if len(drawn) != cls.SIZE:
            raise ValueError(f"{cls.SIZE} random bytes are needed")
        end = 64 + RANDOM_BYTES
        return cls(
            share=drawn[:32], object_seed=drawn[32:64], wrapper=drawn[64:end], nonce=drawn[end:]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedSecret:
    """One version for one box; without `sealed` it says that all versions so far are revoked."""

    label: Label
    sealed: Sealed | None

    def encode(self) -> bytes:
        """Write the file that headquarters signs."""
        label = self.label
        document: dict[str, Any] = {"type": TYPE}
        document |= {name: getattr(label, name) for name in _PLAIN}
        document |= {name: b64u(getattr(label, name)) for name in _NAMES}
        document["sealed"] = self.sealed and {
            name: b64u(getattr(self.sealed, name)) for name in _SIZES
        }
        return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> WrappedSecret:
        """Read what `encode` wrote, to the last byte; PeerError otherwise."""
        if len(data) > MAX_FILE:
            raise PeerError(f"a wrapped secret has at most {MAX_FILE // 1024} KiB")
        try:
            found = cls._read(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise PeerError("this is no wrapped secret, or it is damaged") from None
        if found.encode() != data:
            raise PeerError("the wrapped secret is not written as wrapped secrets are")
        found._check_sealed()
        return found

    @classmethod
    def _read(cls, document: Mapping[str, Any]) -> WrappedSecret:
        label = Label(
            site=_text(document["site"]),
            name=_text(document["name"]),
            serial=_text(document["serial"]),
            version=_number(document["version"]),
            issued=_number(document["issued"]),
            expires=_number(document["expires"]),
            ek_name=_tpm_name(document["ek_name"]),
            key_name=_tpm_name(document["key_name"]),
        )
        if not _NAME.fullmatch(label.name) or label.version == 0:
            raise ValueError("not the name of a secret, or no version")
        sealed = document["sealed"]
        if sealed is None:
            return cls(label=label, sealed=None)
        parts = {name: _part(name, sealed[name]) for name in _SIZES}
        return cls(label=label, sealed=Sealed(**parts))

    def _check_sealed(self) -> None:
        """Check what the appliance can see of the share: whom it opens for is no claim."""
        if self.sealed is None:
            return
        area = PublicArea.decode(self.sealed.sealed_public)
        if area.attributes != Attributes.NO_DA or area.auth_policy != self.label.policy().digest:
            raise PeerError("the share is sealed under another policy than that of its label")

    @classmethod
    def verify(
        cls, data: bytes, signature: bytes, *, public_key: bytes, site_id: str
    ) -> WrappedSecret:
        """Check signature, comment and site; PeerError otherwise."""
        signed = check_signed(WRAPPED, data, signature, public_key=public_key, site_id=site_id)
        found = cls.decode(data)
        label, said = found.label, signed.fields
        named = (signed.site, said["secret"], said["serial"], said["version"])
        if named != (label.site, label.name, label.serial, str(label.version)):
            raise PeerError(
                f"the trusted comment is not {label.comment()!r}, as the wrapped secret says: "
                "let headquarters wrap it again"
            )
        return found


def wrap(label: Label, value: Secret, *, ek: PublicArea, randomness: Randomness) -> WrappedSecret:
    """Encrypt a value for the TPM that holds `ek`; PeerError when that key is unfit.

    ValueError when the value is empty or larger than 64 KiB, or the label is of another EK.
    """
    if not 0 < len(value) <= MAX_SECRET:
        raise ValueError(f"a secret has 1 to {MAX_SECRET} bytes")
    if ek.name() != label.ek_name:
        raise ValueError("the label is of another EK")
    share = randomness.share
    public = sealed_object(
        policy=label.policy().digest, unique=sealed_unique(randomness.object_seed, share)
    )
    sensitive = sealed_sensitive(randomness.object_seed, share)
    wrapped, seed = duplicate(ek, sensitive, public, randomness.wrapper)
    key = label.derive("doorstep/v1/wrapped-key", share)
    sealed = AESGCM(key).encrypt(randomness.nonce, value.reveal(), label.associated_data())
    return WrappedSecret(
        label=label,
        sealed=Sealed(
            sealed_public=public.encode(),
            duplicate=sized(wrapped),
            seed=sized(seed),
            nonce=randomness.nonce,
            ciphertext=sealed,
            proof=label.derive("doorstep/v1/wrapped-proof", share),
        ),
    )


def revoke(label: Label) -> WrappedSecret:
    """Say that the label's version and all before it are given to nobody any more."""
    return WrappedSecret(label=label, sealed=None)


def key_area(key: ec.EllipticCurvePublicKey) -> PublicArea:
    """Give the public area under which a box loads the site's wrap key; its name is what counts."""
    return authority_area(key)


def decode_key(public: bytes) -> PublicArea:
    """Read the public area of a wrap key; PeerError when it is of another form."""
    area = PublicArea.decode(public)
    key = area.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key_area(key) != area:
        raise PeerError("a wrap key is an ECC P-256 key for ECDSA with SHA-256")
    return area


def approve(key: ec.EllipticCurvePrivateKey, boot: TpmPolicy, label: Label) -> bytes:
    """Sign the policy of an attested boot for one wrapped secret; gives r‖s, 64 bytes."""
    digest = approved(boot, label.reference)
    r, s = utils.decode_dss_signature(key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def for_box(one: WrappedSecret, key: PublicArea, approval: bytes) -> dict[str, Any]:
    """Write what a box gets of a wrapped secret; ValueError for a revoked one.

    The proof stays here: a box that did not open the share does not know it.
    """
    if one.sealed is None:
        raise ValueError("nothing is left of a revoked secret")
    parts = {n: b64u(getattr(one.sealed, n)) for n in _SIZES if n != "proof"}
    about = {"name": one.label.name, "version": one.label.version, "expires": one.label.expires}
    return about | parts | {"key": b64u(key.encode()), "approval": b64u(approval)}


def _text(value: str) -> str:
    """Read one printable line of at most 128 letters; what is no text has not its methods."""
    if not 0 < len(value) <= 128 or not value.isprintable():
        raise ValueError("text is expected")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_NUMBER:
        raise ValueError("a number is expected")
    return value


def _tpm_name(value: str) -> bytes:
    name = unb64u(value)
    if len(name) not in _NAME_SIZES or int.from_bytes(name[:2], "big") not in HASH_IDS.values():
        raise ValueError("a TPM name is expected")
    return name


def _part(name: str, value: str) -> bytes:
    data, limit = unb64u(value), _SIZES[name]
    if len(data) > limit or (name in _EXACT and len(data) != limit):
        raise ValueError("a field has a wrong size")
    return data
