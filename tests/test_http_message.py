"""HTTP heads on bytes: requests in, answers out, ranges, types and dates."""

from http import HTTPStatus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.http_message import (
    Method,
    Request,
    RequestError,
    decode_request,
    encode_date,
    media_type,
    refuse,
    send_file,
)

DIGEST = bytes(range(32))
NOW = encode_date(1_800_000_000)
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
    refused = refuse(HTTPStatus.METHOD_NOT_ALLOWED, "x", keep=False, date=NOW)
    assert b"Allow: GET, HEAD" in refused.head


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
    response = send_file(get(range=text), path="/x", sha256=DIGEST, date=NOW, size=1000)
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
        return send_file(request, path="/x", sha256=DIGEST, date=NOW, size=9).status

    assert status(if_range=TAG) == 206
    assert status(if_range='"other"') == 200
    assert status(if_none_match=TAG) == 304
    assert status(if_none_match=f'"a", W/{TAG}') == 304
    assert status(if_none_match='"a"') == 206


def test_t23_head_tells_the_length_and_sends_nothing() -> None:
    response = send_file(get(method=Method.HEAD), path="/x", sha256=DIGEST, date=NOW, size=77)
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
            response = send_file(request, path="/x", sha256=DIGEST, date=NOW, size=10)
            assert response.offset + response.length <= 10
    response = send_file(get(range=f"bytes={text}"), path="/x", sha256=DIGEST, date=NOW, size=10)
    assert 0 <= response.offset <= response.offset + response.length <= 10


@pytest.mark.parametrize("more", [b"", b"\r\nX-Padding: " + b"p" * 2000])
def test_a_range_changes_nothing_else_of_a_head_that_came_before(more: bytes) -> None:
    head = b"GET /x HTTP/1.1\r\nHost: x\r\n%bIf-Range: a" + more
    whole = decode_request(head % b"")
    assert whole == get(if_range="a")
    for text in ("bytes=0-1", "bytes=2-", "bytes=-3", "bytes=4-4,6-7", "lines=1-2"):
        asked = decode_request(head % b"Range: %b\r\n" % text.encode())
        assert asked == get(if_range="a", range=text)
    assert decode_request(head % b"") == whole
    last = decode_request(b"GET /x HTTP/1.1\r\nHost: x\r\nRange: bytes=7-8")
    assert last == get(range="bytes=7-8")
    with pytest.raises(RequestError):
        decode_request(b"GET /x HTTP/1.1\r\nRange: bytes=7-8\r\nHost: x\r\n folded")


def test_the_first_of_two_ranges_counts_in_any_spelling() -> None:
    head = b"GET /x HTTP/1.1\r\nHost: x\r\n%b\r\n%b"
    simple, odd = b"Range: bytes=5-6", b"RANGE:bytes=0-1"
    assert decode_request(head % (simple, odd)).range == "bytes=5-6"
    assert decode_request(head % (odd, simple)).range == "bytes=0-1"
    assert decode_request(head % (simple, b"Range: bytes=0-1")).range == "bytes=5-6"


def test_every_answer_says_when_it_was_made() -> None:
    """RFC 9110, 6.6.1 and 5.6.7."""
    assert encode_date(784111777) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    made = encode_date(784111777)
    answers = [
        send_file(request, path="/x", sha256=DIGEST, size=10, date=made)
        for request in (
            get(),
            get(method=Method.HEAD),
            get(range="bytes=1-2"),
            get(range="bytes=10-"),
            get(if_none_match=TAG),
        )
    ]
    answers += [
        refuse(status, "x", keep=True, date=made)
        for status in (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE)
    ]
    assert [one.status for one in answers] == [200, 200, 206, 416, 304, 404, 503]
    assert all(fields(one.head)["Date"] == made.decode() for one in answers)
