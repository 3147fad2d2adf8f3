"""The wire between a controller and its software TPM: written down, and cut where a test wants it.

A process of its own stands between both: it counts commands and, at the one that it was armed for,
ends the controller's process, the TPM, or both, before the command, in it, or after it and before
the answer. Everything that passes, both ways, is appended to a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from cache_lab import ControllerTpm

from keys.errors import KeysError

WAIT = 30.0


class Dies(StrEnum):
    """Who is killed."""

    PROCESS = "process"
    POWER = "power"
    TPM = "tpm"


class When(StrEnum):
    """When, seen from a command."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """At which command from now on what happens; `at` counts from 1."""

    at: int
    dies: Dies
    when: When


class Wire:
    """A software TPM behind a process that listens in; `tcti` is for the controller."""

    def __init__(
        self,
        directory: Path,
        *,
        record: Path | None = None,
        setup: bool = True,
        tpm: ControllerTpm | None = None,
    ) -> None:
        """Start both; without `setup` the state of the TPM is there already.

        A `tpm` that somebody else starts and ends is only listened to.
        """
        self.directory = directory
        self._path = directory / "wire.sock"
        self.tcti = f"swtpm:path={self._path}"
        self.sockets = (self._path, Path(f"{self._path}.ctrl"))
        self._control, theirs = socket.socketpair()
        self._control.settimeout(WAIT)
        self._pid = os.fork()
        if self._pid == 0:
            self._control.close()
            made = tpm or (lambda: ControllerTpm(directory) if setup else _KeptTpm(directory))
            _stand_between(made, self._path, theirs, record)
        theirs.close()
        self._answer()

    def arm(self, cut: Cut | None) -> None:
        """Arm or disarm, and count from one again."""
        self._ask("arm", None if cut is None else asdict(cut))

    def power_cycle(self) -> None:
        """Cut the TPM's power and give it again."""
        self._ask("power-cycle", None)

    def commands(self) -> int:
        """Count the commands since it was armed last."""
        return int(self._ask("count", None))

    def seconds(self) -> float:
        """Give what the TPM took for the commands since it was armed last."""
        return float(self._ask("seconds", None))

    def close(self) -> None:
        """End the TPM and the process."""
        with contextlib.suppress(OSError, AssertionError):
            self._ask("end", None)
        self._control.close()
        os.waitpid(self._pid, 0)

    def _ask(self, what: str, value: object) -> Any:
        self._control.sendall(json.dumps([what, value]).encode() + b"\n")
        return self._answer()

    def _answer(self) -> Any:
        data = self._control.recv(65536)
        assert data, "the process on the TPM's wire ended"
        return json.loads(data)


def _stand_between(
    made: ControllerTpm | Callable[[], ControllerTpm],
    path: Path,
    control: socket.socket,
    record: Path | None,
) -> None:
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        tpm = made if isinstance(made, ControllerTpm) else made()
        try:
            _Middle(tpm, path, control, record).serve()
            status = 0
        finally:
            if tpm is not made:
                tpm.close()
    finally:
        os._exit(status)


