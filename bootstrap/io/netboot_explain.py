"""`doorstep netboot explain`: the plan of a site file, its leases, and one client's packet.

It reads the site file and, where they are, the leases; it sends and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bootstrap.io.netboot_run import SiteCompiler
from netboot.asking import Asking, vendor_class_of
from netboot.dissect import dissect, dump
from netboot.explain import Explanation, explain
from netboot.explain6 import Asking6, Explanation6, explain6
from netboot.io.leases import read_leases


def explain_client(file: Path, state: Path, asking: Asking) -> Explanation:
    """Say what a client is told; SiteFileError or SiteError when the file cannot be served."""
    compiler = SiteCompiler(file, state)
    plan = compiler.compile(keep=False)
    rules = tuple(rule.name for rule in compiler.read().boot.rules)
    leases = read_leases(state / "netboot" / "netboot.db")
    return explain(asking, plan.dhcp(), leases, time.time(), rules)


def explain_client6(file: Path, state: Path, said: Mapping[str, Any]) -> Explanation6:
    """Say what a client is told over IPv6; errors as `explain_client`.

    Without an interface, the first that is served.
    """
    plan = SiteCompiler(file, state).compile(keep=False)
    served = [one.interface for one in plan.subnets6 if not one.relayed and one.dhcp != "off"]
    asking = Asking6(
        mac=said["mac"],
        interface=said["interface"] or (served[0] if served else ""),
        uuid=said["uuid"],
        architectures=said["architectures"],
        vendor_class=said["vendor_class"].encode() or vendor_class_of(said["architectures"]),
        user_class=said["user_class"].encode(),
        relay=said["relay"],
    )
    return explain6(asking, plan.dhcp6(), (), time.time())


def lines6(found: Explanation6) -> Iterator[str]:
    """Write it for a person: option by option, then the bytes."""
    if found.reply is None:
        yield "nothing is answered: no subnet6 is served there, or nothing is asked that is ours"
        return
    reply = found.reply
    yield f"sent: to {reply.destination} port {reply.port} on {reply.interface}"
    for option in found.options:
        yield f"option {option.code}: {option.words}"
    yield ""
    for at in range(0, len(reply.data), 16):
        yield f"{at:04x}  {reply.data[at : at + 16].hex(' ')}"


def document6(found: Explanation6) -> dict[str, Any]:
    """Write it for a program."""
    return {
        "request": found.request.hex(),
        "reply": None if found.reply is None else found.reply.data.hex(),
        "options": [
            {"code": one.code, "data": one.data.hex(), "words": one.words} for one in found.options
        ],
    }


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
