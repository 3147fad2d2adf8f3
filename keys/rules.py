"""Who may have which secret, and until when: the tables of the site file that `keys` needs.

Pure: the parsed site file and the time are arguments. It never sees a secret's value. Unknown keys
of shared tables are for whoever checks the whole file; in [[secret]] an unknown key is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any

from keys.errors import SiteError

HANDOVER_LIFETIME = timedelta(minutes=10)
"""How long a bundle opens: TPM clock and `expires`."""
HANDOVERS_PER_MINUTE = 60
"""Site-wide; a compromised control can drain no faster."""
CLOCK_LEAP = timedelta(days=1)
"""A wall clock that leaps further ahead of the monotonic one is not believed for good."""
MAX_SECRET = 64 * 1024
MAX_AHEAD = timedelta(days=30 * 366)
"""A date further ahead is taken for a slip of the pen: no license is bought for so long."""
ZERO = timedelta()
LOOKS = (timedelta(seconds=1), timedelta(hours=6))
"""An upstream is asked for each secret every quarter of its ttl, within these."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"([0-9]{1,10})([smhdw])", re.ASCII)
CENTURY = 36_525 * 86_400
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)


class Tier(Enum):
    """What keeps a secret (design.md, Secrets)."""

    BOX = "box"
    SITE = "site"
    BOOT = "boot"


class SecretKind(Enum):
    """What a secret is: all but a plain one end on a day of their own (`keys.dated`)."""

    SECRET = "secret"
    LICENSE = "license"
    CERTIFICATE = "certificate"
    BLOB = "blob"

    @property
    def is_dated(self) -> bool:
        """Tell whether it ends on a day of its own."""
        return self is not SecretKind.SECRET


class Withheld(Enum):
    """Why a box does not get a secret that its role has."""

    MISSING = "SECRET-MISSING"
    EXPIRED = "SECRET-EXPIRED"
    UNREADABLE = "SECRET-UNREADABLE"
    TIER_OFF = "SECRET-TIER-OFF"
    NOT_WRAPPED = "SECRET-NOT-WRAPPED"
    REVOKED = "SECRET-REVOKED"
    WRAPPED = "SECRET-WRAPPED"
    GONE = "SECRET-GONE"


