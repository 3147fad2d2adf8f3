"""Everything that control needs of what the operator wrote, read once and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attest.transcript import SiteIdentity
from bootstrap.site import Site
from keys.note import DeliveryNote, Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Site file, delivery note, site root, EK anchors by file name, templates by path.

    `note` is None when there is none that verifies: then no box is on it.
    """

    site: Site
    note: DeliveryNote | None
    note_problem: str | None
    root_pem: bytes
    identity: SiteIdentity
    anchors: tuple[tuple[str, bytes], ...]
    templates: Mapping[str, str]

    def entry(self, ek_public: bytes) -> Entry | None:
        """Find a box on the signed delivery note by its EK."""
        return self.note.entry(ek_public) if self.note is not None else None
