"""What the keys process keeps: leases, rows, the audit, and a start on files that are wrong."""

import json
import os
import sqlite3
import struct
import time

import pytest
from keys_site import SITE_TOML, USERS, KeysSite, code, request

from keys.envelope import b64u
from keys.io.rpc import RpcError

RENAMED = SITE_TOML.replace('"shop-0417"', '"shop-9"')


@pytest.fixture
def site():
    site = KeysSite()
    yield site
    site.close()


def listed(site, name):
    return next(one for one in site.operator("secret_list")["secrets"] if one["name"] == name)


def test_secrets_are_put_listed_and_removed(site):
    site.ready()
    assert listed(site, "pos-api-token")["reason"] == "SECRET-MISSING"
    assert site.operator("secret_put", name="pos-api-token", value=b64u(b"1"))["version"] == 1
    assert site.operator("secret_put", name="pos-api-token", value=b64u(b"2"))["version"] == 2
    one = listed(site, "pos-api-token")
    assert (one["version"], one["reason"]) == (2, None)
    assert one["expires"] - one["set"] == 14 * 86400
    assert site.operator("secret_remove", name="pos-api-token")["removed"] is True
    assert site.operator("secret_remove", name="pos-api-token")["removed"] is False
    assert site.operator("secret_put", name="pos-api-token", value=b64u(b"3"))["version"] == 3
    put = {"value": b64u(b"x")}
    assert code(site.operator, "secret_put", name="no-such", **put) == "SECRET-UNKNOWN"
    assert code(site.operator, "secret_put", name="vault-key", **put) == "TIER"
    assert code(site.operator, "secret_put", name="pos-api-token", value="") == "MALFORMED"
    assert code(site.operator, "secret_put", name="pos-api-token", value="=") == "MALFORMED"


def test_past_its_lease_a_secret_is_withheld(site):
    site.ready()
    site.put()
    site.put("wifi-psk", b"psk")
    given = site.control("handover", **request())
    assert given["withheld"] == []
    expires = listed(site, "wifi-psk")["expires"]
    time.sleep(max(0.0, expires + 0.2 - time.time()))
    given = site.control("handover", **request(reset_count=8))
    expected = [{"name": "wifi-psk", "reason": "SECRET-EXPIRED", "since": expires}]
    assert given["withheld"] == expected
    assert list(given["digests"]) == ["pos-api-token"]
    site.write("site.toml", SITE_TOML.replace('ttl = "3s"', 'ttl = "9d"'))
    assert listed(site, "wifi-psk")["reason"] == "SECRET-EXPIRED"
    site.write("site.toml", SITE_TOML.replace('ttl = "14d"', 'ttl = "3s"'))
    assert listed(site, "pos-api-token")["reason"] == "SECRET-EXPIRED"


def database(site):
    return sqlite3.connect(site.layout.state / "keys" / "keys.db")


def test_a_clock_set_back_revives_and_extends_nothing(site):
    """The mark of time is ahead of the wall clock: what a clock set back looks like at a start."""
    site.ready()
    site.put()
    lease = listed(site, "pos-api-token")["expires"]
    site.stop()
    with database(site) as db:
        ahead = struct.pack(">d", lease + 1.0)
        db.execute("UPDATE meta SET value=? WHERE name='time-mark'", (ahead,))
    db.close()
    os.chown(site.layout.state / "keys/keys.db", USERS["keys"], USERS["keys"])
    site.start()
    assert listed(site, "pos-api-token")["reason"] == "SECRET-EXPIRED"
    site.stop()
    site.start()
    assert listed(site, "pos-api-token")["reason"] == "SECRET-EXPIRED"
    assert site.operator("status")["clock"]["mark"] > lease
    again = site.operator("secret_put", name="pos-api-token", value=b64u(b"x"))
    assert again["expires"] >= int(lease) + 14 * 86400


