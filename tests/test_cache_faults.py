"""The cache with its process, its TPM or both killed: at every step of each effect, and at random.

The schedules and what must hold after them are in `cache_schedules`; 1,000 of them run by
`python -m tests.cache_schedules`. Here each step of each effect is cut once, in the way in which
most can go wrong, and some schedules of every kind run too.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cache_lab import NOW
from cache_schedules import Case, Round, Schedule, Step, lease, put, run, set_up, template
from tpm_wire import Cut, Dies, When, Wire

from keys.errors import PeerError, SiteError
from keys.io.ring import ClosedError
from keys.io.store import Store
from keys.io.tpm import Tpm
from keys.io.tpm_link import TpmRefusedError
from keys.io.tpm_ring import TpmRing
from keys.io.vault import Vault
from keys.lease import SignedLease

EFFECTS = {
    "put": Step("put", "a", "a-new"),
    "revoke": Step("revoke", "a"),
    "lease": Step("lease"),
    "end": Step("end"),
}
"""What is cut; a is there before."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made") / "template"
    template(place)
    return place


def _length(made: Path, place: Path, steps: list[Step]) -> tuple[int, int]:
    """Count the TPM commands and SQL statements of start and steps, when nothing is cut."""
    shutil.copytree(made, place, ignore=shutil.ignore_patterns("*.sock*"))
    wire = Wire(place, setup=False)
    try:
        told = Case(place).work(wire, Round(steps, 1 << 30))
        return wire.commands(), told[-1]["ended"]
    finally:
        wire.close()


class One(Schedule):
    """A schedule of one round that the test gives."""

    def __init__(self, made: Path, directory: Path, one: Round) -> None:
        super().__init__(made, directory, 0)
        self._one = one

    def rounds(self) -> list[Round]:
        return [self._one]


def _cut(made: Path, place: Path, one: Round) -> None:
    schedule = One(made, place, one)
    try:
        schedule.run()
    except AssertionError as error:
        error.add_note("\n".join(map(str, schedule.log)))
        raise
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_cut_at_any_tpm_command_is_done_or_not_begun(
    made: Path, tmp_path: Path, effect: str
) -> None:
    """Threat 19: before and after each command, with the power and with the TPM alone."""
    step = EFFECTS[effect]
    before, _ = _length(made, tmp_path / "start", [])
    after, _ = _length(made, tmp_path / "whole", [step])
    assert after >= before
    chance = random.Random(effect)
    for at in range(before + 1, after + 1, 1 + 2 * (effect == "lease")):
        for when in (When.BEFORE, When.AFTER):
            cut = Cut(at=at, dies=chance.choice((Dies.POWER, Dies.TPM)), when=when)
            _cut(made, tmp_path / f"at-{at}", Round([step], cut=cut))


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_cut_at_any_statement_is_done_or_not_begun(
    made: Path, tmp_path: Path, effect: str
) -> None:
    """Threat 19: the process alone, before each statement of the database."""
    step = EFFECTS[effect]
    _, before = _length(made, tmp_path / "start", [])
    _, after = _length(made, tmp_path / "whole", [step])
    for at in range(before + 1, after + 1, 1 + 2 * (effect == "revoke")):
        _cut(made, tmp_path / f"at-{at}", Round([step], sql=at))


def test_a_start_cut_anywhere_is_followed_by_one_that_is_whole(made: Path, tmp_path: Path) -> None:
    """Restore: after a revocation of when the cache was closed, which the start finishes."""
    steps = [Step("end"), Step("revoke", "a")]
    for at in range(3, 60, 9):
        cut = Cut(at=at, dies=Dies.POWER, when=When.AFTER)
        _cut(made, tmp_path / f"at-{at}", Round(steps, start_cut=cut))


@pytest.mark.parametrize("number", [199, 359])
def test_a_set_up_that_was_cut_is_made_again(tmp_path: Path, number: int) -> None:
    """Between the owner's two passwords, and between defining an index and its first write."""
    set_up(tmp_path / "case", number)


