"""Leases through the keys process: a controller with a TPM, its operator, its boxes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from cache_lab import HOUR, NOW, ControllerTpm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from keys_site import SITE_TOML, USERS, KeysSite, code, request

from keys.cachekey import open_escrow
from keys.envelope import b64u
from keys.io.tpm import Tpm
from keys.lease import Lease, Purpose, SignedLease, Terms, reference, sign
from keys.lease_request import LeaseRequest
from keys.rules import SiteRules, Tier
from keys.tpm_objects import Index
from keys.tpm_public import PublicArea

TIERS = '[controller]\ntiers = ["site"]\n'


class LeasedSite(KeysSite):
    """A site whose controller has a TPM, and headquarters with the lease authority."""

    def __init__(self) -> None:
        super().__init__()
        self.authority = ec.generate_private_key(ec.SECP256R1())
        self.tpm = ControllerTpm(self.base)
        self.open_socket()
        public = self.authority.public_key()
        form = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.write("trust/lease.pub", public.public_bytes(*form).decode())
        table = f'[controller]\ntpm = "{self.tpm.tcti}"\nroot = "verity"\n'
        self.write("site.toml", SITE_TOML.replace(TIERS, table))

    def open_socket(self) -> None:
        """Let the keys process alone reach the TPM, as the device's rights do."""
        for path in self.tpm.sockets:
            os.chown(path, USERS["keys"], USERS["keys"])

    def power_cycle(self) -> None:
        """Cut the power of the whole controller."""
        self.kill()
        self.tpm.power_cycle()
        self.open_socket()

    def issue_lease(self, hours: int = 24, **changes: object) -> str:
        """Do what headquarters does: read the request, sign a lease for its counters."""
        asked = LeaseRequest.read(self.operator("lease_request", challenge="7391")["request"])
        with Tpm(self.tpm.tcti) as tpm:
            now = tpm.counters()
        wanted = {
            "clock_before": now.clock + hours * HOUR,
            "resets_at_most": now.reset_count + 2,
            "restarts_at_most": now.restart_count,
            "counter": asked.lease_counter + 1,
        }
        lease = Lease(
            site=asked.site,
            purpose=Purpose.CACHE,
            terms=Terms(**{**wanted, **changes}),  # type: ignore[arg-type]
            reference=reference(
                site=asked.site,
                ek_name=PublicArea.decode(asked.ek).name(),
                counter_name=Index.LEASE.nv_name,
                purpose=Purpose.CACHE,
            ),
            issued=NOW,
            ends=NOW + hours * 3600,
        )
        return sign(lease, self.authority, Index.LEASE.nv_name).text()

    def given(self, **changes: object) -> bool:
        """Ask for a hand-over; tell whether the secret of tier site is in it."""
        reply = self.control("handover", **request(**changes))
        return "pos-api-token" in reply["digests"]

    def close(self) -> None:
        super().close()
        self.tpm.close()


@pytest.fixture
def site() -> Iterator[LeasedSite]:
    one = LeasedSite()
    yield one
    one.close()


def test_a_site_lives_from_lease_to_lease(site: LeasedSite) -> None:
    site.ready()
    site.put()
    assert site.operator("status")["tpm"] == "IBM"
    assert code(site.control, "handover", **request()) == "LEASE-MISSING"
    taken = site.operator("lease_apply", lease=site.issue_lease())
    assert taken["open"]
    assert site.given()
    shown = site.operator("lease_show")
    assert shown["closed"] is None
    assert 23 * 3600 < shown["left"]["powered_seconds"] <= 24 * 3600
    assert shown["left"]["starts"] == 2
    # a power cut: the lease goes on, until the third
    for left in (1, 0):
        site.power_cycle()
        site.start()
        assert site.operator("lease_show")["left"]["starts"] == left
        assert site.given(reset_count=8 + left)
    site.power_cycle()
    for name in ("server.key", "server.pem"):
        (site.layout.run / "tls" / name).unlink()
    site.start()
    assert (site.layout.run / "tls/server.pem").exists()  # the page says why, so it is there
    assert code(site.control, "handover", **request(reset_count=99)) == "LEASE-ENDED"
    (said,) = site.operator("status")["sentences"]
    assert said.startswith("the lease has ended: the controller was started more often")
    assert "doorstep lease request" in said
    listed = {one["name"]: one for one in site.operator("secret_list")["secrets"]}
    assert listed["pos-api-token"]["reason"] == "LEASE-ENDED"
    assert code(site.operator, "secret_put", name="pos-api-token", value="AA") == "LEASE-ENDED"
    # names are signed without one
    assert site.operator("zone_anchors")["anchors"]
    # what was revoked meanwhile is revoked for good, and a new lease opens the rest
    site.operator("revoke", ek_name=b64u(b"\0\x0b" + bytes(32)))
    site.operator("lease_apply", lease=site.issue_lease())
    assert site.given(reset_count=100)
    events = site.operator("events", after=0)["events"]
    refused = [one["reason"] for one in events if one["kind"] == "handover-refused"]
    assert refused == ["LEASE-MISSING", "LEASE-ENDED"]
    kinds = [one["kind"] for one in events]
    assert kinds.count("lease-applied") == 2
    assert "lease-requested" in kinds


