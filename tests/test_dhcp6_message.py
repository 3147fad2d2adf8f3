"""DHCPv6 messages and options: round trips, any bytes, and scapy as the second opinion."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers import dhcp6 as scapy6

from netboot.dhcp6_message import HOP_LIMIT, Kind6, Message6, Packet6, Relay6, answer_relays
from netboot.dhcp6_options import (
    Association,
    Code6,
    Lent,
    Options6,
    Status,
    StatusCode,
    VendorClass,
    decode_counted,
    decode_names,
    decode_options,
    duid_mac,
    duid_uuid,
    encode_counted,
    encode_names,
    encode_options,
    swapped_uuid,
    uuid_duid,
)
from netboot.errors import PeerError

few = settings(max_examples=100)
addresses = st.binary(min_size=16, max_size=16).map(IPv6Address)
seconds = st.integers(0, 0xFFFFFFFF)
statuses = st.none() | st.builds(Status, code=st.integers(0, 9), text=st.text(max_size=9))
lents = st.builds(Lent, address=addresses, preferred=seconds, valid=seconds, status=statuses)
associations = st.builds(
    Association,
    iaid=seconds,
    t1=seconds,
    t2=seconds,
    addresses=st.lists(lents, max_size=3).map(tuple),
    status=statuses,
)
items = st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40))
messages = st.builds(
    Message6,
    kind=st.sampled_from([kind for kind in Kind6 if kind < Kind6.RELAY_FORWARD]),
    transaction=st.integers(0, 0xFFFFFF),
    options=st.builds(Options6, items=st.lists(items, max_size=5).map(tuple)),
)
relays = st.builds(
    Relay6,
    kind=st.sampled_from([Kind6.RELAY_FORWARD, Kind6.RELAY_REPLY]),
    hops=st.integers(0, 255),
    link=addresses,
    peer=addresses,
    options=st.builds(
        Options6,
        items=st.lists(items.filter(lambda item: item[0] != 9), max_size=3).map(tuple),
    ),
)


@few
@given(st.builds(Packet6, message=messages, relays=st.lists(relays, max_size=8).map(tuple)))
def test_what_was_written_is_read(packet: Packet6) -> None:
    assert Packet6.decode(packet.encode()) == packet


def read_everything(data: bytes) -> None:
    packet = Packet6.decode(data)
    options = packet.message.options
    for name in ("client_id", "requested", "architectures", "vendor_classes", "user_classes"):
        getattr(options, name)
    assert options.host_name is None or "\0" not in options.host_name
    for association in options.associations:
        assert Association.decode(association.encode()) == association
    answer_relays(packet.relays)


@few
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_our_error(data: bytes) -> None:
    for begin in (b"", b"\x01\0\0\x07", b"\x0c" + bytes(33) + b"\0\x09\0\x10"):
        try:
            read_everything(begin + data)
        except PeerError:
            continue


@few
@given(st.sampled_from([1, 3, 5, 6, 13, 15, 16, 39, 61]), st.binary(max_size=60))
def test_any_option_is_read_or_our_error(code: int, data: bytes) -> None:
    message = Message6(kind=Kind6.SOLICIT, transaction=1, options=Options6(items=((code, data),)))
    try:
        read_everything(message.encode())
    except PeerError:
        return


@few
@given(associations)
def test_an_ia_is_read_as_written(association: Association) -> None:
    assert Association.decode(association.encode()) == association


@few
@given(st.lists(st.binary(max_size=20), max_size=4).map(tuple))
def test_classes_are_read_as_written(classes: tuple[bytes, ...]) -> None:
    assert decode_counted(encode_counted(classes)) == classes
    vendor = VendorClass(enterprise=343, classes=classes)
    assert VendorClass.decode(vendor.encode()) == vendor


def test_an_ia_is_what_scapy_reads() -> None:
    lent = Lent(address=IPv6Address("fd00::7"), preferred=60, valid=90)
    ours = Association(iaid=5, t1=30, t2=48, addresses=(lent,))
    refused = Association(iaid=6, status=Status(code=StatusCode.NO_BINDING, text="not yours"))
    message = Message6(
        kind=Kind6.REPLY,
        transaction=0x010203,
        options=Options6(
            items=(
                (Code6.CLIENT_ID, b"\0\3\0\1" + bytes(6)),
                (Code6.IA_NA, ours.encode()),
                (Code6.IA_NA, refused.encode()),
                (Code6.DOMAIN_LIST, encode_names(["shop.example.net"])),
                (Code6.BOOT_URL, b"tftp://[fd00::1]/a.efi"),
                (Code6.VENDOR_CLASS, VendorClass(enterprise=343, classes=(b"HTTP",)).encode()),
            )
        ),
    )
    read = scapy6.DHCP6_Reply(message.encode())
    assert read.trid == 0x010203
    first = read[scapy6.DHCP6OptIA_NA]
    assert (first.iaid, first.T1, first.T2) == (5, 30, 48)
    assert first.ianaopts[0].addr == "fd00::7"
    assert (first.ianaopts[0].preflft, first.ianaopts[0].validlft) == (60, 90)
    second = first.payload[scapy6.DHCP6OptIA_NA]
    assert second.ianaopts[0].statuscode == 3
    assert read[scapy6.DHCP6OptDNSDomains].dnsdomains == ["shop.example.net."]
    assert read[scapy6.DHCP6OptBootFileUrl].optdata == b"tftp://[fd00::1]/a.efi"
    vendor = read[scapy6.DHCP6OptVendorClass]
    assert vendor.enterprisenum == 343
    assert vendor.vcdata[0].data == b"HTTP"


def test_we_read_what_scapy_writes() -> None:
    theirs = (
        scapy6.DHCP6_RelayForward(hopcount=1, linkaddr="fd00::1", peeraddr="fe80::2")
        / scapy6.DHCP6OptIfaceId(ifaceid=b"port 7")
        / scapy6.DHCP6OptRelayMsg(
            message=scapy6.DHCP6_Solicit(trid=9)
            / scapy6.DHCP6OptClientId(duid=scapy6.DUID_LL(lladdr="02:00:00:00:00:01"))
            / scapy6.DHCP6OptElapsedTime()
            / scapy6.DHCP6OptOptReq(reqopts=[23, 59])
            / scapy6.DHCP6OptIA_NA(iaid=3, ianaopts=scapy6.DHCP6OptIAAddress(addr="fd00::9"))
            / scapy6.DHCP6OptClientArchType(archtypes=[7, 16])
        )
    )
    packet = Packet6.decode(bytes(theirs))
    (relay,) = packet.relays
    assert (relay.hops, str(relay.link), str(relay.peer)) == (1, "fd00::1", "fe80::2")
    assert relay.options.get(Code6.INTERFACE_ID) == b"port 7"
    options = packet.message.options
    assert packet.message.kind is Kind6.SOLICIT
    assert packet.message.transaction == 9
    assert options.requested == {23, 59}
    assert options.architectures == (7, 16)
    assert options.client_id is not None
    assert duid_mac(options.client_id) == bytes.fromhex("020000000001")
    (association,) = options.associations
    assert association.iaid == 3
    assert [str(one.address) for one in association.addresses] == ["fd00::9"]


def test_relays_nest_to_eight_and_get_back_what_they_sent() -> None:
    relay = Relay6(
        kind=Kind6.RELAY_FORWARD,
        hops=0,
        link=IPv6Address("fd00::1"),
        peer=IPv6Address("fe80::2"),
        options=Options6(items=((Code6.INTERFACE_ID, b"a"), (37, b"remote"), (43, b"\0\x25"))),
    )
    message = Message6(kind=Kind6.SOLICIT, transaction=1)
    most = Packet6(message=message, relays=(relay,) * HOP_LIMIT)
    assert Packet6.decode(most.encode()) == most
    with pytest.raises(PeerError, match="more than 8 relays"):
        Packet6.decode(Packet6(message=message, relays=(relay,) * (HOP_LIMIT + 1)).encode())
    (answer,) = answer_relays((relay,))
    assert answer.kind is Kind6.RELAY_REPLY
    assert answer.options.items == ((Code6.INTERFACE_ID, b"a"), (37, b"remote"))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no DHCPv6 message"),
        (b"\x01\0\0", "no DHCPv6 message"),
        (b"\x63\0\0\1", "message type 99"),
        (b"\x01\0\0\1\0\1\0", "inside its header"),
        (b"\x01\0\0\1\0\1\0\5abc", "past the end"),
        (b"\x0c" + bytes(20), "no relay message"),
        (b"\x0c" + bytes(33), "without a message"),
    ],
)
def test_broken_messages_say_what_is_wrong(data: bytes, why: str) -> None:
    with pytest.raises(PeerError, match=why):
        Packet6.decode(data)


def test_one_iaid_and_one_of_each_option() -> None:
    one = (Code6.IA_NA, Association(iaid=1).encode())
    with pytest.raises(PeerError, match="IAID is there twice"):
        _ = Options6(items=(one, one)).associations
    with pytest.raises(PeerError, match="there 2 times"):
        _ = Options6(items=((1, b"abc"), (1, b"abc"))).client_id
    for size in (2, 131):
        with pytest.raises(PeerError, match="a DUID of"):
            _ = Options6(items=((1, bytes(size)),)).client_id


def test_names_are_read_and_written() -> None:
    wire = encode_names(["shop.example.net", "a."])
    assert wire == b"\4shop\7example\3net\0\1a\0"
    assert decode_names(wire) == ("shop.example.net", "a")
    assert decode_names(b"\3pos", is_partial=True) == ("pos",)
    for broken in (b"\3pos", b"\xc0\x00", b"\5ab\0", (b"\x3f" + b"a" * 63) * 5):
        with pytest.raises(PeerError):
            decode_names(broken)
    for name in ("", "a..b", "x" * 64, ".".join(["abcdefgh"] * 29)):
        with pytest.raises(ValueError, match="does not fit"):
            encode_names([name])
    assert Options6(items=((39, b"\1\3pos"),)).host_name == "pos"
    assert Options6(items=((39, b"\1\4p\n.s\0"),)).host_name == "p??s"


def test_v6_5_identities_in_a_duid() -> None:
    mac, uuid = bytes.fromhex("020000000001"), bytes(range(16))
    assert duid_mac(b"\0\1\0\1\0\0\0\7" + mac) == mac
    assert duid_mac(b"\0\3\0\1" + mac) == mac
    assert duid_mac(b"\0\3\0\6" + mac) is None  # another kind of hardware
    assert duid_mac(b"\0\2\0\1" + mac) is None
    assert duid_uuid(uuid_duid(uuid)) == uuid
    assert duid_uuid(uuid_duid(bytes(16))) is None  # firmware without a UUID
    assert duid_uuid(b"\0\4" + uuid + b"\0") is None
    assert swapped_uuid(uuid).hex() == "03020100050407060809" + "0a0b0c0d0e0f"
    assert swapped_uuid(swapped_uuid(uuid)) == uuid


def test_option_area_limits() -> None:
    with pytest.raises(ValueError, match="65536 bytes"):
        encode_options([(59, bytes(0x10000))])
    assert decode_options(b"").items == ()
