"""The TFTP server on real sockets, in network namespaces: real clients, IPv6, floods, addresses."""

import ctypes
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from test_dhcp_net import until
from tftp_lab import ack, error, rrq

from netboot.tftp import MAX_TRANSFERS

ROOT = Path(__file__).parent.parent
US, ALSO_US, US6 = "10.41.7.2", "10.41.7.3", "fd41::2"
FILES = {
    "/f/large": bytes(range(256)) * (40 << 12) + b"end",  # 40 MB: blocks of 512 wrap
    "/shimx64.efi": os.urandom(943_719),
    "/exact": os.urandom(14_680),
    "/empty": b"",
    "/text": b"one\ntwo\r\nthree",
}

SERVER = """
import sys, time
from ipaddress import ip_address
from pathlib import Path
from netboot.files import FileMap
from netboot.io.files import FileStore
from netboot.io.tftp import TftpRunner
names = {}
for line in Path(sys.argv[1], "names").read_text().splitlines():
    digest, name = line.split()
    names[name] = bytes.fromhex(digest)
def tell(events):
    for event in events:
        print(event.kind, event.address, dict(event.detail), flush=True)
runner = TftpRunner(FileStore(Path(sys.argv[1])), tell)
runner.replace(FileMap(names), [ip_address(one) for one in sys.argv[3:]], int(sys.argv[2]))
print("ready", flush=True)
while True:
    runner.turn(1.0)
"""


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


class Lab:
    """Two namespaces on a veth pair; the server is started in one, clients run in the other."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.srv, self.cli = f"tf-s{os.getpid():x}", f"tf-c{os.getpid():x}"
        self.store = base / "store"
        self.process: subprocess.Popen[str] | None = None

    def build(self) -> None:
        for namespace in (self.srv, self.cli):
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        ends = ("netns", self.srv, "type", "veth", "peer", "name", "e0", "netns", self.cli)
        run("ip", "link", "add", "e0", *ends)
        for namespace, addresses in (
            (self.srv, (f"{US}/24", f"{ALSO_US}/24", f"{US6}/64")),
            (self.cli, ("10.41.7.100/24", "10.41.7.101/24", "fd41::100/64")),
        ):
            run("ip", "-n", namespace, "link", "set", "e0", "up")
            for address in addresses:
                dad = ("nodad",) if ":" in address else ()
                run("ip", "-n", namespace, "address", "add", address, "dev", "e0", *dad)
        self.store.mkdir()
        lines = []
        for name, data in FILES.items():
            digest = hashlib.sha256(data).hexdigest()
            (self.store / digest).write_bytes(data)
            lines.append(f"{digest} {name}\n")
        (self.store / "names").write_text("".join(lines))

    def start(self, mtu: int = 1500) -> None:
        command = ["ip", "netns", "exec", self.srv, sys.executable, "-c", SERVER]
        command += [str(self.store), str(mtu), US, ALSO_US, US6]
        self.log = self.base / "log"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, env=os.environ | {"PYTHONPATH": str(ROOT)}
            )
        until(lambda: "ready" in self.log.read_text())

    def stop(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        for namespace in (self.srv, self.cli):
            run("ip", "netns", "delete", namespace, check=False)

    def inside(self, *command: str, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.cli, *command, check=check)

    def socket(self, address: str = "10.41.7.100", port: int = 0) -> socket.socket:
        """Open a UDP socket in the clients' namespace."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.cli}", os.O_RDONLY)
        try:
            _setns(there)
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((address, port))
        finally:
            _setns(home)
            os.close(there)
            os.close(home)
        sock.settimeout(10)
        return sock

    def status(self, key: str) -> int:
        """Read a number of the server from /proc/PID/status."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition(f"{key}:")[2].split()[0])

    def sockets(self) -> int:
        """Count the server's open sockets."""
        assert self.process is not None
        found = Path(f"/proc/{self.process.pid}/fd").iterdir()
        return sum(_target(one).startswith("socket:") for one in found)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""  # closed while we looked


def _setns(descriptor: int) -> None:
    assert ctypes.CDLL(None).setns(descriptor, 0x40000000) == 0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("tftp"))
    try:
        lab.build()
        yield lab
    finally:
        lab.close()


@pytest.fixture
def lab(built: Lab) -> Iterator[Lab]:
    built.start()
    try:
        yield built
    finally:
        built.stop()


