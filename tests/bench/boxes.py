"""What the verifier's figures are taken over: honest boxes in software, and logs of several sizes.

There are more boxes than any cache of the verifier keeps keys for, so that each comes as a new one.
The logs are a captured boot; longer ones have further boot options and drivers of cards, as servers
have, in PCR 1 and 2.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, islice
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attest import eventlog
from attest.ak import AK_TEMPLATE, RSASSA
from attest.bootfacts import facts_from_json
from attest.ekcert import decode_anchors
from attest.eventlog import Event, EventLog, EventType
from attest.evidence import Evidence
from attest.expectation import BoxRecord, Expectation, ReferenceSet, SetState
from attest.policy import Policy
from attest.predict import Transport
from attest.quote import Values
from attest.uefi import EFI_GLOBAL, Variable
from attest.wire import RsaSignature, decode_signature, encode_signature
from keys.tpm_public import HASH_IDS, PublicArea, RsaPublic, Scheme
from tests import eventlog_forge, forge

BOXES = 300
_VECTORS = Path(__file__).parents[1] / "vectors"
_LOG = "debian12-tftp"
_SETS = (("debian12-tftp", SetState.SERVED), ("debian13-tftp", SetState.ACCEPTED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """One quote with all it takes to check it; `key` and `bare` for a bare signature check."""

    ak_public: bytes
    attest: bytes
    signature: bytes
    nonce: bytes
    values: Values
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    bare: bytes

    def plain(self) -> dict[str, object]:
        """Give it as another process takes it, with the key as PEM."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return {
            "key": self.key.public_bytes(serialization.Encoding.PEM, form).decode(),
            "attest": self.attest.hex(),
            "signature": self.signature.hex(),
            "nonce": self.nonce.hex(),
            "values": [self.values["sha256"][index].hex() for index in range(16)],
        }


def expectation() -> Expectation:
    """Give what a site with two boot sets, by TFTP and HTTP, expects of a box it knows."""
    boots = tomllib.loads((_VECTORS / "eventlog" / "boots.toml").read_text())
    sets = tuple(
        ReferenceSet(
            digest=bytes([version]) * 32,
            name="enrol",
            version=version,
            state=state,
            facts=facts_from_json((_VECTORS / "eventlog" / boots[name]["facts"]).read_text()),
            transports=(Transport.TFTP, Transport.HTTP),
            servers=(boots[name]["server"],),
        )
        for version, (name, state) in enumerate(_SETS, 7)
    )
    anchors = decode_anchors([("root", forge.root_certificate())], rehearsal=False)
    return Expectation(sets=sets, anchors=anchors, record=BoxRecord(listed=True))


def policy() -> Policy:
    """Give the policy of the accepted vector: Secure Boot, firmware not released yet."""
    accepted = tomllib.loads((_VECTORS / "attest" / "accepted.toml").read_text())
    return Policy.from_toml(accepted["policy"])


def log(count: int) -> bytes:
    """Give a log of `count` events: the captured one cut short, or with further honest ones."""
    captured = eventlog.decode((_VECTORS / "eventlog" / f"{_LOG}.bin").read_bytes())
    events = list(captured.events[1:])
    more = count - len(captured.events)
    if more > 0:
        first = next(at for at, event in enumerate(events) if event.pcr == 1)
        events[first:first] = islice(_further(captured), more)
    return eventlog_forge.encode(eventlog_forge.with_events(captured, events[: count - 1]))


def _further(captured: EventLog) -> Iterator[Event]:
    """Make boot options and drivers of cards, in turn, like those that the log holds."""
    option = next(
        event
        for event in captured.events
        if event.type == EventType.EFI_VARIABLE_BOOT and b"B\0o\0o\0t\0000" in event.data
    )
    program = next(
        event for event in captured.events if event.type == EventType.EFI_BOOT_SERVICES_APPLICATION
    )
    content = Variable.decode(option.data).data
    for number in range(0x20, 0x1000):
        value = content + number.to_bytes(2, "little")
        record = Variable(guid=EFI_GLOBAL, name=f"Boot{number:04X}", data=value).encode()
        # EDK II measures the value alone.
        yield replace(option, data=record, digests=_measured(value))
        driver = _measured(b"driver %d" % number)
        kind = EventType.EFI_BOOT_SERVICES_DRIVER
        yield Event(pcr=2, type=kind, digests=driver, data=program.data)


