"""Every DHCPv4 option with a name: its code and the kind of its data.

A table alone; `netboot.option_catalogue` turns values into bytes and back. IANA, BOOTP Vendor
Extensions and DHCP Options; the names are those of ISC and Kea where these have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Kind(Enum):
    """What an option's data is; the text is what a person is told to write."""

    ADDRESS = "an IPv4 address"
    ADDRESSES = "a list of IPv4 addresses"
    ADDRESSES6 = "a list of IPv6 addresses"
    PAIRS = "a list of IPv4 addresses in pairs"
    BOOL = "true or false"
    UINT8 = "a number from 0 to 255"
    UINT16 = "a number from 0 to 65535"
    UINT32 = "a number from 0 to 4294967295"
    INT32 = "a number from -2147483648 to 2147483647"
    UINT8S = "a list of numbers from 0 to 255"
    UINT16S = "a list of numbers from 0 to 65535"
    TEXT = "a text"
    DATA = 'data as "hex:0a1b"'
    NAME = "a domain name"
    NAMES = "a list of domain names"
    ROUTES = 'a list of routes as "10.2.0.0/16 10.1.0.1"'
    URIS = "a list of URIs"
    SIP = "a list of IPv4 addresses, or of domain names"
    SUBOPTIONS = "a table of sub-options by number"
    VENDORS = "a table of tables: sub-options by number, by enterprise number"
    VENDORS6 = "a table of tables: options by number, by enterprise number"
    VENDOR_CLASSES = 'a table: data as "hex:0a1b" or a text, by enterprise number'
    CLASSES = "a list of texts"
    NOTHING = "nothing: write true"


_RECORDS: Mapping[int, tuple[Kind, ...]] = {
    78: (Kind.BOOL, Kind.ADDRESSES),
    79: (Kind.BOOL, Kind.TEXT),
    94: (Kind.UINT8, Kind.UINT8, Kind.UINT8),
    97: (Kind.UINT8, Kind.DATA),
    146: (Kind.UINT8, Kind.ADDRESS, Kind.ADDRESS, Kind.NAME),
    151: (Kind.UINT8, Kind.TEXT),
}
"""Options of several fields: RFC 2610, 4578, 6731, 6926."""

_BY_KIND: Mapping[Kind, Mapping[int, str]] = {
    Kind.ADDRESS: {
        1: "subnet-mask",
        16: "swap-server",
        28: "broadcast-address",
        32: "router-solicitation-address",
        50: "dhcp-requested-address",
        54: "dhcp-server-identifier",
        118: "subnet-selection",
    },
    Kind.ADDRESSES: {
        3: "routers",
        4: "time-servers",
        5: "name-servers",
        6: "domain-name-servers",
        7: "log-servers",
        8: "cookie-servers",
        9: "lpr-servers",
        10: "impress-servers",
        11: "resource-location-servers",
        41: "nis-servers",
        42: "ntp-servers",
        44: "netbios-name-servers",
        45: "netbios-dd-server",
        48: "font-servers",
        49: "x-display-manager",
        65: "nisplus-servers",
        68: "mobile-ip-home-agent",
        69: "smtp-server",
        70: "pop-server",
        71: "nntp-server",
        72: "www-server",
        73: "finger-server",
        74: "irc-server",
        75: "streettalk-server",
        76: "streettalk-directory-assistance-server",
        85: "nds-servers",
        89: "bcms-controller-address",
        92: "associated-ip",
        112: "netinfo-server-address",
        136: "pana-agent",
        138: "capwap-ac-v4",
        148: "v4-dots-address",
        150: "tftp-server-address",
    },
    Kind.PAIRS: {21: "policy-filter", 33: "static-routes"},
    Kind.BOOL: {
        19: "ip-forwarding",
        20: "non-local-source-routing",
        27: "all-subnets-local",
        29: "perform-mask-discovery",
        30: "mask-supplier",
        31: "router-discovery",
        34: "trailer-encapsulation",
        36: "ieee802-3-encapsulation",
        39: "tcp-keepalive-garbage",
    },
    Kind.UINT8: {
        23: "default-ip-ttl",
        37: "default-tcp-ttl",
        46: "netbios-node-type",
        52: "dhcp-option-overload",
        53: "dhcp-message-type",
        116: "auto-config",
        156: "dhcp-state",
        157: "data-source",
    },
    Kind.UINT16: {
        13: "boot-size",
        22: "max-dgram-reassembly",
        26: "interface-mtu",
        57: "dhcp-max-message-size",
    },
    Kind.UINT32: {
        24: "path-mtu-aging-timeout",
        35: "arp-cache-timeout",
        38: "tcp-keepalive-interval",
        51: "dhcp-lease-time",
        58: "dhcp-renewal-time",
        59: "dhcp-rebinding-time",
        91: "client-last-transaction-time",
        108: "v6-only-preferred",
        152: "base-time",
        153: "start-time-of-state",
        154: "query-start-time",
        155: "query-end-time",
        211: "reboot-time",
    },
    Kind.INT32: {2: "time-offset"},
    Kind.UINT8S: {55: "dhcp-parameter-request-list", 145: "forcerenew-nonce-capable"},
    Kind.UINT16S: {
        25: "path-mtu-plateau-table",
        93: "client-system",
        117: "name-service-search",
    },
    Kind.TEXT: {
        12: "host-name",
        14: "merit-dump",
        15: "domain-name",
        17: "root-path",
        18: "extensions-path",
        40: "nis-domain",
        47: "netbios-scope",
        56: "dhcp-message",
        60: "vendor-class-identifier",
        62: "nwip-domain-name",
        64: "nisplus-domain-name",
        66: "tftp-server-name",
        67: "boot-file-name",
        86: "nds-tree-name",
        87: "nds-context",
        95: "ldap-server",
        98: "uap-servers",
        100: "pcode",
        101: "tcode",
        113: "netinfo-server-tag",
        114: "v4-captive-portal",
        209: "pxelinux-configfile",
        210: "pxelinux-path-prefix",
        252: "wpad-url",
    },
    Kind.DATA: {
        61: "dhcp-client-identifier",
        63: "nwip-suboptions",
        81: "fqdn",
        82: "dhcp-agent-options",
        83: "isns",
        90: "authenticate",
        99: "geoconf-civic",
        122: "cablelabs-client-configuration",
        123: "geoconf",
        139: "v4-mos-address",
        140: "v4-mos-fqdn",
        142: "v4-andsf",
        144: "geoloc",
        159: "v4-portparams",
        161: "mud-url",
        162: "v4-dnr",
        208: "pxelinux-magic",
        212: "option-6rd",
        220: "subnet-allocation",
        221: "virtual-subnet-selection",
    },
    Kind.NAME: {137: "v4-lost", 147: "v4-dots-ri", 213: "v4-access-domain"},
    Kind.NAMES: {88: "bcms-controller-names", 119: "domain-search", 141: "sip-ua-cs-domains"},
    Kind.ROUTES: {121: "classless-static-route", 249: "ms-classless-static-routes"},
    Kind.URIS: {143: "v4-sztp-redirect"},
    Kind.SIP: {120: "sip-servers"},
    Kind.SUBOPTIONS: {43: "vendor-encapsulated-options", 175: "etherboot"},
    Kind.VENDORS: {125: "vivso-suboptions"},
    Kind.VENDOR_CLASSES: {124: "vivco-suboptions"},
    Kind.CLASSES: {77: "user-class"},
    Kind.NOTHING: {80: "rapid-commit"},
}
_RECORD_NAMES = {
    78: "slp-directory-agent",
    79: "slp-service-scope",
    94: "client-ndi",
    97: "uuid-guid",
    146: "rdnss-selection",
    151: "status-code",
}

