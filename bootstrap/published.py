"""Which boot sets are published: the value of `published.json`, decoded and encoded.

One set of each architecture is served, others are still accepted as evidence until a date, others
are withdrawn. It never reads a file or a clock. docs/architecture.md, "Directories".
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from bootstrap.errors import SiteError

TYPE = "doorstep/published/v1"
AMD64 = "amd64"
_ARCHITECTURES = (AMD64, "arm64")
_KEYS = {"digest", "state", "until"}
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LATEST = 1 << 40


class PublishedState(StrEnum):
    """What a site does with a boot set."""

    SERVED = "served"
    ACCEPTED = "accepted"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSet:
    """One boot set by its digest (32 bytes); `until` in unix seconds, None for ever."""

    digest: bytes
    state: PublishedState
    until: int | None = None
    architecture: str = AMD64

    def is_accepted(self, now: float) -> bool:
        """Tell whether evidence of this set is accepted now."""
        if self.state is PublishedState.WITHDRAWN:
            return False
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True)
class Published:
    """All published sets, in the order of publishing; at most one of an architecture is served."""

    sets: tuple[PublishedSet, ...] = ()

    @property
    def served(self) -> tuple[PublishedSet, ...]:
        """The sets that boxes are given, one for each architecture."""
        return tuple(one for one in self.sets if one.state is PublishedState.SERVED)

    def accepted(self, now: float) -> tuple[PublishedSet, ...]:
        """All sets whose evidence is accepted now, the served one too."""
        return tuple(one for one in self.sets if one.is_accepted(now))

    def find(self, digest: bytes) -> PublishedSet | None:
        """Find a set by its digest."""
        return next((one for one in self.sets if one.digest == digest), None)

    def serve(
        self, digest: bytes, *, keep_until: int | None, architecture: str = AMD64
    ) -> Published:
        """Serve a set; the one before of its architecture stays accepted until `keep_until`.

        That is in unix seconds. SiteError when it was withdrawn: a withdrawn set never comes back.
        """
        before = self.find(digest)
        if before is not None and before.state is PublishedState.WITHDRAWN:
            raise SiteError(
                f"boot set {digest.hex()[:12]} was withdrawn and cannot be published again: "
                "build another"
            )
        kept = [
            replace(one, state=PublishedState.ACCEPTED, until=keep_until)
            if one.state is PublishedState.SERVED and one.architecture == architecture
            else one
            for one in self.sets
            if one.digest != digest
        ]
        served = PublishedSet(digest=digest, state=PublishedState.SERVED, architecture=architecture)
        return Published((*kept, served))

    def withdraw(self, digest: bytes) -> Published:
        """Withdraw a set for good; one that was never published can be withdrawn too."""
        gone = PublishedSet(digest=digest, state=PublishedState.WITHDRAWN)
        return Published((*(one for one in self.sets if one.digest != digest), gone))

    def encode(self) -> bytes:
        """Write the file."""
        sets = [
            {"digest": one.digest.hex(), "state": one.state.value, "until": one.until}
            | ({} if one.architecture == AMD64 else {"architecture": one.architecture})
            for one in self.sets
        ]
        return json.dumps({"type": TYPE, "sets": sets}, indent=1).encode() + b"\n"


def decode_published(data: bytes) -> Published:
    """Read the file; SiteError when anything in it is not as it must be."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _malformed("is not JSON") from None
    if not isinstance(document, dict) or set(document) != {"type", "sets"}:
        raise _malformed("has not exactly the keys type and sets")
    if document["type"] != TYPE or not isinstance(document["sets"], list):
        raise _malformed(f"is not of the type {TYPE}")
    published = Published(tuple(map(_set, document["sets"])))
    _check(published.sets)
    return published


def _check(sets: Sequence[PublishedSet]) -> None:
    if len({one.digest for one in sets}) != len(sets):
        raise _malformed("names a boot set twice")
    served = [one.architecture for one in sets if one.state is PublishedState.SERVED]
    if len(set(served)) != len(served):
        raise _malformed("serves more than one boot set of an architecture")


def _set(value: Any) -> PublishedSet:
    if not isinstance(value, dict) or set(value) - {"architecture"} != _KEYS:
        raise _malformed("has a set without exactly digest, state and until")
    architecture = value.get("architecture", AMD64)
    if architecture not in _ARCHITECTURES:
        raise _malformed(f"has an unknown architecture {architecture!r}")
    digest, state, until = value["digest"], value["state"], value["until"]
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise _malformed("has a digest that is not 64 hex digits")
    if state not in [known.value for known in PublishedState]:
        raise _malformed(f"has an unknown state {state!r}")
    if until is not None and (type(until) is not int or not 0 <= until < _LATEST):
        raise _malformed("has a date that is not in unix seconds")
    return PublishedSet(
        digest=bytes.fromhex(digest),
        state=PublishedState(state),
        until=until,
        architecture=architecture,
    )


def _malformed(what: str) -> SiteError:
    return SiteError(
        f"published.json {what}: publish a boot set again (`doorstep bootset publish`)"
    )
