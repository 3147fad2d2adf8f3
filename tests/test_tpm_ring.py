"""The cache under a lease, on a software TPM: what the TPM itself refuses, past our checks."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_lab import HOUR, NOW, SITE, Controller
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR

from keys.cache import Label
from keys.envelope import bind
from keys.errors import PeerError, SiteError
from keys.io.ring import ClosedError
from keys.io.store import Store
from keys.io.tpm import Tpm
from keys.io.tpm_link import TpmRefusedError
from keys.io.tpm_made import Made
from keys.io.tpm_ring import CLOCK_META
from keys.io.vault import Vault
from keys.lease import SignedLease
from keys.rules import Tier
from keys.secret import Secret
from keys.tpm_objects import STORAGE_HANDLE, Index

VALUE = Secret(b"not-a-real-value")


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    one = Controller(tmp_path)
    yield one
    one.close()


def label(name: str = "token", tier: Tier = Tier.SITE) -> Label:
    return Label(name=name, version=1, tier=tier, set_at=NOW, expires=NOW + 1000)


def put(store: Store, vault: Vault, name: str = "token", tier: Tier = Tier.SITE) -> None:
    with store.transaction():
        vault.lock(VALUE, label(name, tier))


def read(store: Store, vault: Vault, name: str = "token") -> Secret:
    row = store.secret(name)
    assert row is not None
    return vault.unlock(row)


def leased(controller: Controller, **terms: object) -> None:
    """Set a cache up with one secret under one lease."""
    with controller.started() as (store, ring, vault):
        put(store, vault)
        ring.apply(controller.lease(ring, controller.terms(**terms)), NOW)


def test_a_lease_opens_the_cache_again_after_a_restart(controller: Controller) -> None:
    leased(controller)
    with controller.started() as (store, ring, vault):
        ring.open()
        ring.check()
        assert read(store, vault) == VALUE
    controller.tpm.power_cycle()
    with controller.started() as (store, ring, vault):
        ring.open()
        assert read(store, vault) == VALUE


def test_before_the_first_lease_only_who_made_the_cache_may_write(controller: Controller) -> None:
    with controller.started() as (store, ring, vault):
        put(store, vault)
        with pytest.raises(ClosedError, match="no lease") as caught:
            ring.check()
        assert caught.value.code == "LEASE-MISSING"
    with controller.started() as (store, ring, vault):
        with pytest.raises(ClosedError, match="no lease"):
            ring.open()
        with pytest.raises(ClosedError):
            put(store, vault)


def refused_by_the_tpm(controller: Controller, text: str) -> str:
    """Ask the TPM itself with a lease, past every check of ours; gives its sentence."""
    signed = SignedLease.read(text)
    store = Store(controller.layout.state / "keys/keys.db")
    stored = store.meta("tpm")
    store.close()
    assert stored is not None
    made = Made.read(stored)
    with Tpm(controller.tpm.tcti, storage_name=made.storage_name) as tpm:
        with pytest.raises(TpmRefusedError) as caught:
            tpm.unseal(made.lease_share, tpm.under_lease(signed, made.authority_key))
        return str(caught.value)


def count_up(controller: Controller, text: str) -> None:
    """Bring the lease counter to where a lease wants it."""
    with Tpm(controller.tpm.tcti) as tpm:
        while tpm.counter(Index.LEASE) < SignedLease.read(text).lease.terms.counter:
            tpm.increment(Index.LEASE)


def test_the_tpm_itself_opens_nothing_after_the_lease(controller: Controller) -> None:
    """Every way a lease may be wrong, with the counter where it wants it."""
    with controller.started() as (store, ring, vault):
        put(store, vault)
        now, other = controller.counters(), ec.generate_private_key(ec.SECP256R1())
        lies = {
            "clock": controller.lease(ring, controller.terms(clock_before=now.clock)),
            "reset count": controller.lease(
                ring, controller.terms(resets_at_most=now.reset_count - 1)
            ),
            "not approved": controller.lease(ring, key=other),
            "policy does not hold": controller.lease(ring, reference=bytes(32)),
            "other software": controller.lease(
                ring, controller.terms(pcrs=frozenset({0}), pcr_digest=bytes(32))
            ),
        }
        good = controller.lease(ring)
        edited = SignedLease.read(good)
        longer = edited.lease.terms.__class__(
            clock_before=edited.lease.terms.clock_before + HOUR,
            resets_at_most=edited.lease.terms.resets_at_most,
            restarts_at_most=edited.lease.terms.restarts_at_most,
            counter=edited.lease.terms.counter,
        )
        forged = SignedLease(
            lease=edited.lease.__class__(
                site=SITE,
                purpose=edited.lease.purpose,
                terms=longer,
                reference=edited.lease.reference,
                issued=NOW,
                ends=NOW,
            ),
            approval=edited.approval,
            seal=edited.seal,
        )
    assert "counter is not at" in refused_by_the_tpm(controller, good)
    count_up(controller, good)
    for said, text in lies.items():
        assert said in refused_by_the_tpm(controller, text), said
    assert "not approved" in refused_by_the_tpm(controller, forged.text())
    with controller.started() as (store, ring, _):
        with store.transaction():
            store.add_lease(SignedLease.read(good).lease.terms.counter, good, NOW)
        ring.open()  # the same text with nothing changed is the one that opens


def test_restarts_beyond_the_lease_close_it(controller: Controller) -> None:
    leased(controller, resets_at_most=controller.counters().reset_count + 1)
    controller.tpm.power_cycle()
    with controller.started() as (_, ring, _):
        ring.open()
    controller.tpm.power_cycle()
    with controller.started() as (store, ring, _):
        text = store.leases()[0]
        with pytest.raises(ClosedError, match="started more often"):
            ring.open()
    assert "reset count" in refused_by_the_tpm(controller, text)


def test_an_orderly_suspend_counts_too(controller: Controller) -> None:
    """TPM2_Shutdown(STATE), reset, Startup(CLEAR) raises restartCount alone (seen)."""
    before = controller.counters()
    leased(controller, restarts_at_most=before.restart_count)
    controller.tpm.suspend_and_start()
    after = controller.counters()
    assert (after.reset_count, after.restart_count) == (
        before.reset_count,
        before.restart_count + 1,
    )
    with controller.started() as (store, ring, _):
        text = store.leases()[0]
        with pytest.raises(ClosedError, match="suspended more often"):
            ring.open()
    assert "restart count" in refused_by_the_tpm(controller, text)


def test_other_software_gets_nothing(controller: Controller) -> None:
    with controller.started() as (store, ring, vault):
        put(store, vault)
        ring.apply(controller.lease(ring, controller.pcr_terms(4, 9)), NOW)
    controller.tpm.extend(9, bytes(31) + b"\1")
    with controller.started() as (store, ring, _):
        text = store.leases()[0]
        with pytest.raises(ClosedError, match="other software"):
            ring.open()
    assert "other software" in refused_by_the_tpm(controller, text)


def test_a_lease_for_the_software_of_tomorrow_waits_for_it(controller: Controller) -> None:
    with controller.started() as (store, ring, vault):
        put(store, vault)
        ring.apply(controller.lease(ring, controller.pcr_terms(9)), NOW)
        controller.tpm.extend(9, bytes(31) + b"\1")
        following = controller.pcr_terms(9)
    controller.tpm.power_cycle()
    with controller.started() as (store, ring, vault):
        ring.open()
        ring.apply(controller.lease(ring, following), NOW)
        assert read(store, vault) == VALUE  # the one of today goes on
    controller.tpm.extend(9, bytes(31) + b"\1")
    with controller.started() as (store, ring, vault):
        ring.open()
        assert read(store, vault) == VALUE


def test_two_leases_of_one_number_are_for_two_states_and_either_opens(
    controller: Controller,
) -> None:
    """An update that is taken back needs no other lease."""
    with controller.started() as (store, ring, vault):
        put(store, vault)
        today = controller.pcr_terms(9)
        controller.tpm.extend(9, bytes(31) + b"\1")
        tomorrow = controller.pcr_terms(9)
    controller.tpm.power_cycle()
    with controller.started() as (store, ring, vault):
        ring.apply(controller.lease(ring, today), NOW)
        ring.apply(controller.lease(ring, tomorrow), NOW)
        ring.check()
        assert read(store, vault) == VALUE
    controller.tpm.extend(9, bytes(31) + b"\1")
    with controller.started() as (store, ring, vault):
        ring.open()
        assert read(store, vault) == VALUE
    controller.tpm.extend(9, bytes(31) + b"\2")
    with controller.started() as (store, ring, vault):
        with pytest.raises(ClosedError, match="other software") as caught:
            ring.open()
        assert caught.value.code == "LEASE-ENDED"
    controller.tpm.power_cycle()
    with controller.started() as (store, ring, vault):
        ring.open()
        assert read(store, vault) == VALUE


def test_leases_that_are_not_for_us_are_refused_with_a_sentence(controller: Controller) -> None:
    with controller.started() as (_, ring, _):
        other = ec.generate_private_key(ec.SECP256R1())
        used = controller.lease(ring)
        ring.apply(used, NOW)
        for text, said in (
            (used, "used before"),
            (controller.lease(ring, key=other), "not signed by this site's"),
            (controller.lease(ring, site="shop-0418"), "for the site 'shop-0418'"),
            (controller.lease(ring, reference=bytes(32)), "another appliance"),
            (controller.lease(ring, controller.terms(counter=10_000)), "too far ahead"),
            (controller.lease(ring, controller.terms(clock_before=1)), "ended already"),
            (used[:-8], "lease"),
            ("DOORSTEP-LEASE-1:AA", "cut short"),
            ("DOORSTEP-LEASE-1:A", "letters that no lease has"),
            ("something else", "begins with"),
        ):
            with pytest.raises(PeerError, match=said):
                ring.apply(text, NOW)
        ring.check()


def test_a_new_lease_ends_the_one_before_and_one_step_ends_all(controller: Controller) -> None:
    with controller.started() as (store, ring, vault):
        put(store, vault)
        ring.apply(first := controller.lease(ring), NOW)
        ring.apply(controller.lease(ring), NOW)
        assert read(store, vault) == VALUE
        ring.end()
        with pytest.raises(ClosedError):
            read(store, vault)
        with pytest.raises(ClosedError):
            ring.check()
    assert "counter is not at" in refused_by_the_tpm(controller, first)


def test_the_key_is_dropped_when_the_lease_ends(controller: Controller) -> None:
    """Threats 1 to 3: the clock of the system is asked nowhere."""
    with controller.started() as (store, ring, vault):
        put(store, vault)
        end = controller.counters().clock + HOUR
        ring.apply(controller.lease(ring, controller.terms(clock_before=end)), NOW)
        ring.check()
        with Tpm(controller.tpm.tcti, storage_name=ring.storage_name) as tpm:
            tpm.advance_clock(end)
        with pytest.raises(ClosedError, match="powered hours") as caught:
            ring.check()
        assert caught.value.code == "LEASE-ENDED"
        with pytest.raises(ClosedError):
            read(store, vault)


def test_a_tpm_that_was_reset_under_us_is_asked_again(controller: Controller) -> None:
    """Threat 23: reset without the processor, so that PCRs may be another boot's."""
    with controller.started() as (store, ring, vault):
        put(store, vault)
        ring.apply(controller.lease(ring, controller.pcr_terms(9)), NOW)
        ring.check()
        controller.tpm.extend(9, bytes(31) + b"\1")
        controller.tpm.suspend_and_start()
        controller.tpm.extend(9, bytes(31) + b"\2")
        with pytest.raises(SiteError):
            ring.check()
        with pytest.raises(ClosedError):
            read(store, vault)


