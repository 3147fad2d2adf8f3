"""`doorstep netboot explain`: the plan of a site file, its leases, and one client's packet.

It reads the site file and, where they are, the leases; it sends and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bootstrap.io.netboot_run import SiteCompiler
from netboot.asking import Asking
from netboot.dissect import dissect, dump
from netboot.explain import Explanation, explain
from netboot.io.leases import read_leases


def explain_client(file: Path, state: Path, asking: Asking) -> Explanation:
    """Say what a client is told; SiteFileError or SiteError when the file cannot be served."""
    compiler = SiteCompiler(file, state)
    plan = compiler.compile(keep=False)
    rules = tuple(rule.name for rule in compiler.read().boot.rules)
    leases = read_leases(state / "netboot" / "netboot.db")
    return explain(asking, plan.dhcp(), leases, time.time(), rules)


def lines(found: Explanation) -> Iterator[str]:
    """Write it for a person: why, then the answer byte by byte."""
    yield from found.reasons
    if found.reply is not None:
        yield ""
        yield from dump(found.reply.data)


def document(found: Explanation) -> dict[str, Any]:
    """Write it for a program."""
    reply = found.reply
    return {
        "reasons": list(found.reasons),
        "request": found.request.hex(),
        "reply": None if reply is None else reply.data.hex(),
        "fields": [
            {"at": one.at, "data": one.data.hex(), "name": one.name, "words": one.words}
            for one in (dissect(reply.data) if reply is not None else ())
        ],
        "sent": None
        if reply is None
        else {
            "via": reply.via.value,
            "interface": reply.interface,
            "source": str(reply.source),
            "destination": str(reply.destination),
            "port": reply.port,
            "delay": reply.delay,
        },
    }
