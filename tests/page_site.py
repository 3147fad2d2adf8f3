"""A site with its real control, keys, page and nginx processes, each as its own user, on loopback.

netboot and the watch are played: processes under their uids answer with events that a test writes
to a file, in the form of docs/architecture.md. Needs root, nginx and setpriv.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from ipaddress import IPv4Network
from pathlib import Path

from bootstrap.enrolment import Stage
from bootstrap.io.site_dir import NewSite, init, sign_intermediate
from bootstrap.io.site_store import SiteStore
from bootstrap.io.supervisor import Job, directories, jobs
from bootstrap.rehearsal.view import command_that_sees
from bootstrap.rows import BoxRow, Event, Sighting
from keys import ca
from keys.errors import KeysError
from keys.io.layout import SERVICES, Layout
from keys.io.rpc import Method, RpcServer, call

USERS = {name: 61021 + number for number, name in enumerate(SERVICES)}
LIMIT = 20.0
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}


class PageSite:
    """One site at 127.x.y.2; fill the store, then start what a test needs."""

    def __init__(self, *, rehearsal: bool = False) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="doorstep-page-"))
        self.base.chmod(0o755)
        self.layout = Layout(
            site=self.base / "site", state=self.base / "state", run=self.base / "run", users=USERS
        )
        number = (os.getpid() * 2 + rehearsal) % 60000 + 300
        self.network = IPv4Network((0x7F000000 | number << 8, 24))
        self.address = str(self.network[2])
        self.url = f"https://{self.address}:8444"
        new = NewSite(
            id="shop-0417",
            domain="shop-0417.example.net",
            interface="lo",
            network=self.network,
            title="Shop 417, Leeds",
        )
        init(self.layout.site, new)
        path = self.layout.site / "site.toml"
        path.write_text(path.read_text().replace(f"{self.address}:443", f"{self.address}:8444"))
        for directory in directories(self.layout):
            directory.make()
        if rehearsal:
            (self.layout.state / "rehearsal").touch()
        self.events = self.base / "netboot-events"
        self.events.write_text("")
        self._running: dict[str, subprocess.Popen] = {}

    def store(self) -> SiteStore:
        """Open site.db as control will find it; only before control starts."""
        return SiteStore(self.layout.state / "site" / "site.db")

    def start(self, *names: str) -> PageSite:
        """Start these services and wait until they answer."""
        for path in (self.layout.state / "site").iterdir():
            os.chown(path, USERS["control"], USERS["control"])
        known = {job.name: job for job in jobs(self.layout)}
        for name in names:
            self._launch(known[name])
            if name in ("keys", "control"):
                self._wait(name, lambda name=name: self._answers(name))
            if name == "keys" and not list((self.layout.run / "tls").iterdir()):
                self._sign()
        if "page" in names:
            self._wait("page", self._page_listens)
        if "nginx" in names:
            self._wait("nginx", self._listens)
        return self

    def _launch(self, job: Job) -> None:
        with (self.base / f"{job.name}.log").open("ab") as log:
            self._running[job.name] = subprocess.Popen(
                ["unshare", "--mount", *command_that_sees([self.base], job.privileged_command())],
                env=_ENVIRONMENT,
                cwd="/",
                stdout=log,
                stderr=log,
            )

    def _page_listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(str(self.layout.run / "page" / "http")) == 0

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex((self.address, 8444)) == 0

    def signal(self, name: str, number: int) -> None:
        self._running[name].send_signal(number)

    def kill(self, name: str) -> None:
        """Kill -9."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def start_netboot(self) -> None:
        """Start the processes that play netboot, and watch and sync that see nothing."""
        self._play("netboot", self.events)
        for quiet in ("watch", "sync"):
            if quiet not in self._running:
                self._play(quiet, Path("/dev/null"))

    def _play(self, name: str, events: Path) -> None:
        layout = self.layout
        places = [str(path) for path in (layout.site, layout.state, layout.run, events)]
        command = [sys.executable, "-I", str(Path(__file__).resolve()), name, *places]
        self._launch(Job(name=name, command=command, uid=USERS[name]))
        self._wait(name, lambda: self._answers(name))

    def happens(self, kind: str, mac: str | None, reason: str | None = None, **detail) -> None:
        """Let netboot see something; control collects it within a second."""
        number = len(self.events.read_text().splitlines()) + 1
        address = detail.pop("address", None)
        event = {
            "n": number,
            "at": time.time(),
            "kind": kind,
            "box": None,
            "mac": mac,
            "address": address,
            "reason": reason,
            "detail": detail,
        }
        with self.events.open("a") as file:
            file.write(json.dumps(event) + "\n")

    def close(self) -> None:
        for process in reversed(self._running.values()):
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.base)

    def _answers(self, name: str) -> bool:
        method = "services" if name == "control" else "status"
        try:
            call(self.layout.socket(name), method, timeout=2)
        except KeysError:
            return False
        return True

    def _wait(self, name: str, done) -> None:
        deadline = time.monotonic() + LIMIT
        while not done():
            assert time.monotonic() < deadline, (self.base / f"{name}.log").read_text()
            time.sleep(0.05)

    def _sign(self) -> None:
        """Do what `doorstep ca sign` does, so that nginx gets its certificate."""
        path = self.layout.socket("keys")
        requests = {one["kind"]: one["csr_pem"] for one in call(path, "ca_requests")["requests"]}
        signed = {
            f"{kind}_pem": sign_intermediate(self.layout.site, text.encode(), ca.Kind(kind))
            for kind, text in requests.items()
        }
        call(path, "ca_install", signed)


