"""What this site knows of a box beside its evidence: the note's word, its role's demands, its past.

Pure. Facts are compared here and nowhere else; they count only because the quote bound them.
"""

from __future__ import annotations

from collections.abc import Iterator

from attest.expectation import BoxRecord
from bootstrap.rows import BoxRow
from bootstrap.settings import Settings
from keys.note import Entry


def box_record(settings: Settings, box: BoxRow, entry: Entry | None) -> BoxRecord:
    """Make the record of a box for appraisal; `entry` is its line on the signed note."""
    return BoxRecord(
        listed=entry is not None,
        note_names_ek=entry is not None,
        differences=tuple(_differences(settings, box, entry)),
        reset_count=box.reset_count,
        restart_count=box.restart_count,
        clock=box.clock,
    )


def _differences(settings: Settings, box: BoxRow, entry: Entry | None) -> Iterator[str]:
    smbios = box.facts.get("smbios") or {}
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
