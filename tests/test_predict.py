"""Boot prediction against captured boots, and everything that must not be predicted."""

import hashlib
import json
import struct
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from boot_forge import fat12, grub_image, pe_image
from eventlog_forge import with_events
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import eventlog
from attest.bootfacts import BootFiles, chains_to, facts_from_json, flat_commands
from attest.compare import compare
from attest.errors import AttestSiteError, EvidenceError
from attest.eventlog import Event, EventLog, EventType
from attest.grub import inspect
from attest.memdisk import read_file
from attest.pe import Pe
from attest.predict import (
    PREDICTED_PCRS,
    FileFacts,
    Prediction,
    SecureBootVariables,
    Subject,
    Transport,
    predict,
    variables_from_log,
    variables_from_store,
)
from attest.prediction import db_authority
from attest.shim import read_shim
from attest.uefi import (
    CERT_SHA256,
    CERT_X509,
    IMAGE_SECURITY,
    Signature,
    Variable,
    decode_signatures,
)

VECTORS = Path(__file__).parent / "vectors" / "eventlog"
BOOTS = tomllib.loads((VECTORS / "boots.toml").read_text())
ARM64 = tomllib.loads((VECTORS / "arm64.toml").read_text())
STORES = {
    True: Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    False: Path("/usr/share/OVMF/OVMF_VARS_4M.fd"),
}
SHIM = Path("/usr/lib/shim/shimx64.efi.signed")
GRUBS = Path("/usr/lib/grub/x86_64-efi-signed")
GRUB_CFG = b"linux /vmlinuz console=ttyS0\ninitrd /generic.img /anchor.img\nboot\n"


def facts_of(name: str) -> FileFacts:
    return FileFacts.from_json((VECTORS / BOOTS[name]["facts"]).read_text())


def log_of(name: str) -> EventLog:
    return eventlog.decode((VECTORS / BOOTS[name]["log"]).read_bytes())


def store(secure_boot: bool) -> SecureBootVariables:
    return variables_from_store(STORES[secure_boot].read_bytes())


def prediction_of(name: str, **changes: object) -> Prediction:
    boot = BOOTS[name]
    arguments: dict = {
        "transport": Transport(boot["transport"]),
        "server": boot["server"],
        "drive": boot.get("drive", 0),
        "variables": store(boot["secure_boot"]),
    }
    return predict(facts_of(name), **(arguments | changes))


@pytest.mark.parametrize("name", BOOTS)
def test_prediction_equals_what_the_tpm_held(name: str) -> None:
    prediction = prediction_of(name)
    held = {int(pcr): bytes.fromhex(value) for pcr, value in BOOTS[name]["pcrs"].items()}
    predicted = {pcr: prediction.pcr("sha256", pcr) for pcr in PREDICTED_PCRS}
    assert predicted == {pcr: held[pcr] for pcr in PREDICTED_PCRS}


def test_over_https_grub_names_its_device_otherwise_and_nothing_else_differs() -> None:
    plain = prediction_of("debian13-http").events("sha256")
    server = f"{BOOTS['debian13-http']['server']}:8444"
    secured = prediction_of("debian13-http", transport=Transport.HTTPS, server=server)
    assert len(plain) == len(secured.events("sha256"))
    differing = [
        (one.text or "", other.text or "")
        for one, other in zip(plain, secured.events("sha256"), strict=True)
        if one != other
    ]
    assert differing
    for one, other in differing:
        assert other == one.replace("(http,", "(https,").replace(server[:-5], server)


@pytest.mark.parametrize("name", [name for name, boot in BOOTS.items() if "log" in boot])
def test_events_and_databases_equal_the_log(name: str) -> None:
    log = log_of(name)
    variables = variables_from_log(log, "sha256")
    assert replace(variables, sbat_level=None) == store(BOOTS[name]["secure_boot"])
    prediction = prediction_of(name, variables=variables)
    for pcr in PREDICTED_PCRS:
        measured = [event.digests["sha256"] for event in log.events if event.pcr == pcr]
        predicted = [event for event in prediction.events("sha256") if event.pcr == pcr]
        assert [event.digest for event in predicted] == measured


