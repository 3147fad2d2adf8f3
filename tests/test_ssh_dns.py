"""SSHFP as a stock SSH client takes it: our name server, with and without a validator before it.

The client believes a fingerprint only where its resolver says that it checked the signatures (AD).
A name server does not say that of its own zones (RFC 4035, 3.1.6): a validator that has the site's
trust anchor does. That is what a box has from its hand-off, and here unbound.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from ssh_lab import ADDRESS, SshLab
from test_netboot_names import Server

from bootstrap.agent import ssh
from bootstrap.box_keys import sshfp
from keys import ssh_certificate

pytestmark = pytest.mark.boots

DOMAIN = "shop-0417.example.net"
NAME = f"pos-01.{DOMAIN}"
VALIDATOR = "127.0.0.3"
SITE = f"""
[site]
id = "shop-0417"
domain = "{DOMAIN}"
[dns]
listen = "127.0.0.1"
[[record]]
name = "pos-01"
type = "A"
value = "{ADDRESS}"
[[record]]
name = "pos-01"
type = "SSHFP"
value = "{{sshfp}}"
"""
UNBOUND = f"""
server:
 interface: {VALIDATOR}
 access-control: 127.0.0.0/8 allow
 do-not-query-localhost: no
 do-daemonize: no
 use-syslog: no
 num-threads: 1
 username: ""
 chroot: ""
 pidfile: ""
 directory: "{{base}}"
 trust-anchor-file: "{{anchor}}"
remote-control:
 control-enable: no
stub-zone:
 name: "{DOMAIN}"
 stub-addr: 127.0.0.1
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshLab]:
    """A box, our name server with its fingerprint in a signed zone, and a validator before it."""
    with SshLab(tmp_path_factory.mktemp("ssh"), {}, DOMAIN) as made:
        fingerprint = sshfp(made.host_key.public)
        assert fingerprint is not None
        server = Server(made.namespace, made.base / "dns", SITE.replace("{sshfp}", fingerprint))
        server.start("--sign")
        try:
            with validator(made, server):
                yield made
        finally:
            server.stop()


@contextmanager
def validator(lab: SshLab, server: Server) -> Iterator[None]:
    """Run unbound with the site's trust anchor."""
    anchor, config = lab.base / "anchor", lab.base / "unbound.conf"
    lines = server.cli("anchor").splitlines(keepends=True)
    anchor.write_text("".join(line for line in lines if " DS " in line))
    config.write_text(UNBOUND.format(base=lab.base, anchor=anchor))
    process = subprocess.Popen(lab.inside("unbound", "-d", "-c", config), stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        question = lab.inside("dig", "+short", "+tries=1", "+time=2", f"@{VALIDATOR}", NAME)
        while ADDRESS not in subprocess.run(question, capture_output=True, text=True).stdout:
            assert process.poll() is None
            assert time.monotonic() < end
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(autouse=True)
def box(lab: SshLab) -> None:
    """Let the box have its plain host key, and clients the validator."""
    lab.serve(None)
    lab.ask_names_of(VALIDATOR)


def test_a_checked_fingerprint_lets_a_client_in(lab: SshLab) -> None:
    done = lab.connect(NAME, "", "VerifyHostKeyDNS=yes", "LogLevel=DEBUG1")
    assert done.stdout == "reached\n", done.stderr
    assert "found 1 secure fingerprints in DNS" in done.stderr
    assert "verify_host_key_dns: matched SSHFP type 4 fptype 2" in done.stderr
    # and without the option nobody is asked
    assert "Host key verification failed" in lab.connect(NAME, "").stderr


def test_another_key_is_refused(lab: SshLab) -> None:
    mine = lab.host_key
    lab.host_key = ssh.make_host_key(bytes(range(ssh.DRAWN_BYTES)))
    try:
        lab.serve(None)
        done = lab.connect(NAME, "", "VerifyHostKeyDNS=yes")
    finally:
        lab.host_key = mine
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


def test_an_answer_that_nobody_checked_is_not_believed(lab: SshLab) -> None:
    """Straight from our name server the fingerprint fits, but is not called secure."""
    lab.ask_names_of("127.0.0.1")
    done = lab.connect(NAME, "", "VerifyHostKeyDNS=yes", "LogLevel=DEBUG1")
    assert done.returncode == 255
    assert "found 1 insecure fingerprints in DNS" in done.stderr
    assert "verify_host_key_dns: matched SSHFP type 4 fptype 2" in done.stderr
    assert "Host key verification failed" in done.stderr


def test_a_short_name_is_made_whole_before_the_certificate_is_compared(lab: SshLab) -> None:
    """What docs/identities.md tells who types short names."""
    authority, now = ec.generate_private_key(ec.SECP256R1()), int(time.time())
    line = ssh_certificate.issue(
        authority,
        public=lab.host_key.public,
        identity="doorstep:shop-0417:box:1",
        names=ssh_certificate.HostNames(hostname="pos-01", fqdn=NAME),
        serial=1,
        now=now,
        not_after=now + 3600,
    )
    lab.serve(line)
    trusted = ssh_certificate.public_line(authority.public_key())
    known = f"@cert-authority *.{DOMAIN} {trusted}\n"
    options = ("CanonicalizeHostname=yes", f"CanonicalDomains={DOMAIN}")
    assert lab.connect("pos-01", known, *options).stdout == "reached\n"
    assert "Host key verification failed" in lab.connect("pos-01", known).stderr
