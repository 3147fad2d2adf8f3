"""The leases of this controller as its operator meets them: ask for one, take it, look, end all.

It decides nothing that the TPM does not: see `keys.io.tpm_ring`. Without a TPM it says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keys.envelope import b64u
from keys.io.method_rows import OPERATOR_ALONE, MethodRow
from keys.io.ring import ClosedError, Ring
from keys.io.rpc import Params, Refusal
from keys.io.store import Event, Store
from keys.io.tpm_ring import TpmRing
from keys.io.vault import Vault
from keys.lease import MAX_TEXT, Lease, SignedLease
from keys.lease_request import MAX_CHALLENGE, LeaseRequest

NO_TPM = "this controller has no TPM: its cache hangs on no lease"


class Leasing:
    """The methods about leases."""

    def __init__(self, store: Store, ring: Ring, vault: Vault, site_id: str) -> None:
        """Hold what they need."""
        self._store, self._ring, self._vault, self._site_id = store, ring, vault, site_id

    def methods(self) -> dict[str, MethodRow]:
        """Give their rows of the socket table, but for `lease_apply`, which opens the cache too."""
        return {
            "lease_request": MethodRow(
                serve=self.request, users=OPERATOR_ALONE, administrative=True
            ),
            "lease_end": MethodRow(
                serve=self.end, users=OPERATOR_ALONE, administrative=True, anchored=True
            ),
            "lease_show": MethodRow(serve=self.show, users=OPERATOR_ALONE, administrative=True),
        }

    def request(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Give a request for headquarters; `challenge` is what it asks to be quoted."""
        challenge = params.get("challenge", "")
        if not isinstance(challenge, str) or len(challenge) > MAX_CHALLENGE:
            raise Refusal("MALFORMED", f"a challenge has at most {MAX_CHALLENGE} letters")
        if not challenge.isprintable():
            raise Refusal("MALFORMED", "a challenge is one line that can be printed")
        request: LeaseRequest = self._tpm_ring().request(challenge, int(now))
        with self._store.transaction():
            detail = {"counter": request.lease_counter, "challenge": challenge}
            self._store.record(now, user, Event(kind="lease-requested", detail=detail))
        return {"request": request.text()}

    def apply(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Take a lease; Refusal LEASE-REFUSED (by PeerError's sentence) when it is not for us."""
        text = params["lease"]
        if not isinstance(text, str) or len(text) > 2 * MAX_TEXT:
            raise Refusal("MALFORMED", "a lease is a text")
        ring = self._tpm_ring()
        signed = ring.apply(text, now)
        is_open = ring.lease == signed
        if is_open:
            self._vault.settle()
        with self._store.transaction():
            detail = _plain(signed.lease) | {"open": is_open}
            self._store.record(now, user, Event(kind="lease-applied", detail=detail))
        return {"lease": _plain(signed.lease), "open": is_open}

    def end(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """End every lease at once: nothing opens before a new one."""
        self._tpm_ring().end()
        with self._store.transaction():
            self._store.record(now, user, Event(kind="leases-ended", detail={}))
        return {"ended": True}

    def show(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Say which lease runs, what the TPM counts, and what waits."""
        ring = self._tpm_ring()
        counters, closed = ring.counters(), None
        try:
            ring.check()
        except ClosedError as error:
            closed = {"code": error.code, "sentence": str(error)}
        running = ring.lease
        known = [SignedLease.read(text) for text in self._store.leases()]
        return {
            "tpm": ring.maker,
            "closed": closed,
            "lease": None if running is None else _plain(running.lease),
            "left": None if running is None else left(running.lease, counters),
            "waiting": [
                _plain(one.lease)
                for one in known
                if one != running
                and one.lease.terms.counter >= ring.lease_counter()
                and one.lease.terms.ended(counters) is None
            ],
            "counters": {
                "clock": counters.clock,
                "reset_count": counters.reset_count,
                "restart_count": counters.restart_count,
                "safe": counters.safe,
                "lease": ring.lease_counter(),
                "epoch": ring.epoch,
            },
            "reference": b64u(ring.reference),
        }

    def _tpm_ring(self) -> TpmRing:
        if not isinstance(self._ring, TpmRing):
            raise Refusal("NO-TPM", NO_TPM)
        return self._ring


def left(lease: Lease, counters: Any) -> Mapping[str, int]:
    """Say what is left: powered seconds, starts, suspends."""
    terms = lease.terms
    return {
        "powered_seconds": max(0, terms.clock_before - counters.clock) // 1000,
        "starts": terms.resets_at_most - counters.reset_count,
        "suspends": terms.restarts_at_most - counters.restart_count,
    }


def _plain(lease: Lease) -> dict[str, Any]:
    terms = lease.terms
    return {
        "site": lease.site,
        "purpose": lease.purpose.name.lower(),
        "issued": lease.issued,
        "ends": lease.ends,
        "clock_before": terms.clock_before,
        "resets_at_most": terms.resets_at_most,
        "restarts_at_most": terms.restarts_at_most,
        "counter": terms.counter,
        "pcrs": sorted(terms.pcrs),
    }
