"""The attacker on the wire changes what it is told to; scapy finds its checksums right."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from bootstrap.errors import SiteError
from bootstrap.rehearsal.wire import Swap, change

SWAP = Swap(b"good", b"evil")


def frame(layer, payload: bytes, **ip: object) -> bytes:
    addresses = {"src": "10.77.0.2", "dst": "10.77.0.1"} | ip
    return bytes(Ether(src="02:00:00:00:00:01") / IP(**addresses) / layer / payload)


def resummed(data: bytes) -> bytes:
    """Let scapy compute all checksums of a frame."""
    packet = Ether(data)
    for layer in (IP, UDP, TCP):
        if layer in packet:
            del packet[layer].chksum
    return bytes(packet)


LAYERS = {
    "udp": lambda: UDP(sport=69, dport=2000),
    "tcp": lambda: TCP(sport=80, dport=2000, seq=7, options=[("MSS", 1460), ("NOP", None)]),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("payload", [b"good", b"a good file", b"goodgood.", b"x" * 1300 + b"good"])
def test_payload_and_checksum(kind: str, payload: bytes) -> None:
    changed = change(frame(LAYERS[kind](), payload), [SWAP], mend=True)
    assert changed == resummed(frame(LAYERS[kind](), payload.replace(b"good", b"evil")))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(LAYERS)),
    before=st.binary(max_size=40),
    after=st.binary(max_size=41),
)
def test_any_payload(kind: str, before: bytes, after: bytes) -> None:
    payload = before + b"good" + after
    changed = change(frame(LAYERS[kind](), payload), [SWAP], mend=True)
    assert changed == resummed(changed)
    assert Ether(changed).load == payload.replace(b"good", b"evil")


def test_ip_options_and_padding() -> None:
    from scapy.layers.inet import IPOption

    data = frame(UDP(), b"good", options=[IPOption(b"\x01\x01\x01\x00")])
    changed = change(data + bytes(20), [SWAP], mend=True)
    assert changed.endswith(bytes(20))
    assert changed[:-20] == resummed(changed[:-20])


def test_the_kernel_sums_what_it_offloads() -> None:
    data = frame(UDP(), b"good")
    assert change(data, [SWAP], mend=False) == data.replace(b"good", b"evil")


def test_what_passes_untouched() -> None:
    other = bytes(Ether(src="02:00:00:00:00:01") / IPv6() / UDP() / b"good")
    icmp = frame(b"", b"good", proto=1)
    for data in (frame(UDP(), b"fine"), other, bytes(Ether() / ARP()), icmp, b"good", b""):
        assert change(data, [SWAP], mend=True) == data


def test_every_swap_counts() -> None:
    swaps = [SWAP, Swap(b"one", b"two")]
    changed = change(frame(UDP(), b"one good"), swaps, mend=True)
    assert Ether(changed).load == b"two evil"


@pytest.mark.parametrize(("old", "new"), [(b"", b""), (b"a", b""), (b"a", b"bb")])
def test_a_swap_keeps_the_length(old: bytes, new: bytes) -> None:
    with pytest.raises(SiteError):
        Swap(old, new)
