"""HTTP/1.1 for boot files: request heads in, response heads out.

It knows GET and HEAD of whole files or one range, and never a body nor a clock: answers have the
`date` that they are given. RFC 9110 and 9112; the media types that UEFI firmware decides by are
those of the UEFI specification, 24.7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from netboot.errors import PeerError

MAX_HEAD = 8192
MAX_FIELDS = 64
END = b"\r\n\r\n"
RELAYED_PEER, RELAYED_LOCAL = "X-Doorstep-Address", "X-Doorstep-Local"
"""Fields in which nginx says which address asks, and which of ours it asked."""

_PEER_FIELD, _LOCAL_FIELD = RELAYED_PEER.lower(), RELAYED_LOCAL.lower()
_CACHED = 256
_MOST_CACHED = 1024
"""Bytes of a request head that is decoded once and remembered: clients send the same ones."""

_LINE = re.compile(rb"([A-Z]{1,16}) ([\x21-\x7e]{1,2048}) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_RANGE_FIELD = re.compile(rb"\r\n[Rr]ange: (bytes=[0-9-]+)(?=\r\n|\Z)")

TYPES = {
    ".efi": "application/efi",
    ".iso": "application/vnd.efi-iso",
    ".img": "application/vnd.efi-img",
    ".cfg": "text/plain",
    ".ipxe": "text/plain",
}
"""What firmware makes of a download: a loader, or a disk (T23)."""


class RequestError(PeerError):
    """A request that cannot be answered as asked: `status` is the answer, then the line ends."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        """Keep status and sentence apart."""
        super().__init__(message)
        self.status = status


class Method(Enum):
    """The methods that are served."""

    GET = b"GET"
    HEAD = b"HEAD"


_METHODS = {method.value: method for method in Method}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request: `path` percent-decoded as Latin-1, without the query; `keep` the connection.

    `relayed_peer` and `relayed_local` are claims, to be believed of our own TLS terminator alone.
    """

    method: Method
    path: str
    keep: bool
    range: str | None = None
    if_range: str | None = None
    if_none_match: str | None = None
    relayed_peer: str | None = None
    relayed_local: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A head as bytes, then `length` bytes of the file from `offset` (0 for none)."""

    status: HTTPStatus
    head: bytes
    offset: int = 0
    length: int = 0


def decode_request(head: bytes) -> Request:
    """Read a request head, without its empty line; RequestError says how to answer."""
    if len(head) > _MOST_CACHED:
        return _decode(head)
    found = _RANGE_FIELD.search(head)
    if found is None:
        return _decode_cached(head)
    # Who loads a file piece by piece sends one head again and again, but for the range.
    one = _decode_cached(head[: found.start()] + head[found.end() :])
    if one.range is not None:
        return _decode(head)  # the first of two counts
    return Request(
        method=one.method,
        path=one.path,
        keep=one.keep,
        range=found[1].decode("ascii"),
        if_range=one.if_range,
        if_none_match=one.if_none_match,
        relayed_peer=one.relayed_peer,
        relayed_local=one.relayed_local,
    )


def _decode(head: bytes) -> Request:
    line, *rest = head.split(b"\r\n")
    found = _LINE.fullmatch(line)
    if found is None:
        raise RequestError(HTTPStatus.BAD_REQUEST, "malformed request line")
    is_new = found[3] == b"1"
    fields = _decode_fields(rest)
    if is_new and "host" not in fields:
        raise RequestError(HTTPStatus.BAD_REQUEST, "a Host field is missing")
    method = _METHODS.get(found[1])
    if method is None:
        raise RequestError(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only")
    if "transfer-encoding" in fields or fields.get("content-length", "0") != "0":
        raise RequestError(HTTPStatus.BAD_REQUEST, "nothing is uploaded here")
    return Request(
        method=method,
        path=_decode_target(found[2]),
        keep=_is_kept(fields.get("connection", ""), is_new),
        range=fields.get("range"),
        if_range=fields.get("if-range"),
        if_none_match=fields.get("if-none-match"),
        relayed_peer=fields.get(_PEER_FIELD),
        relayed_local=fields.get(_LOCAL_FIELD),
    )


_decode_cached = lru_cache(maxsize=_CACHED)(_decode)


def _is_kept(connection: str, is_new: bool) -> bool:
    options = {part.strip().lower() for part in connection.split(",")} if connection else set()
    return "close" not in options if is_new else "keep-alive" in options


def _decode_fields(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > MAX_FIELDS:
        raise RequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many fields")
    fields: dict[str, str] = {}
    for line in lines:
        name, value = _decode_field(line)
        if name not in fields:
            fields[name] = value
        elif name in ("host", "content-length", "transfer-encoding"):
            raise RequestError(HTTPStatus.BAD_REQUEST, f"{name} is there twice")
    return fields


def _decode_field(line: bytes) -> tuple[str, str]:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise RequestError(HTTPStatus.BAD_REQUEST, "malformed field")
    return found[1].decode("ascii").lower(), found[2].decode("latin-1").rstrip(" \t")


def _decode_target(target: bytes) -> str:
    """Give the path of an origin-form or absolute-form target (RFC 9112, 3.2)."""
    if target[:7].lower() == b"http://":
        _, slash, path = target[7:].partition(b"/")
        target = slash + path or b"/"
    if not target.startswith(b"/"):
        raise RequestError(HTTPStatus.BAD_REQUEST, "malformed target")
    return unquote_to_bytes(target.partition(b"?")[0]).decode("latin-1")


def media_type(path: str) -> str:
    """Name the type of a file by its suffix."""
    suffix = path[path.rfind(".") :].lower() if "." in path else ""
    return TYPES.get(suffix, "application/octet-stream")


@lru_cache(maxsize=1)
def encode_date(second: int) -> bytes:
    """Write a time, in seconds since 1970, as a Date field has it (RFC 9110, 5.6.7)."""
    return formatdate(second, usegmt=True).encode("ascii")


def send_file(request: Request, *, path: str, sha256: bytes, size: int, date: bytes) -> Response:
    """Answer a request for a file of this digest and size; `date` is now (`encode_date`)."""
    tag, fields = _describe(path, sha256)
    if request.if_none_match is not None and _has_tag(request.if_none_match, tag):
        etag = b"ETag: %b\r\n" % tag.encode("ascii")
        return _response(HTTPStatus.NOT_MODIFIED, request.keep, date, etag)
    is_get = request.method is Method.GET
    wanted = request.range if is_get and request.if_range in (None, tag) else None
    span = None if wanted is None else _decode_range(wanted, size)
    if span is None:
        text = b"%bContent-Length: %d\r\n" % (fields, size)
        return _response(HTTPStatus.OK, request.keep, date, text, 0, size if is_get else 0)
    offset, end = span
    if offset >= end:
        text = b"Content-Range: bytes */%d\r\nContent-Length: 0\r\n" % size
        return _response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, request.keep, date, text)
    text = b"%bContent-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n" % (
        fields,
        offset,
        end - 1,
        size,
        end - offset,
    )
    return _response(HTTPStatus.PARTIAL_CONTENT, request.keep, date, text, offset, end - offset)


@lru_cache(maxsize=_CACHED)
def _describe(path: str, sha256: bytes) -> tuple[str, bytes]:
    """Give a file's tag, and the fields that are the same in every answer with it."""
    tag = f'"{sha256.hex()}"'
    fields = f"Content-Type: {media_type(path)}\r\nETag: {tag}\r\nAccept-Ranges: bytes\r\n"
    return tag, fields.encode("ascii")


