"""Typed facts of boot logs: what is proven, what is only claimed, and what no log can say."""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import ek_forge
import pytest
from eventlog_forge import SHA256, encode, header, with_events
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import eventlog, typed
from attest.errors import EvidenceError
from attest.eventlog import Event, EventLog, EventType
from attest.typed import LogFacts, describe, extract, proven_content
from attest.uefi import (
    CERT_SHA256,
    CERT_X509,
    EFI_GLOBAL,
    IMAGE_SECURITY,
    Signature,
    Variable,
)

VECTORS = Path(__file__).parent / "vectors" / "eventlog"
BANK = "sha256"
CONFIG, AUTHORITY = EventType.EFI_VARIABLE_DRIVER_CONFIG, EventType.EFI_VARIABLE_AUTHORITY
OWNER = UUID(int=7)
CERTIFICATE = ek_forge.ca()
FINGERPRINT = hashlib.sha256(CERTIFICATE).digest()
SUBJECT = "Maker TPM Root CA"
SEPARATOR = bytes(4)


def event(pcr: int, kind: int, data: bytes, measured: bytes | None = None) -> Event:
    digest = hashlib.sha256(data if measured is None else measured).digest()
    return Event(pcr=pcr, type=kind, digests={BANK: digest}, data=data)


def spoofed(pcr: int, kind: int, data: bytes) -> Event:
    return event(pcr, kind, data, b"what was really measured")


def log_of(*events: Event) -> EventLog:
    return with_events(eventlog.decode(header([(SHA256.algorithm, 32)])), events)


def facts_of(*events: Event) -> LogFacts:
    return extract(log_of(*events), BANK)


def variable(name: str, data: bytes, guid: UUID = EFI_GLOBAL) -> bytes:
    return Variable(guid=guid, name=name, data=data).encode()


def config(name: str, data: bytes, guid: UUID = EFI_GLOBAL) -> Event:
    return event(7, CONFIG, variable(name, data, guid))


def signatures(kind: UUID, contents: Iterable[bytes]) -> bytes:
    return b"".join(Signature(type=kind, owner=OWNER, data=one).encode_list() for one in contents)


def wide(text: str) -> bytes:
    return text.encode("utf-16-le")


def tag(number: int, content: bytes) -> bytes:
    return struct.pack("<II", number, len(content)) + content


ENDS = event(7, EventType.SEPARATOR, SEPARATOR)


# --- Secure Boot


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([config("SecureBoot", b"\1"), ENDS], "on"),
        ([config("SecureBoot", b"\1")], "on"),
        ([config("SecureBoot", b"\0"), ENDS], "off"),
        ([config("SecureBoot", b""), ENDS], "unknown"),
        ([config("SecureBoot", b"\2"), ENDS], "unknown"),
        ([config("SecureBoot", b"\1\0"), ENDS], "unknown"),
        ([ENDS, config("SecureBoot", b"\1")], "unknown"),
        ([config("SecureBoot", b"\1"), config("SecureBoot", b"\1")], "unknown"),
        ([config("SecureBoot", b"\0"), config("SecureBoot", b"\1")], "unknown"),
        ([spoofed(7, CONFIG, variable("SecureBoot", b"\1"))], "unknown"),
        ([config("SecureBoot", b"\1", IMAGE_SECURITY)], "unknown"),
        ([event(1, CONFIG, variable("SecureBoot", b"\1"))], "unknown"),
        ([event(7, AUTHORITY, variable("SecureBoot", b"\1"))], "unknown"),
        ([event(7, CONFIG, b"no record")], "unknown"),
        ([], "unknown"),
    ],
)
def test_secure_boot_is_known_by_one_proven_byte_before_the_separator(
    events: list[Event], state: str
) -> None:
    assert facts_of(*events).secure_boot == state


def test_modes_are_told_where_they_were_measured() -> None:
    assert facts_of(config("SecureBoot", b"\1")).modes == {}
    told = facts_of(
        config("SetupMode", b"\0"),
        config("DeployedMode", b"\1"),
        spoofed(7, CONFIG, variable("AuditMode", b"\1")),
    )
    assert told.modes == {"SetupMode": "off", "DeployedMode": "on", "AuditMode": "unknown"}
    assert told.databases == ()


