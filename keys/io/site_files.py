"""The files of the operator that this process reads: site file, delivery note, withdrawn sets.

It notices a change by itself. A file that became unfit never replaces a good one: `sentences` say
what was kept. It never writes. architecture.md, "Directories".
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from keys.errors import KeysError, SiteError
from keys.io.layout import Layout
from keys.io.root_device import look
from keys.io.signed_files import beside, read_bounded, read_signed
from keys.note import MAX_BYTES, DeliveryNote, Floor
from keys.rootfs import compared
from keys.rules import SiteRules

_Stamp = tuple[int, int, int] | None


class SiteFiles:
    """What was read last, and what is wrong with the files now."""

    def __init__(self, layout: Layout) -> None:
        """Read the site file; SiteError when it is missing or wrong."""
        self._layout = layout
        self._stamps: dict[Path, _Stamp] = {}
        self._wrong: dict[str, str] = {}
        self._seen = look(layout.kernel)
        self.rules = self._read_rules()
        self.note: DeliveryNote | None = None
        self.withdrawn: tuple[bytes, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """Say what is wrong with the files, each with what was done about it."""
        doubt = self.rules.controller.doubt
        return [*self._wrong.values(), *([doubt] if doubt else [])]

    def changed(self) -> bool:
        """Say whether a file is another than at the last call."""
        found = {path: _stamp(path) for path in self._paths()}
        same = found == self._stamps
        self._stamps = found
        return not same

    def reload(self, floor: Floor | None) -> None:
        """Read all of them again, each alone."""
        self._attempt("site.toml", self._reload_rules)
        self._attempt("delivery note", lambda: self._reload_note(floor))
        self._attempt("published.json", self._reload_withdrawn)

    def _attempt(self, what: str, read: Callable[[], None]) -> None:
        self._wrong.pop(what, None)
        try:
            read()
        except KeysError as error:
            self._wrong[what] = f"{what}: {error}; what was read before is kept"

    def _paths(self) -> list[Path]:
        site, note = self._layout.site, self._note_path()
        trust = [site / "trust" / name for name in ("root.pem", "root.pub")]
        return [site / "site.toml", *beside(note), *trust, self._published()]

    def _note_path(self) -> Path:
        return self._layout.site / self.rules.delivery_note

    def _published(self) -> Path:
        return self._layout.state / "bootsets" / "published.json"

    def _read_rules(self) -> SiteRules:
        path = self._layout.site / "site.toml"
        try:
            rules = SiteRules.of(tomllib.loads(path.read_text()))
        except OSError as error:
            raise SiteError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise SiteError(f"{path}: {error}") from error
        return replace(rules, controller=compared(rules.controller, self._seen))

    def _reload_rules(self) -> None:
        rules = self._read_rules()
        if rules.site_id != self.rules.site_id:
            raise SiteError("site.id is permanent and was changed")
        self.rules = rules

    def _reload_note(self, floor: Floor | None) -> None:
        found = read_signed(self._note_path(), MAX_BYTES)
        if found is None:
            self.note = None
            raise SiteError("there is none: only boxes that an operator allows are served")
        key = self._layout.site / "trust" / "root.pub"
        self.note = DeliveryNote.verify_either(
            found.data,
            found.signatures,
            public_key=_read(key),
            site_id=self.rules.site_id,
            floor=floor,
        )

    def _reload_withdrawn(self) -> None:
        if not self._published().exists():
            return
        try:
            document = json.loads(_read(self._published()))
            sets = [one for one in document["sets"] if one["state"] == "withdrawn"]
            self.withdrawn = tuple(bytes.fromhex(one["digest"]) for one in sets)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise SiteError("not of the form doorstep/published/v1") from None


def _read(path: Path) -> bytes:
    found = read_bounded(path, MAX_BYTES)
    if found is None:
        raise SiteError(f"{path} is missing: put it back")
    return found


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
