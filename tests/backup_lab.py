"""Shared by the tests of backups: an appliance, headquarters, and machines to restore on.

Everything is done by the command line, as people do it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner, Result
from control_site import ControlSite
from keys_site import USERS
from test_cli_lease_site import PHRASE, LeasedControlSite

from bootstrap.cli.main import main
from bootstrap.io import site_dir
from bootstrap.rehearsal.controller import ControllerTpm
from keys.ca import Kind
from keys.io.layout import Layout

USERS_TEXT = ",".join(f"{name}={uid}" for name, uid in USERS.items())


class Headquarters:
    """What lies at headquarters: the site's directory with its offline keys, and the two keys."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.site = directory / "site"
        self.phrase = directory / "phrase"
        self.authority = directory / "authority"
        self.identity = directory / "backup.age"

    def keep(self, site: ControlSite) -> None:
        """Keep a copy of the site's directory, and take the offline keys from the appliance."""
        shutil.copytree(site.layout.site, self.site)

    def do(self, *words: object) -> Result:
        """Do a command."""
        return CliRunner().invoke(main, [str(one) for one in words])

    def init(self, *words: object) -> Result:
        """Make the off-site key, or name it to a site."""
        options = ("--identity", self.identity, "--passphrase-file", self.phrase)
        return self.do("backup", "init", *options, *words)

    def reseal(self, backup: Path, asker: Path, out: Path, *words: object) -> Result:
        """Open a backup for who asks."""
        return self.do(
            *("backup", "reseal", "--site", self.site, "--identity", self.identity),
            *("--passphrase-file", self.phrase, "--authority", self.authority),
            *("--authority-passphrase-file", self.phrase),
            *("--for", asker, "--compared", "--out", out, *words, backup),
        )

    def lease(self, request: str, *words: object) -> str:
        """Issue a lease; gives its text."""
        done = CliRunner().invoke(
            main,
            [
                *("lease", "issue", "--authority", str(self.authority)),
                *("--passphrase-file", str(self.phrase), "--days", "30", "--starts", "9"),
                *map(str, words),
            ],
            input=request,
        )
        assert done.exit_code == 0, done.output
        return done.stdout


class Appliance(LeasedControlSite):
    """The first appliance, with headquarters elsewhere."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.directory = directory
        self.hq = Headquarters(directory)

    def ready(self) -> Appliance:
        """Start it with a lease, and name the off-site key to it."""
        self.start()
        self.renew("--days", "30", "--starts", "9", "--new")
        done = self.hq.init("--site", self.layout.site)
        assert done.exit_code == 0, done.output
        self.hq.keep(self)
        return self

    def backup(self, name: str, *words: str) -> Path:
        """Write a backup."""
        out = self.directory / name
        done = self.doorstep("backup", "--out", str(out), "--users", USERS_TEXT, *words)
        assert done.exit_code == 0, done.output
        return out


class Machine(ControlSite):
    """A new machine with a TPM and nothing else."""

    def __init__(self, tpm: bool = True) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="doorstep-control-"))
        self.base.chmod(0o755)
        self.layout = Layout(
            site=self.base / "site", state=self.base / "state", run=self.base / "run", users=USERS
        )
        self.layout.state.mkdir(mode=0o755)
        (self.layout.state / "rehearsal").write_text("test\n")
        self.layout.run.mkdir(mode=0o755)
        self._stand_in()
        self.tpm = ControllerTpm(self.layout, self.base / "controller-tpm")
        if tpm:
            self.tpm.power_on()

    def command(self, *words: object) -> Result:
        """Do a command that needs the users."""
        return self.doorstep(*map(str, words), "--users", USERS_TEXT)

    def run(self) -> None:
        """Start what there is."""
        for name in self.processes:
            self.processes[name].start()
        for name in self.processes:
            self.wait_for(name)

    def sign_authorities(self, offline: Path) -> None:
        """Do what headquarters does with the requests for certificates."""
        signed = {}
        for one in self.operator("keys", "ca_requests")["requests"]:
            pem = site_dir.sign_intermediate(offline, one["csr_pem"].encode(), Kind(one["kind"]))
            signed[f"{one['kind']}_pem"] = pem
        self.operator("keys", "ca_install", **signed)

    def close(self) -> None:
        super().close()
        self.tpm.cut_power()


def take_over(machine: Machine, hq: Headquarters, backup: Path, *words: object) -> Result:
    """Ask, reseal and restore; gives what `replace-appliance --from` said."""
    asked, resealed = machine.base / "asked", machine.base / "resealed"
    done = machine.command("replace-appliance", "--ask", asked)
    assert done.exit_code == 0, done.output
    done = hq.reseal(backup, asked, resealed, *words)
    assert done.exit_code == 0, done.output
    key = hq.site / "trust/root.pub"
    return machine.command("replace-appliance", "--from", resealed, "--key", key)


Make = Callable[[], Machine]
__all__ = ["PHRASE", "Appliance", "Headquarters", "Machine", "Make", "take_over"]
