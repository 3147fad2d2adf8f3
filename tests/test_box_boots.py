"""A real boot of a built set by PXE and as CD: shim, GRUB and Linux, Secure Boot and a TPM."""

import hashlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from bootstrap.build import apt
from bootstrap.build.initrd import build_generic
from bootstrap.build.iso import build_iso
from bootstrap.build.measure import (
    SECONDS,
    Measured,
    measure,
    measure_iso,
    parse_console,
    write_served,
)
from bootstrap.build.parts import Parts, assemble, build_parts, committed_lock, default_cache
from bootstrap.build.tree import RUNTIME, TOOLS
from bootstrap.errors import SiteError
from bootstrap.rehearsal.box import Boot, Network, VirtualBox
from bootstrap.rehearsal.lan import Lan
from netboot.bootset import BootSetManifest, Role, anchor_cpio, grub_cfg, iso_grub_cfg
from netboot.io.bootsets import BootSetStore

pytestmark = [pytest.mark.boots, pytest.mark.timeout(900)]

SITE = IPv4Interface("10.77.0.1/24")
MAC = "52:54:00:d0:00:77"
AGENT = """\
import base64, ctypes, hashlib, os, ssl, sys

def mount(kind, target):
    ctypes.CDLL(None).mount(b"x", target.encode(), kind.encode(), 0, None)

def main():
    mount("sysfs", "/sys"), mount("devtmpfs", "/dev"), mount("proc", "/proc")
    mount("securityfs", "/sys/kernel/security")
    for name in open("/doorstep/modules").read().split():
        file = os.open("/doorstep/" + name, os.O_RDONLY)
        print("module", name, ctypes.CDLL(None).syscall(313, file, b"", 0))
    print("interfaces", *os.listdir("/sys/class/net"))
    print("anchor", open("/doorstep/anchor/site-id").read().strip())
    print("open /bin/sh", os.path.exists("/bin/sh"))
    import tpm2_pytss
    tpm = tpm2_pytss.ESAPI("device:/dev/tpm0")
    print("tpm", len(bytes(tpm.get_random(8))))
    tpm.close()
    for index in range(16):
        value = open("/sys/class/tpm/tpm0/pcr-sha256/%d" % index).read().strip().lower()
        print("DOORSTEP-PCR sha256", index, value)
    log = open("/sys/kernel/security/tpm0/binary_bios_measurements", "rb").read()
    for at in range(0, len(log), 570):
        print("DOORSTEP-LOG", base64.b64encode(log[at:at + 570]).decode())
    print("DOORSTEP-LOG-END", hashlib.sha256(log).hexdigest())
    os.sync()
    sys.stdout.flush()
    ctypes.CDLL(None).reboot(0x4321FEDC)
"""
"""Shows that everything the real agent stands on is there: the TPM stack, modules, the anchor."""


@pytest.fixture(scope="module")
def agent_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("agent")
    package = root / "bootstrap" / "agent"
    package.mkdir(parents=True)
    for path in (root / "bootstrap" / "__init__.py", package / "__init__.py"):
        path.write_text("")
    (package / "main.py").write_text(AGENT)
    return root


@pytest.fixture(scope="module")
def parts(agent_source: Path) -> Parts:
    return build_parts(committed_lock(), default_cache(), source=agent_source)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BootSetStore:
    return BootSetStore(tmp_path_factory.mktemp("bootsets"))


@pytest.fixture(scope="module")
def manifest(parts: Parts, store: BootSetStore) -> BootSetManifest:
    anchor = anchor_cpio(
        site_root_pem=b"-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n",
        site_id="box-test",
        server_name="appliance.test",
        release="test",
        rehearsal="REHEARSAL",
    )
    release = f"Debian 13, kernel {parts.kernel_version}"
    return assemble(store, parts, anchor, name="test", version=1, created=0, release=release)


@contextmanager
def boot_server(lan: Lan, root: Path) -> Iterator[None]:
    """Another maker's DHCP and TFTP server, so that a fault of ours cannot hide here."""
    command = ["dnsmasq", "-k", "-C", "/dev/null", "-p0", "-u", "root", "--leasefile-ro"]
    command += ["-i", lan.appliance_interface, "--dhcp-range=10.77.0.50,10.77.0.90"]
    command += ["--enable-tftp", f"--tftp-root={root}", "--dhcp-boot=shimx64.efi"]
    with (root.parent / "server.log").open("wb") as log:
        server = subprocess.Popen(lan.appliance_command(command), stdout=log, stderr=log)
        try:
            yield
        finally:
            server.terminate()
            server.wait()


def check_measured(
    measured: Measured, manifest: BootSetManifest, store: BootSetStore, config: bytes
) -> None:
    """The initrds, alone and together, and grub.cfg are events; no PCR that we use is empty."""
    files = [manifest.roles[role].sha256 for role in (Role.GENERIC, Role.ANCHOR)]
    together = b"".join(store.file(sha256).read_bytes() for sha256 in files)
    assert hashlib.sha256(together).digest() in measured.log
    for role in (Role.GENERIC, Role.ANCHOR):
        assert manifest.roles[role].sha256 in measured.log
    assert hashlib.sha256(config).digest() in measured.log
    values = measured.pcrs["sha256"]
    assert len(values) == 16
    assert all(values[index] not in (bytes(32), b"\xff" * 32) for index in (0, 4, 5, 7, 8, 9))
    assert values[15] == bytes(32)


