"""Writes the vectors of the kernel's measurement list, the same bytes every time.

Run as `python tests/make_ima_vectors.py`.
A vector is data: the list as the box sent it (a file, or none), the quoted PCRs, the digests of the
set's modules, and `expect`, the reason to be found, empty for a list that is accepted. `lines` are
those of the attestation checklist it stands for. `tests/test_ima.py` reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import ima_forge as forge  # noqa: E402

from attest import ima  # noqa: E402
from attest.imalog import ImaEntry, ImaForm, ImaLog  # noqa: E402

VECTORS = HERE / "vectors" / "ima"
PCRS = forge.boot_pcrs(("sha256", "sha384"))
FIRST = forge.aggregate(PCRS)
GOOD = [FIRST, *forge.modules()]
Pcrs = dict[str, dict[int, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """One vector; `sent` None for a box that sent no list."""

    name: str
    expect: str
    says: str = ""
    lines: tuple[int, ...] = ()
    sent: bytes | None
    pcrs: Pcrs
    secure_boot: bool = True
    listed: bool = True
    workarounds: tuple[str, ...] = ()
    proved: int = 0

    def toml(self) -> str:
        """Write the vector's text."""
        listed = forge.MODULES if self.listed else {}
        modules = [
            "{ "
            + ", ".join(f'{bank} = "{digest.hex()}"' for bank, digest in sorted(found.items()))
            + " }"
            for found in (forge.digests(data) for data in listed.values())
        ]
        text = [
            f'expect = "{self.expect}"',
            f'says = "{self.says}"',
            f"lines = {list(self.lines)}",
            f'list = "{self.name}.bin"' if self.sent is not None else 'list = ""',
            f"secure_boot = {str(self.secure_boot).lower()}",
            f"proved = {self.proved}",
            "workarounds = [" + ", ".join(f'"{each}"' for each in self.workarounds) + "]",
            "modules = [" + "".join(f"\n  {each}," for each in modules) + "\n]",
        ]
        for bank, held in self.pcrs.items():
            text += ["", f"[pcrs.{bank}]"]
            text += [f'{index} = "{value.hex()}"' for index, value in sorted(held.items())]
        return "\n".join(text) + "\n"


def of(
    name: str,
    entries: Sequence[ImaEntry],
    expect: str = "",
    *,
    base: Pcrs | None = None,
    bank: str = "sha1",
    form: ImaForm = ImaForm.BINARY,
    padded: Sequence[str] = (),
    measured: Iterable[ImaEntry] | None = None,
    **more: object,
) -> Vector:
    """Make the vector of a list; `measured` are the entries that really were, if others."""
    really = list(entries if measured is None else measured)
    pcrs = forge.extended(PCRS if base is None else base, really, padded)
    sent = forge.encode(ImaLog(form=form, bank=bank, entries=tuple(entries)))
    if not expect:
        more.setdefault("proved", len(really))
    return Vector(name=name, expect=expect, sent=sent, pcrs=pcrs, **more)


def accepted() -> Iterator[Vector]:
    """Give what honest kernels send."""
    yield of("accepted", GOOD)
    yield of("accepted-other-order", [FIRST, *reversed(GOOD[1:])])
    yield of("accepted-not-all-modules", GOOD[:2])
    yield of("accepted-longer-than-quoted", GOOD, measured=GOOD[:3], lines=(47,))
    strange = [forge.make_entry(bytes(32), "/tmp/x.ko")]
    yield of("accepted-unknown-after-quote", GOOD + strange, measured=GOOD, lines=(47,))
    good = of("accepted-one-bank-of-two", GOOD)
    yield replace(good, pcrs={**good.pcrs, "sha384": PCRS["sha384"]})
    yield of("accepted-list-of-sha256", GOOD, bank="sha256")
    yield of("accepted-list-of-sha384", GOOD, bank="sha384")
    for template in ("ima-ng", "ima-ngv2", "ima-sigv2", "ima-modsig"):
        entries = [forge.aggregate(PCRS, template), *forge.modules(template=template)]
        yield of(f"accepted-{template}", entries)
    signed = replace_rest(GOOD[1], [b"\x03\x02\x04signature"])
    yield of("accepted-signed-file", [FIRST, signed])
    yield of("accepted-files-sha512", [FIRST, *forge.modules(algorithm="sha512")])
    aggregate = forge.aggregate(PCRS, bank="sha384")
    yield of("accepted-aggregate-sha384", [aggregate, *GOOD[1:]])
    yield of("accepted-secure-boot-off", [FIRST], secure_boot=False)
    zero = {bank: {**held, 10: bytes(len(held[0]))} for bank, held in PCRS.items()}
    yield Vector(name="nothing-measured", expect="", sent=None, pcrs=zero, listed=False)
    yield Vector(name="nothing-quoted", expect="", sent=None, pcrs=PCRS)
    off = {"secure_boot": False}
    yield Vector(name="nothing-measured-secure-boot-off", expect="", sent=None, pcrs=zero, **off)


