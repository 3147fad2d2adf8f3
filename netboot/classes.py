"""Which classes a client is in: questions about facts, answered in the plan's order.

It never looks at a packet or at leases, and a class never makes a client trusted: option 60 and a
MAC are whatever the client writes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from netboot.client import Facts
from netboot.network import ClientClass, Conditions, Match


def classify(facts: Facts, classes: Iterable[ClientClass]) -> tuple[ClientClass, ...]:
    """Give the classes that the client is in, in their order; each may ask about those before."""
    found: dict[str, ClientClass] = {}
    for known in classes:
        if matches(known.match, facts, found):
            found[known.name] = known
    return tuple(found.values())


def matches(match: Match, facts: Facts, member: Collection[str] | None = None) -> bool:
    """Tell whether every condition holds; a match without conditions is everybody.

    `member` are the names of the classes that the client is in; without it, the facts say.
    """
    excluded = match.excluded
    member = facts.classes if member is None else member
    return _hold(match, facts, member) and not (
        excluded is not None and _hold(excluded, facts, member)
    )


def _hold(asked: Conditions, facts: Facts, member: Collection[str]) -> bool:
    return (
        (not asked.kinds or facts.kind in asked.kinds)
        and (not asked.architectures or not asked.architectures.isdisjoint(facts.architectures))
        and (asked.known is None or asked.known is facts.known)
        and (not asked.vendor_class or _begins(facts.vendor_classes, asked.vendor_class))
        and (not asked.mac or (facts.mac is not None and facts.mac.startswith(asked.mac)))
        and (not asked.member or not asked.member.isdisjoint(member))
        and _hold_who(asked, facts)
        and _hold_options(asked, facts)
    )


def _begins(said: Iterable[bytes], wanted: tuple[bytes, ...]) -> bool:
    return any(one.startswith(wanted) for one in said)


def _hold_who(asked: Conditions, facts: Facts) -> bool:
    return (
        (not asked.user_class or not set(asked.user_class).isdisjoint(facts.user_classes))
        and (not asked.uuid or facts.uuid in asked.uuid)
        and (not asked.circuit_id or facts.circuit_id in asked.circuit_id)
        and (not asked.remote_id or facts.remote_id in asked.remote_id)
        and (not asked.relays or facts.relay in asked.relays)
    )


def _hold_options(asked: Conditions, facts: Facts) -> bool:
    return (
        all(_has(facts.all(code), data) for code, data in asked.options)
        and all(_has(facts.all6(code), data) for code, data in asked.options6)
        and all(_has(facts.of_relay(code), data) for code, data in asked.relay_options)
        and all(_has_at(facts.all(code), at, data) for code, at, data in asked.parts)
        and all(_has_at(facts.all6(code), at, data) for code, at, data in asked.parts6)
    )


def _has(found: Collection[bytes], data: bytes | None) -> bool:
    return bool(found) if data is None else data in found


def _has_at(found: Iterable[bytes], at: int, data: bytes) -> bool:
    return any(one[at : at + len(data)] == data for one in found)
