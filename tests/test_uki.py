"""Unified kernel images: what their stubs measure, held against boots; what is not predicted."""

import hashlib
import json
import struct
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from boot_forge import Sections, pe_image, uki_image
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import eventlog
from attest.bootfacts import FileFacts, facts_from_json
from attest.compare import Kind, compare
from attest.errors import AttestSiteError, EvidenceError
from attest.eventlog import EventLog
from attest.pe import Pe, authenticode
from attest.predict import (
    CD_DRIVES,
    PREDICTED_PCRS,
    Prediction,
    SecureBootVariables,
    Subject,
    Transport,
    predict,
    variables_from_log,
)
from attest.uefi import IMAGE_SECURITY, Variable, decode_signatures
from attest.uki import PROFILES, inspect, stub_version
from attest.ukifacts import UkiFacts

VECTORS = Path(__file__).parent / "vectors" / "eventlog"
BOOTS = tomllib.loads((VECTORS / "ukis.toml").read_text())
EQUAL = [name for name, boot in BOOTS.items() if boot["expect"] == "equal"]


def facts_of(name: str) -> UkiFacts:
    return UkiFacts.from_json((VECTORS / BOOTS[name]["facts"]).read_text())


def log_of(name: str) -> EventLog:
    return eventlog.decode((VECTORS / BOOTS[name]["log"]).read_bytes())


def prediction_of(
    facts: UkiFacts | str, log: str | None = None, bank: str = "sha256"
) -> Prediction:
    """Predict the boot of a vector's image on the keys of another vector's box."""
    name = log or facts
    assert isinstance(name, str)
    return predict(
        facts_of(facts) if isinstance(facts, str) else facts,
        transport=Transport.TFTP,
        server="",
        variables=variables_from_log(log_of(name), bank),
    )


@pytest.mark.parametrize("name", EQUAL)
def test_prediction_equals_what_the_tpm_held_and_the_log(name: str) -> None:
    log = log_of(name)
    assert variables_from_log(log, "sha256").secure_boot is BOOTS[name]["secure_boot"]
    for bank, values in BOOTS[name]["values"].items():
        prediction = prediction_of(name, bank=bank)
        held = {int(pcr): bytes.fromhex(value) for pcr, value in values.items()}
        assert {pcr: prediction.pcr(bank, pcr) for pcr in PREDICTED_PCRS} == held
        assert compare(log, prediction, bank).equal


def test_every_known_stub_was_booted_with_secure_boot_on_and_off() -> None:
    seen = {(facts_of(name).stub_family, BOOTS[name]["secure_boot"]) for name in EQUAL}
    assert seen == {(family, state) for family in PROFILES for state in (True, False)}


def test_every_bank_was_compared() -> None:
    assert set(BOOTS["uki257-banks"]["values"]) == {"sha1", "sha256", "sha384", "sha512"}


def test_the_way_of_booting_changes_nothing() -> None:
    variables = variables_from_log(log_of("uki257"), "sha256")
    steps = {
        predict(
            facts_of("uki257"), transport=transport, server=server, drive=drive, variables=variables
        ).events("sha256")
        for transport in Transport
        for server in ("", "10.77.0.1")
        for drive in CD_DRIVES
    }
    assert len(steps) == 1
    assert BOOTS["uki257"]["values"]["sha256"] == BOOTS["uki257-cd"]["values"]["sha256"]


def test_facts_round_trip_and_stay_small() -> None:
    for name in BOOTS:
        facts = facts_of(name)
        assert facts_from_json(facts.to_json()) == facts
        assert len(facts.to_json()) < 8 << 10
        with pytest.raises(AttestSiteError, match="another type"):
            FileFacts.from_json(facts.to_json())
        with pytest.raises(AttestSiteError, match="another type"):
            UkiFacts.from_json(facts.to_json().replace("ukifacts/v1", "ukifacts/v2"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "null", '{"type":"doorstep/ukifacts/v1"}'),
        '{"type":"doorstep/ukifacts/v1","sections":7}',
        '{"type":"doorstep/ukifacts/v1","sections":[{"name":".linux"}]}',
        '{"type":"doorstep/ukifacts/v1","command_line":7}',
        '{"type":"doorstep/ukifacts/v1","nothing":7}',
        "[" * 100_000,
    ],
)
def test_other_texts_are_no_facts(text: str) -> None:
    for read in (facts_from_json, UkiFacts.from_json):
        with pytest.raises(AttestSiteError, match="boot facts"):
            read(text)


