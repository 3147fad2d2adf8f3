"""Renders the NoCloud seed of one box: user-data from the role's template, and the two others.

Templates run in Jinja's immutable sandbox with strict undefined names and no way to include a file.
They name secrets by path and never see a value. cloud-init, "NoCloud" and "Network config v2".
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from jinja2 import StrictUndefined, TemplateError
from jinja2.exceptions import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bootstrap.errors import SiteError
from bootstrap.site import Identity

SECRETS_DIRECTORY = "/run/doorstep/seed/secrets"
MAX_TEMPLATE = 256 * 1024
MAX_RENDERED = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxNetwork:
    """How a box reaches its network; `mac` as `52:54:00:12:34:56`.

    `gateway` None where nothing leads further, and over IPv6, where routers tell.
    """

    mac: str
    address: IPv4Interface | IPv6Interface
    gateway: IPv4Address | None
    dns: tuple[IPv4Address | IPv6Address, ...]

    def document(self) -> dict[str, object]:
        """Give the entry of the hand-off document."""
        return {
            "mac": self.mac,
            "address": str(self.address),
            "gateway": str(self.gateway) if self.gateway else None,
            "dns": [str(one) for one in self.dns],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxValues:
    """What a template may know of a box."""

    instance_id: str
    hostname: str
    fqdn: str
    role: str
    network: BoxNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """The three files of a NoCloud seed."""

    user_data: bytes
    meta_data: bytes
    network_config: bytes


def render(
    template: str, box: BoxValues, site: Identity, secrets: Collection[str], *, file: str
) -> Seed:
    """Render a box's seed; SiteError names file, line and what is wrong.

    `secrets` are the names that the box's role has, `file` is the template's name for messages.
    """
    return Seed(
        user_data=_user_data(template, box, site, secrets, file),
        meta_data=_yaml({"instance-id": box.instance_id, "local-hostname": box.hostname}),
        network_config=_yaml(_network_config(box.network)),
    )


def _user_data(
    template: str, box: BoxValues, site: Identity, secrets: Collection[str], file: str
) -> bytes:
    if len(template) > MAX_TEMPLATE:
        raise SiteError(f"{file}: larger than {MAX_TEMPLATE // 1024} KiB: make it smaller")

    def secret_path(name: str) -> str:
        if name not in secrets:
            raise SiteError(
                f'{file}: secret_path("{name}"): role {box.role} has no such secret: '
                f"add it to role.{box.role}.secrets"
            )
        return f"{SECRETS_DIRECTORY}/{name}"

    try:
        pieces = (
            _environment()
            .from_string(template)
            .generate(
                box=_box(box),
                network=_network(box.network),
                site=_site(site),
                secret_path=secret_path,
            )
        )
        return _bounded(pieces, file)
    except TemplateSyntaxError as error:
        raise SiteError(f"{file}, line {error.lineno}: {error.message}: correct it") from None
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise SiteError(f"{file}{_line(error)}: {error}: correct it") from None


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )


def _bounded(pieces: Iterable[str], file: str) -> bytes:
    """Join what a template gives; a runaway loop ends here."""
    out: list[str] = []
    size = 0
    for piece in pieces:
        out.append(piece)
        size += len(piece)
        if size > MAX_RENDERED:
            raise SiteError(f"{file}: gives more than {MAX_RENDERED // 1024} KiB: make it smaller")
    return "".join(out).encode()


def _line(error: BaseException) -> str:
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""


def _box(box: BoxValues) -> dict[str, str]:
    return {
        "hostname": box.hostname,
        "fqdn": box.fqdn,
        "role": box.role,
        "address": str(box.network.address.ip),
        "mac": box.network.mac,
    }


def _network(network: BoxNetwork) -> dict[str, object]:
    return {
        "cidr": str(network.address),
        "gateway": str(network.gateway) if network.gateway else None,
        "dns": [str(one) for one in network.dns],
    }


def _site(site: Identity) -> dict[str, str]:
    return {
        "id": site.id,
        "title": site.title,
        "domain": site.domain,
        "time_zone": site.time_zone,
        "help": site.help,
    }


def _network_config(network: BoxNetwork) -> dict[str, object]:
    ethernet: dict[str, object] = {
        "match": {"macaddress": network.mac},
        "addresses": [str(network.address)],
        "nameservers": {"addresses": [str(one) for one in network.dns]},
    }
    if network.gateway is not None:
        ethernet["routes"] = [{"to": "default", "via": str(network.gateway)}]
    return {"version": 2, "ethernets": {"site": ethernet}}


def _yaml(document: object) -> bytes:
    """Write JSON, which is YAML: nothing in it needs another quoting."""
    return json.dumps(document, indent=1).encode() + b"\n"