def test_databases_name_their_certificates_and_count_their_hashes() -> None:
    content = signatures(CERT_X509, [CERTIFICATE]) + signatures(
        CERT_SHA256, [bytes(32), b"\1" * 32]
    )
    other = signatures(UUID(int=9), [b"odd"])
    db, dbx = facts_of(
        config("db", content, IMAGE_SECURITY), config("dbx", other, IMAGE_SECURITY)
    ).databases
    assert (db.name, db.number, db.proven, db.hashes, db.others) == ("db", 1, True, 2, 0)
    assert [(key.sha256, key.subject) for key in db.certificates] == [(FINGERPRINT, SUBJECT)]
    assert (dbx.name, dbx.hashes, dbx.others, dbx.certificates) == ("dbx", 0, 1, ())


def test_a_database_that_does_not_hash_or_cannot_be_read_is_a_claim() -> None:
    content = signatures(CERT_X509, [CERTIFICATE])
    (claimed,) = facts_of(spoofed(7, CONFIG, variable("PK", content))).databases
    assert not claimed.proven
    assert claimed.certificates[0].sha256 == FINGERPRINT
    (broken,) = facts_of(config("KEK", content[:-1])).databases
    assert (broken.proven, broken.certificates, broken.hashes, broken.others) == (False, (), 0, 0)


def test_what_is_no_key_database_is_none() -> None:
    assert facts_of(config("Boot", b"", UUID(int=5)), config("SecureBoot", b"\1")).databases == ()


def test_an_unreadable_certificate_has_no_subject_and_too_many_are_counted() -> None:
    limit = typed.MAX_CERTIFICATES
    many = signatures(CERT_X509, [b"none"] * (limit + 2))
    (database,) = facts_of(config("db", many, IMAGE_SECURITY)).databases
    assert len(database.certificates) == limit
    assert database.certificates[0].subject == ""
    assert database.others == 2


@pytest.mark.parametrize("bare", [False, True])
def test_authorities_name_their_certificate(bare: bool) -> None:
    content = CERTIFICATE if bare else OWNER.bytes_le + CERTIFICATE
    record = variable("db", content, IMAGE_SECURITY)
    before, after, late = facts_of(
        event(7, AUTHORITY, record), ENDS, event(7, AUTHORITY, record), event(7, AUTHORITY, b"")
    ).authorities
    for one in (before, after):
        assert (one.name, one.proven) == ("db", True)
        assert one.key is not None
        assert (one.key.sha256, one.key.subject) == (FINGERPRINT, SUBJECT)
    assert (before.number, after.number) == (1, 3)
    assert (late.name, late.key, late.proven) == ("", None, True)


def test_the_authority_of_an_older_shim_is_proven_without_its_last_byte() -> None:
    record = variable("Shim", CERTIFICATE)
    (one,) = facts_of(event(7, AUTHORITY, record + b"\0", record)).authorities
    assert (one.name, one.proven) == ("Shim", True)
    assert one.key is not None
    assert one.key.sha256 == FINGERPRINT
    (two,) = facts_of(event(7, AUTHORITY, record + b"\0\0", record)).authorities
    assert (two.name, two.proven) == ("Shim", False)
    (level,) = facts_of(event(7, AUTHORITY, variable("SbatLevel", b"sbat,1,2\n"))).authorities
    assert (level.name, level.key, level.proven) == ("SbatLevel", None, True)


# --- programs, commands, files


def image(path: bytes) -> bytes:
    return struct.pack("<QQQQ", 1, 2, 3, len(path)) + path


def file_path(name: str) -> bytes:
    body = wide(name) + b"\0\0"
    return struct.pack("<BBH", 4, 4, 4 + len(body)) + body + b"\x7f\xff\4\0"


def test_programs_and_drivers_are_digests_with_claimed_paths() -> None:
    program = image(file_path("\\a.efi"))
    facts = facts_of(
        event(2, EventType.EFI_BOOT_SERVICES_DRIVER, program),
        event(2, EventType.EFI_RUNTIME_SERVICES_DRIVER, b"short"),
        event(4, EventType.EFI_BOOT_SERVICES_APPLICATION, program),
    )
    (one,) = facts.programs
    assert (one.number, one.pcr, one.text, one.proven) == (3, 4, "File(\\a.efi)", False)
    assert one.digest == hashlib.sha256(program).digest()
    assert [(each.text, each.proven) for each in facts.drivers] == [
        ("File(\\a.efi)", False),
        ("", False),
    ]


