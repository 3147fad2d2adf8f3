"""`doorstep sign`: what sites import, signed at headquarters with the site's offline key.

Exit codes: 0 signed; 1 a person said no; 2 wrong usage, or a file is wrong.
`doorstep note sign`, `firmware sign` and `wrap` do it for what they make.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli.common import SITE, plain

if TYPE_CHECKING:
    from keys.signed import Kind

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_SITE = click.option(
    "--site", type=_DIRECTORY, default=SITE, show_default=True, help="The site's files."
)
_OFFLINE = click.option(
    "--offline", type=_DIRECTORY, help="Where the offline keys are now, unless SITE/offline."
)
_COUNTER = click.option(
    "--counter", type=click.IntRange(min=1), help="Its number, unless one above the last."
)
MAX_OFFER = 1 << 20


@click.group(short_help="Sign what sites import, at headquarters.")
def sign() -> None:
    """Sign documents for `doorstep import`; their counters only grow."""


@sign.command(name="file", short_help="Sign a note, baseline, policy or off-site key.")
@_SITE
@_OFFLINE
@_COUNTER
@click.option("--all-sites", is_flag=True, help="An appraisal policy for every site of this key.")
@click.argument("file", type=_FILE)
def file_(
    site: Path, offline: Path | None, counter: int | None, all_sites: bool, file: Path
) -> None:
    """Sign FILE as what it is, into FILE.minisig."""
    from bootstrap.errors import SiteError
    from bootstrap.importing import SIGNED, Sort, recognise
    from bootstrap.io import site_dir
    from keys.signed import Counted, Sites

    data = file.read_bytes()
    sort = recognise(data)
    kind = SIGNED.get(sort)
    if kind is None or kind.counted is not Counted.SITE or sort is Sort.SEED:
        raise SiteError(f"{file}: it is {sort.value}, which is not signed by itself")
    if all_sites and kind.sites is Sites.ONE:
        raise SiteError(f"{file}: a {kind.title} is for one site: leave --all-sites away")
    is_for_all = all_sites or kind.sites is Sites.ALL
    _write(
        site, offline, file, data, kind, "*" if is_for_all else site_dir.load(site).site.id, counter
    )


@sign.command(short_help="Make and sign a plan: the site file with its templates.")
@_SITE
@_OFFLINE
@_COUNTER
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default="plan.json", show_default=True
)
def plan(site: Path, offline: Path | None, counter: int | None, out: Path) -> None:
    """Pack SITE's site.toml and the templates of its roles into one signed document.

    Each template gets a name of its content: so a site changes from one plan to the next at once.
    """
    from bootstrap.io import site_dir
    from bootstrap.site import SITE_FILE
    from bootstrap.site_plan import make_plan
    from keys.signed import PLAN

    settings = site_dir.load(site)
    templates = {role.config: (site / role.config).read_text() for role in settings.roles}
    made = make_plan((site / SITE_FILE).read_text(), templates)
    data = made.encode()
    site_dir.write(out, data)
    click.echo(f"wrote {out}: {len(made.templates)} templates")
    _write(site, offline, out, data, PLAN, settings.site.id, counter)


@sign.command(short_help="Let one held box through, once.")
@_SITE
@_OFFLINE
@_COUNTER
@click.option("--role", help="What it becomes; what the site offers unless given.")
@click.option("--claim", default="", help="What the technician reads on its label.")
@click.option("--days", type=click.IntRange(1, 31), default=7, show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="approval.json",
    show_default=True,
)
@click.argument("offer", type=_FILE)
def approval(site: Path, offline: Path | None, counter: int | None, **said: Any) -> None:
    """Sign an approval of what OFFER says: the output of `doorstep box show BOX --json`.

    It is for this box, these reasons and these measurements alone, and is used up by one hand-over.
    """
    from bootstrap.errors import SiteError
    from bootstrap.io import site_dir
    from keys.approval import SignedApproval
    from keys.envelope import unb64u
    from keys.errors import PeerError
    from keys.signed import APPROVAL

    offer, out = said["offer"], said["out"]
    offered = _offer(offer)
    role = said["role"] or offered.get("role")
    if role is None:
        raise SiteError(f"{offer}: no role is the default there: say with --role what it becomes")
    if offered.get("needs_claim") and not said["claim"].strip():
        raise SiteError(
            f"{offer}: a reason needs the word of the technician beside the box: give --claim"
        )
    site_id = site_dir.load(site).site.id
    try:
        one = SignedApproval(
            site=site_id,
            ek_name=unb64u(offered["ek_name"]),
            role=role,
            reasons=frozenset(offered["reasons"]),
            measurements=unb64u(offered["measurements"]),
            sealed=unb64u(offered["sealed"]),
            until=int(time.time()) + said["days"] * 86400,
            claim=said["claim"].strip(),
        )
        data = one.encode()
        SignedApproval.decode(data)
    except (KeyError, TypeError, ValueError, PeerError):
        raise SiteError(f"{offer}: it is not what `doorstep box show BOX --json` prints") from None
    click.echo(f"as {plain(role)}, although: {', '.join(map(plain, sorted(one.reasons)))}")
    if not said["yes"]:
        click.confirm("Sign it?", abort=True)
    site_dir.write(out, data)
    _write(site, offline, out, data, APPROVAL, site_id, counter, ek=one.ek_name.hex())


def _offer(path: Path) -> dict[str, Any]:
    from bootstrap.errors import SiteError

    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MAX_OFFER))["approval"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SiteError(
            f"{path}: it is not what `doorstep box show BOX --json` prints of a held box"
        )
    if "problem" in found:
        raise SiteError(f"{path}: {plain(found['problem'])}")
    return found


def _write(
    site: Path,
    offline: Path | None,
    path: Path,
    data: bytes,
    kind: Kind,
    site_id: str,
    counter: int | None,
    **further: str,
) -> None:
    """Sign it, its counter one above that of the signature beside it."""
    from bootstrap.errors import SiteError
    from bootstrap.io import site_dir
    from keys.signed import size_text, standard_comment

    if len(data) > kind.max_bytes:
        raise SiteError(f"{path}: a {kind.title} has at most {size_text(kind.max_bytes)}")
    signature = path.with_name(f"{path.name}.minisig")
    if counter is None:
        counter = int(time.time()) if further else site_dir.last_counter(signature) + 1
    comment = standard_comment(site_id, counter, **further)
    signed = site_dir.sign_document(site, data, comment, kind.context, offline)
    site_dir.write(signature, signed)
    click.echo(f"signed {signature}: {kind.title} {counter}, for {plain(site_id)}")
    click.echo(f"take both to the site: doorstep import {path.name}")
