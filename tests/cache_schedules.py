"""Random schedules of what a secret cache does, with its process, its TPM or both killed in them.

`python -m tests.cache_schedules [--count 1000] [--seed N]`: each schedule puts, revokes, takes and
ends leases, restarts and puts back copies of the disk, and is killed at an SQL statement or a TPM
command; then it starts again as the keys process does. What must hold: no revoked secret opens
again, from the disk or from a copy of before; no secret that was put and not revoked is lost; what
was acknowledged stays. A schedule that fails is named by its number, which runs it alone (--only).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TSS2_LOG", "all+NONE")  # a TPM that refuses is what is wanted here
sys.path.insert(0, str(Path(__file__).parent))

from cache_lab import HOUR, NOW, SITE
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tpm_wire import Cut, Dies, When, Wire, told_by

from keys.cache import Label
from keys.errors import KeysError
from keys.io.layout import SERVICES, Layout
from keys.io.ring import ClosedError
from keys.io.store import Store
from keys.io.tpm_ring import TpmRing
from keys.io.vault import Vault
from keys.lease import Lease, Purpose, Terms, sign
from keys.rules import Tier
from keys.secret import Secret
from keys.tpm_objects import Index

NAMES = ("a", "b", "c", "d")
BOOT_NAME = "psk"
HQ = ec.derive_private_key(0x5EED, ec.SECP256R1())
"""The lease authority of all schedules; it guards nothing."""


class KillingStore(Store):
    """A store whose process ends before its n-th statement from `arm` on."""

    def arm(self, at: int | None) -> None:
        self._count = 0

        def seen(_: str) -> None:
            self._count += 1
            if self._count == at:
                os.kill(os.getpid(), signal.SIGKILL)

        self._db.set_trace_callback(seen)

    @property
    def statements(self) -> int:
        return self._count


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: put, put-boot, revoke, lease, end, restart, draw, time."""

    what: str
    name: str = ""
    value: str = ""


@dataclass(slots=True)
class Round:
    """Steps, and where they are cut: at an SQL statement or at a TPM command."""

    steps: list[Step]
    sql: int | None = None
    cut: Cut | None = None
    start_cut: Cut | None = None
    """A cut in the start after it, too."""


@dataclass(slots=True)
class Model:
    """What must be there: for each name the values it may have; None is: not there."""

    may: dict[str, set[str | None]] = field(default_factory=dict)
    boot: set[str | None] = field(default_factory=lambda: {None})
    leased: set[bool] = field(default_factory=lambda: {True})


