"""The form of a backup and of what headquarters makes of it for a new appliance; who may have what.

A file has four parts: a line that says what it is, a line that says of what (`keys.parcel.Header`),
an age file with a tar inside, and a line that signs all before it: for a backup an answer of the
appliance, for a resealed one headquarters' statement. Pure: bytes in, values out. It never opens
age and never reads a file. POSIX.1-2017, pax (ustar). docs/backup.md.
"""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from bootstrap.agent.errors import AgentError
from bootstrap.agent.protocol import Fields
from bootstrap.agent.protocol import unb64u as unb64u_of_answer
from bootstrap.agent.signature import check_signed
from bootstrap.errors import PeerError
from bootstrap.lease_ledger import Ledger
from keys.envelope import answer_digest, b64u, unb64u
from keys.errors import PeerError as KeysPeerError
from keys.parcel import BACKUP_CONTEXT, MAX_HEADER, Header, backup_digest, check_recipient
from keys.signed import RESEALED
from keys.signed import check_signed as check_document

MAX_TRAILER = 65536
MAX_MEMBERS = 1_000_000
BLOCK = 512
STATEMENT_TYPE = "doorstep/resealed/v1"
_NAME_PART = re.compile(r"[^/\x00-\x1f\x7f]{1,255}")
TOP = ("header.json", "secrets", "db", "site", "state")