def test_a_boot_secret_is_gone_when_run_was_emptied(site):
    site.write("site.toml", SITE_TOML.replace('ttl = "3s"', 'ttl = "1d"'))
    site.ready()
    site.put("wifi-psk", b"psk")
    site.stop()
    site.start()
    assert listed(site, "wifi-psk")["reason"] is None
    site.stop()
    (site.layout.run / "keys" / "boot.key").unlink()
    site.start()
    assert listed(site, "wifi-psk")["reason"] == "SECRET-UNREADABLE"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE secrets SET expires=expires+1000",
        "UPDATE secrets SET set_at=set_at+1",
        "UPDATE secrets SET version=version+1",
        "UPDATE secrets SET sealed=zeroblob(40)",
        "UPDATE secrets SET wrapped=x''",
        "UPDATE secrets SET tier='box'",
    ],
)
def test_a_changed_row_fails_alone(site, change):
    site.ready()
    site.put()
    site.stop()
    with database(site) as db:
        db.execute(change)
    db.close()
    site.start()
    assert listed(site, "pos-api-token")["reason"] == "SECRET-UNREADABLE"
    given = site.control("handover", **request())
    assert "pos-api-token" in {one["name"] for one in given["withheld"]}


def test_a_removed_secret_leaves_no_ciphertext(site):
    site.ready()
    site.put(value=b"0123456789" * 100)
    site.stop()
    with database(site) as db:
        ((sealed,),) = db.execute("SELECT sealed FROM secrets").fetchall()
    db.close()
    path = site.layout.state / "keys" / "keys.db"
    assert sealed[100:200] in path.read_bytes()
    site.start()
    site.operator("secret_remove", name="pos-api-token")
    site.stop()
    assert sealed[100:200] not in path.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM audit WHERE n=1",
        "UPDATE audit SET entry=replace(entry, 'operator', 'nobody') WHERE n=2",
    ],
)
def test_a_changed_audit_is_said_and_boxes_are_served(site, change):
    site.ready()
    site.put()
    site.stop()
    with database(site) as db:
        assert db.execute(change).rowcount == 1
    db.close()
    site.start()
    site.control("handover", **request())
    (said,) = [one for one in site.operator("status")["sentences"] if "audit entry" in one]
    assert "keep a copy of keys.db" in said
    assert site.operator("audit_verify")["problems"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda site: (site.layout.state / "keys/cache.key").unlink(), "is missing"),
        (lambda site: (site.layout.state / "keys/cache.key").write_bytes(b"x" * 32), "not the key"),
        (lambda site: (site.layout.state / "keys/cache.key").write_bytes(b"x"), "damaged"),
        (
            lambda site: site.write("site.toml", SITE_TOML.replace('"shop-0417"', '"b"')),
            "permanent",
        ),
        (lambda site: site.write("site.toml", "["), "site.toml"),
        (lambda site: database(site).execute("PRAGMA user_version=99"), "newer release"),
    ],
)
def test_a_site_that_is_wrong_says_so_at_the_start(site, change, sentence):
    site.ready()
    site.stop()
    change(site)
    with pytest.raises(AssertionError, match=sentence):
        site.start()


def test_the_canary_is_nowhere(site):
    canary = b"CANARY-6a1f0e55-do-not-show"
    site.ready()
    site.put(value=canary)
    site.control("handover", **request())
    for wrong in ({"name": "vault-key"}, {"name": "none"}, {"name": canary.decode()}):
        with pytest.raises(RpcError) as refused:
            site.operator("secret_put", **wrong, value=b64u(canary))
        if wrong["name"] != canary.decode():
            assert canary.decode() not in str(refused.value)
    site.put(value=b"another")
    site.operator("secret_remove", name="pos-api-token")
    shown = json.dumps([site.operator("status"), site.operator("events")])
    shown += json.dumps(site.operator("secret_list"))
    forms = (canary, b64u(canary).encode(), canary.hex().encode())
    assert not any(form.decode() in shown for form in forms)
    # Held open: with the writer alive the WAL is on the disk too.
    found = [path for path in site.base.rglob("*") if path.is_file()]
    assert any(path.name == "keys.db-wal" for path in found)
    for path in found:
        content = path.read_bytes()
        assert not any(form in content for form in forms), path
