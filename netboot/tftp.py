"""A read-only TFTP server as an engine: datagrams and the time in, datagrams and events out.

It never opens a socket or a file: a transfer is named by a number, whose socket (TID) the runner
holds. `now` is in seconds of any clock that does not jump.
RFC 1350, options of RFC 2347, 2348, 2349, windows of RFC 7440.
"""

from __future__ import annotations

import heapq
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address

from netboot.errors import PeerError
from netboot.events import Event
from netboot.files import Address, Assignments, Entry, FileMap, Missing, ServeRecord, Transport
from netboot.tftp_message import (
    ErrorCode,
    Mode,
    Opcode,
    ReadRequest,
    decode_ack,
    decode_opcode,
    decode_request,
    encode_error,
)
from netboot.tftp_transfer import PROGRESS_SECONDS, BytesContent, Peer, Transfer
from netboot.tftp_windows import Content, Ready

MAX_TRANSFERS = 512
MAX_TRANSFERS_EACH = 256
"""Transfers of one client address at a time: a relay or a load tool stands for many boxes."""
STALLED_SECONDS = 3.0
"""A client that was silent for so long gives way when all places are taken."""
MAX_NETASCII = 4 << 20
"""Larger files are not translated: nothing boots in netascii."""
_HEADERS = {4: 32, 6: 48}
"""Bytes of IP, UDP and TFTP headers before a block, by version of IP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Packets for `peer`, from the socket of a transfer, or from port 69 when that is None.

    `data` is one packet, or several in a row: each of `segment` bytes, the last no longer.
    """

    transfer: int | None
    peer: Peer
    data: bytes
    segment: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What to send, what happened, and the transfers that ended: close them after sending."""

    sends: tuple[Send, ...] = ()
    events: tuple[Event, ...] = ()
    closed: tuple[int, ...] = ()


NOTHING = Outcome()


def to_netascii(data: bytes) -> bytes:
    """Translate for mode netascii: CR to CR NUL, LF to CR LF (RFC 764)."""
    return data.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")


def _join(*outcomes: Outcome) -> Outcome:
    return Outcome(
        sends=tuple(send for one in outcomes for send in one.sends),
        events=tuple(event for one in outcomes for event in one.events),
        closed=tuple(number for one in outcomes for number in one.closed),
    )


class TftpEngine:
    """All transfers of one server; `open_file` is asked for the content of an entry of the map.

    `receive` takes what came to port 69, `receive_on` what came to the socket of a transfer. A new
    transfer's number is the one in its first `Send`.
    """

    def __init__(
        self,
        files: FileMap,
        open_file: Callable[[Entry], Content | None],
        mtu: int,
        assignments: Assignments | None = None,
    ) -> None:
        """Serve these files; `open_file` gives None when the store has lost the file.

        `mtu` is what the networks carry in one packet, in bytes; `assignments` is whom DHCP
        offered which boot set.
        """
        self._files, self._mtu = files, mtu
        self._assignments = Assignments() if assignments is None else assignments
        self._open_file = open_file
        self._texts: weakref.WeakValueDictionary[bytes, BytesContent] = (
            weakref.WeakValueDictionary()
        )
        self._ready = Ready()
        self._record = ServeRecord()
        self._transfers: dict[int, Transfer] = {}
        self._fresh: dict[int, Transfer] = {}
        self._by_peer: dict[Peer, Transfer] = {}
        self._by_address: dict[str, dict[int, Transfer]] = {}
        self._due: list[tuple[float, int]] = []
        self._next_number = 0

    def __len__(self) -> int:
        """Count the transfers under way."""
        return len(self._transfers)

    def deadline(self) -> float | None:
        """When `tick` is due at the earliest; None when nothing is under way."""
        return self._due[0][0] if self._due else None

    def replace(self, files: FileMap, mtu: int) -> None:
        """Serve other files from now on; transfers under way go on."""
        self._files, self._mtu = files, mtu

    # Port 69

    def receive(self, data: bytes, peer: Peer, local: Address, now: float) -> Outcome:
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
        if known.request == request and known.is_fresh:
            return self._sending(known, known.again(now), now)
        return _join(self._end(known, now), self._request(request, peer, local, now))

    def _request(self, request: ReadRequest, peer: Peer, local: Address, now: float) -> Outcome:
        client = _address(peer)
        found = self._assignments.find(self._files, request.name, local, client)
        content = None if isinstance(found, Missing) else self._open_file(found)
        if isinstance(found, Missing) or content is None:
            why = found if isinstance(found, Missing) else Missing.LOST
            events = self._record.refused(Transport.TFTP, client, request.name, why, now)
            return _refuse(peer, _CODES[why], why.value, events)
        if request.mode is Mode.NETASCII:
            if content.size > MAX_NETASCII:
                return _refuse(peer, ErrorCode.UNDEFINED, "too large for netascii: ask for octet")
            content = self._text(found, content)
        room = self._make_room(peer, now)
        if room is None:
            return NOTHING  # the client asks again, and a forged source hears nothing
        transfer = Transfer(
            number=self._next_number,
            peer=peer,
            entry=found,
            request=request,
            content=content,
            max_block=self._mtu - _HEADERS[local.version],
            others=self._ready,
        )
        return _join(room, self._begin(transfer, now))

    def _text(self, entry: Entry, content: Content) -> Content:
        """Translate a file once for all who read it now."""
        known = self._texts.get(entry.sha256)
        if known is None:
            known = BytesContent(to_netascii(content.read(0, content.size)))
            self._texts[entry.sha256] = known
        return known

    def _make_room(self, peer: Peer, now: float) -> Outcome | None:
        """End whom nobody will miss, when all places are taken; None when all are in use."""
        same = self._by_address.get(peer[0], {})
        if len(same) >= MAX_TRANSFERS_EACH:
            candidates = same
            oldest = next((one for one in same.values() if one.is_fresh), None)
        elif len(self._transfers) >= MAX_TRANSFERS:
            candidates = self._transfers
            oldest = next(iter(self._fresh.values()), None)
        else:
            return NOTHING
        if oldest is not None:
            return self._forget(oldest)
        idle = min(candidates.values(), key=lambda one: one.progress)
        return self._end(idle, now) if now - idle.progress >= STALLED_SECONDS else None

    def _begin(self, transfer: Transfer, now: float) -> Outcome:
        number, peer = transfer.number, transfer.peer
        self._next_number += 1
        self._transfers[number] = self._fresh[number] = self._by_peer[peer] = transfer
        self._by_address.setdefault(peer[0], {})[number] = transfer
        packets = transfer.start(now)
        self._wake(transfer)
        return self._sending(transfer, packets, now)

    # The socket of a transfer

    def transfer(self, number: int) -> Transfer | None:
        """Give a transfer under way, for its `usual` ACK and what is `ready` to answer that."""
        return self._transfers.get(number)

    def follow(self, transfer: Transfer, now: float) -> tuple[Event, ...]:
        """Note that the usual ACK came from the transfer's peer and `ready` was sent."""
        transfer.follow(now)
        if transfer.due < transfer.queued:
            self._wake(transfer)
        return self._tell(transfer, now) if now >= transfer.tell_at else ()

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
            return Outcome(
                sends=(Send(transfer=number, peer=peer, data=error, segment=len(error)),)
            )
        if opcode is Opcode.ERROR:
            return self._end(transfer, now, is_error=True)
        block = decode_ack(data)
        if block is None:
            return NOTHING
        return self._acknowledged(transfer, block, now)

    def _acknowledged(self, transfer: Transfer, block: int, now: float) -> Outcome:
        had_begun = transfer.has_begun
        packets = transfer.acknowledge(block, now)
        if not transfer.is_fresh:
            self._fresh.pop(transfer.number, None)
        begins = transfer.has_begun and not had_begun
        events = self._start(transfer, now) if begins else self._tell(transfer, now)
        if transfer.is_done:
            outcome = self._end(transfer, now)
        else:
            outcome = self._sending(transfer, packets, now)
            if packets:
                transfer.prepare()
        return replace(outcome, events=(*events, *outcome.events)) if events else outcome

    def _start(self, transfer: Transfer, now: float) -> tuple[Event, ...]:
        """Tell of a start when the first block was acknowledged: size probes are not told."""
        transfer.tell_at = now + PROGRESS_SECONDS
        size = transfer.content.size
        return self._record.start(
            Transport.TFTP, _address(transfer.peer), transfer.entry, size, now
        )

    def _tell(self, transfer: Transfer, now: float) -> tuple[Event, ...]:
        if not transfer.has_begun or now < transfer.tell_at:
            return ()
        transfer.tell_at = now + PROGRESS_SECONDS
        return self._record.progress(
            Transport.TFTP,
            _address(transfer.peer),
            transfer.entry,
            transfer.content.size,
            now,
            sent=transfer.arrived(is_error=True),
        )

    # Time

    def tick(self, now: float) -> Outcome:
        """Repeat what was not acknowledged and end what is dead; costs what is due."""
        outcomes: list[Outcome] = []
        while self._due and self._due[0][0] <= now:
            at, number = heapq.heappop(self._due)
            transfer = self._transfers.get(number)
            if transfer is None or transfer.queued != at:
                continue
            if transfer.due > now:
                self._wake(transfer)
                continue
            packets = transfer.repeat(now)
            if packets is None:
                outcomes.append(self._end(transfer, now))
            else:
                self._wake(transfer)
                outcomes.append(self._sending(transfer, packets, now))
        return _join(*outcomes) if outcomes else NOTHING

    def _wake(self, transfer: Transfer) -> None:
        """Look at a transfer when it is due; an entry that it has already is then passed over."""
        transfer.queued = transfer.due
        heapq.heappush(self._due, (transfer.due, transfer.number))
        if len(self._due) > 2 * MAX_TRANSFERS:
            self._due = [(one.queued, number) for number, one in self._transfers.items()]
            heapq.heapify(self._due)

    def _sending(self, transfer: Transfer, packets: bytes, now: float) -> Outcome:
        if not packets:
            return NOTHING
        if transfer.due < transfer.queued:
            self._wake(transfer)
        segment = transfer.segment if packets[1] == Opcode.DATA else len(packets)
        send = Send(transfer=transfer.number, peer=transfer.peer, data=packets, segment=segment)
        if transfer.is_lost:
            return replace(self._end(transfer, now, is_error=True), sends=(send,))
        return Outcome(sends=(send,))

    # The end

    def _forget(self, transfer: Transfer) -> Outcome:
        """Give up the place of a client of which nothing needs to be told."""
        number, address = transfer.number, transfer.peer[0]
        del self._transfers[number], self._by_peer[transfer.peer]
        self._fresh.pop(number, None)
        same = self._by_address[address]
        del same[number]
        if not same:
            del self._by_address[address]
        return Outcome(closed=(number,))

    def _end(self, transfer: Transfer, now: float, *, is_error: bool = False) -> Outcome:
        """Forget a transfer; a size probe leaves no event (T1)."""
        forgotten = self._forget(transfer)
        if transfer.is_probe:
            return forgotten
        ended = self._record.end(
            Transport.TFTP,
            _address(transfer.peer),
            transfer.entry,
            transfer.content.size,
            now,
            sent=transfer.arrived(is_error=is_error),
        )
        return replace(forgotten, events=ended)


_CODES = {
    Missing.NOT_FOUND: ErrorCode.NOT_FOUND,
    Missing.FORBIDDEN: ErrorCode.ACCESS,
    Missing.NOT_HERE: ErrorCode.ACCESS,
    Missing.LOST: ErrorCode.UNDEFINED,
}


def _address(peer: Peer) -> Address:
    """Give a client's address; the scope of a link-local one is the interface's name, not its."""
    return ip_address(str(peer[0]).partition("%")[0])


def _refuse(peer: Peer, code: ErrorCode, sentence: str, events: tuple[Event, ...] = ()) -> Outcome:
    data = encode_error(code, sentence)
    send = Send(transfer=None, peer=peer, data=data, segment=len(data))
    return Outcome(sends=(send,), events=events)
