"""A site in a directory, with the real keys process under its own uid and callers under theirs."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import tempfile
import time
import traceback
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import IPv4Network
from pathlib import Path

import kernel_tables
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from keys import ca
from keys.envelope import SEALED_PCRS, b64u
from keys.io.layout import SERVICES, Layout
from keys.io.rpc import RpcError, RpcUnavailableError, call
from keys.io.service import main
from keys.manifest import PublicKey, sign
from keys.note import CONTEXT, Entry, encode
from keys.tpm_public import Curve, EccPublic, PublicArea, Scheme, Symmetric

USERS = {name: 61001 + number for number, name in enumerate(SERVICES)}
STRANGER = 61999
SITE_TOML = """
[site]
id = "shop-0417"
domain = "shop-0417.example.net"
[[subnet]]
name = "tills"
network = "10.41.7.0/24"
appliance = "10.41.7.2"
[trust]
delivery_note = "delivery.csv"
[controller]
tiers = ["site"]
[[role]]
name = "pos"
default = true
secrets = ["pos-api-token", "wifi-psk"]
certificate_days = 7
[[role]]
name = "kiosk"
secrets = []
[[secret]]
name = "pos-api-token"
tier = "site"
ttl = "14d"
max_stale = "0s"
[[secret]]
name = "wifi-psk"
tier = "boot"
ttl = "3s"
[[secret]]
name = "vault-key"
tier = "box"
ttl = "1d"
"""


def ek_area(key: ec.EllipticCurvePrivateKey) -> PublicArea:
    """Give a public area as an EK has it, for a key in software."""
    point = key.public_key().public_numbers()
    return PublicArea(
        name_alg=0x000B,
        attributes=0x000300B2,
        auth_policy=bytes(32),
        key=EccPublic(
            symmetric=Symmetric(algorithm=6, bits=128, mode=0x43),
            scheme=None,
            curve=Curve.P256,
            kdf=None,
            x=point.x.to_bytes(32, "big"),
            y=point.y.to_bytes(32, "big"),
        ),
    )


def device_area(key: ec.EllipticCurvePrivateKey) -> PublicArea:
    """Give the public area of a device key."""
    point = key.public_key().public_numbers()
    return PublicArea(
        name_alg=0x000B,
        attributes=0x00040472,
        auth_policy=b"",
        key=EccPublic(
            symmetric=None,
            scheme=Scheme(algorithm=0x0018, hash_alg=0x000B),
            curve=Curve.P256,
            kdf=None,
            x=point.x.to_bytes(32, "big"),
            y=point.y.to_bytes(32, "big"),
        ),
    )


EK = ek_area(ec.generate_private_key(ec.SECP256R1()))
OTHER_EK = ek_area(ec.generate_private_key(ec.SECP256R1()))
THIRD_EK = ek_area(ec.generate_private_key(ec.SECP256R1()))
DEVICE = device_area(ec.generate_private_key(ec.SECP256R1()))
BOX_KEY = X25519PrivateKey.generate()


class KeysSite:
    """Directories as `doorstep init` makes them, an offline root, and the process."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="doorstep-keys-"))
        self.base.chmod(0o755)
        self.layout = Layout(
            site=self.base / "site",
            state=self.base / "state",
            run=self.base / "run",
            users=USERS,
            kernel=kernel_tables.write(self.base / "kernel", kernel_tables.VERITY),
        )
        self.child = 0
        self.log = self.base / "log"
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.sign_key = Ed25519PrivateKey.generate()
        self._directories()
        self.write("site.toml", SITE_TOML)
        self.root = ca.make_root(
            self.root_key,
            site_id="shop-0417",
            domain="shop-0417.example.net",
            networks=[IPv4Network("10.41.7.0/24")],
            issue=self.issue(),
        )
        self.write("trust/root.pem", ca.pem([self.root]))
        public = PublicKey.of(self.sign_key.public_key()).encode()
        self.write("trust/root.pub", public.decode())

    def _directories(self) -> None:
        for path, user, group, mode in (
            (self.layout.site, 0, 0, 0o755),
            (self.layout.site / "trust", 0, 0, 0o755),
            (self.layout.state, 0, 0, 0o755),
            (self.layout.state / "keys", USERS["keys"], USERS["keys"], 0o700),
            (self.layout.state / "bootsets", 0, 0, 0o755),
            (self.layout.run, 0, 0, 0o755),
            (self.layout.run / "keys", USERS["keys"], USERS["keys"], 0o755),
            (self.layout.run / "tls", USERS["keys"], USERS["nginx"], 0o2750),
        ):
            path.mkdir()
            os.chown(path, user, group)
            path.chmod(mode)

    def issue(self) -> ca.Issue:
        return ca.Issue(
            serial=x509.random_serial_number(), now=datetime.now(UTC).replace(microsecond=0)
        )

    def write(self, name: str, text: str) -> None:
        path = self.layout.site / name
        path.write_text(text)
        path.chmod(0o644)

    def deliver(self, counter: int, *entries: Entry, site: str = "shop-0417") -> None:
        """Write a signed delivery note; one with the standard EK when no entry is given."""
        entries = entries or (entry(EK),)
        text = encode(entries)
        comment = f"site={site} counter={counter}"
        signature = sign(self.sign_key, text, trusted_comment=comment, context=CONTEXT)
        self.write("delivery.csv.minisig", signature.decode())
        self.write("delivery.csv", text.decode())

    def start(self, user: str = "keys") -> KeysSite:
        """Fork the process, as `doorstep run` does, and wait until it answers."""
        self.layout.socket("keys").unlink(missing_ok=True)
        self.child = os.fork()
        if self.child == 0:
            os._exit(_serve(self.layout, self.log, USERS[user]))
        deadline = time.monotonic() + 20
        while True:
            try:
                call(self.layout.socket("keys"), "status")
                return self
            except RpcUnavailableError:
                ended, _ = os.waitpid(self.child, os.WNOHANG)
                if ended:
                    self.child = 0
                if ended or time.monotonic() > deadline:
                    raise AssertionError(self.log.read_text()) from None
                time.sleep(0.02)

    def kill(self) -> None:
        """Kill -9."""
        if self.child:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
            self.child = 0

    def stop(self) -> int:
        """Stop as systemd does; gives the exit status."""
        os.kill(self.child, signal.SIGTERM)
        _, status = os.waitpid(self.child, 0)
        self.child = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.base)

    def operator(self, method: str, **params):
        return call(self.layout.socket("keys"), method, params)

    def control(self, method: str, **params):
        return self.as_user(USERS["control"], method, **params)

    def as_user(self, uid: int, method: str, **params):
        """Call under another uid, in a child process; RpcError as it came."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                _child(uid, self.layout.socket("keys"), method, params, writer)
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            answer = json.loads(file.read())
        os.waitpid(child, 0)
        if "gone" in answer:
            raise RpcUnavailableError("no answer")
        if "code" in answer:
            raise RpcError(answer["code"], answer["message"])
        return answer["ok"]

    def sign_authorities(self) -> None:
        """Do what the operator does with the offline root."""
        found = {one["kind"]: one["csr_pem"] for one in self.operator("ca_requests")["requests"]}
        self.operator(
            "ca_install",
            **{f"{kind}_pem": self.sign_request(kind, found[kind]) for kind in found},
        )

    def sign_request(self, kind: str, text: str) -> str:
        issuer = ca.Issuer(certificate=self.root, key=self.root_key)
        request = x509.load_pem_x509_csr(text.encode())
        signed = ca.sign_intermediate(issuer, request, kind=ca.Kind(kind), issue=self.issue())
        return ca.pem([signed])

    def ready(self) -> KeysSite:
        """Start with a delivery note and installed authorities."""
        self.deliver(1)
        self.start()
        self.sign_authorities()
        return self

    def put(self, name: str = "pos-api-token", value: bytes = b"token") -> None:
        self.operator("secret_put", name=name, value=b64u(value))


def entry(ek: PublicArea, serial: str = "S1", role: str | None = "pos") -> Entry:
    return Entry(
        serial=serial, model="M", ek_sha256=sha256(ek.encode()).digest(), role=role, name=None
    )


def request(ek: PublicArea = EK, **changes):
    """Give the parameters of a hand-over as control sends them."""
    return {
        "ek_public": b64u(ek.encode()),
        "box": "6f1c0a52-5f0e-5b1c-9d53-0f2a1c3b4d5e",
        "session": b64u(secrets.token_bytes(16)),
        "transcript": b64u(secrets.token_bytes(32)),
        "ephemeral": b64u(BOX_KEY.public_key().public_bytes_raw()),
        "device_public": b64u(DEVICE.encode()),
        "reset_count": 7,
        "restart_count": 0,
        "clock": 123456,
        "pcrs": {str(index): b64u(bytes(32)) for index in SEALED_PCRS},
        "boot_set": b64u(b"b" * 32),
        "role": "pos",
        "reasons": [],
        "handoff": {"hostname": "pos-01", "fqdn": "pos-01.shop-0417.example.net"},
    } | changes


def code(call, *arguments, **params) -> str:
    """Give the code with which a call is refused."""
    with pytest.raises(RpcError) as refused:
        call(*arguments, **params)
    return refused.value.code


def _become(uid: int) -> None:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def _serve(layout: Layout, log: Path, uid: int) -> int:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    _become(uid)
    with os.fdopen(descriptor, "w") as file:
        logging.basicConfig(stream=file, level=logging.DEBUG, force=True)
        try:
            main(layout)
        except BaseException:  # noqa: BLE001 - a forked child must not go on as pytest
            traceback.print_exc(file=file)
            return 1
    return 0


def _child(uid: int, path: Path, method: str, params, writer: int) -> None:
    _become(uid)
    try:
        answer = {"ok": call(path, method, params)}
    except RpcError as error:
        answer = {"code": error.code, "message": str(error)}
    except RpcUnavailableError:
        answer = {"gone": True}
    with os.fdopen(writer, "wb") as file:
        file.write(json.dumps(answer).encode())
