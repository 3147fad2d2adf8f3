"""The plan: its form, and every sentence about what cannot be served."""

import json
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.bootchoice import BootRule, Loading
from netboot.files import ServedSet
from netboot.network import (
    ClientClass,
    ClientKind,
    Identify,
    Match,
    OptionValue,
    Parameters,
    Pool,
    Reservation,
    Reservation6,
    Subnet6Plan,
    SubnetPlan,
)
from netboot.plan import Boot, Plan, Record
from netboot.plan_check import check
from netboot.plan_dns import Asking, PlanDns, PlanUpstream, PlanZone
from netboot.plan_form import PlanError
from netboot.views import View

SUBNET = SubnetPlan(
    name="tills",
    interface="eth1",
    network=IPv4Network("10.41.7.0/24"),
    appliance=IPv4Address("10.41.7.2"),
    gateway=IPv4Address("10.41.7.1"),
    pools=(Pool(first=IPv4Address("10.41.7.100"), last=IPv4Address("10.41.7.199")),),
    lease=timedelta(hours=12),
    dhcp="server",
    boot=True,
)
OTHER = replace(
    SUBNET,
    name="cams",
    interface="eth2",
    network=IPv4Network("10.42.0.0/24"),
    appliance=IPv4Address("10.42.0.2"),
    gateway=None,
    pools=(
        Pool(
            first=IPv4Address("10.42.0.9"),
            last=IPv4Address("10.42.0.20"),
            classes=frozenset({"phones"}),
        ),
    ),
    boot=False,
    shared="cameras",
    relays=(IPv4Address("10.99.0.1"),),
    authoritative=False,
    rapid_commit=True,
)
PRINTER = Reservation(
    mac=bytes.fromhex("020000000011"), address=IPv4Address("10.41.7.11"), name="printer-1"
)
SUBNET6 = Subnet6Plan(
    name="tills6",
    interface="eth1",
    network=IPv6Network("2001:db8:7::/64"),
    appliance=IPv6Address("2001:db8:7::2"),
    pools=((IPv6Address("2001:db8:7::100"), IPv6Address("2001:db8:7::1ff")),),
    lease=timedelta(hours=12),
    dhcp="stateful",
    boot=True,
    options=(OptionValue(code=59, data=b"http://x/"),),
)
PRINTER6 = Reservation6(
    mac=bytes.fromhex("020000000011"), address=IPv6Address("2001:db8:7::11"), name="printer-1"
)
DOMAIN = "shop-0417.example.net"
APPLIANCE = Record(name=f"appliance.{DOMAIN}", type="A", ttl=300, value="10.41.7.2")
SET = ServedSet(
    boot_set=bytes(range(32)),
    architecture="amd64",
    loader="shimx64.efi",
    names={"/shimx64.efi": bytes(32), "/grub/grub.cfg": bytes([3]) * 32},
)
CANARY = replace(
    SET,
    boot_set=bytes([7]) * 32,
    names={"/shimx64.efi": bytes([4]) * 32, "/grub/grub.cfg": bytes([5]) * 32},
)
ARM = replace(
    SET,
    boot_set=bytes([8]) * 32,
    architecture="arm64",
    loader="shimaa64.efi",
    names={"/shimaa64.efi": bytes([6]) * 32},
)
BOOT = Boot(
    sets=(SET, CANARY, ARM),
    rules=(
        BootRule(
            match=Match(kinds=frozenset({ClientKind.IPXE}), known=False),
            file="/menu.ipxe",
            loading=Loading.HTTP,
        ),
    ),
    files={"/f/0011223344556677/vmlinuz": bytes([1]) * 32, "/menu.ipxe": bytes([2]) * 32},
    https_port=8444,
)
SAID = Parameters(
    options=(OptionValue(code=42, data=bytes(4), always=True),),
    lease=timedelta(hours=1),
    lease_min=timedelta(minutes=5),
    lease_max=timedelta(hours=2),
    boot_file="own.efi",
    next_server=IPv4Address("10.41.7.3"),
    server_name="boot",
    reply_delay=timedelta(milliseconds=250),
)
PHONES = ClientClass(
    name="phones",
    match=Match(
        architectures=frozenset({7, 11}),
        vendor_class=(b"Acme",),
        mac=(b"\0\4\xf2",),
        uuid=(bytes(range(16)),),
        relays=(IPv4Address("10.9.9.1"),),
        options=((43, None), (77, b"x")),
    ),
    parameters=SAID,
)
PLAN = Plan(
    number=7,
    site="shop-0417",
    domain=DOMAIN,
    subnets=(SUBNET, OTHER),
    reservations=(PRINTER,),
    classes=(PHONES,),
    parameters=SAID,
    identify=Identify.CLIENT_ID,
    quarantine=timedelta(minutes=10),
    records=(
        APPLIANCE,
        Record(name=f"www.{DOMAIN}", type="CNAME", ttl=60, value=f"appliance.{DOMAIN}."),
        Record(name=f"_pos._tcp.{DOMAIN}", type="SRV", ttl=60, value="0 5 443 a.b."),
        Record(name=DOMAIN, type="TXT", ttl=60, value='anything "at all"'),
        Record(name="9.7.41.10.in-addr.arpa", type="PTR", ttl=60, value=f"x.{DOMAIN}"),
    ),
    boot=BOOT,
    subnets6=(SUBNET6,),
    reservations6=(PRINTER6,),
)


