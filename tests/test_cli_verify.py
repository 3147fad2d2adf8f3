"""`doorstep verify` and `policy`: kept evidence judged again, and evidence made elsewhere."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import forge
import pytest
from click.testing import CliRunner, Result
from test_vectors import VECTORS, evidence_of, expectation_of, judge, load

from attest.evidence import NOT_COVERED, Verdict
from attest.io.archive import write_evidence
from attest.policy import Policy
from bootstrap.cli.main import main

NAMES = [path.stem for path in sorted((VECTORS / "attest").glob("*.toml"))]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def told(*arguments: object) -> tuple[dict, int]:
    result = run("verify", *arguments, "--json")
    return json.loads(result.stdout), result.exit_code


def kept(tmp_path: Path, name: str) -> Path:
    """Archive a vector as control would."""
    vector = load(VECTORS / "attest" / f"{name}.toml")
    policy = replace(Policy.from_toml(vector["policy"]), rehearsal=vector["rehearsal"])
    return write_evidence(
        tmp_path / name,
        evidence=evidence_of(vector),
        transcript={},
        expectation=expectation_of(vector),
        policy=policy,
        result=judge(vector),
        appraised=float(vector["now"]),
    )


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """What another verifier might have kept: no ek.pub, no device key, nothing of a site."""
    directory = kept(tmp_path, "accepted")
    ours = ("ek.pub", "device.*", "facts.json", "ima.bin", "*.json", "policy.toml")
    for pattern in ours:
        for path in directory.glob(pattern):
            if path.name != "pcrs.json":
                path.unlink()
    return directory


@pytest.mark.parametrize("name", NAMES)
def test_the_archive_gives_the_live_verdict_at_any_later_time(tmp_path: Path, name: str) -> None:
    directory = kept(tmp_path, name)
    document, code = told(directory)
    live = json.loads((directory / "result.json").read_bytes())
    assert document.pop("kept_result") == "same"
    assert document == live
    assert code == {"accepted": 0, "refused": 1, "held": 3}[live["verdict"]]


def test_a_changed_result_is_told(tmp_path: Path) -> None:
    directory = kept(tmp_path, "initrd-changed")
    path = directory / "result.json"
    path.write_text(path.read_text().replace('"refused"', '"accepted"'))
    document, code = told(directory)
    assert (document["verdict"], document["kept_result"], code) == ("refused", "different", 1)


def test_a_person_reads_who_decides_and_what_differs(tmp_path: Path) -> None:
    result = run("verify", kept(tmp_path, "grub-command-extra"), "--events")
    assert result.stdout.startswith("refused: The box read a grub.cfg that is in no boot set")
    assert "GRUB-CFG-UNKNOWN" in result.stdout
    assert "nobody" in result.stdout
    assert "set evil=1" in result.stdout
    assert "beside the result that was kept: same" in result.stdout


def test_evidence_made_elsewhere_is_checked_as_far_as_it_goes(elsewhere: Path) -> None:
    document, code = told(elsewhere, "--at", "2026-11-21")
    assert document["findings"] == []
    assert (document["verdict"], code) == ("incomplete", 4)
    missing = " ".join(document["not_checked"])
    for name in ("policy.toml", "device.pub", "trust anchors", "delivery note", "boot set"):
        assert name in missing
    assert document["not_covered"] == list(NOT_COVERED)


def test_its_ek_is_computed_from_the_certificate_and_trusted_by_given_anchors(
    elsewhere: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root.der"
    root.write_bytes(forge.root_certificate())
    document, code = told(elsewhere, "--anchors", root, "--at", "2026-11-21")
    assert (document["verdict"], code) == ("incomplete", 4)
    assert document["findings"] == []
    assert "trust anchors" not in " ".join(document["not_checked"])
    assert document["tpm"] == "id:4E544300 NPCT75x id:00070002"
    log = (elsewhere / "eventlog.bin").read_bytes()
    (elsewhere / "ek0.crt").write_bytes(
        forge.evidence(log, forge.Box(label="box B")).ek_certificates[0]
    )
    document, code = told(elsewhere, "--anchors", root, "--at", "2026-11-21")
    assert document["findings"][0]["reason"] == "AK-NOT-UNDER-EK"
    assert code == 1


LIES = {
    "nonce.bin": "QUOTE-NONCE",
    "quote0.sig": "QUOTE-SIGNATURE",
    "quote0.attest": "QUOTE-S",
    "pcrs.json": "QUOTE-DIGEST",
    "eventlog.bin": "LOG-",
    "ak.pub": "",
}


@pytest.mark.parametrize("name", LIES)
def test_a_byte_that_was_changed_is_refused(elsewhere: Path, name: str) -> None:
    path = elsewhere / name
    data = bytearray(path.read_bytes())
    place = data.index(b'"', 200) - 1 if name == "pcrs.json" else len(data) - 40
    data[place] = ord("0") + (data[place] == ord("0")) if name == "pcrs.json" else data[place] ^ 1
    path.write_bytes(data)
    document, code = told(elsewhere, "--at", "2026-11-21")
    assert (document["verdict"], code) == ("refused", 1)
    assert document["findings"][0]["reason"].startswith(LIES[name])


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"sha256": {"24": ""}}', b'{"sha256": {"x": "00"}}', b"\xff"]
)
def test_pcrs_that_are_none_are_refused(elsewhere: Path, content: bytes) -> None:
    (elsewhere / "pcrs.json").write_bytes(content)
    document, code = told(elsewhere)
    assert (document["verdict"], code) == ("refused", 1)


@pytest.mark.parametrize(
    "name", ["nonce.bin", "ak.pub", "quote0.*", "pcrs.json", "eventlog.bin", "ek0.crt", "*"]
)
def test_what_is_absent_is_not_checked_and_never_good(elsewhere: Path, name: str) -> None:
    before, _ = told(elsewhere)
    for path in elsewhere.glob(name):
        path.unlink()
    document, code = told(elsewhere)
    assert (document["verdict"], code) == ("incomplete", 4)
    assert set(document["not_checked"]) - set(before["not_checked"])
    assert document["tier"] == "not verified"


def test_a_signature_without_its_attest_is_a_wrong_directory(elsewhere: Path) -> None:
    (elsewhere / "quote0.sig").unlink()
    result = run("verify", elsewhere)
    assert result.exit_code == 2
    assert "quote0.sig" in result.stderr


def test_another_policy_can_be_tried(tmp_path: Path) -> None:
    directory = kept(tmp_path, "accepted")
    policy = tmp_path / "strict.toml"
    policy.write_text('type = "doorstep/policy/v1"\n')
    document, code = told(directory, "--policy", policy)
    assert (document["verdict"], code) == ("held", 3)
    assert document["findings"][0]["reason"] == "FIRMWARE-UNKNOWN"
    policy.write_text("no policy")
    result = run("verify", directory, "--policy", policy)
    assert result.exit_code == 2
    assert "strict.toml" in result.stderr


def test_text_of_a_box_cannot_move_the_terminal(tmp_path: Path) -> None:
    directory = kept(tmp_path, "accepted")
    shutil.copy(directory / "nonce.bin", directory / "ek1.crt")
    (directory / "facts.json").write_text('{"smbios": {"sys_vendor": "\\u001b[2J"}}')
    result = run("verify", directory)
    assert "\x1b" not in result.stdout
    assert Verdict.ACCEPTED.value in result.stdout


def test_the_built_in_policy_is_shown_as_a_file_that_holds(tmp_path: Path) -> None:
    shown = run("policy", "show", "--site", tmp_path)
    assert shown.stdout.startswith("# built in")
    path = tmp_path / "policy.toml"
    path.write_text(shown.stdout)
    checked = run("policy", "check", path)
    assert checked.exit_code == 0
    assert Policy().digest.hex() in checked.stdout
    assert json.loads(run("policy", "show", "--site", tmp_path, "--json").stdout)["pcr"]["4"] == (
        "predicted"
    )
    path.write_text('type = "doorstep/policy/v1"\n[pcr]\n4 = "log"\n')
    assert run("policy", "check", path).exit_code == 2


def test_the_reasons_are_listed() -> None:
    rows = json.loads(run("policy", "reasons", "--json").stdout)
    assert {"reason": "COUNTER-BACK", "releasable_by": "nobody"}.items() <= next(
        row for row in rows if row["reason"] == "COUNTER-BACK"
    ).items()
