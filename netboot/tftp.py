"""A read-only TFTP server as an engine: datagrams and the time in, datagrams and events out.

It never opens a socket or a file: a transfer is named by a number, whose socket (TID) the runner
holds. `now` is in seconds of any clock that does not jump.
RFC 1350, options of RFC 2347, 2348, 2349, windows of RFC 7440.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Protocol

from netboot.errors import PeerError, SiteError
from netboot.events import Event
from netboot.files import Entry, FileMap, Missing, ServeRecord, Transport
from netboot.tftp_message import (
    ErrorCode,
    Mode,
    Opcode,
    ReadRequest,
    accept_options,
    decode_ack,
    decode_opcode,
    decode_request,
    encode_data,
    encode_error,
    encode_oack,
)

MAX_TRANSFERS = 512
MAX_TRANSFERS_EACH = 24
"""Transfers of one client address at a time; PXELINUX and GRUB have a handful."""
GIVE_UP_SECONDS = 30.0
FIRST_TIMEOUT_SECONDS = 1.0
MAX_NETASCII = 4 << 20
"""Larger files are not translated: nothing boots in netascii."""

Peer = tuple[str, int]
"""Address and port, as a socket names them."""


class Content(Protocol):
    """An open file of the store."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Give `length` bytes from `offset`, fewer at the end only; SiteError when unreadable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """A datagram for `peer`, from the socket of a transfer, or from port 69 when that is None."""

    transfer: int | None
    peer: Peer
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What to send, what happened, and the transfers that ended: close them after sending."""

    sends: tuple[Send, ...] = ()
    events: tuple[Event, ...] = ()
    closed: tuple[int, ...] = ()


NOTHING = Outcome()


class BytesContent:
    """Content that is in memory."""

    def __init__(self, data: bytes) -> None:
        """Keep the bytes."""
        self._data = data

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """Give a part."""
        return self._data[offset : offset + length]


def to_netascii(data: bytes) -> bytes:
    """Translate for mode netascii: CR to CR NUL, LF to CR LF (RFC 764)."""
    return data.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


class Transfer:
    """One file on its way to one client: a window of blocks above the last acknowledged one.

    Blocks count from 1 without wrapping; on the wire they are modulo 65536.
    """

    def __init__(
        self, *, peer: Peer, entry: Entry, request: ReadRequest, content: Content, max_block: int
    ) -> None:
        """Take a request for an open file; `max_block` is what the network carries unbroken."""
        is_text = request.mode is Mode.NETASCII
        accepted = accept_options(
            request.options, size=None if is_text else content.size, max_block=max_block
        )
        self.peer, self.entry, self.request, self.content = peer, entry, request, content
        self._block = accepted.blksize
        self._window = accepted.windowsize
        self._first_timeout = accepted.timeout or FIRST_TIMEOUT_SECONDS
        self._oack = encode_oack(accepted.answer) if accepted.answer else None
        self._asked_size = accepted.asked_size
        self._last = content.size // self._block + 1
        self._acked = 0
        self._sent = 0
        self._is_open = self._oack is None
        self._resent_at = -1
        self._timeout = self._first_timeout
        self._due = self._progress = 0.0
        self.is_lost = False

    @property
    def deadline(self) -> float:
        """When to repeat or give up, in the runner's seconds."""
        return self._due

    @property
    def is_fresh(self) -> bool:
        """Tell whether the client has answered nothing yet."""
        return self._acked == 0 and not (self._oack and self._is_open)

    @property
    def is_probe(self) -> bool:
        """Tell whether the client can have wanted the size only (RFC 2349)."""
        return self._asked_size and self._acked == 0

    @property
    def is_done(self) -> bool:
        """Tell whether the client has acknowledged the last block."""
        return self._acked >= self._last

    @property
    def has_begun(self) -> bool:
        """Tell whether a block arrived."""
        return self._acked > 0

    def arrived(self, *, is_error: bool) -> int:
        """Bytes that arrived; all when only the last acknowledgement is missing (T10)."""
        missing = self._last - self._acked
        is_silent_end = self._sent >= self._last and missing <= self._window
        if is_silent_end and not is_error and not self.is_fresh:
            return self.content.size
        return min(self._acked * self._block, self.content.size)

    def start(self, now: float) -> list[bytes]:
        """Give the first packets."""
        self._progress = now
        self._arm(now)
        return [self._oack] if self._oack else self._blocks()

    def acknowledge(self, number: int, now: float) -> list[bytes]:
        """Take an ACK and give what follows: nothing for one that was seen before (T11)."""
        if not self._is_open:
            if number != 0:
                return []
            self._is_open = True
            return self._advance(0, now)
        step = (number - self._acked) & 0xFFFF
        if 0 < step <= self._sent - self._acked:
            return self._advance(step, now)
        if step == 0 and self._window > 1 and self._resent_at != self._acked < self._sent:
            self._resent_at = self._acked  # the first of a window was lost: once more, no oftener
            self._arm(now)
            return self._blocks()
        return []

    def _advance(self, step: int, now: float) -> list[bytes]:
        self._acked += step
        self._progress = now
        self._timeout = self._first_timeout
        self._arm(now)
        return [] if self.is_done else self._blocks()

    def repeat(self, now: float) -> list[bytes] | None:
        """Give what is due again; None when the client has been silent for too long."""
        if now - self._progress >= GIVE_UP_SECONDS:
            return None
        self._timeout *= 2
        self._arm(now)
        return self._blocks() if self._is_open else [self._oack or b""]

    def again(self, now: float) -> list[bytes]:
        """Give the first packets for a request that came twice, without new patience."""
        self._arm(now)
        return [self._oack] if self._oack else self._blocks()

    def _arm(self, now: float) -> None:
        self._due = min(now + self._timeout, self._progress + GIVE_UP_SECONDS)

    def _blocks(self) -> list[bytes]:
        first = self._acked + 1
        end = min(self._acked + self._window, self._last) + 1
        self._sent = max(self._sent, end - 1)
        size, read = self._block, self.content.read
        try:
            return [
                encode_data(number, read((number - 1) * size, size)) for number in range(first, end)
            ]
        except SiteError as error:
            self.is_lost = True
            return [encode_error(ErrorCode.UNDEFINED, str(error))]