def record(**changes) -> Plan:
    return replace(PLAN, records=(APPLIANCE, replace(APPLIANCE, **changes)))


def subnet(**changes) -> Plan:
    return replace(PLAN, subnets=(replace(SUBNET, **changes), OTHER))


def pools(*texts: str) -> Plan:
    spans = (text.split("-") for text in texts)
    return subnet(
        pools=tuple(Pool(first=IPv4Address(first), last=IPv4Address(last)) for first, last in spans)
    )


def pool(**changes) -> Plan:
    return subnet(pools=(replace(SUBNET.pools[0], **changes),))


def said(**changes) -> Plan:
    return replace(PLAN, parameters=replace(SAID, **changes))


def option(code: int, data: bytes = b"x") -> Plan:
    return said(options=(OptionValue(code=code, data=data),))


def match(**changes) -> Plan:
    return replace(PLAN, classes=(replace(PHONES, match=replace(PHONES.match, **changes)),))


def rule(**changes) -> Plan:
    return boot(rules=(replace(BOOT.rules[0], **changes),))


def boot(**changes) -> Plan:
    return replace(PLAN, boot=replace(BOOT, **changes))


def boot_set(**changes) -> Plan:
    return boot(sets=(replace(SET, **changes),))


def subnet6(**changes) -> Plan:
    return replace(PLAN, subnets6=(replace(SUBNET6, **changes),))


def reserved6(**changes) -> Plan:
    return replace(PLAN, reservations6=(PRINTER6, replace(PRINTER6, **changes)))


def reserved(**changes) -> Plan:
    return replace(PLAN, reservations=(PRINTER, replace(PRINTER, **changes)))


ELSEWHERE = {"mac": b"\2\0\0\0\0\x12", "address": IPv4Address("10.41.7.12"), "name": "printer-2"}

