"""The two private keys that stay off every appliance, in PEM or under a passphrase.

The passphrase comes from the file that DOORSTEP_PASSPHRASE_FILE names, or from the terminal; never
from standard input, which may carry something else. No key is kept longer than a call.
"""

from __future__ import annotations

import getpass
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from bootstrap.errors import SiteError
from bootstrap.passphrase import MAX_BYTES, RANDOM_SIZE, Form
from keys.secret import Secret

ENVIRONMENT = "DOORSTEP_PASSPHRASE_FILE"
FORM = Form(
    type="doorstep/offline-key/v1", context="doorstep/v1/offline-key", what="the offline key"
)
MOVE = "put the stick with the offline keys where `doorstep init` made them, or give --offline"

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Ask = Callable[[Path], Secret]
"""Gives the passphrase of a file."""


def lock(key: PrivateKey, passphrase: Secret) -> bytes:
    """Write the file of a key under a passphrase; SiteError when that is too short."""
    der = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return FORM.seal(der, passphrase, os.urandom(RANDOM_SIZE))


def read_root_key(path: Path, ask: Ask | None = None) -> ec.EllipticCurvePrivateKey:
    """Read the root's key; SiteError when it is not here, damaged, or none of P-256."""
    key = _read(path, ask or ask_for)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SiteError(f"{path} is no P-256 key: {MOVE}")
    return key


def read_sign_key(path: Path, ask: Ask | None = None) -> ed25519.Ed25519PrivateKey:
    """Read the key that signs documents; SiteError when it is not here, damaged or another's."""
    key = _read(path, ask or ask_for)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SiteError(f"{path} is no Ed25519 key: {MOVE}")
    return key


def ask_for(path: Path) -> Secret:
    """Give the passphrase of a file: named by the environment, else typed."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return passphrase_in(Path(named))
    try:
        with Path("/dev/tty").open("r+b", buffering=0):
            pass
    except OSError:
        raise SiteError(
            f"{path} is under a passphrase: name the file that holds it in {ENVIRONMENT}, "
            "or call this at a terminal"
        ) from None
    return Secret(getpass.getpass(f"Passphrase of {path}: ").encode())


def passphrase_in(path: Path) -> Secret:
    """Read the first line of a file; SiteError when it cannot be read."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}") from error
    return Secret(lines[0] if lines else b"")


def _read(path: Path, ask: Ask) -> object:
    try:
        with path.open("rb") as file:
            data, mode = file.read(MAX_BYTES + 1), os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        raise SiteError(f"{path} is not here: {MOVE}") from None
    except OSError as error:
        raise SiteError(f"cannot read {path}: {error.strerror}") from error
    if not FORM.is_one(data):
        return _load(path, data)
    if stat.S_IMODE(mode) & 0o077:
        raise SiteError(f"{path} can be read by others: chmod 600 {path}")
    try:
        return serialization.load_der_private_key(FORM.open(data, ask(path)), password=None)
    except ValueError:
        raise SiteError(f"{path} is damaged: take the copy of it") from None
    except SiteError as error:
        raise SiteError(f"{path}: {error}") from None


def _load(path: Path, data: bytes) -> object:
    try:
        return serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        raise SiteError(f"{path} is no private key in PEM: {MOVE}") from None
