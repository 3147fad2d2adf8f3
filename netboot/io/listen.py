"""Sockets that HTTP and DNS listen on, and what they say of who is at the other end.

It never reads or writes data. Linux: tcp(7), ipv6(7), unix(7) for SO_PEERCRED.
"""

from __future__ import annotations

import fcntl
import resource
import socket
import struct
import termios
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from netboot.errors import SiteError
from netboot.files import Address

_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
"""Linux's numbers; the socket module has no names for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Where the TLS terminator hands requests on, and the only user that may."""

    path: Path
    uid: int


def listen_tcp(address: Address, port: int) -> socket.socket:
    """Listen on one of our addresses, even while its interface is down; SiteError."""
    is_six = isinstance(address, IPv6Address)
    family = socket.AF_INET6 if is_six else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind((str(address), port))
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise SiteError(f"{address}, TCP port {port}: {error.strerror}") from error
    return sock


def listen_unix(path: Path) -> socket.socket:
    """Listen for the TLS terminator; who may speak is asked of each connection."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(0o666)
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise SiteError(f"{path}: {error.strerror}") from error
    return sock


def user_of(sock: socket.socket) -> int:
    """Give the uid of the process at the other end of a UNIX socket."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def address_of(name: Any) -> Address:
    """Read one end of a TCP socket; an address of ours has no scope in a plan."""
    return ip_address(str(name[0]).partition("%")[0])


def unread(sock: socket.socket) -> int:
    """Count the bytes that the other end has not acknowledged (tcp(7), SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


def most_descriptors(wanted: int) -> int:
    """Let this process have `wanted` open files if that is allowed, and say how many it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):
        return soft  # a sandbox forbids it
    return allowed