ZONE = PlanZone(name="b.example.", file="b.zone", digest=bytes(32), signed=True)
UPSTREAM = PlanUpstream(address=IPv6Address("2001:db8::53"), port=853, pins=(bytes(32),))
WRONG = [
    (replace(PLAN, domain="a..b"), "domain 'a..b' is no domain name"),
    (replace(PLAN, subnets=(), subnets6=()), "there is no subnet"),
    (replace(PLAN, subnets=(SUBNET, replace(OTHER, name="tills"))), "subnet tills is there twice"),
    (
        replace(PLAN, subnets=(SUBNET, replace(OTHER, network=IPv4Network("10.41.0.0/16")))),
        "overlaps with that of subnet tills",
    ),
    (subnet(network=IPv4Network("8.0.0.0/5")), "is larger than a /8"),
    (subnet(appliance=IPv4Address("10.41.7.0")), "appliance 10.41.7.0 is no host"),
    (subnet(gateway=IPv4Address("10.41.8.1")), "gateway 10.41.8.1 is no host"),
    (subnet(lease=timedelta(milliseconds=900)), "lease is shorter than a second"),
    (pools("10.41.7.9-10.41.7.5"), "is not in 10.41.7.0/24"),
    (pools("10.41.7.250-10.41.8.5"), "is not in 10.41.7.0/24"),
    (pools("10.41.7.20-10.41.7.29", "10.41.7.29-10.41.7.40"), "overlaps with 10.41.7.20"),
    (reserved(**{**ELSEWHERE, "address": PRINTER.address}), "the address is given twice"),
    (reserved(**{**ELSEWHERE, "mac": PRINTER.mac}), "in subnet tills is there twice"),
    (reserved(**{**ELSEWHERE, "name": "Printer-1"}), "reservation printer-1 is there twice"),
    (reserved(**{**ELSEWHERE, "name": "a.b"}), "is no label"),
    (reserved(**{**ELSEWHERE, "mac": b"\xff" * 6}), "is no address of one machine"),
    (reserved(**{**ELSEWHERE, "mac": bytes(6)}), "is no address of one machine"),
    (reserved(**{**ELSEWHERE, "address": IPv4Address("10.9.9.9")}), "is no host of any subnet"),
    (reserved(**{**ELSEWHERE, "address": SUBNET.appliance}), "is the appliance's"),
    (reserved(**{**ELSEWHERE, "address": SUBNET.gateway}), "is the appliance's or the gateway's"),
    (record(), "is there twice"),
    (record(type="CNAME", value="b.c"), "a CNAME cannot stand beside"),
    (
        replace(
            PLAN,
            records=tuple(
                Record(name=f"w.{DOMAIN}", type="CNAME", ttl=1, value=value)
                for value in ("a.b", "c.d")
            ),
        ),
        "more than one CNAME",
    ),
    (record(name="example.org"), "is not in shop-0417"),
    (record(name=f"a..{DOMAIN}"), "labels have 1 to 63 bytes"),
    (record(name="9.9.9.9.in-addr.arpa", type="PTR", value="a.b"), "is not in shop-0417"),
    (record(type="SOA", value="a. b. 1 2 3 4 5"), "this server makes such records itself"),
    (record(type="WHAT", value="x"), "is not known"),
    (record(type="CAA", value="0 issue"), "is not of this type"),
    (replace(PLAN, zones=(ZONE, ZONE)), "zone b.example. is there twice"),
    (replace(PLAN, zones=(replace(ZONE, digest=b"x"),)), "has no SHA-256"),
    (replace(PLAN, zones=(replace(ZONE, name="b.example"),)), "is not written as b.example."),
    (replace(PLAN, zones=(replace(ZONE, name="a..b"),)), "labels have 1 to 63 bytes"),
    (replace(PLAN, zones=(ZONE,) * 300), "more than 256 zones"),
    (replace(PLAN, dns=PlanDns(forward=True)), "forward, and there is no upstream"),
    (replace(PLAN, dns=PlanDns(pinned=("a..b",))), "dns: name 'a..b'"),
    (replace(PLAN, dns=PlanDns(upstreams=(replace(UPSTREAM, port=0),))), "0 is no port"),
    (replace(PLAN, dns=PlanDns(upstreams=(replace(UPSTREAM, pins=(b"x",)),))), "is no SHA-256"),
    (replace(PLAN, dns=PlanDns(upstreams=(replace(UPSTREAM, name="a..b"),))), "dns: upstream"),
    (record(name=DOMAIN, type="CNAME", value="a.b"), "itself cannot be a CNAME"),
    (record(ttl=604801), "ttl is above"),
    (record(value="10.41.7.300"), "is not of this type"),
    (record(name=f"s.{DOMAIN}", type="SRV", value="0 0 70000 a.b"), "is not of this type"),
    (record(name=f"s.{DOMAIN}", type="SRV", value="0 0 a.b"), "is not of this type"),
    (record(name=f"s.{DOMAIN}", type="PTR", value="a b"), "is not of this type"),
    (record(name=f"s.{DOMAIN}", type="TXT", value="é" * 600), "is not of this type"),
    (boot_set(loader="grubx64.efi"), "is not among the names"),
    (boot_set(loader="../x"), "is not among the names"),
    (boot_set(architecture="mips"), "boot: 'mips' is none of amd64, arm64"),
    (boot_set(boot_set=b"short"), "is no digest of a boot set"),
    (boot_set(names={**SET.names, "/a/../b": bytes(32)}), "is no path of a file"),
    (boot(files={**BOOT.files, "/short": b"x"}), "has no SHA-256"),
    (boot(sets=(SET, SET)), "is there twice"),
    (boot(https_port=65536), "is no port"),
    (rule(file="/missing"), "boot rule 1: there is no file /missing"),
    (rule(file="a\nb"), "boot rule 1: file is no plain text"),
    (rule(file="/" + "x" * 127), "boot rule 1: file is no plain text"),
    (rule(match=Match(uuid=(b"x",))), "boot rule 1: a UUID has 16 bytes"),
    (replace(PLAN, subnets=(SUBNET,) * 257), "more than 256 subnets"),
    (subnet(interface="a/b"), "is no interface name"),
    (subnet(pools=SUBNET.pools * 257), "more than 256 ranges"),
    (pool(classes=frozenset({"cats"})), "there is no class cats"),
    (pool(parameters=replace(SAID, server_name="é")), "pool 10.41.7.100: server_name is no plain"),
    (subnet(parameters=replace(SAID, boot_file="x" * 128)), "subnet tills: boot_file is no plain"),
    (replace(PLAN, classes=(PHONES, PHONES)), "class phones is there twice"),
    (match(architectures=frozenset({65536})), "class phones: an architecture is no number"),
    (match(mac=(bytes(7),)), "class phones: a MAC has 1 to 6 bytes"),
    (match(uuid=(bytes(15),)), "class phones: a UUID has 16 bytes"),
    (match(options=((255, None),)), "class phones: there is no option 255"),
    (option(53), "site: option 53 is not yours to set: the server says itself"),
    (option(82), "site: option 82 is not yours to set: the relay's own"),
    (option(256), "site: option 256 is not yours to set"),
    (option(43, bytes(1201)), "site: option 43 is longer than 1200 bytes"),
    (said(options=SAID.options * 2), "site: option 42 is there twice"),
    (said(lease_min=timedelta(hours=3)), "site: lease_min is above lease_max"),
    (said(reply_delay=timedelta(seconds=11)), "site: reply_delay is above"),
    (reserved(**{**ELSEWHERE, "uuid": bytes(16)}), "takes exactly one of mac, uuid"),
    (reserved(**{**ELSEWHERE, "mac": None}), "takes exactly one of mac, uuid"),
    (reserved(**{**ELSEWHERE, "mac": None, "uuid": bytes(15)}), "a UUID has 16 bytes"),
    (reserved(**{**ELSEWHERE, "mac": bytes(5)}), "is no address of one machine"),
    (reserved(**{**ELSEWHERE, "boot_set": bytes([9]) * 32}), "boot set 090909090909 is not served"),
    (reserved(**{**ELSEWHERE, "parameters": replace(SAID, boot_file="")}), "boot_file is no plain"),
    (subnet6(interface=""), "is no interface name"),
    (subnet6(appliance=IPv6Address("2001:db8::2")), "appliance 2001:db8::2 is not in"),
    (subnet6(pools=()), "stateful, and there is no pool"),
    (subnet6(pools=((IPv6Address("::1"), IPv6Address("::2")),)), "pool ::1-::2 is not in"),
    (subnet6(options=(OptionValue(code=0, data=b""),)), "there is no option 0"),
    (
        replace(PLAN, subnets6=(SUBNET6, replace(SUBNET6, name="more6"))),
        "overlaps with that of subnet tills6",
    ),
    (replace(PLAN, subnets6=(SUBNET6, SUBNET6)), "subnet tills6 is there twice"),
    (reserved6(), "reservation 2001:db8:7::11: the address is given twice"),
    (reserved6(name="a.b"), "is no label"),
    (reserved6(address=IPv6Address("2001:db8::9")), "is in no subnet"),
    (reserved6(address=SUBNET6.appliance), "is the appliance's"),
    (reserved6(duid=b"x"), "takes exactly one of duid, uuid, mac"),
    (record(type="AAAA"), "is not of this type"),
]


