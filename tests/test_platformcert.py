"""Platform certificates: facts of both versions, one that swtpm really made, hostile input."""

import time
from pathlib import Path

import ek_forge as make
import forge
import make_ek_vectors as vectors
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from software_tpm import SoftwareTpm
from test_attest_tpm import read_nv

from attest.anchors import Anchors, decode_anchors
from attest.der import decode_certificate, read
from attest.errors import EvidenceError
from attest.platformcert import (
    MAX_PLATFORM,
    PlatformCertificate,
    check_platform_certificate,
    decode_platform_certificate,
    is_platform_certificate,
)
from attest.platformfacts import MAX_COMPONENTS, Component

LEAF = decode_certificate(make.ek())


def test_the_newer_configuration_is_taken() -> None:
    facts = decode_platform_certificate(vectors.platform(vectors.V1, vectors.V2)).facts
    assert (facts.manufacturer, facts.model) == ("Maker of boxes", "Box 3000")
    assert (facts.version, facts.serial) == ("1.0", "SN 0815")
    assert facts.configuration == 2
    first, second = facts.components
    assert first == Component(
        registry="2.23.133.18.3.1",
        kind="00090002",
        manufacturer="Intel",
        model="I210",
        serial="serial 7",
        revision="rev 3",
        addresses=(("2.23.133.17.1", "02:00:00:00:00:01"),),
    )
    assert second.manufacturer == "Other"


def test_the_first_version_has_no_classes() -> None:
    facts = decode_platform_certificate(vectors.platform(vectors.V1)).facts
    (component,) = facts.components
    assert facts.configuration == 1
    assert (component.registry, component.kind) == ("", "")
    assert (component.manufacturer, component.serial) == ("Intel v1", "serial 7")


def test_a_component_may_be_bare() -> None:
    bare = make.seq(make.tlv(0x0C, b"Maker"), make.tlv(0x0C, b"Model"))
    facts = decode_platform_certificate(vectors.platform(vectors.configuration(1, bare))).facts
    (component,) = facts.components
    assert (component.serial, component.revision, component.addresses) == ("", "", ())


def test_properties_are_no_components() -> None:
    bare = make.seq(make.tlv(0x0C, b"Maker"), make.tlv(0x0C, b"Model"))
    listed = make.seq(make.tlv(0xA0, bare), make.tlv(0xA1), make.tlv(0xA2, bare))
    data = vectors.platform(vectors.attribute("2.23.133.5.1.7.1", listed))
    assert len(decode_platform_certificate(data).facts.components) == 1


def test_without_a_configuration_there_are_no_components() -> None:
    other = vectors.attribute("2.25.7", make.seq())
    facts = decode_platform_certificate(vectors.platform(other)).facts
    assert (facts.configuration, facts.components) == (0, ())


def test_names_of_the_profile_for_tpm_12_are_read() -> None:
    names = (
        ("2.23.133.2.4", "Maker"),
        ("2.23.133.2.5", "Model"),
        ("2.23.133.2.6", "7"),
        ("2.23.133.2.23", "SN"),
    )
    facts = decode_platform_certificate(vectors.platform(names=names)).facts
    assert (facts.manufacturer, facts.model, facts.version, facts.serial) == (
        "Maker",
        "Model",
        "7",
        "SN",
    )


def test_the_chain_and_the_fingerprint_are_told() -> None:
    machines = decode_anchors(
        [("ca", make.ca("Machine CA", "machine maker"))], rehearsal=False, platform=True
    )
    told = check_platform_certificate(vectors.platform(), LEAF, machines, forge.NOW)
    assert told.findings == ()
    assert told.chain == ("Machine CA",)
    assert told.fingerprint is not None
    below = make.ca("Machine CA", "machine maker", issuer="Machine Root", signer="machine root")
    both = decode_anchors(
        [("ca", below), ("root", make.ca("Machine Root", "machine root"))], rehearsal=False
    )
    told = check_platform_certificate(vectors.platform(), LEAF, both, forge.NOW)
    assert told.chain == ("Machine CA", "Machine Root")


