"""Shared by the DHCP tests: a plan, packets as clients send them, and a server process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from netboot.bootchoice import BootTable, rules_of_set
from netboot.dhcp import Arrival, DhcpConfig, DhcpEngine, Outcome
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType, Options
from netboot.io.dhcp import DhcpRunner
from netboot.io.leases import NetbootStore
from netboot.leases import Lease
from netboot.network import Pool, Reservation, SubnetPlan

NOW = 1_800_000_000.0
ADDRESS = IPv4Address
PXE_LIST = bytes((1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 43, 54, 60, 67, 128, 129))
UBOOT_LIST = bytes((1, 3, 6, 12, 13, 17))
OURS_RELAY = ("10.41.7.2", 67)
BOOT = BootTable(rules=rules_of_set("amd64", "shimx64.efi", bytes(32)))
RESERVED_MAC = bytes.fromhex("020000000011")


def subnet(**changes: object) -> SubnetPlan:
    values: dict[str, object] = {
        "name": "tills",
        "interface": "eth1",
        "network": IPv4Network("10.41.7.0/24"),
        "appliance": ADDRESS("10.41.7.2"),
        "gateway": ADDRESS("10.41.7.1"),
        "pools": (Pool(first=ADDRESS("10.41.7.100"), last=ADDRESS("10.41.7.109")),),
        "lease": timedelta(hours=12),
        "dhcp": "server",
        "boot": True,
    }
    return SubnetPlan(**(values | changes))  # type: ignore[arg-type]


RESERVED = Reservation(mac=RESERVED_MAC, address=ADDRESS("10.41.7.11"), name="printer-1")


def config(*subnets: SubnetPlan, **changes: object) -> DhcpConfig:
    values: dict[str, object] = {
        "subnets": subnets or (subnet(),),
        "reservations": (RESERVED,),
        "boot": BOOT,
        "domain": "shop.example.net",
    }
    return DhcpConfig(**(values | changes))  # type: ignore[arg-type]


def mac(number: int) -> bytes:
    return b"\x02\x01" + number.to_bytes(4, "big")


def message(kind: MessageType, client: bytes, *extra: tuple[int, bytes], **header: object) -> bytes:
    items = ((Code.MESSAGE_TYPE, bytes((kind,))), *extra)
    values: dict[str, object] = {"op": 1, "xid": 7, "chaddr": client}
    return Message(**(values | header), options=Options(items=items)).encode()  # type: ignore[arg-type]


def pxe(arch: int = 7, wanted: bytes = PXE_LIST) -> tuple[tuple[int, bytes], ...]:
    return (
        (Code.PARAMETER_LIST, wanted),
        (Code.MAX_SIZE, (1472).to_bytes(2, "big")),
        (Code.CLIENT_UUID, b"\0" + bytes(range(16))),
        (Code.ARCHITECTURE, arch.to_bytes(2, "big")),
        (Code.VENDOR_CLASS, b"PXEClient:Arch:%05d:UNDI:003000" % arch),
    )


def http_client(arch: int = 16) -> tuple[tuple[int, bytes], ...]:
    return (
        (Code.PARAMETER_LIST, bytes((1, 3, 6, 12, 15, 43, 60, 67))),
        (Code.ARCHITECTURE, arch.to_bytes(2, "big")),
        (Code.VENDOR_CLASS, b"HTTPClient:Arch:%05d:UNDI:003001" % arch),
    )


class Server:
    """An engine with a clock that the test moves."""

    def __init__(self, plan: DhcpConfig | None = None, leases: tuple[Lease, ...] = ()) -> None:
        self.engine = DhcpEngine(plan or config(), leases)
        self.now = NOW

    def send(self, data: bytes, interface: str = "eth1") -> Outcome:
        arrival = Arrival(interface=interface, source=IPv4Address(0))
        return self.engine.receive(data, arrival, self.now)

    def ask(self, data: bytes, interface: str = "eth1") -> Message:
        (reply,) = self.send(data, interface).sends
        return Message.decode(reply.data)

    def discover(self, client: bytes, *extra: tuple[int, bytes], **header: object) -> Message:
        return self.ask(message(MessageType.DISCOVER, client, *extra, **header))

    def select(self, client: bytes, address: IPv4Address, *extra: tuple[int, bytes]) -> Message:
        return self.ask(selecting(client, address, *extra))

    def bound(self, client: bytes) -> IPv4Address:
        offer = self.discover(client)
        ack = self.select(client, offer.yiaddr)
        assert ack.options.message_type is MessageType.ACK
        return ack.yiaddr


def selecting(
    client: bytes,
    address: IPv4Address,
    *extra: tuple[int, bytes],
    server: str = "10.41.7.2",
    **header: object,
) -> bytes:
    return message(
        MessageType.REQUEST,
        client,
        (Code.SERVER_ID, ADDRESS(server).packed),
        (Code.REQUESTED_ADDRESS, address.packed),
        *extra,
        **header,
    )


def serve(database: str, interface: str) -> None:
    """Run the server on one interface until killed: the loop that a service has."""
    plan = config(
        subnet(
            interface=interface,
            pools=(Pool(first=ADDRESS("10.41.7.20"), last=ADDRESS("10.41.7.250")),),
            lease=timedelta(minutes=2),
        ),
        boot=BOOT,
    )
    store = NetbootStore(Path(database))
    engine = DhcpEngine(plan, store.load_leases())
    runner = DhcpRunner(engine, store, plan)
    print("serving", flush=True)
    while True:
        runner.turn(0.5)


def start_server(namespace: str, database: Path, interface: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, __file__, str(database), interface],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        },
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "serving\n"
    return process


def end_by_pid_file(path: Path, seconds: float = 20) -> None:
    """End a dhclient that stayed behind: it writes its number after who started it has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and (number := path.read_text().strip()):
            os.kill(int(number), signal.SIGTERM)
            return
        time.sleep(0.02)
    raise AssertionError(f"{path}: no process wrote its number")


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
