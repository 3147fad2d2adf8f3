#!/usr/bin/python3 -ISB
"""Process 1 of an attacker's initrd: opens a bundle that was captured in an earlier boot.

A rehearsal lays it over the enrolment initrd, with the bundle beside it. The attacker has all but
the one thing that counts: the boot in which the bundle may be opened. It prints one line that
begins with DOORSTEP-REPLAY and powers off.
"""

import base64
import json
import os
import sys

os.environ["CRYPTOGRAPHY_OPENSSL_NO_LEGACY"] = "1"
sys.path[:0] = ["/doorstep/python"]
sys.path.append("/usr/lib/python3/dist-packages")

from bootstrap.agent import system  # noqa: E402 - the paths above lead to it
from bootstrap.agent.main import say  # noqa: E402


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def main() -> None:
    """Try, say what the TPM answered, go off."""
    system.prepare(say)
    from bootstrap.agent.errors import PeerError
    from bootstrap.agent.tpm import Tpm
    from bootstrap.agent.tpm_keys import Counters

    with open("/doorstep/captured.json", encoding="utf-8") as file:  # noqa: PTH123 - process 1
        bundle = json.load(file)
    counters = Counters(
        reset_count=bundle["reset_count"],
        restart_count=bundle["restart_count"],
        clock_before=bundle["clock_before"],
    )
    parts = [_bytes(bundle[name]) for name in ("sealed_public", "duplicate", "seed")]
    try:
        with Tpm("device:/dev/tpm0") as tpm:
            tpm.load_ek()
            tpm.open_share(parts[0], parts[1], parts[2], counters)
            answer = "OPENED: the TPM gave the share away"
    except PeerError as error:
        answer = f"{error.code.value}: {error}"
    say("DOORSTEP-REPLAY " + answer)
    system.power_off()


if __name__ == "__main__":
    main()
