"""Wrapped secrets: what headquarters sealed for this box, opened in the boot that was attested.

The site passed them on and cannot read them. They are opened before the box moves PCR 15; one that
does not open is withheld, with a sentence, and stops nothing else. Nothing here touches the TPM by
itself. docs/phone-home-v1.md, "Wrapped secrets".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attest import transcript as hashes_of
from bootstrap.agent.errors import Code, PeerError
from bootstrap.agent.protocol import Bundle, Dance, Fields, Opened

if TYPE_CHECKING:
    from bootstrap.agent.tpm import Tpm

MAX_ITEMS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One wrapped secret, still closed; `identity` is what its keys and its policy hang on."""

    name: str
    identity: tuple[bytes, ...]
    key: bytes
    approval: bytes
    sealed_public: bytes
    duplicate: bytes
    seed: bytes
    nonce: bytes
    ciphertext: bytes = field(repr=False)

    @property
    def reference(self) -> bytes:
        """The policyRef that the site's approval must be for."""
        return hashes_of.digest("doorstep/v1/wrap-reference", *self.identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwrapped:
    """An opened one; `proof` is what its share alone gives, and what the box reports by."""

    value: bytes = field(repr=False)
    proof: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What opened, by name; `checks` tells the site of each other, with the code of why."""

    opened: dict[str, Unwrapped]
    checks: dict[str, str]


def open_all(
    tpm: Tpm, dance: Dance, bundle: Bundle, opened: Opened, say: Callable[[str], None]
) -> Tried:
    """Open what opens; each other is told in one sentence."""
    found: dict[str, Unwrapped] = {}
    checks: dict[str, str] = {}
    try:
        items = read_items(opened.document, dance.anchor.site_id, dance.hello.ek_name)
    except PeerError as error:
        say(f"{error.code.value}: {error}")
        return Tried(opened=found, checks={"wrapped": error.code.value})
    for item in items:
        try:
            found[item.name] = open_value(item, tpm.open_wrapped(item, bundle.counters))
        except PeerError as error:
            say(f"{error.code.value}: secret {item.name}: {error}")
            checks[f"wrapped:{item.name}"] = error.code.value
    return Tried(opened=found, checks=checks)


def read_items(document: bytes, site_id: str, ek_name: bytes) -> tuple[Item, ...]:
    """Read the field of a hand-off document; none when it is absent. PeerError when it is wrong.

    Name, version, site and box are those that this box believes: under others nothing opens.
    """
    items = Fields.read(document, None).optional("wrapped", list) or []
    if len(items) > MAX_ITEMS or not all(isinstance(item, dict) for item in items):
        raise PeerError(Code.HANDOFF, "the wrapped secrets of the hand-off are no list of such")
    return tuple(_item(Fields(item), site_id, ek_name) for item in items)


def _item(fields: Fields, site_id: str, ek_name: bytes) -> Item:
    name, version = fields.take("name", str), fields.number("version", 53)
    return Item(
        name=name,
        identity=(site_id.encode(), ek_name, name.encode(), hashes_of.u64(version)),
        key=fields.data("key"),
        approval=fields.data("approval", 64),
        sealed_public=fields.data("sealed_public"),
        duplicate=fields.data("duplicate"),
        seed=fields.data("seed"),
        nonce=fields.data("nonce", 12),
        ciphertext=fields.data("ciphertext"),
    )


def open_value(item: Item, share: bytes) -> Unwrapped:
    """Decrypt with the share that the TPM gave; PeerError when value and share are not one's."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    data = hashes_of.digest("doorstep/v1/wrapped-value", *item.identity)
    try:
        key = _derive(item, "doorstep/v1/wrapped-key", share)
        value = AESGCM(key).decrypt(item.nonce, item.ciphertext, data)
    except (InvalidTag, ValueError):
        raise PeerError(Code.BUNDLE_CLOSED, "it does not decrypt: it was changed") from None
    return Unwrapped(value=value, proof=_derive(item, "doorstep/v1/wrapped-proof", share))


def _derive(item: Item, context: str, share: bytes) -> bytes:
    """HKDF-SHA256 of one block without salt (RFC 5869): 32 bytes."""
    prk = hmac.digest(bytes(hashlib.sha256().digest_size), share, "sha256")
    return hmac.digest(prk, hashes_of.digest(context, *item.identity) + b"\1", "sha256")
