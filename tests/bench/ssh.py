"""SSH host certificates: what one costs, whole and stored, beside what the TPM takes to sign.

The TPM's share is the seconds between its commands and their answers, on the wire of the same
software TPM, in a run of its own. A real chip takes about a hundred times as long for a signature,
so the share is what will count there. The other peer signs with a key in a file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from test_lease_service import LeasedSite
from test_ssh_authority import Desk, opened
from tpm_wire import Wire

from keys.io.ssh_authority import KEY
from keys.io.tpm_ring import TpmRing
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

TIMES = 100
WHOLE = "an SSH certificate, signed and on the disk"


def measure(lab: Lab) -> list[Figure]:
    """Take all figures."""
    site = LeasedSite()
    place = Path(tempfile.mkdtemp(dir=lab.work))
    wire = Wire(place, tpm=site.tpm)
    try:
        site.ready()
        site.operator("lease_apply", lease=site.issue_lease())
        site.stop()
        whole, alone = _timed(lab, site)
        text = (site.layout.site / "site.toml").read_text()
        site.write("site.toml", text.replace(site.tpm.tcti, wire.tcti))
        share = _share(lab, site, wire)
    finally:
        wire.close()
        site.close()
    file = _laps(lab, _signs_with_a_file(place), 20)
    return [
        _figure(WHOLE, whole, share, "the TPM's own share"),
        _figure(WHOLE, whole, alone, "a signature of that key alone"),
        _figure(WHOLE, whole, file, "ssh-keygen -s, a key in a file"),
    ]


def _timed(lab: Lab, site: LeasedSite) -> tuple[tuple[float, ...], tuple[float, ...]]:
    with opened(site) as desk:
        _unlock(desk)
        key = desk.vault.signing_key(KEY)
        algorithm = ec.ECDSA(hashes.SHA256())
        alone = _laps(lab, lambda: key.sign(b"a certificate", algorithm), TIMES)
        return _laps(lab, lambda: _certify(desk), TIMES), alone


def _share(lab: Lab, site: LeasedSite, wire: Wire) -> tuple[float, ...]:
    """Give the milliseconds of each certificate that the TPM took."""
    taken = []
    with opened(site) as desk:
        _unlock(desk)
        _certify(desk)
        for _ in range(lab.runs):
            wire.arm(None)
            for _ in range(TIMES):
                _certify(desk)
            taken.append(1000 * wire.seconds() / TIMES)
    return tuple(taken)


def _unlock(desk: Desk) -> None:
    assert isinstance(desk.ring, TpmRing)
    desk.ring.open()


def _certify(desk: Desk) -> None:
    if desk.certify() is None:
        raise BenchError("the authority gives no certificate")


def _signs_with_a_file(place: Path) -> Callable[[], object]:
    for name, kind in (("ca", "ecdsa"), ("host", "ed25519")):
        _run("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", place / name)
    words = ("-s", place / "ca", "-I", "box", "-h", "-n", "pos-01", "-V", "-1h:+7d")
    return lambda: _run("ssh-keygen", "-q", *words, place / "host.pub")


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise BenchError(f"{command[0]} fails: {done.stderr[:200]}")


def _laps(lab: Lab, work: Callable[[], object], times: int) -> tuple[float, ...]:
    """Give milliseconds of real time for each, once for each run, after one that does not count."""
    work()
    taken = []
    for _ in range(lab.runs):
        began = time.perf_counter()
        for _ in range(times):
            work()
        taken.append(1000 * (time.perf_counter() - began) / times)
    return tuple(taken)


def _figure(name: str, ours: tuple[float, ...], peer: tuple[float, ...], peer_name: str) -> Figure:
    per_second = f" ({1000 / median(ours):.4g}/s)"
    return Figure(
        name=f"ssh: {name}{per_second}", unit="ms", ours=ours, peer=peer, peer_name=peer_name
    )
