"""ProxyDHCP on real sockets beside a real dnsmasq or Kea that gives the addresses.

Three namespaces on one bridge: the foreign server, ours, and the clients with the bridge.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from dhcp_lab import message, pxe, selecting
from proxy_lab import proxy_config
from test_dhcp_net import until
from test_tftp import ack as tftp_ack
from test_tftp import rrq

from netboot.dhcp_config import DhcpConfig
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType
from netboot.errors import SiteError
from netboot.io.proxy import ProxyRunner

ROOT = Path(__file__).parent.parent
US, FOREIGN = IPv4Address("10.41.7.2"), IPv4Address("10.41.7.1")
LOADER = os.urandom(3000)
MAC = bytes.fromhex("020000000001")


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


class Lab:
    """The wire, and the two servers as processes that a test starts."""

    def __init__(self, base: Path) -> None:
        self.base = base
        tag = f"{os.getpid():x}"
        self.ours, self.foreign, self.box = (f"px-{name}{tag}" for name in ("s", "f", "b"))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log = base / "ours.log"

    def build(self) -> None:
        for namespace in (self.ours, self.foreign, self.box):
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        bridge = ("link", "add", "br0", "type", "bridge", "forward_delay", "0")
        run("ip", "-n", self.box, *bridge, "mcast_snooping", "0")
        for namespace, end, address in ((self.ours, "port1", US), (self.foreign, "port2", FOREIGN)):
            ends = ("netns", self.box, "type", "veth", "peer", "name", "e0", "netns", namespace)
            run("ip", "link", "add", end, *ends)
            run("ip", "-n", self.box, "link", "set", end, "master", "br0", "up")
            run("ip", "-n", namespace, "address", "add", f"{address}/24", "brd", "+", "dev", "e0")
            run("ip", "-n", namespace, "link", "set", "e0", "up")
        run("ip", "-n", self.box, "link", "set", "br0", "up")

    def start(self, namespace: str, *command: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("w") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *command],
                stdout=out,
                stderr=out,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
        self.processes.append(process)
        return process

    def start_ours(self) -> None:
        served = self.base / "served"
        served.mkdir()
        (served / "shimx64.efi").write_bytes(LOADER)
        lab = str(ROOT / "tests" / "proxy_lab.py")
        command = (sys.executable, lab, "e0", f"{US}/24", str(served), "shimx64.efi")
        self.start(self.ours, *command, log=self.log)
        until(lambda: "serving" in self.log.read_text())

    def start_dnsmasq(self) -> None:
        command = ("dnsmasq", "-k", "--conf-file=/dev/null", "--port=0", "--pid-file=")
        command += ("--user=root", "--no-ping", "--bind-interfaces", "--interface=e0")
        command += ("--dhcp-range=10.41.7.100,10.41.7.150,1h", "--log-dhcp", "--log-facility=-")
        command += (f"--dhcp-leasefile={self.base}/leases",)
        log = self.base / "dnsmasq.log"
        self.start(self.foreign, *command, log=log)
        until(lambda: "DHCP, IP range" in log.read_text())

    def start_kea(self) -> None:
        settings = {
            "Dhcp4": {
                "interfaces-config": {"interfaces": ["e0"]},
                "lease-database": {"type": "memfile", "persist": False},
                "subnet4": [
                    {
                        "id": 1,
                        "subnet": "10.41.7.0/24",
                        "pools": [{"pool": "10.41.7.100 - 10.41.7.150"}],
                    }
                ],
                "loggers": [
                    {
                        "name": "kea-dhcp4",
                        "output_options": [{"output": "stdout"}],
                        "severity": "INFO",
                    }
                ],
            }
        }
        path = self.base / "kea.json"
        path.write_text(json.dumps(settings))
        log = self.base / "kea.log"
        where = {"KEA_LOCKFILE_DIR": str(self.base), "KEA_PIDFILE_DIR": str(self.base)}
        words = [f"{key}={value}" for key, value in where.items()]
        kea = shutil.which("kea-dhcp4") or "/usr/sbin/kea-dhcp4"
        self.start(self.foreign, "env", *words, kea, "-c", str(path), log=log)
        until(lambda: "DHCP4_STARTED" in log.read_text())

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for namespace in (self.ours, self.foreign, self.box):
            run("ip", "netns", "delete", namespace, check=False)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    try:
        made.build()
        yield made
    finally:
        made.close()


CLIENT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_proxy_net import boot_like_edk2, boot_like_ipxe
{"edk2": boot_like_edk2, "ipxe": boot_like_ipxe}[sys.argv[2]]()
print("booted")
"""