def test_a_good_plan_has_no_sentence_and_survives_the_wire() -> None:
    assert check(PLAN) == ()
    assert Plan.decode(PLAN.encode()) == PLAN
    assert check(replace(PLAN, boot=None)) == ()
    assert json.loads(PLAN.encode())["type"] == "doorstep/plan/v2"
    assert Plan.decode(subnet(dhcp="off").encode()) == subnet(dhcp="off")
    assert Plan.decode(replace(PLAN, boot=None).encode()).boot is None


@pytest.mark.parametrize(("plan", "sentence"), WRONG, ids=lambda value: str(value)[:40])
def test_every_fault_has_its_sentence(plan: Plan, sentence: str) -> None:
    sentences = check(plan)
    assert any(sentence in one for one in sentences), sentences


def test_what_is_default_is_left_out() -> None:
    plan = Plan(number=1, site="shop", domain=DOMAIN, subnets=(SUBNET,))
    document = json.loads(plan.encode())
    assert set(document) == {"type", "number", "site", "domain", "subnets"}
    assert "classes" not in document["subnets"][0]["pools"][0]
    assert Plan.decode(plan.encode()) == plan


def test_one_machine_may_have_one_name_in_two_subnets() -> None:
    there = replace(PRINTER, address=IPv4Address("10.42.0.30"))
    assert check(replace(PLAN, reservations=(PRINTER, there))) == ()