@pytest.mark.parametrize("name", ARM64)
def test_boots_of_arm64_are_predicted_from_the_keys_that_their_log_proves(name: str) -> None:
    boot = ARM64[name]
    log = eventlog.decode((VECTORS / boot["log"]).read_bytes())
    facts = FileFacts.from_json((VECTORS / boot["facts"]).read_text())
    assert facts.architecture == "arm64"
    for bank, values in boot["values"].items():
        variables = variables_from_log(log, bank)
        assert variables.secure_boot is boot["secure_boot"]
        prediction = predict(
            facts,
            transport=Transport(boot["transport"]),
            server=boot["server"],
            variables=variables,
        )
        held = {int(pcr): bytes.fromhex(value) for pcr, value in values.items()}
        assert {pcr: prediction.pcr(bank, pcr) for pcr in PREDICTED_PCRS} == held
        assert compare(log, prediction, bank).equal


def test_a_grub_that_measures_nothing_is_refused() -> None:
    image = grub_image(fat12(b"source $prefix/grub.cfg\n"))
    with pytest.raises(AttestSiteError, match=r"2\.06-test1: its built-in grub.cfg is unknown"):
        inspect(image)
    with pytest.raises(AttestSiteError, match=r"for arm64 measures neither grub\.cfg nor"):
        inspect(with_machine(image, 0xAA64))
    with pytest.raises(
        AttestSiteError, match=r"no boot profile for .* \(upstream 2\.06, riscv64\)"
    ):
        inspect(with_machine(image, 0x5064))


def with_machine(image: bytes, machine: int) -> bytes:
    return image[: 64 + 4] + struct.pack("<H", machine) + image[64 + 6 :]


def test_programs_for_different_processors_are_refused() -> None:
    kernel = with_machine(pe_image({".text": b"kernel"}), 0xAA64)
    with pytest.raises(AttestSiteError, match=r"do not fit together: shim for amd64, .*kernel for"):
        FileFacts.compute(host_files(kernel=kernel))


@pytest.mark.parametrize(
    ("kernel", "sentence"),
    [
        (b"\x1f\x8b\x08\0 packed", "packed with gzip: unpack it"),
        (b"MZ\0\0zimg", "no boot profile for a kernel that unpacks itself"),
        (b"\x7fELF", "not a PE image"),
    ],
)
def test_kernels_in_other_forms_are_refused_with_what_to_do(kernel: bytes, sentence: str) -> None:
    with pytest.raises(AttestSiteError, match=sentence):
        FileFacts.compute(host_files(kernel=kernel))


def test_a_digest_in_db_vouches_for_an_image_and_other_entries_for_none() -> None:
    image = {"sha256": hashlib.sha256(b"image").digest()}
    named = Signature(type=CERT_SHA256, owner=IMAGE_SECURITY, data=image["sha256"])
    other = replace(named, data=hashlib.sha256(b"other").digest())
    as_key = replace(named, type=CERT_X509)
    db = other.encode_list() + as_key.encode_list()
    variables = replace(store(True), db=db)
    assert db_authority((), image, variables) is None
    assert db_authority((), None, replace(variables, db=db + named.encode_list())) is None
    found = db_authority((), image, replace(variables, db=db + named.encode_list()))
    assert found == Variable(guid=IMAGE_SECURITY, name="db", data=named.encode())
    # What is no certificate list cannot issue, even where its bytes are those of a signer.
    assert db_authority(((named.data,),), None, replace(variables, db=named.encode_list())) is None


def test_the_state_of_secure_boot_and_the_databases_are_told_apart() -> None:
    events = prediction_of("debian12-tftp").events("sha256")
    subjects = {event.label: event.subject for event in events if event.pcr == 7}
    assert subjects["SecureBoot"] is Subject.SECURE_BOOT
    assert subjects["PK"] is subjects["dbx"] is Subject.KEYS


def test_no_value_is_predicted_for_a_bank_that_nobody_computed() -> None:
    with pytest.raises(AttestSiteError, match="nothing is predicted for the sm3_256 bank"):
        prediction_of("debian12-tftp").events("sm3_256")


def test_a_db_that_would_cost_too_much_is_refused_and_a_long_key_issues_nothing() -> None:
    variables = store(True)
    key = decode_signatures(variables.db)[0]
    many = replace(variables, db=b"".join(key.encode_list() for _ in range(65)))
    with pytest.raises(EvidenceError, match="holds 65 certificates"):
        prediction_of("debian12-tftp", variables=many)
    long = b"\x30" * (17 << 10)
    assert not chains_to((long,), long)
    assert chains_to((key.data,), key.data)


