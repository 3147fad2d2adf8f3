"""What mutation starts from: vectors, a box in software, and evidence of real machines if given."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from attest.ak import AK_TEMPLATE
from attest.anchors import Anchors, decode_anchors
from attest.baseline import Baseline, FirmwareEntry, Machine
from attest.bootfacts import FileFacts
from attest.der import Certificate, decode_certificate
from attest.ekcert import check_ek_certificate
from attest.errors import AttestError
from attest.eventlog import decode
from attest.expectation import BoxRecord, Expectation, ReferenceSet, SetState
from attest.firmwarefile import encode_baseline
from attest.platformcert import check_platform_certificate
from attest.policy import Policy
from attest.predict import Transport
from attest.quote import Values
from attest.replay import replay
from attest.wire import RsaSignature, encode_signature
from bootstrap.phonehome import b64u
from keys.tpm_public import PublicArea, RsaPublic, Scheme
from tests import boot_forge, forge

VECTORS = Path(__file__).parents[1] / "vectors"
FACTS = "facts-debian12-network.json"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteCase:
    """One quote that holds, with all that it is checked against."""

    attest: bytes
    signature: bytes
    ak: PublicArea
    nonce: bytes
    values: Values


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateCase:
    """Certificates of one EK, of which the first is its own and holds."""

    chain: tuple[bytes, ...]
    anchors: Anchors
    ek: PublicArea
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformCase:
    """The EK certificate and the makers of machines beside a platform certificate."""

    leaf: Certificate
    anchors: Anchors
    now: float


def logs(evidence: Path | None = None) -> Iterator[bytes]:
    """Give event logs."""
    folders = [VECTORS / "eventlog", VECTORS / "attest"]
    if evidence is not None:
        folders += [evidence / "eventlogs", evidence / "boots"]
    for folder in folders:
        for path in sorted(folder.glob("*.bin")):
            if ".ima" not in path.suffixes:
                yield path.read_bytes()


@cache
def good_logs_here() -> tuple[tuple[bytes, Values], ...]:
    """Give the good logs of our vectors."""
    return tuple(good_logs())


def good_logs(evidence: Path | None = None) -> list[tuple[bytes, Values]]:
    """Give logs with the values that they replay to, in every bank that they have."""
    found = []
    for data in logs(evidence):
        try:
            decoded = decode(data)
            found.append((data, {bank.name: replay(decoded, bank.name) for bank in decoded.banks}))
        except AttestError:
            continue
    return found


def ima_logs(evidence: Path | None = None) -> Iterator[bytes]:
    """Give IMA lists."""
    for path in sorted((VECTORS / "ima").glob("*.bin")):
        yield path.read_bytes()
    if evidence is not None:
        for path in sorted((evidence / "boots").glob("*.ima.bin")):
            yield path.read_bytes()


def vector_fields(*names: str) -> Iterator[bytes]:
    """Give the bytes of fields of the vectors, each once."""
    seen: set[bytes] = set()
    for folder in ("attest", "phone-home", "ek"):
        for vector in _vectors(folder):
            for name in names:
                for text in _texts(vector.get(name, "")):
                    data = bytes.fromhex(text)
                    if data and data not in seen:
                        seen.add(data)
                        yield data


@cache
def _vectors(folder: str) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        tomllib.loads(path.read_text()) for path in sorted((VECTORS / folder).glob("*.toml"))
    )


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def certificates(evidence: Path | None = None) -> Iterator[bytes]:
    """Give certificates of EKs and of those who vouch for them, DER."""
    yield from vector_fields("ek_certificates", "certificates", "anchors")
    if evidence is None:
        return
    for folder in ("certificates", "roots"):
        for path in sorted((evidence / folder).iterdir()):
            data = path.read_bytes()
            blocks = [base64.b64decode(block) for block in _PEM.findall(data)]
            yield from blocks or [data]


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    """Give the RSA key of the box, made from a fixed number so that a run can be repeated."""
    p, q = _prime("first prime"), _prime("second prime")
    n, e = p * q, 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=rsa.rsa_crt_dmp1(d, p),
        dmq1=rsa.rsa_crt_dmq1(d, q),
        iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=rsa.RSAPublicNumbers(e, n),
    )
    return numbers.private_key()


def _prime(label: str) -> int:
    """Give the first probable prime of 1024 bits from a number that follows from the label."""
    number = int.from_bytes(hashlib.shake_256(label.encode()).digest(128), "big")
    number |= 3 << 1022 | 1
    while pow(2, number - 1, number) != 1 or number % 65537 == 1:
        number += 2
    return number


@cache
def quote_cases() -> tuple[QuoteCase, ...]:
    """Give quotes by ECDSA, RSASSA and RSAPSS keys, over one bank and over three."""
    box = forge.Box()
    one = {"sha256": {index: bytes([index + 1]) * 32 for index in range(16)}}
    sizes = {"sha1": 20, "sha256": 32, "sha384": 48}
    three = {
        bank: {index: bytes([index + 7]) * size for index in range(16)}
        for bank, size in sizes.items()
    }
    found = []
    for values in (one, three):
        nonce = forge.Box().q()
        attest = box.attest(forge.quote_info(values), nonce)
        data = attest.encode()
        signed = box.sign(attest)
        found.append(
            QuoteCase(
                attest=data, signature=signed.signature, ak=box.ak, nonce=nonce, values=values
            )
        )
        for pss in (False, True):
            signature = encode_signature(_rsa_signature(data, pss=pss))
            ak = _rsa_ak(0x0016 if pss else 0x0014)
            found.append(
                QuoteCase(attest=data, signature=signature, ak=ak, nonce=nonce, values=values)
            )
    return tuple(found)


def _rsa_signature(data: bytes, *, pss: bool) -> RsaSignature:
    # No salt: the same bytes every time.
    scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=0)
    used = scheme if pss else padding.PKCS1v15()
    signature = rsa_key().sign(data, used, hashes.SHA256())
    return RsaSignature(hash_name="sha256", pss=pss, signature=signature)


def _rsa_ak(scheme: int) -> PublicArea:
    numbers = rsa_key().public_key().public_numbers()
    key = RsaPublic(
        symmetric=None,
        scheme=Scheme(algorithm=scheme, hash_alg=0x000B),
        bits=2048,
        exponent=0,
        modulus=numbers.n.to_bytes(256, "big"),
    )
    return replace(AK_TEMPLATE, key=key)


@cache
def certificate_cases() -> tuple[CertificateCase, ...]:
    """Give the EKs of the vectors whose certificates hold, of every kind of key."""
    return tuple(case for vector in _vectors("ek") if (case := _certificate_case(vector)))


def _certificate_case(vector: Mapping[str, Any]) -> CertificateCase | None:
    files = [("anchor", bytes.fromhex(text)) for text in vector["anchors"]]
    try:
        case = CertificateCase(
            chain=tuple(bytes.fromhex(text) for text in vector["certificates"]),
            anchors=decode_anchors(files, rehearsal=False),
            ek=PublicArea.decode(bytes.fromhex(vector["ek"])),
            now=vector["now"],
        )
    except AttestError:
        return None
    trust = check_ek_certificate(case.chain, case.anchors, case.ek, case.now, rehearsal=False)
    return None if trust.findings else case


@cache
def platform_case() -> PlatformCase:
    """Give what the first platform certificate of our vectors that holds is checked against."""
    for vector in _vectors("ek"):
        if not vector["expect"] and vector.get("machines"):
            files = [("machines", bytes.fromhex(text)) for text in vector["machines"]]
            case = PlatformCase(
                leaf=decode_certificate(bytes.fromhex(vector["certificates"][0])),
                anchors=decode_anchors(files, rehearsal=False, platform=True),
                now=vector["now"],
            )
            data = bytes.fromhex(vector["platform"])
            trust = check_platform_certificate(data, case.leaf, case.anchors, case.now)
            if not trust.findings:
                return case
    raise LookupError("no platform certificate of our vectors holds")


@cache
def strangers() -> tuple[bytes, ...]:
    """Give certificates that hold, but for another EK or from another maker."""
    other = forge.Box(label="box B").ek
    key = rsa_key().public_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Strange CA")])
    plain = forge._builder(name, name, key, forge.datetime(2049, 1, 1, tzinfo=forge.UTC))
    signed = plain.sign(rsa_key(), hashes.SHA256())
    return (
        forge.ek_certificate(other),
        forge.ek_certificate(forge.Box().ek, issuer="Strange CA", issuer_key="strange root"),
        forge.root_certificate("Strange CA", "strange root"),
        signed.public_bytes(serialization.Encoding.DER),
    )


def plain_values(values: Mapping[str, Mapping[int, bytes]]) -> dict[str, dict[int, bytes]]:
    """Copy values so that they can be changed."""
    return {bank: dict(given) for bank, given in values.items()}


# --- files of other kinds


def files(folder: str, pattern: str) -> Iterator[bytes]:
    """Give files of a folder of vectors."""
    for path in sorted((VECTORS / folder).glob(pattern)):
        yield path.read_bytes()


def anchor_files(evidence: Path | None = None) -> Iterator[bytes]:
    """Give anchor files: DER, PEM, several in one."""
    authorities = list(vector_fields("anchors"))
    yield from authorities
    yield b"".join(x509_pem(der) for der in authorities[:3])
    if evidence is not None:
        for path in sorted((evidence / "roots").iterdir()):
            blocks = _PEM.findall(path.read_bytes())
            yield from (x509_pem(base64.b64decode(block)) for block in blocks)


def x509_pem(der: bytes) -> bytes:
    """Put a certificate into PEM."""
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


def crls(evidence: Path | None = None) -> Iterator[bytes]:
    """Give revocation lists."""
    yield from vector_fields("crls")


def platform_certificates(evidence: Path | None = None) -> Iterator[bytes]:
    """Give platform certificates."""
    yield from vector_fields("platform")


def variable_stores() -> Iterator[bytes]:
    """Give the stores of the installed virtual firmware, without their empty part."""
    for path in sorted(Path("/usr/share/OVMF").glob("OVMF_VARS*.fd")):
        yield path.read_bytes()[: 1 << 16]


def memory_disks() -> Iterator[bytes]:
    """Give memory disks of GRUB of both kinds."""
    text = b"set prefix=(tftp)/grub\nconfigfile $prefix/grub.cfg\n"
    yield boot_forge.fat12(text)
    yield boot_forge.fat12(text * 40)
    for packed in (False, True):
        for fragment in (False, True):
            for codec in ("gzip", "xz"):
                yield boot_forge.squashfs(text, packed=packed, fragment=fragment, codec=codec)


def programs() -> Iterator[bytes]:
    """Give small boot programs."""
    for disk in memory_disks():
        yield boot_forge.grub_image(disk)
    yield boot_forge.uki_image()
    yield boot_forge.pe_image({".text": b"\x90" * 64, ".sbat": b"sbat,1,x\n"})


def tags() -> Iterator[bytes]:
    """Give a base RIM as makers write them."""
    yield (
        b'<?xml version="1.0"?><SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/'
        b'2015/schema.xsd" tagId="94f6b457"><Meta xmlns:rim="x" rim:platformManufacturerStr="Dell'
        b' Inc." rim:platformModel="R650" rim:firmwareVersion="1.2"/><Payload><Directory>'
        b'<File name="log.rimel" size="4" xmlns:s="http://www.w3.org/2001/04/xmlenc#sha256"'
        b' s:hash="' + b"ab" * 32 + b'"/></Directory></Payload></SoftwareIdentity>'
    )


def baselines() -> Iterator[bytes]:
    """Give baselines and the lists that other tools make."""
    machine = Machine(vendor="QEMU", model="Standard PC", version="1.0")
    values = {"sha256": {index: bytes([index + 1]) * 32 for index in (0, 2, 3, 6)}}
    entry = FirmwareEntry(machine=machine, values=values, events={}, source="fuzz")
    yield encode_baseline(Baseline(entries=(entry,)))
    yield b"vendor,model,version,bank,pcr,value\nQEMU,PC,1,sha256,0," + b"ab" * 32 + b"\n"
    yield b"sha256:\n  0 : 0x" + b"AB" * 32 + b"\n  1 : 0x" + b"CD" * 32 + b"\n"
    digest = {"hashAlg": "sha256", "digest": "ab" * 32}
    yield json.dumps({"records": [{"pcr": 0, "digests": [digest]}]}).encode()


def policies() -> Iterator[bytes]:
    """Give policies."""
    yield Policy().to_toml().encode()
    for vector in _vectors("attest"):
        yield vector.get("policy", "").encode()


def expectations() -> Iterator[bytes]:
    """Give expectations as the archive keeps them."""
    anchors = certificate_cases()[0].anchors
    for sets, record in (((), None), (None, BoxRecord()), ((_reference(),), BoxRecord())):
        yield Expectation(sets=sets, anchors=anchors, record=record).to_json().encode()


def _reference() -> ReferenceSet:
    return ReferenceSet(
        digest=bytes(32),
        name="enrol",
        version=7,
        state=SetState.SERVED,
        facts=FileFacts.from_json((VECTORS / "eventlog" / FACTS).read_text()),
        transports=(Transport.TFTP,),
        servers=("10.77.0.1",),
    )


def expectation() -> Expectation:
    """Give what a site expects of the box of the forge that booted `debian12-tftp`."""
    anchors = decode_anchors([("root", forge.root_certificate())], rehearsal=False)
    return Expectation(sets=(_reference(),), anchors=anchors, record=BoxRecord(listed=True))


def bodies() -> Iterator[bytes]:
    """Give bodies of phone-home."""
    yield from vector_fields("body", "hello", "report", "facts")
    quote, empty = {"attest": "YQ", "signature": "cw"}, b64u(b"{}")
    hello = {"v": 1, "ek_public": "ZWs", "ek_certificates": ["YQ"], "ak_public": "YWs"}
    hello["box_nonce"] = b64u(bytes(32))
    yield json.dumps(hello).encode()
    evidence = {
        "v": 1,
        "hello": b64u(json.dumps(hello).encode()),
        "quotes": [quote],
        "pcrs": {"sha256": [b64u(bytes(32))] * 16},
        "event_log": "",
        "ima_log": "",
        "facts": empty,
        "ephemeral": b64u(bytes(32)),
        "device_public": "ZA",
        "device_attest": "YQ",
        "device_signature": "cw",
        "ssh_host_key": "",
    }
    yield json.dumps(evidence).encode()
    yield json.dumps({"v": 1, "report": empty, "signature": b64u(bytes(64))}).encode()
    yield b'{"checks":{"a":"b"},"secrets":{},"medium_needed":false}'
