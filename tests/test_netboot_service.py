"""The netboot process on a real wire, unprivileged: real clients, new plans, kill -9, a rival."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from bootstrap.rehearsal.view import command_that_sees
from keys.io.layout import Layout, users_from_text
from keys.io.rpc import Method, Params, RpcError, RpcServer, RpcUnavailableError, call
from netboot.errors import PeerError
from netboot.files import ServedSet
from netboot.io.own_ksk import OwnKsk
from netboot.io.service import load
from netboot.io.workers import line
from netboot.network import Pool, Reservation, SubnetPlan
from netboot.plan import Boot, Plan, Record
from netboot.plan_dns import Asking, PlanDns
from netboot.rdata import Rtype, show

UID = 61001
USERS = (
    "netboot=61001,enroll=61002,control=61003,keys=61004,page=61005,nginx=61006,watch=61007,"
    "sync=61008"
)
ROOT = Path(__file__).parent.parent
US, DOMAIN = "10.41.7.2", "shop.example.net"
KERNEL = os.urandom(3_000_000)
FILES = {
    "/shimx64.efi": b"MZ" + bytes(998),
    "/grub/grub.cfg": b"boot\n",
    "/f/00112233/vmlinuz": KERNEL,
    "/exact": bytes(1468 * 4),
}
RUN = """
import sys
from pathlib import Path
from keys.io.layout import Layout, users_from_text
from netboot.io.service import main
base = Path(sys.argv[1])
main(Layout(site=base / "site", state=base / "state", run=base / "run",
            users=users_from_text(sys.argv[2])))
