"""`doorstep netboot run` from outside: TFTP and HTTP by raw packets, `explain`, and bad days.

TFTP: RFC 1350, 2347, 2348, 2349, 7440; HTTP: RFC 9110 and 9112. What `explain` prints is what the
process then sends, byte by byte.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from dhcp_wire import inside, until
from outside_lab import US, Frame, Lab, direct, message, relayed
from scapy.packet import Raw

from bootstrap.cli.main import main

pytestmark = pytest.mark.boots
BIG = bytes(range(256)) * 12_000
FILES = {
    "menu.ipxe": b"#!ipxe\nboot\n",
    "exact": bytes(1024),
    "empty": b"",
    "deep/kernel": b"k" * 70_000,
    "big.bin": BIG,
    "cr": b"a\nb\rc",
    "boot.efi": b"MZ",
}
SITE = """
pool = "10.99.0.100-10.99.0.199"
options = { ntp-servers = "10.99.0.7", domain-search = ["a.example", "b.example"] }
[[reservation]]
name = "till"
mac = "02:0e:00:00:00:01"
address = "10.99.0.50"
boot_file = "till.efi"
[[reservation]]
name = "by-uuid"
uuid = "4c4c4544-0042-3510-8050-b7c04f4d3232"
address = "10.99.0.51"
[[reservation]]
circuit_id = "port 9"
address = "10.77.1.9"
[[class]]
name = "phones"
vendor_class = "phone"
lease = "5m"
options = { tftp-server-name = "files", 150 = "10.99.0.8" }
always = 150
[[subnet]]
name = "far"
interface = "n0"
network = "10.77.1.0/24"
appliance = "10.99.0.1"
relayed = true
gateway = "10.77.1.1"
pool = "10.77.1.100-10.77.1.199"
[boot]
files = "files"
[[boot.rule]]
name = "menu"
kind = "ipxe"
file = "menu.ipxe"
via = "http"
[[boot.rule]]
name = "http"
architecture = "x64-uefi-http"
file = "boot.efi"
via = "http"
[[boot.rule]]
name = "uefi"
architecture = ["x64-uefi", "ebc", "x86-bios"]
file = "boot.efi"
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("files"), 1)
    try:
        for name, data in FILES.items():
            path = made.base / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        made.start(SITE)
        yield made
    finally:
        made.close()


# TFTP


def rrq(name: bytes, mode: bytes = b"octet", *options: bytes) -> bytes:
    return b"\0\1" + b"\0".join((name, mode, *options)) + b"\0"


class Tftp:
    """One client: what is sent goes to port 69 first, then to whoever answered."""

    def __init__(self, lab: Lab) -> None:
        with inside(lab.cli):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("10.99.0.2", 0))
        self.socket.settimeout(3)
        self.peer = (US, 69)

    def ask(self, data: bytes) -> bytes:
        self.socket.sendto(data, self.peer)
        return self.hear()

    def hear(self) -> bytes:
        heard, self.peer = self.socket.recvfrom(70_000)
        return heard

    def fetch(self, first: bytes, size: int = 512) -> bytes:
        """Acknowledge blocks one by one until a short one."""
        heard, data = first, b""
        while True:
            if heard[:2] == b"\0\6":
                heard = self.ask(b"\0\4\0\0")
                continue
            assert heard[:2] == b"\0\3", heard
            data += heard[4:]
            if len(heard) < size + 4:
                self.socket.sendto(b"\0\4" + heard[2:4], self.peer)
                return data
            heard = self.ask(b"\0\4" + heard[2:4])


def error(code: int) -> bytes:
    return b"\0\5\0" + bytes((code,))


