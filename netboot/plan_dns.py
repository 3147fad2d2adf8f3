"""What a plan says of names: zones from master files, whom to ask for the others, and who may ask.

Part of the plan's form (`netboot.plan`); it holds no record of a zone, only a file's digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from netboot.names import Labels, labels
from netboot.resolver import Transport

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Asking(Enum):
    """Who may ask everything: boxes once they are enrolled, or all of the site.

    With `everybody`, where netboot runs alone, all of the site too, and everybody the site's zones
    without the bounds that strangers have.
    """

    ENROLLED = "enrolled"
    SITE = "site"
    EVERYBODY = "everybody"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanUpstream:
    """A server that is asked for what is not ours; `pins` are SHA-256 of its public key (SPKI)."""

    address: Address
    port: int
    transport: Transport = Transport.TLS
    name: str | None = None
    pins: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDns:
    """How names are served; `listen` are addresses beside those of the subnets.

    Names are absolute with a last dot. `pinned` are remembered for ever, `private` may have private
    addresses, the signatures of what is below `unsigned` are not checked. `allow` are networks that
    may ask everything, beside the subnets.
    """

    forward: bool = False
    upstreams: tuple[PlanUpstream, ...] = ()
    pinned: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()
    asking: Asking = Asking.ENROLLED
    listen: tuple[Address, ...] = ()
    allow: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanZone:
    """A zone from a master file in the file store; `name` with its last dot, `file` for people."""

    name: str
    file: str
    digest: bytes
    signed: bool = False

    @property
    def origin(self) -> Labels:
        """Give its name as labels."""
        return origin_of(self.name)


def origin_of(name: str) -> Labels:
    """Split the name of a zone, of the root too; PeerError."""
    return () if name == "." else labels(name)
