"""Doorstep on a fresh Debian 13 under systemd, installed by the printed blocks of docs/install.md.

One container for all tests; they run in the order in which an operator meets what they are about.
"""

import json
import re
import subprocess
import sys
import time
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from container import Container, blocks
from container_boot import fetched_lock, measured_log, sign_record, with_another_initrd
from software_tpm import SoftwareTpm

from bootstrap.agent.tpm import Tpm
from bootstrap.build.lock import encode_lock
from bootstrap.io.publishing import Shelf
from bootstrap.rehearsal.lan import Lan, inside
from keys import note
from keys.io.layout import SERVICES
from keys.io.rpc import RpcUnavailableError, call
from keys.tpm_public import PublicArea

pytestmark = [pytest.mark.boots, pytest.mark.timeout(900)]

ADDRESS = IPv4Interface("10.41.7.2/24")
CLIENT = IPv4Interface("10.41.7.99/24")
NAME = "appliance.shop-0417.example.net"
PREFIX = "cd /root/doorstep\n"
STEPS = [
    ("Packages", 1),
    ("Program", 0),
    ("Users, directories, units", 0),
    ("Site", 0),
    ("Start", 0),
]
PLACES = "/etc/doorstep /var/lib/doorstep /run/doorstep/tls /opt/doorstep /usr /tmp/.. /etc"
SECRET = "tills-speak-at-night"
STARTED = 30.0
BACK = 15.0
TAKEN = 5.0
CAPABILITIES = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_RAW": 13}
RIGHTS = {
    "netboot": CAPABILITIES.keys(),
    "nginx": {"CAP_NET_BIND_SERVICE"},
    "watch": {"CAP_NET_RAW"},
}
ISOLATED = {"keys", "control", "enroll", "page"}


