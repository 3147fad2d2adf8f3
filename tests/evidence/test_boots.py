"""Captured boots of known files: prediction and comparison against what the TPMs held."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from attest import eventlog
from attest.bootfacts import ImageFacts
from attest.compare import Comparison, Kind, compare
from attest.predict import (
    FileFacts,
    Prediction,
    SecureBootVariables,
    Subject,
    Transport,
    predict,
    variables_from_log,
)
from attest.replay import replay
from attest.uefi import decode_signatures
from attest.ukifacts import SectionFacts, UkiFacts

pytestmark = pytest.mark.evidence

VECTORS = Path(__file__).parent.parent / "vectors" / "eventlog"
MENU = (
    b"set timeout=0\n"
    b'menuentry "enroll" {\n linux /vmlinuz console=ttyS0 panic=-1\n initrd /initrd.img\n}\n'
)
MENU_COMMANDS = (
    "set timeout=0",
    "menuentry enroll {\n linux /vmlinuz console=ttyS0 panic=-1\n initrd /initrd.img\n}",
    "setparams enroll",
    "linux /vmlinuz console=ttyS0 panic=-1",
    "initrd /initrd.img",
)
FLAT_COMMANDS = (
    "linux /vmlinuz console=ttyS0 panic=-1 doorstep.server=10.77.0.1"
    " doorstep.mac=52:54:00:aa:bb:01 doorstep.ip=10.77.0.84",
    "initrd /initrd.img",
    "boot",
)
DEBIAN_12 = ("base", "mac2", "initrd12", "cmdline12", "extra", "kern54", "mok", "ip78")
DEBIAN_13 = ("t13", "ovmf13", "initrd13", "cmdline13", "nokeys13")


class Boots:
    """The captures and the facts of what was served."""

    def __init__(self, evidence: Path) -> None:
        self.directory = evidence / "boots"
        self.artefacts = json.loads((self.directory / "artefacts.json").read_text())

    def log(self, name: str) -> eventlog.EventLog:
        return eventlog.decode((self.directory / f"{name}.bin").read_bytes())

    def held(self, name: str) -> dict[tuple[str, int], bytes]:
        lines = (self.directory / f"{name}.pcrs").read_text().splitlines()
        rows = [line.split() for line in lines if line.strip()]
        return {(bank, int(pcr)): bytes.fromhex(value) for bank, pcr, value in rows}

    def digest(self, name: str, kind: str = "sha256") -> dict[str, bytes]:
        return {"sha256": bytes.fromhex(self.artefacts[name][kind])}

    def facts(self, release: int, *, flat: bool = False) -> FileFacts:
        text = (VECTORS / f"facts-debian{release}-network.json").read_text()
        initrd = self.digest(f"{release}/initrd.img")
        menu = {bank: hashlib.new(bank, MENU).digest() for bank in ("sha256", "sha384")}
        return replace(
            FileFacts.from_json(text),
            grub_cfg=self.digest("12/grub.cfg.flat") if flat else menu,
            commands=FLAT_COMMANDS if flat else MENU_COMMANDS,
            initrds=(initrd,),
            initrd_loaded=initrd,
        )

    def prediction(
        self,
        release: int,
        variables: SecureBootVariables | None = None,
        *,
        facts: FileFacts | None = None,
        server: str = "10.77.0.1",
    ) -> Prediction:
        return predict(
            facts or self.facts(release),
            transport=Transport.TFTP,
            server=server,
            variables=variables or variables_from_log(self.log("base"), "sha256"),
        )

    def compared(self, name: str, release: int) -> Comparison:
        return compare(self.log(name), self.prediction(release), "sha256")


@pytest.fixture(scope="module")
def boots(evidence: Path) -> Boots:
    return Boots(evidence)


def shape(comparison: Comparison) -> list[tuple[Subject, Kind, int]]:
    return [(found.subject, found.kind, found.pcr) for found in comparison.differences]


def test_the_vectors_are_of_the_files_that_were_served(boots: Boots) -> None:
    for release in (12, 13):
        facts = boots.facts(release)
        for name, image in (
            ("bootx64.efi", facts.shim),
            ("grubx64.efi", facts.grub),
            ("vmlinuz", facts.kernel),
        ):
            key = f"{release}/{name}"
            assert image.file["sha256"] == boots.digest(key)["sha256"]
            assert image.image["sha256"] == boots.digest(key, "authenticode_sha256")["sha256"]


def test_every_log_replays_to_every_recorded_value(boots: Boots) -> None:
    checked = 0
    for path in sorted(boots.directory.glob("*.pcrs")):
        if not path.with_suffix(".bin").exists():
            continue
        log = boots.log(path.stem)
        for (bank, pcr), value in boots.held(path.stem).items():
            if pcr == 10:
                continue
            assert replay(log, bank)[pcr] == value, (path.stem, bank, pcr)
            checked += 1
    assert checked > 400


@pytest.mark.parametrize(("name", "release"), [("base", 12), ("t13", 13), ("flat", 12)])
def test_events_equal_those_computed_elsewhere(boots: Boots, name: str, release: int) -> None:
    wanted = json.loads((boots.directory / "expected.json").read_text())[name]
    facts = boots.facts(release, flat=name == "flat")
    events = boots.prediction(release, facts=facts).events("sha256")
    for pcr in (4, 5, 7, 8, 9, 14):
        ours = [(event.digest.hex(), event.label) for event in events if event.pcr == pcr]
        theirs = [(event["sha256"], event["label"]) for event in wanted if event["pcr"] == pcr]
        assert ours == theirs
    texts = {(e.digest.hex(), e.text) for e in events if e.pcr == 8}
    assert texts == {(e["sha256"], e["text"]) for e in wanted if e["pcr"] == 8}


@pytest.mark.parametrize(
    ("name", "release", "flat", "server"),
    [
        ("base", 12, False, "10.77.0.1"),
        ("mac2", 12, False, "10.77.0.1"),
        ("ip78", 12, False, "10.78.0.1"),
        ("flat", 12, True, "10.77.0.1"),
        ("t13", 13, False, "10.77.0.1"),
        ("ovmf13", 13, False, "10.77.0.1"),
        ("flat13", 13, True, "10.77.0.1"),
        ("nokeys13", 13, False, "10.77.0.1"),
    ],
)
def test_prediction_equals_the_values_and_the_log(
    boots: Boots, name: str, release: int, flat: bool, server: str
) -> None:
    variables = variables_from_log(boots.log(name), "sha256")
    facts = boots.facts(release, flat=flat)
    prediction = boots.prediction(release, variables, facts=facts, server=server)
    held = boots.held(name)
    for pcr in (4, 5, 7, 8, 9, 11, 12, 13, 14, 15):
        if ("sha256", pcr) in held:
            assert prediction.pcr("sha256", pcr) == held["sha256", pcr], pcr
    assert compare(boots.log(name), prediction, "sha256").equal


def test_a_boot_without_a_log_is_predicted_by_value(boots: Boots) -> None:
    keys = replace(variables_from_log(boots.log("base"), "sha256"), secure_boot=False)
    prediction = boots.prediction(12, keys)
    held = boots.held("sboff12")
    for pcr in (4, 5, 7, 8, 9, 14):
        assert prediction.pcr("sha256", pcr) == held["sha256", pcr], pcr


def test_another_bank_is_predicted_too(boots: Boots) -> None:
    held = boots.held("sha384")
    log = boots.log("sha384")
    for release in (12, 13):
        prediction = boots.prediction(release, variables_from_log(log, "sha384"))
        equal = [prediction.pcr("sha384", pcr) == held["sha384", pcr] for pcr in (4, 7, 8, 14)]
        if all(equal):
            return
    pytest.fail("no release's prediction fits the SHA-384 bank")


@pytest.mark.parametrize(("name", "release"), [("initrd12", 12), ("initrd13", 13)])
def test_one_byte_of_the_initrd(boots: Boots, name: str, release: int) -> None:
    comparison = boots.compared(name, release)
    expected = [(Subject.INITRD, Kind.CHANGED, 9)] * (1 if release == 12 else 2)
    assert shape(comparison) == expected


@pytest.mark.parametrize(("name", "release"), [("cmdline12", 12), ("cmdline13", 13)])
def test_one_word_of_the_command_line(boots: Boots, name: str, release: int) -> None:
    comparison = boots.compared(name, release)
    assert {found.pcr for found in comparison.differences} == {8, 9}
    assert comparison.differences[0].subject is Subject.GRUB_CFG
    line = next(d for d in comparison.differences if d.label == "kernel command line")
    assert line.expected_text == "/vmlinuz console=ttyS0 panic=-1"
    assert line.text is not None
    assert line.text.endswith("doorstep.evil=1")


def test_an_extra_grub_command(boots: Boots) -> None:
    comparison = boots.compared("extra", 12)
    extra = [found for found in comparison.differences if found.kind is Kind.EXTRA]
    assert [found.text for found in extra] == ["set evil=1"]
    assert Subject.GRUB_CFG in {found.subject for found in comparison.differences}


def test_an_older_signed_kernel(boots: Boots) -> None:
    comparison = boots.compared("kern54", 12)
    assert shape(comparison) == [(Subject.KERNEL, Kind.CHANGED, pcr) for pcr in (4, 4, 9)]
    facts = boots.facts(12)
    older = replace(
        facts.kernel,
        file=boots.digest("54/vmlinuz"),
        image=boots.digest("54/vmlinuz", "authenticode_sha256"),
    )
    prediction = boots.prediction(12, facts=replace(facts, kernel=older))
    assert compare(boots.log("kern54"), prediction, "sha256").equal


def test_an_enrolled_machine_owner_key(boots: Boots) -> None:
    assert shape(boots.compared("mok", 12)) == [(Subject.OWNER_KEYS, Kind.CHANGED, 14)]


def test_another_server_address(boots: Boots) -> None:
    comparison = boots.compared("ip78", 12)
    assert shape(comparison) == [(Subject.GRUB_COMMAND, Kind.CHANGED, 8)] * 2
    assert all("10.78.0.1" in (found.text or "") for found in comparison.differences)


def test_secure_boot_off_comes_first(boots: Boots) -> None:
    comparison = boots.compared("nokeys13", 13)
    assert comparison.differences[0].subject is Subject.SECURE_BOOT
    assert {found.pcr for found in comparison.differences} == {4, 7}


def uki_facts(boots: Boots, kernel: int = 12, image: str = "uki.efi") -> UkiFacts:
    """Make the facts of an image, which is not kept, out of digests recorded when it was built."""
    wanted = json.loads((boots.directory / "expected.json").read_text())["uki_pxe"]
    known = {event["label"]: {"sha256": bytes.fromhex(event["sha256"])} for event in wanted}
    contents = {
        name: known[f"UKI section {name}"]
        for name in (".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat")
    }
    contents[".linux"] = boots.digest(f"{kernel}/vmlinuz")
    (key,) = decode_signatures(variables_from_log(boots.log("uki_pxe"), "sha256").db)
    return UkiFacts(
        image=ImageFacts(
            file=boots.digest(image), image=boots.digest(image, "authenticode_sha256")
        ),
        kernel=ImageFacts(
            file=boots.digest(f"{kernel}/vmlinuz"),
            image=boots.digest(f"{kernel}/vmlinuz", "authenticode_sha256"),
        ),
        sections=tuple(SectionFacts(name=name, content=contents[name]) for name in contents),
        command_line="console=ttyS0 panic=-1",
        initrd_loaded=known["initrd seen by the kernel"],
        signers=((key.data,),),
        stub_version="257.13-1~deb13u1",
        stub_family="257",
        architecture="amd64",
    )


def uki_prediction(boots: Boots, name: str, facts: UkiFacts) -> Prediction:
    variables = variables_from_log(boots.log(name), "sha256")
    return predict(facts, transport=Transport.ISO, server="", variables=variables)


def test_events_of_a_unified_image_equal_those_computed_elsewhere(boots: Boots) -> None:
    wanted = json.loads((boots.directory / "expected.json").read_text())["uki_pxe"]
    events = uki_prediction(boots, "uki_pxe", uki_facts(boots)).events("sha256")
    for pcr in (4, 5, 7, 9, 11):
        ours = [(event.digest.hex(), event.label) for event in events if event.pcr == pcr]
        theirs = [(event["sha256"], event["label"]) for event in wanted if event["pcr"] == pcr]
        assert ours == theirs


@pytest.mark.parametrize("name", ["uki_pxe", "uki_cd", "uki_usb"])
def test_a_unified_image_is_predicted_over_every_transport(boots: Boots, name: str) -> None:
    prediction = uki_prediction(boots, name, uki_facts(boots))
    held = boots.held(name)
    # A GPT image adds an event of its own to PCR 5.
    for pcr in (4, 7, 8, 9, 11, 12, 13, 14) + ((5,) if name != "uki_usb" else ()):
        assert prediction.pcr("sha256", pcr) == held["sha256", pcr], pcr
    found = compare(boots.log(name), prediction, "sha256").differences
    extra = [(one.kind, one.pcr, one.label) for one in found]
    assert extra == ([(Kind.EXTRA, 5, "EV_EFI_GPT_EVENT")] if name == "uki_usb" else [])


def test_what_differs_in_another_unified_image_is_named(boots: Boots) -> None:
    other_line = uki_prediction(boots, "uki_cmd", uki_facts(boots))
    found = compare(boots.log("uki_cmd"), other_line, "sha256").differences
    assert [(one.subject, one.pcr, one.label) for one in found] == [
        (Subject.COMMAND_LINE, 9, "load options seen by the kernel"),
        (Subject.COMMAND_LINE, 11, "UKI section .cmdline"),
        (Subject.LOADER, 4, "UKI"),
    ]
    newer = uki_prediction(boots, "uki_13", uki_facts(boots, 13, "uki13.efi"))
    found = compare(boots.log("uki_13"), newer, "sha256").differences
    assert {one.label for one in found} <= {
        *("UKI section .uname", "UKI section .initrd", "UKI section .osrel"),
        "initrd seen by the kernel",
    }


@pytest.mark.parametrize("name", ["uki_pxe", "uki_cd", "uki_usb", "uki_13", "uki_cmd"])
def test_a_unified_image_fits_no_chain_of_shim_and_grub(boots: Boots, name: str) -> None:
    for release in (12, 13):
        comparison = boots.compared(name, release)
        assert not comparison.equal
        assert {4, 8, 9, 11, 14} <= {found.pcr for found in comparison.differences}


def test_no_capture_fits_the_prediction_of_another(boots: Boots) -> None:
    fits = {"base": {"base", "mac2"}, "t13": {"t13", "ovmf13"}}
    for wanted, release in (("base", 12), ("t13", 13)):
        equal = {
            name
            for name in (*DEBIAN_12, *DEBIAN_13, "flat", "flat13")
            if boots.compared(name, release).equal
        }
        assert equal == fits[wanted]
