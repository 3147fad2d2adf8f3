"""A box in software: keys that no TPM holds, signing whatever a test or vector needs.

Everything follows from fixed numbers, so that vectors come out the same byte by byte. Only the
credential challenge tells such a box from a TPM; every structural check sees a perfect one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID, ObjectIdentifier

from attest import eventlog
from attest.ak import AK_TEMPLATE, qualified_name_under_ek
from attest.certify import DEVICE_TEMPLATE
from attest.ektemplate import TEMPLATES
from attest.evidence import Evidence, Signed
from attest.replay import replay
from attest.transcript import (
    Enrolment,
    Session,
    SiteIdentity,
    device_data,
    enrol_data,
    hello_digest,
    make_session,
    slot,
)
from attest.wire import (
    Attest,
    BankSelection,
    CertifyInfo,
    ClockInfo,
    EcdsaSignature,
    QuoteInfo,
    encode_signature,
)
from keys.tpm_public import EccPublic, PublicArea

NOW = 1_795_000_000.0
SITE = SiteIdentity(site_id="shop-0417", root=hashlib.sha256(b"root of the vectors").digest())
KEY = hashlib.sha256(b"K of the vectors").digest()
CLOCK = ClockInfo(clock=90_000, reset_count=12, restart_count=3, safe=True)
EK_TEMPLATE = TEMPLATES[0].public


def private_key(label: str) -> ec.EllipticCurvePrivateKey:
    """Give the P-256 key of a label."""
    number = int.from_bytes(hashlib.sha256(label.encode()).digest(), "big")
    return ec.derive_private_key(number >> 1, ec.SECP256R1())


def area(template: PublicArea, key: ec.EllipticCurvePrivateKey) -> PublicArea:
    """Put a key into a template."""
    numbers = key.public_key().public_numbers()
    assert isinstance(template.key, EccPublic)
    filled = replace(template.key, x=numbers.x.to_bytes(32, "big"), y=numbers.y.to_bytes(32, "big"))
    return replace(template, key=filled)


def sign(key: ec.EllipticCurvePrivateKey, data: bytes, hash_name: str = "sha256") -> EcdsaSignature:
    """Sign as a TPM does, with RFC 6979 numbers."""
    algorithm = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256()}[hash_name]
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(algorithm, deterministic_signing=True)))
    return EcdsaSignature(hash_name=hash_name, r=r.to_bytes(32, "big"), s=s.to_bytes(32, "big"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One box by its label."""

    label: str = "box A"
    ek_template: PublicArea = EK_TEMPLATE
    ak_template: PublicArea = AK_TEMPLATE
    device_template: PublicArea = DEVICE_TEMPLATE

    @property
    def ek(self) -> PublicArea:
        return area(self.ek_template, private_key(f"ek of {self.label}"))

    @property
    def ak(self) -> PublicArea:
        return area(self.ak_template, private_key(f"ak of {self.label}"))

    @property
    def device(self) -> PublicArea:
        return area(self.device_template, private_key(f"device key of {self.label}"))

    def sign(self, attest: Attest) -> Signed:
        """Sign an attestation with the AK."""
        data = attest.encode()
        signature = sign(private_key(f"ak of {self.label}"), data)
        return Signed(attest=data, signature=encode_signature(signature))

    def attest(self, attested: QuoteInfo | CertifyInfo, extra: bytes, **changes: object) -> Attest:
        """Build an attestation of this box."""
        fields: dict = {
            "qualified_signer": qualified_name_under_ek(self.ek, self.ak),
            "extra_data": extra,
            "clock": CLOCK,
            "firmware_version": 0x2000_1234_0000_0001,
            "attested": attested,
        }
        return Attest(**(fields | changes))

    def hello(self) -> bytes:
        """Give a body of step 1 (only its hash matters here)."""
        return b'{"v":1,"box":"' + self.label.encode() + b'"}'

    def enrolment(self, **changes: object) -> Enrolment:
        """Give what Q binds for this box."""
        fields: dict = {
            "box_nonce": hashlib.sha256(f"nonce of {self.label}".encode()).digest(),
            "ek_name": self.ek.name(),
            "ak_name": self.ak.name(),
            "hello_digest": hello_digest(self.hello()),
            "facts": b'{"release":"' + self.label.encode() + b'"}',
            "ephemeral": hashlib.sha256(f"ephemeral of {self.label}".encode()).digest(),
            "device_public": self.device.encode(),
            "ssh_host_key": b"ssh-ed25519 " + self.label.encode(),
        }
        return Enrolment(**(fields | changes))

    def session(self, now: float = NOW) -> Session:
        """Give the session that the site of the vectors makes for it."""
        enrolment = self.enrolment()
        return make_session(
            KEY, SITE, enrolment.ek_name, enrolment.ak_name, enrolment.hello_digest, slot(now)
        )

    def q(self) -> bytes:
        """Give Q of its session."""
        return enrol_data(SITE, self.session(), self.enrolment())


