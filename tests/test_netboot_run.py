"""`doorstep netboot run` on a real wire: one small file, changed under load, and who it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
US, CLIENT = "10.46.0.1", "10.46.0.50"
SITE = """
[site]
id = "lab"
domain = "lab.example.net"
[[subnet]]
name = "boxes"
interface = "{near}"
network = "10.46.0.0/24"
appliance = "10.46.0.1"
pool = "10.46.0.100-10.46.0.150"
lease = "1h"
options = {{ ntp-servers = "10.46.0.9" }}
[[reservation]]
name = "printer"
mac = "02:00:00:00:00:11"
address = "10.46.0.11"
[boot]
files = "files"
"""
pytestmark = pytest.mark.boots


def run(*command: str | Path, check: bool = True) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


def until(what: Callable[[], object], seconds: float = 30.0) -> object:
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


class Lab:
    """Two namespaces on a veth, a site file with a directory of files, and the command."""

    def __init__(self, base: Path) -> None:
        tag = f"{os.getpid():x}"
        self.srv, self.cli = f"nr-s{tag}", f"nr-c{tag}"
        self.near, self.far = f"rs{tag}", f"rc{tag}"
        self.base, self.site, self.state = base, base / "site.toml", base / "state"
        self.log = base / "log"
        self.process: subprocess.Popen[bytes] | None = None
        for namespace in (self.srv, self.cli):
            run("ip", "netns", "add", namespace)
        words = f"link add {self.near} netns {self.srv} type veth peer {self.far} netns {self.cli}"
        run("ip", *words.split())
        for name, end, address in (
            (self.srv, self.near, f"{US}/24"),
            (self.cli, self.far, f"{CLIENT}/24"),
        ):
            for link in ("lo", end):
                run("ip", "-n", name, "link", "set", link, "up")
            run("ip", "-n", name, "address", "add", address, "dev", end)
        (base / "files" / "deep").mkdir(parents=True)
        (base / "files" / "menu.ipxe").write_text("#!ipxe\n")
        (base / "files" / "deep" / "kernel").write_bytes(bytes(70_000))
        self.write(SITE.format(near=self.near))

    def write(self, text: str) -> None:
        fresh = self.base / "site.new"
        fresh.write_text(text)
        fresh.rename(self.site)

    def change(self, old: str, new: str) -> None:
        text = self.site.read_text()
        assert old in text
        self.write(text.replace(old, new))

    def command(self, *more: str) -> list[str]:
        words = ["ip", "netns", "exec", self.srv, sys.executable, "-m", "bootstrap.cli"]
        words += ["netboot", "run", "--site", str(self.site), "--state", str(self.state)]
        return [*words, *more]

    def start(self, *more: str, dhcp: str = "DHCP") -> None:
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(*more), stderr=log, cwd=ROOT)
        until(lambda: f"serving {dhcp} on {self.near}; TFTP, HTTP, DNS on {US}" in self.said())

    def said(self) -> str:
        text = self.log.read_text()
        assert self.process is None or self.process.poll() is None, text
        return text

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status, self.process = self.process.wait(20), None
        return status

    def box(self, *command: str | Path, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.cli, *command, check=check)

    def lease(self, *more: str) -> str:
        words = ("udhcpc", "-i", self.far, "-n", "-q", "-f", "-t", "5", "-s", "/bin/true", *more)
        return self.box("busybox", *words)

    def fetch(self, url: str) -> str:
        return self.box("curl", "-sf", "--max-time", "10", url)

    def dig(self, name: str) -> str:
        return self.box("dig", f"@{US}", "+short", "+tries=1", "+time=2", name).strip()

    def end(self) -> None:
        if self.process is not None:
            self.stop(signal.SIGKILL)
        for namespace in (self.srv, self.cli):
            run("ip", "netns", "delete", namespace, check=False)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.end()


def test_a_small_file_serves_all_four_and_leases_survive_a_restart(lab: Lab) -> None:
    lab.start()
    for sentence in (
        "doorstep: started",
        f"subnet boxes, 10.46.0.0/24 on {lab.near}: DHCP 51 addresses to lend, 1 reserved",
        "boot files: 2, boot sets: 0, own rules: 0",
    ):
        assert sentence in lab.said()
    assert "lease of 10.46.0.100 obtained" in lab.lease()
    assert lab.fetch(f"http://{US}/menu.ipxe") == lab.fetch(f"tftp://{US}/menu.ipxe") == "#!ipxe\n"
    assert len(lab.fetch(f"http://{US}/deep/kernel")) == 70_000
    assert lab.dig("printer.lab.example.net") == "10.46.0.11"
    assert lab.stop() == 0
    assert "doorstep: stopped" in lab.said()
    lab.start("--no-probe")
    # Another client, so that only the lease that was kept makes the difference.
    run("ip", "-n", lab.cli, "link", "set", lab.far, "address", "02:00:00:00:99:99")
    assert "lease of 10.46.0.101 obtained" in lab.lease()


def test_a_file_that_is_wrong_is_refused_at_the_start_with_all_of_it(lab: Lab) -> None:
    lab.change('"10.46.0.100-10.46.0.150"', '"10.46.9.1-10.46.9.150"')
    lab.change("ntp-servers", "ntp-server")
    done = subprocess.run(lab.command(), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "subnet.boxes.options.ntp-server: there is no option" in done.stderr
    lab.change("ntp-server", "ntp-servers")
    done = subprocess.run(lab.command(), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "subnet.boxes.pool: 10.46.9.1-10.46.9.150 is not inside 10.46.0.0/24" in done.stderr


class Load:
    """Clients that never stop asking, each counting what it was not answered."""

    def __init__(self, lab: Lab) -> None:
        script = f"""
