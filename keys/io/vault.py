"""What the keys of a ring open: stored secrets and the keys of the site's authorities.

It never decides who may have what, nor when. Rows of the epoch of now are used, and no others.
design.md, "Secrets".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256

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
from keys.io.ring import ClosedError, Ring
from keys.io.store import Store
from keys.rules import Tier
from keys.secret import Secret

CHECK = "key-check"
SITE = "site-id"
EPOCH_DUE = "epoch-due"
DEVICE_EPOCH = -1
"""Rows of keys that serve on without a lease: no epoch ends them."""


class Vault:
    """Encrypts and decrypts for the store, with the keys of a ring."""

    def __init__(self, store: Store, ring: Ring, site_id: str) -> None:
        """Check that they belong together; SiteError when the database is another's."""
        self._store, self._ring, self._site_id = store, ring, site_id
        self._tried: dict[str, tuple[cache.Label, bytes, bytes]] = {}
        self._changes = 0
        self._check()
        store.epoch = ring.epoch

    def _check(self) -> None:
        known = self._store.meta(SITE)
        if known is not None and known != self._site_id.encode():
            raise SiteError(
                f"site.id is {self._site_id!r} but keys.db belongs to {known.decode()!r}: "
                "site.id is permanent"
            )
        device, stored = self._ring.key("device"), self._store.meta(CHECK)
        if stored is None:
            with self._store.transaction():
                self._store.set_meta(SITE, self._site_id.encode())
                made = self._protect(CHECK, Secret(CHECK.encode()), device)
                self._store.set_meta(CHECK, made)
            return
        try:
            self._recover(CHECK, stored, device)
        except SiteError:
            raise SiteError(f"{self._ring.where} is not the key of keys.db beside it") from None

    @property
    def appliance(self) -> str | None:
        """Give the fingerprint of the TPM that signing keys are in; None without one."""
        return self._ring.appliance

    # stored secrets

    def lock(self, value: Secret, label: cache.Label) -> None:
        """Encrypt and store one version of a secret, in the caller's transaction."""
        row = cache.lock(
            value,
            cache_key=self._key(label.tier),
            label=label,
            site_id=self._site_id,
            drawn=os.urandom(cache.RANDOM_SIZE),
        )
        self._store.put_secret(row, self._store.epoch)

    def unlock(self, row: cache.Row) -> Secret:
        """Decrypt a secret; SiteError when its row or its key are not those of when it was put."""
        key = self._key(row.label.tier)
        self._tried.pop(row.label.name, None)
        value = cache.unlock(row, cache_key=key, site_id=self._site_id)
        self._tried[row.label.name] = row.label, row.wrapped, _mark(key)
        return value

    def check(self, label: cache.Label, wrapped: bytes) -> None:
        """Check that a secret opens, as `unlock`; one that did is not tried again while it stays.

        Who only reports asks this once a second: no value is decrypted for that. What falls over on
        the disk later shows at a start, or when a box is to get it.
        """
        if (changes := self._store.foreign_changes()) != self._changes:
            self._tried, self._changes = {}, changes
        if self._tried.get(label.name) == (label, wrapped, _mark(self._key(label.tier))):
            return
        row = self._store.secret(label.name)
        if row is None:
            raise SiteError("was removed meanwhile")
        self.unlock(row)

    def _key(self, tier: Tier) -> Secret:
        if tier is Tier.BOX:
            raise SiteError("a secret of tier box does not open on a controller")
        return self._ring.key(tier.value)

    # the epoch

    @contextmanager
    def revoking(self) -> Iterator[None]:
        """Hold a transaction whose effect no copy of before may undo.

        While the cache is closed the epoch cannot end: `settle` does it once it is open.
        """
        with self._store.transaction():
            yield
            following = self._store.epoch + 1
            self._store.set_meta(EPOCH_DUE, following.to_bytes(8, "big"))
            is_ready = self._prepare_epoch()
        if is_ready:
            # That transaction is on the disk: from here nothing of before opens again.
            self._ring.advance()

    def settle(self) -> None:
        """End the epoch, if a revocation asks for it: the cache was closed, or there was a cut."""
        if int.from_bytes(self._store.meta(EPOCH_DUE) or b"", "big") > self._store.epoch:
            with self.revoking():
                pass

    def _prepare_epoch(self) -> bool:
        """Write what outlives a revocation for the next epoch; False while the cache is closed."""
        try:
            new = self._ring.next_site_key()
        except ClosedError:
            return False
        if new is None:
            self._store.set_meta(EPOCH_DUE, b"")
            return True
        old, following = self._ring.key("site"), self._store.epoch + 1
        self._store.empty_epoch(following)  # of what one that failed has left
        for row in self._store.secrets():
            kept = row
            if row.label.tier is Tier.SITE:
                with suppress(SiteError):  # a damaged row stays one
                    kept = cache.rewrap(
                        row, old=old, new=new, site_id=self._site_id, nonce=self._nonce()
                    )
            self._store.put_secret(kept, following)
        for name, stored in self._store.materials(self._store.epoch):
            again = stored
            with suppress(SiteError):
                again = self._protect(name, self._recover(name, stored, old), new)
            self._store.set_material(name, following, again)
        return True

    # key material

    def key_pair(self, name: str, *, on_device: bool = False) -> ec.EllipticCurvePrivateKey:
        """Read a P-256 key pair, drawn at its first use; `on_device` ones need no lease."""
        der = self._material(name, _draw_key_pair, on_device=on_device).reveal()
        key = load_der_private_key(der, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SiteError(f"keys.db: {name} is no P-256 key")
        return key

    def signing_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Give the key of an authority, made at its first use: in the TPM where there is one."""
        stored = self._store.meta(f"signing-key:{name}")
        if stored is None:
            stored = self._ring.make_signing_key()
            if stored is None:
                return self.key_pair(name)
            with self._store.transaction():
                self._store.set_meta(f"signing-key:{name}", stored)
        return self._ring.signing_key(stored)

    def prove(self, name: str, kind: str) -> bytes | None:
        """Let the TPM vouch for a signing key, for a request; None for a key in software."""
        stored = self._store.meta(f"signing-key:{name}")
        return None if stored is None else self._ring.prove(stored, kind)

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

    def has(self, name: str) -> bool:
        """Say whether key material of this name was drawn."""
        epochs = (self._store.epoch, DEVICE_EPOCH)
        return any(self._store.material(name, epoch) is not None for epoch in epochs)

    def device_names(self, prefix: str) -> list[str]:
        """List the keys that need no lease, by the beginning of their names."""
        return [name for name, _ in self._store.materials(DEVICE_EPOCH) if name.startswith(prefix)]

    def exported(self, name: str, *, on_device: bool) -> Secret:
        """Give key material as it is kept, for a backup; SiteError when there is none."""
        epoch = DEVICE_EPOCH if on_device else self._store.epoch
        stored = self._store.material(name, epoch)
        if stored is None:
            raise SiteError(f"keys.db has no {name}")
        return self._recover(name, stored, self._ring.key("device" if on_device else "site"))

    def replace(self, name: str, value: Secret, *, on_device: bool) -> None:
        """Put key material of another appliance of this site here, in the caller's transaction."""
        epoch = DEVICE_EPOCH if on_device else self._store.epoch
        self._store.drop_material(name, epoch)
        made = self._protect(name, value, self._ring.key("device" if on_device else "site"))
        self._store.set_material(name, epoch, made)

    def _material(self, name: str, draw: Callable[[], bytes], *, on_device: bool = False) -> Secret:
        epoch = DEVICE_EPOCH if on_device else self._store.epoch
        key = self._ring.key("device" if on_device else "site")
        stored = self._store.material(name, epoch)
        if stored is not None:
            return self._recover(name, stored, key)
        drawn = Secret(draw())
        with self._store.transaction():
            self._store.set_material(name, epoch, self._protect(name, drawn, key))
        return drawn

    def _protect(self, name: str, value: Secret, key: Secret) -> bytes:
        return cache.protect(value, key, self._nonce(), self._data(name))

    def _recover(self, name: str, stored: bytes, key: Secret) -> Secret:
        return cache.recover(stored, key, self._data(name))

    def _data(self, name: str) -> bytes:
        return bind("doorstep/v1/key-material", self._site_id, name)

    def _nonce(self) -> bytes:
        return os.urandom(cache.NONCE_SIZE)


def _mark(key: Secret) -> bytes:
    """Tell one key from another without keeping it."""
    return sha256(b"doorstep/v1/key-mark\0" + key.reveal()).digest()


def _draw_rsa(bits: int) -> bytes:
    key = rsa.generate_private_key(65537, bits)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _draw_key_pair() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
