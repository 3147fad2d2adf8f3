"""Control's ear: collects what netboot and keys saw, and keeps what each MAC was last doing.

Each owner numbers its own events; the cursor moves in the commit that keeps them, so none is lost
and none counts twice. A service that does not answer is shown as silent since when.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bootstrap.enrolment import Stage, Step, WrongStageError, advance
from bootstrap.errors import PeerError
from bootstrap.io.site_store import SiteStore
from bootstrap.loading import HEARD_LAST
from bootstrap.rows import Event, Sighting
from keys.errors import KeysError
from keys.io.rpc import RpcUnavailableError, call

BATCH = 500
ASK_SECONDS = 1.0
FORGET_SECONDS = 86400.0
"""A MAC that comes back after a day begins a new life on its card."""
START_SECONDS = 120.0
"""A box that asks again after so long is starting anew; firmware repeats itself within 32 s."""


@dataclass(slots=True)
class Health:
    """What control last heard of one service; `since` is when it fell silent, or None."""

    name: str
    since: float | None = None
    status: Mapping[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Tell whether the service answered when last asked."""
        return self.since is None and self.status is not None


class Collector:
    """Polls the other services' events and status; called from control's one thread."""

    def __init__(self, store: SiteStore, sockets: Mapping[str, Path]) -> None:
        """Listen to these services by their sockets."""
        self._store = store
        self._sockets = sockets
        self.health = {name: Health(name) for name in sockets}

    def leases(self) -> Mapping[str, str]:
        """Ask netboot which MAC has which address now; empty when it gives no such answer."""
        try:
            listed = call(self._sockets["netboot"], "leases", timeout=ASK_SECONDS)["leases"]
            return {str(one["address"]): str(one["mac"]) for one in listed if one["mac"]}
        except (KeysError, KeyError, TypeError):
            return {}

    def poll(self, now: float) -> None:
        """Ask each service once for its status and its new events."""
        for name, path in self._sockets.items():
            health = self.health[name]
            try:
                health.status = call(path, "status", timeout=ASK_SECONDS)
                self._collect(name, path)
                health.since = None
            except RpcUnavailableError:
                health.since = health.since or now
            except (KeysError, PeerError) as error:
                health.since = health.since or now
                health.status = {"sentences": [f"{name}: {error}"]}

    def _collect(self, name: str, path: Path) -> None:
        while True:
            cursor = self._store.number(f"cursor-{name}")
            answer = call(path, "events", {"after": cursor, "limit": BATCH}, timeout=ASK_SECONDS)
            events, last = read_events(answer, cursor)
            if not events:
                if last < cursor:  # the owner began a new database
                    self._store.set_number(f"cursor-{name}", 0)
                return
            with self._store.transaction():
                for event in events:
                    # what a box is, keys alone may say beside us
                    self._keep(event if name == "keys" else replace(event, box=None))
                self._store.set_number(f"cursor-{name}", cursor + len(events))

    def _keep(self, event: Event) -> None:
        self._store.add_event(event)
        sighting = self._sighting_after(event)
        if sighting is not None:
            self._store.save_sighting(sighting)

    def _sighting_after(self, event: Event) -> Sighting | None:
        """Say what the event makes of the MAC's sighting; None when nothing."""
        mac = event.mac or self._mac_at(event.address)
        step = _STEPS.get(event.kind)
        if mac is None or (step is None and event.kind not in _REMARKS):
            return None
        old = self._store.sighting(mac)
        if old is not None and event.at - _last(old) > FORGET_SECONDS:
            old = None
        if step is Step.ASKED_FOR_ADDRESS:
            return _asked(mac, old, event)
        if old is None:
            return None
        return _remarked(old, event) if step is None else _loaded(old, event)

    def _mac_at(self, address: str | None) -> str | None:
        if address is None:
            return None
        found = (item.mac for item in self._store.sightings() if item.address == address)
        return next(found, None)


