"""Phone-home inside control: sessions without state, evidence judged once, answers kept.

Nothing is stored before a box has proved the credential secret. What was answered is on disk before
it leaves, so a lost reply is repeated byte by byte; anything else in the same session is REPLAY.
Specification: docs/phone-home-v1.md.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from secrets import token_bytes
from typing import Any, Protocol

from attest.credential import RANDOM_BYTES, BoxKeys, check_keys, make_challenge
from attest.errors import CheckError
from attest.quote import check_signed
from attest.reasons import Reason
from attest.transcript import (
    Enrolment,
    Purpose,
    SiteIdentity,
    enrol_data,
    find_session,
    hello_digest,
    make_session,
    slot,
    transcript,
)
from bootstrap.enrolment import GONE, Stage, Step, WrongStageError, advance, box_id
from bootstrap.io.site_store import SiteStore
from bootstrap.joining import mac_at
from bootstrap.judgement import Proved
from bootstrap.phonehome import (
    PCRS,
    Malformed,
    b64u,
    decode_evidence,
    decode_facts,
    decode_hello,
    decode_trouble,
)
from bootstrap.rows import BoxRow, Event, SessionRow

SESSION_SECONDS = 120
QUOTA, QUOTA_SECONDS = 12, 60.0
TRACKED = 4096
REVOKED_SENTENCE = "this box was taken out of service"
_SENTENCES = {reason.code: reason.sentence for reason in Reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP status and the body's bytes."""

    status: int
    body: bytes


Leases = Callable[[], Mapping[str, str]]
"""MAC by address, as netboot has lent them; empty when it does not answer."""


class Decider(Protocol):
    """What happens to a proved session: judged, decided, answered."""

    def answer(self, proved: Proved, box: BoxRow, session: SessionRow, now: float) -> str:
        """Return the signed answer as text, after all it promises is on disk."""


def error(status: int, reason: str, sentence: str) -> Reply:
    """Make an unsigned error; it tells nothing the sender did not know."""
    body = json.dumps({"v": 1, "reason": reason, "sentence": sentence}, separators=(",", ":"))
    return Reply(status=status, body=body.encode())


