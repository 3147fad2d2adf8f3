"""What a box would measure that boots a published set: a captured log with that set's events in it.

The firmware's events (PCR 0 to 3, 6, 7) are those of a real boot in tests/vectors; the others are
what `attest.predict` says of the set's own files.
"""

import hashlib
import time
from collections import defaultdict
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from eventlog_forge import encode, with_events

from attest import eventlog
from attest.eventlog import Event, EventType
from attest.predict import PredictedEvent, Transport, predict, variables_from_log
from attest.replay import replay
from bootstrap.build.apt import LockStaleError, fetch, find_mirrors
from bootstrap.build.lock import Lock
from bootstrap.build.parts import committed_lock, default_cache, resolve
from bootstrap.io import site_dir
from bootstrap.io.publishing import BANK, Shelf
from bootstrap.io.references import network_facts
from bootstrap.rehearsal.record import CONTEXT, RehearsalRecord, core_digest
from netboot.io.bootsets import REHEARSAL, REHEARSAL_SIGNATURE

CAPTURED = Path(__file__).parent / "vectors/eventlog/debian13-tftp.bin"
REPLACED = (4, 5, 8, 9, 14)
SEPARATOR = hashlib.sha256(bytes(4)).digest()


def fetched_lock() -> Lock:
    """Give a lock all of whose packages lie in the cache, where a container can see them."""
    try:
        lock = committed_lock()
        fetch(lock, [one.name for one in lock.packages], default_cache(), find_mirrors())
    except LockStaleError:
        lock = resolve()
        fetch(lock, [one.name for one in lock.packages], default_cache(), find_mirrors())
    return lock


def measured_log(shelf: Shelf, digest: bytes, server: IPv4Address) -> bytes:
    """Give the boot log of a box that booted this set from `server`."""
    captured = eventlog.decode(CAPTURED.read_bytes())
    prediction = predict(
        network_facts(shelf.store, shelf.store.manifest(digest), server),
        transport=Transport.TFTP,
        server=str(server),
        variables=variables_from_log(captured, BANK),
    )
    predicted = defaultdict(list)
    for event in prediction.events(BANK):
        predicted[event.pcr].append(_event(event))
    kept = [event for event in captured.events[1:] if event.pcr not in REPLACED]
    log = with_events(captured, [*kept, *(one for pcr in REPLACED for one in predicted[pcr])])
    return encode(log)


def _event(predicted: PredictedEvent) -> Event:
    kind, data = EventType.IPL, (predicted.text or predicted.label).encode()
    if predicted.digest == SEPARATOR:
        kind, data = EventType.SEPARATOR, bytes(4)
    elif predicted.pcr == 4:
        kind = EventType.EFI_BOOT_SERVICES_APPLICATION
    return Event(pcr=predicted.pcr, type=kind, digests={BANK: predicted.digest}, data=data)


def sign_record(shelf: Shelf, digest: bytes, log: bytes) -> None:
    """Sign that the set was rehearsed; `doorstep bootset rehearse` does it after a virtual boot."""
    manifest = shelf.store.verified_manifest(
        digest, (shelf.directory / site_dir.ROOT_PUB).read_bytes()
    )
    values = replay(eventlog.decode(log), BANK)
    record = RehearsalRecord(
        core=core_digest(manifest), at=int(time.time()), bank=BANK, pcrs={"tftp": values}
    )
    comment = f"boot set {manifest.name} version {manifest.version}"
    signed = site_dir.sign_document(shelf.directory, record.encode(), comment, CONTEXT)
    shelf.store.put(digest, REHEARSAL, record.encode())
    shelf.store.put(digest, REHEARSAL_SIGNATURE, signed)


def with_another_initrd(log: bytes) -> bytes:
    """Give the log of a boot whose generic initrd was another file."""
    decoded = eventlog.decode(log)
    other = hashlib.sha256(b"another initrd").digest()
    events = list(decoded.events[1:])
    place = next(n for n, one in enumerate(events) if one.pcr == 9 and b"file initrd" in one.data)
    events[place] = replace(events[place], digests={BANK: other})
    return encode(with_events(decoded, events))
