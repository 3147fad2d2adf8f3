"""HTTPS to the site: only the anchor's root, the anchor's server name, whatever the URL says.

Certificate dates are ignored (docs/phone-home-v1.md, Conventions). Reads are bounded; what may be
tried again is tried with the same bytes and growing pauses. It never follows a redirect.
"""

from __future__ import annotations

import http.client
import itertools
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from bootstrap.agent.errors import BoxError, Code, PeerError, SiteRefusalError
from bootstrap.agent.protocol import MEDIA_TYPE, Fields

NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL; Python has no name for it."""
MAX_ANSWER = 4 * 1024 * 1024
SHORT = (1, 2, 4, 8)
LONG = (1, 2, 4, 8, 15, 30, 30, 30, 60, 60, 60, 60)
"""Pauses in seconds between tries; after the last one it gives up."""

_PORT = 8443
_TIMEOUT = 60
_MAX_RETRY_AFTER = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    status: int
    body: bytes
    retry_after: int


class _Connection(http.client.HTTPSConnection):
    """A connection to the URL's host that must have the anchor's name."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=_TIMEOUT, context=context)
        self._tls, self._name = context, name

    def connect(self) -> None:
        """Connect, then ask for and check the anchor's server name."""
        plain = socket.create_connection((self.host, self.port), timeout=_TIMEOUT)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise


class Client:
    """Speaks to one site; no state but where it is."""

    def __init__(
        self,
        url: str,
        root_pem: str,
        server_name: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the URL that DHCP gave (scheme, host, port; a path in front is kept)."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            text = "the phone-home URL has a bad address or port"
            raise BoxError(Code.SITE_UNREACHABLE, text) from None
        if parts.scheme != "https" or not host:
            raise BoxError(Code.SITE_UNREACHABLE, "the phone-home URL is no https URL")
        self._host, self._port = host, port or _PORT
        self._prefix = parts.path.rstrip("/")
        self._name, self._sleep = server_name, sleep
        self._context = make_context(root_pem)

    def post(self, path: str, body: bytes, *, pauses: Iterable[float] = SHORT) -> bytes:
        """Send a body until there is an answer; gives the body of a 200 or 202.

        SiteRefusalError for any other status, SITE-UNTRUSTED for a wrong certificate,
        SITE-UNREACHABLE when all tries failed.
        """
        for pause in itertools.chain(pauses, (None,)):
            try:
                reply = self._once(path, body)
            except ssl.SSLCertVerificationError as error:
                text = f"the server is not this site's: {error.verify_message}"
                raise PeerError(Code.SITE_UNTRUSTED, text) from None
            except (OSError, http.client.HTTPException) as error:
                if pause is None:
                    host = f"[{self._host}]" if ":" in self._host else self._host
                    text = f"{host}:{self._port} does not answer: {_short(error)}"
                    raise BoxError(Code.SITE_UNREACHABLE, text) from None
                self._sleep(pause)
                continue
            if reply.status in (200, 202):
                return reply.body
            if pause is None or not (reply.status == 429 or reply.status >= 500):
                raise _refusal(reply)
            self._sleep(max(pause, reply.retry_after))
        raise AssertionError("the last try returns or raises")

    def _once(self, path: str, body: bytes) -> _Reply:
        connection = _Connection(self._host, self._port, self._context, self._name)
        headers = {"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE, "Connection": "close"}
        try:
            connection.request("POST", self._prefix + path, body=body, headers=headers)
            response = connection.getresponse()
            data = response.read(MAX_ANSWER + 1)
            if len(data) > MAX_ANSWER:
                raise PeerError(Code.ANSWER_MALFORMED, "the site's answer is too long")
            if response.length:
                raise http.client.IncompleteRead(data, response.length)
            after = response.headers.get("Retry-After", "")
            wait = min(int(after), _MAX_RETRY_AFTER) if after.isascii() and after.isdigit() else 0
            return _Reply(status=response.status, body=data, retry_after=wait)
        finally:
            connection.close()


def make_context(root_pem: str) -> ssl.SSLContext:
    """Make a TLS context that trusts one root, in whatever year."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=root_pem)
    except (ssl.SSLError, ValueError):
        raise BoxError(Code.ANCHOR, "the site root in the initrd is no certificate") from None
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    return context


def _refusal(reply: _Reply) -> SiteRefusalError:
    try:
        fields = Fields.read(reply.body, None)
        reason, sentence = fields.take("reason", str), fields.take("sentence", str)
    except PeerError:
        reason, sentence = "", "without a reason"
    # It is unsigned text for a screen: short and printable.
    reason, sentence = (
        "".join(c for c in text if c.isprintable())[:200] for text in (reason, sentence)
    )
    return SiteRefusalError(reply.status, reason, sentence)


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:120]
