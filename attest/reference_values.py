"""Entries for the firmware baseline out of what people have: lists of values, and a box's evidence.

Read are a CSV list, what `tpm2_pcrread` prints, and records of systemd-pcrlock; `attest.rim` reads
what makers publish. It proves nothing but the evidence: an entry counts when headquarters signed
the baseline it went into. systemd-pcrlock(8); TCG PFP 1.06, 3.3.4.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping

from attest.appraise import appraise
from attest.baseline import FirmwareEntry, Machine, machine_text
from attest.errors import AttestSiteError, EvidenceError
from attest.eventlog import EventLog
from attest.evidence import AttestationResult, Evidence, Verdict
from attest.expectation import Expectation
from attest.firmware import extended, machine_of
from attest.firmwarefile import BANKS, GATED, INDICES, check_entry
from attest.logcheck import check_log
from attest.policy import Policy
from attest.quote import Values
from attest.reasons import Releaser
from attest.secureboot import key_lists
from attest.variables import variables_from_log

HEADER = ["vendor", "model", "version", "bank", "pcr", "value", "source"]
MAX_LIST = 4 << 20
MAX_ROWS = 1 << 16

_BANK_LINE = re.compile(r"\s*(\w+)\s*:\s*", re.ASCII)
_PCR_LINE = re.compile(r"\s*([0-9]{1,2})\s*:\s*(?:0x)?([0-9A-Fa-f]{40,128})\s*", re.ASCII)
_NOBODY_KNOWS_THE_TPM = (Releaser.NOBODY, Releaser.SIGNED_NOTE)


def entries_from_csv(data: bytes, name: str) -> tuple[FirmwareEntry, ...]:
    """Read rows of single values; rows of one machine and source make one entry."""
    rows = _rows(data, name)
    found: dict[tuple[str, ...], dict[str, dict[int, bytes]]] = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(rows[0]):
            raise AttestSiteError(f"{name}, line {number}: {len(rows[0])} columns are expected")
        vendor, model, version, bank, pcr, value, *source = row
        key = (machine_text(vendor), machine_text(model), machine_text(version), *source)
        one = {bank: {_number(pcr, name, number): _hex(value, name, number)}}
        found[key] = join_values(found.get(key, {}), one, f"{name}, line {number}")
    return tuple(
        check_entry(
            FirmwareEntry(
                machine=Machine(vendor=key[0], model=key[1], version=key[2]),
                values=values,
                source=key[3] if len(key) > 3 and key[3] else f"list {name}",
            ),
            f"{name}: {' '.join(key[:3])}",
        )
        for key, values in found.items()
    )


def _rows(data: bytes, name: str) -> list[list[str]]:
    try:
        rows = list(csv.reader(io.StringIO(_text(data, name), newline=""), strict=True))
    except csv.Error as error:
        raise AttestSiteError(f"{name}: it is no CSV: {error}") from None
    if not rows or rows[0] not in (HEADER, HEADER[:-1]):
        raise AttestSiteError(f"{name}: it must begin with {','.join(HEADER)}; source may be left")
    if len(rows) > MAX_ROWS:
        raise AttestSiteError(f"{name}: it holds more than {MAX_ROWS} rows")
    return rows


def _number(text: str, name: str, line: int) -> int:
    if text not in map(str, INDICES):
        wanted = ", ".join(map(str, INDICES))
        raise AttestSiteError(f"{name}, line {line}: pcr: one of {wanted} is expected")
    return int(text)


def _hex(text: str, name: str, line: int) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise AttestSiteError(f"{name}, line {line}: value: it is not hexadecimal") from None


def values_from_pcrread(data: bytes, name: str) -> Values:
    """Read what `tpm2_pcrread` prints; other lines than banks and PCRs are refused."""
    found: dict[str, dict[int, bytes]] = {}
    bank = ""
    for number, line in enumerate(_text(data, name).splitlines(), 1):
        if not line.strip():
            continue
        if of_bank := _BANK_LINE.fullmatch(line):
            bank = of_bank[1]
            continue
        of_pcr = _PCR_LINE.fullmatch(line)
        if of_pcr is None or not bank:
            raise AttestSiteError(f"{name}, line {number}: it is not what tpm2_pcrread prints")
        if int(of_pcr[1]) in GATED:
            one = {bank: {int(of_pcr[1]): _hex(of_pcr[2], name, number)}}
            found = join_values(found, one, f"{name}, line {number}")
    return found


def events_from_pcrlock(data: bytes, name: str) -> Mapping[str, Mapping[int, frozenset[bytes]]]:
    """Read the records of a `.pcrlock` file (JSON) as events; those of other PCRs are left out."""
    found: dict[str, dict[int, set[bytes]]] = {}
    try:
        document = json.loads(_text(data, name))
        # The manual has a list of records, the program writes it as a member of an object.
        for record in document if isinstance(document, list) else document["records"]:
            for digest in record["digests"]:
                if record["pcr"] in GATED and digest["hashAlg"] in BANKS:
                    kept = found.setdefault(digest["hashAlg"], {}).setdefault(record["pcr"], set())
                    kept.add(bytes.fromhex(digest["digest"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AttestSiteError(f"{name}: it is no file of systemd-pcrlock: {error!r}") from None
    return {
        bank: {index: frozenset(kept) for index, kept in given.items()}
        for bank, given in found.items()
    }


def entry_from_evidence(
    evidence: Evidence,
    expectation: Expectation | None,
    policy: Policy | None,
    now: float,
    name: str,
) -> tuple[FirmwareEntry, AttestationResult]:
    """Make an entry of what a box measured; EvidenceError says why this evidence proves nothing.

    It is appraised again. A finding that a person at headquarters may release, as unknown firmware
    is one, does not stand in the way; a TPM that nobody vouches for does.
    """
    if expectation is None or policy is None:
        raise EvidenceError(
            f"{name}: policy.toml or expectation.json is missing, so nobody knows how it was"
            " judged: take a directory of a site's evidence archive"
        )
    if policy.rehearsal:
        raise EvidenceError(f"{name}: nothing learned in a rehearsal enters the firmware baseline")
    result = appraise(evidence, expectation, policy, now)
    for finding in result.findings:
        if finding.reason.releasable_by in _NOBODY_KNOWS_THE_TPM:
            raise EvidenceError(f"{name}: {finding.reason.code}: {finding.sentence}")
    if result.verdict not in (Verdict.ACCEPTED, Verdict.HELD):
        missing = ", ".join(result.not_checked)
        raise EvidenceError(f"{name}: {result.verdict.value}: not checked: {missing}")
    machine = machine_of(evidence.facts)
    if machine is None:
        raise EvidenceError(f"{name}: the box does not say which machine and firmware it is")
    assert evidence.event_log is not None  # else the verdict is "incomplete"
    log = check_log(evidence.event_log, result.values).log
    entry = FirmwareEntry(
        machine=machine,
        values=gated(result.values),
        events={} if log is None else _drivers(log, result.values),
        keys=frozenset() if log is None else _keys(log, result.values),
        source=f"evidence {name}",
    )
    return check_entry(entry, name), result


def _drivers(log: EventLog, banks: Iterable[str]) -> dict[str, dict[int, frozenset[bytes]]]:
    """Give the option ROMs: another box of the model may have fewer of the same cards."""
    found = {bank: extended(log, bank, 2).distinct for bank in banks}
    return {bank: {2: digests} for bank, digests in found.items() if digests}


def _keys(log: EventLog, banks: Iterable[str]) -> frozenset[bytes]:
    return key_lists(variables_from_log(log, max(banks))).fingerprints


def gated(values: Values) -> dict[str, dict[int, bytes]]:
    """Keep what the baseline is about."""
    return {
        bank: {index: value for index, value in given.items() if index in GATED}
        for bank, given in values.items()
    }


def join_values(values: Values, more: Values, where: str) -> dict[str, dict[int, bytes]]:
    """Join values that say the same; AttestSiteError where two differ."""
    found = {bank: dict(given) for bank, given in values.items()}
    for bank, given in more.items():
        for index, value in given.items():
            if found.setdefault(bank, {}).setdefault(index, value) != value:
                raise AttestSiteError(f"{where}: {bank} PCR {index} has two values")
    return found


def _text(data: bytes, name: str) -> str:
    if len(data) > MAX_LIST:
        raise AttestSiteError(f"{name}: it is larger than {MAX_LIST} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise AttestSiteError(f"{name}: it is no text in UTF-8") from None
