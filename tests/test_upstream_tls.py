"""Whom the upstream adapters believe and speak with: pinned authorities, named addresses."""

import json
import logging
import socket
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from keys.errors import SiteError
from keys.io.upstreams import open_upstream
from keys.io.upstreams.http import NoAnswerError, pinned, session_for
from keys.secret import Secret
from keys.upstream import Fetched, Trouble, UpstreamKind
from tests.upstream_doubles import (
    APP,
    LONG,
    NAME,
    SECRET_ID,
    TOKEN,
    Authority,
    Liar,
    Wire,
    http,
    rule_of,
    say,
    silence,
    upstream,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site")
    Authority(path, "ca")
    return path


def blurt(server: socket.socket, text: bytes) -> None:
    """Say something to the first who comes, and wait until it goes."""
    line, _ = server.accept()
    with line, suppress(OSError):
        line.sendall(text)
        while line.recv(4096):
            pass


@pytest.mark.parametrize("kind", UpstreamKind, ids=lambda kind: kind.value)
class TestTls:
    """The authorities of the file and no others."""

    def fetch(self, kind: UpstreamKind, wire: Wire, directory: Path):
        return upstream(kind, wire.url, directory, LONG).fetch(NAME)

    def test_the_pinned_authority_is_believed(self, kind: UpstreamKind, tmp_path: Path) -> None:
        with Wire(Liar(kind, "", b""), Authority(tmp_path, "ca").serve()) as wire:
            assert isinstance(self.fetch(kind, wire, tmp_path), Fetched)

    def test_no_other_is(self, kind: UpstreamKind, tmp_path: Path) -> None:
        Authority(tmp_path, "ca")
        with Wire(Liar(kind, "", b""), Authority(tmp_path, "other").serve()) as wire:
            got = self.fetch(kind, wire, tmp_path)
        assert isinstance(got, Trouble) and "certificate is not believed" in got.sentence
        assert not wire.requests, "nothing was said to who is not believed"

    def test_a_certificate_that_changed(self, kind: UpstreamKind, tmp_path: Path) -> None:
        with Wire(Liar(kind, "", b""), Authority(tmp_path, "ca").serve()) as wire:
            adapter = upstream(kind, wire.url, tmp_path)
            assert isinstance(adapter.fetch(NAME), Fetched)
            wire.tls = Authority(tmp_path, "other").serve()
            seen = len(wire.requests)
            got = adapter.fetch(NAME)
            assert isinstance(got, Trouble) and "compare ca.pem" in got.sentence
            assert len(wire.requests) == seen, "the token was not shown to it"

    def test_the_next_address_of_a_name_is_tried(self, kind: UpstreamKind, tmp_path: Path) -> None:
        with Wire(Liar(kind, "", b""), Authority(tmp_path, "ca").serve("localhost")) as wire:
            url = wire.url.replace("127.0.0.1", "localhost")  # ::1 first, where nobody listens
            assert isinstance(upstream(kind, url, tmp_path).fetch(NAME), Fetched)

    def test_the_server_itself_may_be_what_is_pinned(
        self, kind: UpstreamKind, tmp_path: Path
    ) -> None:
        other = Authority(tmp_path, "other")
        with Wire(Liar(kind, "", b""), other.serve()) as wire:
            (tmp_path / "ca.pem").write_bytes(other.last)
            assert isinstance(self.fetch(kind, wire, tmp_path), Fetched)

    def test_an_expired_one(self, kind: UpstreamKind, tmp_path: Path) -> None:
        tls = Authority(tmp_path, "ca").serve(ends=-timedelta(days=1))
        with Wire(Liar(kind, "", b""), tls) as wire:
            got = self.fetch(kind, wire, tmp_path)
        assert isinstance(got, Trouble) and "expired" in got.sentence and "clock" in got.sentence

    def test_one_for_another_host(self, kind: UpstreamKind, tmp_path: Path) -> None:
        with Wire(Liar(kind, "", b""), Authority(tmp_path, "ca").serve("keys.example")) as wire:
            got = self.fetch(kind, wire, tmp_path)
        assert isinstance(got, Trouble) and "certificate is not believed" in got.sentence

    def test_a_server_without_tls(self, kind: UpstreamKind, tmp_path: Path) -> None:
        Authority(tmp_path, "ca")
        with socket.create_server(("127.0.0.1", 0)) as server:
            talks = threading.Thread(target=blurt, args=(server, b"220 mail.example ESMTP\r\n"))
            talks.start()
            url = f"https://127.0.0.1:{server.getsockname()[1]}"
            got = upstream(kind, url, tmp_path).fetch(NAME)
            talks.join()
        assert isinstance(got, Trouble) and "TLS failed (WRONG_VERSION_NUMBER)" in got.sentence

    def test_an_authority_from_the_environment_is_not_believed(
        self, kind: UpstreamKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Authority(tmp_path, "ca")
        other = Authority(tmp_path, "other")
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "VAULT_CACERT"):
            monkeypatch.setenv(name, str(other.file))
        with Wire(Liar(kind, "", b""), other.serve()) as wire:
            assert isinstance(self.fetch(kind, wire, tmp_path), Trouble)


@pytest.mark.parametrize("kind", UpstreamKind, ids=lambda kind: kind.value)
class TestWhomWeSpeakWith:
    """The addresses of the site file, over no other way."""

    def test_no_proxy_of_the_environment(
        self, kind: UpstreamKind, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
        monkeypatch.delenv("no_proxy", raising=False)
        with Wire(Liar(kind, "", b"")) as wire:
            assert isinstance(upstream(kind, wire.url, directory).fetch(NAME), Fetched)

    def test_no_address_that_the_site_file_does_not_name(
        self, kind: UpstreamKind, directory: Path
    ) -> None:
        with Wire(lambda _request: say(200, {})) as named, Wire(silence) as other:
            session = session_for(pinned(rule_of(kind, named.url, LONG), directory))
            assert session.get(named.url).status_code == 200
            with pytest.raises(NoAnswerError, match="is not an address that the site file names"):
                session.get(other.url)
            assert not other.requests

    def test_an_address_without_a_port(self, kind: UpstreamKind, directory: Path) -> None:
        peer = pinned(rule_of(kind, "https://keys.example", LONG), directory)
        assert peer.origins == {("https", "keys.example", 443)}
        peer = pinned(rule_of(kind, "http://127.0.0.1", LONG), directory)
        assert peer.origins == {("http", "127.0.0.1", 80)}

    def test_no_time_at_all(self, kind: UpstreamKind, directory: Path) -> None:
        with Wire(Liar(kind, "", b"")) as wire:
            got = upstream(kind, wire.url, directory, timedelta()).fetch(NAME)
        assert isinstance(got, Trouble) and "no whole answer within 0 s" in got.sentence

    def test_not_without_tls_beyond_loopback(self, kind: UpstreamKind, directory: Path) -> None:
        got = upstream(kind, "http://192.0.2.1:1", directory).fetch(NAME)
        assert isinstance(got, Trouble) and "without TLS" in got.sentence

    def test_nobody_listens(self, kind: UpstreamKind, directory: Path) -> None:
        with Wire(silence) as wire:
            url = wire.url
        got = upstream(kind, url, directory).fetch(NAME)
        assert isinstance(got, Trouble) and "cannot be reached (Connection refused)" in got.sentence

    @pytest.mark.parametrize(("text", "seconds"), [
        ("30", 30), (" 7 ", 7), ("0", 0), ("99999999999999999999", 21600), ("-5", None),
        ("Sat, 21 Nov 2026 23:00:00 GMT", None), ("²", None), ("", None),
    ])  # fmt: skip
    def test_retry_after_is_a_number_of_seconds(
        self, kind: UpstreamKind, text: str, seconds: int | None, directory: Path
    ) -> None:
        reply = http(503, b"<html>", "text/html", {"Retry-After": text}).replace(
            b"\xc2\xb2", b"\xb2"
        )
        with Wire(lambda _request: reply) as wire:
            got = upstream(kind, wire.url, directory).fetch(NAME)
        assert isinstance(got, Trouble) and got.retry_after == seconds
        assert "503" in got.sentence and not got.login

    def test_no_word_of_it_in_any_log(
        self, kind: UpstreamKind, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with Wire(Liar(kind, "", b"")) as wire:
            adapter = upstream(kind, wire.url, directory)
            got = adapter.fetch(NAME)
            adapter.credential_ends()
        assert isinstance(got, Fetched) and len(wire.requests) >= 3
        shown = caplog.text + repr(adapter) + repr(got) + repr(vars(adapter))
        for hidden in ("a secret of the upstream", TOKEN, "app-secret-77", SECRET_ID, "role-5521"):
            assert hidden not in shown


@pytest.mark.parametrize(
    "text", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "é"]
)
def test_a_file_without_authorities_is_refused_at_once(text: str, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(SiteError, match="upstream hq: .*ca.pem is no PEM file"):
        upstream(UpstreamKind.KV2, "https://127.0.0.1:1", tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"ca.pem .*\(No such file or directory\)"):
        upstream(UpstreamKind.BARBICAN, "https://127.0.0.1:1", tmp_path)


def test_barbican_without_keystone_is_refused(directory: Path) -> None:
    rule = replace(rule_of(UpstreamKind.BARBICAN, "https://127.0.0.1:1", LONG), auth_url=None)
    with pytest.raises(SiteError, match="upstream hq: auth_url is missing"):
        open_upstream(rule, Secret(json.dumps(APP).encode()), directory)
