"""The DHCPv6 server as an engine: every message type, what is discarded, who gets which address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv6Address, IPv6Network

import pytest
from dhcp6_lab import (
    BOOT,
    FIRST,
    LINK_LOCAL,
    NOW,
    SERVER_DUID,
    UEFI_HTTP,
    US,
    Server6,
    config6,
    duid_ll,
    duid_llt,
    duid_of_uuid,
    firmware,
    given,
    ia,
    link_local,
    mac,
    message6,
    oro,
    subnet6,
)
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from netboot.bootchoice import BootRule, BootTable, Loading
from netboot.dhcp6_message import Kind6, Message6, Packet6, Relay6
from netboot.dhcp6_options import Code6, Options6, Status, StatusCode, VendorClass, encode_names
from netboot.errors import SiteError
from netboot.events import EventKind
from netboot.leases import LeaseState
from netboot.network import ClientKind, Match, OptionValue, Reservation6

A, B = duid_ll(mac(1)), duid_ll(mac(2))
FAR = IPv6Address("fd00:99::9")
PRIVATE = IPv6Address("fe80::abcd:1234:5678:9abc")
"""A link-local address that tells nothing of the NIC."""


def status(reply: Message6) -> int | None:
    data = reply.options.get(Code6.STATUS)
    return None if data is None else Status.decode(data).code


def ia_status(reply: Message6) -> int | None:
    (association,) = reply.options.associations
    return None if association.status is None else association.status.code


def is_silent(server: Server6, data: bytes, **arrival: object) -> bool:
    return server.send(data, **arrival).sends == ()  # type: ignore[arg-type]


# The four messages


def test_solicit_advertise_request_reply() -> None:
    server = Server6()
    offer = server.solicit(A, ia(5))
    assert offer.kind is Kind6.ADVERTISE
    assert offer.transaction == 7
    assert offer.options.client_id == A
    assert offer.options.get(Code6.SERVER_ID) == SERVER_DUID
    assert offer.options.get(Code6.PREFERENCE) == b"\xff"
    (offered,) = given(offer)
    assert server.engine.leases(server.now) == ()
    reply = server.request(A, ia(5, offered.address))
    assert reply.kind is Kind6.REPLY
    (association,) = reply.options.associations
    lease = 12 * 3600
    assert (association.iaid, association.t1, association.t2) == (5, lease // 2, lease * 4 // 5)
    (lent,) = association.addresses
    assert (lent.address, lent.preferred, lent.valid) == (offered.address, lease, lease)
    (row,) = server.engine.leases(server.now)
    assert (row.address, row.duid, row.iaid, row.mac) == (lent.address, A, 5, mac(1))
    assert server.engine.leases(server.now + lease) == ()


def test_an_advertisement_promises_nothing_and_a_reply_waits_for_the_disk() -> None:
    server = Server6()
    offered = server.send(message6(Kind6.SOLICIT, A, ia()))
    assert [(one.promises, one.port) for one in offered.sends] == [(False, 546)]
    assert offered.writes == ()
    bound = server.send(message6(Kind6.REQUEST, A, ia(), server=SERVER_DUID))
    assert [one.promises for one in bound.sends] == [True]
    (write,) = bound.writes
    assert write.lease is not None
    assert write.lease.state is LeaseState.BOUND
    assert [event.kind for event in bound.events] == [EventKind.ACK]


def test_preferred_is_what_the_plan_says() -> None:
    plan = config6(subnet6(preferred=timedelta(hours=1)))
    (association,) = Server6(plan).solicit(A).options.associations
    assert (association.t1, association.t2) == (1800, 2880)
    assert association.addresses[0].preferred == 3600


def test_rapid_commit_only_where_the_plan_allows_it() -> None:
    asked = message6(Kind6.SOLICIT, A, ia(), (Code6.RAPID_COMMIT, b""))
    assert Server6().ask(asked).kind is Kind6.ADVERTISE
    server = Server6(config6(subnet6(rapid_commit=True)))
    reply = server.ask(asked)
    assert reply.kind is Kind6.REPLY
    assert reply.options.get(Code6.RAPID_COMMIT) == b""
    assert [row.address for row in server.engine.leases(NOW)] == [given(reply)[0].address]
    assert server.ask(message6(Kind6.SOLICIT, B, ia())).kind is Kind6.ADVERTISE


def test_several_ias_get_an_address_each() -> None:
    server = Server6()
    reply = server.request(A, ia(1), ia(2), ia(3))
    assert len({lent.address for lent in given(reply)}) == 3
    again = server.request(A, ia(3), ia(1), ia(2))
    by_iaid = {one.iaid: one.addresses[0].address for one in reply.options.associations}
    assert {one.iaid: one.addresses[0].address for one in again.options.associations} == by_iaid
    assert len(server.engine.leases(NOW)) == 3


def test_an_empty_pool_is_said_in_the_ia_and_as_an_event() -> None:
    server = Server6(config6(subnet6(pools=((FIRST, FIRST),))))
    assert server.bound(A) == FIRST
    outcome = server.send(message6(Kind6.SOLICIT, B, ia()), link_local(mac(2)))
    reply = Packet6.decode(outcome.sends[0].data).message
    assert reply.kind is Kind6.ADVERTISE
    assert ia_status(reply) == StatusCode.NO_ADDRESSES
    assert EventKind.POOL_EMPTY in [event.kind for event in outcome.events]
    assert ia_status(server.request(B, source=link_local(mac(2)))) == StatusCode.NO_ADDRESSES


def test_an_ended_lease_is_given_to_another_only_when_nothing_else_is_left() -> None:
    server = Server6(config6(subnet6(pools=((FIRST, FIRST + 1),))))
    first = server.bound(A)
    server.ask(message6(Kind6.RELEASE, A, ia(1, first), server=SERVER_DUID))
    other = server.bound(B, source=link_local(mac(2)))
    assert other != first  # UEFI releases its address and goes on using it
    assert server.bound(duid_ll(mac(3)), source=link_local(mac(3))) == first


def test_prefixes_and_temporary_addresses_are_refused() -> None:
    asked = (Code6.IA_PD, bytes(11) + b"\1"), (Code6.IA_TA, b"\0\0\0\7")
    reply = Server6().solicit(A, ia(), *asked)
    (prefix,), (temporary,) = reply.options.all(Code6.IA_PD), reply.options.all(Code6.IA_TA)
    assert prefix.endswith(b"\0\x0d\0\2\0\6")
    assert temporary == b"\0\0\0\7\0\x0d\0\2\0\2"
    server = Server6()
    server.bound(A)
    renewed = server.ask(message6(Kind6.RENEW, A, ia(), *asked, server=SERVER_DUID))
    assert renewed.options.all(Code6.IA_PD)[0].endswith(b"\0\x0d\0\2\0\3")


# RFC 8415, 16: what is discarded

ADDRESSED = (Kind6.REQUEST, Kind6.RENEW, Kind6.RELEASE, Kind6.DECLINE)
TO_ALL = (Kind6.SOLICIT, Kind6.CONFIRM, Kind6.REBIND)


@pytest.mark.parametrize("kind", ADDRESSED)
def test_what_names_no_server_or_another_is_discarded(kind: Kind6) -> None:
    server = Server6()
    address = server.bound(A)
    for named in (None, b"\0\4" + bytes(16)):
        assert is_silent(server, message6(kind, A, ia(1, address), server=named))
    assert not is_silent(server, message6(kind, A, ia(1, address), server=SERVER_DUID))
    assert is_silent(server, message6(kind, None, ia(1, address), server=SERVER_DUID))


@pytest.mark.parametrize("kind", TO_ALL)
def test_what_must_name_no_server_but_does_is_discarded(kind: Kind6) -> None:
    server = Server6()
    address = server.bound(A)
    assert is_silent(server, message6(kind, A, ia(1, address), server=SERVER_DUID))
    assert is_silent(server, message6(kind, None, ia(1, address)))
    assert is_silent(server, message6(kind, A, ia(1, address)), multicast=False)
    assert not is_silent(server, message6(kind, A, ia(1, address)))


@pytest.mark.parametrize(
    "kind", [Kind6.ADVERTISE, Kind6.REPLY, Kind6.RECONFIGURE, Kind6.RELAY_REPLY]
)
def test_what_servers_send_is_discarded(kind: Kind6) -> None:
    if kind is Kind6.RELAY_REPLY:
        inner = Message6(kind=Kind6.SOLICIT, transaction=1, options=Options6(items=((1, A),)))
        relay = Relay6(kind=kind, hops=0, link=US, peer=LINK_LOCAL)
        assert is_silent(Server6(), Packet6(message=inner, relays=(relay,)).encode())
    else:
        assert is_silent(Server6(), message6(kind, A, ia()))
        assert is_silent(Server6(), message6(kind, A, ia(), server=SERVER_DUID))


@pytest.mark.parametrize("kind", ADDRESSED)
def test_unicast_is_told_to_use_multicast(kind: Kind6) -> None:
    server = Server6()
    address = server.bound(A)
    asked = message6(kind, A, ia(1, address), server=SERVER_DUID)
    reply = server.ask(asked, multicast=False)
    assert status(reply) == StatusCode.USE_MULTICAST
    assert reply.options.associations == ()
    assert len(server.engine.leases(NOW)) == 1


def test_an_interface_that_is_not_served_is_not_answered() -> None:
    assert is_silent(Server6(), message6(Kind6.SOLICIT, A, ia()), interface="eth9")
    off = Server6(config6(subnet6(dhcp="off")))
    assert is_silent(off, message6(Kind6.SOLICIT, A, ia()))


def test_broken_messages_are_one_event_a_minute() -> None:
    server = Server6()
    data = message6(Kind6.SOLICIT, A, (Code6.IA_NA, b"short"))
    kinds = [[event.kind for event in server.send(data).events] for _ in range(3)]
    assert kinds == [[EventKind.MALFORMED], [], []]
    server.now += 61
    assert [event.kind for event in server.send(data).events] == [EventKind.MALFORMED]
    many = [ia(number) for number in range(17)]
    assert is_silent(server, message6(Kind6.SOLICIT, A, *many))


@settings(max_examples=200)
@for_all(
    st.sampled_from(list(Kind6)),
    st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3, 4, 5, 6, 14, 15, 16, 25, 39, 59, 61]), st.binary(max_size=24)
        ),
        max_size=5,
    ),
    st.binary(max_size=8),
)
def test_any_bytes_give_an_outcome(
    kind: Kind6, items: list[tuple[int, bytes]], rest: bytes
) -> None:
    server = Server6()
    server.bound(A)
    data = Message6(kind=kind, transaction=1, options=Options6(items=tuple(items))).encode()
    for sent in (data + rest, message6(kind, A, *items, server=SERVER_DUID)):
        for reply in server.send(sent).sends:
            assert Packet6.decode(reply.data).message.kind in (Kind6.ADVERTISE, Kind6.REPLY)


# CONFIRM, RENEW, REBIND


def test_confirm_says_whether_the_link_is_the_same() -> None:
    server = Server6()
    address = server.bound(A)
    assert status(server.ask(message6(Kind6.CONFIRM, A, ia(1, address)))) == StatusCode.SUCCESS
    moved = server.ask(message6(Kind6.CONFIRM, A, ia(1, address, FAR)))
    assert status(moved) == StatusCode.NOT_ON_LINK
    assert is_silent(server, message6(Kind6.CONFIRM, A, ia()))


@pytest.mark.parametrize("kind", [Kind6.RENEW, Kind6.REBIND])
def test_a_lease_is_lengthened(kind: Kind6) -> None:
    server = Server6()
    address = server.bound(A)
    named = SERVER_DUID if kind is Kind6.RENEW else None
    server.now += 6 * 3600
    outcome = server.send(message6(kind, A, ia(1, address), server=named))
    assert outcome.sends[0].promises
    assert given(Packet6.decode(outcome.sends[0].data).message)[0].address == address
    (row,) = server.engine.leases(server.now + 11 * 3600)
    assert row.address == address


@pytest.mark.parametrize("kind", [Kind6.RENEW, Kind6.REBIND])
def test_what_is_not_held_has_no_binding(kind: Kind6) -> None:
    server = Server6()
    named = SERVER_DUID if kind is Kind6.RENEW else None
    reply = server.ask(message6(kind, A, ia(1, FIRST), server=named))
    assert ia_status(reply) == StatusCode.NO_BINDING
    elsewhere = server.ask(message6(kind, A, ia(1, FAR), server=named))
    (association,) = elsewhere.options.associations
    assert [(one.address, one.valid) for one in association.addresses] == [(FAR, 0)]
    address = server.bound(A)
    server.ask(message6(Kind6.RELEASE, A, ia(1, address), server=SERVER_DUID))
    after = server.ask(message6(kind, A, ia(1, address), server=named))
    assert ia_status(after) == StatusCode.NO_BINDING


def test_addresses_beside_the_leased_one_end() -> None:
    server = Server6()
    address = server.bound(A)
    reply = server.ask(message6(Kind6.RENEW, A, ia(1, FAR, address), server=SERVER_DUID))
    (association,) = reply.options.associations
    assert [(one.address, one.valid > 0) for one in association.addresses] == [
        (address, True),
        (FAR, False),
    ]


def test_a_reservation_that_came_later_takes_over_at_renewal() -> None:
    server = Server6()
    old = server.bound(A)
    wanted = IPv6Address("fd00:41:7::77")
    entry = Reservation6(duid=A, address=wanted, name="till-1")
    server.engine.replace(config6(reservations=(entry,)))
    reply = server.ask(message6(Kind6.RENEW, A, ia(1, old), server=SERVER_DUID))
    (association,) = reply.options.associations
    assert [(one.address, one.valid > 0) for one in association.addresses] == [
        (wanted, True),
        (old, False),
    ]
    assert [row.address for row in server.engine.leases(NOW)] == [wanted]


# REQUEST off the link, RELEASE, DECLINE


def test_a_request_for_another_network_is_not_on_link() -> None:
    assert ia_status(Server6().request(A, ia(1, FAR))) == StatusCode.NOT_ON_LINK


def test_release_ends_the_lease_and_the_box_gets_its_address_again() -> None:
    server = Server6()
    address = server.bound(A)
    outcome = server.send(message6(Kind6.RELEASE, A, ia(1, address), server=SERVER_DUID))
    assert status(Packet6.decode(outcome.sends[0].data).message) == StatusCode.SUCCESS
    assert outcome.sends[0].promises
    assert [event.kind for event in outcome.events] == [EventKind.RELEASE]
    assert server.engine.leases(NOW) == ()
    assert server.bound(A) == address


@pytest.mark.parametrize("kind", [Kind6.RELEASE, Kind6.DECLINE])
def test_nobody_ends_what_another_holds(kind: Kind6) -> None:
    server = Server6()
    address = server.bound(A)
    asked = message6(kind, B, ia(1, address), server=SERVER_DUID)
    reply = server.ask(asked, link_local(mac(2)))
    assert ia_status(reply) == StatusCode.NO_BINDING
    assert status(reply) == StatusCode.SUCCESS
    assert [row.address for row in server.engine.leases(NOW)] == [address]


def test_a_declined_address_rests_for_the_quarantine_and_survives_a_restart() -> None:
    plan = config6(subnet6(pools=((FIRST, FIRST + 1),)), quarantine=timedelta(minutes=10))
    server = Server6(plan)
    address = server.bound(A)
    outcome = server.send(message6(Kind6.DECLINE, A, ia(1, address), server=SERVER_DUID))
    (event,) = outcome.events
    assert (event.kind, event.reason, event.address) == (EventKind.DECLINE, "IN-USE", address)
    again = Server6(plan, server.engine._table.leases())
    other = again.bound(A)
    assert other != address
    assert ia_status(again.request(B, source=link_local(mac(2)))) == StatusCode.NO_ADDRESSES
    again.now += 601
    assert again.bound(B, source=link_local(mac(2))) == address


def test_declining_a_reserved_address_is_an_alarm() -> None:
    wanted = IPv6Address("fd00:41:7::77")
    server = Server6(config6(reservations=(Reservation6(duid=A, address=wanted, name=None),)))
    assert server.bound(A) == wanted
    outcome = server.send(message6(Kind6.DECLINE, A, ia(1, wanted), server=SERVER_DUID))
    assert [event.reason for event in outcome.events] == ["RESERVED-IN-USE"]
    assert server.bound(A) != wanted


# INFORMATION-REQUEST and stateless


def test_settings_without_an_address() -> None:
    server = Server6()
    asked = message6(Kind6.INFORMATION_REQUEST, None, oro(23, 24, 32, 82, 83))
    reply = server.ask(asked)
    assert reply.kind is Kind6.REPLY
    assert reply.options.get(Code6.DNS_SERVERS) == US.packed
    assert reply.options.get(Code6.DOMAIN_LIST) == encode_names(["shop.example.net"])
    assert reply.options.get(Code6.REFRESH_TIME) == (12 * 3600).to_bytes(4, "big")
    for code in (Code6.SOL_MAX_RT, Code6.INF_MAX_RT):
        assert reply.options.number(code, 4) == 600
    assert reply.options.client_id is None
    assert server.ask(message6(Kind6.INFORMATION_REQUEST, A)).options.client_id == A
    assert is_silent(server, message6(Kind6.INFORMATION_REQUEST, A, ia()))
    assert is_silent(server, message6(Kind6.INFORMATION_REQUEST, A, server=b"\0\4x"))
    assert not is_silent(server, message6(Kind6.INFORMATION_REQUEST, A, server=SERVER_DUID))
    assert is_silent(server, asked, multicast=False)


def test_v6_4_a_stateless_network_gives_settings_and_no_address() -> None:
    server = Server6(config6(subnet6(dhcp="stateless")))
    offer = server.solicit(A, ia(), oro(23))
    assert ia_status(offer) == StatusCode.NO_ADDRESSES
    assert offer.options.get(Code6.DNS_SERVERS) == US.packed
    assert ia_status(server.request(A)) == StatusCode.NO_ADDRESSES
    assert not is_silent(server, message6(Kind6.INFORMATION_REQUEST, A))


def test_options_of_the_nearest_level_and_only_what_was_asked() -> None:
    site = (OptionValue(code=23, data=b"s" * 16), OptionValue(code=31, data=b"site"))
    of_subnet = (OptionValue(code=31, data=b"net"), OptionValue(code=200, data=b"x", always=True))
    own = (OptionValue(code=31, data=b"own"),)
    entry = Reservation6(duid=A, address=FIRST, name=None, options=own)
    server = Server6(config6(subnet6(options=of_subnet), options=site, reservations=(entry,)))
    mine = server.solicit(A, ia(), oro(23, 31)).options
    assert (mine.get(23), mine.get(31), mine.get(200)) == (b"s" * 16, b"own", b"x")
    other = server.solicit(B, ia(), oro(31)).options
    assert (other.get(23), other.get(31)) == (None, b"net")


# Boot


def test_v6_1_pxe_gets_a_tftp_url_and_http_gets_http_with_its_class() -> None:
    server = Server6()
    pxe = server.solicit(A, ia(), *firmware()).options
    assert pxe.get(Code6.BOOT_URL) == f"tftp://[{US}]/shimx64.efi".encode()
    assert pxe.get(Code6.VENDOR_CLASS) is None
    http = server.solicit(A, ia(), *firmware(UEFI_HTTP, b"HTTPClient")).options
    assert http.get(Code6.BOOT_URL) == f"http://[{US}]/shimx64.efi".encode()
    assert http.vendor_classes == (VendorClass(enterprise=343, classes=(b"HTTPClient",)),)
    for options in (pxe, http):
        codes = [code for code, _ in options.items]
        assert codes[0] == Code6.BOOT_URL  # read up to a zero byte: the next option has one
        assert options.get(Code6.BOOT_PARAMETERS) is None


def test_v6_2_option_60_is_refused_in_a_plan_and_never_sent() -> None:
    with pytest.raises(SiteError, match="option 60 is never sent"):
        Server6(config6(options=(OptionValue(code=60, data=b"x"),)))
    reply = Server6().request(A, ia(), *firmware())
    assert reply.options.get(60) is None


def test_v6_3_architecture_and_interface_are_accepted_in_any_mix() -> None:
    server = Server6()
    both = (Code6.ARCHITECTURE, b"\0\x63\0\7")
    assert server.solicit(A, ia(), both).options.get(Code6.BOOT_URL) is not None
    only_nii = server.solicit(A, ia(), (Code6.NETWORK_INTERFACE, bytes(3)))
    assert only_nii.options.get(Code6.BOOT_URL) is None
    arm = server.send(message6(Kind6.SOLICIT, B, ia(), *firmware(11)), link_local(mac(2)))
    assert [event.reason for event in arm.events if event.reason] == ["ARCH"]


def test_a_system_that_does_not_boot_is_given_no_url() -> None:
    assert Server6().solicit(A, ia(), oro(23, 24)).options.get(Code6.BOOT_URL) is None
    quiet = Server6(config6(subnet6(boot=False)))
    assert quiet.solicit(A, ia(), *firmware()).options.get(Code6.BOOT_URL) is None


def test_ipxe_gets_its_script_and_a_box_its_own_boot_set() -> None:
    script = BootRule(
        match=Match(kinds=frozenset({ClientKind.IPXE})), file="/boot.ipxe", loading=Loading.HTTP
    )
    canary = replace(BOOT.rules[0], file="canary.efi", boot_set=b"c" * 32)
    table = BootTable(rules=(script, *BOOT.rules, canary))
    entry = Reservation6(mac=mac(2), address=FIRST, name=None, boot_set=b"c" * 32)
    server = Server6(config6(boot=table, reservations=(entry,)))
    ipxe = (Code6.USER_CLASS, b"\0\4iPXE")
    asked = server.solicit(A, ia(), *firmware(), ipxe)
    assert asked.options.get(Code6.BOOT_URL) == f"http://[{US}]/boot.ipxe".encode()
    outcome = server.send(message6(Kind6.SOLICIT, B, ia(), *firmware()), link_local(mac(2)))
    own = Packet6.decode(outcome.sends[0].data).message.options
    assert own.get(Code6.BOOT_URL) == f"tftp://[{US}]/canary.efi".encode()
    assert outcome.assigned == ((FIRST, b"c" * 32),)


def test_a_rule_for_a_uuid_holds_in_either_byte_order() -> None:
    uuid = bytes(range(16))
    swapped = bytes.fromhex("03020100050407060809") + uuid[10:]
    rule = BootRule(match=Match(uuid=(uuid,)), file="own.efi", loading=Loading.TFTP)
    server = Server6(config6(boot=BootTable(rules=(rule,))))
    for written in (uuid, swapped):
        offer = server.solicit(b"\0\4" + written, ia(), *firmware())
        assert offer.options.get(Code6.BOOT_URL) == f"tftp://[{US}]/own.efi".encode()


def test_firmware_that_was_bound_is_escorted_and_nobody_else() -> None:
    server = Server6()
    asked = message6(Kind6.REQUEST, A, ia(), *firmware(), server=SERVER_DUID)
    assert server.send(asked).escorted == (LINK_LOCAL,)
    assert server.send(message6(Kind6.SOLICIT, A, ia(), *firmware())).escorted == ()
    assert server.send(message6(Kind6.REQUEST, A, ia(), server=SERVER_DUID)).escorted == ()
    far = replace(BOOT.rules[0], file="tftp://[fd00:99::1]/x.efi")
    elsewhere = Server6(config6(boot=BootTable(rules=(far,))))
    assert elsewhere.send(asked).escorted == ()


def test_sztp_is_sent_when_asked_where_boxes_enrol() -> None:
    uri = f"https://[{US}]:8443".encode()
    assert Server6().solicit(A, ia(), oro(136)).options.get(136) == b"\0\x1b" + uri
    measured = Server6(config6(subnet6(enrols=False)))
    assert measured.solicit(A, ia(), oro(136)).options.get(136) is None


# V6-5: one box, one address


FIRMWARE = duid_of_uuid(0x1234567890ABCDEF1234567890ABCDEF)
STORY: list[tuple[str, bytes, int, IPv6Address]] = [
    ("firmware", FIRMWARE, 101, link_local(mac(1))),
    ("firmware again, another IAID", FIRMWARE, 102, link_local(mac(1))),
    ("installer, a DUID of its own", duid_llt(mac(1), 99), 5, link_local(mac(1))),
    ("system, DUID-EN", b"\0\2\0\0\xab\x11abcdefgh", 9, link_local(mac(1))),
]


def test_v6_5_firmware_installer_and_system_keep_one_address() -> None:
    server = Server6()
    addresses = {server.bound(duid, iaid, source) for _, duid, iaid, source in STORY}
    assert len(addresses) == 1
    assert len(server.engine.leases(NOW)) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            (FIRMWARE, 1, PRIVATE),
            (
                FIRMWARE[:2]
                + bytes([0x78, 0x56, 0x34, 0x12, 0xAB, 0x90, 0xEF, 0xCD])
                + FIRMWARE[10:],
                2,
                PRIVATE,
            ),
        ),
        ((FIRMWARE, 1, link_local(mac(1))), (duid_llt(mac(1)), 2, PRIVATE)),
        ((duid_ll(mac(1)), 1, PRIVATE), (duid_llt(mac(1)), 2, PRIVATE)),
        ((duid_llt(mac(1)), 1, PRIVATE), (FIRMWARE, 2, link_local(mac(1)))),
    ],
    ids=["uuid in either byte order", "nic then llt", "ll then llt", "llt then nic"],
)
def test_v6_5_the_same_box_by_another_name(
    before: tuple[bytes, int, IPv6Address], after: tuple[bytes, int, IPv6Address]
) -> None:
    server = Server6()
    assert server.bound(*before) == server.bound(*after)


def test_v6_5_two_nics_of_one_box_are_two_addresses_for_good() -> None:
    server = Server6()
    for sources in ((link_local(mac(1)), link_local(mac(2))), (PRIVATE, PRIVATE + 1)):
        one = server.bound(FIRMWARE, 1, sources[0])
        two = server.bound(FIRMWARE, 2, sources[1])
        assert one != two
        assert server.bound(FIRMWARE, 1, sources[0]) == one
        assert server.bound(FIRMWARE, 2, sources[1]) == two


def test_v6_5_clones_of_one_image_are_two_boxes() -> None:
    server = Server6()
    assert server.bound(A, 1, link_local(mac(1))) != server.bound(A, 1, link_local(mac(2)))


def test_v6_5_the_address_is_the_same_after_the_database_is_lost() -> None:
    assert Server6().bound(A) == Server6().bound(A)


def test_v6_5_a_relay_tells_the_nic() -> None:
    server = Server6()
    told = (Code6.LINK_LAYER_ADDRESS, b"\0\1" + mac(7))
    address = relayed(server, FIRMWARE, told, peer=PRIVATE)
    assert address == relayed(server, duid_of_uuid(5), told, peer=PRIVATE)
    assert address == relayed(server, duid_of_uuid(6), peer=link_local(mac(7)))
    other = (Code6.LINK_LAYER_ADDRESS, b"\0\1" + mac(8))
    assert address != relayed(server, duid_of_uuid(5), other, peer=PRIVATE)


def relayed(
    server: Server6, duid: bytes, *told: tuple[int, bytes], peer: IPv6Address
) -> IPv6Address:
    asked = message6(Kind6.REQUEST, duid, ia(), server=SERVER_DUID)
    relay = Relay6(
        kind=Kind6.RELAY_FORWARD, hops=0, link=US, peer=peer, options=Options6(items=told)
    )
    packet = Packet6(message=Packet6.decode(asked).message, relays=(relay,))
    (lent,) = given(server.ask(packet.encode(), IPv6Address("fd00:41:7::5"), multicast=False))
    return lent.address


@pytest.mark.parametrize(
    ("known", "duid", "source"),
    [
        ({"duid": A}, A, PRIVATE),
        ({"mac": mac(1)}, FIRMWARE, link_local(mac(1))),
        ({"mac": mac(1)}, duid_llt(mac(1)), PRIVATE),
        ({"uuid": FIRMWARE[2:]}, FIRMWARE, PRIVATE),
        ({"uuid": bytes.fromhex("78563412ab90efcd") + FIRMWARE[10:]}, FIRMWARE, PRIVATE),
    ],
)
def test_reservations_by_each_identity(
    known: dict[str, bytes], duid: bytes, source: IPv6Address
) -> None:
    wanted = IPv6Address("fd00:41:7::77")
    entry = Reservation6(address=wanted, name="till-1", **known)
    server = Server6(config6(reservations=(entry,)))
    assert server.bound(duid, source=source) == wanted
    (row,) = server.engine.leases(NOW)
    assert row.name == "till-1"
    assert server.bound(duid_of_uuid(99), source=link_local(mac(9))) != wanted
    asked = message6(Kind6.REQUEST, duid_of_uuid(98), ia(1, wanted), server=SERVER_DUID)
    (lent,) = given(server.ask(asked, link_local(mac(8))))
    assert lent.address != wanted


def test_a_stranger_is_not_given_what_a_box_had_lately() -> None:
    server = Server6()
    address = server.bound(A)
    server.now += 13 * 3600
    (lent,) = given(server.request(B, ia(1, address), source=link_local(mac(2))))
    assert lent.address != address
    server.now += 3 * 86400
    (asked,) = given(server.request(duid_ll(mac(3)), ia(1, address), source=link_local(mac(3))))
    assert asked.address == address


def test_a_flood_of_solicits_leaves_nothing_behind() -> None:
    server = Server6()
    for number in range(3000):
        server.send(message6(Kind6.SOLICIT, duid_ll(mac(number)), ia()), link_local(mac(number)))
    assert server.engine._table.leases() == ()
    assert server.bound(A)


# Relays and shared links


def relay(link: str, *items: tuple[int, bytes]) -> Relay6:
    return Relay6(
        kind=Kind6.RELAY_FORWARD,
        hops=0,
        link=IPv6Address(link),
        peer=link_local(mac(1)),
        options=Options6(items=items),
    )


FAR_SUBNET = {
    "name": "far",
    "network": IPv6Network("fd00:99::/64"),
    "pools": ((IPv6Address("fd00:99::10"), IPv6Address("fd00:99::20")),),
    "relayed": True,
}


@pytest.mark.parametrize(
    ("links", "where"),
    [
        (["fd00:99::1"], "fd00:99::/64"),
        (["fd00:41:7::1", "fd00:99::1"], "fd00:99::/64"),
        (["fd00:99::1", "::"], "fd00:99::/64"),
        (["fd00:99::1", "fe80::1"], "fd00:99::/64"),
        (["::"], "fd00:41:7::/64"),
        (["fd00:5::1"], "fd00:99::/64"),
        (["fd00:6::1"], None),
    ],
)
def test_the_relay_next_to_the_client_says_which_link(links: list[str], where: str | None) -> None:
    far = subnet6(**FAR_SUBNET, relays=(IPv6Address("fd00:5::1"),))
    server = Server6(config6(subnet6(), far))
    message = Packet6.decode(message6(Kind6.SOLICIT, A, ia())).message
    packet = Packet6(message=message, relays=tuple(relay(link) for link in links))
    outcome = server.send(packet.encode(), IPv6Address("fd00:41:7::5"), multicast=False)
    if where is None:
        assert outcome.sends == ()
        return
    (sent,) = outcome.sends
    assert (str(sent.destination), sent.port) == ("fd00:41:7::5", 547)
    answer = Packet6.decode(sent.data)
    assert [one.kind for one in answer.relays] == [Kind6.RELAY_REPLY] * len(links)
    assert [str(one.link) for one in answer.relays] == [str(IPv6Address(one)) for one in links]
    assert given(answer.message)[0].address in IPv6Network(where)


def test_interface_id_comes_back() -> None:
    message = Packet6.decode(message6(Kind6.SOLICIT, A, ia())).message
    relays = (relay("fd00:41:7::1", (Code6.INTERFACE_ID, b"outer")), relay("::", (18, b"inner")))
    outcome = Server6().send(Packet6(message=message, relays=relays).encode(), US)
    answer = Packet6.decode(outcome.sends[0].data)
    assert [one.options.items for one in answer.relays] == [((18, b"outer"),), ((18, b"inner"),)]


def test_a_relayed_subnet_is_not_of_the_interface() -> None:
    server = Server6(config6(subnet6(**FAR_SUBNET)))
    assert is_silent(server, message6(Kind6.SOLICIT, A, ia()))


def test_shared_links_lend_from_the_next_subnet_when_one_is_full() -> None:
    second = subnet6(
        name="more",
        interface="eth2",
        network=IPv6Network("fd00:42::/64"),
        appliance=IPv6Address("fd00:42::2"),
        pools=((IPv6Address("fd00:42::10"), IPv6Address("fd00:42::10")),),
        shared="floor",
    )
    server = Server6(config6(subnet6(pools=((FIRST, FIRST),), shared="floor"), second))
    assert server.bound(A) == FIRST
    other = server.bound(B, source=link_local(mac(2)))
    assert other == IPv6Address("fd00:42::10")
    confirmed = server.ask(message6(Kind6.CONFIRM, B, ia(1, other)))
    assert status(confirmed) == StatusCode.SUCCESS


# The plan


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: config6(subnet6(appliance=FAR)), "appliance is outside"),
        (lambda: config6(subnet6(lease=timedelta(0))), "shorter than a minute"),
        (lambda: config6(subnet6(preferred=timedelta(days=9))), "preferred"),
        (lambda: config6(subnet6(preferred=timedelta(0))), "preferred"),
        (lambda: config6(subnet6(pools=((FAR, FAR),))), "pool"),
        (lambda: config6(subnet6(pools=((FIRST + 1, FIRST),))), "pool"),
        (
            lambda: config6(subnet6(dhcp="stateless", network=IPv6Network("fd00:41:7::/72"))),
            "/64 only",
        ),
        (lambda: config6(subnet6(), subnet6(name="again")), "overlap"),
        (lambda: config6(reservations=(entry(address=US),)), "given twice"),
        (lambda: config6(reservations=(entry(address=FAR),)), "in no subnet"),
        (lambda: config6(reservations=(entry(), entry(duid=B))), "given twice"),
        (lambda: config6(reservations=(entry(mac=mac(1)),)), "one of duid"),
        (lambda: config6(reservations=(entry(duid=None),)), "one of duid"),
        (lambda: config6(options=(OptionValue(code=3, data=b""),)), "server's own"),
    ],
)
def test_a_bad_plan_is_refused_and_the_one_before_goes_on(
    make: Callable[[], object], why: str
) -> None:
    server = Server6()
    address = server.bound(A)
    with pytest.raises(SiteError, match=why):
        server.engine.replace(make())  # type: ignore[arg-type]
    assert server.bound(A) == address


def entry(**changes: object) -> Reservation6:
    values: dict[str, object] = {"duid": A, "address": FIRST, "name": None}
    return Reservation6(**(values | changes))  # type: ignore[arg-type]