def test_a_power_cut_sets_the_clock_back_to_where_it_was(controller: Controller) -> None:
    """Threat 20: a loop of power cuts wins no time."""
    leased(controller)
    seen = controller.counters().clock + 10 * HOUR
    saved = controller.tpm.state / "tpm2-00.permall"
    before = saved.read_bytes()
    with controller.started() as (store, ring, _):
        with Tpm(controller.tpm.tcti, storage_name=ring.storage_name) as tpm:
            tpm.advance_clock(seen)
        with store.transaction():
            ring.keep_time()
    controller.tpm.cut_power()
    saved.write_bytes(before)  # the clock as it was saved last, as on a power cut
    controller.tpm.power_on()
    assert controller.counters().clock < seen
    with controller.started():
        assert controller.counters().clock >= seen


def revoke(store: Store, vault: Vault, name: str) -> None:
    with vault.revoking():
        store.remove_secret(name)


def test_an_old_copy_of_the_disk_brings_back_nothing(controller: Controller) -> None:
    """Threat 17: the whole directory of before the revocation, with a lease that still runs."""
    with controller.started() as (store, ring, vault):
        put(store, vault)
        put(store, vault, "other")
        ring.apply(controller.lease(ring), NOW)
    copy = controller.directory / "copy"
    shutil.copytree(controller.layout.state, copy)
    with controller.started() as (store, ring, vault):
        ring.open()
        revoke(store, vault, "token")
        assert store.secret("token") is None
        assert read(store, vault, "other") == VALUE
    with controller.started() as (store, ring, vault):
        ring.open()
        assert read(store, vault, "other") == VALUE
    shutil.rmtree(controller.layout.state)
    shutil.copytree(copy, controller.layout.state)
    with pytest.raises(SiteError, match="restored from a copy"), controller.started():
        pass


