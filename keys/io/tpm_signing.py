"""The keys of authorities in the controller's TPM: made once, each signature under the policy.

It keeps no lease and decides nothing: which one to show is the ring's, whether it holds the TPM's.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.ca_proof import Proof, proof_digest
from keys.io.tpm import Tpm
from keys.io.tpm_key import TpmKey
from keys.io.tpm_policies import Satisfy
from keys.lease import SignedLease, signing_branches, signing_policy
from keys.policy import CommandCode
from keys.tpm_objects import Blob, Index


class TpmSigning:
    """Makes and uses signing keys of one appliance.

    `unmoved` is that of `keys.lease.signing_policy`.
    """

    def __init__(self, tpm: Tpm, authority: ec.EllipticCurvePublicKey, reference: bytes) -> None:
        """Take the lease authority's key and the policyRef of leases of this appliance."""
        self._tpm, self._authority, self._reference = tpm, authority, reference

    def make(self, unmoved: int | None) -> bytes:
        """Make a key; gives what is stored of it."""
        policy = signing_policy(self._authority, self._reference, Index.LEASE.nv_name, unmoved)
        return TpmKey.dump(self._tpm.make_signing_key(policy), unmoved)

    def prove(self, key: TpmKey, *, site: str, kind: str, ek: bytes) -> Proof:
        """Let the TPM vouch for a key, for the request of one kind."""
        blob = key.blob
        digest = proof_digest(site=site, kind=kind, public=blob.public)
        said = self._tpm.certify(blob, digest)
        point = self._authority.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return Proof(
            ek=ek,
            ak=said.public,
            public=blob.public,
            attest=said.attest,
            signature=said.signature,
            authority=point,
            unmoved=key.unmoved,
        )

    def sign(
        self, blob: Blob, unmoved: int | None, digest: bytes, lease: SignedLease | None
    ) -> tuple[int, int]:
        """Sign under a lease, or without one as before the first; TpmRefusedError."""
        return self._tpm.sign(blob, digest, self.allowing(unmoved, lease))

    def allowing(self, unmoved: int | None, lease: SignedLease | None) -> Satisfy:
        """Make the assertions of a signing key's policy; without a lease it needs `unmoved`."""
        if lease is not None:
            satisfy = self._tpm.under_lease(lease, self._authority, CommandCode.SIGN)
        else:
            satisfy = self._tpm.at_counter(Index.LEASE, unmoved or 0, CommandCode.SIGN)
        if unmoved is None:
            return satisfy
        branches = signing_branches(self._authority, self._reference, Index.LEASE.nv_name, unmoved)
        return self._tpm.one_of(satisfy, branches)
