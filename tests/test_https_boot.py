"""HTTPS boot: nginx before our HTTP server on a LAN of its own; firmware's TLS, tried with curl."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import bootstrap
from bootstrap import ffdhe
from bootstrap.io.nginx import nginx_conf, tls_files
from bootstrap.io.site_dir import load
from bootstrap.planning import HTTPS_PORT
from bootstrap.rehearsal.lan import Lan, inside
from keys import ca
from keys.boot_ca import BootIssuer, issue_boot_server, make_boot_ca
from keys.ca import Issue
from keys.io.layout import SERVICES, Layout
from netboot.events import Event
from netboot.files import FileMap, ServedSet
from netboot.http_message import RELAYED_LOCAL, RELAYED_PEER
from netboot.io.files import FileStore
from netboot.io.http import HttpRunner
from netboot.io.listen import Relay

US, BOX = IPv4Address("10.41.7.2"), "10.41.7.100"
NGINX_USER = 61006
IMAGE = bytes(range(256)) * 12_000
LOADER = b"MZ" + bytes(5000)
BOOT_SET = b"s" * 32
EXAMPLE = Path(bootstrap.__file__).parent / "example" / "site.toml"
KEY_FORM = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass
class Served:
    """A running site's HTTPS boot, and what it told."""

    lan: Lan
    authority: Path
    socket: Path
    events: list[Event]

    def curl(self, *options: str, path: str = "/image", host: str = str(US)) -> bytes:
        command = ["curl", "-sS", "--fail", "--max-time", "20", "--cacert", str(self.authority)]
        command += ["--tls-max", "1.2", *options, f"https://{host}:{HTTPS_PORT}{path}"]
        done = subprocess.run(inside(self.lan.box_namespace, command), capture_output=True)
        assert done.returncode == 0, (options, done.stderr)
        return done.stdout

    def told(self, name: str, phase: str) -> dict:
        """Wait until the serve record has told this."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            for event in tuple(self.events):
                detail = dict(event.detail)
                if (detail["name"], detail["phase"]) == (name, phase):
                    return {**detail, "address": str(event.address)}
            time.sleep(0.02)
        raise AssertionError(f"{name} {phase} was not told: {self.events}")


def write_tls(directory: Path) -> Path:
    """Make the authority and both server certificates; gives the authority's file."""
    key = rsa.generate_private_key(65537, 2048)
    issue = Issue(serial=7, now=datetime.now(UTC).replace(microsecond=0))
    authority = make_boot_ca(key, site_id="shop-0417", issue=issue)
    leaf = issue_boot_server(
        BootIssuer(certificate=authority, key=key),
        key.public_key(),
        names=["appliance.shop-0417.example.net"],
        addresses=[US],
        issue=issue,
    )
    for name in ("boot", "server"):
        (directory / f"{name}.pem").write_text(ca.pem([leaf]))
        (directory / f"{name}.key").write_bytes(key.private_bytes(*KEY_FORM))
    path = directory / "authority.pem"
    path.write_text(ca.pem([authority]))
    return path


def write_site(base: Path) -> Layout:
    site, run = base / "site", base / "run"
    for path in (site, run, *(run / name for name in ("tls", "nginx", "netboot"))):
        path.mkdir()
    text = EXAMPLE.read_text().replace("[boot]\n", "[boot]\nhttps = true\n")
    (site / "site.toml").write_text(text)
    users = {name: NGINX_USER if name == "nginx" else 61001 for name in SERVICES}
    return Layout(site=site, state=base, run=run, users=users)


def start_nginx(stack: ExitStack, lan: Lan, layout: Layout) -> None:
    own = layout.run / "nginx"
    (own / "nginx.conf").write_text(nginx_conf(load(layout.site), layout.run))
    (own / "dh.pem").write_bytes(ffdhe.pem())
    os.chown(own, NGINX_USER, NGINX_USER)
    rights = "-all,+net_bind_service"
    user = ["setpriv", "--reuid", str(NGINX_USER), "--regid", str(NGINX_USER), "--clear-groups"]
    user += ["--inh-caps", rights, "--ambient-caps", rights, "--bounding-set", rights, "--"]
    command = ["nginx", "-p", str(own), "-e", "stderr", "-c", str(own / "nginx.conf")]
    process = subprocess.Popen(lan.appliance_command([*user, *command]))
    stack.callback(process.wait, 10)
    stack.callback(process.terminate)


