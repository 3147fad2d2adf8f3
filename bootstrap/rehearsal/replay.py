"""The last attack of a rehearsal: the box itself, one boot later, with its captured bundle.

The attacker owns the network the box starts from and lays a program of their own over the enrolment
initrd; the site is not even asked. The TPM is the only one left that can refuse.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from ipaddress import IPv4Interface
from pathlib import Path

from bootstrap.errors import SiteError
from bootstrap.rehearsal.attacks import captured_bundle
from bootstrap.rehearsal.box import Boot, Network, VirtualBox
from bootstrap.rehearsal.lan import Lan
from bootstrap.rehearsal.place import Place
from bootstrap.rehearsal.serve import BootServer, measuring_plan, measuring_subnet
from netboot.bootset import BootSetManifest, Role, files_to_serve, grub_cfg
from netboot.cpio import encode_cpio, file_entry, with_parents

OVERLAY_PATH = "/f/overlay/overlay.img"
SECONDS = 180.0
_SAID = re.compile(rb"DOORSTEP-REPLAY ([A-Z-]+): ([^\r\n]+)")


def replay_bundle(
    work: Path, place: Place, box: VirtualBox, box_id: str, manifest: BootSetManifest
) -> tuple[str, str]:
    """Boot an enrolled box into the attacker's program; return what its TPM answered.

    The answer is a code of the agent and a sentence; `work` is an empty directory.
    """
    bundle = captured_bundle(_stored_answer(place, box_id))
    program = Path(__file__).with_name("replay_init.py").read_bytes()
    overlay = encode_cpio(
        with_parents(
            [
                file_entry("init", program, executable=True),
                file_entry("doorstep/captured.json", json.dumps(dict(bundle)).encode()),
            ]
        )
    )
    store, subnet = place.bootsets, measuring_subnet(place.site)
    address = IPv4Interface((subnet.appliance, subnet.network.prefixlen))
    config = grub_cfg(manifest, address.ip)
    anchor = manifest.roles[Role.ANCHOR].path.encode()
    forged = config.replace(anchor, anchor + b" " + _root(config, anchor) + OVERLAY_PATH.encode())
    names = dict(files_to_serve(manifest, (), address.ip))
    for path, data in ((OVERLAY_PATH, overlay), ("/grub/grub.cfg", forged)):
        store.add_file(data, path.rpartition("/")[2])
        names[path] = hashlib.sha256(data).digest()
    plan = measuring_plan(place.site, manifest, names)
    with (
        Lan(address, subnet.interface) as lan,
        BootServer(work, plan, store.directory, lan),
    ):
        box.start(Boot.PXE, network=Network(namespace=lan.box_namespace, tap=lan.add_tap()))
        console = box.wait_off(SECONDS)
    said = _SAID.search(console)
    if said is None:
        raise SiteError(f"the attacker's program said nothing: {console[-800:].decode('latin-1')}")
    return said[1].decode(), said[2].decode(errors="replace")


def _root(config: bytes, path: bytes) -> bytes:
    """Give what stands before a path in grub.cfg (a device name, or nothing)."""
    word = next(word for word in config.split() if word.endswith(path))
    return word[: -len(path)]


def _stored_answer(place: Place, box_id: str) -> str:
    """Take the answer that the box got, as if it had been recorded on the box."""
    path = place.layout.state / "site" / "site.db"
    with sqlite3.connect(path) as database:
        row = database.execute(
            "SELECT answer FROM sessions WHERE box=? AND digests <> 'null' ORDER BY at DESC",
            (box_id,),
        ).fetchone()
    if row is None:
        raise SiteError("the first box has no hand-over to replay")
    return str(row[0])