def shape(name: str, facts: str) -> list[tuple[Kind, Subject, int, str]]:
    """Compare the log of one vector with the prediction for the image of another."""
    found = compare(log_of(name), prediction_of(facts, name), "sha256").differences
    return [(one.kind, one.subject, one.pcr, one.label) for one in found]


def test_a_sentence_can_name_the_section_that_differs() -> None:
    assert shape("uki257", "uki257-older-kernel") == [
        (Kind.CHANGED, Subject.KERNEL, 11, "UKI section .linux"),
        (Kind.CHANGED, Subject.LOADER, 4, "UKI"),
        (Kind.CHANGED, Subject.LOADER, 11, "UKI section .uname"),
    ]


def test_another_command_line_is_named_and_what_the_kernel_saw() -> None:
    found = shape("uki262", "uki254")
    assert (Kind.CHANGED, Subject.INITRD, 9, "initrd seen by the kernel") in found
    assert not any(subject is Subject.COMMAND_LINE for _, subject, _, _ in found)
    facts = facts_of("uki257")
    other = replace(
        facts,
        command_line="console=ttyS0 other",
        sections=tuple(
            replace(part, content=facts.image.file) if part.name == ".cmdline" else part
            for part in facts.sections
        ),
    )
    comparison = compare(log_of("uki257"), prediction_of(other, "uki257"), "sha256")
    assert [(one.subject, one.pcr, one.label) for one in comparison.differences] == [
        (Subject.COMMAND_LINE, 9, "load options seen by the kernel"),
        (Subject.COMMAND_LINE, 11, "UKI section .cmdline"),
    ]
    assert comparison.differences[0].expected_text == "console=ttyS0 other"


@pytest.mark.parametrize(
    ("section", "subject"),
    [
        (".linux", Subject.KERNEL),
        (".initrd", Subject.INITRD),
        (".cmdline", Subject.COMMAND_LINE),
        (".osrel", Subject.LOADER),
        (".sbat", Subject.LOADER),
    ],
)
def test_each_section_that_differs_has_its_subject(section: str, subject: Subject) -> None:
    facts = facts_of("uki257")
    sections = tuple(
        replace(part, content=facts.image.file) if part.name == section else part
        for part in facts.sections
    )
    prediction = prediction_of(replace(facts, sections=sections), "uki257")
    (found,) = compare(log_of("uki257"), prediction, "sha256").differences
    assert (found.kind, found.subject, found.pcr) == (Kind.CHANGED, subject, 11)
    assert found.label == f"UKI section {section}"


def test_sections_that_are_missing_or_too_many_are_named_with_proven_names() -> None:
    found = compare(
        log_of("uki257-all-sections"), prediction_of("uki257", "uki257-all-sections"), "sha256"
    ).differences
    extra = {(one.label, one.text) for one in found if one.kind is Kind.EXTRA}
    assert extra == {
        *(("UKI section name .ucode", ".ucode"), ("UKI section .ucode", None)),
        *(("UKI section name .pcrpkey", ".pcrpkey"), ("UKI section .pcrpkey", None)),
    }
    missing = shape("uki257-objcopy", "uki257")
    assert (Kind.MISSING, Subject.LOADER, 11, "UKI section name .uname") in missing


def test_extra_parameters_are_told_with_their_proven_text() -> None:
    comparison = compare(
        log_of("uki257-extra-parameters"), prediction_of("uki257-extra-parameters"), "sha256"
    )
    assert [(one.kind, one.subject, one.pcr, one.text) for one in comparison.differences] == [
        (Kind.CHANGED, Subject.COMMAND_LINE, 9, None),
        (Kind.EXTRA, Subject.PARAMETERS, 12, "doorstep.evil=1"),
    ]
    values = BOOTS["uki257-extra-parameters"]["values"]["sha256"]
    prediction = prediction_of("uki257-extra-parameters")
    differing = {
        pcr
        for pcr in PREDICTED_PCRS
        if prediction.pcr("sha256", pcr) != bytes.fromhex(values[str(pcr)])
    }
    assert differing == {9, 12}


