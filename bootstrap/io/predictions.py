"""What a boot set must measure whatever the box: PCR 8 and 9, for each way of starting it.

PCR 4, 5 and 7 depend on the firmware's key databases too and are computed for each box.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

from attest.bootfacts import FileFacts
from attest.predict import Transport, predict
from attest.variables import SecureBootVariables
from bootstrap.io.references import iso_facts, network_facts
from bootstrap.site import Site
from netboot.bootset import Role
from netboot.io.bootsets import BootSetStore

PCRS = (8, 9)
BANKS = ("sha256", "sha384")
_NOT_LOOKED_AT = SecureBootVariables(secure_boot=False, pk=b"", kek=b"", db=b"", dbx=b"")
"""Nothing of the key databases reaches PCR 8 and 9."""


def predictions(store: BootSetStore, site: Site, digest: bytes) -> list[dict[str, Any]]:
    """List transport, server, bank and the PCRs in hex, for every network that boots from here."""
    manifest = store.manifest(digest)
    found: list[dict[str, Any]] = []
    for subnet in site.subnets:
        if subnet.boot:
            facts = network_facts(store, manifest, subnet.appliance)
            for transport in (Transport.TFTP, Transport.HTTP):
                found += _values(facts, transport, subnet.appliance)
    if Role.CDGRUB in manifest.roles:
        found += _values(iso_facts(store, manifest), Transport.ISO, None)
    return found


def _values(
    facts: FileFacts, transport: Transport, server: IPv4Address | None
) -> Iterator[dict[str, Any]]:
    text = str(server) if server else ""
    predicted = predict(facts, transport=transport, server=text, variables=_NOT_LOOKED_AT)
    for bank in BANKS:
        pcrs = {str(index): predicted.pcr(bank, index).hex() for index in PCRS}
        yield {"transport": transport.value, "server": text, "bank": bank, "pcrs": pcrs}
