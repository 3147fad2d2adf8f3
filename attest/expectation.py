"""What a site expects of a box: boot sets as reference values, endorsements, what it knows of it.

All of it is made by control from signed files and its own tables; nothing here comes from a box.
What is None is not known here (see `attest.offline`): then it is not checked, and the result says
so. Terms: RFC 9334 (reference values, endorsements).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any

from attest.anchors import Anchors, decode_anchors
from attest.baseline import Baseline
from attest.bootfacts import Facts, facts_from_json
from attest.crl import Crl
from attest.der import Certificate
from attest.errors import AttestError, AttestSiteError
from attest.predict import Transport

EXPECTATION_TYPE = "doorstep/expectation/v1"


class SetState(Enum):
    """What a site says of a boot set it knows."""

    SERVED = "served"
    ACCEPTED = "accepted"
    WITHDRAWN = "withdrawn"
    OLDER = "older"

    @property
    def acceptable(self) -> bool:
        """Tell whether a box that booted it may be let in."""
        return self in (SetState.SERVED, SetState.ACCEPTED)


@dataclass(frozen=True, kw_only=True)
class ReferenceSet:
    """One boot set: its digest (32 bytes), its files' facts, and how boxes may have got them.

    `servers` are addresses as GRUB names them. It has no slots, so that its JSON, of which every
    verdict needs the digest, is made once.
    """

    digest: bytes
    name: str
    version: int
    state: SetState
    facts: Facts
    transports: tuple[Transport, ...]
    servers: tuple[str, ...]

    @cached_property
    def text(self) -> str:
        """The set as JSON: equal sets have equal texts."""
        return _json(_set_plain(self))

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).digest()

    def __hash__(self) -> int:
        """Hash the text, because facts hold mappings."""
        return hash(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxRecord:
    """What the site knows of this box beside its evidence.

    `listed`: the signed delivery note or an approval names it. `note_names_ek`: the signed note
    holds the hash of this very EK, which stands in for a maker's certificate. `differences`: what
    its facts and the note or role disagree about. `replaces`: another box that has its place.
    Counters, clock (ms) and TPM firmware version are those last accepted. `firmware`: digest of the
    firmware measurements that headquarters released for this EK alone (`attest.baseline`). `role`:
    what the signed note says it becomes, empty for a box that is not on it. `opened`: for a box
    that renews, by bank what PCR 15 holds after the bundles that it opened in this boot.
    """

    listed: bool = False
    note_names_ek: bool = False
    differences: tuple[str, ...] = ()
    replaces: str = ""
    reset_count: int | None = None
    restart_count: int | None = None
    clock: int | None = None
    tpm_firmware: int | None = None
    firmware: bytes = b""
    role: str = ""
    opened: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Reference values, endorsements and the box's record, for one appraisal."""

    sets: tuple[ReferenceSet, ...] | None
    anchors: Anchors | None
    record: BoxRecord | None = BoxRecord()
    baseline: Baseline = Baseline()
    platform_anchors: Anchors | None = None

    def to_json(self) -> str:
        """Give what a later appraisal needs to be repeated, as JSON with sorted keys."""
        sets = "null" if self.sets is None else f"[{','.join(one.text for one in self.sets)}]"
        parts = {**self._parts(), "sets": (sets, b""), "type": (_json(EXPECTATION_TYPE), b"")}
        return "{" + ",\n".join(f'"{name}":{parts[name][0]}' for name in sorted(parts)) + "}\n"

    def _parts(self) -> dict[str, tuple[str, bytes]]:
        """Give each part but the sets as JSON with its SHA-256."""
        platform = self.platform_anchors
        return {
            "anchors": _ders(None if self.anchors is None else self.anchors.certificates),
            "baseline": _hashed(_json(self.baseline.plain())),
            "crls": _ders(() if self.anchors is None else self.anchors.crls),
            "platform_anchors": _ders(None if platform is None else platform.certificates),
            "platform_crls": _ders(() if platform is None else platform.crls),
            "record": _hashed(_json(None if self.record is None else _record_plain(self.record))),
        }

    @classmethod
    def from_json(cls, text: str | bytes, *, rehearsal: bool) -> Expectation:
        """Read what `to_json` gave; AttestSiteError on anything else.

        `rehearsal` as for `attest.ekcert.decode_anchors`.
        """
        try:
            document = json.loads(text)
            if document["type"] != EXPECTATION_TYPE:
                raise AttestSiteError("the expectation is of another type or version")
            sets, record = document["sets"], document["record"]
            return cls(
                sets=None if sets is None else tuple(_set_of(item) for item in sets),
                anchors=_anchors_of(document, "", rehearsal=rehearsal),
                platform_anchors=_anchors_of(document, "platform_", rehearsal=rehearsal),
                record=None if record is None else _record_of(record),
                baseline=Baseline.from_plain(document.get("baseline", [])),
            )
        except AttestError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise AttestSiteError(f"the expectation cannot be read: {error!r}") from error

    @property
    def digest(self) -> bytes:
        """SHA-256 over the SHA-256 of each part's JSON, in one order: names, then sets."""
        state = hashlib.sha256(b"doorstep/v1/expectation\0")
        for name, (_, digest) in sorted(self._parts().items()):
            state.update(name.encode() + b"\0" + digest)
        state.update(b"no sets" if self.sets is None else b"sets\0")
        for known in self.sets or ():
            state.update(known.fingerprint)
        return state.digest()


