"""Secrets from upstreams: what a thousand of them cost after an outage, the upstream and keys.

The upstream is a double of ours of KV v2 behind TLS in this process. The peer is what a site
writes first: a loop with `requests` that logs in, asks for each secret in turn and begins again
when it is through, beside the same double in the same run. Ours asks 25 a second at the most, on
purpose: an upstream has thousands of sites. A peer in keys is putting each secret by hand.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import requests
from keys_site import SITE_TOML
from sync_lab import SyncedController, text_of
from sync_site import LOGIN, SyncSite, Upstream
from test_lease_service import TIERS
from upstream_doubles import SECRET_ID, TOKEN, Request, say

from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

COUNT = 1000
OUTAGE = 20.0
"""Seconds for which the upstream answers 503."""
LIMIT = 300.0
PEER = "a loop with requests"
BATCH = 48


def measure(lab: Lab) -> list[Figure]:
    """Take all figures."""
    lab.say(f"           {COUNT} secrets: fetched, an outage of {OUTAGE:.0f} s, renewed")
    figures = _outage_figures()
    lab.say(f"           keys: {COUNT} leases renewed, {COUNT} rotated, {COUNT} put by hand")
    return figures + _keys_figures()


class Counted(Upstream):
    """The double, with the second of each question counted, and an outage at will."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.is_down = False
        self.seconds: Counter[int] = Counter()
        self.read: set[str] = set()
        self._lock = threading.Lock()
        self.wire.answer = self._answer

    def _answer(self, asked: Request) -> bytes:
        with self._lock:
            self.seconds[int(time.monotonic())] += 1
            if self.is_down:
                return say(503, {"errors": ["Vault is sealed"]})
            if "/data/" in asked.path:
                self.read.add(asked.path)
        return self.kv2.answer(asked)

    def begin(self, *, is_down: bool) -> None:
        """Count from here."""
        with self._lock:
            self.is_down = is_down
            self.seconds.clear()
            self.read.clear()

    def until_read(self) -> float:
        """Wait until every secret was read; gives the seconds."""
        began = time.monotonic()
        while len(self.read) < COUNT:
            if time.monotonic() - began > LIMIT:
                raise BenchError(f"only {len(self.read)} of {COUNT} were read")
            time.sleep(0.01)
        return time.monotonic() - began


@contextmanager
def _site() -> Iterator[tuple[SyncSite, Counted]]:
    """A site with a thousand secrets, keys and sync as processes."""
    site = SyncSite()
    try:
        upstream = Counted(site.base)
        with upstream.wire:
            for number in range(COUNT):
                upstream.kv2.put(f"s{number}", value=f"not-a-real-value-{number}")
            site.write("trust/hq.pem", upstream.authority.file.read_text())
            site.write("site.toml", _site_toml(upstream.wire.url))
            site.ready()
            site.login(LOGIN)
            yield site, upstream
    finally:
        site.close()


def _site_toml(url: str, controller: str = TIERS) -> str:
    text = SITE_TOML.partition("[[secret]]")[0].replace('"pos-api-token", "wifi-psk"', "")
    tables = "".join(
        f'[[secret]]\nname = "s{n}"\ntier = "site"\nttl = "14d"\nsource = "hq:s{n}"\n'
        for n in range(COUNT)
    )
    upstream = f'[[upstream]]\nname = "hq"\nkind = "kv2"\nurl = "{url}"\nca = "trust/hq.pem"\n'
    return text.replace(TIERS, controller) + tables + upstream


def _outage_figures() -> list[Figure]:
    with _site() as (site, upstream):
        site.start_sync()
        upstream.until_read()
        _until_all_are_here(site)
        ours = _outage(upstream, lambda: site.renew())
        _until_all_are_here(site)
        site.kill_sync()
        stop = threading.Event()
        loop = threading.Thread(target=_loop, args=(upstream, stop))
        peer = _outage(upstream, loop.start)
        stop.set()
        loop.join()
    names = (
        (f"{COUNT} secrets renewed after an outage", "s"),
        ("requests that the upstream gets for that", "requests"),
        ("the most of them in one second", "requests"),
        (f"requests in {OUTAGE:.0f} s of the outage before", "requests"),
    )
    return [
        Figure(name=f"upstreams: {name}", unit=unit, ours=(a,), peer=(b,), peer_name=PEER)
        for (name, unit), a, b in zip(names, ours, peer, strict=True)
    ]


