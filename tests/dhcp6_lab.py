"""Shared by the DHCPv6 tests: a plan, packets as clients send them, a server process, a wire."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from netboot.bootchoice import BootRule, BootTable, Loading
from netboot.dhcp6 import Dhcp6Engine
from netboot.dhcp6_config import Dhcp6Config
from netboot.dhcp6_message import Kind6, Message6, Packet6
from netboot.dhcp6_options import Association, Code6, Lent, Options6, VendorClass
from netboot.dhcp6_outcome import Outcome6
from netboot.dhcp6_reply import Arrival6
from netboot.files import FileMap
from netboot.io.dhcp6 import Dhcp6Runner
from netboot.io.files import FileStore
from netboot.io.http import HttpRunner
from netboot.io.leases import NetbootStore
from netboot.io.tftp import TftpRunner
from netboot.io.workers import Recorder
from netboot.leases6 import Lease6
from netboot.network import ClientKind, Match, Subnet6Plan

NOW = 1_800_000_000.0
US = IPv6Address("fd00:41:7::2")
FIRST, LAST = IPv6Address("fd00:41:7::1000"), IPv6Address("fd00:41:7::1fff")
SERVER_DUID = b"\0\4" + bytes(range(16, 32))
LINK_LOCAL = IPv6Address("fe80::1:ff:fe00:1")
LOADER = "shimx64.efi"
UEFI, UEFI_HTTP = 7, 16
BOOT = BootTable(
    rules=(
        BootRule(
            match=Match(architectures=frozenset({UEFI})),
            file=LOADER,
            loading=Loading.TFTP,
            boot_set=bytes(32),
        ),
        BootRule(
            match=Match(architectures=frozenset({UEFI_HTTP})),
            file=LOADER,
            loading=Loading.HTTP,
            boot_set=bytes(32),
        ),
    )
)

IPXE = BootTable(
    rules=(
        BootRule(
            match=Match(kinds=frozenset({ClientKind.IPXE})),
            file="/boot.ipxe",
            loading=Loading.HTTP,
        ),
        BootRule(
            match=Match(architectures=frozenset({UEFI})), file="ipxe.efi", loading=Loading.TFTP
        ),
    )
)


def subnet6(**changes: object) -> Subnet6Plan:
    values: dict[str, object] = {
        "name": "tills",
        "interface": "eth1",
        "network": IPv6Network("fd00:41:7::/64"),
        "appliance": US,
        "pools": ((FIRST, LAST),),
        "lease": timedelta(hours=12),
        "dhcp": "stateful",
        "boot": True,
    }
    return Subnet6Plan(**(values | changes))  # type: ignore[arg-type]


def config6(*subnets: Subnet6Plan, **changes: object) -> Dhcp6Config:
    values: dict[str, object] = {
        "subnets": subnets or (subnet6(),),
        "boot": BOOT,
        "domain": "shop.example.net",
    }
    return Dhcp6Config(**(values | changes))  # type: ignore[arg-type]


def mac(number: int) -> bytes:
    return b"\x02\x01" + number.to_bytes(4, "big")


def link_local(client: bytes) -> IPv6Address:
    eui = bytes((client[0] ^ 2,)) + client[1:3] + b"\xff\xfe" + client[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + eui)


def duid_ll(client: bytes) -> bytes:
    return b"\0\3\0\1" + client


def duid_llt(client: bytes, at: int = 7) -> bytes:
    return b"\0\1\0\1" + at.to_bytes(4, "big") + client


def duid_of_uuid(number: int) -> bytes:
    return b"\0\4" + number.to_bytes(16, "big")


def ia(iaid: int = 1, *addresses: IPv6Address) -> tuple[int, bytes]:
    lent = tuple(Lent(address=one, preferred=0, valid=0) for one in addresses)
    return Code6.IA_NA, Association(iaid=iaid, addresses=lent).encode()


def oro(*codes: int) -> tuple[int, bytes]:
    return Code6.OPTION_REQUEST, b"".join(code.to_bytes(2, "big") for code in codes)


def firmware(arch: int = UEFI, name: bytes = b"PXEClient") -> tuple[tuple[int, bytes], ...]:
    """The options that UEFI firmware sends beside its identity and its IA."""
    text = name + b":Arch:%05d:UNDI:003001" % arch
    return (
        oro(59, 60, 23, 16),
        (Code6.NETWORK_INTERFACE, bytes((1, 3, 16))),
        (Code6.ARCHITECTURE, arch.to_bytes(2, "big")),
        (Code6.VENDOR_CLASS, VendorClass(enterprise=343, classes=(text,)).encode()),
    )


def message6(
    kind: Kind6,
    duid: bytes | None,
    *extra: tuple[int, bytes],
    server: bytes | None = None,
    transaction: int = 7,
) -> bytes:
    items = [] if duid is None else [(int(Code6.CLIENT_ID), duid)]
    if server is not None:
        items.append((Code6.SERVER_ID, server))
    options = Options6(items=(*items, *extra))
    return Message6(kind=kind, transaction=transaction, options=options).encode()


class Server6:
    """An engine with a clock that the test moves."""

    def __init__(self, plan: Dhcp6Config | None = None, leases: tuple[Lease6, ...] = ()) -> None:
        self.engine = Dhcp6Engine(plan or config6(), leases, SERVER_DUID)
        self.now = NOW

    def send(self, data: bytes, source: IPv6Address = LINK_LOCAL, **arrival: object) -> Outcome6:
        values = {"interface": "eth1", "source": source} | arrival
        return self.engine.receive(data, Arrival6(**values), self.now)  # type: ignore[arg-type]

    def ask(self, data: bytes, source: IPv6Address = LINK_LOCAL, **arrival: object) -> Message6:
        (reply,) = self.send(data, source, **arrival).sends
        return Packet6.decode(reply.data).message

    def solicit(
        self, duid: bytes, *extra: tuple[int, bytes], source: IPv6Address = LINK_LOCAL
    ) -> Message6:
        return self.ask(message6(Kind6.SOLICIT, duid, *(extra or (ia(),))), source)

    def request(
        self, duid: bytes, *extra: tuple[int, bytes], source: IPv6Address = LINK_LOCAL
    ) -> Message6:
        asked = message6(Kind6.REQUEST, duid, *(extra or (ia(),)), server=SERVER_DUID)
        return self.ask(asked, source)

    def bound(self, duid: bytes, iaid: int = 1, source: IPv6Address = LINK_LOCAL) -> IPv6Address:
        (lent,) = given(self.request(duid, ia(iaid), source=source))
        return lent.address


def given(reply: Message6) -> tuple[Lent, ...]:
    """The addresses of a reply that may be used."""
    return tuple(
        lent
        for association in reply.options.associations
        for lent in association.addresses
        if lent.valid
    )


def served(config: Dhcp6Config, database: Path, files: Mapping[str, Path]) -> None:
    """Serve DHCPv6, advertisements, TFTP and HTTP until killed: the threads that a service has."""
    store = NetbootStore(database)
    recorder = Recorder(store)
    recorder.start()
    service = Dhcp6Runner(store)
    service.replace(config)
    turns: list[Callable[[float], None]] = [service.turn]
    if files:
        directory = Path(tempfile.mkdtemp(dir=database.parent))
        names = {}
        for path, source in files.items():
            digest = hashlib.sha256(source.read_bytes()).digest()
            (directory / digest.hex()).symlink_to(source)
            names[path] = digest
        addresses = [one.appliance for one in config.subnets]
        tftp = TftpRunner(FileStore(directory), recorder.tell)
        http = HttpRunner(FileStore(directory), recorder.tell)
        tftp.replace(FileMap(names), addresses, 1500)
        http.replace(FileMap(names), addresses)
        turns += [tftp.turn, http.turn]
    for turn in turns:
        threading.Thread(target=forever, args=(turn,), daemon=True).start()
    print("serving", flush=True)
    threading.Event().wait()


def forever(turn: Callable[[float], None]) -> None:
    while True:
        turn(0.2)


def main(database: str, interface: str, changes: str, *files: str) -> None:
    """Serve on one interface; `changes` is a Python dict for the subnet, `files` PATH=FILE.

    Its "table" names a boot table of this module: "set" (shim) or "ipxe".
    """
    known = {"IPv6Network": IPv6Network, "IPv6Address": IPv6Address}
    values = {"interface": interface, **eval(changes, known)}  # our own tests' text
    table = {"set": BOOT, "ipxe": IPXE}[str(values.pop("table", "set"))]
    pairs = (one.partition("=") for one in files)
    named = {path: Path(file) for path, _, file in pairs}
    served(config6(subnet6(**values), boot=table), Path(database), named)


@contextmanager
def serving6(
    namespace: str,
    database: Path,
    interface: str,
    changes: str = "{}",
    files: Mapping[str, Path] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run the server in a namespace."""
    root = Path(__file__).parent.parent
    named = [f"{path}={file}" for path, file in (files or {}).items()]
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, __file__]
        + [str(database), interface, changes, *named],
        stdout=subprocess.PIPE,
        stderr=(log := database.with_suffix(".log").open("a")),  # every event is printed
        text=True,
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    log.close()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close() if process.stdout else None


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