def replace_rest(entry: ImaEntry, rest: list[bytes]) -> ImaEntry:
    assert entry.file is not None
    return forge.make_entry(entry.file.digest, entry.file.name, entry.template, rest=rest)


def worked_around() -> Iterator[Vector]:
    """Give what is accepted by name only."""
    one = (f"{ima.SHA1_PADDED} sha384",)
    yield of("sha1-padded-sha384", GOOD, padded=("sha384",), workarounds=one)
    both = (f"{ima.SHA1_PADDED} sha256", f"{ima.SHA1_PADDED} sha384")
    yield of("sha1-padded", GOOD, padded=("sha256", "sha384"), workarounds=both, lines=(48,))
    older = forge.aggregate(PCRS, count=8)
    yield of("aggregate-0-7", [older, *GOOD[1:]], workarounds=(ima.AGGREGATE_0_7,), lines=(48,))
    two = forge.boot_pcrs(("sha1", "sha256"))
    sha1 = forge.aggregate(two, bank="sha1")
    yield of("aggregate-sha1", [sha1, *GOOD[1:]], base=two, workarounds=(ima.AGGREGATE_SHA1,))
    old = [
        forge.aggregate(two, "ima", bank="sha1"),
        *forge.modules(template="ima", algorithm="sha1"),
    ]
    named = (ima.AGGREGATE_SHA1, ima.FILES_SHA1)
    yield of("template-ima", old, base=two, workarounds=named)
    alone = forge.boot_pcrs(("sha1",))
    text = [forge.aggregate(alone, bank="sha1"), *GOOD[1:]]
    named = (ima.AGGREGATE_SHA1,)
    yield of("text-list-of-sha1-bank", text, base=alone, form=ImaForm.TEXT, workarounds=named)


def not_replaying() -> Iterator[Vector]:
    """Give lists that do not lead to PCR 10."""
    yield of("shorter-than-quoted", GOOD[:3], "IMA-REPLAY", measured=GOOD, lines=(47,))
    yield of("entry-left-out", [*GOOD[:2], *GOOD[3:]], "IMA-REPLAY", measured=GOOD, lines=(47,))
    swapped = [FIRST, GOOD[2], GOOD[1], GOOD[3]]
    yield of("entries-swapped", swapped, "IMA-REPLAY", measured=GOOD)
    yield of("list-empty", [], "IMA-MISSING", measured=GOOD)
    good = of("one-bank-differs", GOOD, "IMA-REPLAY", says="sha384 is not reached")
    other = {**good.pcrs["sha384"], 10: b"\x5a" * 48}
    yield replace(good, pcrs={**good.pcrs, "sha384": other})
    behind = of("x", GOOD[:3]).pcrs["sha384"]
    yield replace(
        good,
        name="one-bank-behind",
        says="sha256 is reached by 4, sha384 is reached by 3",
        lines=(47,),
        pcrs={**good.pcrs, "sha384": behind},
    )
    empty = {**good.pcrs["sha384"], 10: bytes(48)}
    yield replace(
        good,
        name="one-bank-empty",
        says="sha384 is reached by 0",
        pcrs={**good.pcrs, "sha384": empty},
    )
    says = "the text form"
    text = of("text-list-of-sha256-bank", GOOD, "IMA-REPLAY", form=ImaForm.TEXT, says=says)
    yield replace(text, lines=(48,))
    both = forge.boot_pcrs(("sha1", "sha256"))
    text = of("text-list-of-two-banks", GOOD, "IMA-REPLAY", form=ImaForm.TEXT, says=says, base=both)
    yield replace(text, lines=(48,))
    lie = [*GOOD[:3], replace(GOOD[3], violation=True)]
    yield of("violation-that-was-none", lie, "IMA-REPLAY", measured=GOOD, lines=(48,))


