"""Boot sets of a site, as the operator handles them: build, sign, rehearse, publish, withdraw.

Runs as root on the command line; it is the one writer of `published.json`. Nothing is published
that is not signed by the site, was not rehearsed, or whose anchor holds another site root. It
judges no box. design.md, "Boot sets".
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from attest.bootfacts import Facts
from attest.predict import Transport
from bootstrap.build.lock import Lock
from bootstrap.build.parts import assemble, build_parts, default_cache
from bootstrap.errors import SiteError
from bootstrap.io import site_dir
from bootstrap.io.references import ipxe_facts, iso_facts, network_facts, verified_record
from bootstrap.planning import grub_cfg_files
from bootstrap.published import PublishedSet, PublishedState
from bootstrap.rehearsal.measured import measure_all
from bootstrap.rehearsal.record import (
    CONTEXT,
    RehearsalRecord,
    check_measured,
    check_record,
    core_digest,
)
from bootstrap.rehearsal.serve import measuring_subnet
from bootstrap.site import Site
from keys.errors import KeysError
from netboot.bootset import SIGNATURE_CONTEXT, BootSetManifest, Role, anchor_cpio
from netboot.errors import NetbootError
from netboot.io.bootsets import REHEARSAL, REHEARSAL_SIGNATURE, SIGNATURE, BootSetStore

BANK = "sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """The boot sets of one site; `offline` is where its keys are now, None for SITE/offline."""

    directory: Path
    state: Path
    offline: Path | None = None

    @property
    def store(self) -> BootSetStore:
        """The files."""
        return BootSetStore(self.state / "bootsets")

    @property
    def site(self) -> Site:
        """The settings."""
        return site_dir.load(self.directory)

    def build(
        self, lock: Lock, name: str, cache: Path | None = None, *, ipxe: bool = False
    ) -> BootSetManifest:
        """Build a set out of locked packages with this site's anchor, and sign its manifest.

        With `ipxe` it carries what machines without Secure Boot start it by too.
        """
        parts = build_parts(lock, cache or default_cache(), ipxe=ipxe)
        release = f"Debian 13, kernel {parts.kernel_version}"
        manifest = assemble(
            self.store,
            parts,
            self._anchor(release),
            name=name,
            version=self._next_version(name),
            created=int(time.time()),
            release=release,
        )
        manifest = self.store.manifest(manifest.digest)
        self._sign(manifest.digest, manifest.encode(), manifest.signature_comment)
        return manifest

    def rehearse(self, digest: bytes, work: Path) -> RehearsalRecord:
        """Boot a set's exact bytes in a virtual box each way; sign that they measured right.

        RehearsalError when they did not.
        """
        manifest, site = self._verified(digest), self.site
        measured = measure_all(manifest, self.store, site, work)
        for transport, facts, server in self._ways(manifest, site):
            found = measured[transport]
            check_measured(found.log, found.pcrs, facts, transport=transport, server=server)
        pcrs = {transport.value: found.pcrs[BANK] for transport, found in measured.items()}
        record = RehearsalRecord(
            core=core_digest(manifest), at=int(time.time()), bank=BANK, pcrs=pcrs
        )
        data, comment = record.encode(), f"boot set {manifest.name} version {manifest.version}"
        signed = site_dir.sign_document(self.directory, data, comment, CONTEXT, self.offline)
        self.store.put(digest, REHEARSAL, data)
        self.store.put(digest, REHEARSAL_SIGNATURE, signed)
        return record

    def publish(self, digest: bytes, keep: timedelta) -> BootSetManifest:
        """Serve a set; evidence of the one before is accepted for `keep` more.

        SiteError, PeerError or ManifestError when it must not be.
        """
        manifest, site = self._verified(digest), self.site
        self.store.check_files(manifest)
        self._check_rehearsed(digest, manifest)
        own = sha256(self._anchor(manifest.release)).digest()
        if manifest.roles[Role.ANCHOR].sha256 != own:
            raise SiteError(
                f"boot set {manifest.name}: its anchor is not of this site's root, id and domain: "
                "build it again"
            )
        for data in grub_cfg_files(site, manifest):
            self.store.add_file(data, "grub.cfg")
        published = site_dir.load_published(self.state)
        until = int(time.time() + keep.total_seconds())
        served = published.serve(digest, keep_until=until, architecture=manifest.architecture)
        site_dir.save_published(self.state, served)
        return manifest

    def withdraw(self, digest: bytes) -> None:
        """Withdraw a set for good."""
        published = site_dir.load_published(self.state)
        site_dir.save_published(self.state, published.withdraw(digest))

    def find(self, text: str) -> bytes:
        """Find a set by name or by the start of its digest."""
        return self.store.find(text)

    def sets(self) -> Iterator[tuple[BootSetManifest, PublishedSet | None, bool]]:
        """Give each set in the store, how it is published, and whether it was rehearsed."""
        published = site_dir.load_published(self.state)
        for digest in self.store.digests():
            manifest = self.store.manifest(digest)
            yield manifest, published.find(digest), self._is_rehearsed(digest, manifest)

    def _ways(
        self, manifest: BootSetManifest, site: Site
    ) -> Iterator[tuple[Transport, Facts, str]]:
        """Give each way a set was measured: its facts, and our address as GRUB names it."""
        address = measuring_subnet(site).appliance
        yield Transport.TFTP, network_facts(self.store, manifest, address), str(address)
        yield Transport.ISO, iso_facts(self.store, manifest), ""
        if Role.IPXE in manifest.roles:
            yield Transport.IPXE, ipxe_facts(self.store, manifest), ""

    def _is_rehearsed(self, digest: bytes, manifest: BootSetManifest) -> bool:
        try:
            self._check_rehearsed(digest, manifest)
        except (NetbootError, KeysError, SiteError):
            return False
        return True

    def _check_rehearsed(self, digest: bytes, manifest: BootSetManifest) -> None:
        if not self.store.has(digest, REHEARSAL):
            raise SiteError(
                f"boot set {manifest.name} was never rehearsed: "
                f"run `doorstep bootset rehearse {digest.hex()[:12]}`"
            )
        check_record(verified_record(self.store, digest, self._public()), manifest)

    def _verified(self, digest: bytes) -> BootSetManifest:
        if not self.store.has(digest, SIGNATURE):
            raise SiteError(f"boot set {digest.hex()[:12]} is not signed: build it again")
        return self.store.verified_manifest(digest, self._public())

    def _sign(self, digest: bytes, data: bytes, comment: str) -> None:
        signed = site_dir.sign_document(
            self.directory, data, comment, SIGNATURE_CONTEXT, self.offline
        )
        self.store.put(digest, SIGNATURE, signed)

    def _anchor(self, release: str) -> bytes:
        site = self.site
        return anchor_cpio(
            site_root_pem=_read(self.directory / site_dir.ROOT_PEM),
            site_id=site.site.id,
            server_name=site.server_name,
            release=release,
        )

    def _next_version(self, name: str) -> int:
        known = (self.store.manifest(digest) for digest in self.store.digests())
        return max((one.version for one in known if one.name == name), default=0) + 1

    def _public(self) -> bytes:
        return _read(self.directory / site_dir.ROOT_PUB)


def state_word(one: PublishedSet | None, now: float) -> str:
    """Say in a word or two how a set is published."""
    if one is None:
        return "not published"
    if one.state is PublishedState.ACCEPTED and not one.is_accepted(now):
        return "no longer accepted"
    return one.state.value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}: run `doorstep init`") from error
