"""Which boot URL a DHCPv6 client is given: the table of `netboot.bootchoice` by its options.

Firmware that asks over IPv6 is told one URL (option 59) and nothing else: option 60 is never sent,
edk2 drops such an offer. RFC 5970, 3.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from urllib.parse import quote

from netboot.bootchoice import BootFile, BootTable, Loading, NoLoader, choose
from netboot.client import HTTP_CLASS, PXE_CLASS, Facts
from netboot.dhcp6_message import Packet6
from netboot.dhcp6_options import Code6, Options6, VendorClass, duid_uuid, swapped_uuid
from netboot.leases6 import Client6
from netboot.network import ClientKind

_NO_OPTIONS = Options6()
BOOT_ENTERPRISE = 343
"""The enterprise number under which UEFI firmware names its class (Intel's; UEFI 2.10, 24.7.3)."""


def facts_of6(packet: Packet6, client: Client6) -> Facts:
    """Say what a message claims; PeerError when an option is malformed.

    Conditions on options of DHCPv4 hold for nobody here.
    """
    options = packet.message.options
    near = packet.relays[-1] if packet.relays else None
    classes = tuple(one for vendor in options.vendor_classes for one in vendor.classes)
    return Facts(
        kind=_kind(options, classes),
        options6=options,
        relay6=near.options if near is not None else _NO_OPTIONS,
        mac=client.told_mac,
        architectures=options.architectures,
        vendor_classes=classes,
        user_classes=options.user_classes,
        uuid=duid_uuid(client.duid),
        circuit_id=client.circuit_id,
        remote_id=client.remote_id,
        relay=near.link if near is not None else None,
    )


def _kind(options: Options6, classes: tuple[bytes, ...]) -> ClientKind:
    if any(b"iPXE" in user_class for user_class in options.user_classes):
        return ClientKind.IPXE
    if any(one.startswith(HTTP_CLASS) for one in classes):
        return ClientKind.HTTP
    if any(one.startswith(PXE_CLASS) for one in classes) or options.architectures:
        return ClientKind.PXE
    return ClientKind.OTHER


def choose6(
    facts: Facts, table: BootTable, appliance: IPv6Address, boot_set: bytes | None = None
) -> BootFile | NoLoader | None:
    """Choose a URL, as `netboot.bootchoice.choose` does; a TFTP name becomes a URL too.

    Rules for a UUID hold in either byte order: makers differ in what they put into a DUID.
    """
    named = {uuid for rule in table.rules for uuid in rule.match.uuid}
    if facts.uuid is not None and facts.uuid not in named:
        facts = replace(facts, uuid=swapped_uuid(facts.uuid))
    choice = choose(facts, table, appliance, boot_set)
    if not isinstance(choice, BootFile) or choice.loading is not Loading.TFTP:
        return choice
    if "://" in choice.name:
        return choice
    return replace(choice, name=f"tftp://[{appliance}]/{quote(choice.name.lstrip('/'))}")


def boot_options(kind: ClientKind, boot: BootFile) -> tuple[tuple[int, bytes], ...]:
    """Write a choice: the URL, and the class back to firmware that boots by HTTP (V6-1)."""
    url = (int(Code6.BOOT_URL), boot.name.encode())
    if kind is not ClientKind.HTTP:
        return (url,)
    echoed = VendorClass(enterprise=BOOT_ENTERPRISE, classes=(HTTP_CLASS,))
    return (url, (int(Code6.VENDOR_CLASS), echoed.encode()))
