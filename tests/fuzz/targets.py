"""One target for each wire format: where it begins, and what is done with any bytes.

`attempt` gives "taken" or "refused"; whatever else leaves it is a finding. Checks that promise
never to raise are called bare, decoders inside `_own`, which lets the verifier's own errors pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from attest import grub, uki
from attest.ak import check_ak
from attest.anchors import decode_anchors
from attest.bootfacts import FileFacts
from attest.crl import decode_crl, is_crl, is_crl_signed_by
from attest.der import decode_certificate, is_signed_by, join, public_key
from attest.ektemplate import check_ek_template
from attest.errors import AttestError
from attest.eventlog import decode
from attest.expectation import Expectation
from attest.firmwarefile import decode_baseline
from attest.ima import check_ima
from attest.imalog import decode_ima
from attest.kernelimage import decode_kernel, kernel_version
from attest.memdisk import read_file
from attest.pe import Pe, authenticode
from attest.platformcert import check_platform_certificate
from attest.policy import Policy
from attest.program import identify, sbat_rows
from attest.reference_values import entries_from_csv, events_from_pcrlock, values_from_pcrread
from attest.rim import decode_tag
from attest.shim import read_shim
from attest.typed import describe, extract
from attest.uefi import ImageLoad, Variable, decode_signatures, device_path_text
from attest.ukifacts import UkiFacts
from attest.variables import variables_from_store
from attest.wire import decode_attest, decode_signature, encode_signature
from bootstrap import phonehome
from bootstrap.errors import PeerError as BootstrapPeerError
from keys.errors import PeerError
from keys.tpm_public import PublicArea
from tests.fuzz import dns_packets, lies, material, packet_seeds, packets, secret_forms
from tests.fuzz.lies import REFUSED, TAKEN, Lie

OWN_ERRORS = (AttestError, PeerError, BootstrapPeerError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One format; `largest` bounds an input."""

    attempt: Callable[[bytes], str]
    seeds: Callable[[Path | None], Iterator[bytes]]
    largest: int = 1 << 16


def _own(*decoders: Callable[[bytes], object]) -> Callable[[bytes], str]:
    """Try decoders one after another, each on all of the bytes."""

    def attempt(data: bytes) -> str:
        told = REFUSED
        for decoder in decoders:
            with suppress(*OWN_ERRORS):
                decoder(data)
                told = TAKEN
        return told

    return attempt


def _same(data: bytes, again: bytes) -> None:
    if data != again:
        raise Lie("another spelling of the same value was read")


def _attest(data: bytes) -> None:
    _same(data, decode_attest(data).encode())


def _signature(data: bytes) -> None:
    _same(data, encode_signature(decode_signature(data)))


def _public(data: bytes) -> None:
    area = PublicArea.decode(data)
    _same(data, area.encode())
    area.name()
    for check in (check_ak, check_ek_template, PublicArea.public_key):
        with suppress(*OWN_ERRORS):
            check(area)


def _quote(data: bytes) -> str:
    """One byte chooses a quote; what follows replaces attestation, signature, then values."""
    cases = material.quote_cases()
    case = cases[data[0] % len(cases)] if data else cases[0]
    size = len(case.attest)
    attest, rest = data[1 : 1 + size], data[1 + size :]
    signature, rest = rest[: len(case.signature)], rest[len(case.signature) :]
    values = material.plain_values(case.values)
    for given in values.values():
        for index in given:
            given[index], rest = rest[: len(given[index])], rest[len(given[index]) :]
    return lies.judge_quote(case, attest, signature, values)


def _quote_seeds(evidence: Path | None) -> Iterator[bytes]:
    for number, case in enumerate(material.quote_cases()):
        values = [value for given in case.values.values() for value in given.values()]
        yield bytes([number]) + case.attest + case.signature + b"".join(values)


