"""`doorstep netboot`: DHCP, TFTP, HTTP boot files and DNS alone; what a client would be told."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from bootstrap.cli.common import as_json, print_json
from bootstrap.site_types import (
    decode_architecture,
    decode_client_id,
    decode_data,
    decode_mac,
    decode_uuid,
)
from netboot.asking import Asking
from netboot.dhcp_options import MessageType

STATE = Path("/var/lib/doorstep-netboot")
SITE = Path("/etc/doorstep/site.toml")
_SITE = click.option(
    "--site",
    "file",
    type=click.Path(path_type=Path),
    default=SITE,
    show_default=True,
    help="The site file, or its directory.",
)
_STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=STATE,
    show_default=True,
    help="Leases, and boot sets if there are any; a directory of its own.",
)


class _Read(click.ParamType[Any]):
    """A value that one function reads from text."""

    def __init__(self, name: str, read: Any) -> None:
        self.name, self._read = name, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text; the error names the option."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def read_requests(text: str) -> bytes:
    """Read option numbers with commas."""
    try:
        return bytes(int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError("--ask: expected numbers from 0 to 255 with commas") from None


@click.group(short_help="Run netboot alone; explain an offer.")
def netboot() -> None:
    """DHCP, TFTP, HTTP boot files and DNS without the other services."""


@netboot.command(short_help="Serve in the foreground until SIGTERM.")
@_SITE
@_STATE
@click.option("--probe/--no-probe", default=True, help="Look for another DHCP server first.")
@click.option(
    "--sign/--no-sign",
    default=None,
    help="Sign all zones of the site, or none; else those marked as signed.",
)
@click.option(
    "--metrics",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file for node_exporter's textfile collector, written every 15 seconds.",
)
def run(file: Path, state: Path, probe: bool, sign: bool | None, metrics: Path | None) -> None:
    """Serve what the site file says, as root or with CAP_NET_BIND_SERVICE and CAP_NET_RAW.

    `[site]` with id and domain and one `[[subnet]]` or `[[zone]]` are enough. A change of the file
    takes effect without a restart, SIGHUP reads it at once; one that cannot be served changes
    nothing.
    """
    from bootstrap.io.netboot_run import serve

    serve(_file(file), state.absolute(), probe=probe, sign=sign, say=_say, metrics=metrics)


@netboot.command(short_help="Show what a client would be told, byte by byte, and why.")
@_SITE
@_STATE
@click.option("--mac", type=_Read("mac", decode_mac), required=True, help="Of the client.")
@click.option(
    "--arch",
    "architectures",
    type=_Read("architecture", decode_architecture),
    multiple=True,
    help="Option 93, as a name (x64-uefi) or number (7).",
)
@click.option("--class", "vendor_class", default="", help="Option 60; else as --arch has it.")
@click.option("--user-class", default="", help="Option 77, as iPXE sends it.")
@click.option("--uuid", type=_Read("uuid", decode_uuid), help="Option 97.")
@click.option("--client-id", type=_Read("client-id", decode_client_id), help="Option 61.")
@click.option("--hostname", help="Option 12.")
@click.option("--ipv6", is_flag=True, help="A SOLICIT of DHCPv6 instead.")
@click.option("--relay", type=_Read("address", ip_address), help="giaddr, or link-address.")
@click.option("--circuit", type=_Read("data", decode_data), help="Option 82, sub-option 1.")
@click.option("--interface", help="Where the packet comes in; else the first that is served.")
@click.option(
    "--message",
    type=click.Choice(["discover", "request"]),
    default="discover",
    show_default=True,
    help="The first message, or the one that takes the offer.",
)
@click.option("--ask", "requests", help="Option 55 as numbers with commas; else as such clients.")
@as_json
def explain(file: Path, state: Path, as_json: bool, ipv6: bool, **said: Any) -> None:
    """Run a packet as this client would send it through the engine; nothing is sent or written.

    Exit code 1: the client would get no answer.
    """
    from bootstrap.io import netboot_explain as module

    relay = said["relay"]
    if relay is not None and relay.version != (6 if ipv6 else 4):
        raise click.UsageError(f"--relay: {relay} is of the other IP")
    place = _file(file), state.absolute()
    if ipv6:
        found6 = module.explain_client6(*place, said)
        _show(found6.reply is not None, as_json, module.document6(found6), module.lines6(found6))
    else:
        found = module.explain_client(*place, _asking(**said))
        _show(found.reply is not None, as_json, module.document(found), module.lines(found))


def _show(
    is_answered: bool, as_json: bool, document: Mapping[str, Any], lines: Iterable[str]
) -> None:
    if as_json:
        print_json(document)
    else:
        for line in lines:
            click.echo(line)
    if not is_answered:
        raise SystemExit(1)


def _asking(**said: Any) -> Asking:
    requests = said["requests"]
    return Asking(
        mac=said["mac"],
        architectures=said["architectures"],
        vendor_class=said["vendor_class"].encode(),
        user_class=said["user_class"].encode(),
        uuid=said["uuid"],
        client_id=said["client_id"],
        host_name=said["hostname"],
        relay=said["relay"],
        circuit_id=said["circuit"],
        interface=said["interface"],
        kind=MessageType[said["message"].upper()],
        requests=None if requests is None else read_requests(requests),
    )


def _file(file: Path) -> Path:
    return (file / SITE.name if file.is_dir() else file).absolute()


def _say(sentence: str) -> None:
    sys.stderr.write(f"doorstep: {sentence}\n")
    sys.stderr.flush()
