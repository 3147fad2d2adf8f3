"""The directory of a site: makes it, reads it, checks it; uses the offline keys.

It never overwrites what an operator wrote (but the signature of a note that is signed again, and a
root certificate that is made again on request), and never keeps an offline key longer than a call.
docs/architecture.md, "Directories".
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import tempfile
import time
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from bootstrap.check import FIRMWARE, POLICY, SiteFiles, check
from bootstrap.check_controller import LEASE_PUB
from bootstrap.errors import SiteError
from bootstrap.io.offline_keys import read_root_key, read_sign_key
from bootstrap.io.plan_files import stamps
from bootstrap.io.tpm_device import device_of, fault_of
from bootstrap.io.zone_files import read_zones
from bootstrap.published import Published, decode_published
from bootstrap.site import SITE_FILE, Problem, Severity, Site, decode_site
from keys import ca, manifest, note
from keys.errors import KeysError
from keys.io.root_device import look
from keys.io.signed_files import read_signed
from keys.signed import FIRMWARE as BASELINE
from keys.signed import NOTE, Kind
from keys.signed import POLICY as SIGNED_POLICY

ROOT_KEY, SIGN_KEY = "offline/root.key", "offline/sign.key"
ROOT_PEM, ROOT_PUB = "trust/root.pem", "trust/root.pub"
ANCHORS_README = "trust/ek/README"
_COUNTER = re.compile(r"counter=([0-9]{1,18})")
_LINE = re.compile(r"^(\S.*?) +(# .*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSite:
    """What `init` is told; `appliance` is the first host of the network unless given."""

    id: str
    domain: str
    interface: str
    network: IPv4Network
    appliance: IPv4Address | None = None
    title: str | None = None


def init(directory: Path, new: NewSite) -> tuple[Path, ...]:
    """Make a site that works as it is and return what was made; SiteError when one is there."""
    if (directory / SITE_FILE).exists():
        raise SiteError(f"{directory / SITE_FILE} exists: choose another directory")
    text = site_text(new)
    site = decode_site(text.encode())
    made = _Maker(directory)
    made.write(ROOT_KEY, _private_pem(ec.generate_private_key(ec.SECP256R1())), mode=0o600)
    made.write(SIGN_KEY, _private_pem(ed25519.Ed25519PrivateKey.generate()), mode=0o600)
    (directory / "offline").chmod(0o700)
    made.write(ROOT_PEM, root_certificate(site, directory / ROOT_KEY))
    public = manifest.PublicKey.of(read_sign_key(directory / SIGN_KEY).public_key())
    made.write(ROOT_PUB, public.encode())
    made.write(ANCHORS_README, _example("README.ek.txt").encode())
    made.write("templates/pos.yaml.j2", _example("templates/pos.yaml.j2").encode())
    made.write("delivery.csv", note.encode(()))
    made.write(SITE_FILE, text.encode())
    signature, _ = sign_note(directory, site)
    return (*made.paths, signature)


def site_text(new: NewSite) -> str:
    """Write the example site file with a site's own id, domain, interface and addresses."""
    if new.network.prefixlen > 24:
        raise SiteError(
            f"--network {new.network}: give /24 or larger, or edit site.toml afterwards"
        )
    base = new.network.network_address
    appliance = new.appliance or base + 2
    text = _example(SITE_FILE)
    text = text.replace("10.41.7.0/24", str(new.network))
    text = re.sub(r"10\.41\.7\.([0-9]+)", lambda found: str(base + int(found[1])), text)
    text = text.replace(f'"{base + 2}"', f'"{appliance}"').replace(f"{base + 2}:", f"{appliance}:")
    for key, old, value in (
        ("id", "shop-0417", new.id),
        ("domain", "shop-0417.example.net", new.domain),
        ("interface", "eth1", new.interface),
        ("title", "Shop 417, Leeds", new.title or new.id),
    ):
        text = text.replace(f'{key} = "{old}"', f"{key} = {json.dumps(value)}")
    return _LINE.sub(lambda found: f"{found[1]:<36} {found[2]}", text)