def test_an_image_that_no_key_or_digest_in_db_vouches_for_cannot_have_started() -> None:
    for changes in ({"signers": ()}, {"signers": ((b"\x30\0",),)}):
        with pytest.raises(EvidenceError, match="signed the UKI"):
            prediction_of(replace(facts_of("uki257"), **changes), "uki257")
    other = facts_of("uki254-off")
    with pytest.raises(EvidenceError, match="signed the UKI"):
        prediction_of(other, "uki257-by-digest")


def test_an_authority_that_a_driver_brought_is_not_logged_again() -> None:
    log = log_of("uki257")
    variables = variables_from_log(log, "sha256")
    plain = prediction_of("uki257").events("sha256")
    (authority,) = [event for event in plain if event.label == "db key that verified the UKI"]
    facts = facts_of("uki257")
    found = next(
        replace(variables, authorities=(variable,))
        for variable in authorities(variables, authority.digest)
    )
    again = predict(facts, transport=Transport.TFTP, server="", variables=found)
    labels = [event.label for event in again.events("sha256")]
    assert "db key that verified the UKI" not in labels
    assert "db key that verified a driver" in labels


def authorities(variables: SecureBootVariables, digest: bytes) -> Iterator[Variable]:
    """Give the db entries whose record has this digest."""
    for entry in decode_signatures(variables.db):
        record = Variable(guid=IMAGE_SECURITY, name="db", data=entry.encode())
        if hashlib.sha256(record.encode()).digest() == digest:
            yield record


def test_an_unknown_stub_is_named() -> None:
    facts = replace(facts_of("uki257"), stub_family="999", stub_version="999.1-1")
    with pytest.raises(AttestSiteError, match=r"no boot profile for systemd-stub 999\.1-1: take"):
        prediction_of(facts, "uki257")
    with pytest.raises(AttestSiteError, match=r"no boot profile for systemd-stub 253~rc1: take"):
        UkiFacts.compute(uki_image(stub="253~rc1"))
    with pytest.raises(AttestSiteError, match="no boot profile for systemd-stub unknown"):
        UkiFacts.compute(uki_image(replaced={".sdmagic": b"something"}))
    with pytest.raises(AttestSiteError, match="not a unified kernel image"):
        UkiFacts.compute(pe_image({".text": b"\x90"}))
    assert stub_version(Pe.decode(pe_image({".text": b"\x90"}))) is None


def test_the_facts_of_an_image_are_those_of_its_parts() -> None:
    image = uki_image()
    facts = UkiFacts.compute(image, (b"virtio_net",))
    assert [part.name for part in facts.sections] == [
        *(".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"),
    ]
    assert facts.image.image["sha256"] == authenticode(image, "sha256")
    kernel = Pe.decode(image).section(".linux")
    assert kernel is not None
    assert facts.kernel.file["sha1"] == hashlib.sha1(kernel).digest()
    assert facts.kernel.image["sha512"] == authenticode(kernel, "sha512")
    assert facts.modules[0]["sha256"] == hashlib.sha256(b"virtio_net").digest()
    assert (facts.stub_version, facts.stub_family) == ("257.13-1~deb13u1", "257")
    assert (facts.architecture, facts.command_line) == ("amd64", "console=ttyS0 quiet")


def test_what_the_kernel_gets_is_the_initrd_and_what_the_stub_packs() -> None:
    assert inspect(Pe.decode(uki_image(stub="252.1"))).initrd == b"initrd"
    found = inspect(Pe.decode(uki_image())).initrd
    assert found.startswith(b"initrd\0\0" + b"070701" + b"00000001" + b"0000416d")
    assert b".extra/os-release\0" in found
    assert len(found) % 4 == 0
    replaced = {".ucode": b"microcode", ".pcrsig": b"{}", ".pcrpkey": b"key"}
    everything = inspect(Pe.decode(uki_image(replaced=replaced))).initrd
    places = [
        everything.index(part)
        for part in (
            *(b"microcode\0\0\0", b"initrd\0\0", b"tpm2-pcr-signature.json"),
            *(b"tpm2-pcr-public-key.pem", b"os-release"),
        )
    ]
    assert places == sorted(places)
    without = inspect(Pe.decode(uki_image(stub="254.1", replaced=replaced))).initrd
    assert b"microcode" not in without
    assert b"os-release" not in without


