"""What a client is told: the plan's levels combined, and written once for all that share them.

It knows neither addresses nor states. RFC 2132; RFC 8572 (143).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from netboot.dhcp_options import Code, MessageType, encode_option, encode_uris
from netboot.network import OptionValue, Parameters, Reservation, SubnetPlan, combine

_OF_THE_PROTOCOL = frozenset(
    {
        Code.REQUESTED_ADDRESS,
        Code.LEASE_TIME,
        Code.OVERLOAD,
        Code.MESSAGE_TYPE,
        Code.SERVER_ID,
        Code.PARAMETER_LIST,
        Code.MAX_SIZE,
        Code.RENEWAL_TIME,
        Code.REBINDING_TIME,
        Code.CLIENT_ID,
        Code.RAPID_COMMIT,
        Code.FQDN,
        Code.RELAY_AGENT,
        Code.SUBNET_SELECTION,
    }
)
"""Written by `netboot.dhcp_reply` in their own places, whatever a client asks for."""
_STANDARD = (
    Code.SUBNET_MASK,
    Code.ROUTER,
    Code.DNS_SERVER,
    Code.HOST_NAME,
    Code.DOMAIN_NAME,
)
"""Sent unasked too: U-Boot and small clients forget to ask for what they use."""
_LISTS_KEPT = 64
_LONGEST = 0xFFFFFFFF
"""A lease that never ends (RFC 2131, 3.3)."""

Piece = tuple[int, bytes]
"""An option's code and its bytes on the wire, length and all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The options for one list of wishes: in pieces, and joined."""

    pieces: tuple[Piece, ...]
    joined: bytes
    codes: frozenset[int]


class Settings:
    """What all clients are told that share subnet, pool, classes and reservation.

    `lease`, `shortest` and `longest` are seconds, `delay` too; `renewal` and `rebinding` are None
    where nobody configured them; `server_id`, `appliance` and `next_server` are 4 bytes, the last
    empty where nobody configured it.
    """

    __slots__ = (
        "appliance",
        "boot_file",
        "delay",
        "lease",
        "longest",
        "name",
        "next_server",
        "rebinding",
        "renewal",
        "server_id",
        "server_name",
        "shortest",
        "subnet",
        "_always",
        "_heads",
        "_lists",
        "_options",
    )

    def __init__(
        self,
        subnet: SubnetPlan,
        levels: Iterable[Parameters],
        *,
        domain: str,
        reservation: Reservation | None,
    ) -> None:
        """Combine the levels, the nearest first."""
        said = combine(levels)
        self.subnet = subnet
        self.name = reservation.name if reservation is not None else None
        configured = {option.code: option for option in said.options}
        self._set_times(said, configured.get(Code.LEASE_TIME))
        self.appliance = subnet.appliance.packed
        own = configured.get(Code.SERVER_ID)
        self.server_id = own.data if own is not None and len(own.data) == 4 else self.appliance
        self.renewal = _seconds(configured.get(Code.RENEWAL_TIME))
        self.rebinding = _seconds(configured.get(Code.REBINDING_TIME))
        self.boot_file = said.boot_file
        self.next_server = said.next_server.packed if said.next_server is not None else b""
        self.server_name = (said.server_name or "").encode("ascii")
        self.delay = said.reply_delay.total_seconds() if said.reply_delay is not None else 0.0
        self._options = _standard(subnet, domain, self.name)
        self._options |= {
            code: option.data for code, option in configured.items() if code not in _OF_THE_PROTOCOL
        }
        forced = (code for code, option in configured.items() if option.always)
        self._always = tuple(
            code for code in dict.fromkeys((*_STANDARD, *forced)) if code in self._options
        )
        self._lists: dict[bytes, Told] = {}
        self._heads = {kind: self._head(kind, self.server_id, self.lease) for kind in MessageType}

    def _set_times(self, said: Parameters, configured: OptionValue | None) -> None:
        lease = _whole(said.lease or self.subnet.lease)
        seconds = _seconds(configured)
        self.lease = seconds if seconds is not None else lease
        self.longest = _whole(said.lease_max) if said.lease_max is not None else self.lease
        shortest = _whole(said.lease_min) if said.lease_min is not None else self.lease
        self.shortest = min(shortest, self.longest)

    def seconds(self, asked: bytes | None) -> int:
        """Give the lease time: what option 51 asks for, within the limits; else ours."""
        if asked is None or len(asked) != 4:
            return self.lease
        return min(max(int.from_bytes(asked, "big"), self.shortest), self.longest)

    def head(self, kind: MessageType, server_id: bytes, seconds: int | None) -> bytes:
        """Write 53, 54 and, with a lease, 51, 58, 59: 0.5 and 0.875 of it (RFC 2131, 4.4.5)."""
        if seconds == self.lease and server_id is self.server_id:
            return self._heads[kind]
        return self._head(kind, server_id, seconds)

    def _head(self, kind: MessageType, server_id: bytes, seconds: int | None) -> bytes:
        items = [(Code.MESSAGE_TYPE, bytes((kind,))), (Code.SERVER_ID, server_id)]
        if seconds is not None:
            renewal = seconds // 2 if self.renewal is None else self.renewal
            rebinding = seconds * 7 // 8 if self.rebinding is None else self.rebinding
            items.append((Code.LEASE_TIME, seconds.to_bytes(4, "big")))
            items.append((Code.RENEWAL_TIME, renewal.to_bytes(4, "big")))
            items.append((Code.REBINDING_TIME, rebinding.to_bytes(4, "big")))
        return b"".join(encode_option(code, data) for code, data in items)

    def told(self, wishes: bytes) -> Told:
        """Give the options for option 55: those asked for, in its order, then the unasked ones."""
        found = self._lists.get(wishes)
        if found is None:
            if len(self._lists) >= _LISTS_KEPT:
                self._lists.clear()
            asked = (code for code in wishes if code in self._options)
            codes = tuple(dict.fromkeys((*asked, *self._always)))
            pieces = tuple((code, encode_option(code, self._options[code])) for code in codes)
            joined = b"".join(wire for _, wire in pieces)
            found = Told(pieces=pieces, joined=joined, codes=frozenset(codes))
            self._lists[wishes] = found
        return found


def _standard(subnet: SubnetPlan, domain: str, name: str | None) -> dict[int, bytes]:
    options: dict[int, bytes] = {Code.SUBNET_MASK: subnet.network.netmask.packed}
    if subnet.gateway is not None:
        options[Code.ROUTER] = subnet.gateway.packed
    options[Code.DNS_SERVER] = subnet.appliance.packed
    if name is not None:
        options[Code.HOST_NAME] = name.encode("ascii")
    if domain:
        options[Code.DOMAIN_NAME] = domain.encode("ascii")
    options[Code.BROADCAST] = subnet.network.broadcast_address.packed
    if subnet.enrols:
        options[Code.SZTP_REDIRECT] = encode_uris([subnet.phone_home])
    return options


def _whole(time: timedelta) -> int:
    return min(int(time.total_seconds()), _LONGEST)


def _seconds(option: OptionValue | None) -> int | None:
    if option is None or len(option.data) != 4:
        return None
    return int.from_bytes(option.data, "big")
