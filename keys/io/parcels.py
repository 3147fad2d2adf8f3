"""Seeds that come by stick, and what a backup takes from this process.

A value never leaves it in the clear, and none comes in before the signature and the counter of its
parcel hold. It never reads or writes a parcel's file. keys.parcel; docs/backup.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from keys import boot_ca, ca, dated
from keys.cache import KEY_SIZE, Label
from keys.envelope import b64u, unb64u
from keys.errors import PeerError, SiteError
from keys.io.authority import Authority
from keys.io.layout import Layout
from keys.io.method_rows import OPERATOR_ALONE, MethodRow, Record
from keys.io.ring import ClosedError, Ring
from keys.io.rpc import Params, Refusal
from keys.io.signed_files import read_signed
from keys.io.site_files import SiteFiles
from keys.io.store import Store
from keys.io.tpm_made import Made
from keys.io.tpm_ring import TPM_META, TpmRing
from keys.io.vault import Vault
from keys.parcel import (
    BACKUP_CONTEXT,
    Header,
    Item,
    Part,
    Seed,
    What,
    backup_digest,
    check_recipient,
    identity,
    recipient,
)
from keys.rules import SecretKind, Tier
from keys.secret import Secret
from keys.signed import BACKUP_KEY, SEED, Floor, Kind, SignedInput, check_either
from keys.tpm_public import PublicArea

IDENTITY = "seed-identity"
"""The X25519 key that seeds are encrypted to."""
CARRIED = ("pseudonym", "wrap", "boot-ca", "upstream-values")
"""Keys that boxes, their firmware or headquarters know, beside those of the zones."""
SYMMETRIC = ("pseudonym", "upstream-values")
CERTIFICATES = ("boot-ca",)
ZONES = "zone-ksk-"
PART_ITEMS, PART_BYTES = 2000, 2 << 20
"""Bounds of one part: boxes wait no longer than it takes to make it."""
CHANGED = "a secret was changed or revoked while the backup was made: make it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """What a seed would do; `refused` says why of the items that are left out."""

    seed: Seed
    signed: SignedInput
    labels: list[tuple[Item, Label]] = field(default_factory=list)
    carried: list[Item] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)

    def about(self) -> dict[str, Any]:
        """Say it without a value."""
        taken = [
            {"name": label.name, "version": label.version, "expires": label.expires}
            for _, label in self.labels
        ]
        return {
            "site": self.seed.site,
            "counter": self.seed.counter,
            "signer": self.signed.signer,
            "secrets": taken,
            "keys": [item.name for item in self.carried],
            "refused": self.refused,
        }


class Parcels:
    """The methods about seeds and backups."""

    def __init__(
        self,
        *,
        layout: Layout,
        store: Store,
        ring: Ring,
        vault: Vault,
        authority: Authority,
        files: SiteFiles,
        record: Record,
    ) -> None:
        """Hold what they need."""
        self._trust = layout.site / "trust"
        self._store, self._ring, self._vault = store, ring, vault
        self._authority, self._files, self._record = authority, files, record

    def methods(self) -> dict[str, MethodRow]:
        """Give their rows of the socket table."""
        return {
            "seed_recipient": MethodRow(
                serve=self.recipient, users=OPERATOR_ALONE, administrative=True
            ),
            "seed_take": MethodRow(
                serve=self.take,
                users=OPERATOR_ALONE,
                administrative=True,
                adding=True,
                anchored=True,
            ),
            "backup_begin": MethodRow(serve=self.begin, users=OPERATOR_ALONE, under_lease=True),
            "backup_secrets": MethodRow(serve=self.part, users=OPERATOR_ALONE, under_lease=True),
            "backup_sign": MethodRow(
                serve=self.sign, users=OPERATOR_ALONE, under_lease=True, anchored=True
            ),
        }

    @property
    def _site_id(self) -> str:
        return self._files.rules.site_id

    # seeds

    def recipient(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Give the public half of the key for seeds; with a TPM, in a quote of it.

        A request for a lease quotes what headquarters names: here it names this key.
        """
        found = recipient(self._vault.key_bytes(IDENTITY))
        ring = self._ring
        request = ring.request(found, int(now)).text() if isinstance(ring, TpmRing) else None
        return {"site": self._site_id, "recipient": found, "request": request}

    def take(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Store everything of a seed at once, or with `look` only say what it would change.

        PeerError, and nothing changed, when it is not for us, was used before, or does not fit.
        """
        taking = self._judge(self._open(unb64u(params["file"]), unb64u(params["sig"])), now)
        about = taking.about()
        if params.get("look", False):
            return about | {"taken": False}
        with self._vault.revoking():
            for item, label in taking.labels:
                self._vault.lock(item.value, label)
                self._keep_version(label)
            for item in taking.carried:
                self._replace(item)
            self._set_floor(taking.signed, now)
            self._record(now, user, "seed-taken", **about)
        return about | {"taken": True}

    def _open(self, data: bytes, signature: bytes) -> Taking:
        """Check signature and counter, then decrypt."""
        from keys.io.age import decrypt

        signed = self._check(SEED, data, signature)
        floor = self._floor(SEED.name, "")
        if floor is not None and signed.floor == floor:
            raise PeerError(
                f"seed {floor.counter} was taken before: let headquarters pack a new one"
            )
        own = identity(self._vault.key_bytes(IDENTITY))
        seed = Seed.decode(decrypt(data, own).reveal())
        if (seed.site, seed.counter) != (signed.site, signed.counter):
            raise PeerError("what is inside is not what was signed outside: pack it again")
        return Taking(seed=seed, signed=signed)

    def _judge(self, taking: Taking, now: float) -> Taking:
        for item in taking.seed.items:
            if item.what is not What.SECRET:
                taking.carried.append(_known(item))
            elif (why := self._refusal(item, now)) is not None:
                taking.refused.append({"name": item.name, "reason": why})
            else:
                taking.labels.append((item, self._label(item, now)))
        return taking

    def _refusal(self, item: Item, now: float) -> str | None:
        """Say why one secret is left out; PeerError when the seed as a whole does not fit."""
        rule = self._files.rules.secrets.get(item.name)
        if rule is None:
            raise PeerError(f"site.toml has no [[secret]] named {item.name!r}: add it first")
        if rule.tier is Tier.BOX:
            raise PeerError(f"{item.name} is of tier box: wrap it at headquarters")
        if (off := self._files.rules.controller.why_off(rule.tier)) is not None:
            raise PeerError(f"{item.name}: {off}")
        if item.not_after is not None and item.not_after <= now:
            return "it has ended"
        held, last = self._store.secret(item.name), self._last_version(item.name)
        if item.version is not None and item.version < last:
            return f"it has version {item.version}, this controller has had {last}"
        if item.version is not None and held is not None and item.version == last:
            return f"version {last} is here already"
        return None

    def _label(self, item: Item, now: float) -> Label:
        rule = self._files.rules.secrets[item.name]
        until = None
        if rule.kind in (SecretKind.LICENSE, SecretKind.BLOB) and item.not_after is not None:
            until = f"{datetime.fromtimestamp(item.not_after, UTC):%Y-%m-%dT%H:%M:%SZ}"
        ends = dated.end_of(rule, item.value.reveal(), until, now)
        return Label(
            name=item.name,
            version=item.version or self._last_version(item.name) + 1,
            tier=rule.tier,
            set_at=int(now),
            expires=ends if item.not_after is None else min(ends, item.not_after),
        )

    def _last_version(self, name: str) -> int:
        found = self._store.execute("SELECT last FROM versions WHERE name=?", name).fetchone()
        return int(found[0]) if found else 0

    def _keep_version(self, label: Label) -> None:
        query = "INSERT INTO versions VALUES(?,?) ON CONFLICT DO UPDATE SET last=excluded.last"
        self._store.execute(query, label.name, label.version)

    def _replace(self, item: Item) -> None:
        """Put a key of the dead appliance in the place of the one that was drawn here."""
        if item.what is What.CERTIFICATE:
            certificate = ca.load_certificate(item.value.reveal().decode())
            self._store.set_certificate(item.name, ca.pem([certificate]))
            self._store.drop_certificate("boot-server")  # the authority before signed it
            return
        on_device = item.name.startswith(ZONES)
        self._vault.replace(item.name, item.value, on_device=on_device)
        try:
            if item.name in SYMMETRIC:
                if len(item.value) != KEY_SIZE:
                    raise ValueError("another size")
            elif item.name == "boot-ca":
                self._vault.rsa_key(item.name, boot_ca.CA_BITS)
            else:
                self._vault.key_pair(item.name, on_device=on_device)
        except (ValueError, SiteError):
            raise PeerError(f"the key {item.name!r} in the seed is damaged") from None

    # floors

    def _check(self, kind: Kind, data: bytes, *signatures: bytes) -> SignedInput:
        return check_either(
            kind,
            data,
            signatures,
            public_key=self._read("root.pub"),
            site_id=self._site_id,
            floors=self._floor,
        )

    def _floor(self, kind: str, subject: str) -> Floor | None:
        query = "SELECT counter, digest FROM floors WHERE kind=? AND scope=?"
        found = self._store.execute(query, kind, subject).fetchone()
        return None if found is None else Floor(counter=found[0], digest=found[1])

    def _set_floor(self, signed: SignedInput, now: float) -> None:
        floor = signed.floor
        query = "INSERT OR REPLACE INTO floors VALUES(?,'',?,?,?)"
        self._store.execute(query, signed.kind.name, floor.counter, floor.digest, now)

    # backups

    def begin(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Say what a backup that is made now is of; gives its header as text."""
        self._off_site(now, user)
        return {"header": self._header(int(now)).encode().decode()}

    def part(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Give a part of the secrets, encrypted to the off-site key; `next` None: it is the last.

        Refusal BACKUP-CHANGED when they are not those of the header any more.
        """
        from keys.io.age import encrypt

        header, number, first = self._same(params), int(params["number"]), int(params["first"])
        rows, items, left = self._names(), list[Item](), list[str]()
        at, size = max(0, first), 0
        while at < len(rows) and len(items) < PART_ITEMS and size < PART_BYTES:
            item = self._item(*rows[at][:2])
            at += 1
            if item is None:
                left.append(rows[at - 1][1])
                continue
            items.append(item)
            size += len(item.value)
        is_last = at == len(rows)
        part = Part(
            site=self._site_id,
            listing=header.listing,
            number=number,
            is_last=is_last,
            items=tuple(items),
        )
        made = encrypt(Secret(part.encode()), header.recipient)
        return {"part": b64u(made), "next": None if is_last else at, "left": left}

    def sign(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Sign a backup, `digest` being the SHA-256 of all of it so far; Refusal BACKUP-CHANGED."""
        header, digest = self._same(params), unb64u(params["digest"])
        if len(digest) != 32:
            raise Refusal("MALFORMED", "digest is a SHA-256")
        line = header.encode()
        payload = {"site": self._site_id, "digest": b64u(backup_digest(line, digest))}
        signed = self._authority.sign_answer(BACKUP_CONTEXT, b"", b"", payload)
        with self._store.transaction():
            about = {"secrets": header.secrets, "epoch": header.epoch, "digest": digest.hex()}
            self._record(now, user, "backup-made", **about)
        return {"signed": signed}

    def _header(self, at: int) -> Header:
        ring, rows = self._ring, self._names()
        number, head = self._store.audit_head()
        made = self._store.meta(TPM_META)
        return Header(
            site=self._site_id,
            ek=b"" if made is None else PublicArea.decode(Made.read(made).ek).name(),
            at=at,
            epoch=ring.epoch,
            lease_counter=ring.lease_counter() if isinstance(ring, TpmRing) else 0,
            audit_number=number,
            audit_hash=head,
            secrets=sum(1 for what, *_ in rows if what is What.SECRET),
            listing=_listing(rows),
            recipient=check_recipient(self._read("backup.txt").decode(errors="replace")),
        )

    def _same(self, params: Params) -> Header:
        """Read the header that the caller was given; Refusal when it is not of now any more."""
        text = params["header"]
        header = Header.decode(text.encode())
        now = self._header(header.at)
        told = (header.site, header.ek, header.epoch, header.lease_counter, header.listing)
        if told != (now.site, now.ek, now.epoch, now.lease_counter, now.listing):
            raise Refusal("BACKUP-CHANGED", CHANGED)
        if header.recipient != now.recipient:
            raise Refusal("BACKUP-CHANGED", "trust/backup.txt was changed meanwhile")
        return header

    def _off_site(self, now: float, user: str) -> None:
        """Check that headquarters names the off-site key: root here could name one of its own."""
        found = read_signed(self._trust / "backup.txt", BACKUP_KEY.max_bytes)
        signatures = () if found is None else found.signatures
        signed = self._check(BACKUP_KEY, self._read("backup.txt"), *signatures)
        if signed.floor != self._floor(BACKUP_KEY.name, ""):
            with self._store.transaction():
                self._set_floor(signed, now)
                told = signed.data.decode(errors="replace").strip()
                about = {"counter": signed.counter, "recipient": told}
                self._record(now, user, "backup-key", **about)

    def _names(self) -> list[tuple[What, str, int, int]]:
        """List what is exported: kind, name, version, end; keys before secrets."""
        names = [*CARRIED, *self._vault.device_names(ZONES)]
        rows = [(What.KEY, name, 0, 0) for name in names if self._vault.has(name)]
        rows += [
            (What.CERTIFICATE, name, 0, 0)
            for name in CERTIFICATES
            if self._store.certificate(name) is not None
        ]
        query = (
            "SELECT name, version, expires FROM secrets WHERE epoch=? AND tier=? "
            "AND name NOT LIKE '%/%' ORDER BY name"  # a login is its appliance's own
        )
        found = self._store.execute(query, self._store.epoch, Tier.SITE.value)
        return rows + [(What.SECRET, *row) for row in found]

    def _item(self, what: What, name: str) -> Item | None:
        """Open one value; None when it is damaged: the others must be saved all the same."""
        if what is What.CERTIFICATE:
            text = self._store.certificate(name) or ""
            return Item(what=what, name=name, value=Secret(text.encode()))
        try:
            if what is What.KEY:
                value = self._vault.exported(name, on_device=name.startswith(ZONES))
                return Item(what=what, name=name, value=value)
            row = self._store.secret(name)
            if row is None:
                return None
            label = row.label
            return Item(
                name=name,
                version=label.version,
                not_after=label.expires,
                value=self._vault.unlock(row),
            )
        except ClosedError:
            raise
        except SiteError:
            return None

    def _read(self, name: str) -> bytes:
        path: Path = self._trust / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise SiteError(
                f"{path}: {error.strerror}: headquarters makes it with `doorstep backup init`"
            ) from error


def _known(item: Item) -> Item:
    known = CARRIED if item.what is What.KEY else CERTIFICATES
    number = item.name.removeprefix(ZONES)
    is_zone = item.what is What.KEY and number != item.name and number.isdecimal()
    if item.name not in known and not is_zone:
        raise PeerError(f"the seed holds a key {item.name!r} that no appliance takes")
    return item


def _listing(rows: list[tuple[What, str, int, int]]) -> bytes:
    text = json.dumps([[what.value, *rest] for what, *rest in rows], separators=(",", ":"))
    return sha256(b"doorstep/v1/backup-listing\0" + text.encode()).digest()