@pytest.mark.parametrize("step", ["prepared", "counted"])
def test_a_cut_in_a_revocation_leaves_the_one_or_the_other(
    controller: Controller, step: str
) -> None:
    """Threat 19."""
    with controller.started() as (store, ring, vault):
        put(store, vault)
        put(store, vault, "other")
        ring.apply(controller.lease(ring), NOW)
        with store.transaction():
            store.remove_secret("token")
            vault._prepare_epoch()
        if step == "counted":
            with Tpm(controller.tpm.tcti) as tpm:
                tpm.increment(Index.EPOCH)
    controller.tpm.power_cycle()
    with controller.started() as (store, ring, vault):
        ring.open()
        assert read(store, vault, "other") == VALUE
        assert store.secret("token") is None
        put(store, vault, "third")
        revoke(store, vault, "other")
        assert read(store, vault, "third") == VALUE


def test_another_tpm_opens_nothing(controller: Controller, tmp_path: Path) -> None:
    """Threats 16 and 18: the disk in another machine, or the TPM cleared."""
    leased(controller)
    (tmp_path / "second").mkdir()
    other = Controller(tmp_path / "second")
    try:
        with other.started():  # it has an owner and counters of its own
            pass
        shutil.copy(controller.layout.state / "keys/keys.db", other.layout.state / "keys/keys.db")
        message = "not the TPM that the cache was made with"
        with pytest.raises(SiteError, match=message), other.started():
            pass
    finally:
        other.close()


