"""The SSH authority in keys: its key in the TPM, what it certifies, who lost theirs."""

from __future__ import annotations

import base64
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from keys_site import EK, OTHER_EK, KeysSite, code, entry, request
from test_lease_service import LeasedSite

from bootstrap.cli.main import main
from keys import ca, ssh_certificate
from keys.envelope import b64u, unb64u
from keys.errors import PeerError, SiteError
from keys.io.authority import Authority
from keys.io.issuing import Issued, Issuing
from keys.io.open_ring import open_ring
from keys.io.ring import ClosedError
from keys.io.site_files import SiteFiles
from keys.io.ssh_authority import KIND, Host, SshAuthority
from keys.io.store import Store
from keys.io.vault import Vault
from keys.ssh_certificate import HostCertificate

BOX = UUID("6f1c0a52-5f0e-5b1c-9d53-0f2a1c3b4d5e")
NOW = 1_795_000_000.5
END = int(NOW) + 7 * 86400
DOCUMENT = {
    "hostname": "pos-01",
    "fqdn": "pos-01.shop-0417.example.net",
    "network": [{"mac": "52:54:00:00:00:01", "address": "10.41.7.20/24"}],
}


def host_key() -> bytes:
    """Draw the public half of a host key, as SSH has it on the wire."""
    point = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32) + point


HOST = Host(box=BOX, ek_name=EK.name(), public=host_key())


class Desk:
    """The authority without its process, on the disk of a site."""

    def __init__(self, site: KeysSite, store: Store) -> None:
        self.store, self.site = store, site
        self.files = SiteFiles(site.layout)
        self.ring = open_ring(site.layout, store, self.files.rules)
        self.vault = Vault(store, self.ring, "shop-0417")
        self.ssh = SshAuthority(
            store=store,
            vault=self.vault,
            authority=Authority(site.layout, store, self.vault, "shop-0417"),
            files=self.files,
        )

    def certify(self, host: Host = HOST, **changes: Any) -> str | None:
        with self.store.transaction():
            return self.ssh.certificate(host, {**DOCUMENT, **changes}, not_after=END, now=NOW)

    def read(self, host: Host = HOST, **changes: Any) -> HostCertificate:
        line = self.certify(host, **changes)
        assert line is not None
        return ssh_certificate.read(line.encode())

    def issued(self) -> list[Issued]:
        return Issuing(self.store).of(EK.name())

    def ask(self, method: str) -> Any:
        return self.ssh.methods()[method].serve("operator", {}, NOW)

    def revokes(self, directory: Path, line: str) -> bool:
        """Ask ssh-keygen whether the list of now names a certificate."""
        krl, path = directory / "krl", directory / "host-cert.pub"
        krl.write_bytes(unb64u(self.ask("ssh_krl")["krl"]))
        return is_revoked(krl, path, line)


