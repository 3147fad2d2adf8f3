"""The agent's DHCPv6 client: bytes against our own codec, then our server in a namespace."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv6Address, IPv6Interface, ip_address
from pathlib import Path

import pytest
from agent_site import Authority
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from dhcp6_lab import FIRST, LAST, US, Server6, Wire6, run, serving6, stories, until
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.agent.client import Client
from bootstrap.agent.dance import load_anchor
from bootstrap.agent.dhcp6 import (
    Answer6,
    Lease6,
    decline,
    inform,
    read_answer,
    renew,
    request,
    solicit,
)
from bootstrap.agent.errors import AgentError, Code
from keys import ca
from netboot.dhcp6_message import Kind6, Message6, Packet6
from netboot.dhcp6_options import (
    Association,
    Code6,
    Lent,
    Options6,
    Status,
    StatusCode,
    duid_mac,
)
from netboot.dhcp_options import encode_uris

MAC = bytes.fromhex("525400d00001")
IAID = int.from_bytes(MAC[2:], "big")
DUID = b"\0\3\0\1" + MAC
SERVER = b"\0\4" + bytes(range(16))
NUMBER = 0x123456
URL = f"https://[{US}]:8443"
OURS = IPv6Address("fd00:41:7::1234")
LEASE = Lease6(
    address=IPv6Interface(f"{OURS}/128"), dns=(US,), server=SERVER, seconds=3600, url=URL
)


def association(valid: int = 3600, t1: int = 1800, iaid: int = IAID, **more: object) -> bytes:
    lent = Lent(address=OURS, preferred=valid, valid=valid)
    return Association(iaid=iaid, t1=t1, addresses=(lent,), **more).encode()  # type: ignore[arg-type]


def answer(kind: Kind6 = Kind6.REPLY, **changes: bytes | None) -> bytes:
    options = {
        "CLIENT_ID": DUID,
        "SERVER_ID": SERVER,
        "IA_NA": association(),
        "DNS_SERVERS": US.packed,
        "URL": encode_uris([URL]),
    } | changes
    codes = {"URL": 136}
    items = tuple(
        (codes.get(name) or int(Code6[name]), data)
        for name, data in options.items()
        if data is not None
    )
    return Message6(kind=kind, transaction=NUMBER, options=Options6(items=items)).encode()


def read(data: bytes) -> Answer6 | None:
    return read_answer(data, MAC, NUMBER)


def test_an_answer_is_read() -> None:
    for kind in (Kind6.ADVERTISE, Kind6.REPLY):
        found = read(answer(kind))
        assert found is not None
        assert (found.kind, found.lease(None)) == (kind, LEASE)


def test_another_server_may_name_the_site() -> None:
    found = read(answer(URL=None))
    assert found is not None and found.url is None
    assert found.lease(URL) == LEASE


@pytest.mark.parametrize(
    "uris", [[f"http://[{US}]"], ["https://a/\x1b[2J"], ["https://a/\nDONE"], []]
)
def test_only_a_printable_https_url_is_a_site(uris: list[str]) -> None:
    found = read(answer(URL=encode_uris(uris)))
    assert found is not None and found.url is None
    found = read(answer(URL=encode_uris([*uris, URL])))
    assert found is not None and found.url == URL


@pytest.mark.parametrize(
    "data",
    [
        answer(CLIENT_ID=b"\0\3\0\1" + bytes(6)),
        answer(CLIENT_ID=None),
        answer(SERVER_ID=None),
        answer(Kind6.SOLICIT),
        answer(Kind6.RECONFIGURE),
        answer()[:-1],
        answer(DNS_SERVERS=b"short"),
        answer(URL=b"\0\x09short"),
        b"\x0d\0" + bytes(32) + b"\0\x09" + len(answer()).to_bytes(2, "big") + answer(),
    ],
)
def test_what_is_no_answer_to_us(data: bytes) -> None:
    assert read(data) is None


def test_another_transaction_is_not_ours() -> None:
    assert read_answer(answer(), MAC, NUMBER + 1) is None


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        association(valid=0, t1=0),
        association(iaid=IAID + 1),
        association(status=Status(code=StatusCode.NO_ADDRESSES)),
        Association(iaid=IAID).encode(),
    ],
)
def test_an_answer_without_an_address_for_us(wrong: bytes | None) -> None:
    found = read(answer(IA_NA=wrong))
    assert found is not None
    assert (found.address, found.seconds, found.lease(None), found.url) == (None, 0, None, URL)


@pytest.mark.parametrize(("valid", "t1", "seconds"), [(3600, 0, 3600), (3600, 100, 200)])
def test_it_renews_when_the_server_says(valid: int, t1: int, seconds: int) -> None:
    found = read(answer(IA_NA=association(valid, t1)))
    assert found is not None and found.seconds == seconds


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_nothing(data: bytes) -> None:
    read(data)
    read(bytes((Kind6.REPLY,)) + NUMBER.to_bytes(3, "big") + data)


@pytest.mark.parametrize(
    ("data", "kind", "server", "address"),
    [
        (solicit(MAC, NUMBER), Kind6.SOLICIT, None, ()),
        (request(MAC, NUMBER, LEASE), Kind6.REQUEST, SERVER, (OURS,)),
        (renew(MAC, NUMBER, LEASE), Kind6.RENEW, SERVER, (OURS,)),
        (decline(MAC, NUMBER, LEASE), Kind6.DECLINE, SERVER, (OURS,)),
        (inform(MAC, NUMBER), Kind6.INFORMATION_REQUEST, None, None),
    ],
)
def test_what_is_sent_reads_as_meant(
    data: bytes, kind: Kind6, server: bytes | None, address: tuple[IPv6Address, ...] | None
) -> None:
    message = Packet6.decode(data).message
    options = message.options
    assert (message.kind, message.transaction) == (kind, NUMBER)
    assert duid_mac(options.client_id or b"") == MAC
    assert options.get(Code6.SERVER_ID) == server
    assert options.number(Code6.ELAPSED_TIME, 2) == 0
    given = [tuple(lent.address for lent in one.addresses) for one in options.associations]
    assert given == ([] if address is None else [address])
    if kind is Kind6.DECLINE:
        assert not options.requested
    elif kind is Kind6.INFORMATION_REQUEST:
        assert options.requested == {23, 136, 32, 83}
    else:
        assert options.requested == {23, 136, 82}


def test_our_server_answers_it_with_the_site_and_keeps_one_address() -> None:
    server = Server6()
    offered = read_answer(server.ask(solicit(MAC, NUMBER)).encode(), MAC, NUMBER)
    assert offered is not None and offered.kind is Kind6.ADVERTISE
    offer = offered.lease(None)
    assert offer is not None and offer.url == URL
    for write in (request, renew):
        found = read_answer(server.ask(write(MAC, NUMBER, offer)).encode(), MAC, NUMBER)
        assert found is not None and found.lease(None) == replace(offer, url=URL)
    told = read_answer(server.ask(inform(MAC, NUMBER)).encode(), MAC, NUMBER)
    assert told is not None and (told.url, told.address) == (URL, None)


CLIENT = """
import json, socket
from urllib.parse import urlsplit
from bootstrap.agent import ipv6, network
said = []
found = network.find(said.append)
lease = found.lease
try:
    socket.create_connection((urlsplit(lease.url).hostname, 9), timeout=10)
