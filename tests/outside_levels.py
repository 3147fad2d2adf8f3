"""The table: lease times, and which level says what an option holds."""

from __future__ import annotations

from outside_cases import Case, ask, bound, discover, release, request, select, vendor
from outside_lab import ACK, OFFER

TIMES = (
    Case(
        name="lease, T1 and T2",
        says=(discover(has={51: 4000, 58: 2000, 59: 3500}),),
    ),
    Case(
        name="renew-timer and rebind-timer as configured",
        subnet="options = { dhcp-renewal-time = 900, dhcp-rebinding-time = 1800 }\n",
        says=(discover(has={51: 4000, 58: 900, 59: 1800}),),
    ),
    *(
        Case(
            name=f"{asked} s are asked for, {given} s are given",
            subnet='lease = "3000s"\nlease_min = "2000s"\nlease_max = "5000s"\n',
            says=(
                discover(OFFER, ("lease_time", asked), has={51: given}),
                select(ACK, "@50", ("lease_time", asked), has={51: given}),
            ),
        )
        for asked, given in (
            (0, 2000),
            (1999, 2000),
            (2000, 2000),
            (4999, 4999),
            (5001, 5000),
            (0xFFFFFFFF, 5000),
        )
    ),
    Case(name="without limits, ours", says=(discover(OFFER, ("lease_time", 77), has={51: 4000}),)),
    Case(
        name="a lease of a pool, of a class, of a reservation",
        subnet='pool = [{ range = "@50-@50", lease = "60s" }, { range = "@60-@69" }]\n',
        site='[[class]]\nname = "t%n"\nvendor_class = "time%n"\nlease = "70s"\n'
        '[[reservation]]\nmac = "%C"\nlease = "80s"\n',
        says=(
            discover(has={51: 60, 58: 30}),
            discover(mac="B", has={51: 4000}),
            discover(OFFER, vendor("time%n"), mac="D", has={51: 70}),
            discover(OFFER, vendor("time%n"), mac="C", has={51: 80}),
        ),
    ),
    Case(
        name="a lease without end",
        subnet="options = { dhcp-lease-time = 4294967295 }\n",
        says=(discover(has={51: 0xFFFFFFFF}), *bound(), request(ACK, header={"ciaddr": "@50"})),
    ),
)

LEVELS = (
    Case(
        name="an option: site, shared network, subnet, pool, class, reservation",
        subnet="""shared = "net%n"
options = { log-servers = "10.0.0.2", lpr-servers = "10.0.0.2" }
pool = [{ range = "@50-@59", options = { lpr-servers = "10.0.0.3" } }]
""",
        site="""[[shared_network]]
name = "net%n"
options = { name-servers = "10.0.0.9", log-servers = "10.0.0.9" }
[[class]]
name = "l%n"
vendor_class = "lev%n"
options = { lpr-servers = "10.0.0.4", impress-servers = "10.0.0.4" }
[[reservation]]
mac = "%B"
options = { impress-servers = "10.0.0.5" }
""",
        says=(
            discover(
                OFFER,
                ask(8, 5, 7, 9, 10),
                has={8: "10.1.1.1", 5: "10.0.0.9", 7: "10.0.0.2", 9: "10.0.0.3"},
                lacks=(10,),
            ),
            discover(OFFER, ask(9, 10), vendor("lev%n"), has={9: "10.0.0.4", 10: "10.0.0.4"}),
            discover(
                OFFER, ask(9, 10), vendor("lev%n"), mac="B", has={9: "10.0.0.4", 10: "10.0.0.5"}
            ),
        ),
    ),
    Case(
        name="what is asked for comes in the order of asking",
        subnet='options = { ntp-servers = "10.0.0.1", root-path = "/r", '
        'host-name = "h", interface-mtu = 1400 }\n',
        says=(
            discover(
                OFFER,
                ask(26, 17, 1, 42, 12),
                has={"order": (53, 54, 51, 58, 59, 26, 17, 1, 42, 12, 6, 15)},
            ),
        ),
    ),
    Case(
        name="what is not asked for stays out, but for mask, router, DNS, host name, domain",
        subnet='options = { routers = "10.0.0.1", '
        'domain-name-servers = "10.0.0.2", ntp-servers = "10.0.0.3" }\n',
        says=(
            discover(has={1: "255.255.255.0", 3: "10.0.0.1", 6: "10.0.0.2"}, lacks=(42, 28)),
            discover(OFFER, ask(42), has={42: "10.0.0.3", 3: "10.0.0.1"}),
        ),
    ),
    Case(
        name="always-send",
        subnet='options = { ntp-servers = "10.0.0.3", 224 = "hex:01" }\n'
        'always = ["ntp-servers", 224]\n',
        says=(discover(OFFER, ask(1), has={42: "10.0.0.3", 224: b"\x01"}),),
    ),
    Case(
        name="unknown wishes, a wish twice, an empty list, and codes 0 and 255 in it",
        says=(
            discover(OFFER, ask(0, 1, 1, 250, 255, 1), has={1: "255.255.255.0"}),
            discover(OFFER, (55, b""), has={1: "255.255.255.0"}),
        ),
    ),
    Case(
        name="option 54 as configured is ours",
        subnet='options = { dhcp-server-identifier = "192.0.2.54" }\n',
        says=(
            *bound("A", "@50", us="192.0.2.54"),
            release(us="192.0.2.54"),
            *bound("B", "@50", us="192.0.2.54"),
        ),
    ),
    Case(
        name="the same of option 43 for two classes, as vendors want it",
        site="""[[class]]
name = "apc%n"
vendor_class = "APC%n"
options = { vendor-encapsulated-options = { 1 = "1APC" } }
always = "vendor-encapsulated-options"
[[class]]
name = "pxe%n"
vendor_class = "PXX%n"
options = { vendor-encapsulated-options = { 1 = ["1.2.3.4"] } }
""",
        says=(
            discover(OFFER, vendor("APC%n"), has={43: b"\x01\x041APC"}),
            discover(OFFER, vendor("PXX%n"), ask(43), has={43: b"\x01\x04\x01\x02\x03\x04"}),
            discover(OFFER, vendor("PXX%n"), lacks=(43,)),
            discover(OFFER, ask(43), lacks=(43,)),
        ),
    ),
)


CASES = (*TIMES, *LEVELS)
