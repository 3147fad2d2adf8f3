"""The RSA authority of HTTPS boot: what a firmware of 2000 takes, and nothing that outlives it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from attest.uefi import CERT_X509, decode_signatures
from keys.boot_ca import (
    BEGIN,
    CA_LIFETIME,
    SERVER_LIFETIME,
    BootIssuer,
    issue_boot_server,
    make_boot_ca,
    signature_list,
)
from keys.ca import Issue
from keys.errors import SiteError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = rsa.generate_private_key(65537, 2048)
ISSUE = Issue(serial=1, now=NOW)
CA = BootIssuer(certificate=make_boot_ca(KEY, site_id="shop-0417", issue=ISSUE), key=KEY)


def server(now: datetime = NOW) -> x509.Certificate:
    return issue_boot_server(
        CA,
        KEY.public_key(),
        names=["appliance.example.net"],
        addresses=[IPv4Address("10.41.7.2"), IPv6Address("fd41::2")],
        issue=replace(ISSUE, serial=2, now=now),
    )


def test_it_signs_servers_and_no_other_ca() -> None:
    leaf = server()
    leaf.verify_directly_issued_by(CA.certificate)
    basic = CA.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    found = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert found.ca is False
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign) == (
        True,
        True,
        False,
    )


def test_a_box_with_a_dead_battery_takes_both() -> None:
    assert CA.certificate.not_valid_before_utc == server().not_valid_before_utc == BEGIN


def test_a_server_does_not_outlive_the_ca() -> None:
    end = CA.certificate.not_valid_after_utc
    assert end == NOW + CA_LIFETIME
    assert server().not_valid_after_utc == NOW + SERVER_LIFETIME
    assert server(end - timedelta(days=1)).not_valid_after_utc == end
    with pytest.raises(SiteError, match="has ended"):
        server(end)


def test_the_list_for_a_firmware_is_read_back() -> None:
    (found,) = decode_signatures(signature_list(CA.certificate))
    assert found.type == CERT_X509
    assert found.data == CA.certificate.public_bytes(Encoding.DER)
