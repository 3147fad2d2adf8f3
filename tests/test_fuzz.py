"""The fuzz targets: each takes what it begins with, changes nothing it should not, finds a lie."""

from dataclasses import replace

import pytest

from attest.eventlog import EventType, decode
from attest.replay import replay
from tests import forge
from tests.eventlog_forge import encode, with_events
from tests.fuzz import dns_packets, lies, material, packet_samples, packet_seeds, packets
from tests.fuzz.lies import TAKEN, Lie, judge_certificates, judge_evidence, judge_log, judge_quote
from tests.fuzz.million import SHARES, Samples, Tally
from tests.fuzz.mutate import Mutator
from tests.fuzz.packet_samples import PacketSamples
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
    """A boot of UEFI: one by BIOS proves nothing that could be another."""
    kind = EventType.EFI_BOOT_SERVICES_APPLICATION
    found = ((data, decode(data)) for data, _ in material.good_logs_here())
    original, log = next(one for one in found if any(e.type == kind for e in one[1].events))
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


@pytest.mark.parametrize("kind", packet_samples.SHARES)
def test_packets_are_the_same_every_time_and_no_finding(kind: str) -> None:
    maker, again, tally = PacketSamples(SEED), PacketSamples(SEED), Tally()
    for number in range(60):
        if kind != "dns-answer":  # signatures are made with random numbers
            assert maker.packet(kind, number) == again.packet(kind, number)
        maker.judge(kind, number, tally)
    assert not [found for found in tally.found if found[0] != "slow"]
    assert tally.told["refused"]


def test_an_option_that_runs_past_the_end_is_seen_wherever_it_stands() -> None:
    whole = packet_seeds.DHCP[0]
    assert packets.is_whole4(whole)
    assert not packets.is_whole4(whole[:250])
    overloaded = packet_seeds.DHCP[-1]
    assert packets.is_whole4(overloaded)
    assert not packets.is_whole4(overloaded[:108] + b"\x3c\xff" + overloaded[110:])
    relayed = packet_seeds.DHCP6[-1]
    assert packets.is_whole6(relayed)
    inner = relayed.rindex(b"\0\x01\0\x0e")
    assert not packets.is_whole6(relayed[: inner + 3] + b"\xff" + relayed[inner + 4 :])


def test_an_answer_of_another_name_or_without_its_data_is_a_lie_when_it_is_believed() -> None:
    known_cases = dns_packets.cases()
    honest = known_cases.truth[:]
    try:
        known_cases.truth[0] = known_cases.truth[2]
        with pytest.raises(Lie, match="other data"):
            dns_packets.answer(dns_packets.answer_seeds()[0])
    finally:
        known_cases.truth[:] = honest
