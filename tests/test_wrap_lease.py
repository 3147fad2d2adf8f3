"""The wrap key hangs on the controller's lease and epoch: without them no boot is approved."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from keys_site import EK, code, request
from test_lease_service import LeasedSite

from keys.envelope import b64u, unb64u
from keys.manifest import sign
from keys.secret import Secret
from keys.wrap import CONTEXT, Label, Randomness, WrappedSecret, revoke, wrap

NAME = "vault-key"


class WrapSite(LeasedSite):
    """A site with a TPM whose boxes have a secret of tier box."""

    def __init__(self) -> None:
        super().__init__()
        text = (self.layout.site / "site.toml").read_text()
        self.write("site.toml", text.replace('"pos-api-token", "wifi-psk"', f'"{NAME}"'))

    def new_lease(self) -> None:
        self.operator("lease_apply", lease=self.issue_lease())

    def label(self, version: int) -> Label:
        now = int(time.time())
        return Label(
            site="shop-0417",
            name=NAME,
            version=version,
            serial="S1",
            issued=now,
            expires=now + 86400,
            ek_name=EK.name(),
            key_name=unb64u(self.operator("wrap_key")["name"]),
        )

    def wrapped(self, version: int) -> WrappedSecret:
        randomness = Randomness.cut(os.urandom(Randomness.SIZE))
        return wrap(self.label(version), Secret(b"value"), ek=EK, randomness=randomness)

    def params(self, one: WrappedSecret) -> dict[str, Any]:
        data, said = one.encode(), one.label.comment()
        signature = sign(self.sign_key, data, trusted_comment=said, context=CONTEXT)
        return {"file": b64u(data), "sig": b64u(signature)}

    def answer(self, reset_count: int) -> str:
        """Ask for a hand-over: `given`, the reason why not, or the refusal of the whole."""
        found = self.control("handover", **request(reset_count=reset_count))
        if NAME in found["digests"]:
            assert found["withheld"] == []
            return "given"
        (withheld,) = found["withheld"]
        return str(withheld["reason"])


@pytest.fixture
def site() -> Iterator[WrapSite]:
    one = WrapSite()
    yield one
    one.close()


def test_no_boot_is_approved_without_a_lease(site: WrapSite) -> None:
    site.ready()
    site.new_lease()
    first, second = site.wrapped(1), site.wrapped(2)
    taken_away = revoke(replace(first.label, version=3))
    site.operator("secret_import", **site.params(first))
    assert site.answer(1) == "given"
    site.operator("lease_end")
    assert code(site.control, "handover", **request(reset_count=2)) == "LEASE-ENDED"
    assert code(site.operator, "wrap_key") == "LEASE-ENDED"
    listed = {one["name"]: one for one in site.operator("secret_list")["secrets"]}[NAME]
    assert (listed["reason"], listed["boxes"]) == ("LEASE-ENDED", 1)
    assert "usable_until" not in listed
    assert code(site.operator, "secret_import", **site.params(second)) == "LEASE-ENDED"
    # what headquarters takes away is taken away at once, and stays so
    assert site.operator("secret_import", **site.params(taken_away))["taken"]
    site.new_lease()
    assert site.answer(3) == "SECRET-REVOKED"
    assert code(site.operator, "secret_import", **site.params(second)) == "MALFORMED"


def test_a_closed_cache_moves_no_end(site: WrapSite) -> None:
    """What is stale of tier site is told of; headquarters' own day has nothing after it."""
    text = (site.layout.site / "site.toml").read_text()
    stale = text.replace('ttl = "1d"', 'ttl = "1d"\nmax_stale = "2d"')
    site.write("site.toml", stale.replace('"14d"\nmax_stale = "0s"', '"14d"\nmax_stale = "3d"'))
    site.ready()
    site.new_lease()
    one = site.wrapped(1)
    site.operator("secret_import", **site.params(one))
    site.put()

    def ends() -> dict[str, float]:
        explained = site.operator("keys_explain")["secrets"]
        return {each["name"]: each["usable_until"] for each in explained if "expires" in each}

    before = ends()
    assert before[NAME] == one.label.expires
    site.operator("lease_end")
    assert site.operator("keys_explain")["lease"]["closed"]["code"] == "LEASE-ENDED"
    assert ends() == before
    # the operator shortens the ttl: the end moves with it, open or not
    site.write("site.toml", stale.replace('"14d"\nmax_stale = "0s"', '"1d"\nmax_stale = "3d"'))
    site.operator("status")
    assert ends() == {**before, "pos-api-token": before["pos-api-token"] - 13 * 86_400}


def test_the_key_outlives_leases_revocations_and_power_cuts(site: WrapSite) -> None:
    site.ready()
    site.new_lease()
    site.operator("secret_import", **site.params(site.wrapped(1)))
    site.operator("revoke", ek_name=b64u(b"\0\x0b" + bytes(32)))
    assert site.answer(1) == "given"
    site.power_cycle()
    site.start()
    assert site.answer(2) == "given"
    site.operator("lease_end")
    site.new_lease()
    assert site.answer(3) == "given"


def test_an_older_disk_brings_nothing_back(site: WrapSite) -> None:
    """Checklist 17 and 38: the revocation ended the epoch that the old key is sealed in."""
    site.ready()
    site.new_lease()
    one = site.wrapped(1)
    site.operator("secret_import", **site.params(one))
    site.kill()
    state = site.layout.state / "keys"
    shutil.copytree(state, site.base / "copy")
    site.start()
    assert site.answer(1) == "given"
    site.operator("secret_import", **site.params(revoke(replace(one.label, version=2))))
    site.kill()
    for path in (site.base / "copy").iterdir():
        target = state / path.name
        owner = state.stat()
        shutil.copyfile(path, target)
        os.chown(target, owner.st_uid, owner.st_gid)
    for name in ("keys.db-wal", "keys.db-shm"):
        if not (site.base / "copy" / name).exists():
            (state / name).unlink(missing_ok=True)
    with pytest.raises(AssertionError, match="older than the last revocation"):
        site.start()
