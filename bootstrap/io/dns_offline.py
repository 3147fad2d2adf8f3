"""`doorstep dns` without the appliance: from a site file and the state of `doorstep netboot run`.

Leases, keys and signatures are those on disk; nothing is asked, drawn or written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bootstrap.io.netboot_run import OWN_KSK, SiteCompiler
from bootstrap.io.zone_files import read_zone
from keys.errors import KeysError
from netboot.dns import Generation, signed_zones
from netboot.dns_explain import Explained, Sources, explain
from netboot.dnssec import ZoneSigner
from netboot.errors import SiteError
from netboot.io.leases import read_leases
from netboot.io.names_rpc import lease_owners, zone_text
from netboot.io.own_ksk import OwnKsk
from netboot.io.zone_keys import ZoneKeyFile
from netboot.io.zones import ZONE_KEYS
from netboot.names import Labels
from netboot.plan import Plan
from netboot.zone import Zone
from netboot.zone_build import LeaseName, build
from netboot.zone_file import decode_zone


class Offline:
    """One site file with its state, as names would be served now."""

    def __init__(self, file: Path, state: Path) -> None:
        """Read both; SiteFileError or SiteError when they cannot be."""
        self._state = state
        self.plan: Plan = SiteCompiler(file, state).compile(keep=False)
        now = time.time()
        self._leases = tuple(
            LeaseName(name=one.name, address=one.address)
            for one in read_leases(state / "netboot" / "netboot.db")
            if one.name and one.is_bound(now)
        )
        files = [self._zone(file.parent, number) for number in range(len(self.plan.zones))]
        zones = build(self.plan, self._leases, int(now), files)
        keys = ZoneKeyFile(state / ZONE_KEYS, _refuse).refresh(
            [zone.origin for zone in zones if zone.is_signed], now
        )
        signers = {
            zone.origin: ZoneSigner(zone, keys[zone.origin])
            for zone in zones
            if zone.origin in keys
        }
        self.generation = Generation(
            zones=signed_zones(zones, signers),
            signers=signers,
            views=self.plan.views(),
            forwards=self.plan.dns.forward,
        )

    def _zone(self, directory: Path, number: int) -> Zone:
        zone = self.plan.zones[number]
        data = read_zone(directory / zone.file)
        if isinstance(data, str):
            raise SiteError(f"{zone.file} {data}")
        return decode_zone(data, zone.origin, zone.file, is_signed=zone.signed)

    def lookup(self, name: Labels, qtype: int, peer: str) -> Explained:
        """Say what would be answered."""
        owners = lease_owners(self.plan, self._leases)
        return explain(self.generation, Sources(plan=self.plan, leases=owners), name, qtype, peer)

    def dump(self, origin: Labels, *, signed: bool) -> str:
        """Write a zone; PeerError when there is none."""
        return zone_text(self.generation, origin, signed=signed, now=time.time())

    def anchors(self) -> tuple[bytes, ...]:
        """Give the key-signing keys as DNSKEY data; SiteError when there is none yet."""
        return (OwnKsk(self._state / OWN_KSK).anchor(),)


def _refuse(zones: list[str], keys: list[str]) -> Mapping[str, Any]:
    raise KeysError("nothing is signed here: `doorstep netboot run` does")
