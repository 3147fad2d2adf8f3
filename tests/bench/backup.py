"""Backup and restore of 10,000 secrets, with the whole of an appliance's state.

The peer does what an administrator would: `sqlite3 .backup` of each database, tar, age; back again
with age, tar and a rename. It has no secrets to open and close (its database is as large), no
signature, no check and no TPM; ours has keys decrypt each secret under the lease, encrypt it for
headquarters, sign all of it, and headquarters open it again for another appliance. Nobody else asks
keys meanwhile.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from backup_lab import Appliance, Machine

from bootstrap.io import offsite, restore
from bootstrap.io.backup import make
from bootstrap.io.lease_desk import LeaseDesk
from keys.envelope import b64u
from keys.io import age
from keys.io.rpc import call
from keys.parcel import Item
from keys.secret import Secret
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

COUNT = 10_000
PEER = "sqlite3 .backup, tar, age"
SECONDS = 300.0


def measure(lab: Lab) -> list[Figure]:
    """Take all figures."""
    lab.work.mkdir(parents=True, exist_ok=True)
    site = Appliance(Path(tempfile.mkdtemp(dir=lab.work, prefix="backup-")))
    try:
        lab.say(f"           an appliance with {COUNT} secrets under a lease, one swtpm")
        _fill(site)
        # Control asks keys for the state of all secrets each second: that is another figure.
        for name in ("control", "netboot"):
            site.processes[name].kill()
        return _figures(lab, site)
    finally:
        site.close()


def _fill(site: Appliance) -> None:
    """Let it take all secrets by seeds: the site file names each of them."""
    tables = "".join(
        f'\n[[secret]]\nname = "bench-{number:05}"\ntier = "site"\nttl = "90d"\n'
        for number in range(COUNT)
    )
    site.add_settings(tables)
    site.deliver()
    site.ready()
    recipient = site.operator("keys", "seed_recipient")["recipient"]
    items = [
        Item(name=f"bench-{number:05}", value=Secret(os.urandom(64))) for number in range(COUNT)
    ]
    out = site.directory / "seed.age"
    for path in offsite.pack(site.hq.site, items, recipient, 1, out):
        signature = path.with_name(f"{path.name}.minisig").read_bytes()
        params = {"file": b64u(path.read_bytes()), "sig": b64u(signature)}
        call(site.layout.socket("keys"), "seed_take", params, SECONDS)


def _figures(lab: Lab, site: Appliance) -> list[Figure]:
    backups, reseals, restores, peers, peers_back = [], [], [], [], []
    identity = offsite.open_identity(site.hq.identity, Secret(site.hq.phrase.read_bytes()))
    for run in range(lab.runs):
        out = site.directory / f"backup-{run}"
        backups.append(_timed(partial(_back_up, site, out)))
        peers.append(_timed(partial(_peer, site, run)))
        machine = Machine()
        try:
            reseals.append(_timed(partial(_open, site, out, identity, machine)))
            restores.append(_timed(partial(_restore, site, machine)))
        finally:
            machine.close()
        (site.directory / "key").write_bytes(identity.reveal() + b"\n")
        peers_back.append(_timed(partial(_peer_back, site, run)))
    lab.say(f"           one backup has {out.stat().st_size >> 10} KiB")
    return [
        _figure(f"backup of an appliance with {COUNT} secrets", backups, peers),
        _figure(f"headquarters opens {COUNT} secrets for another TPM", reseals, peers_back),
        _figure("restore of the rest on another machine", restores, peers_back),
        _figure(
            f"backup and restore of {COUNT} secrets, all steps",
            [sum(one) for one in zip(backups, reseals, restores, strict=True)],
            [sum(one) for one in zip(peers, peers_back, strict=True)],
        ),
    ]


def _back_up(site: Appliance, out: Path) -> None:
    def ask(method: str, params: object) -> object:
        return call(site.layout.socket("keys"), method, params, SECONDS)  # type: ignore[arg-type]

    made = make(site.layout, ask, out)
    if made.header.secrets < COUNT:
        raise BenchError(f"the backup has {made.header.secrets} secrets, not {COUNT}")


def _open(site: Appliance, path: Path, identity: Secret, machine: Machine) -> None:
    """Open for a machine: the rest to its transport key, the secrets to its seed key."""
    opened = offsite.open_backup(path, site.hq.site, LeaseDesk(site.hq.authority))
    recipient = restore.ask_recipient(machine.layout.state)
    resealed = machine.base / "resealed"
    offsite.reseal(opened, identity, recipient, site.hq.site, resealed, None)
    items = offsite.secrets_of(opened, identity)
    if len(items) < COUNT:
        raise BenchError(f"{len(items)} secrets came out, not {COUNT}")
    new = age.public_half(age.draw())
    offsite.pack(site.hq.site, items, new, int(time.time()), machine.base / "seed.age")


def _restore(site: Appliance, machine: Machine) -> None:
    key = (site.hq.site / "trust/root.pub").read_bytes()
    done = restore.restore(machine.layout, machine.base / "resealed", key)
    if done.keys != "other":
        raise BenchError(f"restored as {done.keys}")


def _peer(site: Appliance, run: int) -> None:
    place = site.directory / f"peer-{run}"
    place.mkdir()
    for name in ("keys", "site"):
        held = site.layout.state / name / f"{name}.db"
        _run("sqlite3", str(held), f".backup {place / name}.db")
    shutil.copytree(site.layout.site, place / "etc")
    shutil.copytree(site.layout.state / "plan", place / "plan")
    _run("tar", "cf", str(place / "all.tar"), "-C", str(place), "keys.db", "site.db", "etc", "plan")
    recipient = (site.layout.site / "trust/backup.txt").read_text().strip()
    _run("age", "-r", recipient, "-o", str(place / "all.age"), str(place / "all.tar"))
    _run("sync", str(place / "all.age"))


def _peer_back(site: Appliance, run: int) -> None:
    place = site.directory / f"peer-{run}"
    key = site.directory / "key"
    back = place / "back"
    back.mkdir()
    _run("age", "-d", "-i", str(key), "-o", str(place / "back.tar"), str(place / "all.age"))
    _run("tar", "xf", str(place / "back.tar"), "-C", str(back))
    _run("sync", "-f", str(back))


def _run(*command: str) -> None:
    if shutil.which(command[0]) is None:
        raise BenchError(f"{command[0]} is missing: apt-get install sqlite3 age")
    subprocess.run(command, check=True, capture_output=True, timeout=300)


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _figure(name: str, ours: list[float], peer: list[float]) -> Figure:
    return Figure(name=name, unit="s", ours=tuple(ours), peer=tuple(peer), peer_name=PEER)
