"""Renewals through the keys process: what it demands itself, whatever control says."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from keys_site import EK, SITE_TOML, KeysSite, code, device_area, request
from test_lease_service import LeasedSite

from keys.envelope import SEALED_PCRS, ZERO_PCR, b64u, unb64u
from keys.io.store import Event, Store
from keys.renewal import RENEWALS_PER_MINUTE, Opening, has_opened, most_per_day

STAYS = SITE_TOML.replace("certificate_days = 7\n", 'certificate_days = 7\nafter = "stay"\n', 1)


def test_pcr_15_is_what_one_of_the_bundles_left() -> None:
    first = Opening(transcript=b"1" * 32)
    second = Opening(before=first.after, transcript=b"2" * 32)
    lost = Opening(before=first.after, transcript=b"3" * 32)
    known = (lost, second, first)
    for one in known:
        assert has_opened(one.after, known)
    assert not has_opened(ZERO_PCR, known)
    assert not has_opened(b"", known)
    assert not has_opened(Opening(transcript=b"2" * 32).after, known)
    assert not has_opened(Opening(before=second.after, transcript=b"3" * 32).after, known)


@pytest.mark.parametrize(
    ("renew", "most"),
    [
        (timedelta(days=3.5), 24),
        (timedelta(hours=12), 24),
        (timedelta(minutes=30), 98),
        (timedelta(seconds=10), 17282),
    ],
)
def test_a_box_may_renew_twice_as_often_as_it_needs(renew: timedelta, most: int) -> None:
    assert most_per_day(renew) == most


def pcrs(opened: bytes) -> dict[str, str]:
    return {str(index): b64u(bytes(32)) for index in SEALED_PCRS} | {"15": b64u(opened)}


class Boot:
    """One boot of a box as control tells keys of it."""

    def __init__(self, site: KeysSite, **changes: object) -> None:
        self.site, self.changes = site, changes
        first = request(**changes)
        self.openings = [Opening(transcript=unb64u(first["transcript"]))]
        self.reply = site.control("handover", **first)

    def asks(self, **changes: object) -> dict[str, object]:
        """Make the request of a renewal that is right, but for the changes."""
        opened = self.openings[-1].after
        return request(**(self.changes | {"pcrs": pcrs(opened)} | changes))

    def renew(self, **changes: object) -> dict[str, object]:
        wanted = self.asks(**changes)
        reply = self.site.control("renew", **wanted)
        before = self.openings[-1].after
        self.openings.append(Opening(before=before, transcript=unb64u(wanted["transcript"])))
        return reply

    def refused(self, **changes: object) -> str:
        return code(self.site.control, "renew", **self.asks(**changes))


@pytest.fixture
def site() -> Iterator[KeysSite]:
    one = KeysSite()
    one.write("site.toml", STAYS)
    one.ready()
    one.put()
    yield one
    one.close()


def payload(reply: dict) -> dict:
    return json.loads(unb64u(json.loads(reply["answer"])["answer"]))


def test_a_boot_renews_again_and_again(site: KeysSite) -> None:
    boot = Boot(site)
    assert payload(boot.reply)["status"] == "enrolled"
    for _ in range(3):
        reply = boot.renew()
        assert payload(reply)["status"] == "renewed"
        assert "pos-api-token" in reply["digests"]
    kinds = [one["kind"] for one in site.operator("events")["events"]]
    assert kinds.count("handover") == 1
    assert kinds.count("renewal") == 3
    assert site.operator("audit_verify")["problems"] == []


def test_a_secret_that_was_put_since_comes_with_the_next_renewal(site: KeysSite) -> None:
    boot = Boot(site)
    site.put("wifi-psk", b"a new one")
    reply = boot.renew()
    assert set(reply["digests"]) == {"pos-api-token", "wifi-psk"}
    assert [one["name"] for one in boot.reply["withheld"]] == ["wifi-psk"]
    assert reply["withheld"] == []


def test_the_same_session_is_given_the_stored_answer_and_no_other(site: KeysSite) -> None:
    boot = Boot(site)
    wanted = boot.asks()
    reply = site.control("renew", **wanted)
    assert site.control("renew", **wanted) == reply
    other = {**wanted, "transcript": b64u(secrets.token_bytes(32))}
    assert code(site.control, "renew", **other) == "REPLAY"
    handed_over = {**boot.asks(), "session": payload(boot.reply)["session"]}
    assert code(site.control, "renew", **handed_over) == "REPLAY"
    last = [one for one in site.operator("events")["events"] if one["kind"] == "renewal-refused"]
    assert [one["reason"] for one in last] == ["REPLAY", "REPLAY"]


def test_an_answer_that_was_lost_does_not_end_it(site: KeysSite) -> None:
    boot = Boot(site)
    boot.renew()
    boot.openings.pop()  # the box never opened that one
    boot.renew()
    boot.renew()


def test_after_a_restore_a_boot_goes_on_once_from_what_it_shows(site: KeysSite) -> None:
    boot, forgotten = Boot(site), Boot(site, reset_count=8)
    boot.renew()
    boot.renew()
    forgotten.renew()
    site.stop()
    store = Store(site.layout.state / "keys/keys.db")
    with store.transaction():
        store.execute("DELETE FROM renewals WHERE reply<>''")  # the backup was older
        store.record(time.time(), "operator", Event(kind="restored", detail={}))
    store.close()
    site.start()
    assert boot.refused(pcrs=pcrs(ZERO_PCR)) == "PCR-MISMATCH"
    assert boot.refused(reset_count=9) == "NO-HANDOVER"
    boot.renew()
    assert boot.refused(pcrs=pcrs(b"\1" * 32)) == "PCR-MISMATCH"
    boot.renew()
    forgotten.renew()


def test_only_a_boot_that_was_handed_over_to_renews(site: KeysSite) -> None:
    boot = Boot(site)
    assert boot.refused(reset_count=8) == "NO-HANDOVER"
    assert boot.refused(restart_count=1) == "NO-HANDOVER"
    other = request(pcrs=pcrs(boot.openings[0].after), reset_count=9)
    assert code(site.control, "renew", **other) == "NO-HANDOVER"


@pytest.mark.parametrize("opened", [ZERO_PCR, b"\1" * 32])
def test_pcr_15_must_be_that_of_its_own_bundles(site: KeysSite, opened: bytes) -> None:
    assert Boot(site).refused(pcrs=pcrs(opened)) == "PCR-MISMATCH"


def test_an_older_value_of_pcr_15_is_that_of_a_bundle_that_was_not_opened(site: KeysSite) -> None:
    boot = Boot(site)
    for _ in range(20):
        boot.renew()
    assert boot.refused(pcrs=pcrs(boot.openings[2].after)) == "PCR-MISMATCH"


def test_keys_and_role_and_set_are_those_of_the_hand_over(site: KeysSite) -> None:
    boot = Boot(site)
    device = device_area(ec.generate_private_key(ec.SECP256R1()))
    assert boot.refused(device_public=b64u(device.encode())) == "DEVICE-KEY"
    assert boot.refused(ssh_public=b64u(b"another")) == "DEVICE-KEY"
    assert boot.refused(role="kiosk") == "ROLE-DIFFERS"
    assert boot.refused(boot_set=b64u(b"c" * 32)) == "PCR-MISMATCH"
    boot.renew()


def test_a_role_whose_boxes_go_off_does_not_renew(site: KeysSite) -> None:
    boot = Boot(site)
    site.write("site.toml", SITE_TOML)
    assert boot.refused() == "RENEWAL-OFF"


def test_a_revoked_box_and_a_withdrawn_set_get_nothing_not_even_again(site: KeysSite) -> None:
    boot = Boot(site)
    wanted = boot.asks()
    site.control("renew", **wanted)
    site.operator("withdraw", boot_set=b64u(b"b" * 32))
    assert code(site.control, "renew", **wanted) == "BOOT-SET-WITHDRAWN"
    site.operator("revoke", ek_name=b64u(EK.name()))
    assert code(site.control, "renew", **wanted) == "REVOKED"


def test_a_box_that_renews_without_end_is_slowed_down(site: KeysSite) -> None:
    boot = Boot(site)
    for _ in range(most_per_day(timedelta(days=3.5))):
        boot.renew()
    assert boot.refused() == "RATE"


def test_a_site_renews_so_many_boxes_in_a_minute_and_enrols_beside_them(site: KeysSite) -> None:
    site.write("site.toml", STAYS.replace('"stay"', '"stay"\nrenew = "10s"', 1))
    boot = Boot(site)
    for _ in range(RENEWALS_PER_MINUTE):
        boot.renew()
    assert boot.refused() == "RATE"
    assert payload(Boot(site, reset_count=8).reply)["status"] == "enrolled"


def test_nothing_is_renewed_after_the_lease() -> None:
    site = LeasedSite()
    try:
        text = (site.layout.site / "site.toml").read_text()
        stays = 'certificate_days = 7\nafter = "stay"\n'
        site.write("site.toml", text.replace("certificate_days = 7\n", stays, 1))
        site.ready()
        site.put()
        site.operator("lease_apply", lease=site.issue_lease())
        boot = Boot(site)
        boot.renew()
        site.operator("lease_end")
        assert boot.refused() in ("LEASE-ENDED", "LEASE-MISSING")
    finally:
        site.close()
