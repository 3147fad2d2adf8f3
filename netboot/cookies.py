"""DNS cookies: who has one has received our answers at the address that he asks from.

The server cookie is a keyed hash over client cookie, time and address (RFC 7873, RFC 9018), so that
nothing is kept for a client. The hash is BLAKE2b where RFC 9018 has SipHash: the cookie is read by
nobody but this server.
"""

from __future__ import annotations

import hashlib
import struct
from ipaddress import ip_address

CLIENT_SIZE = 8
SERVER_SIZE = 16
OLD_SECONDS, EARLY_SECONDS = 3600, 300
"""How old and how far ahead a server cookie may be (RFC 9018, 4.3)."""
_VERSION = b"\1\0\0\0"


def make(secret: bytes, client: bytes, peer: str, now: float) -> bytes:
    """Give client and server cookie: 24 bytes."""
    stamp = struct.pack("!I", int(now) & 0xFFFFFFFF)
    return client[:CLIENT_SIZE] + _VERSION + stamp + _hash(secret, client, peer, stamp)


def is_good(secret: bytes, cookie: bytes, peer: str, now: float) -> bool:
    """Tell whether a whole cookie is one of ours for this address, and not too old."""
    if len(cookie) != CLIENT_SIZE + SERVER_SIZE or cookie[8:12] != _VERSION:
        return False
    stamp = cookie[12:16]
    age = (int(now) - int.from_bytes(stamp, "big") + 0x80000000 & 0xFFFFFFFF) - 0x80000000
    is_fresh = -EARLY_SECONDS <= age <= OLD_SECONDS
    return is_fresh and _hash(secret, cookie, peer, stamp) == cookie[16:24]


def _hash(secret: bytes, client: bytes, peer: str, stamp: bytes) -> bytes:
    text = client[:CLIENT_SIZE] + _VERSION + stamp + ip_address(peer.partition("%")[0]).packed
    return hashlib.blake2b(text, key=secret, digest_size=8).digest()