def test_behind_a_relay_our_address_is_elsewhere() -> None:
    far = IPv4Address("10.99.0.2")
    far6 = IPv6Address("2001:db8:99::2")
    assert check(subnet(relayed=True, appliance=far)) == ()
    assert check(subnet6(relayed=True, appliance=far6)) == ()


def test_the_first_set_of_an_architecture_is_for_everybody() -> None:
    assert BOOT.defaults() == (SET, ARM)
    digests = BOOT.digests()
    assert digests["/shimx64.efi"] == SET.names["/shimx64.efi"]
    assert digests["/shimaa64.efi"] == ARM.names["/shimaa64.efi"]
    assert digests["/menu.ipxe"] == bytes([2]) * 32


def test_the_table_has_the_operators_rules_before_those_of_the_sets() -> None:
    table = BOOT.table()
    assert table.rules[0] == BOOT.rules[0]
    assert [one.boot_set for one in table.rules[1:]] == [
        one.boot_set for one in (SET, SET, CANARY, CANARY, ARM, ARM)
    ]
    assert table.https_port == 8444


def test_dhcp_is_configured_with_every_level() -> None:
    config = PLAN.dhcp()
    assert (config.classes, config.parameters) == (PLAN.classes, PLAN.parameters)
    assert (config.identify, config.quarantine) == (Identify.CLIENT_ID, timedelta(minutes=10))
    assert config.boot == BOOT.table()


