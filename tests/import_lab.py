"""A site whose keys process runs, and a headquarters that signs documents for it, good and bad."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import Result
from control_site import ControlSite
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from keys_site import EK, OTHER_EK, entry
from make_firmware_vectors import by_events
from make_signed_vectors import by_hand

from attest.baseline import Baseline
from attest.firmwarefile import encode_baseline
from bootstrap.io import site_dir
from bootstrap.site_plan import make_plan
from keys import note
from keys.approval import SignedApproval
from keys.envelope import unb64u
from keys.io.age import encrypt
from keys.manifest import PublicKey, sign
from keys.parcel import Item, Seed
from keys.secret import Secret
from keys.signed import (
    APPROVAL,
    BACKUP_KEY,
    BOOT_SET,
    FIRMWARE,
    NOTE,
    PLAN,
    POLICY,
    SEED,
    WRAPPED,
    Kind,
    standard_comment,
)
from keys.wrap import Label, Randomness, wrap

SITE_ID = "shop-0417"
STRANGER = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
VAULT_KEY = '\n[[secret]]\nname = "vault-key"\ntier = "box"\nttl = "30d"\n'
RECIPIENT = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"
KEYS_OWN = ("keys.db", "keys.db-wal", "keys.db-shm", "log")
"""What the process writes by itself; what it has taken is compared by floors and events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document that headquarters made, and how it signs it."""

    kind: Kind
    name: str
    data: bytes
    comment: Callable[..., str]
    pad: bytes = b"\n"

    def signature(self, key: Ed25519PrivateKey, data: bytes | None = None, **said: Any) -> bytes:
        """Sign it, or another content as it."""
        text = self.comment(**said)
        used = self.data if data is None else data
        return sign(key, used, trusted_comment=text, context=self.kind.context)


def standard(**further: str) -> Callable[..., str]:
    """Give comments of the standard form."""

    def comment(counter: int = 5, site: str = SITE_ID) -> str:
        return standard_comment(site, counter, **further)

    return comment


class ImportSite(ControlSite):
    """Only keys runs unless `start` is called; `stick` is what somebody brought."""

    def __init__(self) -> None:
        super().__init__()
        self.add_settings(VAULT_KEY)
        self.stick = self.base / "stick"
        self.stick.mkdir()
        pem = (self.layout.site / "offline/sign.key").read_bytes()
        key = load_pem_private_key(pem, password=None)
        assert isinstance(key, Ed25519PrivateKey)
        self.key = key

    def start_keys(self) -> ImportSite:
        self.processes["keys"].start()
        self.wait_for("keys")
        signed = {}
        for one in self.operator("keys", "ca_requests")["requests"]:
            signed[f"{one['kind']}_pem"] = self.intermediate(one["kind"], one["csr_pem"])
        self.operator("keys", "ca_install", **signed)
        return self

    def intermediate(self, kind: str, request: str) -> str:
        from keys.ca import Kind as Authority

        return site_dir.sign_intermediate(self.layout.site, request.encode(), Authority(kind))

    # what headquarters makes

    def document(self, what: str) -> Document:
        """Make one; `what` is the name of its kind."""
        made: Document = getattr(self, f"_{what.replace('-', '_')}")()
        return made

    def _delivery_note(self) -> Document:
        data = note.encode((entry(EK), entry(OTHER_EK, "S2", "kiosk")))
        return Document(kind=NOTE, name="delivery.csv", data=data, comment=standard())

    def _firmware_baseline(self) -> Document:
        data = encode_baseline(Baseline(entries=(by_events(),)))

        def comment(counter: int = 5, site: str = "*") -> str:
            return standard_comment(site, counter)

        return Document(kind=FIRMWARE, name="firmware.toml", data=data, comment=comment)

    def _appraisal_policy(self) -> Document:
        data = b'type = "doorstep/policy/v1"\nwaive = ["FIRMWARE-UNKNOWN"]\nsha1_alone = false\n'
        return Document(kind=POLICY, name="policy.toml", data=data, comment=standard())

    def _site_plan(self) -> Document:
        site = site_dir.load(self.layout.site)
        text = (self.layout.site / "site.toml").read_text()
        templates = {
            role.config: (self.layout.site / role.config).read_text() + "# from headquarters\n"
            for role in site.roles
        }
        data = make_plan(text.replace('title = "', 'title = "New '), templates).encode()
        return Document(kind=PLAN, name="plan.json", data=data, comment=standard())

    def _backup_key(self) -> Document:
        data = f"{RECIPIENT}\n".encode()
        return Document(kind=BACKUP_KEY, name="backup.txt", data=data, comment=standard())

    def _box_approval(self) -> Document:
        name = EK.name()
        one = SignedApproval(
            site=SITE_ID,
            ek_name=name,
            role="pos",
            reasons=frozenset({"FIRMWARE-UNKNOWN"}),
            measurements=b"m" * 32,
            sealed=b"s" * 32,
            until=int(time.time()) + 86400,
        )
        comment = standard(ek=name.hex())
        return Document(kind=APPROVAL, name="approval.json", data=one.encode(), comment=comment)

    def _seed(self) -> Document:
        items = (Item(name="pos-api-token", value=Secret(b"token of a seed")),)
        recipient = self.operator("keys", "seed_recipient")["recipient"]

        plain = Seed(site=SITE_ID, counter=5, items=items).encode()
        data = encrypt(Secret(plain), recipient)
        return Document(kind=SEED, name="seed.age", data=data, comment=standard())

    def _wrapped_secret(self) -> Document:
        now = int(time.time())
        label = Label(
            site=SITE_ID,
            name="vault-key",
            version=5,
            serial="S1",
            issued=now,
            expires=now + 86400,
            ek_name=EK.name(),
            key_name=unb64u(self.operator("keys", "wrap_key")["name"]),
        )
        drawn = Randomness.cut(os.urandom(Randomness.SIZE))
        data = wrap(label, Secret(b"the value"), ek=EK, randomness=drawn).encode()

        def comment(counter: int = 5, site: str = SITE_ID) -> str:
            return f"site={site} secret=vault-key serial=S1 version={counter}"

        return Document(kind=WRAPPED, name="vault-key.S1.json", data=data, comment=comment)

    def _boot_set(self) -> Document:
        """A set as another machine of headquarters built it, in a directory of its own."""
        manifest = self.build(version=5)
        own = self.layout.state / "bootsets"
        folder = self.stick / "set"
        shutil.copytree(own / "sets" / manifest.digest.hex(), folder)
        for role, file in manifest.roles.items():
            # half of them by name, half by digest
            name = file.name if role.value < "k" else file.sha256.hex()
            shutil.copy(own / "files" / file.sha256.hex(), folder / name)
        shutil.rmtree(own)
        own.mkdir()

        def comment(counter: int = 5, site: str = "") -> str:
            return f"version={counter} digest={manifest.digest.hex()}"

        return Document(
            kind=BOOT_SET, name="set/manifest.json", data=manifest.encode(), comment=comment
        )

    def legacy(self, one: Document) -> bytes:
        """Sign it as minisign did before it hashed."""
        key_id = PublicKey.of(self.key.public_key()).key_id
        text = f"{one.kind.context} {one.comment()}"
        return by_hand(one.data, text, algorithm=b"Ed", key_id=key_id, key=self.key)

    # what is brought and what becomes of it

    def bring(
        self, one: Document, data: bytes | None = None, signature: bytes | None = None
    ) -> Path:
        """Put a document on the stick; without a signature where that is empty."""
        path = self.stick / one.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(one.data if data is None else data)
        beside = path.with_name(f"{path.name}.minisig")
        beside.unlink(missing_ok=True)
        made = one.signature(self.key, data) if signature is None else signature
        if made:
            beside.write_bytes(made)
        return path

    def take(self, *words: object) -> Result:
        """`doorstep import`, without a question."""
        return self.doorstep("import", "--yes", *map(str, words))

    def state_of_all(self) -> Mapping[str, object]:
        """Give everything that an import may change."""
        files = {
            str(path.relative_to(self.base)): path.read_bytes()
            for top in (self.layout.site, self.layout.state)
            for path in sorted(top.rglob("*"))
            if path.is_file() and path.name not in KEYS_OWN
        }
        floors = self.operator("keys", "input_floors")["floors"]
        secrets = self.operator("keys", "secret_list")["secrets"]
        for one in secrets:
            one.pop("since", None)
        events = self.operator("keys", "events", after=0)["last"]
        return {**files, "floors": json.dumps(floors), "events": events, "secrets": secrets}
