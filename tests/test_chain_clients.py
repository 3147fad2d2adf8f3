"""DHCP clients of operating systems one after the other on one machine, each its own client-id.

D14 beyond firmware: whatever an installer and the system after it send, the machine keeps one
address. Each client alone is in `test_dhcp_net`, TFTP and HTTP clients in `test_tftp_net` and
`test_http_boot`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bootstrap.rehearsal.lan import Lan, inside
from tests.chain_lab import FIRST, US, serving, until

pytestmark = [pytest.mark.boots, pytest.mark.timeout(120)]

END = Lan.APPLIANCE_INTERFACE


def tool(name: str) -> str:
    return shutil.which(name) or f"/usr/sbin/{name}"


def dhclient(directory: Path) -> str:
    """ISC's, which calls itself by a text of the administrator's."""
    settings = directory / "dhclient.conf"
    settings.write_text('send dhcp-client-identifier "till-17";\n')
    files = f"-cf {settings} -lf {directory}/leases -pf {directory}/pid"
    return f"exec {tool('dhclient')} -4 -v -1 -d {files} -sf /bin/true {END}"


def dhcpcd(directory: Path) -> str:
    """dhcpcd, which calls itself by a DUID and an IAID (RFC 4361)."""
    settings, state = directory / "dhcpcd.conf", directory / "dhcpcd"
    settings.write_text("duid\nnoipv6\nnoipv4ll\nnoarp\n")
    state.mkdir()
    own = f"mkdir -p /var/lib/dhcpcd /run/dhcpcd && mount --bind {state} /var/lib/dhcpcd"
    return f"{own} && mount -t tmpfs none /run/dhcpcd && exec {tool('dhcpcd')} " + (
        f"-4 -B -d -f {settings} -c /bin/true {END}"
    )


def udhcpc(directory: Path) -> str:
    """busybox's, which calls itself by its MAC."""
    return f"exec {tool('udhcpc')} -f -i {END} -s /bin/true"


CLIENTS: tuple[tuple[Callable[[Path], str], str], ...] = (
    (udhcpc, r"lease of (\S+) obtained"),
    (dhclient, r"bound to (\S+) "),
    (dhcpcd, r"leased (\S+) for"),
    (udhcpc, r"lease of (\S+) obtained"),
)


def run(namespace: str, directory: Path, command: str, lease: str) -> str:
    """Run a client until it says that it has a lease; give the address, and end the client."""
    log = directory / "log"
    words = inside(namespace, ["unshare", "--mount", "sh", "-c", command])
    with log.open("w") as out, subprocess.Popen(words, stdout=out, stderr=out) as client:
        try:
            until(lambda: re.search(lease, log.read_text()) is not None, log.read_text)
        finally:
            client.terminate()
    found = re.search(lease, log.read_text())
    assert found is not None
    return found[1]


def test_d14_systems_one_after_the_other_keep_one_address(tmp_path: Path) -> None:
    with Lan(US) as lan, serving(lan, {}, ()) as served:
        machine, given = lan.add_station(), []
        for number, (client, lease) in enumerate(CLIENTS):
            directory = tmp_path / str(number)
            directory.mkdir()
            given.append(run(machine, directory, client(directory), lease))
        assert given == [str(FIRST)] * len(CLIENTS)
        (held,) = served.ask("leases")["leases"]
        assert held["address"] == str(FIRST)