def test_all_leases_end_at_once(site: LeasedSite) -> None:
    site.ready()
    site.put()
    used = site.issue_lease()
    site.operator("lease_apply", lease=used)
    site.operator("lease_end")
    assert code(site.control, "handover", **request()) == "LEASE-ENDED"
    assert code(site.operator, "lease_apply", lease=used) == "MALFORMED"
    site.stop()
    site.start()
    assert code(site.control, "handover", **request()) == "LEASE-ENDED"
    site.operator("lease_apply", lease=site.issue_lease())
    assert site.given()


def test_the_owner_s_passwords_are_for_headquarters_alone(site: LeasedSite) -> None:
    site.ready()
    asked = LeaseRequest.read(site.operator("lease_request")["request"])
    assert len(open_escrow(asked.escrow, site.authority, site="shop-0417")) == 64
    with Tpm(site.tpm.tcti) as tpm:
        assert tpm.is_owned()
    assert SignedLease.read(site.issue_lease()).lease.site == "shop-0417"


def test_only_the_operator_touches_leases(site: LeasedSite) -> None:
    site.ready()
    for method in ("lease_request", "lease_apply", "lease_end", "lease_show"):
        assert code(site.control, method) == "FORBIDDEN"


def test_a_cache_does_not_change_between_file_and_tpm(site: LeasedSite) -> None:
    site.ready()
    site.stop()
    site.write("site.toml", SITE_TOML)
    with pytest.raises(AssertionError, match="hangs on this controller's TPM"):
        site.start()


def test_without_a_tpm_tier_site_is_off_unless_it_is_named() -> None:
    site = KeysSite()
    try:
        site.write("site.toml", SITE_TOML.replace(TIERS, ""))
        site.ready()
        assert code(site.operator, "secret_put", name="pos-api-token", value="AA") == (
            "SECRET-TIER-OFF"
        )
        site.operator("secret_put", name="wifi-psk", value="AA")
        reply = site.control("handover", **request())
        reasons = {one["name"]: one["reason"] for one in reply["withheld"]}
        assert reasons["pos-api-token"] == "SECRET-TIER-OFF"
        assert "not in a TPM" in site.operator("status")["not_covered"]
        assert code(site.operator, "lease_show") == "NO-TPM"
    finally:
        site.close()


def test_what_each_controller_may_promise() -> None:
    def rules(**table: object) -> SiteRules:
        return SiteRules.of(
            {
                "site": {"id": "a", "domain": "a.example"},
                "trust": {},
                "controller": table,
            }
        )

    bare, device = rules().controller, rules(tpm="/dev/tpmrm0").controller
    assert "needs a TPM" in (bare.why_off(Tier.SITE) or "")
    assert "theft inside the lease" in (device.why_off(Tier.SITE) or "")
    assert device.tcti == "device:/dev/tpmrm0"
    for controller in (
        rules(tiers=["site"]).controller,
        rules(tpm="/dev/tpmrm0", root="verity").controller,
        rules(tpm="/dev/tpmrm0", root="encrypted").controller,
    ):
        assert controller.why_off(Tier.SITE) is None
    assert all(one.why_off(Tier.BOOT) is None for one in (bare, device))
    assert "not in a TPM" in bare.not_covered()
    assert "Theft inside" in device.not_covered()
    assert rules(tpm="/dev/tpmrm0", root="verity").controller.not_covered() == ""
