"""The firmware baseline: what PCR 0, 2, 3 and 6 of a maker's model are known to hold.

An entry counts because headquarters signed the file it stands in (`attest.firmwarefile`); a value
that a person released for one box is no entry (see `BoxRecord.firmware`). It never learns anything
by itself.
TCG PFP 1.06, 3.3.4.1 to 3.3.4.7; TCG PC Client RIM 1.04.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attest.quote import Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a box says it is (SMBIOS): system vendor, product name, version of its firmware."""

    vendor: str
    model: str
    version: str


MAX_TEXT = 60


def machine_text(text: str) -> str:
    """Give a text of SMBIOS in the one form that is compared and shown: a line, at most 60 long."""
    line = " ".join(text[: 4 * MAX_TEXT].split())[:MAX_TEXT].rstrip()
    return "".join(char if char.isprintable() else "?" for char in line)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareEntry:
    """What one firmware version of a model measures.

    `values` are whole PCR values by bank. `events` are digests by bank and PCR, of which any may be
    extended before the separator in any order: for option ROMs that depend on the slots. In PCR 0
    all of them must be. `keys` are SHA-256 of the certificates (DER) that PK, KEK and db are
    delivered with.
    """

    machine: Machine
    values: Values = field(default_factory=dict)
    events: Mapping[str, Mapping[int, frozenset[bytes]]] = field(default_factory=dict)
    keys: frozenset[bytes] = frozenset()
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """All entries that a site's headquarters signed."""

    entries: tuple[FirmwareEntry, ...] = ()

    def of_model(self, machine: Machine | None) -> Baseline:
        """Give the entries of one model alone: all that the appraisal of such a box needs."""
        if machine is None:
            return Baseline()
        model = machine.model, machine.vendor
        kept = (one for one in self.entries if (one.machine.model, one.machine.vendor) == model)
        return Baseline(entries=tuple(kept))

    def plain(self) -> list[dict[str, Any]]:
        """Give the entries as JSON values."""
        return [_plain(entry) for entry in self.entries]

    @classmethod
    def from_plain(cls, plain: Sequence[Mapping[str, Any]]) -> Baseline:
        """Read what `plain` gave; ValueError, KeyError or TypeError on anything else."""
        return cls(entries=tuple(_entry(item) for item in plain))


def firmware_digest(values: Values, indices: Sequence[int], keys: frozenset[bytes]) -> bytes:
    """Hash the firmware's measurements and key certificates: what a person releases for one EK."""
    lines = [
        f"{bank}:{index}={given[index].hex()}\n"
        for bank, given in sorted(values.items())
        for index in sorted(indices)
        if index in given
    ]
    lines += [f"key={fingerprint.hex()}\n" for fingerprint in sorted(keys)]
    return hashlib.sha256(b"doorstep/v1/firmware\0" + "".join(lines).encode()).digest()


def _plain(entry: FirmwareEntry) -> dict[str, Any]:
    return {
        "vendor": entry.machine.vendor,
        "model": entry.machine.model,
        "version": entry.machine.version,
        "source": entry.source,
        "values": {
            bank: {str(index): value.hex() for index, value in sorted(given.items())}
            for bank, given in sorted(entry.values.items())
        },
        "events": {
            bank: {str(index): sorted(d.hex() for d in given[index]) for index in sorted(given)}
            for bank, given in sorted(entry.events.items())
        },
        "keys": sorted(fingerprint.hex() for fingerprint in entry.keys),
    }


def _entry(plain: Mapping[str, Any]) -> FirmwareEntry:
    return FirmwareEntry(
        machine=Machine(vendor=plain["vendor"], model=plain["model"], version=plain["version"]),
        values={
            bank: {int(index): bytes.fromhex(value) for index, value in given.items()}
            for bank, given in plain.get("values", {}).items()
        },
        events={
            bank: {int(i): frozenset(map(bytes.fromhex, digests)) for i, digests in given.items()}
            for bank, given in plain.get("events", {}).items()
        },
        keys=frozenset(bytes.fromhex(fingerprint) for fingerprint in plain.get("keys", ())),
        source=plain.get("source", ""),
    )
