"""`doorstep trust`: import, list and remove, with exit codes, and text that cannot do harm."""

import json
from pathlib import Path

import ek_forge as make
import pytest
from click.testing import CliRunner, Result

from bootstrap.cli.main import main

ROOT, MIDDLE = make.ca(), make.between()


def doorstep(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], input=given)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    made = doorstep("init", tmp_path / "site", "--id", "shop-1", "--network", "10.77.0.0/24")
    assert made.exit_code == 0, made.output
    return tmp_path / "site"


def give(site: Path, *data: bytes, options: tuple[str, ...] = ()) -> Result:
    paths = []
    for number, part in enumerate(data):
        paths.append(site.parent / f"given-{number}.der")
        paths[-1].write_bytes(part)
    return doorstep("trust", "import", "--site", site, "--from", "by hand", *options, *paths)


def entries(site: Path) -> list[dict]:
    listed = doorstep("trust", "list", "--site", site, "--json")
    assert listed.exit_code == 0, listed.output
    return json.loads(listed.output)["entries"]


def test_what_is_imported_is_listed(site: Path) -> None:
    done = give(site, ROOT, MIDDLE, make.crl(b"\1", next_update="261101000000Z"))
    assert done.exit_code == 0, done.output
    assert "3 stored, 0 there already, 0 refused" in done.output
    suffixes = sorted(path.suffix for path in (site / "trust" / "ek").glob("*.*[a-z]"))
    assert suffixes == [".crl", ".json", ".pem", ".pem"]
    middle, root, crl = entries(site)
    assert [one["kind"] for one in (middle, root, crl)] == [
        "intermediate",
        "root",
        "revocation list",
    ]
    assert root["title"] == "Maker TPM Root CA"
    assert root["source"] == "by hand"
    assert root["valid_until"] == "9999-12-31"
    assert root["imported"]
    assert len(root["fingerprint"]) == 64
    assert (crl["this_update"], crl["next_update"]) == ("2026-10-01", "2026-11-01")
    assert crl["revoked"] == 1
    assert crl["age_days"] >= 0
    shown = doorstep("trust", "list", "--site", site)
    assert "Maker TPM CA 1" in shown.output
    assert "days old" in shown.output
    assert "by hand" in shown.output


def test_an_empty_store_says_what_that_means(site: Path) -> None:
    shown = doorstep("trust", "list", "--site", site)
    assert shown.exit_code == 0
    assert "nothing is trusted yet" in shown.output


def test_what_is_refused_is_said_and_the_rest_is_taken(site: Path) -> None:
    done = give(site, make.ek(), make.ca("swtpm-localca"), ROOT)
    assert done.exit_code == 1
    assert "is not a CA certificate" in done.output
    assert "TPMs in software" in done.output
    assert "1 stored, 0 there already, 2 refused" in done.output
    again = give(site, ROOT, options=("--json",))
    assert again.exit_code == 0
    (answer,) = json.loads(again.output)["imported"]
    assert answer["outcome"] == "known"
    assert len(entries(site)) == 1


def test_a_rehearsal_and_makers_of_machines_have_their_options(site: Path) -> None:
    assert give(site, make.ca("swtpm-localca"), options=("--rehearsal",)).exit_code == 0
    assert give(site, make.ca("Machine CA", "m"), options=("--platform",)).exit_code == 0
    assert [one["kind"] for one in entries(site)] == ["root", "platform root"]
    fingerprint = entries(site)[1]["fingerprint"]
    gone = doorstep("trust", "remove", "--site", site, "--platform", "--yes", fingerprint[:8])
    assert gone.exit_code == 0
    assert len(entries(site)) == 1


def test_removing_says_what_is_lost(site: Path) -> None:
    give(site, ROOT, MIDDLE, make.crl(b"\1"))
    fingerprint = entries(site)[1]["fingerprint"]
    kept = doorstep("trust", "remove", "--site", site, fingerprint, given="n\n")
    assert kept.exit_code == 1
    assert len(entries(site)) == 3
    gone = doorstep("trust", "remove", "--site", site, "--yes", fingerprint)
    assert gone.exit_code == 0, gone.output
    assert "removed: Maker TPM Root CA (root," in gone.output
    assert "EK-UNKNOWN" in gone.output
    assert "without its issuer: Maker TPM CA 1 is trusted by itself now" in gone.output
    assert "without its issuer: Maker TPM Root CA is not used" in gone.output
    list_gone = doorstep("trust", "remove", "--site", site, "--yes", entries(site)[1]["file"])
    assert "nothing that it revoked" in list_gone.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("trust", "remove", "--yes", "12345678"), "trust list"),
        (("trust", "import", "--from", "x", __file__), "there is no certificate"),
    ],
)
def test_what_cannot_be_is_one_sentence(site: Path, arguments, told: str) -> None:
    group, command, *rest = arguments
    done = doorstep(group, command, "--site", site, *rest)
    assert done.exit_code == 2
    assert told in done.output
    assert "Traceback" not in done.output


def test_an_import_says_where_from(site: Path) -> None:
    assert doorstep("trust", "import", "--site", site, __file__).exit_code == 2


def test_a_certificate_cannot_move_the_terminal(site: Path) -> None:
    done = give(site, make.ca("\x1b[2Jevil\x9b1m", key="evil", until="210101000000Z"))
    shown = doorstep("trust", "list", "--site", site)
    gone = doorstep("trust", "remove", "--site", site, "--yes", entries(site)[0]["file"])
    for output in (done.output, shown.output, gone.output):
        assert "evil" in output
        assert all(char.isprintable() or char == "\n" for char in output)


def test_a_site_still_holds_after_an_import(site: Path) -> None:
    give(site, ROOT, MIDDLE)
    checked = doorstep("check", "--site", site, "--state", site.parent / "state", "--json")
    problems = json.loads(checked.output)["problems"]
    assert not [one for one in problems if "trust/ek" in one["file"]]