def quote_info(values: Mapping[str, Mapping[int, bytes]], hash_name: str = "sha256") -> QuoteInfo:
    """Quote all given values."""
    selection = tuple(
        BankSelection(bank=bank, indices=tuple(sorted(given))) for bank, given in values.items()
    )
    joined = b"".join(given[index] for given in values.values() for index in sorted(given))
    return QuoteInfo(selection=selection, digest=hashlib.new(hash_name, joined).digest())


def values_of(log: bytes, banks: Iterable[str] = ("sha256",)) -> dict[str, dict[int, bytes]]:
    """Give PCR 0 to 15 after a log."""
    decoded = eventlog.decode(log)
    found = {}
    for bank in banks:
        replayed = replay(decoded, bank)
        found[bank] = {index: replayed[index] for index in range(16)}
    return found


def evidence(
    log: bytes,
    box: Box | None = None,
    *,
    values: Mapping[str, Mapping[int, bytes]] | None = None,
    certificates: tuple[bytes, ...] | None = None,
    device_changes: Mapping[str, object] | None = None,
    **changes: object,
) -> Evidence:
    """Make the evidence of a box that booted a log; `changes` are those of its quote."""
    box = box or Box()
    values = values or values_of(log)
    q = box.q()
    certified = CertifyInfo(name=box.device.name(), qualified_name=box.device.name())
    return Evidence(
        nonce=q,
        ek_public=box.ek.encode(),
        ek_certificates=(ek_certificate(box.ek),) if certificates is None else certificates,
        ak_public=box.ak.encode(),
        quotes=(box.sign(box.attest(quote_info(values), q, **changes)),),
        pcrs=values,
        event_log=log,
        facts=box.enrolment().facts,
        device_public=box.device.encode(),
        device=box.sign(box.attest(certified, device_data(q), **(device_changes or {}))),
    )


def root_certificate(
    name: str = "Maker TPM Root CA", key: str = "maker root", *, path_length: int | None = None
) -> bytes:
    """Give a maker's root."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    keys = private_key(key), private_key(key)
    return _certificate(subject, subject, *keys, ca=True, path_length=path_length)


def intermediate_certificate(
    *, path_length: int | None = 0, usage: str | None = None, critical: bool = False
) -> bytes:
    """Give a maker's intermediate below its root."""
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Maker TPM Root CA")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Maker TPM CA 1")])
    keys = private_key("maker intermediate"), private_key("maker root")
    extra: list[x509.ExtensionType] = []
    if usage is not None:
        extra.append(x509.ExtendedKeyUsage([ObjectIdentifier(usage)]))
    if critical:
        extra.append(x509.UnrecognizedExtension(ObjectIdentifier("2.25.1"), b"\x05\x00"))
    return _certificate(subject, issuer, *keys, ca=True, path_length=path_length, extra=extra)


def ek_certificate(
    ek: PublicArea,
    *,
    issuer: str = "Maker TPM Root CA",
    issuer_key: str = "maker root",
    maker: str = "id:4E544300",
    model: str = "NPCT75x",
    usage: str = "2.23.133.8.1",
    until: datetime = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    critical: bool = False,
    ca: bool | None = False,
    key_usage: str | None = "key_agreement",
) -> bytes:
    """Give an EK certificate as makers write them: empty subject, critical SAN."""
    from_ = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    names = [
        x509.NameAttribute(ObjectIdentifier("2.23.133.2.1"), maker),
        x509.NameAttribute(ObjectIdentifier("2.23.133.2.2"), model),
        x509.NameAttribute(ObjectIdentifier("2.23.133.2.3"), "id:00070002"),
    ]
    san = x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(names))])
    public = ek.public_key()
    builder = _builder(x509.Name([]), from_, public, until)
    builder = builder.add_extension(san, critical=True)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), True)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ObjectIdentifier(usage)]), critical=False
    )
    if key_usage is not None:
        builder = builder.add_extension(_usage(**{key_usage: True}), critical=True)
    if critical:
        odd = x509.UnrecognizedExtension(ObjectIdentifier("2.25.1"), b"\x05\x00")
        builder = builder.add_extension(odd, critical=True)
    return _signed(builder, private_key(issuer_key))


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
    path_length: int | None = None,
    extra: Iterable[x509.ExtensionType] = (),
) -> bytes:
    until = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    builder = _builder(subject, issuer, key.public_key(), until)
    constraints = x509.BasicConstraints(ca=ca, path_length=path_length)
    builder = builder.add_extension(constraints, critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True), critical=True)
    for extension in extra:
        builder = builder.add_extension(extension, critical=True)
    return _signed(builder, issuer_key)


def _builder(subject, issuer, public, until: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(4711)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(until)
    )


def _usage(**bits: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: bits.get(name, False) for name in names})


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> bytes:
    certificate = builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    return certificate.public_bytes(serialization.Encoding.DER)