class Case:
    """A directory with disk and TPM, made from a template."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.layout = Layout(
            site=directory / "site",
            state=directory / "state",
            run=directory / "run",
            users=dict.fromkeys(SERVICES, os.getuid()),
        )

    @property
    def database(self) -> Path:
        return self.layout.state / "keys/keys.db"

    def work(self, wire: Wire, round_: Round) -> list[dict[str, Any]]:
        """Do the steps in a process of its own; gives what it told before it ended."""
        return told_by(lambda tell: _steps(self, wire, round_, tell))

    def look(self, wire: Wire) -> dict[str, Any] | None:
        """Start as the service does, under a new lease if need be; None when it was killed."""
        told = told_by(lambda tell: _look(self, wire, tell))
        return told[-1] if told else None


@contextmanager
def started(case: Case, wire: Wire, store: Store) -> Iterator[tuple[TpmRing, Vault]]:
    """Start what holds the cache, opened if a lease lets it, as the service does."""
    ring = TpmRing(case.layout, store, wire.tcti, SITE)
    vault = Vault(store, ring, SITE)
    if store.leases():
        with suppress(ClosedError):
            ring.open()
    with suppress(ClosedError):
        vault.key_pair("answer")
        vault.settle()
    yield ring, vault


def lease(ring: TpmRing, *, resets: int = 10_000) -> str:
    """Sign a lease at headquarters that lasts longer than any schedule."""
    terms = Terms(
        clock_before=100_000 * HOUR,
        resets_at_most=resets,
        restarts_at_most=10_000,
        counter=ring.lease_counter() + 1,
    )
    one = Lease(
        site=SITE,
        purpose=Purpose.CACHE,
        terms=terms,
        reference=ring.reference,
        issued=NOW,
        ends=NOW + 86400,
    )
    return sign(one, HQ, Index.LEASE.nv_name).text()


def put(store: Store, vault: Vault, name: str, value: str, tier: Tier = Tier.SITE) -> None:
    """Store a secret as the service does."""
    with store.transaction():
        version = store.next_version(name)
        one = Label(name=name, version=version, tier=tier, set_at=NOW, expires=NOW + 10**6)
        vault.lock(Secret(value.encode()), one)


def _do(step: Step, store: Store, ring: TpmRing, vault: Vault) -> None:
    if step.what == "put":
        put(store, vault, step.name, step.value)
    elif step.what == "put-boot":
        put(store, vault, BOOT_NAME, step.value, Tier.BOOT)
    elif step.what == "revoke":
        with vault.revoking():
            store.remove_secret(step.name)
    elif step.what == "lease":
        ring.apply(lease(ring), NOW)
        vault.settle()
    elif step.what == "end":
        ring.end()
    elif step.what == "time":
        with store.transaction():
            ring.keep_time()
    else:
        vault.key_pair("answer")


def _steps(case: Case, wire: Wire, round_: Round, tell: Any) -> None:
    """Do the steps; restarts are new objects in the same process."""
    todo = list(round_.steps)
    store = KillingStore(case.database)
    store.arm(round_.sql)
    wire.arm(round_.cut)
    while True:
        with started(case, wire, store) as (ring, vault):
            while todo:
                step = todo.pop(0)
                if step.what == "restart":
                    break
                tell({"begin": step.what, "name": step.name, "value": step.value})
                try:
                    _do(step, store, ring, vault)
                except ClosedError as error:
                    tell({"refused": str(error)})
                except KeysError as error:
                    tell({"failed": str(error)})
                else:
                    tell({"done": True})
            else:
                break
            ring.close()
    tell({"ended": store.statements})


def _look(case: Case, wire: Wire, tell: Any) -> None:
    store = Store(case.database)
    with started(case, wire, store) as (ring, vault):
        was_open = ring.lease is not None
        if not was_open:
            ring.apply(lease(ring), NOW)
            vault.settle()
        ring.check()
        found: dict[str, str | None] = {}
        for name in (*NAMES, BOOT_NAME):
            row = store.secret(name)
            try:
                found[name] = None if row is None else vault.unlock(row).reveal().decode()
            except KeysError as error:
                found[name] = f"unreadable: {error}"
        form = (Encoding.X962, PublicFormat.CompressedPoint)
        ca = vault.key_pair("answer").public_key().public_bytes(*form).hex()
        assert not list(store.audit_problems())
        ring.close()
    tell({"open": was_open, "found": found, "ca": ca})


def template(directory: Path) -> None:
    """Make a site with a lease and three secrets, once for all schedules."""
    directory.mkdir()
    blank(directory)
    case, wire = Case(directory), Wire(directory)
    try:
        steps = [Step("lease"), *(Step("put", name, f"{name}-0") for name in NAMES[:3])]
        told = case.work(wire, Round([*steps, Step("put-boot", BOOT_NAME, "psk-0"), Step("draw")]))
        assert "ended" in told[-1], told
        assert sum("done" in line for line in told) == len(steps) + 2, told
    finally:
        wire.close()


def blank(directory: Path) -> None:
    """Make the directories and the authority's public key."""
    for name in ("site/trust", "state/keys", "run/keys"):
        (directory / name).mkdir(parents=True)
    form = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (directory / "site/trust/lease.pub").write_bytes(HQ.public_key().public_bytes(*form))


def steps(chance: random.Random, count: int) -> list[Step]:
    """Draw what is done."""
    kinds = ("put", "put", "put", "revoke", "revoke", "lease", "end", "restart", "draw", "time")
    drawn = []
    for number in range(count):
        what = chance.choice(kinds)
        name = chance.choice(NAMES) if what in ("put", "revoke") else ""
        if what == "put" and chance.random() < 0.1:
            what, name = "put-boot", BOOT_NAME
        drawn.append(Step(what, name, f"{name}-{chance.randrange(1 << 32):08x}-{number}"))
    return drawn