class _KeptTpm(ControllerTpm):
    """One whose state is there already."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "tpm"
        self._process = None
        self._socket = directory / "tpm.sock"
        self.tcti = f"swtpm:path={self._socket}"
        self.sockets = (self._socket, Path(f"{self._socket}.ctrl"))
        self.power_on()


class _Middle:
    def __init__(
        self, tpm: ControllerTpm, path: Path, control: socket.socket, record: Path | None
    ) -> None:
        self._tpm, self._control = tpm, control
        self._record = record
        self._cut: Cut | None = None
        self._count = 0
        self._seconds = 0.0
        self._selector = selectors.DefaultSelector()
        for name, upstream in zip((path, Path(f"{path}.ctrl")), tpm.sockets, strict=True):
            listener = socket.socket(socket.AF_UNIX)
            name.unlink(missing_ok=True)
            listener.bind(str(name))
            listener.listen(8)
            self._selector.register(listener, selectors.EVENT_READ, ("accept", upstream))
        self._selector.register(control, selectors.EVENT_READ, ("control", None))
        control.sendall(b"true")

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                kind, about = key.data
                if kind == "control" and not self._obey():
                    return
                if kind == "accept":
                    self._accept(key.fileobj, about)
                if kind == "talk":
                    self._pass_on(key.fileobj, about)

    def _obey(self) -> bool:
        data = self._control.recv(65536)
        what, value = json.loads(data) if data else ("end", None)
        if what == "end":
            return False
        answer: object = True
        if what == "arm":
            self._count, self._seconds = 0, 0.0
            self._cut = value and Cut(
                at=value["at"], dies=Dies(value["dies"]), when=When(value["when"])
            )
        elif what == "count":
            answer = self._count
        elif what == "seconds":
            answer = self._seconds
        else:
            self._tpm.power_cycle()
        self._control.sendall(json.dumps(answer).encode())
        return True

    def _accept(self, listener: Any, upstream: Path) -> None:
        client, _ = listener.accept()
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(upstream))  # with a time limit a full backlog would be an error
            server.settimeout(WAIT)
        except OSError:
            client.close()
            server.close()
            return
        is_data = upstream == self._tpm.sockets[0]
        self._selector.register(client, selectors.EVENT_READ, ("talk", (server, is_data)))

    def _pass_on(self, client: Any, about: tuple[socket.socket, bool]) -> None:
        server, is_data = about
        try:
            if not (self._command if is_data else self._whatever)(client, server):
                raise ConnectionError("it has gone")
        except OSError:
            self._selector.unregister(client)
            client.close()
            server.close()

    def _whatever(self, client: Any, server: socket.socket) -> bool:
        """Pass on what the control channel says; its answers come in one piece."""
        data = client.recv(4096)
        if data:
            server.sendall(data)
            client.sendall(server.recv(4096))
        return bool(data)

    def _command(self, client: Any, server: socket.socket) -> bool:
        command = _message(client)
        if command is None:
            return False
        self._write_down(b">", command)
        self._count += 1
        cut = self._cut if self._cut is not None and self._cut.at == self._count else None
        if cut is not None and cut.when is When.BEFORE:
            return self._kill(cut, client, server)
        began = time.perf_counter()
        server.sendall(command)
        if cut is not None and cut.when is When.DURING:
            return self._kill(cut, client, server)
        answer = _message(server)
        self._seconds += time.perf_counter() - began
        if cut is not None:
            return self._kill(cut, client, server)
        if answer is None:
            return False
        self._write_down(b"<", answer)
        client.sendall(answer)
        return True

    def _kill(self, cut: Cut, client: Any, server: socket.socket) -> bool:
        server.close()  # a software TPM talks to one at a time
        if cut.dies is not Dies.TPM:
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            os.kill(struct.unpack("3i", credentials)[0], signal.SIGKILL)
        if cut.dies is Dies.PROCESS:
            let_go(self._tpm)
        else:
            self._tpm.power_cycle()
        self._cut = None
        return False

    def _write_down(self, direction: bytes, data: bytes) -> None:
        if self._record is not None:
            with self._record.open("ab") as file:
                file.write(direction + struct.pack(">I", len(data)) + data)


def let_go(tpm: ControllerTpm) -> None:
    """Flush what a dead process has left in the TPM, as the kernel's /dev/tpmrm0 does."""
    for kind in (0x80000000, 0x02000000, 0x03000000):  # transient objects, sessions
        answer = tpm.command(struct.pack(">HIIIII", 0x8001, 22, 0x17A, 1, kind, 64))
        for handle in struct.unpack(f">{(len(answer) - 19) // 4}I", answer[19:]):
            tpm.command(struct.pack(">HIII", 0x8001, 14, 0x165, handle))


def _message(sock: Any) -> bytes | None:
    """Read a command or an answer: tag, size, code (Part 1, 18.1); None at the end."""
    data = b""
    while len(data) < 10 or len(data) < int.from_bytes(data[2:6], "big"):
        more = sock.recv(65536)
        if not more:
            return None
        data += more
    return data


def told_by(work: Callable[[Callable[[dict[str, Any]], None]], None]) -> list[dict[str, Any]]:
    """Fork, work, and give the lines that the child told until it ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 0

        def tell(line: dict[str, Any]) -> None:
            os.write(writer, json.dumps(line).encode() + b"\n")

        try:
            work(tell)
        except KeysError as error:
            tell({"error": str(error)})
        except BaseException:  # noqa: BLE001 - a forked child must not go on as its parent
            traceback.print_exc()
            status = 1
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        lines = file.read().splitlines()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        raise AssertionError(f"the process crashed with {code}")
    return [json.loads(line) for line in lines]
