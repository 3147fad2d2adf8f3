"""Leases, time and the part of the site file that keys reads."""

import tomllib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import cache
from keys.cache import Label
from keys.errors import SiteError
from keys.rules import SecretRule, SiteRules, Tier, duration, judged_now, leapt, usable_until
from keys.secret import Secret

GOOD = """
[site]
id = "s"
domain = "s.example.net"
[[subnet]]
network = "10.0.0.0/24"
appliance = "10.0.0.2"
[[subnet]]
network = "10.0.1.0/24"
appliance = "10.0.1.2"
[[role]]
name = "pos"
default = true
secrets = ["a"]
certificate_days = 3
[[role]]
name = "kiosk"
[[secret]]
name = "a"
tier = "site"
ttl = "2w"
max_stale = "30m"
"""


def read(text):
    return SiteRules.of(tomllib.loads(text))


def test_what_is_read():
    rules = read(GOOD)
    assert rules.server_names == ("appliance.s.example.net",)
    assert [str(address) for address in rules.appliances] == ["10.0.0.2", "10.0.1.2"]
    assert rules.default_role == "pos"
    assert rules.roles["pos"].certificate_lifetime == timedelta(days=3)
    assert rules.roles["kiosk"].secrets == ()
    assert rules.secrets["a"] == SecretRule(
        name="a", tier=Tier.SITE, ttl=timedelta(days=14), max_stale=timedelta(minutes=30)
    )
    assert rules.delivery_note == "delivery.csv"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('id = "s"', "", "site.id"),
        ('id = "s"', "id = 4", "site.id"),
        ('domain = "s.example.net"', 'domain = ""', "site.domain"),
        ('"10.0.0.0/24"', '"10.0.0.1/24"', "subnet.network"),
        ('"10.0.0.2"', '"ten"', "subnet.appliance"),
        ('secrets = ["a"]', 'secrets = ["b"]', r"no \[\[secret\]\] 'b'"),
        ('secrets = ["a"]', 'secrets = ["a", "a"]', "twice"),
        ('secrets = ["a"]', 'secrets = "a"', "role.secrets"),
        ("certificate_days = 3", "certificate_days = 0", "certificate_days"),
        ("certificate_days = 3", "certificate_days = 900", "certificate_days"),
        ('name = "kiosk"', 'name = "pos"', "same name"),
        ('name = "kiosk"', 'name = "kiosk"\ndefault = true', "set twice"),
        ('name = "kiosk"', 'name = "../kiosk"', "role.name"),
        ('tier = "site"', 'tier = "none"', "secret.tier"),
        ('ttl = "2w"', "", "secret.ttl"),
        ('ttl = "2w"', 'ttl = "2y"', "no duration"),
        ('max_stale = "30m"', 'max_stail = "30m"', "max_stail is unknown"),
        ("[[secret]]", "[secret]", "must be tables"),
        ("[site]", "[[site]]", "must be a table"),
    ],
)
def test_what_is_wrong_is_named(old, new, sentence):
    assert old in GOOD
    with pytest.raises(SiteError, match=sentence):
        read(GOOD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("lines", "renew"),
    [
        ("", None),
        ('after = "power-off"', None),
        ('after = "power-off"\nrenew = "1h"', None),
        ('after = "stay"', timedelta(hours=36)),
        ('after = "stay"\nrenew = "20s"', timedelta(seconds=20)),
    ],
)
def test_boxes_that_stay_renew_at_half_of_a_certificates_life_or_as_told(lines, renew):
    days = "certificate_days = 3"
    rules = read(GOOD.replace(days, f"{days}\n{lines}", 1))
    assert next(one for one in rules.roles.values() if one.secrets).renew == renew


@pytest.mark.parametrize("wrong", ["3d", "4d", "0s", "often"])
def test_a_renewal_lies_inside_the_life_of_a_certificate(wrong):
    days = "certificate_days = 3"
    with pytest.raises(SiteError, match=r"role\.renew"):
        read(GOOD.replace(days, f'{days}\nafter = "stay"\nrenew = "{wrong}"', 1))


@given(st.text(max_size=6))
def test_any_text_is_a_duration_or_an_error(text):
    try:
        assert duration(text, "ttl") >= timedelta()
    except SiteError as error:
        assert "ttl" in str(error)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("2m", 120), ("3h", 10800), ("40d", 3456000)]
)
def test_durations(text, seconds):
    assert duration(text, "ttl").total_seconds() == seconds


def test_a_lease_ends_with_what_may_be_stale():
    rule = read(GOOD).secrets["a"]
    assert usable_until(1000, rule) == 1000 + 1800


def test_time_never_goes_back():
    assert judged_now(wall=50.0, mark=100.0) == 100.0
    assert judged_now(wall=150.0, mark=100.0) == 150.0


def test_a_leap_of_the_wall_clock_is_seen():
    assert not leapt(wall=1000.0, mark=900.0, elapsed=100.0)
    assert not leapt(wall=1000.0 + 86400, mark=1000.0, elapsed=0.0)
    assert leapt(wall=1001.0 + 86400, mark=1000.0, elapsed=0.0)
    assert not leapt(wall=0.0, mark=1000.0, elapsed=0.0)


LABEL = Label(name="a", version=1, tier=Tier.SITE, set_at=5, expires=9)
KEY = Secret(b"k" * 32)


def locked(value=b"value"):
    drawn = bytes(range(cache.RANDOM_SIZE))
    return cache.lock(Secret(value), cache_key=KEY, label=LABEL, site_id="s", drawn=drawn)


@pytest.mark.parametrize("size", [0, cache.RANDOM_SIZE - 1, cache.RANDOM_SIZE + 1])
def test_a_value_is_locked_with_fresh_bytes_for_all_that_is_drawn(size):
    with pytest.raises(ValueError, match="random bytes"):
        cache.lock(Secret(b"v"), cache_key=KEY, label=LABEL, site_id="s", drawn=bytes(size))


@given(st.binary(max_size=50))
def test_a_stored_secret_comes_back(value):
    row = locked(value)
    assert cache.unlock(row, cache_key=KEY, site_id="s") == Secret(value)
    assert len(value) < 8 or value not in row.sealed + row.wrapped


@pytest.mark.parametrize(
    "change",
    [{"name": "b"}, {"version": 2}, {"tier": Tier.BOOT}, {"set_at": 6}, {"expires": 10}],
)
def test_a_row_under_another_label_does_not_open(change):
    fields = {name: getattr(LABEL, name) for name in Label.__dataclass_fields__} | change
    row = cache.Row(label=Label(**fields), wrapped=locked().wrapped, sealed=locked().sealed)
    with pytest.raises(SiteError, match="does not open"):
        cache.unlock(row, cache_key=KEY, site_id="s")


def test_a_row_of_another_site_or_key_does_not_open():
    for key, site in ((KEY, "t"), (Secret(b"x" * 32), "s")):
        with pytest.raises(SiteError, match="does not open"):
            cache.unlock(locked(), cache_key=key, site_id=site)