"""


def run(*command: str | Path, check: bool = True, timeout: float = 60) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


def until(what: Callable[[], object], seconds: float = 20.0) -> object:
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


class Keys:
    """The key service as far as netboot asks it, as a thread of this process."""

    def __init__(self, base: Path) -> None:
        (base / "run/keys").mkdir()
        layout = Layout(site=base, state=base, run=base / "run", users=users_from_text(USERS))
        self.ksk, self.calls = OwnKsk(base / "ksk.pem"), 0
        method = Method(self._sign, frozenset({"netboot"}))
        self._server = RpcServer(layout, "keys", {"zone_sign": method})
        self._is_ended = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _sign(self, _: str, params: Params) -> Mapping[str, Any]:
        self.calls += 1
        return self.ksk.sign(params["zones"], params["keys"])

    def _run(self) -> None:
        while not self._is_ended:
            self._server.turn(0.05)

    def end(self) -> None:
        self._is_ended = True
        self._thread.join()
        self._server.close()


class Lab:
    """Two namespaces on a veth, a state directory, and the process as its own user."""

    def __init__(self, base: Path) -> None:
        tag = f"{os.getpid():x}"
        self.base, self.srv, self.cli = base, f"nb-s{tag}", f"nb-c{tag}"
        self.near, self.far = f"ns{tag}", f"nc{tag}"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = base / "log"
        for namespace in (self.srv, self.cli):
            run("ip", "netns", "add", namespace)
        link = (
            f"ip link add {self.near} netns {self.srv} type veth peer {self.far} netns {self.cli}"
        )
        run(*link.split())
        for namespace, end, address in (
            (self.srv, self.near, f"{US}/24"),
            (self.cli, self.far, "10.41.7.50/24"),
        ):
            for name in ("lo", end):
                run("ip", "-n", namespace, "link", "set", name, "up")
            run("ip", "-n", namespace, "address", "add", address, "dev", end)
        for directory in ("state/netboot", "state/plan", "state/bootsets/files", "run/netboot"):
            (base / directory).mkdir(parents=True)
        for directory in ("state/netboot", "run/netboot"):
            os.chown(base / directory, UID, UID)
        self.keys = Keys(base)
        for data in FILES.values():
            (base / "state/bootsets/files" / hashlib.sha256(data).hexdigest()).write_bytes(data)

    def plan(self, number: int = 1, **changes: object) -> Plan:
        subnet = SubnetPlan(
            name="tills",
            interface=self.near,
            network=IPv4Network("10.41.7.0/24"),
            appliance=IPv4Address(US),
            gateway=None,
            pools=(Pool(first=IPv4Address("10.41.7.100"), last=IPv4Address("10.41.7.150")),),
            lease=timedelta(minutes=10),
            dhcp="server",
            boot=True,
        )
        mac = bytes.fromhex(self.mac().replace(":", ""))
        names = {path: hashlib.sha256(data).digest() for path, data in FILES.items()}
        loader = ServedSet(
            boot_set=bytes(32),
            architecture="amd64",
            loader="shimx64.efi",
            names={"/shimx64.efi": names.pop("/shimx64.efi")},
        )
        plan = Plan(
            number=number,
            site="shop",
            domain=DOMAIN,
            subnets=(subnet,),
            reservations=(Reservation(mac=mac, address=IPv4Address("10.41.7.20"), name="till-1"),),
            records=(Record(name=f"appliance.{DOMAIN}", type="A", ttl=60, value=US),),
            boot=Boot(sets=(loader,), files=names),
            dns=PlanDns(asking=Asking.SITE),
        )
        return replace(plan, **changes)

    def write(self, data: bytes, name: str = "plan.json") -> None:
        fresh = self.base / "state/plan/new"
        fresh.write_bytes(data)
        fresh.rename(self.base / "state/plan" / name)

    def start(self) -> None:
        drop = "-all,+net_bind_service,+net_raw"
        words = f"setpriv --reuid {UID} --regid {UID} --clear-groups --no-new-privs"
        words += f" --inh-caps {drop} --ambient-caps {drop} --bounding-set {drop}"
        program = [*words.split(), sys.executable, "-c", RUN, str(self.base), USERS]
        command = ["ip", "netns", "exec", self.srv, *command_that_sees([self.base], program)]
        environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=environment, cwd="/")

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(20)
        self.process = None
        return status

    def ask(self, method: str, **params: object) -> dict:
        try:
            return call(self.base / "run/netboot/socket", method, params, timeout=5)
        except RpcUnavailableError:
            return {}

    def status(self) -> dict:
        return self.ask("status")

    def serves(self, number: int = 1) -> bool:
        status = self.status()
        assert self.process is None or self.process.poll() is None, self.log.read_text()
        if status.get("running") != number:
            return False
        return set(status["services"].values()) == {"serving"}

    def events(self, kind: str) -> list[dict]:
        events = self.ask("events", after=0, limit=500).get("events", [])
        return [event for event in events if event["kind"] == kind]

    def box(self, *command: str | Path, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.cli, *command, check=check)

    def mac(self) -> str:
        text = run("ip", "-n", self.cli, "-j", "link", "show", "dev", self.far)
        return json.loads(text)[0]["address"]

    def dhcp(self) -> str:
        script = "/bin/true"
        words = ("busybox", "udhcpc", "-i", self.far, "-n", "-q", "-f", "-t", "5", "-s", script)
        return self.box(*words)

    def dig(self, *words: str) -> str:
        return self.box("dig", f"@{US}", "+short", "+tries=1", "+time=2", *words).strip()

    def start_rival(self) -> subprocess.Popen[bytes]:
        words = (
            f"ip netns exec {self.cli} dnsmasq --keep-in-foreground --port=0 --conf-file=/dev/null"
        )
        words += f" --interface={self.far} --bind-interfaces --dhcp-range=10.41.7.200,10.41.7.210"
        words += f" --dhcp-leasefile={self.base}/rival --pid-file= --user=root"
        return subprocess.Popen(words.split(), stderr=subprocess.DEVNULL)

    def end(self) -> None:
        self.keys.end()
        if self.process is not None:
            self.kill()
        for namespace in (self.srv, self.cli):
            run("ip", "netns", "delete", namespace, check=False)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    base = Path(tempfile.mkdtemp(prefix="netboot-"))  # pytest's own is closed to other users
    base.chmod(0o755)
    made = Lab(base)
    try:
        made.start()
        until(lambda: made.status())
        yield made
    finally:
        made.end()
        shutil.rmtree(base)


@pytest.fixture
def serving(lab: Lab) -> Lab:
    """The process with plan 1, whatever the test before left."""
    lab.write(lab.plan().encode())
    if lab.process is None:
        lab.start()
    until(lambda: lab.serves() and not lab.status()["kept"])
    return lab


pytestmark = pytest.mark.boots


def test_it_waits_for_the_first_plan_and_says_so(lab: Lab) -> None:
    status = lab.status()
    assert status["running"] is None
    assert status["sentences"] == ["netboot waits for the first plan"]
    assert set(status["services"].values()) == {"waiting"}


@pytest.mark.parametrize("size", ["512", "1024", "1468", "65464"])
def test_curl_fetches_by_tftp(serving: Lab, tmp_path: Path, size: str) -> None:
    target = tmp_path / "kernel"
    url = f"tftp://{US}/f/00112233/vmlinuz"
    serving.box("curl", "-s", "--tftp-blksize", size, "-o", target, url)
    assert target.read_bytes() == KERNEL


def test_tftp_hpa_and_atftp_fetch(serving: Lab, tmp_path: Path) -> None:
    target = tmp_path / "one"
    serving.box("tftp", "-m", "binary", US, "-c", "get", "f/00112233/vmlinuz", target)
    assert target.read_bytes() == KERNEL
    options = ("--option", "blksize 1468", "--option", "windowsize 4", "--option", "tsize 0")
    target = tmp_path / "two"
    serving.box("atftp", *options, "-g", "-r", "exact", "-l", target, US)
    assert target.read_bytes() == FILES["/exact"]
    text = serving.box("tftp", US, "-c", "get", "nothing", tmp_path / "three")
    assert "no such file" in text


def test_curl_fetches_by_http_in_ranges(serving: Lab, tmp_path: Path) -> None:
    url = f"http://{US}/f/00112233/vmlinuz"
    target = tmp_path / "kernel"
    serving.box("curl", "-sf", "-o", target, url)
    assert target.read_bytes() == KERNEL
    serving.box("curl", "-sf", "-r", "1000000-1999999", "-o", target, url)
    assert target.read_bytes() == KERNEL[1_000_000:2_000_000]
    target.write_bytes(KERNEL[:500_000])
    serving.box("curl", "-sf", "-C", "-", "-o", target, url)
    assert target.read_bytes() == KERNEL
    for path, status in (("/nothing", "404"), ("/..%2fetc", "403")):
        told = serving.box(
            "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{US}{path}"
        )
        assert told == status


def test_what_was_sent_is_told_with_the_lease_it_went_to(serving: Lab, tmp_path: Path) -> None:
    serving.box("curl", "-s", "-o", tmp_path / "x", f"tftp://{US}/shimx64.efi")

    def ended() -> list[dict]:
        details = [event["detail"] for event in serving.events("boot-file")]
        return [one for one in details if one["phase"] == "end" and one["name"] == "/shimx64.efi"]

    assert until(ended)[0] == {
        "transport": "tftp",
        "name": "/shimx64.efi",
        "phase": "end",
        "sent": 1000,
        "size": 1000,
        "done": True,
        "sha256": hashlib.sha256(FILES["/shimx64.efi"]).hexdigest(),
        "boot_set": bytes(32).hex(),
    }
    until(lambda: "boot-file address=10.41.7.50 transport=tftp" in serving.log.read_text())


def test_a_lease_has_a_name_both_ways_and_survives_kill_9(serving: Lab) -> None:
    assert "10.41.7.20" in serving.dhcp()
    assert until(lambda: serving.dig(f"till-1.{DOMAIN}")) == "10.41.7.20"
    assert serving.dig("-x", "10.41.7.20") == f"till-1.{DOMAIN}."
    assert serving.dig("+tcp", f"appliance.{DOMAIN}") == US
    (lease,) = serving.ask("leases")["leases"]
    assert (lease["address"], lease["mac"], lease["name"]) == (
        "10.41.7.20",
        serving.mac(),
        "till-1",
    )
    before = serving.ask("events", after=0)["last"]
    serving.kill()
    serving.start()
    until(serving.serves)
    assert serving.ask("leases")["leases"] == [lease]
    assert serving.ask("events", after=0)["last"] >= before
    assert until(lambda: serving.dig(f"till-1.{DOMAIN}")) == "10.41.7.20"


def test_a_new_plan_is_taken_and_a_bad_one_is_not(serving: Lab) -> None:
    more = Record(name=f"more.{DOMAIN}", type="A", ttl=60, value="10.41.7.77")
    plan = serving.plan(2, records=(*serving.plan().records, more))
    serving.write(plan.encode())
    until(lambda: serving.serves(2))
    assert serving.dig(f"more.{DOMAIN}") == "10.41.7.77"
    bad = replace(plan, number=3, domain="-")
    serving.write(bad.encode())
    kept = until(lambda: serving.status()["kept"])
    assert kept.startswith("the newest plan is not served: plan 3: domain '-' is no domain name")
    assert serving.status()["running"] == 2
    assert serving.dig(f"more.{DOMAIN}") == "10.41.7.77"
    serving.write(plan.encode(), "plan.previous.json")
    serving.kill()
    serving.start()
    until(lambda: serving.serves(2))
    assert serving.status()["kept"] == kept
    serving.write(b"{}")
    until(lambda: "type is not" in str(serving.status()["kept"]))


def test_files_that_the_store_lost_are_told(serving: Lab) -> None:
    plan = serving.plan(4)
    files = {**plan.boot.files, "/gone": b"\7" * 32}
    serving.write(replace(plan, boot=replace(plan.boot, files=files)).encode())
    until(lambda: serving.status()["running"] == 4)
    assert serving.status()["sentences"] == ["1 boot files are missing in the store: /gone"]
    told = serving.box("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{US}/gone")
    assert told == "503"


def test_an_address_that_the_interface_does_not_have_is_told(serving: Lab) -> None:
    (subnet,) = serving.plan().subnets
    other = replace(
        subnet,
        name="cams",
        interface="lo",
        network=IPv4Network("10.42.0.0/24"),
        appliance=IPv4Address("10.42.0.2"),
        pools=(),
        dhcp="off",
    )
    serving.write(serving.plan(5, subnets=(subnet, other)).encode())
    until(lambda: serving.serves(5))
    (sentence,) = serving.status()["sentences"]
    assert "does not have its address 10.42.0.2 (cams): give it to interface lo" in sentence
    run("ip", "-n", serving.srv, "address", "add", "10.42.0.2/24", "dev", "lo")
    assert serving.status()["sentences"] == []
    served = run(
        "ip", "netns", "exec", serving.srv, "curl", "-sf", "http://10.42.0.2/grub/grub.cfg"
    )
    assert served == "boot\n"


def test_only_control_and_the_operator_may_ask(serving: Lab) -> None:
    for name, uid, allowed in (("control", 61003, True), ("enroll", 61002, False)):
        for method in ("status", "events", "leases"):
            code = f"""
