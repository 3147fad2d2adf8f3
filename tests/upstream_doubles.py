"""Other sides of the upstream adapters that we wrote ourselves, on real sockets of loopback.

None of it is a real server. `Kv2Double` answers as the documentation of Vault's and OpenBao's KV
v2, AppRole and token interfaces says, because neither can be had here: what passes against it was
not shown to work with either. `openstack` gives the forms that Keystone 30 and Barbican 23 were
seen to give, as the honest half of an upstream that lies; `barbican_lab` has the real ones.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keys.io.upstreams import open_upstream
from keys.secret import Secret
from keys.upstream import Upstream, UpstreamKind, UpstreamRule

Reply = bytes | Callable[[socket.socket], None]
"""What is sent back: bytes, or whatever is done with the connection."""
TOKEN = "lab-token-3f1c"
SECRET_ID = "2f0a6a3e-6b0d-4c7e-9d51-1f8f0e7a9b11"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes


def http(
    status: int, body: bytes, kind: str = "application/json", more: Mapping[str, str] | None = None
) -> bytes:
    """Give a whole answer with its length."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (more or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def say(status: int, value: object, more: Mapping[str, str] | None = None) -> bytes:
    """Give a whole answer in JSON."""
    return http(status, json.dumps(value).encode(), more=more)


class Wire:
    """A server that answers each connection once; a context."""

    def __init__(
        self, answer: Callable[[Request], Reply], tls: ssl.SSLContext | None = None
    ) -> None:
        """Take what answers; `tls` may be changed while it runs."""
        self.answer, self.tls = answer, tls
        self.requests: list[Request] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Wire:
        """Listen."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening; a connection under way ends when its other side goes."""
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        try:
            with line, self._secured(line) as peer:
                request = _read(peer)
                self.requests.append(request)
                reply = self.answer(request)
                if isinstance(reply, bytes):
                    peer.sendall(reply)
                else:
                    reply(peer)
        except OSError:
            return  # the client went: that is its good right

    def _secured(self, line: socket.socket) -> socket.socket:
        return line if self.tls is None else self.tls.wrap_socket(line, server_side=True)


class Front:
    """TLS in front of a plain server on loopback; a context."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        """Take the server's port; `wire.tls` may be changed while it runs."""
        self._port = port
        self.wire = Wire(self._forward, tls)

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.wire.url

    def __enter__(self) -> Front:
        """Listen."""
        self.wire.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.wire.__exit__()

    def _forward(self, request: Request) -> Reply:
        with socket.create_connection(("127.0.0.1", self._port)) as back:
            target = request.headers["__target__"]
            lines = [f"{request.method} {target} HTTP/1.1"]
            lines += [f"{k}: {v}" for k, v in request.headers.items() if k != "__target__"]
            back.sendall("\r\n".join([*lines, "", ""]).encode() + request.body)
            answer = b""
            while data := back.recv(65536):  # it was asked to close after this one
                answer += data
        return answer


