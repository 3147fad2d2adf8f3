"""OpenSSH host certificates: who may be called what, built, read, trusted and taken back.

Pure: keys, times and serial numbers are arguments (the library draws the nonce). It makes host
certificates alone, and none without names: an empty list of names is every host to clients before
OpenSSH 10.3, and since then `*` and `?` in a name are wildcards. PROTOCOL.certkeys, PROTOCOL.krl;
sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"; RFC 8709 (the key of a host), RFC 5656 (the authority's).
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_public_identity,
)

from keys.errors import PeerError
from keys.rules import SiteRules

Address = IPv4Address | IPv6Address

BACKDATED = timedelta(hours=1)
"""For clients whose clock is behind."""
MAX_SERIAL = (1 << 64) - 1
MAX_CERTIFICATE = 8192
MAX_NAME = 253
_HOST_KEY = b"ssh-ed25519"
_POINT = 32
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_EVERYBODY = "localhost"
"""What each client calls itself; no box is called so."""

_KRL_MAGIC, _KRL_FORMAT = b"SSHKRL\n\0", 1
_KRL_CERTIFICATES = 1
_KRL_SERIALS, _KRL_KEY_IDS = 0x20, 0x23


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNames:
    """What one host is called: never empty, never a pattern; PeerError when one is no name."""

    hostname: str
    fqdn: str
    addresses: tuple[Address, ...] = ()

    def __post_init__(self) -> None:
        """Check them, whoever made this: each becomes a name that clients believe."""
        label, _, domain = self.fqdn.partition(".")
        if label != self.hostname or not domain or len(self.fqdn) > MAX_NAME:
            raise PeerError("the full name of a host is its name and a domain")
        if not all(_LABEL.fullmatch(one) for one in self.fqdn.split(".")):
            raise PeerError("a host's name has lower-case letters, digits and hyphens, and dots")
        if self.hostname == _EVERYBODY:
            raise PeerError(f"no box is called {self.hostname}")
        if len(set(self.addresses)) != len(self.addresses):
            raise PeerError("an address of a host is there twice")
        for one in self.addresses:
            if one.is_loopback or one.is_unspecified or one.is_multicast or _has_scope(one):
                raise PeerError(f"{one} is the address of no single host")

    @property
    def principals(self) -> tuple[str, ...]:
        """Give them as a certificate has them, the full name first."""
        return (self.fqdn, self.hostname, *map(str, self.addresses))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCertificate:
    """What a certificate says, after its signature was checked; times in unix seconds.

    `public` and `authority` are blobs of RFC 4253, 6.6.
    """

    serial: int
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    public: bytes
    authority: bytes


def site_names(
    hostname: str, fqdn: str, addresses: Iterable[Address], rules: SiteRules
) -> HostNames:
    """Check that a box of this site may be called so; PeerError with a sentence otherwise.

    Who asks may be compromised: outside the site's domain and networks, or for the controller
    itself, this authority vouches for nobody. Whether the site has an IPv6 network is for whoever
    asks to check.
    """
    names = HostNames(hostname=hostname, fqdn=fqdn, addresses=tuple(addresses))
    if fqdn != f"{hostname}.{rules.domain}" or fqdn in rules.server_names:
        raise PeerError(f"{fqdn} is not the name of a box of {rules.domain}")
    for one in names.addresses:
        is_ours = one.version == 6 or any(one in network for network in rules.networks)
        if not is_ours or one in rules.addresses:
            raise PeerError(f"{one} is not an address of a box of this site")
    return names


def key_id(site_id: str, pseudonym: str) -> str:
    """Name a box in its certificates, as logs of clients show it: by its pseudonym alone."""
    return f"doorstep:{site_id}:box:{pseudonym}"


def host_key(blob: bytes) -> Ed25519PublicKey:
    """Read the public key of a host (RFC 8709, 4); PeerError for any other bytes: a box sent it."""
    head = _string(_HOST_KEY) + struct.pack(">I", _POINT)
    if len(blob) != len(head) + _POINT or not blob.startswith(head):
        raise PeerError("an SSH host key is one of ssh-ed25519")
    return Ed25519PublicKey.from_public_bytes(blob[len(head) :])


def issue(
    authority: ec.EllipticCurvePrivateKey,
    *,
    public: bytes,
    identity: str,
    names: HostNames,
    serial: int,
    now: int,
    not_after: int,
) -> str:
    """Issue a host certificate as its line in a file; `public` is a blob, times unix seconds.

    PeerError when the key is none; what the authority's key raises when it may not sign.
    """
    if not 0 < serial <= MAX_SERIAL or not now < not_after or not identity:
        raise PeerError("a certificate has a serial number, an identity and time to live")
    builder = (
        SSHCertificateBuilder()
        .public_key(host_key(public))
        .serial(serial)
        .type(SSHCertificateType.HOST)
        .key_id(identity.encode())
        .valid_principals([one.encode() for one in names.principals])
        .valid_after(now - int(BACKDATED.total_seconds()))
        .valid_before(not_after)
    )
    return builder.sign(authority).public_bytes().decode()


def read(line: bytes) -> HostCertificate:
    """Read a host certificate and check its signature; PeerError for anything else.

    By whom it was signed is for the caller to compare, and whether it is valid now.
    """
    if len(line) > MAX_CERTIFICATE:
        raise PeerError("not an SSH certificate: it is too long")
    try:
        found = load_ssh_public_identity(line)
        if not isinstance(found, SSHCertificate):
            raise PeerError("a plain SSH key is no certificate")
        found.verify_cert_signature()
        return _checked(found)
    except (
        ValueError,
        TypeError,
        NotImplementedError,  # a point that is compressed
        UnsupportedAlgorithm,
        InvalidSignature,
        struct.error,
    ):
        raise PeerError("not an SSH certificate, or not signed by the key that it names") from None


def _checked(found: SSHCertificate) -> HostCertificate:
    if found.type is not SSHCertificateType.HOST:
        raise PeerError("a certificate of a user does not name a host")
    if not found.valid_principals or found.critical_options or found.extensions:
        raise PeerError("a host certificate names hosts, and has no options")
    return HostCertificate(
        serial=found.serial,
        key_id=found.key_id.decode(),
        principals=tuple(one.decode() for one in found.valid_principals),
        valid_after=found.valid_after,
        valid_before=found.valid_before,
        public=_blob(found.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)),
        authority=_blob(found.signature_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)),
    )


def public_line(authority: ec.EllipticCurvePublicKey) -> str:
    """Write the authority's public key as a line: its kind, and base64."""
    return authority.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def known_hosts(authority: ec.EllipticCurvePublicKey, rules: SiteRules) -> str:
    """Write the line of a client's known_hosts that trusts this site's boxes, and nobody else's.

    IPv6 addresses are not in it: one text of a pattern does not cover the texts of an address.
    """
    patterns = [f"*.{rules.domain}"]
    for network in rules.networks:
        patterns += address_patterns(network)
    return f"@cert-authority {','.join(dict.fromkeys(patterns))} {public_line(authority)}"