def text_as_netascii(data: bytes) -> bytes:
    """Undo RFC 764 as a client on Linux does."""
    return data.replace(b"\r\n", b"\n").replace(b"\r\0", b"\r")


CLIENTS = {
    "tftp-hpa": "tftp -m binary {host} -c get {name} {out}",
    "tftp-hpa 6": "tftp -6 -m binary {host6} -c get {name} {out}",
    "atftp": "atftp -g -r {name} -l {out} {host}",
    "atftp 1428": "atftp --option 'blksize 1428' -g -r {name} -l {out} {host}",
    "atftp window": "atftp --option 'blksize 1428' --option 'windowsize 8' -g -r {name} -l {out} "
    "{host}",
    "atftp tsize": "atftp --option 'tsize 0' --option 'windowsize 64' -g -r {name} -l {out} {host}",
    "atftp 6": "atftp --option 'windowsize 4' -g -r {name} -l {out} {host6}",
    "curl": "curl -sf -o {out} tftp://{host}/{name}",
    "curl 1468": "curl -sf --tftp-blksize 1468 -o {out} tftp://{host}/{name}",
    "curl no options": "curl -sf --tftp-no-options -o {out} tftp://{host}/{name}",
    "curl 6": "curl -sf --tftp-blksize 1400 -o {out} tftp://[{host6}]/{name}",
    "busybox": "busybox tftp -g -r {name} -l {out} {host}",
    "busybox 1468": "busybox tftp -b 1468 -g -r {name} -l {out} {host}",
}


@pytest.mark.boots
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", ["shimx64.efi", "exact"])
def test_real_clients_get_whole_files(lab: Lab, tmp_path: Path, client: str, name: str) -> None:
    out = tmp_path / "out"
    command = CLIENTS[client].format(host=US, host6=US6, name=name, out=out)
    lab.inside("sh", "-c", command)
    assert out.read_bytes() == FILES[f"/{name}"]
    until(lambda: "'phase': 'end'" in lab.log.read_text())
    assert f"'sent': {len(out.read_bytes())}" in lab.log.read_text()
    assert "'done': True" in lab.log.read_text()


@pytest.mark.boots
@pytest.mark.parametrize("client", ["tftp-hpa", "atftp", "curl", "busybox", "atftp tsize"])
def test_t8_real_clients_go_on_after_65535_blocks(lab: Lab, tmp_path: Path, client: str) -> None:
    out = tmp_path / "out"
    lab.inside("sh", "-c", CLIENTS[client].format(host=US, name="f/large", out=out))
    assert out.read_bytes() == FILES["/f/large"]


