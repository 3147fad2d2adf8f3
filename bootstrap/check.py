"""Checks a whole site at once: do its settings agree with each other and with what lies beside?

Pure: settings, the content of the files and the time in, all problems out. It never opens a file
(`bootstrap.io.site_dir` gathers them) and never changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Interface

from cryptography import x509

from attest.anchors import decode_parts
from attest.errors import AttestSiteError
from attest.firmwarefile import verify_baseline
from attest.policy import Policy
from bootstrap.check_controller import check_controller
from bootstrap.check_network import (
    check_network,
    is_host,
    span_text,
    twice,
    worth,
    wrong,
    zone_problems,
)
from bootstrap.check_upstreams import check_upstreams
from bootstrap.errors import SiteError
from bootstrap.planning import boot_address, make_plan
from bootstrap.published import decode_published
from bootstrap.site import Problem, Role, Severity, Site
from bootstrap.templates import BoxNetwork, BoxValues, render
from keys.ca import check_root, load_certificate, may_vouch
from keys.errors import PeerError
from keys.note import DeliveryNote
from keys.rootfs import Seen
from keys.signed import POLICY as SIGNED_POLICY
from keys.signed import check_signed
from netboot.plan_check import check as check_plan

ROOT = "trust/root.pem"
PUBLISHED = "bootsets/published.json"
POLICY, FIRMWARE = "policy.toml", "trust/firmware.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFiles:
    """What lies beside the site file; None for what is not there.

    `templates` and `anchors` by path relative to the site, `boot_sets` the digests in the store,
    `published` None when nothing was published yet. `boot_files` are the operator's own, each path
    with a slash before it, or why they cannot be read; `zones` the master files likewise.
    `upstream_cas`: authorities of upstreams by path.
    `tpm_fault` says why this machine has no such TPM as the site file names, `root_seen` what its
    kernel says of the root file system.
    """

    templates: Mapping[str, str | None]
    anchors: Mapping[str, bytes]
    delivery_note: bytes | None
    delivery_signature: bytes | None
    root_certificate: bytes | None
    sign_public: bytes | None
    published: bytes | None
    boot_sets: frozenset[bytes]
    time_zone_known: bool
    offline_keys: tuple[str, ...] = ()
    policy: bytes | None = None
    policy_signature: bytes | None = None
    firmware: bytes | None = None
    firmware_signature: bytes | None = None
    boot_files: frozenset[str] | str = frozenset()
    zones: Mapping[str, bytes | str] = field(default_factory=dict)
    lease_public: bytes | None = None
    tpm_fault: str | None = None
    upstream_cas: Mapping[str, bytes | None] = field(default_factory=dict)
    root_seen: Seen | None = None


def check(site: Site, files: SiteFiles) -> tuple[Problem, ...]:
    """List everything that is wrong, errors before notes."""
    found = [
        *_identity(site, files),
        *check_network(site),
        *_zones(site, files),
        *_boot(site, files),
        *_page(site),
        *_roles(site),
        *_secrets(site),
        *check_upstreams(site, files.upstream_cas),
        *check_controller(site, files.lease_public, files.tpm_fault, files.root_seen),
        *_templates(site, files),
        *_trust(site, files),
        *_note(site, files),
        *_policy(site, files),
        *_firmware(files),
        *_published(files),
    ]
    if not any(one.severity is Severity.ERROR for one in found):
        found += _plan(site, files)
    return tuple(sorted(found, key=lambda one: one.severity is not Severity.ERROR))


def _plan(site: Site, files: SiteFiles) -> Iterator[Problem]:
    """Say what netboot would not take of a plan made of this."""
    own = files.boot_files if isinstance(files.boot_files, frozenset) else frozenset()
    plan = make_plan(site, (), (), (), 1, files=dict.fromkeys(own, bytes(32)))
    for sentence in check_plan(plan):
        yield wrong("", f"netboot cannot serve it: {sentence}", "correct it")


def _zones(site: Site, files: SiteFiles) -> Iterator[Problem]:
    for zone in site.zones:
        yield from zone_problems(zone, files.zones)
        is_ours = f".{zone.name}".endswith(
            (f".{site.site.domain}.", ".in-addr.arpa.", ".ip6.arpa.")
        )
        if zone.signed and not is_ours:
            what = f"only what is in {site.site.domain} and reverse zones are signed"
            yield wrong(f"zone.{zone.name}signed", what, "leave it out")


def _identity(site: Site, files: SiteFiles) -> Iterator[Problem]:
    if not files.time_zone_known:
        zone = site.site.time_zone
        yield wrong("site.time_zone", f"there is no time zone {zone}", "write it as Europe/London")


def _boot(site: Site, files: SiteFiles) -> Iterator[Problem]:
    if isinstance(files.boot_files, str):
        yield wrong("boot.files", files.boot_files, "name a directory beside this file")
    if boot_address(site) is None:
        yield wrong("subnet", "no subnet has boot = true", "set it where the boxes are")
    named = [
        *(("reservation", one.boot_set) for one in site.reservations),
        *(("reservation6", one.boot_set) for one in site.reservations6),
    ]
    for table, wanted in named:
        if wanted and not any(digest.hex().startswith(wanted) for digest in files.boot_sets):
            key = f"{table}.boot_set"
            what = f"no boot set in the store begins with {wanted}"
            yield worth(key, what, "until there is one, this box boots the served set")


def _page(site: Site) -> Iterator[Problem]:
    listen = site.page.listen
    if listen.address not in {one.appliance for one in site.subnets}:
        what = f"{listen.address} is not an address of this appliance"
        yield wrong("page.listen", what, "take the appliance address of a subnet")
    if listen.port in (80, 53, 8443):
        yield wrong("page.listen", f"port {listen.port} is in use by Doorstep itself", "take 443")


def _roles(site: Site) -> Iterator[Problem]:
    yield from twice("role", "name", [role.name for role in site.roles])
    if sum(role.default for role in site.roles) > 1:
        yield wrong("role.default", "is set for more than one role", "keep one")
    for index, role in enumerate(site.roles):
        for other in site.roles[:index]:
            if role.hostname == other.hostname:
                key = f"role.{role.name}.hostname"
                yield wrong(key, f"is that of role {other.name} too", "choose another pattern")
            if role.addresses and other.addresses and role.addresses.overlaps(other.addresses):
                key = f"role.{role.name}.addresses"
                yield wrong(key, f"overlaps with role {other.name}", "make the ranges disjoint")
        yield from _role_addresses(site, role)
        yield from _role_renewal(role)


def _role_renewal(role: Role) -> Iterator[Problem]:
    key = f"role.{role.name}.renew"
    if role.renew is None:
        return
    if role.after != "stay":
        what = "a box that goes off has nothing to renew"
        yield wrong(key, what, 'leave it out, or write after = "stay"')
    elif not timedelta() < role.renew < timedelta(days=role.certificate_days):
        what = f"is not inside the {role.certificate_days} days that a certificate lasts"
        yield wrong(key, what, "make it shorter, half of that or less")


def _role_addresses(site: Site, role: Role) -> Iterator[Problem]:
    key, span = f"role.{role.name}.addresses", role.addresses
    if span is None:
        return
    subnet = site.subnet_of(span.first)
    if subnet is None or not (is_host(subnet, span.first) and is_host(subnet, span.last)):
        yield wrong(key, f"{span_text(span)} is not inside one subnet", "correct the range")
        return
    if any(span.overlaps(pool) for pool in subnet.ranges):
        what = f"overlaps with the pool of subnet {subnet.name}"
        yield wrong(key, what, "the pool is for boxes that are not enrolled: keep them apart")


def _secrets(site: Site) -> Iterator[Problem]:
    yield from twice("secret", "name", [one.name for one in site.secrets])
    known = {one.name for one in site.secrets}
    used: set[str] = set()
    for role in site.roles:
        yield from twice(f"role.{role.name}", "secrets", list(role.secrets))
        used |= set(role.secrets)
        for name in role.secrets:
            if name not in known:
                key = f"role.{role.name}.secrets"
                yield wrong(key, f"there is no [[secret]] {name}", "add it, or take it out here")
    for name in sorted(known - used):
        yield worth(f"secret.{name}", "no role has it", "add it to a role, or remove it")
    for one in site.secrets:
        if one.kind == "secret" and one.ttl is None:
            yield wrong(f"secret.{one.name}.ttl", "is missing", 'add it, as in ttl = "14d"')
        if one.kind != "secret" and one.max_stale:
            what = f"a {one.kind} that has ended is of no use"
            yield wrong(f"secret.{one.name}.max_stale", what, "leave it out")


def _templates(site: Site, files: SiteFiles) -> Iterator[Problem]:
    for role in site.roles:
        key, text = f"role.{role.name}.config", files.templates.get(role.config)
        if text is None:
            yield wrong(key, f"cannot read {role.config}", "write the template there")
            continue
        try:
            seed = render(text, sample(site, role), site.site, role.secrets, file=role.config)
        except SiteError as error:
            what, _, remedy = str(error).rpartition(": ")
            yield wrong("", what.removeprefix(f"{role.config}: "), remedy, file=role.config)
            continue
        if not seed.user_data.startswith(b"#"):
            what = "cloud-init would ignore it: it does not begin with #cloud-config or #!"
            yield wrong("", what, "begin it with #cloud-config", file=role.config)


def sample(site: Site, role: Role) -> BoxValues:
    """Make up the values of the first box of a role, to try a template with."""
    subnet = site.boot_subnet or site.subnets[0]
    first = role.addresses.first if role.addresses else subnet.network.network_address + 1
    name = role.hostname.name(1)
    return BoxValues(
        instance_id="6f1c0000-0000-5000-8000-000000000000",
        hostname=name,
        fqdn=f"{name}.{site.site.domain}",
        role=role.name,
        network=BoxNetwork(
            mac="02:00:00:00:00:01",
            address=IPv4Interface((first, subnet.network.prefixlen)),
            gateway=subnet.gateway,
            dns=(subnet.appliance,),
        ),
    )


def _trust(site: Site, files: SiteFiles) -> Iterator[Problem]:
    for path, data in sorted(files.anchors.items()):
        try:
            decode_parts(path, data)
        except AttestSiteError:
            remedy = "put PEM certificates of TPM makers there, or remove the file"
            yield wrong("", "is no PEM certificate", remedy, file=path)
    if not files.anchors:
        what = "there is no certificate of a TPM maker"
        yield worth("trust.ek_anchors", what, "boxes pass by the EK in the delivery note alone")
    yield from _root(site, files.root_certificate)
    if files.offline_keys:
        what = f"{' and '.join(files.offline_keys)} still on this machine"
        yield worth(
            "", what, "move the directory to a stick and keep that elsewhere", file="offline"
        )


def _root(site: Site, data: bytes | None) -> Iterator[Problem]:
    if data is None:
        yield wrong("", "is missing", "run `doorstep init`", file=ROOT)
        return
    try:
        root = load_certificate(data)
        check_root(root)
    except PeerError as error:
        yield wrong("", str(error), "run `doorstep ca root`", file=ROOT)
        return
    names = root.extensions.get_extension_for_class(x509.NameConstraints).value
    permitted = names.permitted_subtrees or []
    domains = {one.value for one in permitted if isinstance(one, x509.DNSName)}
    if not any(f".{site.site.domain}".endswith(f".{domain}") for domain in domains):
        what = f"may not vouch for names in {site.site.domain}"
        yield wrong("", what, "run `doorstep ca root` and build the boot set again", file=ROOT)
    remake = "run `doorstep ca root` and build the boot set again"
    for subnet in site.subnets:
        if not may_vouch(root, subnet.appliance):
            what = f"may not vouch for {subnet.appliance} of subnet {subnet.name}"
            yield wrong("", what, remake, file=ROOT)
    for six in site.subnets6:
        if not may_vouch(root, six.appliance):  # boxes check the name: they enrol all the same
            what = f"may not vouch for {six.appliance} of subnet6 {six.name}"
            yield worth("", what, remake, file=ROOT)


def _note(site: Site, files: SiteFiles) -> Iterator[Problem]:
    file = site.trust.delivery_note
    sign = "sign it with `doorstep note sign`"
    if files.delivery_note is None:
        yield wrong(
            "trust.delivery_note", f"cannot read {file}", "write it, or run `doorstep init`"
        )
        return
    if files.sign_public is None:
        yield wrong("", "is missing", "run `doorstep init`", file="trust/root.pub")
        return
    if files.delivery_signature is None:
        yield wrong("", f"{file}.minisig is missing", sign, file=file)
        return
    try:
        note = DeliveryNote.verify(
            files.delivery_note,
            files.delivery_signature,
            public_key=files.sign_public,
            site_id=site.site.id,
            floor=None,
        )
    except PeerError as error:
        yield wrong("", str(error), f"correct it and {sign}", file=file)
        return
    for entry in note.entries:
        if entry.role is not None and site.role(entry.role) is None:
            remedy = "correct it there, or add the role to site.toml"
            yield wrong(
                f"serial {entry.serial}", f"there is no role {entry.role}", remedy, file=file
            )
        if entry.role is None and site.role(None) is None:
            remedy = "name one, or set default = true for a role in site.toml"
            yield wrong(f"serial {entry.serial}", "has no role", remedy, file=file)


def _policy(site: Site, files: SiteFiles) -> Iterator[Problem]:
    if files.policy is None:
        return
    try:
        policy = Policy.from_toml(files.policy.decode(), POLICY)
    except UnicodeDecodeError:
        yield wrong("", "is not UTF-8 text", "save it as UTF-8", file=POLICY)
        return
    except AttestSiteError as error:
        what = str(error).removeprefix(f"{POLICY}: ")
        yield wrong("", what, "correct it: `doorstep policy check` looks at it", file=POLICY)
        return
    if policy.rehearsal:
        yield wrong("rehearsal", "no TPM in software passes at a site", "remove it", file=POLICY)
    if files.policy_signature is not None:
        yield from _policy_signature(site, files, files.policy, files.policy_signature)


def _policy_signature(
    site: Site, files: SiteFiles, policy: bytes, signature: bytes
) -> Iterator[Problem]:
    """Say why a signed policy is not taken."""
    key = files.sign_public or b""
    try:
        check_signed(SIGNED_POLICY, policy, signature, public_key=key, site_id=site.site.id)
    except PeerError as error:
        what, _, remedy = str(error).rpartition(": ")
        yield wrong("", what, remedy, file=POLICY)


def _firmware(files: SiteFiles) -> Iterator[Problem]:
    """Say why a firmware baseline is not used; boxes are then held, and the site goes on."""
    if files.firmware is None:
        what = "headquarters sent none, so every box is held for its firmware once"
        if files.policy is None or b"FIRMWARE-UNKNOWN" not in files.policy:
            remedy = "put the signed file there, or release boxes one by one"
            yield worth("", what, remedy, file=FIRMWARE)
        return
    try:
        verify_baseline(
            files.firmware, files.firmware_signature or b"", public_key=files.sign_public or b""
        )
    except (AttestSiteError, PeerError) as error:
        what = f"is not used: {str(error).removeprefix('firmware.toml: ')}"
        yield worth("", what, "put what headquarters signed there", file=FIRMWARE)


def _published(files: SiteFiles) -> Iterator[Problem]:
    if files.published is None:
        what = "no boot set is published: boxes find nothing to start"
        yield worth("", what, "run `doorstep bootset build` and `publish`", file=PUBLISHED)
        return
    try:
        published = decode_published(files.published)
    except SiteError as error:
        what, _, remedy = str(error).removeprefix("published.json ").rpartition(": ")
        yield wrong("", what, remedy, file=PUBLISHED)
        return
    for one in published.sets:
        if one.digest not in files.boot_sets and one.until is None and one in published.served:
            what = f"boot set {one.digest.hex()[:12]} is not in the store"
            yield wrong("", what, "build or import it again, or publish another", file=PUBLISHED)
    if not published.served:
        what = "no boot set is served: boxes find nothing to start"
        yield worth("", what, "run `doorstep bootset publish`", file=PUBLISHED)
