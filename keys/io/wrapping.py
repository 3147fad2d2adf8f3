"""Wrapped secrets at the site: taken from headquarters, passed on with an approval of one boot.

It cannot open what it keeps: the share opens in the box's TPM alone. It decides from the signed
file and its own floors which version a box may have, never what the value is. `keys.wrap`;
design.md, "Secrets".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keys.envelope import b64u, unb64u
from keys.errors import KeysError, PeerError, SiteError
from keys.io.authority import WRAP_KEY, Authority
from keys.io.layout import Layout
from keys.io.method_rows import OPERATOR_ALONE, MethodRow
from keys.io.ring import ClosedError
from keys.io.rpc import Params
from keys.io.site_files import SiteFiles
from keys.io.store import Event, Store
from keys.io.vault import Vault
from keys.manifest import PublicKey
from keys.policy import TpmPolicy
from keys.rules import Tier, Withheld
from keys.secret import Secret
from keys.wrap import KEY_CONTEXT, Label, WrappedSecret, approve, for_box, key_area


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is kept for one secret and one box; without `file` the versions so far are revoked."""

    version: int
    file: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What one box gets: `items` for its hand-off, by name the version and the proof of opening."""

    items: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    proofs: dict[str, Secret] = field(default_factory=dict)
    withheld: list[dict[str, Any]] = field(default_factory=list)

    def unless_opened(self) -> list[dict[str, Any]]:
        """Say of each item that it is withheld, for an agent that does not know how to open it."""
        reason = Withheld.WRAPPED.value
        return [{"name": name, "reason": reason, "since": None} for name in self.versions]


class Wrapping:
    """The methods about wrapped secrets, and their part of a hand-over."""

    def __init__(
        self, layout: Layout, store: Store, vault: Vault, authority: Authority, files: SiteFiles
    ) -> None:
        """Hold what they need."""
        self._public_key = layout.site / "trust" / "root.pub"
        self._store, self._vault, self._authority = store, vault, authority
        self._files = files

    # methods

    def methods(self) -> dict[str, MethodRow]:
        """Give its rows of the socket table."""
        return {
            "secret_import": MethodRow(
                serve=self.take, users=OPERATOR_ALONE, adding=True, anchored=True
            ),
            "wrap_key": MethodRow(serve=self.key, users=OPERATOR_ALONE),
        }

    def key(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Give the public half of the wrap key, signed by this site for headquarters."""
        area = key_area(self._vault.key_pair(WRAP_KEY).public_key())
        payload = {"site": self._files.rules.site_id, "public": b64u(area.encode())}
        signed = self._authority.sign_answer(KEY_CONTEXT, b"", b"", payload)
        return {"key": signed, "name": b64u(area.name())}

    def take(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Take a signed file, or with `look` only say what it would change.

        PeerError when it is not for us, not newer, or ended.
        """
        data, signature = unb64u(params["file"]), unb64u(params["sig"])
        public_key = self._read_public_key()
        one = WrappedSecret.verify(
            data, signature, public_key=public_key, site_id=self._files.rules.site_id
        )
        before = self._check(one, data, now)
        about = self._about(one) | {
            "before": before and before.version,
            "signer": PublicKey.decode(public_key).key_id[::-1].hex().upper(),
        }
        if before is not None and before.version == one.label.version:
            return about | {"taken": False}
        if not params.get("look", False):
            self._put(user, one, data, about, now)
        return about | {"taken": not params.get("look", False)}

    def _read_public_key(self) -> bytes:
        try:
            return self._public_key.read_bytes()
        except OSError as error:
            raise SiteError(f"{self._public_key}: {error.strerror}") from error

    def _check(self, one: WrappedSecret, data: bytes, now: float) -> Row | None:
        """Check that it is for this site as it is now; gives what is there before."""
        label = one.label
        rule = self._files.rules.secrets.get(label.name)
        if rule is None or rule.tier is not Tier.BOX:
            raise PeerError(f"site.toml has no [[secret]] {label.name!r} of tier box")
        if one.sealed is not None:
            self._check_usable(one.label, now)
        before = self._row(label.name, label.ek_name)
        kept = None if one.sealed is None else data
        if before is None or before.version < label.version:
            return before
        if before != Row(version=label.version, file=kept):
            raise PeerError(
                f"it has version {label.version}, and version {before.version} was taken for this "
                f"box: wrap it again with --version {before.version + 1}"
            )
        return before

    def _check_usable(self, label: Label, now: float) -> None:
        """Check what a value needs; a revocation needs no key, so no lease, and never ends."""
        own = key_area(self._vault.key_pair(WRAP_KEY).public_key()).name()
        if label.key_name != own:
            raise PeerError(
                "it was wrapped for another key than this controller's: send headquarters the key "
                "that `doorstep wrap-key` writes, and wrap again"
            )
        if now >= label.expires:
            raise PeerError("it has ended: wrap it again at headquarters")

    def _about(self, one: WrappedSecret) -> dict[str, Any]:
        label, note = one.label, self._files.note
        on_note = note is not None and any(box.serial == label.serial for box in note.entries)
        return {
            "name": label.name,
            "serial": label.serial,
            "ek_name": b64u(label.ek_name),
            "version": label.version,
            "issued": label.issued,
            "expires": label.expires,
            "revokes": one.sealed is None,
            "on_note": on_note,
        }

    def _put(
        self, user: str, one: WrappedSecret, data: bytes, about: Mapping[str, Any], now: float
    ) -> None:
        """Write a version; what revokes one ends the epoch too, so that no old disk undoes it."""
        revokes = one.sealed is None
        with self._vault.revoking() if revokes else self._store.transaction():
            self._store.execute(
                "INSERT OR REPLACE INTO wrapped VALUES(?,?,?,?)",
                *(one.label.name, one.label.ek_name, one.label.version),
                None if revokes else data,
            )
            kind = "wrapped-revoked" if revokes else "wrapped-taken"
            self._store.record(now, user, Event(kind=kind, detail=about))

    # for hand-overs and lists

    def give(self, names: Iterable[str], ek_name: bytes, boot: TpmPolicy, now: float) -> Passed:
        """Look up the wrapped secrets of a box, each with an approval of this boot of it."""
        passed = Passed()
        for name in names:
            found = self._look_up(name, ek_name, now)
            if isinstance(found, dict):
                passed.withheld.append(found)
                continue
            one, proof = found
            try:
                key = self._vault.key_pair(WRAP_KEY)
            except ClosedError as error:
                passed.withheld.append({"name": name, "reason": error.code, "since": None})
                continue
            approval = approve(key, boot, one.label)
            passed.items.append(for_box(one, key_area(key.public_key()), approval))
            passed.versions[name] = one.label.version
            passed.proofs[name] = proof
        return passed

    def listed(self, name: str, now: float) -> dict[str, Any]:
        """Say for how many boxes a secret may be given and when the first of them ends."""
        found = self._store.execute("SELECT ek_name FROM wrapped WHERE name=?", name).fetchall()
        looked = [self._look_up(name, ek_name, now) for (ek_name,) in found]
        usable = [one[0].label for one in looked if isinstance(one, tuple)]
        about = {"name": name, "tier": Tier.BOX.value, "boxes": len(usable)}
        if not usable:
            reasons = [one["reason"] for one in looked if isinstance(one, dict)]
            reason = reasons[0] if reasons else Withheld.NOT_WRAPPED.value
            return about | {"reason": reason, "since": None}
        first = min(usable, key=lambda label: label.expires).expires
        about |= {"version": max(one.version for one in usable), "expires": first}
        try:
            self._vault.key_pair(WRAP_KEY)
        except ClosedError as error:
            return about | {"reason": error.code, "since": None}
        return about | {"reason": None, "usable_until": first}

    def _look_up(
        self, name: str, ek_name: bytes, now: float
    ) -> tuple[WrappedSecret, Secret] | dict[str, Any]:
        """Give a wrapped secret and its proof, or why a box does not get it."""
        row = self._row(name, ek_name)
        if row is None:
            return {"name": name, "reason": Withheld.NOT_WRAPPED.value, "since": None}
        if row.file is None:
            return {"name": name, "reason": Withheld.REVOKED.value, "since": None}
        try:
            one = WrappedSecret.decode(row.file)
        except KeysError:
            return {"name": name, "reason": Withheld.UNREADABLE.value, "since": None}
        label = one.label
        # A row that was moved in the database keeps what headquarters wrote into its file.
        if (label.name, label.ek_name, label.version) != (name, ek_name, row.version):
            return {"name": name, "reason": Withheld.UNREADABLE.value, "since": None}
        if one.sealed is None or now >= label.expires:
            return {"name": name, "reason": Withheld.EXPIRED.value, "since": label.expires}
        return one, Secret(one.sealed.proof)

    def _row(self, name: str, ek_name: bytes) -> Row | None:
        query = "SELECT version, file FROM wrapped WHERE name=? AND ek_name=?"
        found = self._store.execute(query, name, ek_name).fetchone()
        return Row(version=found[0], file=found[1]) if found else None
