"""The key-signing keys of the site's zones: one pair for all of them, and the next while it rolls.

They sign nothing but the DNSKEY set of a zone of this site; netboot keeps the keys below and rolls
them weekly. A key that was rolled out signs beside the new one until the roll is finished, so that
boxes with the old trust anchor still believe. RFC 6781, 4.1.2; keys.zone_keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from keys.envelope import b64u, unb64u
from keys.io.rpc import Refusal
from keys.io.store import Store
from keys.io.vault import Vault
from keys.zone_keys import (
    KEYS_VALID_SECONDS,
    POINT_SIZE,
    Span,
    dnskey,
    ds,
    ds_text,
    key_tag,
    point,
    sign_keys,
)

MAX_ZONES, MAX_ZONE_KEYS = 512, 3
_STATE = "zone-ksk"
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+")
_REVERSE = (".in-addr.arpa.", ".ip6.arpa.")


class ZoneSigning:
    """Signs DNSKEY sets, and rolls the keys that do."""

    def __init__(self, store: Store, vault: Vault) -> None:
        """Draw nothing yet."""
        self._store, self._vault = store, vault

    def sign(self, zones: list[Any], keys: list[Any], domain: str, now: float) -> Mapping[str, Any]:
        """Sign the key sets of zones of this site; Refusal for what is no zone of ours."""
        if not 0 < len(zones) <= MAX_ZONES or not 0 < len(keys) <= MAX_ZONE_KEYS:
            raise Refusal("MALFORMED", f"1 to {MAX_ZONES} zones, 1 to {MAX_ZONE_KEYS} keys")
        points = [_point(one) for one in keys]
        span = Span.starting(now, KEYS_VALID_SECONDS)
        pairs = self._pairs()
        signed = {}
        for zone in zones:
            owner = _owner(zone, domain)
            found, rrsigs = sign_keys(owner, pairs, points, span)
            signed[zone] = {
                "dnskeys": [b64u(one) for one in found],
                "rrsigs": [b64u(one) for one in rrsigs],
            }
        return {"signed": signed, "expires": span.expiration}

    def anchors(self) -> list[Mapping[str, Any]]:
        """Give the public halves as DNSKEY data, the newest first."""
        found: list[Mapping[str, Any]] = []
        for pair in reversed(self._pairs()):
            data = dnskey(point(pair.public_key()), is_ksk=True)
            found.append({"dnskey": b64u(data), "tag": key_tag(data)})
        return found

    def trust(self, domain: str) -> Mapping[str, Any]:
        """Give what a box trusts for the names of this site: DS data as in a zone file."""
        owner = _owner(f"{domain}.", domain)
        keys = (dnskey(point(pair.public_key()), is_ksk=True) for pair in self._pairs())
        return {"zone": f"{domain}.", "ds": [ds_text(ds(owner, key)) for key in keys]}

    def roll(self) -> None:
        """Begin to roll: a new key signs beside the one there is."""
        first, last = self._state()
        if first != last:
            raise Refusal("ROLLING", "the keys are rolling already: finish that first")
        self._save(first, last + 1)

    def finish(self) -> None:
        """End the roll: the old key signs no more."""
        first, last = self._state()
        if first == last:
            raise Refusal("NOT-ROLLING", "no keys are rolling: begin with `doorstep dns roll`")
        self._save(last, last)

    def _pairs(self) -> list[ec.EllipticCurvePrivateKey]:
        first, last = self._state()
        return [self._pair(number) for number in range(first, last + 1)]

    def _pair(self, number: int) -> ec.EllipticCurvePrivateKey:
        """Read one; names are answered without a lease too."""
        return self._vault.key_pair(f"{_STATE}-{number}", on_device=True)

    def _state(self) -> tuple[int, int]:
        stored = self._store.meta(_STATE)
        if stored is None:
            return 1, 1
        return int.from_bytes(stored[:4], "big"), int.from_bytes(stored[4:8], "big")

    def _save(self, first: int, last: int) -> None:
        self._store.set_meta(_STATE, first.to_bytes(4, "big") + last.to_bytes(4, "big"))


def _point(text: Any) -> bytes:
    found = unb64u(text) if isinstance(text, str) else b""
    if len(found) != POINT_SIZE:
        raise Refusal("MALFORMED", f"a zone key is a point of {POINT_SIZE} bytes")
    return found


def _owner(zone: Any, domain: str) -> bytes:
    """Write a zone's name; only the domain, what is below, and reverse zones are this site's."""
    if not isinstance(zone, str) or len(zone) > 254 or not _NAME.fullmatch(zone):
        raise Refusal("MALFORMED", "a zone is a name in lower case with its last dot")
    if not f".{zone}".endswith((f".{domain}.", *_REVERSE)):
        raise Refusal("NOT-OURS", f"{zone} is no zone of this site")
    return (
        b"".join(
            bytes((len(label),)) + label.encode() for label in zone.removesuffix(".").split(".")
        )
        + b"\0"
    )
