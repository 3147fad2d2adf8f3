"""What explain says of IPv6 is what the engine sends: byte by byte, in words, without a trace."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from dhcp6_lab import FIRST, NOW, US, Server6, config6, given, link_local, mac, subnet6
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from netboot.dhcp6_message import Packet6
from netboot.explain6 import Asking6, explain6, solicit, words6
from netboot.network import Reservation6

PXE = Asking6(
    mac=mac(1),
    interface="eth1",
    uuid=bytes(range(16)),
    architectures=(7,),
    vendor_class=b"PXEClient:Arch:00007:UNDI:003001",
)


def told(asking: Asking6, **plan: object) -> dict[int, str]:
    found = explain6(asking, config6(subnet6(**plan)), (), NOW)
    return {line.code: line.words for line in found.options}


def test_firmware_is_explained_in_words() -> None:
    words = told(PXE)
    assert words[59] == f"tftp://[{US}]/shimx64.efi"
    assert words[23] == str(US)
    assert words[24] == "shop.example.net"
    assert words[136] == f"https://[{US}]:8443"
    assert words[7] == "255"
    assert words[3].startswith("IAID 1, fd00:41:7::1")
    assert words[3].endswith("preferred 43200 s, valid 43200 s, T1 21600 s, T2 34560 s")


def test_http_boot_and_ipxe_are_explained() -> None:
    http = Asking6(mac=mac(1), interface="eth1", architectures=(16,), vendor_class=b"HTTPClient")
    assert told(http)[59] == f"http://[{US}]/shimx64.efi"
    assert told(http)[16] == "enterprise 343, HTTPClient"
    system = Asking6(mac=mac(1), interface="eth1", user_class=b"nothing of ours")
    assert 59 not in told(system)


def test_a_refusal_and_silence_are_explained() -> None:
    refused = told(PXE, pools=())
    assert refused[3] == "IAID 1, no addresses: no address is left for you on this network"
    elsewhere = Asking6(mac=mac(1), interface="eth9")
    assert explain6(elsewhere, config6(), (), NOW).reply is None


def test_it_is_what_the_engine_sends_and_it_leaves_no_trace() -> None:
    server = Server6(config6(subnet6(rapid_commit=True)))
    found = explain6(PXE, config6(subnet6(rapid_commit=True)), server.engine.leases(NOW), NOW)
    assert found.reply is not None
    assert not found.reply.promises
    assert found.reply.destination == link_local(mac(1))
    offered = given(Packet6.decode(found.reply.data).message)
    assert given(server.ask(found.request, PXE.source)) == offered
    items = Packet6.decode(found.reply.data).message.options.items
    assert [(line.code, line.data) for line in found.options] == list(items)


def test_a_lease_and_a_relay_count() -> None:
    wanted = FIRST + 5
    entry = Reservation6(mac=mac(1), address=wanted, name=None)
    far = Asking6(mac=mac(1), interface="eth1", relay=IPv6Address("fd00:41:7::9"))
    found = explain6(far, config6(reservations=(entry,)), (), NOW)
    assert found.reply is not None
    assert found.reply.port == 547
    assert str(wanted) in {line.code: line.words for line in found.options}[3]
    assert solicit(far).relays[0].peer == link_local(mac(1))


@settings(max_examples=100)
@for_all(st.sampled_from([3, 7, 13, 16, 23, 24, 32, 59, 136, 999]), st.binary(max_size=40))
def test_any_bytes_have_words(code: int, data: bytes) -> None:
    assert isinstance(words6(code, data), str)


@pytest.mark.parametrize("code", [3, 13, 23, 24, 59, 136])
def test_what_is_not_of_its_kind_is_hex(code: int) -> None:
    assert words6(code, b"\xff\xfe\xfd") == "fffefd"
