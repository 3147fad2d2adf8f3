"""Writes the vectors of boots by iPXE, the same bytes every time.

Run as `python tests/make_ipxe_vectors.py`. Each says what a box sent and which reason must come
first; `released` are those that its policy released. `tests/test_ipxe_appraise.py` reads them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import forge  # noqa: E402
from eventlog_forge import SHA256, encode, header  # noqa: E402
from make_vectors import (  # noqa: E402
    WAIVED,
    changed_log,
    sha256,
    toml,
    vector,
    with_text,
)

from attest import eventlog  # noqa: E402
from attest.eventlog import Event, EventLog, EventType  # noqa: E402
from attest.ipxefacts import IpxeFacts  # noqa: E402
from attest.policy import Policy  # noqa: E402
from attest.uefi import (  # noqa: E402
    CERT_SHA256,
    EFI_GLOBAL,
    IMAGE_SECURITY,
    SHIM_LOCK,
    Signature,
    Variable,
)

VECTORS = HERE / "vectors"
LOGS = VECTORS / "eventlog"
IPXE, GRUB = "debian13-ipxe", "debian13-tftp-off"
ROLE = "pos"
NAMED = Policy(without_secure_boot=frozenset({ROLE}), waived=WAIVED)
UNNAMED = Policy(waived=WAIVED)


def base_log() -> bytes:
    """Give the captured log in its SHA-256 bank alone."""
    decoded = eventlog.decode((LOGS / f"{IPXE}.bin").read_bytes())
    first = eventlog.decode(header([(SHA256.algorithm, SHA256.size)])).events[0]
    events = (replace(e, digests={"sha256": e.digests["sha256"]}) for e in decoded.events[1:])
    return encode(
        EventLog(
            format=decoded.format,
            banks=(SHA256,),
            events=(first, *events),
            startup_locality=decoded.startup_locality,
        )
    )


BASE = base_log()


def changed(pcr: int, place: int, log: bytes = BASE, **how: object) -> bytes:
    """Change an event; without more, its digest."""
    return changed_log(pcr, place, log=log, **(how or {"digest": sha256(b"another")}))


def with_parameters() -> bytes:
    """Give the log with something measured into PCR 12."""
    decoded = eventlog.decode(BASE)
    data = b"an extra parameter"
    extra = Event(pcr=12, type=EventType.IPL, digests={"sha256": sha256(data)}, data=data)
    return encode(replace(decoded, events=(*decoded.events, extra)))


def logs() -> dict[str, tuple[bytes, str]]:
    """Give boots whose box may be without Secure Boot, each with the reason that comes first."""
    on = Variable(guid=EFI_GLOBAL, name="SecureBoot", data=b"\1").encode()
    returning = b"Returning from EFI Application from Boot Option"
    calling = b"Calling EFI Application from Boot Option"
    earlier = with_text(4, EventType.EFI_ACTION, (returning, calling), 2, BASE)
    return {
        "role-named": (BASE, ""),
        "earlier-boot-option": (earlier, ""),
        "initrd-changed": (changed(9, 1), "INITRD-UNKNOWN"),
        "initrd-not-measured": (changed(9, 1, remove=True), "INITRD-UNKNOWN"),
        "initrd-by-name": ((LOGS / "debian12-ipxe.bin").read_bytes(), "INITRD-UNKNOWN"),
        "command-line-changed": (changed(9, 0), "COMMAND-LINE-UNKNOWN"),
        "command-line-not-measured": (changed(9, 0, remove=True), "COMMAND-LINE-UNKNOWN"),
        "kernel-changed": (changed(4, 4, changed(4, 3)), "KERNEL-UNKNOWN"),
        "kernel-measured-once": (changed(4, 4, remove=True), "KERNEL-UNKNOWN"),
        "loader-changed": (changed(4, 2), "LOADER-UNKNOWN"),
        "other-program-before": (changed(4, 2, insert=sha256(b"another")), "OTHER-PROGRAM"),
        "other-program-between": (changed(4, 3, insert=sha256(b"another")), "OTHER-PROGRAM"),
        "extra-parameters": (with_parameters(), "EXTRA-PARAMETERS"),
        "secure-boot-on": (changed(7, 0, content=on), "SECURE-BOOT-KEYS"),
        "by-grub": ((LOGS / f"{GRUB}.bin").read_bytes(), "INITRD-UNKNOWN"),
    }


def files() -> dict[str, bytes]:
    """Give every file of the directory."""
    found: dict[str, bytes] = {}

    def add(name: str, log: bytes, expect: str, **extra: object) -> None:
        given = {"policy": NAMED, "record": {"role": ROLE}, "sets": [IPXE], **extra}
        released = given.pop("released", ["SECURE-BOOT-OFF"])
        verdict = given.pop("verdict", "refused" if expect else "accepted")
        found[f"{name}.bin"] = log
        made = vector(forge.evidence(log), expect, log=f"ipxe/{name}.bin", verdict=verdict, **given)
        found[f"{name}.toml"] = toml({"released": released, **made}).encode()

    for name, (log, expect) in logs().items():
        released = [] if name == "secure-boot-on" else ["SECURE-BOOT-OFF"]
        add(name, log, expect, released=[*released, "FIRMWARE-UNKNOWN"])
    both = ["SECURE-BOOT-OFF", "FIRMWARE-UNKNOWN"]
    rest = ["FIRMWARE-UNKNOWN"]
    off = "SECURE-BOOT-OFF"
    lenient = replace(UNNAMED, secure_boot_required=False)
    other = replace(NAMED, without_secure_boot=frozenset({"kiosk"}))
    add("beside-a-grub-set", BASE, "", sets=[GRUB, IPXE], released=both)
    add("set-withdrawn", BASE, "BOOT-SET-WITHDRAWN", state="withdrawn", released=both)
    add("role-not-named", BASE, off, policy=UNNAMED, released=rest)
    add("another-role-named", BASE, off, policy=other, released=rest)
    add("role-not-of-the-note", BASE, off, record={}, released=rest)
    add("not-required-anywhere", BASE, "", policy=lenient, record={}, released=rest)
    facts = IpxeFacts.from_json((LOGS / f"facts-{IPXE}.json").read_text())
    image = Signature(type=CERT_SHA256, owner=SHIM_LOCK, data=facts.ipxe.image["sha256"])
    dbx = Variable(guid=IMAGE_SECURITY, name="dbx", data=image.encode_list()).encode()
    add("dbx-forbids-it", changed(7, 4, content=dbx), "SECURE-BOOT-KEYS", released=both)
    bios = (LOGS / "bios-pxelinux.bin").read_bytes()
    add("by-bios", bios, "SECURE-BOOT-UNPROVED", released=rest)
    add("by-bios-not-required", bios, "SECURE-BOOT-UNPROVED", policy=lenient, released=rest)
    held = {"policy": replace(NAMED, waived=frozenset()), "verdict": "held"}
    add("firmware-unknown", BASE, "FIRMWARE-UNKNOWN", released=both[:1], **held)
    return found


def main() -> None:
    """Write them all."""
    target = VECTORS / "ipxe"
    target.mkdir(exist_ok=True)
    for name, content in files().items():
        (target / name).write_bytes(content)


if __name__ == "__main__":
    main()
