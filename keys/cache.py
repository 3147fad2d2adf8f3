"""How a secret lies on the disk: encrypted with a key of its own, which the cache key wraps.

Pure: keys and nonces are arguments. A row says what it is (name, version, tier, lease), and all
that is authenticated, so a row that was moved, aged or lengthened does not open. It never judges
the lease (see `keys.rules`). design.md, "Secrets"; checklist 37 and 39.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keys.envelope import bind
from keys.errors import SiteError
from keys.rules import Tier
from keys.secret import Secret

KEY_SIZE = 32
NONCE_SIZE = 12
RANDOM_SIZE = KEY_SIZE + 2 * NONCE_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What a stored secret is; times are unix seconds."""

    name: str
    version: int
    tier: Tier
    set_at: int
    expires: int

    def associated_data(self, site_id: str) -> bytes:
        """Give what both layers of encryption authenticate."""
        lease = (self.version, self.tier.value, self.set_at, self.expires)
        return bind("doorstep/v1/stored-secret", site_id, self.name, *lease)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A secret as it is stored; `wrapped` and `sealed` begin with their nonce."""

    label: Label
    wrapped: bytes
    sealed: bytes


def lock(value: Secret, *, cache_key: Secret, label: Label, site_id: str, drawn: bytes) -> Row:
    """Encrypt one version; `drawn` is RANDOM_SIZE fresh bytes: its key and two nonces."""
    if len(drawn) != RANDOM_SIZE:
        raise ValueError(f"{RANDOM_SIZE} random bytes are needed")
    key, rest = drawn[:KEY_SIZE], drawn[KEY_SIZE:]
    data = label.associated_data(site_id)
    wrapped = protect(Secret(key), cache_key, rest[:NONCE_SIZE], data)
    sealed = protect(value, Secret(key), rest[NONCE_SIZE:], data)
    return Row(label=label, wrapped=wrapped, sealed=sealed)


def unlock(row: Row, *, cache_key: Secret, site_id: str) -> Secret:
    """Decrypt one version; SiteError when the row is not what was stored."""
    data = row.label.associated_data(site_id)
    return recover(row.sealed, recover(row.wrapped, cache_key, data), data)


def rewrap(row: Row, *, old: Secret, new: Secret, site_id: str, nonce: bytes) -> Row:
    """Wrap a secret's own key for another cache key; SiteError when the row is not what it was."""
    data = row.label.associated_data(site_id)
    return replace(row, wrapped=protect(recover(row.wrapped, old, data), new, nonce, data))


def protect(value: Secret, key: Secret, nonce: bytes, data: bytes) -> bytes:
    """Encrypt with AES-256-GCM; gives nonce ‖ ciphertext."""
    return nonce + AESGCM(key.reveal()).encrypt(nonce, value.reveal(), data)


def recover(stored: bytes, key: Secret, data: bytes) -> Secret:
    """Undo `protect`; SiteError when key, data or bytes are others."""
    try:
        plain = AESGCM(key.reveal()).decrypt(stored[:NONCE_SIZE], stored[NONCE_SIZE:], data)
    except (InvalidTag, ValueError):
        raise SiteError("does not open with this cache key") from None
    return Secret(plain)
