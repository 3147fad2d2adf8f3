"""`doorstep import`: take what headquarters sent, by network or on a stick.

Exit codes: 0 taken, or there already; 1 something was refused, or a person said no; 2 wrong usage,
or something of this site is wrong. Forms: docs/signed-inputs.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli.common import Place, as_json, plain, print_json, with_place

if TYPE_CHECKING:
    from bootstrap.importing import Verdict
    from bootstrap.io.importing import Looked


@click.command(name="import", short_help="Take what headquarters signed, from files or a stick.")
@with_place
@as_json
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what each file is and changes, take nothing.")
@click.option(
    "--from", "source", help="Where certificates of TPM makers came from: nobody signs them."
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def import_(
    place: Place,
    as_json: bool,
    yes: bool,
    dry_run: bool,
    source: str | None,
    files: tuple[Path, ...],
) -> None:
    """Take FILES, or what is in a directory: each with its .minisig beside it.

    Each is recognised by its content. What it is, who signed it and what it changes is said before
    anything is done.
    """
    from bootstrap.io.import_desk import Desk
    from bootstrap.io.importing import alone, look, take

    if as_json and not yes and not dry_run:
        raise click.UsageError("--json asks nothing: give --yes or --dry-run with it")
    desk = Desk(
        directory=place.site, state=place.state, ask=place.ask, now=time.time(), source=source
    )
    with alone(place.site):
        found, skipped = look(desk, files)
        fresh = [one for one in found if one.verdict.state.value == "new"]
        if not as_json:
            _print(found, skipped)
        if fresh and not dry_run and not yes:
            what = "it" if len(fresh) == 1 else f"these {len(fresh)}"
            click.confirm(f"Take {what}?", abort=True)
        taken = [] if dry_run else [_take(take, desk, one, as_json) for one in fresh]
    if as_json:
        documents = [_document(one.verdict) for one in found]
        print_json({"files": documents, "others": skipped, "taken": taken})
    verdicts = [one.verdict.state.value for one in found] + [one["state"] for one in taken]
    if "refused" in verdicts or not found:
        raise SystemExit(1)


def _take(take: Any, desk: Any, one: Looked, as_json: bool) -> dict[str, Any]:
    """Take one and say so; gives its last verdict."""
    verdict, told = take(desk, one)
    if not as_json:
        if verdict.state.value == "refused":
            click.echo(f"refused: {plain(verdict.file)}: {plain(verdict.sentence)}")
        else:
            click.echo(f"taken: {plain(verdict.file)}")
        for line in told:
            click.echo(f"  {plain(line)}")
    return {**_document(verdict), "told": list(told)}


def _print(found: Sequence[Looked], skipped: int) -> None:
    for one in found:
        verdict = one.verdict
        if verdict.state.value == "refused":
            click.echo(f"refused: {plain(verdict.file)} ({verdict.sort.value})")
            click.echo(f"  {plain(verdict.sentence)}")
            continue
        click.echo(f"{plain(verdict.file)}: {verdict.sort.value}{_numbers(verdict)}")
        if verdict.signer:
            click.echo(f"  signed by {plain(verdict.signer)}{_for(verdict)}")
        if verdict.state.value == "taken before":
            click.echo("  it was taken before: nothing changes")
        for line in verdict.changes:
            click.echo(f"  {plain(line)}")
    if skipped:
        click.echo(f"{skipped} other files are nothing to be taken")
    if not found:
        click.echo("nothing to be taken is there")


def _numbers(verdict: Verdict) -> str:
    if verdict.counter is None:
        return ""
    before = "the first" if verdict.before is None else f"{verdict.before} was taken before"
    return f" {verdict.counter} ({before})"


def _for(verdict: Verdict) -> str:
    return {None: "", "*": ", for all sites"}.get(verdict.site, f", for site {plain(verdict.site)}")


def _document(verdict: Verdict) -> dict[str, Any]:
    return {
        "file": verdict.file,
        "kind": verdict.sort.value,
        "state": verdict.state.value,
        "signer": verdict.signer,
        "site": verdict.site,
        "counter": verdict.counter,
        "before": verdict.before,
        "changes": list(verdict.changes),
        "sentence": verdict.sentence,
    }