def read_events(answer: object, cursor: int) -> tuple[list[Event], int]:
    """Read what another service tells after `cursor`, and its last number.

    PeerError for what is no such answer: a broken service must not take control down with it.
    """
    try:
        raws, last = answer["events"], answer["last"]  # type: ignore[index]
        if [raw["n"] for raw in raws] != list(range(cursor + 1, cursor + 1 + len(raws))):
            raise PeerError("its events are not numbered without gaps")
        return [_event(raw) for raw in raws], int(last)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise PeerError(f"its events cannot be read ({type(error).__name__})") from None


def _event(raw: Mapping[str, Any]) -> Event:
    texts = {name: raw.get(name) for name in ("box", "mac", "address", "reason")}
    if not all(text is None or isinstance(text, str) for text in texts.values()):
        raise TypeError
    at, detail = float(raw["at"]), dict(raw.get("detail") or {})
    json.dumps(detail, allow_nan=False)
    if not 0 <= at < _LATEST:
        raise ValueError
    return Event(at=at, kind=str(raw["kind"]), detail=detail, **texts)


_LATEST = float(1 << 40)
_STEPS = {
    "dhcp-discover": Step.ASKED_FOR_ADDRESS,
    "dhcp-offer": Step.ASKED_FOR_ADDRESS,
    "dhcp-ack": Step.ASKED_FOR_ADDRESS,
    "arch-unknown": Step.ASKED_FOR_ADDRESS,
    "boot-file": Step.LOADED_FILE,
}
_REMARKS = {
    "dhcp-elsewhere": "OTHER-DHCP",
    "dhcp-pool-empty": "POOL-EMPTY",
    "dhcp-nak": None,
    "dhcp-decline": None,
}
"""What else is said of a box that starts, with the reason where the event has none."""
_STAYS = "ARCH"
"""The reason that no address takes away."""


def _asks_to_boot(event: Event) -> bool:
    """Tell a client that asks to boot, by its vendor class or what it was given."""
    vendor = str(event.detail.get("vendor_class", ""))
    asks = vendor.startswith(("PXEClient", "HTTPClient")) or bool(event.detail.get("boot_file"))
    return asks or event.kind == "arch-unknown"


def _last(sighting: Sighting) -> float:
    last = sighting.detail.get(HEARD_LAST)
    return last if isinstance(last, float) else sighting.since


def _asked(mac: str, old: Sighting | None, event: Event) -> Sighting | None:
    """Take an event of DHCP: a new start, or one more round of the same."""
    given = event.address if event.kind == "dhcp-ack" else None
    if not _asks_to_boot(event):
        # A system that asks for an address is no card, and moves none that is there.
        return replace(old, address=given or old.address) if old else None
    if old is None:
        return _start(mac, event, given)
    if old.stage is not Stage.HEARD or event.at - _last(old) > START_SECONDS:
        return _start(mac, event, given or old.address)
    stays = event.kind != "dhcp-ack" or old.reason == _STAYS
    return replace(
        old,
        address=given or old.address,
        reason=event.reason or (old.reason if stays else None),
        detail={**old.detail, **event.detail, HEARD_LAST: event.at},
    )


def _start(mac: str, event: Event, address: str | None) -> Sighting:
    return Sighting(
        mac=mac,
        stage=advance(None, Step.ASKED_FOR_ADDRESS),
        since=event.at,
        first=event.at,
        address=address,
        reason=event.reason,
        detail={**event.detail, HEARD_LAST: event.at},
    )


def _loaded(old: Sighting, event: Event) -> Sighting:
    """Take an event of the serve record; `since` stays when the box was loading before."""
    try:
        stage = advance(old.stage, Step.LOADED_FILE)
    except WrongStageError:
        stage = Stage.BOOTING
    about = {name: old.detail[name] for name in old.detail if name not in _OF_FILE}
    return replace(
        old,
        stage=stage,
        since=old.since if old.stage is stage else event.at,
        address=event.address or old.address,
        reason=event.reason,
        detail={**about, **event.detail, HEARD_LAST: event.at},
    )


_OF_FILE = ("name", "phase", "sent", "size", "done", "offset", "sha256", "sentence")


def _remarked(old: Sighting, event: Event) -> Sighting:
    """Take what is said of a box beside its way: it moves no stage."""
    return replace(
        old,
        reason=event.reason or _REMARKS[event.kind] or old.reason,
        detail={**old.detail, **event.detail, HEARD_LAST: event.at},
    )
