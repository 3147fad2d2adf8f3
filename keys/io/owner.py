"""The owner's passwords of a controller's TPM: drawn here, kept at headquarters, known to nobody.

They are in the clear in this process alone, until the TPM has both. design.md, "Secrets".
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from keys.cache import NONCE_SIZE, protect, recover
from keys.cachekey import SHARE_SIZE, escrow
from keys.errors import SiteError
from keys.io.store import Store
from keys.io.tpm import Tpm
from keys.secret import Secret
from keys.tpm_objects import clock_policy

ESCROW_META, DUE_META = "owner-escrow", "owner-due"


def own(
    store: Store,
    tpm: Tpm,
    *,
    device: Secret,
    authority: ec.EllipticCurvePublicKey,
    site_id: str,
) -> None:
    """Give the owner a password that headquarters alone can read, unless it has one.

    A cut may come between its two passwords: what was drawn is kept, closed by the device's key,
    until the TPM has both.
    """
    if not tpm.is_owned():
        stored = store.meta(DUE_META) or _draw(store, device, authority, site_id)
        drawn = recover(stored, device, DUE_META.encode()).reveal()
        tpm.take_ownership(Secret(drawn[:SHARE_SIZE]), Secret(drawn[SHARE_SIZE:]), clock_policy())
    if store.meta(DUE_META):
        with store.transaction():
            store.set_meta(DUE_META, b"")
        store.forget()


def _draw(store: Store, device: Secret, authority: ec.EllipticCurvePublicKey, site: str) -> bytes:
    """Draw both; gives them closed by the device's key, as they are stored."""
    drawn = Secret(os.urandom(2 * SHARE_SIZE))
    due = protect(drawn, device, os.urandom(NONCE_SIZE), DUE_META.encode())
    with store.transaction():
        store.set_meta(ESCROW_META, escrow(drawn, authority, os.urandom(SHARE_SIZE), site=site))
        store.set_meta(DUE_META, due)
    return due


def read_authority(path: Path) -> ec.EllipticCurvePublicKey:
    """Read the lease authority's public key (PEM, P-256); SiteError when it is missing or unfit."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SiteError(
            f"{path}: {error.strerror}: make a lease authority with `doorstep lease init` "
            "and put its public half there"
        ) from error
    except ValueError:
        raise SiteError(f"{path} is no public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SiteError(f"{path} is no P-256 key")
    return key