class Form(Enum):
    """What a file is, by its first line."""

    BACKUP = b"DOORSTEP-BACKUP-1\n"
    RESEALED = b"DOORSTEP-RESEALED-1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """The two lines at the beginning; `size` counts their bytes."""

    form: Form
    header: Header
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What headquarters signs of a resealed backup.

    `recipient` is whom it is for; `stale`: revocations are known that are not in it. `sha256` is
    over the file's parts before the last line.
    """

    site: str
    recipient: str
    at: int
    stale: bool
    sha256: bytes

    def encode(self) -> bytes:
        """Write it, to be signed."""
        return json.dumps(
            {
                "type": STATEMENT_TYPE,
                "site": self.site,
                "for": self.recipient,
                "at": self.at,
                "stale": self.stale,
                "sha256": b64u(self.sha256),
            },
            sort_keys=True,
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> Statement:
        """Read it; PeerError when it is none."""
        try:
            found = json.loads(data)
            if found["type"] != STATEMENT_TYPE or type(found["at"]) is not int:
                raise ValueError("another form")
            return cls(
                site=str(found["site"]),
                recipient=check_recipient(found["for"]),
                at=found["at"],
                stale=found["stale"] is not False,
                sha256=unb64u(found["sha256"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, KeysPeerError):
            raise PeerError("its last line is damaged: copy it again") from None


def front(form: Form, header: Header) -> bytes:
    """Write the two lines at the beginning."""
    return form.value + header.encode() + b"\n"


def read_front(data: bytes) -> Front:
    """Read them from the first bytes of a file; PeerError when it is no backup."""
    form = next((one for one in Form if data.startswith(one.value)), None)
    if form is None:
        raise PeerError("this is no backup of Doorstep: its first line is another")
    line, end, _ = data[len(form.value) : len(form.value) + MAX_HEADER + 1].partition(b"\n")
    if not end:
        raise PeerError("the second line of the backup has no end: it is damaged")
    try:
        header = Header.decode(line)
    except KeysPeerError as error:
        raise PeerError(str(error)) from None
    return Front(form=form, header=header, size=len(form.value) + len(line) + 1)


def read_trailer(tail: bytes) -> bytes:
    """Give the last line without its ends, from the last bytes of a file; PeerError otherwise.

    It is one line of letters between two line ends; age's bytes before it may hold any.
    """
    at = tail.rfind(b"\n", 0, max(0, len(tail) - 1))
    line = tail[at + 1 : -1]
    if at < 0 or not tail.endswith(b"\n") or not line.startswith(b"{") or len(line) > MAX_TRAILER:
        raise PeerError("the signature at its end is missing: it was cut off, or never finished")
    return line


def check_appliance(trailer: bytes, header: Header, sha256: bytes, root: bytes) -> None:
    """Check that an appliance below this root (DER) signed a backup; PeerError otherwise."""
    try:
        outer = Fields.read(trailer, {"v", "answer", "signature", "chain"})
        payload = outer.data("answer")
        chain = [unb64u_of_answer(one) for one in outer.take("chain", list)]
        message = answer_digest(BACKUP_CONTEXT, header.site, b"", b"", payload)
        check_signed(root, chain, message, outer.data("signature", 64))
        inner = Fields.read(payload, {"site", "digest"})
        said = inner.take("site", str), inner.data("digest", 32)
    except AgentError as error:
        raise PeerError(f"no appliance of this site signed it ({error})") from None
    if said != (header.site, backup_digest(header.encode(), sha256)):
        raise PeerError("it is not what the appliance signed: it was changed, take another copy")


def resealed_trailer(statement: Statement, signature: bytes) -> bytes:
    """Write the last line of a resealed backup."""
    said = {"statement": statement.encode().decode(), "minisig": signature.decode()}
    return json.dumps(said).encode()


def check_resealed(trailer: bytes, header: Header, sha256: bytes, public_key: bytes) -> Statement:
    """Check that headquarters signed a resealed backup; PeerError otherwise."""
    try:
        found: Any = json.loads(trailer)
        data, signature = found["statement"].encode(), found["minisig"].encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PeerError("its last line is damaged: copy it again") from None
    try:
        check_document(RESEALED, data, signature, public_key=public_key, site_id=header.site)
    except KeysPeerError as error:
        raise PeerError(str(error)) from None
    statement = Statement.decode(data)
    if (statement.site, statement.sha256) != (header.site, sha256):
        raise PeerError("it is not what headquarters signed: it was changed, copy it again")
    return statement


# who may have the secrets


def stale(header: Header, ledger: Ledger | None) -> str | None:
    """Say why the secrets of a backup stay closed; None when nothing was revoked since.

    `ledger` is what headquarters knows of the appliance. Without a TPM nothing is counted.
    """
    if not header.ek:
        return None
    if ledger is None:
        return (
            "headquarters knows no lease of the appliance that made it, so nobody can say what was "
            "revoked since: name the directory of its lease authority with --authority"
        )
    if ledger.epoch <= header.epoch:
        return None
    seen = f" of {time_text(ledger.leases[-1].at)}" if ledger.leases else ""
    return (
        f"it counts {header.epoch} revocations and is of {time_text(header.at)}; with the lease"
        f"{seen} its appliance had counted {ledger.epoch}: only a backup that counts at least "
        f"{ledger.epoch} would do, so seed the secrets anew"
    )


def time_text(seconds: float) -> str:
    """Write a time for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")


def header_words(header: Header) -> tuple[str, ...]:
    """Say what a backup says of itself, one thing a line."""
    name = f"appliance {header.ek[2:18].hex()}" if header.ek else "an appliance without a TPM"
    return (
        f"site {header.site}, {name}",
        f"made {time_text(header.at)} by its clock, with {header.secrets} secrets",
        f"it had counted {header.epoch} revocations, its leases to {header.lease_counter}",
        f"its audit had {header.audit_number} entries",
        f"opens with the key of {header.recipient}",
    )


# tar


def tar_head(name: str, size: int) -> bytes:
    """Write what stands before a file's bytes."""
    info = tarfile.TarInfo(check_name(name))
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def tar_pad(size: int) -> bytes:
    """Write what fills the last block of a file."""
    return bytes(-size % BLOCK)


TAR_END = bytes(2 * BLOCK)


def check_name(name: str) -> str:
    """Give a member's name back; PeerError for one that could lead elsewhere."""
    parts = name.split("/")
    is_plain = all(_NAME_PART.fullmatch(part) and part not in (".", "..") for part in parts)
    if not is_plain or parts[0] not in TOP or len(name) > 1024:
        raise PeerError(f"{name[:80]!r} is no name for a file in a backup: rename it")
    return name