def _log(data: bytes) -> str:
    """One byte chooses the log whose values the rest is checked against."""
    known = material.good_logs_here()
    original, values = known[data[0] % len(known)] if data else known[0]
    with suppress(AttestError):
        log = decode(data[1:])
        for bank in log.banks:
            extract(log, bank.name)
            for event in log.events[:256]:
                describe(event, bank.name)
    return lies.judge_log(original, data[1:], values)


def _log_seeds(evidence: Path | None) -> Iterator[bytes]:
    for number, (data, _) in enumerate(material.good_logs_here()):
        yield bytes([number]) + data
    if evidence is not None:
        yield from (b"\0" + data for data in material.logs(evidence))


def _event_data(evidence: Path | None) -> Iterator[bytes]:
    for data in material.logs(evidence):
        with suppress(AttestError):
            for event in decode(data).events:
                yield event.data
                with suppress(AttestError):
                    yield Variable.decode(event.data).data
                with suppress(AttestError):
                    yield ImageLoad.decode(event.data).path


def _variable(data: bytes) -> None:
    _same(data, Variable.decode(data).encode())


def _image_load(data: bytes) -> None:
    device_path_text(ImageLoad.decode(data).path)


def _ima(data: bytes) -> str:
    for held in ({"sha1": {10: bytes(20)}}, {"sha256": {10: b"\1" * 32}}):
        check_ima(data, held, (), secure_boot=True)
    return _own(decode_ima)(data)


def _certificate(data: bytes) -> str:
    for case in material.certificate_cases()[:2]:
        lies.judge_certificates(case, (data,))
        lies.judge_certificates(case, (case.chain[0], data))
    join((data, data))
    return _own(_certificate_parts)(data)


def _certificate_parts(data: bytes) -> None:
    certificate = decode_certificate(data)
    is_signed_by(certificate, certificate)
    public_key(certificate)


def _anchors(data: bytes) -> None:
    decode_anchors([("anchors.pem", data)], rehearsal=True)


def _crl(data: bytes) -> None:
    is_crl(data)
    crl = decode_crl(data)
    for each in material.certificate_cases()[0].anchors.certificates:
        is_crl_signed_by(crl, each.spki)


def _platform(data: bytes) -> str:
    case = material.platform_case()
    trust = check_platform_certificate(data, case.leaf, case.anchors, case.now)
    return REFUSED if trust.findings else TAKEN


def _program(data: bytes) -> str:
    return _own(_image, kernel_version, decode_kernel, grub.inspect)(data)


def _image(data: bytes) -> None:
    image = Pe.decode(data)
    authenticode(data, "sha256")
    identify(data, image)
    for read in (uki.inspect, read_shim, sbat_rows):
        with suppress(AttestError):
            read(image)


def _memory_disk(data: bytes) -> None:
    read_file(data, "grub.cfg")


def _expectation(data: bytes) -> None:
    Expectation.from_json(data, rehearsal=True)