except ConnectionRefusedError:
    is_kept = network.keep(found, said.append).lease == lease
    if isinstance(lease, ipv6.Lease6):
        is_kept = is_kept and ipv6.renewed(found.name, found.mac, lease) == lease
print(json.dumps([found.name, str(lease.address), lease.url, found.used(), lease.seconds,
                  [str(one) for one in lease.dns], is_kept]))
"""


@pytest.fixture
def wire() -> Iterator[Wire6]:
    made = Wire6()
    try:
        yield made
    finally:
        made.close()


def run_client(wire: Wire6) -> list:
    """Run the client in its namespace, whose /sys ip-netns(8) mounts; /etc is its own."""
    script = 'mount -t tmpfs none /etc && exec $0 -c "$1"'
    command = ["ip", "netns", "exec", wire.cli, "unshare", "-m", "sh", "-c", script]
    done = subprocess.run(
        [*command, sys.executable, CLIENT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.boots
def test_a_lent_address_and_the_site_without_any_ipv4(wire: Wire6, tmp_path: Path) -> None:
    database = tmp_path / "netboot.db"
    with serving6(wire.srv, database, wire.ends[0]):
        name, address, url, used, seconds, dns, is_kept = run_client(wire)
        # Four messages are enough, and two for a renewal.
        wanted = ["dhcp-discover", "dhcp-offer", "dhcp-ack", "dhcp-ack"]
        until(lambda: [event["kind"] for event in stories(database)] == wanted)
    address = IPv6Interface(address)
    assert (name, url, is_kept, dns) == (wire.ends[1], URL, True, [str(US)])
    assert FIRST <= address.ip <= LAST and address.network.prefixlen == 128
    assert ip_address(used["address"]) == address.ip
    assert seconds == 12 * 3600
    assert address.ip in wire.addresses()


@pytest.mark.boots
def test_an_address_of_its_own_and_the_site_where_nothing_is_lent(
    wire: Wire6, tmp_path: Path
) -> None:
    changes = "{'dhcp': 'stateless', 'pools': ()}"
    with serving6(wire.srv, tmp_path / "netboot.db", wire.ends[0], changes):
        _, address, url, used, seconds, dns, is_kept = run_client(wire)
    assert (url, seconds, dns, is_kept) == (URL, 0, [str(US)], True)
    assert IPv6Interface(address).ip in wire.addresses()
    assert bytes.fromhex(used["mac"].replace(":", ""))[3:] == IPv6Interface(address).ip.packed[13:]


@pytest.mark.boots
def test_an_address_that_another_machine_has_is_declined(wire: Wire6, tmp_path: Path) -> None:
    """RFC 8415, 18.2.8: the server lends it to nobody for a while, and the next is another one."""
    database = tmp_path / "netboot.db"
    for setting in ("all", wire.ends[1]):
        wire.sysctl(wire.cli, f"net.ipv6.conf.{setting}.accept_dad=1")
    with serving6(wire.srv, database, wire.ends[0]):
        first = run_client(wire)[1].partition("/")[0]
        inside = ("ip", "-n", wire.cli, "address", "del", f"{first}/128", "dev", wire.ends[1])
        run(*inside)
        run("ip", "-n", wire.srv, "address", "add", f"{first}/128", "dev", wire.ends[0], "nodad")
        script = 'mount -t tmpfs none /etc && exec $0 -c "$1"'
        command = ["ip", "netns", "exec", wire.cli, "unshare", "-m", "sh", "-c", script]
        done = subprocess.run(
            [*command, sys.executable, CLIENT], capture_output=True, text=True, timeout=60
        )
        assert "another machine has" in done.stderr
        run(*inside, check=False)
        until(lambda: run_client(wire)[1].partition("/")[0] != first)


@pytest.fixture
def both(wire: Wire6, tmp_path: Path) -> Iterator[Wire6]:
    """IPv4 on the same wire, by another server; our own names the site by IPv6."""
    near = wire.ends[0]
    run("ip", "-n", wire.srv, "address", "add", "10.99.0.1/24", "dev", near)
    with serving6(wire.srv, tmp_path / "netboot.db", near):
        yield wire


def dnsmasq(wire: Wire6, *options: str) -> subprocess.Popen[bytes]:
    command = ["ip", "netns", "exec", wire.srv, "dnsmasq", "-k", "-C", "/dev/null", "-p0"]
    command += ["-u", "root", "--log-facility=-", "--leasefile-ro", "--no-ping", "-i", wire.ends[0]]
    command += ["--dhcp-range=10.99.0.50,10.99.0.90", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    while b"IP range" not in process.stderr.readline():
        assert process.poll() is None
    return process


@pytest.mark.boots
@pytest.mark.parametrize("is_told", [True, False])
def test_ipv4_is_taken_where_both_name_a_site_and_ipv6_where_it_alone_does(
    both: Wire6, is_told: bool
) -> None:
    redirect = encode_uris(["https://10.99.0.1:8443"]).hex(":")
    process = dnsmasq(both, *([f"--dhcp-option-force=143,{redirect}"] if is_told else []))
    try:
        _, address, url, used, *_ = run_client(both)
    finally:
        process.terminate()
        process.wait()
    assert url == ("https://10.99.0.1:8443" if is_told else URL)
    assert ip_address(used["address"]).version == (4 if is_told else 6)
    assert address.partition("/")[0] == used["address"]


class _Six(ThreadingHTTPServer):
    address_family = socket.AF_INET6


class _Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        data = self.headers["Host"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        return


def test_the_site_s_name_is_asked_for_at_an_ipv6_address(tmp_path: Path) -> None:
    """The URL may come from anybody: the anchor's name is checked, whatever the address."""
    authority = Authority(datetime.now(UTC).replace(microsecond=0))
    anchor = load_anchor(authority.write_anchor(tmp_path / "anchor"))
    chain = tmp_path / "server.pem"
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificates = ca.pem([authority.server, authority.appliance.certificate])
    chain.write_bytes(authority.server_key.private_bytes(*form) + certificates.encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    with _Six(("::1", 0), _Echo) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://[::1]:{server.server_address[1]}"
        try:
            client = Client(url, anchor.root_pem, anchor.server_name)
            assert client.post("/v1/sessions", b"{}") == url.removeprefix("https://").encode()
            stranger = Client(url, anchor.root_pem, "appliance.other.example.net")
            with pytest.raises(AgentError) as refused:
                stranger.post("/v1/sessions", b"{}")
        finally:
            server.shutdown()
    assert refused.value.code is Code.SITE_UNTRUSTED
    gone = Client(url, anchor.root_pem, anchor.server_name, sleep=lambda _: None)
    with pytest.raises(AgentError, match=r"\[::1\]:\d+ does not answer"):
        gone.post("/v1/sessions", b"{}")


@pytest.mark.parametrize(
    "url", ["https://[fd00::2", "https://[zz]:8443", "https://[fd00::2]:x", "http://[fd00::2]"]
)
def test_a_url_that_leads_nowhere_is_a_sentence(url: str, tmp_path: Path) -> None:
    anchor = load_anchor(Authority(datetime.now(UTC)).write_anchor(tmp_path / "anchor"))
    with pytest.raises(AgentError) as refused:
        Client(url, anchor.root_pem, anchor.server_name)
    assert refused.value.code is Code.SITE_UNREACHABLE