def udp(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"br0")
    sock.bind(("0.0.0.0", port))
    sock.settimeout(5)
    return sock


Heard = list[tuple[Message, tuple[str, int]]]


def listen(sock: socket.socket, seconds: float) -> Heard:
    """Give all that comes until it has been silent for so long."""
    heard: Heard = []
    sock.settimeout(seconds)
    while True:
        try:
            data, peer = sock.recvfrom(2000)
        except TimeoutError:
            return heard
        heard.append((Message.decode(data), peer))


def get_address(options: tuple[tuple[int, bytes], ...]) -> tuple[IPv4Address, Message]:
    """Do the four ways with the foreign server; return the address and the proxy's offer."""
    header = {"flags": 0x8000}
    with udp(68) as sock:
        sock.sendto(message(MessageType.DISCOVER, MAC, *options, **header), ("<broadcast>", 67))
        heard = listen(sock, 2)
        proxies = {
            bytes(offer.encode()): (offer, peer) for offer, peer in heard if not int(offer.yiaddr)
        }
        offers = [(offer, peer) for offer, peer in heard if int(offer.yiaddr)]
        ((proxy, proxy_peer),) = proxies.values()
        assert proxy_peer == (str(US), 67)
        assert offers
        assert all(peer == (str(FOREIGN), 67) for _, peer in offers)
        wanted = offers[0][0].yiaddr
        request = selecting(MAC, wanted, *options, server=str(FOREIGN), **header)
        sock.sendto(request, ("<broadcast>", 67))
        acks = listen(sock, 2)
        assert {peer for _, peer in acks} == {(str(FOREIGN), 67)}
        assert {one.options.message_type for one, _ in acks} == {MessageType.ACK}
    run("ip", "address", "add", f"{wanted}/24", "dev", "br0")
    return wanted, proxy


def ask_boot_server(address: IPv4Address, proxy: Message, port: int, options: object) -> Message:
    server = str(proxy.options.address(Code.SERVER_ID))
    data = message(MessageType.REQUEST, MAC, *options, ciaddr=address, secs=512)  # type: ignore[misc]
    with udp(port) as sock:
        sock.sendto(data, (server, 4011))
        (ack, peer) = listen(sock, 1)[0]
    assert peer == (str(US), 4011)
    assert ack.options.message_type is MessageType.ACK
    assert int(ack.yiaddr) == 0
    return ack


def load(ack: Message) -> None:
    with udp(2070) as sock:
        sock.sendto(rrq(ack.file), (str(ack.siaddr), 69))
        content, block = b"", b"x" * 512
        while len(block) == 512:
            data, peer = sock.recvfrom(2000)
            block = data[4:]
            content += block
            sock.sendto(tftp_ack(int.from_bytes(data[2:4], "big")), peer)
    assert len(content) == len(LOADER)


def boot_like_edk2() -> None:
    options = pxe(7)
    address, proxy = get_address(options)
    assert Code.VENDOR_SPECIFIC not in proxy.options
    load(ask_boot_server(address, proxy, 4011, options))


def boot_like_ipxe() -> None:
    """Do as iPXE does that is sent on to port 4011: from the port where it is a DHCP client."""
    options = pxe(7)
    address, proxy = get_address(options)
    load(ask_boot_server(address, proxy, 68, options))


