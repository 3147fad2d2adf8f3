"""Stored secrets as their operator meets them: put, listed without a value, removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keys import dated, rules
from keys.cache import Label
from keys.envelope import unb64u
from keys.io.handover import Desk
from keys.io.method_rows import OPERATOR_ALONE, MethodRow, Record
from keys.io.origins import Origins
from keys.io.rpc import Params, Refusal
from keys.io.site_files import SiteFiles
from keys.io.store import Store
from keys.io.vault import Vault
from keys.rules import SecretRule, Tier, Withheld
from keys.secret import Secret

TURN_ON = 'To have it all the same: tiers = ["site"] in [controller] of site.toml'
MAX_NAME = 80
SWEEP_AFTER = 7 * 86400
"""Seconds for which what ended still says that it ended; the epoch counter wears out (NV)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSecrets:
    """The methods about secrets; `record` writes an event inside a transaction."""

    store: Store
    vault: Vault
    files: SiteFiles
    desk: Desk
    record: Record

    def methods(self) -> dict[str, MethodRow]:
        """Give their rows of the socket table."""
        return {
            "secret_put": MethodRow(serve=self.put, users=OPERATOR_ALONE, adding=True),
            "secret_list": MethodRow(serve=self.show, users=OPERATOR_ALONE),
            "secret_remove": MethodRow(serve=self.remove, users=OPERATOR_ALONE, anchored=True),
        }

    def put(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Store a new version; its lease begins now, and no copy of before gives the one before."""
        rule, value = self._rule(params), Secret(unb64u(params["value"]))
        if rule.tier is Tier.BOX:
            raise Refusal("TIER", f"{rule.name} is of tier box: wrap it at headquarters")
        if (why := self.files.rules.controller.why_off(rule.tier)) is not None:
            raise Refusal(Withheld.TIER_OFF.value, f"{rule.name}: {why}. {TURN_ON}")
        if not 0 < len(value) <= rules.MAX_SECRET:
            raise Refusal("MALFORMED", f"a secret has 1 to {rules.MAX_SECRET} bytes")
        expires = dated.end_of(rule, value.reveal(), _until(params), now)
        is_rotation = self.store.secret(rule.name) is not None
        with self.vault.revoking() if is_rotation else self.store.transaction():
            label = Label(
                name=rule.name,
                version=self.store.next_version(rule.name),
                tier=rule.tier,
                set_at=int(now),
                expires=expires,
            )
            self.vault.lock(value, label)
            about = {"name": rule.name, "version": label.version, "expires": label.expires}
            self.record(now, user, "secret-put", **about)
        return {**about, "source": rule.source or None}

    def show(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """List them as `listed` does."""
        return {"secrets": self.listed(now)}

    def remove(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Forget a secret for good: no copy of before brings it back, but its upstream may."""
        name = _named(params["name"])
        with self.vault.revoking():
            done = self.store.remove_secret(name)
            lifted = Origins(store=self.store).lift(name)
            self.record(now, user, "secret-removed", name=name, known=done, lifted=lifted)
        rule = self.files.rules.secrets.get(name)
        return {"removed": done, "lifted": lifted, "source": (rule and rule.source) or None}

    def sweep(self, now: float) -> None:
        """Shred what ended long ago, all at once; a clock that is not believed must not call it."""
        ended = [row.label.name for row in self.store.secrets() if self._is_over(row.label, now)]
        if not ended:
            return
        with self.vault.revoking():
            for name in ended:
                self.store.remove_secret(name)
            self.record(now, "keys", "secrets-swept", names=ended)

    def _is_over(self, label: Label, now: float) -> bool:
        rule = self.files.rules.secrets.get(label.name)
        until = label.expires if rule is None else rules.usable_until(label.expires, rule)
        return now >= until + SWEEP_AFTER

    def listed(self, now: float) -> list[dict[str, Any]]:
        """Say of each secret of the site file until when it may be given, or why not."""
        listed, origins = [], Origins(store=self.store)
        for rule in self.files.rules.secrets.values():
            kind = {"kind": rule.kind.value, "ask": rule.ask, "dated": None}
            kind |= origins.about(rule, now)
            if rule.tier is Tier.BOX:
                wrapped = self.desk.wrapping.listed(rule.name, now)
                listed.append(wrapped | kind | _dated(rule, wrapped.get("expires"), now))
                continue
            found, kept = self.desk.fitness(rule, now), self.store.kept(rule.name)
            one: dict[str, Any] = {"name": rule.name, "tier": rule.tier.value, "reason": None}
            one |= kind
            if kept is not None:
                label, _ = kept
                one |= _dated(rule, label.expires, now)
                one |= {"version": label.version, "set": label.set_at, "expires": label.expires}
            if isinstance(found, tuple):
                one |= {"expires": found[1], "usable_until": rules.usable_until(found[1], rule)}
            else:
                one |= {"reason": found["reason"], "since": found["since"]}
            listed.append(one)
        return listed

    def _rule(self, params: Params) -> SecretRule:
        name = _named(params["name"])
        rule = self.files.rules.secrets.get(name)
        if rule is None:
            raise Refusal("SECRET-UNKNOWN", f"site.toml has no [[secret]] named {name!r}")
        return rule


def _dated(rule: SecretRule, end: int | None, now: float) -> dict[str, Any]:
    """Say on which day a dated secret ends by itself, and the days that are left."""
    if end is None or not rule.kind.is_dated:
        return {}
    return {"dated": end, "days_left": dated.days_left(end, now)}


def _until(params: Params) -> str | None:
    until = params.get("until")
    if until is not None and (not isinstance(until, str) or len(until) > MAX_NAME):
        raise Refusal("MALFORMED", "until is a day, as in 2027-01-31")
    return until


def _named(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise Refusal("MALFORMED", "the name of a secret is expected")
    return value
