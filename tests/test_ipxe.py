"""Boots by iPXE: which iPXE is known, what a flat script does, and the prediction that follows."""

import json
import struct
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from boot_forge import pe_image
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import eventlog
from attest.bootfacts import FileFacts, facts_from_json
from attest.bootmatch import unknown_variables
from attest.compare import Kind, compare
from attest.errors import AttestError, AttestSiteError, EvidenceError
from attest.eventlog import EventLog
from attest.imagefacts import digests
from attest.ipxe import PROFILES, read_script
from attest.ipxefacts import IpxeFacts, IpxeFiles
from attest.pe import Pe
from attest.predict import (
    PREDICTED_PCRS,
    SecureBootVariables,
    Subject,
    Transport,
    predict,
    variables_from_log,
)
from attest.program import identify

VECTORS = Path(__file__).parent / "vectors" / "eventlog"
BOOTS = tomllib.loads((VECTORS / "ipxe.toml").read_text())
KNOWN = "1.21.1+git20250501.dad20602"
SCRIPT = b"#!ipxe\nkernel /f/ab/vmlinuz quiet rdinit=/init\ninitrd /f/cd/a.img\nboot\n"


def ipxe_image(
    row: str | None = f"ipxe,1,iPXE,snponly.efi,{KNOWN}+dfsg-1,https://ipxe.org",
) -> bytes:
    """Build what an iPXE looks like to a reader."""
    sbat = {} if row is None else {".sbat": f"sbat,1,SBAT Version,sbat,1,x\n{row}\n".encode()}
    return pe_image({".text": b"\x90", **sbat})


def made(**changes: object) -> IpxeFiles:
    files = IpxeFiles(
        ipxe=ipxe_image(),
        script=SCRIPT,
        kernel=pe_image({".text": b"kernel"}),
        initrds=(b"initrd",),
    )
    return replace(files, **changes)


def log_of(name: str) -> EventLog:
    return eventlog.decode((VECTORS / BOOTS[name]["log"]).read_bytes())


def facts_of(name: str) -> IpxeFacts:
    return IpxeFacts.from_json((VECTORS / BOOTS[name]["facts"]).read_text())


def keys_of(name: str) -> SecureBootVariables:
    return variables_from_log(log_of(name), "sha256")


def test_prediction_equals_what_the_tpm_held_in_every_bank() -> None:
    boot, facts = BOOTS["debian13-ipxe"], facts_of("debian13-ipxe")
    prediction = predict(
        facts, transport=Transport.IPXE, server="", variables=keys_of("debian13-ipxe")
    )
    assert set(boot["values"]) == {"sha256", "sha384"}
    for bank, values in boot["values"].items():
        held = {int(pcr): bytes.fromhex(value) for pcr, value in values.items()}
        assert {pcr: prediction.pcr(bank, pcr) for pcr in PREDICTED_PCRS} == {
            pcr: held[pcr] for pcr in PREDICTED_PCRS
        }
        assert compare(log_of("debian13-ipxe"), prediction, bank).equal


def test_an_ipxe_that_hands_the_initrd_over_unmeasured_is_no_match() -> None:
    """Debian 12's: Linux finds its initrd by name, and PCR 9 says nothing of it."""
    prediction = predict(
        facts_of("debian13-ipxe"),
        transport=Transport.IPXE,
        server="",
        variables=keys_of("debian12-ipxe"),
    )
    found = compare(log_of("debian12-ipxe"), prediction, "sha256").differences
    assert (found[0].kind, found[0].subject) == (Kind.MISSING, Subject.INITRD)
    assert {one.subject for one in found} == {
        Subject.INITRD,
        Subject.COMMAND_LINE,
        Subject.LOADER,
    }
    tags = [event for event in log_of("debian12-ipxe").events if event.pcr == 9]
    assert [event.data[8:-1] for event in tags] == [b"LOADED_IMAGE::LoadOptions"]


