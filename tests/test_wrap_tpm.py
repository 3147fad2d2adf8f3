"""A wrapped secret opens in one TPM, in the boot that its site approved, and nowhere else (swtpm).

Each lie is tried past our own checks: what refuses is the TPM, or the value's own encryption.
"""

from __future__ import annotations

import copy
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cache_lab import ControllerTpm
from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE
from tpm2_pytss.types import TPM2B_EVENT, TPMT_SYM_DEF
from tpm_wire import Wire
from wrap_lab import NAME, VALUE, Box, State, item, opened, state

from bootstrap.agent.errors import Code, PeerError
from bootstrap.agent.tpm import Tpm
from bootstrap.agent.wrapped import Unwrapped
from keys.envelope import b64u, unb64u
from keys.secret import Secret
from keys.wrap import Label, Randomness, wrap

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    one = Box(tmp_path_factory.mktemp("box"))
    yield one
    one.tpm.stop()


@pytest.fixture
def tpm(box: Box) -> Iterator[Tpm]:
    box.restart()
    with box.agent() as opened_tpm:
        yield opened_tpm


def refused(tpm: Tpm, document: dict[str, object], now: State, **changes: object) -> Code:
    found = opened(tpm, document, replace(now.boot, **changes))  # type: ignore[arg-type]
    assert isinstance(found, PeerError), "it opened"
    return found.code


def test_it_opens_in_the_box_that_it_was_wrapped_for(tpm: Tpm) -> None:
    now = state(tpm)
    one = now.wrapped(now.label(KEY))
    document = item(one, KEY, now.boot)
    assert one.sealed is not None
    wanted = Unwrapped(value=VALUE, proof=one.sealed.proof)
    assert opened(tpm, document, now.boot) == wanted
    # with the device key loaded, as in a dance, and once more before PCR 15 moves
    tpm.load_device()
    assert opened(tpm, document, now.boot) == wanted


def test_one_of_64_kib_opens(tpm: Tpm) -> None:
    now, value = state(tpm), bytes(range(256)) * 256
    found = opened(tpm, item(now.wrapped(now.label(KEY), value), KEY, now.boot), now.boot)
    assert isinstance(found, Unwrapped) and found.value == value


def test_the_proof_is_not_sent_to_the_box(tpm: Tpm) -> None:
    now = state(tpm)
    one = now.wrapped(now.label(KEY))
    assert one.sealed is not None
    document = item(one, KEY, now.boot)
    assert "proof" not in document and b64u(one.sealed.proof) not in document.values()


def test_after_the_hand_over_it_opens_no_second_time(tpm: Tpm) -> None:
    now = state(tpm)
    document = item(now.wrapped(now.label(KEY)), KEY, now.boot)
    tpm.extend_opened(b"doorstep/v1/opened\0")
    # the policy of this session is another now, and the approval is not for it
    assert refused(tpm, document, now) is Code.BUNDLE_OTHER_BOOT


def test_another_pcr_closes_it(tpm: Tpm) -> None:
    now = state(tpm)
    document = item(now.wrapped(now.label(KEY)), KEY, now.boot)
    tpm.esys.pcr_event(pcr_handle=ESYS_TR(8), event_data=TPM2B_EVENT(b"another kernel line"))
    assert refused(tpm, document, now) is Code.BUNDLE_OTHER_BOOT


def test_another_boot_closes_it(box: Box) -> None:
    box.restart()
    with box.agent() as tpm:
        now = state(tpm)
        document = item(now.wrapped(now.label(KEY)), KEY, now.boot)
    box.restart()
    with box.agent() as tpm:
        later = state(tpm)
        assert later.boot.reset_count == now.boot.reset_count + 1
        assert refused(tpm, document, now) is Code.BUNDLE_OTHER_BOOT
        # claiming the present counters does not help: the approval was for others
        assert refused(tpm, document, later) is Code.BUNDLE_OTHER_BOOT
        again = item(now.wrapped(now.label(KEY)), KEY, later.boot)
        assert isinstance(opened(tpm, again, later.boot), Unwrapped)


