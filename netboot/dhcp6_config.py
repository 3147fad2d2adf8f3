"""What the plan says about DHCPv6, checked before it is served."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from netboot.bootchoice import BootTable
from netboot.dhcp6_options import Code6
from netboot.errors import SiteError
from netboot.links6 import check_plan6
from netboot.network import ClientClass, Identify, OptionValue, Reservation6, Subnet6Plan

_OF_THE_PROTOCOL = (frozenset(range(1, 15)) - {Code6.PREFERENCE, Code6.UNICAST}) | {
    Code6.INTERFACE_ID,
    Code6.IA_PD,
    Code6.ECHO_REQUEST,
    Code6.LINK_LAYER_ADDRESS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dhcp6Config:
    """What the plan says about DHCPv6; `boot` None means that nothing is served for booting.

    `options` are the site's; those of a subnet, of classes and of a reservation are nearer.
    `identify` is what makes a client the same one again: CLIENT_ID is DUID and IAID alone.
    """

    subnets: tuple[Subnet6Plan, ...]
    reservations: tuple[Reservation6, ...] = ()
    boot: BootTable | None = None
    domain: str = ""
    options: tuple[OptionValue, ...] = ()
    quarantine: timedelta = timedelta(hours=1)
    classes: tuple[ClientClass, ...] = ()
    identify: Identify = Identify.MAC


def check_config6(config: Dhcp6Config) -> None:
    """Refuse addresses given twice, and options that no client may be sent; SiteError."""
    check_plan6(config.subnets, config.reservations)
    levels = [config.options, *(one.options for one in config.subnets)]
    levels += [one.options for one in config.reservations]
    levels += [one.options6 for one in config.classes]
    for option in (option for level in levels for option in level):
        if option.code == Code6.BOOT_PARAMETERS:
            raise SiteError("DHCPv6 option 60 is never sent: UEFI firmware drops such an offer")
        if option.code in _OF_THE_PROTOCOL or not 0 < option.code < 0x10000:
            raise SiteError(f"DHCPv6 option {option.code} is the server's own, not the site's")