def _has_tag(field: str, tag: str) -> bool:
    tags = {part.strip().removeprefix("W/") for part in field.split(",")}
    return tag in tags or field.strip() == "*"


def _decode_range(text: str, size: int) -> tuple[int, int] | None:
    """Give offset and end; an empty span when unsatisfiable, None when it is to be ignored."""
    found = _RANGE.fullmatch(text.replace(" ", ""))
    if found is None or (not found[1] and not found[2]):
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size
    first = int(found[1])
    if found[2] and int(found[2]) < first:
        return None
    return first, min(int(found[2]) + 1, size) if found[2] else size


def refuse(
    status: HTTPStatus,
    sentence: str,
    *,
    keep: bool,
    date: bytes,
    with_body: bool = True,
) -> Response:
    """Answer with a status and one line of text, nothing of which the client wrote."""
    body = f"{status.value} {status.phrase}: {sentence}\n".encode("ascii", "replace")
    fields = b"Content-Type: text/plain\r\nContent-Length: %d\r\n" % len(body)
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        fields += b"Allow: GET, HEAD\r\n"
    response = _response(status, keep, date, fields)
    head = response.head + body if with_body else response.head
    return Response(status=status, head=head)


def _response(
    status: HTTPStatus, keep: bool, date: bytes, fields: bytes, offset: int = 0, length: int = 0
) -> Response:
    connection = b"keep-alive" if keep else b"close"
    head = b"%bDate: %b\r\n%bConnection: %b\r\n\r\n" % (
        _STATUS_LINES[status],
        date,
        fields,
        connection,
    )
    return Response(status=status, head=head, offset=offset, length=length)


_STATUS_LINES = {
    status: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus
}