def test_an_orderly_suspend_closes_it(tmp_path: Path) -> None:
    """TPM2_Shutdown(STATE), reset and Startup(CLEAR) raise restartCount alone."""
    machine = ControllerTpm(tmp_path)
    try:
        with Tpm(machine.tcti) as tpm:
            tpm.load_ek()
            now = state(tpm)
            document = item(now.wrapped(now.label(KEY)), KEY, now.boot)
        machine.suspend_and_start()
        with Tpm(machine.tcti) as tpm:
            tpm.load_ek()
            later = state(tpm)
            assert later.boot.reset_count == now.boot.reset_count
            assert later.boot.restart_count == now.boot.restart_count + 1
            assert refused(tpm, document, now) is Code.BUNDLE_OTHER_BOOT
            assert refused(tpm, document, later) is Code.BUNDLE_OTHER_BOOT
    finally:
        machine.close()


def test_its_time_is_over(tpm: Tpm) -> None:
    now = state(tpm)
    ended = replace(now.boot, clock_before=1)
    document = item(now.wrapped(now.label(KEY)), KEY, ended)
    assert refused(tpm, document, now, clock_before=1) is Code.BUNDLE_EXPIRED
    assert refused(tpm, document, now) is Code.BUNDLE_OTHER_BOOT


def test_another_box_cannot_import_it(tpm: Tpm, tmp_path_factory: pytest.TempPathFactory) -> None:
    now = state(tpm)
    other = Box(tmp_path_factory.mktemp("other-box"))
    try:
        with other.agent() as foreign:
            there = state(foreign)
            # wrapped for the first box, approved for the boot of the second, under either's name
            for name in (now.ek.name(), there.ek.name()):
                one = now.wrapped(now.label(KEY))
                lied = replace(one, label=replace(one.label, ek_name=name))
                document = item(lied, KEY, there.boot)
                assert refused(foreign, document, there) in (
                    Code.BUNDLE_CLOSED,
                    Code.BUNDLE_OTHER_BOOT,
                )
    finally:
        other.tpm.stop()


LABEL_LIES: dict[str, Callable[[Label], Label]] = {
    "other-name": lambda label: replace(label, name="other"),
    "older-version": lambda label: replace(label, version=label.version - 1),
    "other-site": lambda label: replace(label, site="shop-0418"),
    "other-ek": lambda label: replace(label, ek_name=b"\0\x0b" + bytes(32)),
}


@pytest.mark.parametrize("lie", LABEL_LIES.values(), ids=LABEL_LIES)
def test_an_approval_for_another_label_opens_nothing(
    tpm: Tpm, lie: Callable[[Label], Label]
) -> None:
    """The box believes its own site and EK; name and version are those of the item."""
    now = state(tpm)
    one = now.wrapped(now.label(KEY))
    lied = replace(one, label=lie(one.label))
    # the appliance approves what it says, and says so: the share's policy is not for that
    assert refused(tpm, item(lied, KEY, now.boot), now) in (
        Code.BUNDLE_OTHER_PCRS,
        Code.BUNDLE_OTHER_BOOT,
    )
    # the appliance approves the true label and names the other: no ticket fits
    true = item(one, KEY, now.boot)
    named = true | {"name": lied.label.name, "version": lied.label.version}
    if named != true:
        assert refused(tpm, named, now) is Code.BUNDLE_OTHER_BOOT


def test_another_site_s_box_opens_nothing(tpm: Tpm) -> None:
    now = state(tpm)
    document = item(now.wrapped(now.label(KEY)), KEY, now.boot)
    found = opened(tpm, document, now.boot, site="shop-0418")
    assert isinstance(found, PeerError) and found.code is Code.BUNDLE_OTHER_BOOT


def test_an_approval_by_another_key_opens_nothing(tpm: Tpm) -> None:
    now = state(tpm)
    one = now.wrapped(now.label(KEY))
    # its own key beside it: the TPM takes the signature, the share's policy does not
    assert refused(tpm, item(one, OTHER_KEY, now.boot), now) is Code.BUNDLE_OTHER_PCRS
    # the true key beside another's signature
    theirs = item(one, OTHER_KEY, now.boot) | {"key": item(one, KEY, now.boot)["key"]}
    assert refused(tpm, theirs, now) is Code.BUNDLE_OTHER_BOOT


