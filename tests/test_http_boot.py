"""HTTP boot files: request heads, ranges and types on bytes; slow and many clients on loopback."""

import hashlib
import http.client
import socket
import threading
from contextlib import closing
from http import HTTPStatus
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.files import FileMap
from netboot.http_message import (
    Method,
    Request,
    RequestError,
    decode_request,
    media_type,
    refuse,
    send_file,
)
from netboot.io.files import FileStore
from netboot.io.http import HttpRunner

DIGEST = bytes(range(32))
TAG = f'"{DIGEST.hex()}"'


def get(**changes) -> Request:
    return Request(**{"method": Method.GET, "path": "/x", "keep": True, **changes})


def fields(head: bytes) -> dict[str, str]:
    lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


def test_a_request_is_read() -> None:
    request = decode_request(
        b"GET /a%20b?q HTTP/1.1\r\nhost: x\r\nRange: bytes=0-1 \r\nRange: bytes=5-6"
    )
    assert request == get(path="/a b", range="bytes=0-1")
    absolute = decode_request(b"HEAD http://10.41.7.2/f/x HTTP/1.1\r\nHost: x\r\nConnection: Close")
    assert (absolute.method, absolute.path, absolute.keep) == (Method.HEAD, "/f/x", False)
    assert decode_request(b"GET http://x HTTP/1.0").path == "/"
    old = decode_request(b"GET / HTTP/1.0\r\nConnection: keep-alive")
    assert old.keep is True
    assert decode_request(b"GET / HTTP/1.0").keep is False


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"GET /x", 400),
        (b"GET  /x HTTP/1.1", 400),
        (b"GET x HTTP/1.1\r\nHost: x", 400),
        (b"GET /x HTTP/2.0\r\nHost: x", 400),
        (b"GET /x HTTP/1.1", 400),
        (b"GET /x HTTP/1.1\r\nHost: x\r\nHost: y", 400),
        (b"GET /x HTTP/1.1\r\nHost : x", 400),
        (b"GET /x HTTP/1.1\r\nHost: x\r\n folded", 400),
        (b"GET /x HTTP/1.1\r\nHost: x\nA: b", 400),
        (b"GET /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1", 400),
        (b"GET /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked", 400),
        (b"POST /x HTTP/1.1\r\nHost: x", 405),
        (b"GET /x HTTP/1.1\r\nHost: x" + b"\r\na: b" * 70, 431),
    ],
)
def test_what_is_wrong_has_its_status(head: bytes, status: int) -> None:
    with pytest.raises(RequestError) as caught:
        decode_request(head)
    assert caught.value.status == status
    assert b"Allow: GET, HEAD" in refuse(HTTPStatus.METHOD_NOT_ALLOWED, "x", keep=False).head


RANGES = [
    (None, 200, 0, 1000),
    ("bytes=0-0", 206, 0, 1),
    ("bytes=10-19", 206, 10, 10),
    ("bytes=990-", 206, 990, 10),
    ("bytes=990-5000", 206, 990, 10),
    ("bytes=-10", 206, 990, 10),
    ("bytes=-5000", 206, 0, 1000),
    ("bytes=1000-", 416, 0, 0),
    ("bytes=-0", 416, 0, 0),
    ("bytes=9-3", 200, 0, 1000),
    ("bytes=-", 200, 0, 1000),
    ("bytes=0-1,5-6", 200, 0, 1000),
    ("lines=0-1", 200, 0, 1000),
]


@pytest.mark.parametrize(("text", "status", "offset", "length"), RANGES)
def test_ranges(text, status, offset, length) -> None:
    response = send_file(get(range=text), path="/x", sha256=DIGEST, size=1000)
    assert (response.status, response.offset, response.length) == (status, offset, length)
    told = fields(response.head)
    assert told["Content-Length"] == str(length)
    if status == 206:
        assert told["Content-Range"] == f"bytes {offset}-{offset + length - 1}/1000"
    if status == 416:
        assert told["Content-Range"] == "bytes */1000"


def test_if_range_and_if_none_match_compare_the_digest() -> None:
    def status(**changes) -> int:
        request = get(range="bytes=1-2", **changes)
        return send_file(request, path="/x", sha256=DIGEST, size=9).status

    assert status(if_range=TAG) == 206
    assert status(if_range='"other"') == 200
    assert status(if_none_match=TAG) == 304
    assert status(if_none_match=f'"a", W/{TAG}') == 304
    assert status(if_none_match='"a"') == 206


def test_t23_head_tells_the_length_and_sends_nothing() -> None:
    response = send_file(get(method=Method.HEAD), path="/x", sha256=DIGEST, size=77)
    assert fields(response.head)["Content-Length"] == "77"
    assert response.length == 0


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/shimx64.efi", "application/efi"),
        ("/A.EFI", "application/efi"),
        ("/d.iso", "application/vnd.efi-iso"),
        ("/d.img", "application/vnd.efi-img"),
        ("/grub/grub.cfg", "text/plain"),
        ("/f/00/vmlinuz", "application/octet-stream"),
    ],
)
def test_t23_types_decide_loader_or_disk(path, kind) -> None:
    assert media_type(path) == kind


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120), st.text(max_size=20))
def test_any_bytes_give_a_request_or_our_error(noise: bytes, text: str) -> None:
    for head in (noise, b"GET /" + noise + b" HTTP/1.1\r\nHost: x", b"GET / HTTP/1.0\r\n" + noise):
        try:
            request = decode_request(head)
        except RequestError as error:
            assert 400 <= error.status < 500
        else:
            response = send_file(request, path="/x", sha256=DIGEST, size=10)
            assert response.offset + response.length <= 10
    response = send_file(get(range=f"bytes={text}"), path="/x", sha256=DIGEST, size=10)
    assert 0 <= response.offset <= response.offset + response.length <= 10


HERE = IPv4Address("127.0.0.1")
KERNEL = bytes(range(256)) * 20_000


class Server:
    """The real runner in a thread, on a port that the kernel chose."""

    def __init__(self, directory) -> None:
        (directory / "files").mkdir()
        names = {"/vmlinuz": KERNEL, "/small.efi": b"MZ", "/empty": b""}
        digests = {path: hashlib.sha256(data).digest() for path, data in names.items()}
        for path, data in names.items():
            (directory / "files" / digests[path].hex()).write_bytes(data)
        self.events: list = []
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.runner = HttpRunner(FileStore(directory / "files"), self.events.extend, self.port)
        self.runner.replace(FileMap({**digests, "/lost": bytes(32)}, [HERE]), [HERE])
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
        client.request("GET", "/empty")
        assert client.getresponse().read() == b""
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
