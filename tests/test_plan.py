"""The plan: its form, and every sentence about what cannot be served."""

import json
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.network import Pool, Reservation, SubnetPlan
from netboot.plan import Boot, Plan, PlanError, Record, RecordType, check

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
    pools=(),
    boot=False,
)
PRINTER = Reservation(
    mac=bytes.fromhex("020000000011"), address=IPv4Address("10.41.7.11"), name="printer-1"
)
DOMAIN = "shop-0417.example.net"
APPLIANCE = Record(name=f"appliance.{DOMAIN}", type=RecordType.A, ttl=300, value="10.41.7.2")
BOOT = Boot(
    boot_set=bytes(range(32)),
    tftp="shimx64.efi",
    names={"/shimx64.efi": bytes(32), "/f/0011223344556677/vmlinuz": bytes([1]) * 32},
)
PLAN = Plan(
    number=7,
    site="shop-0417",
    domain=DOMAIN,
    subnets=(SUBNET, OTHER),
    reservations=(PRINTER,),
    records=(
        APPLIANCE,
        Record(name=f"www.{DOMAIN}", type=RecordType.CNAME, ttl=60, value=f"appliance.{DOMAIN}."),
        Record(name=f"_pos._tcp.{DOMAIN}", type=RecordType.SRV, ttl=60, value="0 5 443 a.b."),
        Record(name=DOMAIN, type=RecordType.TXT, ttl=60, value='anything "at all"'),
        Record(name="9.7.41.10.in-addr.arpa", type=RecordType.PTR, ttl=60, value=f"x.{DOMAIN}"),
    ),
    boot=BOOT,
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


def reserved(**changes) -> Plan:
    return replace(PLAN, reservations=(PRINTER, replace(PRINTER, **changes)))


ELSEWHERE = {"mac": b"\2\0\0\0\0\x12", "address": IPv4Address("10.41.7.12"), "name": "printer-2"}

WRONG = [
    (replace(PLAN, domain="a..b"), "domain 'a..b' is no domain name"),
    (replace(PLAN, subnets=()), "there is no subnet"),
    (replace(PLAN, subnets=(SUBNET, replace(OTHER, name="tills"))), "subnet tills is there twice"),
    (
        replace(PLAN, subnets=(SUBNET, replace(OTHER, network=IPv4Network("10.41.0.0/16")))),
        "overlaps with that of subnet tills",
    ),
    (subnet(network=IPv4Network("8.0.0.0/5")), "is larger than a /8"),
    (subnet(appliance=IPv4Address("10.41.7.0")), "appliance 10.41.7.0 is no host"),
    (subnet(gateway=IPv4Address("10.41.8.1")), "gateway 10.41.8.1 is no host"),
    (subnet(lease=timedelta(seconds=1)), "lease is shorter than a minute"),
    (pools("10.41.7.9-10.41.7.5"), "is not in 10.41.7.0/24"),
    (pools("10.41.7.250-10.41.8.5"), "is not in 10.41.7.0/24"),
    (pools("10.41.7.20-10.41.7.29", "10.41.7.29-10.41.7.40"), "overlaps with 10.41.7.20"),
    (reserved(**{**ELSEWHERE, "address": PRINTER.address}), "the address is given twice"),
    (reserved(**{**ELSEWHERE, "mac": PRINTER.mac}), "in subnet tills is there twice"),
    (reserved(**{**ELSEWHERE, "name": "Printer-1"}), "reservation printer-1 is there twice"),
    (reserved(**{**ELSEWHERE, "name": "a.b"}), "is no label"),
    (reserved(**{**ELSEWHERE, "mac": b"\1" * 6}), "is no address of one machine"),
    (reserved(**{**ELSEWHERE, "mac": bytes(6)}), "is no address of one machine"),
    (reserved(**{**ELSEWHERE, "address": IPv4Address("10.9.9.9")}), "is no host of any subnet"),
    (reserved(**{**ELSEWHERE, "address": SUBNET.appliance}), "is the appliance's"),
    (reserved(**{**ELSEWHERE, "address": SUBNET.gateway}), "is the appliance's or the gateway's"),
    (record(), "is there twice"),
    (record(type=RecordType.CNAME, value="b.c"), "a CNAME cannot stand beside"),
    (
        replace(
            PLAN,
            records=tuple(
                Record(name=f"w.{DOMAIN}", type=RecordType.CNAME, ttl=1, value=value)
                for value in ("a.b", "c.d")
            ),
        ),
        "more than one CNAME",
    ),
    (record(name="example.org"), "is not in shop-0417"),
    (record(name=f"*.{DOMAIN}"), "is not in shop-0417"),
    (record(name=DOMAIN, type=RecordType.CNAME, value="a.b"), "itself cannot be a CNAME"),
    (record(ttl=604801), "ttl is above"),
    (record(value="10.41.7.300"), "is not of this type"),
    (record(name=f"s.{DOMAIN}", type=RecordType.SRV, value="0 0 70000 a.b"), "is not of this type"),
    (record(name=f"s.{DOMAIN}", type=RecordType.SRV, value="0 0 a.b"), "is not of this type"),
    (record(name=f"s.{DOMAIN}", type=RecordType.PTR, value="a b"), "is not of this type"),
    (record(name=f"s.{DOMAIN}", type=RecordType.TXT, value="é" * 600), "is not of this type"),
    (replace(PLAN, boot=replace(BOOT, tftp="grubx64.efi")), "is not among the names"),
    (replace(PLAN, boot=replace(BOOT, tftp="../x")), "is not among the names"),
    (
        replace(PLAN, boot=replace(BOOT, names={**BOOT.names, "/a/../b": bytes(32)})),
        "is no path of a file",
    ),
]


def test_a_good_plan_has_no_sentence_and_survives_the_wire() -> None:
    assert check(PLAN) == ()
    assert Plan.decode(PLAN.encode()) == PLAN
    assert check(replace(PLAN, boot=None)) == ()
    assert Plan.decode(subnet(dhcp="off").encode()) == subnet(dhcp="off")
    assert Plan.decode(replace(PLAN, boot=None).encode()).boot is None


@pytest.mark.parametrize(("plan", "sentence"), WRONG, ids=lambda value: str(value)[:40])
def test_every_fault_has_its_sentence(plan: Plan, sentence: str) -> None:
    sentences = check(plan)
    assert any(sentence in one for one in sentences), sentences


def test_all_faults_are_told_at_once() -> None:
    plan = replace(PLAN, domain="-", boot=replace(BOOT, tftp="x"), reservations=(PRINTER, PRINTER))
    assert len(check(plan)) >= 4


def change(path: tuple, value: object) -> bytes:
    document = json.loads(PLAN.encode())
    spot = document
    for key in path[:-1]:
        spot = spot[key]
    spot[path[-1]] = value
    return json.dumps(document).encode()


FORMS = [
    (("type",), "doorstep/plan/v2", "type is not"),
    (("colour",), 1, "plan: unknown or missing: colour"),
    (("number",), -1, "number: "),
    (("number",), True, "number: "),
    (("site",), "", "site: "),
    (("subnets",), {}, "subnets: is no list"),
    (("subnets",), [1], "subnets[0]: is no object"),
    (("subnets",), [{}] * 257, "at most 256"),
    (("subnets", 0, "pools"), [], "unknown or missing: pools"),
    (("subnets", 0, "network"), "10.41.7.1/24", "is no IPv4 network"),
    (("subnets", 0, "appliance"), 3, "appliance: is no IPv4 address"),
    (("subnets", 0, "pool"), ["10.41.7.1"], "pool[0]: is no range"),
    (("subnets", 0, "interface"), "a/b", "interface: is no interface name"),
    (("subnets", 0, "interface"), "sixteen-letters-", "interface: is no interface name"),
    (("subnets", 0, "dhcp"), "relay", "dhcp: is neither"),
    (("subnets", 0, "boot"), 1, "boot: is neither true nor false"),
    (("reservations", 0, "mac"), "02-00-00-00-00-11", "mac: is no MAC"),
    (("records", 0, "type"), "AAAA", "type: is not one of"),
    (("records", 0, "value"), "x" * 2049, "value: is no text"),
    (("boot", "set"), "AB" * 32, "boot.set: is no SHA-256"),
    (("boot", "names", "/x"), "00", "boot.names./x: is no SHA-256"),
    (("boot", "names"), [], "boot.names: is no object"),
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
    for data in (large, twice, b"{" * 100_000, b"\xff", b"[]"):
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


ADDRESSES = st.integers(0, (1 << 32) - 1).map(IPv4Address)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 1 << 53),
    st.lists(
        st.builds(
            Record,
            name=st.text(min_size=1, max_size=60),
            type=st.sampled_from(RecordType),
            ttl=st.integers(0, 0x7FFFFFFF),
            value=st.text(min_size=1, max_size=60),
        ),
        max_size=4,
    ),
    st.lists(
        st.builds(
            Reservation,
            mac=st.binary(min_size=6, max_size=6),
            address=ADDRESSES,
            name=st.none() | st.text(min_size=1, max_size=63),
        ),
        max_size=4,
    ),
)
def test_encode_and_decode_agree_and_check_never_falls_over(number, records, reserved) -> None:
    plan = replace(PLAN, number=number, records=tuple(records), reservations=tuple(reserved))
    assert Plan.decode(plan.encode()) == plan
    assert all(isinstance(sentence, str) for sentence in check(plan))
