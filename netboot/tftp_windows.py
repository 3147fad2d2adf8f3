"""A file as TFTP sends it: packets, and windows of them made before they are asked for.

Boxes that are switched on together load the same files side by side, so what is made for one is
kept for the others for a while. It knows neither clients nor time. RFC 1350, windows of RFC 7440.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from netboot.tftp_message import encode_ack, encode_data

READ_AHEAD = 32 << 10
"""Bytes that are made ready for a client which answers, unless its window is larger."""
_MOST_KEPT = 64
"""Pieces of `READ_AHEAD`, or windows that are larger, of all files together."""

Ahead = tuple[int, bytes, bytes]
"""The last block of a window, the ACK that it answers, and its packets in a row."""


class Content(Protocol):
    """An open file of the store."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Give `length` bytes from `offset`, fewer at the end only; SiteError when unreadable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A file cut for a client: blocks of `block` bytes, windows of `window` blocks.

    `digest` and `is_text` say which content it is, to those who do not have it open.
    """

    content: Content
    digest: bytes
    is_text: bool
    block: int
    window: int

    @property
    def last(self) -> int:
        """The number of the last block, which is not full."""
        return self.content.size // self.block + 1

    def packets(self, first: int, count: int) -> list[bytes]:
        """Give DATA packets, fewer at the end of the file; SiteError when it is unreadable."""
        size, count = self.block, min(count, self.last - first + 1)
        data = self.content.read((first - 1) * size, count * size)
        return [encode_data(first + at, data[at * size : (at + 1) * size]) for at in range(count)]

    def windows(self, sent: int) -> Sequence[Ahead]:
        """Give some windows that follow a block; SiteError."""
        window = self.window
        count = max(1, READ_AHEAD // (self.block * window)) * window
        packets = self.packets(sent + 1, count)
        if window == 1:
            return [
                (number, encode_ack(number - 1), packet)
                for number, packet in enumerate(packets, sent + 1)
            ]
        return [
            (
                sent + min(at + window, len(packets)),
                encode_ack(sent + at),
                b"".join(packets[at : at + window]),
            )
            for at in range(0, len(packets), window)
        ]


class Ready:
    """Windows that were made last, for whoever loads the same file in the same sizes."""

    def __init__(self) -> None:
        """Keep nothing yet; no file is kept open."""
        self._made: dict[tuple[bytes, bool, int, int, int], Sequence[Ahead]] = {}

    def after(self, blocks: Blocks, sent: int) -> Sequence[Ahead]:
        """Give some windows that follow a block; SiteError."""
        key = blocks.digest, blocks.is_text, blocks.block, blocks.window, sent
        made = self._made.get(key)
        if made is None:
            made = blocks.windows(sent)
            if len(self._made) >= _MOST_KEPT:
                del self._made[next(iter(self._made))]
            self._made[key] = made
        return made
