"""The verifier's figures: what they are taken over is honest, and each peer is explained."""

import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from attest import eventlog
from attest.appraise import appraise
from attest.evidence import Verdict
from attest.quote import check_quote
from attest.replay import replay
from keys.tpm_public import PublicArea

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks are called as modules of the whole tree

from tests import forge  # noqa: E402
from tests.bench import boxes, verify, verify_peers  # noqa: E402
from tests.bench.verify import PairedFigure  # noqa: E402

DEPENDENCIES = (ROOT / "docs" / "dependencies.md").read_text()


def test_every_peer_is_pinned_and_explained_and_no_other() -> None:
    text = DEPENDENCIES.partition("\n## Peers of the benchmarks\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    told = {(name, row[1].strip()) for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    pins = {tuple(pin.split("==")) for pin in verify_peers.PINS}
    packages = {(name, "the release's") for names in verify_peers.PACKAGES for name in names}
    assert told == pins | packages


@pytest.mark.parametrize("count", verify.LOGS)
def test_a_log_has_the_events_it_is_named_for(count: int) -> None:
    assert len(eventlog.decode(boxes.log(count)).events) == count


@pytest.mark.parametrize("count", verify.VERDICTS)
def test_the_boxes_that_are_timed_are_accepted(count: int) -> None:
    first, second = boxes.evidence(boxes.log(count), 2)
    assert first.ak_public != second.ak_public
    for box in (first, second):
        result = appraise(box, boxes.expectation(), boxes.policy(), forge.NOW)
        assert result.verdict is Verdict.ACCEPTED, [str(each) for each in result.findings]


def test_a_longer_log_differs_in_the_firmware_alone() -> None:
    short, long = (replay(eventlog.decode(boxes.log(n)), "sha256") for n in (47, 114))
    assert {index for index in short if short[index] != long[index]} == {1, 2}


def test_the_quotes_that_are_timed_hold_bare_and_whole() -> None:
    (box,) = boxes.evidence(boxes.log(48), 1)
    assert box.pcrs is not None
    quotes = [*boxes.ecc_quotes([box]), *boxes.rsa_quotes(box.pcrs, 2)]
    assert len({quote.ak_public for quote in quotes}) == 3
    for quote in quotes:
        verify._verify(quote)
        checked = check_quote(
            attest=quote.attest,
            signature=quote.signature,
            ak=PublicArea.decode(quote.ak_public),
            extra_data=quote.nonce,
            values=quote.values,
        )
        assert checked.values == box.pcrs


def test_a_ratio_is_that_of_rounds_that_met_the_same_load() -> None:
    figure = PairedFigure(
        name="", unit="µs", ours=(1.0, 10.0, 1.0), peer=(2.0, 20.0, 40.0), peer_name=""
    )
    assert figure.ratio == 2.0
    assert figure.document()["ratio"] == 2.0


def test_keylime_is_timed_with_the_cryptography_that_we_use() -> None:
    assert f"cryptography=={version('cryptography')}" in verify_peers.pins()