class TftpEngine:
    """All transfers of one server; `open_file` is asked for the content of an entry of the map.

    `receive` takes what came to port 69, `receive_on` what came to the socket of a transfer. A new
    transfer's number is the one in its first `Send`.
    """

    def __init__(
        self,
        files: FileMap,
        open_file: Callable[[Entry], Content | None],
        max_block: int,
    ) -> None:
        """Serve these files; `open_file` gives None when the store has lost the file."""
        self.files = files
        self.max_block = max_block
        self._open_file = open_file
        self._record = ServeRecord()
        self._transfers: dict[int, Transfer] = {}
        self._by_peer: dict[Peer, int] = {}
        self._per_address: dict[str, int] = {}
        self._next_number = 0
        self._earliest = float("inf")

    def __len__(self) -> int:
        """Count the transfers under way."""
        return len(self._transfers)

    def deadline(self) -> float | None:
        """When `tick` is due at the earliest; None when nothing is under way."""
        return self._earliest if self._transfers else None

    def receive(self, data: bytes, peer: Peer, local: IPv4Address, now: float) -> Outcome:
        """Take a datagram from port 69; stray ones and errors get no answer (T15)."""
        opcode = decode_opcode(data)
        if opcode is Opcode.WRQ:
            return _refuse(peer, ErrorCode.ACCESS, "this server is read-only")
        if opcode is not Opcode.RRQ:
            return NOTHING
        try:
            request = decode_request(data)
        except PeerError as error:
            return _refuse(peer, ErrorCode.ILLEGAL, str(error))
        known = self._by_peer.get(peer)
        if known is None:
            return self._request(request, peer, local, now)
        transfer = self._transfers[known]
        if transfer.request == request and transfer.is_fresh:
            return self._sending(known, transfer.again(now), now)
        ended = self._end(known, now)
        begun = self._request(request, peer, local, now)
        return Outcome(
            sends=begun.sends,
            events=(*ended.events, *begun.events),
            closed=(*ended.closed, *begun.closed),
        )

    def _request(self, request: ReadRequest, peer: Peer, local: IPv4Address, now: float) -> Outcome:
        if self._is_full(peer):
            return NOTHING  # the client asks again, and a forged source hears nothing
        address = IPv4Address(peer[0])
        found = self.files.find(request.name, local)
        content = None if isinstance(found, Missing) else self._open_file(found)
        if isinstance(found, Missing) or content is None:
            why = found if isinstance(found, Missing) else Missing.LOST
            events = self._record.refused(Transport.TFTP, address, request.name, why, now)
            return _refuse(peer, _CODES[why], why.value, events)
        if request.mode is Mode.NETASCII:
            if content.size > MAX_NETASCII:
                return _refuse(peer, ErrorCode.UNDEFINED, "too large for netascii: ask for octet")
            content = BytesContent(to_netascii(content.read(0, content.size)))
        return self._begin(request, peer, found, content, now)

    def _is_full(self, peer: Peer) -> bool:
        return (
            len(self._transfers) >= MAX_TRANSFERS
            or self._per_address.get(peer[0], 0) >= MAX_TRANSFERS_EACH
        )

    def _begin(
        self, request: ReadRequest, peer: Peer, entry: Entry, content: Content, now: float
    ) -> Outcome:
        transfer = Transfer(
            peer=peer, entry=entry, request=request, content=content, max_block=self.max_block
        )
        number = self._next_number
        self._next_number += 1
        self._transfers[number] = transfer
        self._by_peer[peer] = number
        self._per_address[peer[0]] = self._per_address.get(peer[0], 0) + 1
        return self._sending(number, transfer.start(now), now)

    def receive_on(self, number: int, data: bytes, peer: Peer, now: float) -> Outcome:
        """Take a datagram from the socket of a transfer."""
        transfer = self._transfers.get(number)
        if transfer is None:
            return NOTHING
        opcode = decode_opcode(data)
        if peer != transfer.peer:
            if opcode is Opcode.ERROR:
                return NOTHING
            error = encode_error(ErrorCode.UNKNOWN_TID, "unknown transfer")
            return Outcome(sends=(Send(transfer=number, peer=peer, data=error),))
        if opcode is Opcode.ERROR:
            return self._end(number, now, is_error=True)
        block = decode_ack(data)
        if block is None:
            return NOTHING
        had_begun = transfer.has_begun
        packets = transfer.acknowledge(block, now)
        begins = transfer.has_begun and not had_begun
        started = self._started(transfer, now) if begins else ()
        if not transfer.is_done:
            outcome = self._sending(number, packets, now)
        else:
            outcome = self._end(number, now)
        return replace(outcome, events=(*started, *outcome.events)) if started else outcome

    def _started(self, transfer: Transfer, now: float) -> tuple[Event, ...]:
        """Tell of a start when the first block was acknowledged: size probes are not told."""
        address = IPv4Address(transfer.peer[0])
        size = transfer.content.size
        return self._record.start(Transport.TFTP, address, transfer.entry, size, now)

    def tick(self, now: float) -> Outcome:
        """Repeat what was not acknowledged and end what is dead; cheap when nothing is due."""
        if now < self._earliest:
            return NOTHING
        sends: list[Send] = []
        events: list[Event] = []
        closed: list[int] = []
        for number, transfer in tuple(self._transfers.items()):
            if transfer.deadline > now:
                continue
            packets = transfer.repeat(now)
            if packets is None:
                ended = self._end(number, now)
                events += ended.events
                closed += ended.closed
            else:
                sending = self._sending(number, packets, now)
                sends += sending.sends
                events += sending.events
                closed += sending.closed
        self._earliest = min(
            (one.deadline for one in self._transfers.values()), default=float("inf")
        )
        return Outcome(sends=tuple(sends), events=tuple(events), closed=tuple(closed))

    def replace(self, files: FileMap, max_block: int) -> None:
        """Serve other files from now on; transfers under way go on."""
        self.files, self.max_block = files, max_block

    def _sending(self, number: int, packets: Iterable[bytes], now: float) -> Outcome:
        transfer = self._transfers[number]
        self._earliest = min(self._earliest, transfer.deadline)
        peer = transfer.peer
        sends = tuple(Send(transfer=number, peer=peer, data=one) for one in packets)
        if transfer.is_lost:
            return replace(self._end(number, now, is_error=True), sends=sends)
        return Outcome(sends=sends)

    def _end(self, number: int, now: float, *, is_error: bool = False) -> Outcome:
        """Forget a transfer; a size probe leaves no event (T1)."""
        transfer = self._transfers.pop(number)
        del self._by_peer[transfer.peer]
        address, count = transfer.peer[0], self._per_address[transfer.peer[0]] - 1
        if count:
            self._per_address[address] = count
        else:
            del self._per_address[address]
        if transfer.is_probe:
            return Outcome(closed=(number,))
        ended = self._record.end(
            Transport.TFTP,
            IPv4Address(address),
            transfer.entry,
            transfer.content.size,
            now,
            sent=transfer.arrived(is_error=is_error),
        )
        return Outcome(closed=(number,), events=ended)


_CODES = {
    Missing.NOT_FOUND: ErrorCode.NOT_FOUND,
    Missing.FORBIDDEN: ErrorCode.ACCESS,
    Missing.NOT_HERE: ErrorCode.ACCESS,
    Missing.LOST: ErrorCode.UNDEFINED,
}


def _refuse(peer: Peer, code: ErrorCode, sentence: str, events: tuple[Event, ...] = ()) -> Outcome:
    send = Send(transfer=None, peer=peer, data=encode_error(code, sentence))
    return Outcome(sends=(send,), events=events)
