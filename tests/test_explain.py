"""What `doorstep netboot explain` says: the engine's own answer, why, and every byte of it."""

import json
import re
import sqlite3
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.cli.main import main
from bootstrap.planning import make_plan
from bootstrap.site import decode_netboot_site
from netboot.asking import Asking, discover, request_after
from netboot.dhcp_message import Message
from netboot.dhcp_options import Code, MessageType, Options
from netboot.dissect import dissect, dump
from netboot.explain import Explanation, explain
from netboot.io.leases import NetbootStore, read_leases
from netboot.leases import Lease, LeaseState, LeaseWrite

SITE = """
[site]
id = "lab"
domain = "lab.example.net"
[dhcp]
options = { ntp-servers = "10.0.0.9" }
[[shared_network]]
name = "hall"
[[subnet]]
name = "boxes"
interface = "eth1"
network = "10.0.0.0/24"
appliance = "10.0.0.1"
gateway = "10.0.0.254"
shared = "hall"
pool = [{ range = "10.0.0.100-10.0.0.101", options.routers = "10.0.0.253" }]
[[subnet]]
name = "phones"
interface = "eth1"
network = "10.0.1.0/24"
appliance = "10.0.1.1"
shared = "hall"
pool = [{ range = "10.0.1.100-10.0.1.150", classes = "acme" }]
[[subnet]]
name = "far"
interface = "eth1"
network = "10.1.0.0/24"
appliance = "10.0.0.1"
relayed = true
relays = "10.99.0.1"
boot = false
pool = "10.1.0.100-10.1.0.150"
reply_delay = "500ms"
[[subnet]]
name = "beside"
interface = "eth2"
network = "10.2.0.0/24"
appliance = "10.2.0.2"
dhcp = "proxy"
[[subnet]]
name = "kept"
interface = "eth3"
network = "10.3.0.0/24"
appliance = "10.3.0.2"
[[subnet]]
name = "only"
interface = "eth4"
network = "10.4.0.0/24"
appliance = "10.4.0.2"
pool = [{ range = "10.4.0.100-10.4.0.150", classes = "acme" }]
[[class]]
name = "acme"
mac = "52:54:01"
options = { tftp-server-name = "boot" }
[[reservation]]
name = "till-1"
mac = "52:54:00:00:00:01"
address = "10.0.0.11"
[[reservation]]
circuit_id = "port 7"
boot_file = "own.bin"
[[reservation]]
name = "by-uuid"
uuid = "4c4c4544-0042-3510-8050-b7c04f4d3232"
address = "10.0.0.12"
[[boot.rule]]
name = "menu"
kind = "ipxe"
file = "http://elsewhere.example.net/menu.ipxe"
via = "http"
"""
PLAN = make_plan(decode_netboot_site(SITE.encode()), [], [], [], 1, enrols=False)
STRANGER = bytes.fromhex("525400000002")
TILL = bytes.fromhex("525400000001")


def ask(mac: bytes = STRANGER, leases: tuple[Lease, ...] = (), **said: object) -> Explanation:
    return explain(Asking(mac=mac, **said), PLAN.dhcp(), leases, 1000.0, ("menu",))


def lease(address: str, mac: bytes, state: LeaseState = LeaseState.BOUND) -> Lease:
    return Lease(
        subnet="boxes",
        address=IPv4Address(address),
        key=mac,
        mac=mac,
        state=state,
        expires=2000.0,
        name=None,
    )


FULL = tuple(lease(f"10.0.0.{100 + n}", bytes((2, 0, 0, 0, 0, n))) for n in range(2))

