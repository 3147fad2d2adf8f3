"""What a site expects of a box: its policy, its boot sets as reference values, what it knows.

All of it is made by control from signed files and its own tables; nothing here comes from a box.
Terms: RFC 9334 (appraisal policy, reference values, endorsements).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum

from attest.bootfacts import FileFacts
from attest.ekcert import Anchors
from attest.predict import Transport


class SetState(Enum):
    """What a site says of a boot set it knows."""

    SERVED = "served"
    ACCEPTED = "accepted"
    WITHDRAWN = "withdrawn"
    OLDER = "older"

    @property
    def acceptable(self) -> bool:
        """Tell whether a box that booted it may be let in."""
        return self in (SetState.SERVED, SetState.ACCEPTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSet:
    """One boot set: its digest (32 bytes), its files' facts, and how boxes may have got them.

    `servers` are addresses as GRUB names them.
    """

    digest: bytes
    name: str
    version: int
    state: SetState
    facts: FileFacts
    transports: tuple[Transport, ...]
    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxRecord:
    """What the site knows of this box beside its evidence.

    `listed`: the signed delivery note or an approval names it. `note_names_ek`: the signed note
    holds the hash of this very EK, which stands in for a maker's certificate. `differences`: what
    its facts and the note or role disagree about. Counters and clock are those last accepted.
    """

    listed: bool = False
    note_names_ek: bool = False
    differences: tuple[str, ...] = ()
    reset_count: int | None = None
    restart_count: int | None = None
    clock: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Reference values, trust anchors and the box's record, for one appraisal."""

    sets: tuple[ReferenceSet, ...]
    anchors: Anchors
    record: BoxRecord = BoxRecord()

    def to_json(self) -> str:
        """Give what a later appraisal needs to be repeated, as JSON with sorted keys."""
        document = {
            "type": "doorstep/expectation/v1",
            "sets": [
                {
                    "digest": known.digest.hex(),
                    "name": known.name,
                    "version": known.version,
                    "state": known.state.value,
                    "facts": json.loads(known.facts.to_json()),
                    "transports": [transport.value for transport in known.transports],
                    "servers": list(known.servers),
                }
                for known in self.sets
            ],
            "anchors": sorted(each.der.hex() for each in self.anchors.certificates),
            "record": {name: getattr(self.record, name) for name in BoxRecord.__dataclass_fields__},
        }
        return json.dumps(document, sort_keys=True, indent=1) + "\n"

    @property
    def digest(self) -> bytes:
        """SHA-256 of the JSON form."""
        return hashlib.sha256(self.to_json().encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The site's appraisal policy.

    `rehearsal` lets virtual TPMs in; it is true in a rehearsal's own site alone.
    """

    secure_boot_required: bool = True
    rehearsal: bool = False

    def to_toml(self) -> str:
        """Give the policy as TOML, for the archive."""
        return (
            'type = "doorstep/policy/v1"\n'
            f"secure_boot_required = {str(self.secure_boot_required).lower()}\n"
            f"rehearsal = {str(self.rehearsal).lower()}\n"
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the TOML form."""
        return hashlib.sha256(self.to_toml().encode()).digest()
