"""Real firmware meets the netboot process: UEFI by PXE and by HTTP, shim and GRUB, Secure Boot."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from bootstrap.rehearsal.box import Boot as Way
from bootstrap.rehearsal.box import Network, VirtualBox
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.view import command_that_sees
from keys.io.rpc import RpcUnavailableError, call
from netboot.files import ServedSet
from netboot.network import Pool, Reservation, SubnetPlan
from netboot.plan import Boot, Plan
from netboot.plan_check import check

pytestmark = [pytest.mark.boots, pytest.mark.timeout(400)]

UID = 61001
USERS = (
    "netboot=61001,enroll=61002,control=61003,keys=61004,page=61005,nginx=61006,watch=61007,"
    "sync=61008"
)
ROOT = Path(__file__).parent.parent
US = IPv4Interface("10.78.0.1/24")
MAC = "52:54:00:d0:00:78"
MARKER = b"doorstep-has-read-this"
FILES = {
    "/shimx64.efi": Path("/usr/lib/shim/shimx64.efi.signed").read_bytes(),
    "/grubx64.efi": Path("/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed").read_bytes(),
    "/grub/grub.cfg": b"echo " + MARKER + b"\ncat /f/0011223344556677/text\nsleep 1\nhalt\n",
    "/f/0011223344556677/text": b"as-does-a-second-file\n",
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


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan(US) as made:
        yield made


@pytest.fixture
def base() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="netboot-"))  # pytest's own is closed to other users
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def site(base: Path, lan: Lan) -> Iterator[Path]:
    """The process with its plan, DHCP serving; gives the path of its socket."""
    for name in ("state/netboot", "state/plan", "state/bootsets/files", "run/netboot"):
        (base / name).mkdir(parents=True)
    for name in ("state/netboot", "run/netboot"):
        os.chown(base / name, UID, UID)
    for data in FILES.values():
        name = hashlib.sha256(data).hexdigest()
        (base / "state/bootsets/files" / name).write_bytes(data)
    made = plan(lan)
    assert check(made) == ()
    (base / "state/plan/plan.json").write_bytes(made.encode())
    drop = "-all,+net_bind_service,+net_raw"
    words = f"setpriv --reuid {UID} --regid {UID} --clear-groups --inh-caps {drop}"
    words += f" --ambient-caps {drop} --bounding-set {drop} --no-new-privs"
    program = [*words.split(), sys.executable, "-c", RUN, str(base), USERS]
    command = lan.appliance_command(command_that_sees([base], program))
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    with subprocess.Popen(command, env=environment, cwd="/") as process:
        path = base / "run/netboot/socket"
        try:
            until(lambda: ask(path, "status").get("services", {}).get("dhcp") == "serving")
            yield path
        finally:
            process.terminate()


def plan(lan: Lan) -> Plan:
    address = IPv4Address("10.78.0.20")
    return Plan(
        number=1,
        site="shop",
        domain="shop.example.net",
        subnets=(
            SubnetPlan(
                name="boxes",
                interface=lan.appliance_interface,
                network=US.network,
                appliance=US.ip,
                gateway=None,
                pools=(Pool(first=IPv4Address("10.78.0.100"), last=IPv4Address("10.78.0.120")),),
                lease=timedelta(hours=1),
                dhcp="server",
                boot=True,
            ),
        ),
        reservations=(
            Reservation(mac=bytes.fromhex(MAC.replace(":", "")), address=address, name="pos-01"),
        ),
        boot=Boot(
            sets=(
                ServedSet(
                    boot_set=bytes(32),
                    architecture="amd64",
                    loader="shimx64.efi",
                    names={path: hashlib.sha256(data).digest() for path, data in FILES.items()},
                ),
            )
        ),
    )


def ask(path: Path, method: str, **params: object) -> dict:
    try:
        return call(path, method, params, timeout=5)
    except RpcUnavailableError:
        return {}


def until(what) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def sent(path: Path) -> set[tuple[str, str]]:
    """The files that the box of the lease got as a whole, with the transport."""
    events = ask(path, "events", after=0)["events"]
    return {
        (event["detail"]["transport"], event["detail"]["name"])
        for event in events
        if event["kind"] == "boot-file" and event["mac"] == MAC and event["detail"]["done"]
    }


def test_firmware_boots_by_pxe(site: Path, lan: Lan, tmp_path: Path) -> None:
    with VirtualBox(tmp_path / "box", mac=MAC) as box:
        box.start(Way.PXE, network=Network(namespace=lan.box_namespace, tap=lan.add_tap()))
        box.wait_for(MARKER, 120)
        box.wait_for(b"as-does-a-second-file", 20)
    until(lambda: {("tftp", path) for path in FILES} <= sent(site))
    (lease,) = ask(site, "leases")["leases"]
    assert (lease["address"], lease["mac"], lease["name"]) == ("10.78.0.20", MAC, "pos-01")


def test_firmware_boots_by_http(site: Path, lan: Lan, tmp_path: Path) -> None:
    with VirtualBox(tmp_path / "box", mac=MAC) as box:
        box.start(Way.HTTP, network=Network(namespace=lan.box_namespace, tap=lan.add_tap()))
        until_sent = {("http", "/shimx64.efi"), ("http", "/grubx64.efi")}
        end = time.monotonic() + 120
        while not until_sent <= sent(site):
            assert time.monotonic() < end, (sent(site), box.console[-800:])
            time.sleep(0.5)
