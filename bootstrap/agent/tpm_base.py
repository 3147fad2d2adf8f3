"""A connection to the TPM: sessions, primary keys, NV and what the TPM says of itself.

One program uses the TPM at a time, without a resource manager: at most three transient objects, and
no session stays open. It knows nothing of the protocol. TPM 2.0 Library, Part 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CAP, TPM2_SE, TPMA_SESSION
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_DIGEST,
    TPM2B_NONCE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST,
    TPML_PCR_SELECTION,
    TPMT_PUBLIC,
    TPMT_SYM_DEF,
)

from attest.ektemplate import policy_a, policy_c
from bootstrap.agent.errors import BoxError, Code
from bootstrap.agent.tpm_keys import selection
from bootstrap.agent.tpm_raw import flush_leftovers
from keys.tpm_public import HASH_IDS, HASHES, PublicArea

_PERMANENT = 0x200
_NV_FIRST = 0x01C00000
_NV_CHUNK = 512
_AUTH_READ = 1 << 18


@dataclass(slots=True, kw_only=True)
class Loaded:
    handle: Any
    public: bytes


class Connection:
    """A connected TPM with up to three keys; close it, or use it as a context manager."""

    def __init__(self, tcti: str) -> None:
        """Connect by a TCTI string; BoxError TPM-FAILED when nothing answers."""
        try:
            self.esys = ESAPI(tcti)
            flush_leftovers(self.esys.get_tcti())
        except (TSS2_Exception, RuntimeError) as error:
            raise BoxError(Code.TPM_FAILED, f"the TPM does not answer: {error}") from None
        self.ek: Loaded | None = None
        self.ak: Loaded | None = None
        self.device: Loaded | None = None

    def __enter__(self) -> Self:
        """Give the TPM itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Flush the keys and disconnect."""
        for loaded in (self.device, self.ak, self.ek):
            if loaded is not None:
                self.flush(loaded.handle)
        self.esys.close()

    def flush(self, handle: Any) -> None:
        try:
            self.esys.flush_context(flush_handle=handle)
        except TSS2_Exception:
            return

    # What the TPM says of itself

    def check_ownership(self) -> None:
        """Check that nobody took the owner or endorsement hierarchy; BoxError TPM-OWNED."""
        _, data = self.esys.get_capability(
            capability=TPM2_CAP.TPM_PROPERTIES, prop=_PERMANENT, property_count=1
        )
        # capability, count, then property and value.
        _, count, name, value = struct.unpack(">IIII", data.marshal()[:16])
        if count != 1 or name != _PERMANENT:
            raise BoxError(Code.TPM_FAILED, "the TPM does not say whether it is owned")
        taken = [word for bit, word in ((0, "owner"), (1, "endorsement")) if value >> bit & 1]
        if taken:
            raise BoxError(
                Code.TPM_OWNED,
                f"the TPM has a password on its {' and '.join(taken)} hierarchy: "
                "clear the TPM in the firmware setup",
            )

    def active_banks(self) -> tuple[str, ...]:
        """Give the banks that hold PCR 0 to 15 and that the protocol has a name for."""
        _, data = self.esys.get_capability(capability=TPM2_CAP.PCRS, prop=0, property_count=1)
        raw = data.marshal()[4:]
        count, at, banks = int.from_bytes(raw[:4], "big"), 4, []
        for _ in range(count):
            algorithm, width = struct.unpack_from(">HB", raw, at)
            bits = int.from_bytes(raw[at + 3 : at + 3 + width], "little")
            at += 3 + width
            if algorithm in HASHES and bits & 0xFFFF == 0xFFFF:
                banks.append(HASHES[algorithm])
        return tuple(banks)

    def read_pcrs(self, bank: str, indices: tuple[int, ...]) -> dict[int, bytes]:
        """Read PCRs of one bank, in as many calls as the TPM needs."""
        values: dict[int, bytes] = {}
        while waiting := tuple(index for index in indices if index not in values):
            wanted, _ = TPML_PCR_SELECTION.unmarshal(selection({HASH_IDS[bank]: waiting[:8]}))
            # The tuple keeps its parts alive: their memory is the TPM stack's.
            answer = self.esys.pcr_read(pcr_selection_in=wanted)
            found = _digests(answer[2].marshal())
            bits = int.from_bytes(answer[1].marshal()[7:10], "little")
            read = [index for index in waiting if bits >> index & 1]
            if not read or len(read) != len(found):
                raise BoxError(Code.TPM_FAILED, f"the TPM does not give the {bank} PCRs")
            values.update(zip(read, found, strict=True))
        return values

    # Sessions, primary keys, NV

    @contextmanager
    def ek_session(self) -> Iterator[Any]:
        """Open the policy session that the EK's template asks for."""
        area = PublicArea.decode(self.need(self.ek).public)
        session = self.esys.start_auth_session(
            tpm_key=ESYS_TR.NONE,
            bind=ESYS_TR.NONE,
            session_type=TPM2_SE.POLICY,
            symmetric=TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
            auth_hash=TPM2_ALG(area.name_alg),
        )
        try:
            self.esys.policy_secret(
                auth_handle=ESYS_TR.ENDORSEMENT,
                policy_session=session,
                nonce_tpm=TPM2B_NONCE(),
                cp_hash_a=TPM2B_DIGEST(),
                policy_ref=TPM2B_NONCE(),
                expiration=0,
            )
            if area.auth_policy != policy_a(area.name_hash):
                branches = [policy_a(area.name_hash), policy_c(area.name_hash)]
                digests = TPML_DIGEST([TPM2B_DIGEST(branch) for branch in branches])
                self.esys.policy_or(policy_session=session, p_hash_list=digests)
            yield session
        finally:
            self.flush(session)

    @contextmanager
    def salted(self, kind: Any) -> Iterator[Any]:
        """Open a session that only this EK's TPM can read, and that encrypts what it carries."""
        aes = bytes.fromhex("000600800043")
        session = self.esys.start_auth_session(
            tpm_key=self.need(self.ek).handle,
            bind=ESYS_TR.NONE,
            session_type=kind,
            symmetric=TPMT_SYM_DEF.unmarshal(aes)[0],
            auth_hash=TPM2_ALG.SHA256,
        )
        try:
            wanted = TPMA_SESSION.ENCRYPT | TPMA_SESSION.CONTINUESESSION
            if kind == TPM2_SE.HMAC:
                wanted |= TPMA_SESSION.DECRYPT
            self.esys.trsess_set_attributes(session=session, attributes=wanted, mask=0xFF)
            yield session
        finally:
            self.flush(session)

    def create_primary(self, hierarchy: Any, template: PublicArea) -> Loaded:
        handle, public, *_ = self.esys.create_primary(
            primary_handle=hierarchy,
            in_sensitive=TPM2B_SENSITIVE_CREATE(),
            in_public=public_area(template.encode()),
            outside_info=TPM2B_DATA(),
            creation_pcr=TPML_PCR_SELECTION(),
        )
        return Loaded(handle=handle, public=bytes(public.publicArea.marshal()))

    def need(self, loaded: Loaded | None) -> Loaded:
        if loaded is None:
            raise RuntimeError("a key is used before it was loaded")
        return loaded

    def nv_indices(self) -> frozenset[int]:
        """List the NV indices of the TCG's range."""
        found: set[int] = set()
        first = _NV_FIRST
        while first:
            more, data = self.esys.get_capability(
                capability=TPM2_CAP.HANDLES, prop=first, property_count=64
            )
            raw = data.marshal()
            count = int.from_bytes(raw[4:8], "big")
            handles = struct.unpack_from(f">{count}I", raw, 8)
            found.update(handles)
            first = handles[-1] + 1 if more and handles else 0
        return frozenset(found)

    def read_nv(self, index: int) -> bytes:
        """Read a whole NV index; empty when it cannot be read without a password."""
        data = bytearray()
        try:
            handle = self.esys.tr_from_tpmpublic(handle=index)
            public, _ = self.esys.nv_read_public(nv_index=handle)
            own = int(public.nvPublic.attributes) & _AUTH_READ
            size = int(public.nvPublic.dataSize)
            while len(data) < size:
                part = self.esys.nv_read(
                    nv_index=handle,
                    size=min(_NV_CHUNK, size - len(data)),
                    offset=len(data),
                    auth_handle=handle if own else ESYS_TR.OWNER,
                )
                data += bytes(part.buffer)
        except TSS2_Exception:
            return b""
        return bytes(data)


def public_area(area: bytes) -> Any:
    return TPM2B_PUBLIC(publicArea=TPMT_PUBLIC.unmarshal(area)[0])


def _digests(raw: bytes) -> list[bytes]:
    """Take a marshalled TPML_DIGEST apart."""
    count, at, found = int.from_bytes(raw[:4], "big"), 4, []
    for _ in range(count):
        size = int.from_bytes(raw[at : at + 2], "big")
        found.append(raw[at + 2 : at + 2 + size])
        at += 2 + size
    return found
