"""The `doorstep` command: a table of subcommands, each loaded only when it is called.

Exit codes: 0 done; 1 the answer is no, or a service refused; 2 wrong usage, or something of this
site is wrong. Every error is one sentence: what, where, what to do.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import IO, Any, NamedTuple

import click


class Entry(NamedTuple):
    """Where a subcommand is (`module:object`) and its line in the list."""

    target: str
    line: str
    hidden: bool = False


COMMANDS = {
    "init": Entry("bootstrap.cli.site:init", "Make a new site that works as it is."),
    "check": Entry("bootstrap.cli.site:check", "List everything that is wrong with a site."),
    "bootset": Entry("bootstrap.cli.bootset:bootset", "Build, try out and publish boot sets."),
    "rehearse": Entry("bootstrap.cli.run:rehearse", "Enrol a virtual box before anybody travels."),
    "run": Entry("bootstrap.cli.run:run", "Run the whole appliance (as root)."),
    "netboot": Entry("bootstrap.cli.netboot:netboot", "Run netboot alone; explain an offer."),
    "dns": Entry("bootstrap.cli.dns:dns", "Explain names; print trust anchors; dump zones."),
    "ssh": Entry("bootstrap.cli.ssh:ssh", "Let SSH clients know this site's boxes."),
    "metrics": Entry("bootstrap.cli.metrics:metrics", "Print counts for Prometheus."),
    "services": Entry("bootstrap.cli.box:services", "Show what each process does."),
    "box": Entry("bootstrap.cli.box:box", "Look at boxes; approve or refuse one."),
    "events": Entry("bootstrap.cli.box:events", "Show what happened, and what happens."),
    "watch": Entry("bootstrap.cli.watch:watch", "Hear who else serves on the site's networks."),
    "secret": Entry("bootstrap.cli.secret:secret", "Store, list and remove secrets."),
    "upstream": Entry("bootstrap.cli.upstream:upstream", "Log in where secrets come from."),
    "audit": Entry("bootstrap.cli.audit:audit", "Check that the record of keys is whole."),
    "keys": Entry("bootstrap.cli.keys:keys", "Explain until when each secret may be given."),
    "autonomy": Entry("bootstrap.cli.autonomy:autonomy", "Say until when the site runs alone."),
    "lease": Entry("bootstrap.cli.lease:lease", "Ask for, sign and take leases of the cache."),
    "seed": Entry("bootstrap.cli.seed:seed", "Secrets by stick, for one appliance."),
    "backup": Entry("bootstrap.cli.backup:backup", "Save everything, for a key elsewhere."),
    "restore": Entry("bootstrap.cli.backup:restore", "Put the state back from a backup."),
    "replace-appliance": Entry(
        "bootstrap.cli.backup:replace_appliance", "Take the place of a dead appliance."
    ),
    "wrap": Entry("bootstrap.cli.wrap:wrap", "Wrap a secret for one box, at headquarters."),
    "wrap-key": Entry("bootstrap.cli.wrap:wrap_key", "Write the key that `wrap` wraps for."),
    "import": Entry("bootstrap.cli.import_:import_", "Take what headquarters signed."),
    "sign": Entry("bootstrap.cli.sign:sign", "Sign what sites import, at headquarters."),
    "note": Entry("bootstrap.cli.site:note", "Sign the delivery note with the offline key."),
    "trust": Entry("bootstrap.cli.trust:trust", "Import, list and remove TPM makers' CAs."),
    "firmware": Entry("bootstrap.cli.firmware:firmware", "Keep the signed firmware baseline."),
    "policy": Entry("bootstrap.cli.policy:policy", "Show and check how evidence is judged."),
    "verify": Entry("bootstrap.cli.verify:verify", "Judge kept evidence again, offline."),
    "eventlog": Entry("bootstrap.cli.eventlog:eventlog", "Read and replay a boot event log."),
    "ek": Entry("bootstrap.cli.ek:ek", "Judge endorsement certificates."),
    "pe": Entry("bootstrap.cli.pe:pe", "Show what a boot program is and how it is measured."),
    "ca": Entry("bootstrap.cli.ca:authority", "The offline root, and what it signs."),
    "service": Entry("bootstrap.cli.run:service", "Run one process in the foreground.", True),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that it starts at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of a site's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when there is none of this name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.target.partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list from the table alone."""
        rows = [(name, entry.line) for name, entry in COMMANDS.items() if not entry.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        """Turn our own errors into one sentence and an exit code."""
        from attest.errors import AttestError
        from bootstrap.errors import BootstrapError
        from keys.errors import KeysError
        from keys.io.rpc import RpcError, RpcUnavailableError
        from netboot.errors import NetbootError

        try:
            return super().invoke(ctx)
        except RpcError as error:
            raise Failure(f"refused ({error.code}): {error}", code=1) from error
        except RpcUnavailableError as error:
            text = f"{error}: start the appliance (`doorstep run`), or give its --run directory"
            raise Failure(text, code=2) from error
        except (AttestError, BootstrapError, KeysError, NetbootError) as error:
            raise Failure(str(error), code=2) from error


class Failure(click.ClickException):
    """An error with the exit code that belongs to it."""

    def __init__(self, message: str, code: int) -> None:
        """Keep the sentence and the code."""
        super().__init__(message)
        self.code = code

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the sentence, then end with the code."""
        super().show(file)
        raise SystemExit(self.code)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("doorstep"), prog_name="doorstep")
def main() -> None:
    """Boot, verify and enrol new machines at a site where nobody is an administrator."""