def test_facts_round_trip_and_stay_small() -> None:
    for name in BOOTS:
        facts = facts_of(name)
        assert FileFacts.from_json(facts.to_json()) == facts
        assert len(facts.to_json()) < 32 << 10


def test_kept_facts_without_modules_still_read() -> None:
    facts = facts_of("debian12-tftp")
    assert facts.modules == ()
    assert facts_from_json(facts.to_json().replace('"modules":[],', "")) == facts
    more = FileFacts.compute(host_files(modules=(b"virtio_net", b"tpm")))
    assert [module["sha1"] for module in more.modules] == [
        hashlib.sha1(content).digest() for content in (b"virtio_net", b"tpm")
    ]
    assert facts_from_json(more.to_json()) == more


def host_files(grub: str = "grubnetx64.efi.signed", **changes: object) -> BootFiles:
    files = BootFiles(
        shim=SHIM.read_bytes(),
        grub=(GRUBS / grub).read_bytes(),
        grub_cfg=GRUB_CFG,
        kernel=(GRUBS / "gcdx64.efi.signed").read_bytes(),
        initrds=(b"generic", b"anchor"),
    )
    return replace(files, **changes)


def test_facts_of_installed_packages_predict_every_bank() -> None:
    facts = FileFacts.compute(host_files())
    assert facts.grub_version.startswith(facts.grub_family)
    prediction = predict(facts, transport=Transport.TFTP, server="192.0.2.1", variables=store(True))
    for bank, size in (("sha1", 20), ("sha256", 32), ("sha384", 48), ("sha512", 64)):
        assert {len(event.digest) for event in prediction.events(bank)} == {size}
        assert prediction.pcr(bank, 11) == bytes(size)
        assert any(prediction.pcr(bank, 9))


def test_two_initrds_are_handed_over_padded_to_four_bytes_between() -> None:
    plain = FileFacts.compute(host_files(initrds=(b"generic\0", b"anchor")))
    padded = FileFacts.compute(host_files())
    assert padded.initrd_loaded == plain.initrd_loaded
    assert padded.initrds[0] != plain.initrds[0]
    tail = FileFacts.compute(host_files(initrds=(b"generic", b"anchor\0\0")))
    assert tail.initrd_loaded != padded.initrd_loaded


def test_the_kernel_sees_the_linux_line_wherever_it_stands() -> None:
    facts = facts_of("debian13-tftp")
    later = replace(facts, commands=("set timeout=0", *facts.commands))
    predicted = [
        predict(each, transport=Transport.TFTP, server="10.77.0.1", variables=store(True))
        for each in (facts, later)
    ]
    assert predicted[0].pcr("sha256", 9) == predicted[1].pcr("sha256", 9)
    assert predicted[0].pcr("sha256", 8) != predicted[1].pcr("sha256", 8)


@pytest.mark.parametrize("pcr", [0, 1, 2, 3, 6, 10, 16, 24])
def test_other_pcrs_are_not_predicted(pcr: int) -> None:
    with pytest.raises(AttestSiteError, match=f"PCR {pcr} "):
        prediction_of("debian12-tftp").pcr("sha256", pcr)


@pytest.mark.parametrize(
    ("name", "transport", "sentence"),
    [
        ("debian12-tftp", Transport.ISO, r"image of GRUB 2\.06\S+ does not boot by iso"),
        ("debian13-cd", Transport.TFTP, r"image of GRUB 2\.12\S+ does not boot by tftp"),
        ("debian12-tftp", Transport.HTTP, r"GRUB 2\.06\S+ cannot boot over HTTP"),
        ("debian12-tftp", Transport.HTTPS, r"GRUB 2\.06\S+ cannot boot over HTTP"),
    ],
)
def test_files_that_do_not_fit_the_transport(
    name: str, transport: Transport, sentence: str
) -> None:
    with pytest.raises(AttestSiteError, match=sentence):
        prediction_of(name, transport=transport)


def test_an_unknown_family_in_stored_facts_is_refused() -> None:
    facts = replace(facts_of("debian13-tftp"), grub_family="2.14", grub_version="2.14-1")
    with pytest.raises(AttestSiteError, match=r"no boot profile for GRUB 2\.14-1"):
        predict(facts, transport=Transport.TFTP, server="x", variables=store(True))