import socket, sys, threading, urllib.request
from ipaddress import IPv4Address
sys.path.insert(0, {str(ROOT)!r})
from netboot.asking import Asking, discover
from netboot.dhcp_message import Message
import dnslib
lost, done, ended = [], dict.fromkeys(("dhcp", "dns", "http"), 0), threading.Event()

def dhcp():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(({CLIENT!r}, 67))
    sock.settimeout(5)
    for number in range(1 << 24):
        if ended.is_set():
            return
        mac = b"\\2\\0\\0" + (number % 20).to_bytes(3, "big")
        asked = discover(Asking(mac=mac, relay=IPv4Address({CLIENT!r})))
        sock.sendto(asked.encode(), ({US!r}, 67))
        Message.decode(sock.recv(2000))
        done["dhcp"] += 1

def dns():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    while not ended.is_set():
        asked = dnslib.DNSRecord.question("printer.lab.example.net")
        sock.sendto(asked.pack(), ({US!r}, 53))
        assert dnslib.DNSRecord.parse(sock.recv(2000)).rr
        done["dns"] += 1

def http():
    while not ended.is_set():
        with urllib.request.urlopen("http://{US}/deep/kernel", timeout=5) as answer:
            assert len(answer.read()) == 70000
        done["http"] += 1

def guard(what):
    try:
        what()
    except BaseException as error:
        lost.append(repr((what.__name__, error)))

