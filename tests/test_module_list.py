"""The list of the initrd's kernel modules: from the kernel's package to the reference values."""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.build.initrd import read_modules
from bootstrap.errors import SiteError
from bootstrap.io.references import iso_facts, known_modules, network_facts
from bootstrap.module_list import MAX_FILE, decode_modules, encode_modules
from netboot.bootset import BootSetManifest, Role, files_to_serve
from netboot.io.bootsets import BootSetStore

DATA = {"virtio_net.ko": b"\x7fELF net", "efivarfs.ko": b"\x7fELF efivarfs"}
LIST = encode_modules(DATA)
NET, MEDIUM = "grubnetx64.efi", "gcdx64.efi"


def test_each_module_has_its_digest_in_every_bank() -> None:
    found = decode_modules(LIST)
    assert found == tuple(
        {
            bank: hashlib.new(bank, DATA[name]).digest()
            for bank in ("sha1", "sha256", "sha384", "sha512")
        }
        for name in ("efivarfs.ko", "virtio_net.ko")
    )
    assert decode_modules(encode_modules({})) == ()
    assert encode_modules(dict(reversed(DATA.items()))) == LIST


def edit(change: Callable[[dict], object]) -> bytes:
    document = json.loads(LIST)
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        LIST + b" " * MAX_FILE,
        edit(lambda d: d.update(type="doorstep/modules/v2")),
        edit(lambda d: d.pop("type")),
        edit(lambda d: d.update(modules=[])),
        edit(lambda d: d["modules"].update(x={})),
        edit(lambda d: d["modules"].update(x=5)),
        edit(lambda d: d["modules"]["efivarfs.ko"].pop("sha384")),
        edit(lambda d: d["modules"]["efivarfs.ko"].update(sm3="00")),
        edit(lambda d: d["modules"]["efivarfs.ko"].update(sha256="00")),
        edit(lambda d: d["modules"]["efivarfs.ko"].update(sha256="x" * 64)),
        edit(lambda d: d["modules"]["efivarfs.ko"].update(sha256=5)),
    ],
)
def test_a_bad_list_is_refused(data: bytes) -> None:
    with pytest.raises(SiteError, match="build the set again"):
        decode_modules(data)


@given(st.binary(max_size=200), st.integers(0, 2000), st.integers(0, 255))
@settings(max_examples=50)
def test_any_bytes_give_a_list_or_our_error(junk: bytes, at: int, value: int) -> None:
    changed = bytearray(LIST)
    changed[at % len(changed)] = value
    for data in (junk, bytes(changed)):
        with contextlib.suppress(SiteError):
            assert len(decode_modules(data)) <= len(DATA)


def make_set(store: BootSetStore, **contents: bytes) -> BootSetManifest:
    wanted = ("shim", "grub", "kernel", "generic", "anchor")
    files = {**{name: name.encode() for name in wanted}, **contents}
    return BootSetManifest(
        name="enrol",
        version=1,
        created=0,
        release="r",
        roles={Role(name): store.add_file(data, f"{name}.x") for name, data in files.items()},
    )


def test_the_list_comes_from_the_signed_set(tmp_path: Path) -> None:
    store = BootSetStore(tmp_path)
    assert known_modules(store, make_set(store, modules=LIST)) == decode_modules(LIST)
    assert known_modules(store, make_set(store)) == ()


def test_reference_values_hold_the_list_however_a_box_boots(tmp_path: Path) -> None:
    grubs = Path("/usr/lib/grub/x86_64-efi-signed")
    net, medium = ((grubs / name).read_bytes() for name in (f"{NET}.signed", f"{MEDIUM}.signed"))
    shim = Path("/usr/lib/shim/shimx64.efi.signed").read_bytes()
    programs = {"shim": shim, "grub": net, "cdgrub": medium, "kernel": medium}
    store = BootSetStore(tmp_path)
    for more, wanted in (({"modules": LIST}, decode_modules(LIST)), ({}, ())):
        manifest = make_set(store, **programs, **more)
        for facts in (
            network_facts(store, manifest, IPv4Address("10.41.7.2")),
            iso_facts(store, manifest),
        ):
            assert facts.modules == wanted


def test_the_list_is_covered_by_the_digest_and_not_served(tmp_path: Path) -> None:
    store = BootSetStore(tmp_path)
    without, with_list = make_set(store), make_set(store, modules=LIST)
    other = make_set(store, modules=encode_modules({}))
    assert len({one.digest for one in (without, with_list, other)}) == 3
    address = IPv4Address("10.41.7.2")
    named = files_to_serve(with_list, (other,), address)
    assert named == files_to_serve(without, (), address)


def package(directory: Path, files: dict[str, bytes]) -> Path:
    root = directory / "root"
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    control = root / "DEBIAN" / "control"
    control.parent.mkdir()
    control.write_text(
        "Package: kernel\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.net>\n"
        "Description: x\n"
    )
    made = directory / "kernel.deb"
    done = subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", str(root), str(made)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return made


def test_modules_are_listed_as_they_lie_in_the_initrd(tmp_path: Path) -> None:
    def module(*needed: str) -> bytes:
        return b"\x7fELF\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0name=x\0"

    files = {"virtio_net": ("failover",), "failover": (), "efivarfs": (), "loop": ()}
    top = "usr/lib/modules/6.12"
    contents = {
        f"{top}/{name}.ko.xz": lzma.compress(module(*needed)) for name, needed in files.items()
    }
    builtin = ("virtio/virtio_pci", "char/tpm/tpm_tis")
    lines = "".join(f"kernel/drivers/{name}.ko\n" for name in builtin)
    contents[f"{top}/modules.builtin"] = lines.encode()
    found = read_modules(package(tmp_path, contents))
    assert list(found) == ["failover.ko", "virtio_net.ko", "efivarfs.ko"]
    assert found["virtio_net.ko"] == module("failover")
