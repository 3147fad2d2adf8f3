"""The cache key, and what it opens: stored secrets and the keys of the site's authorities.

There is no TPM behind it yet: the cache key is a file beside the database, and `NOT_COVERED` says
what that means. Secrets of tier `boot` hang on a second key under RUN, which a power cut erases.
It never decides who may have what. design.md, "Secrets".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from keys import cache
from keys.envelope import bind
from keys.errors import SiteError
from keys.io.layout import Layout
from keys.io.store import Store
from keys.rules import Tier
from keys.secret import Secret

NOT_COVERED = (
    "This controller keeps its cache key in a file, not in a TPM: whoever copies or steals its "
    "disk can read every secret of tier site and the authority keys, also after a lease has ended."
)
CHECK = "key-check"
SITE = "site-id"


class Vault:
    """Encrypts and decrypts for the store; the only holder of the cache key."""

    def __init__(self, layout: Layout, store: Store, site_id: str) -> None:
        """Read or draw the keys; SiteError when the database belongs to another key or site."""
        self._store = store
        self._site_id = site_id
        path = layout.state / "keys" / "cache.key"
        if store.meta(CHECK) is not None and not path.exists():
            raise SiteError(f"{path} is missing: put it back, without it keys.db stays closed")
        site_key = read_or_draw(path)
        boot_key = read_or_draw(layout.run / "keys" / "boot.key")
        self._keys = {Tier.SITE: site_key, Tier.BOOT: boot_key}
        self._check(path)

    def _check(self, path: Path) -> None:
        known = self._store.meta(SITE)
        if known is not None and known != self._site_id.encode():
            raise SiteError(
                f"site.id is {self._site_id!r} but keys.db belongs to {known.decode()!r}: "
                "site.id is permanent"
            )
        stored = self._store.meta(CHECK)
        if stored is None:
            with self._store.transaction():
                self._store.set_meta(SITE, self._site_id.encode())
                self._store.set_meta(CHECK, self._protect(CHECK, Secret(CHECK.encode())))
            return
        try:
            self._recover(CHECK, stored)
        except SiteError:
            raise SiteError(f"{path} is not the key of keys.db beside it") from None

    def lock(self, value: Secret, label: cache.Label) -> cache.Row:
        """Encrypt one version of a secret."""
        return cache.lock(
            value,
            cache_key=self._keys[label.tier],
            label=label,
            site_id=self._site_id,
            drawn=os.urandom(cache.RANDOM_SIZE),
        )

    def unlock(self, row: cache.Row) -> Secret:
        """Decrypt a secret; SiteError when its row or its key are not those of when it was put."""
        key = self._keys.get(row.label.tier)
        if key is None:
            raise SiteError(f"this release keeps no secrets of tier {row.label.tier.value}")
        return cache.unlock(row, cache_key=key, site_id=self._site_id)

    def key_pair(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Read a P-256 key pair, drawn at its first use."""
        der = self._material(name, _draw_key_pair).reveal()
        key = load_der_private_key(der, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SiteError(f"keys.db: {name} is no P-256 key")
        return key

    def rsa_key(self, name: str, bits: int) -> rsa.RSAPrivateKey:
        """Read an RSA key pair, drawn at its first use with so many bits."""
        der = self._material(name, lambda: _draw_rsa(bits)).reveal()
        key = load_der_private_key(der, password=None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise SiteError(f"keys.db: {name} is no RSA key")
        return key

    def key_bytes(self, name: str) -> Secret:
        """Read a symmetric key of 32 bytes, drawn at its first use."""
        return self._material(name, lambda: os.urandom(cache.KEY_SIZE))

    def _material(self, name: str, draw: Callable[[], bytes]) -> Secret:
        stored = self._store.material(name)
        if stored is not None:
            return self._recover(name, stored)
        drawn = Secret(draw())
        with self._store.transaction():
            self._store.set_material(name, self._protect(name, drawn))
        return drawn

    def _protect(self, name: str, value: Secret) -> bytes:
        nonce = os.urandom(cache.NONCE_SIZE)
        return cache.protect(value, self._keys[Tier.SITE], nonce, self._data(name))

    def _recover(self, name: str, stored: bytes) -> Secret:
        return cache.recover(stored, self._keys[Tier.SITE], self._data(name))

    def _data(self, name: str) -> bytes:
        return bind("doorstep/v1/key-material", self._site_id, name)


def read_or_draw(path: Path) -> Secret:
    """Read a key file of 32 bytes, or make it (0600) before anything is encrypted with it."""
    try:
        if not path.exists():
            write_file(path, os.urandom(cache.KEY_SIZE), 0o600)
        value = path.read_bytes()
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}") from error
    if len(value) != cache.KEY_SIZE:
        raise SiteError(f"{path} has not {cache.KEY_SIZE} bytes: it is damaged")
    return Secret(value)


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Replace a file at once; its group is what the directory gives (setgid)."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(descriptor, mode)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _draw_rsa(bits: int) -> bytes:
    key = rsa.generate_private_key(65537, bits)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _draw_key_pair() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
