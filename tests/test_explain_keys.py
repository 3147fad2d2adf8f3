"""`doorstep keys explain`: what is said of each secret, with and without a TPM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from keys_site import KeysSite
from test_lease_service import LeasedSite

from bootstrap.cli.main import main
from bootstrap.explain_keys import explain

NOW = 1_795_000_000
DAY = 86_400


def secret(**changes: Any) -> dict[str, Any]:
    return {
        "name": "token",
        "tier": "site",
        "reason": None,
        "usable_until": NOW + 2 * DAY,
        "max_stale": 0.0,
        "off": None,
        "roles": ["pos", "kiosk"],
    } | changes


def answer(one: dict[str, Any], **changes: Any) -> dict[str, Any]:
    left = {"powered_seconds": 3 * DAY, "starts": 1, "suspends": 0}
    return {
        "now": NOW,
        "secrets": [one],
        "lease": {"closed": None, "left": left},
        "has_tpm": True,
        "where": "the TPM",
        "not_covered": "",
    } | changes


CLOSED = {"closed": {"code": "LEASE-ENDED", "sentence": "the lease has ended"}, "left": None}
NO_TPM = {"lease": None, "has_tpm": False, "not_covered": "no TPM"}


@pytest.mark.parametrize(
    ("one", "about", "wanted"),
    [
        ({}, {}, "now: yes, to accepted boxes of the role pos, kiosk"),
        ({"roles": []}, {}, "now: to no box: no role has it"),
        ({}, {}, "time: 2026-11-20 11:06Z, in 2 d"),
        ({"max_stale": DAY}, {}, "time: 2026-11-20 11:06Z, in 2 d, of that 1 d as stale"),
        (
            {"reason": "SECRET-MISSING"},
            {},
            "now: no: no value is stored: `doorstep secret put token",
        ),
        ({"reason": "SECRET-EXPIRED"}, {}, "now: no: its time is over"),
        ({"reason": "SECRET-UNREADABLE"}, {}, "now: no: its row is damaged"),
        ({"reason": "SECRET-TIER-OFF", "off": "theft"}, {}, "now: no: theft"),
        ({"reason": "LEASE-ENDED"}, {"lease": CLOSED}, "now: no: the lease has ended"),
        ({"tier": "boot"}, {"lease": CLOSED}, "now: no: the lease has ended"),
        ({}, {}, "enders: the operator here: `doorstep secret remove token`"),
        ({}, {}, "enders: for all secrets at once: `doorstep lease end`"),
        ({"tier": "box"}, {}, "enders: headquarters, with a revocation"),
        ({}, {}, "earlier: the lease: 3 d more of being switched on, 1 start more"),
        ({}, {}, "earlier: clearing or changing the TPM"),
        ({}, NO_TPM, "earlier: nothing that holds against a copy of this controller's disk"),
        ({"tier": "boot"}, {}, "earlier: the next restart"),
        ({}, {}, "readers: who is root on this controller while a lease runs"),
        ({}, {"not_covered": "x"}, "readers: who steals this controller while a lease runs"),
        ({}, NO_TPM, "readers: who ever has this controller's disk, or a copy of it"),
        ({"tier": "boot"}, NO_TPM, "readers: who is root on this controller until it restarts"),
        ({"tier": "box"}, {}, "readers: not this controller, whoever is root here"),
        ({"tier": "box", "boxes": 3}, {}, "time: 2026-11-20 11:06Z, in 2 d, for the first of 3"),
        ({"tier": "box", "reason": "SECRET-NOT-WRAPPED"}, {}, "now: no: headquarters wrapped it"),
        ({"tier": "box", "reason": "SECRET-REVOKED"}, {}, "now: no: headquarters took it back"),
    ],
)
def test_what_is_said(one: dict[str, Any], about: dict[str, Any], wanted: str) -> None:
    (found,) = explain(answer(secret(**one), **about))
    part, _, text = wanted.partition(": ")
    said = getattr(found, part)
    texts = [said] if isinstance(said, str) else said
    assert any(each.startswith(text) for each in texts), texts


def test_who_cannot_read_is_not_named() -> None:
    (site,) = explain(answer(secret()))
    assert not any("disk" in text or "steals" in text for text in (*site.readers, *site.earlier))
    (boot,) = explain(answer(secret(tier="boot"), **NO_TPM))
    assert not any("disk" in text for text in (*boot.readers, *boot.earlier))
    assert not any("lease end" in text for text in boot.enders)


def test_served_is_neither_withheld_nor_closed() -> None:
    assert explain(answer(secret()))[0].served
    assert not explain(answer(secret(reason="SECRET-MISSING")))[0].served
    found = explain(answer(secret(tier="boot"), lease=CLOSED))[0]
    assert (found.served, found.reason) == (False, "LEASE-ENDED")


def doorstep(site: KeysSite, *words: str) -> Result:
    options = ["--site", site.layout.site, "--state", site.layout.state, "--run", site.layout.run]
    return CliRunner().invoke(main, ["keys", "explain", *words, *map(str, options)])


@pytest.fixture
def leased() -> Iterator[LeasedSite]:
    site = LeasedSite()
    try:
        yield site
    finally:
        site.close()


def test_an_operator_asks_a_controller_with_a_tpm(leased: LeasedSite) -> None:
    leased.ready()
    leased.put()
    before = doorstep(leased, "pos-api-token")
    assert before.exit_code == 1
    assert "no: this controller has no lease" in before.output
    leased.operator("lease_apply", lease=leased.issue_lease(hours=48))
    shown = doorstep(leased, "pos-api-token")
    assert shown.exit_code == 0
    assert "given now:     yes, to accepted boxes of the role pos" in shown.output
    assert "the lease: 1 d 23 h more of being switched on, 2 starts more" in shown.output
    assert "token" in shown.output
    whole = doorstep(leased, "--json")
    assert whole.exit_code == 1  # other secrets have no value
    document = json.loads(whole.output)
    named = {one["name"]: one for one in document["secrets"]}
    assert (named["pos-api-token"]["served"], named["wifi-psk"]["served"]) == (True, False)
    assert named["vault-key"]["reason"] == "SECRET-NOT-WRAPPED"
    assert "TPM" in document["kept_in"]
    status = leased.control("status")
    assert {one["name"] for one in status["ends"]} == set(named)
    assert status["lease"]["left"]["starts"] == 2
    leased.operator("lease_end")
    assert leased.control("status")["lease"]["closed"]["code"] == "LEASE-ENDED"
    assert "no: the lease was ended" in doorstep(leased, "pos-api-token").output


def test_an_operator_asks_a_controller_without_one() -> None:
    site = KeysSite()
    try:
        site.ready()
        site.put()
        shown = doorstep(site, "pos-api-token")
        assert shown.exit_code == 0
        assert "a copy of it: no TPM guards the key" in shown.output
        assert "note: This controller keeps its cache key in a file" in shown.output
        assert site.control("status")["lease"] is None
        assert doorstep(site, "nothing").exit_code == 2
    finally:
        site.close()