def _measured(data: bytes) -> Mapping[str, bytes]:
    return {"sha256": hashlib.sha256(data).digest()}


def evidence(data: bytes, number: int = BOXES) -> list[Evidence]:
    """Give what so many boxes send that booted with this log."""
    values = forge.values_of(data)
    return [
        forge.evidence(data, forge.Box(label=f"bench {n}"), values=values) for n in range(number)
    ]


def ecc_quotes(boxes: list[Evidence]) -> list[Quoted]:
    """Give the quotes alone; P-256."""
    return [_ecc_quote(box) for box in boxes]


def _ecc_quote(box: Evidence) -> Quoted:
    assert box.quotes and box.ak_public and box.nonce and box.pcrs
    quote = box.quotes[0]
    key = PublicArea.decode(box.ak_public).public_key()
    signed = decode_signature(quote.signature)
    assert not isinstance(signed, RsaSignature)
    numbers = (int.from_bytes(part, "big") for part in (signed.r, signed.s))
    return Quoted(
        ak_public=box.ak_public,
        attest=quote.attest,
        signature=quote.signature,
        nonce=box.nonce,
        values=box.pcrs,
        key=key,
        bare=encode_dss_signature(*numbers),
    )


def rsa_quotes(values: Values, number: int = BOXES) -> list[Quoted]:
    """Give quotes by so many AKs with RSA-2048, RSASSA and SHA-256."""
    return [_rsa_quote(key, n, values) for n, key in enumerate(_keys(number))]


def _rsa_quote(key: rsa.RSAPrivateKey, number: int, values: Values) -> Quoted:
    modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
    scheme = Scheme(algorithm=RSASSA, hash_alg=HASH_IDS["sha256"])
    public = RsaPublic(symmetric=None, scheme=scheme, bits=2048, exponent=0, modulus=modulus)
    nonce = hashlib.sha256(b"nonce %d" % number).digest()
    attest = forge.Box().attest(forge.quote_info(values), nonce).encode()
    bare = key.sign(attest, padding.PKCS1v15(), hashes.SHA256())
    return Quoted(
        ak_public=replace(AK_TEMPLATE, key=public).encode(),
        attest=attest,
        signature=encode_signature(RsaSignature(hash_name="sha256", pss=False, signature=bare)),
        nonce=nonce,
        values=values,
        key=key.public_key(),
        bare=bare,
    )


def _keys(number: int) -> Iterator[rsa.RSAPrivateKey]:
    """Make many keys out of few primes: each pair of them is a key of its own, good by making."""
    primes: list[int] = []
    while len(primes) * (len(primes) - 1) // 2 < number:
        numbers = rsa.generate_private_key(65537, 2048).private_numbers()
        primes += (numbers.p, numbers.q)
    for p, q in islice(combinations(primes, 2), number):
        d = pow(65537, -1, (p - 1) * (q - 1))
        yield rsa.RSAPrivateNumbers(
            p=p,
            q=q,
            d=d,
            dmp1=rsa.rsa_crt_dmp1(d, p),
            dmq1=rsa.rsa_crt_dmq1(d, q),
            iqmp=rsa.rsa_crt_iqmp(p, q),
            public_numbers=rsa.RSAPublicNumbers(65537, p * q),
        ).private_key(unsafe_skip_rsa_key_validation=True)


def dump(path: Path, logs: Mapping[int, bytes], quotes: Mapping[str, list[Quoted]]) -> None:
    """Write logs and quotes for another process, with one box's EK and AK name."""
    box = forge.Box(label="bench 0")
    document = {
        "logs": {str(count): data.hex() for count, data in logs.items()},
        "quotes": {name: [one.plain() for one in some] for name, some in quotes.items()},
        "ek": (len(box.ek.encode()).to_bytes(2, "big") + box.ek.encode()).hex(),
        "ak_name": box.ak.name().hex(),
    }
    path.write_text(json.dumps(document))
