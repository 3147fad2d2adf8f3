"""What sync may do here: ask what is wanted, get its logins, hand in versions, report withdrawals.

It never gives a secret's value to anybody, takes no version below the one that it had from the same
source, and no other value under the same version. One call takes many secrets and ends the epoch
once at most: renewing a lease ends none. architecture.md, "Who may call whom"; checklist 9 and 17.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from keys import dated, rules
from keys.cache import Label
from keys.envelope import b64u, bind, unb64u
from keys.errors import PeerError
from keys.io.handover import Desk
from keys.io.method_rows import OPERATOR_ALONE, SYNC, MethodRow, Record
from keys.io.origins import Origin, Origins
from keys.io.ring import ClosedError, Ring
from keys.io.rpc import Params, Refusal
from keys.io.site_files import SiteFiles
from keys.io.store import Event, Store
from keys.io.vault import Vault
from keys.rules import SecretKind, SecretRule, Tier, Withheld
from keys.secret import Secret

LOGIN = "upstream/"
"""A login lies in the cache under this and the upstream's name: no [[secret]] has a slash."""
MAX_LOGIN = 16 * 1024
MAX_BATCH = PAGE = 64
NO_END = 253_402_300_799
VALUES_KEY = "upstream-values"
GONE = frozenset({403, 404})
EPOCHS, EPOCH_SECONDS = 32, 60.0
"""Epochs that sync may end at once, and seconds until one more: each wears the TPM's NV memory."""
OWED = "sync-epoch-owed"


class Outcome(Enum):
    """What became of one secret of a call."""

    NEW = "new"
    RENEWED = "renewed"
    GONE = "gone"
    KNOWN = "known"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One secret that sync hands in; `not_after` in unix seconds, None when nobody says."""

    name: str
    source: str
    version: int
    value: Secret
    not_after: int | None

    @classmethod
    def of(cls, one: Mapping[str, Any]) -> Offer:
        """Read it; KeyError, TypeError or PeerError when it is no such thing."""
        version, end = one["version"], one.get("not_after")
        if type(version) is not int or not 0 < version < 1 << 63:
            raise PeerError("version is a number of 63 bits from 1 on")
        if end is not None and (type(end) is not int or not 0 <= end <= NO_END):
            raise PeerError("not_after is in unix seconds")
        name, source = _texts(one)
        value = Secret(unb64u(one["value"]))
        return cls(name=name, source=source, version=version, value=value, not_after=end)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What is done about one offer: `taken` is what will be here, None where it is refused."""

    outcome: Outcome
    offer: Offer
    taken: tuple[Label, Origin] | None = None
    code: str | None = None
    sentence: str | None = None

    def document(self) -> dict[str, Any]:
        """Give it as sync reads it."""
        return {
            "name": self.offer.name,
            "outcome": self.outcome.value,
            "code": self.code,
            "sentence": self.sentence,
            "expires": self.taken and self.taken[0].expires,
        }


