"""HTTP boot files on loopback: what is sent and told, slow, silent and many clients, real ones."""

import hashlib
import http.client
import os
import resource
import shutil
import socket
import subprocess
import threading
import time
from contextlib import closing
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from netboot.errors import SiteError
from netboot.files import FileMap
from netboot.http_message import RELAYED_LOCAL, RELAYED_PEER
from netboot.io.files import FileStore
from netboot.io.http import MAX_CONNECTIONS, HttpRunner
from netboot.io.listen import Relay, listen_tcp

HERE = IPv4Address("127.0.0.1")
KERNEL = bytes(range(256)) * 20_000
MIDDLE = bytes(1_500_000)


SIX = IPv6Address("::1")


class Server:
    """The real runner in a thread, on a port that the kernel chose."""

    def __init__(self, directory, relay: Relay | None = None) -> None:
        (directory / "files").mkdir()
        names = {"/vmlinuz": KERNEL, "/middle": MIDDLE, "/small.efi": b"MZ", "/empty": b""}
        digests = {path: hashlib.sha256(data).digest() for path, data in names.items()}
        for path, data in names.items():
            (directory / "files" / digests[path].hex()).write_bytes(data)
        self.events: list = []
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.runner = HttpRunner(
            FileStore(directory / "files"), self.events.extend, self.port, relay=relay
        )
        files = FileMap({**digests, "/lost": bytes(32)}, [HERE, SIX])
        self.runner.replace(files, [HERE, SIX])
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            self.runner.turn(0.05)

    def stop(self) -> None:
        self._end.set()
        self._thread.join()
        self.runner.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10)

    def wait_told(self, phase: str) -> dict:
        """Wait for an event of this phase."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            for event in tuple(self.events):
                if dict(event.detail)["phase"] == phase:
                    return {**dict(event.detail), "address": str(event.address)}
            time.sleep(0.01)
        raise AssertionError(f"{phase} was not told: {self.events}")


@pytest.fixture
def server(tmp_path):
    started = Server(tmp_path)
    yield started
    started.stop()


def fetch(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as client:
        client.request(method, path, headers=headers)
        answer = client.getresponse()
        return answer.status, answer.read()


def test_files_are_served_and_told(server: Server) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as client:
        client.request("HEAD", "/vmlinuz")
        head = client.getresponse()
        assert head.read() == b""
        assert head.headers["Content-Length"] == str(len(KERNEL))
        first = client.sock
        client.request("GET", "/vmlinuz")
        assert client.getresponse().read() == KERNEL
        before = int(time.time())
        client.request("GET", "/empty")
        empty = client.getresponse()
        assert empty.read() == b""
        date = parsedate_to_datetime(empty.headers["Date"]).timestamp()
        assert before <= date <= time.time()
        assert client.sock is first
    server.stop()
    told = [dict(event.detail) for event in server.events]
    kernel = [one for one in told if one["name"] == "/vmlinuz"]
    assert [one["phase"] for one in kernel] == ["start", "end"]
    assert (kernel[1]["sent"], kernel[1]["size"], kernel[1]["done"]) == (
        len(KERNEL),
        len(KERNEL),
        True,
    )


def test_refusals_are_apart(server: Server) -> None:
    assert fetch(server, "/nothing")[0] == 404
    assert fetch(server, "/../etc/passwd")[0] == 403
    assert fetch(server, "/f/%00")[0] == 403
    assert fetch(server, "/lost")[0] == 503
    assert fetch(server, "/vmlinuz", "POST")[0] == 405
    assert b"passwd" not in fetch(server, "/../etc/passwd")[1]
    server.stop()
    assert [event.reason for event in server.events] == [
        "NOT-FOUND",
        "FORBIDDEN",
        "FORBIDDEN",
        "LOST",
    ]


def test_many_ranges_are_one_event(server: Server) -> None:
    for start in range(0, 5_000_000, 500_000):
        status, body = fetch(server, "/vmlinuz", Range=f"bytes={start}-{start + 99_999}")
        assert (status, body) == (206, KERNEL[start : start + 100_000])
    server.stop()
    assert [dict(event.detail)["phase"] for event in server.events] == ["start", "end"]
    assert dict(server.events[1].detail)["done"] is False


def test_hundreds_of_pipelined_requests_are_all_answered(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(b"GET /small.efi HTTP/1.1\r\nHost:\r\n\r\n" * 599)
        sock.sendall(b"GET /small.efi HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n")
        received = bytearray()
        while data := sock.recv(65536):
            received += data
    assert received.count(b"HTTP/1.1 200 OK") == 600


def test_slow_and_silent_clients_cost_others_nothing(server: Server) -> None:
    silent = [server.connect() for _ in range(50)]
    for number, sock in enumerate(silent):
        if number % 2:
            sock.send(b"GET /vmlinuz HTTP/1.1\r\nHo")
    stuck = server.connect()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.send(b"GET /vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert fetch(server, "/vmlinuz") == (200, KERNEL)
    for sock in (*silent, stuck):
        sock.close()


def test_a_head_that_never_ends_is_refused(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 9000)
        assert sock.recv(100).startswith(b"HTTP/1.1 431 ")


def request(*fields: str, path: str = "/small.efi") -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *fields, "", "")).encode()


def test_who_asks_by_tcp_cannot_say_for_whom(server: Server) -> None:
    claims = (f"{RELAYED_PEER}: 10.9.9.9", f"{RELAYED_LOCAL}: 10.9.9.1")
    with server.connect() as sock:
        sock.sendall(request(*claims))
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert server.wait_told("end")["address"] == "127.0.0.1"


@pytest.fixture
def relayed(tmp_path):
    started = Server(tmp_path, Relay(path=tmp_path / "http", uid=os.getuid()))
    yield started, tmp_path / "http"
    started.stop()


def ask_by_socket(path: Path, *fields: str) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        sock.sendall(request(*fields))
        return sock.recv(4096)


def test_nginx_says_for_whom(relayed) -> None:
    server, path = relayed
    here = f"{RELAYED_LOCAL}: 127.0.0.1"
    assert b" 200 OK" in ask_by_socket(path, f"{RELAYED_PEER}: 2001:db8::7", here)
    assert server.wait_told("end")["address"] == "2001:db8::7"
    assert b" 403 " in ask_by_socket(path, f"{RELAYED_PEER}: ::1", f"{RELAYED_LOCAL}: 10.9.9.1")
    for fields in ((), (f"{RELAYED_PEER}: 10.0.0.1",), (f"{RELAYED_PEER}: x", here)):
        assert b" 400 " in ask_by_socket(path, *fields)


def test_a_relay_of_another_user_is_not_heard(tmp_path) -> None:
    started = Server(tmp_path, Relay(path=tmp_path / "http", uid=os.getuid() + 1))
    try:
        assert ask_by_socket(tmp_path / "http") == b""
    except ConnectionError:
        pass
    finally:
        started.stop()
    assert started.events == []


def test_ipv6_clients_are_served_and_told(server: Server) -> None:
    with closing(http.client.HTTPConnection("::1", server.port, timeout=10)) as client:
        client.request("GET", "/vmlinuz")
        assert client.getresponse().read() == KERNEL
    assert server.wait_told("end")["address"] == "::1"


def test_progress_is_told_while_a_client_takes_its_time(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(request(path="/vmlinuz"))
        taken = 0
        while not any(dict(event.detail)["phase"] == "progress" for event in server.events):
            taken += len(sock.recv(20_000))
            assert taken < len(KERNEL), "all came before it was told how far"
            time.sleep(0.03)
    told = server.wait_told("progress")
    assert 0 < told["sent"] < told["size"] == len(KERNEL)
    broken = server.wait_told("end")
    assert broken["done"] is False
    assert broken["sent"] < len(KERNEL)


def test_what_the_kernel_holds_for_a_client_that_died_has_not_been_loaded(server: Server) -> None:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.connect(("127.0.0.1", server.port))
    sock.sendall(request(path="/middle"))
    assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK")
    server.wait_told("start")
    sock.close()
    told = server.wait_told("end")
    assert told["done"] is False
    assert told["sent"] < len(MIDDLE) // 2


def test_a_download_that_is_taken_up_again_is_done_in_the_end(server: Server) -> None:
    half = len(KERNEL) // 2
    with server.connect() as sock:
        sock.sendall(request(f"Range: bytes=0-{half - 1}", path="/vmlinuz"))
        received = bytearray()
        while len(received) < half:
            received += sock.recv(65536)
    assert server.wait_told("end")["sent"] == half
    assert fetch(server, "/vmlinuz", Range=f"bytes={half}-")[1] == KERNEL[half:]
    server.stop()
    last = dict(server.events[-1].detail)
    assert (last["sent"], last["done"]) == (len(KERNEL), True)


def test_thousands_of_idle_connections_cost_a_client_nothing(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= 4 * MAX_CONNECTIONS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4 * MAX_CONNECTIONS), hard))
    idle = []
    try:
        for _ in range(MAX_CONNECTIONS + 500):
            idle.append(server.connect())
        assert fetch(server, "/vmlinuz") == (200, KERNEL)
    finally:
        for sock in idle:
            sock.close()


def test_who_holds_most_makes_room(tmp_path) -> None:
    greedy, modest = "127.0.0.2", "127.0.0.3"
    server = Server(tmp_path)
    server.runner._most = 40

    def connect(source: str) -> socket.socket:
        to = ("127.0.0.1", server.port)
        return socket.create_connection(to, 10, source_address=(source, 0))

    first = connect(modest)
    held = [connect(greedy) for _ in range(100)]
    first.sendall(request())
    assert first.recv(4096).startswith(b"HTTP/1.1 200 OK")
    for sock in (first, *held):
        sock.close()
    server.stop()


def test_an_address_that_cannot_be_served_changes_nothing(server: Server) -> None:
    with closing(listen_tcp(IPv4Address("127.0.0.9"), server.port)):
        wanted = [HERE, IPv4Address("127.0.0.8"), IPv4Address("127.0.0.9")]
        with pytest.raises(SiteError, match=r"127\.0\.0\.9"):
            server.runner.replace(FileMap(), wanted)
        listen_tcp(IPv4Address("127.0.0.8"), server.port).close()
    assert fetch(server, "/small.efi") == (200, b"MZ")


CURL = ["curl", "-sS", "--fail", "--max-time", "20"]
WGET = ["wget", "-q", "-T", "20", "-O"]


def run_client(*command: str) -> bytes:
    assert shutil.which(command[0]), f"apt-get install {command[0]}"
    return subprocess.run(command, capture_output=True, check=True, timeout=30).stdout


def test_curl_and_wget(server: Server, tmp_path) -> None:
    url = f"http://127.0.0.1:{server.port}/vmlinuz"
    out = tmp_path / "out"
    assert run_client(*CURL, url) == KERNEL
    assert run_client(*CURL, "--http1.0", url) == KERNEL
    assert run_client(*CURL, "-r", "5-9", url) == KERNEL[5:10]
    out.write_bytes(KERNEL[:1_000_000])
    run_client(*CURL, "-C", "-", "-o", str(out), url)
    assert out.read_bytes() == KERNEL
    each = ["-o", os.devnull, "-w", "%{num_connects}"]
    assert run_client(*CURL, *each, url, *each[:2], url) == b"10"
    run_client(*WGET, str(out), url)
    assert out.read_bytes() == KERNEL
    out.write_bytes(KERNEL[:1_000_000])
    run_client("wget", "-q", "-T", "20", "-c", "-O", str(out), url)
    assert out.read_bytes() == KERNEL


FIRMWARE = (
    ("Host: 127.0.0.1", "Accept: */*", "User-Agent: UefiHttpBoot/1.0"),
    ("Connection: keep-alive", "User-Agent: iPXE/1.21.1+git", "Host: 127.0.0.1"),
    ("Host: 127.0.0.1", "User-Agent: GRUB 2.12-9"),
)


@pytest.mark.parametrize("fields", FIRMWARE, ids=["edk2", "ipxe", "grub"])
def test_t23_firmware_asks_for_the_head_and_gets_the_file_on_one_connection(server, fields) -> None:
    with server.connect() as sock, sock.makefile("rb") as answer:
        for method in ("HEAD", "GET"):
            head = "\r\n".join((f"{method} /vmlinuz HTTP/1.1", *fields, "", ""))
            sock.sendall(head.encode())
            assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
            told = http.client.parse_headers(answer)
            assert told["Content-Length"] == str(len(KERNEL))
        assert answer.read(len(KERNEL)) == KERNEL
