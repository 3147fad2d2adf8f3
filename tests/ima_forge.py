"""Makes IMA lists as kernels write them, and the PCR 10 that follows, for tests and vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from attest.imalog import ImaEntry, ImaFile, ImaForm, ImaLog

BANKS = ("sha1", "sha256", "sha384", "sha512")
FIELDS = {"ima-ng": 2, "ima-sig": 3, "ima-ngv2": 2, "ima-sigv2": 3, "ima-buf": 3, "ima-modsig": 5}
MODULES = {name: f"ELF of {name}".encode() for name in ("failover", "net_failover", "virtio_net")}


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def digests(data: bytes) -> dict[str, bytes]:
    return {bank: hashlib.new(bank, data).digest() for bank in BANKS}


def make_entry(
    digest: bytes,
    name: str,
    template: str = "ima-sig",
    *,
    algorithm: str = "sha256",
    kind: str = "ima",
    rest: Sequence[bytes] | None = None,
    violation: bool = False,
) -> ImaEntry:
    """Make an entry; `rest` are the fields after digest and name."""
    file = ImaFile(kind=kind, algorithm=algorithm, digest=digest, name=name)
    if template == "ima":
        data = digest + name.encode().ljust(256, b"\0")
    else:
        label = f"{kind}:{algorithm}:\0" if template.endswith("v2") else f"{algorithm}:\0"
        count = FIELDS[template] - 2
        fields = [label.encode() + digest, name.encode() + b"\0", *(rest or [b""] * count)]
        data = b"".join(sized(field) for field in fields)
    return ImaEntry(template=template, data=data, violation=violation, file=file)


def unknown_entry(template: str, data: bytes) -> ImaEntry:
    return ImaEntry(template=template, data=data, violation=False, file=None)


def make_list(entries: Iterable[ImaEntry], bank: str = "sha1") -> ImaLog:
    return ImaLog(form=ImaForm.BINARY, bank=bank, entries=tuple(entries))


def listed_digest(entry: ImaEntry, bank: str) -> bytes:
    digest = hashlib.new(bank, entry.data).digest()
    return bytes(len(digest)) if entry.violation else digest


def encode(log: ImaLog) -> bytes:
    """Write a list in its form, as securityfs shows it."""
    if log.form is ImaForm.TEXT:
        return b"".join(_line(entry) for entry in log.entries)
    return b"".join(
        (10).to_bytes(4, "little")
        + listed_digest(entry, log.bank)
        + sized(entry.template.encode())
        + _binary_data(entry)
        for entry in log.entries
    )


def _binary_data(entry: ImaEntry) -> bytes:
    if entry.template != "ima":
        return sized(entry.data)
    return entry.data[:20] + sized(entry.data[20:].rstrip(b"\0"))


def _line(entry: ImaEntry) -> bytes:
    head = b"10 " + listed_digest(entry, "sha1").hex().encode() + b" " + entry.template.encode()
    return head + b"".join(b" " + word for word in _words(entry)) + b"\n"


def _words(entry: ImaEntry) -> list[bytes]:
    if entry.template == "ima":
        return [entry.data[:20].hex().encode(), entry.data[20:].rstrip(b"\0")]
    words, rest = [], entry.data
    for number in range(FIELDS[entry.template]):
        size = int.from_bytes(rest[:4], "little")
        field, rest = rest[4 : 4 + size], rest[4 + size :]
        if number == 1:
            words.append(field[:-1])
        elif field and number in (0, 3):
            label, _, digest = field.partition(b":\0")
            words.append(label + b":" + digest.hex().encode())
        else:
            words.append(field.hex().encode())
    return words


def boot_pcrs(banks: Sequence[str]) -> dict[str, dict[int, bytes]]:
    """PCR 0 to 9 of a boot, the same every time."""
    return {
        bank: {n: hashlib.new(bank, f"{bank} PCR {n}".encode()).digest() for n in range(10)}
        for bank in banks
    }


def aggregate(
    pcrs: dict[str, dict[int, bytes]],
    template: str = "ima-sig",
    *,
    bank: str = "sha256",
    label: str | None = None,
    count: int | None = None,
) -> ImaEntry:
    """Make boot_aggregate over the first `count` PCRs of `bank`, in the hash called `label`."""
    label, count = label or bank, count or (8 if bank == "sha1" else 10)
    data = b"".join(pcrs[bank][index] for index in range(count))
    digest = hashlib.new(label, data).digest()
    return make_entry(digest, "boot_aggregate", template, algorithm=label)


def modules(
    *names: str, template: str = "ima-sig", algorithm: str = "sha256", kind: str = "ima"
) -> list[ImaEntry]:
    """Make the entries of loaded modules, all of them by default."""
    return [
        make_entry(
            hashlib.new(algorithm, MODULES[name]).digest(),
            f"/doorstep/{name}.ko",
            template,
            algorithm=algorithm,
            kind=kind,
        )
        for name in names or MODULES
    ]


def extended(
    pcrs: dict[str, dict[int, bytes]],
    entries: Iterable[ImaEntry],
    padded: Sequence[str] = (),
) -> dict[str, dict[int, bytes]]:
    """Add the PCR 10 that `entries` lead to; `padded` names banks that get SHA-1 digests."""
    entries = list(entries)
    return {
        bank: {**held, 10: _replay(entries, bank, bank in padded)} for bank, held in pcrs.items()
    }


def _replay(entries: list[ImaEntry], bank: str, padded: bool) -> bytes:
    """Extend by hand, so that nothing is proved by the code it is to prove."""
    size = hashlib.new(bank).digest_size
    value = bytes(size)
    for entry in entries:
        digest = hashlib.new("sha1" if padded else bank, entry.data).digest()
        digest = b"\xff" * size if entry.violation else digest + bytes(size - len(digest))
        value = hashlib.new(bank, value + digest).digest()
    return value