def test_an_unknown_grub_is_named() -> None:
    known = (GRUBS / "grubnetx64.efi.signed").read_bytes()
    version = inspect(known).version.encode()
    family = inspect(known).family.encode()
    newer = known.replace(b"grub," + family, b"grub,9.99").replace(version, b"9" * len(version))
    with pytest.raises(AttestSiteError, match="no boot profile for GRUB 9999"):
        inspect(newer)
    with pytest.raises(AttestSiteError, match="no boot profile for GRUB .*starts in an unknown"):
        inspect(known.replace(b"normal (memdisk)/grub.cfg", b"normal (memdisk)/evil.cfg"))
    with pytest.raises(AttestSiteError, match="no boot profile for GRUB unknown"):
        inspect(SHIM.read_bytes())


def test_the_grub_of_an_installed_disk_is_refused() -> None:
    with pytest.raises(AttestSiteError, match="no boot profile for GRUB"):
        inspect((GRUBS / "grubx64.efi.signed").read_bytes())


def test_a_shim_without_its_tables_is_refused() -> None:
    with pytest.raises(AttestSiteError, match=r"no \.vendor_cert"):
        FileFacts.compute(host_files(shim=(GRUBS / "gcdx64.efi.signed").read_bytes()))


GOOD_VENDOR = struct.pack("<IIII", 2, 3, 16, 18) + b"\x30\0dbx"
GOOD_LEVEL = struct.pack("<III", 0, 8, 12) + b"sbat,1,2025021800\n\0"


def shim_with(vendor: bytes, level: bytes) -> bytes:
    """Build a shim; the names of its tables are too long for a section header."""
    image = bytearray(pe_image({"a": vendor, "b": level}))
    names = struct.pack("<I", 30) + b".vendor_cert\0.sbatlevel\0"
    struct.pack_into("<II", image, 64 + 12, len(image), 0)
    table = 64 + 24 + 240
    image[table : table + 8] = b"/4".ljust(8, b"\0")
    image[table + 40 : table + 48] = b"/17".ljust(8, b"\0")
    return bytes(image) + names


def test_the_tables_of_shim_are_read() -> None:
    facts = FileFacts.compute(host_files(shim=shim_with(GOOD_VENDOR, GOOD_LEVEL)))
    assert (facts.vendor_cert, facts.vendor_dbx) == (b"\x30\0", b"dbx")
    assert facts.sbat_level == b"sbat,1,2025021800\n"
    tables = read_shim(Pe.decode(shim_with(GOOD_VENDOR, GOOD_LEVEL)))
    assert (tables.vendor_cert, tables.sbat_level) == (facts.vendor_cert, facts.sbat_level)


@pytest.mark.parametrize(
    ("vendor", "level", "sentence"),
    [
        (struct.pack("<IIII", 0, 0, 16, 16), GOOD_LEVEL, "empty or malformed"),
        (struct.pack("<IIII", 9, 0, 16, 16) + b"\x30\0", GOOD_LEVEL, "empty or malformed"),
        (struct.pack("<IIII", 2, 9, 16, 18) + b"\x30\0", GOOD_LEVEL, "empty or malformed"),
        (struct.pack("<IIII", 2, 0, 16, 18) + b"\xa1\x59", GOOD_LEVEL, "a key list"),
        (b"short", GOOD_LEVEL, r"no \.vendor_cert"),
        (GOOD_VENDOR, b"short", r"no \.sbatlevel"),
        (GOOD_VENDOR, b"\1" + GOOD_LEVEL[1:], "unknown kind"),
        (GOOD_VENDOR, GOOD_LEVEL.replace(b"sbat", b"sbit"), "unknown kind"),
    ],
)
def test_shims_with_other_tables_are_refused(vendor: bytes, level: bytes, sentence: str) -> None:
    with pytest.raises(AttestSiteError, match=sentence):
        FileFacts.compute(host_files(shim=shim_with(vendor, level)))


def test_programs_of_another_signer_are_refused() -> None:
    facts = facts_of("debian12-tftp")
    for changes, sentence in (
        ({"grub_signers": ()}, "GRUB .* is not signed by the key"),
        ({"kernel_signers": facts.signers}, "the kernel is not signed by the key"),
    ):
        with pytest.raises(AttestSiteError, match=sentence):
            predict(
                replace(facts, **changes),
                transport=Transport.TFTP,
                server="10.77.0.1",
                variables=store(True),
            )