WHY = [
    ({}, "client: asks as other"),
    ({}, "subnet: boxes, 10.0.0.0/24: it is on interface eth1"),
    ({}, "address: 10.0.0.100 of pool 10.0.0.100-10.0.0.101: free"),
    ({}, "lease: 43200 seconds"),
    ({}, "option routers: of the pool"),
    ({}, "option ntp-servers: of the site"),
    ({}, "boot: nothing, the client does not ask to boot"),
    ({}, "sent: as a frame to the client's MAC, without ARP, from 10.0.0.1:67 to 10.0.0.100:68"),
    ({"architectures": (7,)}, "client: asks as pxe, architecture 7 (x64-uefi)"),
    ({"architectures": (7,)}, "boot: nothing, no rule and no boot set is for architecture 7"),
    ({"architectures": (7,)}, "sent: as a broadcast, from 10.0.0.1:67 to 255.255.255.255:68"),
    ({"architectures": (16,)}, "client: asks as http, architecture 16 (x64-uefi-http)"),
    (
        {"architectures": (7,), "user_class": b"iPXE"},
        "boot: http://elsewhere.example.net/menu.ipxe by http, by [[boot.rule]] menu",
    ),
    ({"mac": TILL}, "reservation: till-1, known by its mac"),
    ({"mac": TILL}, "address: 10.0.0.11: reserved"),
    ({"leases": (lease("10.0.0.101", STRANGER),)}, "10.0.0.100-10.0.0.101: it had it before"),
    ({"mac": b"RT\1\0\0\1", "leases": FULL}, "classes: acme"),
    ({"mac": b"RT\1\0\0\1", "leases": FULL}, "phones, 10.0.1.0/24: it shares hall with boxes"),
    (
        {"mac": b"RT\1\0\0\1", "architectures": (7,)},
        "option tftp-server-name: of class acme",
    ),
    ({"relay": IPv4Address("10.1.0.9")}, "far, 10.1.0.0/24: the relay 10.1.0.9 stands for it"),
    ({"relay": IPv4Address("10.99.0.1")}, "far, 10.1.0.0/24: the relay 10.99.0.1 stands for it"),
    (
        {"relay": IPv4Address("10.1.0.9")},
        "sent after 0.5 s: as a datagram, from 10.0.0.1:67 to 10.1.0.9:67",
    ),
    (
        {"relay": IPv4Address("10.1.0.9"), "architectures": (7,)},
        "boot: nothing, this subnet boots nothing from here",
    ),
    (
        {"relay": IPv4Address("10.1.0.9"), "circuit_id": b"port 7"},
        "reservation: without a name, known by its circuit_id",
    ),
    (
        {"relay": IPv4Address("10.1.0.9"), "circuit_id": b"port 7"},
        "boot: own.bin, the boot_file of a level of the site file",
    ),
]


@pytest.mark.parametrize(("said", "reason"), WHY)
def test_why_a_client_is_told_this(said: dict[str, object], reason: str) -> None:
    found = ask(**said)
    assert found.reply is not None
    assert any(reason in one for one in found.reasons), found.reasons


@pytest.mark.parametrize(
    "uuid", ["4c4c454400423510" + "8050b7c04f4d3232", "44454c4c42001035" + "8050b7c04f4d3232"]
)
def test_d36_a_reservation_knows_a_uuid_in_either_order(uuid: str) -> None:
    found = ask(uuid=bytes.fromhex(uuid))
    assert "reservation: by-uuid, known by its uuid" in found.reasons
    assert "address: 10.0.0.12: reserved" in found.reasons


SILENT = [
    ({"relay": IPv4Address("10.9.9.9")}, "no served subnet holds the relay's address 10.9.9.9"),
    ({"interface": "eth9"}, 'no subnet with dhcp = "server" is on interface eth9'),
    ({"interface": "eth2"}, "beside, 10.2.0.0/24: another server gives the addresses (proxy)"),
    ({"interface": "eth2"}, "there is no boot file for this client"),
    ({"interface": "eth3"}, "kept has no pool, nothing is reserved for this client"),
    ({"interface": "eth4"}, "every pool of only is for classes that this client is not in: acme"),
    ({"leases": FULL}, "no address of boxes, phones is free for this client"),
]


@pytest.mark.parametrize(("said", "reason"), SILENT)
def test_why_a_client_gets_nothing(said: dict[str, object], reason: str) -> None:
    found = ask(**said)
    assert found.reply is None
    assert any(reason in one for one in found.reasons), found.reasons


@pytest.mark.parametrize(
    ("kind", "said", "reason"),
    [
        (
            MessageType.DISCOVER,
            {"user_class": b"iPXE"},
            "boot: http://elsewhere.example.net/menu.ipxe",
        ),
        (MessageType.DISCOVER, {}, "boot: asked for again, on port 4011"),
        (MessageType.REQUEST, {}, "boot: plain.efi"),
    ],
)
def test_d21_what_proxydhcp_tells(kind: MessageType, said: dict, reason: str) -> None:
    text = SITE + '[[boot.rule]]\nname = "plain"\narchitecture = 7\nfile = "plain.efi"\n'
    text = text.replace("[[boot.rule]]", '[boot]\nfiles = "x"\n[[boot.rule]]', 1)
    made = make_plan(
        decode_netboot_site(text.encode()), [], [], [], 1, files={"/plain.efi": bytes(32)}
    )
    asking = Asking(mac=STRANGER, architectures=(7,), interface="eth2", kind=kind, **said)
    found = explain(asking, made.dhcp(), (), 1000.0)
    assert found.reply is not None
    assert Message.decode(found.reply.data).yiaddr == IPv4Address(0)
    assert any(reason in one for one in found.reasons), found.reasons


