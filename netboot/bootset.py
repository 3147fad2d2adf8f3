"""Boot sets: what a box is booted with, named by one digest.

A set is its roles (shim, GRUB, kernel, initrds), the template of grub.cfg and the command line; the
digest covers exactly these, so equal digests boot equally. Nothing in a set belongs to one box.
GRUB's configuration is flat: one command a line and nothing to expand, so what GRUB measures is
what is written here. It never signs, never verifies and never reads a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Literal

from netboot.cpio import encode_cpio, file_entry, with_parents
from netboot.errors import PeerError

TYPE = "doorstep/boot-set/v1"
DIGEST_CONTEXT = "doorstep/v1/boot-set"
SIGNATURE_CONTEXT = "doorstep/v1/boot-set-manifest"
MAX_MANIFEST = 64 * 1024
MAX_FILE = 1 << 32

GRUB_CFG = """\
linux @KERNEL@ @COMMAND_LINE@
initrd @GENERIC@ @ANCHOR@
boot
"""
"""The same bytes for every transport: GRUB reads from where the firmware read GRUB itself."""

IPXE_TEMPLATE = """\
#!ipxe
kernel @KERNEL@ @COMMAND_LINE@
initrd @GENERIC@
initrd @ANCHOR@
boot
"""
"""What iPXE is given to do; it takes files from where it took this."""

Architecture = Literal["amd64", "arm64"]
"""Debian's names of the machines that a set can be for."""

AMD64: Architecture = "amd64"
ARM64: Architecture = "arm64"

_WORDS_OF_ALL = "panic=10 quiet lockdown=confidentiality rdinit=/init"
COMMAND_LINES: Mapping[Architecture, str] = {
    AMD64: f"console=tty0 console=ttyS0,115200 {_WORDS_OF_ALL}",
    ARM64: f"console=tty0 console=ttyAMA0,115200 {_WORDS_OF_ALL}",
}
COMMAND_LINE = COMMAND_LINES[AMD64]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,:+~()_-]{0,127}")
_WORDS = re.compile(r"[A-Za-z0-9._,:/=+-]+(?: [A-Za-z0-9._,:/=+-]+)*")
_PLACE = re.compile(r"@([A-Z_]+)@")
_COMMANDS = ("linux", "initrd", "boot")


class BootSetError(PeerError):
    """This manifest must not be used; the text says what is wrong in it."""


class Role(StrEnum):
    """What a file is for. `cdgrub` starts from an ISO, `grub` from the network.

    `modules` lists the kernel modules in `generic`, for whoever judges a boot; it is not booted.
    `ipxe` is for machines without Secure Boot that the operator's rules send there.
    """

    SHIM = "shim"
    GRUB = "grub"
    KERNEL = "kernel"
    GENERIC = "generic"
    ANCHOR = "anchor"
    MOKMANAGER = "mokmanager"
    CDGRUB = "cdgrub"
    MODULES = "modules"
    IPXE = "ipxe"


REQUIRED = frozenset({Role.SHIM, Role.GRUB, Role.KERNEL, Role.GENERIC, Role.ANCHOR})

LOADERS: Mapping[Architecture, str] = {AMD64: "shimx64.efi", ARM64: "shimaa64.efi"}
"""What firmware is told to start, as a name for TFTP."""

FIXED_NAMES: Mapping[Architecture, Mapping[str, Role]] = {
    AMD64: {
        "/shimx64.efi": Role.SHIM,
        "/bootx64.efi": Role.SHIM,
        "/grubx64.efi": Role.GRUB,
        "/mmx64.efi": Role.MOKMANAGER,
        "/enrol/ipxe.efi": Role.IPXE,
    },
    ARM64: {
        "/shimaa64.efi": Role.SHIM,
        "/bootaa64.efi": Role.SHIM,
        "/grubaa64.efi": Role.GRUB,
        "/mmaa64.efi": Role.MOKMANAGER,
    },
}
"""Names that firmware (option 67) and shim ask for; GRUB asks for `GRUB_CFG_PATHS`."""

