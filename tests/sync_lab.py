"""Shared by the tests of sync: a site whose secrets have sources, with keys in this process."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager

from keys_site import SITE_TOML, KeysSite, request
from test_lease_service import TIERS, LeasedSite

from keys.io.service import Service

NOW = int(time.time()) + 60
DAY = 86_400
SOURCE = "hq:pos/token"
UPSTREAMS = """
[[upstream]]
name = "hq"
kind = "kv2"
url = "https://127.0.0.1:8200"
ca = "trust/hq.pem"
[[upstream]]
name = "spare"
kind = "kv2"
url = "https://127.0.0.1:8201"
ca = "trust/hq.pem"
"""


def sourced(text: str) -> str:
    """Give a site file sources: of the token, of the short-lived one, and of a license."""
    text = text.replace('ttl = "14d"', f'ttl = "14d"\nsource = "{SOURCE}"')
    text = text.replace('ttl = "3s"', 'ttl = "1h"\nsource = "hq:wifi"')
    return text.replace('"wifi-psk"]', '"wifi-psk", "till-license"]') + (
        '[[secret]]\nname = "till-license"\ntier = "site"\nkind = "license"\n'
        f'source = "spare:licenses/till"\n{UPSTREAMS}'
    )


def text_of(value: bytes) -> str:
    """Encode bytes as the sockets do."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


class _InProcess:
    """What both kinds of site share: the service in this process, at a time of the test's own."""

    wall = float(NOW)
    service: Service | None = None

    def start(self, user: str = "keys"):
        """Start in this process."""
        self.kill()
        self.service = Service(self.layout, wall=lambda: self.wall, monotonic=lambda: self.wall)
        return self

    def kill(self) -> None:
        """Close it; what was answered is on the disk."""
        if self.service is not None:
            self.service.close()
        self.service = None

    def _as(self, user: str, method: str, params):
        assert self.service is not None
        return self.service.methods()[method].handler(user, params)

    def operator(self, method: str, **params):
        return self._as("operator", method, params)

    def control(self, method: str, **params):
        return self._as("control", method, params)

    def sync(self, method: str, **params):
        """Call as the user sync does."""
        return self._as("sync", method, params)

    def offer(self, version: int, value: bytes, **changes):
        """Hand in one version as sync does; gives what became of it."""
        one = {"name": "pos-api-token", "source": SOURCE, "version": version} | changes
        (done,) = self.sync("sync_put", secrets=[one | {"value": text_of(value)}])["done"]
        return done

    def withdraw(self, status: int = 404, name: str = "pos-api-token", source: str = SOURCE) -> str:
        """Report a withdrawal as sync does; gives what became of it."""
        reports = [{"name": name, "source": source, "status": status}]
        (done,) = self.sync("sync_gone", secrets=reports)["done"]
        return done["outcome"]

    def wanted(self, name: str = "pos-api-token"):
        """Give what sync is told of one secret."""
        return next(one for one in self.sync("sync_wanted")["secrets"] if one["name"] == name)

    def all_wanted(self) -> list[str]:
        """Name everything that sync is told of, page by page."""
        names: list[str] = []
        more = True
        while more:
            page = self.sync("sync_wanted", after=names[-1] if names else "")
            names += [one["name"] for one in page["secrets"]]
            more = page["more"]
        return names

    def withheld(self) -> dict[str, str]:
        """Hand over to a box that booted again; gives what it did not get, with the reason."""
        self.wall += 2
        self.boots = getattr(self, "boots", 100) + 1
        reply = self.control("handover", **request(reset_count=self.boots))
        return {one["name"]: one["reason"] for one in reply["withheld"]}

    def kinds(self) -> list[str]:
        """Give the kinds of all events."""
        return [one["kind"] for one in self.operator("events", after=0)["events"]]


class SyncedKeys(_InProcess, KeysSite):
    """Without a TPM."""

    def __init__(self) -> None:
        super().__init__()
        self.write("site.toml", sourced(SITE_TOML))


class SyncedController(_InProcess, LeasedSite):
    """With one, and a lease."""

    def __init__(self) -> None:
        super().__init__()
        table = f'[controller]\ntpm = "{self.tpm.tcti}"\nroot = "verity"\n'
        self.write("site.toml", sourced(SITE_TOML.replace(TIERS, table)))

    def open_socket(self) -> None:
        """Leave the TPM to this process."""

    def power_cycle(self) -> None:
        """Cut the power of the whole controller."""
        self.kill()
        self.tpm.power_cycle()

    def leased(self):
        """Start with authorities and a lease."""
        self.ready()
        self.operator("lease_apply", lease=self.issue_lease())
        return self


@contextmanager
def closing(site) -> Iterator:
    """End a site whatever happens."""
    try:
        yield site
    finally:
        site.close()
