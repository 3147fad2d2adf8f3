"""Verifier: whole verdicts, quotes and boot logs, beside Keylime, tpm2_eventlog and bare crypto.

Processor time for each on one core, ours and the peers' in turn, round by round, so that other work
on the machine meets all alike; the ratio is the median of the rounds' ratios. Before anything is
timed, all must find the same PCR values. Keylime's verdict has no certificate of the EK in it and a
policy that takes everything; ours has both, and its boot sets. A quote is timed twice: with its AK
from bytes, as Keylime has to take it, and with the AK read before, as a bare check has its key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from typing import Any

import cryptography
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from attest import eventlog
from attest.appraise import appraise
from attest.credential import RANDOM_BYTES, check_keys, decode_ak, make_challenge
from attest.evidence import Evidence, Verdict
from attest.quote import check_quote
from attest.replay import replay
from keys.tpm_public import PublicArea
from tests import forge
from tests.bench import boxes, verify_peers
from tests.bench.boxes import Quoted
from tests.bench.figure import BenchError, Figure
from tests.bench.lab import Lab

LOGS = (24, 48, 82, 114)
VERDICTS = (48, 114)
ROUNDS_PER_RUN = 5
_BATCH, _SLOW = 1000, 5
"""How often a lap calls what takes microseconds, and what takes milliseconds."""
_SECRET = bytes(32)
_BARE = f"bare signature check by cryptography {cryptography.__version__}"

Lap = Callable[[], float]
"""One round of one contender: microseconds of processor time for each operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedFigure(Figure):
    """Ours and the peer's of the same round belong together."""

    @property
    def ratio(self) -> float:
        """Above 1: we are better. The median of the rounds' ratios."""
        return median(peer / ours for ours, peer in zip(self.ours, self.peer, strict=True))


def measure(lab: Lab) -> list[Figure]:
    """Make the boxes, start the peers, and take all figures in one run."""
    lab.work.mkdir(parents=True, exist_ok=True)
    lab.say("           making boxes in software")
    logs = {count: boxes.log(count) for count in LOGS}
    evidence = {count: boxes.evidence(logs[count]) for count in VERDICTS}
    quotes = {f"P-256 {count}": boxes.ecc_quotes(evidence[count]) for count in VERDICTS}
    quotes["RSA-2048"] = boxes.rsa_quotes(forge.values_of(logs[VERDICTS[0]]))
    cases = lab.work / "verify.json"
    boxes.dump(cases, logs, quotes)
    lab.say("           installing Keylime and tpm2-tools, where they are not yet")
    tools = verify_peers.Tools(verify_peers.peers() / "tpm2-tools")
    rounds = ROUNDS_PER_RUN * lab.runs
    figures: list[Figure] = []
    with verify_peers.keylime(cases, tools, lab.work) as keylime:
        for count in VERDICTS:
            figures += _verdicts(count, evidence[count], keylime, rounds)
        for name, key in (("P-256", f"P-256 {VERDICTS[0]}"), ("RSA-2048", "RSA-2048")):
            figures += _quotes(name, key, quotes[key], keylime, rounds)
        for count in LOGS:
            path = lab.work / f"log-{count}.bin"
            path.write_bytes(logs[count])
            peers = {
                keylime.name: lambda of=str(count): keylime.run("log", of, _SLOW),
                tools.name: lambda path=path: tools.replay(path, _SLOW),
            }
            figures += _logs(count, logs[count], peers, rounds)
    return figures


def _verdicts(
    count: int, evidence: list[Evidence], keylime: verify_peers.Keylime, rounds: int
) -> list[Figure]:
    expectation, policy = boxes.expectation(), boxes.policy()

    def judge(box: Evidence) -> Verdict:
        assert box.ek_public and box.ak_public
        keys = check_keys(box.ek_public, box.ak_public)
        make_challenge(keys, _SECRET, os.urandom(RANDOM_BYTES))
        return appraise(box, expectation, policy, forge.NOW).verdict

    if {judge(box) for box in evidence} != {Verdict.ACCEPTED}:
        raise BenchError("an honest box was not accepted")
    _must_equal(_values(evidence[0]), keylime.run("verdict", str(count), 1)[1])
    laps = {
        "ours": lambda: _timed(judge, evidence),
        keylime.name: lambda: 1e6 * keylime.run("verdict", str(count), _SLOW)[0],
    }
    return _figures(f"whole verdict, {count} events", laps, rounds)


