"""What DNS says of an enrolled box's keys: SSHFP of its SSH host key, TLSA of its TLS key.

Both keys were in the quoted evidence, so whoever trusts the signed zone knows the box without
asking it. RFC 4255 and 7479 (SSHFP), RFC 6698 and 7671 (TLSA 3 1 1).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bootstrap.enrolment import Stage
from bootstrap.rows import BoxRow
from keys.errors import KeysError
from keys.tpm_public import PublicArea
from netboot.plan import Record

TTL = 300
_ALGORITHMS = {
    b"ssh-rsa": 1,
    b"ecdsa-sha2-nistp256": 3,
    b"ecdsa-sha2-nistp384": 3,
    b"ecdsa-sha2-nistp521": 3,
    b"ssh-ed25519": 4,
}
"""Key types by the number that SSHFP has for them."""
_SHA256 = 2
_ACCEPTED = (Stage.VERIFIED, Stage.ENROLLED, Stage.READY, Stage.STALE)


def key_records(box: BoxRow, name: str) -> Iterator[Record]:
    """Give the records of a box that is accepted now; none for keys that it does not have."""
    if box.stage not in _ACCEPTED:
        return
    fingerprint = sshfp(box.ssh_host_key or b"")
    if fingerprint is not None:
        yield Record(name=name, type="SSHFP", ttl=TTL, value=fingerprint)
    digest = tlsa(box.device_public or b"")
    if digest is not None:
        yield Record(name=f"_443._tcp.{name}", type="TLSA", ttl=TTL, value=digest)


def sshfp(key: bytes) -> str | None:
    """Give SSHFP data for an OpenSSH public key, as its line or its blob; None for anything else.

    The box chose these bytes: what is no key that SSH knows is left out (RFC 4253, 6.6).
    """
    words = key.split()
    blob = key
    if len(words) > 1 and words[0] in _ALGORITHMS:
        try:
            blob = base64.b64decode(words[1], validate=True)
        except binascii.Error:
            return None
    size = int.from_bytes(blob[:4], "big")
    algorithm = _ALGORITHMS.get(blob[4 : 4 + size])
    if algorithm is None or len(blob) <= 4 + size:
        return None
    return f"{algorithm} {_SHA256} {hashlib.sha256(blob).hexdigest()}"


def tlsa(device_public: bytes) -> str | None:
    """Give TLSA data for the key of a TPMT_PUBLIC: DANE-EE, SPKI, SHA-256; None for none."""
    if not device_public:
        return None
    try:
        key = PublicArea.decode(device_public).public_key()
    except KeysError:
        return None
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"3 1 1 {hashlib.sha256(spki).hexdigest()}"
