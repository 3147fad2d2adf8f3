"""What of the cache can be given now, until when, and what ends it: for its operator and the page.

It gives facts and no value: the words are `bootstrap.explain_keys` and `bootstrap.autonomy`. It
decides nothing, and asks the TPM for its counters alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keys import dated
from keys.ca import load_certificate
from keys.io.boot_tls import CA, SERVER
from keys.io.leasing import left
from keys.io.ring import ClosedError, Ring
from keys.io.rpc import Params
from keys.io.site_files import SiteFiles
from keys.io.stored_secrets import StoredSecrets
from keys.io.tpm_ring import TpmRing
from keys.rules import MAX_AHEAD, Tier, usable_until

CLOSED = frozenset({"LEASE-ENDED", "LEASE-MISSING", "CACHE-ROLLED-BACK", "TPM-GONE"})
"""Why everything is withheld at once."""
_ENDS = ("name", "tier", "reason", "usable_until", "since", "kind", "ask", "dated", "source")
_Serve = Callable[[str, Params, float], Mapping[str, Any]]
KEPT = 60.0
"""Seconds for which a list is kept at most."""


class _Kept:
    """A list of secrets with what it was made of; good until one of them ends, a minute at most."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._listed: list[dict[str, Any]] = []
        self._made, self._until = 0.0, 0.0

    def get(self, made_of: tuple[object, ...], now: float) -> list[dict[str, Any]]:
        """Give it, or an empty one when it must be made again."""
        if made_of == self._of and self._made <= now < self._until:
            return self._listed
        self._of = made_of
        return []

    def put(self, listed: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
        """Keep it, and give it."""
        ends = (float(one["usable_until"]) for one in listed if "usable_until" in one)
        self._made, self._until = now, min((end for end in ends if end > now), default=now + KEPT)
        self._until = min(self._until, now + KEPT)
        self._listed = listed
        return listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Explaining:
    """The method `keys_explain`, and what `status` says beside."""

    ring: Ring
    files: SiteFiles
    secrets: StoredSecrets

    def explain(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Give each secret with its rule and its roles, and what the cache hangs on."""
        known = self.files.rules
        listed = []
        for one in self._listed(now):
            rule = known.secrets[one["name"]]
            why = known.controller.why_off(rule.tier)
            listed.append(
                {
                    **one,
                    "ttl": None if rule.ttl is MAX_AHEAD else rule.ttl.total_seconds(),
                    "max_stale": rule.max_stale.total_seconds(),
                    "off": why,
                    "roles": known.roles_with(one["name"]),
                }
            )
        return {
            "now": now,
            "secrets": listed,
            "lease": self.lease(),
            "has_tpm": isinstance(self.ring, TpmRing),
            "where": self.ring.where,
            "not_covered": known.controller.not_covered(),
            "turned_on": Tier.SITE in known.controller.tiers,
        }

    def _listed(self, now: float) -> Iterator[dict[str, Any]]:
        """List the secrets; what a closed cache withholds has an end of its own all the same."""
        for one in self.secrets.listed(now):
            rule = self.files.rules.secrets[one["name"]]
            if one["reason"] not in CLOSED or "expires" not in one:
                yield one
            elif rule.tier is Tier.BOX:  # headquarters' day: nothing of it may be stale
                yield {**one, "usable_until": one["expires"]}
            else:
                ends = min(one["expires"], one["set"] + int(rule.ttl.total_seconds()))
                yield {**one, "usable_until": usable_until(ends, rule)}

    def lease(self) -> Mapping[str, Any] | None:
        """Say what is left of the lease, or why the cache is closed; None without a TPM."""
        ring = self.ring
        if not isinstance(ring, TpmRing):
            return None
        try:
            ring.check()
        except ClosedError as error:
            return {"closed": {"code": error.code, "sentence": str(error)}, "left": None}
        signed = ring.lease
        if signed is None:
            return {"closed": {"code": "LEASE-MISSING", "sentence": ""}, "left": None}
        return {
            "closed": None,
            "counter": signed.lease.terms.counter,
            "left": left(signed.lease, ring.counters()),
        }

    def beside(self, status: _Serve) -> _Serve:
        """Let a status say when each secret and the lease end; names, never values.

        The list is kept while nothing changed that it is made of: control asks each second.
        """
        kept = _Kept()

        def serve(user: str, params: Params, now: float) -> Mapping[str, Any]:
            said = status(user, params, now)
            listed = kept.get(self._made_of(), now) or kept.put(list(self._listed(now)), now)
            usable = [one for one in listed if one["reason"] is None]
            first = min(usable, key=lambda one: float(one["usable_until"]), default=None)
            return {
                **said,
                "sentences": [*said["sentences"], *self._alarms(listed, now)],
                "certificates": {**said["certificates"], **self._of_boot()},
                "secrets": {"usable": len(usable), "withheld": len(listed) - len(usable)},
                "next_expiry": first and {"name": first["name"], "at": first["usable_until"]},
                "ends": [{name: one.get(name) for name in _ENDS} for one in listed],
                "lease": self.lease(),
            }

        return serve

    def _made_of(self) -> tuple[object, ...]:
        try:
            self.ring.check()
            closed = None
        except ClosedError as error:
            closed = error.code
        return self.secrets.store.changes, self.files.rules, closed

    def _alarms(self, listed: Iterable[Mapping[str, Any]], now: float) -> tuple[str, ...]:
        roles_with = self.files.rules.roles_with
        return dated.alarms([{**one, "roles": roles_with(one["name"])} for one in listed], now)

    def _of_boot(self) -> Mapping[str, int]:
        """Say when the certificates of HTTPS boot end, where this site has them."""
        found = {}
        for said, name in (("boot", SERVER), ("boot CA", CA)):
            text = self.secrets.store.certificate(name)
            if text is not None:
                found[said] = int(load_certificate(text).not_valid_after_utc.timestamp())
        return found
