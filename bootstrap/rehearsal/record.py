"""The record that a boot set was rehearsed: what was booted, what was measured, signed by the site.

A record covers everything but the anchor, so the many sites that share one enrolment system share
one measured boot; each site's own prediction follows from its own anchor. Without a record that
verifies nothing is published. It never boots anything itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from attest import eventlog, predict
from attest.bootfacts import Facts
from attest.compare import compare
from attest.errors import AttestError
from bootstrap.errors import PeerError
from netboot.bootset import IPXE_TEMPLATE, BootSetManifest, Role

TYPE = "doorstep/rehearsal/v1"
CONTEXT = "doorstep/v1/rehearsal"
MAX_RECORD = 64 * 1024


class RehearsalError(PeerError):
    """A boot set did not measure what was predicted, or its record does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalRecord:
    """What was measured: PCR values of one bank by transport, at a unix time.

    Transports are `tftp`, `iso` and, where the set carries it, `ipxe`.
    """

    core: bytes
    at: int
    bank: str
    pcrs: Mapping[str, Mapping[int, bytes]]

    def encode(self) -> bytes:
        """Write the record as it is signed: JSON, keys sorted."""
        document = {
            "type": TYPE,
            "core": self.core.hex(),
            "at": self.at,
            "bank": self.bank,
            "pcrs": {
                transport: {str(index): value.hex() for index, value in values.items()}
                for transport, values in self.pcrs.items()
            },
        }
        return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def decode_record(data: bytes) -> RehearsalRecord:
    """Read a record; RehearsalError when it is none."""
    try:
        document = json.loads(data[:MAX_RECORD])
        if document["type"] != TYPE:
            raise ValueError("another type")  # noqa: TRY301 - one way out for all that is wrong
        return RehearsalRecord(
            core=bytes.fromhex(document["core"]),
            at=int(document["at"]),
            bank=str(document["bank"]),
            pcrs={
                transport: {int(index): bytes.fromhex(value) for index, value in values.items()}
                for transport, values in document["pcrs"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RehearsalError("rehearsal.json: is no rehearsal record: rehearse again") from error


def core_digest(manifest: BootSetManifest) -> bytes:
    """Digest of all of a set but its anchor: what one rehearsal stands for."""
    fields = [manifest.grub_cfg.encode(), manifest.command_line.encode()]
    for role, file in sorted(manifest.roles.items()):
        if role is not Role.ANCHOR:
            fields += [role.value.encode(), file.name.encode(), file.sha256]
    if Role.IPXE in manifest.roles:
        fields.append(IPXE_TEMPLATE.encode())
    hasher = hashlib.sha256(b"doorstep/v1/boot-set-core\0")
    for field in fields:
        hasher.update(len(field).to_bytes(4, "big") + field)
    return hasher.digest()


def check_record(record: RehearsalRecord, manifest: BootSetManifest) -> None:
    """Check that a (verified) record stands for this set; RehearsalError otherwise."""
    if record.core != core_digest(manifest):
        raise RehearsalError(
            f"boot set {manifest.name}: its rehearsal was of other files: rehearse this one"
        )


def check_measured(
    log: bytes,
    pcrs: Mapping[str, Mapping[int, bytes]],
    facts: Facts,
    *,
    transport: predict.Transport,
    server: str,
) -> None:
    """Compare a measured boot with its prediction in every bank; RehearsalError names the first."""
    try:
        decoded = eventlog.decode(log)
        for bank, values in pcrs.items():
            variables = predict.variables_from_log(decoded, bank)
            predicted = predict.predict(
                facts, transport=transport, server=server, variables=variables
            )
            wrong = [
                index
                for index in predict.PREDICTED_PCRS
                if predicted.pcr(bank, index) != values.get(index)
            ]
            if wrong:
                found = compare(decoded, predicted, bank).differences
                what = f": {found[0].subject.value} differs" if found else ""
                numbers = ", ".join(map(str, wrong))
                raise RehearsalError(
                    f"measured over {transport.value}, PCR {numbers} ({bank}) is not as "
                    f"predicted{what}: this set cannot be published"
                )
    except AttestError as error:
        raise RehearsalError(f"the boot of the rehearsal cannot be judged: {error}") from error
