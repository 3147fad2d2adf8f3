"""Host certificates as bytes: what may be certified, what is read; `ssh-keygen` reads it too."""

from __future__ import annotations

import base64
import fnmatch
import re
import struct
import subprocess
import tomllib
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    SSHCertificateBuilder,
    SSHCertificateType,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from keys_site import SITE_TOML

from keys import ssh_certificate
from keys.errors import PeerError
from keys.rules import SiteRules
from keys.ssh_certificate import HostNames

NOW = 1_795_000_000
WEEK = 7 * 86400
RULES = SiteRules.of(tomllib.loads(SITE_TOML))
AUTHORITY = ec.generate_private_key(ec.SECP256R1())
HOST = Ed25519PrivateKey.generate()
DOMAIN = "shop-0417.example.net"
NAMES = HostNames(
    hostname="pos-01",
    fqdn=f"pos-01.{DOMAIN}",
    addresses=(IPv4Address("10.41.7.20"), IPv6Address("fd00:41:7::20")),
)
KEY_ID = ssh_certificate.key_id("shop-0417", "ab" * 16)
SERIAL = 0xFEDC_BA98_7654_3210


def blob(kind: bytes = b"ssh-ed25519", point: bytes | None = None) -> bytes:
    """Write a public key as SSH has it on the wire."""
    point = HOST.public_key().public_bytes_raw() if point is None else point
    return struct.pack(">I", len(kind)) + kind + struct.pack(">I", len(point)) + point


def certify(**changes: Any) -> str:
    wanted: dict[str, Any] = {
        "public": blob(),
        "identity": KEY_ID,
        "names": NAMES,
        "serial": SERIAL,
        "now": NOW,
        "not_after": NOW + WEEK,
    }
    return ssh_certificate.issue(AUTHORITY, **{**wanted, **changes})


def keygen(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh-keygen", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"TZ": "UTC", "PATH": "/usr/bin:/bin"},
    )


def fingerprint(directory: Path, line: str) -> str:
    """Ask ssh-keygen for the fingerprint of a public key."""
    path = directory / "key.pub"
    path.write_text(line + "\n")
    return keygen("-l", "-f", path).stdout.split()[1]


def test_every_field_as_openssh_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "host-cert.pub"
    path.write_text(certify() + "\n")
    said = keygen("-L", "-f", path)
    assert said.returncode == 0, said.stderr
    fields = {
        name.strip(): value.strip()
        for name, _, value in (line.partition(":") for line in said.stdout.splitlines()[1:])
    }
    assert fields["Type"] == "ssh-ed25519-cert-v01@openssh.com host certificate"
    assert fields["Serial"] == str(SERIAL)
    assert fields["Key ID"] == f'"{KEY_ID}"'
    public = f"ssh-ed25519 {base64.b64encode(blob()).decode()}"
    assert fields["Public key"] == f"ED25519-CERT {fingerprint(tmp_path, public)}"
    signer = fingerprint(tmp_path, ssh_certificate.public_line(AUTHORITY.public_key()))
    assert fields["Signing CA"] == f"ECDSA {signer} (using ecdsa-sha2-nistp256)"
    assert fields["Critical Options"] == "(none)"
    assert fields["Extensions"] == "(none)"
    begin, end = re.findall(r"\d{4}-\d\d-\d\dT[\d:]+", fields["Valid"])
    assert datetime.fromisoformat(f"{begin}+00:00").timestamp() == NOW - 3600
    assert datetime.fromisoformat(f"{end}+00:00").timestamp() == NOW + WEEK
    listed = said.stdout.split("Principals:", 1)[1].split("Critical Options", 1)[0].split()
    assert listed == [f"pos-01.{DOMAIN}", "pos-01", "10.41.7.20", "fd00:41:7::20"]