_RECORD = tuple(item.name for item in fields(BoxRecord))
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _json(value: Any) -> str:
    return _ENCODER.encode(value)


def _hashed(text: str) -> tuple[str, bytes]:
    return text, hashlib.sha256(text.encode()).digest()


_NULL = _hashed("null")


def _ders(parts: Sequence[Certificate | Crl] | None) -> tuple[str, bytes]:
    return _NULL if parts is None else _hex_list(tuple([part.der for part in parts]))


@lru_cache(maxsize=16)
def _hex_list(ders: tuple[bytes, ...]) -> tuple[str, bytes]:
    """Write a list of hexadecimal texts; a site's anchors are the same for all its boxes."""
    return _hashed(_json(sorted(der.hex() for der in ders)))


def _set_plain(known: ReferenceSet) -> dict[str, Any]:
    return {
        "digest": known.digest.hex(),
        "name": known.name,
        "version": known.version,
        "state": known.state.value,
        "facts": json.loads(known.facts.to_json()),
        "transports": [transport.value for transport in known.transports],
        "servers": list(known.servers),
    }


def _set_of(plain: Mapping[str, Any]) -> ReferenceSet:
    return ReferenceSet(
        digest=bytes.fromhex(plain["digest"]),
        name=plain["name"],
        version=plain["version"],
        state=SetState(plain["state"]),
        facts=facts_from_json(json.dumps(plain["facts"])),
        transports=tuple(Transport(value) for value in plain["transports"]),
        servers=tuple(plain["servers"]),
    )


def _record_plain(record: BoxRecord) -> dict[str, Any]:
    plain = {name: getattr(record, name) for name in _RECORD}
    if not record.role:
        del plain["role"]  # what was kept before there were roles has the same digest
    del plain["opened"]
    if record.opened:
        plain["opened"] = {bank: value.hex() for bank, value in sorted(record.opened.items())}
    return {**plain, "firmware": record.firmware.hex()}


def _record_of(plain: Mapping[str, Any]) -> BoxRecord:
    firmware = bytes.fromhex(plain.get("firmware", ""))
    differences = tuple(plain.get("differences", ()))
    opened = {bank: bytes.fromhex(value) for bank, value in plain.get("opened", {}).items()}
    made = {"differences": differences, "firmware": firmware, "opened": opened}
    return BoxRecord(**{**plain, **made})


def _anchors_of(document: Mapping[str, Any], kind: str, *, rehearsal: bool) -> Anchors | None:
    certificates = document.get(f"{kind}anchors")
    if certificates is None:
        return None
    files = [*certificates, *document.get(f"{kind}crls", [])]
    return decode_anchors(
        (("the expectation's anchors", bytes.fromhex(der)) for der in files),
        rehearsal=rehearsal,
        platform=bool(kind),
    )