@dataclass(slots=True)
class _Wear:
    """A token bucket of epochs; checklist 41."""

    left: float = EPOCHS
    at: float = 0.0

    def spend(self, now: float) -> bool:
        """Take one; False when there is none now."""
        self.left = min(EPOCHS, self.left + max(0.0, now - self.at) / EPOCH_SECONDS)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Syncing:
    """The methods of user sync, and the operator's one that lets it log in."""

    store: Store
    vault: Vault
    ring: Ring
    files: SiteFiles
    desk: Desk
    record: Record
    told: dict[str, tuple[str | None, int]] = field(default_factory=dict)
    """What was refused last of each secret: an upstream that insists fills no audit."""
    wear: _Wear = field(default_factory=_Wear)

    def methods(self) -> dict[str, MethodRow]:
        """Give their rows of the socket table."""
        alone = frozenset({SYNC})
        return {
            "sync_wanted": MethodRow(serve=self.wanted, users=alone),
            "sync_credential": MethodRow(serve=self.credential, users=alone, under_lease=True),
            "sync_put": MethodRow(serve=self.put, users=alone, adding=True, under_lease=True),
            "sync_gone": MethodRow(serve=self.gone, users=alone, anchored=True),
            "upstream_login": MethodRow(
                serve=self.login, users=OPERATOR_ALONE, adding=True, anchored=True
            ),
        }

    @property
    def origins(self) -> Origins:
        """The rows about upstreams."""
        return Origins(store=self.store)

    # what sync asks

    def wanted(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Name the secrets that have a source, with what is here of them; never a value.

        A page of them, by name from `after` on: a hand-over must not wait until all were opened.
        """
        after = params.get("after", "")
        if not isinstance(after, str):
            raise PeerError("after is the name of a secret")
        self._pay(now)
        rules = self.files.rules.secrets
        names = sorted(name for name, rule in rules.items() if rule.source and name > after)
        logins = {}
        for name in sorted(self.files.rules.upstreams):
            row = self.store.secret(LOGIN + name)
            logins[name] = row and row.label.version
        return {
            "closed": self._closed(),
            "secrets": [self._wanted(rules[name], now) for name in names[:PAGE]],
            "more": len(names) > PAGE,
            "upstreams": logins,
        }

    def _closed(self) -> Mapping[str, str] | None:
        try:
            self.ring.check()
        except ClosedError as error:
            return {"code": error.code, "sentence": str(error)}
        return None

    def _wanted(self, rule: SecretRule, now: float) -> dict[str, Any]:
        found = self.desk.fitness(rule, now)
        about = self.origins.about(rule, now)
        usable = isinstance(found, tuple)
        return {
            "name": rule.name,
            "source": rule.source,
            "version": about["upstream_version"],
            "usable": usable,
            "expires": found[1] if isinstance(found, tuple) else None,
            "reason": None if isinstance(found, tuple) else found["reason"],
            "ttl": int(rule.ttl.total_seconds()),
            "gone": about["gone"],
        }

    def credential(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Give the login of one upstream; only while the lease of the cache runs."""
        row = self.store.secret(LOGIN + self._upstream(params))
        if row is None:
            raise Refusal("NO-LOGIN", "the operator gave no login: `doorstep upstream login`")
        login = b64u(self.vault.unlock(row).reveal())
        about = {"upstream": params["upstream"], "version": row.label.version}
        with self.store.transaction():
            self.store.audit(now, user, Event(kind="upstream-login-read", detail=about))
        return {"login": login, "version": row.label.version}

    def login(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Store the login of an upstream; no copy of before gives the one before."""
        name, login = self._upstream(params), Secret(unb64u(params["login"]))
        if not 0 < len(login) <= MAX_LOGIN:
            raise Refusal("MALFORMED", f"a login has 1 to {MAX_LOGIN} bytes")
        if (why := self.files.rules.controller.why_off(Tier.SITE)) is not None:
            raise Refusal(
                Withheld.TIER_OFF.value, f"a login is kept as a secret of tier site: {why}"
            )
        with self._changing(self.store.secret(LOGIN + name) is not None):
            version = self.store.next_version(LOGIN + name)
            self.vault.lock(login, _label(LOGIN + name, version, Tier.SITE, now, NO_END))
            self.record(now, user, "upstream-login", upstream=name, version=version)
        return {"upstream": name, "version": version}

    def _upstream(self, params: Params) -> str:
        name = params["upstream"]
        if not isinstance(name, str) or name not in self.files.rules.upstreams:
            raise Refusal("UPSTREAM-UNKNOWN", "site.toml has no [[upstream]] of this name")
        return name

    # what sync hands in

    def put(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Take versions; each is answered for itself, all of them are on the disk before that."""
        offers = [Offer.of(one) for one in _batch(params)]
        if len({one.name for one in offers}) < len(offers):
            raise PeerError("a secret is there twice")
        key = self.vault.key_bytes(VALUES_KEY)  # drawn outside of the transaction
        steps = [self._decide(one, key, now) for one in offers]
        replaces = any(map(self._replaces, steps))
        if replaces and not self.wear.spend(now):
            replaces, steps = False, [_later(s) if self._replaces(s) else s for s in steps]
        with self._changing(replaces):
            done = [self._take(user, step, now) for step in steps]
            if renewed := [one.offer.name for one in done if one.outcome is Outcome.RENEWED]:
                self.record(now, user, "secrets-renewed", names=renewed)
        return {"done": [one.document() for one in done]}

    def _replaces(self, step: _Step) -> bool:
        return step.outcome is Outcome.NEW and self.store.secret(step.offer.name) is not None

    def _pay(self, now: float) -> None:
        """End the epoch that a withdrawal could not end yet."""
        if self.store.meta(OWED) and self.wear.spend(now):
            with self.vault.revoking():
                self.store.set_meta(OWED, b"")

    def _changing(self, is_revocation: bool) -> AbstractContextManager[None]:
        return self.vault.revoking() if is_revocation else self.store.transaction()

    def _decide(self, offer: Offer, key: Secret, now: float) -> _Step:
        rule, refused = self._rule(offer.name, offer.source)
        if rule is None:
            return _refused(offer, *refused)
        known = self.origins.of(offer.name, offer.source) or Origin()
        digest = _digest(key, offer)
        if (why := self._objection(rule, offer, known, digest)) is not None:
            return _refused(offer, *why)
        try:
            expires = _end(rule, offer, now)
        except PeerError as error:
            return _refused(offer, "DATE", f"{offer.name}: {error}")
        row = self.store.secret(offer.name)
        is_same = (
            offer.version == known.version and row is not None and row.label.version == known.held
        )
        label = _label(offer.name, known.held, rule.tier, now, expires)
        origin = Origin(version=offer.version, digest=digest, held=known.held, seen=now)
        outcome = Outcome.RENEWED if is_same else Outcome.NEW
        return _Step(outcome=outcome, offer=offer, taken=(label, origin))

    def _objection(
        self, rule: SecretRule, offer: Offer, known: Origin, digest: bytes
    ) -> tuple[str, str] | None:
        """Say by code and sentence why an offer is not taken; None when it is."""
        upstream = offer.source.partition(":")[0]
        if (why := self.files.rules.controller.why_off(rule.tier)) is not None:
            return Withheld.TIER_OFF.value, f"{rule.name}: {why}"
        if not 0 < len(offer.value) <= rules.MAX_SECRET:
            return "SIZE", f"{rule.name}: a secret has 1 to {rules.MAX_SECRET} bytes"
        if offer.version < known.version:
            return "VERSION-LOWER", (
                f"{rule.name}: {upstream} offers version {offer.version} after {known.version}: "
                "ask whether it was restored from a backup, or store a new version there"
            )
        if offer.version > known.version:
            return None
        if known.gone is not None:
            return Withheld.GONE.value, (
                f"{rule.name}: {upstream} withdrew version {offer.version} and offers it again: "
                f"store a new version there, or say `doorstep secret remove {rule.name}` to take it"
            )
        if not hmac.compare_digest(known.digest, digest):
            return "VALUE-DIFFERS", (
                f"{rule.name}: {upstream} gives another value under version {offer.version}: "
                "store it there as a new version, and find out who changed it"
            )
        return None

    def _take(self, user: str, step: _Step, now: float) -> _Step:
        """Write one step, in the caller's transaction."""
        offer = step.offer
        about = {"name": offer.name, "source": offer.source, "upstream_version": offer.version}
        if step.taken is None:
            said = step.code, offer.version
            if offer.name in self.files.rules.secrets and self.told.get(offer.name) != said:
                self.told[offer.name] = said
                self.record(now, user, "upstream-refused", code=step.code, **about)
            return step
        label, origin = step.taken
        self.told.pop(offer.name, None)
        if step.outcome is Outcome.NEW:
            number = self.store.next_version(offer.name)
            label, origin = replace(label, version=number), replace(origin, held=number)
            detail = {**about, "version": number, "expires": label.expires}
            self.record(now, user, "secret-fetched", **detail)
        self.vault.lock(offer.value, label)
        self.origins.keep(offer.name, offer.source, origin)
        return replace(step, taken=(label, origin))

    # what sync reports

    def gone(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Purge what its upstream does not give any more; no copy of before brings it back."""
        reports = [(*_texts(one), one["status"]) for one in _batch(params)]
        if any(type(status) is not int or status not in GONE for _, _, status in reports):
            raise PeerError("status is 403 or 404")
        fit = [one for one in reports if self._rule(one[0], one[1])[0] is not None]
        known = {one: self.origins.of(one[0], one[1]) or Origin() for one in fit}
        news = [one for one in fit if known[one].gone is None]
        if news:
            is_here = any(self.store.secret(one[0]) for one in news)
            may_end = is_here and self.wear.spend(now)
            with self._changing(may_end):
                if is_here and not may_end:  # gone from here at once, from older copies soon
                    self.store.set_meta(OWED, b"1")
                for one in news:
                    self._withdraw(user, one, known[one], now)
        outcomes = {
            one: Outcome.GONE if one in news else Outcome.KNOWN if one in fit else Outcome.REFUSED
            for one in reports
        }
        return {"done": [{"name": one[0], "outcome": kind.value} for one, kind in outcomes.items()]}

    def _withdraw(self, user: str, one: tuple[str, str, int], known: Origin, now: float) -> None:
        name, source, status = one
        self.store.remove_secret(name)
        self.origins.keep(name, source, replace(known, gone=status, gone_since=now))
        self.record(now, user, "secret-gone", name=name, source=source, status=status)

    def _rule(self, name: str, source: str) -> tuple[SecretRule | None, tuple[str, str]]:
        rule = self.files.rules.secrets.get(name)
        if rule is None:
            return None, ("SECRET-UNKNOWN", "site.toml has no [[secret]] of this name")
        if not rule.source or rule.source != source:
            return None, ("SOURCE-DIFFERS", f"{name} has another source in site.toml")
        return rule, ("", "")


def _refused(offer: Offer, code: str, sentence: str) -> _Step:
    return _Step(outcome=Outcome.REFUSED, offer=offer, code=code, sentence=sentence)


def _later(step: _Step) -> _Step:
    sentence = f"{step.offer.name}: too many new versions at once: it is taken in a few minutes"
    return _refused(step.offer, "PACE", sentence)


def _batch(params: Params) -> list[Mapping[str, Any]]:
    batch = params["secrets"]
    if not isinstance(batch, list) or not 0 < len(batch) <= MAX_BATCH:
        raise PeerError(f"secrets is a list of 1 to {MAX_BATCH}")
    return batch


def _texts(one: Mapping[str, Any]) -> tuple[str, str]:
    name, source = one["name"], one["source"]
    if not isinstance(name, str) or not isinstance(source, str):
        raise PeerError("name and source are texts")
    return name, source


def _label(name: str, version: int, tier: Tier, now: float, expires: int) -> Label:
    return Label(name=name, version=version, tier=tier, set_at=int(now), expires=expires)


def _digest(key: Secret, offer: Offer) -> bytes:
    """Bind a value to its place, so that equal values of two secrets do not show."""
    place = bind("doorstep/v1/upstream-value", offer.name, offer.source, offer.version)
    return hmac.digest(key.reveal(), place + offer.value.reveal(), "sha256")


def _end(rule: SecretRule, offer: Offer, now: float) -> int:
    """Say when a value ends: with its ttl, its own day, or when its upstream says."""
    until = None
    if rule.kind in (SecretKind.LICENSE, SecretKind.BLOB) and offer.not_after is not None:
        until = datetime.fromtimestamp(offer.not_after, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    end = dated.end_of(rule, offer.value.reveal(), until, now)
    ends = [end, int(now) + int(rule.ttl.total_seconds()), offer.not_after]
    return min(one for one in ends if one is not None)
