"""The configuration that nginx is given: where it listens. What it does is tried in real chains."""

from __future__ import annotations

import re
from pathlib import Path

import bootstrap
from bootstrap.io.nginx import PHONE_HOME_PORT, nginx_conf
from bootstrap.site import decode_site

EXAMPLE = (Path(bootstrap.__file__).parent / "example" / "site.toml").read_text()
SIX = """
[[subnet6]]
name = "tills6"
interface = "eth1"
network = "fd00:41:7::/64"
appliance = "fd00:41:7::2"
pool = "fd00:41:7::1000-fd00:41:7::1fff"
boot = false
"""
OTHER = SIX.replace("tills6", "office6").replace("fd00:41:7:", "fd00:41:8:")


def listens(text: str) -> list[str]:
    conf = nginx_conf(decode_site(text.encode()), Path("/run/doorstep"))
    return re.findall(rf"listen (\S*:{PHONE_HOME_PORT}[^;]*) ssl;", conf)


def test_boxes_phone_home_to_each_ipv4_address_and_to_every_ipv6_address_once() -> None:
    assert listens(EXAMPLE) == ["10.41.7.2:8443"]
    assert listens(EXAMPLE + SIX) == ["10.41.7.2:8443", "[::]:8443 ipv6only=on"]
    assert listens(EXAMPLE + SIX + OTHER) == listens(EXAMPLE + SIX)


def test_boot_files_go_by_tls_over_ipv6_where_something_boots_there() -> None:
    text = EXAMPLE.replace("[boot]\n", "[boot]\nhttps = true\n")
    for six, count in ((SIX, 0), (SIX.replace("boot = false", "boot = true"), 1)):
        conf = nginx_conf(decode_site((text + six).encode()), Path("/run/doorstep"))
        assert conf.count("listen [::]:8444 ipv6only=on ssl;") == count