def address_patterns(network: IPv4Network) -> Iterator[str]:
    """Give patterns that match the addresses of a network and no others, at most 256.

    A pattern knows whole numbers between dots alone: one for each network that ends at a dot.
    """
    octets = -(-network.prefixlen // 8)
    for part in network.subnets(new_prefix=octets * 8):
        kept = str(part.network_address).split(".")[:octets]
        yield ".".join(kept + ["*"] * (4 - octets))


def revocations(*, serials: Sequence[int], key_ids: Sequence[str], version: int, now: int) -> bytes:
    """Write the list of certificates that clients refuse (PROTOCOL.krl), whoever signed them.

    Clients may still trust the authority of an appliance that was replaced. Our serial numbers are
    random, and our key ids have the site in them: they meet nobody else's. OpenSSH takes no signed
    list any more: it goes to clients by a way that they trust.
    """
    head = _KRL_MAGIC + struct.pack(">IQQQ", _KRL_FORMAT, version, now, 0)
    whole = head + _string(b"") + _string(b"doorstep")
    sections = b""
    if serials:
        listed = b"".join(struct.pack(">Q", one) for one in sorted(set(serials)))
        sections += bytes([_KRL_SERIALS]) + _string(listed)
    if key_ids:
        named = b"".join(_string(one.encode()) for one in sorted(set(key_ids)))
        sections += bytes([_KRL_KEY_IDS]) + _string(named)
    if not sections:
        return whole
    any_authority, reserved = _string(b""), _string(b"")
    return whole + bytes([_KRL_CERTIFICATES]) + _string(any_authority + reserved + sections)


def _has_scope(address: Address) -> bool:
    """Tell whether an address means something on one link alone (`fe80::1%eth0`)."""
    return address.is_link_local or (isinstance(address, IPv6Address) and bool(address.scope_id))


def _string(data: bytes) -> bytes:
    """Write a string of RFC 4251, 5."""
    return struct.pack(">I", len(data)) + data


def _blob(line: bytes) -> bytes:
    """Give what a line of a key holds; the library wrote it."""
    return base64.b64decode(line.split()[1])
