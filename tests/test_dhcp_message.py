"""DHCP messages and options: both ways, hostile bytes, and scapy as a second opinion."""

from __future__ import annotations

import tomllib
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP

from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType, Options, decode_uris, encode_uris
from netboot.errors import PeerError

VECTORS = Path(__file__).parent / "vectors" / "dhcp"
COOKIE = b"\x63\x82\x53\x63"

ADDRESSES = st.integers(0, 2**32 - 1).map(IPv4Address)
CODES = st.integers(1, 254).filter(lambda code: code != Code.OVERLOAD)
ITEMS = st.lists(
    st.tuples(CODES, st.binary(max_size=600)), max_size=6, unique_by=lambda item: item[0]
)
FIELDS = st.binary(max_size=63).filter(lambda data: b"\0" not in data)
MESSAGES = st.builds(
    Message,
    op=st.integers(0, 255),
    htype=st.integers(0, 255),
    hops=st.integers(0, 255),
    xid=st.integers(0, 2**32 - 1),
    secs=st.integers(0, 65535),
    flags=st.integers(0, 65535),
    ciaddr=ADDRESSES,
    yiaddr=ADDRESSES,
    siaddr=ADDRESSES,
    giaddr=ADDRESSES,
    chaddr=st.binary(max_size=16),
    sname=FIELDS,
    file=FIELDS,
    options=ITEMS.map(lambda items: Options(items=tuple(items))),
)


def raw(options: bytes, *, sname: bytes = b"", file: bytes = b"", hlen: int = 6) -> bytes:
    header = bytes((1, 1, hlen, 0)) + bytes(24) + bytes(range(16))
    return header + sname.ljust(64, b"\0") + file.ljust(128, b"\0") + COOKIE + options


@settings(max_examples=150, deadline=None)
@given(MESSAGES)
def test_what_was_encoded_decodes_to_the_same(value: Message) -> None:
    wire = value.encode()
    assert Message.decode(wire) == value
    assert len(wire) >= 300


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=64), st.binary(max_size=128))
def test_any_bytes_give_a_value_or_our_error(options: bytes, sname: bytes, file: bytes) -> None:
    for data in (
        options,
        raw(options, sname=sname, file=file),
        raw(b"\x34\x01\x03" + options, file=file),
    ):
        try:
            read_all(Message.decode(data))
        except PeerError:
            continue


def read_all(value: Message) -> None:
    """Call each typed reading; together they may raise nothing but PeerError."""
    options = value.options
    for code in Code:
        options.text(code)
    readings = (
        lambda: options.message_type,
        lambda: options.parameters,
        lambda: options.architectures,
        lambda: options.user_classes,
        lambda: options.uris,
        lambda: options.address(Code.SERVER_ID),
        lambda: options.addresses(Code.DNS_SERVER),
        lambda: options.number(Code.MAX_SIZE, 2),
    )
    for reading in readings:
        try:
            reading()
        except PeerError:
            continue


@settings(max_examples=60, deadline=None)
@given(MESSAGES.filter(lambda value: all(len(data) < 256 for _, data in value.options.items)))
def test_scapy_reads_the_header_as_we_wrote_it(value: Message) -> None:
    theirs = BOOTP(value.encode())
    assert (theirs.op, theirs.htype, theirs.hlen, theirs.xid) == (
        value.op,
        value.htype,
        len(value.chaddr),
        value.xid,
    )
    assert theirs.chaddr == value.chaddr.ljust(16, b"\0")
    assert (theirs.ciaddr, theirs.giaddr) == (str(value.ciaddr), str(value.giaddr))
    assert theirs.file.rstrip(b"\0") == value.file


def test_we_read_what_scapy_writes() -> None:
    theirs = bytes(
        BOOTP(op=1, xid=0x1234, chaddr=bytes(range(6)), flags="B")
        / DHCP(
            options=[
                ("message-type", "request"),
                ("requested_addr", "10.0.0.9"),
                ("server_id", "10.0.0.1"),
                ("param_req_list", [1, 3, 143]),
                ("max_dhcp_size", 1472),
                "end",
            ]
        )
    )
    value = Message.decode(theirs)
    assert value.mac == bytes(range(6))
    assert value.wants_broadcast
    assert value.options.message_type is MessageType.REQUEST
    assert value.options.address(Code.REQUESTED_ADDRESS) == IPv4Address("10.0.0.9")
    assert value.options.parameters == {1, 3, 143}
    assert value.options.number(Code.MAX_SIZE, 2) == 1472


def test_scapy_reads_our_options() -> None:
    ours = Message(
        op=2,
        xid=1,
        chaddr=bytes(6),
        options=Options(
            items=(
                (Code.MESSAGE_TYPE, b"\x05"),
                (Code.LEASE_TIME, (7200).to_bytes(4, "big")),
                (Code.ROUTER, bytes((10, 0, 0, 1))),
            )
        ),
    )
    options = DHCP in BOOTP(ours.encode()) and BOOTP(ours.encode())[DHCP].options
    assert ("message-type", 5) in options
    assert ("lease_time", 7200) in options
    assert ("router", "10.0.0.1") in options


def test_d27_pieces_of_an_option_are_joined_over_all_areas() -> None:
    value = Message.decode(
        raw(
            b"\x34\x01\x03" + b"\x3d\x02ab" + b"\x00\x00" + b"\x35\x01\x01" + b"\xff",
            file=b"\x3d\x02cd\xff",
            sname=b"\x3d\x02ef\xff",
        )
    )
    assert value.options.get(Code.CLIENT_ID) == b"abcdef"
    assert value.options.message_type is MessageType.DISCOVER
    assert (value.file, value.sname) == (b"", b"")


