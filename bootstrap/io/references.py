"""The boot sets of a site as control believes them: verified manifests, facts computed from files.

Reference values come from files whose manifest verifies under the site's offline key, never from
what was sent to a box. A set that does not verify is left out, with a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from attest.bootfacts import BootFiles, Digests, FileFacts, IpxeFacts
from attest.errors import AttestError
from attest.expectation import ReferenceSet, SetState
from attest.ipxefacts import IpxeFiles
from attest.predict import Transport
from bootstrap.errors import BootstrapError, SiteError
from bootstrap.module_list import decode_modules
from bootstrap.planning import HTTPS_PORT
from bootstrap.published import Published, PublishedSet, PublishedState, decode_published
from bootstrap.rehearsal.record import RehearsalRecord, check_record, decode_record
from bootstrap.site import Site
from keys.errors import KeysError
from keys.signed import REHEARSAL as REHEARSED
from keys.signed import check_signed
from netboot.bootset import BootSetManifest, Role, grub_cfg, ipxe_script, iso_grub_cfg
from netboot.errors import NetbootError
from netboot.io.bootsets import (
    REHEARSAL,
    REHEARSAL_SIGNATURE,
    BootSetStore,
)

PUBLISHED = "published.json"

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedManifest:
    """One published set whose manifest verified."""

    published: PublishedSet
    manifest: BootSetManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """All published sets that verify, as manifests and as reference values; and what did not."""

    manifests: tuple[PublishedManifest, ...] = ()
    sets: tuple[ReferenceSet, ...] = ()
    problems: tuple[str, ...] = ()

    def is_outdated(self, loaded: float, now: float) -> bool:
        """Tell whether the time of a set ended since these were loaded."""
        ends = (one.published.until for one in self.manifests)
        return any(end is not None and loaded < end <= now for end in ends)

    def served(self) -> tuple[PublishedManifest, ...]:
        """The sets that boxes are given, one for each architecture."""
        wanted = PublishedState.SERVED
        return tuple(one for one in self.manifests if one.published.state is wanted)


def verified_record(store: BootSetStore, digest: bytes, key: bytes) -> RehearsalRecord:
    """Read a rehearsal's record that the site's offline key signed."""
    data = store.get(digest, REHEARSAL)
    signature = store.get(digest, REHEARSAL_SIGNATURE)
    check_signed(REHEARSED, data, signature, public_key=key, site_id="")
    return decode_record(data)


def load_references(bootsets: Path, site: Site, key: bytes, now: float) -> References:
    """Load everything that `published.json` names; what does not hold is left out and named.

    SiteError when `published.json` itself does not hold.
    """
    store = BootSetStore(bootsets)
    manifests, sets, problems = [], [], []
    for one in load_published(bootsets).sets:
        try:
            manifest = store.verified_manifest(one.digest, key)
            sets += list(_reference_sets(store, site, key, one, manifest, now))
            manifests.append(PublishedManifest(published=one, manifest=manifest))
        except (KeysError, NetbootError, AttestError, BootstrapError, OSError) as error:
            problems.append(f"boot set {one.digest.hex()[:12]} is not used: {error}")
    return References(manifests=tuple(manifests), sets=tuple(sets), problems=tuple(problems))


def load_published(bootsets: Path) -> Published:
    """Read `published.json`; nothing is published where there is none."""
    path = bootsets / PUBLISHED
    try:
        return decode_published(path.read_bytes())
    except FileNotFoundError:
        return Published()
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}") from error


def _reference_sets(
    store: BootSetStore,
    site: Site,
    key: bytes,
    one: PublishedSet,
    manifest: BootSetManifest,
    now: float,
) -> Iterator[ReferenceSet]:
    if one.state is not PublishedState.WITHDRAWN:
        # Nothing is accepted that was never rehearsed.
        check_record(verified_record(store, one.digest, key), manifest)
    state = _state(one, now)
    for address in boot_addresses(site):
        network = ReferenceSet(
            digest=one.digest,
            name=manifest.name,
            version=manifest.version,
            state=state,
            facts=network_facts(store, manifest, address),
            transports=(Transport.TFTP, Transport.HTTP),
            servers=(str(address),),
        )
        yield network
        if site.boot.https:
            server = server_with_port(address, HTTPS_PORT)
            yield replace(network, transports=(Transport.HTTPS,), servers=(server,))
    if Role.CDGRUB in manifest.roles:
        yield ReferenceSet(
            digest=one.digest,
            name=manifest.name,
            version=manifest.version,
            state=state,
            facts=iso_facts(store, manifest),
            transports=(Transport.ISO,),
            servers=("",),
        )
    if Role.IPXE in manifest.roles:
        yield ReferenceSet(
            digest=one.digest,
            name=manifest.name,
            version=manifest.version,
            state=state,
            facts=ipxe_facts(store, manifest),
            transports=(Transport.IPXE,),
            servers=("",),
        )


def boot_addresses(site: Site) -> Iterator[Address]:
    """Give our addresses in the networks that boot from here."""
    yield from (subnet.appliance for subnet in site.subnets if subnet.boot)
    yield from (subnet.appliance for subnet in site.subnets6 if subnet.boot)


def server_with_port(address: Address, port: int) -> str:
    """Name a server as GRUB does where its URL had a port."""
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def network_facts(store: BootSetStore, manifest: BootSetManifest, server: Address) -> FileFacts:
    """Compute the facts of a set as a box loads it from `server`."""
    return _facts(store, manifest, Role.GRUB, grub_cfg(manifest, server))


def iso_facts(store: BootSetStore, manifest: BootSetManifest) -> FileFacts:
    """Compute the facts of a set as a box loads it from its ISO."""
    return _facts(store, manifest, Role.CDGRUB, iso_grub_cfg(manifest))


def ipxe_facts(store: BootSetStore, manifest: BootSetManifest) -> IpxeFacts:
    """Compute the facts of a set as a box without Secure Boot loads it by iPXE."""
    store.check_files(manifest)
    facts = IpxeFacts.compute(
        IpxeFiles(
            ipxe=_content(store, manifest, Role.IPXE),
            script=ipxe_script(manifest),
            kernel=_content(store, manifest, Role.KERNEL),
            initrds=_initrds(store, manifest),
        )
    )
    return replace(facts, modules=known_modules(store, manifest))


def _facts(store: BootSetStore, manifest: BootSetManifest, grub: Role, config: bytes) -> FileFacts:
    store.check_files(manifest)
    facts = FileFacts.compute(
        BootFiles(
            shim=_content(store, manifest, Role.SHIM),
            grub=_content(store, manifest, grub),
            grub_cfg=config,
            kernel=_content(store, manifest, Role.KERNEL),
            initrds=_initrds(store, manifest),
        )
    )
    return replace(facts, modules=known_modules(store, manifest))


def _initrds(store: BootSetStore, manifest: BootSetManifest) -> tuple[bytes, ...]:
    return tuple(_content(store, manifest, role) for role in (Role.GENERIC, Role.ANCHOR))


def _content(store: BootSetStore, manifest: BootSetManifest, role: Role) -> bytes:
    return store.file(manifest.roles[role].sha256).read_bytes()


def known_modules(store: BootSetStore, manifest: BootSetManifest) -> tuple[Digests, ...]:
    """Give the modules that a set's initrd may load; none for a set built without a list."""
    if Role.MODULES not in manifest.roles:
        return ()
    return decode_modules(store.file(manifest.roles[Role.MODULES].sha256).read_bytes())


def _state(one: PublishedSet, now: float) -> SetState:
    if one.state is PublishedState.WITHDRAWN:
        return SetState.WITHDRAWN
    if not one.is_accepted(now):
        return SetState.OLDER
    return SetState.SERVED if one.state is PublishedState.SERVED else SetState.ACCEPTED
