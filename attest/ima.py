"""PCR 10: does the kernel's measurement list explain it, and is all of it part of the boot set?

With Secure Boot on, Debian's kernel measures each module it loads, and what it would start by
kexec. File digests are proved by the quoted PCR; paths are whatever the box called them.
A list may be longer than what was quoted: the kernel goes on measuring while the TPM signs.
Linux 6.12, security/integrity/ima/ima_efi.c (arch policy), ima_queue.c, ima_crypto.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attest.bootfacts import Digests
from attest.errors import EvidenceError
from attest.evidence import Outcome
from attest.imalog import HASHERS, PCR, ImaEntry, ImaFile, ImaForm, ImaLog, decode_ima
from attest.quote import Values
from attest.reasons import Finding, Reason

SHA1_PADDED = "PCR 10: sha1-padded in bank"
AGGREGATE_0_7 = "IMA: boot_aggregate over PCR 0 to 7 (a kernel before 5.8)"
AGGREGATE_SHA1 = "IMA: boot_aggregate over the SHA-1 bank"
FILES_SHA1 = "IMA: files hashed with SHA-1"

_BUFFER = "ima-buf"
_SHOWN = 3
_SHOWN_NAME = 120
_NO_LIST = (
    "The boot set does not say which kernel modules belong to it: build it again with this release."
)
_KEXEC = "The box was about to start another kernel out of the one of its boot set."
_NOT_MEASURED = "The kernel of the box measured nothing of what it loaded."


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedIma:
    """What became of PCR 10; `proved` counts the first entries that the quoted value proves."""

    findings: tuple[Finding, ...] = ()
    workarounds: tuple[str, ...] = ()
    outcome: Outcome = Outcome.UNCHECKED
    proved: int = 0


def check_ima(
    data: bytes | None, values: Values, modules: tuple[Digests, ...], *, secure_boot: bool
) -> CheckedIma:
    """Judge a list against quoted values and the modules of the boot set that matched.

    Banks of `values` without PCR 10 prove nothing here; `modules` is empty for a set without a
    list; `secure_boot` is what the boot log proved.
    """
    values = {bank: held for bank, held in values.items() if PCR in held}
    extended = any(any(held[PCR]) for held in values.values())
    if not values or not (extended or (secure_boot and modules)):
        return CheckedIma()
    if not data or not extended:
        told = "" if extended else _NOT_MEASURED
        return CheckedIma(findings=(Finding(reason=Reason.IMA_MISSING, told=told),))
    try:
        log = decode_ima(data)
    except EvidenceError as error:
        return _failed(Reason.IMA_MALFORMED, str(error))
    if log.form is ImaForm.TEXT and set(values) != {"sha1"}:
        # It shows SHA-1 digests; that a text was put together right again proves no other bank.
        return _failed(Reason.IMA_REPLAY, "the text form of the list fits a SHA-1 bank alone")
    reached = {bank: _find_prefix(log, bank, values[bank][PCR]) for bank in sorted(values)}
    counts = {count for count, _ in reached.values()}
    if len(counts) != 1 or None in counts:
        return _failed(Reason.IMA_REPLAY, _told_counts(log, reached))
    (proved,) = counts
    workarounds = [f"{SHA1_PADDED} {bank}" for bank, (_, padded) in reached.items() if padded]
    return _judge(log.entries[:proved], values, modules, workarounds)


def replay_ima(log: ImaLog, bank: str, *, padded: bool = False) -> Iterator[bytes]:
    """Give PCR 10 of `bank` after no entry, after the first, after the second and so on.

    Kernels extend the SHA-1 digest, `padded` with zeros, into a bank whose hash they lack when IMA
    starts (SHA-384 and SHA-512 in Debian 12's); before 5.8 they did so in every bank.
    """
    new = HASHERS[bank]
    size = new(b"").digest_size
    inner = HASHERS["sha1"] if padded else new
    violation = b"\xff" * size
    value = bytes(size)
    yield value
    for entry in log.entries:
        digest = violation if entry.violation else inner(entry.data).digest()
        value = new(value + digest.ljust(size, b"\0")).digest()
        yield value


_Reached = tuple[int | None, bool]
"""How many entries lead to the quoted value, and whether only padded SHA-1 digests do."""


def _find_prefix(log: ImaLog, bank: str, wanted: bytes) -> _Reached:
    """Find the shortest part of the list that leads to the quoted PCR 10 of one bank."""
    for padded in (False, True):
        for count, value in enumerate(replay_ima(log, bank, padded=padded)):
            if value == wanted:
                return count, padded
    return None, False


def _told_counts(log: ImaLog, reached: Mapping[str, _Reached]) -> str:
    told = [
        f"{bank} is not reached" if count is None else f"{bank} is reached by {count}"
        for bank, (count, _) in reached.items()
    ]
    return f"{len(log.entries)} entries: " + ", ".join(told)


def _judge(
    entries: tuple[ImaEntry, ...],
    values: Values,
    modules: tuple[Digests, ...],
    workarounds: list[str],
) -> CheckedIma:
    found: list[Finding] = []
    first, *loaded = entries
    problem = _aggregate(first, values, workarounds)
    if problem:
        found.append(Finding(reason=Reason.IMA_REPLAY, detail=problem))
    broken = [entry for entry in entries if entry.violation]
    if broken:
        found.append(Finding(reason=Reason.IMA_VIOLATION, detail=_details(broken)))
    found += _modules([entry for entry in loaded if not entry.violation], modules, workarounds)
    return CheckedIma(
        findings=tuple(found),
        workarounds=tuple(workarounds),
        outcome=Outcome.DIFFERS if found else Outcome.EQUAL,
        proved=len(entries),
    )


def _aggregate(entry: ImaEntry, values: Values, workarounds: list[str]) -> str:
    """Compare the first entry with the PCRs it stands for; say what is wrong with it.

    It ties the list to this start of the kernel: PCR 0 to 9 were not extended since.
    """
    file = entry.file
    if file is None or file.name != "boot_aggregate":
        return "the list does not begin with boot_aggregate"
    held = values.get(file.algorithm, {})
    if not held.keys() >= set(range(10)):
        return f"boot_aggregate is over PCRs of {file.algorithm!r} that were not quoted"
    old, whole = (
        HASHERS[file.algorithm](b"".join(held[index] for index in range(count))).digest()
        for count in (8, 10)
    )
    if file.algorithm == "sha1":
        workarounds.append(AGGREGATE_SHA1)
        return "" if file.digest == old else "boot_aggregate is not over the quoted PCR 0 to 7"
    if file.digest == old:
        workarounds.append(AGGREGATE_0_7)
    elif file.digest != whole:
        return "boot_aggregate is not over the quoted PCR 0 to 9"
    return ""


def _modules(
    entries: list[ImaEntry], modules: tuple[Digests, ...], workarounds: list[str]
) -> Iterator[Finding]:
    """Find what is no module of the set, or was loaded twice; the order is free."""
    kexec = [entry for entry in entries if entry.file and entry.file.name.startswith("kexec")]
    if kexec:
        yield Finding(reason=Reason.MODULE_UNKNOWN, detail=_details(kexec), told=_KEXEC)
    known = {(bank, digest) for module in modules for bank, digest in module.items()}
    unknown: list[ImaEntry] = []
    for entry in entries:
        file = entry.file
        if file is None or entry.template == _BUFFER or not _take(file, known):
            unknown.append(entry)
        elif file.algorithm == "sha1" and FILES_SHA1 not in workarounds:
            workarounds.append(FILES_SHA1)
    strange = [entry for entry in unknown if entry not in kexec]
    if strange:
        told = "" if modules else _NO_LIST
        yield Finding(reason=Reason.MODULE_UNKNOWN, detail=_details(strange), told=told)


def _take(file: ImaFile, known: set[tuple[str, bytes]]) -> bool:
    """Use up a module of the set: the kernel measures a file once, however often it is loaded."""
    pair = (file.algorithm, file.digest)
    if file.kind != "ima" or pair not in known:
        return False
    known.remove(pair)
    return True


def _failed(reason: Reason, detail: str) -> CheckedIma:
    return CheckedIma(findings=(Finding(reason=reason, detail=detail),), outcome=Outcome.DIFFERS)


def _details(entries: list[ImaEntry]) -> str:
    """Name the first few entries; the paths are claims."""
    texts = [_text(entry) for entry in entries[:_SHOWN]]
    more = len(entries) - _SHOWN
    return "; ".join([*texts, f"and {more} more"] if more > 0 else texts)


def _text(entry: ImaEntry) -> str:
    if entry.file is None:
        return f"an entry of the unknown template {entry.template[:_SHOWN_NAME]!r}"
    name, file = entry.file.name[:_SHOWN_NAME], entry.file
    return f"{file.algorithm} {file.digest.hex()}; the box calls it {name!r} (unproven)"
