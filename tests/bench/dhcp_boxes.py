"""Two hundred boxes are switched on in the same second: DHCP, then a memory disk of 5 MB by TFTP.

The figure is when the last of them has its file, ours beside dnsmasq, which does both as well. The
boxes are at the other end of a veth: frames from MACs of their own until the ACK, then for each a
TFTP client (`tftp_load.c`, windowsize 4 as OVMF asks). Who is not answered asks again after 1 s.
"""

from __future__ import annotations

import hashlib
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path

from netboot.dhcp_message import BOOTREPLY, BOOTREQUEST, Message
from netboot.dhcp_options import Code, MessageType, Options
from netboot.errors import PeerError
from netboot.files import FileMap
from netboot.io.files import FileStore
from netboot.io.frame import BROADCAST_MAC, udp_frame
from netboot.io.tftp import TftpRunner
from tests.bench import dhcp_servers
from tests.bench.dhcp_servers import SERVER, Server, Wire, serving
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

BOXES = 200
INITRD, INITRD_SIZE = "initrd", 5 << 20
SWITCH_ON_SECONDS = 1.0
_AGAIN_SECONDS = 1.0
_GIVE_UP_SECONDS = 240.0
_NOWHERE, _EVERYBODY = IPv4Address(0), IPv4Address("255.255.255.255")


def measure(lab: Lab) -> list[Figure]:
    """Switch the boxes on before each server in turn, as often as the lab says."""
    root = lab.work / "power-on"
    root.mkdir()
    root.chmod(0o755)
    data = os.urandom(INITRD_SIZE)
    for name in (INITRD, hashlib.sha256(data).hexdigest()):
        (root / name).write_bytes(data)
        (root / name).chmod(0o644)
    client = root / "tftp_load"
    source = Path(__file__).with_name("tftp_load.c")
    subprocess.run(["gcc", "-O2", "-o", client, source], check=True)
    peer = _dnsmasq(root)
    taken: dict[str, list[float]] = {}
    for run in range(lab.runs):
        for server in (_ours(root), peer):
            seconds = _switch_on(server, root / f"{run}-{server.name.split()[0]}", client)
            lab.say(
                f"{server.name}: {BOXES} boxes, the last has its initrd after {seconds[-1]:.1f} s, "
                f"half of them after {seconds[BOXES // 2]:.1f} s"
            )
            taken.setdefault(server.name, []).append(seconds[-1])
    return [
        Figure(
            name=f"{BOXES} boxes switched on together, until the last has {INITRD_SIZE >> 20} MB",
            unit="s",
            ours=tuple(taken["doorstep"]),
            peer=tuple(taken[peer.name]),
            peer_name=peer.name,
        )
    ]


def _ours(root: Path) -> Server:
    return Server(
        name="doorstep",
        command=lambda work, wire: [
            *(sys.executable, "-m", "tests.bench.dhcp_boxes", "serve"),
            *(str(root), str(work / "netboot.db"), wire.near),
        ],
        ready="serving",
    )


def _dnsmasq(root: Path) -> Server:
    plain = dhcp_servers.dnsmasq()
    tftp = ["--enable-tftp", f"--tftp-root={root}", f"--tftp-max={BOXES + 50}"]
    return Server(
        name=plain.name,
        command=lambda work, wire: [*plain.command(work, wire), *tftp],
        ready=plain.ready,
    )


def _switch_on(server: Server, work: Path, client: Path) -> list[float]:
    """Give the seconds after which each box had its file, in order."""
    wire = Wire()
    try:
        with serving(server, wire, work):
            drive = [sys.executable, "-m", "tests.bench.dhcp_boxes", "drive", wire.far, str(client)]
            done = subprocess.run(
                ["ip", "netns", "exec", wire.client, *drive],
                capture_output=True,
                text=True,
                timeout=_GIVE_UP_SECONDS + 30,
            )
    finally:
        wire.close()
    seconds = sorted(float(line) for line in done.stdout.split())
    if len(seconds) != BOXES:
        raise BenchError(f"{server.name}: {len(seconds)} of {BOXES} boxes; {done.stderr[-300:]}")
    return seconds


# The boxes, in a process of their own


class Boxes:
    """All boxes on one interface: until each has its ACK, and then its file."""

    def __init__(self, interface: str, client: str) -> None:
        """Open the wire; nobody is on yet."""
        self._client = client
        self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self._wire.bind((interface, 0x0003))
        chance = random.Random(200)
        self._started = time.monotonic()
        self._due = {
            b"\x02\x0b" + number.to_bytes(4, "big"): chance.uniform(0, SWITCH_ON_SECONDS)
            for number in range(BOXES)
        }
        self._loading: dict[subprocess.Popen[bytes], bytes] = {}

    def run(self) -> None:
        """Print the seconds of each box as it has its file."""
        while (self._due or self._loading) and self._now() < _GIVE_UP_SECONDS:
            for mac, due in self._due.items():
                if due <= self._now():
                    self._due[mac] = self._now() + _AGAIN_SECONDS
                    self._send(mac, MessageType.DISCOVER)
            if select.select([self._wire], [], [], 0.01)[0]:
                self._hear(self._wire.recv(65535))
            for process in [one for one in self._loading if one.poll() is not None]:
                mac = self._loading.pop(process)
                if process.returncode:
                    raise BenchError(f"{mac.hex(':')}: its initrd did not come")
                print(f"{self._now():.3f}", flush=True)

    def _now(self) -> float:
        return time.monotonic() - self._started

    def _hear(self, frame: bytes) -> None:
        if frame[12:14] != b"\x08\x00" or frame[36:38] != b"\0\x44":
            return
        try:
            heard = Message.decode(frame[42:])
        except PeerError:
            return
        mac = heard.chaddr
        if heard.op != BOOTREPLY or mac not in self._due:
            return
        if heard.options.message_type is MessageType.OFFER:
            self._due[mac] = self._now() + _AGAIN_SECONDS
            server = heard.options.address(Code.SERVER_ID) or SERVER
            wanted = (
                (Code.SERVER_ID, server.packed),
                (Code.REQUESTED_ADDRESS, heard.yiaddr.packed),
            )
            self._send(mac, MessageType.REQUEST, *wanted)
        elif heard.options.message_type is MessageType.ACK:
            del self._due[mac]
            command = [self._client, str(SERVER), "69", INITRD, "1468", "4", "1", "1"]
            self._loading[subprocess.Popen(command, stdout=subprocess.DEVNULL)] = mac

    def _send(self, mac: bytes, kind: MessageType, *extra: tuple[int, bytes]) -> None:
        items = ((Code.MESSAGE_TYPE, bytes((kind,))), *extra)
        message = Message(op=BOOTREQUEST, xid=7, chaddr=mac, options=Options(items=items))
        self._wire.send(
            udp_frame(
                macs=(mac, BROADCAST_MAC),
                addresses=(_NOWHERE, _EVERYBODY),
                ports=(68, 67),
                payload=message.encode(),
            )
        )


def serve(root: Path, database: Path, interface: str) -> None:
    """Be our server: DHCP and TFTP, a thread each, as in the netboot process."""
    data = (root / INITRD).read_bytes()
    tftp = TftpRunner(FileStore(root), lambda events: None)
    tftp.replace(FileMap({f"/{INITRD}": hashlib.sha256(data).digest()}), [SERVER], 1500)

    def serve_files() -> None:
        while True:
            tftp.turn(0.5)

    threading.Thread(target=serve_files, daemon=True).start()
    dhcp_servers.serve(database, interface)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    else:
        Boxes(sys.argv[2], sys.argv[3]).run()
