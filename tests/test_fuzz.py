"""The fuzz targets: each takes what it begins with, changes nothing it should not, finds a lie."""

from dataclasses import replace

import pytest

from attest.eventlog import decode
from attest.replay import replay
from tests import forge
from tests.eventlog_forge import encode, with_events
from tests.fuzz import lies, material
from tests.fuzz.lies import TAKEN, Lie, judge_certificates, judge_evidence, judge_log, judge_quote
from tests.fuzz.million import SHARES, Samples, Tally
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS

SEED = "test"


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples(SEED, None)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_some_of_what_it_begins_with(name: str) -> None:
    target = TARGETS[name]
    told = [target.attempt(data[: target.largest]) for data in target.seeds(None)]
    assert TAKEN in told


@pytest.mark.parametrize("name", TARGETS)
def test_changed_seeds_are_no_finding(name: str) -> None:
    target = TARGETS[name]
    seeds = [data[: target.largest] for data in target.seeds(None)]
    for number in range(15):
        mutator = Mutator(f"{SEED}:{name}:{number}")
        target.attempt(mutator.raw(mutator.choice(seeds), seeds)[: target.largest])


@pytest.mark.parametrize("kind", SHARES)
def test_samples_are_the_same_every_time_and_no_finding(kind: str, samples: Samples) -> None:
    first, second = Tally(), Tally()
    for number in range(60):
        samples.judge(kind, number, first)
        samples.judge(kind, number, second)
    assert first.told == second.told
    assert not [found for found in first.found if found[0] != "slow"]
    assert sum(first.told.values()) - first.told["slow"] == 60
    assert first.told["refused"]


def test_a_quote_of_other_values_is_a_lie() -> None:
    honest, other = material.quote_cases()[0], material.quote_cases()[3]
    forged = replace(honest, attest=other.attest, nonce=other.nonce)
    assert judge_quote(honest, honest.attest, honest.signature, honest.values) == TAKEN
    with pytest.raises(Lie):
        judge_quote(
            replace(forged, attest=honest.attest), other.attest, other.signature, other.values
        )


def test_a_certificate_that_the_maker_signed_for_an_attacker_is_a_lie() -> None:
    (case, *_) = material.certificate_cases()
    assert judge_certificates(case, case.chain) == TAKEN
    made = forge.ek_certificate(case.ek, model="NPCT76x")
    with pytest.raises(Lie):
        judge_certificates(case, (made,))


def test_a_log_that_proves_another_boot_is_a_lie() -> None:
    (original, _), *_ = material.good_logs_here()
    log = decode(original)
    shorter = with_events(log, [event for event in log.events[1:] if event.pcr != 12][:-1])
    data = encode(shorter)
    values = {bank.name: replay(decode(data), bank.name) for bank in log.banks}
    with pytest.raises(Lie):
        judge_log(original, data, values)


@pytest.mark.parametrize("name", lies.FIELDS)
def test_evidence_of_which_a_field_is_gone_is_not_accepted_but_where_it_proves_nothing(
    name: str,
) -> None:
    told = judge_evidence(name, b"")
    proves_nothing = {"facts", "ima_log", "platform_certificates"}
    assert (told == TAKEN) is (name in proves_nothing), name