@pytest.mark.parametrize(
    ("data", "measured", "is_line"),
    [
        (b"grub_cmd: set a=1\0", b"set a=1", False),
        (b"grub_cmd set a=1\0", b"set a=1\0", False),
        (b"kernel_cmdline: set a=1\0", b"set a=1", True),
        (b"grub_kernel_cmdline set a=1\0", b"set a=1", True),
        (b"set a=1\0", b"set a=1", False),
        (b"set a=1", b"set a=1", False),
        (wide("set a=1") + b"\0", wide("set a=1\0"), True),
        (wide("set a=1\0"), wide("set a=1\0"), True),
    ],
)
def test_each_form_of_commands_and_lines_is_proven(
    data: bytes, measured: bytes, is_line: bool
) -> None:
    facts = facts_of(event(8, EventType.IPL, data, measured))
    (one,) = facts.command_lines if is_line else facts.commands
    assert (one.text, one.proven, one.number, one.pcr) == ("set a=1", True, 1, 8)
    assert bool(facts.commands) is not is_line
    told = describe(event(8, EventType.IPL, data, measured), BANK)
    assert (told.text, told.proven, told.claim) == ("set a=1", True, None)


@pytest.mark.parametrize("prefix", [b"grub_cmd: ", b"kernel_cmdline: "])
def test_a_spoofed_text_is_a_claim(prefix: bytes) -> None:
    facts = facts_of(spoofed(8, EventType.IPL, prefix + b"quiet\0"))
    (one,) = (*facts.commands, *facts.command_lines)
    assert (one.text, one.proven) == ("quiet", False)
    told = describe(spoofed(8, EventType.IPL, prefix + b"quiet\0"), BANK)
    assert (told.text, told.proven, told.claim) == (None, False, (prefix + b"quiet").decode())


@pytest.mark.parametrize("end", ["", "\0"])
def test_a_line_of_grub_proves_what_the_kernel_saw(end: str) -> None:
    options = tag(0x8F3B22ED, b"LOADED_IMAGE::LoadOptions\0")
    line = event(8, EventType.IPL, b"kernel_cmdline: /v a=1\0", b"/v a=1")
    seen = event(9, EventType.EVENT_TAG, options, wide("BOOT_IMAGE=/v a=1" + end))
    one, two = facts_of(line, seen).command_lines
    assert (one.text, two.text) == ("/v a=1", "BOOT_IMAGE=/v a=1")
    assert one.proven
    assert two.proven
    (alone,) = facts_of(seen).command_lines
    assert (alone.text, alone.proven) == ("LOADED_IMAGE::LoadOptions", False)


def test_parameters_of_a_unified_image_are_command_lines() -> None:
    text = wide("debug\0")
    (one,) = facts_of(event(12, EventType.IPL, text)).command_lines
    assert (one.text, one.proven, one.pcr) == ("debug", True, 12)
    (other,) = facts_of(event(13, EventType.EVENT_TAG, tag(0x8F3B22ED, text), text)).command_lines
    assert (other.text, other.proven) == ("debug", True)
    assert facts_of(event(12, EventType.EVENT_TAG, b"\xed\x22\x3b\x8f")).command_lines == ()
    assert facts_of(event(12, EventType.EVENT_TAG, tag(1, text))).command_lines == ()


def test_files_are_digests_with_claimed_names() -> None:
    facts = facts_of(
        spoofed(9, EventType.IPL, b"(tftp)/grub.cfg\0"),
        spoofed(9, EventType.EVENT_TAG, tag(0x8F3B22EC, b"Linux initrd\0")),
        spoofed(9, EventType.EVENT_TAG, tag(0x8F3B22ED, b"x")),
        spoofed(8, EventType.EVENT_TAG, tag(3, b"x")),
    )
    assert [(one.text, one.proven) for one in facts.files] == [
        ("(tftp)/grub.cfg", False),
        ("Linux initrd", False),
    ]


def test_sections_of_a_unified_image_have_proven_names() -> None:
    name = wide(".linux\0")
    facts = facts_of(
        event(11, EventType.IPL, name, b".linux\0"),
        event(11, EventType.IPL, name, b"the kernel"),
        event(11, EventType.IPL, wide(".initrd\0"), b"content without its name"),
        event(11, EventType.IPL, wide(".osrel\0"), b".osrel\0"),
        event(11, EventType.IPL, wide(".other\0"), b"content under another name"),
        event(11, EventType.SEPARATOR, SEPARATOR),
    )
    assert [(one.text, one.proven) for one in facts.sections] == [
        (".linux", True),
        (".initrd", False),
        (".other", False),
    ]
    assert facts.sections[0].digest == hashlib.sha256(b"the kernel").digest()