def test_one_signed_with_rsa_pss_holds() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    sha256 = make.seq(make.oid("2.16.840.1.101.3.4.2.1"))
    mask = make.seq(make.oid("1.2.840.113549.1.1.8"), sha256)
    parameters = make.seq(make.tlv(0xA0, sha256), make.tlv(0xA1, mask))
    algorithm = make.seq(make.oid("1.2.840.113549.1.1.10"), parameters)
    unsigned = vectors.platform(algorithm=algorithm)
    body = read(read(unsigned).content).raw
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    signature = key.sign(body, pss, hashes.SHA256())
    data = make.seq(body, algorithm, make.bit_string(signature))
    public = key.public_key().public_bytes(make.DER, make.SPKI)
    machines = Anchors(
        certificates=(decode_certificate(make.ca("Machine CA", "unused", spki=public)),)
    )
    assert check_platform_certificate(data, LEAF, machines, forge.NOW).findings == ()
    assert check_platform_certificate(unsigned, LEAF, machines, forge.NOW).findings != ()


def test_a_stranger_is_named() -> None:
    told = check_platform_certificate(vectors.platform(), LEAF, Anchors(certificates=()), forge.NOW)
    assert [finding.detail for finding in told.findings] == [
        "no maker of machines that this site trusts signed it; issued by 'Machine CA'"
    ]
    assert told.facts is not None


def test_what_a_certificate_over_the_key_lists_is_read() -> None:
    listed = make.extension("2.5.29.9", make.seq(vectors.V2))
    data = make.ek(
        usages=make.extended(make.PLATFORM_USAGE),
        names=make.san(*vectors.MACHINE),
        extra=[listed],
    )
    found = decode_platform_certificate(data)
    assert found.facts.components[0].model == "I210"
    assert found.key is not None
    assert found.holder is None
    assert not found.delta


def test_a_delta_over_the_key_is_told() -> None:
    data = make.ek(usages=make.extended("2.23.133.8.6"), names=make.san(*vectors.MACHINE))
    assert decode_platform_certificate(data).delta


def test_numbers_of_components_and_bytes_are_bounded() -> None:
    bare = make.seq(make.tlv(0x0C, b"M"), make.tlv(0x0C, b"N"))
    many = vectors.configuration(1, *[bare] * (MAX_COMPONENTS + 1))
    with pytest.raises(EvidenceError, match="too many"):
        decode_platform_certificate(vectors.platform(many))
    full = vectors.configuration(1, *[bare] * MAX_COMPONENTS)
    assert len(decode_platform_certificate(vectors.platform(full)).facts.components) == 1024
    long = vectors.attribute("2.25.7", make.tlv(4, bytes(MAX_PLATFORM)))
    with pytest.raises(EvidenceError, match="no platform certificate"):
        decode_platform_certificate(vectors.platform(long))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x31\0",
        make.seq(),
        make.seq(make.seq(make.integer(1))),
        make.seq(make.seq(make.integer(2))),
        make.ek(),
        make.ca(),
    ],
)
def test_other_things_are_no_platform_certificates(data: bytes) -> None:
    assert not is_platform_certificate(data)


def test_one_that_swtpm_made_holds(tmp_path: Path) -> None:
    software = SoftwareTpm(tmp_path, certificates=True)
    try:
        with software.open() as esys:
            ek = decode_certificate(read_nv(esys, 0x01C00002))
            stored = read_nv(esys, 0x01C08000)
    finally:
        software.stop()
    names = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
    known = decode_anchors(
        [(name, (software.ca / name).read_bytes()) for name in names], rehearsal=True, platform=True
    )
    told = check_platform_certificate(stored, ek, known, time.time())
    assert told.findings == ()
    assert told.facts is not None
    assert told.facts.model == "QEMU"
    assert told.chain == ("swtpm-localca", "swtpm-localca-rootca")
    other = check_platform_certificate(stored, LEAF, known, time.time())
    assert [finding.detail for finding in other.findings] == [
        "it belongs to another EK certificate"
    ]


@given(st.binary(max_size=300), st.integers(0, 700))
def test_any_bytes_are_a_platform_certificate_or_our_error(noise: bytes, place: int) -> None:
    data = vectors.platform()
    for attempt in (noise, data[:place] + noise + data[place + len(noise) :], data + noise):
        try:
            assert isinstance(decode_platform_certificate(attempt), PlatformCertificate)
        except EvidenceError:
            continue


@given(st.data())
def test_a_changed_one_never_passes(data) -> None:
    machines = decode_anchors(
        [("ca", make.ca("Machine CA", "machine maker"))], rehearsal=False, platform=True
    )
    changed = bytearray(vectors.platform())
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    assert check_platform_certificate(bytes(changed), LEAF, machines, forge.NOW).findings
