"""Entries of the baseline out of lists and a box's evidence: what is taken, and what is not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import eventlog_forge
import forge
import make_firmware_vectors as make
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_vectors import VECTORS, evidence_of, expectation_of, load

from attest import eventlog
from attest.appraise import appraise
from attest.baseline import Baseline
from attest.errors import AttestSiteError, EvidenceError
from attest.eventlog import Event, EventType
from attest.evidence import Evidence, Outcome, Tier, Verdict
from attest.expectation import Expectation
from attest.policy import Policy
from attest.reasons import Reason
from attest.reference_values import (
    HEADER,
    MAX_LIST,
    MAX_ROWS,
    entries_from_csv,
    entry_from_evidence,
    events_from_pcrlock,
    values_from_pcrread,
)
from attest.secureboot import key_lists
from attest.transcript import Enrolment
from attest.variables import variables_from_log

A, B = "ab" * 32, "cd" * 32
HEAD = ",".join(HEADER) + "\n"
FACTS = json.dumps({"smbios": make.FACTS}).encode()


def refusal(read, data: bytes) -> str:
    with pytest.raises(AttestSiteError) as found:
        read(data, "there")
    return str(found.value)


# Lists


def test_rows_of_one_machine_make_one_entry() -> None:
    data = (
        f"{HEAD}Dell Inc.,R250,1.3,sha256,0,{A},release notes\n"
        f"Dell Inc.,R250,1.3,sha256,2,{B.upper()},release notes\n\n"
        f"Dell  Inc. , R250,1.3,sha1,0,{A[:40]},release notes\n"
        f"Dell Inc.,R250,1.4,sha256,0,{B},release notes\n"
        f"Dell Inc.,R250,1.3,sha256,0,{B},by mail\n"
    )
    first, second, third = entries_from_csv(data.encode(), "there")
    assert first.machine == replace(make.MACHINE, model="R250", version="1.3")
    assert first.values == {
        "sha256": {0: bytes.fromhex(A), 2: bytes.fromhex(B)},
        "sha1": {0: bytes.fromhex(A[:40])},
    }
    assert first.source == "release notes"
    assert second.machine.version == "1.4"
    assert (third.machine, third.source) == (first.machine, "by mail")


def test_the_source_may_be_left_away() -> None:
    short = ",".join(HEADER[:-1]) + f"\nV,M,1,sha256,0,{A}\n"
    assert entries_from_csv(short.encode(), "there")[0].source == "list there"
    empty = f"{HEAD}V,M,1,sha256,0,{A},\n"
    assert entries_from_csv(empty.encode(), "there")[0].source == "list there"
    marked = b"\xef\xbb\xbf" + short.encode()
    assert len(entries_from_csv(marked, "there")) == 1


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "there: it must begin with vendor,model,version,bank,pcr,value,source"),
        (b"vendor,model\n", "there: it must begin with"),
        (b"\xff", "there: it is no text in UTF-8"),
        (b'"a', "there: it is no CSV"),
        (f"{HEAD}V,M,1,sha256,0\n".encode(), "there, line 2: 7 columns are expected"),
        (f"{HEAD}\nV,M,1,sha256,4,{A},s".encode(), "there, line 3: pcr: one of 0, 1, 2, 3, 6"),
        (f"{HEAD}V,M,1,sha256,+0,{A},s".encode(), "there, line 2: pcr: one of"),
        (f"{HEAD}V,M,1,sha256,0,x{A},s".encode(), "there, line 2: value: it is not hexadecimal"),
        (f"{HEAD}V,M,1,sha256,0,{A}ab,s".encode(), "there: V M 1: values.sha256.0: write 64"),
        (f"{HEAD}V,M,1,md5,0,{A},s".encode(), "there: V M 1: values.md5: known banks"),
        (f"{HEAD}V,,1,sha256,0,{A},s".encode(), "there: V  1: model: write the text"),
        (
            f"{HEAD}V,M,1,sha256,0,{A},s\nV,M,1,sha256,0,{B},s".encode(),
            "there, line 3: sha256 PCR 0 has two values",
        ),
        (HEAD.encode() + b"\n" * (MAX_ROWS + 1), "there: it holds more than"),
        (b"v" * (MAX_LIST + 1), "there: it is larger than"),
    ],
)
def test_a_list_that_is_wrong_is_refused_by_its_line(data: bytes, told: str) -> None:
    assert told in refusal(entries_from_csv, data)


PCRREAD = f"""\
  sha1:
    0 : 0x{A[:40].upper()}
    1 : 0x{A[:40]}

  sha256:
    0 : 0x{A}
    2 : {B}
    10: 0x{B}
    23: 0x{"00" * 32}
