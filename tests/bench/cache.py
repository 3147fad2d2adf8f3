"""The secret cache: what a secret, a revocation, a check, a start and a megabyte cost.

Each figure of ours has the TPM's own share beside it: the seconds between a command and its answer,
taken on the wire of the same software TPM in a run of its own. Where another program does the same
work it is the peer: `systemd-creds decrypt` and `tpm2_unseal` on a software TPM of the same make,
and `age`. Those are programs that start for each secret, as they are used; ours is a process that
runs. A real chip takes about a hundred times as long for its commands.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from cache_lab import NOW, SITE, Controller, ControllerTpm
from keys_site import SITE_TOML, request
from test_lease_service import TIERS, LeasedSite
from tpm_wire import Wire, let_go

from keys.cache import Label
from keys.envelope import b64u
from keys.io.rpc import RpcUnavailableError
from keys.io.service import Service
from keys.io.store import Store
from keys.io.tpm import Tpm
from keys.io.tpm_made import Made
from keys.io.tpm_ring import TpmRing
from keys.io.vault import Vault
from keys.rules import Tier
from keys.secret import Secret
from tests.bench import verify_peers
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

VALUE = b"not-a-real-value-of-32-bytes----"
SHARE = "the TPM's own share"
PER_ROLE = 10
"""Secrets in a hand-over."""
MANY = 300
"""Secrets of a site whose status is asked."""

Work = Callable[[], object]


def measure(lab: Lab) -> list[Figure]:
    """Take all figures."""
    lab.work.mkdir(parents=True, exist_ok=True)
    figures = _ring_figures(lab) + _service_figures(lab)
    lab.say("           systemd-creds, tpm2-tools and age, each with a secret of its own")
    return figures + _peer_figures(lab)


# store, ring and vault


class Cache:
    """A cache with so many secrets under a lease, on one TPM."""

    def __init__(self, place: Path, count: int) -> None:
        place.mkdir()
        self._controller = Controller(place)
        self.record = place / "wire.bin"
        self.wire = Wire(place, tpm=self._controller.tpm)
        self._open(self._controller.tpm.tcti)
        self.ring.apply(self._controller.lease(self.ring), NOW)
        with self.store.transaction():
            for number in range(count):
                self.put(f"secret-{number}")

    def _open(self, tcti: str) -> None:
        self.store = Store(self._controller.layout.state / "keys/keys.db")
        self.ring = TpmRing(self._controller.layout, self.store, tcti, SITE)
        self.vault = Vault(self.store, self.ring, SITE)
        self._made = Made.read(self.store.meta("tpm") or b"")
        self._tpm = Tpm(tcti, storage_name=self._made.storage_name)

    def put(self, name: str) -> None:
        """Store a secret, in a transaction."""
        label = Label(name=name, version=1, tier=Tier.SITE, set_at=NOW, expires=NOW + 86400)
        self.vault.lock(Secret(VALUE), label)

    def listen(self) -> None:
        """Go on over the wire that is timed."""
        self._tpm.close()
        self.ring.close()
        self.store.close()
        self._open(self.wire.tcti)
        self.ring.open()

    def read(self) -> None:
        """Read and open the first secret."""
        row = self.store.secret("secret-0")
        if row is None or self.vault.unlock(row).reveal() != VALUE:
            raise BenchError("the cache does not give what was put")

    def revoke(self) -> None:
        """Revoke one that is not there: all the others are wrapped again."""
        with self.vault.revoking():
            self.store.remove_secret("gone")

    def check(self) -> None:
        """Ask the TPM whether the lease runs, as before each hand-over."""
        self.ring.check()

    def open(self) -> None:
        """Open the cache anew."""
        self.ring.open()

    def unseal(self) -> None:
        """Unseal one share with a policy of its own, in a salted session."""
        self._tpm.unseal(self._made.device, self._tpm.anytime)

    def close(self) -> None:
        """End both."""
        self._tpm.close()
        self.ring.close()
        self.store.close()
        self.wire.close()
        self._controller.close()


def _ring_figures(lab: Lab) -> list[Figure]:
    figures = []
    for count in (10, 1000):
        cache = Cache(lab.work / f"cache-{count}", count)
        try:
            works: dict[str, tuple[Work, int]] = {
                f"revoke, {count} secrets": (cache.revoke, 10),
            }
            if count == 10:
                works |= {
                    "lease check before a hand-over": (cache.check, 200),
                    "open the cache under its lease": (cache.open, 30),
                }
                works["unseal a share alone"] = (cache.unseal, 30)
            direct = {name: _laps(lab, work, times) for name, (work, times) in works.items()}
            cache.listen()
            for name, (work, times) in works.items():
                figures.append(_figure(name, direct[name], _shares(lab, cache.wire, work, times)))
        finally:
            cache.close()
    return figures


# the service


class Serving(LeasedSite):
    """The service in this process; its clock leaves room for as many hand-overs as are wanted."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        super().__init__()
        self.wire = Wire(place, tpm=self.tpm)
        self.wall, self._boots = time.time(), 0
        self.service: Service | None = None
        self.names = [f"secret-{number}" for number in range(PER_ROLE)]
        self.use(self.tpm.tcti)

    def use(self, tcti: str, names: int = PER_ROLE) -> None:
        """Write the site file: the TPM, and how many secrets the role has."""
        tables = "".join(
            f'[[secret]]\nname = "{name}"\ntier = "site"\nttl = "9d"\n' for name in self.names
        )
        listed = ", ".join(f'"{name}"' for name in self.names[:names])
        text = SITE_TOML.partition("[[secret]]")[0]
        text = text.replace('"pos-api-token", "wifi-psk"', listed)
        table = f'[controller]\ntpm = "{tcti}"\nroot = "verity"\n'
        self.write("site.toml", text.replace(TIERS, table) + tables)

    def start(self, user: str = "keys") -> Serving:
        """Start in this process."""
        self.kill()
        self.service = Service(self.layout, wall=lambda: self.wall)
        return self

    def kill(self) -> None:
        """Close it."""
        if self.service is not None:
            self.service.close()
        self.service = None

    def open_socket(self) -> None:
        """Leave the TPM to this process."""

    def operator(self, method: str, **params: object):  # type: ignore[no-untyped-def]
        """Call as the operator does."""
        assert self.service is not None
        return self.service.methods()[method].handler("operator", params)

    def hand_over(self) -> None:
        """Hand over to a box that booted again."""
        assert self.service is not None
        self.wall += 2
        self._boots += 1
        asked = request(reset_count=self._boots)
        reply = self.service.methods()["handover"].handler("control", asked)
        if reply["withheld"]:
            raise BenchError(f"a secret was withheld: {reply['withheld']}")

    def restart(self) -> None:
        """Start again, and hand over."""
        self.start()
        self.hand_over()

    def close(self) -> None:
        """End all."""
        self.wire.close()
        super().close()


