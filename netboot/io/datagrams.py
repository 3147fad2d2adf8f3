"""Many datagrams with one system call: recvmmsg(2) and sendmmsg(2), which Python does not have.

A question of DNS costs less to answer than to receive, and less so with one call for each of them.
Linux on 64 bits; what a socket address looks like: ip(7), ipv6(7).
"""

from __future__ import annotations

import ctypes
import socket
from typing import Any

COUNT = 64
"""Datagrams of one call."""
LARGEST_IN = 4096
"""Bytes of a datagram that is received; what is longer is cut off."""
LARGEST_OUT = 1280
_MAX_ADDRESSES = 4096
_libc = ctypes.CDLL(None, use_errno=True)


class _Part(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Head(ctypes.Structure):
    """`struct mmsghdr`."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint64),
        ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
    )


class _Block:
    """Memory for datagrams: heads that point to parts and names, which point to bytes."""

    def __init__(self, size: int, name_size: int) -> None:
        self._data = (ctypes.c_char * (COUNT * size))()
        self._names = (ctypes.c_char * (COUNT * name_size))()
        self._parts = (_Part * COUNT)()
        self.heads = (_Head * COUNT)()
        for at, (part, head) in enumerate(zip(self._parts, self.heads, strict=True)):
            part.start, part.length = ctypes.addressof(self._data) + at * size, size
            head.name = ctypes.addressof(self._names) + at * name_size
            head.name_length = name_size
            head.parts, head.part_count = ctypes.addressof(part), 1
        self.data = memoryview(self._data).cast("B")
        self.names = memoryview(self._names).cast("B")
        self.part_lengths = memoryview(self._parts).cast("B").cast("Q")[1::2]
        self._whole = memoryview(self.heads).cast("B")
        self.lengths = self._whole.cast("Q")[7::8]
        self._begun = bytes(self._whole)

    def begin(self) -> None:
        """Set the heads back: the kernel writes into them."""
        self._whole[:] = self._begun


class Datagrams:
    """Datagrams of one address family in and out; names are socket addresses as the kernel's."""

    def __init__(self, family: socket.AddressFamily) -> None:
        """Take the memory."""
        self._family = family
        self._size = 28 if family == socket.AF_INET6 else 16
        self._place = slice(8, 24) if family == socket.AF_INET6 else slice(4, 8)
        self._in, self._out = _Block(LARGEST_IN, self._size), _Block(LARGEST_OUT, self._size)
        self._addresses: dict[bytes, str] = {}

    def receive(self, sock: socket.socket) -> list[tuple[bytes, bytes]]:
        """Give datagrams that are there, each with the name of its sender; never waits."""
        block, size = self._in, self._size
        block.begin()
        count = _libc.recvmmsg(sock.fileno(), block.heads, COUNT, socket.MSG_DONTWAIT, None)
        if count <= 0:
            return []
        data, names, lengths = block.data, block.names, block.lengths[:count].tolist()
        return [
            (
                bytes(data[at * LARGEST_IN : at * LARGEST_IN + (length & 0xFFFFFFFF)]),
                bytes(names[at * size : at * size + size]),
            )
            for at, length in enumerate(lengths)
        ]

    def address(self, name: bytes) -> str | None:
        """Give the address of a sender as text; None for one that can get no answer (port 0)."""
        packed = name[self._place]
        found = self._addresses.get(packed)
        if found is None:
            if len(self._addresses) >= _MAX_ADDRESSES:
                self._addresses.clear()
            found = self._addresses[packed] = socket.inet_ntop(self._family, packed)
        return found if name[2:4] != b"\0\0" else None

    def peer(self, name: bytes) -> Any:
        """Give a sender as `sendto` wants it."""
        port = int.from_bytes(name[2:4], "big")
        address = socket.inet_ntop(self._family, name[self._place])
        if self._family != socket.AF_INET6:
            return address, port
        return address, port, int.from_bytes(name[4:8], "big"), int.from_bytes(name[24:], "little")

    def send(self, sock: socket.socket, replies: list[tuple[bytes, bytes]]) -> None:
        """Send at most `COUNT` datagrams, each to a name; what cannot be sent is lost."""
        block, size = self._out, self._size
        data, names, lengths = block.data, block.names, block.part_lengths
        for at, (reply, name) in enumerate(replies):
            data[at * LARGEST_OUT : at * LARGEST_OUT + len(reply)] = reply
            names[at * size : at * size + size] = name
            lengths[at] = len(reply)
        at = 0
        while at < len(replies):
            heads = ctypes.byref(block.heads, at * ctypes.sizeof(_Head))
            left = len(replies) - at
            sent = _libc.sendmmsg(sock.fileno(), heads, left, socket.MSG_DONTWAIT)
            at += max(sent, 1)  # the first of them could not be sent: go on behind it