@pytest.mark.parametrize(
    ("overload", "file", "sname"), [(1, b"", b"box"), (2, b"boot.efi", b""), (3, b"", b"")]
)
def test_d27_overload_takes_only_the_field_it_names(
    overload: int, file: bytes, sname: bytes
) -> None:
    fields = {
        "file": b"\x0c\x01f\xff" if overload & 1 else b"boot.efi",
        "sname": b"\x0f\x01s\xff" if overload & 2 else b"box",
    }
    value = Message.decode(raw(bytes((52, 1, overload, 255)), **fields))
    assert (value.file, value.sname) == (file, sname)
    assert value.options.get(Code.HOST_NAME) == (b"f" if overload & 1 else None)
    assert value.options.get(Code.DOMAIN_NAME) == (b"s" if overload & 2 else None)


def test_d27_bytes_after_end_are_ignored() -> None:
    value = Message.decode(raw(b"\x35\x01\x01\xff\x35\x01\x03\x3d\xff"))
    assert value.options.message_type is MessageType.DISCOVER


def test_d27_more_than_255_bytes_go_out_in_pieces() -> None:
    options = Options(items=((Code.SZTP_REDIRECT, bytes(600)),))
    wire = Message(op=1, xid=1, chaddr=bytes(6), options=options).encode()
    assert [wire[240], wire[241], wire[240 + 257], wire[240 + 514 + 1]] == [143, 255, 143, 90]


def test_d8_a_decline_of_293_bytes_is_read() -> None:
    data = raw(b"\x35\x01\x04\x36\x04\x0a\x29\x07\x02\x32\x04\x0a\x29\x07\x64\xff").ljust(
        293, b"\0"
    )
    assert len(data) == 293
    assert Message.decode(data).options.message_type is MessageType.DECLINE


@pytest.mark.parametrize("hlen", [0, 8, 16])
def test_d37_other_hardware_addresses_are_read(hlen: int) -> None:
    value = Message.decode(raw(b"\x35\x01\x01\xff", hlen=hlen))
    assert value.chaddr == bytes(range(16))[:hlen]
    assert value.mac is None


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (bytes(239), "no DHCP message"),
        (raw(b"").replace(COOKIE, b"abcd"), "cookie"),
        (raw(b"", hlen=17), "hardware address of 17"),
        (raw(b"\x35"), "past the end"),
        (raw(b"\x35\x02\x01"), "past the end"),
        (raw(b"\x34\x01\x04"), "52"),
        (raw(b"\x34\x02\x01\x01"), "52"),
    ],
)
def test_malformed_messages_are_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(PeerError, match=sentence):
        Message.decode(data)


def options(code: int, data: bytes) -> Options:
    return Options(items=((code, data),))


def test_options_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(PeerError):
        options(Code.REQUESTED_ADDRESS, bytes(8)).address(Code.REQUESTED_ADDRESS)
    with pytest.raises(PeerError):
        options(Code.DNS_SERVER, bytes(7)).addresses(Code.DNS_SERVER)
    with pytest.raises(PeerError):
        _ = options(Code.MESSAGE_TYPE, b"\x09").message_type
    with pytest.raises(PeerError):
        _ = options(Code.ARCHITECTURE, b"\0").architectures


def test_d24_parameter_zero_and_several_architectures() -> None:
    assert options(Code.PARAMETER_LIST, bytes((0, 67))).parameters == {0, 67}
    assert options(Code.ARCHITECTURE, bytes((0, 0, 0, 7))).architectures == (0, 7)


def test_d26_a_trailing_nul_is_cut_and_controls_do_not_reach_a_log() -> None:
    assert options(Code.HOST_NAME, b"till-3\0").text(Code.HOST_NAME) == "till-3"
    assert options(Code.HOST_NAME, b"a\x1b[2J\xff").text(Code.HOST_NAME) == "a?[2J?"


@pytest.mark.parametrize(
    ("data", "classes"),
    [
        (b"iPXE", (b"iPXE",)),
        (b"\x04iPXE", (b"iPXE",)),
        (b"\x04iPXE\x02ab", (b"iPXE", b"ab")),
        (b"\x00", (b"\x00",)),
        (b"", ()),
    ],
)
def test_d19_user_class_counted_or_bare(data: bytes, classes: tuple[bytes, ...]) -> None:
    assert options(Code.USER_CLASS, data).user_classes == classes


def test_options_forbid_what_would_not_come_back() -> None:
    for items in (((53, b"\1"), (53, b"\2")), ((52, b"\1"),), ((0, b""),), ((255, b""),)):
        with pytest.raises(ValueError, match="option"):
            Options(items=items)


def test_d42_option_143_as_an_arista_client_was_served() -> None:
    vector = tomllib.loads((VECTORS / "sztp-redirect.toml").read_text())
    data = bytes.fromhex(vector["data"].replace("\n", ""))
    assert len(data) == vector["length"]
    assert list(decode_uris(data)) == vector["uris"]
    assert encode_uris(vector["uris"]) == data


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x05http", b"\x00\x01\xff", b"\x00\x01a\x00"])
def test_d42_a_malformed_redirect_is_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        decode_uris(data)


@given(st.lists(st.text(alphabet="abc:/.8443[]", max_size=300), max_size=4))
@settings(max_examples=50, deadline=None)
def test_d42_redirects_come_back(uris: list[str]) -> None:
    assert list(decode_uris(encode_uris(uris))) == uris
