"""One file on its way to one client by TFTP: a window of blocks above the last acknowledged one.

It knows neither sockets nor other transfers; time comes in seconds of any clock that does not jump.
RFC 1350, 2347 to 2349; windows of RFC 7440.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from netboot.errors import SiteError
from netboot.files import Entry
from netboot.tftp_message import (
    ErrorCode,
    Mode,
    ReadRequest,
    accept_options,
    encode_ack,
    encode_data,
    encode_error,
    encode_oack,
)

GIVE_UP_SECONDS = 30.0
FIRST_TIMEOUT_SECONDS = 1.0
PROGRESS_SECONDS = 2.0
"""How often it is worth telling how far a file has come."""
READ_AHEAD = 32 << 10
"""Bytes that are made ready for a client which answers, unless its window is larger."""

Peer = tuple[Any, ...]
"""A socket's name of a peer: address and port, for IPv6 flow and scope too."""


class Content(Protocol):
    """An open file of the store."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Give `length` bytes from `offset`, fewer at the end only; SiteError when unreadable."""


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


class Transfer:
    """Blocks count from 1 without wrapping; on the wire they are modulo 65536.

    What goes out is bytes: one packet, or a window of them in a row, each of `segment` bytes but
    the last. While a client does what is usual (it acknowledges a whole window, and the file has
    not ended) `usual` is the ACK to come and `ready` answers it, made beforehand: send that, then
    `follow`.
    """

    __slots__ = (
        "_acked",
        "_ahead",
        "_block",
        "_end",
        "_first_timeout",
        "_is_open",
        "_is_size_asked",
        "_last",
        "_oack",
        "_progress",
        "_resent_at",
        "_sent",
        "_timeout",
        "_window",
        "content",
        "due",
        "entry",
        "is_lost",
        "number",
        "peer",
        "queued",
        "ready",
        "request",
        "segment",
        "tell_at",
        "usual",
    )

    def __init__(
        self,
        *,
        number: int,
        peer: Peer,
        entry: Entry,
        request: ReadRequest,
        content: Content,
        max_block: int,
    ) -> None:
        """Take a request for an open file; `max_block` is what the network carries unbroken."""
        is_text = request.mode is Mode.NETASCII
        accepted = accept_options(
            request.options, size=None if is_text else content.size, max_block=max_block
        )
        self.number, self.peer, self.entry = number, peer, entry
        self.request, self.content = request, content
        self.segment = accepted.blksize + 4
        self.is_lost = False
        self.due = self.queued = self.tell_at = 0.0
        self.usual = self.ready = b""
        self._block, self._window = accepted.blksize, accepted.windowsize
        self._ahead: Iterator[tuple[int, bytes, bytes]] = iter(())
        self._end = 0
        self._first_timeout = self._timeout = accepted.timeout or FIRST_TIMEOUT_SECONDS
        self._oack = encode_oack(accepted.answer) if accepted.answer else b""
        self._is_size_asked = accepted.asked_size
        self._is_open = not self._oack
        self._last = content.size // self._block + 1
        self._acked = self._sent = 0
        self._resent_at = -1
        self._progress = 0.0

    @property
    def is_fresh(self) -> bool:
        """Tell whether the client has answered nothing yet."""
        return self._acked == 0 and not (self._oack and self._is_open)

    @property
    def is_probe(self) -> bool:
        """Tell whether the client can have wanted the size only (RFC 2349)."""
        return self._is_size_asked and self._acked == 0

    @property
    def is_done(self) -> bool:
        """Tell whether the client has acknowledged the last block."""
        return self._acked >= self._last

    @property
    def has_begun(self) -> bool:
        """Tell whether a block arrived."""
        return self._acked > 0

    @property
    def progress(self) -> float:
        """When the client acknowledged something new."""
        return self._progress

    def arrived(self, *, is_error: bool) -> int:
        """Bytes that arrived; all when only the last acknowledgement is missing (T10)."""
        missing = self._last - self._acked
        is_silent_end = self._sent >= self._last and missing <= self._window
        if is_silent_end and not is_error and not self.is_fresh:
            return self.content.size
        return min(self._acked * self._block, self.content.size)

    def start(self, now: float) -> bytes:
        """Give the first packets."""
        self._progress = now
        return self.again(now)

    def again(self, now: float) -> bytes:
        """Give the first packets, for a request that came twice without new patience."""
        self._arm(now)
        return self._oack or self._blocks()

    def follow(self, now: float) -> None:
        """Take the usual ACK as acknowledged and `ready` as sent; make ready what follows."""
        self._acked, self._sent = self._sent, self._end
        self._progress = now
        self._timeout = self._first_timeout
        self.due = now + self._first_timeout
        following = next(self._ahead, None)
        if following is None:
            self.prepare()
        else:
            self._end, self.usual, self.ready = following

    def prepare(self) -> None:
        """Make ready what follows the window that was sent, and some more of the file."""
        self._ahead = iter(())
        self.usual = b""
        if not self._acked or self._sent >= self._last or self._sent != self._acked + self._window:
            return
        count = max(1, READ_AHEAD // (self._block * self._window)) * self._window
        try:
            packets = self._packets(self._sent + 1, count)
        except SiteError:
            return  # the ACK will find the error again, and tell of it
        self._ahead = iter(self._windows(packets))
        self._end, self.usual, self.ready = next(self._ahead)

    def _windows(self, packets: list[bytes]) -> Iterable[tuple[int, bytes, bytes]]:
        """Give last block, the ACK that it answers, and the packets of each window from `_sent`."""
        window, sent = self._window, self._sent
        if window == 1:
            return [
                (number, encode_ack(number - 1), packet)
                for number, packet in enumerate(packets, sent + 1)
            ]
        return [
            (
                min(sent + at + window, self._last),
                encode_ack(sent + at),
                b"".join(packets[at : at + window]),
            )
            for at in range(0, len(packets), window)
        ]

    def acknowledge(self, number: int, now: float) -> bytes:
        """Take an ACK and give what follows: nothing for one that was seen before (T11)."""
        if not self._is_open:
            if number != 0:
                return b""
            self._is_open = True
            return self._advance(0, now)
        step = (number - self._acked) & 0xFFFF
        in_flight = self._sent - self._acked
        if 0 < step <= in_flight:
            if step < in_flight:
                # RFC 7440, 4: a block was lost. Each later block of the window may repeat this ACK.
                self._resent_at = self._acked + step
            return self._advance(step, now)
        if step == 0 and self._window > 1 and self._resent_at != self._acked < self._sent:
            self._resent_at = self._acked  # the first of a window was lost: once more, no oftener
            self._arm(now)
            return self._blocks()
        return b""

    def _advance(self, step: int, now: float) -> bytes:
        self._acked += step
        self._progress = now
        self._timeout = self._first_timeout
        self._arm(now)
        return b"" if self.is_done else self._blocks()

    def repeat(self, now: float) -> bytes | None:
        """Give what is due again; None when the client has been silent for too long."""
        if now >= self._progress + GIVE_UP_SECONDS:
            return None  # written as in `_arm`: what is due then has always an end
        self._timeout *= 2
        self._arm(now)
        return self._blocks() if self._is_open else self._oack

    def _arm(self, now: float) -> None:
        self.due = min(now + self._timeout, self._progress + GIVE_UP_SECONDS)

    def _blocks(self) -> bytes:
        """Give the window above the last acknowledged block, or an ERROR when the disk fails."""
        self._sent = max(self._sent, min(self._acked + self._window, self._last))
        try:
            return b"".join(self._packets(self._acked + 1, self._window))
        except SiteError as error:
            self.is_lost = True
            return encode_error(ErrorCode.UNDEFINED, str(error))

    def _packets(self, first: int, count: int) -> list[bytes]:
        size, count = self._block, min(count, self._last - first + 1)
        data = self.content.read((first - 1) * size, count * size)
        return [encode_data(first + at, data[at * size : (at + 1) * size]) for at in range(count)]
