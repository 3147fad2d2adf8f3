"""Seeds through the keys process: signed elsewhere, taken once, refused when they are not ours."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from keys_site import KeysSite, code, request
from test_lease_service import LeasedSite

from bootstrap.lease_desk import check_request
from keys.envelope import b64u
from keys.io import age
from keys.io.rpc import RpcError, RpcUnavailableError
from keys.io.store import Store
from keys.manifest import sign
from keys.parcel import Item, Seed, What
from keys.secret import Secret
from keys.signed import SEED

CANARY = b"seed-canary-57ac"


class Seeder:
    """Headquarters: packs for one site."""

    def __init__(self, site: KeysSite) -> None:
        self.site = site
        self.key = site.sign_key
        self.recipient = site.operator("seed_recipient")["recipient"]

    def pack(self, counter: int, *items: Item, **changes: object) -> dict[str, str]:
        """Give the parameters with which a seed is taken; `changes` are what is wrong with it."""
        named = {"site": "shop-0417", "counter": counter, "items": items or (item(),)}
        seed = Seed(**named | changes.pop("inside", {}))  # type: ignore[arg-type,operator]
        data = age.encrypt(Secret(seed.encode()), changes.pop("recipient", self.recipient))  # type: ignore[arg-type]
        comment = str(changes.pop("comment", f"site=shop-0417 counter={counter}"))
        return self.signed(data, comment, **changes)

    def signed(self, data: bytes, comment: str, **changes: object) -> dict[str, str]:
        """Sign what is encrypted."""
        wanted = {"key": self.key, "context": SEED.context} | changes
        signature = sign(
            wanted["key"],  # type: ignore[arg-type]
            data,
            trusted_comment=comment,
            context=str(wanted["context"]),
        )
        return {"file": b64u(data), "sig": b64u(signature)}


def item(value: bytes = CANARY, **changes: object) -> Item:
    return Item(**{"name": "pos-api-token", "value": Secret(value)} | changes)  # type: ignore[arg-type]


@pytest.fixture
def site() -> Iterator[KeysSite]:
    one = KeysSite()
    try:
        yield one.ready()
    finally:
        one.close()


@pytest.fixture
def seeder(site: KeysSite) -> Seeder:
    return Seeder(site)


def listed(site: KeysSite, name: str = "pos-api-token") -> dict[str, object]:
    secrets = site.operator("secret_list")["secrets"]
    return next(one for one in secrets if one["name"] == name)


def test_a_seed_is_looked_at_then_taken_at_once(site: KeysSite, seeder: Seeder) -> None:
    ends = int(time.time()) + 3600
    packed = seeder.pack(7, item(not_after=ends, version=4), item(b"psk", name="wifi-psk"))
    looked = site.operator("seed_take", **packed, look=True)
    assert (looked["taken"], looked["counter"]) == (False, 7)
    assert listed(site)["reason"] == "SECRET-MISSING"
    taken = site.operator("seed_take", **packed)
    assert {one["name"]: one["version"] for one in taken["secrets"]} == {
        "pos-api-token": 4,
        "wifi-psk": 1,
    }
    assert listed(site)["expires"] == ends  # not its ttl of 14 days
    assert "pos-api-token" in site.control("handover", **request())["digests"]
    (event,) = [
        one for one in site.operator("events", after=0)["events"] if one["kind"] == "seed-taken"
    ]
    assert event["detail"]["counter"] == 7
    site.kill()
    for path in sorted(site.base.rglob("*")):
        if path.is_file():
            assert CANARY not in path.read_bytes(), path


def test_a_seed_is_taken_once_and_no_older_one(site: KeysSite, seeder: Seeder) -> None:
    first, second = seeder.pack(1), seeder.pack(2)
    site.operator("seed_take", **second)
    with pytest.raises(RpcError, match="has counter 1, this site has seen 2"):
        site.operator("seed_take", **first)
    with pytest.raises(RpcError, match="seed 2 was taken before"):
        site.operator("seed_take", **second)
    with pytest.raises(RpcError, match="another seed with counter 2 was seen"):
        site.operator("seed_take", **seeder.pack(2))
    assert listed(site)["version"] == 1


def test_no_version_goes_back(site: KeysSite, seeder: Seeder) -> None:
    site.operator("seed_take", **seeder.pack(1, item(version=5)))
    taken = site.operator(
        "seed_take", **seeder.pack(2, item(b"old", version=4), item(name="wifi-psk"))
    )
    assert taken["refused"] == [
        {"name": "pos-api-token", "reason": "it has version 4, this controller has had 5"}
    ]
    assert [one["name"] for one in taken["secrets"]] == ["wifi-psk"]
    assert listed(site)["version"] == 5
    site.operator("secret_remove", name="pos-api-token")
    refused = site.operator("seed_take", **seeder.pack(3, item(b"old", version=4)))["refused"]
    assert refused
    ended = site.operator("seed_take", **seeder.pack(4, item(version=6, not_after=1)))["refused"]
    assert ended == [{"name": "pos-api-token", "reason": "it has ended"}]


def _cut(one: dict[str, str], at: int) -> dict[str, str]:
    from keys.envelope import unb64u

    data = unb64u(one["file"])
    return one | {"file": b64u(data[:at])}


BAD = {
    "truncated": (lambda s: _cut(s.pack(3), -20), "not what was signed"),
    "truncated-and-signed": (
        lambda s: s.signed(_bytes(s.pack(3))[:-20], "site=shop-0417 counter=3"),
        "was damaged on the way",
    ),
    "reordered": (
        lambda s: s.signed(_swapped(_bytes(s.pack(3, *_many()))), "site=shop-0417 counter=3"),
        "was damaged on the way",
    ),
    "one-bit": (
        lambda s: s.signed(_flipped(_bytes(s.pack(3))), "site=shop-0417 counter=3"),
        "was damaged on the way",
    ),
    "re-signed": (lambda s: s.pack(3, key=Ed25519PrivateKey.generate()), "signed by another key"),
    "other-purpose": (
        lambda s: s.pack(3, context="doorstep/v1/delivery-note"),
        "signed for another purpose",
    ),
    "other-site": (
        lambda s: s.pack(3, comment="site=shop-0001 counter=3"),
        "the seed is for site shop-0001, this is shop-0417",
    ),
    "other-site-inside": (
        lambda s: s.pack(3, inside={"site": "shop-0001"}),
        "not what was signed outside",
    ),
    "counter-inside": (lambda s: s.pack(3, inside={"counter": 4}), "not what was signed outside"),
    "comment": (lambda s: s.pack(3, comment="counter=3"), "its trusted comment is not"),
    "older": (lambda s: s.pack(1), "has counter 1, this site has seen 2"),
    "other-appliance": (
        lambda s: s.pack(3, recipient=age.public_half(age.draw())),
        "encrypted for another key",
    ),
    "oversized": (
        lambda s: s.signed(bytes((8 << 20) + 1), "site=shop-0417 counter=3"),
        "the seed is larger than 8 MiB",
    ),
    "no-age-file": (lambda s: s.signed(b"{}", "site=shop-0417 counter=3"), "was damaged"),
    "no-seed-inside": (
        lambda s: s.signed(
            age.encrypt(Secret(b'{"type":"x"}'), s.recipient), "site=shop-0417 counter=3"
        ),
        "no seed",
    ),
    "unknown-secret": (lambda s: s.pack(3, item(name="nobody")), "add it first"),
    "tier-box": (lambda s: s.pack(3, item(), item(name="vault-key")), "wrap it at headquarters"),
    "unknown-key": (
        lambda s: s.pack(3, item(), item(what=What.KEY, name="server")),
        "a key 'server' that no appliance takes",
    ),
    "damaged-key": (
        lambda s: s.pack(3, item(), item(b"x", what=What.KEY, name="wrap")),
        "the key 'wrap' in the seed is damaged",
    ),
}


def _bytes(one: dict[str, str]) -> bytes:
    from keys.envelope import unb64u

    return unb64u(one["file"])


def _many() -> tuple[Item, ...]:
    return item(bytes(60000)), item(bytes(60000), name="wifi-psk")


def _swapped(data: bytes) -> bytes:
    """Change two chunks of 64 KiB of an age file."""
    head = len(data) - (1 << 16) - 50000
    size = 30000
    return (
        data[:head]
        + data[head + size : head + 2 * size]
        + data[head : head + size]
        + data[head + 2 * size :]
    )


def _flipped(data: bytes) -> bytes:
    return data[:-30] + bytes((data[-30] ^ 1,)) + data[-29:]


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_seed_of_this_site_changes_nothing(
    site: KeysSite, seeder: Seeder, name: str
) -> None:
    site.operator("seed_take", **seeder.pack(2, item(b"good", version=2)))
    site.operator("status")
    before = site.operator("secret_list"), site.operator("status")["last_event"]
    make, says = BAD[name]
    with pytest.raises(RpcError, match=says) as refused:
        site.operator("seed_take", **make(seeder))
    assert CANARY.decode() not in str(refused.value)
    assert before == (site.operator("secret_list"), site.operator("status")["last_event"])


def test_another_engineer_s_age_opens_and_makes_them(
    site: KeysSite, seeder: Seeder, tmp_path: Path
) -> None:
    made = tmp_path / "seed.json"
    made.write_bytes(Seed(site="shop-0417", counter=1, items=(item(),)).encode())
    command = ["age", "-r", seeder.recipient, "-o", str(tmp_path / "seed.age"), str(made)]
    subprocess.run(command, check=True, timeout=20)
    data = (tmp_path / "seed.age").read_bytes()
    site.operator("seed_take", **seeder.signed(data, "site=shop-0417 counter=1"))
    assert listed(site)["version"] == 1


def test_only_the_operator_brings_seeds_and_takes_backups(site: KeysSite) -> None:
    methods = ("seed_recipient", "seed_take", "backup_begin", "backup_secrets", "backup_sign")
    for method in methods:
        assert code(site.control, method) == "FORBIDDEN"


def test_a_recipient_is_the_tpm_s_and_opens_under_the_lease_alone() -> None:
    site = LeasedSite()
    try:
        site.ready()
        site.operator("lease_apply", lease=site.issue_lease())
        seeder = Seeder(site)
        told = site.operator("seed_recipient")
        assert check_request(told["request"], challenge=told["recipient"])
        packed = seeder.pack(1)
        before = site.operator("lease_show")["counters"]["epoch"]
        site.operator("lease_end")
        assert code(site.operator, "seed_take", **packed) == "LEASE-ENDED"
        assert code(site.operator, "seed_recipient") == "LEASE-ENDED"
        site.operator("lease_apply", lease=site.issue_lease())
        site.operator("seed_take", **packed)
        assert site.operator("lease_show")["counters"]["epoch"] == before + 1
        assert site.given()
        assert site.operator("seed_recipient")["recipient"] == seeder.recipient
        site.kill()
        store = Store(site.layout.state / "keys/keys.db")
        row = store.execute("SELECT counter FROM floors WHERE kind='seed'").fetchone()
        store.close()
        assert row == (1,)
    finally:
        site.close()


def test_a_cut_at_any_moment_leaves_all_of_a_seed_or_nothing() -> None:
    """kill -9 while it is taken: what was answered is there, else it is whole or not at all."""
    site, drawn = LeasedSite(), random.Random(7)
    try:
        site.ready()
        site.operator("lease_apply", lease=site.issue_lease())
        seeder, taken, done = Seeder(site), 0, 0
        for counter in range(1, 13):
            psk = item(name="wifi-psk", version=counter)
            packed = seeder.pack(counter, item(version=counter), psk)
            answered: list[bool] = []
            caller = threading.Thread(target=_take, args=(site, packed, answered))
            caller.start()
            caller.join(None if counter % 4 == 0 else drawn.random() * 0.05)
            site.kill()
            caller.join()
            site.start()
            versions = {one["name"]: one.get("version") for one in _secrets(site)}
            floor = site.operator("input_floors")["floors"]
            seeds = [one["counter"] for one in floor if one["kind"] == "seed"]
            held = versions["pos-api-token"]
            assert versions["wifi-psk"] == held
            assert seeds == ([] if held is None else [held])
            assert held in (taken or None, counter)
            if answered:
                assert held == counter
            done += held == counter
            taken = held or 0
        site.operator("seed_take", **seeder.pack(50, item(version=50)))
        assert site.given()
        assert done > 0
    finally:
        site.close()


def _take(site: KeysSite, packed: dict[str, str], answered: list[bool]) -> None:
    with suppress(RpcUnavailableError):
        site.operator("seed_take", **packed)
        answered.append(True)


def _secrets(site: KeysSite) -> list[dict[str, object]]:
    return [one for one in site.operator("secret_list")["secrets"] if one["tier"] != "box"]