def rounds(chance: random.Random) -> list[Round]:
    """Draw one to three rounds, most of them cut."""
    drawn = []
    for _ in range(chance.randrange(1, 4)):
        one = Round(steps(chance, chance.randrange(1, 7)))
        if chance.random() < 0.45:
            one.sql = chance.randrange(1, 90)
        elif chance.random() < 0.95:
            one.cut = _cut(chance, 160)
        if chance.random() < 0.3:
            one.start_cut = _cut(chance, 60)
        drawn.append(one)
    return drawn


def _cut(chance: random.Random, most: int) -> Cut:
    return Cut(
        at=chance.randrange(1, most),
        dies=chance.choice(list(Dies)),
        when=chance.choice(list(When)),
    )


class Schedule:
    """One schedule from its number, on a copy of the template."""

    def __init__(self, made: Path, directory: Path, number: int) -> None:
        self.chance = random.Random(number)
        shutil.copytree(made, directory, ignore=shutil.ignore_patterns("*.sock*"))
        self.case = Case(directory)
        self.copy = directory / "copy"
        self.model = Model(may={name: {f"{name}-0"} for name in NAMES[:3]} | {NAMES[3]: {None}})
        self.ca: str | None = None
        self.log: list[object] = []

    def run(self) -> None:
        """Run it; AssertionError says what does not hold."""
        wire = Wire(self.case.directory, setup=False)
        try:
            self._check(wire, self._look(wire, None))
            for round_ in self.rounds():
                self._save()
                told = self.case.work(wire, round_)
                self.log += [round_.sql, round_.cut, told]
                self._follow(told)
                if round_.cut and round_.cut.dies is not Dies.PROCESS:
                    self.model.boot.add(None)
                self._check(wire, self._look(wire, round_.start_cut))
                self._put_back(wire)
        finally:
            wire.arm(None)
            wire.close()

    def rounds(self) -> list[Round]:
        """Draw what is done and cut."""
        return rounds(self.chance)

    def _look(self, wire: Wire, cut: Cut | None) -> dict[str, Any]:
        wire.arm(cut)
        found = self.case.look(wire)
        if cut is not None:
            self.log.append(("start", cut, found))
            if cut.dies is not Dies.PROCESS:
                self.model.boot.add(None)
            wire.arm(None)
            found = self.case.look(wire)
            if found is not None and "open" in found:
                self.model.leased |= {True, False}  # the cut start may have taken a lease
        wire.arm(None)
        self.log.append(found)
        assert found is not None and "found" in found, f"it does not start again: {found}"
        return found

    def _follow(self, told: list[dict[str, Any]]) -> None:
        """Take what was acknowledged into the model; what was begun may or may not be."""
        model = self.model
        for line, following in zip(told, [*told, {}][1:], strict=True):
            if "begin" not in line:
                continue
            is_done, is_refused = "done" in following, "refused" in following
            what, name = line["begin"], line["name"]
            if what in ("lease", "end"):
                wanted = {what == "lease"}
                model.leased = wanted if is_done else model.leased | wanted
                continue
            if is_refused and what != "revoke":
                continue
            if what == "put-boot":
                model.boot = {line["value"]} if is_done else model.boot | {line["value"]}
            elif what in ("put", "revoke"):
                new = line["value"] if what == "put" else None
                model.may[name] = {new} if is_done else model.may[name] | {new}

    def _check(self, wire: Wire, look: dict[str, Any]) -> None:
        found, model = look["found"], self.model
        for name in NAMES:
            value = found[name]
            assert value in model.may[name], f"{name} is {value!r}, may be {model.may[name]}"
            model.may[name] = {value}
        value = found[BOOT_NAME]
        if value is not None and value.startswith("unreadable"):
            value = None
        if self.ca is not None:
            assert value in model.boot, f"{BOOT_NAME} is {value!r}, may be {model.boot}"
            assert look["ca"] == self.ca, "the key of an authority is another"
        assert look["open"] in model.leased, f"open is {look['open']}, may be {model.leased}"
        model.boot, self.ca, model.leased = {value}, look["ca"], {True}

    def _save(self) -> None:
        """Copy the disk, as a thief or a backup does."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.case.layout.state, self.copy)
        self.before = {name: next(iter(self.model.may[name])) for name in NAMES}

    def _put_back(self, wire: Wire) -> None:
        """Put the copy back: what was revoked since then stays closed."""
        gone = [n for n in NAMES if self.before[n] and self.model.may[n] == {None}]
        if not gone:
            return
        state, kept = self.case.layout.state, self.case.directory / "kept"
        state.rename(kept)
        shutil.copytree(self.copy, state)
        found = self.case.look(wire)
        self.log.append(("copy", found))
        assert found is not None
        for name in gone if "found" in found else ():
            value = found["found"][name]
            assert value != self.before[name], f"a copy of the disk brings {name} back"
        shutil.rmtree(state)
        kept.rename(state)
        self._check_after_copy(wire)

    def _check_after_copy(self, wire: Wire) -> None:
        """The disk as it was is good again."""
        self.model.leased = {True, False}  # headquarters may have given the copy a lease
        self._check(wire, self._look(wire, None))


def set_up(directory: Path, number: int) -> None:
    """Kill the set-up of a blank TPM again and again until it is through; then put and read."""
    chance = random.Random(number)
    directory.mkdir()
    blank(directory)
    case, wire = Case(directory), Wire(directory)
    log: list[object] = []
    try:
        for _ in range(4):
            cut = _cut(chance, 110)
            sql = chance.randrange(1, 30) if chance.random() < 0.3 else None
            log.append((cut, sql, case.work(wire, Round([], sql, cut))))
        told = case.work(
            wire, Round([Step("put", "a", "a-0"), Step("lease"), Step("put", "a", "a-1")])
        )
        log.append(told)
        assert "ended" in told[-1] and "done" in told[-2], f"it is never set up: {told}"
        found = case.look(wire)
        assert found and found["found"]["a"] == "a-1", found
    except AssertionError as error:
        error.add_note("\n".join(map(str, log)))
        raise
    finally:
        wire.arm(None)
        wire.close()


def run(numbers: list[int], *, progress: bool = False) -> list[str]:
    """Run schedules by number; gives the failures in words."""
    base = Path(tempfile.mkdtemp(prefix="doorstep-schedules-", dir=_fast_place()))
    failures, began = [], time.monotonic()
    try:
        made = base / "template"
        template(made)
        for done, number in enumerate(numbers, 1):
            directory = base / f"case-{number}"
            schedule: Schedule | None = None
            try:
                if number % 10 == 9:
                    set_up(directory, number)
                else:
                    schedule = Schedule(made, directory, number)
                    schedule.run()
            except AssertionError as error:
                log = "\n  ".join(map(str, schedule.log if schedule else error.__notes__))
                failures.append(f"schedule {number}: {error}\n  {log}")
                if progress:
                    print(failures[-1], flush=True)
            shutil.rmtree(directory)
            if progress and done % 50 == 0:
                seconds = time.monotonic() - began
                print(f"{done} schedules, {len(failures)} failed, {seconds:.0f} s", flush=True)
    finally:
        shutil.rmtree(base)
    return failures


def _fast_place() -> Path | None:
    """Give a file system in memory: a kill -9 loses nothing that was written to it."""
    place = Path("/dev/shm")
    return place if os.access(place, os.W_OK) else None


def main() -> None:
    """Run many; exit code 1 when one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.cache_schedules", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first schedule")
    parser.add_argument("--only", type=int, help="run this one alone")
    chosen = parser.parse_args()
    first = chosen.seed if chosen.only is None else chosen.only
    count = chosen.count if chosen.only is None else 1
    failures = run(list(range(first, first + count)), progress=True)
    print(f"{count} schedules, {len(failures)} failed", flush=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
