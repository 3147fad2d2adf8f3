"""A key-signing key of netboot's own, where it runs without a key service.

For `doorstep netboot run` only: the key lies in the state directory, readable by its owner. Signs
what `keys` would sign, and refuses no zone. keys.io.zone_signing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from keys.envelope import b64u, unb64u
from keys.errors import SiteError
from keys.zone_keys import KEYS_VALID_SECONDS, Span, dnskey, point, sign_keys
from netboot.names import wire
from netboot.plan_dns import origin_of


class OwnKsk:
    """The key of one state directory, drawn when it is needed first."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is read yet."""
        self._path = path

    def sign(self, zones: list[str], keys: list[str]) -> Mapping[str, Any]:
        """Sign the key sets of zones as `keys` does; SiteError when the file cannot be used."""
        private = self._key()
        span = Span.starting(time.time(), KEYS_VALID_SECONDS)
        points = [unb64u(one) for one in keys]
        signed = {}
        for zone in zones:
            found, rrsigs = sign_keys(wire(origin_of(zone)), [private], points, span)
            signed[zone] = {
                "dnskeys": [b64u(one) for one in found],
                "rrsigs": [b64u(one) for one in rrsigs],
            }
        return {"signed": signed, "expires": span.expiration}

    def anchor(self) -> bytes:
        """Give the public half as DNSKEY data; SiteError when there is none yet."""
        if not self._path.exists():
            raise SiteError(f"{self._path}: no zone was signed yet: run netboot with --sign")
        return dnskey(point(self._key().public_key()), is_ksk=True)

    def _key(self) -> ec.EllipticCurvePrivateKey:
        try:
            data = self._path.read_bytes() if self._path.exists() else self._draw()
            found = load_pem_private_key(data, password=None)
        except OSError as error:
            raise SiteError(f"{self._path}: {error.strerror}") from error
        except ValueError as error:
            raise SiteError(f"{self._path}: is no key ({error}): remove it") from None
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise SiteError(f"{self._path}: is no P-256 key: remove it")
        return found

    def _draw(self) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        temporary = self._path.with_name(f".{self._path.name}.new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(self._path)
        return data
