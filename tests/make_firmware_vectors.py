"""Writes the vectors of the firmware baseline, the same bytes every time.

Run as `python tests/make_firmware_vectors.py`.
A vector is data: the box's facts, quoted values, its log (hexadecimal, empty for none), its key
certificates, what was released for it, the baseline as its file, and `expect`, the reason to be
found, empty where the firmware may pass. `says` is a part of the detail, `told` the sentence,
`lines` are those of tests/vectors/lines.toml that it stands for.
`tests/test_firmware.py` reads them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import new, sha256
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import eventlog_forge as forge  # noqa: E402

from attest import eventlog  # noqa: E402
from attest.baseline import Baseline, FirmwareEntry, Machine, firmware_digest  # noqa: E402
from attest.eventlog import EventType  # noqa: E402
from attest.firmwarefile import encode_baseline  # noqa: E402
from attest.replay import replay  # noqa: E402

VECTORS = HERE / "vectors" / "firmware"
NUMBERS = {"sha1": (0x4, 20), "sha256": (0xB, 32)}
INDICES = (0, 2, 3, 6)
MACHINE = Machine(vendor="Dell Inc.", model="PowerEdge R250", version="1.3.0")
FACTS = {"sys_vendor": "Dell Inc.", "product_name": "PowerEdge R250", "bios_version": "1.3.0"}
ZEROS, ONES = b"\0\0\0\0", b"\xff\xff\xff\xff"
PATH = bytes.fromhex("02010c00d041030a0000000001010600000d7fff0400")
NIC = bytes(24) + len(PATH).to_bytes(8, "little") + PATH
KEYS = frozenset(sha256(name).digest() for name in (b"PK", b"KEK", b"db"))
KNOWN, RELEASED, UNKNOWN = (
    "in the firmware baseline",
    "released for this box",
    "not in the firmware baseline",
)

Step = tuple[int, int, bytes]
CRTM: Step = (0, EventType.S_CRTM_VERSION, "R250 1.3".encode("utf-16-le"))
VOLUME: Step = (0, EventType.EFI_PLATFORM_FIRMWARE_BLOB, b"\x01volume")
ROM: Step = (2, EventType.EFI_BOOT_SERVICES_DRIVER, NIC)
ROM_2: Step = (2, EventType.EFI_BOOT_SERVICES_DRIVER, b"no path")
SETUP: Step = (3, EventType.EFI_VARIABLE_DRIVER_CONFIG, b"setup")
ASSET: Step = (6, EventType.COMPACT_HASH, b"Dell Configuration Information 1")
STEPS = (CRTM, VOLUME, ROM, ROM_2, SETUP, ASSET)


def ends(content: bytes = ZEROS, kind: int = EventType.SEPARATOR) -> tuple[Step, ...]:
    """Give the separators of the firmware's PCRs."""
    return tuple((index, kind, content) for index in INDICES)


GOOD = (*STEPS, *ends())


def log_of(steps: Iterable[Step], banks: Sequence[str] = ("sha256",)) -> bytes:
    """Give a crypto-agile log in which each step is measured by its data."""
    made = forge.header(NUMBERS[bank] for bank in banks)
    # An event that is never extended: what it holds is nobody's measurement.
    nothing = [(NUMBERS[bank][0], bytes(NUMBERS[bank][1])) for bank in banks]
    made += forge.agile(0, EventType.NO_ACTION, nothing, b"SP800-155 Event\0")
    for pcr, kind, data in steps:
        digests = [(NUMBERS[bank][0], new(bank, data).digest()) for bank in banks]
        made += forge.agile(pcr, kind, digests, data)
    return made


def values_of(log: bytes, banks: Sequence[str] = ("sha256",)) -> dict[str, dict[int, bytes]]:
    """Give the firmware's PCRs after a log."""
    decoded = eventlog.decode(log)
    return {
        bank: {index: replay(decoded, bank)[index] for index in (*INDICES, 1)} for bank in banks
    }


def events_of(
    steps: Iterable[Step], banks: Sequence[str] = ("sha256",)
) -> dict[str, dict[int, frozenset[bytes]]]:
    """Give the digests of steps by bank and PCR."""
    found: dict[str, dict[int, frozenset[bytes]]] = {bank: {} for bank in banks}
    for bank in banks:
        for pcr, _, data in steps:
            held = found[bank].get(pcr, frozenset())
            found[bank][pcr] = held | {new(bank, data).digest()}
    return found