def _read(line: socket.socket) -> Request:
    head = b""
    while b"\r\n\r\n" not in head:
        data = line.recv(65536)
        if not data:
            raise OSError("went before it asked")
        head += data
    head, _, body = head.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (one.partition(":") for one in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += line.recv(65536)
    method, target, _ = first.split(" ")
    parts = urlsplit(target)
    return Request(
        method=method,
        path=parts.path,
        query=parse_qs(parts.query),
        headers={**headers, "__target__": target},
        body=body,
    )


class Authority:
    """A certificate authority of the test; its files go into a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        """Make it, and `<name>.pem` beside it."""
        self._key, self._name, self._directory = (
            ec.generate_private_key(ec.SECP256R1()),
            name,
            directory,
        )
        self._count, self.last = 0, b""
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._subject, self._key, timedelta(days=30), ca=True)
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def serve(self, *hosts: str, ends: timedelta = timedelta(days=7)) -> ssl.SSLContext:
        """Give a server's settings with a certificate for these hosts that ends then."""
        self._count += 1
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([]), key, ends, hosts=hosts or ("127.0.0.1",))
        self.last = certificate.public_bytes(serialization.Encoding.PEM)
        file = self._directory / f"{self._name}-{self._count}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + self.last
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        ends: timedelta,
        hosts: tuple[str, ...] = (),
        ca: bool = False,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=True)
        return builder.sign(self._key, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass(slots=True)
class Version:
    """One version of a secret in the double."""

    fields: Mapping[str, Any]
    deletion_time: str = ""
    destroyed: bool = False


@dataclass(slots=True)
class Kv2Double:
    """A double of ours of KV v2 with AppRole and tokens; no real Vault or OpenBao."""

    versions: dict[str, list[Version]] = field(default_factory=dict)
    custom: dict[str, Mapping[str, str]] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    secret_ids: set[str] = field(default_factory=lambda: {SECRET_ID})
    expire_time: str | None = "2027-01-31T12:00:00Z"
    sealed: bool = False
    logins: int = 0

    def put(self, path: str, **fields: Any) -> None:
        """Store the next version."""
        self.versions.setdefault(path, []).append(Version(fields))

    def answer(self, request: Request) -> bytes:
        """Answer as the documentation says."""
        if self.sealed:
            return say(503, {"errors": ["Vault is sealed"]}, {"Retry-After": "30"})
        if request.path == "/v1/auth/approle/login":
            return self._log_in(json.loads(request.body))
        if request.headers.get("x-vault-token") not in self.tokens:
            return _denied()
        if request.path == "/v1/auth/token/lookup-self":
            return say(200, {"data": {"expire_time": self.expire_time, "ttl": 3600}})
        if request.path == "/v1/auth/approle/role/doorstep/secret-id/lookup":
            return say(
                200, {"data": {"expiration_time": self.expire_time or "0001-01-01T00:00:00Z"}}
            )
        return self._read(request.path.removeprefix("/v1/secret/data/"))

    def _log_in(self, body: Mapping[str, str]) -> bytes:
        if body.get("secret_id") not in self.secret_ids:
            return say(400, {"errors": ["invalid role or secret ID"]})
        self.logins += 1
        token = f"{TOKEN}-{self.logins}"
        self.tokens.add(token)
        auth = {
            "client_token": token,
            "lease_duration": 1200,
            "metadata": {"role_name": "doorstep"},
        }
        return say(200, {"auth": auth, "data": None})

    def _read(self, path: str) -> bytes:
        if path in self.forbidden:
            return _denied()
        versions = self.versions.get(path)
        if not versions:
            return say(404, {"errors": []})
        last = versions[-1]
        about = {
            "created_time": "2026-11-21T02:24:06.945319214Z",
            "custom_metadata": self.custom.get(path),
            "deletion_time": last.deletion_time,
            "destroyed": last.destroyed,
            "version": len(versions),
        }
        if last.destroyed or _is_past(last.deletion_time):
            return say(404, {"data": {"data": None, "metadata": about}})
        return say(200, {"data": {"data": last.fields, "metadata": about}, "auth": None})


def _denied() -> bytes:
    return say(403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]})


def _is_past(text: str) -> bool:
    return bool(text) and datetime.fromisoformat(text) < datetime.now(UTC)


CREATED = "2026-11-21T21:46:57.432010"
NAME = "pos/token"
VALUE = b"a secret of the upstream \x00\xff"
REFERENCE = "98dedb2c-6713-4c43-ae09-3adea6372a82"


def entry(**changes: object) -> dict[str, object]:
    """Give one secret of a list as Barbican 23 gives it, with what is said otherwise."""
    known: dict[str, object] = {
        "created": CREATED,
        "updated": CREATED,
        "status": "ACTIVE",
        "name": NAME,
        "secret_type": "opaque",
        "expiration": None,
        "content_types": {"default": "application/octet-stream"},
        "secret_ref": f"http://elsewhere.example/v1/secrets/{REFERENCE}",
    }
    return {**known, **changes}


