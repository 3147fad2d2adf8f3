"""`doorstep firmware`: the firmware baseline, which headquarters gathers, looks at and signs.

Adding and removing change the file alone; what a site believes is what was signed. Exit codes: 0
done; 1 evidence was refused; 2 wrong usage, or a file that is wrong. Forms: docs/verifier.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from attest.anchors import Anchors, decode_anchors, decode_parts
from attest.baseline import Baseline, FirmwareEntry, Machine
from attest.crl import Crl
from attest.errors import AttestError, AttestSiteError, EvidenceError
from attest.firmwarefile import (
    BASELINE_FILE,
    CONTEXT,
    GATED,
    MAX_BASELINE,
    check_entry,
    decode_baseline,
    encode_baseline,
    entry_id,
    entry_text,
    verify_baseline,
)
from attest.io.archive import read_kept
from attest.io.trust import load_trust, read_files
from attest.reference_values import (
    entries_from_csv,
    entry_from_evidence,
    events_from_pcrlock,
    values_from_pcrread,
)
from attest.rim import decode_tag, entry_from_rim
from bootstrap.cli.common import SITE, as_json, plain, print_json, print_table
from bootstrap.io import site_dir
from bootstrap.site import SITE_FILE
from keys.manifest import MAX_FILE
from keys.signed import standard_comment

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_ANY = click.Path(path_type=Path, exists=True)
_SITE = click.option(
    "--site", type=_DIRECTORY, default=SITE, show_default=True, help="The site's files."
)
_TO = click.option(
    "--to", "file", type=click.Path(path_type=Path), help=f"The baseline, unless {BASELINE_FILE}."
)
_PUBLIC_KEY = "trust/root.pub"
_COUNTER = re.compile(r"^trusted comment: .* counter=([0-9]{1,18})\r?$", re.MULTILINE)
_MAX_INPUT = 8 << 20


@click.group(short_help="Keep the signed firmware baseline.")
def firmware() -> None:
    """What is known to be the firmware of a model: boxes with another one are held.

    Gather entries with `add`, look at them with `show`, then `sign` the file for the sites.
    """


@firmware.command(name="list", short_help="Show the entries, and whether the file is signed.")
@_SITE
@_TO
@as_json
def list_(site: Path, file: Path | None, as_json: bool) -> None:
    """List the entries of the baseline with what each knows."""
    path = file or site / BASELINE_FILE
    baseline, state = _load(path), _signature(site, path)
    if as_json:
        entries = [_document(entry) for entry in baseline.entries]
        print_json({"file": str(path), "signature": state, "entries": entries})
        return
    header = ("entry", "vendor", "model", "version", "pcrs", "keys", "source")
    print_table(header, [_row(entry) for entry in baseline.entries])
    click.echo(plain(f"{len(baseline.entries)} entries; {_told(state)}"))


@firmware.command(short_help="Show one entry whole.")
@_SITE
@_TO
@as_json
@click.argument("entry")
def show(site: Path, file: Path | None, as_json: bool, entry: str) -> None:
    """Show what ENTRY holds, by its name in the list or a start of it."""
    path = file or site / BASELINE_FILE
    found = _find(_load(path), entry, path)
    if as_json:
        print_json(_document(found) | Baseline(entries=(found,)).plain()[0])
    else:
        click.echo(entry_text(found))


@firmware.command(short_help="Add what a box, a list or a maker says.")
@_SITE
@_TO
@click.option("--vendor", help="As the box says it (SMBIOS), where SOURCE does not or differs.")
@click.option("--model", help="Likewise.")
@click.option("--version", help="Likewise: of its firmware.")
@click.option("--from", "source", help="Where it came from, in your words.")
@click.option(
    "--key", "keys", type=_FILE, multiple=True, help="A certificate of PK, KEK or db of the model."
)
@click.option(
    "--anchors", type=_ANY, multiple=True, help="TPM makers to trust instead of the site's."
)
@click.argument("sources", nargs=-1, required=True, type=_ANY)
def add(
    site: Path,
    file: Path | None,
    vendor: str | None,
    model: str | None,
    version: str | None,
    source: str | None,
    keys: tuple[Path, ...],
    anchors: tuple[Path, ...],
    sources: tuple[Path, ...],
) -> None:
    """Add entries from SOURCES to the baseline.

    SOURCES are an evidence directory of a box, a CSV list, what tpm2_pcrread printed, a .pcrlock
    file, or a maker's RIM: the .swidtag and all the support RIMs that it names. The new file counts
    nowhere before it was signed.
    """
    path = file or site / BASELINE_FILE
    said = _Said(vendor=vendor, model=model, version=version)
    try:
        entries = _read(sources, said, lambda: _anchors(site, anchors))
    except EvidenceError as error:
        click.echo(f"refused: {plain(error)}", err=True)
        raise SystemExit(1) from None
    fingerprints = _fingerprints(keys)
    entries = [_with(entry, source, fingerprints) for entry in entries]
    baseline = _load(path, missing=True)
    known = {entry_id(entry) for entry in baseline.entries}
    for entry in entries:
        name = entry_id(entry)
        word = "there already" if name in known else "added"
        click.echo(plain(f"{word}: {name} {_machine(entry.machine)}: {_covers(entry)}"))
        if not entry.keys:
            click.echo(
                "  it knows no Secure Boot keys: give them with --key, or list them in policy.toml"
            )
        if name not in known:
            known.add(name)
            baseline = Baseline(entries=(*baseline.entries, entry))
    _save(path, baseline)


@firmware.command(short_help="Take an entry out.")
@_SITE
@_TO
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.argument("entry")
def remove(site: Path, file: Path | None, yes: bool, entry: str) -> None:
    """Remove ENTRY; boxes that pass by it alone are held once the file is signed again."""
    path = file or site / BASELINE_FILE
    baseline = _load(path)
    found = _find(baseline, entry, path)
    if not yes:
        click.confirm(f"Remove {plain(_machine(found.machine))}?", abort=True)
    _save(path, Baseline(entries=tuple(one for one in baseline.entries if one != found)))
    click.echo(f"removed: {entry_id(found)}")


@firmware.command(short_help="Sign the baseline, its counter one above the last.")
@_SITE
@_TO
@click.option(
    "--offline",
    type=_DIRECTORY,
    help="Where the offline keys are now (a stick), unless SITE/offline.",
)
def sign(site: Path, file: Path | None, offline: Path | None) -> None:
    """Sign the baseline; sites refuse an older one from then on."""
    path = file or site / BASELINE_FILE
    data = _bytes(path, MAX_BASELINE)
    count = len(decode_baseline(data, str(path)).entries)
    signature = _minisig(path)
    before = _bytes(signature, MAX_FILE).decode(errors="replace") if signature.exists() else ""
    counter = 1 + max(map(int, _COUNTER.findall(before)), default=0)
    comment = standard_comment("*", counter)
    signed = site_dir.sign_document(site, data, comment, CONTEXT, offline)
    site_dir.write(signature, signed)
    click.echo(f"signed {signature} with counter {counter}: {count} entries")


class _Said:
    """What the options say of the machine."""

    def __init__(self, *, vendor: str | None, model: str | None, version: str | None) -> None:
        self.texts = {"vendor": vendor, "model": model, "version": version}

    def machine(self, name: str, **found: str) -> Machine:
        """Fill in what the source does not say; AttestSiteError names the missing option."""
        texts = {key: text or found.get(key, "") for key, text in self.texts.items()}
        for key, text in texts.items():
            if not text:
                raise AttestSiteError(f"{name}: it does not say the {key}: give --{key}")
        return Machine(**texts)

    def nothing(self, name: str) -> None:
        """Refuse options where the source says it all."""
        for key, text in self.texts.items():
            if text:
                raise AttestSiteError(f"{name}: it says the {key} itself: leave --{key} away")


def _read(sources: Sequence[Path], said: _Said, anchors: Any) -> list[FirmwareEntry]:
    tags = [path for path in sources if path.suffix.lower() == ".swidtag"]
    if tags:
        return [_from_rim(tags, [path for path in sources if path not in tags], said)]
    found: list[FirmwareEntry] = []
    for path in sources:
        if path.is_dir():
            said.nothing(str(path))
            found.append(_from_evidence(path, anchors()))
        else:
            found += _from_list(path, said)
    return found


def _from_rim(tags: Sequence[Path], supports: Sequence[Path], said: _Said) -> FirmwareEntry:
    if len(tags) > 1:
        raise AttestSiteError(f"{tags[1]}: give one .swidtag at a time, with its support RIMs")
    name = tags[0].name
    tag = decode_tag(_bytes(tags[0]), name)
    machine = said.machine(name, vendor=tag.vendor, model=tag.model, version=tag.version)
    return entry_from_rim(tag, [(path.name, _bytes(path)) for path in supports], machine, name)


def _from_evidence(path: Path, anchors: Anchors) -> FirmwareEntry:
    """Judge kept evidence again, by the makers that are trusted here."""
    kept = read_kept(path)
    expectation = kept.expectation
    if expectation is not None:
        expectation = replace(expectation, anchors=anchors)
    entry, result = entry_from_evidence(
        kept.evidence, expectation, kept.policy, kept.appraised or 0.0, path.resolve().name
    )
    click.echo(plain(f"{path}: {result.verdict.value}: {result.sentence}"))
    click.echo(plain(f"  TPM: {result.tpm or 'no certificate; the delivery note names its EK'}"))
    return entry


def _from_list(path: Path, said: _Said) -> Sequence[FirmwareEntry]:
    data, name = _bytes(path), path.name
    if path.suffix.lower() == ".csv":
        said.nothing(name)
        return entries_from_csv(data, name)
    entry = FirmwareEntry(machine=said.machine(name), source=f"file {name}")
    if path.suffix.lower() == ".pcrlock":
        entry = replace(entry, events=events_from_pcrlock(data, name))
    else:
        entry = replace(entry, values=values_from_pcrread(data, name))
    return (check_entry(entry, name),)


def _anchors(site: Path, given: Sequence[Path]) -> Anchors:
    """Read the TPM makers to trust: those in the evidence are the words of whoever brings it."""
    if given:
        files: list[tuple[str, bytes]] = []
        for path in given:
            files += read_files(path) if path.is_dir() else [(str(path), _bytes(path))]
        return decode_anchors(files, rehearsal=False)
    if not (site / SITE_FILE).exists():
        raise AttestSiteError(
            f"{site}: it has no {SITE_FILE}, so nobody says which TPM makers to trust: give --site"
            " or --anchors"
        )
    return load_trust(site / site_dir.load(site).trust.ek_anchors, rehearsal=False)


def _fingerprints(paths: Sequence[Path]) -> frozenset[bytes]:
    found: set[bytes] = set()
    for path in paths:
        for part in decode_parts(path.name, _bytes(path)):
            if isinstance(part, Crl):
                raise AttestSiteError(f"{path}: it is no certificate but a list of revoked ones")
            found.add(part.fingerprint)
    return frozenset(found)


def _with(entry: FirmwareEntry, source: str | None, keys: frozenset[bytes]) -> FirmwareEntry:
    text = f"{source} ({entry.source})" if source else entry.source
    return check_entry(replace(entry, source=text, keys=entry.keys | keys), "--from")


def _load(path: Path, *, missing: bool = False) -> Baseline:
    if missing and not path.exists():
        return Baseline()
    return decode_baseline(_bytes(path, MAX_BASELINE), str(path))


def _save(path: Path, baseline: Baseline) -> None:
    data = encode_baseline(baseline)
    decode_baseline(data, str(path))
    site_dir.write(path, data)
    click.echo(f"wrote {path}: sign it with `doorstep firmware sign`")


def _bytes(path: Path, limit: int = _MAX_INPUT) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise AttestSiteError(f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise AttestSiteError(f"{path}: it is larger than {limit} bytes")
    return data


def _minisig(path: Path) -> Path:
    return path.with_name(f"{path.name}.minisig")


def _signature(site: Path, path: Path) -> dict[str, Any]:
    """Say whether the file is signed by the site's key."""
    try:
        signed = verify_baseline(
            _bytes(path, MAX_BASELINE),
            _bytes(_minisig(path), MAX_FILE),
            public_key=_bytes(site / _PUBLIC_KEY, MAX_FILE),
            name=str(path),
        )
    except AttestError as error:
        return {"holds": False, "counter": None, "problem": str(error)}
    return {"holds": True, "counter": signed.counter, "problem": None}


