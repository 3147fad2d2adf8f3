"""What headquarters verifies of a request for an intermediate before it is signed. Pure.

A request that carries a TPM's word is held to all of it: the key was made in that TPM, cannot leave
it, and signs under leases of one authority alone. One without it says what it likes.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric import ec

from attest.ak import check_ak, qualified_name
from attest.ektemplate import ENDORSEMENT
from attest.errors import CheckError
from attest.quote import check_signed
from attest.wire import CertifyInfo
from bootstrap.errors import PeerError
from keys import ca
from keys.ca_proof import Proof, proof_digest
from keys.errors import PeerError as KeysPeerError
from keys.lease import Purpose, reference, signing_policy
from keys.lease_request import appliance_name
from keys.tpm_objects import Index, signing_template
from keys.tpm_public import EccPublic, PublicArea


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What the TPM vouches for: which appliance, and whose leases its key signs under."""

    appliance: str
    authority: ec.EllipticCurvePublicKey


def check_proof(request: ca.Request) -> Proven | None:
    """Verify the TPM's word in a request; None without one, PeerError when it does not hold."""
    if request.proof is None:
        return None
    try:
        proof = Proof.decode(request.proof)
        ak, area = PublicArea.decode(proof.ak), PublicArea.decode(proof.public)
        authority = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), proof.authority)
        check_ak(ak)
        decoded = check_signed(proof.attest, proof.signature, ak)
        is_key = area.public_key() == request.key and _is_signing_key(request, proof, authority)
    except (KeysPeerError, CheckError, ValueError) as error:
        raise PeerError(f"the request's word of a TPM does not hold ({error})") from None
    if decoded.qualified_signer != qualified_name(struct.pack(">I", ENDORSEMENT), ak.name()):
        raise PeerError("the key that vouches is no primary key of the endorsement hierarchy")
    wanted = proof_digest(site=request.site, kind=request.kind.value, public=proof.public)
    if not hmac.compare_digest(decoded.extra_data, wanted):
        raise PeerError("the TPM vouched for another request")
    if not isinstance(decoded.attested, CertifyInfo) or decoded.attested.name != area.name():
        raise PeerError("the TPM vouched for another key")
    if not is_key:
        raise PeerError("the key is not one that signs under leases in this TPM alone")
    name = appliance_name(request.site, proof.ek, proof.ak)
    if name != request.appliance:
        raise PeerError("the TPM that vouched is not that of the appliance that is named")
    return Proven(appliance=name, authority=authority)


def _is_signing_key(
    request: ca.Request, proof: Proof, authority: ec.EllipticCurvePublicKey
) -> bool:
    """Tell whether a key is as `keys.tpm_objects.signing_template` makes it, for that authority."""
    area = PublicArea.decode(proof.public)
    if not isinstance(area.key, EccPublic):
        return False
    policy_reference = reference(
        site=request.site,
        ek_name=PublicArea.decode(proof.ek).name(),
        counter_name=Index.LEASE.nv_name,
        purpose=Purpose.CACHE,
    )
    policy = signing_policy(authority, policy_reference, Index.LEASE.nv_name, proof.unmoved)
    return replace(area, key=replace(area.key, x=b"", y=b"")) == signing_template(policy)
