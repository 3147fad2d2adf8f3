"""The controller's TPM: what the cache needs of it, and nothing else.

Each call opens what it needs and flushes it; only the key that signed last stays loaded with its
session, until something else is opened. Two objects and one session are the most that is ever
loaded. Sessions are salted to the storage key, whose name is checked first, and encrypt
what they carry: a probe on the bus learns nothing. It decides nothing and keeps nothing.
TPM 2.0 Library, Part 3; the traps are in docs/secrets.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tpm2_pytss.constants import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_CC,
    TPM2_RH,
    TPM2_SE,
    TPM2_ST,
    TPMA_SESSION,
)
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_NV_PUBLIC,
    TPM2B_PRIVATE,
    TPM2B_SENSITIVE_CREATE,
    TPML_PCR_SELECTION,
    TPMS_NV_PUBLIC,
    TPMS_SENSITIVE_CREATE,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
    TPMT_TK_HASHCHECK,
)

from keys.errors import SiteError
from keys.io.tpm_link import TpmGoneError
from keys.io.tpm_policies import Satisfy, TpmPolicies, area_of, selection
from keys.lease import Counters
from keys.policy import TpmPolicy
from keys.secret import Secret
from keys.tpm_objects import (
    AK_TEMPLATE,
    EXTEND_SIZE,
    STORAGE_HANDLE,
    STORAGE_TEMPLATE,
    Blob,
    Index,
    sealed_template,
    signing_template,
)
from keys.tpm_public import PublicArea

_AES_128_CFB = bytes.fromhex("000600800043")
_PERMANENT, _MANUFACTURER = 0x200, 0x105
_OWNER_SET, _LOCKOUT_SET = 1, 4
_TRANSIENT, _LOADED_SESSION, _MANY = 0x80000000, 0x02000000, 64
_ONE_SHA256 = bytes.fromhex("000000010020")
"""TPML_DIGEST of one digest of 32 bytes, before the digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """TPMS_ATTEST with its signature (TPMT_SIGNATURE), and the public area of the key."""

    attest: bytes
    signature: bytes
    public: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """The signing key that was used last, loaded, and its session."""

    blob: Blob
    key: Any
    session: Any


