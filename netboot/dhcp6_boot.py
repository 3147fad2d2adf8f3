"""Which boot URL a DHCPv6 client is given: the table of `netboot.bootchoice` by its options.

Firmware that asks over IPv6 is told one URL (option 59) and nothing else: option 60 is never sent,
edk2 drops such an offer. RFC 5970, 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import quote

from netboot.bootchoice import BootFile, BootRule, BootTable, Loading, NoLoader
from netboot.dhcp6_options import Code6, Options6, VendorClass
from netboot.network import ClientKind, Match

PXE_CLASS, HTTP_CLASS = b"PXEClient", b"HTTPClient"
BOOT_ENTERPRISE = 343
"""The enterprise number under which UEFI firmware names its class (Intel's; UEFI 2.10, 24.7.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootClient6:
    """What the choice is made by; `uuid` as 16 bytes in the order of the DUID."""

    options: Options6
    mac: bytes | None
    uuid: bytes | None
    is_known: bool
    boot_set: bytes | None = None

    @property
    def vendor_class(self) -> bytes:
        """The class that the client gives itself, empty when it gives none."""
        return next((one for one in _classes(self.options) if one), b"")


def _classes(options: Options6) -> tuple[bytes, ...]:
    return tuple(one for vendor in options.vendor_classes for one in vendor.classes)


def kind_of6(options: Options6) -> ClientKind:
    """Say what kind of program asks; PeerError as the accessors."""
    if any(b"iPXE" in user_class for user_class in options.user_classes):
        return ClientKind.IPXE
    classes = _classes(options)
    if any(one.startswith(HTTP_CLASS) for one in classes):
        return ClientKind.HTTP
    if any(one.startswith(PXE_CLASS) for one in classes) or options.architectures:
        return ClientKind.PXE
    return ClientKind.OTHER


def wants_boot6(options: Options6) -> bool:
    """Tell whether the client is one that boots from the network."""
    return kind_of6(options) is not ClientKind.OTHER or Code6.BOOT_URL in options.requested


def choose6(
    client: BootClient6, table: BootTable, appliance: IPv6Address
) -> BootFile | NoLoader | None:
    """Choose a URL; None for a client that does not boot. PeerError as the accessors."""
    if not wants_boot6(client.options):
        return None
    fitting = [rule for rule in table.rules if _fits(rule, client)]
    own = (rule for rule in fitting if rule.boot_set == client.boot_set is not None)
    rule = next(own, None) or next(iter(fitting), None)
    if rule is None:
        return NoLoader(architectures=client.options.architectures)
    return BootFile(
        loading=rule.loading, name=_url(rule, client, appliance), boot_set=rule.boot_set
    )


def _fits(rule: BootRule, client: BootClient6) -> bool:
    """Firmware loads by the one way that it asked for (edk2 BZ-880), iPXE by any."""
    kind = kind_of6(client.options)
    if kind is ClientKind.HTTP and rule.loading is not Loading.HTTP:
        return False
    if kind is ClientKind.PXE and rule.loading is Loading.HTTP:
        return False
    return _matches(rule.match, kind, client)


def _matches(match: Match, kind: ClientKind, client: BootClient6) -> bool:
    """Ask every condition that is not empty; those of DHCPv4 alone fit nobody here."""
    if match.circuit_id or match.remote_id or match.relays or match.options:
        return False
    uuids = {client.uuid, _swapped(client.uuid)}
    conditions = (
        not match.kinds or kind in match.kinds,
        not match.architectures or not match.architectures.isdisjoint(client.options.architectures),
        not match.mac or client.mac in match.mac,
        not match.uuid or not uuids.isdisjoint(match.uuid),
        not match.vendor_class or client.vendor_class.startswith(match.vendor_class),
        not match.user_class
        or any(one.startswith(match.user_class) for one in client.options.user_classes),
        match.known is None or match.known is client.is_known,
    )
    return all(conditions)


def _swapped(uuid: bytes | None) -> bytes | None:
    if uuid is None:
        return None
    return uuid[3::-1] + uuid[5:3:-1] + uuid[7:5:-1] + uuid[8:]


def _url(rule: BootRule, client: BootClient6, appliance: IPv6Address) -> str:
    if "://" in rule.file:
        return rule.file
    scheme = "http" if rule.loading is Loading.HTTP else "tftp"
    return f"{scheme}://[{appliance}]/{quote(rule.file.lstrip('/'))}"


def boot_options(options: Options6, boot: BootFile) -> tuple[tuple[int, bytes], ...]:
    """Write a choice: the URL, and the class back to firmware that boots by HTTP (V6-1)."""
    url = (int(Code6.BOOT_URL), boot.name.encode())
    if kind_of6(options) is not ClientKind.HTTP:
        return (url,)
    echoed = VendorClass(enterprise=BOOT_ENTERPRISE, classes=(HTTP_CLASS,))
    return (url, (int(Code6.VENDOR_CLASS), echoed.encode()))
