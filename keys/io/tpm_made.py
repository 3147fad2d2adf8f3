"""What was made in a controller's TPM when its cache was set up; nothing of it is secret."""

from __future__ import annotations

import json
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from keys.envelope import b64u, unb64u
from keys.errors import SiteError
from keys.lease import Purpose, reference
from keys.tpm_objects import Blob, Index
from keys.tpm_public import PublicArea

UNKNOWN = -1
"""Where a release of before did not write the counter down: its keys are for leases alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What was made in a TPM when the cache was: nothing of it is secret.

    `first` is where the lease counter stood then.
    """

    storage_name: bytes
    ek: bytes
    authority: bytes
    lease_share: Blob
    device: Blob
    first: int

    def document(self) -> bytes:
        """Write it for the database."""
        blobs = {
            f"{name}_{half}": b64u(getattr(blob, half))
            for name, blob in (("lease", self.lease_share), ("device", self.device))
            for half in ("public", "private")
        }
        plain = {"storage_name": self.storage_name, "ek": self.ek, "authority": self.authority}
        texts = {name: b64u(value) for name, value in plain.items()} | blobs
        return json.dumps(texts | {"first": self.first}).encode()

    @classmethod
    def read(cls, stored: bytes) -> Made:
        """Read it again; SiteError when it is damaged."""
        try:
            document = json.loads(stored)
            first = int(document.pop("first", UNKNOWN))
            found = {name: unb64u(text) for name, text in document.items()}
            return cls(
                first=first,
                storage_name=found["storage_name"],
                ek=found["ek"],
                authority=found["authority"],
                lease_share=Blob(public=found["lease_public"], private=found["lease_private"]),
                device=Blob(public=found["device_public"], private=found["device_private"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SiteError("keys.db: what it says of the TPM is damaged") from None

    @property
    def authority_key(self) -> ec.EllipticCurvePublicKey:
        """The lease authority's key that the lease share was sealed for."""
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.authority)

    def reference(self, site_id: str) -> bytes:
        """Give the policyRef that leases of this appliance have."""
        return lease_reference(self.ek, site_id)


def lease_reference(ek: bytes, site_id: str) -> bytes:
    """Give the policyRef of an appliance by the public area of its EK."""
    return reference(
        site=site_id,
        ek_name=PublicArea.decode(ek).name(),
        counter_name=Index.LEASE.nv_name,
        purpose=Purpose.CACHE,
    )
