"""ProxyDHCP with TFTP and HTTP boot files, alone, for tests beside a foreign DHCP server.

`serve_proxy` is the function; run as a program in the namespace where INTERFACE is it takes
INTERFACE ADDRESS/LENGTH DIRECTORY LOADER. Every file of DIRECTORY is served by its path.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import threading
from collections.abc import Iterable
from datetime import timedelta
from ipaddress import IPv4Interface
from pathlib import Path

from netboot.bootchoice import BootTable, rules_of_set
from netboot.dhcp_config import DhcpConfig
from netboot.events import Event
from netboot.files import Assignments, FileMap, ServedSet
from netboot.io.files import FileStore
from netboot.io.http import HttpRunner
from netboot.io.proxy import ProxyRunner
from netboot.io.tftp import TftpRunner
from netboot.io.workers import line
from netboot.network import SubnetPlan

BOOT_SET = bytes(range(32))


def proxy_config(interface: str, appliance: IPv4Interface, loader: str) -> DhcpConfig:
    """Give a configuration with one subnet in mode "proxy" that boots `loader` on amd64."""
    subnet = SubnetPlan(
        name="beside",
        interface=interface,
        network=appliance.network,
        appliance=appliance.ip,
        gateway=None,
        pools=(),
        lease=timedelta(hours=1),
        dhcp="proxy",
        boot=True,
    )
    table = BootTable(rules=rules_of_set("amd64", loader, BOOT_SET))
    return DhcpConfig(subnets=(subnet,), reservations=(), boot=table, domain="example.net")


def tell(events: Iterable[Event]) -> None:
    """Print events as the journal has them."""
    for event in events:
        fields = {"kind": event.kind, "reason": event.reason, "detail": dict(event.detail)}
        mac = None if event.mac is None else event.mac.hex(":")
        address = None if event.address is None else str(event.address)
        print(line({**fields, "mac": mac, "address": address}), flush=True)


def serve_proxy(
    interface: str, appliance: IPv4Interface, directory: Path, loader: str, store: Path
) -> None:
    """Serve for ever; `store` is an empty directory for the files by their digests."""
    names = {}
    for path in directory.rglob("*"):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes())
            (store / digest.hexdigest()).write_bytes(path.read_bytes())
            names[f"/{path.relative_to(directory)}"] = digest.digest()
    served = ServedSet(
        boot_set=BOOT_SET, architecture="amd64", loader=f"/{loader.lstrip('/')}", names=names
    )
    files, assignments = FileMap(sets=[served]), Assignments()
    tftp = TftpRunner(FileStore(store), tell, assignments=assignments)
    tftp.replace(files, [appliance.ip], 1500)
    http = HttpRunner(FileStore(store), tell, assignments=assignments)
    http.replace(files, [appliance.ip])
    proxy = ProxyRunner(tell, assignments.assign)
    proxy.replace(proxy_config(interface, appliance, loader))
    for runner in (tftp, http):
        threading.Thread(target=_turn, args=(runner,), daemon=True).start()
    print("serving", flush=True)
    _turn(proxy)


def _turn(runner: TftpRunner | HttpRunner | ProxyRunner) -> None:
    while True:
        runner.turn(0.5)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="doorstep-proxy-") as name:
        serve_proxy(
            sys.argv[1], IPv4Interface(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], Path(name)
        )
