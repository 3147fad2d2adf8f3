"""`doorstep bootset`: what boxes start, from locked packages to published."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli.common import Place, as_json, print_json, print_table, with_place
from bootstrap.errors import SiteError

if TYPE_CHECKING:
    from bootstrap.build.lock import Lock
    from bootstrap.io.publishing import Shelf
    from netboot.bootset import Architecture

_PATH = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_OFFLINE = click.option(
    "--offline", type=_PATH, help="Where the offline keys are now (a stick), unless SITE/offline."
)
_ARCHITECTURE = click.option(
    "--arch",
    type=click.Choice(["amd64", "arm64"]),
    default="amd64",
    show_default=True,
    help="Which boxes can start it.",
)
_SET = click.argument("boot_set", metavar="SET")


@click.group(short_help="Build, try out and publish boot sets.")
def bootset() -> None:
    """Boot sets. SET is a name (its newest version) or the start of a digest."""


@bootset.command(short_help="Build and sign a set for this site.")
@with_place
@_OFFLINE
@click.option("--name", default="enrol", show_default=True, help="Its versions count up.")
@_ARCHITECTURE
@click.option("--lock", "lock_file", type=_FILE, help="Another lock than this release's.")
@click.option("--ipxe", is_flag=True, help="Carry iPXE too, for machines without Secure Boot.")
def build(
    place: Place,
    offline: Path | None,
    name: str,
    arch: Architecture,
    lock_file: Path | None,
    ipxe: bool,
) -> None:
    """Build a set out of the locked packages; needs the mirror, or what was fetched before.

    Another lock says itself for which boxes it is.
    """
    manifest = _shelf(place, offline).build(_lock(lock_file, arch), name, ipxe=ipxe)
    click.echo(f"built {manifest.name} version {manifest.version}: {manifest.digest.hex()}")
    click.echo(f"next: `doorstep bootset rehearse {manifest.digest.hex()[:12]}`")


@bootset.command(short_help="Write a new lock from what the mirror has now.")
@_ARCHITECTURE
@click.option("--out", type=_FILE, default="bootset.lock", show_default=True, help="The lock.")
def lock(arch: Architecture, out: Path) -> None:
    """Resolve exact versions and digests of all that a set is made of."""
    from bootstrap.build.lock import encode_lock
    from bootstrap.build.parts import resolve

    found = resolve(arch)
    out.write_text(encode_lock(found))
    click.echo(f"wrote {out}: {len(found.packages)} packages")


@bootset.command(short_help="Show what a box that starts a set must measure.")
@with_place
@_SET
@click.option(
    "--variables",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A firmware variable store, to predict PCR 7 too.",
)
@as_json
def predict(place: Place, boot_set: str, variables: Path | None, as_json: bool) -> None:
    """Compute the PCR values of a boot with Secure Boot on, for each way of starting it.

    PCR 7 depends on the Secure Boot keys of the box: give their variable store to see it.
    """
    from attest.variables import variables_from_store
    from bootstrap.io.predictions import predictions

    shelf = _shelf(place, None)
    keys = variables_from_store(variables.read_bytes()) if variables else None
    found = predictions(shelf.store, shelf.site, shelf.find(boot_set), keys)
    if as_json:
        print_json({"predictions": found})
        return
    rows = [
        (one["transport"], one["server"], one["bank"], n, value)
        for one in found
        for n, value in one["pcrs"].items()
    ]
    print_table(("transport", "server", "bank", "PCR", "value"), rows)


@bootset.command(short_help="Boot a set in a virtual box and compare.")
@with_place
@_OFFLINE
@click.option("--work", type=_PATH, help="Where the virtual box works; kept afterwards.")
@_SET
def rehearse(place: Place, offline: Path | None, work: Path | None, boot_set: str) -> None:
    """Boot the exact bytes with firmware, Secure Boot and TPM; sign that it measured as predicted.

    Exit code 2 with a sentence when it did not: such a set cannot be published.
    """
    shelf = _shelf(place, offline)
    digest = shelf.find(boot_set)
    with _work(work) as directory:
        record = shelf.rehearse(digest, directory)
    click.echo(f"rehearsed {digest.hex()[:12]} over {', '.join(record.pcrs)}: as predicted")
    click.echo(f"next: `doorstep bootset publish {digest.hex()[:12]}`")


@bootset.command(short_help="Serve a set from now on.")
@with_place
@_SET
@click.option("--keep", default="7d", show_default=True, help="Accept the set before so long.")
def publish(place: Place, boot_set: str, keep: str) -> None:
    """Publish a set that was rehearsed; a running site takes it over at once."""
    shelf = _shelf(place, None)
    digest = shelf.find(boot_set)
    manifest = shelf.publish(digest, _duration(keep))
    _tell(place, "control", "reload")
    click.echo(f"serving {manifest.name} version {manifest.version}: {digest.hex()}")


@bootset.command(short_help="Never accept a set again.")
@with_place
@_SET
def withdraw(place: Place, boot_set: str) -> None:
    """Withdraw a set for good: its evidence is refused and no secret goes to a box that runs it."""
    shelf = _shelf(place, None)
    digest = shelf.find(boot_set)
    shelf.withdraw(digest)
    from keys.envelope import b64u

    _tell(place, "keys", "withdraw", {"boot_set": b64u(digest)})
    _tell(place, "control", "reload")
    click.echo(f"withdrawn: {digest.hex()}")


@bootset.command(name="list", short_help="Show the sets and how they are published.")
@with_place
@as_json
def list_(place: Place, as_json: bool) -> None:
    """List every set in the store."""
    from bootstrap.io.publishing import state_word

    rows: list[dict[str, Any]] = [
        {
            "digest": manifest.digest.hex(),
            "name": manifest.name,
            "version": manifest.version,
            "state": state_word(published, time.time()),
            "until": published.until if published else None,
            "rehearsed": rehearsed,
            "release": manifest.release,
        }
        for manifest, published, rehearsed in _shelf(place, None).sets()
    ]
    if as_json:
        print_json({"sets": rows})
        return
    print_table(
        ("digest", "name", "version", "state", "rehearsed", "release"),
        [
            (
                row["digest"][:12],
                row["name"],
                row["version"],
                row["state"],
                "yes" if row["rehearsed"] else "no",
                row["release"],
            )
            for row in rows
        ],
    )


@bootset.command(short_help="Write a set as an ISO for sticks and virtual media.")
@with_place
@_SET
@click.option("--out", type=_FILE, required=True, help="The ISO.")
def iso(place: Place, boot_set: str, out: Path) -> None:
    """Write the enrolment medium."""
    from bootstrap.build.iso import build_iso

    shelf = _shelf(place, None)
    digest = shelf.find(boot_set)
    build_iso(shelf.store.manifest(digest), shelf.store, out.absolute())
    click.echo(f"wrote {out}")


def _shelf(place: Place, offline: Path | None) -> Shelf:
    from bootstrap.io.publishing import Shelf

    return Shelf(directory=place.site, state=place.state, offline=offline)


def _lock(path: Path | None, architecture: Architecture) -> Lock:
    from bootstrap.build.lock import decode_lock
    from bootstrap.build.parts import committed_lock

    if path is None:
        return committed_lock(architecture)
    try:
        return decode_lock(path.read_text())
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}") from error


def _duration(text: str) -> timedelta:
    from bootstrap.site_types import decode_duration

    try:
        return decode_duration(text)
    except ValueError as error:
        raise click.UsageError(f"--keep: {error}") from error


def _tell(place: Place, service: str, method: str, params: dict[str, object] | None = None) -> None:
    """Tell a running service; one that does not run reads it when it starts."""
    from keys.io.rpc import RpcUnavailableError

    with contextlib.suppress(RpcUnavailableError):
        place.ask(service, method, params)


@contextmanager
def _work(path: Path | None) -> Iterator[Path]:
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="doorstep-") as name:
        yield Path(name)
