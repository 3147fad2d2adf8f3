"""Raw TPM commands for what ESAPI cannot do: to throw out objects that somebody else left behind.

It only lists and flushes handles. TPM 2.0 Library, Part 3, 28.4 (FlushContext), 30.2.
"""

from __future__ import annotations

import struct
from typing import Any

_GET_CAPABILITY = 0x0000017A
_FLUSH_CONTEXT = 0x00000165
_CAP_HANDLES = 1
_NO_SESSIONS = 0x8001
_LEFT_BEHIND = (0x80000000, 0x02000000, 0x03000000)
"""First handles of transient objects, HMAC sessions and policy sessions (Part 2, 7.5)."""


def flush_leftovers(tcti: Any) -> int:
    """Flush every transient object and loaded session; gives how many there were."""
    flushed = 0
    for first in _LEFT_BEHIND:
        answer = _command(tcti, _GET_CAPABILITY, struct.pack(">III", _CAP_HANDLES, first, 16))
        # moreData, capability, count, handles.
        count = int.from_bytes(answer[5:9], "big") if len(answer) >= 9 else 0
        for handle in struct.unpack_from(f">{count}I", answer, 9):
            _command(tcti, _FLUSH_CONTEXT, struct.pack(">I", handle))
            flushed += 1
    return flushed


def _command(tcti: Any, code: int, parameters: bytes) -> bytes:
    """Send one command without sessions; gives its parameters, none after an error."""
    tcti.transmit(struct.pack(">HII", _NO_SESSIONS, 10 + len(parameters), code) + parameters)
    answer: bytes = tcti.receive()
    return answer[10:] if int.from_bytes(answer[6:10], "big") == 0 else b""