import sys
from pathlib import Path
from keys.io.rpc import RpcError, call
try:
    call(Path({str(serving.base / "run/netboot/socket")!r}), {method!r}, {{}})
    print("yes")
except RpcError as error:
    print(error.code)
"""
            environment = {"PYTHONPATH": str(ROOT)}
            program = ["setpriv", "--reuid", str(uid), "--clear-groups", sys.executable, "-c", code]
            words = ["unshare", "--mount", *command_that_sees([serving.base], program)]
            done = subprocess.run(
                words, capture_output=True, text=True, check=True, env=environment, cwd="/"
            )
            assert done.stdout.strip() == ("yes" if allowed else "FORBIDDEN"), (name, method)
    with pytest.raises(RpcError):
        serving.ask("events", after="0")


def test_zones_are_signed_by_the_key_service_and_go_on_without_it(serving: Lab) -> None:
    signed = until(lambda: serving.dig("+dnssec", f"appliance.{DOMAIN}", "A"))
    assert "A 13 4 60 " in str(signed)
    dnskey = serving.dig(DOMAIN, "DNSKEY").replace(" ", "")
    assert show(Rtype.DNSKEY, serving.keys.ksk.anchor()).replace(" ", "") in dnskey
    calls = serving.keys.calls
    serving.ask("dns_sign")
    until(lambda: serving.keys.calls == calls + 1)
    calls = serving.keys.calls
    serving.kill()
    serving.start()
    until(serving.serves)
    assert (
        serving.dig(DOMAIN, "DNSKEY").replace(" ", "") == dnskey
    )  # the keys below are kept on disk
    assert serving.keys.calls == calls  # and so is what was signed


def test_a_box_that_is_not_enrolled_finds_what_it_needs_and_nothing_else(serving: Lab) -> None:
    serving.dhcp()
    serving.write(serving.plan(6, dns=PlanDns()).encode())
    until(lambda: serving.serves(6))
    assert serving.dig(f"appliance.{DOMAIN}") == US
    assert serving.dig("-x", US) == f"appliance.{DOMAIN}."
    full = serving.box("dig", f"@{US}", f"till-1.{DOMAIN}")
    assert "status: REFUSED" in full
    assert "this box is not enrolled yet" in full
    run("ip", "-n", serving.cli, "address", "add", "10.41.7.20/24", "dev", serving.far)
    try:
        assert serving.dig("-b", "10.41.7.20", f"till-1.{DOMAIN}") == "10.41.7.20"
    finally:
        run("ip", "-n", serving.cli, "address", "del", "10.41.7.20/24", "dev", serving.far)
    answered = serving.status()["dns"]["answered"]
    assert answered["REFUSED"] >= 1
    assert answered["NOERROR"] >= 2


def test_the_operator_is_told_what_is_answered_and_why(serving: Lab) -> None:
    owner = f"appliance.{DOMAIN}."
    said = until(lambda: serving.ask("dns_lookup", name=owner))
    assert (said["code"], said["answers"]) == ("NOERROR", [f"{owner} 60 IN A {US}"])
    assert any("of the plan" in one and ", signed)" in one for one in said["reasons"])
    serving.dhcp()
    until(lambda: serving.dig(f"till-1.{DOMAIN}"))
    said = serving.ask("dns_lookup", name=f"till-1.{DOMAIN}", peer="10.41.7.99")
    assert any("of a lease" in one for one in said["reasons"])
    said = serving.ask("dns_lookup", name="www.example.org")
    assert (said["code"], said["answers"]) == ("REFUSED", [])
    text = serving.ask("dns_dump", zone=DOMAIN)["text"]
    assert f"till-1.{DOMAIN}. 60 IN A 10.41.7.20" in text
    assert " IN RRSIG " in serving.ask("dns_dump", zone=DOMAIN, signed=True)["text"]
    assert serving.ask("dns_pinned") == {"pinned": {}}
    for wrong in ({"name": "a..b"}, {"name": "a", "type": "AXFR"}, {"name": "a", "peer": "x"}):
        with pytest.raises(RpcError):
            serving.ask("dns_lookup", **wrong)
    with pytest.raises(RpcError, match="is no zone of this site"):
        serving.ask("dns_dump", zone="example.org")


def test_it_ends_when_told(serving: Lab) -> None:
    assert serving.kill(signal.SIGTERM) == 0


def test_it_does_not_serve_dhcp_beside_another_server(lab: Lab) -> None:
    if lab.process is not None:
        lab.kill()
    lab.write(lab.plan().encode())
    with lab.start_rival() as rival:
        try:
            lab.start()
            until(lambda: lab.status().get("services", {}).get("dhcp") == "refused")
            status = lab.status()
        finally:
            rival.kill()
    (foreign,) = status["foreign"]
    assert foreign == {"interface": lab.near, "address": "10.41.7.50", "mac": lab.mac()}
    (sentence,) = status["sentences"]
    assert "another DHCP server answers" in sentence
    assert "10.41.7.50" in sentence
    assert status["services"]["tftp"] == "serving"
    event = until(lambda: lab.events("foreign-dhcp"))[0]
    assert (event["address"], event["reason"]) == ("10.41.7.50", "FOREIGN-DHCP")
    lab.kill()


RIVAL = """
import sys
from pathlib import Path
from netboot.io.dhcp_service import DhcpService
from netboot.io.leases import NetbootStore
from netboot.plan import Plan
told = []
store = NetbootStore(Path(sys.argv[1]).with_suffix(".db"))
service = DhcpService(store, told.extend, lambda: None, 1.5, 0.5)
print(service.state, flush=True)
service.replace(Plan.decode(Path(sys.argv[1]).read_bytes()).dhcp())
said = None
while not service.rivals:
    service.turn(0.1)
    if service.state != said:
        said = service.state
        print(said, flush=True)
