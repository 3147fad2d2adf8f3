"""Step 4 of phone-home: what a box did with its hand-over decides whether it is ready.

A report is believed only when the device key that its TPM certified signed it. What was answered is
kept, so the same report again gets the same receipt. Specification: docs/phone-home-v1.md.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attest.transcript import report_message
from bootstrap.agent.errors import Code
from bootstrap.enrolment import Stage, Step, WrongStageError, advance
from bootstrap.io.phonehome import Reply, error
from bootstrap.io.site_store import SiteStore
from bootstrap.phonehome import Malformed, Report, b64u, decode_report, decode_report_content
from bootstrap.rows import BoxRow, Event, SessionRow
from bootstrap.settings import Settings
from bootstrap.views import UNOPENED, withheld_sentence
from keys.errors import KeysError
from keys.io.rpc import Refusal, call
from keys.rules import Tier, Withheld
from keys.tpm_public import PublicArea

NEEDED_CHECKS = ("signature", "opened-in-tpm", "certificate-matches-key", "seed-written")


class ReportDesk:
    """Takes reports of one site; called from control's one thread."""

    def __init__(self, store: SiteStore, settings: Callable[[], Settings], keys: Path) -> None:
        """Serve one site; `keys` is the socket of the key service."""
        self._store = store
        self._settings = settings
        self._keys = keys

    def report(self, session: bytes, body: bytes) -> Reply:
        """Answer step 4."""
        row = self._store.session(session)
        box = self._store.box(row.box) if row else None
        if row is None or box is None or not self._waits(box, row):
            return error(404, "SESSION-UNKNOWN", "this site waits for no such report")
        digest = hashlib.sha256(body).digest()
        if row.report_digest is not None:
            if row.receipt is None or not hmac.compare_digest(row.report_digest, digest):
                return error(409, "REPLAY", "another report was already given in this session")
            return Reply(status=200, body=row.receipt.encode())
        try:
            sent = decode_report(body)
            self._check_signature(row, sent.report, sent.signature)
            report = decode_report_content(sent.report)
        except Malformed as malformed:
            return error(400, "MALFORMED", str(malformed))
        except InvalidSignature:
            return error(400, "DEVICE-KEY", "the report is not signed by the box's device key")
        receipt = self._conclude(row, box, report, digest)
        return Reply(status=200, body=receipt.encode())

    def _waits(self, box: BoxRow, row: SessionRow) -> bool:
        """Only a box's newest session, and only after a hand-over, is reported on."""
        try:
            advance(box.stage, Step.REPORTED_GOOD)
        except WrongStageError:
            return False
        return row.digests is not None and self._store.newest_session(box.box) == row.session

    def _check_signature(self, row: SessionRow, report: bytes, signature: bytes) -> None:
        key = PublicArea.decode(row.device_public).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)  # appraised before the hand-over
        r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
        site_id = self._settings().site.site.id
        message = report_message(site_id, row.session, row.transcript, report)
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))

    def _conclude(self, row: SessionRow, box: BoxRow, report: Report, digest: bytes) -> str:
        """Move the box, keep the receipt, and return it."""
        now = time.time()
        site = self._settings().site
        wrapped = {one.name for one in site.secrets if one.tier == Tier.BOX.value}
        box = replace(box, withheld=(*box.withheld, *unopened(report, row, wrapped, now)))
        wrong = wanting(report, row, box)
        step = Step.REPORTED_WANTING if wrong else Step.REPORTED_GOOD
        stage = advance(box.stage, step)
        payload = {
            "status": stage.value,
            "session": b64u(row.session),
            "box": box.box,
            "transcript": b64u(row.transcript),
            "withheld": list(box.withheld),
        }
        params = {
            "context": "receipt",
            "session": payload["session"],
            "transcript": payload["transcript"],
            "payload": payload,
        }
        try:
            receipt = str(call(self._keys, "answer", params)["answer"])
        except KeysError as failure:
            raise Refusal("KEYS-SILENT", "the key service does not answer") from failure
        since = box.since if stage is box.stage else now  # a box that renews was ready before
        changed = replace(box, stage=stage, since=since, sentence=wrong)
        with self._store.transaction():
            self._store.save_box(changed)
            self._store.save_session(replace(row, report_digest=digest, receipt=receipt))
            self._store.add_event(
                Event(
                    at=now,
                    kind="ready" if stage is Stage.READY else "report",
                    box=box.box,
                    mac=box.mac,
                    address=row.address,
                    detail={
                        "checks": dict(report.checks),
                        "secrets": {name: b64u(value) for name, value in report.secrets.items()},
                        "medium_needed": report.medium_needed,
                        "sentence": wrong or "all checks passed",
                    },
                )
            )
        return receipt


def wanting(report: Report, row: SessionRow, box: BoxRow) -> str | None:
    """Say why a reporting box is not ready; None when it is."""
    failed = [name for name in NEEDED_CHECKS if report.checks.get(name) != "ok"]
    if failed:
        return f"The box could not finish: {', '.join(failed)}"
    sent = {name: b64u(value) for name, value in report.secrets.items()}
    closed = {str(one["name"]) for one in box.withheld}
    if sent != {name: one for name, one in (row.digests or {}).items() if name not in closed}:
        return "The box does not hold the secrets that were sealed for it"
    return withheld_sentence(box)


def unopened(
    report: Report, row: SessionRow, wrapped: Set[str], now: float
) -> tuple[Mapping[str, Any], ...]:
    """Name the secrets that headquarters wrapped and this box did not open, and why.

    A box of before the field `wrapped` says nothing of them: its start files are too old.
    """
    missing = sorted((set(row.digests or {}) - set(report.secrets)) & wrapped)
    whole = report.checks.get("wrapped")
    said = {name: report.checks.get(f"wrapped:{name}", whole) for name in missing}
    return tuple(
        {"name": name, "reason": Withheld.WRAPPED.value, "since": int(now)}
        if code is None
        else {"name": name, "reason": UNOPENED, "since": int(now), "said": _known(code)}
        for name, code in said.items()
    )


def _known(code: str) -> str:
    """Give a code that the agent has; what else a box says is not shown."""
    return code if code in set(Code) else ""
