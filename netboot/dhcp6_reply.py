"""What goes into a DHCPv6 reply: settings, boot URL, identities, and where it is sent.

It decides nothing about addresses. RFC 8415, 18.3.10 and 19.3; 3646, 4704, 5970; 8572 (136).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv6Address

from netboot.bootchoice import BootFile
from netboot.dhcp6_boot import boot_options
from netboot.dhcp6_message import (
    CLIENT_PORT6,
    SERVER_PORT6,
    Kind6,
    Message6,
    Packet6,
    answer_relays,
)
from netboot.dhcp6_options import Association, Code6, Lent, Options6, encode_names
from netboot.dhcp_options import encode_uris
from netboot.network import ClientKind, OptionValue, Subnet6Plan

FIRST_CHOICE = 255
"""Preference with which a client asks no longer for other servers (RFC 8415, 18.2.1)."""
RETRY_SECONDS = 600
"""SOL_MAX_RT and INF_MAX_RT: after an outage boxes are back in ten minutes, not in an hour."""
SHORTEST_REFRESH = 600
"""IRT_MINIMUM (RFC 8415, 7.6)."""
_SZTP_REDIRECT = 136
_T1, _T2 = 0.5, 0.8
"""Of the preferred lifetime (RFC 8415, 21.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival6:
    """Where a datagram came in; `multicast` tells whether it was sent to ff02::1:2.

    `asked` is the address of ours that it was sent to otherwise.
    """

    interface: str
    source: IPv6Address
    port: int = CLIENT_PORT6
    multicast: bool = True
    asked: IPv6Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Send6:
    """A datagram to send from port 547 by `interface`; with `promises` only once it is durable.

    `source` is the address to send from, None for what the kernel takes.
    """

    data: bytes
    interface: str
    destination: IPv6Address
    port: int
    promises: bool
    source: IPv6Address | None = None


def lend(iaid: int, address: IPv6Address, subnet: Subnet6Plan) -> Association:
    """Write an address into its IA, with the subnet's lifetimes."""
    valid = _seconds(subnet.lease)
    preferred = _seconds(subnet.preferred or subnet.lease)
    return Association(
        iaid=iaid,
        t1=int(preferred * _T1) if subnet.renewal is None else _seconds(subnet.renewal),
        t2=int(preferred * _T2) if subnet.rebinding is None else _seconds(subnet.rebinding),
        addresses=(Lent(address=address, preferred=preferred, valid=valid),),
    )


def _seconds(time: timedelta) -> int:
    return min(int(time.total_seconds()), 0xFFFFFFFE)


def settings(
    request: Options6,
    usual: Mapping[int, bytes],
    *,
    kind: ClientKind,
    levels: Iterable[Sequence[OptionValue]],
    boot: BootFile | None,
    unasked: frozenset[int] = frozenset(),
) -> tuple[tuple[int, bytes], ...]:
    """Give the options of a reply: what was asked for, the plan's own, the nearest level first.

    `usual` is what the subnet's clients are told where no level says otherwise, `unasked` are codes
    that are sent wherever a level says them. The boot URL is the first:
    firmware reads it up to a zero byte, which the next option begins with.
    """
    wanted = request.requested | unasked
    said: dict[int, OptionValue] = {}
    for level in reversed(tuple(levels)):
        said |= {option.code: option for option in level}
    found = {**usual, **{code: option.data for code, option in said.items()}}
    always = {code for code, option in said.items() if option.always}
    chosen = {code: data for code, data in found.items() if code in wanted or code in always}
    if boot is not None and Code6.BOOT_URL not in chosen:
        first = boot_options(kind, boot)
        return (*first, *((code, data) for code, data in chosen.items() if code != first[-1][0]))
    return tuple(chosen.items())


def fqdn6(request: Options6, name: str | None, domain: str) -> tuple[tuple[int, bytes], ...]:
    """Answer option 39 where it is sent and asked for: the site writes its names itself.

    Those of reservations and no others. Flags of RFC 4704, 4.1: S we keep the AAAA record, O that
    is not what was asked, N no records are kept.
    """
    asked = request.get(Code6.CLIENT_FQDN)
    if not asked or Code6.CLIENT_FQDN not in request.requested:
        return ()
    wants_s = asked[0] & 1
    if name is None:
        flags = 4 | (2 if wants_s else 0)
        return ((int(Code6.CLIENT_FQDN), bytes((flags,)) + asked[1:]),)
    full = encode_names([f"{name}.{domain}" if domain else name])
    return ((int(Code6.CLIENT_FQDN), bytes((1 if wants_s else 3,)) + full),)


def usual_options(subnet: Subnet6Plan, domain: str) -> Mapping[int, bytes]:
    """Give what clients of a subnet are told where the plan says nothing else."""
    return dict(_usual(subnet, domain))


def _usual(subnet: Subnet6Plan, domain: str) -> Iterable[tuple[int, bytes]]:
    yield Code6.DNS_SERVERS, subnet.appliance.packed
    if domain:
        yield Code6.DOMAIN_LIST, encode_names([domain])
    refresh = max(_seconds(subnet.lease), SHORTEST_REFRESH)
    yield Code6.REFRESH_TIME, refresh.to_bytes(4, "big")
    yield Code6.SOL_MAX_RT, RETRY_SECONDS.to_bytes(4, "big")
    yield Code6.INF_MAX_RT, RETRY_SECONDS.to_bytes(4, "big")
    if subnet.enrols:
        yield _SZTP_REDIRECT, encode_uris([subnet.phone_home])


def reply6(
    kind: Kind6, request: Message6, items: Sequence[tuple[int, bytes]], duid: bytes
) -> Message6:
    """Make a reply with both identities; they come last, so that no other option does."""
    client_id = request.options.client_id
    echoed = () if client_id is None else ((int(Code6.CLIENT_ID), client_id),)
    everything = (*items, *echoed, (int(Code6.SERVER_ID), duid))
    return Message6(kind=kind, transaction=request.transaction, options=Options6(items=everything))


def send6(packet: Packet6, reply: Message6, arrival: Arrival6, *, promises: bool) -> Send6:
    """Address a reply: to the client itself, or through the relays that its request passed.

    A relay that says so is answered to the port that it asked from (RFC 8357, 5.2).
    """
    data = Packet6(message=reply, relays=answer_relays(packet.relays)).encode()
    port = CLIENT_PORT6
    if packet.relays:
        names_port = packet.relays[0].options.get(Code6.RELAY_PORT) is not None
        port = arrival.port if names_port else SERVER_PORT6
    return Send6(
        data=data,
        interface=arrival.interface,
        destination=arrival.source,
        port=port,
        promises=promises,
        source=arrival.asked,
    )
