"""A rehearsal's own site: throw-away root, anchors, secrets and state, with the real settings.

Nothing of it can be used by `doorstep run`: its state carries a mark, its root signs nothing else,
and the CA of its software TPMs is refused as an anchor everywhere but here. It starts nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attest.ektemplate import TEMPLATES
from bootstrap.build.parts import Parts, assemble
from bootstrap.errors import SiteError
from bootstrap.io import site_dir
from bootstrap.io.site_dir import NewSite
from bootstrap.planning import boot_address
from bootstrap.rehearsal.box import VirtualBox
from bootstrap.rehearsal.controller import Controller
from bootstrap.site import SITE_FILE, Site
from keys import note
from keys.io.layout import REHEARSAL_MARK, SERVICES, Layout
from keys.tpm_public import EccPublic, PublicArea, RsaPublic
from netboot.bootset import SIGNATURE_CONTEXT, BootSetManifest, anchor_cpio
from netboot.io.bootsets import SIGNATURE, BootSetStore

FIRST_UID = 61001
USERS = {name: FIRST_UID + index for index, name in enumerate(SERVICES)}
"""Uids without names: a rehearsal adds no user to the machine."""
DEMO = NewSite(
    id="rehearsal",
    domain="rehearsal.example.net",
    interface="eth0",
    network=IPv4Network("10.77.0.0/24"),
    title="Rehearsal",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rehearsal lives, and the settings it rehearses; `controller` where it has a TPM."""

    layout: Layout
    site: Site
    controller: Controller | None = None

    @property
    def address(self) -> IPv4Interface:
        """Our address on the one network that boxes boot from, with its prefix."""
        subnet = self.site.subnets[0]
        return IPv4Interface(f"{subnet.appliance}/{subnet.network.prefixlen}")

    @property
    def bootsets(self) -> BootSetStore:
        """The store of boot sets."""
        return BootSetStore(self.layout.state / "bootsets")


def prepare(work: Path, source: Path | None) -> Place:
    """Make a rehearsal's site in an empty directory, from the settings in `source` or the example.

    SiteError for a site that cannot be rehearsed.
    """
    wanted = site_dir.load(source) if source is not None else None
    if wanted is not None and (len(wanted.subnets) != 1 or boot_address(wanted) is None):
        raise SiteError(
            "site.toml: a site of one [[subnet]] that boots boxes can be rehearsed so far"
        )
    layout = Layout(site=work / "site", state=work / "state", run=work / "run", users=USERS)
    site_dir.init(layout.site, DEMO)
    if source is not None and wanted is not None:
        _take_settings(source, layout.site, wanted)
    else:
        _give_tpm(layout.site / SITE_FILE)
    layout.state.mkdir(mode=0o755)
    (layout.state / REHEARSAL_MARK).write_text("This state belongs to a rehearsal.\n")
    site = site_dir.load(layout.site)
    site_dir.remake_root(layout.site, site)
    controller = None
    if site.controller.tpm != "none":
        controller = Controller.make(layout, work)
    return Place(layout=layout, site=site, controller=controller)


def _give_tpm(path: Path) -> None:
    """Let the example's controller have a TPM: what is shown is what a site with one does."""
    text = path.read_text()
    wanted = text.replace('tpm = "none" ', 'tpm = "/dev/tpmrm0"')
    if wanted == text:
        raise SiteError(f"{path}: the example has no tpm to switch on")
    path.write_text(wanted)


def _take_settings(source: Path, target: Path, site: Site) -> None:
    shutil.copyfile(source / SITE_FILE, target / SITE_FILE)
    for upstream in site.upstreams:  # never asked: a rehearsal has no login of any
        (target / upstream.ca).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / upstream.ca, target / upstream.ca)
    for role in site.roles:
        (target / role.config).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / role.config, target / role.config)


def expect(place: Place, boxes: Sequence[VirtualBox]) -> None:
    """Put boxes on the signed delivery note, and their TPMs' CA among the anchors."""
    anchors = place.layout.site / place.site.trust.ek_anchors
    entries = []
    for number, box in enumerate(boxes, 1):
        for path in box.ca_certificates:
            shutil.copyfile(path, anchors / f"{number}-{path.stem}.pem")
            (anchors / f"{number}-{path.stem}.pem").chmod(0o644)
        entries.append(
            note.Entry(
                serial=box.serial_number,
                model=None,
                ek_sha256=ek_area(box).name()[2:],
                role=None,
                name=None,
            )
        )
    path = place.layout.site / place.site.trust.delivery_note
    site_dir.write(path, note.encode(tuple(entries)))
    site_dir.sign_note(place.layout.site, place.site)


def ek_area(box: VirtualBox) -> PublicArea:
    """Compute the public area of a box's id EK from its certificate and the TCG's template."""
    certificates = [x509.load_der_x509_certificate(p.read_bytes()) for p in box.ek_certificates]
    for template in TEMPLATES:
        for certificate in certificates:
            area = _fill(template.public, certificate.public_key())
            if area is not None:
                return area
    raise SiteError("the software TPM has no endorsement certificate of a known template")


def _fill(public: PublicArea, key: object) -> PublicArea | None:
    """Put a key into a template; None when it is of another kind or size."""
    blank = public.key
    if isinstance(blank, RsaPublic) and isinstance(key, rsa.RSAPublicKey):
        modulus = key.public_numbers().n.to_bytes(key.key_size // 8, "big")
        filled = replace(public, key=replace(blank, modulus=modulus))
        return filled if key.key_size == blank.bits else None
    if isinstance(blank, EccPublic) and isinstance(key, ec.EllipticCurvePublicKey):
        size, point = (key.key_size + 7) // 8, key.public_numbers()
        x, y = point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big")
        filled = replace(public, key=replace(blank, x=x, y=y))
        return filled if size == blank.curve.size else None
    return None


def make_boot_set(place: Place, parts: Parts, *, version: int, release: str) -> BootSetManifest:
    """Assemble and sign a boot set whose anchor holds this rehearsal's root."""
    anchor = anchor_cpio(
        site_root_pem=(place.layout.site / site_dir.ROOT_PEM).read_bytes(),
        site_id=place.site.site.id,
        server_name=place.site.server_name,
        release=release,
    )
    store = place.bootsets
    manifest = assemble(
        store,
        parts,
        anchor,
        name="rehearsal",
        version=version,
        created=int(time.time()),
        release=release,
    )
    signature = site_dir.sign_document(
        place.layout.site,
        manifest.encode(),
        manifest.signature_comment,
        SIGNATURE_CONTEXT,
    )
    store.put(manifest.digest, SIGNATURE, signature)
    return manifest