GRUB_CFG_PATHS = ("/grub/grub.cfg",)
IPXE_LOADER, IPXE_SCRIPT = "/enrol/ipxe.efi", "/enrol/boot.ipxe"
"""Names that the operator's boot rules may give; they are no names of the operator's own files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFile:
    """One file of a set; `size` in bytes, `name` as in its URL."""

    name: str
    sha256: bytes
    size: int

    @property
    def path(self) -> str:
        """Its path on the appliance, in TFTP, HTTP and on an ISO."""
        return f"/f/{self.sha256[:8].hex()}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSetManifest:
    """What a boot set is; `created` in Unix seconds, `version` counts up within `name`.

    `architecture` says which machines can start it.
    """

    name: str
    version: int
    created: int
    release: str
    roles: Mapping[Role, BootFile]
    grub_cfg: str = GRUB_CFG
    command_line: str = COMMAND_LINE
    architecture: Architecture = AMD64

    @property
    def digest(self) -> bytes:
        """The set's name for machines: 32 bytes over roles, files, template and command line."""
        fields = [self.grub_cfg.encode(), self.command_line.encode()]
        for role, file in sorted(self.roles.items()):
            fields += [role.value.encode(), file.name.encode(), file.sha256]
        if self.architecture != AMD64:
            fields.append(self.architecture.encode())
        if Role.IPXE in self.roles:
            fields.append(IPXE_TEMPLATE.encode())
        hasher = hashlib.sha256(DIGEST_CONTEXT.encode() + b"\0")
        for field in fields:
            hasher.update(len(field).to_bytes(4, "big") + field)
        return hasher.digest()

    @property
    def loader(self) -> str:
        """What firmware is told to start, as a name for TFTP."""
        return LOADERS[self.architecture]

    @property
    def signature_comment(self) -> str:
        """The trusted comment of its signature: what the signer says of these bytes."""
        return f"version={self.version} digest={self.digest.hex()}"

    def encode(self) -> bytes:
        """Write the manifest as it is signed: JSON, keys sorted.

        A set for amd64 does not name it: those that were signed before there was another do not.
        """
        roles = {
            role.value: {"name": file.name, "sha256": file.sha256.hex(), "size": file.size}
            for role, file in self.roles.items()
        }
        document = {
            "type": TYPE,
            "name": self.name,
            "version": self.version,
            "created": self.created,
            "release": self.release,
            "roles": roles,
            "grub_cfg": self.grub_cfg,
            "command_line": self.command_line,
        }
        if self.architecture != AMD64:
            document["architecture"] = self.architecture
        return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def decode_manifest(data: bytes) -> BootSetManifest:
    """Read and check a manifest; BootSetError when anything in it is not as it must be."""
    if len(data) > MAX_MANIFEST:
        raise BootSetError("boot set manifest: too large")
    try:
        document = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BootSetError(f"boot set manifest: not JSON: {error}") from error
    keys = {"type", "name", "version", "created", "release", "roles", "grub_cfg", "command_line"}
    found = set(document) - {"architecture"} if isinstance(document, dict) else set()
    if found != keys or document["type"] != TYPE:
        raise BootSetError(f"boot set manifest: not a {TYPE} with exactly its keys")
    roles = document["roles"]
    if not isinstance(roles, dict) or not set(roles) <= {role.value for role in Role}:
        raise BootSetError("boot set manifest: an unknown role")
    manifest = BootSetManifest(
        name=_text(document, "name", _NAME),
        version=_number(document, "version", 1 << 32),
        created=_number(document, "created", 1 << 40),
        release=_text(document, "release", _LABEL),
        roles={Role(role): _file(role, value) for role, value in roles.items()},
        grub_cfg=_text(document, "grub_cfg", None),
        command_line=_text(document, "command_line", _WORDS),
        architecture=_architecture(document),
    )
    check_manifest(manifest)
    return manifest


def _architecture(document: Mapping[str, Any]) -> Architecture:
    if "architecture" not in document:
        return AMD64
    # Said or not said, amd64 would be two forms of one manifest.
    if document["architecture"] != ARM64:
        raise BootSetError("boot set manifest: architecture is malformed")
    return ARM64


def check_manifest(manifest: BootSetManifest) -> None:
    """Check what a boot needs: the roles, distinct names, a flat template; raise BootSetError."""
    missing = sorted(REQUIRED - set(manifest.roles))
    if missing:
        raise BootSetError(f"boot set {manifest.name}: no {', '.join(missing)}")
    if manifest.architecture not in LOADERS:
        raise BootSetError(f"boot set {manifest.name}: is for an unknown architecture")
    if not _NAME.fullmatch(manifest.name) or not _LABEL.fullmatch(manifest.release):
        raise BootSetError(f"boot set {manifest.name!r}: name or release is malformed")
    if not _WORDS.fullmatch(manifest.command_line):
        raise BootSetError(f"boot set {manifest.name}: the command line is not plain words")
    _check_template(manifest)


def _check_template(manifest: BootSetManifest) -> None:
    text = manifest.grub_cfg
    places = _places(manifest, "")
    unknown = sorted(set(_PLACE.findall(text)) - set(places))
    if unknown:
        raise BootSetError(f"boot set {manifest.name}: grub.cfg has an unknown @{unknown[0]}@")
    for line in _fill(text, places).splitlines():
        if not _WORDS.fullmatch(line) or line.partition(" ")[0] not in _COMMANDS:
            raise BootSetError(f"boot set {manifest.name}: grub.cfg has a line {line!r}")
    if not text.endswith("boot\n"):
        raise BootSetError(f"boot set {manifest.name}: grub.cfg does not end in boot")


