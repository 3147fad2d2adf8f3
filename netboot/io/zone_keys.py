"""The keys that sign zones as a file of this process, and their signatures by `keys`.

While `keys` is silent, what it signed last goes on for weeks; a zone that it never signed is served
without signatures, and `trouble` says so. netboot.zone_rolls, keys.zone_keys.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from keys.envelope import b64u, unb64u
from keys.errors import KeysError
from keys.zone_keys import point
from netboot.dnssec import ZoneKeys
from netboot.errors import SiteError
from netboot.names import Labels, text
from netboot.zone_rolls import DrawnKey, Roll, roll

REFRESH_SECONDS = 14 * 86400.0
"""A signature of keys with less than this left is asked for again."""
_FORM = "doorstep/zone-keys/v1"

Sign = Callable[[list[str], list[str]], Mapping[str, Any]]
"""Asks `keys` to sign the key sets of zones: names, points in base64url."""


class ZoneKeyFile:
    """Draws, rolls and keeps the keys; `refresh` gives what signs each zone now."""

    def __init__(self, path: Path, sign: Sign) -> None:
        """Read the file, or begin anew when there is none; SiteError when it cannot be read."""
        self._path, self._sign = path, sign
        self._keys: list[DrawnKey] = []
        self._signed: dict[str, tuple[tuple[bytes, ...], tuple[bytes, ...]]] = {}
        self._for: tuple[str, ...] = ()
        self._expires = 0.0
        self.trouble: str | None = None
        self._load()

    def refresh(self, zones: Iterable[Labels], now: float) -> Mapping[Labels, ZoneKeys]:
        """Give the keys of each zone that has signed ones; asks `keys` where that is due."""
        names = {text(zone): zone for zone in zones}
        due = roll(self._keys, now)
        if due.draw:  # counts from when `keys` signed it: till then nobody has seen it
            due = roll([*self._keys, _draw(now)], now)
        points = [b64u(point(_load(key).public_key())) for key in due.published]
        wanted = (*sorted(names), *points)
        is_old = self._expires - now < REFRESH_SECONDS or self._expires - now > 60 * 86400
        if names and (wanted != self._for or is_old):
            self._ask(sorted(names), points, wanted, due)
        return self._zone_keys(names, roll(self._keys, now))

    def expire(self) -> None:
        """Ask `keys` at the next `refresh`: its key was rolled; till then, what it signed stays."""
        self._expires = 0.0

    def _ask(self, names: list[str], points: list[str], wanted: tuple[str, ...], due: Roll) -> None:
        try:
            answer = self._sign(names, points)
            signed = {name: _sets(answer["signed"][name]) for name in names}
            expires = float(answer["expires"])
        except (KeysError, KeyError, TypeError, ValueError) as error:
            self.trouble = f"zones are not signed anew: keys: {error}"
            return
        self._keys = list(due.published)
        self._signed, self._for, self._expires = signed, wanted, expires
        self.trouble = None
        self._save()

    def _zone_keys(self, names: Mapping[str, Labels], due: Roll) -> dict[Labels, ZoneKeys]:
        found: dict[Labels, ZoneKeys] = {}
        if due.signing is None:
            return found
        private = _load(due.signing)
        public = point(private.public_key())
        for name, zone in names.items():
            dnskeys, rrsigs = self._signed.get(name, ((), ()))
            if any(key.endswith(public) for key in dnskeys):
                found[zone] = ZoneKeys(dnskeys=dnskeys, rrsigs=rrsigs, private=private)
        return found

    def _load(self) -> None:
        try:
            document = json.loads(self._path.read_bytes())
            if document["form"] != _FORM:
                raise ValueError(f"is not of the form {_FORM}")
            self._keys = [
                DrawnKey(private=unb64u(one["private"]), created=float(one["created"]))
                for one in document["keys"]
            ]
            self._signed = {name: _sets(one) for name, one in document["signed"].items()}
            self._for, self._expires = tuple(document["for"]), float(document["expires"])
        except FileNotFoundError:
            return
        except OSError as error:
            raise SiteError(f"{self._path}: {error.strerror}") from error
        except (KeysError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SiteError(
                f"{self._path}: cannot be read ({error}): remove it, new keys are drawn"
            ) from None

    def _save(self) -> None:
        document = {
            "form": _FORM,
            "keys": [{"private": b64u(one.private), "created": one.created} for one in self._keys],
            "signed": {
                name: {"dnskeys": list(map(b64u, keys)), "rrsigs": list(map(b64u, rrsigs))}
                for name, (keys, rrsigs) in self._signed.items()
            },
            "for": list(self._for),
            "expires": self._expires,
        }
        temporary = self._path.with_name(f".{self._path.name}.new")
        try:
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(self._path)
        except OSError as error:
            self.trouble = f"{self._path}: {error.strerror}: the keys of zones are not kept"


def _sets(signed: Mapping[str, Any]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    return tuple(map(unb64u, signed["dnskeys"])), tuple(map(unb64u, signed["rrsigs"]))


def _draw(now: float) -> DrawnKey:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return DrawnKey(private=private, created=now)


def _load(key: DrawnKey) -> ec.EllipticCurvePrivateKey:
    found = load_der_private_key(key.private, password=None)
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise SiteError("a zone key is no P-256 key")
    return found
