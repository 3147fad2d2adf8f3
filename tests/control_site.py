"""A rehearsal's site with the real control and keys processes, and boxes that are software TPMs.

The boot is made up, its parts are not: the host's signed shim, GRUB and MokManager (in the place of
a kernel) are a published boot set, a captured log tells how such files are measured, and the TPM
is extended with what the prediction for these very files says.
"""

from __future__ import annotations

import _strptime  # noqa: F401 - loaded late by datetime, when the child may not read our Python
import ctypes
import encodings.idna  # noqa: F401 - the same
import encodings.utf_16_le  # noqa: F401 - the same
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import eventlog_forge
from attest_box import measure
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from keys_site import USERS
from software_tpm import SoftwareTpm, read_nv
from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import TPM2_SU

from attest import eventlog
from attest.bootfacts import FileFacts
from attest.predict import PREDICTED_PCRS, Transport, predict, variables_from_log
from attest.transcript import (
    Session,
    device_data,
    opened_data,
    report_message,
    secret_digest,
    transcript,
)
from bootstrap.agent import protocol
from bootstrap.agent.errors import BoxError
from bootstrap.agent.tpm import Tpm
from bootstrap.build.parts import Parts, assemble
from bootstrap.cli.main import main
from bootstrap.io import control, site_dir
from bootstrap.io.publishing import Shelf
from bootstrap.io.references import network_facts
from bootstrap.io.site_dir import NewSite
from bootstrap.io.supervisor import prepare
from bootstrap.phonehome import b64u, from_b64u
from bootstrap.rehearsal.place import ek_area
from bootstrap.rehearsal.record import CONTEXT, RehearsalRecord, core_digest
from keys import note
from keys.ca import Kind
from keys.io import service as keys_service
from keys.io.layout import Layout
from keys.io.rpc import Method, RpcError, RpcServer, RpcUnavailableError, call
from netboot.bootset import SIGNATURE_CONTEXT, BootSetManifest, Role, anchor_cpio
from netboot.io.bootsets import REHEARSAL, REHEARSAL_SIGNATURE, SIGNATURE, BootSetStore

VECTORS = Path(__file__).parent / "vectors" / "eventlog"
BOOTS = tomllib.loads((VECTORS / "boots.toml").read_text())
PR_SET_PDEATHSIG = 1
APPLIANCE = IPv4Address("10.41.7.2")
FILES = {
    Role.SHIM: Path("/usr/lib/shim/shimx64.efi.signed"),
    Role.GRUB: Path("/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"),
    Role.KERNEL: Path("/usr/lib/shim/mmx64.efi.signed"),
}
"""What only has to be signed by Debian stands for the kernel."""
KIOSK = """
[[role]]
name = "kiosk"
hostname = "kiosk-{number:02}"
config = "templates/kiosk.yaml.j2"
addresses = "10.41.7.60-10.41.7.69"
secrets = []
certificate_days = 7
after = "stay"
[role.require]
memory_mib_min = 16000
"""


CLAIM = "the label says S-2, beside the till"


