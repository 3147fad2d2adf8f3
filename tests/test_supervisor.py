"""Each process has its own user and rights, is restarted when it dies, goes with its parent."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from bootstrap.errors import SiteError
from bootstrap.io import site_dir, supervisor
from bootstrap.io.supervisor import Job, Supervisor
from keys.io.layout import SERVICES, Layout

pytestmark = pytest.mark.boots

FIRST_UID = 61101
USERS = {name: FIRST_UID + index for index, name in enumerate(SERVICES)}
BIND, RAW = 1 << 10, 1 << 13
"""CAP_NET_BIND_SERVICE and CAP_NET_RAW (capabilities(7))."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users may enter."""
    with TemporaryDirectory(prefix="doorstep-test-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def layout(place: Path) -> Layout:
    site_dir.init(
        place / "site",
        site_dir.NewSite(
            id="shop-1",
            domain="shop-1.example.org",
            interface="eth1",
            network=IPv4Network("10.41.7.0/24"),
        ),
    )
    return Layout(site=place / "site", state=place / "state", run=place / "run", users=USERS)


def wait_until(done: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@contextmanager
def supervised(jobs: Sequence[Job]) -> Iterator[tuple[Supervisor, list[str]]]:
    lines: list[str] = []
    keeper = Supervisor(jobs, lines.append)
    thread = threading.Thread(target=keeper.serve)
    thread.start()
    try:
        yield keeper, lines
    finally:
        keeper.stop()
        thread.join(30)
        assert not thread.is_alive()


def shell(name: str, script: str, uid: int = FIRST_UID, rights: tuple[str, ...] = ()) -> Job:
    return Job(name=name, command=["sh", "-c", script], uid=uid, rights=rights)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_its_own_user_and_only_its_rights(service: str) -> None:
    job = shell("job", "sleep 60", USERS[service], supervisor.RIGHTS.get(service, ()))
    with supervised([job]) as (keeper, _):
        wait_until(lambda: keeper.pids())
        pid = keeper.pids()["job"]
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text().strip() != "setpriv")
        wait_until(lambda: status_of(pid)["Name"] in ("sh", "sleep"))
        found = status_of(pid)
        expected = {"netboot": BIND | RAW, "nginx": BIND, "watch": RAW}.get(service, 0)
        assert found["Uid"].split() == [str(USERS[service])] * 4
        assert found["Gid"].split() == [str(USERS[service])] * 4
        assert found["Groups"] == ""
        assert found["NoNewPrivs"] == "1"
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(found[kind], 16) == expected, kind
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert {one.partition(b"=")[0] for one in environment} <= {b"PATH", b"LANG", b"HOME", b""}


def test_what_dies_is_started_again_after_growing_pauses() -> None:
    with supervised([shell("weak", "exit 3"), shell("good", "sleep 60")]) as (keeper, lines):
        wait_until(lambda: "weak: ended with 3; again in 2 s" in lines)
        first = lines.index("weak: ended with 3; again in 1 s")
        assert first < lines.index("weak: ended with 3; again in 2 s")
        pid = keeper.pids()["good"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "good: killed by SIGKILL; again in 1 s" in lines)
        wait_until(lambda: keeper.pids().get("good") not in (None, pid))
    assert lines[-1] == "everything has ended"


def test_all_end_when_told_and_what_does_not_is_killed() -> None:
    stubborn = Job(
        name="stubborn",
        command=[sys.executable, "-Ic", "import signal,time;signal.signal(15,1);time.sleep(99)"],
        uid=FIRST_UID,
    )
    with supervised([stubborn, shell("good", "exec sleep 60")]) as (keeper, lines):
        wait_until(lambda: len(keeper.pids()) == 2)
        pids = list(keeper.pids().values())
        pid = keeper.pids()["stubborn"]
        wait_until(lambda: int(status_of(pid)["SigIgn"], 16) & 1 << 14)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert "stubborn: does not end: killed" in lines
    assert "good: does not end: killed" not in lines


PARENT = """\
import sys
from bootstrap.io.supervisor import Job, Supervisor
job = Job(name="child", command=["sh", "-c", "echo $$; exec sleep 99"], uid=61101)
Supervisor([job], lambda line: None).serve()
"""


def test_children_end_with_a_supervisor_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until(lambda: Path(f"/proc/{child}/comm").read_text().strip() == "sleep")
        parent.kill()
    wait_until(lambda: not Path(f"/proc/{child}").exists())


def test_directories_have_the_owners_of_the_table(layout: Layout) -> None:
    supervisor.prepare(layout)
    nginx = USERS["nginx"]
    table = {
        "state": (0, 0, 0o755),
        "state/netboot": (USERS["netboot"], USERS["netboot"], 0o700),
        "state/site": (USERS["control"], USERS["control"], 0o700),
        "state/evidence": (USERS["control"], USERS["control"], 0o700),
        "state/plan": (USERS["control"], USERS["control"], 0o755),
        "state/keys": (USERS["keys"], USERS["keys"], 0o700),
        "state/bootsets": (0, 0, 0o755),
        "run": (0, 0, 0o755),
        "run/keys": (USERS["keys"], USERS["keys"], 0o755),
        "run/enroll": (USERS["enroll"], nginx, 0o2755),
        "run/page": (USERS["page"], nginx, 0o2755),
        "run/nginx": (nginx, nginx, 0o700),
        "run/tls": (USERS["keys"], nginx, 0o2750),
    }
    for name, expected in table.items():
        found = (layout.site.parent / name).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == expected, name


def test_the_state_of_a_rehearsal_is_refused_and_only_that_is_rehearsed(layout: Layout) -> None:
    with pytest.raises(SiteError, match="a rehearsal runs on a state of its own"):
        supervisor.prepare(layout, rehearsal=True)
    layout.state.mkdir()
    (layout.state / "rehearsal").touch()
    with pytest.raises(SiteError, match="belongs to a rehearsal"):
        supervisor.prepare(layout)
    assert not layout.run.exists()
    supervisor.prepare(layout, rehearsal=True)


def test_a_site_with_an_error_is_not_started(layout: Layout) -> None:
    path = layout.site / "site.toml"
    path.write_text(path.read_text().replace('"10.41.7.2:443"', '"10.41.7.3:443"'))
    with pytest.raises(SiteError, match=r"page\.listen"):
        supervisor.prepare(layout)
    assert not layout.state.exists()


class Appliance:
    """`doorstep run` in a network namespace of its own."""

    def __init__(self, layout: Layout, namespace: str) -> None:
        self.site, self.run = layout.site, layout.run
        self.options = ["--site", layout.site, "--state", layout.state, "--run", layout.run]
        self.namespace = namespace

    def command(self, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, sys.executable, "-m", "bootstrap.cli"] + [
            *arguments,
            *map(str, self.options),
        ]

    def ask(self, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(*arguments), input=given, capture_output=True, check=False
        )

    def curl(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        name = "appliance.shop-1.example.org"
        to = ["--connect-to", f"{name}::10.41.7.2:", "-m", "20"]
        root = ["--cacert", str(self.site / "trust" / "root.pem")]
        command = ["ip", "netns", "exec", self.namespace, "curl", "-sS", *to, *root]
        return subprocess.run([*command, *arguments], capture_output=True, check=False)


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"dsv{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for words in (
            "link set lo up",
            "link add eth1 type veth peer name box1",
            "address add 10.41.7.2/24 dev eth1",
            "link set eth1 up",
            "link set box1 up",
        ):
            subprocess.run(["ip", "-n", name, *words.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_a_new_site_runs_and_answers(layout: Layout, namespace: str) -> None:
    site = Appliance(layout, namespace)
    users = ",".join(f"{name}={uid}" for name, uid in USERS.items())
    log = layout.site.parent / "log"
    with log.open("wb") as file:
        running = subprocess.Popen(site.command("run", "--users", users), stdout=file, stderr=file)
    try:
        wait_until(lambda: site.ask("ca", "sign").returncode == 0, 60)
        check_operator(site)
        check_requests(site)
    finally:
        running.terminate()
        status = running.wait(30)
    text = log.read_text()
    assert status == 0, text
    assert text.rstrip().endswith("everything has ended")
    assert not list((layout.site / "offline").glob("*.pem"))


def check_operator(site: Appliance) -> None:
    listed = site.ask("secret", "list", "--json")
    assert listed.returncode == 1
    assert json.loads(listed.stdout)["secrets"][0]["reason"] == "SECRET-MISSING"
    put = site.ask("secret", "put", "pos-api-token", given=b"canary-1\n")
    assert put.returncode == 0, put.stderr
    assert b"canary" not in put.stdout + put.stderr
    listed = site.ask("secret", "list")
    assert listed.returncode == 0
    assert b"canary" not in listed.stdout
    unknown = site.ask("secret", "put", "other", given=b"x")
    assert (unknown.returncode, b"SECRET-UNKNOWN" in unknown.stderr) == (1, True)
    assert site.ask("secret", "remove", "other").returncode == 1
    boxes = site.ask("box", "list", "--json")
    assert json.loads(boxes.stdout)["cards"] == []
    assert site.ask("box", "approve", "nobody", "--yes").returncode == 1
    wait_until(lambda: b'"secret-put"' in site.ask("events", "--json").stdout)


HOME = "https://appliance.shop-1.example.org:8443/v1"
PAGE = "https://appliance.shop-1.example.org/"
KIND = "application/vnd.doorstep.phone-home.v1+json"
SILENT = """\
import socket, sys
peers = [socket.create_connection(("10.41.7.2", port)) for port in (443, 8443) for _ in range(15)]
print(len(peers), flush=True)
sys.stdin.read()
"""


def post(site: Appliance, path: str, body: str, *headers: str) -> tuple[int, str, dict[str, str]]:
    """Post as a box does; give status, media type and the JSON of the answer."""
    more = [word for header in headers for word in ("-H", header)]
    out = "\n%{http_code} %{content_type}"
    done = site.curl("-H", f"Content-Type: {KIND}", *more, "-d", body, "-w", out, HOME + path)
    text, _, last = done.stdout.decode().rpartition("\n")
    status, _, media_type = last.partition(" ")
    return int(status), media_type, json.loads(text) if text else {}


def check_requests(site: Appliance) -> None:
    wait_until(lambda: post(site, "/sessions", "{}")[0] == 400, 60)
    wait_until(lambda: b"<html" in site.curl(PAGE).stdout, 60)
    for path, body, status, reason in (
        ("/sessions", "{}", 400, "MALFORMED"),
        ("/sessions", "x" * 65537, 413, "TOO-LARGE"),
        ("/sessions/00/report", "x" * 65537, 413, "TOO-LARGE"),
        ("/sessions/00/evidence", "x" * 65537, 404, "SESSION-UNKNOWN"),
        ("/other", "{}", 404, "MALFORMED"),
    ):
        found = post(site, path, body)
        assert (found[0], found[1], found[2]["reason"]) == (status, KIND, reason), (path, found)
    wait_until(lambda: site.ask("services").returncode == 0)
    services = json.loads(site.ask("services", "--json").stdout)["services"]
    assert {one["name"] for one in services if one["ok"]} == set(SERVICES)
    check_address(site)
    check_silent_peers(site)
    check_reload(site)
    (site.run / "enroll" / "http").unlink()
    assert post(site, "/sessions", "{}")[2]["reason"] == "SITE-NOT-READY"
    silent = json.loads(site.ask("services", "--json").stdout)["services"]
    assert [one["name"] for one in silent if not one["ok"]] == ["enroll"]


def check_address(site: Appliance) -> None:
    """A box cannot say what its address is."""
    body = json.dumps({"v": 1, "reason": "TPM-NONE", "facts": "e30"})
    headers = ("X-Doorstep-Address: 9.9.9.9", "X-Forwarded-For: 9.9.9.9")
    assert post(site, "/trouble", body, *headers)[0] == 202
    lines = site.ask("events", "--json").stdout.splitlines()
    told = [event for event in map(json.loads, lines) if event["kind"] == "trouble"]
    assert [event["address"] for event in told] == ["10.41.7.2"]


def check_silent_peers(site: Appliance) -> None:
    """Peers that connect and say nothing cost a connection each, not the service."""
    command = ["ip", "netns", "exec", site.namespace, sys.executable, "-c", SILENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as silent:
        assert silent.stdout is not None
        assert silent.stdout.readline() == b"30\n"
        assert b"<html" in site.curl(PAGE).stdout
        assert post(site, "/sessions", "{}")[0] == 400


def check_reload(site: Appliance) -> None:
    """A certificate that is replaced is used without a restart."""
    master = int((site.run / "nginx" / "pid").read_text())
    children = Path(f"/proc/{master}/task/{master}/children")
    before = set(children.read_text().split())
    path = site.run / "tls" / "server.pem"
    renewed = path.with_suffix(".new")
    renewed.write_bytes(path.read_bytes())
    os.chown(renewed, USERS["keys"], USERS["nginx"])
    renewed.rename(path)
    wait_until(lambda: set(children.read_text().split()) - before)
    assert b"<html" in site.curl(PAGE).stdout
