"""The tables of the site file that names are made of: `[dns]`, `[[zone]]` and `[[record]]`.

docs/netboot.md shows every key.
"""

from __future__ import annotations

import base64
import binascii
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from bootstrap.site_types import LIST, ONE_OR_MORE, RelativePath, Table, from_text
from netboot.errors import NetbootError
from netboot.names import text
from netboot.plan_dns import origin_of
from netboot.rdata import name_of, number_of

PORTS = {"tls": 853, "plain": 53}
_MAX_TTL = 604800


def _any_address(value: str) -> IPv4Address | IPv6Address:
    return ip_address(value)


def _any_network(value: str) -> IPv4Network | IPv6Network:
    return ip_network(value)


def _name(value: str) -> str:
    """Read a name, with or without its last dot; give it with one."""
    try:
        return text(origin_of(value))
    except NetbootError as error:
        raise ValueError(str(error)) from None


def _pin(value: str) -> bytes:
    try:
        found = base64.b64decode(value, validate=True)
    except binascii.Error:
        found = b""
    if len(found) != 32:
        raise ValueError("expected the base64 of the SHA-256 of a public key, 44 characters")
    return found


def _type(value: str) -> str:
    try:
        return name_of(number_of(value.upper()))
    except NetbootError as error:
        raise ValueError(str(error)) from None


def _value(value: str) -> str:
    if not value or len(value) > 4096 or not value.isprintable():
        raise ValueError("expected data as in a zone file, on one line")
    return value


AnyAddress = Annotated[IPv4Address | IPv6Address, from_text(_any_address)]
AnyNetwork = Annotated[IPv4Network | IPv6Network, from_text(_any_network)]
Name = Annotated[str, from_text(_name)]
Pin = Annotated[bytes, from_text(_pin)]
Type = Annotated[str, from_text(_type)]
Value = Annotated[str, AfterValidator(_value)]
OwnerText = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\s]+$")]


class DnsUpstream(Table):
    """A server that is asked for names of others; without `name` or `pins`, by its address."""

    address: AnyAddress
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    name: Name | None = None
    pins: Annotated[tuple[Pin, ...], ONE_OR_MORE] = ()
    transport: Literal["tls", "plain"] = "tls"


class Dns(Table):
    """How names are served to whom, and who is asked for those of others."""

    forward: bool = False
    pinned: Annotated[tuple[Name, ...], ONE_OR_MORE] = ()
    private: Annotated[tuple[Name, ...], ONE_OR_MORE] = ()
    unsigned: Annotated[tuple[Name, ...], ONE_OR_MORE] = ()
    open: bool = False
    listen: Annotated[tuple[AnyAddress, ...], ONE_OR_MORE] = ()
    allow: Annotated[tuple[AnyNetwork, ...], ONE_OR_MORE] = ()
    upstreams: Annotated[tuple[DnsUpstream, ...], LIST] = Field(default=(), alias="upstream")


class ZoneFile(Table):
    """A zone from a standard master file beside the site file."""

    name: Name
    file: RelativePath
    signed: bool = False


class RecordEntry(Table):
    """One record below the site's domain; `@` is the domain, a last dot makes a name absolute."""

    name: OwnerText
    type: Type
    ttl: Annotated[int, Field(ge=0, le=_MAX_TTL)] = 300
    value: Value

    def owner(self, domain: str) -> str:
        """Give its owner name, absolute without a last dot."""
        if self.name == "@":
            return domain
        if self.name.endswith("."):
            return self.name.removesuffix(".").lower()
        return f"{self.name.lower()}.{domain}"