def until(happened: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def until_local(namespace: str, end: str) -> None:
    """Wait until an interface has its link-local address."""

    def is_there() -> bool:
        said = run("ip", "-n", namespace, "-6", "address", "show", "dev", end, "scope", "link")
        return "fe80::" in said and "tentative" not in said

    until(is_there)


class Wire6:
    """Two namespaces joined by a veth pair; `srv` has our address, `cli` only its link-local."""

    def __init__(self) -> None:
        tag = f"{os.getpid():x}"
        self.srv, self.cli = f"d6-s{tag}", f"d6-c{tag}"
        self.ends = f"s{tag}", f"c{tag}"
        one, two = self.ends
        for namespace in (self.srv, self.cli):
            run("ip", "netns", "add", namespace)
            for name in ("all", "default"):
                self.sysctl(namespace, f"net.ipv6.conf.{name}.accept_dad=0")
        pair = ("type", "veth", "peer", two, "netns", self.cli)
        run("ip", "link", "add", one, "netns", self.srv, *pair)
        for namespace, end in ((self.srv, one), (self.cli, two)):
            run("ip", "-n", namespace, "link", "set", "lo", "up")
            self.sysctl(namespace, f"net.ipv6.conf.{end}.accept_dad=0")
            run("ip", "-n", namespace, "link", "set", end, "up")
        run("ip", "-n", self.srv, "address", "add", f"{US}/64", "dev", one, "nodad")
        for namespace, end in ((self.srv, one), (self.cli, two)):
            until_local(namespace, end)

    @staticmethod
    def sysctl(namespace: str, setting: str) -> None:
        run("ip", "netns", "exec", namespace, "sysctl", "-qw", setting)

    def inside(self, *command: str, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.cli, *command, check=check)

    def addresses(self) -> list[IPv6Address]:
        """The client's addresses that are not link-local."""
        text = self.inside("ip", "-6", "-o", "address", "show", "dev", self.ends[1])
        words = [line.split() for line in text.splitlines()]
        found = [IPv6Address(line[3].partition("/")[0]) for line in words]
        return [address for address in found if not address.is_link_local]

    def close(self) -> None:
        for namespace in (self.srv, self.cli):
            run("ip", "netns", "delete", namespace, check=False)


def read(database: Path, sql: str) -> list[tuple[Any, ...]]:
    """Read rows beside the running server: it alone may write, and waits for nobody's lock."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def stories(database: Path) -> list[dict[str, Any]]:
    """The events so far."""
    rows = read(database, "SELECT kind, mac, address, detail FROM events ORDER BY n")
    return [
        {"kind": kind, "mac": mac, "address": address, "detail": json.loads(detail)}
        for kind, mac, address, detail in rows
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
