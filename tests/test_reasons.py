"""Every reason has a vector, every vector a line, and every line something that holds it."""

import tomllib
from pathlib import Path

import pytest
from test_vectors import VECTORS, judge, load

from attest.evidence import NOT_COVERED
from attest.reasons import Reason, Releaser

ROOT = Path(__file__).parent.parent
LINES = tomllib.loads((VECTORS / "lines.toml").read_text())
TOPICS = ("attest", "phone-home", "ek", "ima", "eventlog-rules", "firmware", "attest-checks")
JUDGED = [
    path
    for topic in TOPICS
    for path in sorted((VECTORS / topic).glob("*.toml"))
    if "expect" in load(path)
]


def name(path: Path) -> str:
    return path.relative_to(VECTORS).with_suffix("").as_posix()


def held_by(line: dict) -> set[str]:
    return {name(path) for glob in line["vectors"] for path in VECTORS.glob(f"{glob}.toml")}


def test_every_reason_has_a_vector() -> None:
    vectors = [load(path) for path in JUDGED]
    expected = {vector["expect"] for vector in vectors} - {""}
    noted = {code for vector in vectors for code in vector.get("notes", ())}
    assert expected | noted == {reason.code for reason in Reason}
    assert {reason.code for reason in Reason if reason.gates} <= expected


@pytest.mark.parametrize("path", JUDGED, ids=name)
def test_every_vector_has_a_line(path: Path) -> None:
    own = load(path).get("lines", [])
    assert {str(line) for line in own} <= set(LINES)
    assert own or any(name(path) in held_by(line) for line in LINES.values())


def test_all_fifty_lines_are_there() -> None:
    assert {str(number) for number in range(1, 51)} == {key for key in LINES if key.isdecimal()}


@pytest.mark.parametrize("number", LINES)
def test_every_line_is_held(number: str) -> None:
    line = LINES[number]
    for glob in line["vectors"]:
        assert list(VECTORS.glob(f"{glob}.toml")), glob
    for test in line.get("tests", ()):
        assert (ROOT / "tests" / f"{test}.py").exists(), test
    assert ("tests" in line) == ("because" in line)


def test_every_reason_speaks_to_a_technician() -> None:
    for reason in Reason:
        assert reason.sentence.endswith(".")
        assert isinstance(reason.releasable_by, Releaser)
        assert Reason(reason.code) is reason
    assert Reason.SECURE_BOOT_OFF.rank < Reason.INITRD_UNKNOWN.rank < Reason.KERNEL_UNKNOWN.rank


def test_the_documentation_prints_the_table() -> None:
    rows = [f"| `{each.code}` | {each.releasable_by.value} | {each.sentence} |" for each in Reason]
    text = (ROOT / "docs" / "verifier.md").read_text()
    assert "\n".join(rows) in text


def test_every_result_says_what_no_quote_proves() -> None:
    document = judge(load(VECTORS / "attest" / "accepted.toml")).to_json()
    text = (ROOT / "docs" / "verifier.md").read_text()
    for line in NOT_COVERED:
        assert line in document
        assert line in text
