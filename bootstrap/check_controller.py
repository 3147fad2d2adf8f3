"""What of [controller] cannot work or promises less: its TPM, the lease authority, the tiers.

Pure: what lies beside and what the machine has go in. What keys refuses at its start is an error;
what may be so on another machine than the appliance is a note.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from bootstrap.check_network import worth, wrong
from bootstrap.site import Problem, Site
from keys.rootfs import Seen, compared
from keys.rules import Controller, RootFs, Tier

LEASE_PUB = "trust/lease.pub"
_INIT = "make a lease authority off site: `doorstep lease init --site DIR`, and bring that file"
_ROOT = "on the controller itself: say what is so, or install it so (docs/secrets.md, Day 0)"
TURN_ON = 'give this controller a TPM and a protected root, or put tiers = ["site"] in [controller]'


def check_controller(
    site: Site, lease_public: bytes | None, device_fault: str | None, seen: Seen | None = None
) -> Iterator[Problem]:
    """Find everything; `device_fault` says why the TPM's device cannot be used on this machine.

    `seen` is what this machine's kernel says of its root; None where nobody asked.
    """
    rules = controller_of(site)
    if seen is not None:
        rules = compared(rules, seen)
    if rules.tcti is not None:
        yield from _authority(lease_public)
        if device_fault is not None:
            what = f"{device_fault}: keys does not start on this machine"
            yield worth("controller.tpm", what, "see docs/secrets.md, Day 0")
        if rules.tcti.startswith("swtpm:"):
            what = "is a TPM in software: who copies its files has what it keeps"
            yield worth("controller.tpm", what, "name /dev/tpmrm0 at a real site")
        if rules.doubt:
            yield worth("controller.root", rules.doubt, _ROOT)
    elif rules.root is not RootFs.NONE:
        what = "means nothing without a TPM: nothing measures what was started"
        yield worth("controller.root", what, "name the TPM in controller.tpm, or leave it out")
    yield from _tiers(site, rules)


def controller_of(site: Site) -> Controller:
    """Give the table as `keys` sees it."""
    table = site.controller
    device = f"device:{table.tpm}" if table.tpm.startswith("/") else table.tpm
    return Controller(
        tcti=None if table.tpm == "none" else device,
        root=RootFs(table.root),
        tiers=frozenset(map(Tier, table.tiers)),
    )


def _authority(data: bytes | None) -> Iterator[Problem]:
    if data is None:
        yield wrong("", "is missing, and a controller with a TPM needs it", _INIT, file=LEASE_PUB)
        return
    try:
        key = load_pem_public_key(data)
    except ValueError:
        yield wrong("", "is no public key in PEM", _INIT, file=LEASE_PUB)
        return
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        yield wrong("", "is no P-256 key", _INIT, file=LEASE_PUB)


def _tiers(site: Site, rules: Controller) -> Iterator[Problem]:
    kept = [one.name for one in site.secrets if one.tier == Tier.SITE.value]
    if kept and (why := rules.why_off(Tier.SITE)) is not None:
        what = f"{', '.join(kept)} cannot be stored: {why}"
        yield worth("controller.tiers", what, TURN_ON)
    if Tier.SITE in rules.tiers and (lost := rules.not_covered()):
        yield worth("controller.tiers", f"tier site is on by name. {lost}".rstrip("."), TURN_OFF)


TURN_OFF = "leave it out once a TPM and a protected root guard this controller"