def test_without_the_site_the_box_itself_cannot_open_it(tpm: Tpm) -> None:
    """Whoever holds the box and the file: the share's policy wants an approval."""
    now = state(tpm)
    one = now.wrapped(now.label(KEY))
    assert one.sealed is not None
    handle = tpm._import(one.sealed.sealed_public, one.sealed.duplicate, one.sealed.seed)
    with tpm.salted(TPM2_SE.POLICY) as session, pytest.raises(TSS2_Exception, match="policy"):
        tpm.esys.unseal(item_handle=handle, session1=session)
    with pytest.raises(TSS2_Exception):
        tpm.esys.unseal(item_handle=handle)
    tpm.flush(handle)


FIELDS = ("key", "approval", "sealed_public", "duplicate", "seed", "nonce", "ciphertext")


@pytest.mark.parametrize("field", FIELDS)
def test_one_changed_bit_of_any_field_opens_nothing(tpm: Tpm, field: str) -> None:
    now = state(tpm)
    true = item(now.wrapped(now.label(KEY)), KEY, now.boot)
    for at in (0, -1):
        data = bytearray(unb64u(str(true[field])))
        data[at] ^= 1
        refused(tpm, true | {field: b64u(bytes(data))}, now)
    assert isinstance(opened(tpm, true, now.boot), Unwrapped)


def test_parts_of_two_secrets_do_not_mix(tpm: Tpm) -> None:
    now = state(tpm)
    first = item(now.wrapped(now.label(KEY)), KEY, now.boot)
    second = item(now.wrapped(now.label(KEY, version=4), b"newer"), KEY, now.boot)
    for field in FIELDS:
        if first[field] != second[field]:
            mixed = copy.copy(first) | {field: second[field]}
            refused(tpm, mixed, now)
    share = ("sealed_public", "duplicate", "seed")
    assert refused(tpm, first | {name: second[name] for name in share}, now) is (
        Code.BUNDLE_OTHER_PCRS
    )


def test_it_is_kept_from_dictionary_attacks_and_from_leaving(tpm: Tpm) -> None:
    now = state(tpm)
    one = now.wrapped(now.label(KEY))
    assert one.sealed is not None
    attributes = struct.unpack_from(">I", one.sealed.sealed_public, 4)[0]
    assert attributes == 1 << 10, "noDA alone: no password opens it, three power cuts lock nothing"
    assert one.label.name == NAME


class CarelessTpm(Tpm):
    """An agent whose sessions are neither salted nor encrypted."""

    @contextmanager
    def salted(self, kind: Any) -> Iterator[Any]:
        session = self.esys.start_auth_session(
            tpm_key=ESYS_TR.NONE,
            bind=ESYS_TR.NONE,
            session_type=kind,
            symmetric=TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
            auth_hash=TPM2_ALG.SHA256,
        )
        try:
            yield session
        finally:
            self.flush(session)


@pytest.mark.parametrize(("agent", "is_shown"), [(Tpm, False), (CarelessTpm, True)])
def test_a_probe_on_the_bus_learns_nothing(
    tmp_path: Path, agent: type[Tpm], is_shown: bool
) -> None:
    """Checklist 22; the careless agent is here so that the search is seen to find."""
    record = tmp_path / "wire"
    wire = Wire(tmp_path, record=record)
    try:
        with agent(wire.tcti) as tpm:
            tpm.load_ek()
            now = state(tpm)
            randomness = Randomness.cut(os.urandom(Randomness.SIZE))
            one = wrap(now.label(KEY), Secret(VALUE), ek=now.ek, randomness=randomness)
            assert isinstance(opened(tpm, item(one, KEY, now.boot), now.boot), Unwrapped)
        seen = record.read_bytes()
        assert one.sealed is not None and one.sealed.seed[2:] in seen
        assert (randomness.share in seen) is is_shown
    finally:
        wire.close()