def test_a_section_whose_content_is_its_name_is_a_section() -> None:
    twice = event(11, EventType.IPL, wide(".uname\0"), b".uname\0")
    assert [one.text for one in facts_of(twice, twice).sections] == [".uname"]


def test_owner_keys_of_shim_are_named_by_claim() -> None:
    (one,) = facts_of(
        spoofed(14, EventType.IPL, b"MokList\0"), event(14, EventType.SEPARATOR, b"")
    ).owner_keys
    assert (one.text, one.proven, one.pcr) == ("MokList", False, 14)


# --- one event


def test_variables_are_told_by_name_and_size() -> None:
    record = variable("Boot0001", b"12345")
    whole = describe(event(1, EventType.EFI_VARIABLE_BOOT, record), BANK)
    assert (whole.text, whole.proven, whole.claim) == ("Boot0001 (5 bytes)", True, None)
    value = describe(event(1, EventType.EFI_VARIABLE_BOOT, record, b"12345"), BANK)
    assert (value.text, value.proven, value.claim) == (None, True, "Boot0001 (5 bytes)")
    claimed = describe(spoofed(1, EventType.EFI_VARIABLE_BOOT, record), BANK)
    assert (claimed.text, claimed.proven, claimed.claim) == (None, False, "Boot0001 (5 bytes)")
    odd = describe(event(1, EventType.EFI_VARIABLE_BOOT, b"odd"), BANK)
    assert (odd.text, odd.proven, odd.claim) == (None, True, None)


def test_other_data_is_told_where_it_is_text() -> None:
    version = event(0, EventType.S_CRTM_VERSION, wide("F.42\0"))
    assert describe(version, BANK).text == "F.42"
    assert describe(event(0, EventType.S_CRTM_VERSION, b"\x80\0\1"), BANK).text is None
    assert describe(event(0, EventType.SEPARATOR, SEPARATOR), BANK).text is None
    assert describe(event(0, EventType.SEPARATOR, b"text"), BANK).text is None
    path = describe(event(4, EventType.EFI_BOOT_SERVICES_APPLICATION, b"x"), BANK)
    assert (path.text, path.proven, path.claim) == (None, False, None)
    loader = event(5, EventType.EVENT_TAG, tag(1, wide("loader.conf\0")))
    assert describe(loader, BANK).text == "loader.conf"


def test_text_cannot_steer_a_terminal_and_is_cut() -> None:
    told = describe(event(8, EventType.IPL, b"grub_cmd: a\x1b[2Jb\0", b"a\x1b[2Jb"), BANK)
    assert told.text is None
    assert typed.clean("a\x1b\u202eb\n") == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b\n"
    long = b"x" * (typed.MAX_TEXT + 9)
    assert describe(event(8, EventType.IPL, long), BANK).text == "x" * typed.MAX_TEXT
    (command,) = facts_of(event(8, EventType.IPL, b"a\x1bb")).commands
    assert command.text == "a\N{REPLACEMENT CHARACTER}b"


def test_nothing_is_proven_in_a_bank_that_the_log_lacks() -> None:
    one = event(8, EventType.IPL, b"text")
    assert proven_content(one, BANK) == b"text"
    assert proven_content(one, "sha1") is None
    assert proven_content(one, "none") is None
    with pytest.raises(EvidenceError, match="no sha1 digests"):
        extract(log_of(one), "sha1")


def test_what_extends_nothing_says_nothing() -> None:
    facts = facts_of(
        replace(config("SecureBoot", b"\1"), type=EventType.NO_ACTION),
        event(8, EventType.NO_ACTION, b"grub_cmd: a"),
    )
    assert facts.secure_boot == "unknown"
    assert facts.commands == ()