class Forked:
    """A service in a child of its own, as its own user."""

    def __init__(self, uid: int, log: Path, serve: Any) -> None:
        self._uid, self._log, self._serve = uid, log, serve
        self.pid = 0

    def start(self) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(_run(self._uid, self._log, self._serve))

    def kill(self) -> None:
        """Kill -9."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def ended(self) -> bool:
        """Tell whether it died by itself."""
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = 0
        return not self.pid


class Courier:
    """A child under a service's uid that makes calls for us, as enroll, page or keys would."""

    def __init__(self, layout: Layout, uid: int) -> None:
        ours, theirs = socket.socketpair()
        self._child = os.fork()
        if self._child == 0:
            ours.close()
            try:
                _become(uid)
                _courier(layout, theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._stream = ours.makefile("rwb")
        ours.close()

    def ask(self, service: str, method: str, params: Any, timeout: float = 20.0) -> Any:
        """Call; RpcError and RpcUnavailableError as `call` raises them."""
        self.send(service, method, params, timeout)
        return self.receive()

    def send(self, service: str, method: str, params: Any, timeout: float = 20.0) -> None:
        """Begin a call."""
        line = json.dumps([service, method, params, timeout])
        self._stream.write(line.encode() + b"\n")
        self._stream.flush()

    def receive(self) -> Any:
        """End a call."""
        kind, value = json.loads(self._stream.readline())
        if kind == "gone":
            raise RpcUnavailableError(value)
        if kind == "error":
            raise RpcError(*value)
        return value

    def close(self) -> None:
        self._stream.close()
        os.kill(self._child, signal.SIGKILL)  # others hold our end of its socket too
        os.waitpid(self._child, 0)


def _courier(layout: Layout, sock: socket.socket) -> None:
    stream = sock.makefile("rwb")
    for line in stream:
        service, method, params, timeout = json.loads(line)
        try:
            answer = ["ok", call(layout.socket(service), method, params, timeout)]
        except RpcError as error:
            answer = ["error", [error.code, str(error)]]
        except RpcUnavailableError as error:
            answer = ["gone", str(error)]
        stream.write(json.dumps(answer).encode() + b"\n")
        stream.flush()


class ControlSite:
    """A site in a directory; `start` runs keys, control and what stands for netboot."""

    def __init__(self, *, settings: str = KIOSK, rehearsal: bool = True) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="doorstep-control-"))
        self.base.chmod(0o755)
        self.layout = Layout(
            site=self.base / "site",
            state=self.base / "state",
            run=self.base / "run",
            users=USERS,
        )
        new = NewSite(
            id="shop-0417",
            domain="shop-0417.example.net",
            interface="eth1",
            network=IPv4Network("10.41.7.0/24"),
        )
        site_dir.init(self.layout.site, new)
        template = "#cloud-config\nhostname: {{ box.hostname | tojson }}\n"
        site_dir.write(self.layout.site / "templates/kiosk.yaml.j2", template.encode())
        self.add_settings(settings)
        self.layout.state.mkdir(mode=0o755)
        if rehearsal:
            (self.layout.state / "rehearsal").write_text("test\n")
        prepare(self.layout, rehearsal=rehearsal)
        self._stand_in()

    def _stand_in(self) -> None:
        """Make the processes, and what stands for netboot."""
        self._heard = self.base / "netboot.jsonl"
        self._heard.write_text("")
        self.leases = self.base / "leases.json"
        self.leases.write_text('{"leases":[]}')
        self.posts = 0
        self._couriers: dict[str, Courier] = {}
        self.processes = {
            "keys": self._process("keys", keys_service.main),
            "control": self._process("control", control.main),
            "netboot": self._process("netboot", lambda layout: netboot(layout, self._heard)),
        }

    def _process(self, name: str, main: Any) -> Forked:
        return Forked(USERS[name], self.base / f"{name}.log", lambda: main(self.layout))

    # The site's files

    def add_settings(self, text: str) -> None:
        path = self.layout.site / "site.toml"
        site_dir.write(path, path.read_bytes() + text.encode())

    def trust(self, tpm: SoftwareTpm) -> None:
        """Make the CA of a software TPM an anchor."""
        for path in (tpm.ca / "swtpm-localca-rootca-cert.pem", tpm.ca / "issuercert.pem"):
            name = f"{tpm.directory.name}-{path.stem}.pem"
            site_dir.write(self.layout.site / "trust/ek" / name, path.read_bytes())

    def deliver(self, *entries: note.Entry) -> None:
        """Sign a delivery note of these."""
        site_dir.write(self.layout.site / "delivery.csv", note.encode(entries))
        site_dir.sign_note(self.layout.site, site_dir.load(self.layout.site))

    @property
    def store(self) -> BootSetStore:
        return BootSetStore(self.layout.state / "bootsets")

    @property
    def root(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.layout.site / "trust/root.pem").read_bytes())

    def build(self, version: int = 1, *, rehearsed: bool = True) -> BootSetManifest:
        """Put a signed and rehearsed boot set into the store."""
        release, site = f"test {version}", site_dir.load(self.layout.site)
        anchor = anchor_cpio(
            site_root_pem=(self.layout.site / "trust/root.pem").read_bytes(),
            site_id=site.site.id,
            server_name=site.server_name,
            release=release,
        )
        files = {role: path.read_bytes() for role, path in FILES.items()}
        files[Role.GENERIC] = b"generic initrd of a test"
        manifest = assemble(
            self.store,
            Parts(files=files, kernel_version="test"),
            anchor,
            name="enrol",
            version=version,
            created=0,
            release=release,
        )
        self.sign(manifest)
        if rehearsed:
            self.rehearse(manifest)
        return manifest

    def sign(self, manifest: BootSetManifest) -> None:
        self._put(manifest, SIGNATURE, manifest.encode(), SIGNATURE_CONTEXT)

    def rehearse(self, manifest: BootSetManifest, **changes: Any) -> None:
        """Sign that a set was rehearsed (what a rehearsal measures is tested elsewhere)."""
        record = RehearsalRecord(core=core_digest(manifest), at=1, bank="sha256", pcrs={})
        data = replace(record, **changes).encode()
        self.store.put(manifest.digest, REHEARSAL, data)
        self._put(manifest, REHEARSAL_SIGNATURE, data, CONTEXT)

    def _put(self, manifest: BootSetManifest, name: str, data: bytes, context: str) -> None:
        signed = site_dir.sign_document(self.layout.site, data, manifest.signature_comment, context)
        self.store.put(manifest.digest, name, signed)

    @property
    def shelf(self) -> Shelf:
        return Shelf(directory=self.layout.site, state=self.layout.state)

    def publish(self, manifest: BootSetManifest, keep: float = 3600) -> None:
        self.shelf.publish(manifest.digest, timedelta(seconds=keep))

    # Processes

    def start(self) -> ControlSite:
        """Start everything, sign the authorities, set the secret."""
        for name in self.processes:
            self.processes[name].start()
        for name in self.processes:
            self.wait_for(name)
        signed = {}
        for one in self.operator("keys", "ca_requests")["requests"]:
            kind = Kind(one["kind"])
            pem = site_dir.sign_intermediate(self.layout.site, one["csr_pem"].encode(), kind)
            signed[f"{kind.value}_pem"] = pem
        self.operator("keys", "ca_install", **signed)
        self.put_secret()
        return self

    def put_secret(self, value: bytes = b"token of the tills") -> None:
        self.operator("keys", "secret_put", name="pos-api-token", value=b64u(value))

    def wait_for(self, name: str) -> None:
        """Wait until a service answers."""
        deadline = time.monotonic() + 30
        while True:
            try:
                call(self.layout.socket(name), "events", {"after": 0, "limit": 1})
                return
            except RpcUnavailableError:
                if self.processes[name].ended() or time.monotonic() > deadline:
                    raise AssertionError(self.log(name)) from None
                time.sleep(0.02)

    def restart(self, name: str) -> None:
        """Kill -9, start, wait; control forgets who asked how often."""
        if name == "control":
            self.posts = 0
        self.processes[name].kill()
        self.processes[name].start()
        self.wait_for(name)

    def log(self, name: str) -> str:
        path = self.base / f"{name}.log"
        return path.read_text()[-4000:] if path.exists() else ""

    def close(self) -> None:
        for courier in self._couriers.values():
            courier.close()
        for process in self.processes.values():
            process.kill()
        shutil.rmtree(self.base)

    # Calls

    def operator(self, service: str, method: str, **params: Any) -> Any:
        return call(self.layout.socket(service), method, params)

    def courier(self, user: str) -> Courier:
        if user not in self._couriers:
            self._couriers[user] = Courier(self.layout, USERS[user])
        return self._couriers[user]

    def post(self, method: str, body: bytes, *, session: bytes | None = None, address: str):
        """Carry a body as enroll does; gives status and body."""
        params = carried(body, session, address)
        self.posts += method in ("session", "trouble")
        try:
            answer = self.courier("enroll").ask("control", method, params)
        except RpcUnavailableError as error:
            error.add_note(self.log("control"))
            raise
        return answer["status"], from_b64u(answer["body"], "body", limit=1 << 23)

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        """All of control's events after one."""
        found: list[dict[str, Any]] = []
        while page := self.operator("control", "events", after=after)["events"]:
            found += page
            after = page[-1]["n"]
        return found

    def last(self) -> int:
        return self.operator("control", "events", after=-1)["last"]

    def card(self, box: str) -> dict[str, Any]:
        return self.operator("control", "box", box=box)

    def plan(self) -> dict[str, Any]:
        return json.loads((self.layout.state / "plan" / "plan.json").read_bytes())

    def reload(self) -> dict[str, Any]:
        return self.operator("control", "reload")

    def doorstep(self, *words: str) -> Result:
        """Run the command line as the operator."""
        layout = self.layout
        places = {"--site": layout.site, "--state": layout.state, "--run": layout.run}
        options = [str(one) for pair in places.items() for one in pair]
        return CliRunner().invoke(main, [*words, *options])

    def approve(self, box: Box, *words: str) -> Result:
        """Approve a box as the operator does, with a technician's word."""
        return self.doorstep("box", "approve", box.id, "--claim", CLAIM, "--yes", *words)

    # What netboot would have seen

    def heard(self, *events: dict[str, Any]) -> None:
        """Add events of netboot."""
        with self._heard.open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)

    def lease(self, mac: str, address: str) -> None:
        """Let netboot tell of a box that boots, and wait until control has heard it."""
        now, start = time.time(), self.last()
        detail = {"vendor_class": "PXEClient:Arch:00007"}
        self.heard(
            {"at": now, "kind": "dhcp-discover", "mac": mac, "detail": detail},
            {"at": now, "kind": "dhcp-ack", "mac": mac, "address": address, "detail": detail},
        )
        self.until(
            lambda: any(
                event["mac"] == mac and event["address"] == address and event["at"] == now
                for event in self.events(start)
            )
        )

    def until(self, true: Any, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, self.log("control")
            time.sleep(0.05)


def carried(body: bytes, session: bytes | None, address: str) -> dict[str, str]:
    """Give the parameters with which enroll carries a body."""
    named = {} if session is None else {"session": session.hex()}
    return {"address": address, "body": b64u(body), **named}


def netboot(layout: Layout, path: Path) -> None:
    """Stand for netboot: tell the events that the test wrote into a file."""

    def events(_: str, params: Any) -> dict[str, Any]:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        told = [
            {"box": None, "mac": None, "address": None, "reason": None, "detail": {}, **line}
            | {"n": number}
            for number, line in enumerate(lines, 1)
        ]
        after, limit = params["after"], params["limit"]
        return {"events": told[after : after + limit], "last": len(told)}

    users = frozenset({"control", "operator"})
    methods = {
        "events": Method(events, users),
        "leases": Method(lambda *_: json.loads(path.with_name("leases.json").read_text()), users),
        "status": Method(lambda *_: {"running": 1, "kept": None}, users),
    }
    server = RpcServer(layout, "netboot", methods)
    while True:
        server.turn(0.25)


def boot_log(site: ControlSite, manifest: BootSetManifest) -> bytes:
    """Give the log of a boot of this set: a captured one, its digests those of these files."""
    facts = network_facts(site.store, manifest, APPLIANCE)
    name = "debian12-tftp" if facts.grub_family == "2.06" else "debian13-tftp"
    boot = BOOTS[name]
    captured = eventlog.decode((VECTORS / boot["log"]).read_bytes())
    variables = variables_from_log(captured, "sha256")
    known = FileFacts.from_json((VECTORS / boot["facts"]).read_text())
    where = {"transport": Transport.TFTP, "variables": variables}
    old = predict(known, server=boot["server"], **where).events("sha256")
    new = predict(facts, server=str(APPLIANCE), **where).events("sha256")
    events = list(captured.events[1:])
    for pcr in PREDICTED_PCRS:
        places = [
            number
            for number, event in enumerate(events)
            if event.pcr == pcr and event.type != eventlog.EventType.NO_ACTION
        ]
        before, after = ([one for one in each if one.pcr == pcr] for each in (old, new))
        for place, one, other in zip(places, before, after, strict=True):
            assert events[place].digests["sha256"] == one.digest
            data = (other.text or "").encode() if one.text != other.text else events[place].data
            events[place] = replace(events[place], digests={"sha256": other.digest}, data=data)
    return eventlog_forge.encode(eventlog_forge.with_events(captured, events))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dance:
    """One session, as a box has it after step 1, and its evidence."""

    dance: protocol.Dance
    ephemeral: X25519PrivateKey
    body: bytes

    @property
    def session(self) -> bytes:
        return self.dance.session.session

    @property
    def x(self) -> bytes:
        return transcript(self.dance.q, self.body)


class Box:
    """A machine with a TPM; `boot` powers it on."""

    def __init__(self, site: ControlSite, tpm: SoftwareTpm, *, mac: str, address: str) -> None:
        self.site, self.swtpm, self.mac, self.address = site, tpm, mac, address
        self.tpm: Tpm | None = None
        self.memory, self.with_certificate = 2048, True
        self.serial, self.bios = f"S-{mac}", "1.0"
        self.ssh_host_key = b""
        root = site.root
        self.anchor = protocol.Anchor(
            site_id="shop-0417",
            server_name="appliance.shop-0417.example.net",
            release="test",
            root=root.public_bytes(Encoding.DER),
            root_pem=root.public_bytes(Encoding.PEM).decode(),
        )

    def entry(self, role: str | None = "pos", **changes: Any) -> note.Entry:
        certificates = sorted(self.swtpm.directory.glob("*.ekcert"))
        area = ek_area(SimpleNamespace(ek_certificates=certificates))
        fields = {
            "serial": self.serial,
            "model": "M",
            "ek_sha256": area.name()[2:],
            "role": role,
            "name": None,
        }
        return note.Entry(**(fields | changes))

    def boot(self, log: bytes) -> Box:
        """Power on, measure, and make the keys."""
        self.off()
        self.log = log
        self.swtpm.start()
        self.tpm = patiently(lambda: Tpm(f"swtpm:path={self.swtpm.directory / 's'}"))
        measure(self.tpm.esys, log)
        self.ek, self.device = self.tpm.load_ek(), self.tpm.load_device()
        return self

    def off(self) -> None:
        """Shut down as a kernel does: an swtpm that is killed turns its clock back as if safe."""
        if self.tpm is not None:
            with suppress(TSS2_Exception):
                self.tpm.esys.shutdown(shutdown_type=TPM2_SU.CLEAR)
            self.tpm.close()
            self.tpm = None
        self.swtpm.stop()

    @property
    def id(self) -> str:
        return str(self.last_hello.box)

    def facts(self) -> bytes:
        facts = {
            "smbios": {
                "product_serial": self.serial,
                "product_name": "M",
                "sys_vendor": "V",
                "bios_version": self.bios,
            },
            "nics": [{"name": "eth0", "mac": self.mac, "carrier": True}],
            "used": {"mac": self.mac, "address": self.address},
            "memory_mib": self.memory,
            "architecture": "x86_64",
        }
        return json.dumps(facts).encode()

    def hello(self) -> protocol.Hello:
        self.tpm.drop_ak()
        self.last_hello = protocol.make_hello(
            ek_public=self.ek,
            ak_public=self.tpm.load_ak(),
            certificates=self.tpm.ek_certificates() if self.with_certificate else (),
            box_nonce=os.urandom(32),
        )
        return self.last_hello

    def post(self, method: str, body: bytes, session: bytes | None = None) -> tuple[int, bytes]:
        return self.site.post(method, body, session=session, address=self.address)

    def begin(self, *, log: bytes | None = None) -> Dance:
        """Do step 1 and make the evidence."""
        hello = self.hello()
        status, answer = self.post("session", hello.body)
        assert status == 200, answer
        challenge = protocol.read_challenge(answer)
        secret = self.tpm.activate(challenge.credential_blob, challenge.encrypted_secret)
        ephemeral = X25519PrivateKey.generate()
        dance = protocol.Dance(
            anchor=self.anchor,
            hello=hello,
            session=Session(
                session=challenge.session, server_nonce=challenge.server_nonce, secret=secret
            ),
            facts=self.facts(),
            ephemeral=ephemeral.public_key().public_bytes_raw(),
            device_public=self.device,
            ssh_host_key=self.ssh_host_key,
        )
        measured = self.tpm.quote(dance.q)
        attest, signature = self.tpm.certify_device(device_data(dance.q))
        quoted = protocol.Quoted(
            quotes=measured.quotes,
            pcrs=measured.pcrs,
            device_attest=attest,
            device_signature=signature,
            platform_certificates=self.tpm.platform_certificates(),
        )
        logs = protocol.Logs(event_log=self.log if log is None else log)
        body = protocol.evidence_body(dance, quoted, logs)
        return Dance(dance=dance, ephemeral=ephemeral, body=body)

    def give(self, dance: Dance) -> bytes:
        """Do step 2; gives the signed answer."""
        status, answer = self.post("evidence", dance.body, dance.session)
        assert status == 200, answer
        return answer

    def read(self, dance: Dance, answer: bytes, context: str = "answer") -> protocol.Answer:
        return protocol.read_answer(answer, dance.dance, dance.x, context=context)

    def attest(self) -> tuple[Dance, protocol.Answer]:
        """Do steps 1 and 2."""
        dance = self.begin()
        return dance, self.read(dance, self.give(dance))

    def open(self, dance: Dance, answer: protocol.Answer) -> protocol.Opened:
        """Open the bundle in the TPM, once."""
        bundle = answer.bundle
        share = self.tpm.open_share(
            bundle.sealed_public, bundle.duplicate, bundle.seed, bundle.counters
        )
        opened = protocol.open_bundle(
            bundle, dance.dance, dance.x, share=share, ephemeral_private=dance.ephemeral
        )
        self.tpm.extend_opened(opened_data(dance.x))
        return opened

    def report(self, dance: Dance, opened: protocol.Opened, **changes: Any) -> bytes:
        """Make the body of step 4; `changes` are those of the report."""
        secrets = {
            one["name"]: secret_digest(
                opened.content_key, one["name"], from_b64u(one["value"], "value", limit=1 << 16)
            )
            for one in json.loads(opened.document)["secrets"]
        }
        names = ("signature", "opened-in-tpm", "certificate-matches-key", "seed-written")
        checks = dict.fromkeys(names, "ok") | changes.pop("checks", {})
        report = protocol.report_bodies(
            checks, changes.pop("secrets", secrets), medium_needed=False
        )
        message = report_message("shop-0417", dance.session, dance.x, report)
        signature = self.tpm.sign(message)
        return protocol.encode({"report": b64u(report), "signature": b64u(signature)})

    def enrol(self) -> protocol.Answer:
        """Do the whole dance; gives the receipt."""
        dance, answer = self.attest()
        assert answer.status == "enrolled", answer
        body = self.report(dance, self.open(dance, answer))
        status, receipt = self.post("report", body, dance.session)
        assert status == 200, receipt
        return self.read(dance, receipt, "receipt")


def make_tpm(directory: Path) -> SoftwareTpm:
    """Make a TPM with an EK certificate of a CA of its own, and keep that certificate's file."""
    tpm = SoftwareTpm(directory, certificates=True, start=False)

    def read() -> bytes:
        with tpm.open() as esys:
            return read_nv(esys, 0x01C00002)

    data = patiently(read)
    (directory / "ek.ekcert").write_bytes(data[: _der_length(data)])
    tpm.stop()
    return tpm


def patiently(connect: Any) -> Any:
    """Try again while the TPM has bound its socket and does not listen yet."""
    for _ in range(50):
        try:
            return connect()
        except (BoxError, TSS2_Exception):
            time.sleep(0.05)
    return connect()


def _der_length(data: bytes) -> int:
    """Give the length of a DER value with a long length of two bytes; NV pads behind it."""
    return int.from_bytes(data[2:4], "big") + 4


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _run(uid: int, log: Path, serve: Any) -> int:
    """Be the service: log to a file, hold nothing of the test's, become the user."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.closerange(3, 4096)
    with os.fdopen(2, "w", closefd=False, buffering=1) as errors:
        sys.stdout = sys.stderr = errors
        try:
            _become(uid)
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # also when a test is cut off
            serve()
        except BaseException:  # noqa: BLE001 - a forked child must not go on as pytest
            traceback.print_exc(file=errors)
            return 1
    return 0


@contextmanager
def running(base: Path, boxes: int = 1) -> Iterator[tuple[ControlSite, list[Box]]]:
    """Run a site with one set; the CA of each box's TPM is an anchor, all are on the note."""
    site = ControlSite()
    made = [
        Box(
            site,
            make_tpm(base / f"tpm{number}"),
            mac=f"52:54:00:00:00:0{number}",
            address=f"10.41.7.10{number}",
        )
        for number in range(1, boxes + 1)
    ]
    for box in made:
        site.trust(box.swtpm)
    site.deliver(*(box.entry() for box in made))
    site.manifest = site.build()
    site.publish(site.manifest)
    try:
        site.start()
        site.log_of_boot = boot_log(site, site.manifest)
        for box in made:
            site.lease(box.mac, box.address)
        yield site, made
    finally:
        for box in made:
            box.off()
        site.close()


def row(database: Path, query: str, *values: Any) -> Any:
    """Read one row of a running service's database, as root; None when there is none."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return connection.execute(query, values).fetchone()
    finally:
        connection.close()