def _outage(upstream: Counted, begin: Callable[[], object]) -> tuple[float, float, float, float]:
    """Let an upstream be away, then be back; gives seconds, requests, the most, those before."""
    upstream.begin(is_down=True)
    begin()
    time.sleep(OUTAGE)
    meanwhile = sum(upstream.seconds.values())
    upstream.begin(is_down=False)
    seconds = upstream.until_read()
    made = dict(upstream.seconds)
    return seconds, sum(made.values()), max(made.values()), max(meanwhile, 1)


def _until_all_are_here(site: SyncSite) -> None:
    deadline = time.monotonic() + LIMIT
    while any(one["reason"] for one in site.operator("secret_list")["secrets"]):
        if time.monotonic() > deadline:
            raise BenchError("not every secret came into keys")
        time.sleep(0.5)


def _loop(upstream: Counted, stop: threading.Event) -> None:
    """Do what a script does: log in, ask for each, keep what came; begin again for the rest."""
    missing = {f"s{number}" for number in range(COUNT)}
    session = requests.Session()
    session.trust_env = False  # REQUESTS_CA_BUNDLE would take the place of verify
    session.headers["Connection"] = "close"  # the double answers once on each
    session.verify = str(upstream.authority.file)
    url = upstream.wire.url
    while missing and not stop.is_set():
        login = {"role_id": "r", "secret_id": SECRET_ID}
        answer = session.post(f"{url}/v1/auth/approle/login", json=login, timeout=20)
        token = answer.json()["auth"]["client_token"] if answer.ok else TOKEN
        for name in sorted(missing):
            if stop.is_set():
                return
            place = f"{url}/v1/secret/data/{name}"
            answer = session.get(place, headers={"X-Vault-Token": token}, timeout=20)
            if answer.ok:
                missing.discard(name)


# keys


def _keys_figures() -> list[Figure]:
    site = SyncedController()
    table = f'[controller]\ntpm = "{site.tpm.tcti}"\nroot = "verity"\n'
    site.write("site.toml", _site_toml("https://127.0.0.1:8200", table))
    try:
        site.leased()
        _offer(site, 1)
        renewed, rotated, by_hand = _offer(site, 1), _offer(site, 2), _put(site)
    finally:
        site.close()
    peer = f"{COUNT} put by hand, each a revocation"
    return [
        Figure(name=f"upstreams: {name}", unit="s", ours=(ours,), peer=(by_hand,), peer_name=peer)
        for name, ours in (
            (f"{COUNT} leases renewed in keys", renewed),
            (f"{COUNT} secrets rotated in keys", rotated),
        )
    ]


def _offer(site: SyncedController, version: int) -> float:
    began = time.perf_counter()
    for first in range(0, COUNT, BATCH):
        offers = [
            {
                "name": f"s{number}",
                "source": f"hq:s{number}",
                "version": version,
                "value": text_of(b"not-a-real-value-%d-%d" % (number, version)),
            }
            for number in range(first, min(first + BATCH, COUNT))
        ]
        for done in site.sync("sync_put", secrets=offers)["done"]:
            if done["outcome"] == "refused":
                raise BenchError(f"keys refused: {done['sentence']}")
    return time.perf_counter() - began


def _put(site: SyncedController) -> float:
    """Put a tenth of them by hand, and say what all would take."""
    began = time.perf_counter()
    for number in range(COUNT // 10):
        site.operator("secret_put", name=f"s{number}", value=text_of(b"not-a-real-value"))
    return 10 * (time.perf_counter() - began)
