"""Shared by the tests of wrapped secrets: a box with a TPM, headquarters, the key of its site."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from software_tpm import SoftwareTpm

from bootstrap.agent.errors import PeerError
from bootstrap.agent.tpm import Tpm
from bootstrap.agent.tpm_keys import Counters
from bootstrap.agent.wrapped import Unwrapped, open_value, read_items
from keys.envelope import SEALED_PCRS, Boot
from keys.secret import Secret
from keys.tpm_public import PublicArea
from keys.wrap import (
    Label,
    Randomness,
    WrappedSecret,
    approve,
    for_box,
    key_area,
    wrap,
)

SITE = "shop-0417"
NAME = "vault-key"
VALUE = b"canary-7c19-of-tier-box"
NOW = 1_795_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a box is at: its boot, and the EK that headquarters knows it by."""

    ek: PublicArea
    boot: Boot

    def label(self, key: ec.EllipticCurvePrivateKey, **changes: object) -> Label:
        """Write a label for this box and a site's wrap key."""
        one = Label(
            site=SITE,
            name=NAME,
            version=3,
            serial="S1",
            issued=NOW,
            expires=NOW + 86400,
            ek_name=self.ek.name(),
            key_name=key_area(key.public_key()).name(),
        )
        return replace(one, **changes)  # type: ignore[arg-type]

    def wrapped(self, label: Label, value: bytes = VALUE) -> WrappedSecret:
        """Do what headquarters does."""
        randomness = Randomness.cut(os.urandom(Randomness.SIZE))
        return wrap(label, Secret(value), ek=self.ek, randomness=randomness)


def item(one: WrappedSecret, key: ec.EllipticCurvePrivateKey, boot: Boot) -> dict[str, object]:
    """Do what `keys` does at the hand-over."""
    return for_box(one, key_area(key.public_key()), approve(key, boot.policy(), one.label))


class Box:
    """A box whose TPM can be switched off and on."""

    def __init__(self, directory: Path) -> None:
        self.tpm = SoftwareTpm(directory)

    def restart(self) -> None:
        """Cut the power and start again: a TPM Reset."""
        self.tpm.stop()
        self.tpm.start()

    @contextmanager
    def agent(self) -> Iterator[Tpm]:
        """Connect as the agent does, with the EK."""
        if self.tpm.process is None or self.tpm.process.poll() is not None:
            self.restart()
        with Tpm(f"swtpm:path={self.tpm.directory / 's'}") as tpm:
            tpm.load_ek()
            yield tpm


def state(tpm: Tpm) -> State:
    """Say what the quote would: PCRs and counters of this boot."""
    clock = tpm.esys.read_clock().clockInfo
    boot = Boot(
        reset_count=int(clock.resetCount),
        restart_count=int(clock.restartCount),
        clock_before=int(clock.clock) + 600_000,
        pcrs=tpm.read_pcrs("sha256", SEALED_PCRS),
    )
    return State(ek=PublicArea.decode(tpm.need(tpm.ek).public), boot=boot)


def opened(
    tpm: Tpm, document: dict[str, object], boot: Boot, *, site: str = SITE
) -> Unwrapped | PeerError:
    """Do what the agent does with one item; gives what came of it."""
    ek_name = PublicArea.decode(tpm.need(tpm.ek).public).name()
    counters = Counters(
        reset_count=boot.reset_count,
        restart_count=boot.restart_count,
        clock_before=boot.clock_before,
    )
    try:
        (one,) = read_items(json.dumps({"wrapped": [document]}).encode(), site, ek_name)
        return open_value(one, tpm.open_wrapped(one, counters))
    except PeerError as error:
        return error
