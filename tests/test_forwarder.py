"""Upstreams over TLS and plainly, on real sockets: who they must be, what becomes of answers."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from dns_lab import NOW, World

from netboot.dns import DnsEngine, Generation, Resolved
from netboot.io.dns import DnsRunner
from netboot.io.exchange import Exchange
from netboot.io.forwarder import Forwarder
from netboot.names import labels
from netboot.rdata import Rtype
from netboot.resolver import ResolverConfig, Transport, UnreachableError, Upstream
from netboot.upstream import make_question, read_answer
from netboot.zone import Rcode, Zones

WWW = labels("www.example.net")
NAME = "dns.example"


class Certificate:
    """A key with a certificate that it signed itself, for the name of an upstream."""

    def __init__(self, directory: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.file = directory / "upstream.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.file.write_bytes(private + made.public_bytes(Encoding.PEM))
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(made.public_bytes(Encoding.PEM))
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.pin = hashlib.sha256(spki).digest()


class Server:
    """An upstream on the loopback: TLS on TCP, and plain UDP and TCP, all of one world."""

    def __init__(self, world: World, certificate: Certificate) -> None:
        self._world = world
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate.file)
        self.tls = socket.create_server(("127.0.0.1", 0))
        self.plain = socket.create_server(("127.0.0.1", 0))
        self.port = self.tls.getsockname()[1]
        self.plain_port = self.plain.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.plain_port))
        self.connections = 0
        self.spoofs = 0
        self.threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._serve_tls, self._serve_tcp, self._serve_udp)
        ]
        for thread in self.threads:
            thread.start()

    def _answer(self, data: bytes, *, is_tcp: bool) -> bytes:
        reply = self._world.engine.receive(data, "127.0.0.1", NOW, is_tcp=is_tcp)
        return reply if isinstance(reply, bytes) else b""

    def _serve_tls(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.tls.accept()
                self.connections += 1
                threading.Thread(target=self._one_tls, args=(sock,), daemon=True).start()

    def _one_tls(self, plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(plain, server_side=True) as one,
        ):
            self._stream(one)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.plain.accept()
                with contextlib.suppress(OSError), sock:
                    self._stream(sock)

    def _stream(self, sock: socket.socket) -> None:
        while size := sock.recv(2):
            reply = self._answer(sock.recv(int.from_bytes(size)), is_tcp=True)
            sock.sendall(struct.pack("!H", len(reply)) + reply)

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = self.udp.recvfrom(65535)
                if not data:  # shut down
                    return
                reply = self._answer(data, is_tcp=False)
                for _ in range(self.spoofs):
                    self.udp.sendto(bytes((reply[0] ^ 1,)) + reply[1:], peer)
                self.udp.sendto(reply, peer)

    def close(self) -> None:
        for sock in (self.tls, self.plain, self.udp):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture
def server(world: World, certificate: Certificate) -> Iterator[Server]:
    made = Server(world, certificate)
    yield made
    made.close()


def upstream(server: Server, **changes: object) -> Upstream:
    values: dict[str, object] = {
        "address": "127.0.0.1",
        "port": server.port,
        "transport": Transport.TLS,
        "name": NAME,
    }
    return Upstream(**(values | changes))  # type: ignore[arg-type]


def exchanged(exchange: Exchange, target: Upstream, name: str = "www.example.net") -> Rcode:
    question = make_question(labels(name), Rtype.A, bytes(range(40)))
    reply = exchange(target, question.encode(pads=True), 3.0)
    return read_answer(reply, question).rcode


def test_n32_over_tls_with_a_name_and_one_connection_for_many(
    server: Server, certificate: Certificate
) -> None:
    exchange = Exchange(str(certificate.ca))
    for number in range(5):
        assert exchanged(exchange, upstream(server), f"n{number}.exact.wild.example.net")
    assert server.connections == 1
    exchange.close()


def test_n32_a_certificate_of_nobody_we_know_is_no_answer(
    server: Server, certificate: Certificate
) -> None:
    for exchange, name in ((Exchange(), NAME), (Exchange(str(certificate.ca)), "other.example")):
        with pytest.raises(UnreachableError, match="certificate"):
            exchanged(exchange, upstream(server, name=name))


def test_n32_a_pin_takes_the_key_and_no_other(server: Server, certificate: Certificate) -> None:
    pinned = upstream(server, name=None, pins=frozenset({certificate.pin, bytes(32)}))
    assert exchanged(Exchange(), pinned) is Rcode.NOERROR
    with pytest.raises(UnreachableError, match="its key is none of those"):
        exchanged(Exchange(), replace(pinned, pins=frozenset({bytes(32)})))


def test_n32_from_tls_there_is_no_way_to_plain(server: Server, certificate: Certificate) -> None:
    heard: list[bytes] = []
    plain_only = upstream(server, port=server.plain_port)
    answer = server._answer

    def hear(data: bytes, *, is_tcp: bool) -> bytes:
        heard.append(data)
        return answer(data, is_tcp=is_tcp)

    server._answer = hear  # type: ignore[method-assign]
    with pytest.raises(UnreachableError):
        exchanged(Exchange(str(certificate.ca)), plain_only)
    question = make_question(WWW, Rtype.A, bytes(range(40))).encode(pads=False)
    assert not any(question[12:30] in one for one in heard)


def test_plainly_from_a_new_port_past_forged_answers_and_on_to_tcp(server: Server) -> None:
    server.spoofs = 3
    plain = upstream(server, port=server.plain_port, transport=Transport.PLAIN, name=None)
    assert exchanged(Exchange(), plain) is Rcode.NOERROR


def test_a_silent_upstream_is_unreachable_in_time(certificate: Certificate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = Upstream(
            address="127.0.0.1", port=silent.getsockname()[1], transport=Transport.TLS, name=NAME
        )
        question = make_question(WWW, Rtype.A, bytes(40)).encode(pads=True)
        with pytest.raises(UnreachableError):
            Exchange(str(certificate.ca))(target, question, 0.3)


@pytest.fixture
def forwarders(
    server: Server, certificate: Certificate, world: World, tmp_path: Path
) -> Iterator[Callable[[], Forwarder]]:
    config = ResolverConfig(upstreams=(upstream(server),), anchors=_anchors(world))
    made: list[Forwarder] = []

    def make() -> Forwarder:
        exchange = Exchange(str(certificate.ca))
        one = Forwarder(config, tmp_path / "dns-cache.db", exchange, lambda: True)
        one.start()
        made.append(one)
        return one

    yield make
    for one in made:
        one.stop()


def _anchors(world: World) -> dict[tuple[bytes, ...], tuple[bytes, ...]]:
    return {zone: tuple(found) for zone, found in world.anchors.items()}


def test_dig_through_the_whole_path_and_again_after_a_restart(
    forwarders: Callable[[], Forwarder], server: Server
) -> None:
    first = forwarders()
    text = dig(first, "alias.example.net", "+dnssec")
    assert "status: NOERROR" in text and "192.0.2.10" in text and "RRSIG" in text
    assert "status: NXDOMAIN" in dig(first, "nothing.exact.wild.example.net")
    assert "RRSIG" not in dig(first, "alias.example.net")
    first.save()
    server.close()
    second = forwarders()
    text = dig(second, "alias.example.net")
    assert "status: NOERROR" in text and "192.0.2.10" in text
    text = dig(second, "www.example.net", "AAAA")
    assert "status: SERVFAIL" in text and "EDE: 2" in text


def test_equal_questions_are_asked_once(forwarders: Callable[[], Forwarder]) -> None:
    one = forwarders()
    found: queue.SimpleQueue[Resolved] = queue.SimpleQueue()
    engine = forwarding_engine()
    question = make_question(WWW, Rtype.A, bytes(40)).encode(pads=False)
    question = question[:3] + b"\0" + question[4:]  # checks are wanted
    ask = engine.receive(question, "127.0.0.1", NOW, is_tcp=True)
    assert ask is not None and not isinstance(ask, bytes)
    for _ in range(50):
        one.ask(ask, found.put)
    assert {found.get(timeout=10).rcode for _ in range(50)} == {Rcode.NOERROR}
    assert next(iter(one.resolver.health.values())).asked <= 8


def forwarding_engine() -> DnsEngine:
    engine = DnsEngine(Zones(()), "appliance")
    engine.replace(Generation(zones=Zones(()), forwards=True))
    return engine


def dig(forwarder: Forwarder, *words: str) -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    runner = DnsRunner(forwarding_engine(), port, forwarder)
    runner.listen([IPv4Address("127.0.0.1")])
    end = threading.Event()

    def run() -> None:
        while not end.is_set():
            runner.turn(0.05)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        command = ["dig", "@127.0.0.1", "-p", str(port), "+tries=1", "+time=8", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        end.set()
        thread.join()
        runner.close()
