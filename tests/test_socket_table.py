"""Every cell of the socket table of docs/architecture.md, called by the real uid of each user.

keys, control and netboot run as `doorstep run` starts them: own processes, own uids, no rights.
The named attacks of docs/compromise.md are at the end.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from keys_site import EK, OTHER_EK, STRANGER, USERS, entry, request

from bootstrap.io import site_dir
from bootstrap.io.control import Control
from bootstrap.io.rogue_watch import WatchService
from bootstrap.io.site_dir import NewSite
from bootstrap.io.supervisor import jobs, prepare
from bootstrap.io.sync import Syncer, SyncService
from bootstrap.rehearsal.lan import Lan
from keys import note
from keys.ca import Kind
from keys.io.layout import Layout
from keys.io.rpc import RpcError, RpcUnavailableError, call
from keys.io.service import Service
from netboot.io.service import Netboot

pytestmark = pytest.mark.boots

DOCUMENT = Path(__file__).parent.parent / "docs/architecture.md"
HEADING = "## Who may call whom"
CALLERS = {**USERS, "stranger": STRANGER, "operator": 0}
UNKNOWN = "unknown method or malformed request"
START_SECONDS = 30


def table() -> dict[tuple[str, str], frozenset[str]]:
    """Read who may call which method of which socket."""
    section = DOCUMENT.read_text().split(HEADING, 1)[1].split("\n##", 1)[0]
    found = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "Socket":
            for method in re.findall(r"`([a-z_]+)`", cells[1]):
                assert (cells[0], method) not in found
                found[cells[0], method] = frozenset(cells[2].split(", "))
    return found


TABLE = table()
CELLS = [(*row, user) for row in TABLE for user in CALLERS]


class Appliance:
    """A site with the three processes that have a table, in a network of their own."""

    def __init__(self, base: Path) -> None:
        self.layout = Layout(
            site=base / "site", state=base / "state", run=base / "run", users=USERS
        )
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log = base / "log"

    def make(self) -> None:
        """Make the site, with one box on its signed delivery note, and the directories."""
        site_dir.init(
            self.layout.site,
            NewSite(
                id="shop-0417",
                domain="shop-0417.example.net",
                interface="eth1",
                network=IPv4Network("10.41.7.0/24"),
            ),
        )
        site_dir.write(self.layout.site / "delivery.csv", note.encode((entry(EK),)))
        site_dir.sign_note(self.layout.site, site_dir.load(self.layout.site))
        prepare(self.layout)

    def start(self, lan: Lan) -> None:
        """Start what the table has a socket of, and sign the authorities."""
        sockets = {socket for socket, _ in TABLE}
        with self._log.open("ab") as log:
            for job in jobs(self.layout):
                if job.name in sockets:
                    command = lan.appliance_command(job.privileged_command())
                    self._processes.append(
                        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                    )
        for socket in sockets:
            self._wait_for(socket)
        self.sign_authorities()

    def _wait_for(self, socket: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                call(self.layout.socket(socket), "events", {"after": 0, "limit": 1})
                return
            except RpcUnavailableError:
                time.sleep(0.1)
        raise AssertionError(f"{socket} does not answer: {self._log.read_text()[-3000:]}")

    def said(self) -> str:
        """Give the end of what the processes said."""
        return self._log.read_text()[-3000:]

    def sign_authorities(self) -> None:
        """Do what `doorstep ca sign` does."""
        signed = {}
        for one in call(self.layout.socket("keys"), "ca_requests")["requests"]:
            kind = Kind(one["kind"])
            pem = site_dir.sign_intermediate(self.layout.site, one["csr_pem"].encode(), kind)
            signed[f"{kind.value}_pem"] = pem
        call(self.layout.socket("keys"), "ca_install", signed)

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(20)

    def ask(self, user: str, *calls):
        """Make calls (socket, method, params) as a user; gives a code or "ok", and the sentence."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                self._ask_as(CALLERS[user], calls, writer)
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            answers = json.loads(file.read())
        os.waitpid(child, 0)
        return [tuple(answer) for answer in answers]

    def _ask_as(self, uid: int, calls, writer: int) -> None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        answers = []
        for socket, method, params in calls:
            try:
                call(self.layout.socket(socket), method, params)
                answers.append(("ok", ""))
            except RpcError as error:
                answers.append((error.code, str(error)))
        with os.fdopen(writer, "wb") as file:
            file.write(json.dumps(answers).encode())


@pytest.fixture(scope="module")
def lan():
    with Lan(IPv4Interface("10.41.7.2/24"), interface="eth1") as made:
        yield made


