"""A stock OpenSSH client against a stock sshd that serves what a box was handed over.

The certificates are those of `keys`, signed by the controller's TPM; those of others are made here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    SSHCertificateBuilder,
    SSHCertificateType,
)
from ssh_lab import ADDRESS, ADDRESS6, OTHER, SshLab
from test_lease_service import LeasedSite
from test_ssh_authority import Desk, opened

from keys import ssh_certificate
from keys.envelope import unb64u
from keys.io.ssh_authority import Host
from keys.io.tpm_ring import TpmRing

pytestmark = pytest.mark.boots

DOMAIN = "shop-0417.example.net"
NAME, SECOND = f"pos-01.{DOMAIN}", f"pos-02.{DOMAIN}"
HOSTS = {NAME: ADDRESS, SECOND: OTHER, "pos-01": ADDRESS, "pos-01.example.com": ADDRESS}
EK_NAME, OTHER_EK_NAME = b"\0\x0b" + bytes(32), b"\0\x0b" + bytes(31) + b"\1"
HOUR = 3600


class World:
    """The authority of a site whose controller has a TPM, and the machine that plays the box."""

    def __init__(self, desk: Desk, lab: SshLab) -> None:
        self.desk, self.lab = desk, lab
        self.line = desk.ask("ssh_ca")["known_hosts"] + "\n"

    def certify(
        self, hostname: str = "pos-01", *, now: float, not_after: float, ek_name: bytes = EK_NAME
    ) -> str:
        box = UUID(bytes=ek_name[-16:])
        host = Host(box=box, ek_name=ek_name, public=self.lab.host_key.public)
        document = {
            "hostname": hostname,
            "fqdn": f"{hostname}.{DOMAIN}",
            "network": [{"address": f"{HOSTS[f'{hostname}.{DOMAIN}']}/24"}],
        }
        with self.desk.store.transaction():
            made = self.desk.ssh.certificate(host, document, not_after=int(not_after), now=now)
        assert made is not None
        return made

    def good(self, hostname: str = "pos-01", **changes: Any) -> str:
        now = time.time()
        return self.certify(hostname, **{"now": now, "not_after": now + 24 * HOUR, **changes})

    def reaches(self, name: str, *options: str, known_hosts: str | None = None) -> bool:
        """Log in; tell whether the client took the host for the one that was meant."""
        known = self.line if known_hosts is None else known_hosts
        done = self.lab.connect(name, known, *options)
        self.said = done.stderr
        if done.returncode == 0:
            assert done.stdout == "reached\n", done
            return True
        # and not because it could not get that far, or was not let in
        assert done.returncode == 255, done
        assert "Host key verification failed" in done.stderr, done
        return False


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    site = LeasedSite()
    try:
        site.ready()
        site.operator("lease_apply", lease=site.issue_lease())
        site.stop()
        with opened(site) as desk, SshLab(tmp_path_factory.mktemp("ssh"), HOSTS) as lab:
            assert isinstance(desk.ring, TpmRing)
            desk.ring.open()
            yield World(desk, lab)
    finally:
        site.close()


def test_a_box_is_known_by_its_names_and_no_others(world: World) -> None:
    world.lab.serve(world.good())
    assert world.reaches(NAME)
    assert world.reaches(ADDRESS)
    assert not world.reaches(SECOND)
    assert "name is not a listed principal" in world.said
    assert not world.reaches(OTHER)
    # names that the line of known_hosts says nothing of are no business of this authority
    assert not world.reaches("pos-01.example.com")
    assert not world.reaches("pos-01")


def test_the_short_name_where_a_client_trusts_the_authority_for_it(world: World) -> None:
    world.lab.serve(world.good())
    assert world.reaches("pos-01", known_hosts=world.line.replace("*.", "pos-01,*.", 1))


def test_an_ipv6_address_is_no_name_that_was_not_asked_for(world: World) -> None:
    world.lab.serve(world.good())
    everywhere = world.line.replace(f"*.{DOMAIN}", "*", 1)
    assert not world.reaches(ADDRESS6, known_hosts=everywhere)
    assert "name is not a listed principal" in world.said


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [
        (-48 * HOUR, -HOUR, "Certificate invalid: expired"),
        (2 * HOUR, 24 * HOUR, "Certificate invalid: not yet valid"),
    ],
)
def test_a_certificate_of_another_time(world: World, begin: int, end: int, said: str) -> None:
    now = time.time()
    world.lab.serve(world.certify(now=now + begin, not_after=now + end))
    assert not world.reaches(NAME)
    assert said in world.said


def test_a_client_whose_clock_is_behind(world: World) -> None:
    """A certificate begins an hour before it was made."""
    now = time.time()
    world.lab.serve(world.certify(now=now + HOUR - 60, not_after=now + 24 * HOUR))
    assert world.reaches(NAME)


def test_a_renewed_certificate_is_served_after_a_reload(world: World) -> None:
    now = time.time()
    world.lab.serve(world.certify(now=now - 48 * HOUR, not_after=now - HOUR))
    assert not world.reaches(NAME)
    world.lab.renew(world.good())
    assert world.reaches(NAME)


def test_a_certificate_of_another_authority(world: World) -> None:
    now = int(time.time())
    made = ssh_certificate.issue(
        ec.generate_private_key(ec.SECP256R1()),
        public=world.lab.host_key.public,
        identity="doorstep:shop-0417:box:1",
        names=ssh_certificate.HostNames(hostname="pos-01", fqdn=NAME),
        serial=1,
        now=now,
        not_after=now + HOUR,
    )
    world.lab.serve(made)
    assert not world.reaches(NAME)


def test_a_plain_key(world: World) -> None:
    world.lab.serve(None)
    assert not world.reaches(NAME)


def foreign(
    world: World,
    *names: str,
    kind: SSHCertificateType = SSHCertificateType.HOST,
    option: tuple[bytes, bytes] | None = None,
) -> str:
    """Sign with the site's key what `keys` would not; without names, for all."""
    now = time.time()
    builder = (
        SSHCertificateBuilder()
        .public_key(ssh_certificate.host_key(world.lab.host_key.public))
        .serial(1)
        .key_id(b"x")
        .type(kind)
        .valid_after(now - 60)
        .valid_before(now + HOUR)
    )
    if names:
        builder = builder.valid_principals([name.encode() for name in names])
    else:
        builder = builder.valid_for_all_principals()
    if option is not None:
        builder = builder.add_critical_option(*option)
    return builder.sign(world.desk.vault.signing_key("ssh-ca")).public_bytes().decode()


