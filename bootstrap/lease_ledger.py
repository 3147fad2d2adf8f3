"""What headquarters remembers of one appliance: its keys, and each lease it was ever given.

The form of a file beside the lease authority's key, signed by that key: who can write there cannot
put another appliance in its place. Pure; an older copy of the file looks as good as the newest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from bootstrap.errors import SiteError
from keys.envelope import b64u, bind, unb64u
from keys.errors import PeerError
from keys.lease import SignedLease

TYPE = "doorstep/lease-ledger/v1"
MAX_BYTES = 1 << 22
_ECDSA = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, slots=True, kw_only=True)
class Appliance:
    """One appliance as it was seen first; keys as TPMT_PUBLIC, `first` in unix seconds."""

    site: str
    ek: bytes
    ak: bytes
    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One lease that was signed."""

    text: str
    counter: int
    at: int
    pcrs: frozenset[int]
    pcr_digest: bytes

    @classmethod
    def of(cls, signed: SignedLease) -> Issued:
        """Note a lease."""
        lease = signed.lease
        return cls(
            text=signed.text(),
            counter=lease.terms.counter,
            at=lease.issued,
            pcrs=lease.terms.pcrs,
            pcr_digest=lease.terms.pcr_digest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """All about one appliance; `seen` is the highest lease counter that it ever showed.

    `epoch` is the same of its revocations; `replaced` in unix seconds, when another took its place.
    """

    appliance: Appliance
    leases: tuple[Issued, ...] = ()
    seen: int = 0
    epoch: int = 0
    replaced: int | None = None

    def of_counter(self, counter: int) -> tuple[Issued, ...]:
        """Find the leases of a number."""
        return tuple(one for one in self.leases if one.counter == counter)

    def unknown_words(self, counter: int, epoch: int) -> tuple[str, ...]:
        """Say what an appliance counts beyond what is known here, one thing a line.

        A lease that was issued elsewhere, or that an older copy of this file forgot, shows once it
        was applied; that epochs move is usual, each revocation there moves one.
        """
        if not self.leases:
            return ()
        lines = []
        last = max(self.seen, *(one.counter for one in self.leases))
        if counter > last:
            lines.append(
                f"note: it counts leases to {counter}, the last one known here is {last}: "
                "`doorstep lease end` was done there, this ledger is an old copy, or somebody "
                "else issues with this key. Ask there which before you go on"
            )
        if epoch > self.epoch:
            lines.append(f"its revocations went from {self.epoch} to {epoch} since the last lease")
        return tuple(lines)

    def after(self, seen: int, signed: SignedLease | None = None, *, epoch: int = 0) -> Ledger:
        """Write down what the appliance counts, and a new lease for it."""
        added = () if signed is None else (Issued.of(signed),)
        return replace(
            self,
            leases=self.leases + added,
            seen=max(self.seen, seen),
            epoch=max(self.epoch, epoch),
        )

    def encode(self, authority: ec.EllipticCurvePrivateKey) -> bytes:
        """Write the file, signed."""
        one = self.appliance
        body = json.dumps(
            {
                "type": TYPE,
                "site": one.site,
                "ek": b64u(one.ek),
                "ak": b64u(one.ak),
                "first": one.first,
                "seen": self.seen,
                "epoch": self.epoch,
                "replaced": self.replaced,
                "leases": [lease.text for lease in self.leases],
            }
        )
        seal = authority.sign(_digest(body), _ECDSA)
        return json.dumps({"body": body, "seal": b64u(seal)}, indent=1).encode() + b"\n"


def decode(data: bytes, authority: ec.EllipticCurvePublicKey) -> Ledger:
    """Read the file; SiteError when it is damaged or not sealed by this authority."""
    try:
        outer: Any = json.loads(data[: MAX_BYTES + 1])
        body = outer["body"]
        authority.verify(unb64u(outer["seal"]), _digest(body), _ECDSA)
        return _ledger(json.loads(body))
    except InvalidSignature:
        raise SiteError("is not sealed by this lease authority: take the copy of it") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PeerError):
        raise SiteError("is damaged: take the copy of it") from None


def _ledger(body: Mapping[str, Any]) -> Ledger:
    if body["type"] != TYPE:
        raise ValueError("another form")
    return Ledger(
        appliance=Appliance(
            site=str(body["site"]),
            ek=unb64u(body["ek"]),
            ak=unb64u(body["ak"]),
            first=int(body["first"]),
        ),
        leases=tuple(Issued.of(SignedLease.read(text)) for text in body["leases"]),
        seen=int(body["seen"]),
        epoch=int(body.get("epoch", 0)),  # one of an earlier release has none
        replaced=None if body.get("replaced") is None else int(body["replaced"]),
    )


def _digest(body: str) -> bytes:
    return bind("doorstep/v1/lease-ledger", body)
