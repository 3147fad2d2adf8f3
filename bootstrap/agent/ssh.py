"""The SSH host key of a box: Ed25519, drawn for one session, in the forms that OpenSSH reads.

The site's certificate of it comes in the hand-off: `check_certificate` looks that it is for this
key, not who signed it or for which names. That is for SSH clients to check.

Its public half is in the quoted evidence, so that the site can vouch for it; the private half is
written below the hand-off's seed alone. RFC 8709, 4 (the public key); RFC 4253, 6.6; OpenSSH's
PROTOCOL.key (`openssh-key-v1`, unencrypted: the file is in memory, and for root alone) and
PROTOCOL.certkeys.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass, field

from bootstrap.agent.errors import Code, PeerError

FILE = "ssh_host_ed25519_key"
"""As sshd(8) calls it; the public half has `.pub` behind it."""
CERTIFICATE = f"{FILE}-cert.pub"
HINT = "sshd.conf"
"""What names them to sshd, for an `Include` of sshd_config(5)."""
DRAWN_BYTES = 36
_KIND = b"ssh-ed25519"
_CERTIFIED = b"ssh-ed25519-cert-v01@openssh.com"
_MAGIC = b"openssh-key-v1\0"
_BLOCK = 8
_LINE = 70


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """A host key: `public` as evidence has it, `private` the text of the private key's file."""

    public: bytes
    private: bytes = field(repr=False)

    @property
    def public_line(self) -> bytes:
        """The public half as a line of text."""
        return _KIND + b" " + base64.b64encode(self.public) + b"\n"

    @property
    def fingerprint(self) -> str:
        """Name the key as SSH clients do when they ask whether to trust it."""
        digest = hashlib.sha256(self.public).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def make_host_key(drawn: bytes) -> HostKey:
    """Make a key from random bytes: 32 are the key, 4 the check number of its file."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed, check = drawn[:32], drawn[32:36]
    point = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    public = _text(_KIND) + _text(point)
    inner = check + check + public + _text(seed + point) + _text(b"")
    inner += bytes(range(1, 1 + -len(inner) % _BLOCK))
    whole = _MAGIC + _text(b"none") + _text(b"none") + _text(b"") + struct.pack(">I", 1)
    return HostKey(public=public, private=_armoured(whole + _text(public) + _text(inner)))


def check_certificate(line: str, public: bytes) -> bytes:
    """Give the text of a certificate's file; PeerError unless it is one for this host key.

    sshd would go on without a certificate that does not fit, and clients would refuse the box.
    """
    try:
        words = line.encode().split()
        kind, blob = words[0], base64.b64decode(words[1], validate=True)
        inner, rest = _take(blob)
        _, rest = _take(rest)  # the nonce
        point, _ = _take(rest)
    except (IndexError, ValueError, struct.error):
        raise _wrong("the SSH certificate in the hand-off is none") from None
    if kind != _CERTIFIED or inner != kind or public != _text(_KIND) + _text(point):
        raise _wrong("the SSH certificate in the hand-off is for another key")
    return b" ".join(words[:2]) + b"\n"


def sshd_hint(directory: str, *, is_certified: bool) -> bytes:
    """Write the lines with which sshd serves key and certificate from a directory."""
    lines = f"HostKey {directory}/{FILE}\n"
    if is_certified:
        lines += f"HostCertificate {directory}/{CERTIFICATE}\n"
    return lines.encode()


def _take(data: bytes) -> tuple[bytes, bytes]:
    """Read a string of RFC 4251, 5; struct.error or ValueError when it is cut off."""
    (size,) = struct.unpack_from(">I", data)
    if len(data) < 4 + size:
        raise ValueError
    return data[4 : 4 + size], data[4 + size :]


def _wrong(sentence: str) -> PeerError:
    return PeerError(Code.HANDOFF, sentence)


def _text(data: bytes) -> bytes:
    """Write a string of RFC 4251, 5."""
    return struct.pack(">I", len(data)) + data


def _armoured(data: bytes) -> bytes:
    text = base64.b64encode(data)
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    head, end = b"-----BEGIN OPENSSH PRIVATE KEY-----", b"-----END OPENSSH PRIVATE KEY-----"
    return b"\n".join((head, *lines, end, b""))
