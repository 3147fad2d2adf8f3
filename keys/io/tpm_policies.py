"""What the controller's TPM asserts in a policy session: leases, counters, this boot.

Each assertion is a check of the TPM's own. It opens no session and uses no key.
TPM 2.0 Library, Part 3, 23.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from tpm2_pytss.constants import ESYS_TR, TPM2_CC, TPM2_EO
from tpm2_pytss.types import (
    TPM2B_OPERAND,
    TPM2B_PUBLIC,
    TPML_DIGEST,
    TPML_PCR_SELECTION,
    TPMT_PUBLIC,
    TPMT_SIGNATURE,
)

from keys.errors import SiteError
from keys.io.tpm_link import TpmLink, TpmRefusedError
from keys.lease import Counters, SignedLease, authority_area
from keys.policy import CommandCode, Comparison, TimeField, TpmPolicy, approved, pcr_selection
from keys.tpm_objects import COUNTER_SIZE, ECDSA, SHA256, Index, boot_timers, operands
from keys.tpm_public import PublicArea, sized

Satisfy = Callable[[Any], None]
"""Makes the assertions of a policy in a session."""


class TpmPolicies(TpmLink):
    """Makes the assertions that sealed data and signing keys ask for."""

    _verified: tuple[tuple[bytes, ...], Any] | None = None
    """The ticket of the approval that was verified last, and of what it is."""

    def under_lease(
        self,
        signed: SignedLease,
        authority: ec.EllipticCurvePublicKey,
        code: CommandCode = CommandCode.UNSEAL,
    ) -> Satisfy:
        """Make the assertions of a lease: each is the TPM's own check, none is ours."""
        terms, area = signed.lease.terms, authority_area(authority)
        digest = terms.policy(Index.LEASE.nv_name).digest

        def satisfy(session: Any) -> None:
            if terms.pcrs:
                with self._refusing("this controller runs other software than the lease is for"):
                    self._esys.policy_pcr(session, terms.pcr_digest, selection(terms.pcrs))
            self._timers(session, terms.timers())
            self._counter_is(session, Index.LEASE, terms.counter)
            self._approve(session, signed, area, digest)
            self._esys.policy_command_code(policy_session=session, code=TPM2_CC(code))

        return satisfy

    def anytime(self, session: Any) -> None:
        """Make the assertion of `device_policy`."""
        self._esys.policy_command_code(policy_session=session, code=TPM2_CC.Unseal)

    def in_boot(self, counters: Counters) -> Satisfy:
        """Make the assertions of `boot_policy`."""

        def satisfy(session: Any) -> None:
            self._timers(session, boot_timers(counters))
            self._esys.policy_command_code(policy_session=session, code=TPM2_CC.Unseal)

        return satisfy

    def at_counter(
        self, index: Index, value: int, code: CommandCode = CommandCode.UNSEAL
    ) -> Satisfy:
        """Make the assertions of `counter_policy`."""

        def satisfy(session: Any) -> None:
            self._counter_is(session, index, value)
            self._esys.policy_command_code(policy_session=session, code=TPM2_CC(code))

        return satisfy

    def one_of(self, satisfy: Satisfy, branches: Sequence[TpmPolicy]) -> Satisfy:
        """Make the assertions of one branch, then say which branches there are."""

        def both(session: Any) -> None:
            satisfy(session)
            with self._refusing("the key is for another lease authority"):
                self._esys.policy_or(
                    policy_session=session,
                    p_hash_list=TPML_DIGEST([branch.digest for branch in branches]),
                )

        return both

    def _counter_is(self, session: Any, index: Index, value: int) -> None:
        handle = self._nv(index)
        with self._refusing(f"its {index.name.lower()} counter is not at {value}"):
            self._esys.policy_nv(
                nv_index=handle,
                policy_session=session,
                operand_b=TPM2B_OPERAND(value.to_bytes(COUNTER_SIZE, "big")),
                operation=TPM2_EO(Comparison.EQUAL),
                auth_handle=handle,
            )

    def _timers(self, session: Any, timers: Iterable[tuple[TimeField, int, Comparison]]) -> None:
        for field, value, comparison in operands(timers):
            with self._refusing(f"its {field.name.lower().replace('_', ' ')} is not as it must be"):
                self._esys.policy_counter_timer(
                    session, TPM2B_OPERAND(value), TPM2_EO(comparison), offset=field
                )

    def _approve(self, session: Any, signed: SignedLease, area: PublicArea, digest: bytes) -> None:
        """Let the TPM take the approval of `digest`, which it compares with its session's.

        What it verified once it says in a ticket, which is good until the TPM is cleared (Part 2,
        10.7.3) and shows nothing that is secret; one that it does not take is made again.
        """
        of = (signed.approval, area.name(), digest, signed.lease.reference)
        if self._verified is not None and self._verified[0] == of:
            try:
                self._authorize(session, signed, area, digest, self._verified[1])
            except TpmRefusedError:
                self._verified = None
            else:
                return
        ticket = self._ticket(signed, area, digest)
        self._authorize(session, signed, area, digest, ticket)
        self._verified = of, ticket

    def _authorize(
        self, session: Any, signed: SignedLease, area: PublicArea, digest: bytes, ticket: Any
    ) -> None:
        with self._refusing("the lease is not approved for this appliance and purpose"):
            self._esys.policy_authorize(
                policy_session=session,
                approved_policy=digest,
                policy_ref=signed.lease.reference,
                key_sign=area.name(),
                check_ticket=ticket,
            )

    def _ticket(self, signed: SignedLease, area: PublicArea, digest: bytes) -> Any:
        """Let the TPM verify the approval of the policy that its session has now."""
        r, s = signed.approval[:32], signed.approval[32:]
        pair = struct.pack(">HH", ECDSA, SHA256) + sized(r) + sized(s)
        with self._saying("the lease authority's key"):
            key = self._esys.load_external(
                in_public=area_of(area.encode()), hierarchy=ESYS_TR.OWNER
            )
        try:
            with self._refusing("the lease is not approved for this appliance and purpose"):
                return self._esys.verify_signature(
                    key_handle=key,
                    digest=approved(TpmPolicy(digest=digest), signed.lease.reference),
                    signature=TPMT_SIGNATURE.unmarshal(pair)[0],
                )
        finally:
            self._flush(key)

    def _nv(self, index: Index) -> Any:
        handle = self._find(index)
        if handle is None:
            raise SiteError(
                f"the TPM has no NV index 0x{index:08x}: it was cleared, or is another TPM"
            )
        return handle

    def _name(self, handle: Any) -> bytes:
        with self._saying("a name"):
            return bytes(self._esys.tr_get_name(handle))


def selection(indices: Iterable[int]) -> Any:
    """Select PCRs of the SHA-256 bank."""
    return TPML_PCR_SELECTION.unmarshal(pcr_selection(indices))[0]


def area_of(public: bytes) -> Any:
    """Wrap a TPMT_PUBLIC for the TPM stack."""
    return TPM2B_PUBLIC(publicArea=TPMT_PUBLIC.unmarshal(public)[0])