threads = [threading.Thread(target=guard, args=(one,)) for one in (dhcp, dns, http)]
[one.start() for one in threads]
print("going", flush=True)
sys.stdin.readline()
ended.set()
[one.join() for one in threads]
print(lost, min(done.values()) > 20, flush=True)
"""
        command = ["ip", "netns", "exec", lab.cli, sys.executable, "-c", script]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "going\n"

    def end(self) -> str:
        told, _ = self._process.communicate("\n", timeout=60)
        return told.strip()


def test_changes_under_load_lose_no_request_and_bad_ones_change_nothing(lab: Lab) -> None:
    lab.start("--no-probe")
    load = Load(lab)
    try:
        lab.change("10.46.0.9", "10.46.0.8")
        until(lambda: f"on {US} (plan 2)" in lab.said())
        lab.change('"1h"', '"2h"')
        until(lambda: f"on {US} (plan 3)" in lab.said())
        lab.change("network = ", "netwrk = ")
        until(lambda: "subnet.boxes.netwrk: is an unknown key: did you mean network?" in lab.said())
        assert "plan-kept: what is served stays as it is." in lab.said()
        lab.change("netwrk = ", "network = ")
        lab.change("boxes", "boxen")
        until(lambda: "(plan 4)" in lab.said())
    finally:
        told = load.end()
    assert told == "[] True"
    assert "lease time 7200" in lab.lease()


def test_files_come_and_go_while_it_runs(lab: Lab) -> None:
    lab.start("--no-probe")
    fresh = lab.base / "files" / "fresh.efi"
    fresh.write_text("one")
    until(lambda: "(plan 2)" in lab.said())
    assert lab.fetch(f"tftp://{US}/fresh.efi") == "one"
    fresh.write_text("other")
    until(lambda: "(plan 3)" in lab.said())
    assert lab.fetch(f"http://{US}/fresh.efi") == "other"
    fresh.unlink()
    until(lambda: "(plan 4)" in lab.said())
    # Whoever was told of it by the plan before may still fetch it; the next plan forgets it.
    assert lab.fetch(f"http://{US}/fresh.efi") == "other"
    (lab.base / "files" / "menu.ipxe").write_text("#!ipxe again\n")
    until(lambda: "(plan 5)" in lab.said())
    assert lab.fetch(f"http://{US}/menu.ipxe") == "#!ipxe again\n"
    told = lab.box("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{US}/fresh.efi")
    assert told == "404"
    kept = {path.name for path in (lab.state / "plan" / "files").iterdir()}
    assert len(kept) == 3  # the two of this plan, and the menu of the one before
    (lab.base / "files" / "a name").write_text("x")
    until(lambda: "no client can ask for this name: rename it" in lab.said())


def test_sighup_reads_the_file_again(lab: Lab) -> None:
    lab.start("--no-probe")
    assert lab.process is not None
    lab.process.send_signal(signal.SIGHUP)
    before = lab.site.stat()
    text = lab.site.read_text().replace("10.46.0.9", "10.46.0.8")
    with lab.site.open("r+") as file:  # the same inode, size and time: only the signal tells
        file.write(text)
    os.utime(lab.site, ns=(before.st_atime_ns, before.st_mtime_ns))
    lab.process.send_signal(signal.SIGHUP)
    until(lambda: "(plan 2)" in lab.said())


@contextmanager
def rival(lab: Lab) -> Iterator[None]:
    """Another DHCP server on the client's side."""
    words = "dnsmasq --keep-in-foreground --port=0 --conf-file=/dev/null --bind-interfaces"
    words += f" --interface={lab.far} --dhcp-range=10.46.0.200,10.46.0.210 --pid-file= --user=root"
    words += f" --dhcp-leasefile={lab.base}/rival"
    process = subprocess.Popen(
        ["ip", "netns", "exec", lab.cli, *words.split()], stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: ":67" in lab.box("ss", "-lnu"))
        yield
    finally:
        process.kill()
        process.wait()


def test_it_refuses_beside_another_server_with_its_address_and_mac(lab: Lab) -> None:
    with rival(lab):
        done = subprocess.run(
            lab.command(), capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
        )
    link = run("ip", "-n", lab.cli, "-br", "link", "show", "dev", lab.far)
    assert done.returncode == 2
    assert f"another DHCP server answers on {lab.near}: {CLIENT} ({link.split()[2]})" in done.stderr


def test_a_proxy_serves_beside_another_server_and_a_server_again_without(lab: Lab) -> None:
    lab.change('pool = "10.46.0.100-10.46.0.150"', 'dhcp = "proxy"')
    with rival(lab):
        lab.start(dhcp="proxyDHCP")
    lab.change('dhcp = "proxy"', 'pool = "10.46.0.100-10.46.0.150"')
    until(lambda: f"serving DHCP on {lab.near}; TFTP, HTTP, DNS on {US} (plan 2)" in lab.said())
    assert "lease of 10.46.0.100 obtained" in lab.lease()


