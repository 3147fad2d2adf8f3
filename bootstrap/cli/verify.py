"""`doorstep verify DIR`: judge kept evidence again, offline, with the code that judged it live.

It takes the directories of the evidence archive and evidence made elsewhere. What is absent is
reported as not checked, never as good. Layout, JSON and exit codes: docs/verifier.md.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from attest.anchors import Anchors, decode_anchors
from attest.appraise import appraise
from attest.errors import EvidenceError
from attest.evidence import AttestationResult, Tier, Verdict
from attest.expectation import Expectation
from attest.io.archive import Kept, read_kept
from attest.io.trust import read_files
from attest.policy import Policy
from attest.reasons import Finding, Reason
from bootstrap.cli.common import as_json, plain, print_json, print_table

EXIT = {Verdict.ACCEPTED: 0, Verdict.REFUSED: 1, Verdict.HELD: 3, Verdict.INCOMPLETE: 4}
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_EITHER = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--anchors", type=_EITHER, multiple=True, help="CA certificates to trust instead.")
@click.option("--policy", "policy_file", type=_FILE, help="Judge by this policy instead.")
@click.option("--at", "moment", type=click.DateTime(), help="UTC; else when it was judged, or now.")
@click.option("--events", is_flag=True, help="Show each event that differs from the boot set.")
@as_json
def verify(
    directory: Path,
    anchors: tuple[Path, ...],
    policy_file: Path | None,
    moment: datetime | None,
    events: bool,
    as_json: bool,
) -> None:
    """Judge the evidence in DIRECTORY again: 0 accepted, 1 refused, 3 held, 4 incomplete."""
    now = moment.replace(tzinfo=UTC).timestamp() if moment else None
    try:
        kept = read_kept(directory)
    except EvidenceError as error:
        now, result = now or time.time(), _unreadable(str(error))
    else:
        policy = kept.policy
        if policy_file is not None:
            policy = Policy.from_toml(policy_file.read_text(), str(policy_file))
        trusted = _anchors(anchors)
        now = now or kept.appraised or time.time()
        result = appraise(kept.evidence, _expectation(kept, trusted), policy, now)
    told = _same_as_kept(directory, result)
    if as_json:
        print_json({**json.loads(result.to_json()), "appraised": now, "kept_result": told})
    else:
        _print(result, told, events=events)
    raise SystemExit(EXIT[result.verdict])


def _anchors(paths: tuple[Path, ...]) -> Anchors | None:
    """Read trust stores and single files; TPMs in software stay EK-VIRTUAL whoever signed them."""
    if not paths:
        return None
    files: list[tuple[str, bytes]] = []
    for path in paths:
        files += read_files(path) if path.is_dir() else [(str(path), path.read_bytes())]
    return decode_anchors(files, rehearsal=True)


def _expectation(kept: Kept, trusted: Anchors | None) -> Expectation:
    if kept.expectation is None:
        return Expectation(sets=None, anchors=trusted, record=None)
    if trusted is None:
        return kept.expectation
    return replace(kept.expectation, anchors=trusted)


def _unreadable(sentence: str) -> AttestationResult:
    """Give the result for evidence that cannot even be read: that speaks against it."""
    finding = Finding(reason=Reason.QUOTE_STRUCTURE, detail=sentence)
    return AttestationResult(verdict=Verdict.REFUSED, tier=Tier.NOT_VERIFIED, findings=(finding,))


def _same_as_kept(directory: Path, result: AttestationResult) -> str | None:
    """Compare with the result that lies beside the evidence."""
    path = directory / "result.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_bytes())
    kept.pop("appraised", None)
    return "same" if kept == json.loads(result.to_json()) else "different"


def _print(result: AttestationResult, told: str | None, *, events: bool) -> None:
    click.echo(f"{result.verdict.value}: {plain(result.sentence)}")
    for name, value in _facts(result):
        click.echo(f"  {name}: {plain(value)}")
    if told is not None:
        click.echo(f"  beside the result that was kept: {told}")
    if result.findings or result.released:
        click.echo()
        rows = [(each, each.reason.releasable_by.value) for each in result.findings]
        rows += [(each, "released") for each in result.released]
        print_table(
            ("REASON", "RELEASED BY", "SENTENCE", "DETAIL"),
            [(each.reason.code, by, each.sentence, each.detail) for each, by in rows],
        )
    _print_lists(result)
    if events:
        click.echo(f"\nEvents that differ from {plain(result.nearest or 'nothing')}:")
        print_table(
            ("PCR", "KIND", "WHAT", "EXPECTED", "MEASURED", "PROVEN TEXT", "CLAIM"),
            [_event(change) for change in result.changes],
        )


def _facts(result: AttestationResult) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = [("tier", result.tier.value)]
    if result.tpm:
        found.append(("TPM", result.tpm))
    if result.boot_set is not None:
        match = result.boot_set
        found.append(("boot set", f"{match.version} ({match.name}) by {match.transport}"))
    if result.since is not None:
        found.append(("counters", result.since.value))
    if result.values:
        found.append(("banks", ", ".join(sorted(result.values))))
    return found


def _print_lists(result: AttestationResult) -> None:
    outcomes: dict[str, list[str]] = {}
    for index, outcome in sorted(result.pcrs.items()):
        outcomes.setdefault(outcome.value, []).append(str(index))
    for title, lines in (
        ("PCRs", [f"{', '.join(pcrs)}: {outcome}" for outcome, pcrs in outcomes.items()]),
        ("Not checked", result.not_checked),
        ("Workarounds", result.workarounds),
    ):
        if lines:
            click.echo(f"\n{title}:")
            for line in lines:
                click.echo(f"  {plain(line)}")


def _event(change: Any) -> tuple[Any, ...]:
    def digest(value: bytes | None) -> str:
        return "" if value is None else value.hex()[:16]

    return (
        change.pcr,
        change.kind,
        change.label,
        digest(change.expected),
        digest(change.measured),
        change.text,
        change.claim,
    )
