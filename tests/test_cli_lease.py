"""`doorstep lease` from one end to the other: a controller with a TPM, headquarters without one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_lease_service import LeasedSite
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR

from bootstrap.cli.lease import qr_code
from bootstrap.cli.main import main
from bootstrap.errors import SiteError
from bootstrap.io.lease_desk import LeaseDesk
from bootstrap.lease_desk import check_request, fingerprint
from keys.io.tpm import Tpm
from keys.lease import HEADER
from keys.secret import Secret

PHRASE = b"correct horse battery staple"


def doorstep(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], input=given)


class Desk:
    """Headquarters: a directory of its own, and the commands that work there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "authority"
        self.phrase = directory / "phrase"
        self.phrase.write_bytes(PHRASE + b"\n")
        self.options = ("--authority", self.directory, "--passphrase-file", self.phrase)

    def issue(self, request: str, *words: object, allowed: str = "--starts=2") -> Result:
        return doorstep("lease", "issue", *self.options, allowed, *words, given=request)


class Place:
    """An appliance that runs, and its command line."""

    def __init__(self, site: LeasedSite) -> None:
        self.site = site
        layout = site.layout
        self.options = ("--site", layout.site, "--state", layout.state, "--run", layout.run)

    def lease(self, *words: object, given: str | None = None) -> Result:
        return doorstep("lease", *words, *self.options, given=given)

    def request(self, *words: object) -> str:
        done = self.lease("request", *words)
        assert done.exit_code == 0, done.output
        return done.stdout


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    one = Desk(tmp_path)
    made = doorstep("lease", "init", *one.options)
    assert made.exit_code == 0, made.output
    return one


@pytest.fixture
def place(desk: Desk) -> Iterator[Place]:
    site = LeasedSite()
    (site.layout.site / "trust/lease.pub").unlink()
    done = doorstep("lease", "init", *desk.options, "--site", site.layout.site)
    assert done.exit_code == 0, done.output
    assert "trust/lease.pub" in done.output
    try:
        yield Place(site.ready())
    finally:
        site.close()


def test_a_lease_is_asked_for_issued_taken_and_ends(
    place: Place, desk: Desk, tmp_path: Path
) -> None:
    place.site.put()
    closed = place.lease("show")
    assert closed.exit_code == 1
    assert "the cache is closed: this controller has no lease" in closed.output
    asked = place.request("--challenge", "7391")
    named = fingerprint(check_request(asked).request)

    unknown = desk.issue(asked, "--days", 14)
    assert unknown.exit_code == 1
    assert "compare the fingerprint" in unknown.output
    assert named in unknown.output
    assert named in place.lease("request").stderr
    wrong = desk.issue(asked, "--days", 14, "--new", "--challenge", "7392")
    assert (wrong.exit_code, "not yours" in wrong.output) == (1, True)

    done = desk.issue(asked, "--days", 14, "--new", "--challenge", "7391")
    assert done.exit_code == 0, done.output
    assert "lease 2 of shop-0417: 14 d switched on" in done.stderr
    again = desk.issue(asked, "--days", 14)
    assert (again.exit_code, "issued already" in again.output) == (1, True)

    taken = place.lease("apply", given=done.stdout)
    assert (taken.exit_code, taken.output) == (0, "lease 2 runs: the cache is open\n")
    assert place.site.given()
    shown = place.lease("show")
    assert shown.exit_code == 0
    assert "13 d 23 h more of being switched on" in shown.output
    assert "2 starts more; the one after closes the cache" in shown.output
    used = place.lease("apply", given=done.stdout)
    assert (used.exit_code, "used before" in used.output) == (1, True)

    assert place.lease("end", "--yes").exit_code == 0
    assert place.lease("show").exit_code == 1
    assert json.loads(place.lease("show", "--json").output)["closed"]["code"] == "LEASE-ENDED"

    # a request of before the end is too old to be signed: the counter went on
    stick = tmp_path / "request.txt"
    assert place.lease("request", "--out", stick).exit_code == 0
    out = tmp_path / "lease.txt"
    renewed = desk.issue(stick.read_text(), "--hours", 2, "--out", out)
    assert renewed.exit_code == 0, renewed.output
    assert place.lease("apply", out).exit_code == 0
    assert place.site.given(reset_count=8)
    assert "renew it now" in place.lease("show").output
    old = desk.issue(asked, "--hours", 2)
    assert (old.exit_code, "has counted to 4 before" in old.output) == (1, True)


def test_restarts_end_a_lease_and_another_is_taken(place: Place, desk: Desk) -> None:
    place.site.put()
    done = desk.issue(place.request(), "--days", 1, "--new", allowed="--starts=0")
    assert place.lease("apply", given=done.stdout).exit_code == 0
    assert "no start is left" in place.lease("show").output
    place.site.power_cycle()
    place.site.start()
    shown = place.lease("show")
    assert "was started more often than it allows" in shown.output
    assert "none is enrolled" in shown.output
    done = desk.issue(place.request(), "--days", 1)
    assert done.exit_code == 0, done.output
    assert place.lease("apply", given=done.stdout).exit_code == 0
    assert place.site.given()