def _told(state: dict[str, Any]) -> str:
    if state["holds"]:
        return f"signed with counter {state['counter']}"
    return f"it counts nowhere: {state['problem']}"


def _find(baseline: Baseline, start: str, path: Path) -> FirmwareEntry:
    found = [entry for entry in baseline.entries if entry_id(entry).startswith(start.lower())]
    if len(found) != 1:
        many = "no entry" if not found else f"{len(found)} entries"
        raise AttestSiteError(
            f"{path}: {many} of that name: `doorstep firmware list` shows the names"
        )
    return found[0]


def _machine(machine: Machine) -> str:
    return f"{machine.vendor} {machine.model} {machine.version}"


def _covers(entry: FirmwareEntry) -> str:
    """Say which PCRs of which banks an entry speaks of; those known by events have a mark."""
    parts = []
    for bank in sorted({*entry.values, *entry.events}):
        values, events = entry.values.get(bank, {}), entry.events.get(bank, {})
        shown = [f"{index}*" if index in events else str(index) for index in {**values, **events}]
        parts.append(f"{bank} {','.join(sorted(shown))}")
    return " ".join(parts)


def _row(entry: FirmwareEntry) -> tuple[object, ...]:
    machine = entry.machine
    names = (entry_id(entry), machine.vendor, machine.model, machine.version)
    return (*names, _covers(entry), len(entry.keys), entry.source)


def _document(entry: FirmwareEntry) -> dict[str, Any]:
    machine = entry.machine
    banks = {*entry.values, *entry.events}
    whole = {
        bank: sorted({*entry.values.get(bank, {}), *entry.events.get(bank, {})}) for bank in banks
    }
    return {
        "entry": entry_id(entry),
        "vendor": machine.vendor,
        "model": machine.model,
        "version": machine.version,
        "source": entry.source,
        "pcrs": whole,
        "complete": all(set(GATED) <= set(indices) for indices in whole.values()),
        "keys": len(entry.keys),
    }