def aggregates() -> Iterator[Vector]:
    """Give first entries that do not stand for this boot."""
    says = "boot_aggregate is over PCRs of 'sha1'"
    both = forge.boot_pcrs(("sha1", "sha256"))
    sha1 = [forge.aggregate(both, bank="sha1"), *GOOD[1:]]
    yield of("aggregate-bank-not-quoted", sha1, "IMA-REPLAY", lines=(48,), says=says)
    wrong = [forge.aggregate(both, bank="sha1", label="sha256", count=10), *GOOD[1:]]
    says = "boot_aggregate is not over the quoted PCR 0 to 9"
    yield of("aggregate-of-wrong-bank", wrong, "IMA-REPLAY", base=both, lines=(48,), says=says)
    few = {"sha256": {n: value for n, value in PCRS["sha256"].items() if n != 9}}
    says = "boot_aggregate is over PCRs of 'sha256'"
    yield of("aggregate-of-pcrs-not-quoted", GOOD, "IMA-REPLAY", base=few, says=says)
    says = "boot_aggregate is not over the quoted PCR 0 to 9"
    later = {bank: {**held, 9: held[8]} for bank, held in PCRS.items()}
    yield of("aggregate-of-earlier-boot", GOOD, "IMA-REPLAY", base=later, says=says)
    says = "boot_aggregate is not over the quoted PCR 0 to 7"
    ten = [forge.aggregate(both, bank="sha1", count=10), *GOOD[1:]]
    yield of("aggregate-sha1-over-ten", ten, "IMA-REPLAY", base=both, lines=(48,), says=says)
    says = "the list does not begin with boot_aggregate"
    yield of("aggregate-missing", GOOD[1:], "IMA-REPLAY", says=says)
    assert FIRST.file is not None
    renamed = forge.make_entry(FIRST.file.digest, "/boot_aggregate")
    yield of("aggregate-renamed", [renamed, *GOOD[1:]], "IMA-REPLAY", says=says)
    unknown = forge.unknown_entry("site-own", b"whatever")
    yield of("aggregate-of-unknown-template", [unknown], "IMA-REPLAY", says=says)
    yield of("aggregate-again", [*GOOD, renamed], "MODULE-UNKNOWN", says="'/boot_aggregate'")


