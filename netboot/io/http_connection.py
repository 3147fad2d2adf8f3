"""One client of the HTTP server: what came from it, and what is on its way to it.

It never decides what is sent; `push` is the one thing here that another thread may do.
"""

from __future__ import annotations

import os
import select
import socket
from dataclasses import dataclass

from netboot.files import Address, Entry
from netboot.io.files import StoredFile

_CHUNK = 4 << 20
"""Bytes for one connection in one turn."""


@dataclass(slots=True, kw_only=True)
class Sending:
    """A file on its way: what is left of it, and for whom.

    It stays until the client has all of it: the kernel holds the last megabytes, and a box that
    died there has not loaded its file.
    """

    file: StoredFile
    entry: Entry
    peer: Address
    start: int
    left: int
    sent: int = 0
    unread: int = 0


@dataclass(slots=True, kw_only=True)
class Connection:
    """One client; `peer` and `local` are None where each request says them."""

    sock: socket.socket
    peer: Address | None
    local: Address | None
    deadline: float
    inbound: bytes = b""
    outbound: bytes = b""
    body: Sending | None = None
    mask: int = select.EPOLLIN
    keep: bool = True
    is_answering: bool = False
    is_lingering: bool = False
    has_moved: bool = False
    is_broken: bool = False

    @property
    def is_sent(self) -> bool:
        """Tell whether the kernel has all of the answer."""
        return not self.outbound and (self.body is None or not self.body.left)

    def push(self) -> None:
        """Hand to the kernel what it takes of the answer now."""
        try:
            if self.outbound:
                more = socket.MSG_MORE if self.body is not None and self.body.left else 0
                self.outbound = self.outbound[self.sock.send(self.outbound, more) :]
                self.has_moved = True
            if self.body is not None and self.body.left and not self.outbound:
                self._push_file(self.body)
        except BlockingIOError:
            return
        except OSError:
            self.is_broken = True

    def _push_file(self, body: Sending) -> None:
        offset, count = body.start + body.sent, min(body.left, _CHUNK)
        sent = os.sendfile(self.sock.fileno(), body.file.descriptor, offset, count)
        if not sent:
            raise BrokenPipeError("the file is shorter than it was")
        body.left -= sent
        body.sent += sent
        self.has_moved = True