"""


def test_what_tpm2_pcrread_prints_gives_the_firmware_s_values() -> None:
    assert values_from_pcrread(PCRREAD.encode(), "there") == {
        "sha1": {0: bytes.fromhex(A[:40])},
        "sha256": {0: bytes.fromhex(A), 2: bytes.fromhex(B)},
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"0 : 0x{A}", "there, line 1: it is not what tpm2_pcrread prints"),
        ("sha256:\n  0 : 0xab", "there, line 2: it is not what"),
        ("sha256:\nhello", "there, line 2: it is not what"),
        (f"sha256:\n0 : {A}a", "there, line 2: value: it is not hexadecimal"),
        (f"sha256:\n0 : {A}\n0 : {B}", "there, line 3: sha256 PCR 0 has two values"),
    ],
)
def test_other_text_is_not_taken_for_it(text: str, told: str) -> None:
    assert told in refusal(values_from_pcrread, text.encode())


def test_records_of_pcrlock_give_events() -> None:
    records = [
        {
            "pcr": 0,
            "digests": [{"hashAlg": "sha256", "digest": A}, {"hashAlg": "md5", "digest": B}],
        },
        {"pcr": 2, "digests": [{"hashAlg": "sha256", "digest": A}]},
        {"pcr": 2, "digests": [{"hashAlg": "sha256", "digest": B}]},
        {"pcr": 4, "digests": [{"hashAlg": "sha256", "digest": B}]},
    ]
    both = frozenset({bytes.fromhex(A), bytes.fromhex(B)})
    wanted = {"sha256": {0: frozenset({bytes.fromhex(A)}), 2: both}}
    for document in (records, {"records": records}):
        assert events_from_pcrlock(json.dumps(document).encode(), "there") == wanted


@pytest.mark.parametrize(
    "text", ["", "7", "[7]", "{}", '[{"pcr": 0}]', '[{"pcr": 0, "digests": [{}]}]', "[" * 50_000]
    + ['[{"pcr": 0, "digests": [{"hashAlg": "sha256", "digest": "x"}]}]']
    + ['[{"pcr": 0, "digests": [{"hashAlg": [], "digest": "ab"}]}]'],
)  # fmt: skip
def test_other_json_is_not_taken_for_records(text: str) -> None:
    assert "there: it is no file of systemd-pcrlock" in refusal(events_from_pcrlock, text.encode())


@pytest.mark.parametrize("read", [entries_from_csv, values_from_pcrread, events_from_pcrlock])
@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: (HEAD + text).encode())
    | st.text("sha125670:x \n", max_size=200).map(str.encode)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["records", "pcr", "digests", "hashAlg", "digest"]), inner
            )
        ),
        max_leaves=9,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_a_list_or_refused(read, data: bytes) -> None:
    try:
        read(data, "there")
    except AttestSiteError as error:
        assert str(error).startswith("there")  # noqa: PT017


# Evidence


def case(name: str = "firmware-unknown", **changes: object) -> tuple[Evidence, Expectation, Policy]:
    vector = load(VECTORS / "attest" / f"{name}.toml")
    policy = replace(Policy.from_toml(vector["policy"]), rehearsal=vector["rehearsal"])
    evidence = replace(evidence_of(vector), **changes)
    return evidence, expectation_of(vector), policy


class Named(forge.Box):
    """A box with facts that name it; those of the vectors name nothing."""

    def enrolment(self, **changes: object) -> Enrolment:
        return forge.Box.enrolment(self, **{"facts": FACTS, **changes})


def named(evidence: Evidence) -> Evidence:
    """Give what such a box sends after the same boot."""
    return replace(forge.evidence(evidence.event_log or b"", Named()), ima_log=evidence.ima_log)


def test_a_held_box_gives_the_entry_by_which_its_like_pass() -> None:
    evidence, expectation, policy = case()
    evidence = named(evidence)
    entry, result = entry_from_evidence(evidence, expectation, policy, forge.NOW, "pos-1")
    assert result.verdict is Verdict.HELD
    assert result.reasons == {Reason.FIRMWARE_UNKNOWN}
    assert entry.machine == make.MACHINE
    assert set(entry.values["sha256"]) == {0, 2, 3, 6}
    assert entry.source == "evidence pos-1"
    log = eventlog.decode(evidence.event_log or b"")
    assert entry.keys == key_lists(variables_from_log(log, "sha256")).fingerprints
    assert entry.keys
    assert entry.events == {}
    known = replace(expectation, baseline=Baseline(entries=(entry,)))
    after = appraise(evidence, known, policy, forge.NOW)
    assert (after.verdict, after.tier) == (Verdict.ACCEPTED, Tier.VERIFIED)
    assert {after.pcrs[index] for index in (0, 2, 3, 6)} == {Outcome.BASELINE}


def test_a_box_with_cards_gives_their_roms_so_that_one_with_fewer_cards_passes() -> None:
    evidence, expectation, policy = case()
    log = eventlog.decode(evidence.event_log or b"")
    plain, roms = log.events[1:], []
    for data in (b"network card", b"disk controller"):
        digests = {bank.name: hashlib.new(bank.name, data).digest() for bank in log.banks}
        kind = EventType.EFI_BOOT_SERVICES_DRIVER
        roms.append(Event(pcr=2, type=kind, digests=digests, data=data))

    def with_cards(*cards: Event) -> Evidence:
        made = eventlog_forge.encode(eventlog_forge.with_events(log, (*cards, *plain)))
        return named(replace(evidence, event_log=made))

    entry, _ = entry_from_evidence(with_cards(*roms), expectation, policy, forge.NOW, "pos-1")
    assert entry.events == {"sha256": {2: frozenset(rom.digests["sha256"] for rom in roms)}}
    known = replace(expectation, baseline=Baseline(entries=(entry,)))
    for cards in ((), roms[1:], roms, roms[::-1]):
        result = appraise(with_cards(*cards), known, policy, forge.NOW)
        assert result.verdict is Verdict.ACCEPTED, result.findings


def test_nothing_learned_in_a_rehearsal_enters_the_baseline() -> None:
    evidence, expectation, policy = case()
    with pytest.raises(EvidenceError, match="pos-1: nothing learned in a rehearsal"):
        entry_from_evidence(
            named(evidence), expectation, replace(policy, rehearsal=True), forge.NOW, "pos-1"
        )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("quote-changed", "QUOTE-"),
        ("log-replay", "LOG-REPLAY"),
        ("initrd-changed", "INITRD-UNKNOWN"),
        ("ek-certificate-none", "EK-UNKNOWN"),
        ("ek-certificate-virtual", "EK-VIRTUAL"),
    ],
)
def test_evidence_that_proves_nothing_is_refused(name: str, told: str) -> None:
    with pytest.raises(EvidenceError, match=f"pos-1: {told}"):
        entry_from_evidence(*case(name), forge.NOW, "pos-1")


def test_evidence_is_whole_and_says_which_machine_it_is() -> None:
    evidence, expectation, policy = case()
    with pytest.raises(EvidenceError, match="does not say which machine"):
        entry_from_evidence(evidence, expectation, policy, forge.NOW, "pos-1")
    evidence = named(evidence)
    for changed in ({"expectation": None}, {"policy": None}):
        parts = {"expectation": expectation, "policy": policy, **changed}
        with pytest.raises(EvidenceError, match="so nobody knows how it was judged"):
            entry_from_evidence(evidence, parts["expectation"], parts["policy"], forge.NOW, "pos-1")
    with pytest.raises(EvidenceError, match="incomplete: not checked: the boot log"):
        entry_from_evidence(
            replace(evidence, event_log=None), expectation, policy, forge.NOW, "pos-1"
        )


def test_without_a_log_the_values_alone_are_known() -> None:
    evidence, expectation, policy = case("secure-boot-off-without-log")
    policy = replace(policy, secure_boot_required=False, waived=frozenset())
    evidence = forge.evidence(b"", Named(), values=evidence.pcrs)
    entry, result = entry_from_evidence(evidence, expectation, policy, forge.NOW, "pos-1")
    assert result.verdict is Verdict.HELD
    assert entry.events == {}
    assert entry.keys == frozenset()
    assert entry.values["sha256"][0] == evidence.pcrs["sha256"][0]
