"""Headquarters' desk for leases: is a request an appliance's own, and what may be signed for it.

Pure and without a TPM: it judges the quote in the request, compares keys and counters with what
was recorded of this appliance, and draws up a lease. Only `check_request` makes an `Asked`. Times
are unix seconds, TPM clocks milliseconds. design.md, "Secrets".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from attest.ak import check_ak, qualified_name
from attest.ektemplate import ENDORSEMENT
from attest.errors import CheckError
from attest.quote import check_quote
from bootstrap.errors import PeerError
from bootstrap.lease_ledger import Ledger
from keys.ca import grouped
from keys.errors import PeerError as KeysPeerError
from keys.lease import Counters, Lease, Purpose, Terms, reference
from keys.lease_request import QUOTED_PCRS, LeaseRequest, appliance_name
from keys.policy import pcr_digest
from keys.tpm_objects import Index
from keys.tpm_public import PublicArea

BANK = "sha256"
HOUR_MS = 3_600_000
MAX_HOURS = 2 * 366 * 24
MAX_STARTS = 10_000
LATE_SECONDS = 86_400
_PCR_LINE = re.compile(r"\s*([0-9]{1,2})\s*:\s*(?:0x)?([0-9A-Fa-f]{64})\s*")
_SITE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_MAKER = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request whose quote holds: what the appliance's TPM itself says."""

    request: LeaseRequest
    ek_name: bytes
    counters: Counters
    pcrs: Mapping[int, bytes]
    maker: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse to exist unless `check_request` made it."""
        if self.maker is not _MAKER:
            raise TypeError("only check_request makes an Asked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the lease is to allow from now on.

    `pcrs` are bound as the request has them, or as `planned` has them: software to come.
    """

    hours: int
    starts: int
    suspends: int
    pcrs: frozenset[int] = frozenset()
    planned: Mapping[int, bytes] | None = None


def check_request(text: str, *, challenge: str | None = None) -> Asked:
    """Judge a request by itself; PeerError says what is wrong with it.

    `challenge` is what headquarters asked to be quoted; None when it asked for nothing.
    """
    try:
        request = LeaseRequest.read(text)
        ek, ak = PublicArea.decode(request.ek), PublicArea.decode(request.ak)
        check_ak(ak)
        quote = check_quote(
            attest=request.attest,
            signature=request.signature,
            ak=ak,
            extra_data=request.quoted(),
            values={BANK: request.pcrs},
            selection={BANK: frozenset(QUOTED_PCRS)},
        )
    except KeysPeerError as error:
        raise PeerError(str(error)) from None
    except CheckError as error:
        raise PeerError(f"the request is not what a TPM quoted ({error})") from None
    # A key elsewhere quotes counters that are blurred (Part 1, 36.7): they would be signed blindly.
    if quote.qualified_signer != qualified_name(struct.pack(">I", ENDORSEMENT), ak.name()):
        raise PeerError("the key that quoted is no primary key of the endorsement hierarchy")
    if challenge is not None and request.challenge != challenge:
        raise PeerError(f"the request quotes the challenge {request.challenge!r}, not yours")
    if not _SITE.fullmatch(request.site):  # it becomes the name of a directory
        raise PeerError(f"{request.site!r} is no site id")
    return Asked(
        request=request,
        ek_name=ek.name(),
        counters=Counters(
            clock=quote.clock.clock,
            reset_count=quote.clock.reset_count,
            restart_count=quote.clock.restart_count,
            safe=quote.clock.safe,
        ),
        pcrs=quote.values[BANK],
        maker=_MAKER,
    )


def fingerprint(request: LeaseRequest) -> str:
    """Name an appliance by both its keys, to be read out: 32 letters in groups of four."""
    return grouped(appliance_name(request.site, request.ek, request.ak))


def check_known(asked: Asked, known: Ledger) -> None:
    """Compare an appliance with what was recorded of it; PeerError when it is another."""
    request, first = asked.request, known.appliance
    if request.site != first.site:
        raise PeerError(f"this appliance belongs to the site {first.site}, not {request.site}")
    if known.replaced is not None:
        raise PeerError(
            "another appliance took the place of this one: what it asks for now, a thief may ask"
        )
    if (request.ek, request.ak) != (first.ek, first.ak):
        raise PeerError(
            "its keys are not those recorded: its TPM was changed, or somebody else's TPM quoted"
        )
    if request.lease_counter < known.seen:
        raise PeerError(
            f"it counts leases to {request.lease_counter}, and has counted to {known.seen} before: "
            "an old request, or a TPM that was cleared"
        )


