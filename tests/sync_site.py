"""A site with the real keys and sync processes, each under its own uid, and an upstream.

The upstream is a double of ours of KV v2 (`upstream_doubles`) behind TLS on loopback, unless a
test has another.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from keys_site import SITE_TOML, USERS, KeysSite, _become, request
from test_lease_service import TIERS, LeasedSite
from upstream_doubles import TOKEN, Authority, Kv2Double, Wire

from bootstrap.io import sync
from keys.envelope import b64u
from keys.io.rpc import RpcUnavailableError, call

SECONDS = 40
VALUE = "the-token-of-the-tills-4711"
LOGIN = json.dumps({"token": TOKEN}).encode()


def site_toml(url: str, ttl: str = "1h", upstream: str = "") -> str:
    """Give a site file whose token comes from `pos/token` of hq, and its psk from hq too."""
    text = SITE_TOML.replace('ttl = "14d"', f'ttl = "{ttl}"\nsource = "hq:pos/token"')
    text = text.replace('ttl = "3s"', 'ttl = "1h"\nsource = "hq:wifi"')
    kind = upstream or 'kind = "kv2"'
    return text + f'[[upstream]]\nname = "hq"\n{kind}\nurl = "{url}"\nca = "trust/hq.pem"\n'


class SyncSite(KeysSite):
    """A site of its own with sync beside keys."""

    def __init__(self) -> None:
        super().__init__()
        for path, mode in ((self.layout.state / "sync", 0o700), (self.layout.run / "sync", 0o755)):
            path.mkdir()
            os.chown(path, USERS["sync"], USERS["sync"])
            path.chmod(mode)
        self.sync_child = 0
        self.sync_log = self.base / "sync.log"
        self.boots = 0

    def start_sync(self) -> None:
        """Fork the process, as `doorstep run` does, and wait until it answers."""
        self.layout.socket("sync").unlink(missing_ok=True)
        self.sync_child = os.fork()
        if self.sync_child == 0:
            os._exit(_serve(self))
        self.until(lambda: self.status() is not None)

    def kill_sync(self) -> None:
        """Kill -9."""
        if self.sync_child:
            os.kill(self.sync_child, signal.SIGKILL)
            os.waitpid(self.sync_child, 0)
            self.sync_child = 0

    def stop_sync(self) -> int:
        """Stop as systemd does; gives the exit status."""
        os.kill(self.sync_child, signal.SIGTERM)
        _, status = os.waitpid(self.sync_child, 0)
        self.sync_child = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        self.kill_sync()
        super().close()

    def status(self):
        """Ask sync; None while it does not answer."""
        try:
            return call(self.layout.socket("sync"), "status")
        except RpcUnavailableError:
            return None

    def hq(self):
        """Give what sync knows of the upstream hq."""
        return next((one for one in self.status()["upstreams"] if one["name"] == "hq"), None)

    def login(self, login: bytes = LOGIN, upstream: str = "hq") -> None:
        """Do what `doorstep upstream login` does."""
        self.operator("upstream_login", upstream=upstream, login=b64u(login))
        self.renew()

    def renew(self) -> None:
        """Do what `doorstep upstream renew` does, if sync runs."""
        if self.sync_child:
            call(self.layout.socket("sync"), "renew", {})

    def listed(self, name: str = "pos-api-token"):
        """Give what `doorstep secret list` says of one secret."""
        return next(one for one in self.operator("secret_list")["secrets"] if one["name"] == name)

    def given(self) -> dict[str, int]:
        """Hand over to a box that booted again; gives the versions that it got."""
        self.boots += 1
        self.control("handover", **request(reset_count=self.boots))
        events = self.operator("events", after=0)["events"]
        return [one for one in events if one["kind"] == "handover"][-1]["detail"]["secrets"]

    def until(self, is_so: Callable[[], object], *, asking: bool = False) -> None:
        """Wait for it; with `asking` sync is told to look meanwhile."""
        deadline = time.monotonic() + SECONDS
        asked = 0.0
        while not is_so():
            if time.monotonic() > deadline:
                log = self.sync_log.read_text() if self.sync_log.exists() else ""
                raise AssertionError(
                    f"{log[-2000:]} {self.status()} {self.log.read_text()[-2000:]}"
                )
            if asking and time.monotonic() > asked:
                asked = time.monotonic() + 1
                self.renew()
            time.sleep(0.02)


def _serve(site: SyncSite) -> int:
    descriptor = os.open(site.sync_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    _become(USERS["sync"])
    logging.basicConfig(level=logging.DEBUG, force=True)
    try:
        sync.main(site.layout)
    except BaseException:  # noqa: BLE001 - a forked child must not go on as pytest
        traceback.print_exc()
        return 1
    return 0


class Upstream:
    """The double behind TLS; `answer` may be another for a while."""

    def __init__(self, directory: Path) -> None:
        self.kv2 = Kv2Double()
        self.authority = Authority(directory, "hq")
        self.wire = Wire(self.kv2.answer, self.authority.serve())

    def reads(self) -> int:
        """Count how often a secret was asked for."""
        return sum("/data/" in one.path for one in self.wire.requests)


class LeasedSyncSite(SyncSite, LeasedSite):
    """The same with a TPM in the controller and a lease."""


@contextmanager
def synced_site(
    ttl: str = "1h", kind: type[SyncSite] = SyncSite
) -> Iterator[tuple[SyncSite, Upstream]]:
    """Give a running site and its upstream, which has both secrets; sync is not started."""
    site = kind()
    try:
        upstream = Upstream(site.base)
        with upstream.wire:
            upstream.kv2.put("pos/token", value=VALUE)
            upstream.kv2.put("wifi", value="psk-1")
            site.write("trust/hq.pem", upstream.authority.file.read_text())
            text = site_toml(upstream.wire.url, ttl, 'kind = "kv2"\ndeadline = "2s"')
            if isinstance(site, LeasedSite):
                table = f'[controller]\ntpm = "{site.tpm.tcti}"\nroot = "verity"\n'
                text = text.replace(TIERS, table)
            site.write("site.toml", text)
            site.ready()
            yield site, upstream
    finally:
        site.close()
