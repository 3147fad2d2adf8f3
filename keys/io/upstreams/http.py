"""One bounded exchange with an upstream, below keystoneauth1 and hvac.

Both take a `requests.Session`. This one believes only the authorities pinned for that upstream,
speaks with its origins and no other, follows no redirect, reads no environment, keeps nothing
between two requests, and cuts off what is late, long, packed or of another type. What is cut off
leaves as `NoAnswerError`, which neither library knows and so neither swallows nor retries. Bodies
that say they are JSON were read as JSON before the libraries see them.

RFC 9110, 9112; design.md, Secrets; checklist 9, 11 and 12.
"""

from __future__ import annotations

import io
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from socket import IPPROTO_TCP, SOCK_STREAM, getaddrinfo, socket
from time import monotonic
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.models import PreparedRequest, Response

from keys.errors import PeerError, SiteError
from keys.upstream import Trouble, UpstreamRule, is_loopback
from keys.upstream_answers import MAX_ANSWER, decode_json

MAX_HEAD = 64 * 1024
CHUNK = 16 * 1024
MAX_RETRY_AFTER = 6 * 3600
"""Seconds; who asks for more is asked again all the same: a lie must not end renewal."""
UNDERSTOOD = frozenset({200, 201, 400, 401, 403, 404})
JSON, BYTES = "application/json", "application/octet-stream"


class NoAnswerError(PeerError):
    """An exchange from which nothing was learned; `trouble` says why."""

    def __init__(self, trouble: Trouble) -> None:
        """Keep the outcome, and its sentence as the text."""
        super().__init__(trouble.sentence)
        self.trouble = trouble


class _TooLongError(Exception):
    """The other side sent more than an answer may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """Whom we speak with: name for sentences, origins, TLS settings, time for one exchange."""

    name: str
    origins: frozenset[tuple[str, str, int]]
    tls: ssl.SSLContext
    deadline: timedelta
    ca: str

    def no_answer(self, url: str, what: str, retry_after: int | None = None) -> NoAnswerError:
        """Make the error for one failed exchange."""
        return NoAnswerError(Trouble(sentence=self.sentence(url, what), retry_after=retry_after))

    def sentence(self, url: str, what: str) -> str:
        """Say of which upstream and server something is said; never the path or the query."""
        parts = urlsplit(url)
        return f"upstream {self.name} ({parts.scheme}://{parts.netloc}): {what}"


def pinned(rule: UpstreamRule, directory: Path) -> Pinned:
    """Read the authorities of an upstream; SiteError names the file that cannot be used."""
    file = directory / rule.ca
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # what the file holds is what is believed
    try:
        tls.load_verify_locations(cadata=file.read_text("ascii"))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = error.strerror if isinstance(error, OSError) else None
        raise SiteError(
            f"upstream {rule.name}: {file} is no PEM file with the certificates of its authority"
            f" ({reason or type(error).__name__})"
        ) from None
    urls = [url for url in (rule.url, rule.auth_url) if url is not None]
    return Pinned(
        name=rule.name,
        origins=frozenset(_origin(urlsplit(url)) for url in urls),
        tls=tls,
        deadline=rule.deadline,
        ca=rule.ca,
    )


def session_for(peer: Pinned) -> requests.Session:
    """Make the session that keystoneauth1 and hvac are given."""
    session = requests.Session()
    session.trust_env = False  # no proxy, no .netrc, no CA bundle from the environment
    session.adapters.clear()
    session.headers.clear()
    session.headers["User-Agent"] = "doorstep"
    session.headers["Accept-Encoding"] = "identity"
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Bounded(peer))
    return session


class _Bounded(BaseAdapter):
    """A transport of `requests` with one connection for each request."""

    def __init__(self, peer: Pinned) -> None:
        super().__init__()
        self._peer = peer

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: object = None,
        verify: object = True,
        cert: object = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Do one exchange; NoAnswerError when it gave nothing that may be believed."""
        url = request.url or ""
        try:
            return _exchange(request, url, self._peer)
        except ssl.SSLCertVerificationError as error:
            what = (
                f"its certificate is not believed ({error.verify_message}); look at this "
                f"machine's clock, then compare {self._peer.ca} with headquarters"
            )
            raise self._peer.no_answer(url, what) from None
        except TimeoutError:
            seconds = self._peer.deadline.total_seconds()
            raise self._peer.no_answer(url, f"no whole answer within {seconds:g} s") from None
        except _TooLongError:
            raise self._peer.no_answer(url, "its answer is too long") from None
        except IncompleteRead:
            raise self._peer.no_answer(url, "the connection ended amid its answer") from None
        except (OSError, HTTPException, ValueError) as error:
            raise self._peer.no_answer(url, _failure(error)) from None

    def close(self) -> None:
        """Nothing is kept open."""


def _failure(error: Exception) -> str:
    """Say what failed without a word that the other side chose."""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'no reason given'})"
    if isinstance(error, OSError):
        return f"cannot be reached ({error.strerror or type(error).__name__})"
    return f"its answer is no HTTP ({type(error).__name__})"