def keystone_token() -> dict[str, object]:
    """Give the body of a login as Keystone 30 gives it."""
    project = {"domain": {"id": "default", "name": "Default"}, "id": "p1", "name": "shop"}
    user = {"domain": {"id": "default", "name": "Default"}, "id": "u1", "name": "shop"}
    now = datetime.now(UTC)
    token = {
        "methods": ["application_credential"],
        "user": user,
        "project": project,
        "roles": [],
        "issued_at": f"{now:%Y-%m-%dT%H:%M:%S}.000000Z",
        "expires_at": f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}.000000Z",
    }
    return {"token": token}


def openstack_step(request: Request) -> str:
    """Say which step of a fetch from Barbican a request is."""
    if request.path == "/v3/auth/tokens":
        return "login"
    if request.path == "/v1/secrets":
        return "list"
    return "payload" if request.path.endswith("/payload") else "credential"


def openstack(request: Request) -> bytes:
    """Answer one step as Keystone and Barbican do."""
    credential = {"id": "app1", "expires_at": "2027-01-31T12:00:00.000000"}
    return {
        "login": say(201, keystone_token(), {"X-Subject-Token": TOKEN}),
        "list": say(200, {"secrets": [entry()], "total": 1}),
        "payload": http(200, VALUE, "application/octet-stream"),
        "credential": say(200, {"application_credential": credential}),
    }[openstack_step(request)]


def kv2_step(request: Request) -> str:
    """Say which step of a fetch from KV v2 a request is."""
    return "read" if request.path.startswith("/v1/secret/data/") else "login"


def drip(head: bytes) -> Callable[[socket.socket], None]:
    """Send some bytes, then one at a time for ever."""

    def send(line: socket.socket) -> None:
        line.sendall(head)
        while True:
            line.sendall(b"x")
            threading.Event().wait(0.05)

    return send


def flood(head: bytes, block: bytes) -> Callable[[socket.socket], None]:
    """Send some bytes, then a block again and again, as fast as it is taken."""

    def send(line: socket.socket) -> None:
        line.sendall(head)
        while True:
            line.sendall(block)

    return send


def silence(line: socket.socket) -> None:
    """Say nothing until the other side goes."""
    line.recv(1)


def reset_after(part: bytes) -> Callable[[socket.socket], None]:
    """Send some bytes, then reset the connection."""

    def send(line: socket.socket) -> None:
        line.sendall(part)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return send


APP = {"application_credential_id": "app1", "application_credential_secret": "app-secret-77"}
APPROLE = {"role_id": "role-5521", "secret_id": SECRET_ID}
SHORT, LONG = timedelta(seconds=0.5), timedelta(seconds=20)


def rule_of(kind: UpstreamKind, url: str, deadline: timedelta) -> UpstreamRule:
    """Give the settings for whatever listens there."""
    return UpstreamRule(
        name="hq",
        kind=kind,
        url=url,
        auth_url=f"{url}/v3" if kind is UpstreamKind.BARBICAN else None,
        ca="ca.pem",
        deadline=deadline,
    )


def upstream(kind: UpstreamKind, url: str, directory: Path, deadline: timedelta = LONG) -> Upstream:
    """Give an adapter for whatever listens there."""
    rule = rule_of(kind, url, deadline)
    credential = APP if kind is UpstreamKind.BARBICAN else APPROLE
    return open_upstream(rule, Secret(json.dumps(credential).encode()), directory)


def honest_kv2() -> Kv2Double:
    double = Kv2Double()
    double.put(NAME, value="a secret of the upstream")
    return double


class Liar:
    """Answers one step with a lie, the others as they should be."""

    def __init__(self, kind: UpstreamKind, step: str, lie: Reply) -> None:
        if kind is UpstreamKind.BARBICAN:
            self._step_of, self._honest = openstack_step, openstack
        else:
            self._step_of, self._honest = kv2_step, honest_kv2().answer
        self._step, self._lie = step, lie

    def __call__(self, request: Request) -> Reply:
        return self._lie if self._step_of(request) == self._step else self._honest(request)
