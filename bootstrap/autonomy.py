"""How long a site runs on its own: each thing that ends without the WAN, and on which day.

Pure: what is known of each thing goes in, horizons come out, the first to end first. Days are as
the controller's clock counts them; a lease counts switched-on time and starts.
It never says that something lasts which a restart or a thief may end sooner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bootstrap.lease_desk import plural, span
from bootstrap.lease_words import day, starts_words

FIRST = 3
"""So many horizons are on the page."""


class Renewed(Enum):
    """Who can make a thing last longer, and what that takes."""

    HERE = "here"
    BOX = "box"
    OPERATOR = "operator"
    UPSTREAM = "upstream"
    HEADQUARTERS = "headquarters"
    NEVER = "never"

    @property
    def is_alone(self) -> bool:
        """Tell whether the site goes on by itself: nobody brings or sends anything."""
        return self in (Renewed.HERE, Renewed.BOX, Renewed.NEVER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """One thing and its end: `ends` in unix seconds, None where nothing ends it.

    `powered` says that only switched-on time counts: `ends` comes later where it is off meanwhile,
    and sooner when it was started `starts` times more. `then` is what stops, `remedy` what makes
    it last longer.
    """

    kind: str
    name: str
    ends: float | None
    renewed: Renewed
    then: str
    remedy: str
    powered: bool = False
    starts: int | None = None

    def document(self) -> dict[str, Any]:
        """Give it for the socket and for --json."""
        return {
            "kind": self.kind,
            "name": self.name,
            "ends": self.ends,
            "powered": self.powered,
            "starts": self.starts,
            "renewed": self.renewed.value,
            "then": self.then,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a site's ends, from its processes and files; all times in unix seconds.

    `keys` and `sync` are the status of each, None while it is silent. `boxes` are (name, end of
    certificate), `sets` are (name, state, until), `lists` and `makers` are (title, end).
    """

    keys: Mapping[str, Any] | None
    root_ends: float
    boxes: Sequence[tuple[str, float]] = ()
    sets: Sequence[tuple[str, str, float | None]] = ()
    lists: Sequence[tuple[str, float | None]] = ()
    makers: Sequence[tuple[str, float | None]] = ()
    note: int | None = None
    sync: Mapping[str, Any] | None = None


def horizons(known: Known, now: float) -> tuple[Horizon, ...]:
    """List everything that ends, the first one first, then what nothing ends."""
    found = [
        *_of_keys(known.keys or {}, now),
        *_of_sync(known.sync or {}),
        *_of_site(known),
        *_of_boot_sets(known.sets),
        *(_box(name, ends) for name, ends in known.boxes),
    ]
    return tuple(sorted(found, key=lambda one: (one.ends is None, one.ends or 0.0, one.name)))


def first(found: Iterable[Horizon]) -> tuple[Horizon, ...]:
    """Pick those that end first of what somebody must bring, send or do."""
    wanted = [one for one in found if one.ends is not None and not one.renewed.is_alone]
    return tuple(wanted[:FIRST])


def sentence(found: Sequence[Horizon], now: float) -> str:
    """Say in one line until when the site runs on its own."""
    ending = first(found)
    if not ending:
        return "Nothing here ends that somebody must renew."
    one = ending[0]
    what = f"{one.kind} {one.name}".strip()
    if one.ends is None or one.ends <= now:
        return f"This site does not run on its own in full: {what} has ended."
    lasts = span(one.ends - now)
    if one.powered:
        lasts += f" of being switched on and {plural(one.starts or 0, 'start')} more"
    return f"This site runs on its own until {day(one.ends)}, for {lasts}: then {what} ends."


def _of_keys(status: Mapping[str, Any], now: float) -> Iterable[Horizon]:
    lease = status.get("lease")
    if lease is not None:
        yield _lease(lease, now)
    for one in status.get("ends", ()):
        if (horizon := _secret(one)) is not None:
            yield horizon
    for name, ends in status.get("lists", {}).items():
        renewed, remedy = _LISTS[name]
        yield Horizon(
            kind="revocation list",
            name=name,
            ends=ends,
            renewed=renewed,
            then="servers of the site that ask for it let no box in",
            remedy=remedy,
        )
    certificates = status.get("certificates", {})
    for name, ends in certificates.items():
        if ends is not None and name in _CERTIFICATES:
            renewed, then, remedy = _CERTIFICATES[name]
            yield Horizon(
                kind="certificate",
                name=name,
                ends=ends,
                renewed=renewed,
                then=then,
                remedy=remedy,
            )


_SIGN = "sign new ones with the offline root: `doorstep ca sign`"
_BY_ITSELF = "keys renews it by itself at two thirds of its life, while the cache is open"
_LISTS = {
    "box CA": (Renewed.HERE, "keys makes it again at half of its life, while the cache is open"),
    "site root": (Renewed.OPERATOR, f"{_SIGN}, or bring root.crl: `doorstep ca install`"),
}
_CERTIFICATES = {
    "appliance": (
        Renewed.OPERATOR,
        "no TLS, no signed answer: no box is enrolled, the page does not open",
        _SIGN,
    ),
    "box": (Renewed.OPERATOR, "no box gets a certificate: none is enrolled", _SIGN),
    "server": (Renewed.HERE, "TLS stops: no box is answered, the page does not open", _BY_ITSELF),
    "answer": (Renewed.HERE, "no answer to a box is signed", _BY_ITSELF),
    "boot": (Renewed.HERE, "firmware that boots by HTTPS refuses this site", _BY_ITSELF),
    "boot CA": (
        Renewed.OPERATOR,
        "firmware that boots by HTTPS refuses this site",
        "put a new one into each firmware: `doorstep ca boot`",
    ),
}


