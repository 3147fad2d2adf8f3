"""The agent on a real box: network, TPM, one session after the other, then what comes after.

It never gives up: every failure is one sentence, a pause and another try.
"""

from __future__ import annotations

import base64
import hashlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bootstrap.agent import facts, network, system
from bootstrap.agent.errors import AgentError, BoxError, Code

if TYPE_CHECKING:
    from bootstrap.agent import renew
    from bootstrap.agent.client import Client
    from bootstrap.agent.dance import Kept, Outcome, Place
    from bootstrap.agent.protocol import Anchor, Logs
    from bootstrap.agent.tpm import Tpm

Say = Callable[[str], None]

DEVICE = Path("/dev/tpm0")
TCTI = f"device:{DEVICE}"
ANCHOR = Path("/doorstep/anchor")
EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
IMA_LOG = Path("/sys/kernel/security/ima/binary_runtime_measurements")
_CHUNK = 570
"""Bytes of the boot log on one console line; some serial consoles cut longer ones."""
_PAUSES = (5, 10, 20, 40, 60)
_REFUSED_SECONDS = 60
_WATCH_SECONDS = 5


def serve(say: Say) -> NoReturn:
    """Enrol this box, and stay or go off; does not return."""
    loading = threading.Thread(target=preload, daemon=True)
    loading.start()
    found = _find_network(say)
    loading.join()
    if found is None or found.lease.url is None:
        alone(say)
    outcome = _until_enrolled(found, say)
    if outcome.after == "power-off":
        say("done, going off")
        system.power_off()
    _stay(found, outcome, say)


def _stay(found: network.Network, outcome: Outcome, say: Say) -> NoReturn:
    """Keep the address and renew the certificate; nothing that fails here ends it."""
    from bootstrap.agent import renew

    assert outcome.kept is not None  # of whoever has its hand-over
    staying = renew.begin(outcome.kept, _since_start(), random.random())
    say("done, staying")
    while True:
        try:
            found = network.keep(found, say)
        except AgentError as error:  # a pulled cable is no reason to enrol again
            say(f"{error.code.value}: {error}")

        def attempt(kept: Kept, found: network.Network = found) -> Outcome:
            return _one_session(found, say, kept)

        staying = _turn(staying, attempt, say)
        system.reap()
        time.sleep(_WATCH_SECONDS)


def _turn(staying: renew.Staying, attempt: Callable[[Kept], Outcome], say: Say) -> renew.Staying:
    from bootstrap.agent import renew
    from bootstrap.agent.handoff import SEED

    try:
        return renew.turn(staying, attempt, SEED, say, clock=_since_start, draw=random.random)
    except Exception as error:  # noqa: BLE001 - else process 1 would enrol again, which is refused
        say(f"INTERNAL: {type(error).__name__}: {error}")
        return replace(staying, schedule=staying.schedule.later(_since_start(), random.random()))


def _since_start() -> float:
    """Give seconds since the start of the machine, those that it was suspended included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def preload() -> None:
    """Import what the dance needs while the box waits for its link: seconds on a slow machine."""
    import ssl  # noqa: F401

    import bootstrap.agent.client
    import bootstrap.agent.dance
    import bootstrap.agent.renew
    import bootstrap.agent.signature
    import bootstrap.agent.tpm  # noqa: F401


def alone(say: Say) -> NoReturn:
    """Print what was measured and go off: a boot that no site is named for (a rehearsal)."""
    from bootstrap.agent.tpm import Tpm

    say("no site is named in this network: printing the measurements, then going off")
    with Tpm(TCTI) as tpm:
        for line in measurement_lines(tpm, _read(EVENT_LOG)):
            print(line, flush=True)
    system.power_off()


def measurement_lines(tpm: Tpm, log: bytes) -> list[str]:
    """Write all PCRs and the boot log as console lines."""
    lines = [
        f"DOORSTEP-PCR {bank} {index} {value.hex()}"
        for bank in tpm.active_banks()
        for index, value in sorted(tpm.read_pcrs(bank, tuple(range(24))).items())
    ]
    for at in range(0, len(log), _CHUNK):
        lines.append(f"DOORSTEP-LOG {base64.b64encode(log[at : at + _CHUNK]).decode()}")
    return [*lines, f"DOORSTEP-LOG-END {hashlib.sha256(log).hexdigest()}"]


def _find_network(say: Say) -> network.Network | None:
    tries = 0
    while True:
        try:
            return network.find(say)
        except AgentError as error:
            _pause(error, tries, say)
            tries += 1


def _until_enrolled(found: network.Network, say: Say) -> Outcome:
    tries = 0
    while True:
        try:
            found = network.keep(found, say)
            outcome = _one_session(found, say)
        except AgentError as error:
            _pause(error, tries, say)
            tries += 1
            continue
        if outcome.after:
            return outcome
        least = _REFUSED_SECONDS if outcome.status == "refused" else 5
        seconds = max(outcome.retry_seconds, least)
        say(f"trying again in {seconds} seconds")
        time.sleep(seconds)
        tries = 0


def _one_session(found: network.Network, say: Say, kept: Kept | None = None) -> Outcome:
    from bootstrap.agent.client import Client
    from bootstrap.agent.dance import Place, load_anchor, tell_trouble
    from bootstrap.agent.handoff import SEED
    from bootstrap.agent.protocol import Logs

    anchor = load_anchor(ANCHOR)
    known = facts.collect(release=anchor.release, used=found.used())
    client = Client(found.lease.url or "", anchor.root_pem, anchor.server_name)
    logs = Logs(event_log=_read(EVENT_LOG), ima_log=_read(IMA_LOG))
    SEED.parent.mkdir(parents=True, exist_ok=True)
    # Whoever runs already keeps its clock as it is.
    place = Place(seed=SEED, say=say, set_clock=system.set_clock if kept is None else None)
    try:
        return enrol_with_tpm(client, anchor, known, logs, place, kept)
    except AgentError as error:
        if kept is None:
            tell_trouble(client, error, known)
        raise


def enrol_with_tpm(
    client: Client,
    anchor: Anchor,
    known: bytes,
    logs: Logs,
    place: Place,
    kept: Kept | None = None,
) -> Outcome:
    """Open the TPM and run one session, with `kept` to renew."""
    from bootstrap.agent.dance import enrol
    from bootstrap.agent.tpm import Tpm

    if not DEVICE.exists():
        raise BoxError(Code.TPM_NONE, "this box has no TPM 2.0: switch it on in the firmware setup")
    with Tpm(TCTI) as tpm:
        return enrol(tpm, client, anchor, known, logs, place, kept)


def _pause(error: AgentError, tries: int, say: Say) -> None:
    seconds = _PAUSES[min(tries, len(_PAUSES) - 1)]
    say(f"{error.code.value}: {error}; trying again in {seconds} seconds")
    time.sleep(seconds)


def _read(path: Path) -> bytes:
    """Read a log of the kernel; empty when there is none."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