@pytest.mark.parametrize(
    ("stub", "content", "told"),
    [
        ("257.1", b"  a \t b\n\r\n", "a   b"),
        ("252.1", b"  a \t b\n\r\n", "  a   b"),
        ("257.1", b"a b\0\xff\0", "a b"),
        ("254.1", b"\x01a\x1fb ", "a b"),
    ],
)
def test_the_command_line_is_what_the_stub_makes_of_it(
    stub: str, content: bytes, told: str
) -> None:
    image = Pe.decode(uki_image(stub=stub, replaced={".cmdline": content}))
    assert inspect(image).command_line == told


@pytest.mark.parametrize(
    ("replaced", "sentence"),
    [
        ({".cmdline": "ä".encode()}, "not plain ASCII"),
        ({".cmdline": b"a\x7fb"}, "not plain ASCII"),
        ({".cmdline": b" \0x"}, "empty"),
        ({".cmdline": None}, r"has no \.cmdline"),
        ({".initrd": None}, r"has no \.initrd"),
        ({".osrel": None}, r"has no \.osrel"),
        ({".profile": b"ID=x"}, r"has \.profile: what it boots"),
        ({".dtbauto": b"dtb"}, r"has \.dtbauto: what it boots"),
        ({".hwids": b"ids"}, r"has \.hwids: what it boots"),
        ({".efifw": b"fw"}, r"has \.efifw: what it boots"),
        ({".linuxx": b"x"}, r"unknown section \.linuxx"),
        ({".linux": b"no kernel"}, "not a PE image"),
    ],
)
def test_images_that_can_be_read_in_two_ways_are_refused(
    replaced: dict[str, bytes | None], sentence: str
) -> None:
    with pytest.raises(AttestSiteError, match=sentence):
        UkiFacts.compute(uki_image(replaced=replaced))


def test_a_section_that_is_there_twice_is_refused() -> None:
    image = uki_image(replaced={".again": b"console=ttyS0 evil"})
    with pytest.raises(AttestSiteError, match=r"has \.cmdline twice"):
        UkiFacts.compute(image.replace(b".again\0\0", b".cmdline"))


def test_a_kernel_for_another_processor_is_refused() -> None:
    kernel = bytearray(pe_image({".text": b"\x90"}))
    struct.pack_into("<H", kernel, 64 + 4, 0xAA64)
    with pytest.raises(AttestSiteError, match="for amd64 and its kernel for arm64"):
        UkiFacts.compute(uki_image(replaced={".linux": bytes(kernel)}))


def with_virtual_size(sections: Sections, name: str, size: int) -> bytes:
    image = bytearray(uki_image(replaced=sections))
    at = bytes(image).index(name.encode().ljust(8, b"\0"))
    struct.pack_into("<I", image, at + 8, size)
    return bytes(image)


def test_a_section_counts_as_it_is_in_memory() -> None:
    image = with_virtual_size({}, ".osrel", 3000)
    contents = dict(inspect(Pe.decode(image)).sections)
    assert contents[".osrel"] == b"ID=test".ljust(3000, b"\0")
    assert dict(inspect(Pe.decode(with_virtual_size({}, ".osrel", 2))).sections)[".osrel"] == b"ID"


@pytest.mark.parametrize("size", [0, 4 << 20, 0xFFFFFFFF])
def test_an_impossible_size_in_memory_is_refused_before_it_is_allocated(size: int) -> None:
    with pytest.raises(AttestSiteError, match=r"\.osrel has an impossible size"):
        UkiFacts.compute(with_virtual_size({}, ".osrel", size))


@settings(max_examples=150)
@given(st.data())
def test_any_damage_gives_facts_or_our_error(data: st.DataObject) -> None:
    image = bytearray(uki_image())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 1023) | st.integers(0, len(image) - 8))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        image[at : at + len(patch)] = patch
    cut = data.draw(st.integers(0, 1) | st.integers(0, len(image)))
    try:
        facts = UkiFacts.compute(bytes(image[: len(image) - cut]))
    except AttestSiteError:
        return
    assert UkiFacts.from_json(facts.to_json()) == facts


@settings(max_examples=100)
@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_json_in_a_field_gives_our_error(value: object) -> None:
    document = json.loads(facts_of("uki257").to_json())
    for name in document:
        text = json.dumps(document | {name: value})
        try:
            facts_from_json(text)
        except AttestSiteError:
            continue
        assert isinstance(value, str | list)
