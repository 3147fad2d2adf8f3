"""The appliance's certificate names its addresses of both families, as far as the root vouches."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest
from cryptography import x509
from keys_site import SITE_TOML, KeysSite

from keys import ca

SIX = SITE_TOML + '[[subnet6]]\nappliance = "fd41:7::2"\n'


@pytest.fixture
def site() -> Iterator[KeysSite]:
    made = KeysSite()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("networks", "named"),
    [
        (["10.41.7.0/24"], ["10.41.7.2"]),
        (["10.41.7.0/24", "fd41:8::/64"], ["10.41.7.2"]),
        (["10.41.7.0/24", "fd41:7::/64"], ["10.41.7.2", "fd41:7::2"]),
    ],
)
def test_a_root_from_before_ipv6_still_carries_the_site(
    site: KeysSite, networks: list[str], named: list[str]
) -> None:
    """One address too many would cost every box its way to the site (RFC 5280, 4.2.1.10)."""
    kinds = {True: IPv6Network, False: IPv4Network}
    site.root = ca.make_root(
        site.root_key,
        site_id="shop-0417",
        domain="shop-0417.example.net",
        networks=[kinds[":" in one](one) for one in networks],
        issue=site.issue(),
    )
    site.write("trust/root.pem", ca.pem([site.root]))
    site.write("site.toml", SIX)
    site.start()
    site.sign_authorities()
    pem = (site.layout.run / "tls/server.pem").read_bytes()
    leaf = x509.load_pem_x509_certificates(pem)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ip_address(one) for one in named]