def is_revoked(krl: Path, path: Path, line: str) -> bool:
    path.write_text(line + "\n")
    command = ["ssh-keygen", "-Q", "-f", str(krl), str(path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert said.returncode == (1 if "REVOKED" in said.stdout else 0), said
    return said.returncode == 1


@contextmanager
def opened(site: KeysSite) -> Iterator[Desk]:
    store = Store(site.layout.state / "keys/keys.db")
    try:
        desk = Desk(site, store)
        try:
            yield desk
        finally:
            desk.ring.close()
    finally:
        store.close()


@pytest.fixture
def site() -> Iterator[LeasedSite]:
    one = LeasedSite()
    yield one
    one.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A site without a TPM: the same code, with a key of software."""
    site = KeysSite()
    try:
        with opened(site) as one:
            one.ssh.draw()
            yield one
    finally:
        site.close()


# what is certified


def test_the_certificate_of_a_box(desk: Desk) -> None:
    found = desk.read()
    assert found.principals == ("pos-01.shop-0417.example.net", "pos-01", "10.41.7.20")
    assert (found.valid_after, found.valid_before) == (int(NOW) - 3600, END)
    assert found.public == HOST.public
    named = ca.pseudonym(desk.vault.key_bytes("pseudonym").reveal(), BOX)
    assert found.key_id == f"doorstep:shop-0417:box:{named}"
    for identity in (EK.name().hex(), str(BOX), "52:54:00:00:00:01"):
        assert identity not in found.key_id
    authority = desk.ask("ssh_ca")["public"].split()[1]
    assert authority in desk.ask("ssh_ca")["known_hosts"]
    (row,) = desk.issued()
    assert row == Issued(
        serial=found.serial,
        kind=KIND,
        ek_name=EK.name(),
        subject=found.key_id,
        at=NOW,
        not_after=END,
    )


def test_each_certificate_has_a_number_of_its_own(desk: Desk) -> None:
    numbers = {desk.read().serial for _ in range(20)}
    assert len(numbers) == 20
    assert numbers == {one.serial for one in desk.issued()}


def test_a_box_without_a_host_key_has_no_certificate(desk: Desk) -> None:
    for public in (b"", b"ssh-ed25519 till", host_key()[:-1], host_key() + b"\0"):
        assert desk.certify(Host(box=BOX, ek_name=EK.name(), public=public)) is None
    assert desk.issued() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"fqdn": "pos-01.example.com"},
        {"hostname": "*", "fqdn": "*.shop-0417.example.net"},
        {"hostname": "", "fqdn": ""},
        {"hostname": "appliance", "fqdn": "appliance.shop-0417.example.net"},
        {"hostname": None},
        {"fqdn": None},
        {"network": [{"address": "10.41.7.2/24"}]},
        {"network": [{"address": "192.0.2.1/24"}]},
        {"network": [{"address": "anywhere"}]},
        {"network": ["10.41.7.20"]},
        {"network": [{}]},
    ],
)
def test_names_of_others_are_not_certified(desk: Desk, changes: dict[str, Any]) -> None:
    """Control says the names: what it may not say is not signed, and nothing is written."""
    with pytest.raises(PeerError):
        desk.certify(**changes)
    assert desk.issued() == []


def test_ipv6_is_certified_where_the_root_knows_the_network(desk: Desk) -> None:
    both = [*DOCUMENT["network"], {"address": "fd00:41:7::20/64"}, {"address": "fd00:9::1/64"}]
    assert desk.read(network=both).principals[2:] == ("10.41.7.20",)
    networks = [IPv4Network("10.41.7.0/24"), IPv6Network("fd00:41:7::/64")]
    root = ca.make_root(
        desk.site.root_key,
        site_id="shop-0417",
        domain="shop-0417.example.net",
        networks=networks,
        issue=desk.site.issue(),
    )
    desk.site.write("trust/root.pem", ca.pem([root]))
    assert desk.read(network=both).principals[2:] == ("10.41.7.20", "fd00:41:7::20")


# whose name it is

OTHER_HOST = Host(box=UUID(int=5), ek_name=b"other", public=host_key())
RENAMED = {"hostname": "kiosk-01", "fqdn": "kiosk-01.shop-0417.example.net"}


def withheld(desk: Desk) -> list[tuple[Any, ...]]:
    events = desk.store.events(0, 1000)
    return [
        (e["reason"], e["box"], e["detail"]["name"]) for e in events if e["kind"] == "ssh-withheld"
    ]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "pos-01.shop-0417.example.net"),
        (RENAMED, "10.41.7.20"),
    ],
)
def test_two_boxes_in_service_never_share_a_name(
    desk: Desk, changes: dict[str, Any], name: str
) -> None:
    """A control that lies could have a box certified as another; it still gets its hand-over."""
    desk.read()
    assert desk.certify(OTHER_HOST, **changes) is None
    assert withheld(desk) == [("NAME-TAKEN", str(UUID(int=5)), name)]
    assert Issuing(desk.store).of(b"other") == []
    desk.read()  # its own, as often as it likes
    assert desk.read(OTHER_HOST, **RENAMED, network=[]).principals[1] == "kiosk-01"


def test_the_name_of_a_revoked_box_is_free(desk: Desk) -> None:
    desk.read()
    with desk.store.transaction():
        desk.store.revoke(EK.name(), NOW)
    desk.read(OTHER_HOST)
    with desk.store.transaction():
        desk.store.execute("DELETE FROM revoked")  # as an allowance of the operator does
    assert desk.certify() is None


def test_a_name_is_free_when_its_certificate_has_ended(desk: Desk) -> None:
    desk.read()
    with desk.store.transaction():
        for now, is_given in ((END - 1, False), (END, True)):
            line = desk.ssh.certificate(OTHER_HOST, DOCUMENT, not_after=END + 60, now=now)
            assert (line is not None) is is_given


@pytest.mark.parametrize("stored", [b"", b"{}", b"[]", b'{"names": 1, "until": 1}', b"\xff"])
def test_a_row_that_is_damaged_is_told(desk: Desk, stored: bytes) -> None:
    desk.read()
    with desk.store.transaction():
        desk.store.set_meta(f"ssh-names:{EK.name().hex()}", stored)
    for host in (HOST, OTHER_HOST):
        with pytest.raises(SiteError, match="SSH names of a box are damaged"):
            desk.certify(host)


def test_a_box_with_a_new_name_gives_up_the_old_one(desk: Desk, tmp_path: Path) -> None:
    before = desk.certify()
    same = desk.certify()
    assert before is not None and same is not None
    assert not desk.revokes(tmp_path, before)
    after = desk.certify(**RENAMED, network=[])
    assert after is not None
    assert desk.revokes(tmp_path, before)
    assert desk.revokes(tmp_path, same)
    assert not desk.revokes(tmp_path, after)
    assert not desk.revokes(tmp_path, desk.certify(OTHER_HOST) or "")


# who is not known any more


def test_a_revoked_box_is_on_the_list(desk: Desk, tmp_path: Path) -> None:
    mine, other = desk.certify(), desk.certify(OTHER_HOST, **RENAMED, network=[])
    assert mine is not None and other is not None
    assert not desk.revokes(tmp_path, mine)
    with desk.store.transaction():
        desk.store.revoke(EK.name(), NOW)
    again = desk.certify()  # one that was on its way
    assert again is not None
    assert desk.revokes(tmp_path, mine)
    assert desk.revokes(tmp_path, again)
    assert not desk.revokes(tmp_path, other)
    counted = desk.ask("ssh_krl")
    assert (counted["boxes"], counted["certificates"]) == (1, 1)


def test_what_was_taken_back_stays_so_when_the_box_is_let_in_again(
    desk: Desk, tmp_path: Path
) -> None:
    before = desk.certify()
    assert before is not None
    with desk.store.transaction():
        desk.store.revoke(EK.name(), NOW)
        desk.store.execute("DELETE FROM revoked")  # as an allowance of the operator does
    after = desk.certify()
    assert after is not None
    assert desk.revokes(tmp_path, before)
    assert not desk.revokes(tmp_path, after)


# the process, and its TPM


def issued_rows(site: KeysSite) -> list[Issued]:
    store = Store(site.layout.state / "keys/keys.db")
    try:
        return [one for one in Issuing(store).of(EK.name()) if one.kind == KIND]
    finally:
        store.close()


def asked(**changes: Any) -> dict[str, Any]:
    return request(**{"ssh_public": b64u(HOST.public), "handoff": DOCUMENT, **changes})


def test_the_key_is_in_the_tpm_and_signs_while_the_lease_runs(site: LeasedSite) -> None:
    site.ready()
    line = site.operator("ssh_ca")["public"]
    site.operator("lease_apply", lease=site.issue_lease())
    assert site.operator("ssh_ca")["public"] == line
    reply = site.control("handover", **asked())
    (one,) = issued_rows(site)
    assert one.not_after == reply["certificate_not_after"]
    site.operator("lease_end")
    assert code(site.control, "handover", **asked(reset_count=8)) == "LEASE-ENDED"
    assert len(issued_rows(site)) == 1
    # what clients need to know does not end with it
    assert site.operator("ssh_ca")["public"] == line
    site.operator("revoke", ek_name=b64u(EK.name()))
    assert site.operator("ssh_krl")["boxes"] == 1
    site.stop()
    with opened(site) as desk, pytest.raises(ClosedError):
        desk.certify()
    assert len(issued_rows(site)) == 1


def test_a_certificate_that_the_tpm_signed(site: LeasedSite, tmp_path: Path) -> None:
    site.ready()
    site.operator("lease_apply", lease=site.issue_lease())
    line = site.operator("ssh_ca")["public"]
    site.stop()
    with opened(site) as desk:
        desk.ring.open()  # type: ignore[union-attr]
        made = desk.certify()
        assert made is not None
        assert ssh_certificate.read(made.encode()).authority == blob_of(line)
        (tmp_path / "host-cert.pub").write_text(made + "\n")
        command = ["ssh-keygen", "-L", "-f", str(tmp_path / "host-cert.pub")]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        assert "(using ecdsa-sha2-nistp256)" in said.stdout
        with pytest.raises(TypeError):
            desk.vault.signing_key("ssh-ca").private_numbers()


def blob_of(line: str) -> bytes:
    return base64.b64decode(line.split()[1])


def test_a_name_that_is_not_of_the_site_stops_the_hand_over(site: LeasedSite) -> None:
    site.ready()
    site.operator("lease_apply", lease=site.issue_lease())
    foreign = DOCUMENT | {"fqdn": "pos-01.example.com"}
    assert code(site.control, "handover", **asked(handoff=foreign)) == "MALFORMED"
    assert issued_rows(site) == []
    site.control("handover", **asked())  # nothing of it was spent
    assert len(issued_rows(site)) == 1


def test_each_box_has_rows_of_its_own(site: LeasedSite) -> None:
    site.deliver(1, entry(EK), entry(OTHER_EK, serial="S2"))
    site.start()
    site.sign_authorities()
    site.operator("lease_apply", lease=site.issue_lease())
    site.control("handover", **asked())
    other = {"ek_public": b64u(OTHER_EK.encode()), "box": str(UUID(int=9))}
    site.control("handover", **asked(**other, handoff=DOCUMENT | RENAMED | {"network": []}))
    assert len(issued_rows(site)) == 1
    # under a name that is taken it has its secrets, and no certificate
    assert site.control("handover", **asked(**other, reset_count=8))["withheld"] is not None
    kinds = [one["kind"] for one in site.operator("events", after=0)["events"]]
    assert kinds.count("ssh-withheld") == 1


# the command line


def run(site: KeysSite, *words: str | Path) -> Result:
    where = ["--site", site.layout.site, "--run", site.layout.run]
    return CliRunner().invoke(main, ["ssh", *map(str, (*words, *where))])


def test_what_the_operator_types(site: LeasedSite, tmp_path: Path) -> None:
    site.ready()
    known = site.operator("ssh_ca")
    shown = run(site, "ca")
    assert shown.exit_code == 0, shown.output
    assert known["public"] in shown.output
    (tmp_path / "ca.pub").write_text(known["public"] + "\n")
    command = ["ssh-keygen", "-l", "-f", str(tmp_path / "ca.pub")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert said.split()[1] == known["fingerprint"]
    assert known["fingerprint"] in shown.output
    line = run(site, "known-hosts").output
    assert line == f"@cert-authority *.shop-0417.example.net,10.41.7.* {known['public']}\n"
    site.operator("lease_apply", lease=site.issue_lease())
    site.control("handover", **asked())
    site.operator("revoke", ek_name=b64u(EK.name()))
    done = run(site, "krl", "--out", tmp_path / "krl")
    assert done.exit_code == 0, done.output
    assert "every certificate of 1 revoked boxes" in done.output
    command = ["ssh-keygen", "-Q", "-l", "-f", str(tmp_path / "krl")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    (row,) = issued_rows(site)
    assert f"id: {row.subject}" in said
    assert f"serial: {row.serial}" in said
    assert (tmp_path / "krl").stat().st_mode & 0o444 == 0o444  # for every user's client


def test_the_operator_without_a_running_site(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["ssh", "known-hosts", "--run", str(tmp_path)])
    assert done.exit_code == 2
    assert "start the appliance" in done.output
