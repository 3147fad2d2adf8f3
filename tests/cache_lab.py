"""Shared by the tests of the secret cache: a controller with a software TPM, and headquarters.

The TPM can be cut from power, suspended in order, cleared; its clock runs fast or stands still only
as a real one's does. Leases are signed with a key that never comes near the controller.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.io.layout import SERVICES, Layout
from keys.io.store import Store
from keys.io.tpm import Tpm
from keys.io.tpm_ring import TpmRing
from keys.io.vault import Vault
from keys.lease import Counters, Lease, Purpose, Terms, sign
from keys.policy import pcr_digest
from keys.tpm_objects import Index

SITE = "shop-0417"
NOW = 1_795_000_000
HOUR = 3_600_000


class ControllerTpm:
    """One swtpm that stays up while connections come and go; `tcti` is for tpm2-pytss."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "tpm"
        self.state.mkdir()
        command = ["swtpm_setup", "--tpm2", "--tpmstate", str(self.state), "--overwrite"]
        subprocess.run(
            [*command, "--pcr-banks", "sha256"], check=True, capture_output=True, timeout=60
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = directory / "tpm.sock"
        self.sockets = (self._socket, Path(f"{self._socket}.ctrl"))
        self.tcti = f"swtpm:path={self._socket}"
        self.power_on()

    def power_on(self, *, starts: bool = True) -> None:
        """Start: a TPM Reset; `starts` sends the start-up command as firmware does."""
        arguments = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.state}"]
        arguments += ["--server", f"type=unixio,path={self._socket},disconnect"]
        arguments += ["--ctrl", f"type=unixio,path={self._socket}.ctrl"]
        flags = "not-need-init,startup-clear" if starts else "not-need-init"
        self._process = subprocess.Popen([*arguments, "--flags", flags], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._listens():
            if time.monotonic() > deadline:
                raise TimeoutError("swtpm did not start")
            time.sleep(0.01)

    def _listens(self) -> bool:
        """Talk to it: a connection that says nothing would still be in the way of the first."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            try:
                sock.connect(str(self._socket))
                sock.sendall(struct.pack(">HIIIII", 0x8001, 22, 0x17A, 6, 0x105, 1))
                return len(sock.recv(4096)) >= 10
            except OSError:
                return False

    def cut_power(self) -> None:
        """End at once: nothing that the TPM holds in memory alone survives."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
        for name in self.sockets:
            name.unlink(missing_ok=True)

    def power_cycle(self) -> None:
        """Cut and give power again."""
        self.cut_power()
        self.power_on()

    def suspend_and_start(self) -> None:
        """Shut down in order with its state, reset, start afresh: restartCount alone grows."""
        self.command(struct.pack(">HIIH", 0x8001, 12, 0x145, 1))  # TPM2_Shutdown(STATE)
        self.cut_power()
        self.power_on(starts=False)
        self.command(struct.pack(">HIIH", 0x8001, 12, 0x144, 0))  # TPM2_Startup(CLEAR)

    def command(self, data: bytes) -> bytes:
        """Send one command as bytes, past every library."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self._socket))
            sock.sendall(data)
            reply = sock.recv(4096)
        assert reply[6:10] == bytes(4), reply.hex()
        return reply

    def extend(self, pcr: int, value: bytes) -> None:
        """Extend a PCR, as another boot would."""
        digest = struct.pack(">IH", 1, 0x000B) + value
        auth = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
        body = struct.pack(">I", pcr) + auth + digest
        self.command(struct.pack(">HII", 0x8002, 10 + len(body), 0x182) + body)

    def close(self) -> None:
        """End it."""
        self.cut_power()


class Controller:
    """Directories, a TPM and the lease authority of headquarters."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = ec.generate_private_key(ec.SECP256R1())
        for name in ("site/trust", "state/keys", "run/keys"):
            (directory / name).mkdir(parents=True)
        self.layout = Layout(
            site=directory / "site",
            state=directory / "state",
            run=directory / "run",
            users=dict.fromkeys(SERVICES, os.getuid()),
        )
        (directory / "site/trust/lease.pub").write_bytes(
            self.authority.public_key().public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
        )
        self.tpm = ControllerTpm(directory)

    @contextmanager
    def started(self) -> Iterator[tuple[Store, TpmRing, Vault]]:
        """Start what holds the cache, as the service does; opened if there is a lease."""
        store = Store(self.layout.state / "keys/keys.db")
        try:
            ring = TpmRing(self.layout, store, self.tpm.tcti, SITE)
            try:
                yield store, ring, Vault(store, ring, SITE)
            finally:
                ring.close()
        finally:
            store.close()

    def counters(self) -> Counters:
        """Ask the TPM."""
        with Tpm(self.tpm.tcti) as tpm:
            return tpm.counters()

    def lease_counter(self) -> int:
        """Ask the TPM."""
        with Tpm(self.tpm.tcti) as tpm:
            return tpm.counter(Index.LEASE)

    def terms(self, **changes: object) -> Terms:
        """Give terms of a day and two restarts, from what the TPM says now."""
        now = self.counters()
        wanted = {
            "clock_before": now.clock + 24 * HOUR,
            "resets_at_most": now.reset_count + 2,
            "restarts_at_most": now.restart_count + 1,
            "counter": self.lease_counter() + 1,
        }
        return Terms(**{**wanted, **changes})  # type: ignore[arg-type]

    def pcr_terms(self, *indices: int, **changes: object) -> Terms:
        """Give terms for what these PCRs hold now."""
        with Tpm(self.tpm.tcti) as tpm:
            digest = pcr_digest(tpm.pcrs(indices))
        return self.terms(pcrs=frozenset(indices), pcr_digest=digest, **changes)

    def lease(self, ring: TpmRing, terms: Terms | None = None, **changes: object) -> str:
        """Sign a lease at headquarters; gives its text."""
        key = changes.pop("key", self.authority)
        wanted = {
            "site": SITE,
            "purpose": Purpose.CACHE,
            "terms": terms or self.terms(),
            "reference": ring.reference,
            "issued": NOW,
            "ends": NOW + 86400,
        }
        lease = Lease(**{**wanted, **changes})  # type: ignore[arg-type]
        return sign(lease, key, Index.LEASE.nv_name).text()  # type: ignore[arg-type]

    def close(self) -> None:
        """End the TPM."""
        with suppress(OSError):
            self.tpm.close()
