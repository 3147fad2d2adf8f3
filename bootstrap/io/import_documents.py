"""Documents that become files of the site: note, baseline, policy, off-site key, site plan.

Each is looked at against what is there, then replaces it so that a cut leaves one of both whole
(`keys.io.signed_files`); keys is told of its counter afterwards, and finds it by itself otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from attest.baseline import Baseline
from attest.errors import AttestError
from attest.firmwarefile import decode_baseline
from attest.policy import Policy
from bootstrap.check import FIRMWARE, POLICY, check
from bootstrap.errors import PeerError
from bootstrap.importing import (
    SIGNED,
    Sort,
    Verdict,
    baseline_changes,
    note_changes,
    text_changes,
)
from bootstrap.io import site_dir
from bootstrap.io.import_desk import Desk, Handler, Item, verdict
from bootstrap.site import SITE_FILE, SiteFileError
from bootstrap.site_plan import PLAN_FILE, SitePlan
from keys import note
from keys.errors import KeysError
from keys.io.signed_files import SignedFile, previous_of, replace_on
from keys.parcel import check_recipient, fingerprint
from keys.signed import PLAN

BACKUP_KEY_FILE = "trust/backup.txt"
MAX_SITE = 1 << 20

Describe = Callable[[Desk, bytes | None, bytes], tuple[str, ...]]
"""Says what changes from the document of before (None: there is none that can be read)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPair:
    """A document that lies on the disk as it was signed, with its signature beside it."""

    path: Callable[[Desk], str]
    describe: Describe

    def look(self, desk: Desk, item: Item) -> Verdict:
        """Check it, and compare it with what is there."""
        found, before = desk.check(item)
        there = desk.there(self._path(desk), found.kind)
        changes = self.describe(desk, there.data if there else None, item.data)
        is_here = there is not None and _is_signed(there, found.data, found.signature)
        if before == found.floor and not is_here:
            changes = ("it was taken before, and is put back", *changes)
        same = before == found.floor and is_here
        return verdict(item, found, before, changes, same=same)

    def take(self, desk: Desk, item: Item) -> tuple[str, ...]:
        """Put it in its place, then say so to keys and control."""
        found, _ = desk.check(item)
        path = self._path(desk)
        there = desk.there(path, found.kind)
        replace_on(desk.disk, path, found.data, found.signature, there)
        desk.taken(found)
        return desk.reload()

    def _path(self, desk: Desk) -> Path:
        return desk.directory / self.path(desk)


def _is_signed(there: SignedFile, data: bytes, signature: bytes) -> bool:
    return there.data == data and there.signatures[:1] == (signature,)


def _note_changes(desk: Desk, before: bytes | None, after: bytes) -> tuple[str, ...]:
    entries = note.decode(after)
    try:
        old = note.decode(before) if before else ()
    except KeysError:
        old = ()
    site = desk.site
    strange = sorted({one.role for one in entries if one.role and site.role(one.role) is None})
    missing = [f"site.toml has no role {role}: its boxes get none" for role in strange]
    return *note_changes(old, entries), *missing


def _baseline_changes(desk: Desk, before: bytes | None, after: bytes) -> tuple[str, ...]:
    entries = decode_baseline(after)
    try:
        old = decode_baseline(before) if before else Baseline()
    except AttestError:
        old = Baseline()
    return baseline_changes(old, entries)


def _policy_changes(desk: Desk, before: bytes | None, after: bytes) -> tuple[str, ...]:
    text = _text(POLICY, after)
    policy = Policy.from_toml(text, POLICY)
    if policy.rehearsal and not desk.rehearsal:
        raise PeerError(
            f"{POLICY}: rehearsal: this is a real site, where no TPM in software may pass: "
            "ask headquarters for the policy of real sites"
        )
    return text_changes(POLICY, (before or b"").decode(errors="replace"), text)