def _exchange(request: PreparedRequest, url: str, peer: Pinned) -> Response:
    ends = monotonic() + peer.deadline.total_seconds()
    parts = urlsplit(url)
    origin = _origin(parts)
    if origin not in peer.origins:
        raise peer.no_answer(url, "is not an address that the site file names")
    if parts.scheme != "https" and not is_loopback(parts.hostname):
        raise peer.no_answer(url, "is not asked without TLS")
    with _connect(origin, ends, peer.tls) as line:
        connection = HTTPConnection(origin[1], origin[2])
        connection.sock = _Line(line, ends)
        headers = {**request.headers, "Connection": "close"}
        body = cast("bytes | str | None", request.body)
        connection.request(request.method or "GET", request.path_url, body, headers)
        with connection.getresponse() as answer:
            return _response(answer, request, url, peer)


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, parts.hostname or "", port


def _connect(origin: tuple[str, str, int], ends: float, tls: ssl.SSLContext) -> socket:
    """Connect to the first address that takes us; each has its share of the time that is left.

    The resolver's own limit comes on top: nothing here can cut it short.
    """
    scheme, host, port = origin
    found = getaddrinfo(host, port, type=SOCK_STREAM, proto=IPPROTO_TCP)
    failed: OSError = OSError("no address")
    for number, (family, kind, protocol, _name, address) in enumerate(found):
        line = socket(family, kind, protocol)
        try:
            line.settimeout(_left(ends) / (len(found) - number))
            line.connect(address)
        except OSError as error:
            line.close()
            failed = error
            continue
        return _secured(line, host, ends, tls) if scheme == "https" else line
    raise failed


def _secured(line: socket, host: str, ends: float, tls: ssl.SSLContext) -> socket:
    line.settimeout(_left(ends))
    try:
        return tls.wrap_socket(line, server_hostname=host)
    except BaseException:
        line.close()
        raise


def _left(ends: float) -> float:
    left = ends - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Line:
    """What http.client needs of a socket, with an end in time and in bytes."""

    def __init__(self, line: socket, ends: float) -> None:
        self._line, self._ends = line, ends

    def sendall(self, data: bytes) -> None:
        self._line.settimeout(_left(self._ends))
        self._line.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Limited(self._line, self._ends))

    def close(self) -> None:
        """Do nothing: http.client closes before it has read; `_exchange` closes the socket."""


class _Limited(io.RawIOBase):
    """Reads a socket; one byte a second does not lengthen the time (slowloris from the server)."""

    def __init__(self, line: socket, ends: float) -> None:
        self._line, self._ends, self._room = line, ends, MAX_HEAD + MAX_ANSWER

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._line.settimeout(_left(self._ends))
        count = self._line.recv_into(buffer)
        self._room -= count
        if self._room < 0:
            raise _TooLongError
        return count


def _response(answer: HTTPResponse, request: PreparedRequest, url: str, peer: Pinned) -> Response:
    """Take what may be believed; the status first: a portal's body is not worth reading."""
    retry_after = _retry_after(answer.getheader("Retry-After"))
    if 300 <= answer.status < 400:
        raise peer.no_answer(url, "answered with a redirect, which is not followed", retry_after)
    if answer.status not in UNDERSTOOD:
        raise peer.no_answer(url, f"answered with status {answer.status}", retry_after)
    is_bytes = answer.status == 200 and request.headers.get("Accept") == BYTES
    found = answer.getheader("Content-Type", "").partition(";")[0].strip().lower()
    if found != (BYTES if is_bytes else JSON):
        what = f"answered status {answer.status} with another type than its interface has"
        raise peer.no_answer(url, f"{what}: is a portal or proxy between?", retry_after)
    if answer.getheader("Content-Encoding", "identity").strip().lower() != "identity":
        raise peer.no_answer(url, "packed its answer, which was not asked for")
    body = _body(answer)
    if found == JSON:
        _check_json(body, url, peer)
    return _as_requests_has_it(answer, body, request, url)


def _check_json(body: bytes, url: str, peer: Pinned) -> None:
    """Refuse here what would break, or hang, the decoders of both libraries."""
    try:
        decode_json(body)
    except PeerError as error:
        raise peer.no_answer(url, str(error)) from None


def _body(answer: HTTPResponse) -> bytes:
    """Read a body whose end is known: one that ends with the connection may lack its half."""
    length = answer.length
    if length is None and not answer.chunked:
        raise IncompleteRead(b"")
    if length is not None and length > MAX_ANSWER:
        raise _TooLongError
    body = bytearray()
    while data := answer.read(CHUNK):
        body += data  # `_Limited` ends what has no length of its own
    if length is not None and len(body) != length:
        raise IncompleteRead(b"")
    return bytes(body)


def _as_requests_has_it(
    answer: HTTPResponse, body: bytes, request: PreparedRequest, url: str
) -> Response:
    response = Response()
    response.status_code = answer.status
    response.headers.update(answer.headers.items())
    response.encoding = "utf-8"
    response.reason = ""
    response.url = url
    response.request = request
    response.raw = io.BytesIO(body)
    return response


def _retry_after(text: str | None) -> int | None:
    """Read seconds; a date would need a clock that both sides agree on. RFC 9110, 10.2.3."""
    text = (text or "").strip()
    if not text.isascii() or not text.isdigit():
        return None
    return min(int(text[:9]), MAX_RETRY_AFTER)
