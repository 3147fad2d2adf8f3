"""A whole site whose controller has a TPM: leases by the command line, boxes that enrol or wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from control_site import Box, ControlSite, boot_log, make_tpm

from bootstrap.cli.main import main
from bootstrap.rehearsal.controller import ControllerTpm
from keys.io.rpc import RpcError
from netboot.bootset import BootSetManifest

PHRASE = "correct horse battery staple"


class LeasedControlSite(ControlSite):
    """A site with every process, its controller's TPM, and headquarters."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        path = self.layout.site / "site.toml"
        path.write_text(path.read_text().replace('tpm = "none" ', 'tpm = "/dev/tpmrm0"'))
        (directory / "phrase").write_text(PHRASE)
        self.headquarters = (
            *("--authority", str(directory / "authority")),
            *("--passphrase-file", str(directory / "phrase")),
        )
        made = self.headquarters_do("init", "--site", str(self.layout.site))
        assert made.exit_code == 0, made.output
        self.tpm = ControllerTpm(self.layout, self.base / "controller-tpm")
        self.tpm.power_on()

    def headquarters_do(self, word: str, *words: str, given: str | None = None) -> Result:
        """Do a command of headquarters."""
        return CliRunner().invoke(main, ["lease", word, *self.headquarters, *words], input=given)

    def renew(self, *words: str) -> None:
        """Ask, sign and take, as people do."""
        asked = self.doorstep("lease", "request", "--challenge", "12")
        issued = self.headquarters_do("issue", "--challenge", "12", *words, given=asked.stdout)
        assert issued.exit_code == 0, issued.output
        path = self.base / "lease.txt"
        path.write_text(issued.stdout)
        taken = self.doorstep("lease", "apply", str(path))
        assert "the cache is open" in taken.output, taken.output

    def restart_machine(self) -> None:
        """Cut the power of the controller and start it again."""
        for process in self.processes.values():
            process.kill()
        self.tpm.cut_power()
        self.tpm.power_on()
        for path in (self.layout.run / "tls").iterdir():
            path.unlink()  # it was in memory
        for name, process in self.processes.items():
            process.start()
            self.wait_for(name)
        self.posts = 0

    def close(self) -> None:
        super().close()
        self.tpm.cut_power()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LeasedControlSite]:
    one = LeasedControlSite(tmp_path)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def box(site: LeasedControlSite, tmp_path: Path) -> Iterator[Box]:
    tpm = make_tpm(tmp_path / "box")
    one = Box(site, tpm, mac="52:54:00:00:00:01", address="10.41.7.101")
    site.trust(tpm)
    site.deliver(one.entry())
    site.publish(site.build())
    site.start()
    site.lease(one.mac, one.address)
    try:
        yield one
    finally:
        one.off()


def boot(site: LeasedControlSite, box: Box, manifest: BootSetManifest) -> Box:
    box.memory = 2048
    return box.boot(boot_log(site, manifest))


def turned_away(box: Box) -> str:
    """Let a box try; gives what it is told."""
    dance = box.begin()
    with pytest.raises(RpcError) as refused:
        box.post("evidence", dance.body, dance.session)
    return refused.value.code


def test_boxes_wait_when_the_lease_has_ended_and_enrol_when_it_is_renewed(
    site: LeasedControlSite, box: Box
) -> None:
    manifest = site.build()
    assert turned_away(boot(site, box, manifest)) == "LEASE-MISSING"
    site.renew("--days", "30", "--starts", "1", "--new")
    assert boot(site, box, manifest).enrol().status == "ready"
    site.until(lambda: "secret pos-api-token" in first_line(site))
    # what the lease allows: one start
    site.restart_machine()
    assert boot(site, box, manifest).enrol().status == "ready"
    shown = site.doorstep("lease", "show")
    assert "no start is left" in shown.output
    assert "renew it now" in shown.output
    # and none beyond
    site.restart_machine()
    assert turned_away(boot(site, box, manifest)) == "LEASE-ENDED"
    card = site.card(box.id)["card"]
    assert card["code"] == "LEASE-ENDED"
    assert "headquarters must renew" in card["next_step"]
    site.until(lambda: "lease of the cache has ended" in first_line(site))
    assert site.doorstep("autonomy").exit_code == 1
    assert "note: the lease has ended" in site.doorstep("services").output
    explained = site.doorstep("keys", "explain")
    assert explained.exit_code == 1
    assert "no: the lease has ended: the controller was started more often" in explained.output
    assert "in 13 d" in explained.output, "the secret itself lasts: a lease gives it back"
    # a lease from headquarters, and all goes on: nothing is put again
    site.renew("--days", "2", "--starts", "1")
    assert boot(site, box, manifest).enrol().status == "ready"
    assert {path.name for path in (site.layout.run / "tls").iterdir()} == {
        "server.key",
        "server.pem",
        "box-ca.crl",
        "crl.pem",
    }
    site.until(lambda: "on its own until" in first_line(site))
    assert "of being switched on and 1 start more: then lease 3 ends." in first_line(site)


def first_line(site: LeasedControlSite) -> str:
    return site.doorstep("autonomy").output.splitlines()[0]
