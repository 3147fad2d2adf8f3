"""What goes by stick: seeds for an appliance, and the secrets inside a backup; as age encrypts it.

Pure: the forms inside, the names of age's X25519 keys (Bech32, BIP 173; age v1 specification,
"X25519 recipient type"), what a backup says of itself and what is signed of it. age authenticates
no sender: each parcel is signed beside. It never encrypts, reads a file or judges a signature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from keys.envelope import b64u, bind, unb64u
from keys.errors import PeerError
from keys.rules import MAX_SECRET
from keys.secret import Secret

BACKUP_CONTEXT = "backup"
SEED_TYPE = "doorstep/seed/v1"
PART_TYPE = "doorstep/backup-secrets/v1"
HEADER_TYPE = "doorstep/backup/v1"
ASKED_TYPE = "doorstep/recipient/v1"
MAX_PLAIN = 6 * 1024 * 1024
"""Bytes of one parcel in the clear: it crosses a socket of 12 MiB twice encoded."""
MAX_NAME = 64
MAX_HEADER = 8192
_RECIPIENT, _IDENTITY = "age", "AGE-SECRET-KEY-"
_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


class What(Enum):
    """What an item is: a stored secret, a key of the site, or a certificate that goes with one."""

    SECRET = "secret"
    KEY = "key"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One value; `version` None: the next one; `not_after` (unix seconds) None: its ttl alone."""

    what: What = What.SECRET
    name: str
    version: int | None = None
    not_after: int | None = None
    value: Secret

    def document(self) -> dict[str, Any]:
        """Write it for a parcel that is to be encrypted."""
        return {
            "what": self.what.value,
            "name": self.name,
            "version": self.version,
            "not_after": self.not_after,
            "value": b64u(self.value.reveal()),
        }

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Item:
        """Read one; ValueError, KeyError or TypeError otherwise."""
        if set(found) != {"what", "name", "version", "not_after", "value"}:
            raise ValueError("other fields")
        name, value = found["name"], Secret(unb64u(found["value"]))
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise ValueError("no name")
        if not 0 < len(value) <= MAX_SECRET:
            raise ValueError("no size of a secret")
        version, not_after = _number(found["version"]), _number(found["not_after"])
        if version == 0:
            raise ValueError("versions begin with 1")
        what = What(found["what"])
        return cls(what=what, name=name, version=version, not_after=not_after, value=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """What headquarters gives an appliance; `counter` is that of its signature."""

    site: str
    counter: int
    items: tuple[Item, ...]

    def encode(self) -> bytes:
        """Write it, to be encrypted; ValueError when it is too large for one parcel."""
        head = {"type": SEED_TYPE, "site": self.site, "counter": self.counter}
        data = _json(head | {"items": [one.document() for one in self.items]})
        if len(data) > MAX_PLAIN:
            raise ValueError(f"{len(data)} bytes are too many for one seed: make two")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Seed:
        """Read what was decrypted; PeerError when it is no seed."""
        try:
            found = _document(data, SEED_TYPE, {"type", "site", "counter", "items"})
            items = tuple(Item.of(one) for one in found["items"])
            counter = _number(found["counter"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise PeerError("what is inside is no seed: pack it again") from None
        names = {(one.what, one.name) for one in items}
        if not items or len(names) != len(items) or counter is None:
            raise PeerError("the seed is empty, or names a secret twice: pack it again")
        return cls(site=str(found["site"]), counter=counter, items=items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some of the secrets of a backup; `listing` says which backup, `number` which part."""

    site: str
    listing: bytes
    number: int
    is_last: bool
    items: tuple[Item, ...]

    def encode(self) -> bytes:
        """Write it, to be encrypted to the off-site key."""
        head: dict[str, Any] = {"type": PART_TYPE, "site": self.site, "number": self.number}
        head |= {"listing": b64u(self.listing), "last": self.is_last}
        return _json(head | {"items": [one.document() for one in self.items]})

    @classmethod
    def decode(cls, data: bytes) -> Part:
        """Read what was decrypted; PeerError when it is no part."""
        try:
            fields = {"type", "site", "number", "listing", "last", "items"}
            found = _document(data, PART_TYPE, fields)
            return cls(
                site=str(found["site"]),
                listing=unb64u(found["listing"]),
                number=_count(found["number"]),
                is_last=found["last"] is True,
                items=tuple(Item.of(one) for one in found["items"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise PeerError("the secrets in this backup are damaged: take another") from None


def gather(parts: Sequence[Part], header: Header) -> tuple[Item, ...]:
    """Put the parts of a backup together; PeerError when one is missing or of another backup."""
    for number, part in enumerate(parts, 1):
        same = (part.site, part.listing, part.number) == (header.site, header.listing, number)
        if not same or part.is_last != (number == len(parts)):
            break
    else:
        if parts:
            return tuple(item for part in parts for item in part.items)
    raise PeerError("parts of its secrets are missing, or are another backup's: take another")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a backup says of itself in the clear; `at` in unix seconds, `ek` the EK's TPM name.

    `ek` is empty without a TPM, and nothing is counted then. `listing` is the digest of the names
    and versions of the secrets.
    """

    site: str
    ek: bytes
    at: int
    epoch: int
    lease_counter: int
    audit_number: int
    audit_hash: bytes
    secrets: int
    listing: bytes
    recipient: str

    def encode(self) -> bytes:
        """Write one line, without its end."""
        return _json(
            {
                "type": HEADER_TYPE,
                "site": self.site,
                "ek": b64u(self.ek),
                "at": self.at,
                "epoch": self.epoch,
                "lease_counter": self.lease_counter,
                "audit": {"n": self.audit_number, "hash": b64u(self.audit_hash)},
                "secrets": self.secrets,
                "listing": b64u(self.listing),
                "recipient": self.recipient,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Read the line; PeerError when it is none of a backup, or not as `encode` writes it."""
        try:
            found = json.loads(data[:MAX_HEADER])
            numbers = [_count(found[name]) for name in ("at", "epoch", "lease_counter", "secrets")]
            at, epoch, lease_counter, secrets = numbers
            header = cls(
                site=str(found["site"]),
                ek=unb64u(found["ek"]),
                at=at,
                epoch=epoch,
                lease_counter=lease_counter,
                audit_number=_count(found["audit"]["n"]),
                audit_hash=unb64u(found["audit"]["hash"]),
                secrets=secrets,
                listing=unb64u(found["listing"]),
                recipient=check_recipient(found["recipient"]),
            )
            same = header.encode() == data
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PeerError):
            same = False
        if not same:
            raise PeerError("its first lines are not those of a backup: it is damaged")
        return header


def backup_digest(header: bytes, payload: bytes) -> bytes:
    """Give what is signed of a backup; `payload` is the SHA-256 of all before the signature."""
    return bind("doorstep/v1/backup", header, payload)


def asked_document(site: str, recipient: str, request: str | None) -> bytes:
    """Write for whom headquarters shall encrypt; `request` quotes the recipient, with a TPM."""
    found = {"type": ASKED_TYPE, "site": site, "recipient": recipient, "request": request}
    return json.dumps(found, indent=1).encode() + b"\n"


def read_asked(data: bytes) -> tuple[str, str, str | None]:
    """Read site, recipient and request from such a file; PeerError when it is none."""
    try:
        found = _document(data[:65536], ASKED_TYPE, {"type", "site", "recipient", "request"})
        request = found["request"]
        if not isinstance(request, str | None):
            raise ValueError("no request")  # noqa: TRY004 - whoever wrote it did wrong
        return str(found["site"]), check_recipient(found["recipient"]), request
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PeerError(
            "this is no recipient file: `doorstep seed recipient` writes one at the site"
        ) from None


def fingerprint(recipient: str) -> str:
    """Name a recipient to be read out: 20 hex digits in groups of four."""
    name = sha256(b"doorstep/v1/recipient\0" + recipient.encode()).hexdigest()[:20]
    return " ".join(name[at : at + 4] for at in range(0, 20, 4))


# age's names of keys


def identity(private: Secret) -> Secret:
    """Write an X25519 private key (32 bytes) as age's identity."""
    return Secret(_bech32(_IDENTITY.lower(), private.reveal()).upper().encode())


def recipient(private: Secret) -> str:
    """Write the public half of a private key (32 bytes) as age's recipient."""
    public = X25519PrivateKey.from_private_bytes(private.reveal()).public_key()
    return _bech32(_RECIPIENT, public.public_bytes_raw())


def check_recipient(text: object) -> str:
    """Give an age recipient back when it is one; PeerError when a letter is wrong."""
    letters = text.strip() if isinstance(text, str) else ""
    prefix, _, body = letters.partition("1")
    values = [_LETTERS.find(letter) for letter in body]
    fits = prefix == _RECIPIENT and len(values) == 58 and min(values) >= 0
    if not fits or _checksum([*_expand(prefix), *values]) != 1:
        raise PeerError("this is no age recipient (age1…): a letter is missing or was changed")
    return letters


def _bech32(prefix: str, data: bytes) -> str:
    bits = int.from_bytes(data, "big") << (-8 * len(data) % 5)
    count = -(-8 * len(data) // 5)
    values = [bits >> 5 * (count - 1 - at) & 31 for at in range(count)]
    summed = _checksum([*_expand(prefix), *values, *[0] * 6]) ^ 1
    values += [summed >> 5 * (5 - at) & 31 for at in range(6)]
    return f"{prefix}1{''.join(_LETTERS[one] for one in values)}"


def _expand(prefix: str) -> list[int]:
    return [ord(one) >> 5 for one in prefix] + [0] + [ord(one) & 31 for one in prefix]


def _checksum(values: Sequence[int]) -> int:
    """Compute the BCH code of BIP 173."""
    found = 1
    for value in values:
        top, found = found >> 25, (found & 0x1FFFFFF) << 5 ^ value
        for at, term in enumerate(_GENERATOR):
            found ^= term if top >> at & 1 else 0
    return found


def _document(data: bytes, kind: str, fields: set[str]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(data)
    if set(found) != fields or found["type"] != kind:
        raise ValueError("another form")
    return found


def _number(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise ValueError("a number is expected")
    return value


def _count(value: object) -> int:
    """Read a number that must be there; JSON has larger ones than any integer (1e999)."""
    found = _number(value)
    if found is None:
        raise ValueError("a number is expected")
    return found


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