def test_a_key_that_was_put_there_before_us_seals_nothing(controller: Controller) -> None:
    """Threat of the shipping chain: whose key it is decides who can read what is below it."""
    esys = ESAPI(controller.tpm.tcti)
    theirs, *_ = esys.create_primary(in_sensitive=None, in_public="ecc256:aes128cfb")
    esys.evict_control(auth=ESYS_TR.OWNER, object_handle=theirs, persistent_handle=STORAGE_HANDLE)
    esys.close()
    with pytest.raises(SiteError, match="is not ours: clear the TPM"), controller.started():
        pass


def test_secrets_of_this_boot_end_with_it(controller: Controller) -> None:
    with controller.started() as (store, ring, vault):
        ring.apply(controller.lease(ring), NOW)
        put(store, vault, "psk", Tier.BOOT)
    with controller.started() as (store, ring, vault):
        assert read(store, vault, "psk") == VALUE  # the process was started again
    controller.tpm.power_cycle()
    with controller.started() as (store, _, vault), pytest.raises(SiteError, match="not open"):
        read(store, vault, "psk")


def test_the_keys_of_the_zones_need_no_lease(controller: Controller) -> None:
    with controller.started() as (_, ring, vault):
        made = vault.key_pair("zone-ksk-1", on_device=True).public_key()
        ring.apply(controller.lease(ring), NOW)
        ring.end()
    with controller.started() as (_, _, vault):
        assert vault.key_pair("zone-ksk-1", on_device=True).public_key() == made
        with pytest.raises(ClosedError):
            vault.key_pair("box-ca")