def test_random_schedules_hold() -> None:
    failures = run(list(range(4000, 4007)))
    assert not failures, failures[0]


# what was found by the schedules, each alone


@pytest.fixture
def wired(made: Path, tmp_path: Path) -> Iterator[tuple[Case, Wire]]:
    place = tmp_path / "case"
    shutil.copytree(made, place, ignore=shutil.ignore_patterns("*.sock*"))
    wire = Wire(place, setup=False)
    yield Case(place), wire
    wire.close()


def _open(case: Case, wire: Wire) -> tuple[Store, TpmRing, Vault]:
    store = Store(case.database)
    ring = TpmRing(case.layout, store, wire.tcti, "shop-0417")
    vault = Vault(store, ring, "shop-0417")
    ring.open()
    return store, ring, vault


def test_a_tpm_that_was_gone_is_found_again(wired: tuple[Case, Wire]) -> None:
    """Nothing is served while it does not answer, and it is not taken for a refusal."""
    case, wire = wired
    store, ring, vault = _open(case, wire)
    wire.arm(Cut(at=1, dies=Dies.TPM, when=When.BEFORE))
    with pytest.raises(ClosedError, match="does not answer"):
        ring.check()
    ring.check()
    row = store.secret("a")
    assert row is not None
    assert vault.unlock(row).reveal() == b"a-0"
    ring.close()
    store.close()


def test_a_lost_answer_to_the_count_closes_the_cache_until_it_is_known(
    wired: tuple[Case, Wire],
) -> None:
    case, wire = wired
    store, ring, vault = _open(case, wire)
    wire.arm(None)
    with vault.revoking():
        store.remove_secret("a")
    length = wire.commands()
    lost, kept = 0, None
    for at in range(1, length + 1):
        wire.arm(Cut(at=at, dies=Dies.TPM, when=When.AFTER))
        epoch = store.epoch
        with suppress(SiteError), vault.revoking():
            store.remove_secret("b")
        lost += store.epoch == epoch
        wire.arm(None)
        with suppress(SiteError):  # refused, or kept: never taken and lost
            put(store, vault, "d", f"d-{at}")
            kept = f"d-{at}"
        ring.check()
        vault.settle()
        due = int.from_bytes(store.meta("epoch-due") or b"", "big")
        assert store.epoch == ring.epoch >= due
        ring.close()
        store.close()
        store, ring, vault = _open(case, wire)
        for name, value in (("c", "c-0"), ("d", kept)):
            row = store.secret(name)
            assert (row and vault.unlock(row).reveal().decode()) == value
    assert lost
    assert store.secret("b") is None
    ring.close()
    store.close()


def test_damaged_rows_close_nothing_else(wired: tuple[Case, Wire]) -> None:
    """Threat 36: a lease, a key, the clock and a secret, each with a byte that fell over."""
    case, wire = wired
    store, ring, _ = _open(case, wire)
    with store.transaction():
        store.add_lease(99, "DOORSTEP-LEASE-1:AA", NOW)
        store.set_material("damaged", store.epoch, b"no key at all")
        ring.keep_time()
        stored = store.meta("tpm-clock")
        assert stored is not None
        store.set_meta("tpm-clock", b"\x7f" + stored[1:])
    clock = ring.counters().clock
    ring.close()
    store.close()
    store, ring, vault = _open(case, wire)
    assert ring.counters().clock - clock < 3_600_000
    with vault.revoking():
        store.remove_secret("a")
    row = store.secret("b")
    assert row is not None
    assert vault.unlock(row).reveal() == b"b-0"
    ring.close()
    store.close()


def test_a_refusal_draws_no_new_key_of_this_boot(wired: tuple[Case, Wire]) -> None:
    case, wire = wired
    store, ring, _ = _open(case, wire)
    first = ring.key("boot")
    path = case.layout.run / "keys/boot.sealed"
    good = path.read_bytes()
    ring.close()
    path.write_bytes(good.replace(b'"private": "', b'"private": "AAAA'))
    store, ring, _ = _open(case, wire)
    with pytest.raises(TpmRefusedError):
        ring.key("boot")
    path.write_bytes(good)
    assert ring.key("boot") == first
    ring.close()
    store.close()