def entry(steps: Iterable[Step] = GOOD, banks: Sequence[str] = ("sha256",)) -> FirmwareEntry:
    """Give the entry of a firmware whose values are those after `steps`."""
    values = values_of(log_of(steps, banks), banks)
    kept = {bank: {i: v for i, v in held.items() if i != 1} for bank, held in values.items()}
    return FirmwareEntry(machine=MACHINE, values=kept, keys=KEYS, source="headquarters")


def by_events(steps: Iterable[Step] = STEPS) -> FirmwareEntry:
    """Give an entry that knows events alone."""
    return replace(entry(), values={}, events=events_of(steps))


def version(text: str, base: FirmwareEntry | None = None) -> FirmwareEntry:
    """Give the entry of another version, with values of its own unless others are given."""
    other = base or entry((*STEPS, (0, EventType.POST_CODE, text.encode()), *ends()))
    return replace(other, machine=replace(MACHINE, version=text))


def without(source: FirmwareEntry, *indices: int, but: Mapping[int, bytes] = {}) -> FirmwareEntry:  # noqa: B006
    """Give an entry with other values at some PCRs, or none."""
    values = {
        bank: {**{i: v for i, v in held.items() if i not in indices}, **but}
        for bank, held in source.values.items()
    }
    return replace(source, values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """One vector."""

    name: str
    expect: str = ""
    says: str = ""
    told: str = ""
    outcomes: tuple[str, str, str, str] | str = KNOWN
    baseline: tuple[FirmwareEntry, ...]
    steps: tuple[Step, ...] = GOOD
    log: bool = True
    banks: tuple[str, ...] = ("sha256",)
    quoted: tuple[int, ...] = INDICES
    indices: tuple[int, ...] = INDICES
    keys: frozenset[bytes] = KEYS
    facts: Mapping[str, object] | None = None
    released: Callable[[Mapping[str, Mapping[int, bytes]]], bytes] | None = None
    source: str = "headquarters"
    lines: tuple[int | str, ...] = ("boots",)

    def toml(self) -> str:
        """Write the vector's text."""
        log = log_of(self.steps, self.banks or ("sha256",))
        values = {
            bank: {index: held[index] for index in self.quoted}
            for bank, held in values_of(log, self.banks).items()
        }
        outcomes = [self.outcomes] * 4 if isinstance(self.outcomes, str) else self.outcomes
        facts = FACTS if self.facts is None else self.facts
        text = [
            f'expect = "{self.expect}"',
            f"says = {json.dumps(self.says)}",
            f"told = {json.dumps(self.told)}",
            f"lines = {json.dumps(self.lines)}",
            f'source = "{"" if self.expect else self.source}"',
            f"outcomes = {json.dumps(list(outcomes)[: len(self.indices)])}",
            f"indices = {list(self.indices)}",
            f"facts = {json.dumps(json.dumps({'smbios': facts}))}",
            f"keys = {json.dumps(sorted(key.hex() for key in self.keys))}",
            f'released = "{self.released(values).hex() if self.released else ""}"',
            f'log = "{log.hex() if self.log else ""}"',
            f"baseline = '''\n{encode_baseline(Baseline(entries=self.baseline)).decode()}'''",
        ]
        for bank, held in values.items():
            text += ["", f"[values.{bank}]"]
            text += [f'{index} = "{value.hex()}"' for index, value in sorted(held.items())]
        return "\n".join(text) + "\n"


def accepted() -> list[Vector]:
    """What honest boxes measure."""
    both = ("sha1", "sha256")
    again = (CRTM, VOLUME, ROM_2, SETUP, ASSET, ROM, ROM, *ends())
    fewer = (CRTM, VOLUME, ROM, *ends())
    return [
        Vector(name="accepted-values", baseline=(version("1.2.0"), entry())),
        Vector(name="accepted-values-without-log", baseline=(entry(),), log=False),
        Vector(name="accepted-values-of-two-banks", baseline=(entry(banks=both),), banks=both),
        Vector(name="accepted-second-variant", baseline=(entry(GOOD[1:]), entry())),
        Vector(name="accepted-sha1-alone", baseline=(entry(banks=("sha1",)),), banks=("sha1",)),
        Vector(name="accepted-events", baseline=(by_events(),)),
        Vector(
            name="accepted-events-in-other-order",
            baseline=(by_events(),),
            steps=(VOLUME, CRTM, ROM_2, ROM, ASSET, SETUP, *ends()),
        ),
        Vector(name="accepted-fewer-cards", baseline=(by_events(),), steps=fewer),
        Vector(name="accepted-equal-cards", baseline=(by_events(),), steps=again),
        Vector(
            name="accepted-separator-of-ones", baseline=(by_events(),), steps=(*STEPS, *ends(ONES))
        ),
        Vector(
            name="accepted-separator-by-its-digest",
            lines=(36,),
            baseline=(by_events(),),
            steps=(*STEPS, *ends(kind=EventType.ACTION)),
        ),
        Vector(
            name="accepted-values-and-events",
            baseline=(replace(without(entry(), 2), events=events_of((ROM, ROM_2))),),
        ),
        Vector(
            name="accepted-names-in-another-spelling",
            baseline=(entry(),),
            facts={name: f"  {text.replace(' ', '  ')}\n" for name, text in FACTS.items()},
        ),
        Vector(name="accepted-keys-fewer", baseline=(entry(),), keys=frozenset(sorted(KEYS)[:2])),
        Vector(
            name="accepted-entry-without-source",
            baseline=(replace(entry(), source=""),),
            source="the firmware baseline",
        ),
        Vector(name="accepted-nothing-asked", baseline=(), indices=(), source=""),
        Vector(
            name="released-for-this-box",
            baseline=(),
            released=lambda values: firmware_digest(values, INDICES, KEYS),
            outcomes=RELEASED,
            source="released for this box",
        ),
        Vector(
            name="released-though-nearly-known",
            baseline=(version("1.2.0"), entry(GOOD[1:])),
            released=lambda values: firmware_digest(values, INDICES, KEYS),
            outcomes=RELEASED,
            source="released for this box",
        ),
    ]


NOT_SEEN = (
    "The firmware version 1.3.0 of this model (Dell Inc. PowerEdge R250) was not seen before."
)
NO_MODEL = "No firmware of this model (Dell Inc. PowerEdge R250) is known to headquarters yet."
OTHER = (
    "The firmware of this box says that it is version 1.3.0 of this model"
    " (Dell Inc. PowerEdge R250), but is not what headquarters knows by that name."
)
OTHER_KEYS = (
    "The Secure Boot keys of this box are not those that headquarters knows of its model"
    " (Dell Inc. PowerEdge R250)."
)
NO_NAME = "The box does not say which firmware it runs, so nobody can know it."


def held(name: str, says: str, told: str = OTHER, **rest: object) -> Vector:
    """Give a vector of firmware that is not known."""
    rest.setdefault("outcomes", UNKNOWN)
    return Vector(name=name, expect="FIRMWARE-UNKNOWN", says=says, told=told, **rest)  # type: ignore[arg-type]


def unknown() -> list[Vector]:
    """What must hold a box, values first."""
    both = ("sha1", "sha256")
    mixed = values_of(log_of(GOOD, both), both)
    one_bank = replace(entry(), values=entry(banks=both).values | {"sha1": {0: b"\1" * 20}})
    other_sha1 = {**mixed["sha1"], 2: b"\1" * 20}
    del other_sha1[1]
    known_2 = (UNKNOWN, KNOWN, KNOWN, KNOWN)
    last = (KNOWN, KNOWN, KNOWN, UNKNOWN)
    return [
        held(
            "empty-baseline",
            "PCR 0, 2, 3, 6; the box says Dell Inc.",
            NO_MODEL,
            baseline=(),
            lines=(26,),
        ),
        held(
            "version-not-seen",
            "known on this model: 1.1.0, 1.2.0; nearest: version 1.2.0",
            NOT_SEEN,
            baseline=(version("1.1.0", entry((ROM, *ends()))), version("1.2.0")),
        ),
        held(
            "version-with-the-same-values",
            "values known, keys not; the box says Dell Inc. PowerEdge R250 1.3.0",
            NOT_SEEN,
            baseline=(version("1.2.0", entry()),),
        ),
        held(
            "many-versions",
            "known on this model: 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, …; nearest",
            NOT_SEEN,
            baseline=tuple(version(f"1.{minor}") for minor in range(9)),
        ),
        held(
            "another-model",
            "the box says Dell Inc. PowerEdge R250 1.3.0",
            NO_MODEL,
            baseline=(replace(entry(), machine=replace(MACHINE, model="PowerEdge R260")),),
        ),
        held(
            "another-maker",
            "the box says Dell Inc. PowerEdge R250 1.3.0",
            NO_MODEL,
            baseline=(replace(entry(), machine=replace(MACHINE, vendor="Dell")),),
        ),
        held("box-without-a-name", "PCR 0, 2, 3, 6", NO_NAME, baseline=(entry(),), facts={}),
        held(
            "one-value-differs",
            "PCR 6; the box says",
            baseline=(without(entry(), but={6: b"\6" * 32}),),
            outcomes=last,
        ),
        held(
            "nearest-is-of-this-version",
            "PCR 0, 2; the box says Dell Inc. PowerEdge R250 1.3.0; known on this model: 1.2.0,"
            " 1.3.0; nearest: version 1.3.0",
            baseline=(version("1.2.0"), without(entry(), but={0: b"\1" * 32, 2: b"\1" * 32})),
            outcomes=(UNKNOWN, UNKNOWN, KNOWN, KNOWN),
        ),
        held(
            "values-of-two-entries",
            "PCR 0; the box says",
            baseline=(
                without(entry(), but={0: b"\1" * 32}),
                without(entry(), but={2: b"\1" * 32, 3: b"\1" * 32}),
            ),
            outcomes=known_2,
        ),
        held(
            "one-bank-differs",
            "PCR 2; the box says",
            baseline=(replace(one_bank, values={**entry().values, "sha1": other_sha1}),),
            banks=both,
            outcomes=(KNOWN, UNKNOWN, KNOWN, KNOWN),
        ),
        held(
            "entry-lacks-a-bank",
            "PCR 0: the entry has nothing for sha1",
            lines=(26,),
            baseline=(entry(),),
            banks=both,
        ),
        held(
            "entry-of-sha1-alone",
            "PCR 6: the entry has nothing for sha256",
            lines=(26,),
            baseline=(entry(banks=("sha1",)),),
        ),
        held(
            "entry-lacks-a-pcr",
            "PCR 3: the entry has nothing for sha256",
            lines=(26,),
            baseline=(without(entry(), 3),),
            outcomes=(KNOWN, KNOWN, UNKNOWN, KNOWN),
        ),
        held(
            "pcr-not-quoted",
            "PCR 0; the box says",
            baseline=(by_events(),),
            quoted=(2, 3, 6),
            outcomes=known_2,
        ),
        held("nothing-quoted", "PCR 0, 2, 3, 6", baseline=(entry(),), banks=()),
    ]


def events() -> list[Vector]:
    """What the events must be where the values are not known."""
    bad: Step = (2, EventType.EFI_BOOT_SERVICES_DRIVER, NIC + b"!")
    third = (KNOWN, UNKNOWN, KNOWN, KNOWN)
    new_rom = sha256(bad[2]).hexdigest()
    rom = sha256(ROM[2]).hexdigest()
    crtm = sha256(CRTM[2]).hexdigest()
    return [
        held("events-without-log", "PCR 0, 2, 3, 6", baseline=(by_events(),), log=False),
        held(
            "new-event",
            f"new in PCR 2: EV_EFI_BOOT_SERVICES_DRIVER {new_rom}"
            " (calls itself 'Acpi(0xa0341d0,0x0)/Pci(0xd,0x0)')",
            lines=(39,),
            baseline=(by_events(),),
            steps=(*STEPS, bad, *ends()),
            outcomes=third,
        ),
        held(
            "events-of-an-entry-of-values",
            f"measured in PCR 2: EV_EFI_BOOT_SERVICES_DRIVER {rom}"
            " (calls itself 'Acpi(0xa0341d0,0x0)/Pci(0xd,0x0)'), EV_EFI_BOOT_SERVICES_DRIVER",
            baseline=(without(entry(), but={2: b"\2" * 32}),),
            outcomes=third,
        ),
        held(
            "events-of-a-model-never-seen",
            f"measured in PCR 0: EV_S_CRTM_VERSION {crtm} (calls itself 'R250 1.3')",
            NO_MODEL,
            baseline=(),
        ),
        held(
            "many-new-events",
            " and 2 more",
            baseline=(by_events(),),
            steps=(*STEPS, *((6, EventType.POST_CODE, bytes([n])) for n in range(5)), *ends()),
            outcomes=(KNOWN, KNOWN, KNOWN, UNKNOWN),
        ),
        held(
            "event-twice",
            "PCR 3; the box says",
            baseline=(by_events(),),
            steps=(*STEPS, SETUP, *ends()),
            outcomes=(KNOWN, KNOWN, UNKNOWN, KNOWN),
        ),
        held(
            "firmware-volume-left-out",
            "PCR 0; the box says",
            baseline=(by_events(),),
            steps=(CRTM, *STEPS[2:], *ends()),
            outcomes=(UNKNOWN, KNOWN, KNOWN, KNOWN),
        ),
        held(
            "event-after-the-separator",
            "PCR 2 does not end with its separator",
            lines=(40,),
            baseline=(by_events(),),
            steps=(*STEPS[:2], *STEPS[3:], *ends(), ROM),
            outcomes=third,
        ),
        held(
            "separator-twice",
            "PCR 2; the box says",
            lines=(40,),
            baseline=(by_events(),),
            steps=(*STEPS, *ends(), (2, EventType.SEPARATOR, ZEROS)),
            outcomes=third,
        ),
        held(
            "separator-of-an-error",
            "PCR 0 does not end with its separator",
            lines=(40,),
            baseline=(by_events(),),
            steps=(*STEPS, *ends(b"\1\0\0\0")),
        ),
        held(
            "separator-by-label-alone",
            "PCR 0 does not end with its separator",
            lines=(36,),
            baseline=(by_events(),),
            steps=(*STEPS, *ends(b"no separator")),
        ),
        held(
            "nothing-measured",
            "PCR 2 does not end with its separator",
            lines=(40,),
            baseline=(by_events(),),
            steps=tuple(step for step in GOOD if step[0] != 2),
            outcomes=third,
        ),
    ]


def keys() -> list[Vector]:
    """What key certificates must be, where no policy lists them."""
    strange = sha256(b"somebody's db").digest()
    return [
        held(
            "key-not-listed",
            f"values known, keys not; the box says Dell Inc. PowerEdge R250 1.3.0; known on this"
            f" model: 1.3.0; nearest: version 1.3.0; 1 key certificates not in it, {strange.hex()}",
            OTHER_KEYS,
            baseline=(entry(),),
            keys=KEYS | {strange},
        ),
        held(
            "entry-without-keys",
            "3 key certificates not in it",
            OTHER_KEYS,
            lines=(26,),
            baseline=(replace(entry(), keys=frozenset()),),
        ),
        held(
            "keys-of-another-entry",
            "values known, keys not",
            OTHER_KEYS,
            baseline=(
                replace(entry(), keys=frozenset()),
                replace(entry(GOOD[1:]), keys=KEYS | {strange}),
            ),
        ),
        held(
            "nearest-has-the-keys",
            "PCR 0; the box says",
            baseline=(
                replace(without(entry(), but={0: b"\1" * 32}), keys=frozenset()),
                without(entry(), but={0: b"\2" * 32}),
            ),
            outcomes=(UNKNOWN, KNOWN, KNOWN, KNOWN),
        ),
        held(
            "released-with-other-keys",
            "PCR 0, 2, 3, 6",
            NO_MODEL,
            baseline=(),
            keys=KEYS | {strange},
            released=lambda values: firmware_digest(values, INDICES, KEYS),
        ),
        held(
            "released-of-another-firmware",
            "PCR 0, 2, 3, 6",
            NO_MODEL,
            baseline=(),
            released=lambda values: firmware_digest(
                {**values, "sha256": {**values["sha256"], 0: b"\1" * 32}}, INDICES, KEYS
            ),
        ),
        held(
            "released-of-fewer-pcrs",
            "PCR 0, 2, 3, 6",
            NO_MODEL,
            baseline=(),
            released=lambda values: firmware_digest(values, (0, 2, 3), KEYS),
        ),
    ]


def files() -> dict[str, bytes]:
    """Give all files by name."""
    vectors = (*accepted(), *unknown(), *events(), *keys())
    return {f"{vector.name}.toml": vector.toml().encode() for vector in vectors}


def main() -> None:
    """Write the vectors and remove others."""
    VECTORS.mkdir(parents=True, exist_ok=True)
    made = files()
    for path in VECTORS.iterdir():
        if path.name not in made:
            path.unlink()
    for name, content in made.items():
        (VECTORS / name).write_bytes(content)


if __name__ == "__main__":
    main()