FLAT_REFUSED = {
    b"menuentry x {\n linux /vmlinuz\n}\n": "line 1",
    b"linux /vmlinuz ${net_default_ip}\ninitrd /i\nboot\n": "line 1",
    b"linux /vmlinuz 'a b'\ninitrd /i\nboot\n": "line 1",
    b"linux /vmlinuz a\\\ninitrd /i\nboot\n": "line 1",
    b"linux /vmlinuz; boot\n": "line 1",
    b"linux /vmlinuz\ninitrd /i*\nboot\n": "line 2",
    b"linux vmlinuz\ninitrd /i\nboot\n": "line 1",
    b"linux /vmlinuz\ninitrd /i\nboot now\n": "line 3",
    b"set a\nlinux /vmlinuz\ninitrd /i\nboot\n": "line 1",
    b"insmod x\nlinux /vmlinuz\ninitrd /i\nboot\n": "line 1",
    b"linux /vmlinuz\nboot\n": "linux, initrd, boot",
    b"linux /vmlinuz\ninitrd /i\n": "linux, initrd, boot",
    b"linux /a\nlinux /b\ninitrd /i\nboot\n": "linux, initrd, boot",
    b"linux /vmlinuz\r\ninitrd /i\r\nboot\r\n": "plain line ends",
    "linux /vmlinuz ä\ninitrd /i\nboot\n".encode(): "ASCII",
    b"#" * 20000: "larger than",
    b"": "linux, initrd, boot",
}


@pytest.mark.parametrize("grub_cfg", FLAT_REFUSED)
def test_a_grub_cfg_with_something_to_interpret_is_refused(grub_cfg: bytes) -> None:
    with pytest.raises(AttestSiteError, match=FLAT_REFUSED[grub_cfg]):
        flat_commands(grub_cfg)


def test_a_flat_grub_cfg_reads_as_grub_measures_it() -> None:
    text = b"# comment\n\nset timeout=0\n  linux  /vmlinuz  a=b \ninitrd /g /a\nboot"
    assert flat_commands(text) == ("set timeout=0", "linux /vmlinuz a=b", "initrd /g /a", "boot")


def test_the_number_of_initrds_must_agree() -> None:
    with pytest.raises(AttestSiteError, match="another number of initrd files"):
        FileFacts.compute(host_files(initrds=(b"generic",)))


def test_facts_of_another_shape_are_refused() -> None:
    good = json.loads(facts_of("debian13-tftp").to_json())
    for bad in (
        "",
        "[]",
        "[" * 100000,
        json.dumps(good | {"type": "doorstep/bootfacts/v2"}),
        json.dumps(good | {"more": 1}),
        json.dumps({key: value for key, value in good.items() if key != "shim"}),
        json.dumps(good | {"grub_cfg": good["grub_cfg"] | {"sha256": "AAAA"}}),
        json.dumps(good | {"grub_cfg": good["grub_cfg"] | {"md5": "AAAA"}}),
        json.dumps(good | {"vendor_cert": "not base64!"}),
        json.dumps(good | {"grub_kind": "floppy"}),
        json.dumps(good | {"commands": "linux /vmlinuz"}),
        json.dumps(good | {"grub_version": 2}),
    ):
        with pytest.raises(AttestSiteError, match="boot facts"):
            FileFacts.from_json(bad)


def test_a_driver_signed_by_the_same_key_moves_the_authority_before_the_separator() -> None:
    usual = [event for event in prediction_of("debian12-tftp").events("sha256") if event.pcr == 7]
    label = "db key that verified shim"
    authority = next(event.digest for event in usual if event.label == label)
    db = store(True).db
    entries = [Variable(guid=DB_GUID, name="db", data=e.encode()) for e in decode_signatures(db)]
    for entry in entries:
        changed = replace(store(True), authorities=(entry,))
        events = prediction_of("debian12-tftp", variables=changed).events("sha256")
        labels = [event.label for event in events if event.pcr == 7]
        before = next(e.digest for e in events if e.label == "db key that verified a driver")
        assert labels.index("db key that verified a driver") < labels.index("separator")
        assert (label in labels) == (before != authority)


DB_GUID = next(
    Variable.decode(event.data).guid
    for event in log_of("debian12-tftp").events
    if event.type == EventType.EFI_VARIABLE_AUTHORITY
)