def test_all_faults_are_told_at_once() -> None:
    plan = replace(boot_set(loader="x"), domain="-", reservations=(PRINTER, PRINTER))
    assert len(check(plan)) >= 4


def change(path: tuple, value: object) -> bytes:
    document = json.loads(PLAN.encode())
    spot = document
    for key in path[:-1]:
        spot = spot[key]
    spot[path[-1]] = value
    return json.dumps(document).encode()


FORMS = [
    (("type",), "doorstep/plan/v1", "type is not"),
    (("colour",), 1, "plan: unknown or missing: colour"),
    (("number",), -1, "number: is no number"),
    (("number",), True, "number: is no number"),
    (("number",), 1 << 54, "number: is no number"),
    (("site",), "", "site: is no text"),
    (("site",), "\ud800", "site: is no text"),
    (("subnets",), {}, "subnets: is no list"),
    (("subnets",), [1], "subnets[0]: is no object"),
    (("subnets",), [{}] * 65537, "at most 65536"),
    (("subnets", 0, "pool"), [], "subnets[0]: unknown or missing: pool"),
    (("subnets", 0, "network"), "10.41.7.1/24", "network: is no IPv4 network"),
    (("subnets", 0, "appliance"), 3, "appliance: is no text"),
    (("subnets", 0, "appliance"), "10.41.7", "appliance: is no IPv4 address"),
    (("subnets", 0, "pools", 0), "10.41.7.1", "pools[0]: is no object"),
    (("subnets", 0, "dhcp"), "relay", "dhcp: is not one of server, proxy, off"),
    (("subnets", 0, "boot"), 1, "boot: is neither true nor false"),
    (("subnets", 0, "lease"), -1, "lease: is no time in seconds"),
    (("subnets", 0, "lease"), 1e12, "lease: is no time in seconds"),
    (("subnets", 0, "lease"), True, "lease: is no time in seconds"),
    (("reservations", 0, "mac"), "02:00", "mac: is no data in small hex"),
    (("reservations", 0, "mac"), "ABCD", "mac: is no data in small hex"),
    (("identify",), "serial", "identify: is not one of mac, client-id"),
    (("parameters", "options", 0, "code"), "42", "options[0].code: is no number"),
    (("classes", 0, "match", "options", 0), [43], "options[0]: is no list of 2"),
    (("subnets6", 0, "network"), "10.0.0.0/8", "is no IPv6 network"),
    (("records", 0, "type"), 5, "type: is no text"),
    (("dns",), {"listen": ["10.0.0"]}, "dns.listen[0]: is no IP address"),
    (("dns",), {"asking": "all"}, "dns.asking: is not one of"),
    (("zones",), [{"name": "b.", "file": "b", "digest": "0"}], "digest: is no data"),
    (("records", 0, "value"), "x" * 4097, "value: is no text"),
    (("boot", "sets", 0, "boot_set"), "AB" * 32, "boot_set: is no data"),
    (("boot", "sets", 0, "names", "/x"), 7, "names./x: is no data"),
    (("boot", "files"), [], "boot.files: is no object"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), FORMS)
def test_wrong_forms_are_refused_with_their_key(path, value, sentence) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.decode(change(path, value))
    assert sentence in str(caught.value)


def test_too_large_twice_and_no_json_are_refused() -> None:
    good = PLAN.encode()
    twice = b'{"number": 1,' + good[1:]
    large = good + b" " * (16 << 20)
    endless = good.replace(b'"number": 7', b'"number": NaN')
    for data in (large, twice, endless, b"{" * 100_000, b"\xff", b"[]", b"1"):
        with pytest.raises(PlanError):
            Plan.decode(data)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3000), st.integers(0, 40))
def test_any_bytes_give_a_plan_or_our_error(noise: bytes, at: int, cut: int) -> None:
    data = PLAN.encode()
    for wrong in (noise, data[:at] + noise + data[at + cut :]):
        try:
            plan = Plan.decode(wrong)
        except PlanError:
            continue
        check(plan)
        assert Plan.decode(plan.encode()) == plan