def _quotes(
    name: str, key: str, quotes: list[Quoted], keylime: verify_peers.Keylime, rounds: int
) -> list[Figure]:
    ours, bare = cycle(quotes), cycle(quotes)
    # As the challenge leaves it: a session reads its AK once, for quote and device key.
    read = cycle([(quote, decode_ak(quote.ak_public)) for quote in quotes])
    found = keylime.run("quote", key, 1)[1]
    _must_equal(
        {str(index): value.hex() for index, value in quotes[0].values["sha256"].items()}, found
    )
    laps: dict[str, Lap] = {
        "ours": lambda: _timed(_check_all, list(islice(ours, _BATCH))),
        keylime.name: lambda: 1e6 * keylime.run("quote", key, _BATCH)[0],
        _BARE: lambda: _timed(_verify, list(islice(bare, _BATCH))),
    }
    at_hand: dict[str, Lap] = {
        "ours": lambda: _timed(_check_with, list(islice(read, _BATCH))),
        _BARE: laps[_BARE],
    }
    return [
        *_figures(f"quote and AK, {name}", laps, rounds),
        *_figures(f"quote, {name}, key at hand", at_hand, rounds),
    ]


def _check_all(quote: Quoted) -> None:
    _check_with((quote, PublicArea.decode(quote.ak_public)))


def _check_with(given: tuple[Quoted, PublicArea]) -> None:
    quote, ak = given
    check_quote(
        attest=quote.attest,
        signature=quote.signature,
        ak=ak,
        extra_data=quote.nonce,
        values=quote.values,
    )


def _verify(quote: Quoted) -> None:
    if isinstance(quote.key, rsa.RSAPublicKey):
        quote.key.verify(quote.bare, quote.attest, padding.PKCS1v15(), hashes.SHA256())
    else:
        quote.key.verify(quote.bare, quote.attest, ec.ECDSA(hashes.SHA256()))


def _logs(
    count: int, data: bytes, peers: Mapping[str, Callable[[], tuple[float, Any]]], rounds: int
) -> list[Figure]:
    def read(log: bytes) -> dict[int, bytes]:
        return replay(eventlog.decode(log), "sha256")

    ours = {str(index): value.hex() for index, value in read(data).items()}
    for found in (peer()[1] for peer in peers.values()):
        if isinstance(found, str):
            missing = [index for index in _extended(data) if ours[index] not in found.lower()]
            if missing:
                raise BenchError(f"tpm2_eventlog has other values of PCR {', '.join(missing)}")
        else:
            _must_equal(ours, found)
    laps: dict[str, Lap] = {"ours": lambda: _timed(read, [data] * _BATCH)}
    laps |= {name: lambda peer=peer: 1e6 * peer()[0] for name, peer in peers.items()}
    return _figures(f"boot log of {count} events", laps, rounds)


def _extended(data: bytes) -> list[str]:
    events = eventlog.decode(data).events
    return sorted({str(one.pcr) for one in events if one.type != eventlog.EventType.NO_ACTION})


def _values(box: Evidence) -> dict[str, str]:
    assert box.pcrs
    return {str(index): value.hex() for index, value in box.pcrs["sha256"].items()}


def _must_equal(ours: Mapping[str, str], found: object) -> None:
    """Before anything is timed: what a peer found is what we found, and it found something."""
    if not isinstance(found, dict) or not found or not found.items() <= ours.items():
        raise BenchError(f"Keylime finds other values than we: {found}")


def _timed(work: Callable[[Any], object], over: list[Any]) -> float:
    begun = time.process_time()
    for one in over:
        work(one)
    return 1e6 * (time.process_time() - begun) / len(over)


def _figures(name: str, laps: Mapping[str, Lap], rounds: int) -> list[Figure]:
    """Let each take its lap in each round, after one that does not count."""
    for lap in laps.values():
        lap()
    taken = [{who: lap() for who, lap in laps.items()} for _ in range(rounds)]
    ours = tuple(one["ours"] for one in taken)
    return [
        PairedFigure(
            name=name,
            unit="µs",
            ours=ours,
            peer=tuple(one[who] for one in taken),
            peer_name=who,
        )
        for who in laps
        if who != "ours"
    ]