def _lease(lease: Mapping[str, Any], now: float) -> Horizon:
    then = "no box is enrolled, no secret is given and no certificate is renewed here"
    remedy = "`doorstep lease request` here, `doorstep lease issue` at headquarters"
    left = lease["left"]
    if left is None:
        return Horizon(
            kind="lease",
            name="of the cache",
            ends=now,
            renewed=Renewed.HEADQUARTERS,
            then=then,
            remedy=remedy,
        )
    return Horizon(
        kind="lease",
        name=str(lease["counter"]),
        ends=now + left["powered_seconds"],
        renewed=Renewed.HEADQUARTERS,
        then=f"{then}. It may end earlier: {starts_words(left['starts'])}",
        remedy=remedy,
        powered=True,
        starts=left["starts"],
    )


def _secret(one: Mapping[str, Any]) -> Horizon | None:
    """Give the end of a secret that has a value; None for one that was never there."""
    is_over = one["reason"] == "SECRET-EXPIRED"
    ends = one.get("since") if is_over else one.get("usable_until")
    if ends is None:
        return None
    is_wrapped = one["tier"] == "box"
    again = "headquarters wraps it again: `doorstep wrap`"
    if not is_wrapped:
        again = f"put it again: `doorstep secret put {one['name']} < FILE`"
    if source := one.get("source"):
        again = f"sync does it while {source} answers: `doorstep upstream list`; or {again}"
    if one.get("dated") is not None and ends >= one["dated"]:
        again = f"ask {one.get('ask') or 'its maker'} for a new one; {again}"
    until_restart = ", or at the next restart of this controller" if one["tier"] == "boot" else ""
    return Horizon(
        kind=one.get("kind") or "secret",
        name=one["name"],
        ends=ends,
        renewed=_renewer(one),
        then=f"boxes are enrolled without it, and are not ready{until_restart}",
        remedy=again,
    )


def _renewer(one: Mapping[str, Any]) -> Renewed:
    if one.get("source"):
        return Renewed.UPSTREAM
    return Renewed.HEADQUARTERS if one["tier"] == "box" else Renewed.OPERATOR


def _of_sync(status: Mapping[str, Any]) -> Iterable[Horizon]:
    for one in status.get("upstreams", ()):
        if one["login"] is None or one["login_ends"] is None:
            continue
        name = one["name"]
        yield Horizon(
            kind="login of upstream",
            name=name,
            ends=one["login_ends"],
            renewed=Renewed.HEADQUARTERS,
            then="no secret of it is renewed, and each lasts until its own end",
            remedy=f"make a new one there: `doorstep upstream login {name} < FILE`",
        )


def _of_site(known: Known) -> Iterable[Horizon]:
    yield Horizon(
        kind="certificate",
        name="site root",
        ends=known.root_ends,
        renewed=Renewed.OPERATOR,
        then="no box believes this site",
        remedy="`doorstep ca root`, then build and publish a boot set",
    )
    for title, ends in known.lists:
        yield Horizon(
            kind="revocation list",
            name=title,
            ends=ends,
            renewed=Renewed.HEADQUARTERS,
            then="boxes with a TPM of this maker are held, unless the policy takes an old list",
            remedy="bring a newer one: `doorstep trust import`",
        )
    for title, maker_ends in known.makers:
        yield Horizon(
            kind="TPM maker",
            name=title,
            ends=maker_ends,
            renewed=Renewed.HEADQUARTERS,
            then="boxes with a TPM of this maker are held",
            remedy="bring a newer certificate: `doorstep trust import`",
        )
    if known.note is not None:
        yield Horizon(
            kind="delivery note",
            name=str(known.note),
            ends=None,
            renewed=Renewed.NEVER,
            then="",
            remedy="boxes that it does not list wait for a newer one",
        )


def _of_boot_sets(sets: Iterable[tuple[str, str, float | None]]) -> Iterable[Horizon]:
    for name, state, until in sets:
        if state == "withdrawn":
            continue
        is_served = state == "served"
        yield Horizon(
            kind="boot set",
            name=name,
            ends=until,
            renewed=Renewed.NEVER if is_served or until is None else Renewed.OPERATOR,
            then="" if until is None else "a box that still boots it is refused until it restarts",
            remedy="its signature does not end" if until is None else "`doorstep bootset publish`",
        )


def _box(name: str, ends: float) -> Horizon:
    return Horizon(
        kind="box",
        name=name,
        ends=ends,
        renewed=Renewed.BOX,
        then="its client certificate is not believed any more",
        remedy="restart the box: it is enrolled again and gets a new one",
    )
