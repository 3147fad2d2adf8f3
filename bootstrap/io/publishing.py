"""Publishing boot sets: only one that is signed, was rehearsed, and whose files are whole.

Used by the command line and by rehearsals, as root. What is published is one file, replaced at
once; control takes it over by itself. docs/architecture.md, "Directories".
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path

from attest.predict import Transport
from bootstrap.errors import SiteError
from bootstrap.io import site_dir
from bootstrap.io.references import network_facts, verified_manifest, verified_record
from bootstrap.planning import grub_cfg_files
from bootstrap.rehearsal.record import (
    CONTEXT,
    RehearsalRecord,
    check_measured,
    check_record,
    core_digest,
)
from bootstrap.site import Site
from keys.errors import KeysError
from keys.manifest import PublicKey
from netboot.bootset import BootSetManifest
from netboot.io.bootsets import REHEARSAL, REHEARSAL_SIGNATURE, BootSetStore

KEEP_SECONDS = 14 * 86400
"""How long the set before stays acceptable: boxes that were on their way get through."""


def keep_record(
    directory: Path, store: BootSetStore, manifest: BootSetManifest, record: RehearsalRecord
) -> None:
    """Sign a rehearsal's record with the offline key and keep it beside the set."""
    data = record.encode()
    comment = f"rehearsal of {manifest.name} version {manifest.version}"
    signature = site_dir.sign_document(directory, data, comment, CONTEXT)
    store.put(manifest.digest, REHEARSAL, data)
    store.put(manifest.digest, REHEARSAL_SIGNATURE, signature)


def borrow_record(store: BootSetStore, manifest: BootSetManifest) -> bool:
    """Give a set the record of another one of the same files; False when there is none."""
    for digest in store.digests():
        if core_digest(store.manifest(digest)) == core_digest(manifest) and store.has(
            digest, REHEARSAL_SIGNATURE
        ):
            for name in (REHEARSAL, REHEARSAL_SIGNATURE):
                store.put(manifest.digest, name, store.get(digest, name))
            return True
    return False


def publish(directory: Path, state: Path, site: Site, digest: bytes, now: float) -> None:
    """Serve a boot set from now on; SiteError or PeerError says why it may not be."""
    store = BootSetStore(state / "bootsets")
    key = PublicKey.decode((directory / site_dir.ROOT_PUB).read_bytes())
    try:
        manifest = verified_manifest(store, digest, key)
        check_record(verified_record(store, digest, key), manifest)
    except KeysError as error:
        raise SiteError(f"boot set {digest.hex()[:12]} cannot be published: {error}") from error
    store.check_files(manifest)
    for content in grub_cfg_files(site, manifest):
        store.add_file(content, "grub.cfg")
    published = site_dir.load_published(state)
    changed = published.serve(digest, keep_until=int(now) + KEEP_SECONDS)
    site_dir.save_published(state, changed)


def withdraw(state: Path, digest: bytes) -> None:
    """Withdraw a boot set for good, here; the key service is told by the caller too."""
    site_dir.save_published(state, site_dir.load_published(state).withdraw(digest))


def judge_measured(
    store: BootSetStore,
    manifest: BootSetManifest,
    log: bytes,
    pcrs: Mapping[str, Mapping[int, bytes]],
    server: IPv4Address,
    now: float,
) -> RehearsalRecord:
    """Compare a boot over the network with its prediction and make the record of it."""
    facts = network_facts(store, manifest, server)
    check_measured(log, pcrs, facts, transport=Transport.TFTP, server=str(server))
    return RehearsalRecord(
        core=core_digest(manifest), at=int(now), bank="sha256", pcrs={"tftp": dict(pcrs["sha256"])}
    )
