"""Options as an operator writes them: every kind to bytes, back to words, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import DHCPOptions

from netboot.dhcp_options import Code
from netboot.errors import SiteError
from netboot.option_catalogue import OptionError, code_of, condition, option, option6
from netboot.option_codes import (
    CODES,
    CODES6,
    KINDS,
    KINDS6,
    NAMES,
    OPTIONS_OF_SERVER,
    Kind,
)
from netboot.option_words import name_of, words

GOOD = [
    ("routers", "10.0.0.1", "0a000001", "10.0.0.1"),
    ("routers", ["10.0.0.1", "10.0.0.2"], "0a0000010a000002", "10.0.0.1, 10.0.0.2"),
    ("domain-name-servers", "10.0.0.1, 10.0.0.2", "0a0000010a000002", "10.0.0.1, 10.0.0.2"),
    ("42", ["10.0.0.9"], "0a000009", "10.0.0.9"),
    ("swap-server", "10.0.0.1", "0a000001", "10.0.0.1"),
    ("static-routes", ["10.1.0.0 10.0.0.1"], "0a0100000a000001", "10.1.0.0, 10.0.0.1"),
    ("static-routes", "10.1.0.0, 10.0.0.1", "0a0100000a000001", "10.1.0.0, 10.0.0.1"),
    ("ip-forwarding", True, "01", "true"),
    ("ip-forwarding", "false", "00", "false"),
    ("default-ip-ttl", 64, "40", "64"),
    ("interface-mtu", 9000, "2328", "9000"),
    ("interface-mtu", "9000", "2328", "9000"),
    ("v6-only-preferred", 3600, "00000e10", "3600"),
    ("time-offset", -3600, "fffff1f0", "-3600"),
    ("time-offset", "-3600", "fffff1f0", "-3600"),
    ("path-mtu-plateau-table", [68, 296], "00440128", "68, 296"),
    ("name-service-search", 0, "0000", "0"),
    ("forcerenew-nonce-capable", "1, 2", "0102", "1, 2"),
    ("domain-name", "example.net", "6578616d706c652e6e6574", '"example.net"'),
    ("tftp-server-name", "boot", "626f6f74", '"boot"'),
    ("boot-file-name", "hex:61 62:00", "616200", '"ab"'),
    ("fqdn", "hex:000102", "000102", "hex:000102"),
    ("v4-lost", "a.bc", "016102626300", "a.bc"),
    ("domain-search", ["a.bc", "d"], "016102626300016400", "a.bc, d"),
    (
        "classless-static-route",
        ["10.2.0.0/16 10.1.0.1", "0.0.0.0/0 via 10.1.0.2"],
        "100a020a010001000a010002",
        "10.2.0.0/16 via 10.1.0.1, 0.0.0.0/0 via 10.1.0.2",
    ),
    ("121", "10.2.3.0/25 - 10.1.0.1", "190a0203000a010001", "10.2.3.0/25 via 10.1.0.1"),
    ("v4-sztp-redirect", "https://a:1", "000b68747470733a2f2f613a31", "https://a:1"),
    ("sip-servers", ["10.0.0.1"], "010a000001", "10.0.0.1"),
    ("sip-servers", ["a.b"], "0001610162" + "00", "a.b"),
    (
        "vendor-encapsulated-options",
        {"6": 8, "1": "x", "9": "hex:0102", "4": ["10.0.0.1"]},
        "060108010178090201020404" + "0a000001",
        '6 = hex:08; 1 = "x"; 9 = hex:0102; 4 = hex:0a000001',
    ),
    ("vendor-encapsulated-options", "abc", "616263", "hex:616263"),
    (
        "vivso-suboptions",
        {"4491": {"2": "x"}},
        "0000118b03020178",
        'enterprise 4491: 2 = "x"',
    ),
    ("user-class", ["iPXE", "lab"], "0469505845036c6162", '"iPXE", "lab"'),
    ("slp-directory-agent", [True, "10.0.0.1", "10.0.0.2"], "010a0000010a000002", None),
    ("slp-service-scope", [False, "default"], "0064656661756c74", 'false, "default"'),
    ("client-ndi", [1, 3, 0], "010300", "1, 3, 0"),
    ("rdnss-selection", [1, "10.0.0.1", "10.0.0.2", "a"], "010a0000010a000002016100", None),
    ("etherboot", {"176": 1}, "b00101", "176 = hex:01"),
    ("224", "text", "74657874", '"text"'),
    ("225", "hex:ff", "ff", "hex:ff"),
]


@pytest.mark.parametrize(("key", "value", "data", "said"), GOOD)
def test_a_value_becomes_bytes_and_words(key: str, value: object, data: str, said: str) -> None:
    made = option(key, value)
    assert made.data.hex() == data
    assert not made.always
    if said is not None:
        assert words(made.code, made.data) == said


WRONG = [
    ("routers", "10.0.0", "expected a list of IPv4 addresses"),
    ("routers", 5, "expected a list of IPv4 addresses"),
    ("routers", [], "expected a list of IPv4 addresses"),
    ("routers", {"1": "x"}, "expected a list of IPv4 addresses"),
    ("routers", [["10.0.0.1"]], "expected a list of IPv4 addresses"),
    ("swap-server", ["10.0.0.1"], "expected an IPv4 address"),
    ("static-routes", "10.1.0.0", "in pairs"),
    ("static-routes", [1], "in pairs"),
    ("ip-forwarding", 1, "expected true or false"),
    ("ip-forwarding", "yes", "expected true or false"),
    ("default-ip-ttl", 256, "expected a number from 0 to 255"),
    ("default-ip-ttl", -1, "expected a number from 0 to 255"),
    ("default-ip-ttl", True, "expected a number from 0 to 255"),
    ("default-ip-ttl", "9" * 5000, "expected a number from 0 to 255"),
    ("time-offset", 1 << 31, "expected a number from -2147483648"),
    ("domain-name", "", "expected a text"),
    ("domain-name", 5, "expected a text"),
    ("fqdn", "abc", 'expected data as "hex:0a1b"'),
    ("fqdn", "hex:abc", 'pairs of hex digits after "hex:"'),
    ("v4-lost", "a..b", "expected a domain name"),
    ("v4-lost", "x" * 64, "expected a domain name"),
    ("v4-lost", "é", "expected a domain name"),
    ("domain-search", [1], "expected a list of domain names"),
    ("classless-static-route", ["10.2.0.1/16 10.1.0.1"], "expected a list of routes as"),
    ("classless-static-route", ["10.2.0.0/16"], "expected a list of routes as"),
    ("v4-sztp-redirect", [""], "expected a list of URIs"),
    ("sip-servers", [1], "expected a list of IPv4 addresses, or of domain names"),
    ("vendor-encapsulated-options", {"0": "x"}, "by number from 1 to 254"),
    ("vendor-encapsulated-options", {"six": "x"}, "by number from 1 to 254"),
    ("vendor-encapsulated-options", {"1": 256}, "expected sub-options as a text"),
    ("vendor-encapsulated-options", {"1": "x" * 256}, "at most 255 bytes"),
    ("vendor-encapsulated-options", {}, "a table of sub-options"),
    ("vivso-suboptions", {"1": {"1": "x" * 254}}, "at most 255 bytes in all"),
    ("user-class", ["x" * 256], "expected a list of texts"),
    ("slp-service-scope", [True], "a list of true or false, then a text"),
    ("client-ndi", [1, 2, 3, 4], "then a number from 0 to 255"),
    ("224", 5, 'data as "hex:0a1b" or a text'),
    ("router", "10.0.0.1", "there is no option router: did you mean routers?"),
    ("zzzz", "x", "write its number from 1 to 254"),
    ("256", "x", "write a number from 1 to 254"),
    ("-1", "x", "write a number from 1 to 254"),
    ("53", 5, "option 53 cannot be set: the server says itself"),
    ("dhcp-agent-options", "hex:00", "cannot be set: the relay's own is given back"),
    ("rapid-commit", True, "set rapid_commit = true on the subnet"),
]


@pytest.mark.parametrize(("key", "value", "says"), WRONG)
def test_a_wrong_value_says_what_was_expected(key: str, value: object, says: str) -> None:
    with pytest.raises(OptionError) as caught:
        option(key, value)
    assert says in str(caught.value)
    assert key in str(caught.value)


@pytest.mark.parametrize("code", sorted(OPTIONS_OF_SERVER))
def test_what_the_server_alone_may_set_is_refused(code: int) -> None:
    with pytest.raises(OptionError, match="cannot be set"):
        code_of(str(code))


def test_names_kinds_and_codes_agree() -> None:
    assert set(NAMES) == set(KINDS)
    assert all(CODES[name] == code for code, name in NAMES.items())
    assert all(0 < code < 255 for code in NAMES)
    used = {kind for kinds in KINDS.values() for kind in kinds}
    assert used | set(KINDS6.values()) == set(Kind)
    assert set(KINDS6) == set(CODES6.values())
    assert name_of(3) == "routers"
    assert name_of(230) == "option-230"


def test_every_code_that_the_engine_names_is_in_the_table() -> None:
    assert {code.value for code in Code} - {0, 255} <= set(NAMES)


GOOD6 = [
    ("dns-servers", ["2001:db8::1", "::2"], "20010db8" + "0" * 23 + "1" + "0" * 31 + "2"),
    ("23", "::1", "0" * 31 + "1"),
    ("domain-search", "a.b", "0161016200"),
    ("bootfile-url", "http://[::1]/x", "687474703a2f2f5b3a3a315d2f78"),
    ("information-refresh-time", 3600, "00000e10"),
    ("500", "hex:01", "01"),
    ("501", "text", "74657874"),
]


@pytest.mark.parametrize(("key", "value", "data"), GOOD6)
def test_a_value_for_dhcpv6_becomes_bytes(key: str, value: object, data: str) -> None:
    assert option6(key, value).data.hex() == data


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("dns-server", "::1", "did you mean dns-servers"),
        ("nothing-like-it", "x", "write its number"),
        ("65536", "x", "write its number"),
        ("1", "hex:00", "the server says it itself"),
        ("dns-servers", "10.0.0.1", "expected a list of IPv6 addresses"),
        ("500", 5, "or a text"),
    ],
)
def test_a_wrong_value_for_dhcpv6_says_what_was_expected(key, value, says) -> None:
    with pytest.raises(OptionError) as caught:
        option6(key, value)
    assert says in str(caught.value)


def test_a_condition_may_ask_about_any_option() -> None:
    assert condition("dhcp-client-identifier", True) == (61, None)
    assert condition("93", [7]) == (93, b"\0\7")
    assert condition("vendor-class-identifier", "Acme") == (60, b"Acme")
    with pytest.raises(OptionError, match="there is no option"):
        condition("nothing", True)


SAME = {
    "subnet_mask": "subnet-mask",
    "router": "routers",
    "name_server": "domain-name-servers",
    "domain": "domain-name",
    "NTP_server": "ntp-servers",
    "interface-mtu": "interface-mtu",
    "vendor_specific": "vendor-encapsulated-options",
    "TFTP_server_name": "tftp-server-name",
    "boot-file-name": "boot-file-name",
    "client_FQDN": "fqdn",
    "domain-search": "domain-search",
    "classless_static_routes": "classless-static-route",
    "pxeclient-architecture": None,
}


def test_scapy_gives_the_same_codes() -> None:
    theirs = {
        (known if isinstance(known, str) else known.name): code
        for code, known in DHCPOptions.items()
    }
    shared = {name: ours for name, ours in SAME.items() if name in theirs and ours}
    assert len(shared) > 8
    assert all(CODES[ours] == theirs[name] for name, ours in shared.items())


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just("hex:0a"),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("0123456789a", max_size=3), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CODES)) | st.text(max_size=4), VALUES)
def test_any_key_and_value_give_an_option_or_our_error(key: str, value: object) -> None:
    try:
        made = option(key, value)
    except SiteError as error:
        assert str(error)
        return
    assert 0 < made.code < 255

    assert isinstance(words(made.code, made.data), str)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 254), st.binary(max_size=24))
def test_any_bytes_have_words(code: int, data: bytes) -> None:
    said = words(code, data)
    assert said.isprintable()


def test_control_characters_never_reach_a_terminal() -> None:
    assert words(119, b"\x01\x1b\0") == "hex:011b00"
    assert words(143, b"\0\1\x1b") == "hex:00011b"


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=60))
def test_hex_gives_any_option_its_bytes(code: int, data: bytes) -> None:
    if code in OPTIONS_OF_SERVER:
        return
    assert option(str(code), f"hex:{data.hex()}").data == data
