"""What every import needs: the site, its keys process, the disk, and the one verifier.

docs/signed-inputs.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from bootstrap.errors import SiteError
from bootstrap.importing import SIGNED, Sort, State, Verdict
from bootstrap.io import site_dir
from bootstrap.io.stick import Source
from bootstrap.site import Site
from keys.envelope import b64u, unb64u
from keys.errors import KeysError
from keys.io.layout import REHEARSAL_MARK
from keys.io.rpc import RpcError, RpcUnavailableError
from keys.io.signed_files import Disk, RealDisk, SignedFile, read_signed
from keys.manifest import MAX_FILE, verify
from keys.signed import Floor, Floors, Kind, SignedInput, check_either

Ask = Callable[[str, str, Mapping[str, Any]], Any]
"""Calls a method of a service: its name, the method, parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One document that was brought, with the signatures beside it and the files around it."""

    shown: str
    name: str
    sort: Sort
    data: bytes
    signatures: tuple[bytes, ...]
    beside: Source


class Handler(Protocol):
    """What is done with documents of a sort."""

    def look(self, desk: Desk, item: Item) -> Verdict:
        """Say what it is and what taking it changes; one of our errors when it must not be."""

    def take(self, desk: Desk, item: Item) -> tuple[str, ...]:
        """Take one that was looked at; gives what else is to be said."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """The place where documents are taken; `source` is a person's word on what nobody signed.

    `now` in unix seconds.
    """

    directory: Path
    state: Path
    ask: Ask
    now: float
    source: str | None = None
    disk: Disk = field(default_factory=RealDisk)

    @property
    def site(self) -> Site:
        """The settings as they are now."""
        return site_dir.load(self.directory)

    @property
    def rehearsal(self) -> bool:
        """Tell whether this is a rehearsal."""
        return (self.state / REHEARSAL_MARK).exists()

    @cached_property
    def public_key(self) -> bytes:
        """The key of headquarters; SiteError when it is missing."""
        path = self.directory / site_dir.ROOT_PUB
        found = self.disk.read(path, MAX_FILE)
        if found is None:
            raise SiteError(f"{path} is missing: put it back")
        return found

    def floors(self) -> Floors:
        """Ask keys for the newest documents that were taken."""
        rows = self.ask("keys", "input_floors", {})["floors"]
        known = {
            (row["kind"], row["subject"]): Floor(
                counter=row["counter"], digest=unb64u(row["digest"])
            )
            for row in rows
        }
        return lambda kind, subject: known.get((kind, subject))

    def check(self, item: Item) -> tuple[SignedInput, Floor | None]:
        """Check a document as what it is; gives it with the floor before."""
        floors = self.floors()
        found = check_either(
            SIGNED[item.sort],
            item.data,
            item.signatures,
            public_key=self.public_key,
            site_id=self.site.site.id,
            floors=floors,
        )
        return found, floors(found.kind.name, found.subject)

    def there(self, path: Path, kind: Kind) -> SignedFile | None:
        """Read what an import would replace; the signature that verifies comes first."""
        found = read_signed(path, kind.max_bytes, self.disk)
        if found is None:
            return None
        own = [one for one in found.signatures if self._verifies(kind, found.data, one)]
        rest = [one for one in found.signatures if one not in own]
        return replace(found, signatures=(*own, *rest))

    def _verifies(self, kind: Kind, data: bytes, signature: bytes) -> bool:
        try:
            verify(self.public_key, data, signature, context=kind.context)
        except KeysError:
            return False
        return True

    def taken(self, found: SignedInput) -> Mapping[str, Any]:
        """Tell keys of a document that was installed, so that no older one counts from now on."""
        answer: Mapping[str, Any] = self.ask(
            "keys",
            "input_take",
            {"kind": found.kind.name, "file": b64u(found.data), "sig": b64u(found.signature)},
        )
        return answer

    def reload(self) -> tuple[str, ...]:
        """Let control read its files; gives what it kept instead, or that it does not run."""
        try:
            kept = self.ask("control", "reload", {})["kept"]
        except RpcUnavailableError:
            return ("control does not run: it reads the file when it starts",)
        return (str(kept),) if kept else ()

    def sign_zones(self) -> tuple[str, ...]:
        """Let netboot sign the zones with the keys of now; gives what came of it."""
        try:
            self.ask("netboot", "dns_sign", {})
        except (RpcError, RpcUnavailableError):
            return ("restart netboot: it signs the zones with another key until then",)
        return ("the zones are signed with the keys of before",)


def verdict(
    item: Item,
    found: SignedInput,
    before: Floor | None,
    changes: tuple[str, ...],
    *,
    same: bool = False,
) -> Verdict:
    """Say of a checked document what it is."""
    return Verdict(
        file=item.shown,
        sort=item.sort,
        state=State.SAME if same else State.NEW,
        signer=found.signer,
        site=found.site,
        counter=found.counter,
        before=None if before is None else before.counter,
        changes=() if same else changes,
    )