def test_a_lease_for_software_to_come_waits(place: Place, desk: Desk, tmp_path: Path) -> None:
    place.site.put()
    asked, pcrs = place.request(), ("--pcrs", "8,9", "--days", 3)
    plan = tmp_path / "plan"
    plan.write_text(f"sha256:\n  8 : 0x{'11' * 32}\n  9 : 0x{'22' * 32}\n")
    today = desk.issue(asked, *pcrs, "--new")
    planned = desk.issue(asked, *pcrs, "--pcrs-from", plan)
    assert planned.exit_code == 0, planned.output
    assert "PCR 8, 9 stand for, as planned" in planned.stderr
    taken = place.lease("apply", given=planned.stdout)
    assert "lease 2 waits for other software" in taken.output
    assert "lease 2 runs" in place.lease("apply", given=today.stdout).output
    shown = place.lease("show").output
    assert "lease 2 runs" in shown
    assert "lease 2 waits for other software (PCR 8, 9)" in shown
    refused = desk.issue(asked, *pcrs)
    assert "issued already" in refused.output


def test_an_old_copy_of_the_ledger_is_noticed(place: Place, desk: Desk) -> None:
    first = desk.issue(place.request(), "--days", 1, "--new")
    assert "note: it counts" not in first.output
    (path,) = desk.directory.glob("*/*.ledger")
    copy = path.read_bytes()
    place.lease("apply", given=first.stdout)
    second = desk.issue(place.request(), "--days", 1)
    assert "note: it counts" not in second.output
    place.lease("apply", given=second.stdout)
    path.write_bytes(copy)
    third = desk.issue(place.request(), "--days", 1)
    assert third.exit_code == 0
    assert "the last one known here is" in third.output
    assert "this ledger is an old copy" in third.output
    place.lease("apply", given=third.stdout)
    assert "note: it counts" not in desk.issue(place.request(), "--days", 1).output


def test_what_was_issued_can_be_printed_again(place: Place, desk: Desk) -> None:
    done = desk.issue(place.request(), "--days", 1, "--new")
    told = doorstep("lease", "issued", "--authority", desk.directory)
    assert "shop-0417  2" in told.output
    words = ("lease", "issued", "--authority", desk.directory, "--again")
    again = doorstep(*words, 2)
    assert again.stdout == done.stdout
    assert doorstep(*words, 3).exit_code == 1
    listed = json.loads(doorstep("lease", "issued", *words[2:4], "--json").output)["leases"]
    assert [one["number"] for one in listed] == [2]


def test_the_owner_s_passwords_go_into_a_file_alone(
    place: Place, desk: Desk, tmp_path: Path
) -> None:
    asked, out = place.request(), tmp_path / "passwords"
    words = ("lease", "escrow", *desk.options, "--out", out)
    assert "not known" in doorstep(*words, given=asked).output
    desk.issue(asked, "--days", 1, "--new")
    done = doorstep(*words, given=asked)
    assert done.exit_code == 0, done.output
    assert out.stat().st_mode & 0o777 == 0o600
    owner, lockout = (line.rpartition("hex:")[2] for line in out.read_text().splitlines())
    assert owner not in done.output
    assert lockout not in done.output
    assert owner != lockout
    with ESAPI(place.site.tpm.tcti) as esys:
        esys.tr_set_auth(ESYS_TR.OWNER, bytes.fromhex(owner))
        esys.hierarchy_change_auth(auth_handle=ESYS_TR.OWNER, new_auth=b"")
    with Tpm(place.site.tpm.tcti) as tpm:
        assert not tpm.is_owned()
    assert "name a new file" in doorstep(*words, given=asked).output


def test_headquarters_needs_no_tpm_and_no_site() -> None:
    code = (
        "import sys, bootstrap.cli.lease, bootstrap.io.lease_desk, bootstrap.lease_desk\n"
        "print(sorted(one for one in sys.modules if 'tpm2' in one or one == 'keys.io.tpm'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_authority_is_made_once_and_kept_closely(desk: Desk, tmp_path: Path) -> None:
    again = doorstep("lease", "init", *desk.options)
    assert (again.exit_code, "make none over it" in again.output) == (2, True)
    key = desk.directory / "authority.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert desk.directory.stat().st_mode & 0o777 == 0o700
    with pytest.raises(SiteError, match="wrong passphrase"):
        LeaseDesk(desk.directory).unlock(Secret(b"something else entirely"))
    key.chmod(0o644)
    with pytest.raises(SiteError, match="read by others"):
        LeaseDesk(desk.directory).unlock(Secret(PHRASE))
    (tmp_path / "second").mkdir()
    other = Desk(tmp_path / "second")  # another authority's half is never written over
    site = tmp_path / "site"
    (site / "trust").mkdir(parents=True)
    assert doorstep("lease", "init", *other.options, "--site", site).exit_code == 0
    done = doorstep("lease", "init", *desk.options, "--site", site)
    assert (done.exit_code, "another authority's" in done.output) == (2, True)


def test_wrong_usage_is_said() -> None:
    for words, said in (
        (["--starts", "1"], "--hours or --days"),
        (["--starts", "1", "--hours", "1", "--days", "1"], "--hours or --days"),
        (["--starts", "1", "--hours", "1", "--pcrs", "7,99"], "from 0 to 15"),
        (["--hours", "1"], "--starts"),
    ):
        done = doorstep("lease", "issue", *words, given="x")
        assert (done.exit_code, said in done.output) == (2, True), done.output


def test_a_lease_fits_the_screen_of_a_terminal(place: Place, desk: Desk) -> None:
    done = desk.issue(place.request(), "--days", 1, "--new", "--qr", "--pcrs", "0,7")
    words = [line for line in done.stdout.splitlines() if line.isascii()]
    text = "".join(words).strip()
    assert text.startswith(HEADER)
    drawn = qr_code(text)
    assert done.stdout.endswith(drawn + "\n")
    lines = drawn.splitlines()
    assert max(map(len, lines)) <= 90
    assert len(lines) <= 50
