"""Boot sets: digest, manifest, flat grub.cfg, anchor, what is served under which name."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.bootset import (
    BootFile,
    BootSetError,
    BootSetManifest,
    Role,
    anchor_cpio,
    check_manifest,
    decode_manifest,
    files_to_serve,
    grub_cfg,
    iso_grub_cfg,
)
from netboot.cpio import decode_cpio

WITH_ROOT = "linux @ROOT@@KERNEL@ @COMMAND_LINE@\ninitrd @ROOT@@GENERIC@ @ROOT@@ANCHOR@\nboot\n"
SERVER = IPv4Address("10.41.7.2")
PEM = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def boot_file(name: str, text: str) -> BootFile:
    return BootFile(name=name, sha256=hashlib.sha256(text.encode()).digest(), size=len(text))


def make_set(**changes: object) -> BootSetManifest:
    manifest = BootSetManifest(
        name="enrol",
        version=7,
        created=1_795_000_000,
        release="Debian 13, kernel 6.12.117-1",
        roles={
            Role.SHIM: boot_file("shimx64.efi", "shim"),
            Role.GRUB: boot_file("grubx64.efi", "grub"),
            Role.KERNEL: boot_file("vmlinuz", "kernel"),
            Role.GENERIC: boot_file("generic.img", "generic"),
            Role.ANCHOR: boot_file("anchor.img", "anchor"),
        },
    )
    return dataclasses.replace(manifest, **changes)


def with_role(role: Role, file: BootFile) -> BootSetManifest:
    return make_set(roles={**make_set().roles, role: file})


def test_a_manifest_is_read_back_as_it_was() -> None:
    assert decode_manifest(make_set().encode()) == make_set()
    assert make_set().encode() == make_set().encode()
    other = make_set(architecture="arm64")
    assert decode_manifest(other.encode()) == other
    assert b"architecture" not in make_set().encode()


@pytest.mark.parametrize(
    "other",
    [
        with_role(Role.KERNEL, boot_file("vmlinuz", "older kernel")),
        with_role(Role.KERNEL, boot_file("vmlinuz2", "kernel")),
        with_role(Role.MOKMANAGER, boot_file("mmx64.efi", "mm")),
        make_set(grub_cfg=WITH_ROOT),
        make_set(command_line="rdinit=/init"),
        make_set(architecture="arm64"),
    ],
)
def test_the_digest_covers_what_is_booted(other: BootSetManifest) -> None:
    assert other.digest != make_set().digest


def test_the_digest_does_not_cover_names_for_people() -> None:
    assert make_set(name="x", version=8, created=1, release="y").digest == make_set().digest


def test_the_digest_by_hand() -> None:
    def field(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    manifest = make_set()
    text = b"doorstep/v1/boot-set\0" + field(manifest.grub_cfg.encode())
    text += field(manifest.command_line.encode())
    names = ("anchor", "generic", "grub", "kernel", "shim")
    files = ("anchor.img", "generic.img", "grubx64.efi", "vmlinuz", "shimx64.efi")
    for role, name in zip(names, files, strict=True):
        text += (
            field(role.encode())
            + field(name.encode())
            + field(hashlib.sha256(role.encode()).digest())
        )
    assert manifest.digest == hashlib.sha256(text).digest()


def test_grub_cfg_is_flat_and_names_no_box() -> None:
    text = grub_cfg(make_set(), SERVER).decode()
    kernel = hashlib.sha256(b"kernel").hexdigest()[:16]
    assert text.splitlines()[0].startswith(f"linux /f/{kernel}/vmlinuz console=")
    assert [line.split(" ")[0] for line in text.splitlines()] == ["linux", "initrd", "boot"]
    assert not set(text) & set("${}\"'\\;#&|<>")
    assert iso_grub_cfg(make_set()) == grub_cfg(make_set(), IPv4Address("192.0.2.1"))


def test_a_template_that_names_its_root_holds_our_address() -> None:
    manifest = make_set(grub_cfg=WITH_ROOT)
    assert grub_cfg(manifest, SERVER).count(b"(http,10.41.7.2)/f/") == 3
    assert iso_grub_cfg(manifest) == grub_cfg(make_set(), SERVER)


BAD_SETS: list[tuple[str, BootSetManifest]] = [
    ("no kernel", make_set(roles={r: f for r, f in make_set().roles.items() if r != Role.KERNEL})),
    ("command line", make_set(command_line="console=ttyS0 $net_default_mac")),
    ("command line", make_set(command_line="a\nb")),
    ("unknown @MAC@", make_set(grub_cfg="linux @KERNEL@ mac=@MAC@\nboot\n")),
    ("a line", make_set(grub_cfg="menuentry x {\nboot\n")),
    ("a line", make_set(grub_cfg="insmod evil\nboot\n")),
    ("a line", make_set(grub_cfg="linux @KERNEL@ mac=$net_default_mac\nboot\n")),
    ("does not end", make_set(grub_cfg="linux @KERNEL@\n")),
    ("malformed", make_set(name="../x")),
    ("malformed", make_set(release="line\nline")),
    ("unknown architecture", make_set(architecture="riscv64")),
]


@pytest.mark.parametrize(("text", "manifest"), BAD_SETS)
def test_a_bad_set_is_refused(text: str, manifest: BootSetManifest) -> None:
    with pytest.raises(BootSetError, match=text):
        check_manifest(manifest)


def edit(change: Callable[[dict], object]) -> bytes:
    document = json.loads(make_set().encode())
    change(document)
    return json.dumps(document).encode()


BAD_MANIFESTS = [
    ("not JSON", b"{"),
    ("not JSON", b'{"type":1,"type":2}'),
    ("too large", b" " * 70000),
    ("exactly its keys", b"[]"),
    ("exactly its keys", edit(lambda d: d.update(extra=1))),
    ("exactly its keys", edit(lambda d: d.update(type="doorstep/boot-set/v2"))),
    ("exactly its keys", edit(lambda d: d.pop("version"))),
    ("unknown role", edit(lambda d: d["roles"].update(rootkit={}))),
    ("version is malformed", edit(lambda d: d.update(version=True))),
    ("version is malformed", edit(lambda d: d.update(version=-1))),
    ("created is malformed", edit(lambda d: d.update(created="x"))),
    ("sha256 is malformed", edit(lambda d: d["roles"]["shim"].update(sha256="00"))),
    ("name is malformed", edit(lambda d: d["roles"]["shim"].update(name="a/b"))),
    ("size is malformed", edit(lambda d: d["roles"]["shim"].update(size=1 << 40))),
    ("shim has not exactly", edit(lambda d: d["roles"]["shim"].update(url="x"))),
    ("command_line is malformed", edit(lambda d: d.update(command_line=5))),
    ("architecture is malformed", edit(lambda d: d.update(architecture="riscv64"))),
    ("architecture is malformed", edit(lambda d: d.update(architecture="amd64"))),
    ("architecture is malformed", edit(lambda d: d.update(architecture={}))),
]


@pytest.mark.parametrize(("text", "data"), BAD_MANIFESTS)
def test_a_bad_manifest_is_refused(text: str, data: bytes) -> None:
    with pytest.raises(BootSetError, match=text):
        decode_manifest(data)


@given(st.binary(max_size=200), st.integers(0, 2000), st.integers(0, 255))
@settings(max_examples=200)
def test_any_bytes_give_a_manifest_or_our_error(junk: bytes, at: int, value: int) -> None:
    changed = bytearray(make_set().encode())
    changed[at % len(changed)] = value
    for data in (junk, bytes(changed)):
        with contextlib.suppress(BootSetError):
            assert decode_manifest(decode_manifest(data).encode()).digest


def test_served_names() -> None:
    old = with_role(Role.KERNEL, boot_file("vmlinuz", "older kernel"))
    served = make_set()
    paths = files_to_serve(served, [old], SERVER)
    assert paths["/shimx64.efi"] == paths["/bootx64.efi"] == served.roles[Role.SHIM].sha256
    assert paths["/grubx64.efi"] == served.roles[Role.GRUB].sha256
    assert paths["/grub/grub.cfg"] == hashlib.sha256(grub_cfg(served, SERVER)).digest()
    assert "/mmx64.efi" not in paths
    for manifest in (old, served):
        for file in manifest.roles.values():
            assert paths[file.path] == file.sha256


def test_a_set_for_another_machine_has_that_machines_names() -> None:
    served = make_set(architecture="arm64")
    fixed = {path for path in files_to_serve(served, (), SERVER) if not path.startswith("/f/")}
    assert fixed == {"/shimaa64.efi", "/bootaa64.efi", "/grubaa64.efi", "/grub/grub.cfg"}
    assert f"/{served.loader}" in fixed
    assert make_set().loader == "shimx64.efi"


def anchor(**changes: object) -> bytes:
    values = {
        "site_root_pem": PEM,
        "site_id": "shop-0417",
        "server_name": "appliance.shop-0417.example",
        "release": "enrol 7",
    }
    return anchor_cpio(**{**values, **changes})


def test_the_anchor_holds_what_the_box_trusts() -> None:
    entries = {entry.name: entry.data for entry in decode_cpio(anchor())}
    assert entries == {
        "doorstep": b"",
        "doorstep/anchor": b"",
        "doorstep/anchor/release": b"enrol 7\n",
        "doorstep/anchor/server-name": b"appliance.shop-0417.example\n",
        "doorstep/anchor/site-id": b"shop-0417\n",
        "doorstep/anchor/site-root.pem": PEM,
    }
    assert anchor().startswith(b"070702")
    assert len(anchor()) % 512 == 0 and len(anchor()) <= 4096
    assert anchor() == anchor()


def test_only_a_rehearsals_anchor_says_so() -> None:
    names = [entry.name for entry in decode_cpio(anchor(rehearsal="REHEARSAL"))]
    assert "doorstep/anchor/rehearsal" in names
    assert anchor(rehearsal="REHEARSAL") != anchor()


@pytest.mark.parametrize(
    "change",
    [{"site_id": "a\nb"}, {"server_name": ""}, {"site_root_pem": b"x"}, {"rehearsal": "\0"}],
)
def test_a_bad_anchor_is_refused(change: dict) -> None:
    with pytest.raises(BootSetError, match="anchor"):
        anchor(**change)
