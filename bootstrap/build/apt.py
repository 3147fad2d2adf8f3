"""Packages by apt with a root of its own: it never reads or changes what this machine installed.

The archive's signature is checked by apt against Debian's keyring when a lock is resolved; a
download is checked against the lock's SHA-256 alone, so it needs no package index. The mirror is
the one that the machine's own apt uses for Debian.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from bootstrap.build.lock import Lock, Package
from bootstrap.errors import SiteError
from netboot.bootset import AMD64, Architecture

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DEFAULT_MIRRORS = {
    "debian": "http://deb.debian.org/debian",
    "debian-security": "http://deb.debian.org/debian-security",
}
_LABELS = {"Debian": "debian", "Debian-Security": "debian-security"}
_HELPER = "/usr/lib/apt/apt-helper"


class LockStaleError(SiteError):
    """The mirror no longer has a package that the lock names."""


def find_mirrors() -> dict[str, str]:
    """Read Debian's mirrors from the machine's own apt sources, by archive."""
    command = [
        "apt-get",
        "indextargets",
        "--format",
        "$(LABEL)\t$(REPO_URI)",
        "Created-By: Packages",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    mirrors = dict(_DEFAULT_MIRRORS)
    for line in sorted(set(done.stdout.splitlines()), reverse=True):
        label, _, uri = line.partition("\t")
        if label in _LABELS and uri:
            mirrors[_LABELS[label]] = uri.rstrip("/")
    return mirrors


def resolve_lock(
    names: Iterable[str],
    suite: str,
    mirrors: Mapping[str, str],
    architecture: Architecture = AMD64,
) -> Lock:
    """Ask the archive for the newest version of each package; SiteError names what is missing.

    A name `linux-image-*` without a version stands for the image it depends on.
    """
    with tempfile.TemporaryDirectory(prefix="doorstep-apt-") as directory:
        environment = _private_root(Path(directory), suite, mirrors, architecture)
        _apt(["apt-get", "-qq", "update"], environment)
        packages = {}
        for name in names:
            package = _newest(name, mirrors, environment)
            packages[package.name] = package
    found = tuple(packages[name] for name in sorted(packages))
    return Lock(suite=suite, packages=found, architecture=architecture)


def fetch(
    lock: Lock, names: Iterable[str], cache: Path, mirrors: Mapping[str, str]
) -> dict[str, Path]:
    """Download the named packages into `cache` (kept by SHA-256); return the files by name.

    LockStaleError when the mirror has one no more; SiteError when a file has another digest.
    """
    cache.mkdir(parents=True, exist_ok=True)
    wanted = {name: lock.package(name) for name in names}
    files = {name: cache / f"{package.sha256.hex()}.deb" for name, package in wanted.items()}
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as directory:
            _download([wanted[name] for name in missing], Path(directory), mirrors)
            for name in missing:
                (Path(directory) / f"{name}.deb").rename(files[name])
    for name, file in files.items():
        if hashlib.sha256(file.read_bytes()).digest() != wanted[name].sha256:
            file.unlink()
            raise SiteError(f"{name}: the file in {cache} was damaged and is removed; try again")
    return files


def _download(packages: list[Package], directory: Path, mirrors: Mapping[str, str]) -> None:
    command = [_HELPER, "-o", "APT::Sandbox::User=root", "download-file"]
    for package in packages:
        uri = f"{mirrors[package.archive]}/{quote(package.path, safe='/~')}"
        command += [uri, str(directory / f"{package.name}.deb"), f"SHA256:{package.sha256.hex()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    gone = [p for p in packages if not (directory / f"{p.name}.deb").exists()]
    if gone:
        names = ", ".join(f"{p.name} {p.version}" for p in gone)
        raise LockStaleError(
            f"the mirror does not have {names} any more; `doorstep bootset lock` resolves a new "
            f"lock from what it has now. apt said: {done.stderr.strip()[-600:]}"
        )
    if done.returncode:
        raise SiteError(f"apt-helper failed: {done.stderr.strip()[-600:]}")


def _private_root(
    root: Path, suite: str, mirrors: Mapping[str, str], architecture: Architecture
) -> dict[str, str]:
    if not KEYRING.exists():
        raise SiteError(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
    for part in ("etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/cache/apt/archives"):
        (root / part).mkdir(parents=True)
    (root / "status").touch()
    main, security = mirrors["debian"], mirrors["debian-security"]
    suites = [(main, suite), (main, f"{suite}-updates"), (security, f"{suite}-security")]
    lines = [f"deb [signed-by={KEYRING}] {uri} {name} main\n" for uri, name in suites]
    (root / "etc/apt/sources.list").write_text("".join(lines))
    (root / "apt.conf").write_text(
        f'Dir "{root}";\nDir::State::status "{root}/status";\n'
        f'APT::Architecture "{architecture}";\nAPT::Architectures {{ "{architecture}"; }};\n'
        'APT::Sandbox::User "root";\nAcquire::Languages "none";\n'
    )
    return {**os.environ, "APT_CONFIG": str(root / "apt.conf"), "LC_ALL": "C.UTF-8"}


def _newest(name: str, mirrors: Mapping[str, str], environment: Mapping[str, str]) -> Package:
    fields = _show(name, environment)
    if name.startswith("linux-image-"):
        image = next(p for p in fields["Depends"].split(", ") if p.startswith("linux-image-"))
        fields = _show(image.split(" ")[0], environment)
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        archive=_archive(fields, mirrors, environment),
        path=fields["Filename"],
        size=int(fields["Size"]),
        sha256=bytes.fromhex(fields["SHA256"]),
    )


def _show(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    text = _apt(["apt-cache", "show", "--no-all-versions", name], environment)
    pairs = (line.split(": ", 1) for line in text.splitlines() if ": " in line[1:])
    return {key: value for key, value in pairs if not key.startswith(" ")}


def _archive(
    fields: Mapping[str, str], mirrors: Mapping[str, str], environment: Mapping[str, str]
) -> str:
    exact = f"{fields['Package']}={fields['Version']}"
    uri = unquote(_apt(["apt-get", "download", "--print-uris", exact], environment))
    for archive in ("debian-security", "debian"):
        if uri.startswith(f"'{mirrors[archive]}/{fields['Filename']}'"):
            return archive
    raise SiteError(f"{exact}: apt names an archive that is not Debian's: {uri.strip()}")


def _apt(command: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode or (command[1] == "show" and not done.stdout):
        raise SiteError(f"{' '.join(command)}: {done.stderr.strip()[-600:]}")
    return done.stdout