def test_a_request_takes_the_offer_and_is_acknowledged() -> None:
    found = ask(kind=MessageType.REQUEST)
    assert found.reply is not None
    answer, asked = Message.decode(found.reply.data), Message.decode(found.request)
    assert answer.options.message_type is MessageType.ACK
    assert asked.options.address(Code.REQUESTED_ADDRESS) == answer.yiaddr
    assert asked.options.address(Code.SERVER_ID) == IPv4Address("10.0.0.1")


def test_a_client_is_asked_for_as_it_asks() -> None:
    uuid = bytes(range(16))
    message = discover(
        Asking(
            mac=STRANGER,
            architectures=(7, 9),
            uuid=uuid,
            client_id=b"\1" + STRANGER,
            host_name="box",
            relay=IPv4Address("10.9.9.1"),
            circuit_id=b"port",
            requests=b"\1\3",
        )
    )
    options = message.options
    assert options.get(Code.VENDOR_CLASS) == b"PXEClient:Arch:00007:UNDI:003016"
    assert options.architectures == (7, 9)
    assert options.get(Code.CLIENT_UUID) == b"\0" + uuid
    assert options.get(Code.CLIENT_ID) == b"\1" + STRANGER
    assert options.text(Code.HOST_NAME) == "box"
    assert options.get(Code.RELAY_AGENT) == b"\1\4port"
    assert options.get(Code.PARAMETER_LIST) == b"\1\3"
    assert (message.giaddr, message.hops) == (IPv4Address("10.9.9.1"), 1)
    http = discover(Asking(mac=STRANGER, architectures=(0x10,))).options
    assert http.vendor_class.startswith(b"HTTPClient:Arch:00016")
    assert Code.BOOT_FILE in http.parameters
    assert 66 not in http.parameters  # D17
    offer = Message(op=2, xid=1, chaddr=STRANGER, yiaddr=IPv4Address("10.0.0.5"))
    after = request_after(message, offer)
    assert after.options.message_type is MessageType.REQUEST


def test_the_dump_names_every_field_and_option() -> None:
    found = ask(mac=TILL, architectures=(7,), user_class=b"iPXE")
    assert found.reply is not None
    lines = dump(found.reply.data)
    for line in (
        "0000  02                                               op: reply",
        "0010  0a 00 00 0b                                      yiaddr: 10.0.0.11",
        "      … 128 bytes of 00",
        "00f0  35 01 02                                         53 dhcp-message-type: 2 (OFFER)",
    ):
        assert line in lines
    assert any(one.endswith('12 host-name: "till-1"') for one in lines)
    assert any(one.endswith("255 end") for one in lines)
    shown = "".join(line[6:53].replace(" ", "") for line in lines if line[:4].strip())
    fields = [one.data if any(one.data) else one.data[:16] for one in dissect(found.reply.data)]
    assert shown == b"".join(fields).hex()


def test_options_in_file_and_sname_are_shown_in_their_place() -> None:
    data = bytearray(Message(op=2, xid=1, chaddr=TILL).encode())
    data[240:] = b"\x34\1\3\xff" + bytes(56)
    data[108:112] = b"\x0c\2ab"
    data[112] = 255
    data[44:48] = b"\x0f\2cd"
    data[48] = 255
    found = {field.at: field for field in dissect(bytes(data))}
    assert found[240].name == "52 dhcp-option-overload"
    assert (found[108].name, found[108].words) == ("12 host-name", '"ab"')
    assert (found[44].name, found[44].words) == ("15 domain-name", '"cd"')
    assert found[112].name == found[48].name == "255 end"


@pytest.mark.parametrize(
    ("options", "name"), [(b"\x0c\xffab", "cannot be read"), (b"\x0c", "cannot be read")]
)
def test_what_cannot_be_read_is_one_field(options: bytes, name: str) -> None:
    data = Message(op=1, xid=1, chaddr=TILL, options=Options()).encode()[:240] + options
    assert dissect(data)[-1].name == name
    assert dissect(data)[-1].data == options
    assert [one.name for one in dissect(data[:200])] == ["cut"]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_shown_whole_and_in_order(noise: bytes, framed: bool) -> None:
    data = Message(op=1, xid=1, chaddr=TILL).encode()[:240] + noise if framed else noise
    fields = dissect(data)
    assert b"".join(field.data for field in fields) == data
    at = 0
    for field in fields:
        assert field.at == at
        at += len(field.data)
    assert all(line.isprintable() for line in dump(data))


# The command


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "site.toml").write_text(SITE)
    return tmp_path


def command(place: Path, *words: str) -> tuple[int, str]:
    site = ("--site", str(place / "site.toml"), "--state", str(place / "state"))
    done = CliRunner().invoke(main, ["netboot", "explain", *site, *words])
    return done.exit_code, done.output