class Tpm(TpmPolicies):
    """A connected TPM; close it, or use it as a context manager."""

    def __init__(self, tcti: str, *, storage_name: bytes | None = None) -> None:
        """Connect; `storage_name` is the name that the storage key had when it was made."""
        self._kept: _Kept | None = None
        super().__init__(tcti)
        self._storage_name = storage_name

    def close(self) -> None:
        """Let go of what is loaded, and disconnect."""
        self._let_go()
        super().close()

    def tidy(self) -> None:
        """Let the TPM forget what a process that was killed left loaded, before anything is.

        Behind a resource manager (/dev/tpmrm0) there is nothing: it shows each process its own.
        """
        for first in (_TRANSIENT, _LOADED_SESSION):
            with self._saying("what it has loaded"):
                _, data = self._esys.get_capability(
                    capability=TPM2_CAP.HANDLES, prop=first, property_count=_MANY
                )
                left = [self._esys.tr_from_tpmpublic(handle=int(one)) for one in data.data.handles]
            for handle in left:
                self._flush(handle)

    # what it says of itself

    def counters(self) -> Counters:
        """Read clock and counters (TPM2_ReadClock)."""
        with self._saying("its clock"):
            found = self._esys.read_clock().clockInfo
        return Counters(
            clock=int(found.clock),
            reset_count=int(found.resetCount),
            restart_count=int(found.restartCount),
            safe=bool(found.safe),
        )

    def maker(self) -> str:
        """Give the letters that name the TPM's maker (TPM_PT_MANUFACTURER)."""
        letters = self._property(_MANUFACTURER).to_bytes(4, "big")
        return "".join(chr(one) for one in letters if 32 < one < 127)

    def is_owned(self) -> bool:
        """Tell whether the owner's hierarchy has a password (TPMA_PERMANENT, bit 0)."""
        return bool(self._property(_PERMANENT) & _OWNER_SET)

    def has_lockout(self) -> bool:
        """Tell whether the lockout hierarchy has a password (TPMA_PERMANENT, bit 2)."""
        return bool(self._property(_PERMANENT) & _LOCKOUT_SET)

    def _property(self, name: int) -> int:
        with self._saying("its properties"):
            _, data = self._esys.get_capability(
                capability=TPM2_CAP.TPM_PROPERTIES, prop=name, property_count=1
            )
        _, count, found, value = struct.unpack(">IIII", data.marshal()[:16])
        if count != 1 or found != name:
            raise SiteError(f"the TPM does not give its property 0x{name:x}")
        return int(value)

    def pcrs(self, indices: Sequence[int]) -> Mapping[int, bytes]:
        """Read PCRs of the SHA-256 bank, one by one."""
        found = {}
        for index in indices:
            with self._saying("its PCRs"):
                answer = self._esys.pcr_read(pcr_selection_in=selection((index,)))
            digests = answer[2].marshal()
            if not digests.startswith(_ONE_SHA256):
                raise SiteError("the TPM has no SHA-256 bank: switch it on in the firmware setup")
            found[index] = bytes(digests[len(_ONE_SHA256) :])
        return found

    def ek_area(self, template: PublicArea) -> bytes:
        """Make the EK of a template and give its public area."""
        with self._primary(ESYS_TR.ENDORSEMENT, template) as (_, public):
            return public

    def ak_area(self) -> bytes:
        """Make the key that quotes and give its public area."""
        with self._primary(ESYS_TR.ENDORSEMENT, AK_TEMPLATE) as (_, public):
            return public

    def quote(self, indices: Sequence[int], extra_data: bytes) -> Quoted:
        """Quote PCRs of the SHA-256 bank by a key of the endorsement hierarchy."""
        with (
            self._primary(ESYS_TR.ENDORSEMENT, AK_TEMPLATE) as (handle, public),
            self._saying("a quote"),
        ):
            attest, signature = self._esys.quote(
                sign_handle=handle,
                pcr_select=selection(indices),
                qualifying_data=TPM2B_DATA(extra_data),
                in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
            )
            data = bytes(attest.attestationData)
            return Quoted(attest=data, signature=bytes(signature.marshal()), public=public)

    def certify(self, blob: Blob, extra_data: bytes) -> Quoted:
        """Let the key that quotes vouch for a signing key of this TPM (TPM2_Certify)."""
        with (
            self._primary(ESYS_TR.ENDORSEMENT, AK_TEMPLATE) as (ak, public),
            self._loaded(blob) as key,
            self._saying("its word for a key"),
        ):
            attest, signature = self._esys.certify(
                object_handle=key,
                sign_handle=ak,
                qualifying_data=TPM2B_DATA(extra_data),
                in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
            )
            data = bytes(attest.attestationData)
            return Quoted(attest=data, signature=bytes(signature.marshal()), public=public)

    # set-up, while the owner's hierarchy has no password yet

    def make_storage_key(self) -> bytes:
        """Make the storage key persistent, or find it; gives its name.

        SiteError when another key is there: who put it may know its private half, and so read
        whatever is sealed below it. The same template makes the same primary key again.
        """
        with self._primary(ESYS_TR.OWNER, STORAGE_TEMPLATE) as (made, public):
            if self._find(STORAGE_HANDLE) is None:
                with self._saying("its storage key"):
                    self._esys.evict_control(
                        auth=ESYS_TR.OWNER, object_handle=made, persistent_handle=STORAGE_HANDLE
                    )
        # looked up anew: the connection may be another since it was made
        handle = self._find(STORAGE_HANDLE)
        if handle is None:
            raise SiteError("the TPM did not keep its storage key")
        name = self._name(handle)
        if name != PublicArea.decode(public).name():
            raise SiteError(f"the TPM's key 0x{STORAGE_HANDLE:08x} is not ours: clear the TPM")
        self._storage_name = name
        return name

    def define(self, index: Index) -> bytes:
        """Define an NV index that nobody can set back, or find it; gives its name.

        SiteError when somebody made one of this number that is another.
        """
        if self._find(index) is None:
            public = TPMS_NV_PUBLIC(
                nvIndex=int(index),
                nameAlg=TPM2_ALG.SHA256,
                attributes=index.attributes,
                dataSize=index.size,
            )
            with self._saying(f"the NV index 0x{index:08x}"):
                self._esys.nv_define_space(
                    auth=None,
                    public_info=TPM2B_NV_PUBLIC(nvPublic=public),
                    auth_handle=ESYS_TR.OWNER,
                    session1=ESYS_TR.PASSWORD,
                )
        if self.nv_name(index) == index.unwritten_name:  # also after a cut before this
            if index.is_counter:
                self.increment(index)
            else:
                self.extend(index, bytes(EXTEND_SIZE))
        name = self.nv_name(index)
        if name != index.nv_name:
            raise SiteError(f"the NV index 0x{index:08x} is not ours: clear the TPM")
        return name

    def take_ownership(self, owner: Secret, lockout: Secret, policy: TpmPolicy) -> None:
        """Give owner and lockout passwords that only headquarters keeps.

        `policy` is what the owner's hierarchy still does without the password. The owner's comes
        last, so that `is_owned` says that all of it was done; a lockout password that is there is
        taken for this one, set before a power cut.
        """
        wanted = [(ESYS_TR.OWNER, owner)]
        if not self.has_lockout():
            wanted.insert(0, (ESYS_TR.LOCKOUT, lockout))
        with self._salted(TPM2_SE.HMAC) as session, self._saying("its owner's password"):
            self._esys.set_primary_policy(
                auth_handle=ESYS_TR.OWNER, auth_policy=policy.digest, hash_alg=TPM2_ALG.SHA256
            )
            for hierarchy, value in wanted:
                self._esys.hierarchy_change_auth(
                    auth_handle=hierarchy, new_auth=value.reveal(), session1=session
                )

    # clock and NV

    def advance_clock(self, milliseconds: int) -> None:
        """Set the clock forward, as the owner's policy allows (TPM2_ClockSet)."""
        with self._salted(TPM2_SE.POLICY) as session, self._saying("its clock"):
            self._esys.policy_command_code(policy_session=session, code=TPM2_CC.ClockSet)
            self._esys.clock_set(new_time=milliseconds, auth=ESYS_TR.OWNER, session1=session)

    def nv_name(self, index: Index) -> bytes:
        """Give the name of an NV index; SiteError when there is none."""
        return self._name(self._nv(index))

    def counter(self, index: Index) -> int:
        """Read an NV counter."""
        return int.from_bytes(self.read_nv(index), "big")

    def read_nv(self, index: Index) -> bytes:
        """Read a whole NV index."""
        handle = self._nv(index)
        with self._saying(f"the NV index 0x{index:08x}"):
            found = self._esys.nv_read(
                nv_index=handle, size=index.size, offset=0, auth_handle=handle
            )
        return bytes(found.buffer)

    def increment(self, index: Index) -> None:
        """Count an NV counter up by one; it never goes back."""
        handle = self._nv(index)
        with self._saying(f"the NV counter 0x{index:08x}"):
            self._esys.nv_increment(nv_index=handle, auth_handle=handle)

    def extend(self, index: Index, data: bytes) -> None:
        """Extend an NV index: its content becomes H(content ‖ data)."""
        handle = self._nv(index)
        with self._saying(f"the NV index 0x{index:08x}"):
            self._esys.nv_extend(nv_index=handle, data=data, auth_handle=handle)

    # sealed data

    def seal(self, value: Secret, policy: TpmPolicy) -> Blob:
        """Seal up to MAX_SEALED bytes for a policy; only this TPM opens them."""
        with self._salted(TPM2_SE.HMAC) as session, self._saying("a sealed object"):
            private, public, *_ = self._esys.create(
                parent_handle=self._storage(),
                in_sensitive=TPM2B_SENSITIVE_CREATE(
                    sensitive=TPMS_SENSITIVE_CREATE(data=value.reveal())
                ),
                in_public=area_of(sealed_template(policy)),
                outside_info=TPM2B_DATA(),
                creation_pcr=TPML_PCR_SELECTION(),
                session1=session,
            )
        return Blob(public=bytes(public.publicArea.marshal()), private=bytes(private.buffer))

    def unseal(self, blob: Blob, satisfy: Satisfy) -> Secret:
        """Open sealed data; `satisfy` makes the assertions of its policy in a session.

        TpmRefusedError when the TPM does not let it.
        """
        with self._loaded(blob) as item, self._salted(TPM2_SE.POLICY) as session:
            with self._saying("a policy session"):
                satisfy(session)
            with self._refusing("the policy does not hold"):
                return Secret(bytes(self._esys.unseal(item_handle=item, session1=session).buffer))

    # signing keys

    def make_signing_key(self, policy: TpmPolicy) -> Blob:
        """Make a P-256 key for ECDSA with SHA-256 that never leaves this TPM."""
        with self._salted(TPM2_SE.HMAC) as session, self._saying("a signing key"):
            private, public, *_ = self._esys.create(
                parent_handle=self._storage(),
                in_sensitive=TPM2B_SENSITIVE_CREATE(),
                in_public=area_of(signing_template(policy).encode()),
                outside_info=TPM2B_DATA(),
                creation_pcr=TPML_PCR_SELECTION(),
                session1=session,
            )
        return Blob(public=bytes(public.publicArea.marshal()), private=bytes(private.buffer))

    def sign(self, blob: Blob, digest: bytes, satisfy: Satisfy) -> tuple[int, int]:
        """Sign a SHA-256 digest; gives r and s. TpmRefusedError when the policy does not hold.

        Each signature has the policy asked anew, in a session that is integrity-protected.
        """
        if self._kept is not None and self._kept.blob == blob:
            try:
                return self._sign(self._kept, digest, satisfy)
            except TpmGoneError:
                raise
            except SiteError:
                self._let_go()  # it may be that the TPM was reset and holds neither any more
        return self._sign(self._keep(blob), digest, satisfy)

    def _sign(self, kept: _Kept, digest: bytes, satisfy: Satisfy) -> tuple[int, int]:
        with self._saying("a signature"):
            self._esys.policy_restart(kept.session)
            satisfy(kept.session)
            with self._refusing("the policy of the signing key does not hold"):
                signature = self._esys.sign(
                    key_handle=kept.key,
                    digest=digest,
                    in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
                    validation=TPMT_TK_HASHCHECK(
                        tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL, digest=b""
                    ),
                    session1=kept.session,
                )
        found = signature.signature.ecdsa
        r, s = bytes(found.signatureR.buffer), bytes(found.signatureS.buffer)
        return int.from_bytes(r, "big"), int.from_bytes(s, "big")

    def _keep(self, blob: Blob) -> _Kept:
        """Load a signing key and open its session; both stay until something else is opened."""
        key = self._load(blob)
        try:
            session = self._start(TPM2_SE.POLICY, encrypts=False)
        except SiteError:
            self._flush(key)
            raise
        self._kept = _Kept(blob=blob, key=key, session=session)
        return self._kept

    def _let_go(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            self._flush(kept.session)
            self._flush(kept.key)

    # objects and sessions

    def _storage(self) -> Any:
        """Find the storage key; SiteError unless it is the one of when the cache was made."""
        handle = self._find(STORAGE_HANDLE)
        if handle is None or self._name(handle) != self._storage_name:
            raise SiteError(
                "this is not the TPM that the cache was made with, or it was cleared: "
                "what is in the cache is lost, seed this controller again"
            )
        return handle

    @contextmanager
    def _primary(self, hierarchy: Any, template: PublicArea) -> Iterator[tuple[Any, bytes]]:
        self._let_go()
        with self._saying("a primary key"):
            handle, public, *_ = self._esys.create_primary(
                primary_handle=hierarchy,
                in_sensitive=TPM2B_SENSITIVE_CREATE(),
                in_public=area_of(template.encode()),
                outside_info=TPM2B_DATA(),
                creation_pcr=TPML_PCR_SELECTION(),
            )
        try:
            yield handle, bytes(public.publicArea.marshal())
        finally:
            self._flush(handle)

    @contextmanager
    def _loaded(self, blob: Blob) -> Iterator[Any]:
        handle = self._load(blob)
        try:
            yield handle
        finally:
            self._flush(handle)

    def _load(self, blob: Blob) -> Any:
        self._let_go()
        with self._refusing("the sealed share is not of this TPM"):
            return self._esys.load(
                parent_handle=self._storage(),
                in_private=TPM2B_PRIVATE(buffer=blob.private),
                in_public=area_of(blob.public),
            )

    @contextmanager
    def _salted(self, kind: Any) -> Iterator[Any]:
        """Open a session salted to the storage key; an HMAC session encrypts both ways."""
        self._let_go()
        session = self._start(kind)
        try:
            yield session
        finally:
            self._flush(session)

    def _start(self, kind: Any, *, encrypts: bool = True) -> Any:
        """Start a session; `encrypts` is False where what comes back is no TPM2B (Part 1, 19.1.2).

        The salt makes the session's HMAC: who sits on the bus cannot swap a digest.
        """
        wanted = TPMA_SESSION.CONTINUESESSION
        if encrypts:
            wanted |= TPMA_SESSION.ENCRYPT
        if kind == TPM2_SE.HMAC:
            wanted |= TPMA_SESSION.DECRYPT
        with self._saying("a session"):
            session = self._esys.start_auth_session(
                tpm_key=self._storage(),
                bind=ESYS_TR.NONE,
                session_type=kind,
                symmetric=TPMT_SYM_DEF.unmarshal(_AES_128_CFB)[0],
                auth_hash=TPM2_ALG.SHA256,
            )
            self._esys.trsess_set_attributes(session=session, attributes=wanted, mask=0xFF)
        return session
