"""The agent's DHCP client: bytes against our own codec, then a real server in a namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.agent.dhcp import Lease, discover, read_reply, read_site, renew, request
from netboot.dhcp_message import BOOTREPLY, Message
from netboot.dhcp_options import Code, MessageType, Options, encode_uris

MAC = bytes.fromhex("525400d00001")
XID = 0x1234ABCD
URL = "https://10.99.0.1:8443"
LEASE = Lease(
    address=IPv4Interface("10.99.0.50/24"),
    gateway=IPv4Address("10.99.0.1"),
    dns=(IPv4Address("10.99.0.1"),),
    server=IPv4Address("10.99.0.1"),
    seconds=600,
    url=URL,
)


def reply(kind=MessageType.ACK, **changes):
    options = {
        Code.MESSAGE_TYPE: bytes((kind,)),
        Code.SERVER_ID: LEASE.server.packed,
        Code.SUBNET_MASK: bytes((255, 255, 255, 0)),
        Code.ROUTER: LEASE.gateway.packed,
        Code.DNS_SERVER: LEASE.dns[0].packed,
        Code.LEASE_TIME: (600).to_bytes(4, "big"),
        Code.SZTP_REDIRECT: encode_uris([URL]),
    } | changes.pop("options", {})
    items = tuple((int(code), data) for code, data in options.items() if data is not None)
    message = Message(
        op=BOOTREPLY, xid=XID, chaddr=MAC, yiaddr=LEASE.address.ip, options=Options(items=items)
    )
    return packet(replace(message, **changes).encode())


def packet(payload, port=68, protocol=17, fragment=0):
    udp = (67).to_bytes(2, "big") + port.to_bytes(2, "big")
    udp += (8 + len(payload)).to_bytes(2, "big") + bytes(2) + payload
    head = bytes((0x45, 0)) + (20 + len(udp)).to_bytes(2, "big") + bytes(2)
    head += fragment.to_bytes(2, "big") + bytes((64, protocol, 0, 0))
    return head + LEASE.server.packed + b"\xff" * 4 + udp


def test_a_lease_is_read():
    assert read_reply(reply(), MAC, XID) == (MessageType.ACK, LEASE)


def test_only_https_is_a_site():
    uris = encode_uris(["http://10.99.0.1", URL])
    kind, lease = read_reply(reply(options={Code.SZTP_REDIRECT: uris}), MAC, XID)
    assert (kind, lease.url) == (MessageType.ACK, URL)
    plain = encode_uris(["http://10.99.0.1"])
    assert read_reply(reply(options={Code.SZTP_REDIRECT: plain}), MAC, XID)[1].url is None


@pytest.mark.parametrize(
    "data",
    [
        reply(xid=1),
        reply(chaddr=bytes(6)),
        reply(op=1),
        reply(yiaddr=IPv4Address(0)),
        reply(options={Code.SERVER_ID: None}),
        reply(options={Code.SUBNET_MASK: bytes((255, 0, 255, 0))}),
        reply(options={Code.MESSAGE_TYPE: None}),
        reply()[:200],
    ],
)
def test_what_is_no_lease_for_us(data):
    assert read_reply(data, MAC, XID) is None


def test_an_offer_without_an_address_names_the_site_alone():
    said = {Code.SZTP_REDIRECT: encode_uris(["http://plain.example", URL])}
    data = reply(MessageType.OFFER, yiaddr=IPv4Address(0), options=said)
    assert read_site(data, MAC, XID) == URL
    assert read_reply(data, MAC, XID) is None
    assert read_site(data, MAC, XID + 1) is None
    assert read_site(reply(MessageType.OFFER, options=said), MAC, XID) is None
    assert read_site(reply(MessageType.ACK, yiaddr=IPv4Address(0), options=said), MAC, XID) is None


@pytest.mark.parametrize("changes", [{"port": 67}, {"protocol": 6}, {"fragment": 0x2000}])
def test_other_packets(changes):
    assert read_reply(packet(reply()[28:], **changes), MAC, XID) is None
    assert read_reply(packet(reply()[28:]), MAC, XID) is not None


def test_a_refusal_has_no_lease():
    assert read_reply(reply(MessageType.NAK), MAC, XID) == (MessageType.NAK, None)


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_reply_or_nothing(data):
    for read in (read_reply, read_site):
        read(data, MAC, XID)
        read(packet(data), MAC, XID)


@pytest.mark.parametrize(
    ("data", "kind", "client"),
    [
        (discover(MAC, XID), MessageType.DISCOVER, IPv4Address(0)),
        (request(MAC, XID, LEASE), MessageType.REQUEST, IPv4Address(0)),
        (renew(MAC, XID, LEASE), MessageType.REQUEST, LEASE.address.ip),
    ],
)
def test_what_is_sent_reads_as_meant(data, kind, client):
    words = [int.from_bytes(data[at : at + 2], "big") for at in range(0, 20, 2)]
    assert sum(words) % 0xFFFF == 0, "IPv4 header checksum"
    message = Message.decode(data[28:])
    assert (message.mac, message.xid, message.options.message_type) == (MAC, XID, kind)
    assert message.ciaddr == client
    assert message.options.parameters >= {1, 3, 6, 12, 15, 51, 54, 143}


def test_a_request_names_address_and_server():
    options = Message.decode(request(MAC, XID, LEASE)[28:]).options
    assert options.address(Code.REQUESTED_ADDRESS) == LEASE.address.ip
    assert options.address(Code.SERVER_ID) == LEASE.server


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


CLIENT = """
import json
from bootstrap.agent import network
said = []
found = network.find(said.append)
lease = found.lease
print(json.dumps([found.name, str(lease.address), str(lease.gateway), lease.url, found.used()]))
"""


@pytest.fixture
def lan(tmp_path):
    """Two namespaces on a veth pair; the first NIC of the box has no carrier."""
    box, site = f"dsa{os.getpid()}b", f"dsa{os.getpid()}s"
    try:
        ip("netns", "add", box)
        ip("netns", "add", site)
        ip("-n", box, "link", "add", "eth0", "type", "veth", "peer", "name", "eth9", "netns", site)
        ip("-n", box, "link", "add", "eth1", "type", "veth", "peer", "name", "far", "netns", site)
        ip("-n", site, "addr", "add", "10.99.0.1/24", "dev", "far")
        ip("-n", site, "link", "set", "far", "up")
        yield box, site
    finally:
        for name in (box, site):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def serve(site, tmp_path, *options):
    command = ["ip", "netns", "exec", site, "dnsmasq", "-k", "-C", "/dev/null", "-p0", "-u", "root"]
    command += ["-i", "far", "--dhcp-range=10.99.0.50,10.99.0.90", "--leasefile-ro", *options]
    server = subprocess.Popen(command, stderr=(tmp_path / "log").open("wb"))
    time.sleep(0.3)
    return server


def run_client(box):
    """Run the client in its namespace, whose /sys ip-netns(8) mounts; /etc is its own."""
    script = 'mount -t tmpfs none /etc && exec $0 -c "$1"'
    command = ["ip", "netns", "exec", box, "unshare", "-m", "sh", "-c", script]
    done = subprocess.run(
        [*command, sys.executable, CLIENT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.boots
def test_a_real_server_gives_address_route_and_site(lan, tmp_path):
    box, site = lan
    redirect = encode_uris([URL]).hex(":")
    server = serve(site, tmp_path, f"--dhcp-option-force=143,{redirect}")
    try:
        name, address, gateway, url, used = run_client(box)
        shown = subprocess.run(
            ["ip", "-n", box, "route"], check=True, capture_output=True, text=True
        ).stdout
    finally:
        server.terminate()
        server.wait()
    assert (name, gateway, url) == ("eth1", "10.99.0.1", URL)
    assert used["address"] == address.partition("/")[0]
    assert "default via 10.99.0.1 dev eth1" in shown
    assert "10.99.0.0/24 dev eth1" in shown


@pytest.mark.boots
def test_a_network_that_names_no_site(lan, tmp_path):
    box, site = lan
    server = serve(site, tmp_path)
    try:
        name, _, _, url, _ = run_client(box)
    finally:
        server.terminate()
        server.wait()
    assert (name, url) == ("eth1", None)
