"""`doorstep eventlog`: what a boot event log says, offline and without a quote.

It replays and reads; whether a TPM holds these values only a quote shows (`doorstep verify`). What
a log says cannot move the terminal. Exit codes: 0 it was read and nothing is against it; 1 it is
no log, or holds what no honest log has; 2 wrong usage, or a file that cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from attest.errors import AttestSiteError, EvidenceError
from attest.eventlog import MAX_LOG, EventLog, EventType, decode, type_name
from attest.logrules import banks_of, check_events, check_separators
from attest.reasons import Finding, Reason
from attest.replay import pcr_5_with_exit_events, replay
from attest.typed import Authority, Database, Fact, Key, LogFacts, describe, extract
from bootstrap.cli.common import as_json, plain, print_json, print_table

_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True)
_PREFERRED = ("sha256", "sha384", "sha512", "sha3_256", "sha3_384", "sha3_512", "sha1")
_NOT_CHECKED = (
    "whether a TPM holds these values (no quote is given)",
    "whether the programs, keys and files are good ones (no boot set and no policy is given)",
)


@click.command(short_help="Read and replay a boot event log.")
@click.argument("file", type=_FILE)
@as_json
@click.option("--bank", help="Read the events by this bank's digests; otherwise SHA-256 if it can.")
def eventlog(file: str, as_json: bool, bank: str | None) -> None:
    """Read FILE, a boot event log as the kernel shows it (binary_bios_measurements); - is stdin."""
    data = _read(file)
    try:
        log = _decode(data)
    except EvidenceError as error:
        finding = Finding(reason=Reason.LOG_MALFORMED, detail=str(error))
        document = _unreadable(finding)
    else:
        document = _document(log, _chosen(log, bank))
    if as_json:
        print_json(document)
    else:
        _print(document)
    if any(finding["gates"] for finding in document["findings"]):
        raise SystemExit(1)


def _read(file: str) -> bytes:
    """Read no more than can be a log, and a byte so that more is seen."""
    try:
        with click.open_file(file, "rb") as stream:
            content: bytes = stream.read(MAX_LOG + 1)
    except OSError as error:
        raise AttestSiteError(f"{file}: {error.strerror}") from error
    return content


def _decode(data: bytes) -> EventLog:
    if not data.strip(b"\0\xff"):
        raise EvidenceError("there is nothing in it but padding")
    return decode(data)


def _chosen(log: EventLog, wanted: str | None) -> str | None:
    """Choose the bank whose digests prove texts; None where not one can be computed."""
    known = banks_of(log)
    if wanted is not None and wanted not in known:
        there = ", ".join(known) or "none"
        raise AttestSiteError(f"the log has no {wanted} digests: choose of {there} with --bank")
    return wanted or next((bank for bank in _PREFERRED if bank in known), None)


def _unreadable(finding: Finding) -> dict[str, Any]:
    return {
        "error": f"{finding.sentence} {finding.detail}",
        "pcrs": {},
        "secure_boot": "unknown",
        "workarounds": [],
        "events": [],
        "findings": [_finding(finding)],
    }


def _document(log: EventLog, bank: str | None) -> dict[str, Any]:
    checks = check_events(log, banks_of(log))
    findings = [*checks.findings]
    pcrs: dict[str, dict[str, str]] = {}
    exits: dict[str, str] = {}
    for name in banks_of(log):
        try:
            pcrs[name] = {str(pcr): value.hex() for pcr, value in replay(log, name).items()}
            value = pcr_5_with_exit_events(log, name)
        except EvidenceError as error:
            findings.append(Finding(reason=Reason.LOG_BANK, detail=str(error)))
            continue
        if value is not None:
            exits[name] = value.hex()
        if any(event.type != EventType.NO_ACTION for event in log.events):
            findings += check_separators(log, name)
    findings.sort(key=lambda finding: finding.reason.rank)
    facts = None if bank is None else extract(log, bank)
    return {
        "pcrs": pcrs,
        "secure_boot": "unknown" if facts is None else facts.secure_boot,
        "workarounds": list(checks.workarounds),
        "events": list(_events(log, bank)),
        "format": log.format.value,
        "banks": [one.name for one in log.banks],
        "bank": bank,
        "startup_locality": log.startup_locality,
        "pcr_5_with_exit_events": exits,
        "facts": None if facts is None else _facts(facts),
        "findings": [_finding(finding) for finding in findings],
        "not_checked": list(_NOT_CHECKED),
    }


def _events(log: EventLog, bank: str | None) -> Iterable[dict[str, Any]]:
    for number, event in enumerate(log.events):
        told = describe(event, bank or "")
        yield {
            "number": number,
            "pcr": event.pcr,
            "type": type_name(event.type),
            "digests": {name: digest.hex() for name, digest in event.digests.items()},
            "size": len(event.data),
            "text": told.text,
            "proven": told.proven,
            "claim": told.claim,
        }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "reason": finding.reason.code,
        "sentence": finding.sentence,
        "detail": finding.detail,
        "releasable_by": finding.reason.releasable_by.value,
        "gates": finding.reason.gates,
    }


def _facts(facts: LogFacts) -> dict[str, Any]:
    return {
        "modes": dict(facts.modes),
        "databases": [_database(one) for one in facts.databases],
        "authorities": [_authority(one) for one in facts.authorities],
        "programs": [_fact(one) for one in facts.programs],
        "drivers": [_fact(one) for one in facts.drivers],
        "commands": [_fact(one) for one in facts.commands],
        "command_lines": [_fact(one) for one in facts.command_lines],
        "files": [_fact(one) for one in facts.files],
        "sections": [_fact(one) for one in facts.sections],
        "owner_keys": [_fact(one) for one in facts.owner_keys],
    }


def _fact(fact: Fact) -> dict[str, Any]:
    return {
        "event": fact.number,
        "pcr": fact.pcr,
        "digest": fact.digest.hex(),
        "text": fact.text,
        "proven": fact.proven,
    }


def _key(key: Key) -> dict[str, Any]:
    return {"sha256": key.sha256.hex(), "subject": key.subject}


def _database(database: Database) -> dict[str, Any]:
    return {
        "name": database.name,
        "event": database.number,
        "certificates": [_key(one) for one in database.certificates],
        "hashes": database.hashes,
        "others": database.others,
        "proven": database.proven,
    }


def _authority(authority: Authority) -> dict[str, Any]:
    return {
        "event": authority.number,
        "name": authority.name,
        "certificate": None if authority.key is None else _key(authority.key),
        "proven": authority.proven,
    }


def _print(document: Mapping[str, Any]) -> None:
    if "error" in document:
        click.echo(plain(document["error"]))
        return
    _print_head(document)
    rows = [
        (
            event["number"],
            event["pcr"],
            event["type"],
            _digest(event, document["bank"]),
            _said(event),
        )
        for event in document["events"]
    ]
    print_table(("event", "PCR", "type", "digest", "says"), rows)
    for name, values in document["pcrs"].items():
        click.echo(f"\nPCR values by replay, {name}")
        for pcr, value in values.items():
            click.echo(f"{pcr:>5}  {value}")
    for name, value in document["pcr_5_with_exit_events"].items():
        click.echo(f"{name} PCR 5 where the kernel logged no exit events: {value}")
    click.echo("")
    for finding in document["findings"]:
        told = f"{finding['reason']}: {finding['sentence']} {finding['detail']}"
        click.echo(f"{plain(told)} [release: {finding['releasable_by']}]")
    for told in document["not_checked"]:
        click.echo(f"not checked: {told}")
    if not document["findings"]:
        click.echo("nothing is against it")


def _print_head(document: Mapping[str, Any]) -> None:
    lines: list[tuple[str, object]] = [
        ("form", document["format"]),
        ("banks", ", ".join(document["banks"])),
        ("read by", document["bank"]),
        ("Secure Boot", document["secure_boot"]),
    ]
    lines += [("workaround", told) for told in document["workarounds"]]
    facts = document["facts"] or {}
    lines += [
        (one["name"], f"{key['subject'] or 'unreadable'} {key['sha256']}{_mark(one)}")
        for one in facts.get("databases", ())
        for key in one["certificates"]
    ]
    lines += [
        (one["name"], f"{one['hashes']} hashes, {one['others']} others{_mark(one)}")
        for one in facts.get("databases", ())
        if one["hashes"] or one["others"]
    ]
    for label, kind in (("program", "programs"), ("command line", "command_lines")):
        lines += [(label, f"{one['text']}{_mark(one)}") for one in facts.get(kind, ())]
    for label, value in lines:
        click.echo(f"{plain(label):14}{plain(value)}")
    click.echo("")


def _mark(one: Mapping[str, Any]) -> str:
    return "" if one["proven"] else " (claimed)"


def _digest(event: Mapping[str, Any], bank: str | None) -> str:
    return str(event["digests"].get(bank or "", ""))[:16]


def _said(event: Mapping[str, Any]) -> str:
    if event["text"] is not None:
        return str(event["text"])
    if event["claim"] is not None:
        return f"{event['claim']} (claimed)"
    return "(data proven)" if event["proven"] else ""
