"""What the operator asks of names: what would be answered and why, a zone as a file, ages.

Called in the process's main loop; it reads the generation that the DNS thread serves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any

from keys.io.rpc import Params, Refusal
from netboot.dns import Generation
from netboot.dns_explain import Sources, explain, rrset_lines
from netboot.errors import PeerError
from netboot.io.names import NameService
from netboot.names import Labels, labels, order, text
from netboot.plan import Plan
from netboot.plan_dns import origin_of
from netboot.rdata import Rtype, number_of
from netboot.zone import RRset
from netboot.zone_build import LeaseName
from netboot.zone_file import dump_zone

MAX_DUMP = 8 << 20
"""Characters of a zone in one answer."""


class NamesDesk:
    """The methods of `doorstep dns`; `running` gives the plan that is served."""

    def __init__(self, names: NameService, running: Callable[[], Plan | None]) -> None:
        """Read from this service."""
        self._names, self._running = names, running

    def lookup(self, _: str, params: Params) -> Mapping[str, Any]:
        """Say what would be answered to `name`, `type`, asked by the address `peer`."""
        plan = self._plan()
        try:
            name, qtype = labels(params["name"]), number_of(params.get("type", "A"))
            peer = str(ip_address(params.get("peer", "127.0.0.1")))
        except (PeerError, ValueError) as error:
            raise Refusal("MALFORMED", str(error)) from None
        resolver = self._names.forwarding.resolver
        found = self._names.generation.zones.lookup(name, qtype)
        known = None
        if resolver is not None and found.left is not None:
            known = resolver.known(found.left, qtype)
        sources = Sources(plan=plan, leases=lease_owners(plan, self._names.names), known=known)
        said = explain(self._names.generation, sources, name, qtype, peer)
        return {
            "code": said.code,
            "answers": list(said.answers),
            "reasons": list(said.reasons),
            "age": said.age,
        }

    def dump(self, _: str, params: Params) -> Mapping[str, Any]:
        """Give a zone as a master file; `signed` with its signatures and denials."""
        self._plan()
        try:
            origin = origin_of(params["zone"])
        except PeerError as error:
            raise Refusal("MALFORMED", str(error)) from None
        try:
            found = zone_text(
                self._names.generation, origin, signed=bool(params.get("signed")), now=time.time()
            )
        except PeerError as error:
            raise Refusal("NO-ZONE", str(error)) from None
        if len(found) > MAX_DUMP:
            raise Refusal("TOO-LARGE", "this zone is larger than one answer: read its file")
        return {"text": found}

    def pinned(self, _: str, params: Params) -> Mapping[str, Any]:
        """Give how old the answers of pinned names are."""
        return {"pinned": dict(self._names.forwarding.pinned())}

    def _plan(self) -> Plan:
        plan = self._running()
        if plan is None:
            raise Refusal("NO-PLAN", "netboot waits for the first plan")
        return plan


def lease_owners(plan: Plan, leases: tuple[LeaseName, ...]) -> frozenset[Labels]:
    """Give the owner names that leases bring."""
    domain = labels(plan.domain)
    return frozenset((*labels(one.name), *domain) for one in leases)


def zone_text(generation: Generation, origin: Labels, *, signed: bool, now: float) -> str:
    """Write a zone of a generation as a master file; PeerError when there is none, or no keys."""
    zone = generation.zones.get(origin)
    if zone is None:
        raise PeerError(f"{text(origin)} is no zone of this site")
    if not signed:
        return dump_zone(zone)
    signer = generation.signers.get(origin)
    if signer is None:
        raise PeerError(f"{text(origin)} is not signed")

    def place(rrset: RRset) -> tuple[Labels, bool, int]:
        is_first = rrset.rtype == Rtype.SOA and rrset.owner == origin
        return (() if is_first else order(rrset.owner), not is_first, rrset.rtype)

    every = sorted(signer.everything(now), key=place)
    lines = [f"$ORIGIN {text(origin)}", *(line for one in every for line in rrset_lines(one))]
    return "\n".join(lines) + "\n"
