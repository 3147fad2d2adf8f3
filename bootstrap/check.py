"""Checks a whole site at once: do its settings agree with each other and with what lies beside?

Pure: settings, the content of the files and the time in, all problems out. It never opens a file
(`bootstrap.io.site_dir` gathers them) and never changes anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from cryptography import x509

from attest.anchors import decode_parts
from attest.errors import AttestSiteError
from attest.firmwarefile import verify_baseline
from attest.policy import Policy
from bootstrap.errors import SiteError
from bootstrap.published import decode_published
from bootstrap.site import SITE_FILE, AddressRange, Problem, Role, Severity, Site, Subnet
from bootstrap.templates import BoxNetwork, BoxValues, render
from keys.ca import check_root, load_certificate
from keys.errors import PeerError
from keys.note import DeliveryNote

LARGEST_POOL = 16384
"""Addresses of one subnet's pools that netboot can hold."""
ROOT = "trust/root.pem"
PUBLISHED = "bootsets/published.json"
POLICY, FIRMWARE = "policy.toml", "trust/firmware.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFiles:
    """What lies beside the site file; None for what is not there.

    `templates` and `anchors` by path relative to the site, `boot_sets` the digests in the store,
    `published` None when nothing was published yet.
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
    firmware: bytes | None = None
    firmware_signature: bytes | None = None


def check(site: Site, files: SiteFiles) -> tuple[Problem, ...]:
    """List everything that is wrong, errors before notes."""
    found = [
        *_identity(site, files),
        *_subnets(site),
        *_reservations(site),
        *_page(site),
        *_roles(site),
        *_secrets(site),
        *_templates(site, files),
        *_trust(site, files),
        *_note(site, files),
        *_policy(files),
        *_firmware(files),
        *_published(files),
    ]
    return tuple(sorted(found, key=lambda one: one.severity is not Severity.ERROR))


def _wrong(key: str, what: str, remedy: str, *, file: str = SITE_FILE) -> Problem:
    return Problem(file=file, key=key, what=what, remedy=remedy)


def _worth(key: str, what: str, remedy: str, *, file: str = SITE_FILE) -> Problem:
    return Problem(file=file, key=key, what=what, remedy=remedy, severity=Severity.NOTE)


def _identity(site: Site, files: SiteFiles) -> Iterator[Problem]:
    if not files.time_zone_known:
        zone = site.site.time_zone
        yield _wrong("site.time_zone", f"there is no time zone {zone}", "write it as Europe/London")


def _subnets(site: Site) -> Iterator[Problem]:
    yield from _twice("subnet", "name", [one.name for one in site.subnets])
    yield from _twice("subnet", "appliance", [str(one.appliance) for one in site.subnets])
    for index, subnet in enumerate(site.subnets):
        yield from _subnet(subnet)
        for other in site.subnets[:index]:
            if subnet.network.overlaps(other.network):
                key = f"subnet.{subnet.name}.network"
                yield _wrong(key, f"overlaps with subnet {other.name}", "give each its own network")
    if site.boot_subnet is None:
        yield _wrong("subnet", "no subnet has boot = true", "set it where the boxes are")


def _subnet(subnet: Subnet) -> Iterator[Problem]:
    key, network = f"subnet.{subnet.name}", subnet.network
    inside = "choose one inside, not its first or last"
    for name, address in (("appliance", subnet.appliance), ("gateway", subnet.gateway)):
        if address is not None and not _is_host(subnet, address):
            yield _wrong(f"{key}.{name}", f"{address} is no host of {network}", inside)
    if subnet.gateway == subnet.appliance:
        yield _wrong(
            f"{key}.gateway", "is the appliance itself", "name the router, or leave it out"
        )
    if subnet.dhcp == "server" and not subnet.pools:
        yield _wrong(f"{key}.pool", "is empty", 'give a range, or set dhcp = "off"')
    if subnet.boot and subnet.dhcp == "off":
        what = "boxes are booted from here, and nothing tells them so"
        yield _worth(f"{key}.dhcp", what, "let the other server name shimx64.efi on this appliance")
    if sum(map(len, subnet.pools)) > LARGEST_POOL:
        yield _wrong(f"{key}.pool", f"has more than {LARGEST_POOL} addresses", "make it smaller")
    if not timedelta(minutes=2) <= subnet.lease <= timedelta(days=30):
        yield _wrong(f"{key}.lease", "is not between 2m and 30d", "take 12h")
    yield from _pools(subnet)


def _pools(subnet: Subnet) -> Iterator[Problem]:
    key = f"subnet.{subnet.name}.pool"
    for index, pool in enumerate(subnet.pools):
        if not (_is_host(subnet, pool.first) and _is_host(subnet, pool.last)):
            yield _wrong(key, f"{_range(pool)} is not inside {subnet.network}", "correct the range")
        for name, own in (("appliance", subnet.appliance), ("gateway", subnet.gateway)):
            if own is not None and own in pool:
                yield _wrong(key, f"{_range(pool)} holds the {name} {own}", "leave it out")
        if any(pool.overlaps(other) for other in subnet.pools[:index]):
            yield _wrong(key, f"{_range(pool)} overlaps with another range", "make them disjoint")


def _reservations(site: Site) -> Iterator[Problem]:
    reserved = site.reservations
    yield from _twice("reservation", "name", [one.name for one in reserved])
    yield from _twice("reservation", "mac", [one.mac.hex(":") for one in reserved])
    yield from _twice("reservation", "address", [str(one.address) for one in reserved])
    for one in reserved:
        key = f"reservation.{one.name}.address"
        subnet = site.subnet_of(one.address)
        if subnet is None or not _is_host(subnet, one.address):
            yield _wrong(key, f"{one.address} is no host of any subnet", "choose one inside")
        elif one.address in (subnet.appliance, subnet.gateway):
            yield _wrong(key, f"{one.address} is the appliance or the gateway", "choose another")
        elif any(one.address in pool for pool in subnet.pools):
            yield _wrong(key, f"{one.address} is in the pool", "choose one outside of it")
        if one.mac[0] & 1:
            yield _wrong(
                f"reservation.{one.name}.mac", "is a group address", "copy it from the label"
            )
        if one.name == "appliance":
            yield _wrong("reservation.appliance.name", "is this appliance's name", "choose another")


def _page(site: Site) -> Iterator[Problem]:
    listen = site.page.listen
    if listen.address not in {one.appliance for one in site.subnets}:
        what = f"{listen.address} is not an address of this appliance"
        yield _wrong("page.listen", what, "take the appliance address of a subnet")
    if listen.port in (80, 53, 8443):
        yield _wrong("page.listen", f"port {listen.port} is in use by Doorstep itself", "take 443")


def _roles(site: Site) -> Iterator[Problem]:
    yield from _twice("role", "name", [role.name for role in site.roles])
    if sum(role.default for role in site.roles) > 1:
        yield _wrong("role.default", "is set for more than one role", "keep one")
    for index, role in enumerate(site.roles):
        for other in site.roles[:index]:
            if role.hostname == other.hostname:
                key = f"role.{role.name}.hostname"
                yield _wrong(key, f"is that of role {other.name} too", "choose another pattern")
            if role.addresses and other.addresses and role.addresses.overlaps(other.addresses):
                key = f"role.{role.name}.addresses"
                yield _wrong(key, f"overlaps with role {other.name}", "make the ranges disjoint")
        yield from _role_addresses(site, role)


def _role_addresses(site: Site, role: Role) -> Iterator[Problem]:
    key, span = f"role.{role.name}.addresses", role.addresses
    if span is None:
        return
    subnet = site.subnet_of(span.first)
    if subnet is None or not (_is_host(subnet, span.first) and _is_host(subnet, span.last)):
        yield _wrong(key, f"{_range(span)} is not inside one subnet", "correct the range")
        return
    if any(span.overlaps(pool) for pool in subnet.pools):
        what = f"overlaps with the pool of subnet {subnet.name}"
        yield _wrong(key, what, "the pool is for boxes that are not enrolled: keep them apart")


def _secrets(site: Site) -> Iterator[Problem]:
    yield from _twice("secret", "name", [one.name for one in site.secrets])
    known = {one.name for one in site.secrets}
    used: set[str] = set()
    for role in site.roles:
        yield from _twice(f"role.{role.name}", "secrets", list(role.secrets))
        used |= set(role.secrets)
        for name in role.secrets:
            if name not in known:
                key = f"role.{role.name}.secrets"
                yield _wrong(key, f"there is no [[secret]] {name}", "add it, or take it out here")
    for name in sorted(known - used):
        yield _worth(f"secret.{name}", "no role has it", "add it to a role, or remove it")


def _templates(site: Site, files: SiteFiles) -> Iterator[Problem]:
    for role in site.roles:
        key, text = f"role.{role.name}.config", files.templates.get(role.config)
        if text is None:
            yield _wrong(key, f"cannot read {role.config}", "write the template there")
            continue
        try:
            seed = render(text, sample(site, role), site.site, role.secrets, file=role.config)
        except SiteError as error:
            what, _, remedy = str(error).rpartition(": ")
            yield _wrong("", what.removeprefix(f"{role.config}: "), remedy, file=role.config)
            continue
        if not seed.user_data.startswith(b"#"):
            what = "cloud-init would ignore it: it does not begin with #cloud-config or #!"
            yield _wrong("", what, "begin it with #cloud-config", file=role.config)


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
            yield _wrong("", "is no PEM certificate", remedy, file=path)
    if not files.anchors:
        what = "there is no certificate of a TPM maker"
        yield _worth("trust.ek_anchors", what, "boxes pass by the EK in the delivery note alone")
    yield from _root(site, files.root_certificate)
    if files.offline_keys:
        what = f"{' and '.join(files.offline_keys)} still on this machine"
        yield _worth(
            "", what, "move the directory to a stick and keep that elsewhere", file="offline"
        )


def _root(site: Site, data: bytes | None) -> Iterator[Problem]:
    if data is None:
        yield _wrong("", "is missing", "run `doorstep init`", file=ROOT)
        return
    try:
        root = load_certificate(data)
        check_root(root)
    except PeerError as error:
        yield _wrong("", str(error), "run `doorstep ca root`", file=ROOT)
        return
    names = root.extensions.get_extension_for_class(x509.NameConstraints).value
    permitted = names.permitted_subtrees or []
    domains = {one.value for one in permitted if isinstance(one, x509.DNSName)}
    spans = [one.value for one in permitted if isinstance(one, x509.IPAddress)]
    if not any(f".{site.site.domain}".endswith(f".{domain}") for domain in domains):
        what = f"may not vouch for names in {site.site.domain}"
        yield _wrong("", what, "run `doorstep ca root` and build the boot set again", file=ROOT)
    for subnet in site.subnets:
        if not any(_covers(span, subnet.appliance) for span in spans):
            what = f"may not vouch for {subnet.appliance} of subnet {subnet.name}"
            yield _wrong("", what, "run `doorstep ca root` and build the boot set again", file=ROOT)


def _covers(span: object, address: IPv4Address) -> bool:
    return isinstance(span, IPv4Network) and address in span


def _note(site: Site, files: SiteFiles) -> Iterator[Problem]:
    file = site.trust.delivery_note
    sign = "sign it with `doorstep note sign`"
    if files.delivery_note is None:
        yield _wrong(
            "trust.delivery_note", f"cannot read {file}", "write it, or run `doorstep init`"
        )
        return
    if files.sign_public is None:
        yield _wrong("", "is missing", "run `doorstep init`", file="trust/root.pub")
        return
    if files.delivery_signature is None:
        yield _wrong("", f"{file}.minisig is missing", sign, file=file)
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
        yield _wrong("", str(error), f"correct it and {sign}", file=file)
        return
    for entry in note.entries:
        if entry.role is not None and site.role(entry.role) is None:
            remedy = "correct it there, or add the role to site.toml"
            yield _wrong(
                f"serial {entry.serial}", f"there is no role {entry.role}", remedy, file=file
            )
        if entry.role is None and site.role(None) is None:
            remedy = "name one, or set default = true for a role in site.toml"
            yield _wrong(f"serial {entry.serial}", "has no role", remedy, file=file)


def _policy(files: SiteFiles) -> Iterator[Problem]:
    if files.policy is None:
        return
    try:
        policy = Policy.from_toml(files.policy.decode(), POLICY)
    except UnicodeDecodeError:
        yield _wrong("", "is not UTF-8 text", "save it as UTF-8", file=POLICY)
        return
    except AttestSiteError as error:
        what = str(error).removeprefix(f"{POLICY}: ")
        yield _wrong("", what, "correct it: `doorstep policy check` looks at it", file=POLICY)
        return
    if policy.rehearsal:
        yield _wrong("rehearsal", "no TPM in software passes at a site", "remove it", file=POLICY)


def _firmware(files: SiteFiles) -> Iterator[Problem]:
    """Say why a firmware baseline is not used; boxes are then held, and the site goes on."""
    if files.firmware is None:
        what = "headquarters sent none, so every box is held for its firmware once"
        if files.policy is None or b"FIRMWARE-UNKNOWN" not in files.policy:
            remedy = "put the signed file there, or release boxes one by one"
            yield _worth("", what, remedy, file=FIRMWARE)
        return
    try:
        verify_baseline(
            files.firmware, files.firmware_signature or b"", public_key=files.sign_public or b""
        )
    except (AttestSiteError, PeerError) as error:
        what = f"is not used: {str(error).removeprefix('firmware.toml: ')}"
        yield _worth("", what, "put what headquarters signed there", file=FIRMWARE)


def _published(files: SiteFiles) -> Iterator[Problem]:
    if files.published is None:
        what = "no boot set is published: boxes find nothing to start"
        yield _worth("", what, "run `doorstep bootset build` and `publish`", file=PUBLISHED)
        return
    try:
        published = decode_published(files.published)
    except SiteError as error:
        what, _, remedy = str(error).removeprefix("published.json ").rpartition(": ")
        yield _wrong("", what, remedy, file=PUBLISHED)
        return
    for one in published.sets:
        if one.digest not in files.boot_sets and one.until is None and one is published.served:
            what = f"boot set {one.digest.hex()[:12]} is not in the store"
            yield _wrong("", what, "build or import it again, or publish another", file=PUBLISHED)
    if published.served is None:
        what = "no boot set is served: boxes find nothing to start"
        yield _worth("", what, "run `doorstep bootset publish`", file=PUBLISHED)


def _twice(table: str, key: str, values: Iterable[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            yield _wrong(f"{table}.{key}", f"{value} is there twice", "keep one of them")
        seen.add(value)


def _is_host(subnet: Subnet, address: IPv4Address) -> bool:
    network = subnet.network
    return address in network and address not in (
        network.network_address,
        network.broadcast_address,
    )


def _range(span: AddressRange) -> str:
    return f"{span.first}-{span.last}"