def load(directory: Path) -> Site:
    """Read the site file; SiteError with everything that is wrong in its form."""
    path = directory / SITE_FILE
    try:
        return decode_site(path.read_bytes(), SITE_FILE)
    except OSError as error:
        raise SiteError(
            f"{path}: {error.strerror}: make a site with `doorstep init {directory}`"
        ) from error


def load_published(state: Path) -> Published:
    """Read what is published; nothing when nothing was yet."""
    data = _read(state / "bootsets" / "published.json")
    return Published() if data is None else decode_published(data)


def save_published(state: Path, published: Published) -> None:
    """Write what is published, so that a power cut leaves the old or the new."""
    write(state / "bootsets" / "published.json", published.encode())


def gather(directory: Path, state: Path, site: Site) -> SiteFiles:
    """Read all that `check` asks about; what is missing is None."""
    sets = state / "bootsets" / "sets"
    names = [path.name for path in sets.iterdir()] if sets.is_dir() else []
    anchors, device = directory / site.trust.ek_anchors, device_of(site)
    return SiteFiles(
        templates={role.config: _read_text(directory / role.config) for role in site.roles},
        upstream_cas={one.ca: _read(directory / one.ca) for one in site.upstreams},
        anchors={
            f"{site.trust.ek_anchors}/{path.name}": path.read_bytes()
            for path in sorted((*anchors.glob("*.pem"), *anchors.glob("*.crl")))
        },
        delivery_note=_read(directory / site.trust.delivery_note),
        delivery_signature=_own_signature(directory, site.trust.delivery_note, NOTE),
        root_certificate=_read(directory / ROOT_PEM),
        sign_public=_read(directory / ROOT_PUB),
        published=_read(state / "bootsets" / "published.json"),
        boot_sets=frozenset(
            bytes.fromhex(name) for name in names if re.fullmatch("[0-9a-f]{64}", name)
        ),
        policy=_read(directory / POLICY),
        policy_signature=_own_signature(directory, POLICY, SIGNED_POLICY),
        firmware=_read(directory / FIRMWARE),
        firmware_signature=_own_signature(directory, FIRMWARE, BASELINE),
        boot_files=_boot_files(directory, site),
        zones=read_zones(directory, site.zones),
        lease_public=_read(directory / LEASE_PUB),
        tpm_fault=None if device is None else fault_of(device),
        root_seen=look(),
        time_zone_known=site.site.time_zone in zoneinfo.available_timezones(),
        offline_keys=tuple(
            name.rpartition("/")[2] for name in (ROOT_KEY, SIGN_KEY) if (directory / name).exists()
        ),
    )


def _own_signature(directory: Path, name: str, kind: Kind) -> bytes | None:
    """Read the signature of a document: after a cut in an import it is one of two."""
    try:
        found = read_signed(directory / name, kind.max_bytes)
    except KeysError:
        return _read(directory / f"{name}.minisig")
    if found is None:
        return None
    key = _read(directory / ROOT_PUB) or b""
    for signature in found.signatures:
        with contextlib.suppress(KeysError):
            manifest.verify(key, found.data, signature, context=kind.context)
            return signature
    return found.signatures[0] if found.signatures else None


def _boot_files(directory: Path, site: Site) -> frozenset[str] | str:
    if site.boot.files is None:
        return frozenset()
    try:
        return frozenset(f"/{name}" for name, *_ in stamps(directory / site.boot.files))
    except SiteError as error:
        return str(error)


def check_site(directory: Path, state: Path) -> tuple[Site, tuple[Problem, ...]]:
    """Load and check a site; SiteFileError when the file itself cannot be read."""
    site = load(directory)
    return site, check(site, gather(directory, state, site))


def errors_of(problems: Sequence[Problem]) -> list[Problem]:
    """Keep what stops a site from starting."""
    return [one for one in problems if one.severity is Severity.ERROR]