def draw_up(asked: Asked, wanted: Wanted, known: Ledger, now: float) -> Lease:
    """Write the next lease of an appliance; PeerError when that number is taken.

    A second lease of one number is only for other software: the TPM takes either, never both.
    """
    _check_wanted(wanted)
    check_known(asked, known)
    terms = _terms(asked, wanted)
    for one in known.of_counter(terms.counter):
        same = (one.pcrs, one.pcr_digest) == (terms.pcrs, terms.pcr_digest)
        if same or not one.pcrs or not terms.pcrs:
            raise PeerError(
                f"lease {terms.counter} of this appliance was issued already: print it again with "
                f"`doorstep lease issued --again {terms.counter}`, or ask for a new request once "
                "it was applied or `doorstep lease end` was done there"
            )
    request = asked.request
    return Lease(
        site=request.site,
        purpose=Purpose.CACHE,
        terms=terms,
        reference=reference(
            site=request.site,
            ek_name=asked.ek_name,
            counter_name=Index.LEASE.nv_name,
            purpose=Purpose.CACHE,
        ),
        issued=int(now),
        ends=int(now) + wanted.hours * 3600,
    )


def _check_wanted(wanted: Wanted) -> None:
    if not 1 <= wanted.hours <= MAX_HOURS:
        raise PeerError(f"a lease is for 1 to {MAX_HOURS} powered hours")
    if not (0 <= wanted.starts <= MAX_STARTS and 0 <= wanted.suspends <= MAX_STARTS):
        raise PeerError(f"starts and suspends are numbers from 0 to {MAX_STARTS}")


def _terms(asked: Asked, wanted: Wanted) -> Terms:
    now, values = asked.counters, asked.pcrs if wanted.planned is None else wanted.planned
    if missing := sorted(wanted.pcrs - set(values)):
        raise PeerError(f"nothing says what PCR {missing[0]} holds")
    bound = {index: values[index] for index in wanted.pcrs}
    return Terms(
        clock_before=now.clock + wanted.hours * HOUR_MS,
        resets_at_most=now.reset_count + wanted.starts,
        restarts_at_most=now.restart_count + wanted.suspends,
        counter=asked.request.lease_counter + 1,
        pcrs=wanted.pcrs,
        pcr_digest=pcr_digest(bound) if bound else bytes(32),
    )


def planned_values(text: str) -> Mapping[int, bytes]:
    """Read what PCRs will hold: another appliance's request, or lines as tpm2_pcrread prints.

    Of a request only that its quote holds is checked: whose it is, who runs the command knows.
    PeerError when it is neither.
    """
    if text.lstrip().upper().startswith("DOORSTEP-LEASE-REQUEST"):
        return check_request(text).pcrs
    found: dict[int, bytes] = {}
    for line in text.splitlines():
        if not line.strip() or line.strip() == f"{BANK}:":
            continue
        matched = _PCR_LINE.fullmatch(line)
        if matched is None or int(matched[1]) not in QUOTED_PCRS or int(matched[1]) in found:
            raise PeerError(f"{line.strip()[:40]!r}: lines like `7 : 0x…` of 64 digits are wanted")
        found[int(matched[1])] = bytes.fromhex(matched[2])
    return found


def asked_words(asked: Asked, now: float) -> tuple[str, ...]:
    """Say what the request says, one thing a line."""
    request, counters = asked.request, asked.counters
    age = now - request.at
    lines = [
        f"site {request.site}, appliance {fingerprint(request)}",
        f"its TPM was started {counters.reset_count} times, suspended {counters.restart_count} "
        f"times since, and ran {span(counters.clock / 1000)}",
        f"its leases are counted to {request.lease_counter}, its revocations to {request.epoch}",
        f"made {span(abs(age))} {'ago' if age >= 0 else 'in the future'} by its own clock, "
        + (f"for the challenge {request.challenge!r}" if request.challenge else "for no challenge"),
    ]
    if abs(age) > LATE_SECONDS:
        lines.append("note: an old request, or its clock is wrong: the lease ends sooner than said")
    if not counters.safe:
        lines.append("note: its TPM lost power unprepared: a little of its clock may be missing")
    return tuple(lines)


def lease_words(lease: Lease, wanted: Wanted) -> tuple[str, ...]:
    """Say what a lease allows, one thing a line."""
    if not wanted.pcrs:
        software = "whatever software the appliance runs"
    else:
        named = ", ".join(map(str, sorted(wanted.pcrs)))
        state = "as it is now" if wanted.planned is None else "as planned"
        software = f"the software that PCR {named} stand for, {state}"
    return (
        f"lease {lease.terms.counter} of {lease.site}: {span(wanted.hours * 3600)} switched on",
        f"{plural(wanted.starts, 'start')} and {plural(wanted.suspends, 'suspend')} more",
        f"for {software}",
    )


def span(seconds: float) -> str:
    """Write a length of time in its two largest units."""
    minutes = int(max(0, seconds)) // 60
    parts = ((minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
    told = [f"{number} {unit}" for number, unit in parts if number][:2]
    return " ".join(told) or "less than a minute"


def plural(number: int, word: str) -> str:
    """Count something."""
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
