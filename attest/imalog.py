"""The measurement list of Linux's IMA: what the kernel measured after its own start.

Both forms of securityfs are read: the binary one, in any bank's variant, and the text one.
Each template digest is computed here from the data it stands for; one that differs is an error.
It never judges an entry. Linux 6.12, security/integrity/ima/ima_fs.c and ima_template.c;
Documentation/security/IMA-templates.rst.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from attest.errors import EvidenceError

MAX_LIST = 8 << 20
MAX_ENTRIES = 65536
PCR = 10
"""CONFIG_IMA_MEASURE_PCR_IDX; another one needs a policy that our enrolment system never loads."""

HASHERS: Mapping[str, Callable[[bytes], hashlib._Hash]] = {
    "sha1": hashlib.sha1,
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}
_SIZES = {bank: new(b"").digest_size for bank, new in HASHERS.items()}
_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "ima-ng": ("d-ng", "n-ng"),
    "ima-sig": ("d-ng", "n-ng", "sig"),
    "ima-ngv2": ("d-ngv2", "n-ng"),
    "ima-sigv2": ("d-ngv2", "n-ng", "sig"),
    "ima-buf": ("d-ng", "n-ng", "buf"),
    "ima-modsig": ("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
}
_OLD = "ima"
_OLD_DIGEST = 20
_OLD_NAME = 256
"""Template `ima` hashes SHA-1 or MD5 and a name filled up to 256 bytes, without lengths."""
_NAME = re.compile(rb"[!-~]{1,255}")
_HEX = re.compile(rb"(?:[0-9a-f]{2})*")
_U32 = struct.Struct("<I")


class ImaForm(Enum):
    """The two forms in which the kernel shows its list."""

    BINARY = "binary"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImaFile:
    """What an entry of a known template measured; `name` is a claim, `kind` is ima or verity."""

    kind: str
    algorithm: str
    digest: bytes
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImaEntry:
    """One measurement: `data` is what its template digest covers.

    A violation stands in the list with a digest of zeros. `file` is None for an unknown template.
    """

    template: str
    data: bytes
    violation: bool
    file: ImaFile | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImaLog:
    """A decoded list in its order; `bank` is the hash of the digests it was written with."""

    form: ImaForm
    bank: str
    entries: tuple[ImaEntry, ...]


def decode_ima(data: bytes) -> ImaLog:
    """Decode a whole list of either form; raise EvidenceError on anything that is not one."""
    if len(data) > MAX_LIST:
        raise EvidenceError(f"the IMA list is larger than {MAX_LIST} bytes")
    # A binary list begins with its PCR's number, a text line with a digit or a space.
    if data[:1] > b"\x1f":
        bank, records, form = "sha1", _text_records(data), ImaForm.TEXT
    else:
        bank = _find_bank(data)
        records, form = _binary_records(data, _SIZES[bank]), ImaForm.BINARY
    entries: list[ImaEntry] = []
    new, zeros = HASHERS[bank], bytes(_SIZES[bank])
    for pcr, digest, template, content, fields in records:
        if len(entries) == MAX_ENTRIES:
            raise EvidenceError(f"the IMA list holds more than {MAX_ENTRIES} entries")
        if pcr != PCR:
            raise EvidenceError(f"the IMA list has an entry for PCR {pcr}")
        violation = digest == zeros
        if not violation and new(content).digest() != digest:
            raise EvidenceError(f"the digest of IMA entry {len(entries)} is not that of its data")
        entries.append(
            ImaEntry(
                template=template,
                data=content,
                violation=violation,
                file=_file(template, fields) if fields else None,
            )
        )
    return ImaLog(form=form, bank=bank, entries=tuple(entries))


_Record = tuple[int, bytes, str, bytes, list[bytes]]
"""PCR, template digest, template name, hashed data, its fields (none: unknown template)."""


def _find_bank(data: bytes) -> str:
    """Tell from the first entry for which bank a list was written; it names none."""
    for bank, size in _SIZES.items():
        if 4 + size + 4 <= len(data):
            (length,) = _U32.unpack_from(data, 4 + size)
            if _NAME.fullmatch(data[8 + size : 8 + size + length]):
                return bank
    if data:
        raise EvidenceError("the IMA list does not begin with an entry")
    return "sha1"


def _binary_records(data: bytes, size: int) -> Iterator[_Record]:
    offset, end = 0, len(data)
    head = struct.Struct(f"<I{size}sI")
    try:
        while offset < end:
            pcr, digest, length = head.unpack_from(data, offset)
            offset += head.size
            name = data[offset : offset + length]
            if not _NAME.fullmatch(name):
                raise EvidenceError(f"the IMA list has no template name at offset {offset}")
            offset += length
            template = name.decode()
            if template == _OLD:
                (length,) = _U32.unpack_from(data, offset + _OLD_DIGEST)
                stop = offset + _OLD_DIGEST + 4 + length
                fields = [
                    data[offset : offset + _OLD_DIGEST],
                    data[offset + _OLD_DIGEST + 4 : stop],
                ]
                content = _old_content(fields)
            else:
                (length,) = _U32.unpack_from(data, offset)
                stop = offset + 4 + length
                content = data[offset + 4 : stop]
                fields = _split(template, content)
            if stop > end:
                raise EvidenceError(f"the IMA list is cut off at offset {offset}")
            offset = stop
            yield pcr, digest, template, content, fields
    except struct.error as error:
        raise EvidenceError(f"the IMA list is cut off after offset {offset}") from error


def _split(template: str, content: bytes) -> list[bytes]:
    """Split the data of a known template into its fields, each behind its length."""
    fields: list[bytes] = []
    offset = 0
    for _ in _TEMPLATES.get(template, ()):
        (length,) = _U32.unpack_from(content, offset)
        fields.append(content[offset + 4 : offset + 4 + length])
        offset += 4 + length
    if fields and offset != len(content):
        raise EvidenceError(f"the data of an {template} entry have not the size of their fields")
    return fields


def _old_content(fields: list[bytes]) -> bytes:
    digest, name = fields
    if len(name) >= _OLD_NAME:
        raise EvidenceError("the name of an ima entry is too long")
    return digest + name.ljust(_OLD_NAME, b"\0")


def _text_records(data: bytes) -> Iterator[_Record]:
    """Read lines `PCR digest template field…`, and put their data together as they were hashed."""
    if not data.endswith(b"\n"):
        raise EvidenceError("the IMA list is cut off in its last line")
    for line in data[:-1].split(b"\n"):
        number, digest, name, *words = (*line.lstrip(b" ").split(b" "), b"", b"")
        yield _text_record(number, digest, name, words[:-2])


def _text_record(number: bytes, digest: bytes, name: bytes, words: list[bytes]) -> _Record:
    if not number.isdigit() or len(number) > 2 or len(digest) != 2 * _SIZES["sha1"]:
        raise EvidenceError("a line of the IMA list does not begin with PCR and SHA-1 digest")
    template = name.decode("ascii", "replace")
    if template == _OLD and len(words) == 2:
        fields = [_hex(words[0]), words[1]]
        content = _old_content(fields)
    elif template in _TEMPLATES and len(words) == len(_TEMPLATES[template]):
        kinds = _TEMPLATES[template]
        fields = [_text_field(kind, word) for kind, word in zip(kinds, words, strict=True)]
        content = b"".join(_U32.pack(len(field)) + field for field in fields)
    else:
        raise EvidenceError("a line of the IMA list is of no template known here")
    return int(number), _hex(digest), template, content, fields


def _text_field(kind: str, word: bytes) -> bytes:
    if kind == "n-ng":
        return word + b"\0"
    if kind.startswith("d-") and word:
        label, _, digest = word.rpartition(b":")
        return label + b":\0" + _hex(digest)
    return _hex(word)


def _hex(text: bytes) -> bytes:
    if not _HEX.fullmatch(text):
        raise EvidenceError("the IMA list holds something else than hexadecimal digits")
    return bytes.fromhex(text.decode())


def _file(template: str, fields: list[bytes]) -> ImaFile:
    """Read digest and name, the first two fields of every known template."""
    if template == _OLD:
        label, digest, name = b"sha1", fields[0], fields[1]
    else:
        label, _, digest = fields[0].partition(b":\0")
        name = fields[1][:-1]
        if fields[1][-1:] != b"\0":
            raise EvidenceError(f"the name of an {template} entry does not end")
    if b"\0" in name:
        raise EvidenceError(f"the name of an {template} entry has an end in its middle")
    kind, algorithm = _label(label, versioned=template.endswith("v2"))
    if not digest or len(digest) != _SIZES.get(algorithm, len(digest)):
        raise EvidenceError(f"the {algorithm} digest of an {template} entry has a wrong size")
    return ImaFile(
        kind=kind,
        algorithm=algorithm,
        digest=digest,
        name=name.decode("utf-8", "backslashreplace"),
    )


@lru_cache(maxsize=64)
def _label(label: bytes, *, versioned: bool) -> tuple[str, str]:
    """Read what stands before a digest: kind of digest and hash, or (before v2) the hash alone."""
    first, separator, last = label.rpartition(b":")
    if bool(separator) != versioned:
        raise EvidenceError("the digest of an IMA entry is malformed")
    return first.decode("ascii", "replace") or "ima", last.decode("ascii", "replace")
