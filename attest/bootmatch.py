"""Does a measured boot match one boot set of this site, as a whole, by its quoted values?

A box matches one set or none: values of two sets never mix. The log gives the key databases that
PCR 7 proves; every other expected value is computed from the files. It explains nothing (see
`attest.explain`). TCG PFP 1.06, 3.3.4; measured boot rules of the design, per PCR.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from attest.bootfacts import Facts, FileFacts
from attest.errors import AttestSiteError, EvidenceError
from attest.expectation import ReferenceSet
from attest.predict import (
    CD_DRIVES,
    PREDICTED_PCRS,
    Prediction,
    SecureBootVariables,
    Transport,
    predict,
)
from attest.quote import Values
from attest.replay import extend, start_value
from attest.uefi import CERT_X509, SHIM_LOCK, Signature

Expected = Mapping[int, tuple[tuple[str, bytes], ...]]
"""Values by PCR, each with the name of the workaround that it needs, or none."""

MAX_EARLIER_OPTIONS = 3
_SEPARATOR = bytes(4)
_RETURNING = b"Returning from EFI Application from Boot Option"
_CALLING = b"Calling EFI Application from Boot Option"
SILENT = "PCR 4: the firmware does not measure that it calls a boot option"
ELSEWHERE = "PCR 5: the firmware measures there that it calls a boot option"
WITHOUT_LOG = tuple(index for index in PREDICTED_PCRS if index != 7)
"""PCR 7 cannot be predicted without the key databases, which the log alone tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One set by one way of booting it, with its prediction for this box's key databases."""

    reference: ReferenceSet
    transport: Transport
    server: str
    prediction: Prediction
    _expected: dict[str, Expected] = field(default_factory=dict)

    def expected(self, bank: str) -> Expected:
        """Give the values that each predicted PCR may have, the plain one first."""
        if bank not in self._expected:
            self._expected[bank] = _values(self.prediction, bank)
        return self._expected[bank]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """How a candidate compares with quoted values in every bank."""

    candidate: Candidate
    differing: tuple[int, ...]
    workarounds: tuple[str, ...]


def candidates(
    references: Sequence[ReferenceSet], variables: Callable[[Facts], SecureBootVariables]
) -> Iterator[Candidate]:
    """Predict every set by each of its ways, with the key databases that `variables` gives."""
    for reference in references:
        yield from _candidates(reference, variables(reference.facts))


@lru_cache(maxsize=64)
def _candidates(reference: ReferenceSet, variables: SecureBootVariables) -> tuple[Candidate, ...]:
    """Predict once: a site's boxes mostly have the same key databases."""
    found: list[Candidate] = []
    for transport, server, drive in _ways(reference):
        try:
            prediction = predict(
                reference.facts,
                transport=transport,
                server=server,
                variables=variables,
                drive=drive,
            )
        except (AttestSiteError, EvidenceError):
            # This set cannot have started there; another one may have.
            continue
        found.append(
            Candidate(
                reference=reference, transport=transport, server=server, prediction=prediction
            )
        )
    return tuple(found)


def _ways(reference: ReferenceSet) -> Iterator[tuple[Transport, str, int]]:
    if not isinstance(reference.facts, FileFacts):
        # Nothing that other loaders than GRUB measure depends on how the firmware got them.
        yield reference.transports[0], "", 0
        return
    for transport in reference.transports:
        if transport is Transport.ISO:
            yield from ((transport, "", drive) for drive in CD_DRIVES)
        else:
            yield from ((transport, server, 0) for server in reference.servers)


def known_variables(variables: SecureBootVariables) -> Callable[[Facts], SecureBootVariables]:
    """Use the key databases that a log proved, whatever the set."""
    return lambda facts: variables


def unknown_variables(facts: Facts) -> SecureBootVariables:
    """Make key databases with which the set starts, for PCRs that do not depend on them."""
    signer = next((chain[-1] for chain in facts.signers if chain), b"")
    db = Signature(type=CERT_X509, owner=SHIM_LOCK, data=signer).encode_list()
    return SecureBootVariables(secure_boot=True, pk=b"", kek=b"", db=db, dbx=b"")


def switched_off(facts: Facts) -> SecureBootVariables:
    """Make the same with Secure Boot off."""
    return replace(unknown_variables(facts), secure_boot=False)


def compare_values(
    candidate: Candidate, values: Values, indices: Sequence[int] = PREDICTED_PCRS
) -> Match:
    """Compare predicted with quoted values, in all quoted banks, with the named workarounds."""
    differing, workarounds = [], []
    banks = [(given, candidate.expected(bank)) for bank, given in values.items()]
    for index in indices:
        told = _compare_pcr(banks, index)
        if told is None:
            differing.append(index)
        elif told:
            workarounds.append(told)
    return Match(candidate=candidate, differing=tuple(differing), workarounds=tuple(workarounds))


def _compare_pcr(banks: Sequence[tuple[Mapping[int, bytes], Expected]], index: int) -> str | None:
    """Give the workaround that makes a PCR equal in every bank, "" for none, None if unequal.

    `banks` holds for each bank the quoted values and those that they may be.
    """
    for place, (name, _) in enumerate(banks[0][1][index]):
        for given, expected in banks:
            if given[index] != expected[index][place][1]:
                break
        else:
            return name
    return None


def _values(prediction: Prediction, bank: str) -> Expected:
    """Compute every PCR, in all the ways in which honest firmware leads to it."""
    digests: dict[int, list[bytes]] = {index: [] for index in PREDICTED_PCRS}
    for event in prediction.events(bank):
        digests[event.pcr].append(event.digest)
    found = {index: [("", given)] for index, given in digests.items()}
    found[4] += _starts(digests[4], bank)
    found[5] += _calls(digests[5], bank)
    return {
        index: tuple((name, _extended(index, bank, given)) for name, given in ways)
        for index, ways in found.items()
    }


def _starts(digests: list[bytes], bank: str) -> Iterator[tuple[str, list[bytes]]]:
    """Vary PCR 4: boot options before ours gave up, or the firmware says nothing of its calls."""
    returning, calling, separator = (
        hashlib.new(bank, text).digest() for text in (_RETURNING, _CALLING, _SEPARATOR)
    )
    at = digests.index(separator) + 1
    for earlier in range(1, MAX_EARLIER_OPTIONS + 1):
        pairs = [returning, calling] * earlier
        name = f"PCR 4: {earlier} earlier boot options gave up"
        yield name, [*digests[:at], *pairs, *digests[at:]]
    yield SILENT, [digest for digest in digests if digest != calling]


def _calls(digests: list[bytes], bank: str) -> Iterator[tuple[str, list[bytes]]]:
    """Vary PCR 5: some firmware says there that it calls a boot option."""
    calling = hashlib.new(bank, _CALLING).digest()
    yield ELSEWHERE, [calling, *digests]
    yield ELSEWHERE, [digests[0], calling, *digests[1:]]


def _extended(index: int, bank: str, digests: Sequence[bytes]) -> bytes:
    value = start_value(index, bank)
    for digest in digests:
        value = extend(value, digest, bank)
    return value
