"""Everything that control needs of what the operator wrote, read once and frozen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from attest.baseline import Baseline
from attest.ekcert import Anchors
from attest.policy import Policy
from attest.transcript import SiteIdentity
from bootstrap.site import Site
from keys.note import DeliveryNote, Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Site file, policy, delivery note, firmware baseline, site root, EK anchors, templates.

    `note` is None when there is none that verifies: then no box is on it; so it is with `baseline`,
    which then knows no firmware. `policy` is that of the file: a rehearsal adds to it. `basis`
    names policy and baseline, so that what was appraised by others is found. `platform_anchors` is
    None where no maker of machines is trusted.
    """

    site: Site
    note: DeliveryNote | None
    note_problem: str | None
    root_pem: bytes
    identity: SiteIdentity
    anchors: Anchors
    templates: Mapping[str, str]
    platform_anchors: Anchors | None = None
    policy: Policy = Policy()
    baseline: Baseline = Baseline()
    baseline_problem: str | None = None
    basis: bytes = b""

    def entry(self, ek_public: bytes) -> Entry | None:
        """Find a box on the signed delivery note by its EK."""
        return self.note.entry(ek_public) if self.note is not None else None

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not used though it is there, or missing though it is needed."""
        return tuple(filter(None, (self.note_problem, self.baseline_problem)))


def basis_of(policy: Policy, baseline: Baseline) -> bytes:
    """Name a policy with a baseline by their content."""
    entries = json.dumps(baseline.plain(), sort_keys=True).encode()
    return hashlib.sha256(policy.digest + entries).digest()
