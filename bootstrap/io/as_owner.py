"""Does one piece of work as the user of a service, in a child of its own; for root's commands.

No process opens another's database: a command that needs one becomes its owner first.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bootstrap.errors import BootstrapError, SiteError
from bootstrap.io.supervisor import gid_of
from keys.errors import KeysError

_KNOWN = (KeysError, BootstrapError, OSError, sqlite3.Error, ValueError)


def as_owner(
    uid: int, work: Callable[[], Mapping[str, Any]], groups: tuple[int, ...] = ()
) -> Mapping[str, Any]:
    """Do it as this user and give what it gives (JSON); SiteError with its sentence otherwise."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            status = _work(uid, work, groups, writer)
        finally:
            os._exit(status)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as file:
            said = file.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.waitpid(child, 0)
    answer = json.loads(said or b'{"error":"it ended without a word"}')
    if "error" in answer:
        raise SiteError(str(answer["error"]))
    found: Mapping[str, Any] = answer["done"]
    return found


def _work(
    uid: int, work: Callable[[], Mapping[str, Any]], groups: tuple[int, ...], writer: int
) -> int:
    answer: dict[str, Any]
    try:
        if os.geteuid() != uid:
            gid = gid_of(uid)
            os.setgroups(list(groups))
            os.setgid(gid)
            os.setuid(uid)
        answer = {"done": dict(work())}
    except _KNOWN as error:
        answer = {"error": str(error)}
    with os.fdopen(writer, "wb") as file:
        file.write(json.dumps(answer).encode())
    return 0


def copy_database(source: Path, target: Path) -> Mapping[str, Any]:
    """Copy a database as it is at one moment, while its process goes on writing; as its owner.

    VACUUM INTO reads in one transaction: a writer is not kept waiting in WAL mode, and the copy is
    one file.
    """
    database = sqlite3.connect(f"file:{source}?mode=rw", uri=True, timeout=20.0)
    try:
        database.execute("VACUUM INTO ?", (str(target),))
    finally:
        database.close()
    target.chmod(0o600)
    return {"size": target.stat().st_size}