def test_two_builds_give_the_same_bytes(parts: Parts, agent_source: Path) -> None:
    lock = committed_lock()
    kernel = next(p.name for p in lock.packages if p.name.startswith("linux-image-"))
    packages = apt.fetch(lock, [*RUNTIME, *TOOLS, kernel], default_cache(), {})
    again = build_generic(packages, kernel, agent_source)
    assert again == parts.files[Role.GENERIC]
    assert len(again) < 16 << 20


def test_pxe_under_secure_boot_and_again_after_a_power_cut(
    manifest: BootSetManifest, store: BootSetStore, tmp_path: Path
) -> None:
    root = tmp_path / "served"
    write_served(manifest, store, root, SITE)
    with (
        Lan(SITE) as lan,
        boot_server(lan, root),
        VirtualBox(tmp_path / "box", mac=MAC) as box,
    ):
        network = Network(namespace=lan.box_namespace, tap=lan.add_tap())
        box.start(Boot.PXE, network=network)
        console = box.wait_off(SECONDS)
        first = parse_console(console)
        check_measured(first, manifest, store, grub_cfg(manifest, SITE.ip))
        lines = [line.strip() for line in console.splitlines()]
        assert b"anchor box-test" in lines
        assert b"open /bin/sh False" in lines
        assert b"tpm 8" in lines
        assert any(line.startswith(b"interfaces") and b"eth0" in line for line in lines)
        assert any(event.name == "SHUTDOWN" for event in box.events)

        box.start(Boot.PXE, network=network)
        box.wait_for(b"BdsDxe: starting", SECONDS)
        box.stop()
        assert not box.alive

        box.start(Boot.PXE, network=network)
        second = parse_console(box.wait_off(SECONDS))
        assert second.pcrs["sha256"] == first.pcrs["sha256"]
        namespaces = (lan.box_namespace, lan.appliance_namespace)
    assert not any((Path("/run/netns") / name).exists() for name in namespaces)


def test_the_iso_boots_as_a_cd_without_a_network(
    manifest: BootSetManifest, store: BootSetStore, tmp_path: Path
) -> None:
    measured = measure_iso(manifest, store, tmp_path)
    check_measured(measured, manifest, store, iso_grub_cfg(manifest))
    again = tmp_path / "again.iso"
    build_iso(manifest, store, again)
    assert again.read_bytes() == (tmp_path / "boot.iso").read_bytes()


def test_the_boot_log_is_there_with_secure_boot_off(
    manifest: BootSetManifest, store: BootSetStore, tmp_path: Path
) -> None:
    measured = measure(manifest, store, tmp_path, boot_server, secure_boot=False)
    check_measured(measured, manifest, store, grub_cfg(manifest, SITE.ip))


def test_the_tpms_certificates_come_from_a_ca_of_its_own(tmp_path: Path) -> None:
    with VirtualBox(tmp_path / "box", mac=MAC, banks=("sha256", "sha384")) as box:
        root, issuer = (
            x509.load_pem_x509_certificate(path.read_bytes()) for path in box.ca_certificates
        )
        issuer.verify_directly_issued_by(root)
        certificates = [
            x509.load_der_x509_certificate(path.read_bytes()) for path in box.ek_certificates
        ]
        assert certificates
        for certificate in certificates:
            certificate.verify_directly_issued_by(issuer)
        assert any(isinstance(c.public_key(), rsa.RSAPublicKey) for c in certificates)
        assert issuer.extensions and str(tmp_path) in str(box.tpm_ca.issuer)


KILLED = """\
import sys
from pathlib import Path
from bootstrap.rehearsal.box import Boot, VirtualBox
box = VirtualBox(Path(sys.argv[1]), mac="52:54:00:d0:00:78")
box.create()
box.start(Boot.PXE)
tasks = Path("/proc/self/task").iterdir()
print(*((task / "children").read_text() for task in tasks), flush=True)
sys.stdin.read()
"""


def test_a_killed_rehearsal_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "box")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as rehearsal:
        assert rehearsal.stdout is not None
        handles = [os.pidfd_open(int(pid)) for pid in rehearsal.stdout.readline().split()]
        assert len(handles) == 2
        rehearsal.kill()
    for handle in handles:
        ended, _, _ = select.select([handle], [], [], 20)
        os.close(handle)
        assert ended, "QEMU or swtpm outlived the rehearsal"


def test_a_box_that_cannot_start_says_so_at_once(tmp_path: Path) -> None:
    with (
        VirtualBox(tmp_path / "box", mac=MAC) as box,
        pytest.raises(SiteError, match="QEMU ended at once.*no-such.iso"),
    ):
        box.start(Boot.ISO, iso=tmp_path / "no-such.iso")