DATA1, OACK = b"\0\3\0\1", b"\0\6"
ASKED = [
    ("T2 no option, no OACK", rrq(b"menu.ipxe"), DATA1 + FILES["menu.ipxe"]),
    ("T4 mode is case-blind", rrq(b"menu.ipxe", b"OcTeT"), DATA1 + FILES["menu.ipxe"]),
    ("T1 the size is told", rrq(b"menu.ipxe", b"octet", b"tsize", b"0"), OACK + b"tsize\00012\0"),
    (
        "T3 options in the order of asking",
        rrq(b"exact", b"octet", b"tsize", b"0", b"blksize", b"1024", b"windowsize", b"4"),
        OACK + b"tsize\x001024\0blksize\x001024\0windowsize\x004\0",
    ),
    ("T4 option names are case-blind", rrq(b"exact", b"octet", b"BLKSIZE", b"600"), OACK),
    (
        "T4 of two the first counts",
        rrq(b"exact", b"octet", b"blksize", b"600", b"blksize", b"700"),
        OACK + b"blksize\x00600\0",
    ),
    ("T5 blksize 7 is none", rrq(b"exact", b"octet", b"blksize", b"7"), DATA1),
    ("T5 blksize 0 is none", rrq(b"exact", b"octet", b"blksize", b"0"), DATA1),
    ("T5 blksize abc is none", rrq(b"exact", b"octet", b"blksize", b"abc"), DATA1),
    ("T5 blksize -5 is none", rrq(b"exact", b"octet", b"blksize", b"-5"), DATA1),
    ("T5 8 is one", rrq(b"exact", b"octet", b"blksize", b"8"), OACK + b"blksize\x008\0"),
    (
        "T6 what fits a frame",
        rrq(b"exact", b"octet", b"blksize", b"65464"),
        OACK + b"blksize\x001468",
    ),
    ("T5 what is too large too", rrq(b"exact", b"octet", b"blksize", b"99999"), OACK),
    ("T7 windowsize 0 is none", rrq(b"exact", b"octet", b"windowsize", b"0"), DATA1),
    (
        "T7 windowsize has its most",
        rrq(b"exact", b"octet", b"windowsize", b"65535"),
        OACK + b"windowsize\x0064\0",
    ),
    ("timeout", rrq(b"exact", b"octet", b"timeout", b"3"), OACK + b"timeout\x003\0"),
    ("timeout 0 is none", rrq(b"exact", b"octet", b"timeout", b"0"), DATA1),
    ("an unknown option is none", rrq(b"exact", b"octet", b"utimeout", b"3"), DATA1),
    ("T13 netascii", rrq(b"cr", b"netascii"), DATA1 + b"a\r\nb\r\0c"),
    ("T13 netascii has no size", rrq(b"cr", b"netascii", b"tsize", b"0"), DATA1),
    ("T14 mail", rrq(b"cr", b"mail"), error(4)),
    ("T14 another mode", rrq(b"cr", b"x"), error(4)),
    ("T16 a backslash", rrq(b"deep\\kernel"), DATA1),
    ("T16 from the root", rrq(b"//deep//kernel"), DATA1),
    ("T16 from a drive", rrq(b"C:\\deep\\kernel"), DATA1),
    ("T16 up", rrq(b"../site.toml"), error(2)),
    ("T16 up and down", rrq(b"deep/../../site.toml"), error(2)),
    ("T17 case-blind where it is one", rrq(b"DEEP/Kernel"), DATA1),
    ("T18 0xff at the end", rrq(b"menu.ipxe\xff"), DATA1),
    ("T19 a directory", rrq(b"deep"), error(1)),
    ("T19 nothing of this name", rrq(b"pxelinux.cfg/01-02-03"), error(1)),
    ("T20 a write", b"\0\2x\0octet\0", error(2)),
    ("an empty file", rrq(b"empty"), DATA1),
    ("T21 two bytes", b"\0\1", error(4)),
    ("T21 no mode", b"\0\1menu.ipxe\0", error(4)),
    ("T21 600 bytes of name", rrq(b"n" * 600), error(4)),
]


@pytest.mark.parametrize(("what", "sent", "begins"), ASKED, ids=[one[0] for one in ASKED])
def test_tftp_answers(lab: Lab, what: str, sent: bytes, begins: bytes) -> None:
    client = Tftp(lab)
    heard = client.ask(sent)
    assert heard.startswith(begins), (what, heard[:60])
    client.socket.sendto(error(0) + b"\0", client.peer)


SILENT = [
    b"\0\3\0\1x",
    b"\0\4\0\1",
    b"\0\5\0\1x\0",
    b"\0\6x\0",
    b"\0\x63",
    b"\xff" * 600,
    b"\0",
    b"",
]


