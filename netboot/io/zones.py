"""What names take long for, done in the main thread: master files are read, keys are signed.

A file that the store lost leaves its zone out, and a key service that is silent leaves what it
signed before: `sentences` says so. netboot.io.names serves what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keys.zone_keys import point
from netboot.dnssec import ZoneKeys
from netboot.errors import SiteError
from netboot.files import Entry
from netboot.io.files import FileStore
from netboot.io.zone_keys import Sign, ZoneKeyFile
from netboot.names import Labels, text
from netboot.plan import Plan
from netboot.plan_dns import PlanZone
from netboot.zone import Zone
from netboot.zone_build import build
from netboot.zone_file import MAX_FILE, decode_zone

LOOK_SECONDS, RETRY_SECONDS = 60.0, 5.0
"""Between looks whether keys are due, and after one that failed."""
ZONE_KEYS = Path("netboot/zone-keys.json")
"""Where in the state directory the keys are."""
_TOLD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """Who signs the keys of zones, and which: all of the site's, or the operator's marked ones."""

    sign: Sign
    marked_only: bool = False


class ZoneDesk:
    """Reads and signs; only the main thread calls it."""

    def __init__(self, files: FileStore, keys: Path, signing: Signing | None) -> None:
        """Read master files from this store; `keys` is the file of zone keys; SiteError."""
        self._files, self._signing = files, signing
        self._keys = None if signing is None else ZoneKeyFile(keys, signing.sign)
        self._read: dict[tuple[PlanZone, bytes], Zone] = {}
        self._lost: list[str] = []
        self._wanted: tuple[Labels, ...] = ()
        self._again = 0.0
        self.signed: Mapping[Labels, ZoneKeys] = {}

    def take(self, plan: Plan) -> tuple[Zone, ...]:
        """Give the zones of the plan's master files; those that did not change are not read."""
        before, self._read, self._lost = self._read, {}, []
        for zone in plan.zones:
            key = zone, zone.digest
            try:
                self._read[key] = before.get(key) or self._load(zone)
            except SiteError as error:
                self._lost.append(f"zone {zone.name} is not served: {error}")
        zones = tuple(self._read.values())
        self._wanted = self._to_sign(plan, zones)
        self._again = 0.0
        return zones

    def _load(self, zone: PlanZone) -> Zone:
        stored = self._files.open(Entry(path=zone.file, sha256=zone.digest))
        if stored is None:
            raise SiteError(f"{zone.file} is missing in the store")
        data = stored.read(0, min(stored.size, MAX_FILE + 1))
        return decode_zone(data, zone.origin, zone.file, is_signed=zone.signed)

    def _to_sign(self, plan: Plan, zones: tuple[Zone, ...]) -> tuple[Labels, ...]:
        if self._signing is None:
            return ()
        every = zones if self._signing.marked_only else build(plan, (), 0, zones)
        return tuple(sorted(zone.origin for zone in every if zone.is_signed))

    def refresh(self, now: float) -> bool:
        """Renew and roll keys where that is due; tells whether zones are signed by others now."""
        if self._keys is None or now < self._again <= now + LOOK_SECONDS:
            return False
        before, found = self.signed, dict(self._keys.refresh(self._wanted, now))
        for zone, keys in before.items():
            if zone in found and _same(found[zone], keys):
                found[zone] = keys
        self.signed = found
        self._again = now + (RETRY_SECONDS if self._keys.trouble else LOOK_SECONDS)
        return found != before

    def sign_anew(self) -> None:
        """Have every zone signed again at the next `refresh`."""
        if self._keys is not None:
            self._keys.expire()
        self._again = 0.0

    def sentences(self) -> list[str]:
        """Say what a person should know."""
        said = list(self._lost)
        trouble = None if self._keys is None else self._keys.trouble
        bare = [text(zone) for zone in self._wanted if zone not in self.signed]
        if bare and trouble:
            more = " …" if len(bare) > _TOLD else ""
            named = f"{', '.join(bare[:_TOLD])}{more}"
            said.append(f"names are served without signatures: {named}: {trouble}")
        elif trouble:
            said.append(trouble)
        return said


def _same(one: ZoneKeys, other: ZoneKeys) -> bool:
    """Compare by value: keys are loaded anew each time, and signatures by the same go on."""
    are_same = (one.dnskeys, one.rrsigs) == (other.dnskeys, other.rrsigs)
    return are_same and point(one.private.public_key()) == point(other.private.public_key())
