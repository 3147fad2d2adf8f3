"""nginx in front of phone-home, page and HTTPS boot: its configuration, and keeping it current.

It terminates TLS, bounds sizes and times, and names the peer's address in a header that nobody
else can set. It runs without root, keeps all it writes below RUN/nginx, and logs no request.
Sizes: docs/phone-home-v1.md, "Conventions". HTTPS boot is for firmware: TLS 1.2, RSA, no SNI.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from bootstrap import ffdhe
from bootstrap.errors import BootstrapError, SiteError
from bootstrap.io.site_dir import load
from bootstrap.planning import HTTPS_PORT
from bootstrap.site import Site
from keys.io.layout import Layout
from netboot.http_message import RELAYED_LOCAL, RELAYED_PEER

PHONE_HOME_PORT = 8443
ADDRESS_HEADER = RELAYED_PEER
MEDIA_TYPE = "application/vnd.doorstep.phone-home.v1+json"
HTTP_SOCKET = "http"
"""Name of the socket that a service's HTTP server has in its directory."""
SITE_FILE = "site.toml"
_SAFE = re.compile(r"/[A-Za-z0-9._/+-]+")
_SESSION = "^/v1/sessions/[0-9a-f][0-9a-f]*"
_TURN = 0.5
_LIMITS = (
    ("= /v1/sessions", "64k"),
    (f"~ {_SESSION}/evidence$", "6m"),
    (f"~ {_SESSION}/report$", "64k"),
    ("= /v1/trouble", "64k"),
)
_LISTS = (("box-ca.crl", "application/pkix-crl"), ("crl.pem", "application/x-pem-file"))
"""Who was revoked, for other servers: RFC 5280 in DER (RFC 2585, 4.2), and all lists in PEM."""
_ERRORS = (
    (413, "413", "TOO-LARGE", "the body is larger than the protocol allows"),
    (429, "429", "TOO-MANY", "too many requests: try again later"),
    (503, "502 503 504", "SITE-NOT-READY", "the site is starting: try again"),
)

_MAIN = """\
# Made by `doorstep service nginx`; changes here are lost.
daemon off;
pid {own}/pid;
lock_file {own}/lock;
error_log stderr warn;
worker_processes 2;
worker_shutdown_timeout 5s;
events {{ worker_connections 512; }}
http {{
    access_log off;
    server_tokens off;
    default_type application/octet-stream;
    client_body_temp_path {own}/body;
    proxy_temp_path {own}/proxy;
    fastcgi_temp_path {own}/fastcgi;
    uwsgi_temp_path {own}/uwsgi;
    scgi_temp_path {own}/scgi;

    ssl_certificate {tls}/server.pem;
    ssl_certificate_key {tls}/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_tickets off;

    client_header_timeout 10s;
    client_body_timeout 20s;
    send_timeout 20s;
    keepalive_timeout 30s;
    large_client_header_buffers 4 8k;
    client_max_body_size 64k;
    reset_timedout_connection on;

    limit_conn_zone $binary_remote_addr zone=peers:1m;
    limit_req_zone $binary_remote_addr zone=calls:1m rate=10r/s;
    limit_conn_status 429;
    limit_req_status 429;

    proxy_http_version 1.1;
    proxy_connect_timeout 5s;
    proxy_set_header Host $host;
    proxy_set_header Connection "";
    proxy_set_header X-Forwarded-For "";
    proxy_set_header X-Forwarded-Host "";
    proxy_set_header X-Forwarded-Proto https;
    proxy_set_header {header} $remote_addr;
    proxy_set_header {local_header} $server_addr;
{servers}}}
"""


def nginx_conf(site: Site, run: Path) -> str:
    """Write the configuration for a site; SiteError when a path cannot be written in it."""
    if not _SAFE.fullmatch(str(run)):
        raise SiteError(f"--run {run}: letters, digits and . _ + - only: choose another directory")
    return _MAIN.format(
        own=run / "nginx",
        tls=run / "tls",
        header=ADDRESS_HEADER,
        local_header=RELAYED_LOCAL,
        servers=_phone_home(site, run) + _page(site, run) + _boot(site, run),
    )


def main(layout: Layout) -> None:
    """Run nginx until SIGTERM; have it read its certificates and the site again when they change.

    SystemExit with nginx's status when nginx ends by itself.
    """
    own = layout.run / "nginx"
    (own / "dh.pem").write_bytes(ffdhe.pem())
    configuration = _Configuration(layout, own / "nginx.conf")
    stopping: list[int] = []

    def told(number: int, frame: FrameType | None) -> None:
        stopping.append(number)

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)
    _wait_for(configuration.files, stopping)
    if stopping:
        return
    configuration.has_changed()
    command = ["nginx", "-p", str(own), "-e", "stderr", "-c", str(configuration.path)]
    process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", "--", *command])
    try:
        while not stopping and process.poll() is None:
            time.sleep(_TURN)
            if configuration.has_changed():
                process.send_signal(signal.SIGHUP)
    finally:
        process.terminate()
        status = process.wait()
    if not stopping:
        raise SystemExit(status or 1)