def test_the_command_prints_reasons_and_bytes_and_writes_nothing(place: Path) -> None:
    code, text = command(place, "--mac", "52:54:00:00:00:01", "--arch", "x86-64-uefi")
    assert code == 0
    assert "address: 10.0.0.11: reserved" in text
    assert "yiaddr: 10.0.0.11" in text
    assert not (place / "state").exists()


def test_the_command_says_why_there_is_no_answer(place: Path) -> None:
    code, text = command(place, "--mac", "52:54:00:00:00:02", "--interface", "eth9")
    assert code == 1
    assert text.startswith("nothing is answered: ")


def test_the_command_as_json(place: Path) -> None:
    words = ("--class", "HTTPClient:Arch:00016", "--arch", "0x10", "--message", "request", "--json")
    code, text = command(place, "--mac", "52:54:00:00:00:02", *words)
    assert code == 0
    found = json.loads(text)
    assert found["sent"]["via"] == "broadcast"
    assert bytes.fromhex("".join(one["data"] for one in found["fields"])).hex() == found["reply"]
    assert Message.decode(bytes.fromhex(found["reply"])).options.message_type is MessageType.ACK
    code, text = command(place, "--mac", "52:54:00:00:00:02", "--interface", "x", "--json")
    assert (code, json.loads(text)["reply"]) == (1, None)


SIX = """
[[subnet6]]
name = "six"
interface = "eth1"
network = "2001:db8:7::/64"
appliance = "2001:db8:7::2"
pool = "2001:db8:7::100-2001:db8:7::1ff"
[[subnet6]]
name = "far6"
interface = "eth1"
network = "2001:db8:8::/64"
appliance = "2001:db8:7::2"
relayed = true
pool = "2001:db8:8::100-2001:db8:8::1ff"
"""


def test_the_command_over_ipv6(place: Path) -> None:
    with (place / "site.toml").open("a") as file:
        file.write(SIX)
    code, text = command(place, "--mac", "52:54:00:00:00:02", "--ipv6", "--arch", "x64-uefi-http")
    assert code == 0
    assert re.search(r"option 3: IAID 1, 2001:db8:7::1[0-9a-f]{2} preferred 43200 s", text)
    assert text.splitlines()[-1].startswith("00")
    words = ("--mac", "52:54:00:00:00:02", "--ipv6", "--json", "--relay", "2001:db8:8::1")
    code, text = command(place, *words)
    assert code == 0
    assert "2001:db8:8::1" in str(json.loads(text)["options"])
    code, text = command(place, "--mac", "52:54:00:00:00:02", "--ipv6", "--interface", "eth9")
    assert code == 1
    assert text.startswith("nothing is answered")
    code, text = command(place, "--mac", "52:54:00:00:00:02", "--relay", "::1")
    assert code == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--mac", "52:54"), "six pairs of hex digits"),
        (("--mac", "52:54:00:00:00:02", "--arch", "vax"), "its name"),
        (("--mac", "52:54:00:00:00:02", "--uuid", "1"), "expected a UUID"),
        (("--mac", "52:54:00:00:00:02", "--relay", "1"), "--relay"),
        (("--mac", "52:54:00:00:00:02", "--ask", "300"), "from 0 to 255"),
        (("--mac", "52:54:00:00:00:02", "--circuit", "hex:0"), "pairs of hex digits"),
    ],
)
def test_a_wrong_value_is_named(place: Path, words: tuple[str, ...], says: str) -> None:
    code, text = command(place, *words)
    assert code == 2
    assert says in text


def test_leases_are_read_where_they_are(place: Path) -> None:
    (place / "state" / "netboot").mkdir(parents=True)
    path = place / "state" / "netboot" / "netboot.db"
    store = NetbootStore(path)
    row = lease("10.0.0.101", STRANGER, LeaseState.RELEASED)
    store.commit((LeaseWrite(address=row.address, lease=row),), (), ())
    before = path.stat().st_mtime_ns
    assert [one.address for one in read_leases(path)] == [row.address]
    _, text = command(place, "--mac", STRANGER.hex(":"))
    assert "address: 10.0.0.101 of pool 10.0.0.100-10.0.0.101: it had it before" in text
    assert path.stat().st_mtime_ns == before
    store.close()
    path.write_bytes(b"no database, but longer than a page header" * 9)
    code, text = command(place, "--mac", STRANGER.hex(":"))
    assert code == 2
    assert "netboot.db" in text
    with pytest.raises(sqlite3.Error):
        sqlite3.connect(path).execute("SELECT * FROM leases")