def test_with_secure_boot_on_nothing_signed_could_have_started() -> None:
    facts = facts_of("debian13-ipxe")
    assert facts.signers == ()
    with pytest.raises(EvidenceError, match="with Secure Boot on it cannot have started"):
        predict(facts, transport=Transport.IPXE, server="", variables=unknown_variables(facts))


def test_initrds_begin_where_this_ipxe_puts_them() -> None:
    first, second = b"a" * 5000, b"b" * 10
    script = SCRIPT.replace(b"boot\n", b"initrd /f/ef/b.img\nboot\n")
    facts = IpxeFacts.compute(made(script=script, initrds=(first, second)))
    assert facts.initrd_loaded == digests(first + bytes(2 * 4096 - 5000) + second)
    whole = IpxeFacts.compute(made(script=script, initrds=(bytes(4096), second)))
    assert whole.initrd_loaded == digests(bytes(4096) + second)
    assert IpxeFacts.compute(made()).initrd_loaded == digests(b"initrd")


def test_the_kernel_is_handed_its_name_before_its_words() -> None:
    facts = IpxeFacts.compute(made())
    assert facts.command_line == "vmlinuz quiet rdinit=/init"
    assert (facts.ipxe_version, facts.ipxe_family) == (f"{KNOWN}+dfsg-1", KNOWN)
    variables = replace(unknown_variables(facts), secure_boot=False)
    steps = predict(facts, transport=Transport.IPXE, server="", variables=variables).steps
    (options,) = (step for step in steps if step.subject is Subject.COMMAND_LINE)
    assert options.content == "vmlinuz quiet rdinit=/init\0".encode("utf-16-le")
    kernels = [step for step in steps if step.pcr == 4 and step.subject is Subject.KERNEL]
    assert len(kernels) == PROFILES[KNOWN].kernel_images == 2


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (None, "names itself as no iPXE in .sbat; older ones do not"),
        ("grub,5,FSF,grub,2.12,x", "names itself as no iPXE"),
        ("ipxe,1,iPXE,ipxe.efi", "names itself as no iPXE"),
        ("ipxe,1,iPXE,ipxe.efi,2.0.0+git20260101.abcdef01-1,x", "no boot profile for iPXE 2.0.0"),
        ("ipxe,1,iPXE,ipxe.efi,1.21.1,x", r"no boot profile for iPXE 1\.21\.1:"),
        ("ipxe,1,iPXE,ipxe.efi,own,x", "no boot profile for iPXE own: take one of 1"),
    ],
)
def test_an_ipxe_that_was_never_booted_is_refused(row: str | None, sentence: str) -> None:
    with pytest.raises(AttestSiteError, match=sentence):
        IpxeFacts.compute(made(ipxe=ipxe_image(row)))


def test_the_ipxe_of_debian_12_is_refused() -> None:
    with pytest.raises(AttestSiteError, match="where Linux does not measure it: take Debian 13's"):
        IpxeFacts.compute(made(ipxe=Path("/usr/lib/ipxe/ipxe.efi").read_bytes()))


