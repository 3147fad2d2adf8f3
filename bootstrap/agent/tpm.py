"""The TPM of this box: its EK, AK and device key, the evidence, and the sealed share.

One program uses the TPM at a time, without a resource manager: at most three transient objects, and
no session stays open. Sessions that carry secrets are salted to the EK and encrypt. It never
decides what is good evidence. docs/phone-home-v1.md; TPM 2.0 Library, Part 3.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_CC,
    TPM2_EO,
    TPM2_SE,
    TPMA_SESSION,
)
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_DIGEST,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_EVENT,
    TPM2B_ID_OBJECT,
    TPM2B_NONCE,
    TPM2B_OPERAND,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST,
    TPML_PCR_SELECTION,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
    TPMT_SYM_DEF_OBJECT,
    TPMT_TK_HASHCHECK,
)

from attest.ektemplate import TEMPLATES, EkTemplate, policy_a, policy_c
from attest.wire import decode_attest
from bootstrap.agent.errors import BoxError, Code, PeerError
from bootstrap.agent.tpm_keys import (
    AK_TEMPLATE,
    BOOT_PCRS,
    CHAIN_INDEX,
    DEVICE_TEMPLATE,
    MAX_CERTIFICATE,
    MAX_CERTIFICATES,
    OPENED_PCR,
    SEALED_PCRS,
    Counters,
    content,
    selection,
    signature_pair,
)
from bootstrap.agent.tpm_raw import flush_leftovers
from keys.errors import PeerError as KeysPeerError
from keys.tpm_public import HASH_IDS, HASHES, PublicArea

_PERMANENT = 0x200
_NV_FIRST = 0x01C00000
_NV_CHUNK = 512
_AUTH_READ = 1 << 18
_TRIES = 5
# Response codes, Part 2, 6.6; format-one codes without their parameter number.
_POLICY, _PCR_CHANGED, _POLICY_FAIL = 0x126, 0x128, 0x09D


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Quotes with their signatures, and the PCR values that they were made over."""

    quotes: tuple[tuple[bytes, bytes], ...]
    pcrs: dict[str, tuple[bytes, ...]]


@dataclass(slots=True, kw_only=True)
class _Loaded:
    handle: Any
    public: bytes


def _base(error: TSS2_Exception) -> int:
    """Give a TPM response code without parameter, handle or session number."""
    code = int(error.rc) & 0xFFF
    return code & 0x0BF if code & 0x080 else code