NAMES: Mapping[int, str] = dict(
    sorted(
        [*_RECORD_NAMES.items(), *(item for names in _BY_KIND.values() for item in names.items())]
    )
)
"""Each code's name."""
CODES: Mapping[str, int] = {name: code for code, name in NAMES.items()} | {
    "bootfile-name": 67,
    "default-url": 114,
    "rfc3442-classless-static-routes": 121,
    "classless-static-routes": 121,
    "wpad": 252,
    "ipxe": 175,
}
"""Each name's code; a few have two names."""
KINDS: Mapping[int, tuple[Kind, ...]] = {
    **{code: (kind,) for kind, names in _BY_KIND.items() for code in names},
    **_RECORDS,
}
"""The fields of each option's data."""

OPTIONS_OF_SERVER: Mapping[int, str] = {
    0: "it only pads",
    50: "clients alone send it",
    52: "the server says itself which fields it used",
    53: "the server says itself what kind of answer it is",
    55: "clients alone send it",
    61: "the client's own is given back (RFC 6842)",
    80: "set rapid_commit = true on the subnet",
    82: "the relay's own is given back (RFC 3046)",
    255: "it only ends the options",
}
"""Options that nobody but the server may set, and why."""

CODES6: Mapping[str, int] = {
    "preference": 7,
    "unicast": 12,
    "vendor-opts": 17,
    "sip-server-dns": 21,
    "sip-server-addr": 22,
    "dns-servers": 23,
    "domain-search": 24,
    "nis-servers": 27,
    "nisp-servers": 28,
    "nis-domain-name": 29,
    "nisp-domain-name": 30,
    "sntp-servers": 31,
    "information-refresh-time": 32,
    "bcmcs-server-dns": 33,
    "bcmcs-server-addr": 34,
    "pana-agent": 40,
    "new-posix-timezone": 41,
    "new-tzdb-timezone": 42,
    "v6-lost": 51,
    "capwap-ac-v6": 52,
    "v6-access-domain": 57,
    "sip-ua-cs-list": 58,
    "bootfile-url": 59,
    "aftr-name": 64,
    "erp-local-domain-name": 65,
    "sol-max-rt": 82,
    "inf-max-rt": 83,
    "dhcp4o6-server-addr": 88,
    "v6-captive-portal": 103,
    "v6-sztp-redirect": 136,
}
"""DHCPv6 options by name (IANA, Dynamic Host Configuration Protocol for IPv6)."""
KINDS6: Mapping[int, Kind] = {
    **dict.fromkeys((12, 22, 23, 27, 28, 31, 34, 40, 52, 88), Kind.ADDRESSES6),
    **dict.fromkeys((21, 24, 29, 30, 33, 58), Kind.NAMES),
    **dict.fromkeys((51, 57, 64, 65), Kind.NAME),
    **dict.fromkeys((41, 42, 59, 103), Kind.TEXT),
    **dict.fromkeys((32, 82, 83), Kind.UINT32),
    7: Kind.UINT8,
    17: Kind.VENDORS6,
    136: Kind.URIS,
}
"""The data of DHCPv6 options; others take hex or a text."""
OPTIONS_OF_SERVER6 = frozenset({1, 2, 3, 4, 5, 6, 8, 9, 11, 13, 14, 18, 19, 20, 25, 26, 37, 79})
"""Options that carry the protocol itself (RFC 8415, 21; 4649, 6939)."""
