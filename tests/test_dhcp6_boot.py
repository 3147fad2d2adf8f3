"""DHCPv6 and booting (V6-1 to V6-3); one box, one address, whatever it calls itself (V6-5)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

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

from netboot.bootchoice import BootRule, BootTable, Loading
from netboot.dhcp6_message import Kind6, Packet6, Relay6
from netboot.dhcp6_options import Code6, Options6, VendorClass
from netboot.errors import SiteError
from netboot.network import ClientKind, Identify, Match, OptionValue, Reservation6

A, B = duid_ll(mac(1)), duid_ll(mac(2))
PRIVATE = IPv6Address("fe80::abcd:1234:5678:9abc")
"""A link-local address that tells nothing of the NIC."""


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


def test_v6_5_clients_that_name_two_nics_are_two_whatever_wire_they_come_by() -> None:
    """Suites, bridges and relays send for many from one link-local address."""
    server = Server6()
    one, two = server.bound(A, 1, PRIVATE), server.bound(B, 1, PRIVATE)
    assert one != two
    three, four = (server.bound(duid_llt(mac(number)), 1, link_local(mac(9))) for number in (3, 4))
    assert len({one, two, three, four}) == 4
    assert server.bound(duid_llt(mac(3)), 1, link_local(mac(9))) == three
    assert len(server.engine.leases(NOW)) == 4


def test_v6_5_ias_of_a_system_are_each_their_own_and_those_of_firmware_one() -> None:
    server = Server6()
    assert server.bound(A, 1) != server.bound(A, 2)
    told = [
        given(server.request(B, ia(iaid), *firmware(), source=link_local(mac(2))))[0].address
        for iaid in (7, 8)
    ]
    assert told[0] == told[1]


def test_v6_5_what_firmware_booted_with_is_the_system_s_whatever_else_it_asked_for() -> None:
    """Seen of edk2 over HTTP: its IPv6 asks as a plain host while its boot is under way."""
    server, nic, llt = Server6(), link_local(mac(2)), duid_llt(mac(2))
    booted = given(server.request(llt, ia(7), *firmware(), source=nic))[0].address
    beside = server.bound(llt, 8, nic)
    assert beside != booted
    for kind in (Kind6.RENEW, Kind6.RELEASE):
        server.send(message6(kind, llt, ia(7, booted), server=SERVER_DUID), nic)
        assert server.bound(duid_ll(mac(2)), 3, nic) == booted
        assert server.bound(llt, 8, nic) == beside
        again = server.request(llt, ia(9), *firmware(), source=nic)
        assert given(again)[0].address == booted


def test_identified_by_duid_and_iaid_alone_each_is_a_client_of_its_own() -> None:
    server = Server6(config6(identify=Identify.CLIENT_ID))
    one = server.bound(FIRMWARE, 1)
    assert server.bound(FIRMWARE, 2) != one
    assert server.bound(duid_llt(mac(1)), 1) != one
    assert server.bound(FIRMWARE, 1, link_local(mac(5))) == server.bound(FIRMWARE, 1)


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
