"""What a rehearsal's attacker changes is what it says, and Linux would still unpack it."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from bootstrap.errors import SiteError
from bootstrap.rehearsal.attacks import captured_bundle, changed_release, other_anchor
from netboot.bootset import BootFile, BootSetManifest, Role, anchor_cpio
from netboot.io.bootsets import BootSetStore

PEM = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


def anchor(release: str) -> bytes:
    return anchor_cpio(
        site_root_pem=PEM, site_id="shop-0417", server_name="appliance.x", release=release
    )


def put(store: BootSetStore, release: str, data: bytes | None = None) -> BootSetManifest:
    file = store.add_file(anchor(release) if data is None else data, "anchor.img")
    roles = {role: BootFile(name="f", sha256=bytes(32), size=1) for role in Role}
    return BootSetManifest(
        name="e", version=1, created=0, release=release, roles=roles | {Role.ANCHOR: file}
    )


def entries(cpio: bytes) -> dict[str, bytes]:
    """Read a newc archive and check each sum as Linux does: of the bytes, 32 bits (initramfs.c)."""
    found, at = {}, 0
    while True:
        assert cpio[at : at + 6] == b"070702"
        fields = [int(cpio[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, length, check = fields[6], fields[11], fields[12]
        name = cpio[at + 110 : at + 110 + length - 1].decode()
        start = at + (110 + length + 3) // 4 * 4
        data = cpio[start : start + size]
        if name == "TRAILER!!!":
            return found
        if fields[1] & 0o170000 == 0o100000:
            assert check == sum(data) & 0xFFFFFFFF, name
        found[name] = data
        at = (start + size + 3) // 4 * 4


def test_the_reader_itself_finds_a_wrong_sum() -> None:
    data = anchor("Debian 13")
    with pytest.raises(AssertionError):
        entries(data.replace(b"Debian 13\n", b"Debian 14\n"))


@pytest.mark.parametrize("release", ["Debian 13", "test 1", "0", "a", "release", "shop-0417"])
def test_a_changed_release_keeps_the_sum_right(tmp_path: Path, release: str) -> None:
    store = BootSetStore(tmp_path)
    manifest = put(store, release)
    data = anchor(release)
    (swap,) = changed_release(store, manifest)
    assert data.count(swap.old) == 1
    forged = data.replace(swap.old, swap.new)
    assert len(forged) == len(data)
    before, after = entries(data), entries(forged)
    assert {name for name in before if before[name] != after[name]} == {"doorstep/anchor/release"}
    assert after["doorstep/anchor/release"] != release.encode() + b"\n"


def test_linux_tools_unpack_the_forged_anchor(tmp_path: Path) -> None:
    store = BootSetStore(tmp_path / "store")
    (swap,) = changed_release(store, put(store, "Debian 13"))
    forged = anchor("Debian 13").replace(swap.old, swap.new)
    subprocess.run(
        ["cpio", "-i", "-d", "--no-absolute-filenames", "--quiet"],
        input=forged,
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / "doorstep/anchor/release").read_bytes() == b"Debian 12\n"


def test_an_anchor_without_a_release(tmp_path: Path) -> None:
    store = BootSetStore(tmp_path)
    with pytest.raises(SiteError, match="no doorstep/anchor/release"):
        changed_release(store, put(store, "x", b"nothing"))
    manifest = put(store, "Debian 13", anchor("Debian 99"))
    with pytest.raises(SiteError, match="no release text"):
        changed_release(store, manifest)


def test_an_older_anchor_in_place_of_the_served_one(tmp_path: Path) -> None:
    store = BootSetStore(tmp_path)
    new, old = put(store, "Debian 13"), put(store, "Debian 12")
    to_box, to_site = other_anchor(store, new, old)
    data = anchor("Debian 13")
    for swap in to_box:
        data = data.replace(swap.old, swap.new)
    assert data == anchor("Debian 12")
    paths = {
        role: manifest.roles[Role.ANCHOR].path.encode()
        for role, manifest in (("new", new), ("old", old))
    }
    assert (to_box[0].old, to_box[0].new) == (paths["new"], paths["old"])
    assert [(swap.old, swap.new) for swap in to_site] == [(paths["old"], paths["new"])]


def test_a_captured_bundle() -> None:
    payload = json.dumps({"status": "enrolled", "bundle": {"nonce": "AA"}}).encode()
    text = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
    assert captured_bundle(json.dumps({"answer": text})) == {"nonce": "AA"}