def test_a_real_boot_is_told_whole() -> None:
    facts = extract(eventlog.decode((VECTORS / "debian13-tftp.bin").read_bytes()), BANK)
    assert facts.secure_boot == "on"
    assert [(one.name, one.proven) for one in facts.databases] == [
        ("PK", True),
        ("KEK", True),
        ("db", True),
        ("dbx", True),
    ]
    assert [one.name for one in facts.authorities] == ["db", "SbatLevel", "MokListRT"]
    assert "Microsoft Corporation UEFI CA 2011" in facts.authorities[0].key.subject
    assert [one.proven for one in facts.commands] == [True] * 6
    assert [one.proven for one in facts.command_lines] == [True, True]
    assert facts.command_lines[1].text == f"BOOT_IMAGE={facts.command_lines[0].text}"
    assert [one.text for one in facts.owner_keys] == ["MokList", "MokListX", "MokListTrusted"]
    assert len(facts.programs) == 3
    unified = extract(eventlog.decode((VECTORS / "uki257.bin").read_bytes()), BANK)
    assert [one.text for one in unified.sections[:3]] == [".linux", ".osrel", ".cmdline"]
    assert all(one.proven for one in unified.sections)


@pytest.mark.parametrize("kind", [CONFIG, AUTHORITY, EventType.EFI_VARIABLE_BOOT2])
def test_every_variable_record_is_told_by_name(kind: int) -> None:
    told = describe(event(1, kind, variable("db", b"123")), BANK)
    assert (told.text, told.proven, told.claim) == ("db (3 bytes)", True, None)


def test_the_path_of_a_program_is_a_claim() -> None:
    told = describe(event(4, EventType.EFI_BOOT_SERVICES_APPLICATION, image(file_path("a"))), BANK)
    assert (told.text, told.proven, told.claim) == (None, False, "File(a)")


def test_nothing_is_no_text() -> None:
    told = describe(event(8, EventType.IPL, b"\0"), BANK)
    assert (told.text, told.proven, told.claim) == (None, True, None)
    (empty,) = facts_of(spoofed(14, EventType.IPL, b"\0")).owner_keys
    assert empty.text == ""
    assert facts_of(spoofed(9, EventType.IPL, b"\0")).files[0].text == ""
    assert facts_of(spoofed(12, EventType.IPL, b"\0")).command_lines[0].text == ""


def test_a_command_of_zeros_is_no_command_line() -> None:
    facts = facts_of(event(8, EventType.IPL, bytes(6)))
    assert (len(facts.commands), facts.command_lines) == (1, ())


@pytest.mark.parametrize("pcr", [5, 8, 9, 11, 12, 14])
def test_only_the_right_events_become_facts(pcr: int) -> None:
    odd = facts_of(
        spoofed(pcr, EventType.SEPARATOR, SEPARATOR),
        spoofed(pcr, EventType.EVENT_TAG, tag(1, b"x")),
        spoofed(pcr, EventType.ACTION, tag(0x8F3B22EC, b"x")),
        spoofed(pcr, EventType.ACTION, tag(0x8F3B22ED, b"x")),
    )
    facts = facts_of(spoofed(pcr, EventType.IPL, b"x"))
    found = {
        5: (),
        8: facts.commands,
        9: facts.files,
        11: facts.sections,
        12: facts.command_lines,
        14: facts.owner_keys,
    }
    for told in (odd, facts):
        kinds = (told.commands, told.command_lines, told.files, told.sections, told.owner_keys)
        assert sum(map(len, kinds)) == (len(found[pcr]) if told is facts else 0)
    assert len(found[pcr]) == (pcr != 5)


def test_a_name_that_is_what_was_measured_is_proven() -> None:
    facts = facts_of(event(9, EventType.IPL, b"name\0"), event(14, EventType.IPL, b"name\0"))
    for one in (*facts.files, *facts.owner_keys):
        assert (one.text, one.proven) == ("name", True)


kinds = st.sampled_from([4, 5, 6, 13, *(int(kind) for kind in EventType if kind > 1 << 31)])


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 4, 5, 7, 8, 9, 11, 12, 14]), kinds, st.binary(max_size=90)
        ),
        max_size=6,
    )
)
def test_any_data_gives_facts(parts: list[tuple[int, int, bytes]]) -> None:
    log = eventlog.decode(encode(log_of(*(event(*part) for part in parts))))
    facts = extract(log, BANK)
    assert facts.secure_boot == "unknown"
    for one in log.events[1:]:
        told = describe(one, BANK)
        assert told.text is None or told.text == typed.clean(told.text)
        assert not (told.text and told.claim)
