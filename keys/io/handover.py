"""One hand-over: who asks for whom, is it allowed, and the sealed answer.

Everything is decided from what this process verified itself: delivery note, allowances, floors,
site file. What control says is only which box, which boot and which configuration. The caller
holds the transaction. architecture.md, "keys `handover`"; phone-home-v1.md, "The bundle".
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys import ca, rules
from keys.cache import Label
from keys.envelope import (
    ZERO_PCR,
    Binding,
    Boot,
    Bundle,
    Randomness,
    b64u,
    bind,
    seal,
    sealed_digest,
    secret_digest,
    unb64u,
)
from keys.errors import PeerError, SiteError
from keys.io import renewal_rows
from keys.io.authority import Authority
from keys.io.origins import Origins
from keys.io.renewal_rows import RenewalRow
from keys.io.ring import ClosedError
from keys.io.rpc import Refusal
from keys.io.site_files import SiteFiles
from keys.io.ssh_authority import Host, SshAuthority
from keys.io.store import Allowance, Event, Handover, Store
from keys.io.vault import Vault
from keys.io.wrapping import Passed, Wrapping
from keys.io.zone_signing import ZoneSigning
from keys.note import Entry
from keys.rules import RoleRule, SecretRule, Tier, Withheld
from keys.secret import Secret
from keys.tpm_public import PublicArea

_Opened = TypeVar("_Opened")
U32 = (1 << 32) - 1
LIFETIME = int(rules.HANDOVER_LIFETIME.total_seconds())
ADDED = frozenset({"identity", "secrets", "wrapped", "withheld", "issued", "expires", "renew"})
"""Fields of the hand-off document that only this process writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The parameters of `handover`, taken apart."""

    ek_public: bytes
    ek: PublicArea
    ek_name: bytes
    box: UUID
    session: bytes
    transcript: bytes
    ephemeral: bytes
    device_key: ec.EllipticCurvePublicKey
    ssh_public: bytes
    reset_count: int
    restart_count: int
    clock: int
    pcrs: Mapping[int, bytes]
    boot_set: bytes
    role: str
    reasons: frozenset[str]
    handoff: Mapping[str, Any]

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Request:
        """Take the parameters apart; ValueError, KeyError, TypeError or PeerError otherwise."""
        ek_public = unb64u(params["ek_public"])
        ek = PublicArea.decode(ek_public)
        device = PublicArea.decode(unb64u(params["device_public"])).public_key()
        if not isinstance(device, ec.EllipticCurvePublicKey):
            raise PeerError("the device key is no ECC key")
        handoff = params["handoff"]
        if not isinstance(handoff, dict) or ADDED & set(handoff):
            raise PeerError(f"handoff is an object without {', '.join(sorted(ADDED))}")
        return cls(
            ek_public=ek_public,
            ek=ek,
            ek_name=ek.name(),
            box=UUID(params["box"]),
            session=sized(params["session"], 16),
            transcript=sized(params["transcript"], 32),
            ephemeral=sized(params["ephemeral"], 32),
            device_key=device,
            ssh_public=unb64u(params.get("ssh_public", "")),
            reset_count=_count(params["reset_count"], U32),
            restart_count=_count(params["restart_count"], U32),
            clock=_count(params["clock"], (1 << 63) - 1),
            pcrs={int(index): sized(value, 32) for index, value in params["pcrs"].items()},
            boot_set=sized(params["boot_set"], 32),
            role=_text(params["role"]),
            reasons=frozenset(map(_text, params["reasons"])),
            handoff=handoff,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Secrets of a role: values for the box, and what it does not get."""

    values: Mapping[str, tuple[int, int, Secret]]
    withheld: list[dict[str, Any]]
    passed: Passed

    @property
    def versions(self) -> dict[str, int]:
        """Give the version of each by its name."""
        return {name: version for name, (version, _, _) in self.values.items()} | (
            self.passed.versions
        )

    def proofs(self) -> dict[str, Secret]:
        """Give by name what a box shows that it opened: the value, or a wrapped one's proof."""
        return {name: value for name, (_, _, value) in self.values.items()} | self.passed.proofs


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What a hand-over needs; all of it belongs to this process."""

    store: Store
    vault: Vault
    authority: Authority
    files: SiteFiles
    zones: ZoneSigning
    ssh: SshAuthority
    wrapping: Wrapping

    def serve(self, user: str, request: Request, now: float) -> Mapping[str, Any]:
        """Decide, seal and write the row; Refusal with a code when it may not be."""
        self._check_withdrawn(request)
        known = self.store.handover(request.session)
        if known is not None and known.transcript == request.transcript:
            reply: dict[str, Any] = json.loads(known.reply)
            return reply
        self._check_once(request, known)
        entry = self._check_allowed(request, now)
        if self.store.handovers_since(now - 60) >= rules.HANDOVERS_PER_MINUTE:
            raise Refusal("RATE", "too many hand-overs in the last minute: try again in a minute")
        self._spend(request, entry)
        return self._hand_over(user, request, self.files.rules.roles[request.role], now)

    @contextmanager
    def noting(self, user: str, request: Request, kind: str, now: float) -> Iterator[None]:
        """Record a refusal, outside of the transaction that it undid."""
        try:
            yield
        except Refusal as refusal:
            with self.store.transaction():
                detail = {"ek_name": request.ek_name.hex(), "role": request.role}
                event = Event(
                    kind=kind,
                    box=str(request.box),
                    reason=refusal.code,
                    detail=detail | {"sentence": str(refusal)},
                )
                self.store.record(now, user, event)
            raise

    def _check_withdrawn(self, request: Request) -> None:
        """Refuse what was taken away; also a repeated question gets no stored answer then."""
        if self.store.is_revoked(request.ek_name):
            raise Refusal("EK-NOT-ALLOWED", "access of this box was revoked")
        if self.store.is_withdrawn(request.boot_set):
            raise Refusal("BOOT-SET-WITHDRAWN", "the boot set of this boot was withdrawn")

    def _check_once(self, request: Request, known: Handover | None) -> None:
        boot = (request.ek_name, request.reset_count, request.restart_count)
        if known is not None or self.store.handover_of_boot(*boot) is not None:
            raise Refusal("HANDED-OVER", "this boot of this box has had its hand-over: restart it")

    def _check_allowed(self, request: Request, now: float) -> Entry | None:
        """Check EK and role by the operator's allowance where something was released, else by note.

        Gives the entry that is used. A box on the note for which a person released something needs
        the allowance too: neither control nor keys lets it in alone.
        """
        entry = None
        if request.reasons:
            wanted = self._allowance(request, now).role
        else:
            entry = self._entry(request)
            wanted = entry.role or self.files.rules.default_role or ""
        if wanted != request.role or request.role not in self.files.rules.roles:
            raise Refusal("ROLE-DIFFERS", f"this box is allowed the role {wanted!r} only")
        return entry

    def _allowance(self, request: Request, now: float) -> Allowance:
        found, sealed = self.store.allowance(request.ek_name), sealed_digest(request.pcrs)
        if found is None or not found.covers(request.reasons, sealed, now):
            raise Refusal("EK-NOT-ALLOWED", "the operator allowed no such approval of this EK")
        return found

    def _entry(self, request: Request) -> Entry:
        note = self.files.note
        entry = note.entry(request.ek_public) if note else None
        if entry is None:
            raise Refusal("EK-NOT-ALLOWED", "this EK is on no delivery note and nobody allowed it")
        consumer = self.store.consumer(entry.serial)
        if consumer is not None and consumer != request.ek_name:
            raise Refusal(
                "EK-NOT-ALLOWED",
                f"serial {entry.serial} was used with another EK: revoke that one first",
            )
        return entry

    def _spend(self, request: Request, entry: Entry | None) -> None:
        """Use up what allowed this: an allowance is gone, an entry belongs to this EK."""
        self.store.disallow(request.ek_name)
        if entry is not None:
            self.store.consume(entry.serial, request.ek_name)

    def _hand_over(
        self, user: str, request: Request, role: RoleRule, now: float
    ) -> Mapping[str, Any]:
        given, reply = self.seal_for(request, role, now)
        self._write(user, request, given, reply, now)
        return reply

    def seal_for(
        self,
        request: Request,
        role: RoleRule,
        now: float,
        *,
        status: str = "enrolled",
        opened: bytes = ZERO_PCR,
    ) -> tuple[Given, dict[str, Any]]:
        """Seal all that a role has to one boot, whose PCR 15 is `opened`; gives the reply too."""
        boot = boot_of(request, opened)
        given = self.secrets(role, request, boot, now)
        expires = int(now) + LIFETIME
        chain, not_after = self.authority.issue_box(
            request.device_key,
            request.box,
            role.certificate_lifetime,
            ca.at(now),
            ek_name=request.ek_name,
        )
        identity: dict[str, Any] = {"chain_pem": chain, "not_after": not_after}
        identity |= self._ssh_identity(request, not_after, now)
        times = {"issued": int(now), "expires": expires}
        if role.renew is not None:
            times["renew"] = int(role.renew.total_seconds())
        bundle = _seal(request, boot, self._document(request, given, identity, times), expires)
        payload = {
            "status": status,
            "session": b64u(request.session),
            "box": str(request.box),
            "transcript": b64u(request.transcript),
            "bundle": bundle.document(),
        }
        signed = self.authority.sign_answer("answer", request.session, request.transcript, payload)
        reply = {
            "answer": signed,
            "digests": {
                name: b64u(secret_digest(bundle.content_key, name, value))
                for name, value in given.proofs().items()
            },
            "withheld": given.withheld,
            "certificate_not_after": not_after,
        }
        return given, reply

    def _ssh_identity(self, request: Request, not_after: int, now: float) -> Mapping[str, str]:
        """Certify the SSH host key that was quoted; nothing for a box that has none."""
        host = Host(box=request.box, ek_name=request.ek_name, public=request.ssh_public)
        line = self.ssh.certificate(host, request.handoff, not_after=not_after, now=now)
        return {} if line is None else {"ssh": line}

    def _document(
        self,
        request: Request,
        given: Given,
        identity: Mapping[str, Any],
        times: Mapping[str, int],
    ) -> Secret:
        """Complete the hand-off; what binds it to box and session is not taken from control."""
        secrets = [
            {"name": name, "version": version, "expires": end, "value": b64u(value.reveal())}
            for name, (version, end, value) in given.values.items()
        ]
        document = dict(request.handoff) | {
            "type": "application/vnd.doorstep.handoff.v1+json",
            "site": self.files.rules.site_id,
            "box": str(request.box),
            "session": b64u(request.session),
            "role": request.role,
            "identity": identity,
            "trust": {
                "site_root_pem": ca.pem([self.authority.root()]),
                "dns": self.zones.trust(self.files.rules.domain),
            },
            "secrets": secrets,
            "withheld": given.withheld + given.passed.unless_opened(),
            **times,
        }
        if given.passed.items:
            document["wrapped"] = given.passed.items
        return Secret(json.dumps(document, separators=(",", ":")).encode())

    def secrets(self, role: RoleRule, request: Request, boot: Boot, now: float) -> Given:
        """Look up the secrets of a role; one that is unfit is withheld, the others are given."""
        values: dict[str, tuple[int, int, Secret]] = {}
        known = [self.files.rules.secrets[name] for name in role.secrets]
        wrapped = [rule.name for rule in known if rule.tier is Tier.BOX]
        passed = self.wrapping.give(wrapped, request.ek_name, boot.policy(), now)
        withheld: list[dict[str, Any]] = [*passed.withheld]
        for rule in (one for one in known if one.tier is not Tier.BOX):
            found = self.look_up(rule, now)
            if isinstance(found, tuple):
                values[rule.name] = found
            else:
                withheld.append(found)
        return Given(values=values, withheld=withheld, passed=passed)

    def look_up(self, rule: SecretRule, now: float) -> tuple[int, int, Secret] | dict[str, Any]:
        """Give (version, end of lease, value), or the reason why not; `since` is unix time."""
        row = self.store.secret(rule.name)
        if row is None:
            return self._absent(rule)
        return self._judged(rule, row.label, now, lambda: self.vault.unlock(row))

    def fitness(self, rule: SecretRule, now: float) -> tuple[int, int, None] | dict[str, Any]:
        """Say the same without the value, for who only reports."""
        kept = self.store.kept(rule.name)
        if kept is None:
            return self._absent(rule)
        return self._judged(rule, kept[0], now, lambda: self.vault.check(*kept))

    def _judged(
        self, rule: SecretRule, label: Label, now: float, opened: Callable[[], _Opened]
    ) -> tuple[int, int, _Opened] | dict[str, Any]:
        if self._is_off(rule):
            return {"name": rule.name, "reason": Withheld.TIER_OFF.value, "since": None}
        expires = min(label.expires, label.set_at + int(rule.ttl.total_seconds()))
        if now >= rules.usable_until(expires, rule):
            return {"name": rule.name, "reason": Withheld.EXPIRED.value, "since": expires}
        try:
            return label.version, expires, opened()
        except ClosedError as error:
            return {"name": rule.name, "reason": error.code, "since": None}
        except SiteError:
            reason = Withheld.UNREADABLE.value
            return {"name": rule.name, "reason": reason, "since": label.set_at}

    def _is_off(self, rule: SecretRule) -> bool:
        return self.files.rules.controller.why_off(rule.tier) is not None

    def _absent(self, rule: SecretRule) -> dict[str, Any]:
        """Say why there is no value: it may not be, none was put, or its upstream withdrew it."""
        if self._is_off(rule):
            return {"name": rule.name, "reason": Withheld.TIER_OFF.value, "since": None}
        origin = Origins(store=self.store).of(rule.name, rule.source) if rule.source else None
        if origin is None or origin.gone is None:
            return {"name": rule.name, "reason": Withheld.MISSING.value, "since": None}
        since = int(origin.gone_since or 0)
        return {"name": rule.name, "reason": Withheld.GONE.value, "since": since}

    def _write(
        self,
        user: str,
        request: Request,
        given: Given,
        reply: Mapping[str, Any],
        now: float,
    ) -> None:
        self.store.add_handover(
            Handover(
                session=request.session,
                transcript=request.transcript,
                ek_name=request.ek_name,
                reset_count=request.reset_count,
                restart_count=request.restart_count,
                at=now,
                reply=json.dumps(reply, separators=(",", ":")),
            )
        )
        renewal_rows.add(self.store, row_of(request, now))
        detail = {
            "role": request.role,
            "ek_name": request.ek_name.hex(),
            "session": request.session.hex(),
            "boot_set": request.boot_set.hex(),
            "reset_count": request.reset_count,
            "restart_count": request.restart_count,
            "secrets": given.versions,
            "withheld": given.withheld,
            "certificate_not_after": reply["certificate_not_after"],
        }
        self.store.record(now, user, Event(kind="handover", box=str(request.box), detail=detail))


def sized(text: str, length: int) -> bytes:
    """Decode base64url of a fixed length; ValueError otherwise."""
    data = unb64u(text)
    if len(data) != length:
        raise ValueError(f"{length} bytes are expected")
    return data


def _seal(request: Request, boot: Boot, document: Secret, expires: int) -> Bundle:
    return seal(
        ek=request.ek,
        box_ephemeral=request.ephemeral,
        boot=boot,
        binding=Binding(
            box=request.box,
            session=request.session,
            transcript=request.transcript,
            boot_set=request.boot_set,
            expires=expires,
        ),
        plaintext=document,
        randomness=Randomness.cut(os.urandom(Randomness.SIZE)),
    )


def row_of(
    request: Request, now: float, *, before: bytes = ZERO_PCR, reply: str = ""
) -> RenewalRow:
    """Give the row of a bundle for a PCR 15 of `before`; a hand-over has no `reply`."""
    device = request.device_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return RenewalRow(
        session=request.session,
        transcript=request.transcript,
        ek_name=request.ek_name,
        reset_count=request.reset_count,
        restart_count=request.restart_count,
        role=request.role,
        keys=bind("doorstep/v1/renewal-keys", device, request.ssh_public),
        boot_set=request.boot_set,
        before=before,
        at=now,
        reply=reply,
    )


def boot_of(request: Request, opened: bytes = ZERO_PCR) -> Boot:
    """Give the boot that a request is about, for a PCR 15 that holds `opened`."""
    return Boot(
        reset_count=request.reset_count,
        restart_count=request.restart_count,
        clock_before=request.clock + LIFETIME * 1000,
        pcrs=request.pcrs,
        opened=opened,
    )


def _count(value: object, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise ValueError("not an unsigned integer of its size")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text is expected")
    return value