class _Configuration:
    """The file that nginx reads, and the certificates that it names."""

    def __init__(self, layout: Layout, path: Path) -> None:
        """Write it for the site as it is; SiteError when that cannot be served."""
        self.path = path
        self._layout = layout
        self._site = _stamps((layout.site / SITE_FILE,))
        site = load(layout.site)
        path.write_text(nginx_conf(site, layout.run))
        self.files = tls_files(site, layout.run)
        self._seen: tuple[int, ...] | None = None

    def has_changed(self) -> bool:
        """Take a site file that changed; tell whether nginx must read anything again."""
        found = _stamps((self._layout.site / SITE_FILE,))
        if found != self._site and self._take():
            self._site = found
        seen = _stamps((*self.files, self.path))
        if seen is None or seen == self._seen:
            return False
        self._seen = seen
        return True

    def _take(self) -> bool:
        """Write it again; False while certificates are missing, without which it is refused."""
        try:
            site = load(self._layout.site)
            text, files = nginx_conf(site, self._layout.run), tls_files(site, self._layout.run)
        except (BootstrapError, OSError):
            return True  # control says what is wrong with it, and this one stays
        if _stamps(files) is None:
            return False
        if text != self.path.read_text():
            self.path.write_text(text)
        self.files = files
        return True


def tls_files(site: Site, run: Path) -> tuple[Path, ...]:
    """Name what nginx cannot start without."""
    names = ("server", "boot") if site.boot.https else ("server",)
    return tuple(run / "tls" / f"{name}.{kind}" for name in names for kind in ("pem", "key"))


def _wait_for(files: Sequence[Path], stopping: Sequence[int]) -> None:
    told = False
    while not stopping:
        if _stamps(files) is not None:
            return
        if not told:
            sys.stderr.write(f"waiting for {files[0]}: run `doorstep ca sign`\n")
            sys.stderr.flush()
            told = True
        time.sleep(_TURN)


def _stamps(files: Sequence[Path]) -> tuple[int, ...] | None:
    """Say which version of the files is there; None while one is missing."""
    try:
        return tuple(value for path in files for value in _stamp(path))
    except OSError:
        return None


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _phone_home(site: Site, run: Path) -> str:
    listens = sorted({f"{subnet.appliance}:{PHONE_HOME_PORT}" for subnet in site.subnets})
    if site.subnets6:
        listens.append(_every_ipv6(PHONE_HOME_PORT))
    lines = [f"listen {listen} ssl;" for listen in listens]
    lines += [f"server_name {site.server_name};", "limit_conn peers 20;"]
    for place, size in _LIMITS:
        lines.append(
            f"location {place} {{ client_max_body_size {size};"
            " limit_req zone=calls burst=40 nodelay; proxy_read_timeout 60s;"
            f" proxy_pass http://unix:{run}/enroll/{HTTP_SOCKET}; }}"
        )
    lines.append(f"location / {{ {_return(404, 'MALFORMED', 'this site has no such resource')} }}")
    for status, caught, reason, sentence in _ERRORS:
        lines.append(f"error_page {caught} = @{reason};")
        retry = "add_header Retry-After 2 always; " if status in (429, 503) else ""
        lines.append(f"location @{reason} {{ {retry}{_return(status, reason, sentence)} }}")
    return _server(lines)


def _page(site: Site, run: Path) -> str:
    upstream = f"http://unix:{run}/page/{HTTP_SOCKET}"
    return _server(
        [
            f"listen {site.page.listen} ssl;",
            f"server_name {site.server_name};",
            "limit_conn peers 40;",
            f"location / {{ proxy_read_timeout 30s; proxy_pass {upstream}; }}",
            *(_file(run, name, kind) for name, kind in _LISTS),
            "location = /events { proxy_buffering off; proxy_read_timeout 700s;"
            f" proxy_pass {upstream}; }}",
        ]
    )


def _file(run: Path, name: str, kind: str) -> str:
    """Give a file that keys wrote, as it is now."""
    return f"location = /{name} {{ types {{}} default_type {kind}; alias {run}/tls/{name}; }}"


def _boot(site: Site, run: Path) -> str:
    """Give boot files over TLS, unbuffered: the serve record tells what went to the box."""
    if not site.boot.https:
        return ""
    boots = {subnet.appliance for subnet in site.subnets if subnet.boot}
    listens = [f"{address}:{HTTPS_PORT}" for address in sorted(boots)]
    if any(subnet.boot for subnet in site.subnets6):
        listens.append(_every_ipv6(HTTPS_PORT))
    lines = [f"listen {listen} ssl;" for listen in listens]
    lines += [
        f"ssl_certificate {run}/tls/boot.pem;",
        f"ssl_certificate_key {run}/tls/boot.key;",
        f"ssl_dhparam {run}/nginx/dh.pem;",
        "ssl_ciphers ECDHE+AESGCM:DHE+AESGCM:ECDHE+AES:DHE+AES:RSA+AESGCM:RSA+AES:!aNULL;",
        "ssl_prefer_server_ciphers on;",
        "keepalive_timeout 75s;",
        "send_timeout 60s;",
        "proxy_buffering off;",
        "proxy_read_timeout 60s;",
        f"location / {{ proxy_pass http://unix:{run}/netboot/{HTTP_SOCKET}; }}",
    ]
    return _server(lines)


def _every_ipv6(port: int) -> str:
    """Listen on every IPv6 address: one that is not yet sure to be ours could not be bound."""
    return f"[::]:{port} ipv6only=on"


def _return(status: int, reason: str, sentence: str) -> str:
    body = json.dumps({"v": 1, "reason": reason, "sentence": sentence}, separators=(",", ":"))
    return f"default_type {MEDIA_TYPE}; return {status} '{body}';"


def _server(lines: Sequence[str]) -> str:
    return "    server {\n" + "".join(f"        {line}\n" for line in lines) + "    }\n"