def _backup_changes(desk: Desk, before: bytes | None, after: bytes) -> tuple[str, ...]:
    new = check_recipient(after.decode(errors="replace").strip())
    old = (before or b"").decode(errors="replace").strip()
    told = f"backups are made for the key {fingerprint(new)} from now on"
    return (told,) if old != new else ("the key stays the same",)


class SitePlans:
    """Site plans: their one moment is the renaming of the site file."""

    def look(self, desk: Desk, item: Item) -> Verdict:
        """Check it, and the site that it would make, whole."""
        found, before = desk.check(item)
        plan = _checked_plan(desk, found.data)
        old = self._site_text(desk)
        changes = list(text_changes(SITE_FILE, old, plan.site_text))
        changes += [f"+ {name}" for name in plan.templates if not (desk.directory / name).exists()]
        same = before == found.floor and old == plan.site_text and not self._missing(desk, plan)
        return verdict(item, found, before, tuple(changes), same=same)

    def take(self, desk: Desk, item: Item) -> tuple[str, ...]:
        """Put new templates beside the old ones, then the site file in the place of the old one."""
        found, _ = desk.check(item)
        plan = _checked_plan(desk, found.data)
        for name in self._missing(desk, plan):
            desk.disk.write(desk.directory / name, plan.templates[name].encode())
        site, record = desk.directory / SITE_FILE, desk.directory / PLAN_FILE
        old = desk.disk.read(site, MAX_SITE)
        if old is not None and old != plan.site_text.encode():
            desk.disk.write(previous_of(site), old)
        desk.disk.write(site, plan.site_text.encode())
        replace_on(desk.disk, record, found.data, found.signature, desk.there(record, PLAN))
        desk.taken(found)
        return desk.reload()

    def _site_text(self, desk: Desk) -> str:
        found = desk.disk.read(desk.directory / SITE_FILE, MAX_SITE)
        return (found or b"").decode(errors="replace")

    def _missing(self, desk: Desk, plan: SitePlan) -> list[str]:
        """Name the templates that are not there yet; PeerError when one is another there."""
        missing = []
        for name, text in sorted(plan.templates.items()):
            there = desk.disk.read(desk.directory / name, PLAN.max_bytes)
            if there is None:
                missing.append(name)
            elif there != text.encode():
                raise PeerError(f"{desk.directory / name} was changed here: remove it, then import")
        return missing


def _checked_plan(desk: Desk, data: bytes) -> SitePlan:
    """Read a plan and check the site that it makes; PeerError names the first thing wrong."""
    try:
        plan = SitePlan.decode(data)
    except SiteFileError as error:
        raise PeerError(f"{error.problems[0]}: let headquarters correct the site plan") from None
    if plan.site.site.id != desk.site.site.id:
        raise PeerError(
            f"the site plan makes this the site {plan.site.site.id}, but site.id is permanent: "
            "ask headquarters for the plan of this site"
        )
    files = site_dir.gather(desk.directory, desk.state, plan.site)
    files = replace(files, templates=plan.templates)
    wrong = site_dir.errors_of(check(plan.site, files))
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise PeerError(f"with this site plan the site would not start: {wrong[0]}{more}")
    return plan


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PeerError(f"{name}: it is not UTF-8 text: let headquarters save it as such") from None


DOCUMENTS: dict[Sort, Handler] = {
    Sort.NOTE: SignedPair(path=lambda desk: desk.site.trust.delivery_note, describe=_note_changes),
    Sort.FIRMWARE: SignedPair(path=lambda desk: FIRMWARE, describe=_baseline_changes),
    Sort.POLICY: SignedPair(path=lambda desk: POLICY, describe=_policy_changes),
    Sort.BACKUP_KEY: SignedPair(path=lambda desk: BACKUP_KEY_FILE, describe=_backup_changes),
    Sort.PLAN: SitePlans(),
}
assert set(DOCUMENTS) <= set(SIGNED)