def test_power_cuts_lock_nothing(controller: Controller) -> None:
    """Threat 21: no dictionary attack protection stands on what is sealed here."""
    leased(controller, resets_at_most=controller.counters().reset_count + 100)
    for _ in range(6):
        controller.tpm.power_cycle()
        with controller.started() as (store, ring, vault):
            ring.open()
            assert read(store, vault) == VALUE


def test_a_clock_that_catches_up_meanwhile_is_no_fault(controller: Controller) -> None:
    """What was seen lies milliseconds ahead: the TPM may pass it before it is told."""
    with controller.started() as (store, ring, _):
        for ahead in range(40):
            clock = struct.pack(">Q", ring.counters().clock + ahead)
            with store.transaction():
                store.set_meta(CLOCK_META, clock + bind("doorstep/v1/tpm-clock", clock))
            ring._restore_clock()
            assert ring.counters().clock >= int.from_bytes(clock, "big")


def signs(vault: Vault, name: str) -> bool:
    """Let an authority's key sign, and verify it; False where the lease does not allow it."""
    key = vault.signing_key(name)
    try:
        signature = key.sign(b"request", ec.ECDSA(hashes.SHA256()))
    except ClosedError:
        return False
    key.public_key().verify(signature, b"request", ec.ECDSA(hashes.SHA256()))
    return True


def test_an_authority_signs_before_the_first_lease_and_then_under_one(
    controller: Controller,
) -> None:
    """However a lease ends, also one that ends by itself and so leaves its counter."""
    with controller.started() as (_, ring, vault):
        assert signs(vault, "day-0-ca")
        now = controller.counters().clock
        ring.apply(controller.lease(ring, controller.terms(clock_before=now + HOUR)), NOW)
        assert signs(vault, "day-0-ca")
        assert signs(vault, "later-ca")  # its counter is that of the lease that runs
        with Tpm(controller.tpm.tcti, storage_name=ring.storage_name) as tpm:
            tpm.advance_clock(now + 2 * HOUR)
        assert not signs(vault, "day-0-ca")
        with pytest.raises(ClosedError):
            ring.check()
        assert not signs(vault, "day-0-ca")
        assert not signs(vault, "later-ca")
        assert not signs(vault, "latest-ca")
    with controller.started() as (_, ring, vault):
        assert not any(signs(vault, f"{name}-ca") for name in ("day-0", "later", "latest"))
        ring.apply(controller.lease(ring), NOW)
        assert all(signs(vault, f"{name}-ca") for name in ("day-0", "later", "latest"))


def test_the_first_lease_counts_up(controller: Controller) -> None:
    """Else the authorities' keys would sign on after it, as before it."""
    with controller.started() as (_, ring, _):
        at_first = controller.lease(ring, controller.terms(counter=ring.lease_counter()))
        with pytest.raises(PeerError, match="used before"):
            ring.apply(at_first, NOW)