@pytest.mark.parametrize("sent", SILENT, ids=lambda sent: sent[:4].hex() or "nothing")
def test_t15_t21_tftp_never_answers_what_is_no_request(lab: Lab, sent: bytes) -> None:
    client = Tftp(lab)
    client.socket.sendto(sent, (US, 69))
    heard = client.ask(rrq(b"menu.ipxe"))
    assert heard == DATA1 + FILES["menu.ipxe"]


def test_tftp_sends_whole_files_and_survives_what_clients_do(lab: Lab) -> None:
    for name, options, size in (
        (b"exact", (), 512),
        (b"empty", (), 512),
        (b"deep/kernel", (b"blksize", b"1468"), 1468),
        (b"deep/kernel", (b"blksize", b"8", b"tsize", b"0"), 8),
        (b"big.bin", (b"blksize", b"512"), 512),
    ):
        client = Tftp(lab)
        first = client.ask(rrq(name, b"octet", *options))
        assert client.fetch(first, size) == FILES[name.decode()]


def test_t11_a_block_acknowledged_twice_is_not_sent_twice(lab: Lab) -> None:
    client = Tftp(lab)
    client.ask(rrq(b"deep/kernel"))
    for number in (1, 1, 1):
        client.socket.sendto(b"\0\4\0" + bytes((number,)), client.peer)
    assert client.hear()[:4] == b"\0\3\0\2"
    client.socket.sendto(b"\0\4\0\2", client.peer)
    assert client.hear()[:4] == b"\0\3\0\3"
    client.socket.sendto(error(0) + b"\0", client.peer)


def test_t12_another_port_does_not_disturb(lab: Lab) -> None:
    client, other = Tftp(lab), Tftp(lab)
    client.ask(rrq(b"deep/kernel"))
    other.peer = client.peer
    assert other.ask(b"\0\4\0\1")[:4] == error(5)
    assert client.ask(b"\0\4\0\1")[:4] == b"\0\3\0\2"
    client.socket.sendto(error(0) + b"\0", client.peer)


# HTTP


def head(*lines: str, version: str = "1.1") -> bytes:
    first, *rest = lines
    fields = ["Host: x", *rest] if version == "1.1" else rest
    return "\r\n".join((f"{first} HTTP/{version}", *fields, "", "")).encode()


def http(lab: Lab, sent: bytes) -> tuple[str, bytes]:
    """Send a request as the last one on its line, and read all that comes."""
    with inside(lab.cli):
        line = socket.socket()
    with line:
        line.settimeout(5)
        line.connect((US, 80))
        line.sendall(sent)
        line.shutdown(socket.SHUT_WR)
        heard = b""
        while part := line.recv(65536):
            heard += part
    top, _, body = heard.partition(b"\r\n\r\n")
    return top.decode(), body