def start_http(stack: ExitStack, layout: Layout, base: Path) -> list[Event]:
    """Run our server in this process: it is reached by its UNIX socket alone."""
    (base / "files").mkdir()
    digests = {}
    for path, data in {"/image": IMAGE, "/shimx64.efi": LOADER}.items():
        digests[path] = hashlib.sha256(data).digest()
        (base / "files" / digests[path].hex()).write_bytes(data)
    events: list[Event] = []
    relay = Relay(path=layout.run / "netboot" / "http", uid=NGINX_USER)
    runner = HttpRunner(FileStore(base / "files"), events.extend, relay=relay)
    one = ServedSet(
        boot_set=BOOT_SET,
        architecture="amd64",
        loader="/shimx64.efi",
        names={"/shimx64.efi": digests["/shimx64.efi"]},
    )
    runner.replace(FileMap({"/image": digests["/image"]}, [US], sets=[one]), [])
    end = threading.Event()

    def serve() -> None:
        while not end.is_set():
            runner.turn(0.05)

    thread = threading.Thread(target=serve)
    thread.start()
    stack.callback(runner.close)
    stack.callback(thread.join)
    stack.callback(end.set)
    return events


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="doorstep-https-")))
        base.chmod(0o755)
        layout = write_site(base)
        authority = write_tls(layout.run / "tls")
        lan = stack.enter_context(Lan(IPv4Interface(f"{US}/24")))
        command = ["ip", "-n", lan.box_namespace, "addr", "add", f"{BOX}/24", "dev", Lan.BRIDGE]
        subprocess.run(command, check=True)
        events = start_http(stack, layout, base)
        start_nginx(stack, lan, layout)
        one = Served(lan, authority, layout.run / "netboot" / "http", events)
        one.curl("--retry", "40", "--retry-connrefused", "--retry-delay", "1", "--head")
        yield one


def test_https_is_in_the_configuration_where_the_site_asks_for_it(tmp_path: Path) -> None:
    layout = write_site(tmp_path)
    site = load(layout.site)
    assert f"listen {US}:{HTTPS_PORT} ssl;" in nginx_conf(site, layout.run)
    assert {path.name for path in tls_files(site, layout.run)} == {
        "server.pem",
        "server.key",
        "boot.pem",
        "boot.key",
    }
    (layout.site / "site.toml").write_text(EXAMPLE.read_text())
    plain = load(layout.site)
    assert str(HTTPS_PORT) not in nginx_conf(plain, layout.run)
    assert {path.name for path in tls_files(plain, layout.run)} == {"server.pem", "server.key"}


@pytest.mark.parametrize(
    "cipher",
    [
        "AES256-SHA256",
        "AES128-SHA",
        "AES128-GCM-SHA256",
        "DHE-RSA-AES256-GCM-SHA384",
        "DHE-RSA-AES128-SHA",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ],
)
def test_firmware_s_suites_by_tls_1_2_and_an_address(served: Served, cipher: str) -> None:
    assert served.curl("--ciphers", cipher) == IMAGE


def test_the_certificate_has_the_site_s_name_too(served: Served) -> None:
    name = "appliance.shop-0417.example.net"
    to = f"{name}:{HTTPS_PORT}:{US}"
    assert served.curl("--resolve", to, host=name) == IMAGE


def test_t23_head_and_get_share_a_connection_and_a_range_passes(served: Served) -> None:
    each = ["-o", "/dev/null", "-w", "%{num_connects} %{response_code} "]
    head = [*each, "--head", f"https://{US}:{HTTPS_PORT}/image", "--next"]
    get = [*each, "-sS", "--cacert", str(served.authority), "--tls-max", "1.2"]
    assert served.curl(*head, *get).split() == [b"1", b"200", b"0", b"200"]
    assert b"Content-Length: %d" % len(IMAGE) in served.curl("--head")
    assert served.curl("-r", "1000-1999") == IMAGE[1000:2000]


def test_the_record_tells_whom_it_served(served: Served) -> None:
    assert served.curl(path="/shimx64.efi") == LOADER
    told = served.told("/shimx64.efi", "end")
    assert (told["address"], told["sent"], told["done"]) == (BOX, len(LOADER), True)
    assert told["boot_set"] == BOOT_SET.hex()


def test_who_is_served_is_not_the_client_s_to_say(served: Served) -> None:
    served.events.clear()
    options = ["-H", f"{RELAYED_PEER}: 10.41.7.99", "-H", f"{RELAYED_LOCAL}: 10.9.9.9"]
    assert served.curl(*options, path="/shimx64.efi") == LOADER
    assert served.told("/shimx64.efi", "end")["address"] == BOX


def test_another_user_gets_no_answer_on_nginx_s_socket(served: Served) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.settimeout(10)
        stranger.connect(str(served.socket))
        head = f"GET /image HTTP/1.1\r\nHost: x\r\n{RELAYED_PEER}: {BOX}\r\n\r\n"
        try:
            stranger.sendall(head.encode())
            assert stranger.recv(1) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