def test_a_newer_sbat_level_of_the_box_stays_and_an_older_one_does_not() -> None:
    usual = prediction_of("debian13-tftp").pcr("sha256", 7)
    for level, same in (
        (b"sbat,1,2031010100\nshim,9\n", False),
        (b"sbat,1,2021030218\n", True),
        (b"nonsense", True),
        (b"sbat,1,soon\n", True),
        (b"sbat,1,2031-01-01\n", True),
        (b"sbat,1,99999999999\n", True),
        (b"sbat,2,2031010100\n", True),
    ):
        variables = replace(store(True), sbat_level=level)
        value = prediction_of("debian13-tftp", variables=variables).pcr("sha256", 7)
        assert (value == usual) is same


def test_a_db_that_does_not_know_shim_is_evidence_gone_wrong() -> None:
    with pytest.raises(EvidenceError, match="no key in the db"):
        prediction_of("debian12-tftp", variables=replace(store(True), db=b""))
    with pytest.raises(EvidenceError, match="signature list"):
        prediction_of("debian12-tftp", variables=replace(store(True), db=b"x"))


def authority(db: bytes) -> bytes:
    """Give the certificate that is predicted to let shim start."""
    variables = replace(store(True), db=db)
    label = "db key that verified shim"
    events = prediction_of("debian13-tftp", variables=variables).events("sha256")
    digest = next(event.digest for event in events if event.label == label)
    for entry in decode_signatures(db):
        record = Variable(guid=DB_GUID, name="db", data=entry.encode()).encode()
        if hashlib.sha256(record).digest() == digest:
            return entry.data
    raise AssertionError


def test_the_first_signature_of_shim_that_db_knows_decides() -> None:
    (old, new) = (chain[-1] for chain in facts_of("debian13-tftp").signers)
    owner = decode_signatures(store(True).db)[0]
    lists = {ca: replace(owner, data=ca).encode_list() for ca in (old, new)}
    assert authority(lists[new]) == new
    assert authority(lists[old]) == old
    assert authority(lists[new] + lists[old]) == old
    vendor = replace(owner, data=facts_of("debian13-tftp").vendor_cert)
    variables = replace(store(True), db=lists[old] + vendor.encode_list())
    events = prediction_of("debian13-tftp", variables=variables).events("sha256")
    record = Variable(guid=DB_GUID, name="db", data=vendor.encode()).encode()
    found = next(event for event in events if event.label == "shim key that verified GRUB")
    assert found.digest == hashlib.sha256(record).digest()


def test_a_huge_db_costs_nothing() -> None:
    owner = decode_signatures(store(True).db)[0]
    with pytest.raises(EvidenceError, match="holds 65 certificates"):
        prediction_of("debian13-tftp", variables=replace(store(True), db=owner.encode_list() * 65))
    with pytest.raises(EvidenceError, match="more than 16384 entries"):
        decode_signatures(replace(owner, data=b"").encode_list() * 16385)


def test_an_unknown_bank_is_not_predicted() -> None:
    with pytest.raises(AttestSiteError, match="sm3_256 bank"):
        prediction_of("debian13-tftp").events("sm3_256")


def edited(index: int, **changes: object) -> EventLog:
    """Change the PCR 7 event at `index` of a good log."""
    log = log_of("debian12-tftp")
    position = [at for at, event in enumerate(log.events) if event.pcr == 7][index]
    events = list(log.events)
    events[position] = replace(events[position], **changes)
    return with_events(log, events[1:])


def with_extra(place: int, event: Event) -> EventLog:
    log = log_of("debian12-tftp")
    position = [at for at, found in enumerate(log.events) if found.pcr == 7][place]
    events = [*log.events[:position], event, *log.events[position:]]
    return with_events(log, events[1:])


def seven(index: int) -> Event:
    return [event for event in log_of("debian12-tftp").events if event.pcr == 7][index]