class RootFs(Enum):
    """What protects the file system that this controller's programs are on."""

    NONE = "none"
    VERITY = "verity"
    ENCRYPTED = "encrypted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """The [controller] table: its TPM, and the tiers that are on although they promise less.

    `tcti` is None without a TPM; after `link_loss` without a link the lease is ended, if it is set.
    `root` is what is believed, `doubt` what speaks against the file's word for it (`keys.rootfs`).
    """

    tcti: str | None = None
    root: RootFs = RootFs.NONE
    link_loss: timedelta | None = None
    tiers: frozenset[Tier] = frozenset()
    doubt: str = ""

    def why_off(self, tier: Tier) -> str | None:
        """Say why a tier would promise what this controller cannot hold; None when it is on."""
        if tier is not Tier.SITE or tier in self.tiers:
            return None
        if self.tcti is None:
            return "tier site needs a TPM in the controller"
        if self.root is RootFs.NONE:
            why = self.doubt or "nothing protects this controller's programs"
            return f"{why}: theft inside the lease shows it"
        return None

    def not_covered(self) -> str:
        """Say in one text which promises do not hold here; empty when all do."""
        if self.tcti is None:
            return NO_TPM
        return UNPROTECTED if self.root is RootFs.NONE else ""


NO_TPM = (
    "This controller keeps its cache key in a file, not in a TPM: whoever copies or steals its "
    "disk can read every secret of tier site and the authority keys, also after a lease has ended."
)
UNPROTECTED = (
    "Nothing protects the programs of this controller: whoever steals it while its lease runs can "
    "change them and read every secret of tier site. Theft inside the lease is not covered."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRule:
    """One [[secret]]: its lease begins when the value is put; a dated one may end sooner.

    A dated one may have no `ttl` in the site file: it is MAX_AHEAD then, beyond every date.
    `ask` says who has a new one; `source` where sync fetches it, as in `hq:pos/token`; both may be
    empty.
    """

    name: str
    tier: Tier
    ttl: timedelta
    max_stale: timedelta = ZERO
    kind: SecretKind = SecretKind.SECRET
    ask: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleRule:
    """What `keys` needs of one [[role]]; boxes that stay `renew` after so long, others never."""

    name: str
    secrets: tuple[str, ...]
    certificate_lifetime: timedelta
    renew: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRules:
    """The part of the site file that decides about keys and secrets."""

    site_id: str
    domain: str
    networks: tuple[IPv4Network, ...]
    appliances: tuple[IPv4Address, ...]
    roles: Mapping[str, RoleRule]
    default_role: str | None
    secrets: Mapping[str, SecretRule]
    delivery_note: str
    appliances6: tuple[IPv6Address, ...] = ()
    https_boot: bool = False
    interfaces: tuple[str, ...] = ()
    upstreams: frozenset[str] = frozenset()
    controller: Controller = field(default_factory=Controller)

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """Addresses in the certificates of the appliance."""
        return (*self.appliances, *self.appliances6)

    @property
    def server_names(self) -> tuple[str, ...]:
        """DNS names in the certificate of the appliance."""
        return (f"appliance.{self.domain}",)

    def roles_with(self, secret: str) -> list[str]:
        """Name the roles that have a secret."""
        return [name for name, role in self.roles.items() if secret in role.secrets]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> SiteRules:
        """Read a parsed site file; SiteError names the key that is wrong."""
        site, trust = _table(document, "site"), _table(document, "trust")
        subnets = _tables(document, "subnet")
        roles = [_role(table) for table in _tables(document, "role")]
        secrets = [_secret(table) for table in _tables(document, "secret")]
        rules = cls(
            site_id=_text(site, "site.id"),
            domain=_text(site, "site.domain"),
            networks=tuple(_network(_text(one, "subnet.network")) for one in subnets),
            appliances=tuple(_address(_text(one, "subnet.appliance")) for one in subnets),
            roles={role.name: role for role in roles},
            default_role=_default(_tables(document, "role")),
            secrets={secret.name: secret for secret in secrets},
            delivery_note=_text(trust, "trust.delivery_note", "delivery.csv"),
            appliances6=tuple(
                _address6(_text(one, "subnet6.appliance")) for one in _tables(document, "subnet6")
            ),
            https_boot=_table(document, "boot").get("https") is True,
            interfaces=tuple(
                _text(one, "subnet.interface") for one in subnets if "interface" in one
            ),
            upstreams=frozenset(
                _named(one, "upstream.name") for one in _tables(document, "upstream")
            ),
            controller=_controller(_table(document, "controller")),
        )
        if len(rules.roles) != len(roles) or len(rules.secrets) != len(secrets):
            raise SiteError("site.toml: two roles or two secrets have the same name")
        _check_references(rules)
        if rules.controller.link_loss and not rules.interfaces:
            raise SiteError("site.toml: controller.link_loss: no [[subnet]] names its interface")
        return rules


def usable_until(expires: float, rule: SecretRule) -> float:
    """Give the moment at which a secret is withheld: end of its lease and of what may be stale."""
    return expires + rule.max_stale.total_seconds()


def look_every(ttl: timedelta) -> timedelta:
    """Say how often its upstream is asked for a secret of this ttl."""
    return min(max(ttl / 4, LOOKS[0]), LOOKS[1])


def may_be_stale(seen: float, rule: SecretRule, now: float) -> bool:
    """Say whether the upstream may have another value: it did not confirm this one for too long."""
    return now - seen > 2 * look_every(rule.ttl).total_seconds()


def judged_now(wall: float, mark: float) -> float:
    """Give the time that leases are judged by: no clock set back goes behind the mark."""
    return max(wall, mark)


def leapt(wall: float, mark: float, elapsed: float) -> bool:
    """Say whether the wall clock ran away from the monotonic one (`elapsed` since the mark)."""
    return wall - (mark + elapsed) > CLOCK_LEAP.total_seconds()


def duration(text: str, key: str) -> timedelta:
    """Read `14d`, `12h`, `0s`, up to a century; SiteError names the key."""
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else CENTURY + 1
    if seconds > CENTURY:
        raise SiteError(f"site.toml: {key}: {text!r} is no duration like 14d, 12h, 30m or 0s")
    return timedelta(seconds=seconds)


def _check_references(rules: SiteRules) -> None:
    for role in rules.roles.values():
        for name in role.secrets:
            if name not in rules.secrets:
                raise SiteError(f"site.toml: role {role.name}: there is no [[secret]] {name!r}")
    for secret in rules.secrets.values():
        upstream = secret.source.partition(":")[0]
        if secret.source and upstream not in rules.upstreams:
            raise SiteError(f"site.toml: secret.source: there is no [[upstream]] {upstream!r}")
        if secret.source and secret.tier is Tier.BOX:
            raise SiteError("site.toml: secret.source: tier box is wrapped at headquarters")


def _role(table: Mapping[str, Any]) -> RoleRule:
    names = table.get("secrets", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SiteError("site.toml: role.secrets is a list of names of secrets")
    days = table.get("certificate_days", 7)
    if not isinstance(days, int) or not 1 <= days <= 825:
        raise SiteError("site.toml: role.certificate_days is a number from 1 to 825")
    if len(set(names)) != len(names):
        raise SiteError("site.toml: role.secrets names a secret twice")
    return RoleRule(
        name=_named(table, "role.name"),
        secrets=tuple(names),
        certificate_lifetime=timedelta(days=days),
        renew=_renew(table, timedelta(days=days)),
    )


def _renew(table: Mapping[str, Any], lifetime: timedelta) -> timedelta | None:
    if table.get("after") != "stay":
        return None
    if "renew" not in table:
        return lifetime / 2
    renew = duration(_text(table, "role.renew"), "role.renew")
    if not ZERO < renew < lifetime:
        raise SiteError("site.toml: role.renew is shorter than certificate_days and not 0")
    return renew


def _secret(table: Mapping[str, Any]) -> SecretRule:
    known = {"name", "tier", "ttl", "max_stale", "kind", "ask", "source"}
    if unknown := set(table) - known:
        raise SiteError(f"site.toml: secret.{min(unknown)} is unknown; known: {sorted(known)}")
    name, tier = _named(table, "secret.name"), _text(table, "secret.tier")
    if tier not in {one.value for one in Tier}:
        raise SiteError(f"site.toml: secret.tier: {tier!r} is neither box, site nor boot")
    kind = _text(table, "secret.kind", SecretKind.SECRET.value)
    if kind not in {one.value for one in SecretKind}:
        raise SiteError(f"site.toml: secret.kind: {kind!r}: known: {_kinds()}")
    is_dated = SecretKind(kind).is_dated
    has_no_ttl = is_dated and "ttl" not in table
    stale = duration(_text(table, "secret.max_stale", "0s"), "secret.max_stale")
    if is_dated and stale:
        raise SiteError(f"site.toml: secret.max_stale: a {kind} that has ended is of no use: 0s")
    return SecretRule(
        name=name,
        tier=Tier(tier),
        ttl=MAX_AHEAD if has_no_ttl else duration(_text(table, "secret.ttl"), "secret.ttl"),
        max_stale=stale,
        kind=SecretKind(kind),
        ask=_text(table, "secret.ask") if "ask" in table else "",
        source=_text(table, "secret.source") if "source" in table else "",
    )


def _kinds() -> str:
    return ", ".join(one.value for one in SecretKind)


def _controller(table: Mapping[str, Any]) -> Controller:
    tpm, root = _text(table, "controller.tpm", "none"), _text(table, "controller.root", "none")
    tiers = table.get("tiers", [])
    if not isinstance(tiers, list) or any(one != Tier.SITE.value for one in tiers):
        raise SiteError('site.toml: controller.tiers may be ["site"] or []')
    if root not in {one.value for one in RootFs}:
        raise SiteError(
            f"site.toml: controller.root: {root!r} is neither none, verity nor encrypted"
        )
    return Controller(
        tcti=None if tpm == "none" else f"device:{tpm}" if tpm.startswith("/") else tpm,
        root=RootFs(root),
        link_loss=_link_loss(table),
        tiers=frozenset(map(Tier, tiers)),
    )


def _link_loss(table: Mapping[str, Any]) -> timedelta | None:
    text = _text(table, "controller.link_loss", "0s")
    return duration(text, "controller.link_loss") or None


def _default(tables: Sequence[Mapping[str, Any]]) -> str | None:
    marked = [_named(table, "role.name") for table in tables if table.get("default") is True]
    if len(marked) > 1:
        raise SiteError(f"site.toml: role.default is set twice: {', '.join(marked)}")
    return marked[0] if marked else None


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise SiteError(f"site.toml: [{name}] must be a table")
    return table


def _tables(document: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SiteError(f"site.toml: [[{name}]] must be tables")
    return tables


def _text(table: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = table.get(key.rpartition(".")[2], default)
    if not isinstance(value, str) or not value:
        raise SiteError(f"site.toml: {key} is missing or no text")
    return value


def _named(table: Mapping[str, Any], key: str) -> str:
    name = _text(table, key)
    if not _NAME.fullmatch(name):
        raise SiteError(f"site.toml: {key}: {name!r} may hold a-z, 0-9, dot, hyphen, underscore")
    return name


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError:
        raise SiteError(f"site.toml: subnet.network: {text!r} is no IPv4 network") from None


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise SiteError(f"site.toml: subnet.appliance: {text!r} is no IPv4 address") from None


def _address6(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except ValueError:
        raise SiteError(f"site.toml: subnet6.appliance: {text!r} is no IPv6 address") from None
