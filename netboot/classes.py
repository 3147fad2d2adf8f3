"""Which classes a client is in: questions about facts, answered in the plan's order.

It never looks at a packet or at leases, and a class never makes a client trusted: option 60 and a
MAC are whatever the client writes.
"""

from __future__ import annotations

from collections.abc import Iterable

from netboot.client import Facts
from netboot.network import ClientClass, Match


def classify(facts: Facts, classes: Iterable[ClientClass]) -> tuple[ClientClass, ...]:
    """Give the classes that the client is in, in their order."""
    return tuple(known for known in classes if matches(known.match, facts))


def matches(match: Match, facts: Facts) -> bool:
    """Tell whether every condition holds; a match without conditions is everybody."""
    return (
        (not match.kinds or facts.kind in match.kinds)
        and (not match.architectures or not match.architectures.isdisjoint(facts.architectures))
        and (match.known is None or match.known is facts.known)
        and (not match.vendor_class or facts.vendor_class.startswith(match.vendor_class))
        and (not match.mac or (facts.mac is not None and facts.mac.startswith(match.mac)))
        and _holds_who(match, facts)
        and all(_has(facts, *wanted) for wanted in match.options)
    )


def _holds_who(match: Match, facts: Facts) -> bool:
    return (
        (not match.user_class or not set(match.user_class).isdisjoint(facts.user_classes))
        and (not match.uuid or facts.uuid in match.uuid)
        and (not match.circuit_id or facts.circuit_id in match.circuit_id)
        and (not match.remote_id or facts.remote_id in match.remote_id)
        and (not match.relays or facts.relay in match.relays)
    )


def _has(facts: Facts, code: int, data: bytes | None) -> bool:
    found = facts.options.get(code)
    return found is not None and data in (None, found)
