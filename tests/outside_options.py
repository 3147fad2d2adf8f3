"""Options as an operator writes them in Kea's words, and the bytes that must be on the wire.

(key, value as TOML, code, bytes). Sizes are written by hand, not with our codec. RFC 2132, 2610,
2937, 3011, 3361, 3397, 3442, 3925, 4578, 4833, 5071, 5859, 6153, 6731, 7618, 7710, 8572, 8925.
"""

from __future__ import annotations

_A = bytes((199, 199, 199, 1))
_B = bytes((150, 150, 150, 1))
_AB = '"199.199.199.1,150.150.150.1"'

_LISTS = {
    "routers": 3,
    "time-servers": 4,
    "name-servers": 5,
    "domain-name-servers": 6,
    "log-servers": 7,
    "cookie-servers": 8,
    "lpr-servers": 9,
    "impress-servers": 10,
    "resource-location-servers": 11,
    "nis-servers": 41,
    "ntp-servers": 42,
    "netbios-name-servers": 44,
    "netbios-dd-server": 45,
    "font-servers": 48,
    "x-display-manager": 49,
    "nisplus-servers": 65,
    "mobile-ip-home-agent": 68,
    "smtp-server": 69,
    "pop-server": 70,
    "nntp-server": 71,
    "www-server": 72,
    "finger-server": 73,
    "irc-server": 74,
    "streettalk-server": 75,
    "streettalk-directory-assistance-server": 76,
    "nds-servers": 85,
    "bcms-controller-address": 89,
    "associated-ip": 92,
    "netinfo-server-address": 112,
    "pana-agent": 136,
    "capwap-ac-v4": 138,
    "policy-filter": 21,
    "static-routes": 33,
    '"150"': 150,
}
_ADDRESSES = {"swap-server": 16, "router-solicitation-address": 32}
_TEXTS = {
    "host-name": 12,
    "merit-dump": 14,
    "domain-name": 15,
    "root-path": 17,
    "extensions-path": 18,
    "nis-domain": 40,
    "netbios-scope": 47,
    "vendor-class-identifier": 60,
    "nwip-domain-name": 62,
    "nisplus-domain-name": 64,
    "tftp-server-name": 66,
    "boot-file-name": 67,
    "nds-tree-name": 86,
    "nds-context": 87,
    "uap-servers": 98,
    "pcode": 100,
    "tcode": 101,
    "netinfo-server-tag": 113,
    "v4-captive-portal": 114,
}
_BOOLEANS = {
    "ip-forwarding": 19,
    "non-local-source-routing": 20,
    "all-subnets-local": 27,
    "perform-mask-discovery": 29,
    "mask-supplier": 30,
    "router-discovery": 31,
    "trailer-encapsulation": 34,
    "ieee802-3-encapsulation": 36,
    "tcp-keepalive-garbage": 39,
}
_NUMBERS = {
    "time-offset": (2, 4),
    "boot-size": (13, 2),
    "max-dgram-reassembly": (22, 2),
    "default-ip-ttl": (23, 1),
    "path-mtu-aging-timeout": (24, 4),
    "interface-mtu": (26, 2),
    "arp-cache-timeout": (35, 4),
    "default-tcp-ttl": (37, 1),
    "tcp-keepalive-interval": (38, 4),
    "netbios-node-type": (46, 1),
    "client-last-transaction-time": (91, 4),
    "auto-config": (116, 1),
    "v6-only-preferred": (108, 4),
}
_EXAMPLE = b"\x07example\x03org\0"
_OTHERS: tuple[tuple[str, str, int, bytes], ...] = (
    ("subnet-mask", '"255.255.255.128"', 1, bytes((255, 255, 255, 128))),
    ("broadcast-address", '"199.199.199.1"', 28, _A),
    ("path-mtu-plateau-table", '"100,300,500"', 25, bytes.fromhex("0064012c01f4")),
    (
        "vendor-encapsulated-options",
        '{ 1 = "hex:0042", 2 = ["199.199.199.1"], 3 = "text", 4 = 5 }',
        43,
        b"\x01\x02\x00\x42\x02\x04" + _A + b"\x03\x04text\x04\x01\x05",
    ),
    ("user-class", '["one", "three"]', 77, b"\x03one\x05three"),
    ("slp-directory-agent", '"true,199.199.199.1,150.150.150.1"', 78, b"\x01" + _A + _B),
    ("slp-service-scope", '"true,scope"', 79, b"\x01scope"),
    ("bcms-controller-names", '"example.org"', 88, _EXAMPLE),
    ("authenticate", '"hex:00010203"', 90, b"\0\1\2\3"),
    ("client-system", '"0,7"', 93, b"\0\0\0\7"),
    ("client-ndi", '"1,3,16"', 94, b"\x01\x03\x10"),
    ("uuid-guid", '"0,hex:000102"', 97, b"\0\0\1\2"),
    ("geoconf-civic", '"hex:0102"', 99, b"\1\2"),
    ("name-service-search", '"6,44"', 117, b"\0\x06\0\x2c"),
    ("domain-search", '"example.org,a.example.org"', 119, _EXAMPLE + b"\x01a" + _EXAMPLE),
    ("sip-servers", '"199.199.199.1"', 120, b"\x01" + _A),
    (
        "classless-static-route",
        '"10.0.0.0/8 - 199.199.199.1, 0.0.0.0/0 - 150.150.150.1, 10.229.0.128/25 - 199.199.199.1"',
        121,
        b"\x08\x0a" + _A + b"\x00" + _B + b"\x19\x0a\xe5\x00\x80" + _A,
    ),
    ("vivco-suboptions", '{ 4491 = "hex:0102" }', 124, bytes.fromhex("0000118b020102")),
    ("vivso-suboptions", '{ 4491 = { 2 = "abc" } }', 125, bytes.fromhex("0000118b050203616263")),
    ("v4-lost", '"example.org"', 137, _EXAMPLE),
    ("sip-ua-cs-domains", '"example.org"', 141, _EXAMPLE),
    ("v4-sztp-redirect", '["https://a.example"]', 143, b"\0\x11https://a.example"),
    (
        "rdnss-selection",
        '"1,199.199.199.1,150.150.150.1,example.org"',
        146,
        b"\x01" + _A + _B + _EXAMPLE,
    ),
    ("status-code", '"2,text"', 151, b"\x02text"),
    ("v4-portparams", '"hex:06060000"', 159, b"\x06\x06\0\0"),
    ("option-6rd", '"hex:0102"', 212, b"\1\2"),
    ("v4-access-domain", '"example.org"', 213, _EXAMPLE),
    (
        "v4-dnr",
        '"hex:0031000217076578616d706c6504736f6d6504686f7374036f726700040a000506"',
        162,
        bytes.fromhex("0031000217076578616d706c6504736f6d6504686f7374036f726700040a000506"),
    ),
    ("wpad-url", '"http://199.199.199.1/wpad"', 252, b"http://199.199.199.1/wpad"),
    ("pxelinux-magic", '"hex:f100747e"', 208, bytes.fromhex("f100747e")),
    ("pxelinux-configfile", '"cfg/default"', 209, b"cfg/default"),
    ("pxelinux-path-prefix", '"cfg/"', 210, b"cfg/"),
    ("reboot-time", "30", 211, b"\0\0\0\x1e"),
    ("224", '"hex:0a1b"', 224, b"\x0a\x1b"),
    ("225", '"a text"', 225, b"a text"),
    ("226", f'"{"x" * 252}"', 226, b"x" * 252),
)

OPTIONS: tuple[tuple[str, str, int, bytes], ...] = (
    *((key, _AB, code, _A + _B) for key, code in _LISTS.items()),
    *((key, '"199.199.199.1"', code, _A) for key, code in _ADDRESSES.items()),
    *((key, '"some.text/x"', code, b"some.text/x") for key, code in _TEXTS.items()),
    *(
        (key, '"True"' if code % 2 else "false", code, bytes((code % 2,)))
        for key, code in _BOOLEANS.items()
    ),
    *((key, '"86"', code, (86).to_bytes(size, "big")) for key, (code, size) in _NUMBERS.items()),
    *_OTHERS,
)