def grub_cfg(manifest: BootSetManifest, server: IPv4Address | IPv6Address) -> bytes:
    """Render grub.cfg for the network; `server` shows only where the template names @ROOT@."""
    return _fill(manifest.grub_cfg, _places(manifest, f"(http,{server})")).encode()


def iso_grub_cfg(manifest: BootSetManifest) -> bytes:
    """Render the grub.cfg of an ISO: everything from the medium itself."""
    return _fill(manifest.grub_cfg, _places(manifest, "")).encode()


def ipxe_script(manifest: BootSetManifest) -> bytes:
    """Render the script for iPXE, the same wherever a box loads it from."""
    return _fill(IPXE_TEMPLATE, _places(manifest, "")).encode()


def rendered_files(
    manifest: BootSetManifest, server: IPv4Address | IPv6Address
) -> dict[str, bytes]:
    """Give what is served beside the files of a set, by URL path."""
    found = dict.fromkeys(GRUB_CFG_PATHS, grub_cfg(manifest, server))
    if Role.IPXE in manifest.roles:
        found[IPXE_SCRIPT] = ipxe_script(manifest)
    return found


def _places(manifest: BootSetManifest, root: str) -> dict[str, str]:
    roles = {role.name: file.path for role, file in manifest.roles.items()}
    return {**roles, "ROOT": root, "COMMAND_LINE": manifest.command_line}


def _fill(template: str, places: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda match: places[match.group(1)], template)


def files_to_serve(
    served: BootSetManifest,
    accepted: Iterable[BootSetManifest],
    server: IPv4Address | IPv6Address,
) -> dict[str, bytes]:
    """Map URL path (the same in TFTP, without the slash) to SHA-256.

    The fixed names are the served set's; the files of every accepted set stay reachable, for a box
    that is half-way through its boot. `rendered_files` must be in the store too.
    """
    paths: dict[str, bytes] = {}
    for manifest in (*accepted, served):
        files = (file for role, file in manifest.roles.items() if role is not Role.MODULES)
        paths.update({file.path: file.sha256 for file in files})
    for path, role in FIXED_NAMES[served.architecture].items():
        if role in served.roles:
            paths[path] = served.roles[role].sha256
    for path, data in rendered_files(served, server).items():
        paths[path] = hashlib.sha256(data).digest()
    return paths


def anchor_cpio(
    *,
    site_root_pem: bytes,
    site_id: str,
    server_name: str,
    release: str,
    rehearsal: str | None = None,
) -> bytes:
    """Make the anchor initrd: what of the site a box trusts, in the form whose sums Linux checks.

    `rehearsal` is there in a rehearsal's anchor alone; the agent then says so on every screen.
    """
    texts = {"site-id": site_id, "server-name": server_name, "release": release}
    if rehearsal is not None:
        texts["rehearsal"] = rehearsal
    for key, text in texts.items():
        if not _LABEL.fullmatch(text):
            raise BootSetError(f"anchor: {key} {text!r} is not one line of plain text")
    if b"-----BEGIN CERTIFICATE-----" not in site_root_pem:
        raise BootSetError("anchor: the site root is not a PEM certificate")
    files = {key: text.encode() + b"\n" for key, text in texts.items()}
    files["site-root.pem"] = site_root_pem
    entries = [file_entry(f"doorstep/anchor/{name}", data) for name, data in files.items()]
    return encode_cpio(with_parents(entries), checksums=True)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice")
    return document


def _text(document: Mapping[str, Any], key: str, form: re.Pattern[str] | None) -> str:
    value = document[key]
    if not isinstance(value, str) or (form is not None and not form.fullmatch(value)):
        raise BootSetError(f"boot set manifest: {key} is malformed")
    return value


def _number(document: Mapping[str, Any], key: str, limit: int) -> int:
    value = document[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < limit:
        raise BootSetError(f"boot set manifest: {key} is malformed")
    return value


def _file(role: str, value: object) -> BootFile:
    if not isinstance(value, dict) or set(value) != {"name", "sha256", "size"}:
        raise BootSetError(f"boot set manifest: {role} has not exactly name, sha256 and size")
    digest = _text(value, "sha256", re.compile(r"[0-9a-f]{64}"))
    name, size = _text(value, "name", _NAME), _number(value, "size", MAX_FILE)
    return BootFile(name=name, sha256=bytes.fromhex(digest), size=size)
