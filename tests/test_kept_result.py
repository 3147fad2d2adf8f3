"""What is told of a kept result: bounded whatever lies in the archive, and readable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.details import findings_of, story_detail
from bootstrap.errors import SiteError
from bootstrap.io.kept_result import MAX_CHANGES, MAX_LIST, MAX_TEXT, read_result

CHANGE = {
    "pcr": 8,
    "kind": "changed",
    "label": "grub command",
    "expected": "aa",
    "measured": "bb",
    "expected_text": "linux /a",
    "text": None,
    "claim": "linux /b",
}


def kept(directory: Path, result: object) -> Path:
    (directory / "result.json").write_text(json.dumps(result))
    return directory


def test_a_result_is_told(tmp_path: Path) -> None:
    result = {
        "verdict": "refused",
        "tier": "not verified",
        "nearest": "enrol 7",
        "not_checked": ["the device key"],
        "changes": [CHANGE],
        "pcrs": {"0": "equal"},
        "boot_set": None,
        "clock": 7,
    }
    found = read_result(kept(tmp_path, result))
    assert (found["verdict"], found["nearest"], found["not_checked"]) == (
        "refused",
        "enrol 7",
        ["the device key"],
    )
    assert found["changes"] == [CHANGE]
    assert (found["pcrs"], found["boot_set"], found["more_changes"]) == ({"0": "equal"}, {}, 0)


def test_what_is_long_is_cut_and_said_to_be(tmp_path: Path) -> None:
    long = CHANGE | {"text": "x" * 999, "more": "y" * 999}
    result = {"changes": [long] * 999, "workarounds": ["w"] * 999, "verdict": "v" * 9999}
    found = read_result(kept(tmp_path, result))
    assert (len(found["changes"]), found["more_changes"]) == (MAX_CHANGES, 999 - MAX_CHANGES)
    assert len(found["workarounds"]) == MAX_LIST
    assert len(found["changes"][0]["text"]) == len(found["verdict"]) == MAX_TEXT + 1
    assert len(json.dumps(found)) < 1 << 20


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 20000])
def test_what_is_no_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(SiteError, match=r"result\.json"):
        read_result(tmp_path)


def test_a_result_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"result\.json: No such file"):
        read_result(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(result=st.dictionaries(st.sampled_from(["changes", "pcrs", "not_checked", "tier"]), VALUES))
def test_any_object_is_told_or_named(tmp_path_factory, result: object) -> None:
    found = read_result(kept(tmp_path_factory.mktemp("kept"), result))
    assert isinstance(found["changes"], list)


def event(**detail: object) -> dict[str, object]:
    return {"kind": "held", "detail": detail}


def test_the_findings_of_the_last_verdict_each_with_its_step() -> None:
    old = {"code": "EK-UNLISTED", "sentence": "s", "detail": "d", "releasable_by": "w"}
    new = old | {"code": "FIRMWARE-UNKNOWN"}
    events = [event(findings=[old]), event(findings=[new]), event(sentence="x")]
    (found,) = findings_of(events, "findings")
    assert (found["code"], found["detail"]) == ("FIRMWARE-UNKNOWN", "d")
    assert found["next_step"].startswith("Leave the box plugged in")
    assert findings_of(events, "released") == []
    assert findings_of([event(findings=[["NO-SUCH", "s"]])], "findings") == [
        {
            "code": "NO-SUCH",
            "sentence": "s",
            "detail": "",
            "releasable_by": "",
            "next_step": None,
        }
    ], "as events had them before"


def test_a_story_leaves_out_what_is_told_beside_it() -> None:
    assert story_detail(event(findings=[1], released=[2], sentence="x")) == {"sentence": "x"}
