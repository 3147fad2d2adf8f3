"""`doorstep metrics`: counts of netboot for Prometheus, to the screen or a file, over no port."""

from __future__ import annotations

from pathlib import Path

import click

from bootstrap.cli.common import RUN

_PATH = click.Path(path_type=Path)


@click.command(short_help="Print counts for Prometheus.")
@click.option("--run", type=_PATH, default=RUN, show_default=True, help="Sockets.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write this file as a whole instead: one of node_exporter's textfile collector.",
)
def metrics(run: Path, out: Path | None) -> None:
    """Ask netboot and sync what they counted, and control what ends when; no port is opened."""
    from contextlib import suppress

    from bootstrap.io.metrics_file import write
    from bootstrap.metrics import exposition
    from keys.io.rpc import RpcUnavailableError, call

    socket = run.absolute() / "netboot" / "socket"
    status = call(socket, "status")
    leases, ends, sync = len(call(socket, "leases")["leases"]), [], None
    with suppress(RpcUnavailableError):  # netboot may run alone
        ends = call(run.absolute() / "control" / "socket", "services")["autonomy"]["all"]
    with suppress(RpcUnavailableError):
        sync = call(run.absolute() / "sync" / "socket", "status")
    text = exposition(status, leases, ends, sync)
    if out is None:
        click.echo(text.decode(), nl=False)
    else:
        write(out, text)