def _policy(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    policy = Policy.from_toml(text)
    if Policy.from_toml(policy.to_toml()) != policy:
        raise Lie("a policy is another one after it was written")


def _appraise(data: bytes) -> str:
    """One byte chooses the field of good evidence that the rest replaces."""
    name = lies.FIELDS[data[0] % len(lies.FIELDS)] if data else lies.FIELDS[0]
    return lies.judge_evidence(name, data[1:])


def _appraise_seeds(evidence: Path | None) -> Iterator[bytes]:
    for number, name in enumerate(lies.FIELDS):
        yield bytes([number]) + lies.field_of(lies.good_evidence(), name)


def _fields(*names: str) -> Callable[[Path | None], Iterator[bytes]]:
    return lambda evidence: material.vector_fields(*names)


TARGETS = {
    "attest": Target(attempt=_own(_attest), seeds=_fields("quotes", "device"), largest=4096),
    "signature": Target(attempt=_own(_signature), seeds=_fields("quotes", "device"), largest=4096),
    "public": Target(
        attempt=_own(_public),
        seeds=_fields("ek_public", "ak_public", "device_public"),
        largest=4096,
    ),
    "quote": Target(attempt=_quote, seeds=_quote_seeds, largest=8192),
    "eventlog": Target(attempt=_log, seeds=_log_seeds),
    "uefi": Target(
        attempt=_own(_variable, decode_signatures, _image_load, device_path_text),
        seeds=_event_data,
    ),
    "variable-store": Target(
        attempt=_own(variables_from_store), seeds=lambda _: material.variable_stores()
    ),
    "ima": Target(attempt=_ima, seeds=material.ima_logs),
    "certificate": Target(attempt=_certificate, seeds=material.certificates, largest=16384),
    "anchors": Target(attempt=_own(_anchors), seeds=material.anchor_files),
    "crl": Target(attempt=_own(_crl), seeds=material.crls),
    "platform-certificate": Target(
        attempt=_platform, seeds=material.platform_certificates, largest=16384
    ),
    "program": Target(attempt=_program, seeds=lambda _: material.programs()),
    "memory-disk": Target(attempt=_own(_memory_disk), seeds=lambda _: material.memory_disks()),
    "facts": Target(
        attempt=_own(FileFacts.from_json, UkiFacts.from_json),
        seeds=lambda _: material.files("eventlog", "*.json"),
    ),
    "rim": Target(
        attempt=_own(lambda data: decode_tag(data, "tag")), seeds=lambda _: material.tags()
    ),
    "baseline": Target(
        attempt=_own(
            decode_baseline,
            lambda data: entries_from_csv(data, "list"),
            lambda data: values_from_pcrread(data, "values"),
            lambda data: events_from_pcrlock(data, "events"),
        ),
        seeds=lambda _: material.baselines(),
    ),
    "expectation": Target(attempt=_own(_expectation), seeds=lambda _: material.expectations()),
    "policy": Target(attempt=_own(_policy), seeds=lambda _: material.policies()),
    "phone-home": Target(
        attempt=_own(
            phonehome.decode_hello,
            phonehome.decode_evidence,
            phonehome.decode_report,
            phonehome.decode_report_content,
            phonehome.decode_trouble,
            phonehome.decode_facts,
        ),
        seeds=lambda _: material.bodies(),
    ),
    "appraise": Target(attempt=_appraise, seeds=_appraise_seeds),
}


def _packets(
    attempt: Callable[[bytes], str], seeds: Callable[[], Iterable[bytes]], largest: int = 2048
) -> Target:
    return Target(attempt=attempt, seeds=lambda _: iter(seeds()), largest=largest)


TARGETS |= {
    "dhcp": _packets(packets.dhcp, lambda: packet_seeds.DHCP),
    "proxy-dhcp": _packets(packets.proxy, lambda: packet_seeds.DHCP),
    "dhcp6": _packets(packets.dhcp6, lambda: packet_seeds.DHCP6),
    "solicitation": _packets(packets.solicitation, lambda: packet_seeds.SOLICITATIONS),
    "tftp": _packets(packets.tftp, lambda: packet_seeds.TFTP),
    "tftp-transfer": _packets(packets.transfer, lambda: packet_seeds.TRANSFER_SEEDS),
    "http": _packets(packets.request_head, lambda: packet_seeds.HTTP, 8192),
    "frame": _packets(packets.frame, lambda: packet_seeds.FRAMES),
    "dns": _packets(dns_packets.query, dns_packets.query_seeds, 8192),
    "dns-answer": _packets(dns_packets.answer, dns_packets.answer_seeds, 8192),
    "master-file": _packets(dns_packets.master_file, lambda: dns_packets.MASTER_FILES, 8192),
}

TARGETS |= {
    name: _packets(attempt, seeds, largest)
    for name, (attempt, seeds, largest) in secret_forms.FORMS.items()
}
