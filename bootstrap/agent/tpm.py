"""The TPM of this box: its EK, AK and device key, the evidence, and the sealed share.

One program uses the TPM at a time, without a resource manager: at most three transient objects, and
no session stays open. Sessions that carry secrets are salted to the EK and encrypt. It never
decides what is good evidence. docs/phone-home-v1.md; TPM 2.0 Library, Part 3.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CC,
    TPM2_EO,
    TPM2_SE,
)
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_DIGEST,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_EVENT,
    TPM2B_ID_OBJECT,
    TPM2B_NAME,
    TPM2B_NONCE,
    TPM2B_OPERAND,
    TPM2B_PRIVATE,
    TPM2B_SENSITIVE_CREATE,
    TPML_PCR_SELECTION,
    TPMT_SIG_SCHEME,
    TPMT_SIGNATURE,
    TPMT_SYM_DEF_OBJECT,
    TPMT_TK_HASHCHECK,
)

from attest.ektemplate import TEMPLATES, EkTemplate
from attest.wire import decode_attest
from bootstrap.agent.errors import BoxError, Code, PeerError
from bootstrap.agent.tpm_base import Connection, Loaded, public_area
from bootstrap.agent.tpm_keys import (
    AK_TEMPLATE,
    BOOT_PCRS,
    CHAIN_INDEX,
    DEVICE_TEMPLATE,
    MAX_CERTIFICATE,
    MAX_CERTIFICATES,
    MAX_PLATFORM_CERTIFICATES,
    OPENED_PCR,
    PLATFORM_INDICES,
    SEALED_PCRS,
    Counters,
    content,
    pair_signature,
    selection,
    signature_pair,
)
from keys.errors import PeerError as KeysPeerError
from keys.tpm_public import HASH_IDS, PublicArea

if TYPE_CHECKING:
    from bootstrap.agent.wrapped import Item

_OTHER_PCRS = "the PCRs are not those that were attested, or a bundle was opened before"
_PERMANENT = 0x200
_NV_FIRST = 0x01C00000
_NV_CHUNK = 512
_AUTH_READ = 1 << 18
_TRIES = 5
_PLATFORM_TRIES = 8
# Response codes, Part 2, 6.6; format-one codes without their parameter number.
_POLICY, _PCR_CHANGED, _POLICY_FAIL = 0x126, 0x128, 0x09D


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Quotes with their signatures, and the PCR values that they were made over."""

    quotes: tuple[tuple[bytes, bytes], ...]
    pcrs: dict[str, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AkParts:
    """The AK of this boot for its TPM alone: TPM2B_PRIVATE (encrypted) and TPM2B_PUBLIC."""

    private: Any
    public: Any


def _base(error: TSS2_Exception) -> int:
    """Give a TPM response code without parameter, handle or session number."""
    code = int(error.rc) & 0xFFF
    return code & 0x0BF if code & 0x080 else code


class Tpm(Connection):
    """The keys, evidence and share of one box; close it, or use it as a context manager."""

    def __init__(self, tcti: str) -> None:
        """Connect by a TCTI string; BoxError TPM-FAILED when nothing answers."""
        super().__init__(tcti)
        self._template: EkTemplate | None = None
        self.ak_parts: AkParts | None = None

    # Keys

    def load_ek(self) -> bytes:
        """Create the id EK; gives its TPMT_PUBLIC. BoxError EK-NONE when there is no template."""
        present = self.nv_indices()
        with_certificate = [t for t in TEMPLATES if t.certificate_index in present]
        for template in with_certificate or TEMPLATES:
            try:
                self.ek = self.create_primary(ESYS_TR.ENDORSEMENT, template.public)
            except TSS2_Exception:
                continue
            self._template = template
            return self.ek.public
        raise BoxError(Code.EK_NONE, "the TPM makes no endorsement key from any TCG template")

    def ek_certificates(self) -> tuple[bytes, ...]:
        """Read the certificate of the id EK and the chain beside it, padding and all."""
        present = self.nv_indices()
        wanted = [self._template.certificate_index] if self._template else []
        wanted += sorted(index for index in present if CHAIN_INDEX <= index < CHAIN_INDEX + 0x100)
        found = (self.read_nv(index) for index in wanted if index in present)
        usable = [data for data in found if 0 < len(data) <= MAX_CERTIFICATE]
        return tuple(usable[:MAX_CERTIFICATES])

    def platform_certificates(self) -> tuple[bytes, ...]:
        """Read the certificates that the maker of the machine left in NV; few machines have any."""
        indices = sorted(self.nv_indices())
        present = [one for one in indices if any(one in some for some in PLATFORM_INDICES)]
        found = (self.read_nv(index) for index in present[:_PLATFORM_TRIES])
        usable = [data for data in found if 0 < len(data) <= MAX_CERTIFICATE]
        return tuple(usable[:MAX_PLATFORM_CERTIFICATES])

    def load_ak(self, known: AkParts | None = None) -> bytes:
        """Create the AK under the EK, or load the known one again; gives its TPMT_PUBLIC."""
        ek = self.need(self.ek)
        parts = known or self._create_ak(ek)
        with self.ek_session() as session:
            handle = self.esys.load(
                parent_handle=ek.handle,
                in_private=parts.private,
                in_public=parts.public,
                session1=session,
            )
        self.ak = Loaded(handle=handle, public=bytes(parts.public.publicArea.marshal()))
        self.ak_parts = parts
        return self.ak.public

    def _create_ak(self, ek: Loaded) -> AkParts:
        with self.ek_session() as session:
            private, public, *_ = self.esys.create(
                parent_handle=ek.handle,
                in_sensitive=TPM2B_SENSITIVE_CREATE(),
                in_public=public_area(AK_TEMPLATE.encode()),
                outside_info=TPM2B_DATA(),
                creation_pcr=TPML_PCR_SELECTION(),
                session1=session,
            )
        return AkParts(private=private, public=public)

    def load_device(self) -> bytes:
        """Create the device key, the same at every boot; gives its TPMT_PUBLIC."""
        self.device = self.create_primary(ESYS_TR.OWNER, DEVICE_TEMPLATE)
        return self.device.public

    def drop_ak(self) -> None:
        """Flush the AK, to make room for the sealed share."""
        if self.ak is not None:
            self.flush(self.ak.handle)
            self.ak = None

    # Evidence

    def activate(self, credential_blob: bytes, encrypted_secret: bytes) -> bytes:
        """Open the credential (both TPM2B); PeerError CREDENTIAL when it is not for this TPM."""
        ek, ak = self.need(self.ek), self.need(self.ak)
        blob = content(credential_blob, "credential_blob")
        secret = content(encrypted_secret, "encrypted_secret")
        try:
            with self.salted(TPM2_SE.HMAC) as channel, self.ek_session() as session:
                opened = self.esys.activate_credential(
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
                groups: tuple[tuple[str, ...], ...] = (banks,)
                quotes = [self._quote(banks, extra_data)]
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
        attest, signature = self.esys.quote(
            sign_handle=self.need(self.ak).handle,
            pcr_select=TPML_PCR_SELECTION.unmarshal(wanted)[0],
            qualifying_data=TPM2B_DATA(extra_data),
            in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
        )
        return bytes(attest.attestationData), bytes(signature.marshal())

    def certify_device(self, extra_data: bytes) -> tuple[bytes, bytes]:
        """Certify the device key by the AK; gives TPMS_ATTEST and TPMT_SIGNATURE."""
        attest, signature = self.esys.certify(
            object_handle=self.need(self.device).handle,
            sign_handle=self.need(self.ak).handle,
            qualifying_data=TPM2B_DATA(extra_data),
            in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
        )
        return bytes(attest.attestationData), bytes(signature.marshal())

    def sign(self, message: bytes) -> bytes:
        """Sign with the device key, ECDSA P-256 with SHA-256; gives r‖s."""
        # TPM_ST_HASHCHECK, TPM_RH_NULL, no digest: the key is not restricted.
        ticket, _ = TPMT_TK_HASHCHECK.unmarshal(bytes.fromhex("8024400000070000"))
        signature = self.esys.sign(
            key_handle=self.need(self.device).handle,
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
            with self.salted(TPM2_SE.POLICY) as session:
                self._assert_boot(session, counters)
                return self._unseal(handle, session)
        finally:
            self.flush(handle)

    def _import(self, sealed_public: bytes, duplicate: bytes, seed: bytes) -> Any:
        ek = self.need(self.ek)
        blob, secret = content(duplicate, "duplicate"), content(seed, "seed")
        try:
            PublicArea.decode(sealed_public)
            public = public_area(sealed_public)
            with self.ek_session() as session:
                private = self.esys.import_(
                    parent_handle=ek.handle,
                    encryption_key=TPM2B_DATA(),
                    object_public=public,
                    duplicate=TPM2B_PRIVATE(buffer=blob),
                    in_sym_seed=TPM2B_ENCRYPTED_SECRET(secret=secret),
                    symmetric_alg=TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL),
                    session1=session,
                )
            with self.ek_session() as session:
                return self.esys.load(
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
                self.esys.policy_counter_timer(
                    policy_session=session,
                    operand_b=TPM2B_OPERAND(value.to_bytes(size, "big")),
                    operation=operation,
                    offset=offset,
                )
            except TSS2_Exception as error:
                raise _refused(error, code, sentence) from None

        self._assert_pcrs(session)

    def _assert_pcrs(self, session: Any) -> None:
        wanted, _ = TPML_PCR_SELECTION.unmarshal(selection({HASH_IDS["sha256"]: SEALED_PCRS}))
        try:
            self.esys.policy_pcr(policy_session=session, pcr_digest=TPM2B_DIGEST(), pcrs=wanted)
            self.esys.policy_command_code(policy_session=session, code=TPM2_CC.Unseal)
        except TSS2_Exception as error:
            raise _refused(error, Code.BUNDLE_OTHER_PCRS, _OTHER_PCRS) from None

    def _unseal(self, handle: Any, session: Any) -> bytes:
        try:
            share = self.esys.unseal(item_handle=handle, session1=session)
        except TSS2_Exception as error:
            raise _refused(error, Code.BUNDLE_OTHER_PCRS, _OTHER_PCRS) from None
        return bytes(share.buffer)

    def open_wrapped(self, item: Item, counters: Counters) -> bytes:
        """Unseal the share of a wrapped secret, in the boot that the site approved for it.

        PeerError says what the TPM refuses.
        """
        self.drop_ak()
        with self.salted(TPM2_SE.POLICY) as session:
            self._assert_boot(session, counters)
            self._authorize(session, item)
            handle = self._import(item.sealed_public, item.duplicate, item.seed)
            try:
                return self._unseal(handle, session)
            finally:
                self.flush(handle)

    def _authorize(self, session: Any, item: Item) -> None:
        """Exchange the policy of this boot for what the site's key approved it for."""
        digest = bytes(self.esys.policy_get_digest(policy_session=session).buffer)
        try:
            ticket = self._approval_ticket(item, hashlib.sha256(digest + item.reference).digest())
            self.esys.policy_authorize(
                policy_session=session,
                approved_policy=TPM2B_DIGEST(digest),
                policy_ref=TPM2B_NONCE(item.reference),
                key_sign=TPM2B_NAME(PublicArea.decode(item.key).name()),
                check_ticket=ticket,
            )
        except (TSS2_Exception, KeysPeerError) as error:
            text = f"the site's approval is not for this boot and secret: {error}"
            raise PeerError(Code.BUNDLE_OTHER_BOOT, text) from None

    def _approval_ticket(self, item: Item, digest: bytes) -> Any:
        """Let the TPM verify the approval; its key is gone again before the share comes."""
        PublicArea.decode(item.key)
        key = self.esys.load_external(in_public=public_area(item.key), hierarchy=ESYS_TR.OWNER)
        try:
            return self.esys.verify_signature(
                key_handle=key,
                digest=TPM2B_DIGEST(digest),
                signature=TPMT_SIGNATURE.unmarshal(pair_signature(item.approval))[0],
            )
        finally:
            self.flush(key)

    def extend_opened(self, event: bytes) -> None:
        """Extend PCR 15 of every bank: nothing that was sealed to this boot opens again."""
        self.esys.pcr_event(pcr_handle=ESYS_TR(OPENED_PCR), event_data=TPM2B_EVENT(event))


def _in_step(
    quote: tuple[bytes, bytes], banks: tuple[str, ...], values: dict[str, dict[int, bytes]]
) -> bool:
    """Tell whether a quote was made over these values (SHA-256, as the AK's scheme)."""
    joined = b"".join(values[bank][index] for bank in banks for index in BOOT_PCRS)
    attested = decode_attest(quote[0]).attested
    return getattr(attested, "digest", None) == hashlib.sha256(joined).digest()


def _refused(error: TSS2_Exception, code: Code, sentence: str) -> PeerError:
    if _base(error) in (_POLICY, _PCR_CHANGED, _POLICY_FAIL):
        return PeerError(code, sentence)
    return PeerError(Code.BUNDLE_CLOSED, f"the TPM does not open the bundle: {error}")