def test_headquarters_opens_the_passwords_of_a_set_up_that_was_cut(tmp_path: Path) -> None:
    """What was escrowed is what the TPM has."""
    from cache_schedules import HQ, blank

    from keys.cachekey import open_escrow

    place = tmp_path / "case"
    place.mkdir()
    blank(place)
    case, wire = Case(place), Wire(place)
    try:
        for at in range(1, 120):
            with Tpm(wire.tcti) as tpm:
                if tpm.is_owned():
                    break
            wire.arm(Cut(at=at, dies=Dies.POWER, when=When.AFTER))
            case.work(wire, Round([], cut=Cut(at=at, dies=Dies.POWER, when=When.AFTER)))
            wire.arm(None)
        store = Store(case.database)
        ring = TpmRing(case.layout, store, wire.tcti, "shop-0417")
        request = ring.request("", NOW)
        assert len(open_escrow(request.escrow, HQ, site="shop-0417")) == 64
        assert not store.meta("owner-due")
        with pytest.raises(PeerError):
            open_escrow(request.escrow, HQ, site="another")
        ring.close()
        store.close()
    finally:
        wire.arm(None)
        wire.close()


def test_a_copy_put_back_uses_no_nonce_again(wired: tuple[Case, Wire], tmp_path: Path) -> None:
    """Threat 39: the same effect on the same disk twice, as after a rollback."""
    case, wire = wired
    nonces: list[bytes] = []
    copy = tmp_path / "copy"
    shutil.copytree(case.layout.state, copy)
    for _ in range(2):
        store, ring, vault = _open(case, wire)
        for name in ("a", "d"):
            put(store, vault, name, "same")
            row = store.secret(name)
            assert row is not None
            nonces += [row.wrapped[:12], row.sealed[:12]]
        ring.close()
        store.close()
        shutil.rmtree(case.layout.state)
        shutil.copytree(copy, case.layout.state)
    assert len(set(nonces)) == len(nonces) == 8


def test_reading_and_putting_write_nothing_in_the_tpm(wired: tuple[Case, Wire]) -> None:
    """Threat 41: NV counts up by revocations and leases alone."""
    case, wire = wired
    store, ring, vault = _open(case, wire)
    before = ring.epoch, ring.lease_counter(), ring.audit_value()
    wire.arm(None)
    for number in range(20):
        ring.check()
        put(store, vault, "a", f"a-{number}")
        row = store.secret("a")
        assert row is not None
        vault.unlock(row)
    assert wire.commands() == 2 * 20  # the clock and the number of the lease, for each check
    assert (ring.epoch, ring.lease_counter(), ring.audit_value()) == before
    ring.close()
    store.close()


@pytest.mark.parametrize("is_taken", [True, False])
def test_ending_all_ends_what_waits_and_what_was_only_issued(
    wired: tuple[Case, Wire], is_taken: bool
) -> None:
    """One count would have made the lease of the next number the one that runs."""
    case, wire = wired
    store, ring, _ = _open(case, wire)
    issued = lease(ring)
    if is_taken:  # a lease that was stored, and then the TPM did not answer
        with store.transaction():
            store.add_lease(SignedLease.read(issued).lease.terms.counter, issued, NOW)
    ring.end()
    with pytest.raises(PeerError, match="used before"):
        ring.apply(issued, NOW)
    for _ in range(2):
        with pytest.raises(ClosedError, match="ended"):
            ring.open()
        ring.close()
        store.close()
        store = Store(case.database)
        ring = TpmRing(case.layout, store, wire.tcti, "shop-0417")
    ring.apply(lease(ring), NOW)
    ring.check()
    ring.close()
    store.close()