def test_what_is_said_of_names_survives_the_file_and_becomes_settings() -> None:
    dns = PlanDns(
        forward=True,
        upstreams=(replace(UPSTREAM, name="dns.example."),),
        pinned=("ntp.example.org.",),
        private=("corp.example.",),
        unsigned=(".",),
        asking=Asking.SITE,
        listen=(IPv4Address("127.0.0.1"), IPv6Address("::1")),
        allow=(IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8::/32")),
    )
    types = (("CAA", '0 issue "ca.example"'), ("TYPE65400", "\\# 2 abcd"), ("MX", "10 a.b."))
    records = tuple(
        Record(name=f"*.x.{DOMAIN}", type=kind, ttl=5, value=value) for kind, value in types
    )
    plan = replace(PLAN, dns=dns, zones=(ZONE,), records=records)
    assert check(plan) == ()
    read = Plan.decode(plan.encode())
    assert read == plan
    (upstream,) = read.resolver().upstreams
    assert (upstream.address, upstream.name) == ("2001:db8::53", "dns.example")
    assert upstream.pins == {bytes(32)}
    assert read.resolver().pinned == {(b"ntp", b"example", b"org")}
    assert read.resolver().unsigned == {()}
    assert read.listening()[-2:] == dns.listen


def test_a_view_is_chosen_by_who_is_known() -> None:
    def view(asking: Asking, peer: str) -> View:
        return replace(PLAN, dns=PlanDns(asking=asking)).views().of(peer)

    reserved = next(str(one.address) for one in PLAN.reservations if one.address)
    assert view(Asking.ENROLLED, "10.41.7.199") is View.ENROLMENT
    assert view(Asking.ENROLLED, reserved) is View.FULL
    assert view(Asking.ENROLLED, str(SUBNET.appliance)) is View.FULL
    assert view(Asking.SITE, "10.41.7.199") is View.FULL
    assert view(Asking.SITE, "192.0.2.1") is View.STRANGER
    assert view(Asking.EVERYBODY, "192.0.2.1") is View.ZONES
    assert view(Asking.EVERYBODY, "10.41.7.199") is View.FULL
    allowed = PlanDns(asking=Asking.EVERYBODY, allow=(IPv4Network("192.0.2.0/24"),))
    assert replace(PLAN, dns=allowed).views().of("192.0.2.1") is View.FULL
    names = PLAN.views().names
    assert (b"appliance", *DOMAIN.encode().split(b".")) in names
    assert (b"2", b"7", b"41", b"10", b"in-addr", b"arpa") in names
    assert (b"printer", *DOMAIN.encode().split(b".")) not in names


ADDRESSES = st.integers(0, (1 << 32) - 1).map(IPv4Address)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 1 << 53),
    st.lists(
        st.builds(
            Record,
            name=st.text(min_size=1, max_size=60),
            type=st.sampled_from(("A", "AAAA", "PTR", "CNAME", "TXT", "SRV")),
            ttl=st.integers(0, 0x7FFFFFFF),
            value=st.text(min_size=1, max_size=60),
        ),
        max_size=4,
    ),
    st.lists(
        st.builds(
            Reservation,
            mac=st.none() | st.binary(max_size=7),
            uuid=st.none() | st.binary(max_size=17),
            client_id=st.none() | st.binary(max_size=3),
            address=st.none() | ADDRESSES,
            name=st.none() | st.text(min_size=1, max_size=63),
            parameters=st.just(SAID),
            boot_set=st.none() | st.binary(max_size=33),
        ),
        max_size=4,
    ),
)
def test_encode_and_decode_agree_and_check_never_falls_over(number, records, reserved) -> None:
    plan = replace(PLAN, number=number, records=tuple(records), reservations=tuple(reserved))
    assert Plan.decode(plan.encode()) == plan
    assert all(isinstance(sentence, str) for sentence in check(plan))
