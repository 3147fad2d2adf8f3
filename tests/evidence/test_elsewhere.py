"""Boots of machines that nobody here built, quoted by a key of ours: none is refused."""

from dataclasses import replace
from pathlib import Path

import forge
import pytest

from attest import eventlog
from attest.appraise import appraise
from attest.errors import EvidenceError
from attest.evidence import AttestationResult, Evidence, Signed, Verdict
from attest.expectation import Expectation
from attest.quote import BOOT_PCRS
from attest.reasons import Reason
from attest.replay import replay

pytestmark = pytest.mark.evidence

NOTHING = Expectation(sets=None, anchors=None, record=None)
QUOTABLE = ("sha1", "sha256", "sha384", "sha512")


def logs(evidence: Path) -> list[Path]:
    found = sorted((evidence / "eventlogs").glob("*.bin"))
    boots = sorted((evidence / "boots").glob("*.bin"))
    return [path for path in found + boots if not path.name.endswith(".ima.bin")]


def quoted(log: bytes, values: dict[str, dict[int, bytes]]) -> Evidence:
    box = forge.Box()
    made = forge.evidence(log, box, values=values)
    return replace(made, ek_public=None, device=None, device_public=None, facts=None, ima_log=None)


def judged(evidence: Evidence) -> AttestationResult:
    return appraise(evidence, NOTHING, None, forge.NOW)


def values_of(log: bytes) -> dict[str, dict[int, bytes]]:
    decoded = eventlog.decode(log)
    found = {}
    for bank in (known.name for known in decoded.banks if known.name in QUOTABLE):
        found[bank] = {index: replay(decoded, bank)[index] for index in BOOT_PCRS}
    return found


def test_honest_boots_are_never_refused(evidence: Path) -> None:
    checked = 0
    for path in logs(evidence):
        log = path.read_bytes()
        values = values_of(log)
        if path.stem == "short_no_action_eventlog":
            continue
        result = judged(quoted(log, values))
        gating = {each.code for each in result.reasons if each.gates}
        allowed = {Reason.BANK_SHA1_ONLY.code} if set(values) == {"sha1"} else set()
        assert gating <= allowed, (path.name, [str(each) for each in result.findings])
        assert result.verdict is (Verdict.REFUSED if gating else Verdict.INCOMPLETE)
        checked += 1
    assert checked >= 25


def test_a_log_beside_another_boots_values_is_refused(evidence: Path) -> None:
    paths = [path for path in logs(evidence) if path.stat().st_size > 1000]
    all_values = {path: values_of(path.read_bytes()) for path in paths}
    checked = 0
    for path in paths:
        for other in paths:
            mine, theirs = all_values[path], all_values[other]
            if mine == theirs or mine.keys() != theirs.keys():
                continue
            result = judged(replace(quoted(path.read_bytes(), theirs), event_log=path.read_bytes()))
            assert result.verdict is Verdict.REFUSED, (path.name, other.name)
            checked += 1
    assert checked > 300


def test_a_flipped_digest_is_refused(evidence: Path) -> None:
    for path in logs(evidence):
        log = path.read_bytes()
        if len(log) < 1000:
            continue
        values = values_of(log)
        first = eventlog.decode(log).events[1]
        digest = next(iter(first.digests.values()))
        broken = log.replace(digest, bytes([digest[0] ^ 1]) + digest[1:], 1)
        made = quoted(log, values)
        try:
            result = judged(replace(made, event_log=broken))
        except EvidenceError:
            pytest.fail("appraisal raises")
        assert result.verdict is Verdict.REFUSED, path.name
    assert isinstance(made.quotes, tuple)
    assert all(isinstance(each, Signed) for each in made.quotes)
