"""What an appliance's TPM says of an authority's key, inside the request for its certificate.

Pure. It only carries: whoever is about to sign verifies it with `attest`.
TPM 2.0 Library, Part 3, 18.2 (TPM2_Certify).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from cryptography.x509.oid import ObjectIdentifier

from keys.envelope import b64u, bind, unb64u
from keys.errors import PeerError

ATTRIBUTE = ObjectIdentifier("2.25.268446832046948140220390106786561989961")
"""Of a certificate request (RFC 2986, 4.1): a UTF8String with the JSON of `Proof`."""
MAX_BYTES = 8192
_BYTES = ("ek", "ak", "public", "attest", "signature", "authority")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The AK's word for a key.

    `ek`, `ak` and `public` (the key's) are TPMT_PUBLIC, `attest` TPMS_ATTEST, `signature`
    TPMT_SIGNATURE; `authority` is the lease authority's point (SEC 1, 2.3.3) and `unmoved` the
    number in the key's policy (`keys.lease.signing_policy`).
    """

    ek: bytes
    ak: bytes
    public: bytes
    attest: bytes
    signature: bytes
    authority: bytes
    unmoved: int | None

    def encode(self) -> bytes:
        """Write it as JSON."""
        found: dict[str, str | int | None] = {name: b64u(getattr(self, name)) for name in _BYTES}
        return json.dumps(found | {"unmoved": self.unmoved}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Proof:
        """Read what `encode` wrote; PeerError otherwise."""
        try:
            if len(data) > MAX_BYTES:
                raise ValueError("too large")
            document = json.loads(data)
            found = {name: unb64u(document[name]) for name in _BYTES}
            unmoved = document["unmoved"]
            if unmoved is not None and (type(unmoved) is not int or not 0 <= unmoved < 1 << 63):
                raise ValueError("no counter")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise PeerError("the request's word of a TPM is damaged") from None
        return cls(**found, unmoved=unmoved)


def proof_digest(*, site: str, kind: str, public: bytes) -> bytes:
    """Give T("doorstep/v1/ca-request", …), which the TPM certifies with the key: 32 bytes."""
    return bind("doorstep/v1/ca-request", site, kind, public)