def test_a_certificate_of_a_user(world: World) -> None:
    world.lab.serve(foreign(world, NAME, kind=SSHCertificateType.USER))
    assert not world.reaches(NAME)


def test_a_critical_option_that_no_host_has(world: World) -> None:
    """Why there are none: a client refuses what it does not know."""
    world.lab.serve(foreign(world, NAME))
    assert world.reaches(NAME)
    world.lab.serve(foreign(world, NAME, option=(b"source-address", b"10.41.7.0/24")))
    assert not world.reaches(NAME)


def test_why_names_are_checked_so_hard(world: World) -> None:
    """One slip would be a certificate for every box.

    An empty list of names is every host to clients before OpenSSH 10.3, and `*` any letters since.
    """
    taken = []
    for names in ((), ("*",)):
        world.lab.serve(foreign(world, *names))
        taken.append(world.reaches(SECOND))
    assert any(taken)


def test_a_revoked_box(world: World, tmp_path: Path) -> None:
    krl = tmp_path / "krl"
    option = f"RevokedHostKeys={krl}"

    def write() -> None:
        krl.write_bytes(unb64u(world.desk.ask("ssh_krl")["krl"]))

    world.lab.serve(world.good("pos-02", ek_name=OTHER_EK_NAME))
    write()
    assert world.reaches(SECOND, option)
    with world.desk.store.transaction():
        world.desk.store.revoke(OTHER_EK_NAME, time.time())
    write()
    assert not world.reaches(SECOND, option)
    assert f"revoked by file {krl}" in world.said
    world.lab.serve(world.good())
    assert world.reaches(NAME, option)
    krl.unlink()  # fails closed, as ssh_config(5) has it
    assert not world.reaches(NAME, option)