EFI = "Content-Type: application/efi"
REQUESTS: list[tuple[bytes, str, tuple[str, ...], bytes | None]] = [
    (head("GET /menu.ipxe"), "200", ("Content-Length: 12", "text/plain"), FILES["menu.ipxe"]),
    (head("HEAD /big.bin"), "200", (f"Content-Length: {len(BIG)}",), b""),
    (head("GET /boot.efi"), "200", (EFI,), b"MZ"),
    (head("GET /empty"), "200", ("Content-Length: 0",), b""),
    (head("GET /menu.ipxe", version="1.0"), "200", ("Connection: close",), FILES["menu.ipxe"]),
    (head("GET http://any.example/menu.ipxe"), "200", (), FILES["menu.ipxe"]),
    (head("GET /menu.ipxe?mac=02:00"), "200", (), FILES["menu.ipxe"]),
    (head("GET /deep%2fkernel"), "200", (), FILES["deep/kernel"]),
    (head("GET //deep//kernel"), "200", (), FILES["deep/kernel"]),
    (head("GET /big.bin", "Range: bytes=0-9"), "206", (f"bytes 0-9/{len(BIG)}",), BIG[:10]),
    (head("GET /big.bin", "Range: bytes=-10"), "206", (), BIG[-10:]),
    (head("GET /big.bin", f"Range: bytes={len(BIG) - 3}-"), "206", (), BIG[-3:]),
    (head("GET /exact", "Range: bytes=1000-9999"), "206", ("bytes 1000-1023/1024",), bytes(24)),
    (head("GET /exact", "Range: bytes=1024-"), "416", ("bytes */1024",), b""),
    (head("GET /exact", "Range: bytes=-0"), "416", (), b""),
    (head("GET /exact", "Range: bytes=5-2"), "200", (), bytes(1024)),
    (head("GET /exact", "Range: lines=1-2"), "200", (), bytes(1024)),
    (head("GET /exact", "Range: bytes=0-1,4-5"), "200", (), bytes(1024)),
    (head("HEAD /exact", "Range: bytes=0-1"), "200", ("Content-Length: 1024",), b""),
    (head("GET /exact", 'If-Range: "x"', "Range: bytes=0-1"), "200", (), bytes(1024)),
    (head("GET /nothing"), "404", (), None),
    (head("GET /deep"), "404", (), None),
    (head("GET /deep/"), "404", (), None),
    (head("GET /../site.toml"), "403", (), None),
    (head("GET /%2e%2e/site.toml"), "403", (), None),
    (head("GET /deep/..%5c..%5csite.toml"), "403", (), None),
    (head("GET /menu.ipxe%00"), "403", (), None),
    (head("POST /menu.ipxe", "Content-Length: 1") + b"x", "405", ("Allow: GET, HEAD",), None),
    (head("PUT /menu.ipxe", "Transfer-Encoding: chunked"), "405", (), None),
    (head("DELETE /menu.ipxe"), "405", (), None),
    (head("GET /menu.ipxe", "Content-Length: 5") + b"abcde", "400", (), None),
    (b"GET /menu.ipxe HTTP/1.1\r\n\r\n", "400", (), None),
    (head("GET /menu.ipxe", "Host: y"), "400", (), None),
    (head("GET menu.ipxe"), "400", (), None),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", "400", (), None),
    (b"GET /menu.ipxe HTTP/2.0\r\nHost: x\r\n\r\n", "400", (), None),
    (head("GET /menu.ipxe", "Bad Field: x"), "400", (), None),
    (head("GET /menu.ipxe", *(f"X-{number}: x" for number in range(100))), "431", (), None),
    (head(f"GET /{'n' * 3000}"), "400", (), None),
]


@pytest.mark.parametrize(("sent", "status", "has", "body"), REQUESTS)
def test_http_answers(
    lab: Lab, sent: bytes, status: str, has: tuple[str, ...], body: bytes | None
) -> None:
    top, found = http(lab, sent)
    assert top.split(" ")[1] == status, top
    assert all(one in top for one in has), top
    assert body in (None, found)


def test_http_requests_in_a_row_on_one_line(lab: Lab) -> None:
    both = head("GET /menu.ipxe") + head("HEAD /exact") + head("GET /cr", "Connection: close")
    top, body = http(lab, both)
    assert top.startswith("HTTP/1.1 200")
    assert body.startswith(FILES["menu.ipxe"] + b"HTTP/1.1 200")
    assert body.endswith(b"\r\n\r\n" + FILES["cr"])


# explain


def told(lab: Lab, *words: str) -> dict[str, Any]:
    place = ("--site", str(lab.site), "--state", str(lab.base / "state"), "--json")
    done = CliRunner().invoke(main, ["netboot", "explain", *place, *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.output))


CLIENTS = [
    "",
    "--hostname box --ask 1,3,6,12,15,28,42,119",
    "--client-id 01:02:03:04:05:06:07",
    "--arch x64-uefi",
    "--arch x86-bios",
    "--arch ebc",
    "--arch x64-uefi-http",
    "--arch arm64-uefi",
    "--arch x64-uefi --user-class iPXE",
    "--class phone",
    "--class PXEClient --ask 66,67,150",
    "--uuid 4c4c4544-0042-3510-8050-b7c04f4d3232",
    "--uuid 4c4c4544-0042-3510-8050-b7c04f4d3233 --arch x64-uefi",
    "--mac 02:0e:00:00:00:01",
    "--mac 02:0e:00:00:00:01 --arch x64-uefi",
    "--relay 10.77.1.1",
    "--relay 10.77.1.1 --circuit port-7 --arch x64-uefi",
    "--relay 10.77.1.1 --circuit hex:706f72742039",
    "--relay 10.77.1.1 --class phone --client-id text",
    "--class MSFT --ask 1,3,6,15,31,33,43,44,46,47,119,121,249,252",
]