def test_one_state_is_served_from_once_and_never_an_appliances(lab: Lab) -> None:
    lab.start("--no-probe")
    done = subprocess.run(lab.command(), capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, "is in use: another" in done.stderr) == (2, True)
    assert lab.stop(signal.SIGINT) == 0
    (lab.state / "site").mkdir()
    done = subprocess.run(lab.command(), capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, "the state of a whole appliance" in done.stderr) == (2, True)


def test_what_cannot_be_bound_is_told_and_the_rest_is_served(lab: Lab) -> None:
    code = "import socket, sys; s = socket.socket(); s.bind((sys.argv[1], 80)); s.listen(); "
    code += "print(1, flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        ["ip", "netns", "exec", lab.srv, sys.executable, "-c", code, US],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline()
        with lab.log.open("ab") as log:
            lab.process = subprocess.Popen(lab.command("--no-probe"), stderr=log, cwd=ROOT)
        until(lambda: f"serving DHCP on {lab.near}; TFTP, DNS on {US}" in lab.said())
        assert "http: " in lab.said()
        assert "lease of 10.46.0.100 obtained" in lab.lease()
    finally:
        other.kill()
        other.wait()


NAMES = """
import socket, sys, threading, time
from ipaddress import IPv4Address
sys.path.insert(0, {root!r})
from netboot.asking import Asking, discover, request_after
from netboot.dhcp_message import Message
import dnslib
US, CLIENT, COUNT = {us!r}, {client!r}, 40
ended, lookups, wrong = threading.Event(), 0, []

def asked(sock, name, kind="A"):
    question = dnslib.DNSRecord.question(name, kind)
    sock.sendto(question.pack(), (US, 53))
    found = dnslib.DNSRecord.parse(sock.recv(2000))
    assert found.header.id == question.header.id
    return str(found.rr[0].rdata) if found.rr else None

def look():
    global lookups
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(10)
    while not ended.is_set():
        for number in range(COUNT):
            name = f"till-{{number}}.lab.example.net"
            address = asked(sock, name)
            if address is not None:  # whoever has the one has the other: they come together
                back = asked(sock, f"{{address.split('.')[3]}}.0.46.10.in-addr.arpa", "PTR")
                if back != name + ".":
                    wrong.append((name, address, back))
            lookups += 1

def lease(sock, number):
    mac = b"\\2\\1\\0\\0\\0" + bytes((number,))
    first = discover(Asking(mac=mac, relay=IPv4Address(CLIENT)))
    sock.sendto(first.encode(), (US, 67))
    offer = Message.decode(sock.recv(2000))
    sock.sendto(request_after(first, offer).encode(), (US, 67))
    return str(Message.decode(sock.recv(2000)).yiaddr)

looker = threading.Thread(target=look)
looker.start()
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((CLIENT, 67))
sock.settimeout(10)
given = {{number: lease(sock, number) for number in range(COUNT)}}
ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ask.settimeout(10)
end = time.monotonic() + 30
while True:
    missing = [n for n, ip in given.items() if asked(ask, f"till-{{n}}.lab.example.net") != ip]
    if not missing or time.monotonic() > end:
        break
ended.set()
looker.join()
print(missing, wrong, lookups > COUNT, flush=True)
"""


def test_n22_names_of_leases_come_both_ways_at_once_while_many_ask(lab: Lab) -> None:
    lab.write(
        SITE.format(near=lab.near)
        + "".join(
            f'[[reservation]]\nname = "till-{number}"\nmac = "02:01:00:00:00:{number:02x}"\n'
            for number in range(40)
        )
    )
    lab.start("--no-probe")
    script = NAMES.format(root=str(ROOT), us=US, client=CLIENT)
    assert lab.box(sys.executable, "-c", script).strip() == "[] [] True"