def _service_figures(lab: Lab) -> list[Figure]:
    site = Serving(lab.work / "service")
    figures = []
    try:
        site.ready()
        site.operator("lease_apply", lease=site.issue_lease())
        for name in site.names:
            site.operator("secret_put", name=name, value=b64u(VALUE))
        direct = {}
        for names in (0, PER_ROLE):
            site.use(site.tpm.tcti, names)
            site.start()
            direct[names] = _laps(lab, site.hand_over, 30)
        starts = _laps(lab, site.restart, 3)
        shares = {}
        for names in (0, PER_ROLE):
            site.use(site.wire.tcti, names)
            site.start()
            shares[names] = _shares(lab, site.wire, site.hand_over, 30)
        title = "whole hand-over of {} secrets, tier site"
        figures = [_figure(title.format(n), direct[n], shares[n]) for n in (0, PER_ROLE)]
        start_share = _shares(lab, site.wire, site.restart, 3)
        figures.append(_figure("start to the first hand-over", starts, start_share))
    finally:
        site.close()
    return [*figures, _status_figure(lab), _memory(lab)]


def _status_figure(lab: Lab) -> Figure:
    """What control asks once a second; no value is decrypted for it."""
    site = Serving(lab.work / "status")
    try:
        site.names = [f"secret-{number}" for number in range(MANY)]
        site.use(site.tpm.tcti)
        site.ready()
        site.operator("lease_apply", lease=site.issue_lease())
        for name in site.names:
            site.operator("secret_put", name=name, value=b64u(VALUE))
        ours = _laps(lab, lambda: site.operator("status"), 10)
        site.use(site.wire.tcti)
        site.start()
        share = _shares(lab, site.wire, lambda: site.operator("status"), 10)
    finally:
        site.close()
    return _figure(f"status of keys with {MANY} secrets", ours, share)


