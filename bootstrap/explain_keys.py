"""What an operator asks of each secret: given now? until when? what ends it, and who reads it?

Pure: the answer of keys (`keys_explain`) goes in, words and a document come out. It knows no value.
The wording is that of docs/secrets.md: it promises nothing that a TPM does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bootstrap.lease_desk import plural, span
from bootstrap.lease_words import day

_PUT = "`doorstep secret put {name} < FILE`"
_WHY = {
    "SECRET-MISSING": f"no value is stored: {_PUT}",
    "SECRET-GONE": "withdrawn upstream: store a new version there, or put one by hand, " + _PUT,
    "SECRET-EXPIRED": f"its time is over: put it again with {_PUT}",
    "DATE-OVER": "its day is over: ask {ask} for a new one, then " + _PUT,
    "SECRET-UNREADABLE": f"its row is damaged: put it again with {_PUT}",
    "SECRET-NOT-WRAPPED": "headquarters wrapped it for no box of this site yet",
    "SECRET-REVOKED": "headquarters took it back from every box that it was wrapped for",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One secret, in words; `until` in unix seconds is the latest moment, whatever else ends it.

    `served` is whether a box may get it now; `reason` is the code of why not.
    """

    name: str
    tier: str
    served: bool
    reason: str | None
    now: str
    until: float | None
    time: str
    enders: tuple[str, ...]
    earlier: tuple[str, ...]
    readers: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Give it for --json."""
        return {
            "name": self.name,
            "tier": self.tier,
            "served": self.served,
            "reason": self.reason,
            "until": self.until,
            "sentences": {
                "now": self.now,
                "until": self.time,
                "who_can_end_it": list(self.enders),
                "what_ends_it_earlier": list(self.earlier),
                "who_can_read_it": list(self.readers),
            },
        }

    def lines(self) -> Iterator[str]:
        """Write it for a terminal, the name first."""
        yield f"{self.name} (tier {self.tier})"
        yield f"  given now:     {self.now}"
        yield f"  until:         {self.time}"
        for head, texts in (
            ("ended by:", self.enders),
            ("ends earlier:", self.earlier),
            ("read by:", self.readers),
        ):
            for number, text in enumerate(texts):
                yield f"  {'' if number else head:<14} {text}"


def explain(answer: Mapping[str, Any], name: str | None = None) -> tuple[Explained, ...]:
    """Explain all secrets of the site file, or the one of a name."""
    return tuple(
        _explained(one, answer) for one in answer["secrets"] if name in (None, one["name"])
    )


def _explained(one: Mapping[str, Any], answer: Mapping[str, Any]) -> Explained:
    lease = answer["lease"]
    closed = lease["closed"] if lease else None
    reason = one["reason"] or (closed["code"] if closed else None)
    until = one.get("usable_until")
    return Explained(
        name=one["name"],
        tier=one["tier"],
        served=reason is None,
        reason=reason,
        now=_now(one, reason, closed),
        until=until,
        time=_time(one, until, answer["now"]),
        enders=tuple(_enders(one, answer)),
        earlier=tuple(_earlier(one, answer)),
        readers=tuple(_readers(one, answer)),
    )


def _now(one: Mapping[str, Any], reason: str | None, closed: Mapping[str, Any] | None) -> str:
    if reason is None:
        roles = ", ".join(one["roles"])
        return (
            f"yes, to accepted boxes of the role {roles}" if roles else "to no box: no role has it"
        )
    if reason == "SECRET-TIER-OFF":
        return f"no: {one['off']}"
    if closed and reason == closed["code"]:
        return f"no: {closed['sentence']}"
    is_over = reason == "SECRET-EXPIRED" and one.get("dated") is not None
    why = _WHY.get("DATE-OVER" if is_over else reason, reason)
    return f"no: {why.format(name=one['name'], ask=one.get('ask') or 'its maker')}"


def _time(one: Mapping[str, Any], until: float | None, now: float) -> str:
    if until is None:
        return "-"
    text = f"{day(until)}, in {span(until - now)}"
    if one["tier"] == "box":
        return f"{text}, for the first of {one.get('boxes', 0)} boxes that have one of their own"
    if one.get("dated") is not None and until >= one["dated"]:
        return f"{text}: the day of the {one['kind']} itself"
    stale = one["max_stale"]
    text = f"{text}, of that {span(stale)} as stale" if stale else text
    return f"{text}; {_seen(one)}" if one.get("seen") else text


def _seen(one: Mapping[str, Any]) -> str:
    """Say which version of its upstream it is, and whether that may have another by now."""
    text = f"version {one['upstream_version']} of {one['source']}, confirmed {day(one['seen'])}"
    return f"{text}: may be stale" if one["maybe_stale"] else text


def _enders(one: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[str]:
    if one["tier"] == "box":
        yield "headquarters, with a revocation that is imported here"
    else:
        yield f"the operator here: `doorstep secret remove {one['name']}`"
        if one.get("source"):
            yield f"its upstream: deleted at {one['source']}, or kept from this site, it is purged"
    yield "for one box: `doorstep box refuse BOX`; what the box has, it keeps until it is changed"
    if answer["has_tpm"]:
        yield "for all secrets at once: `doorstep lease end`; headquarters, by no new lease"


def _earlier(one: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[str]:
    if one["tier"] == "boot":
        yield "the next restart of this controller: then it must be put again"
    left = answer["lease"]["left"] if answer["lease"] else None
    if left:
        yield (
            f"the lease: {span(left['powered_seconds'])} more of being switched on, "
            f"{plural(left['starts'], 'start')} more"
        )
    if answer["has_tpm"]:
        yield "clearing or changing the TPM of this controller"
    elif one["tier"] != "boot":
        yield "nothing that holds against a copy of this controller's disk"


def _readers(one: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[str]:
    if one["tier"] == "box":
        yield "the box that it was wrapped for, in a boot that this site approved"
        yield "not this controller, whoever is root here"
        return
    if one["roles"]:
        yield f"every accepted box of the role {', '.join(one['roles'])}"
    if one["tier"] == "boot":
        yield "who is root on this controller until it restarts"
    elif answer["has_tpm"]:
        yield "who is root on this controller while a lease runs"
        if answer["not_covered"]:
            yield "who steals this controller while a lease runs: nothing protects its programs"
    else:
        yield "who ever has this controller's disk, or a copy of it: no TPM guards the key"
