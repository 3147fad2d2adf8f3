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

from attest.bootfacts import FileFacts
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
from attest.ukifacts import UkiFacts

Facts = FileFacts | UkiFacts
MAX_EARLIER_OPTIONS = 3
_SEPARATOR = bytes(4)
_RETURNING = b"Returning from EFI Application from Boot Option"
_CALLING = b"Calling EFI Application from Boot Option"
WITHOUT_LOG = tuple(index for index in PREDICTED_PCRS if index != 7)
"""PCR 7 cannot be predicted without the key databases, which the log alone tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One set by one way of booting it, with its prediction for this box's key databases."""

    reference: ReferenceSet
    transport: Transport
    server: str
    prediction: Prediction
    _expected: dict[str, Mapping[int, tuple[bytes, ...]]] = field(default_factory=dict)

    def expected(self, bank: str) -> Mapping[int, tuple[bytes, ...]]:
        """Give the values of each predicted PCR; of PCR 4 one for each count of earlier options."""
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
    if isinstance(reference.facts, UkiFacts):
        # Nothing that a unified image measures depends on how the firmware got it.
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
    signer = facts.signers[0][-1] if facts.signers and facts.signers[0] else b""
    entry = Signature(type=CERT_X509, owner=SHIM_LOCK, data=signer)
    db = entry.encode_list() if signer else b""
    return SecureBootVariables(secure_boot=True, pk=b"", kek=b"", db=db, dbx=b"")


def switched_off(facts: Facts) -> SecureBootVariables:
    """Make the same with Secure Boot off."""
    return replace(unknown_variables(facts), secure_boot=False)


def compare_values(
    candidate: Candidate, values: Values, indices: Sequence[int] = PREDICTED_PCRS
) -> Match:
    """Compare predicted with quoted values, in all quoted banks, with the named workarounds."""
    differing, workarounds = [], []
    for index in indices:
        told = _compare_pcr(candidate, values, index)
        if told is None:
            differing.append(index)
        elif told:
            workarounds.append(told)
    return Match(candidate=candidate, differing=tuple(differing), workarounds=tuple(workarounds))


def _compare_pcr(candidate: Candidate, values: Values, index: int) -> str | None:
    """Give the workaround that makes a PCR equal in every bank, "" for none, None if unequal."""
    tables = [(given[index], candidate.expected(bank)[index]) for bank, given in values.items()]
    for earlier in range(len(tables[0][1])):
        if all(value == expected[earlier] for value, expected in tables):
            return f"PCR 4: {earlier} earlier boot options gave up" if earlier else ""
    return None


def _values(prediction: Prediction, bank: str) -> Mapping[int, tuple[bytes, ...]]:
    """Compute every PCR; before ours was called, 0 to 3 boot options returned to the firmware."""
    separator = hashlib.new(bank, _SEPARATOR).digest()
    pair = [hashlib.new(bank, text).digest() for text in (_RETURNING, _CALLING)]
    digests: dict[int, list[bytes]] = {index: [] for index in PREDICTED_PCRS}
    for event in prediction.events(bank):
        digests[event.pcr].append(event.digest)
    found: dict[int, tuple[bytes, ...]] = {
        index: (_extended(index, bank, given),) for index, given in digests.items()
    }
    started = digests[4].index(separator) + 1
    before, after = digests[4][:started], digests[4][started:]
    found[4] = tuple(
        _extended(4, bank, [*before, *pair * earlier, *after])
        for earlier in range(MAX_EARLIER_OPTIONS + 1)
    )
    return found


def _extended(index: int, bank: str, digests: Sequence[bytes]) -> bytes:
    value = start_value(index, bank)
    for digest in digests:
        value = extend(value, digest, bank)
    return value