class Tpm:
    """An open TPM; close it, or use it as a context manager."""

    def __init__(self, tcti: str) -> None:
        """Connect by a TCTI string; BoxError TPM-FAILED when nothing answers."""
        try:
            self._esys = ESAPI(tcti)
            flush_leftovers(self._esys.get_tcti())
        except (TSS2_Exception, RuntimeError) as error:
            raise BoxError(Code.TPM_FAILED, f"the TPM does not answer: {error}") from None
        self._template: EkTemplate | None = None
        self._ek: _Loaded | None = None
        self._ak: _Loaded | None = None
        self._device: _Loaded | None = None

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
        for loaded in (self._device, self._ak, self._ek):
            if loaded is not None:
                self._flush(loaded.handle)
        self._esys.close()

    def _flush(self, handle: Any) -> None:
        try:
            self._esys.flush_context(flush_handle=handle)
        except TSS2_Exception:
            return

    # What the TPM says of itself

    def check_ownership(self) -> None:
        """Check that nobody took the owner or endorsement hierarchy; BoxError TPM-OWNED."""
        _, data = self._esys.get_capability(
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
        _, data = self._esys.get_capability(capability=TPM2_CAP.PCRS, prop=0, property_count=1)
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
            answer = self._esys.pcr_read(pcr_selection_in=wanted)
            found = _digests(answer[2].marshal())
            bits = int.from_bytes(answer[1].marshal()[7:10], "little")
            read = [index for index in waiting if bits >> index & 1]
            if not read or len(read) != len(found):
                raise BoxError(Code.TPM_FAILED, f"the TPM does not give the {bank} PCRs")
            values.update(zip(read, found, strict=True))
        return values

    # Keys

    def load_ek(self) -> bytes:
        """Create the id EK; gives its TPMT_PUBLIC. BoxError EK-NONE when there is no template."""
        present = self._nv_indices()
        with_certificate = [t for t in TEMPLATES if t.certificate_index in present]
        for template in with_certificate or TEMPLATES:
            try:
                self._ek = self._create_primary(ESYS_TR.ENDORSEMENT, template.public)
            except TSS2_Exception:
                continue
            self._template = template
            return self._ek.public
        raise BoxError(Code.EK_NONE, "the TPM makes no endorsement key from any TCG template")

    def ek_certificates(self) -> tuple[bytes, ...]:
        """Read the certificate of the id EK and the chain beside it, padding and all."""
        present = self._nv_indices()
        wanted = [self._template.certificate_index] if self._template else []
        wanted += sorted(index for index in present if CHAIN_INDEX <= index < CHAIN_INDEX + 0x100)
        found = (self._read_nv(index) for index in wanted if index in present)
        usable = [data for data in found if 0 < len(data) <= MAX_CERTIFICATE]
        return tuple(usable[:MAX_CERTIFICATES])

    def load_ak(self) -> bytes:
        """Create the AK under the EK; gives its TPMT_PUBLIC."""
        ek = self._need(self._ek)
        with self._ek_session() as session:
            private, public, *_ = self._esys.create(
                parent_handle=ek.handle,
                in_sensitive=TPM2B_SENSITIVE_CREATE(),
                in_public=_public(AK_TEMPLATE.encode()),
                outside_info=TPM2B_DATA(),
                creation_pcr=TPML_PCR_SELECTION(),
                session1=session,
            )
        with self._ek_session() as session:
            handle = self._esys.load(
                parent_handle=ek.handle, in_private=private, in_public=public, session1=session
            )
        self._ak = _Loaded(handle=handle, public=bytes(public.publicArea.marshal()))
        return self._ak.public

    def load_device(self) -> bytes:
        """Create the device key, the same at every boot; gives its TPMT_PUBLIC."""
        self._device = self._create_primary(ESYS_TR.OWNER, DEVICE_TEMPLATE)
        return self._device.public

    def drop_ak(self) -> None:
        """Flush the AK, to make room for the sealed share."""
        if self._ak is not None:
            self._flush(self._ak.handle)
            self._ak = None

    # Evidence

    def activate(self, credential_blob: bytes, encrypted_secret: bytes) -> bytes:
        """Open the credential (both TPM2B); PeerError CREDENTIAL when it is not for this TPM."""
        ek, ak = self._need(self._ek), self._need(self._ak)
        blob = content(credential_blob, "credential_blob")
        secret = content(encrypted_secret, "encrypted_secret")
        try:
            with self._salted(TPM2_SE.HMAC) as channel, self._ek_session() as session:
                opened = self._esys.activate_credential(
                    activate_handle=ak.handle,
                    key_handle=ek.handle,
                    credential_blob=TPM2B_ID_OBJECT(credential=blob),
                    secret=TPM2B_ENCRYPTED_SECRET(secret=secret),
                    session1=channel,
                    session2=session,
                )
        except TSS2_Exception as error:
            text = f"the TPM does not open the site's credential (0x{int(error.rc):x})"
            raise PeerError(Code.CREDENTIAL, text) from None
        return bytes(opened.buffer)

    def quote(self, extra_data: bytes) -> Measured:
        """Quote PCR 0 to 15 of every active bank, with values that were read in step."""
        banks = self.active_banks()
        for _ in range(_TRIES):
            values = {bank: self.read_pcrs(bank, BOOT_PCRS) for bank in banks}
            try:
                groups, quotes = (banks,), [self._quote(banks, extra_data)]
            except TSS2_Exception:
                # A TPM that refuses a selection of several banks: one quote for each.
                groups = tuple((bank,) for bank in banks[:4])
                quotes = [self._quote(group, extra_data) for group in groups]
            if all(map(_in_step, quotes, groups, [values] * len(quotes))):
                pcrs = {b: tuple(v[i] for i in BOOT_PCRS) for b, v in values.items()}
                return Measured(quotes=tuple(quotes), pcrs=pcrs)
        raise BoxError(Code.PCR_MOVED, "the PCRs change while they are quoted")

    def _quote(self, banks: tuple[str, ...], extra_data: bytes) -> tuple[bytes, bytes]:
        wanted = selection({HASH_IDS[bank]: BOOT_PCRS for bank in banks})
        attest, signature = self._esys.quote(
            sign_handle=self._need(self._ak).handle,
            pcr_select=TPML_PCR_SELECTION.unmarshal(wanted)[0],
            qualifying_data=TPM2B_DATA(extra_data),
            in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
        )
        return bytes(attest.attestationData), bytes(signature.marshal())

    def certify_device(self, extra_data: bytes) -> tuple[bytes, bytes]:
        """Certify the device key by the AK; gives TPMS_ATTEST and TPMT_SIGNATURE."""
        attest, signature = self._esys.certify(
            object_handle=self._need(self._device).handle,
            sign_handle=self._need(self._ak).handle,
            qualifying_data=TPM2B_DATA(extra_data),
            in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
        )
        return bytes(attest.attestationData), bytes(signature.marshal())

    def sign(self, message: bytes) -> bytes:
        """Sign with the device key, ECDSA P-256 with SHA-256; gives r‖s."""
        # TPM_ST_HASHCHECK, TPM_RH_NULL, no digest: the key is not restricted.
        ticket, _ = TPMT_TK_HASHCHECK.unmarshal(bytes.fromhex("8024400000070000"))
        signature = self._esys.sign(
            key_handle=self._need(self._device).handle,
            digest=TPM2B_DIGEST(hashlib.sha256(message).digest()),
            in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
            validation=ticket,
        )
        return signature_pair(bytes(signature.marshal()))

    # The sealed share

    def open_share(
        self, sealed_public: bytes, duplicate: bytes, seed: bytes, counters: Counters
    ) -> bytes:
        """Import, load and unseal the share of a bundle; PeerError says what the TPM refuses."""
        self.drop_ak()
        handle = self._import(sealed_public, duplicate, seed)
        try:
            with self._salted(TPM2_SE.POLICY) as session:
                self._assert_boot(session, counters)
                return self._unseal(handle, session)
        finally:
            self._flush(handle)

    def _import(self, sealed_public: bytes, duplicate: bytes, seed: bytes) -> Any:
        ek = self._need(self._ek)
        blob, secret = content(duplicate, "duplicate"), content(seed, "seed")
        try:
            PublicArea.decode(sealed_public)
            public = _public(sealed_public)
            with self._ek_session() as session:
                private = self._esys.import_(
                    parent_handle=ek.handle,
                    encryption_key=TPM2B_DATA(),
                    object_public=public,
                    duplicate=TPM2B_PRIVATE(buffer=blob),
                    in_sym_seed=TPM2B_ENCRYPTED_SECRET(secret=secret),
                    symmetric_alg=TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL),
                    session1=session,
                )
            with self._ek_session() as session:
                return self._esys.load(
                    parent_handle=ek.handle, in_private=private, in_public=public, session1=session
                )
        except (TSS2_Exception, KeysPeerError) as error:
            text = f"the TPM does not take the bundle: {error}"
            raise PeerError(Code.BUNDLE_CLOSED, text) from None

    def _assert_boot(self, session: Any, counters: Counters) -> None:
        """Walk the policy in the order of the specification."""
        other = "the bundle is for another boot of this box"
        steps = (
            (counters.reset_count, 4, 16, TPM2_EO.EQ, Code.BUNDLE_OTHER_BOOT, other),
            (counters.restart_count, 4, 20, TPM2_EO.EQ, Code.BUNDLE_OTHER_BOOT, other),
            (
                counters.clock_before,
                8,
                8,
                TPM2_EO.UNSIGNED_LT,
                Code.BUNDLE_EXPIRED,
                "the time to open the bundle is over",
            ),
        )
        for value, size, offset, operation, code, sentence in steps:
            try:
                self._esys.policy_counter_timer(
                    policy_session=session,
                    operand_b=TPM2B_OPERAND(value.to_bytes(size, "big")),
                    operation=operation,
                    offset=offset,
                )
            except TSS2_Exception as error:
                raise _refused(error, code, sentence) from None

    def _unseal(self, handle: Any, session: Any) -> bytes:
        wanted, _ = TPML_PCR_SELECTION.unmarshal(selection({HASH_IDS["sha256"]: SEALED_PCRS}))
        try:
            self._esys.policy_pcr(policy_session=session, pcr_digest=TPM2B_DIGEST(), pcrs=wanted)
            self._esys.policy_command_code(policy_session=session, code=TPM2_CC.Unseal)
            share = self._esys.unseal(item_handle=handle, session1=session)
        except TSS2_Exception as error:
            sentence = "the PCRs are not those that were attested, or a bundle was opened before"
            raise _refused(error, Code.BUNDLE_OTHER_PCRS, sentence) from None
        return bytes(share.buffer)

    def extend_opened(self, event: bytes) -> None:
        """Extend PCR 15 of every bank: nothing that was sealed to this boot opens again."""
        self._esys.pcr_event(pcr_handle=ESYS_TR(OPENED_PCR), event_data=TPM2B_EVENT(event))

    # Sessions, primary keys, NV

    @contextmanager
    def _ek_session(self) -> Iterator[Any]:
        """Open the policy session that the EK's template asks for."""
        area = PublicArea.decode(self._need(self._ek).public)
        session = self._esys.start_auth_session(
            tpm_key=ESYS_TR.NONE,
            bind=ESYS_TR.NONE,
            session_type=TPM2_SE.POLICY,
            symmetric=TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
            auth_hash=TPM2_ALG(area.name_alg),
        )
        try:
            self._esys.policy_secret(
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
                self._esys.policy_or(policy_session=session, p_hash_list=digests)
            yield session
        finally:
            self._flush(session)

    @contextmanager
    def _salted(self, kind: Any) -> Iterator[Any]:
        """Open a session that only this EK's TPM can read, and that encrypts what it carries."""
        aes = bytes.fromhex("000600800043")
        session = self._esys.start_auth_session(
            tpm_key=self._need(self._ek).handle,
            bind=ESYS_TR.NONE,
            session_type=kind,
            symmetric=TPMT_SYM_DEF.unmarshal(aes)[0],
            auth_hash=TPM2_ALG.SHA256,
        )
        try:
            wanted = TPMA_SESSION.ENCRYPT | TPMA_SESSION.CONTINUESESSION
            if kind == TPM2_SE.HMAC:
                wanted |= TPMA_SESSION.DECRYPT
            self._esys.trsess_set_attributes(session=session, attributes=wanted, mask=0xFF)
            yield session
        finally:
            self._flush(session)

    def _create_primary(self, hierarchy: Any, template: PublicArea) -> _Loaded:
        handle, public, *_ = self._esys.create_primary(
            primary_handle=hierarchy,
            in_sensitive=TPM2B_SENSITIVE_CREATE(),
            in_public=_public(template.encode()),
            outside_info=TPM2B_DATA(),
            creation_pcr=TPML_PCR_SELECTION(),
        )
        return _Loaded(handle=handle, public=bytes(public.publicArea.marshal()))

    def _need(self, loaded: _Loaded | None) -> _Loaded:
        if loaded is None:
            raise RuntimeError("a key is used before it was loaded")
        return loaded

    def _nv_indices(self) -> frozenset[int]:
        """List the NV indices of the TCG's range."""
        found: set[int] = set()
        first = _NV_FIRST
        while first:
            more, data = self._esys.get_capability(
                capability=TPM2_CAP.HANDLES, prop=first, property_count=64
            )
            raw = data.marshal()
            count = int.from_bytes(raw[4:8], "big")
            handles = struct.unpack_from(f">{count}I", raw, 8)
            found.update(handles)
            first = handles[-1] + 1 if more and handles else 0
        return frozenset(found)

    def _read_nv(self, index: int) -> bytes:
        """Read a whole NV index; empty when it cannot be read without a password."""
        data = bytearray()
        try:
            handle = self._esys.tr_from_tpmpublic(handle=index)
            public, _ = self._esys.nv_read_public(nv_index=handle)
            own = int(public.nvPublic.attributes) & _AUTH_READ
            size = int(public.nvPublic.dataSize)
            while len(data) < size:
                part = self._esys.nv_read(
                    nv_index=handle,
                    size=min(_NV_CHUNK, size - len(data)),
                    offset=len(data),
                    auth_handle=handle if own else ESYS_TR.OWNER,
                )
                data += bytes(part.buffer)
        except TSS2_Exception:
            return b""
        return bytes(data)


def _public(area: bytes) -> Any:
    return TPM2B_PUBLIC(publicArea=TPMT_PUBLIC.unmarshal(area)[0])


def _digests(raw: bytes) -> list[bytes]:
    """Take a marshalled TPML_DIGEST apart."""
    count, at, found = int.from_bytes(raw[:4], "big"), 4, []
    for _ in range(count):
        size = int.from_bytes(raw[at : at + 2], "big")
        found.append(raw[at + 2 : at + 2 + size])
        at += 2 + size
    return found


def _in_step(
    quote: tuple[bytes, bytes], banks: tuple[str, ...], values: dict[str, dict[int, bytes]]
) -> bool:
    """Tell whether a quote was made over these values (its digest is SHA-256, as the AK's scheme)."""
    joined = b"".join(values[bank][index] for bank in banks for index in BOOT_PCRS)
    attested = decode_attest(quote[0]).attested
    return getattr(attested, "digest", None) == hashlib.sha256(joined).digest()


def _refused(error: TSS2_Exception, code: Code, sentence: str) -> PeerError:
    if _base(error) in (_POLICY, _PCR_CHANGED, _POLICY_FAIL):
        return PeerError(code, sentence)
    return PeerError(Code.BUNDLE_CLOSED, f"the TPM does not open the bundle: {error}")