def _play(name: str, layout: Layout, events: Path) -> None:
    server = RpcServer(
        layout,
        name,
        {
            "status": Method(lambda user, params: {"running": 1, "kept": None}, READERS),
            "events": Method(lambda user, params: _events_after(events, params), READERS),
        },
    )
    while True:
        server.turn(0.5)


READERS = frozenset({"control", "operator"})


def _events_after(events: Path, params) -> dict:
    told = [json.loads(line) for line in events.read_text().splitlines()]
    after = int(params.get("after", 0))
    return {"events": [one for one in told if one["n"] > after], "last": len(told)}


def box_row(number: int, stage: Stage, now: float, **changes) -> BoxRow:
    """Give a box as control keeps it."""
    values = {
        "box": f"6f1c0a52-5f0e-5b1c-9d53-{number:012x}",
        "ek_name": b"\x00\x0b" + number.to_bytes(32, "big"),
        "ek_public": b"",
        "stage": stage,
        "since": now,
        "first": now - 75,
        "attempt": 1,
        "mac": f"52:54:00:41:07:{number:02x}",
        "address": f"10.41.7.{100 + number}",
        "facts": {
            "smbios": {"product_name": "TillBox 300", "product_serial": f"TB3-00{4170 + number}"}
        },
    }
    return BoxRow(**{**values, **changes})


def note(store: SiteStore, row: BoxRow, at: float, kind: str, reason=None, **detail) -> None:
    """Add to the story of a box."""
    store.add_event(Event(at=at, kind=kind, box=row.box, mac=row.mac, reason=reason, detail=detail))


def fill(store: SiteStore, now: float) -> dict[str, BoxRow]:
    """Give a shop on the day of its opening: boxes in most stages, one refused, one held."""
    off = "Secure Boot is off: switch it on in the firmware setup and start the box again."
    unlisted = "This box is not on the delivery note."
    rows = {
        "refused": box_row(
            3,
            Stage.REFUSED,
            now - 25,
            reasons=("SECURE-BOOT-OFF", "PCR-MISMATCH"),
            sentence=off,
            attempt=2,
            first=now - 900,
        ),
        "held": box_row(
            4, Stage.HELD, now - 190, reasons=("EK-UNLISTED",), sentence=unlisted, first=now - 300
        ),
        "ready": box_row(1, Stage.READY, now - 400, hostname="pos-01", role="pos"),
        "enrolled": box_row(2, Stage.ENROLLED, now - 12, hostname="pos-02", role="pos"),
    }
    for row in rows.values():
        store.save_box(row)
    _stories(store, rows, now, off)
    for sighting in (
        Sighting(
            mac="52:54:00:41:07:05",
            stage=Stage.BOOTING,
            since=now - 9,
            first=now - 21,
            address="10.41.7.105",
            detail={"phase": "end", "name": "/f/0a1b/initrd-generic", "sent": 43, "size": 100},
        ),
        Sighting(
            mac="52:54:00:41:07:06",
            stage=Stage.HEARD,
            since=now - 95,
            first=now - 95,
            address="10.41.7.106",
            detail={"boot_file": "shimx64.efi"},
        ),
    ):
        store.save_sighting(sighting)
    return rows


def _stories(store: SiteStore, rows: dict[str, BoxRow], now: float, off: str) -> None:
    findings = [["SECURE-BOOT-OFF", off], ["PCR-MISMATCH", "It booted something else."]]
    row = rows["refused"]
    for begin in (now - 900, now - 100):
        note(store, row, begin, "dhcp-discover", vendor_class="PXEClient:Arch:00007")
        note(store, row, begin + 1, "dhcp-ack", boot_file="shimx64.efi", address="10.41.7.103")
        note(store, row, begin + 5, "boot-file", phase="end", name="/shimx64.efi", done=True)
        note(store, row, begin + 60, "session", attempt=1)
        note(store, row, begin + 75, "refused", "SECURE-BOOT-OFF", sentence=off, findings=findings)
    note(store, rows["ready"], now - 400, "ready")


def cards_of(html: str) -> dict[str, str]:
    """Part a page into its cards, by key."""
    found = re.findall(r'<article id="card-([^"]+)".*?</article>', html, re.DOTALL)
    parts = re.findall(r"<article id=.*?</article>", html, re.DOTALL)
    return dict(zip(found, parts, strict=True))


if __name__ == "__main__":
    SITE, STATE, RUN, EVENTS = (Path(text) for text in sys.argv[2:])
    _play(sys.argv[1], Layout(site=SITE, state=STATE, run=RUN, users=USERS), EVENTS)
