"""What this site knows of a box beside its evidence: the note's word, its role's demands, its past.

Pure. Facts are compared here and nowhere else; they count only because the quote bound them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attest.expectation import BoxRecord
from bootstrap.enrolment import GONE
from bootstrap.rows import BoxRow
from bootstrap.settings import Settings
from keys.note import Entry


def box_record(
    settings: Settings, box: BoxRow, entry: Entry | None, others: Iterable[BoxRow] = ()
) -> BoxRecord:
    """Make the record of a box for appraisal; `entry` is its line on the signed note."""
    holder = place_holder(others, box, entry)
    return BoxRecord(
        listed=entry is not None,
        note_names_ek=entry is not None,
        differences=tuple(_differences(settings, box, entry)),
        reset_count=box.reset_count,
        restart_count=box.restart_count,
        clock=box.clock,
        replaces="" if holder is None else holder.hostname or holder.box,
        tpm_firmware=box.tpm_firmware,
        firmware=box.firmware or b"",
        role=_role(settings, entry),
    )


def _role(settings: Settings, entry: Entry | None) -> str:
    """Name the role by the signed note alone: what a person chose later makes no exception."""
    role = settings.site.role(entry.role) if entry is not None else None
    return "" if role is None else role.name


def place_holder(others: Iterable[BoxRow], box: BoxRow, entry: Entry | None) -> BoxRow | None:
    """Find the box with another EK that was accepted under the place this one claims.

    A place is a serial of the signed note: by the entry of this EK or, for one that is not listed,
    by what the box says. An entry that names a hostname claims the place of who has it.
    """
    serial = entry.serial if entry else str(_smbios(box).get("product_serial") or "")
    for other in others:
        if other.box == box.replaces:
            return other  # given by a person, and cut off before the hand-over
        if other.ek_name == box.ek_name or other.stage in GONE:
            continue
        if serial and other.place == serial:
            return other
        if entry and entry.name and other.hostname == entry.name:
            return other
    return None


def _smbios(box: BoxRow) -> Mapping[str, Any]:
    smbios = box.facts.get("smbios")
    return smbios if isinstance(smbios, dict) else {}


def _differences(settings: Settings, box: BoxRow, entry: Entry | None) -> Iterator[str]:
    smbios = _smbios(box)
    wishes = (("serial", "product_serial"), ("model", "product_name"))
    for name, fact in wishes:
        wanted, told = getattr(entry, name, None), str(smbios.get(fact) or "nothing")
        if wanted and wanted != told:
            yield f"the delivery note says {name} {wanted}, the box says {told[:60]}"
    role = settings.site.role(entry.role if entry else None)
    needed = role.require.memory_mib_min if role else None
    memory = box.facts.get("memory_mib")
    if needed is not None and not (isinstance(memory, int) and memory >= needed):
        yield f"its role needs {needed} MiB of memory, the box says {memory or 'nothing'}"