@pytest.fixture(scope="module")
def appliance(lan):
    with tempfile.TemporaryDirectory(prefix="doorstep-table-") as base:
        Path(base).chmod(0o755)
        one = Appliance(Path(base))
        one.make()
        try:
            one.start(lan)
            yield one
        finally:
            one.stop()


@pytest.fixture(scope="module")
def answers(appliance):
    """What each user is answered by each method."""
    said = {}
    for user in CALLERS:
        found = appliance.ask(user, *((socket, method, {}) for socket, method in TABLE))
        said |= {(*row, user): answer for row, answer in zip(TABLE, found, strict=True)}
    return said


def test_the_document_names_the_sockets_and_no_unknown_user():
    assert {socket for socket, _ in TABLE} == {"keys", "control", "netboot", "watch", "sync"}
    assert frozenset.union(*TABLE.values()) <= set(CALLERS) - {"stranger"}


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_cell(answers, cell):
    socket, method, user = cell
    code, sentence = answers[cell]
    assert sentence != UNKNOWN, "the document names a method that is not there"
    assert (code != "FORBIDDEN") == (user in TABLE[socket, method]), sentence


def test_the_site_is_signed_by_its_own_key_and_follows_when_it_is_rolled(appliance, lan, tmp_path):
    """Real `keys`, real netboot, and delv with the anchor that the command prints."""
    name, anchors = "appliance.shop-0417.example.net", tmp_path / "anchors"
    run = ("--run", str(appliance.layout.run))

    def dns(*words):
        command = [sys.executable, "-m", "bootstrap.cli", "dns", *words, *run]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def keys():
        return re.findall(r"DNSKEY (257 3 13) (.+)", dns("anchor"))

    def believes(key):
        anchors.write_text(
            f'trust-anchors {{ shop-0417.example.net. static-key {key[0]} "{key[1]}"; }};\n'
        )
        words = ["delv", "@10.41.7.2", "-a", str(anchors), "+root=shop-0417.example.net", name]
        done = subprocess.run(
            lan.appliance_command(words), capture_output=True, text=True, check=False
        )
        return "; fully validated" in done.stdout

    def until(what):
        deadline = time.monotonic() + START_SECONDS
        while not what():
            assert time.monotonic() < deadline, appliance.said()
            time.sleep(0.1)

    (first,) = keys()
    until(lambda: believes(first))
    assert name in dns("lookup", name)
    dns("roll")
    second, still = keys()
    assert still == first
    until(lambda: believes(second))
    assert believes(first)
    dns("roll", "--finish")
    assert keys() == [second]
    until(lambda: not believes(first))
    assert believes(second)


def test_the_processes_have_no_method_that_the_document_does_not_name(tmp_path):
    one = Appliance(tmp_path)
    one.make()
    tables = {
        "keys": Service(one.layout).methods(),
        "control": Control(one.layout).methods(),
        "netboot": Netboot(one.layout.state).methods(),
        "watch": WatchService(one.layout).methods(),
        "sync": SyncService(Syncer(one.layout)).methods(),
    }
    assert set(tables) == {socket for socket, _ in TABLE}
    for socket, methods in tables.items():
        written = {method: users for (name, method), users in TABLE.items() if name == socket}
        assert {method: row.users for method, row in methods.items()} == written


# The named attacks of docs/compromise.md


def handover(ek):
    return ("keys", "handover", request(ek))


def test_enroll_asks_keys_for_what_is_not_its_business(appliance):
    calls = [handover(EK), ("keys", "secret_list", {}), ("keys", "status", {})]
    assert [code for code, _ in appliance.ask("enroll", *calls)] == ["FORBIDDEN"] * 3


def test_control_asks_for_a_handover_to_an_ek_made_in_software(appliance):
    listed, made = appliance.ask("control", handover(EK), handover(OTHER_EK))
    assert made[0] == "EK-NOT-ALLOWED"
    assert listed[0] == "ok", "the same request for the EK on the note is served"


def test_control_asks_for_the_list_of_secrets(appliance):
    assert appliance.ask("control", ("keys", "secret_list", {}))[0][0] == "FORBIDDEN"


def test_page_approves_a_box(appliance):
    said = appliance.ask("page", ("control", "approve", {"box": "pos-01", "role": "pos"}))
    assert said[0][0] == "FORBIDDEN"


def test_a_stranger_is_forbidden_every_method(appliance):
    said = appliance.ask("stranger", *((socket, method, {}) for socket, method in TABLE))
    assert {code for code, _ in said} == {"FORBIDDEN"}