class Controller:
    """The container with a client beside it on the same LAN."""

    def __init__(self, container: Container, lan: Lan) -> None:
        self.container, self.lan = container, lan
        self.run, self.try_run = container.run, container.try_run

    def unit(self, service: str, name: str) -> str:
        return self.run(f"systemctl show -P {name} doorstep-{service}.service").strip()

    def path(self, path: str) -> Path:
        """Give a path inside as we reach it from outside."""
        return self.container.path(path)

    def ask(self, service: str, method: str, **params):
        """Call a service as the operator does."""
        return call(self.path(f"/run/doorstep/{service}/socket"), method, params)

    @property
    def shelf(self) -> Shelf:
        """The boot sets of the site."""
        return Shelf(directory=self.path("/etc/doorstep"), state=self.path("/var/lib/doorstep"))

    def client(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on another machine of the LAN."""
        return subprocess.run(
            inside(self.lan.box_namespace, command),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def names(self, *question: str) -> list[str]:
        """Ask our DNS."""
        return self.client("dig", "+short", f"@{ADDRESS.ip}", *question).stdout.split()

    def get(self, port: int, path: str, *options: str) -> tuple[int, str]:
        """Fetch by HTTPS, trusting the site's root alone; gives status (0: none) and body."""
        root = self.path("/etc/doorstep/trust/root.pem")
        command = ["curl", "-sS", "--max-time", "10", "--cacert", str(root), *options]
        command += ["--resolve", f"{NAME}:{port}:{ADDRESS.ip}", "-w", "\n%{http_code}"]
        done = self.client(*command, f"https://{NAME}:{port}{path}")
        body, _, status = done.stdout.rpartition("\n")
        return int(status or 0), body

    def phone_home(self) -> int:
        """Say something that is no hello; a working courier carries it and control refuses it."""
        media = "Content-Type: application/vnd.doorstep.phone-home.v1+json"
        return self.get(8443, "/v1/sessions", "-H", media, "-d", "{}")[0]

    def answers(self, service: str) -> bool:
        """Tell whether a service does its work, as its own peers see it."""
        if service in ("keys", "control", "netboot", "sync"):
            try:
                self.ask(service, "events", after=0, limit=1)
            except RpcUnavailableError:
                return False
            return True
        if service == "enroll":
            return self.phone_home() == 400
        status, body = self.get(443, "/")
        return status == 200 and "shop-0417" in body


def wait(what, seconds: float, message: str) -> float:
    """Wait until something holds; gives how long it took."""
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < seconds, message
        time.sleep(0.1)
    return time.monotonic() - started


@pytest.fixture(scope="module")
def controller():
    """Install by the document and start."""
    with Lan(ADDRESS, interface="eth1") as lan, Container(lan) as container:
        for heading, number in STEPS:
            container.run(PREFIX + blocks(heading)[number])
        one = Controller(container, lan)
        wait(lambda: one.answers("keys"), STARTED, "keys does not answer")
        container.run(PREFIX + blocks("Start")[1])
        subprocess.run(
            ["ip", "-n", lan.box_namespace, "address", "add", str(CLIENT), "dev", Lan.BRIDGE],
            check=True,
        )
        yield one


def test_it_boots_at_once(controller):
    assert controller.container.boot_seconds < 20
    assert controller.run("systemctl is-system-running").strip() == "running"


@pytest.mark.parametrize("service", SERVICES)
def test_every_unit_is_active_and_answers(controller, service):
    wait(lambda: controller.answers(service), STARTED, service)
    assert controller.unit(service, "ActiveState") == "active"
    assert controller.unit(service, "NRestarts") == "0", controller.container.journal()


def test_the_command_says_that_all_answer(controller):
    said = controller.run(PREFIX + blocks("Start")[2])
    for service in ("control", "netboot", "keys"):
        assert re.search(rf"^{service} +answers", said, flags=re.M)


def test_keys_sees_the_links_of_the_machine_and_has_no_network(controller):
    """Else `link_loss` would end the lease of a site that is well."""
    inside = "nsenter --mount --net --target $(systemctl show -P MainPID doorstep-keys) "
    machine = controller.run("ls /sys/class/net")
    assert controller.run(inside + "ls /run/doorstep/sys/class/net") == machine != "lo\n"
    assert controller.run(inside + "ls /sys/class/net") == "lo\n"
    assert controller.run(inside + "ip -o link").count("\n") == 1


def test_this_systemd_finds_nothing_to_say_of_the_units(controller):
    units = " ".join(f"doorstep-{name}.service" for name in SERVICES)
    done = controller.try_run(f"systemd-analyze verify --man=no {units} doorstep.target")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("service", SERVICES)
def test_each_process_has_its_user_its_rights_and_no_more(controller, service):
    pid = controller.unit(service, "MainPID")
    status = dict(
        re.findall(r"^(\w+):\t(.*)$", controller.run(f"cat /proc/{pid}/status"), flags=re.M)
    )
    wanted = sum(1 << CAPABILITIES[name] for name in RIGHTS.get(service, ()))
    for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == wanted, name
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    uid = controller.run(f"id -u doorstep-{service}").strip()
    assert status["Uid"].split() == [uid] * 4
    links = controller.run(f"readlink /proc/{pid}/ns/net /proc/1/ns/net").split()
    assert (links[0] != links[1]) == (service in ISOLATED)


@pytest.mark.parametrize("service", SERVICES)
def test_no_process_writes_or_reads_what_is_anothers(controller, service):
    """Try it as the user inside the unit's own mounts, where the sandbox counts as well."""
    pid = controller.unit(service, "MainPID")
    state = {"netboot": ["netboot"], "control": ["site", "evidence"], "keys": ["keys"]}
    others = " ".join(name for one in state if one != service for name in state[one])
    script = f"for d in {others}; do ! ls /var/lib/doorstep/$d 2>/dev/null || echo read $d; done; "
    script += "! cat /etc/doorstep/offline/root.key 2>/dev/null || echo read the root key; "
    script += f"for d in {PLACES}; do ! touch $d/x 2>/dev/null || echo wrote $d; done"
    user = f"--reuid doorstep-{service} --regid doorstep-{service} --init-groups"
    said = controller.run(f"nsenter -t {pid} -m -- setpriv {user} sh -c '{script}'")
    assert said.splitlines() == (["wrote /run/doorstep/tls"] if service == "keys" else [])


def test_the_page_comes_over_https_with_a_certificate_of_the_site(controller):
    status, body = controller.get(443, "/")
    assert status == 200
    assert "shop-0417" in body
    assert controller.get(443, "/no-such-page")[0] == 404


def test_phone_home_is_carried_and_refused_by_control(controller):
    assert controller.phone_home() == 400
    assert controller.get(8443, "/")[0] == 404


def served_chain(controller) -> list[str]:
    """Give the certificates that nginx shows, server and authority."""
    command = ["openssl", "s_client", "-showcerts", "-connect", f"{ADDRESS.ip}:443"]
    shown = controller.client("sh", "-c", f"{' '.join(command)} -servername {NAME} </dev/null")
    return re.findall(r"-----BEGIN CERT.*?-----END CERT", shown.stdout, flags=re.S)


def test_a_new_authority_is_served_without_a_restart(controller):
    before, pid = served_chain(controller), controller.unit("nginx", "MainPID")
    assert len(before) == 2
    controller.run("doorstep ca sign")
    wait(lambda: served_chain(controller) != before, BACK, "the old chain is served")
    assert controller.unit("nginx", "MainPID") == pid
    assert controller.get(443, "/")[0] == 200


@pytest.fixture(scope="module")
def leased(controller) -> str:
    """Give the address that our DHCP gave to the machine on the LAN; it uses that from then on.

    It asks as UEFI firmware does that boots from the network (RFC 4578, architecture 7).
    """
    command = ["udhcpc", "-i", Lan.BRIDGE, "-f", "-n", "-q", "-t", "10", "-s", "/bin/true"]
    command += ["-V", "PXEClient:Arch:00007:UNDI:003001", "-x", "0x5d:0007"]
    done = controller.client(*command)
    found = re.search(r"lease of ([0-9.]+) obtained", done.stderr + done.stdout)
    assert found, done.stderr + controller.container.journal()
    for change in (["delete", str(CLIENT)], ["add", f"{found[1]}/24"]):
        controller.client("ip", "address", *change, "dev", Lan.BRIDGE)
    return found[1]


def test_a_machine_on_the_lan_gets_an_address_and_the_sites_names(controller, leased):
    assert leased in (f"10.41.7.{number}" for number in range(100, 200))
    assert controller.names(NAME) == [str(ADDRESS.ip)]
    assert [one["address"] for one in controller.ask("netboot", "leases")["leases"]] == [leased]


@pytest.mark.parametrize("service", SERVICES)
def test_it_is_back_after_kill_9(controller, service):
    before = controller.unit(service, "MainPID")
    kept = controller.ask("netboot", "leases")["leases"]
    controller.run(f"kill -9 {before}")
    took = wait(lambda: controller.unit(service, "MainPID") not in (before, "0"), BACK, "is gone")
    took += wait(lambda: controller.answers(service), BACK, "does not answer")
    print(f"{service}: answers {took:.1f} s after kill -9")
    assert controller.unit(service, "NRestarts") == "1"
    assert controller.ask("netboot", "leases")["leases"] == kept


def test_the_target_stops_and_starts_everything(controller):
    controller.run("systemctl stop doorstep.target")
    for service in SERVICES:
        wait(lambda one=service: controller.unit(one, "ActiveState") == "inactive", BACK, service)
    controller.run("systemctl start doorstep.target")
    for service in SERVICES:
        wait(lambda one=service: controller.answers(one), STARTED, service)
        assert controller.unit(service, "ActiveState") == "active"


@pytest.fixture(scope="module")
def published(controller) -> bytes:
    """Build, sign and publish a boot set inside; gives the log of a box that boots it."""
    controller.path("/root/doorstep/used.lock").write_text(encode_lock(fetched_lock()))
    controller.run("doorstep bootset build --lock /root/doorstep/used.lock", timeout=300)
    digest = controller.shelf.find("enrol")
    log = measured_log(controller.shelf, digest, ADDRESS.ip)
    assert controller.try_run("doorstep bootset publish enrol").returncode == 2, "not rehearsed"
    sign_record(controller.shelf, digest, log)
    controller.run("doorstep bootset publish enrol")
    return log


@pytest.fixture(scope="module")
def boxes(controller, tmp_path_factory):
    """Two TPMs on the signed delivery note, and a secret for their role.

    On a real site the note stands in for a maker's certificate that a TPM has not; one of the two
    has a certificate, which says that it is software. No kernel ran on them that measures modules,
    which this site's policy waives.
    """
    controller.path("/etc/doorstep/policy.toml").write_text(
        'type = "doorstep/policy/v1"\nwaive = ["IMA-MISSING"]\n'
    )
    assert controller.run("doorstep policy show").startswith("# from /etc/doorstep/policy.toml")
    made = {
        name: SoftwareTpm(tmp_path_factory.mktemp(name), certificates=name == "virtual")
        for name in ("bare", "virtual")
    }
    entries = []
    for name, tpm in made.items():
        with Tpm(f"swtpm:path={tpm.directory / 's'}") as connection:
            ek = PublicArea.decode(connection.load_ek())
        entries.append(
            note.Entry(serial=name, model=None, ek_sha256=ek.name()[2:], role="pos", name=None)
        )
    controller.path("/etc/doorstep/delivery.csv").write_bytes(note.encode(entries))
    controller.run("doorstep note sign")
    controller.run(f"printf %s {SECRET} | doorstep secret put pos-api-token")
    yield made
    for tpm in made.values():
        tpm.stop()


@pytest.fixture
def power_on(controller, boxes, leased, tmp_path):
    """Give a function that resets a box, boots it on a log, and gives how its session ended.

    What it took over is in `tmp_path / "seed"`.
    """
    anchor = tmp_path / "anchor"
    anchor.mkdir()
    texts = {"site-id": "shop-0417", "server-name": NAME, "release": "container"}
    texts["site-root.pem"] = controller.path("/etc/doorstep/trust/root.pem").read_text()
    for name, text in texts.items():
        (anchor / name).write_text(text)
    link = json.loads(controller.client("ip", "-j", "link", "show", Lan.BRIDGE).stdout)[0]

    def start(name: str, log: bytes) -> dict:
        boxes[name].stop()
        boxes[name].start()
        (tmp_path / "log").write_bytes(log)
        facts = {
            "smbios": {
                "product_serial": name,
                "sys_vendor": "Test",
                "product_name": "Till",
                "bios_version": "1.0",
            },
            "memory_mib": 2048,
            "nics": [{"name": Lan.BRIDGE, "mac": link["address"], "carrier": True}],
            "used": {"mac": link["address"], "address": leased},
        }
        given = {name: str(tmp_path / name) for name in ("anchor", "log", "seed")}
        given |= {"tpm": str(boxes[name].directory / "s"), "url": f"https://{ADDRESS.ip}:8443"}
        program = [sys.executable, str(Path(__file__).with_name("container_box.py"))]
        done = controller.client(*program, json.dumps(given | {"facts": facts}))
        assert done.returncode == 0, done.stderr[-3000:] + controller.container.journal()
        return json.loads(done.stdout)

    return start


def test_a_box_that_booted_another_initrd_is_refused(published, power_on):
    got = power_on("bare", with_another_initrd(published))
    assert (got["status"], got["reason"]) == ("refused", "INITRD-UNKNOWN")


def test_a_box_whose_tpm_says_that_it_is_software_is_refused(published, power_on):
    got = power_on("virtual", published)
    assert (got["status"], got["reason"]) == ("refused", "EK-VIRTUAL")


def test_a_firmware_that_headquarters_does_not_know_is_held_then_known(
    controller, published, power_on
):
    got = power_on("bare", published)
    assert (got["status"], got["reason"]) == ("held", "FIRMWARE-UNKNOWN")
    kept = json.loads(controller.run(f"doorstep box show {got['box']} --json"))["evidence"]
    controller.run(f"doorstep firmware add --from 'the lab' {kept}")
    controller.run("doorstep firmware sign")

    def card() -> dict:
        return controller.ask("control", "box", box=got["box"])["card"]

    wait(lambda: card()["reasons"] == ["FIRMWARE-KNOWN"], TAKEN, "not judged again")
    assert card()["next_step"].startswith("Switch the box off and on")


def test_a_box_enrols_end_to_end_and_has_its_name_in_dns(controller, published, power_on, tmp_path):
    got = power_on("bare", published)
    assert (got["status"], got["withheld"]) == ("ready", []), got
    assert (tmp_path / "seed/secrets/pos-api-token").read_text() == SECRET
    chain = str(tmp_path / "seed/identity/chain.pem")
    verify = ["openssl", "verify", "-CAfile", str(tmp_path / "anchor/site-root.pem")]
    subprocess.run([*verify, "-untrusted", chain, chain], check=True, capture_output=True)
    shown = controller.ask("control", "box", box=got["box"])["box"]
    assert shown["tier"] == "boot and firmware verified"
    assert controller.names(got["fqdn"]) == []  # who asks from here is not enrolled
    enrolled = shown["address"]
    controller.client("ip", "address", "add", f"{enrolled}/24", "dev", "br0")
    as_box = ("-b", enrolled)
    wait(lambda: controller.names(*as_box, got["fqdn"]) == [enrolled], TAKEN, "no name in DNS")
    assert controller.names(*as_box, "-x", enrolled) == [f"{got['fqdn']}."]
    assert re.search(rf"{shown['hostname']} +ready", controller.run("doorstep box list"))
    page = controller.get(443, "/")[1]
    assert shown["hostname"] in page
    assert SECRET not in page


def stages(controller) -> list[tuple[str, str]]:
    return [(card["title"], card["stage"]) for card in controller.ask("control", "boxes")["cards"]]


def test_what_was_enrolled_outlives_kill_9_of_everything(controller):
    before = stages(controller)
    pids = " ".join(controller.unit(service, "MainPID") for service in SERVICES)
    controller.run(f"kill -9 {pids}")
    for service in SERVICES:
        wait(lambda one=service: controller.answers(one), STARTED, service)
    assert stages(controller) == before


def test_after_the_machine_died_everything_comes_back_by_itself(controller, published, power_on):
    before, leases = stages(controller), controller.ask("netboot", "leases")["leases"]
    controller.container.cut_power()
    controller.container.power_on()
    for service in SERVICES:
        wait(lambda one=service: controller.answers(one), STARTED, service)
    assert stages(controller) == before
    assert controller.ask("netboot", "leases")["leases"] == leases
    secrets = controller.run("doorstep secret list --json || true")
    assert json.loads(secrets)["secrets"][0]["reason"] is None
    assert power_on("bare", published)["status"] == "ready", "the same box, one boot later"


def test_no_process_ever_ended_in_a_traceback(controller):
    assert "Traceback" not in controller.run("journalctl -q --no-pager -u 'doorstep-*'")
