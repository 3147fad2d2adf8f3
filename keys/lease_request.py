"""What a controller sends to headquarters to get a lease: its counters, quoted by its TPM.

Pure. Who reads one verifies the quote with `attest`; `quoted` is what the quote must be over.
"""

from __future__ import annotations

import json
from base64 import b32decode, b32encode
from binascii import Error as Base32Error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keys.envelope import b64u, bind, unb64u
from keys.errors import PeerError

HEADER = "DOORSTEP-LEASE-REQUEST-1:"
MAX_TEXT = 16384
MAX_CHALLENGE = 64
QUOTED_PCRS = tuple(range(16))
_BYTES = ("ek", "attest", "signature", "ak", "escrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """One request; `at` in unix seconds as the controller has it.

    `ek` and `ak` are TPMT_PUBLIC, `attest` TPMS_ATTEST of a quote of QUOTED_PCRS in the SHA-256
    bank, `signature` TPMT_SIGNATURE, `escrow` the owner's passwords for the lease authority.
    """

    site: str
    challenge: str
    at: int
    lease_counter: int
    epoch: int
    ek: bytes
    ak: bytes
    attest: bytes
    signature: bytes
    escrow: bytes
    pcrs: Mapping[int, bytes]

    def text(self) -> str:
        """Write one line of capital letters and digits."""
        document: dict[str, Any] = {name: b64u(getattr(self, name)) for name in _BYTES}
        document |= {
            "site": self.site,
            "challenge": self.challenge,
            "at": self.at,
            "lease_counter": self.lease_counter,
            "epoch": self.epoch,
            "pcrs": {str(index): b64u(value) for index, value in self.pcrs.items()},
        }
        data = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
        return HEADER + b32encode(data).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> LeaseRequest:
        """Read a pasted text, with line breaks and blanks; PeerError otherwise."""
        joined = "".join(text.split()).upper()
        if len(joined) > MAX_TEXT or not joined.startswith(HEADER):
            raise PeerError(f"this is no request for a lease: it begins with {HEADER}")
        letters = joined.removeprefix(HEADER)
        try:
            found = json.loads(b32decode(letters + "=" * (-len(letters) % 8)))
            return cls(
                **{name: unb64u(found[name]) for name in _BYTES},
                site=_text(found["site"]),
                challenge=_text(found["challenge"]),
                at=_number(found["at"]),
                lease_counter=_number(found["lease_counter"]),
                epoch=_number(found["epoch"]),
                pcrs={index: unb64u(found["pcrs"][str(index)]) for index in QUOTED_PCRS},
            )
        except (Base32Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise PeerError("the request is damaged: letters are missing or were changed") from None

    def quoted(self) -> bytes:
        """Give the extra data of its quote: everything that the quote itself does not hold."""
        return request_digest(
            site=self.site,
            challenge=self.challenge,
            at=self.at,
            counters=(self.lease_counter, self.epoch),
            ek=self.ek,
            escrow=self.escrow,
        )


def request_digest(
    *, site: str, challenge: str, at: int, counters: tuple[int, int], ek: bytes, escrow: bytes
) -> bytes:
    """Give T("doorstep/v1/lease-request", …): 32 bytes."""
    return bind("doorstep/v1/lease-request", site, challenge, at, *counters, ek, escrow)


def appliance_name(site: str, ek: bytes, ak: bytes) -> str:
    """Name an appliance by both its keys (TPMT_PUBLIC): 32 letters of hex."""
    return bind("doorstep/v1/appliance", site, ek, ak)[:16].hex()


def _text(value: str) -> str:
    """Read one printable line; what is no text has not its methods.

    Half a surrogate, which JSON can write, can be neither shown nor hashed.
    """
    if len(value) > MAX_CHALLENGE or not value.isprintable():
        raise ValueError("text is expected")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError("a number is expected")
    return value