class Quota:
    """At most QUOTA a minute for each of at most TRACKED keys; a clock that jumps frees all."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._seen: dict[object, deque[float]] = {}

    def admit(self, key: object, now: float) -> bool:
        """Count one and tell whether it is within the quota."""
        times = self._seen.get(key)
        if times is None:
            if len(self._seen) >= TRACKED:
                self._seen = {k: v for k, v in self._seen.items() if _recent(v[-1], now)}
            if len(self._seen) >= TRACKED:
                return False
            times = self._seen[key] = deque(maxlen=QUOTA)
        if len(times) == QUOTA and _recent(times[0], now):
            return False
        times.append(now)
        return True


def _recent(moment: float, now: float) -> bool:
    return abs(now - moment) < QUOTA_SECONDS


class PhoneHome:
    """Steps 1 and 2 and the trouble claim; step 4 is `bootstrap/io/report.py`."""

    def __init__(
        self,
        store: SiteStore,
        identity: SiteIdentity,
        decider: Decider,
        renewals: Decider,
        leases: Leases,
    ) -> None:
        """Serve one site; `leases` gives who has which address now."""
        self._renewals = renewals
        self._leases = leases
        self._store = store
        self._identity = identity
        self._decider = decider
        self._key = store.service_key()
        self._quota = Quota()

    def session(self, address: str, body: bytes) -> Reply:
        """Answer step 1 with a challenge; nothing is kept."""
        now = time.time()
        try:
            hello = decode_hello(body)
            keys = check_keys(hello.ek_public, hello.ak_public)
        except Malformed as malformed:
            return error(400, "MALFORMED", str(malformed))
        except CheckError as refused:
            self._note(now, "hello-refused", address, refused)
            return error(400, refused.reason.code, refused.reason.sentence)
        if not all(self._quota.admit(key, now) for key in (address, keys.ek.name())):
            return error(429, "TOO-MANY", "too many sessions; wait a minute")
        session = make_session(
            self._key,
            self._identity,
            keys.ek.name(),
            keys.ak.name(),
            hello_digest(body),
            slot(now),
        )
        challenge = make_challenge(keys, session.secret, token_bytes(RANDOM_BYTES))
        return _json(
            {
                "v": 1,
                "session": b64u(session.session),
                "server_nonce": b64u(session.server_nonce),
                "credential_blob": b64u(challenge.credential_blob),
                "encrypted_secret": b64u(challenge.encrypted_secret),
                "pcrs": list(PCRS),
                "seconds": SESSION_SECONDS,
            }
        )

    def evidence(self, address: str, session: bytes, body: bytes) -> Reply:
        """Answer step 2: the stored answer, or a new one once the secret is proved."""
        now = time.time()
        digest = hashlib.sha256(body).digest()
        known = self._store.session(session)
        if known is not None and not hmac.compare_digest(known.body_digest, digest):
            self._replayed(known, address, now)
            return error(409, Reason.REPLAY.code, Reason.REPLAY.sentence)
        if known is not None and self._is_gone(known):
            return error(403, "REVOKED", REVOKED_SENTENCE)
        if known is not None and known.answer is not None:
            return Reply(status=200, body=known.answer.encode())
        if known is not None and known.session != self._store.newest_session(known.box):
            # judged now it would be older than what the box showed since
            return error(404, Reason.SESSION_UNKNOWN.code, Reason.SESSION_UNKNOWN.sentence)
        try:
            proved = self._prove(session, body, known.at if known else now)
        except Malformed as malformed:
            return error(400, "MALFORMED", str(malformed))
        except CheckError as refused:
            self._note(now, "evidence-refused", address, refused)
            status = 404 if refused.reason is Reason.SESSION_UNKNOWN else 400
            return error(status, refused.reason.code, refused.reason.sentence)
        if proved.hello.purpose is Purpose.RENEW:
            return self._renew(proved, known, address, digest, now)
        try:
            box, row = self._begin(proved, known, address, digest, now)
        except WrongStageError:
            return error(403, "REVOKED", REVOKED_SENTENCE)
        answer = self._decider.answer(proved, box, row, now)
        return Reply(status=200, body=answer.encode())

    def _renew(
        self, proved: Proved, known: SessionRow | None, address: str, digest: bytes, now: float
    ) -> Reply:
        """Answer a renewal: the stage of the box is not touched before that.

        Also a box that was taken out of service is told so by a signed answer.
        """
        box = self._store.box(str(box_id(proved.ek_name)))
        if box is None:
            return error(409, "NO-HANDOVER", "this site did not enrol this box: start it again")
        row = known or _session_row(proved, box.box, address, digest, now)
        self._store.save_session(row)
        box = replace(box, facts=_kept_facts(decode_facts(proved.evidence.facts)))
        answer = self._renewals.answer(proved, box, row, now)
        return Reply(status=200, body=answer.encode())

    def trouble(self, address: str, body: bytes) -> Reply:
        """Keep a claim of a box that cannot begin, beside what was seen of its address."""
        now = time.time()
        try:
            claim = decode_trouble(body)
        except Malformed as malformed:
            return error(400, "MALFORMED", str(malformed))
        if not self._quota.admit(("trouble", address), now):
            return error(429, "TOO-MANY", "too many claims; wait a minute")
        facts = decode_facts(claim.facts)
        with self._store.transaction():
            sighting = next((s for s in self._store.sightings() if s.address == address), None)
            if sighting is not None:
                self._store.save_sighting(replace(sighting, reason=claim.reason, since=now))
            self._store.add_event(
                Event(
                    at=now,
                    kind="trouble",
                    mac=sighting.mac if sighting else None,
                    address=address,
                    reason=claim.reason,
                    detail={
                        "sentence": _SENTENCES[claim.reason],
                        "claimed_serial": str(_smbios(facts).get("product_serial"))[:64],
                    },
                )
            )
        return Reply(status=202, body=b"{}")

    def _prove(self, session: bytes, body: bytes, at: float) -> Proved:
        """Find the session again and check that the quote carries its secret; CheckError if not."""
        evidence = decode_evidence(body)
        hello = decode_hello(evidence.hello)
        keys = check_keys(hello.ek_public, hello.ak_public)
        found = find_session(
            self._key,
            self._identity,
            keys.ek.name(),
            keys.ak.name(),
            hello_digest(evidence.hello),
            now=at,
            session=session,
        )
        enrolment = Enrolment(
            box_nonce=hello.box_nonce,
            ek_name=keys.ek.name(),
            ak_name=keys.ak.name(),
            hello_digest=hello_digest(evidence.hello),
            facts=evidence.facts,
            ephemeral=evidence.ephemeral,
            device_public=evidence.device_public,
            ssh_host_key=evidence.ssh_host_key,
        )
        q = enrol_data(self._identity, found, enrolment, hello.purpose)
        _check_nonce(evidence.quotes[0].attest, evidence.quotes[0].signature, keys, q)
        return Proved(
            session=found,
            hello=hello,
            evidence=evidence,
            enrolment=enrolment,
            ek_name=keys.ek.name(),
            ak_name=keys.ak.name(),
            enrol_data=q,
            transcript=transcript(q, body),
        )

    def _begin(
        self, proved: Proved, known: SessionRow | None, address: str, digest: bytes, now: float
    ) -> tuple[BoxRow, SessionRow]:
        """Write the first rows of a proved session; the box is `contacted`."""
        box_text = str(box_id(proved.ek_name))
        old = self._store.box(box_text)
        stage = advance(old.stage if old else None, Step.PROVED_KEYS)
        if known is not None and old is not None:
            # a retry after this service was cut off in the middle: judge it again
            return replace(old, stage=stage), known
        facts = decode_facts(proved.evidence.facts)
        box = replace(
            old or _new_box(box_text, proved, now),
            stage=stage,
            since=now,
            attempt=(old.attempt if old else 0) + 1,
            reasons=(),
            sentence=None,
            address=old.address if old and old.hostname else address or None,
            mac=self._mac(facts, address) or (old.mac if old else None),
            facts=_kept_facts(facts),
            withheld=(),
            tier=None,
        )
        row = _session_row(proved, box_text, address, digest, now)
        with self._store.transaction():
            self._store.save_box(box)
            self._store.save_session(row)
            self._store.add_event(
                Event(
                    at=now,
                    kind="session",
                    box=box_text,
                    mac=box.mac,
                    address=address or None,
                    detail={"attempt": box.attempt},
                )
            )
        return box, row

    def _mac(self, facts: Mapping[str, Any], address: str) -> str | None:
        """Join box and lease: the source address leads to a MAC that the facts name too."""
        nics = facts.get("nics")
        listed = nics if isinstance(nics, list) else []
        named = {str(nic.get("mac")) for nic in listed if isinstance(nic, dict)}
        return mac_at(address, self._leases(), self._store.sightings(), named)

    def _is_gone(self, known: SessionRow) -> bool:
        """Tell whether the box of a session was taken out of service since."""
        box = self._store.box(known.box)
        return box is None or box.stage in GONE

    def _replayed(self, known: SessionRow, address: str, now: float) -> None:
        if not self._quota.admit(("replay", address), now):
            return
        self._store.add_event(
            Event(
                at=now,
                kind="replay",
                box=known.box,
                address=address,
                reason=Reason.REPLAY.code,
                detail={"session": known.session.hex()},
            )
        )

    def _note(self, now: float, kind: str, address: str, refused: CheckError) -> None:
        """Keep a refusal of somebody unproved, a few a minute for each address."""
        if self._quota.admit(("note", address), now):
            self._store.add_event(
                Event(
                    at=now,
                    kind=kind,
                    address=address,
                    reason=refused.reason.code,
                    detail={"detail": refused.detail[:200]},
                )
            )


def _check_nonce(attest: bytes, signature: bytes, keys: BoxKeys, q: bytes) -> None:
    signed = check_signed(attest, signature, keys.ak)
    if not hmac.compare_digest(signed.extra_data, q):
        raise CheckError(Reason.QUOTE_NONCE, "extraData differs")


def _session_row(proved: Proved, box: str, address: str, digest: bytes, now: float) -> SessionRow:
    return SessionRow(
        session=proved.session.session,
        box=box,
        at=now,
        address=address or None,
        body_digest=digest,
        transcript=proved.transcript,
        device_public=proved.evidence.device_public,
    )


def _new_box(box: str, proved: Proved, now: float) -> BoxRow:
    return BoxRow(
        box=box,
        ek_name=proved.ek_name,
        ek_public=proved.hello.ek_public,
        stage=Stage.CONTACTED,
        since=now,
        first=now,
        facts={},
    )


def _smbios(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give what a box says of its SMBIOS tables; nothing when that is no object."""
    smbios = facts.get("smbios")
    return smbios if isinstance(smbios, dict) else {}


def _kept_facts(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keep the facts that are shown and compared; all of them are in the evidence archive."""
    smbios = _smbios(facts)
    return {
        "smbios": {
            name: str(smbios[name])[:120]
            for name in ("sys_vendor", "product_name", "product_serial", "bios_version")
            if name in smbios
        },
        "memory_mib": facts.get("memory_mib") if type(facts.get("memory_mib")) is int else None,
        "architecture": str(facts.get("architecture"))[:20],
    }


def _json(fields: Mapping[str, Any]) -> Reply:
    return Reply(status=200, body=json.dumps(fields, separators=(",", ":")).encode())
