"""Which processes of this site answer: what control says, and what can be tried from here.

enroll, page and nginx keep no state to ask for, so their sockets and the process are tried.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bootstrap.io.nginx import HTTP_SOCKET
from keys.io.rpc import RpcUnavailableError, call

_SECONDS = 2.0


def services(run: Path) -> dict[str, Any]:
    """Give `services` (name, ok, since, sentence), `notices` and `autonomy`; needs root."""
    try:
        answer: Mapping[str, Any] = call(run / "control" / "socket", "services")
    except RpcUnavailableError as error:
        answer = {"services": [_service("control", str(error))], "notices": []}
    found = list(answer["services"])
    for name in ("enroll", "page"):
        found.append(_service(name, _refused(run / name / HTTP_SOCKET)))
    found.append(_service("nginx", _not_running(run / "nginx" / "pid")))
    return {
        "services": found,
        "notices": list(answer["notices"]),
        "autonomy": answer.get("autonomy"),
    }


def _service(name: str, sentence: str | None) -> dict[str, Any]:
    return {"name": name, "ok": sentence is None, "since": None, "sentence": sentence}


def _refused(path: Path) -> str | None:
    """Say why a socket does not answer; None when it does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_SECONDS)
        try:
            sock.connect(str(path))
        except OSError as error:
            return f"no answer from {path}: {error.strerror or error}"
    return None


def _not_running(pid_file: Path) -> str | None:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except (OSError, ValueError):
        return "it does not run: it waits for `doorstep ca sign`, or see its log"
    return None