def test_files_that_do_not_fit_together_are_refused() -> None:
    kernel = bytearray(pe_image({".text": b"kernel"}))
    struct.pack_into("<H", kernel, 64 + 4, 0xAA64)
    with pytest.raises(AttestSiteError, match="iPXE is for amd64 and the kernel for arm64"):
        IpxeFacts.compute(made(kernel=bytes(kernel)))
    with pytest.raises(AttestSiteError, match="another number of initrd files"):
        IpxeFacts.compute(made(initrds=(b"a", b"b")))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"#!ipxe", b"#!gpxe"),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"quiet", b"${uuid}"),
        lambda text: text.replace(b"quiet", b"'a b'"),
        lambda text: text.replace(b"quiet", b"--name"),
        lambda text: text.replace(b"quiet", b"a\\"),
        lambda text: text.replace(b"quiet", b"\xc3\xa4"),
        lambda text: text.replace(b"quiet ", b"quiet  "),
        lambda text: text.replace(b"quiet", b"quiet\t"),
        lambda text: text.replace(b"vmlinuz", b"vmlin%75z"),
        lambda text: text.replace(b"boot\n", b"boot || shell\n"),
        lambda text: text.replace(b"boot\n", b"shell\nboot\n"),
        lambda text: text.replace(b"boot\n", b"boot\nboot\n"),
        lambda text: text.replace(b"boot\n", b""),
        lambda text: text.replace(b"initrd /f/cd/a.img\n", b""),
        lambda text: text.replace(b"a.img", b"a.img /x"),
        lambda text: text.replace(b"initrd /f", b"module /f"),
        lambda text: text.replace(b"/f/cd", b"f/cd"),
        lambda text: text.replace(b"/f/ab", b"http://evil/ab"),
        lambda text: text.replace(b"/vmlinuz", b"/"),
        lambda text: text.replace(b"kernel", b"chain"),
        lambda text: text + b"# " + bytes(1) * 16384,
        lambda text: text.replace(b"quiet", b"a" * 16384),
        lambda text: text[1:],
        lambda text: b"",
    ],
)
def test_a_script_that_ipxe_would_interpret_is_refused(change: Callable[[bytes], bytes]) -> None:
    assert read_script(SCRIPT).initrds == ("/f/cd/a.img",)
    with pytest.raises(AttestSiteError, match="the iPXE script"):
        read_script(change(SCRIPT))


def test_facts_round_trip_stay_small_and_say_what_they_are() -> None:
    facts = facts_of("debian13-ipxe")
    assert facts_from_json(facts.to_json()) == facts
    assert len(facts.to_json()) < 4 << 10
    more = replace(facts, modules=(digests(b"tpm"),))
    assert facts_from_json(more.to_json()) == more
    old = json.loads(facts.to_json())
    del old["modules"]
    assert facts_from_json(json.dumps(old)) == facts
    with pytest.raises(AttestSiteError, match="of another type"):
        IpxeFacts.from_json(facts.to_json().replace("ipxefacts/v1", "ipxefacts/v2"))
    with pytest.raises(AttestSiteError, match="of another type"):
        FileFacts.from_json(facts.to_json())
    for broken in (
        facts.to_json().replace('"amd64"', "5"),
        facts.to_json().replace('"kernel"', '"colonel"'),
        "[" * 100_000,
    ):
        with pytest.raises(AttestSiteError, match="cannot be read"):
            IpxeFacts.from_json(broken)


@settings(max_examples=100)
@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda tail: SCRIPT[:40] + tail))
def test_any_bytes_are_a_script_or_refused(data: bytes) -> None:
    try:
        script = read_script(data)
    except AttestError:
        return
    assert script.initrds
    assert script.kernel.startswith("/")


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_sbat_is_a_known_ipxe_or_refused(data: bytes) -> None:
    image = pe_image({".text": b"\x90", ".sbat": b"ipxe," + data})
    Pe.decode(image)
    with pytest.raises(AttestSiteError):
        IpxeFacts.compute(made(ipxe=image))


def told(image: bytes) -> tuple[str, str, str]:
    found = identify(image, Pe.decode(image))
    return found.kind.value, found.title, found.problem


def test_an_ipxe_is_told_with_its_version_and_whether_its_boot_is_known() -> None:
    assert told(ipxe_image()) == ("ipxe", f"iPXE {KNOWN}+dfsg-1", "")
    kind, title, problem = told(ipxe_image("ipxe,1,iPXE,ipxe.efi,2.0.0,x"))
    assert (kind, title) == ("ipxe", "iPXE 2.0.0")
    assert problem.startswith("there is no boot profile for iPXE 2.0.0")
    assert told(ipxe_image("ipxe,1,iPXE"))[0] == "other"
    twice = told(ipxe_image("ipxe,1\nipxe,1,iPXE,ipxe.efi,2.0.0,x"))
    assert (twice[0], twice[2][:27]) == ("ipxe", "the program names itself as")