@pytest.mark.boots
def test_t13_tftp_hpa_and_curl_get_text(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lab.inside("sh", "-c", f"tftp -m ascii {US} -c get text {out}")
    assert out.read_bytes() == FILES["/text"]
    lab.inside("curl", "-sf", "--use-ascii", "-o", str(out), f"tftp://{US}/text")
    assert text_as_netascii(out.read_bytes()) == FILES["/text"]


@pytest.mark.boots
def test_t6_a_block_is_never_larger_than_the_link_carries(lab: Lab) -> None:
    lab.stop()
    lab.start(mtu=900)
    with lab.socket() as client:
        client.sendto(rrq("exact", ("blksize", 1468)), (US, 69))
        data, _ = client.recvfrom(2000)
    assert data == b"\0\6blksize\x00868\0"


@pytest.mark.boots
def test_a_route_with_a_smaller_mtu_gets_whole_windows_too(lab: Lab, tmp_path: Path) -> None:
    route = ("10.41.7.100/32", "dev", "e0", "mtu", "600")
    run("ip", "-n", lab.srv, "route", "add", *route)
    try:
        out = tmp_path / "out"
        command = CLIENTS["atftp window"].format(host=US, name="shimx64.efi", out=out)
        lab.inside("sh", "-c", command)
    finally:
        run("ip", "-n", lab.srv, "route", "delete", *route)
    assert out.read_bytes() == FILES["/shimx64.efi"]


@pytest.mark.boots
@pytest.mark.parametrize("address", [US, ALSO_US])
def test_replies_come_from_the_address_that_was_asked(lab: Lab, address: str) -> None:
    with lab.socket() as client:
        client.sendto(rrq("exact"), (address, 69))
        data, (host, port) = client.recvfrom(2000)
        assert (data[:4], host) == (b"\0\3\0\1", address)
        assert port != 69
        client.sendto(rrq("nothing"), (address, 69))
        data, peer = client.recvfrom(2000)
        assert (data[:4], peer) == (b"\0\5\0\1", (address, 69))


@pytest.mark.boots
def test_t1_t12_a_size_probe_is_freed_and_another_tid_disturbs_nobody(lab: Lab) -> None:
    before = lab.sockets()
    with lab.socket() as client, lab.socket() as other:
        client.sendto(rrq("shimx64.efi", ("tsize", 0)), (US, 69))
        data, tid = client.recvfrom(2000)
        assert data == b"\0\6tsize\x00943719\0"
        client.sendto(error(8), tid)
        until(lambda: lab.sockets() == before)
        client.sendto(rrq("shimx64.efi"), (US, 69))
        _, tid = client.recvfrom(2000)
        other.sendto(ack(1), tid)
        data, _ = other.recvfrom(2000)
        assert data[:4] == b"\0\5\0\5"
        client.sendto(ack(1), tid)
        data, _ = client.recvfrom(2000)
        assert data[:4] == b"\0\3\0\2"


@pytest.mark.boots
def test_t12_t11_a_client_that_goes_on_has_its_port_to_itself(lab: Lab) -> None:
    before = lab.sockets()
    with lab.socket() as client, lab.socket() as other, lab.socket("10.41.7.101") as another:
        client.sendto(rrq("f/large"), (US, 69))
        data, tid = client.recvfrom(2000)
        for block in range(1, 200):
            assert data == b"\0\3" + block.to_bytes(2, "big") + data_of("/f/large", block)
            client.sendto(b"", tid)
            client.sendto(ack(block - 1), tid)
            if block % 50 == 0:
                for stranger in (other, another):
                    stranger.sendto(ack(block), tid)
                    assert stranger.recvfrom(2000)[0][:4] == b"\0\5\0\5"
            client.sendto(ack(block), tid)
            data, peer = client.recvfrom(2000)
            assert peer == tid
        assert lab.sockets() == before + 2
        client.sendto(error(0), tid)
        until(lambda: lab.sockets() == before)


def data_of(name: str, block: int) -> bytes:
    return FILES[name][512 * (block - 1) : 512 * block]


@pytest.mark.boots
def test_clients_that_go_on_never_share_a_port(lab: Lab) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(lab.socket()) for _ in range(100)]
        tids = []
        for number, client in enumerate(clients):
            client.sendto(rrq("f/large"), ((US, ALSO_US)[number % 2], 69))
            tids.append(client.recvfrom(2000)[1])
        assert len(set(tids)) == len(clients)
        for block in range(1, 40):
            for client, tid in zip(clients, tids, strict=True):
                client.sendto(ack(block), tid)
            for client, tid in zip(clients, tids, strict=True):
                data, peer = client.recvfrom(2000)
                assert (data[4:], peer) == (data_of("/f/large", block + 1), tid)


@pytest.mark.boots
def test_t22_ten_thousand_silent_clients_cost_nothing(lab: Lab, tmp_path: Path) -> None:
    resident = lab.status("VmRSS")
    out = tmp_path / "out"
    command = ["ip", "netns", "exec", lab.cli, "sh", "-c"]
    command.append(CLIENTS["curl"].format(host=US, name="f/large", out=out))
    with subprocess.Popen(command) as live:
        with lab.socket("10.41.7.101", 0) as one:
            for number in range(10_000):
                if number % 20 == 0:
                    one.close()
                    one = lab.socket("10.41.7.101" if number % 40 else "10.41.7.100")
                one.sendto(rrq("f/large", ("tsize", 0), ("windowsize", 64)), (US, 69))
                one.sendto(rrq("f/large"), (ALSO_US, 69))
        assert lab.sockets() <= MAX_TRANSFERS + 4  # the one that goes on has two
        shim = tmp_path / "shim"
        for client in ("atftp", "curl"):
            lab.inside("sh", "-c", CLIENTS[client].format(host=US, name="shimx64.efi", out=shim))
            assert shim.read_bytes() == FILES["/shimx64.efi"]
        assert live.wait(60) == 0
    assert out.read_bytes() == FILES["/f/large"]
    assert lab.status("VmRSS") - resident < 20_000