def test_it_says_what_was_asked() -> None:
    found = ssh_certificate.read(certify().encode())
    line = ssh_certificate.public_line(AUTHORITY.public_key())
    assert found == ssh_certificate.HostCertificate(
        serial=SERIAL,
        key_id=KEY_ID,
        principals=NAMES.principals,
        valid_after=NOW - 3600,
        valid_before=NOW + WEEK,
        public=blob(),
        authority=base64.b64decode(line.split()[1]),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": 0},
        {"serial": 1 << 64},
        {"not_after": NOW},
        {"identity": ""},
        {"public": b""},
        {"public": blob() + b"\0"},
        {"public": blob(point=bytes(31))},
        {"public": blob(kind=b"ssh-rsa")},
        {"public": blob(kind=b"ssh-ed25518")},
    ],
)
def test_what_is_never_certified(changes: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        certify(**changes)


NAME = st.text(max_size=70) | st.text("ab1-.*?!,%[]: \n\0", max_size=12)
ADDRESSES = st.lists(st.ip_addresses(), max_size=3)


@settings(max_examples=300)
@given(NAME, NAME, ADDRESSES, st.booleans())
def test_no_names_give_a_wildcard_or_every_host(
    hostname: str, domain: str, addresses: list[Any], is_joined: bool
) -> None:
    """Clients take an empty list for every host, or `*` and `?` for any letters."""
    fqdn = f"{hostname}.{domain}" if is_joined else domain
    try:
        names = HostNames(hostname=hostname, fqdn=fqdn, addresses=tuple(addresses))
        line = certify(names=names)
    except PeerError:
        return
    found = ssh_certificate.read(line.encode()).principals
    assert len(found) >= 2
    for one in found:
        assert re.fullmatch(r"[a-z0-9:]([a-z0-9.:-]*[a-z0-9:])?", one), one


@settings(max_examples=200)
@given(NAME, NAME, ADDRESSES, st.booleans())
def test_names_of_a_site_are_in_its_domain_and_networks(
    hostname: str, domain: str, addresses: list[Any], is_ours: bool
) -> None:
    fqdn = f"{hostname}.{DOMAIN if is_ours else domain}"
    with suppress(PeerError):
        names = ssh_certificate.site_names(hostname, fqdn, addresses, RULES)
        assert names.fqdn.removesuffix(f".{DOMAIN}") == names.hostname
        fours = [one for one in names.addresses if one.version == 4]
        assert all(one in IPv4Network("10.41.7.0/24") for one in fours)


@pytest.mark.parametrize(
    ("hostname", "fqdn", "addresses"),
    [
        ("pos-01", "pos-01.evil.example.com", []),
        ("pos-01", f"pos-02.{DOMAIN}", []),
        ("pos-01", f"pos-01.sub.{DOMAIN}", []),
        ("pos-01", "pos-01", []),
        ("", f".{DOMAIN}", []),
        ("*", f"*.{DOMAIN}", []),
        ("pos-0?", f"pos-0?.{DOMAIN}", []),
        ("Pos-01", f"Pos-01.{DOMAIN}", []),
        ("pos-01\n", f"pos-01\n.{DOMAIN}", []),
        ("a" * 64, f"{'a' * 64}.{DOMAIN}", []),
        ("appliance", f"appliance.{DOMAIN}", []),
        ("localhost", f"localhost.{DOMAIN}", []),
        ("pos-01", f"pos-01.{DOMAIN}", ["10.41.7.2"]),  # the controller's own
        ("pos-01", f"pos-01.{DOMAIN}", ["10.41.8.20"]),
        ("pos-01", f"pos-01.{DOMAIN}", ["127.0.0.1"]),
        ("pos-01", f"pos-01.{DOMAIN}", ["::1"]),
        ("pos-01", f"pos-01.{DOMAIN}", ["fe80::1"]),
        ("pos-01", f"pos-01.{DOMAIN}", ["fd00::1%eth0"]),
        ("pos-01", f"pos-01.{DOMAIN}", ["0.0.0.0"]),  # noqa: S104 - no socket is bound to it
        ("pos-01", f"pos-01.{DOMAIN}", ["10.41.7.20", "10.41.7.20"]),
    ],
)
def test_whom_the_authority_never_vouches_for(
    hostname: str, fqdn: str, addresses: list[str]
) -> None:
    with pytest.raises(PeerError):
        ssh_certificate.site_names(hostname, fqdn, map(ip_address, addresses), RULES)


def test_the_names_of_a_box() -> None:
    addresses = (IPv4Address("10.41.7.20"), IPv6Address("fd00:41:7::20"))
    assert ssh_certificate.site_names("pos-01", f"pos-01.{DOMAIN}", addresses, RULES) == NAMES


@pytest.mark.parametrize(
    ("hostname", "fqdn"),
    [
        ("pos-01", "pos-01"),
        ("pos-01", "pos-02.a"),
        ("a", ".".join(["a", *["b" * 63] * 4])),
        ("localhost", "localhost.a"),
        ("a", "a..b"),
        ("a", "a.*"),
        ("a", "a.b."),
    ],
)
def test_what_is_no_name_for_whoever_asks(hostname: str, fqdn: str) -> None:
    with pytest.raises(PeerError):
        HostNames(hostname=hostname, fqdn=fqdn)


@pytest.mark.parametrize("text", ["0.0.0.0", "::", "127.0.0.2", "::1", "224.0.0.1", "ff02::1"])
def test_what_is_no_address_of_one_host(text: str) -> None:
    with pytest.raises(PeerError):
        HostNames(hostname="a", fqdn="a.b", addresses=(ip_address(text),))


@pytest.mark.parametrize("text", ["169.254.0.1", "fe80::1", "fd00::1%eth0"])
def test_an_address_of_one_link_alone(text: str) -> None:
    with pytest.raises(PeerError):
        HostNames(hostname="a", fqdn="a.b", addresses=(ip_address(text),))


def foreign(twist: Callable[[SSHCertificateBuilder], SSHCertificateBuilder]) -> bytes:
    """Make a certificate that we would not make."""
    builder = SSHCertificateBuilder().public_key(HOST.public_key()).serial(1).key_id(b"x")
    made = twist(builder.valid_after(NOW).valid_before(NOW + 60)).sign(AUTHORITY)
    return made.public_bytes()


@pytest.mark.parametrize(
    "twist",
    [
        lambda one: one.type(SSHCertificateType.USER).valid_principals([b"root"]),
        lambda one: one.type(SSHCertificateType.HOST).valid_for_all_principals(),
        lambda one: (
            one.type(SSHCertificateType.HOST)
            .valid_principals([b"a"])
            .add_critical_option(b"force-command", b"x")
        ),
        lambda one: (
            one.type(SSHCertificateType.HOST).valid_principals([b"a"]).add_extension(b"x", b"")
        ),
        lambda one: one.type(SSHCertificateType.HOST).valid_principals([b"\xff"]),
    ],
)
def test_what_is_no_host_certificate_of_ours(
    twist: Callable[[SSHCertificateBuilder], SSHCertificateBuilder],
) -> None:
    with pytest.raises(PeerError):
        ssh_certificate.read(foreign(twist))


def test_a_plain_key_is_no_certificate() -> None:
    line = b"ssh-ed25519 " + base64.b64encode(blob())
    with pytest.raises(PeerError, match="a plain SSH key is no certificate"):
        ssh_certificate.read(line)


def test_a_bit_that_fell_over() -> None:
    kind, text = certify().encode().split()
    data = base64.b64decode(text)
    for at in range(0, len(data), 7):
        broken = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        with pytest.raises(PeerError):
            ssh_certificate.read(kind + b" " + base64.b64encode(broken))


@settings(max_examples=100)
@given(
    st.binary(max_size=300)
    | st.binary(max_size=300).map(
        lambda made: b"ssh-ed25519-cert-v01@openssh.com " + base64.b64encode(made)
    )
)
def test_any_bytes_are_a_certificate_or_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        ssh_certificate.read(data)


def test_too_long_to_be_read() -> None:
    with pytest.raises(PeerError, match="too long"):
        ssh_certificate.read(b" " * (ssh_certificate.MAX_CERTIFICATE + 1))


# who is trusted


@settings(max_examples=60)
@given(st.integers(0, (1 << 32) - 1), st.integers(1, 32), st.data())
def test_patterns_match_a_network_and_nothing_else(start: int, bits: int, data: Any) -> None:
    network = IPv4Network((start, bits), strict=False)
    patterns = list(ssh_certificate.address_patterns(network))
    assert 1 <= len(patterns) <= 256
    inside = network[data.draw(st.integers(0, network.num_addresses - 1))]
    any_one = IPv4Address(data.draw(st.integers(0, (1 << 32) - 1)))
    near = IPv4Address((int(network[0]) - 1) % (1 << 32))
    for address in (inside, any_one, near):
        found = any(fnmatch.fnmatchcase(str(address), one) for one in patterns)
        assert found == (address in network), (address, network)


def test_the_line_that_clients_have() -> None:
    line = ssh_certificate.known_hosts(AUTHORITY.public_key(), RULES)
    marker, patterns, *key = line.split()
    assert marker == "@cert-authority"
    assert patterns == f"*.{DOMAIN},10.41.7.*"
    assert " ".join(key) == ssh_certificate.public_line(AUTHORITY.public_key())


# who is not any more


class Revocations:
    """A list on disk, as `ssh-keygen -Q` reads it."""

    def __init__(self, directory: Path) -> None:
        self.krl, self.host = directory / "krl", directory / "host-cert.pub"

    def write(self, **changes: Any) -> None:
        wanted: dict[str, Any] = {"serials": [], "key_ids": [], "version": 3, "now": NOW}
        made = ssh_certificate.revocations(**{**wanted, **changes})
        self.krl.write_bytes(made)

    def revokes(self, line: str) -> bool:
        self.host.write_text(line + "\n")
        said = keygen("-Q", "-f", self.krl, self.host)
        assert said.stdout.rstrip().endswith(("ok", "REVOKED")), said
        assert said.returncode == (1 if "REVOKED" in said.stdout else 0)
        return said.returncode == 1


@pytest.fixture
def revocations(tmp_path: Path) -> Revocations:
    return Revocations(tmp_path)


def test_a_list_of_nobody(revocations: Revocations) -> None:
    revocations.write()
    assert not revocations.revokes(certify())
    assert "Wildcard CA" not in keygen("-Q", "-l", "-f", revocations.krl).stdout
    header = struct.pack(">8sIQQQ4x", b"SSHKRL\n\0", 1, 3, NOW, 0)
    assert revocations.krl.read_bytes() == header + b"\0\0\0\x08doorstep"


def test_a_list_by_number(revocations: Revocations) -> None:
    revocations.write(serials=[9, SERIAL, SERIAL, 1])
    assert revocations.revokes(certify())
    assert revocations.revokes(certify(serial=9))
    assert not revocations.revokes(certify(serial=10))


def test_a_list_by_box(revocations: Revocations) -> None:
    revocations.write(key_ids=[KEY_ID, "other"], serials=[12])
    assert revocations.revokes(certify())
    assert revocations.revokes(certify(serial=77))
    assert revocations.revokes(certify(serial=12, identity="a third"))
    assert not revocations.revokes(certify(identity="a third"))
    assert not revocations.revokes(f"ssh-ed25519 {base64.b64encode(blob()).decode()}")


def test_a_list_names_what_an_authority_of_before_signed(revocations: Revocations) -> None:
    """A replaced appliance has another key; clients may know both for a week."""
    before = ec.generate_private_key(ec.SECP256R1())
    revocations.write(key_ids=[KEY_ID])
    for identity, is_listed in ((KEY_ID, True), ("another", False)):
        line = ssh_certificate.issue(
            before,
            public=blob(),
            identity=identity,
            names=NAMES,
            serial=SERIAL,
            now=NOW,
            not_after=NOW + WEEK,
        )
        assert revocations.revokes(line) is is_listed
    assert not revocations.revokes(f"ssh-ed25519 {base64.b64encode(blob()).decode()}")


def test_what_openssh_says_of_the_list_itself(revocations: Revocations) -> None:
    revocations.write(serials=[5], key_ids=[KEY_ID])
    said = keygen("-Q", "-l", "-f", revocations.krl)
    assert said.returncode == 0, said
    assert "# KRL version 3" in said.stdout
    assert "Wildcard CA" in said.stdout
    assert "serial: 5" in said.stdout
    assert f"id: {KEY_ID}" in said.stdout