print(service.state, service.sentence, [event.reason for event in told], flush=True)
"""


def test_a_server_that_comes_later_is_told_and_dhcp_goes_on(lab: Lab) -> None:
    if lab.process is not None:
        lab.kill()
    plan = lab.base / "rival.json"
    plan.write_bytes(lab.plan().encode())
    command = ["ip", "netns", "exec", lab.srv, sys.executable, "-c", RIVAL, str(plan)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    rival: subprocess.Popen[bytes] | None = None
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            told = [process.stdout.readline().strip() for _ in range(3)]
            assert told == ["waiting", "looking", "serving"]
            rival = lab.start_rival()
            last = process.stdout.readline()
        finally:
            process.kill()
            if rival is not None:
                rival.kill()
                rival.wait()
    assert last.startswith("serving DHCP is served beside another server that came later: ")
    assert "10.41.7.50" in last
    assert last.endswith("['FOREIGN-DHCP']\n")


def test_a_plan_that_is_no_file_or_too_wrong_is_told_in_few_sentences(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="No such file"):
        load(tmp_path / "plan.json")


def test_lines_cannot_be_forged_by_a_name() -> None:
    event = {
        "kind": "boot-file",
        "mac": None,
        "address": "10.0.0.1",
        "reason": None,
        "detail": {"name": "a\nnetboot: forged", "done": True},
    }
    assert line(event) == 'boot-file address=10.0.0.1 name="a\\nnetboot: forged" done=True'
