"""Which Secure Boot keys a box trusts: PK, KEK and db against a list, dbx against a minimum.

The databases come from a log that replays to the quote, so they are what the firmware measured. It
never says who may own a key: the policy and the firmware baseline list them by digest.
UEFI 2.10, 32.4.1 (signature databases); rules of PCR 7 in docs/verifier.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from attest.bootfacts import Facts
from attest.der import decode_certificate
from attest.errors import EvidenceError
from attest.reasons import Finding, Reason
from attest.uefi import CERT_SHA256, CERT_X509, decode_signatures
from attest.variables import SecureBootVariables


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One certificate in PK, KEK or db; `fingerprint` is SHA-256 of its DER."""

    database: str
    fingerprint: bytes
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLists:
    """What the databases hold: certificates, other entries as text, and dbx's SHA-256 digests."""

    keys: tuple[Key, ...]
    others: tuple[str, ...]
    forbidden: frozenset[bytes]

    @property
    def fingerprints(self) -> frozenset[bytes]:
        """The fingerprints alone, whatever the database."""
        return frozenset(key.fingerprint for key in self.keys)


@lru_cache(maxsize=64)
def key_lists(variables: SecureBootVariables) -> KeyLists:
    """Read the databases; EvidenceError where one is no signature list."""
    keys: list[Key] = []
    others: list[str] = []
    for name, data in (("PK", variables.pk), ("KEK", variables.kek), ("db", variables.db)):
        for entry in decode_signatures(data):
            if entry.type == CERT_X509:
                digest = hashlib.sha256(entry.data).digest()
                keys.append(Key(database=name, fingerprint=digest, title=_title(entry.data)))
            else:
                others.append(f"{name}: {entry.data[:32].hex()}")
    forbidden = frozenset(
        entry.data for entry in decode_signatures(variables.dbx) if entry.type == CERT_SHA256
    )
    return KeyLists(keys=tuple(keys), others=tuple(others), forbidden=forbidden)


def _title(certificate: bytes) -> str:
    """Name a certificate for people; firmware takes some that are none."""
    try:
        return decode_certificate(certificate).title
    except EvidenceError:
        return "unreadable"


def check_keys(
    lists: KeyLists, allowed: frozenset[bytes] | None, minimum: frozenset[bytes]
) -> Iterator[Finding]:
    """Find keys that no list allows, and digests that dbx lacks; None allows every key."""
    if allowed is not None:
        for key in lists.keys:
            if key.fingerprint not in allowed:
                detail = f"{key.database}: {key.title}, SHA-256 {key.fingerprint.hex()}: not listed"
                yield Finding(reason=Reason.SECURE_BOOT_KEYS, detail=detail)
        for entry in lists.others:
            detail = f"{entry}: no certificate and not listed"
            yield Finding(reason=Reason.SECURE_BOOT_KEYS, detail=detail)
    missing = minimum - lists.forbidden
    if missing:
        detail = f"dbx lacks {len(missing)} of {len(minimum)} digests, {min(missing).hex()} first"
        yield Finding(reason=Reason.DBX_OUTDATED, detail=detail)


def check_not_forbidden(lists: KeyLists, facts: Facts) -> Iterator[Finding]:
    """Find a firmware that started a program although its own dbx forbids it."""
    for name in ("shim", "grub", "ipxe", "kernel", "image"):
        image = getattr(facts, name, None)
        if image is not None and image.image["sha256"] in lists.forbidden:
            detail = f"dbx forbids the {name} that the firmware started"
            yield Finding(reason=Reason.SECURE_BOOT_KEYS, detail=detail)
