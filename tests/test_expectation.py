"""What a site expects is kept with each verdict and read back as it was."""

import json
from dataclasses import replace
from pathlib import Path

import ek_forge
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_vectors import VECTORS, expectation_of, load

from attest.anchors import decode_anchors
from attest.baseline import Baseline, FirmwareEntry, Machine
from attest.crl import decode_crl
from attest.errors import AttestSiteError
from attest.expectation import BoxRecord, Expectation

MACHINE = Machine(vendor="Maker", model="M1", version="1.2")
ENTRY = FirmwareEntry(
    machine=MACHINE,
    values={"sha256": {0: bytes(32), 2: b"\1" * 32}},
    events={"sha256": {2: frozenset({b"\2" * 32, b"\3" * 32})}},
    keys=frozenset({b"\4" * 32}),
    source="headquarters",
)
LISTS = (decode_crl(ek_forge.crl()),)
RECORD = BoxRecord(
    listed=True,
    differences=("memory",),
    replaces="pos-1",
    reset_count=4,
    restart_count=1,
    clock=5_000,
    tpm_firmware=7,
    firmware=b"\5" * 32,
)


def whole() -> Expectation:
    vector = load(Path(VECTORS / "attest" / "accepted.toml"))
    return replace(expectation_of(vector), record=RECORD, baseline=Baseline(entries=(ENTRY,)))


@pytest.mark.parametrize(
    "expectation",
    [whole(), replace(whole(), sets=None, anchors=None, record=None), replace(whole(), sets=())],
    ids=["whole", "nothing is known", "no set"],
)
def test_an_expectation_is_read_as_it_was_written(expectation: Expectation) -> None:
    again = Expectation.from_json(expectation.to_json(), rehearsal=False)
    assert again == expectation
    assert again.digest == expectation.digest


def test_each_part_of_it_is_under_its_digest() -> None:
    expectation = whole()
    sets = expectation.sets or ()
    others = [
        replace(expectation, record=replace(RECORD, clock=5_001)),
        replace(expectation, record=replace(RECORD, firmware=b"\6" * 32)),
        replace(expectation, baseline=Baseline()),
        replace(expectation, anchors=replace(expectation.anchors, certificates=())),
        replace(expectation, anchors=None),
        replace(expectation, platform_anchors=expectation.anchors),
        replace(expectation, sets=()),
        replace(expectation, sets=None),
        replace(expectation, anchors=replace(expectation.anchors, crls=LISTS)),
        replace(
            expectation, platform_anchors=replace(expectation.anchors, certificates=(), crls=LISTS)
        ),
        replace(
            expectation, platform_anchors=replace(expectation.anchors, certificates=(), crls=())
        ),
        replace(expectation, sets=(replace(sets[0], version=8),)),
        replace(expectation, sets=(replace(sets[0], servers=("10.0.0.1",)),)),
        replace(
            expectation,
            sets=(replace(sets[0], facts=replace(sets[0].facts, commands=("boot",))),),
        ),
    ]
    assert len({expectation.digest, *(other.digest for other in others)}) == 1 + len(others)


@given(st.text(max_size=50) | st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_anything_else_is_an_error_with_a_sentence(value: object) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    with pytest.raises(AttestSiteError):
        Expectation.from_json(text, rehearsal=False)


@pytest.mark.parametrize("key", ["sets", "anchors", "record", "baseline"])
def test_a_part_of_another_kind_is_an_error(key: str) -> None:
    document = json.loads(whole().to_json())
    for value in (7, "x", [7], {"a": 7}):
        with pytest.raises(AttestSiteError):
            Expectation.from_json(json.dumps({**document, key: value}), rehearsal=False)


def test_another_version_is_an_error() -> None:
    text = whole().to_json().replace("doorstep/expectation/v1", "doorstep/expectation/v2")
    with pytest.raises(AttestSiteError, match="another type or version"):
        Expectation.from_json(text, rehearsal=False)


def test_revocation_lists_are_kept_with_their_issuers() -> None:
    maker = decode_anchors([("root", ek_forge.ca()), ("list", ek_forge.crl())], rehearsal=False)
    assert maker.crls
    for kept in (
        replace(whole(), anchors=maker),
        replace(whole(), anchors=None, platform_anchors=maker),
    ):
        assert Expectation.from_json(kept.to_json(), rehearsal=False) == kept