def strange_entries() -> Iterator[Vector]:
    """Give lists that are true and show what must not be."""
    changed = [*GOOD[:3], replace(GOOD[3], violation=True)]
    says = "'/doorstep/virtio_net.ko'"
    yield of("violation", changed, "IMA-VIOLATION", lines=(48,), says=says)
    first = [replace(FIRST, violation=True), *GOOD[1:]]
    yield of("violation-first", first, "IMA-VIOLATION", lines=(48,), says="'boot_aggregate'")
    rootkit = forge.make_entry(forge.digests(b"rootkit")["sha256"], "/doorstep/virtio_net.ko")
    yield of("module-unknown", [*GOOD, rootkit], "MODULE-UNKNOWN", says="189ca7f3ff53")
    again = forge.make_entry(forge.digests(forge.MODULES["failover"])["sha256"], "/tmp/again.ko")
    yield of("module-twice", [*GOOD, again], "MODULE-UNKNOWN", says="'/tmp/again.ko'")
    renamed = forge.make_entry(again.file.digest, "/tmp/other name.ko") if again.file else again
    yield of("module-by-another-name", [FIRST, renamed], "")
    says = "'/doorstep/failover.ko'"
    yield of("set-without-module-list", GOOD[:2], "MODULE-UNKNOWN", listed=False, says=says)
    verity = forge.modules("failover", template="ima-sigv2", kind="verity")
    yield of("module-by-verity-digest", [FIRST, *verity], "MODULE-UNKNOWN", says=says)
    label = forge.modules("failover", algorithm="sha256")[0]
    assert label.file is not None
    other = forge.make_entry(label.file.digest, "/x.ko", algorithm="sm3-256")
    yield of("module-by-another-hash", [FIRST, other], "MODULE-UNKNOWN", says="sm3-256")
    unknown = forge.unknown_entry("site-own", b"whatever")
    says = "unknown template 'site-own'"
    yield of("template-unknown", [*GOOD, unknown], "MODULE-UNKNOWN", says=says)
    buffer = forge.make_entry(label.file.digest, ".ima", "ima-buf", rest=[b"key"])
    yield of("buffer", [FIRST, buffer], "MODULE-UNKNOWN", says="'.ima'")
    command = forge.make_entry(label.file.digest, "kexec-cmdline", "ima-buf", rest=[b"quiet"])
    yield of("kexec-command-line", [FIRST, command], "MODULE-UNKNOWN", says="'kexec-cmdline'")
    image = forge.make_entry(label.file.digest, "kexec-image")
    yield of("kexec-image", [FIRST, image], "MODULE-UNKNOWN", says="'kexec-image'")
    kernel = forge.make_entry(forge.digests(b"kernel")["sha256"], "/boot/vmlinuz")
    yield of("kexec-kernel", [*GOOD, kernel], "MODULE-UNKNOWN", says="'/boot/vmlinuz'")


def missing_or_malformed() -> Iterator[Vector]:
    """Give boxes that sent no list, or none that can be read."""
    good = of("x", GOOD)
    yield replace(good, name="list-missing", expect="IMA-MISSING", sent=None, proved=0)
    zero = {bank: {**held, 10: bytes(len(held[0]))} for bank, held in PCRS.items()}
    nothing = replace(good, expect="IMA-MISSING", pcrs=zero, proved=0)
    yield replace(nothing, name="list-missing-under-secure-boot", sent=None)
    yield replace(nothing, name="measured-nothing-under-secure-boot")
    data = forge.encode(forge.make_list(GOOD))
    broken = {
        "cut-off": (data[:-1], "cut off"),
        "padded-with-zeros": (data + bytes(64), "no template name"),
        "padded-with-ones": (data + b"\xff" * 64, "no template name"),
        "digest-differs": (data[:4] + b"\x5a" + data[5:], "digest of IMA entry 0"),
        "other-pcr": (b"\x0b" + data[1:], "PCR 11"),
        "big-endian": (b"\0\0\0\x0a" + data[4:], "PCR 167772160"),
        "no-list": (b"\0\0\0\0 nothing of the kind", "does not begin with an entry"),
    }
    for name, (sent, says) in broken.items():
        found = replace(good, name=f"malformed-{name}", expect="IMA-MALFORMED", says=says, proved=0)
        yield replace(found, sent=sent)


def vectors() -> list[Vector]:
    """Give all of them."""
    makers = (
        accepted,
        worked_around,
        not_replaying,
        aggregates,
        strange_entries,
        missing_or_malformed,
    )
    return [vector for make in makers for vector in make()]


def files() -> dict[str, bytes]:
    """Give every file by name."""
    found: dict[str, bytes] = {}
    for vector in vectors():
        assert f"{vector.name}.toml" not in found, vector.name
        found[f"{vector.name}.toml"] = vector.toml().encode()
        if vector.sent is not None:
            found[f"{vector.name}.bin"] = vector.sent
    return found


def main() -> None:
    """Write them all, and remove what is no longer one."""
    VECTORS.mkdir(exist_ok=True)
    made = files()
    for path in VECTORS.iterdir():
        if path.name not in made:
            path.unlink()
    for name, data in made.items():
        (VECTORS / name).write_bytes(data)


if __name__ == "__main__":
    main()