def _memory(lab: Lab) -> Figure:
    """Private memory of the keys process beside Python with its libraries and nothing to do."""
    site = LeasedSite()
    libraries = "import tpm2_pytss, sqlite3, cryptography.hazmat.primitives.asymmetric.ec, time"
    try:
        site.ready()
        site.operator("lease_apply", lease=site.issue_lease())
        site.stop()
        bare = _as_keys(site, [sys.executable, "-c", f"{libraries}; time.sleep(600)"])
        ours = _as_keys(site, [Path(sys.executable).parent / "doorstep", *_arguments(site)])
        _wait(lambda: site.operator("lease_show")["closed"] is None)
        _wait(lambda: b"cryptography" in Path(f"/proc/{bare.pid}/maps").read_bytes())
        sizes = [_private(one.pid) for one in (ours, bare)]
        for one in (ours, bare):
            one.kill()
            one.wait()
    finally:
        site.close()
    return Figure(
        name="memory of its own of the keys process",
        unit="MB",
        ours=(sizes[0],),
        peer=(sizes[1],),
        peer_name="Python with the same libraries, idle",
    )


def _arguments(site: LeasedSite) -> list[str | Path]:
    users = ",".join(f"{name}={uid}" for name, uid in site.layout.users.items())
    places = ("--site", site.layout.site, "--state", site.layout.state, "--run", site.layout.run)
    return ["service", "keys", *places, "--users", users]


def _as_keys(site: LeasedSite, command: list[str | Path]) -> subprocess.Popen[bytes]:
    uid = str(site.layout.users["keys"])
    return subprocess.Popen(["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", *command])


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while True:
        with suppress(RpcUnavailableError, OSError):
            if is_so():
                return
        if time.monotonic() > deadline:
            raise BenchError("the keys process did not start")
        time.sleep(0.05)


