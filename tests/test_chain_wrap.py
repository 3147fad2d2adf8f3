"""A secret of tier `box` on a real boot: wrapped at headquarters, opened in the TPM of one machine.

Firmware with Secure Boot and a TPM, our shim, GRUB, Linux and the agent; the value is looked for in
everything that the appliance has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootstrap.io import site_dir
from bootstrap.rehearsal.appliance import Appliance
from bootstrap.rehearsal.box import Boot as Way
from bootstrap.rehearsal.box import TpmCa, VirtualBox
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.place import DEMO
from bootstrap.rehearsal.run import Rehearsal
from bootstrap.site import SITE_FILE
from keys.envelope import b64u
from netboot.bootset import AMD64
from tests.chain_lab import public_directory
from tests.test_chain_enrol import enrol, publish

pytestmark = [pytest.mark.boots, pytest.mark.timeout(900)]

NAME, SERIAL = "disk-key", "WRAP-1"
SECRET = f'\n[[secret]]\nname = "{NAME}"\ntier = "box"\nttl = "1d"\n'


def write_site(directory: Path) -> Path:
    """Make a site whose boxes have one secret of each kind."""
    site_dir.init(directory, DEMO)
    path = directory / SITE_FILE
    text = path.read_text()
    assert text.count('["pos-api-token"]') == 1
    path.write_text(text.replace('["pos-api-token"]', f'["pos-api-token", "{NAME}"]') + SECRET)
    return directory


@contextmanager
def started(work: Path) -> Iterator[tuple[Rehearsal, VirtualBox, Lan, Appliance]]:
    rehearsal = Rehearsal(work, write_site(work / "source"), print)
    box = VirtualBox(
        work / "box",
        mac="52:54:00:d0:07:01",
        tpm_ca=TpmCa(work / "tpm-ca"),
        serial_number=SERIAL,
    )
    rehearsal.boxes[:] = [box]
    rehearsal.prepare_boxes()
    publish(rehearsal, AMD64)
    with rehearsal.started() as (lan, appliance):
        try:
            yield rehearsal, box, lan, appliance
        finally:
            box.stop()


def test_a_wrapped_secret_opens_in_the_tpm_of_the_box_and_nowhere_else() -> None:
    with public_directory() as work, started(work) as (rehearsal, box, lan, appliance):
        value = rehearsal.wrapped[SERIAL][NAME]
        end = enrol(box, Way.PXE, lan, appliance)
        # ready: the site compared the proofs of both secrets with its own
        assert end["kind"] == "ready", f"{end['sentence']}: {end['detail']}"
        console = box.console.decode(errors="replace")
        assert f"secret {NAME} sha256-keyed " in console
        assert "was withheld" not in console
        assert set(end["detail"]["secrets"]) == {"pos-api-token", NAME}
        row = appliance.ask("control", "box", {"box": end["box"]})["box"]
        assert (row["stage"], row["withheld"]) == ("ready", [])
        forms = (value, b64u(value).encode(), value.hex().encode())
        places = (rehearsal.place.layout.site, rehearsal.place.layout.state)
        files = [path for place in places for path in place.rglob("*") if path.is_file()]
        assert any(path.name == "keys.db-wal" for path in files)
        shown = json.dumps([appliance.ask("keys", one) for one in ("events", "secret_list")])
        everything = [path.read_bytes() for path in (*files, appliance.log)]
        everything += [box.console, shown.encode()]
        assert not any(form in one for one in everything for form in forms)