def root_certificate(site: Site, key_file: Path) -> bytes:
    """Make the root certificate for the domain and the networks of a site, as PEM."""
    made = ca.make_root(
        read_root_key(key_file),
        site_id=site.site.id,
        domain=site.site.domain,
        networks=[
            *(subnet.network for subnet in site.subnets),
            *(subnet.network for subnet in site.subnets6),
        ],
        issue=_issue(),
    )
    return ca.pem([made]).encode()


def remake_root(directory: Path, site: Site, offline: Path | None = None) -> Path:
    """Make the root certificate again with the same key, after domain or networks changed."""
    path = directory / ROOT_PEM
    write(path, root_certificate(site, _offline(directory, offline, ROOT_KEY)))
    return path


def sign_intermediate(
    directory: Path, request_pem: bytes, kind: ca.Kind, offline: Path | None = None
) -> str:
    """Sign the request of the running appliance with the offline root; return the PEM."""
    data = _read(directory / ROOT_PEM)
    if data is None:
        raise SiteError(f"{directory / ROOT_PEM} is missing: run `doorstep init`")
    key = read_root_key(_offline(directory, offline, ROOT_KEY))
    try:
        request = x509.load_pem_x509_csr(request_pem)
        root = ca.load_certificate(data)
        if root.public_key() != key.public_key():
            raise SiteError(f"{ROOT_KEY} is not the key of {ROOT_PEM}: bring the right stick")
        issuer = ca.Issuer(certificate=root, key=key)
        return ca.pem([ca.sign_intermediate(issuer, request, kind=kind, issue=_issue())])
    except (ValueError, KeysError) as error:
        raise SiteError(f"the {kind.value} request cannot be signed: {error}") from error


def sign_note(directory: Path, site: Site, offline: Path | None = None) -> tuple[Path, int]:
    """Sign the delivery note, counter one above the last; return the signature and the counter."""
    path = directory / site.trust.delivery_note
    data = _read(path)
    if data is None:
        raise SiteError(f"{path} is missing: write it with the columns {','.join(note.HEADER)}")
    key = read_sign_key(_offline(directory, offline, SIGN_KEY))
    signature = path.with_name(f"{path.name}.minisig")
    counter = last_counter(signature) + 1
    try:
        note.decode(data)
    except KeysError as error:
        raise SiteError(f"{error}: correct {path} and sign again") from error
    comment = f"site={site.site.id} counter={counter}"
    signed = manifest.sign(key, data, trusted_comment=comment, context=note.CONTEXT)
    write(signature, signed)
    return signature, counter


def sign_document(
    directory: Path, data: bytes, comment: str, context: str, offline: Path | None = None
) -> bytes:
    """Sign a document of the site with the offline key; return the `.minisig` content."""
    key = read_sign_key(_offline(directory, offline, SIGN_KEY))
    return manifest.sign(key, data, trusted_comment=comment, context=context)


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a power cut leaves the old or the new; SiteError when it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(mode)
            Path(temporary).rename(path)
            _sync(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SiteError(f"cannot write {path}: {error.strerror}") from error


def _sync(directory: Path) -> None:
    """Make a rename durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _Maker:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.paths: list[Path] = []

    def write(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file that must not exist yet."""
        path = self._directory / name
        if path.exists():
            raise SiteError(f"{path} exists: choose an empty directory")
        write(path, data, mode)
        self.paths.append(path)


def _issue() -> ca.Issue:
    return ca.Issue(serial=secrets.randbits(159) | 1, now=ca.at(time.time()))


def last_counter(signature: Path) -> int:
    """Read the counter of the signature before; whoever checks it verifies it, this only counts."""
    text = (_read(signature) or b"").decode(errors="replace")
    return max((int(one) for one in _COUNTER.findall(text)), default=0)


def _offline(directory: Path, offline: Path | None, name: str) -> Path:
    return directory / name if offline is None else offline / name.rpartition("/")[2]


def _private_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _example(name: str) -> str:
    return resources("bootstrap").joinpath("example", name).read_text()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SiteError(f"cannot read {path}: {error.strerror}") from error


def _read_text(path: Path) -> str | None:
    data = _read(path)
    return None if data is None else data.decode(errors="replace")