@pytest.mark.boots
@pytest.mark.parametrize("foreign", ["dnsmasq", "kea"])
@pytest.mark.parametrize("client", ["edk2", "ipxe"])
def test_d22_a_box_with_a_foreign_address_boots_from_us(
    lab: Lab, foreign: str, client: str
) -> None:
    {"dnsmasq": lab.start_dnsmasq, "kea": lab.start_kea}[foreign]()
    lab.start_ours()
    here = str(Path(__file__).parent)
    command = (sys.executable, "-c", CLIENT, here, client)
    process = lab.start(lab.box, *command, log=lab.base / "client.log")
    assert process.wait(60) == 0, (lab.base / "client.log").read_text()
    assert "booted" in (lab.base / "client.log").read_text()
    until(lambda: "phase=end" in lab.log.read_text())
    told = lab.log.read_text()
    assert "dhcp-offer mac=02:00:00:00:00:01 file=shimx64.efi mode=proxy" in told
    assert "dhcp-ack mac=02:00:00:00:00:01 address=10.41.7.1" in told
    # the set that it was offered at port 4011 is whose files it was sent
    assert f"boot_set={bytes(range(32)).hex()}" in told


@pytest.mark.boots
def test_a_client_that_does_not_boot_hears_nothing_of_us(lab: Lab) -> None:
    lab.start_dnsmasq()
    lab.start_ours()
    capture = lab.base / "capture"
    sniffer = lab.start(lab.box, "tcpdump", "-lnni", "br0", f"udp and src {US}", log=capture)
    until(lambda: "listening" in capture.read_text())
    udhcpc = shutil.which("udhcpc") or "/usr/sbin/udhcpc"
    said = run("ip", "netns", "exec", lab.box, udhcpc, "-nqfi", "br0", "-s", "/bin/true")
    assert "10.41.7.1" in said
    sniffer.terminate()
    sniffer.wait()
    assert f"{US}." not in capture.read_text()
    assert "dhcp-" not in lab.log.read_text()


def beside(interface: str, dhcp: str) -> DhcpConfig:
    settings = proxy_config(interface, IPv4Interface("127.0.0.1/8"), "shimx64.efi")
    return replace(settings, subnets=(replace(settings.subnets[0], dhcp=dhcp),))


REPLACE = """
import sys
sys.path.insert(0, sys.argv[1])
from test_proxy_net import replace_while_running
replace_while_running()
print("passed")
"""


def replace_while_running() -> None:
    runner = ProxyRunner(list)
    runner.replace(beside("lo", "server"))
    (before,) = runner.sockets()
    assert before.getsockname() == ("0.0.0.0", 4011)
    with pytest.raises(SiteError, match="no-such0"):
        runner.replace(beside("no-such0", "proxy"))
    assert runner.sockets() == (before,)
    runner.replace(beside("lo", "proxy"))
    assert {one.getsockname()[1] for one in runner.sockets()} == {67, 4011}
    assert before in runner.sockets()
    runner.replace(beside("lo", "off"))
    assert runner.sockets() == ()
    assert before.fileno() == -1
    assert runner.trouble is None
    runner.close()


@pytest.mark.boots
def test_sockets_follow_the_plan_and_a_bad_one_leaves_them(lab: Lab) -> None:
    here = str(Path(__file__).parent)
    command = ("ip", "netns", "exec", lab.ours, "env", f"PYTHONPATH={ROOT}")
    assert run(*command, sys.executable, "-c", REPLACE, here) == "passed\n"


@pytest.mark.boots
def test_an_interface_that_goes_and_comes_is_served_again(lab: Lab) -> None:
    lab.start_dnsmasq()
    lab.start_ours()
    run("ip", "-n", lab.box, "link", "delete", "port1")
    ends = ("netns", lab.box, "type", "veth", "peer", "name", "e0", "netns", lab.ours)
    run("ip", "link", "add", "port1", *ends)
    run("ip", "-n", lab.box, "link", "set", "port1", "master", "br0", "up")
    run("ip", "-n", lab.ours, "address", "add", f"{US}/24", "brd", "+", "dev", "e0")
    run("ip", "-n", lab.ours, "link", "set", "e0", "up")
    ask = ("ip", "netns", "exec", lab.box, sys.executable, "-c", ASK, str(Path(__file__).parent))
    until(lambda: "heard 10.41.7.2" in run(*ask, check=False))


ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from test_proxy_net import *
with udp(68) as sock:
    sock.sendto(message(MessageType.DISCOVER, MAC, *pxe(7)), ("<broadcast>", 67))
    for _, peer in listen(sock, 1):
        print("heard", peer[0])
"""
