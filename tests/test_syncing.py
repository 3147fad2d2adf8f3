"""What keys lets sync do: versions only grow, nothing is read back, what is withdrawn is gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sync_lab import DAY, NOW, SOURCE, SyncedController, SyncedKeys, closing, text_of

from keys import ca
from keys.errors import SiteError
from keys.io.rpc import Refusal
from keys.io.syncing import EPOCH_SECONDS, EPOCHS, MAX_BATCH, MAX_LOGIN, OWED, PAGE, Outcome
from keys.io.tpm import Tpm
from keys.rules import MAX_SECRET, SiteRules
from keys.tpm_objects import Index


@pytest.fixture
def site() -> Iterator[SyncedKeys]:
    with closing(SyncedKeys()) as one:
        yield one.ready()


def code(call, *arguments, **params) -> str:
    with pytest.raises(Refusal) as refused:
        call(*arguments, **params)
    return refused.value.code


def test_what_is_handed_in_goes_to_boxes_and_is_never_told(site: SyncedKeys) -> None:
    assert site.wanted() == {
        "name": "pos-api-token",
        "source": SOURCE,
        "version": None,
        "usable": False,
        "expires": None,
        "reason": "SECRET-MISSING",
        "ttl": 14 * DAY,
        "gone": None,
    }
    done = site.offer(7, b"the-token-of-tills", not_after=None)
    assert (done["outcome"], done["expires"]) == ("new", NOW + 14 * DAY)
    assert (done["code"], done["sentence"]) == (None, None)
    assert "secret-fetched" in site.kinds()
    assert "pos-api-token" not in site.withheld()
    found = site.wanted()
    assert (found["version"], found["usable"], found["expires"]) == (7, True, NOW + 14 * DAY)
    said = [site.sync("sync_wanted"), site.operator("events", after=0), site.operator("status")]
    assert text_of(b"the-token-of-tills") not in str(said)
    assert b"the-token-of-tills" not in str(said).encode()


def test_the_same_again_renews_the_lease_and_ends_no_epoch(site: SyncedKeys) -> None:
    site.offer(7, b"token")
    before = site.operator("secret_list")["secrets"][0]
    site.wall += 3 * DAY
    done = site.offer(7, b"token")
    assert (done["outcome"], done["expires"]) == ("renewed", NOW + 17 * DAY)
    after = site.operator("secret_list")["secrets"][0]
    assert after["version"] == before["version"]  # a box that has it has the newest
    assert site.kinds()[-1] == "secrets-renewed"


@pytest.mark.parametrize(
    ("version", "value", "code"),
    [(6, b"token", "VERSION-LOWER"), (6, b"other", "VERSION-LOWER"), (7, b"x", "VALUE-DIFFERS")],
)
def test_an_upstream_goes_forward_only(
    site: SyncedKeys, version: int, value: bytes, code: str
) -> None:
    site.offer(7, b"token")
    done = site.offer(version, value)
    assert (done["outcome"], done["code"]) == ("refused", code)
    assert "pos-api-token" in done["sentence"] and "hq" in done["sentence"]
    assert site.wanted()["version"] == 7
    events = site.operator("events", after=0)["events"]
    assert events[-1]["detail"]["code"] == code
    site.offer(version, value)  # it insists: the audit does not fill
    assert site.operator("events", after=0)["events"][-1] == events[-1]
    site.offer(7, b"token")
    site.offer(version, value)  # but what happens again is told again
    kinds = site.kinds()
    assert kinds[-3:] == ["upstream-refused", "secrets-renewed", "upstream-refused"]


def test_a_lower_version_stays_lower_when_the_value_is_no_longer_here(site: SyncedKeys) -> None:
    site.offer(7, b"token")
    site.operator("secret_remove", name="pos-api-token")
    assert site.offer(6, b"token")["code"] == "VERSION-LOWER"
    assert site.offer(7, b"other")["code"] == "VALUE-DIFFERS"
    assert site.offer(7, b"token")["outcome"] == "new"


def test_floors_are_kept_for_each_source(site: SyncedKeys) -> None:
    site.offer(7, b"token")
    text = (site.layout.site / "site.toml").read_text()
    site.write("site.toml", text.replace(SOURCE, "spare:token"))
    site.start()
    assert site.offer(8, b"token")["code"] == "SOURCE-DIFFERS"
    assert site.offer(1, b"from the spare", source="spare:token")["outcome"] == "new"
    site.write("site.toml", text)
    site.start()
    assert site.offer(6, b"token")["code"] == "VERSION-LOWER"


@pytest.mark.parametrize("status", [403, 404])
def test_threat_9_what_is_withdrawn_is_purged_at_once(site: SyncedKeys, status: int) -> None:
    site.offer(7, b"token")
    assert site.withdraw(status) == "gone"
    assert site.withheld()["pos-api-token"] == "SECRET-GONE"
    listed = site.operator("secret_list")["secrets"][0]
    assert (listed["reason"], listed["gone"]["status"]) == ("SECRET-GONE", status)
    assert site.wanted()["gone"] == {"status": status, "since": NOW}
    assert site.withdraw(status) == "known"
    assert site.kinds().count("secret-gone") == 1
    # the withdrawn version does not come back by itself; a newer one does
    again = site.offer(7, b"token")
    assert (again["code"], "new version" in again["sentence"]) == ("SECRET-GONE", True)
    assert site.offer(8, b"token 8")["outcome"] == "new"
    assert "pos-api-token" not in site.withheld()


def test_the_operator_can_take_back_a_withdrawal(site: SyncedKeys) -> None:
    site.offer(7, b"token")
    site.withdraw(403)
    answer = site.operator("secret_remove", name="pos-api-token")
    assert answer == {"removed": False, "lifted": True, "source": SOURCE}
    assert site.offer(6, b"token")["code"] == "VERSION-LOWER"
    assert site.offer(7, b"token")["outcome"] == "new"


def test_what_an_operator_puts_meanwhile_serves_until_the_next_renewal(site: SyncedKeys) -> None:
    site.offer(7, b"token")
    put = site.operator("secret_put", name="pos-api-token", value=text_of(b"by hand"))
    assert put["source"] == SOURCE
    assert site.wanted()["usable"]
    done = site.offer(7, b"token")
    assert done["outcome"] == "new"
    assert site.operator("secret_list")["secrets"][0]["version"] == put["version"] + 1
    # also for what was withdrawn: the upstream's word on it was taken once
    site.withdraw()
    site.operator("secret_put", name="pos-api-token", value=text_of(b"by hand"))
    assert site.withdraw() == "known"
    assert "pos-api-token" not in site.withheld()


def test_a_lease_ends_with_its_ttl_or_when_the_upstream_says(site: SyncedKeys) -> None:
    assert site.offer(7, b"token", not_after=NOW + DAY)["expires"] == NOW + DAY
    assert site.offer(8, b"token", not_after=NOW + 99 * DAY)["expires"] == NOW + 14 * DAY
    site.wall += 14 * DAY
    assert site.withheld()["pos-api-token"] == "SECRET-EXPIRED"


def test_a_license_ends_on_the_day_that_its_upstream_says(site: SyncedKeys) -> None:
    about = {"name": "till-license", "source": "spare:licenses/till"}
    done = site.offer(1, b"KEY=1", not_after=NOW + 90 * DAY, **about)
    assert (done["outcome"], done["expires"]) == ("new", NOW + 90 * DAY)
    undated = site.offer(2, b"KEY=2", **about)
    assert undated["code"] == "DATE"
    assert undated["sentence"].startswith("till-license: ")
    site.offer(3, b"KEY=3", not_after=NOW + 90 * DAY, **about)
    assert site.offer(2, b"KEY=2", **about)["code"] == "VERSION-LOWER"
    assert site.offer(4, b"KEY=4", not_after=NOW - 1, **about)["code"] == "DATE"


def test_one_that_is_refused_does_not_hold_back_the_others(site: SyncedKeys) -> None:
    site.offer(7, b"token")
    offers = [
        {"name": "pos-api-token", "source": SOURCE, "version": 3, "value": text_of(b"x")},
        {"name": "wifi-psk", "source": "hq:wifi", "version": 3, "value": text_of(b"psk")},
        {"name": "nobody", "source": SOURCE, "version": 3, "value": text_of(b"x")},
        {"name": "vault-key", "source": SOURCE, "version": 3, "value": text_of(b"x")},
        {"name": "till-license", "source": "spare:licenses/till", "version": 1, "value": ""},
    ]
    done = site.sync("sync_put", secrets=offers)["done"]
    told = site.operator("events", after=0)["events"]
    refused = [one["detail"]["name"] for one in told if one["kind"] == "upstream-refused"]
    assert "nobody" not in refused  # names that nobody gave fill no audit
    assert [one["code"] or one["outcome"] for one in done] == [
        "VERSION-LOWER",
        "new",
        "SECRET-UNKNOWN",
        "SOURCE-DIFFERS",
        "SIZE",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": 1 << 63},
        {"version": True},
        {"version": "7"},
        {"not_after": -1},
        {"not_after": 1 << 60},
        {"not_after": 1.5},
        {"source": None},
        {"name": 7},
    ],
)
def test_what_is_no_offer_is_not_taken(site: SyncedKeys, change) -> None:
    assert code(site.offer, **({"version": 7, "value": b"token"} | change)) == "MALFORMED"
    assert site.wanted()["version"] is None


def test_a_call_has_a_size(site: SyncedKeys) -> None:
    one = {"name": "pos-api-token", "source": SOURCE, "version": 7, "value": text_of(b"x")}
    many = [one | {"name": f"s{number}"} for number in range(MAX_BATCH + 1)]
    for secrets in ([], many, [one, one], {"secrets": one}):
        assert code(site.sync, "sync_put", secrets=secrets) == "MALFORMED"
    assert len(site.sync("sync_put", secrets=many[:-1])["done"]) == MAX_BATCH
    for status in (500, 403.0, True):
        assert code(site.withdraw, status) == "MALFORMED"


def test_a_login_is_for_sync_alone_and_in_no_list(site: SyncedKeys) -> None:
    assert site.sync("sync_wanted")["upstreams"] == {"hq": None, "spare": None}
    assert code(site.sync, "sync_credential", upstream="hq") == "NO-LOGIN"
    site.operator("upstream_login", upstream="hq", login=text_of(b'{"id":"1"}'))
    assert site.sync("sync_credential", upstream="hq") == {
        "login": text_of(b'{"id":"1"}'),
        "version": 1,
    }
    site.operator("upstream_login", upstream="hq", login=text_of(b'{"id":"2"}'))
    assert site.sync("sync_wanted")["upstreams"] == {"hq": 2, "spare": None}
    assert "upstream/hq" not in str(site.operator("secret_list"))
    assert {"upstream/hq"} & set(site.withheld()) == set()
    assert code(site.operator, "upstream_login", upstream="x", login="AA") == "UPSTREAM-UNKNOWN"
    assert code(site.operator, "upstream_login", upstream="hq", login="") == "MALFORMED"
    assert site.service is not None
    rows = site.service.methods()
    assert rows["sync_credential"].users == frozenset({"sync"})
    for upstream in ([], 7, "x"):
        assert code(site.sync, "sync_credential", upstream=upstream) == "UPSTREAM-UNKNOWN"
    assert site.kinds().count("upstream-login") == 2
    audit = site.service._store.execute("SELECT entry FROM audit").fetchall()
    assert sum('"upstream-login-read"' in entry for (entry,) in audit) == 1
    site.operator("secret_remove", name="upstream/hq")
    assert code(site.sync, "sync_credential", upstream="hq") == "NO-LOGIN"


def test_what_is_wanted_comes_in_pages(site: SyncedKeys) -> None:
    names = [f"s{number:03}" for number in range(3 * PAGE)]
    tables = "".join(
        f'[[secret]]\nname = "{name}"\ntier = "site"\nttl = "1d"\nsource = "hq:{name}"\n'
        for name in names
    )
    site.write("site.toml", (site.layout.site / "site.toml").read_text() + tables)
    site.start()
    assert site.all_wanted() == sorted([*names, "pos-api-token", "till-license", "wifi-psk"])
    assert code(site.sync, "sync_wanted", after=7) == "MALFORMED"


def test_threat_13_a_version_that_nobody_confirmed_may_be_stale(site: SyncedKeys) -> None:
    site.offer(7, b"token")
    listed = site.operator("secret_list")["secrets"][0]
    assert (listed["upstream_version"], listed["seen"], listed["maybe_stale"]) == (7, NOW, False)
    site.wall += DAY
    listed = site.operator("secret_list")["secrets"][0]
    assert (listed["reason"], listed["maybe_stale"], listed["seen"]) == (None, True, NOW)
    assert site.operator("keys_explain")["secrets"][0]["maybe_stale"] is True


def test_what_has_no_source_is_not_sync_s(site: SyncedKeys) -> None:
    text = (site.layout.site / "site.toml").read_text()
    site.write("site.toml", f'{text}[[secret]]\nname = "plain"\ntier = "site"\nttl = "1d"\n')
    site.start()
    site.operator("secret_put", name="plain", value=text_of(b"by hand"))
    for source in ("", SOURCE):
        done = site.offer(1, b"x", name="plain", source=source)
        assert done["code"] == "SOURCE-DIFFERS"
        assert site.withdraw(name="plain", source=source) == "refused"
    assert "plain" not in site.all_wanted()
    listed = {one["name"]: one for one in site.operator("secret_list")["secrets"]}
    assert listed["plain"]["source"] is None and "maybe_stale" not in listed["plain"]
    never = listed["pos-api-token"]
    assert (never["seen"], never["maybe_stale"], never["gone"]) == (None, False, None)


def test_a_withdrawal_from_elsewhere_is_none(site: SyncedKeys) -> None:
    site.offer(7, b"token")
    assert site.withdraw(source="spare:pos/token") == "refused"
    assert site.withdraw(name="nobody") == "refused"
    assert site.withdraw(name="vault-key") == "refused"
    assert site.wanted()["usable"]


def test_a_certificate_ends_when_it_says_or_before(site: SyncedKeys) -> None:
    text = (site.layout.site / "site.toml").read_text()
    site.write("site.toml", text.replace('kind = "license"', 'kind = "certificate"'))
    site.start()
    about = {"name": "till-license", "source": "spare:licenses/till"}
    value, own = ca.pem([site.root]).encode(), int(site.root.not_valid_after_utc.timestamp())
    assert own > NOW + 99 * DAY
    assert site.offer(1, value, **about)["expires"] == own
    assert site.offer(2, value, not_after=own + DAY, **about)["expires"] == own
    assert site.offer(3, value, not_after=NOW + DAY, **about)["expires"] == NOW + DAY
    assert site.offer(4, b"no certificate", **about)["code"] == "DATE"


def test_what_is_too_large_is_not_taken(site: SyncedKeys) -> None:
    assert site.offer(1, b"x" * (MAX_SECRET + 1))["code"] == "SIZE"
    assert site.offer(1, b"x" * MAX_SECRET)["outcome"] == "new"
    large = text_of(b"x" * (MAX_LOGIN + 1))
    assert code(site.operator, "upstream_login", upstream="hq", login=large) == "MALFORMED"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = st.sampled_from(["name", "source", "version", "value", "not_after", "status"])


@given(st.data())
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_handed_in_is_answered_or_refused(site: SyncedKeys, data) -> None:
    """The server answers MALFORMED for each of these errors, and nothing is changed by it."""
    good = {"name": "pos-api-token", "source": SOURCE, "version": 7, "value": "AAAA", "status": 404}
    one = good | data.draw(st.dictionaries(FIELDS, JSON, max_size=3))
    secrets = data.draw(st.sampled_from([[one], one, [one, None], [[one]]]) | JSON)
    for method in ("sync_put", "sync_gone"):
        with suppress(Refusal, KeyError, TypeError, ValueError, AttributeError):
            done = site.sync(method, secrets=secrets)["done"]
            assert {found["outcome"] for found in done} <= {kind.value for kind in Outcome}


class Floors(RuleBasedStateMachine):
    """Whatever sync hands in, in whatever order: versions grow, and the newest value is given."""

    def __init__(self) -> None:
        super().__init__()
        self.site = SyncedKeys().ready()
        self.newest = 0
        self.is_gone = False
        self.is_here = False

    @rule(version=st.integers(1, 6))
    def offer(self, version: int) -> None:
        done = self.site.offer(version, b"value-%d" % version)
        is_taken = version > self.newest or (version == self.newest and not self.is_gone)
        assert (done["outcome"] in ("new", "renewed")) == is_taken
        if is_taken:
            self.newest, self.is_gone, self.is_here = version, False, True

    @rule(version=st.integers(1, 6))
    def lie(self, version: int) -> None:
        """Another value under a version that is known."""
        if version <= self.newest:
            assert self.site.offer(version, b"a lie")["outcome"] == "refused"

    @rule()
    def withdraw(self) -> None:
        assert self.site.withdraw() == ("known" if self.is_gone else "gone")
        self.is_gone, self.is_here = True, False

    @rule()
    def remove(self) -> None:
        self.site.operator("secret_remove", name="pos-api-token")
        self.is_gone = self.is_here = False

    @rule()
    def restart(self) -> None:
        self.site.start()

    @invariant()
    def what_is_given_is_the_newest(self) -> None:
        wanted = self.site.wanted()
        assert (wanted["version"] or 0, wanted["usable"]) == (self.newest, self.is_here)
        assert (wanted["gone"] is not None) == self.is_gone
        service = self.site.service
        assert service is not None
        row = service._store.secret("pos-api-token")
        assert (row is not None) == self.is_here
        if row is not None:
            assert service._vault.unlock(row).reveal() == b"value-%d" % self.newest

    def teardown(self) -> None:
        self.site.close()


TestFloors = Floors.TestCase
TestFloors.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


def test_without_its_tier_a_site_takes_nothing(site: SyncedKeys) -> None:
    site.write("site.toml", (site.layout.site / "site.toml").read_text().replace('["site"]', "[]"))
    site.start()
    assert site.offer(7, b"token")["code"] == "SECRET-TIER-OFF"
    assert code(site.operator, "upstream_login", upstream="hq", login="AA") == "SECRET-TIER-OFF"


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ({"tier": "site", "source": "nowhere:x"}, "no \\[\\[upstream\\]\\] 'nowhere'"),
        ({"tier": "box", "source": "hq:x"}, "tier box is wrapped"),
    ],
)
def test_a_source_that_cannot_be_is_named(secret, said: str) -> None:
    document = {
        "site": {"id": "a", "domain": "a.example"},
        "trust": {},
        "upstream": [{"name": "hq"}],
        "secret": [{"name": "s", "ttl": "1d"} | secret],
    }
    with pytest.raises(SiteError, match=said):
        SiteRules.of(document)


# a controller with a TPM


@pytest.fixture
def controller() -> Iterator[SyncedController]:
    with closing(SyncedController()) as one:
        yield one.leased()


def epoch(site: SyncedController) -> int:
    with Tpm(site.tpm.tcti) as tpm:
        return tpm.counter(Index.EPOCH)


def test_many_new_versions_are_one_revocation_and_renewals_none(
    controller: SyncedController,
) -> None:
    names = {"pos-api-token": SOURCE, "till-license": "spare:licenses/till"}

    def offer(version: int, value: bytes) -> list[str]:
        offers = [
            {
                "name": name,
                "source": source,
                "version": version,
                "value": text_of(value),
                "not_after": NOW + 30 * DAY,
            }
            for name, source in names.items()
        ]
        return [one["outcome"] for one in controller.sync("sync_put", secrets=offers)["done"]]

    before = epoch(controller)
    assert offer(1, b"one") == ["new", "new"]
    assert epoch(controller) == before  # there was nothing that must not come back
    assert offer(1, b"one") == ["renewed", "renewed"]
    assert epoch(controller) == before
    assert offer(2, b"two") == ["new", "new"]
    assert epoch(controller) == before + 1
    assert controller.withdraw(404) == "gone"
    assert epoch(controller) == before + 2
    assert controller.withdraw(404, "wifi-psk", "hq:wifi") == "gone"  # it was never here
    controller.sync("sync_wanted")
    assert epoch(controller) == before + 2  # and nothing is owed


def test_threat_41_an_upstream_that_changes_all_the_time_wears_no_tpm_out(
    controller: SyncedController,
) -> None:
    controller.offer(1, b"1")
    before = epoch(controller)
    taken = [controller.offer(n, b"%d" % n) for n in range(2, 3 * EPOCHS)]
    assert sum(one["outcome"] == "new" for one in taken) == EPOCHS == epoch(controller) - before
    assert {one["code"] for one in taken} == {None, "PACE"}
    assert controller.wanted()["version"] == EPOCHS + 1
    both = [
        {"name": "pos-api-token", "source": SOURCE, "version": 99, "value": text_of(b"99")},
        {"name": "wifi-psk", "source": "hq:wifi", "version": 1, "value": text_of(b"psk")},
    ]
    outcomes = [one["outcome"] for one in controller.sync("sync_put", secrets=both)["done"]]
    assert outcomes == ["refused", "new"]  # what replaces nothing wears nothing
    assert controller.withdraw(404, "till-license", "spare:licenses/till") == "gone"
    assert not controller.service._store.meta(OWED)
    # a withdrawal is not put off; older copies of the disk are closed as soon as there is room
    assert controller.withdraw() == "gone"
    assert controller.withheld()["pos-api-token"] == "SECRET-GONE"
    assert epoch(controller) == before + EPOCHS
    controller.sync("sync_wanted")
    assert epoch(controller) == before + EPOCHS
    controller.kill()
    controller.start()  # what is owed outlives a restart
    controller.wall += EPOCH_SECONDS
    controller.sync("sync_wanted")
    controller.sync("sync_wanted")
    assert epoch(controller) == before + EPOCHS + 1
    controller.wall += EPOCH_SECONDS
    assert controller.offer(3 * EPOCHS, b"last")["outcome"] == "new"


def test_an_older_copy_of_the_disk_brings_back_neither_version_nor_login(
    controller: SyncedController,
) -> None:
    controller.operator("upstream_login", upstream="hq", login=text_of(b"first"))
    controller.offer(1, b"one")
    controller.kill()
    copy = controller.base / "copy"
    shutil.copytree(controller.layout.state / "keys", copy)
    controller.start()
    controller.offer(2, b"two")
    controller.kill()
    shutil.rmtree(controller.layout.state / "keys")
    shutil.copytree(copy, controller.layout.state / "keys")
    with pytest.raises(SiteError, match="restored from a copy"):
        controller.start()


def test_after_the_lease_there_is_no_login_and_a_withdrawal_still_counts(
    controller: SyncedController,
) -> None:
    controller.operator("upstream_login", upstream="hq", login=text_of(b"login"))
    controller.offer(1, b"one")
    assert controller.sync("sync_credential", upstream="hq")["version"] == 1
    assert controller.sync("sync_wanted")["closed"] is None
    controller.operator("lease_end")
    assert controller.sync("sync_wanted")["closed"]["code"] == "LEASE-ENDED"
    assert code(controller.sync, "sync_credential", upstream="hq") == "LEASE-ENDED"
    assert code(controller.offer, 2, b"two") == "LEASE-ENDED"
    assert controller.withdraw(404) == "gone"
    controller.operator("lease_apply", lease=controller.issue_lease())
    assert controller.withheld()["pos-api-token"] == "SECRET-GONE"
    assert controller.sync("sync_credential", upstream="hq")["version"] == 1
