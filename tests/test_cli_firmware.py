"""`doorstep firmware`: gather, look, sign, take out; exit codes, and text that does no harm."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import ek_forge
import forge
import make_firmware_vectors as make
import pytest
from click.testing import CliRunner, Result
from test_reference_values import HEAD, PCRREAD, A, case, named
from test_rim import LOG, tag

from attest.appraise import appraise
from attest.baseline import Baseline
from attest.firmwarefile import encode_baseline, verify_baseline
from attest.io.archive import write_evidence
from bootstrap.cli.main import main

ROW = f"V,M,1,sha256,0,{A},notes\n"
SAID = ("--vendor", "V", "--model", "M", "--version", "1")


def run(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(one) for one in ("firmware", *arguments)], input=given)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    made = CliRunner().invoke(
        main, ["init", str(site), "--id", "shop-1", "--network", "10.77.0.0/24"]
    )
    assert made.exit_code == 0, made.output
    (site / "trust" / "ek").mkdir(parents=True, exist_ok=True)
    (site / "trust" / "ek" / "maker.pem").write_bytes(pem(forge.root_certificate()))
    return site


def pem(der: bytes) -> bytes:
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def kept(tmp_path: Path, name: str = "firmware-unknown", **changes: object) -> Path:
    """Archive a held box as control would."""
    evidence, expectation, policy = case(name)
    evidence, policy = named(evidence), replace(policy, **changes)
    return write_evidence(
        tmp_path / "session-1",
        evidence=evidence,
        transcript={},
        expectation=expectation,
        policy=policy,
        result=appraise(evidence, expectation, policy, forge.NOW),
        appraised=forge.NOW,
    )


def entries(site: Path) -> list[dict]:
    listed = run("list", "--site", site, "--json")
    assert listed.exit_code == 0, listed.output
    return json.loads(listed.output)["entries"]


def state(site: Path) -> dict:
    return json.loads(run("list", "--site", site, "--json").output)["signature"]


def test_from_a_held_box_to_a_signed_baseline_that_the_site_takes(
    site: Path, tmp_path: Path
) -> None:
    added = run("add", "--site", site, kept(tmp_path))
    assert added.exit_code == 0, added.output
    assert "held: " in added.output
    assert "TPM: id:4E544300 NPCT75x" in added.output
    assert "added: " in added.output
    assert "Dell Inc. PowerEdge R250 1.3.0: sha256 0,2,3,6" in added.output
    assert "knows no Secure Boot keys" not in added.output
    (entry,) = entries(site)
    assert (entry["vendor"], entry["model"], entry["version"]) == (
        "Dell Inc.",
        "PowerEdge R250",
        "1.3.0",
    )
    assert entry["pcrs"] == {"sha256": [0, 2, 3, 6]}
    assert entry["complete"] is True
    assert entry["keys"] > 0
    assert entry["source"] == "evidence session-1"
    assert state(site)["holds"] is False
    assert "it counts nowhere" in run("list", "--site", site).output

    signed = run("sign", "--site", site)
    assert signed.exit_code == 0, signed.output
    assert "with counter 1: 1 entries" in signed.output
    assert state(site) == {"holds": True, "counter": 1, "problem": None}
    assert "signed with counter 1" in run("list", "--site", site).output
    path = site / "trust" / "firmware.toml"
    found = verify_baseline(
        path.read_bytes(),
        path.with_name("firmware.toml.minisig").read_bytes(),
        public_key=(site / "trust" / "root.pub").read_bytes(),
    )
    evidence, expectation, policy = case()
    known = replace(expectation, baseline=found.baseline)
    assert appraise(named(evidence), known, policy, forge.NOW).findings == ()
    assert "with counter 2" in run("sign", "--site", site).output


def test_evidence_of_a_rehearsal_is_refused(site: Path, tmp_path: Path) -> None:
    done = run("add", "--site", site, kept(tmp_path, rehearsal=True))
    assert done.exit_code == 1
    assert "refused: session-1: nothing learned in a rehearsal" in done.output
    assert not (site / "trust" / "firmware.toml").exists()


def test_evidence_is_judged_by_the_makers_trusted_here_and_not_by_its_own(
    site: Path, tmp_path: Path
) -> None:
    directory = kept(tmp_path)
    (site / "trust" / "ek" / "maker.pem").unlink()
    done = run("add", "--site", site, directory)
    assert done.exit_code == 1
    assert "refused: session-1: EK-UNKNOWN" in done.output
    maker = put(tmp_path / "maker.pem", pem(forge.root_certificate()))
    assert run("add", "--site", site, "--anchors", maker, directory).exit_code == 0
    store = tmp_path / "store"
    store.mkdir()
    put(store / "maker.pem", pem(forge.root_certificate()))
    to = tmp_path / "new.toml"
    assert run("add", "--anchors", store, "--to", to, directory).exit_code == 0
    nowhere = run("add", "--site", tmp_path / "none", "--to", to, directory)
    assert nowhere.exit_code == 2
    assert "give --site or --anchors" in nowhere.output


def test_evidence_that_was_changed_is_refused(site: Path, tmp_path: Path) -> None:
    directory = kept(tmp_path)
    pcrs = directory / "pcrs.json"
    document = json.loads(pcrs.read_text())
    document["sha256"]["0"] = "11" * 32
    pcrs.write_text(json.dumps(document))
    done = run("add", "--site", site, directory)
    assert done.exit_code == 1
    assert "refused: session-1: QUOTE-" in done.output
    (directory / "policy.toml").unlink()
    assert (
        "policy.toml or expectation.json is missing" in run("add", "--site", site, directory).output
    )
    (directory / "expectation.json").unlink()
    assert run("add", "--site", site, directory).exit_code == 1


def test_lists_of_every_kind_are_told_apart_by_their_names(site: Path, tmp_path: Path) -> None:
    table = put(tmp_path / "maker.csv", HEAD + ROW)
    assert run("add", "--site", site, table).exit_code == 0
    printed = put(tmp_path / "printed.txt", PCRREAD)
    assert run("add", "--site", site, *SAID, printed).exit_code == 0
    record = [{"pcr": 2, "digests": [{"hashAlg": "sha256", "digest": A}]}]
    lock = put(tmp_path / "250.pcrlock", json.dumps(record))
    assert run("add", "--site", site, *SAID, lock).exit_code == 0
    sources = [(one["source"], one["pcrs"]) for one in entries(site)]
    assert sources == [
        ("notes", {"sha256": [0]}),
        ("file printed.txt", {"sha1": [0], "sha256": [0, 2]}),
        ("file 250.pcrlock", {"sha256": [2]}),
    ]
    assert not any(one["complete"] for one in entries(site))
    assert "sha256 2*" in run("list", "--site", site).output


def test_a_maker_s_rim_is_added_with_its_logs(site: Path, tmp_path: Path) -> None:
    base = put(tmp_path / "R250.swidtag", tag())
    log = put(tmp_path / "R250.rimel", LOG)
    alone = run("add", "--site", site, base)
    assert alone.exit_code == 2
    assert "give its support RIMs too: R250.rimel" in alone.output
    done = run("add", "--site", site, "--from", "support page", "--model", "R250", log, base)
    assert done.exit_code == 0, done.output
    (entry,) = entries(site)
    assert (entry["vendor"], entry["model"]) == ("Dell Inc.", "R250")
    assert entry["source"].startswith("support page (maker's RIM 94f6b457 (signature not checked")
    two = run("add", "--site", site, base, put(tmp_path / "b.swidtag", tag()))
    assert two.exit_code == 2
    assert "one .swidtag at a time" in two.output


def test_keys_of_the_model_are_given_beside_a_list(site: Path, tmp_path: Path) -> None:
    table = put(tmp_path / "maker.csv", HEAD + ROW)
    key = put(tmp_path / "db.pem", pem(forge.root_certificate()))
    without = run("add", "--site", site, table)
    assert "it knows no Secure Boot keys" in without.output
    done = run("add", "--site", site, "--key", key, table)
    assert done.exit_code == 0, done.output
    assert "knows no Secure Boot keys" not in done.output
    shown = run("show", "--site", site, "--json", entries(site)[1]["entry"])
    assert json.loads(shown.output)["keys"] == [make.sha256(forge.root_certificate()).hexdigest()]


def test_the_same_entry_is_there_once(site: Path, tmp_path: Path) -> None:
    table = put(tmp_path / "maker.csv", HEAD + ROW)
    twice = run("add", "--site", site, table, table)
    assert twice.exit_code == 0, twice.output
    assert "there already" in twice.output
    assert "there already" in run("add", "--site", site, table).output
    assert len(entries(site)) == 1


def test_an_entry_is_shown_whole_and_taken_out(site: Path, tmp_path: Path) -> None:
    run("add", "--site", site, put(tmp_path / "a.csv", HEAD + ROW + ROW.replace(",1,", ",2,")))
    first, second = (one["entry"] for one in entries(site))
    shown = run("show", "--site", site, first[:8])
    assert f'0 = "{A}"' in shown.output
    assert json.loads(run("show", "--site", site, "--json", first).output)["values"] == {
        "sha256": {"0": A}
    }
    for name, told in (("zz", "no entry of that name"), ("", "2 entries of that name")):
        wrong = run("show", "--site", site, name)
        assert wrong.exit_code == 2
        assert told in wrong.output
    assert run("remove", "--site", site, first, given="n\n").exit_code == 1
    assert len(entries(site)) == 2
    gone = run("remove", "--site", site, "--yes", first)
    assert gone.exit_code == 0
    assert "sign it with `doorstep firmware sign`" in gone.output
    assert [one["entry"] for one in entries(site)] == [second]


def test_a_change_after_the_signature_counts_nowhere(site: Path, tmp_path: Path) -> None:
    run("add", "--site", site, put(tmp_path / "a.csv", HEAD + ROW))
    run("sign", "--site", site)
    run("add", "--site", site, put(tmp_path / "b.csv", HEAD + ROW.replace("V,M", "V,N")))
    assert "is not what was signed" in state(site)["problem"]
    assert "with counter 2: 2 entries" in run("sign", "--site", site).output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("list",), "firmware.toml: No such file"),
        (("sign",), "firmware.toml: No such file"),
        (("show", "ab"), "firmware.toml: No such file"),
        (("add", "printed.txt"), "printed.txt: it does not say the vendor: give --vendor"),
        (("add", *SAID, "maker.csv"), "maker.csv: it says the vendor itself: leave --vendor"),
        (("add", *SAID, "--key", "list.crl", "printed.txt"), "it is no certificate but a list"),
        (("add", *SAID, "--from", "x" * 300, "printed.txt"), "--from: source: write one line"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "printed.txt", PCRREAD)
    put(tmp_path / "maker.csv", HEAD + ROW)
    put(tmp_path / "list.crl", ek_forge.crl(b"\1"))
    command, *rest = arguments
    done = run(command, "--site", site, *rest)
    assert done.exit_code == 2
    assert told in done.output
    assert "Traceback" not in done.output
    assert not (site / "trust" / "firmware.toml").exists()


def test_signing_needs_a_file_that_holds_and_the_offline_key(site: Path, tmp_path: Path) -> None:
    path = put(site / "trust" / "firmware.toml", "type = 7")
    done = run("sign", "--site", site)
    assert done.exit_code == 2
    assert "type: write" in done.output
    put(path, encode_baseline(Baseline()))
    stick = tmp_path / "stick"
    (site / "offline").rename(stick)
    assert run("sign", "--site", site).exit_code == 2
    assert run("sign", "--site", site, "--offline", stick).exit_code == 0


def test_a_file_that_is_too_large_is_not_read(site: Path, tmp_path: Path) -> None:
    large = tmp_path / "a.csv"
    with large.open("wb") as file:
        file.truncate(9 << 20)
    done = run("add", "--site", site, large)
    assert done.exit_code == 2
    assert "it is larger than" in done.output
