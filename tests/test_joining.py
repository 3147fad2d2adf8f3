"""Which card an address leads to: by its lease, by itself, by what was seen; no stranger's."""

import pytest

from bootstrap.enrolment import Stage
from bootstrap.joining import mac_at, normal_address
from bootstrap.rows import Sighting

MAC, OTHER = "52:54:00:d0:00:01", "52:54:00:d0:00:02"
LENT, MADE = "fd00:41:7::1000", "fd00:41:7::5054:ff:fed0:1"
SEEN = Sighting(mac=MAC, stage=Stage.HEARD, since=0.0, first=0.0, address="10.41.7.100", detail={})


@pytest.mark.parametrize(
    ("address", "leases", "named", "found"),
    [
        (LENT, {LENT: MAC}, {MAC, OTHER}, MAC),
        ("10.41.7.20", {"10.41.7.20": MAC}, {MAC}, MAC),
        (LENT, {LENT: OTHER}, {MAC}, None),
        (LENT, {}, {MAC}, None),
        (MADE, {}, {MAC}, MAC),
        (MADE, {}, {OTHER}, None),
        (MADE, {MADE: OTHER}, {OTHER}, OTHER),
        ("10.41.7.100", {}, {MAC}, MAC),
        ("10.41.7.100", {}, {OTHER}, None),
        ("10.41.7.100", {"10.41.7.100": OTHER}, {OTHER}, OTHER),
        ("", {}, {MAC}, None),
        ("fd00::ff:fe00:zz", {}, {MAC}, None),
    ],
)
def test_what_an_address_leads_to(
    address: str, leases: dict[str, str], named: set[str], found: str | None
) -> None:
    assert mac_at(address, leases, [SEEN], named) == found


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("fd00:41:7:0:0::1000", LENT),
        ("FD00:41:7::1000", LENT),
        ("fd00:1:2:3:4:0:6:7", "fd00:1:2:3:4:0:6:7"),
        ("fd00:1:2:3:4::6:7", "fd00:1:2:3:4:0:6:7"),
        ("10.41.7.100", "10.41.7.100"),
        ("", ""),
        ("x" * 99, "x" * 64),
    ],
)
def test_one_form_of_an_address(text: str, same: str) -> None:
    """RFC 5952, 4.2.2: nginx writes a single zero as two colons, everybody else does not."""
    assert normal_address(text) == same
