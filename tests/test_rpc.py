"""Calls between processes: the kernel says who asks, a bad or slow peer costs nothing else."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keys.errors import SiteError
from keys.io.layout import SERVICES, Layout, users_from_text
from keys.io.rpc import (
    MAX_LINE,
    Method,
    Params,
    Refusal,
    RpcError,
    RpcServer,
    RpcUnavailableError,
    call,
)

USERS = {name: 61001 + index for index, name in enumerate(SERVICES)}


def _echo(user: str, params: Params) -> Params:
    if params.get("refuse"):
        raise Refusal("NO", "not today")
    return {"user": user, "said": params["say"]}


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    layout = Layout(site=tmp_path, state=tmp_path, run=tmp_path, users=USERS)
    (tmp_path / "keys").mkdir()
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_uid == os.getuid() and str(folder) != "/tmp":
            folder.chmod(0o755)
    everybody = frozenset({"operator", *SERVICES})
    server = RpcServer(
        layout,
        "keys",
        {
            "echo": Method(_echo, everybody),
            "enroll_only": Method(_echo, frozenset({"enroll"})),
        },
    )
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            server.turn(0.05)

    thread = threading.Thread(target=loop)
    thread.start()
    yield layout.socket("keys")
    stop.set()
    thread.join()
    server.close()


def _as_uid(uid: int, path: Path, method: str) -> str:
    """Call as another user, in a child, and return the user it was taken for or the code."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(uid)
            os.setuid(uid)
            os.write(write, call(path, method, {"say": 1}, timeout=5)["user"].encode())
        except RpcError as error:
            os.write(write, error.code.encode())
        finally:
            os._exit(0)  # a child of a fork never returns into the test runner
    os.close(write)
    os.waitpid(pid, 0)
    return os.read(read, 100).decode()


def test_the_kernel_says_who_asks(path: Path) -> None:
    assert call(path, "echo", {"say": "ä"}) == {"user": "operator", "said": "ä"}
    assert _as_uid(USERS["page"], path, "echo") == "page"
    assert _as_uid(USERS["page"], path, "enroll_only") == "FORBIDDEN"
    assert _as_uid(USERS["enroll"], path, "enroll_only") == "enroll"
    assert _as_uid(4711, path, "echo") == "FORBIDDEN"
    with pytest.raises(RpcError, match="operator may not call enroll_only"):
        call(path, "enroll_only", {"say": 1})


def test_refusals_carry_their_code(path: Path) -> None:
    with pytest.raises(RpcError, match="not today") as caught:
        call(path, "echo", {"refuse": True})
    assert caught.value.code == "NO"


@pytest.mark.parametrize(
    "line",
    [b"\n", b"{}\n", b"[]\n", b"7\n", b'{"method":7}\n', b'{"method":"x"}\n', b"\xff\n"]
    + [b'{"method":"echo","params":[]}\n', b'{"method":"echo","params":{}}\n', b"[" * 9999 + b"\n"],
)
def test_malformed_lines_are_answered_and_the_service_goes_on(path: Path, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(line)
        assert b'"MALFORMED"' in sock.recv(1000)
        sock.sendall(b'{"method":"echo","params":{"say":2}}\n')
        assert b'"said":2' in sock.recv(1000)


def test_silent_and_dribbling_peers_cost_nobody_else(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as slow:
        silent.connect(str(path))
        slow.connect(str(path))
        for byte in b'{"method":"echo","params":{"say":3}}\n':
            slow.sendall(bytes([byte]))
            assert call(path, "echo", {"say": byte}, timeout=2)["said"] == byte
        assert b'"said":3' in slow.recv(1000)


def test_an_endless_line_is_cut_off(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        with pytest.raises(OSError, match="."):
            for _ in range(MAX_LINE // 65536 + 64):
                sock.sendall(b"x" * 65536)
    assert call(path, "echo", {"say": 4})["said"] == 4


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(RpcUnavailableError, match="no answer"):
        call(tmp_path / "socket", "echo", timeout=0.2)


def test_big_messages_pass(path: Path) -> None:
    text = "x" * (MAX_LINE // 2)
    assert call(path, "echo", {"say": text})["said"] == text


@pytest.mark.parametrize("text", ["", "keys", "keys=1", "keys=a", "keys=1,keys=2,root=0"])
def test_users_must_be_all_and_no_others(text: str) -> None:
    with pytest.raises(SiteError, match="--users"):
        users_from_text(text)