@pytest.mark.parametrize("number", range(len(CLIENTS)), ids=lambda number: CLIENTS[number] or "-")
def test_explain_prints_what_is_then_sent(lab: Lab, number: int) -> None:
    words = CLIENTS[number].split()
    if "--mac" not in words:
        words += ["--mac", f"02:0f:00:00:00:{number:02x}"]
    for kind in ("discover", "request"):
        foreseen = told(lab, *words, "--message", kind)
        sent = bytes.fromhex(foreseen["request"])
        heard = lab.ask(0, framed(lab, sent), is_answered=True)
        assert heard is not None
        assert heard.data.hex() == foreseen["reply"], kind


def framed(lab: Lab, data: bytes) -> Any:
    mac, giaddr = data[28:34], socket.inet_ntoa(data[24:28])
    return direct(Raw(data), mac) if giaddr == "0.0.0.0" else relayed(Raw(data), lab, giaddr)


# Bad days


def lease(lab: Lab, program: str) -> bool:
    """Have a real client get an address, and tell whether it did."""
    words = {
        "udhcpc": "busybox udhcpc -i f0 -n -q -f -t 8 -T 1 -s /bin/true",
        "dhclient": f"dhclient -1 -d -sf /bin/true -lf {lab.base}/dc -pf {lab.base}/dp f0",
    }[program].split()
    command = ["timeout", "20", "ip", "netns", "exec", lab.cli, *words]
    if program == "udhcpc":
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        return any("bound to" in line for line in process.stderr)
    finally:
        process.kill()
        process.wait()


def test_clients_get_addresses_while_the_file_breaks_and_signals_storm(lab: Lab) -> None:
    assert lab.process is not None
    good, served = lab.site.read_text(), lab.said().count("doorstep: serving ")
    for number in range(20):
        lab.site.write_text(good if number % 2 else good[: 40 * number])
        lab.process.send_signal(signal.SIGHUP)
        for mac in range(20):
            asked = message(1, bytes((2, 0x10, 0, 0, number, mac)))
            lab.far[0].send(direct(asked, b"\x02\x10\0\0\0\0"))
        if number % 5 == 0:
            assert lease(lab, "udhcpc")
    lab.site.write_text(good.replace("10.99.0.7", "10.99.0.6"))
    until(lambda: lab.said().count("doorstep: serving ") > served)
    heard = ask(lab, ("param_req_list", [42]))  # the pool is empty now: this one has its own
    assert heard.options[42] == bytes((10, 99, 0, 6))


def ask(lab: Lab, *options: Any) -> Frame:
    """Ask as a client with a reservation until there is an answer."""
    mac = b"\x02\x0e\0\0\0\1"
    end = time.monotonic() + 20
    while time.monotonic() < end:
        lab.far[0].send(direct(message(1, mac, *options), mac))
        while (heard := lab.far[0].hear(0.5)) is not None:
            if heard.fields.chaddr[:6] == mac:
                return heard
    raise AssertionError("no answer")


def test_a_link_that_goes_and_comes_and_one_that_is_made_anew(lab: Lab) -> None:
    for _ in range(5):
        lab.batch(lab.srv, ["link set n0 down", "link set n0 up"])
    lab.batch(lab.srv, ["route replace 10.77.0.0/16 via 10.99.0.2"])
    assert ask(lab).kind == 2
    lab.batch(lab.srv, ["link set n0 address 02:12:34:56:78:9a"])
    assert ask(lab).kind == 2
    assert lease(lab, "dhclient")
    assert http(lab, head("GET /menu.ipxe"))[0].startswith("HTTP/1.1 200")
    lab.said()