SEPARATOR = 5
BAD_LOGS = {
    "text of a variable spoofed": (edited(0, data=seven(0).data[:-1] + b"\0"), "does not hash"),
    "digest missing": (edited(1, digests={}), "does not hash"),
    "type of a variable relabelled": (edited(0, type=EventType.IPL), "event of type EV_IPL"),
    "debugger": (
        with_extra(
            SEPARATOR, replace(seven(5), type=EventType.EFI_ACTION, data=b"UEFI Debug Mode")
        ),
        "event of type EV_EFI_ACTION",
    ),
    "variable twice": (with_extra(SEPARATOR, seven(4)), "a variable twice"),
    "variable after the separator": (with_extra(SEPARATOR + 1, seven(4)), "after its separator"),
    "second separator": (with_extra(SEPARATOR, seven(SEPARATOR)), "exactly one plain separator"),
    "error separator": (edited(SEPARATOR, data=b"\1\0\0\0"), "exactly one plain separator"),
    "no separator": (edited(SEPARATOR, type=EventType.NO_ACTION), "exactly one plain separator"),
    "a database missing": (edited(4, type=EventType.NO_ACTION), "does not begin with"),
}


@pytest.mark.parametrize("name", BAD_LOGS)
def test_key_databases_are_not_taken_from_a_doubtful_log(name: str) -> None:
    log, sentence = BAD_LOGS[name]
    with pytest.raises(EvidenceError, match=sentence):
        variables_from_log(log, "sha256")


def test_an_empty_secure_boot_variable_is_unknown_not_off() -> None:
    data = Variable.decode(seven(0).data)
    record = data._replace(data=b"").encode()
    log = edited(0, data=record, digests={"sha256": hashlib.sha256(record).digest()})
    with pytest.raises(EvidenceError, match="does not say whether Secure Boot"):
        variables_from_log(log, "sha256")


def test_the_level_shim_found_is_read_from_the_log() -> None:
    level = variables_from_log(log_of("debian13-tftp"), "sha256").sbat_level
    assert level == facts_of("debian13-tftp").sbat_level


def test_stores_that_are_none_are_refused() -> None:
    good = STORES[True].read_bytes()
    volume = good.replace(b"_FVH", b"_FVX", 1)
    first = good.index(b"\xaa\x55\x3f")
    outside = good[: first + 40] + b"\xff\xff\xff\x7f" + good[first + 44 :]
    for data in (b"", bytes(100), good[:60], good[:72] + bytes(16) + good[88:], volume, outside):
        with pytest.raises(AttestSiteError, match="variable store"):
            variables_from_store(data)
    with pytest.raises(AttestSiteError, match="too large"):
        variables_from_store(good + bytes(16 << 20))


@settings(max_examples=60)
@given(st.integers(40, 4000), st.binary(min_size=1, max_size=8), st.integers(0, 6000))
def test_any_damaged_store_gives_variables_or_our_error(at: int, patch: bytes, cut: int) -> None:
    data = bytearray(STORES[True].read_bytes()[: 12000 - cut])
    data[at : at + len(patch)] = patch
    try:
        variables_from_store(bytes(data))
    except AttestSiteError:
        return


@settings(max_examples=100)
@given(
    st.sampled_from([b"", b"hsqs", b"\xeb\x3c\x90mkfs.fat\0\2\4\1\0\2\0\2"]),
    st.binary(max_size=200),
)
def test_any_memory_disk_gives_a_file_or_our_error(start: bytes, data: bytes) -> None:
    try:
        read_file(start + data, "grub.cfg")
    except AttestSiteError:
        return


def test_subjects_and_texts_of_a_prediction() -> None:
    events = prediction_of("debian13-http").events("sha256")
    lines = [event.text for event in events if event.subject is Subject.COMMAND_LINE]
    assert lines == [
        "linux /vmlinuz console=ttyS0 panic=-1 quiet",
        "/vmlinuz console=ttyS0 panic=-1 quiet",
        "BOOT_IMAGE=/vmlinuz console=ttyS0 panic=-1 quiet",
    ]
    texts = [event.text for event in events if event.pcr == 8]
    assert texts == [
        "[ -e (http,10.77.0.1)/grub/x86_64-efi/grub.cfg ]",
        "[ -e (http,10.77.0.1)/grub/grub.cfg-amd64 ]",
        "source (http,10.77.0.1)/grub/grub.cfg",
        "linux /vmlinuz console=ttyS0 panic=-1 quiet",
        "/vmlinuz console=ttyS0 panic=-1 quiet",
        "initrd /generic.img /anchor.img",
        "boot",
    ]
    assert [event.label for event in events if event.subject is Subject.INITRD] == [
        "file initrd",
        "file initrd",
        "initrd seen by the kernel",
    ]
