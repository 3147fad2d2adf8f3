"""The agent's dance on any host against a software TPM: a box simulated at protocol level.

The same code as on a real box, but for the network, the clock and the power. It is for tests and
rehearsals; the boot log is a file's, and the TPM's PCRs can be brought to what it says first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from attest.eventlog import EventType, decode
from bootstrap.agent import facts
from bootstrap.agent.client import Client
from bootstrap.agent.dance import Outcome, Place, enrol, load_anchor, tell_trouble
from bootstrap.agent.errors import AgentError
from bootstrap.agent.protocol import Logs
from bootstrap.agent.tpm import Tpm
from keys.tpm_public import HASH_IDS


def run_box(
    tcti: str,
    url: str,
    anchor_dir: Path,
    log_bytes: bytes,
    seed_dir: Path,
    *,
    used: dict[str, str] | None = None,
    known_facts: bytes | None = None,
    extend: bool = False,
    say: Callable[[str], None] = print,
    sleep: Callable[[float], None] | None = None,
) -> Outcome:
    """Run one session; AgentError as on a box. `seed_dir` is made, its parent must exist.

    `known_facts` replaces what this host would say of itself; `extend` first brings the PCRs of a
    TPM that was just started to what the log says.
    """
    anchor = load_anchor(anchor_dir)
    known = known_facts or facts.collect(release=anchor.release, used=used)
    client = (
        Client(url, anchor.root_pem, anchor.server_name)
        if sleep is None
        else Client(url, anchor.root_pem, anchor.server_name, sleep=sleep)
    )
    place = Place(seed=seed_dir, say=say)
    try:
        with Tpm(tcti) as tpm:
            if extend:
                extend_log(tpm, log_bytes)
            return enrol(tpm, client, anchor, known, Logs(event_log=log_bytes), place)
    except AgentError as error:
        tell_trouble(client, error, known)
        raise


def extend_log(tpm: Tpm, log_bytes: bytes) -> None:
    """Extend the events of a boot log into the TPM's active banks, as firmware would have."""
    from tpm2_pytss.constants import ESYS_TR
    from tpm2_pytss.types import TPML_DIGEST_VALUES

    banks = tpm.active_banks()
    for event in decode(log_bytes).events:
        if event.type == EventType.NO_ACTION:
            continue
        values = {bank: event.digests[bank] for bank in banks if bank in event.digests}
        wire = struct.pack(">I", len(values))
        wire += b"".join(struct.pack(">H", HASH_IDS[bank]) + v for bank, v in values.items())
        digests, _ = TPML_DIGEST_VALUES.unmarshal(wire)
        tpm.esys.pcr_extend(pcr_handle=ESYS_TR(event.pcr), digests=digests)
