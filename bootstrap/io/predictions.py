"""What a boot set must measure, for each way of starting it, without any box.

PCR 7 follows from the Secure Boot keys of the box: it is predicted for a firmware variable store,
when one is given, and left out otherwise. Nothing here decides about a box.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attest.bootfacts import Facts, IpxeFacts
from attest.bootmatch import switched_off, unknown_variables
from attest.predict import PREDICTED_PCRS, Transport, predict
from attest.variables import SecureBootVariables
from bootstrap.io.references import (
    boot_addresses,
    ipxe_facts,
    iso_facts,
    network_facts,
    server_with_port,
)
from bootstrap.planning import HTTPS_PORT
from bootstrap.site import Site
from netboot.bootset import Role
from netboot.io.bootsets import BootSetStore

BANKS = ("sha256", "sha384")
_KEYS_PCR = 7


def predictions(
    store: BootSetStore, site: Site, digest: bytes, variables: SecureBootVariables | None = None
) -> list[dict[str, Any]]:
    """List transport, server, bank and the PCRs in hex, for every network that boots from here.

    `variables` are the Secure Boot variables of the boxes; AttestSiteError when a set cannot start
    with them. Boots by iPXE are there only where Secure Boot may be off.
    """
    manifest = store.manifest(digest)
    found: list[dict[str, Any]] = []
    for address in boot_addresses(site):
        facts = network_facts(store, manifest, address)
        for transport in (Transport.TFTP, Transport.HTTP):
            found += _values(facts, transport, str(address), variables)
        if site.boot.https:
            server = server_with_port(address, HTTPS_PORT)
            found += _values(facts, Transport.HTTPS, server, variables)
    if Role.CDGRUB in manifest.roles:
        found += _values(iso_facts(store, manifest), Transport.ISO, "", variables)
    if Role.IPXE in manifest.roles and not (variables and variables.secure_boot):
        found += _values(ipxe_facts(store, manifest), Transport.IPXE, "", variables)
    return found


def _values(
    facts: Facts,
    transport: Transport,
    server: str,
    variables: SecureBootVariables | None,
) -> Iterator[dict[str, Any]]:
    unknown = switched_off if isinstance(facts, IpxeFacts) else unknown_variables
    known = variables or unknown(facts)
    predicted = predict(facts, transport=transport, server=server, variables=known)
    shown = [index for index in PREDICTED_PCRS if variables is not None or index != _KEYS_PCR]
    for bank in BANKS:
        pcrs = {str(index): predicted.pcr(bank, index).hex() for index in shown}
        yield {"transport": transport.value, "server": server, "bank": bank, "pcrs": pcrs}
