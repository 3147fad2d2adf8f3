"""What `doorstep check` says of [controller], and what its TPM's device may be used by."""

from __future__ import annotations

import os
import stat
import subprocess
import tomllib
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bootstrap.check import check
from bootstrap.check_controller import check_controller, controller_of
from bootstrap.io import site_dir
from bootstrap.io.site_dir import NewSite
from bootstrap.io.supervisor import Job, jobs
from bootstrap.io.tpm_device import device_of, fault_of, group_of
from bootstrap.site import Severity, Site
from keys.io.layout import SERVICES, Layout
from keys.rules import SiteRules

FORM = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
LEASE_PUB = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(*FORM)
TPM = 'tpm = "/dev/tpmrm0"\nroot = "verity"\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    network = IPv4Network("10.77.0.0/24")
    new = NewSite(id="shop-1", domain="shop-1.example.org", interface="eth7", network=network)
    site_dir.init(tmp_path / "site", new)
    return tmp_path / "site"


def with_table(directory: Path, table: str) -> Site:
    """Put another [controller] into the site file."""
    path = directory / "site.toml"
    text = path.read_text()
    before, _, after = text.partition("[controller]\n")
    path.write_text(f"{before}[controller]\n{table}\n[[role]]" + after.partition("[[role]]")[2])
    return site_dir.load(directory)


def said(
    directory: Path, table: str, lease: bytes | None = LEASE_PUB, fault: str | None = None
) -> list[tuple[Severity, str]]:
    found = check_controller(with_table(directory, table), lease, fault)
    return [(one.severity, str(one)) for one in found]


def test_a_controller_with_a_tpm_and_a_protected_root_is_in_order(directory: Path) -> None:
    assert said(directory, TPM) == []


ERROR, NOTE = Severity.ERROR, Severity.NOTE


@pytest.mark.parametrize(
    ("table", "lease", "fault", "severity", "words"),
    [
        (TPM, None, None, ERROR, "trust/lease.pub: is missing"),
        (TPM, b"x", None, ERROR, "trust/lease.pub: is no public key in PEM"),
        (TPM, None, None, ERROR, "doorstep lease init --site"),
        (TPM, LEASE_PUB, "/dev/tpmrm0: No such file", NOTE, "keys does not start on this machine"),
        ('tpm = "swtpm:path=/run/x"\nroot = "verity"', LEASE_PUB, None, NOTE, "in software"),
        ('root = "verity"\ntiers = ["site"]', None, None, NOTE, "means nothing without a TPM"),
        ("", None, None, NOTE, "pos-api-token cannot be stored: tier site needs a TPM"),
        ('tpm = "/dev/tpmrm0"', LEASE_PUB, None, NOTE, "theft inside the lease"),
        ('tiers = ["site"]', None, None, NOTE, "tier site is on by name. This controller keeps"),
        ('tpm = "/dev/tpmrm0"\ntiers = ["site"]', LEASE_PUB, None, NOTE, "tier site is on by name"),
    ],
)
def test_what_is_missing_or_promises_less_is_named(
    directory: Path,
    table: str,
    lease: bytes | None,
    fault: str | None,
    severity: Severity,
    words: str,
) -> None:
    found = said(directory, table, lease, fault)
    assert [level for level, text in found if words in text] == [severity], found


def test_another_kind_of_key_is_refused(directory: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*FORM)
    assert "is no P-256 key" in said(directory, TPM, key)[0][1]


def test_it_is_part_of_the_whole_check(directory: Path) -> None:
    site = with_table(directory, 'tpm = "/dev/no-such-tpm"'.replace("-", ""))
    files = site_dir.gather(directory, directory / "state", site)
    assert files.lease_public is None
    assert files.tpm_fault == "/dev/nosuchtpm: No such file or directory"
    found = check(site, files)
    assert any("trust/lease.pub: is missing" in str(one) for one in site_dir.errors_of(found))
    better = check(site, replace(files, lease_public=LEASE_PUB))
    assert site_dir.errors_of(better) == []
    assert any("does not start on this machine" in str(one) for one in better)


@pytest.mark.parametrize(
    "table", [TPM, "", 'tiers = ["site"]', 'tpm = "swtpm:path=/run/x"', 'root = "encrypted"']
)
def test_it_sees_the_table_as_keys_does(directory: Path, table: str) -> None:
    site = with_table(directory, table)
    rules = SiteRules.of(tomllib.loads((directory / "site.toml").read_text()))
    assert controller_of(site) == rules.controller


# the device


def test_a_device_is_root_s_or_a_group_s(tmp_path: Path) -> None:
    path = tmp_path / "tpmrm0"
    assert "No such file" in (fault_of(path) or "")
    path.touch()
    assert "is no device" in (fault_of(path) or "")
    path.unlink()
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    path.chmod(0o600)
    assert "tpm-udev" in (fault_of(path) or "")
    path.chmod(0o660)
    assert "tpm-udev" in (fault_of(path) or ""), "the group is root's own"
    os.chown(path, 0, 61099)
    assert (fault_of(path), group_of(path)) == (None, 61099)
    path.chmod(0o600)
    assert group_of(path) is None
    path.chmod(0o666)
    assert fault_of(path) is None


def test_keys_alone_is_in_the_group_of_the_tpm(directory: Path, tmp_path: Path) -> None:
    layout = Layout(
        site=directory,
        state=tmp_path,
        run=tmp_path,
        users={name: 61001 + number for number, name in enumerate(SERVICES)},
    )
    assert device_of(with_table(directory, "")) is None
    assert all(job.groups == () for job in jobs(layout))
    job = Job(name="keys", command=["true"], uid=61001, groups=(61099,))
    words = job.privileged_command()
    assert words[words.index("--groups") + 1] == "61099"
    assert "--clear-groups" not in words
    assert "--clear-groups" in replace(job, groups=()).privileged_command()


@pytest.mark.parametrize(("groups", "seen"), [((61099,), "61001 61099"), ((), "61001")])
def test_a_child_has_the_groups_that_it_is_given(groups: tuple[int, ...], seen: str) -> None:
    job = Job(name="keys", command=["id", "-G"], uid=61001, groups=groups)
    done = subprocess.run(job.privileged_command(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == seen.split()
