"""The lock file: every package a boot set is made of, by version and SHA-256.

TOML, written by `doorstep bootset lock` and committed as `netboot/bootset.lock` and, for arm64,
`netboot/bootset-arm64.lock`. Pure: it never downloads and never opens a file.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass

from bootstrap.errors import SiteError
from netboot.bootset import AMD64, ARM64, Architecture

ARCHIVES = ("debian", "debian-security")
"""Which archive of the mirror a package's path is relative to."""

_EXPECTED = "bootset.lock: exactly `suite`, `architecture` and `[[package]]` are expected"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"pool/[A-Za-z0-9+./_~%:-]+\.deb")
_KEYS = {"name", "version", "archive", "path", "size", "sha256"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package file; `path` is its path in the archive, `size` in bytes."""

    name: str
    version: str
    archive: str
    path: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """The packages of one release for one architecture, sorted by name."""

    suite: str
    packages: tuple[Package, ...]
    architecture: Architecture = AMD64

    def package(self, name: str) -> Package:
        """Find a package; SiteError when the lock does not name it."""
        for package in self.packages:
            if package.name == name:
                return package
        raise SiteError(f"bootset.lock does not name {name}: run `doorstep bootset lock`")


def encode_lock(lock: Lock) -> str:
    """Write the lock as TOML, one package a table, sorted."""
    lines = [
        "# What boot sets are made of. Written by `doorstep bootset lock`; do not edit.",
        f'suite = "{lock.suite}"',
        f'architecture = "{lock.architecture}"',
    ]
    for package in sorted(lock.packages, key=lambda p: p.name):
        lines += [
            "",
            "[[package]]",
            f'name = "{package.name}"',
            f'version = "{package.version}"',
            f'archive = "{package.archive}"',
            f'path = "{package.path}"',
            f"size = {package.size}",
            f'sha256 = "{package.sha256.hex()}"',
        ]
    return "\n".join(lines) + "\n"


def decode_lock(text: str) -> Lock:
    """Read a lock; SiteError names the package and the key that is wrong."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SiteError(f"bootset.lock: {error}") from error
    suite, tables = document.get("suite"), document.get("package")
    if set(document) - {"architecture"} != {"suite", "package"} or not isinstance(suite, str):
        raise SiteError(_EXPECTED)
    if not isinstance(tables, list) or not re.fullmatch(r"[a-z]+", suite):
        raise SiteError(_EXPECTED)
    if document.get("architecture", AMD64) not in (AMD64, ARM64):
        raise SiteError(f"bootset.lock: `architecture` is neither {AMD64} nor {ARM64}")
    packages = tuple(_package(table) for table in tables)
    names = [package.name for package in packages]
    if names != sorted(set(names)):
        raise SiteError("bootset.lock: packages must be sorted and named once")
    architecture = ARM64 if document.get("architecture") == ARM64 else AMD64
    return Lock(suite=suite, packages=packages, architecture=architecture)


def _package(table: object) -> Package:
    if not isinstance(table, dict) or set(table) != _KEYS:
        raise SiteError(f"bootset.lock: a package has exactly the keys {', '.join(sorted(_KEYS))}")
    name, size = table["name"], table["size"]
    texts = [table[key] for key in ("name", "version", "archive", "path", "sha256")]
    if not all(isinstance(text, str) for text in texts):
        raise SiteError(f"bootset.lock: {name}: all but `size` are texts")
    if not _SHA256.fullmatch(table["sha256"]) or not _PATH.fullmatch(table["path"]):
        raise SiteError(f"bootset.lock: {name}: `sha256` or `path` is malformed")
    if ".." in table["path"] or table["archive"] not in ARCHIVES:
        raise SiteError(f"bootset.lock: {name}: `path` or `archive` is malformed")
    if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
        raise SiteError(f"bootset.lock: {name}: `size` must be a number of bytes")
    return Package(
        name=name,
        version=table["version"],
        archive=table["archive"],
        path=table["path"],
        size=size,
        sha256=bytes.fromhex(table["sha256"]),
    )