def _private(pid: int) -> float:
    """Give the private memory of a process in MB (proc(5), smaps_rollup)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    pages = re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB$", text, re.M)
    return sum(map(int, pages)) / 1000


# other programs


def _peer_figures(lab: Lab) -> list[Figure]:
    place = lab.work / "peers"
    place.mkdir()
    cache, tpm = Cache(lab.work / "cache-read", 10), ControllerTpm(place)
    try:
        ours, clear = _laps(lab, cache.read, 300), partial(let_go, tpm)
        peers = {
            f"systemd-creds decrypt {_version('systemd-creds')}": _systemd(place, tpm.tcti),
            "tpm2_unseal of a loaded object": _tpm2_tools(place, tpm.tcti),
            "age, a key in a file": _age(place),
        }
        return [
            _figure("a secret from the open cache", ours, _laps(lab, work, 10, clear), name)
            for name, work in peers.items()
        ]
    finally:
        tpm.close()
        cache.close()


def _systemd(place: Path, tcti: str) -> Work:
    sealed = place / "credential"
    device = f"--tpm2-device={tcti}"
    seal = ["systemd-creds", "encrypt", "--with-key=tpm2", device, "--name=x", "-", sealed]
    _run(seal, VALUE)
    return lambda: _gives(["systemd-creds", "decrypt", device, "--name=x", sealed, "-"])


def _tpm2_tools(place: Path, tcti: str) -> Work:
    tools = verify_peers.Tools(verify_peers.peers() / "tpm2-tools")
    environment = {**tools.environment, "TPM2TOOLS_TCTI": tcti}
    primary, public, private, loaded = (place / name for name in ("prim", "pub", "priv", "loaded"))
    attributes = "fixedtpm|fixedparent|noda|userwithauth"
    for command in (
        ["tpm2_createprimary", "-c", primary, "-G", "ecc"],
        ["tpm2_create", "-C", primary, "-i-", "-u", public, "-r", private, "-a", attributes],
        ["tpm2_flushcontext", "-t"],
        ["tpm2_load", "-C", primary, "-u", public, "-r", private, "-c", loaded],
        ["tpm2_flushcontext", "-t"],
    ):
        _run(command, VALUE, environment)
    return lambda: _gives(["tpm2_unseal", "-c", loaded], environment)


def _age(place: Path) -> Work:
    root = verify_peers.peers() / "age"
    if not (root / "usr/bin/age").exists():
        (root / "packages").mkdir(parents=True, exist_ok=True)
        fetch = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "age"]
        subprocess.run(fetch, cwd=root / "packages", check=True, capture_output=True)
        for package in (root / "packages").glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    environment = {**os.environ, "PATH": f"{root}/usr/bin:{os.environ['PATH']}"}
    key, sealed = place / "age.key", place / "age.sealed"
    _run(["age-keygen", "-o", key], b"", environment)
    recipient = _run(["age-keygen", "-y", key], b"", environment).decode().strip()
    _run(["age", "-r", recipient, "-o", sealed], VALUE, environment)
    return lambda: _gives(["age", "-d", "-i", key, sealed], environment)


def _version(program: str) -> str:
    return _run([program, "--version"], b"").decode().split()[1]


def _gives(command: list[str | Path], environment: dict[str, str] | None = None) -> None:
    if _run(command, b"", environment) != VALUE:
        raise BenchError(f"{command[0]} does not give what was put")


def _run(
    command: list[str | Path], given: bytes, environment: dict[str, str] | None = None
) -> bytes:
    done = subprocess.run(command, input=given, env=environment, capture_output=True, timeout=60)
    if done.returncode:
        raise BenchError(f"{command[0]} fails: {done.stderr.decode(errors='replace')[:200]}")
    return done.stdout


# laps


def _laps(lab: Lab, work: Work, times: int, clear: Work = lambda: None) -> tuple[float, ...]:
    """Give milliseconds of real time for each, once for each run, after one that does not count.

    `clear` follows each and is not timed: what a program leaves in a TPM that nobody manages.
    """
    work()
    clear()
    taken = []
    for _ in range(lab.runs):
        spent = 0.0
        for _ in range(times):
            began = time.perf_counter()
            work()
            spent += time.perf_counter() - began
            clear()
        taken.append(1000 * spent / times)
    return tuple(taken)


def _shares(lab: Lab, wire: Wire, work: Work, times: int) -> tuple[float, ...]:
    """Give the milliseconds of each that the TPM took."""
    work()
    taken = []
    for _ in range(lab.runs):
        wire.arm(None)
        for _ in range(times):
            work()
        taken.append(1000 * wire.seconds() / times)
    return tuple(taken)


def _figure(
    name: str, ours: tuple[float, ...], peer: tuple[float, ...], peer_name: str = SHARE
) -> Figure:
    per_second = f" ({1000 / median(ours):.4g}/s)"
    return Figure(
        name=f"cache: {name}{per_second}", unit="ms", ours=ours, peer=peer, peer_name=peer_name
    )
