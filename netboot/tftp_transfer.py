"""One file on its way to one client by TFTP: a window of blocks above the last acknowledged one.

It knows neither sockets nor other transfers; time comes in seconds of any clock that does not jump.
RFC 1350, 2347 to 2349; windows of RFC 7440.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from netboot.errors import SiteError
from netboot.files import Entry
from netboot.tftp_message import (
    ErrorCode,
    Mode,
    ReadRequest,
    accept_options,
    encode_error,
    encode_oack,
)
from netboot.tftp_windows import Ahead, Blocks, Content, Ready

GIVE_UP_SECONDS = 30.0
FIRST_TIMEOUT_SECONDS = 1.0
PROGRESS_SECONDS = 2.0
"""How often it is worth telling how far a file has come."""
Peer = tuple[Any, ...]
"""A socket's name of a peer: address and port, for IPv6 flow and scope too."""


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
        "_cut",
        "_end",
        "_first_timeout",
        "_is_open",
        "_is_size_asked",
        "_last",
        "_oack",
        "_others",
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
        others: Ready,
    ) -> None:
        """Take a request for an open file; `max_block` is what the network carries unbroken.

        `others` is what is ready for all transfers together.
        """
        is_text = request.mode is Mode.NETASCII
        accepted = accept_options(
            request.options, size=None if is_text else content.size, max_block=max_block
        )
        self.number, self.peer, self.entry = number, peer, entry
        self.request, self.content = request, content
        self.segment = accepted.blksize + 4
        self.is_lost = False
        self.due = self.queued = self.tell_at = 0.0
        self.usual: bytes | None = None
        self.ready = b""
        self._window = accepted.windowsize
        self._cut = Blocks(
            content=content,
            digest=entry.sha256,
            is_text=is_text,
            block=accepted.blksize,
            window=accepted.windowsize,
        )
        self._others = others
        self._ahead: Iterator[Ahead] = iter(())
        self._end = 0
        self._first_timeout = self._timeout = accepted.timeout or FIRST_TIMEOUT_SECONDS
        self._oack = encode_oack(accepted.answer) if accepted.answer else b""
        self._is_size_asked = accepted.asked_size
        self._is_open = not self._oack
        self._last = self._cut.last
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
        return min(self._acked * self._cut.block, self.content.size)

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
        try:
            self._end, self.usual, self.ready = next(self._ahead)
        except StopIteration:
            self.prepare()

    def prepare(self) -> None:
        """Make ready what follows the window that was sent, and some more of the file."""
        self._ahead = iter(())
        self.usual = None
        if not self._acked or self._sent >= self._last or self._sent != self._acked + self._window:
            return
        try:
            self._ahead = iter(self._others.after(self._cut, self._sent))
        except SiteError:
            return  # the ACK will find the error again, and tell of it
        self._end, self.usual, self.ready = next(self._ahead)

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
            return b"".join(self._cut.packets(self._acked + 1, self._window))
        except SiteError as error:
            self.is_lost = True
            return encode_error(ErrorCode.UNDEFINED, str(error))
