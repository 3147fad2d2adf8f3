"""From headquarters to the box: the commands, the real keys process, a TPM; no value between.

The site's keys process runs under its own uid; the box is a software TPM with the agent's own code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from keys_site import BOX_KEY, USERS, KeysSite, code, ek_area, entry, request
from software_tpm import SoftwareTpm
from wrap_lab import Box, state

import bootstrap
from bootstrap.agent.errors import PeerError
from bootstrap.agent.tpm import Tpm
from bootstrap.agent.tpm_keys import Counters
from bootstrap.agent.wrapped import open_value, read_items
from bootstrap.cli.main import main
from keys import note
from keys.envelope import b64u, bind, content_key, secret_digest, unb64u
from keys.io.rpc import RpcError
from keys.secret import Secret
from keys.tpm_public import PublicArea, sized

EXAMPLE = (Path(bootstrap.__file__).parent / "example/site.toml").read_text()
SITE_TOML = EXAMPLE.replace('["pos-api-token"]', '["pos-api-token", "vault-key"]') + (
    '\n[[secret]]\nname = "vault-key"\ntier = "box"\nttl = "30d"\n'
)
VALUE = b"a value of tier box"


class WrapSite(KeysSite):
    """A running site, and headquarters with its own copy of the site's directory and the keys."""

    def __init__(self, directory: Path, ek: PublicArea) -> None:
        super().__init__()
        self.write("site.toml", SITE_TOML)
        self.headquarters = directory / "headquarters"
        (self.headquarters / "trust").mkdir(parents=True)
        (self.headquarters / "offline").mkdir()
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.headquarters / "offline/sign.key").write_bytes(self.sign_key.private_bytes(*form))
        self.ek_file = directory / "ek.pub"
        self.ek_file.write_bytes(sized(ek.encode()))
        self.deliver(1, entry(ek))
        self.start()
        self.sign_authorities()

    def deliver(self, counter: int, *entries: note.Entry, site: str = "shop-0417") -> None:
        """Headquarters has what it sent."""
        super().deliver(counter, *entries, site=site)
        for name in ("site.toml", "trust/root.pem", "trust/root.pub", "delivery.csv"):
            (self.headquarters / name).write_bytes((self.layout.site / name).read_bytes())
        signature = (self.layout.site / "delivery.csv.minisig").read_bytes()
        (self.headquarters / "delivery.csv.minisig").write_bytes(signature)

    @property
    def file(self) -> Path:
        return self.headquarters / "wrapped/vault-key.S1.json"

    def at_site(self, *words: object, given: str | bytes | None = None) -> Result:
        place = {"site": self.layout.site, "state": self.layout.state, "run": self.layout.run}
        options = [f"--{name}={path}" for name, path in place.items()]
        return CliRunner().invoke(main, [*map(str, words), *options], input=given)

    def send_key(self) -> None:
        """Let the site write its wrap key, and carry it to headquarters."""
        done = self.at_site("wrap-key")
        assert done.exit_code == 0, done.output
        written = (self.layout.site / "trust/wrap.json").read_bytes()
        (self.headquarters / "trust/wrap.json").write_bytes(written)

    def wrap(self, *words: object, given: bytes = VALUE, serial: str = "S1") -> Result:
        """Wrap at headquarters, where no site runs."""
        options: list[object] = ["--note", self.headquarters / "delivery.csv", "--serial", serial]
        options += ["--site", self.headquarters, *words]
        return CliRunner().invoke(main, ["wrap", "vault-key", *map(str, options)], input=given)

    def wrapped(self, *words: object, given: bytes = VALUE) -> Path:
        done = self.wrap("--ek", self.ek_file, *words, given=given)
        assert done.exit_code == 0, done.output
        assert given.decode() not in done.output
        return self.file

    def hand_over(self, tpm: Tpm) -> Handed:
        """Ask as control does for a box in the state that its TPM is in."""
        return Handed(self, tpm)


class Handed:
    """A hand-over, opened as the agent opens it."""

    def __init__(self, site: WrapSite, tpm: Tpm) -> None:
        now = state(tpm)
        params = request(
            now.ek,
            reset_count=now.boot.reset_count,
            restart_count=now.boot.restart_count,
            clock=now.boot.clock_before - 600_000,
            pcrs={str(index): b64u(value) for index, value in now.boot.pcrs.items()},
        )
        self.reply = site.control("handover", **params)
        answer = json.loads(unb64u(json.loads(self.reply["answer"])["answer"]))
        bundle = answer["bundle"]
        names = ("reset_count", "restart_count", "clock_before")
        self.counters = Counters(**{name: bundle[name] for name in names})
        public, duplicate, seed = (
            unb64u(bundle[name]) for name in ("sealed_public", "duplicate", "seed")
        )
        share = tpm.open_share(public, duplicate, seed, self.counters)
        theirs = X25519PublicKey.from_public_bytes(unb64u(bundle["ephemeral"]))
        session, transcript = unb64u(params["session"]), unb64u(params["transcript"])
        self.key = content_key(share, BOX_KEY.exchange(theirs), transcript)
        bound = (UUID(params["box"]).bytes, session, transcript, unb64u(bundle["boot_set"]))
        data = bind("doorstep/v1/bundle", *bound, bundle["expires"])
        gcm, nonce = AESGCM(self.key.reveal()), unb64u(bundle["nonce"])
        self.plain = gcm.decrypt(nonce, unb64u(bundle["ciphertext"]), data)
        self.items = read_items(self.plain, "shop-0417", now.ek.name())
        self.document: dict[str, Any] = json.loads(self.plain)

    def digest(self, name: str, value: bytes) -> str:
        return b64u(secret_digest(self.key, name, Secret(value)))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    one = Box(tmp_path_factory.mktemp("box"))
    yield one
    one.tpm.stop()


@pytest.fixture
def tpm(box: Box) -> Iterator[Tpm]:
    box.restart()
    with box.agent() as connected:
        yield connected


@pytest.fixture
def site(tmp_path: Path, tpm: Tpm) -> Iterator[WrapSite]:
    one = WrapSite(tmp_path, state(tpm).ek)
    yield one
    one.close()


def test_a_value_goes_from_headquarters_to_the_box_and_is_seen_by_nobody_between(
    site: WrapSite, tpm: Tpm
) -> None:
    canary = b"CANARY-" + token_hex(16).encode()  # drawn after the fork: only a leak brings it over
    site.send_key()
    path = site.wrapped(given=canary)
    taken = site.at_site("secret", "import", path, given="y\n")
    assert taken.exit_code == 0, taken.output
    for word in ("vault-key, version 1, for the box S1", "offline key", "first for this box"):
        assert word in taken.output
    assert taken.output.rstrip().endswith("taken")
    listed = {one["name"]: one for one in site.operator("secret_list")["secrets"]}["vault-key"]
    assert (listed["reason"], listed["boxes"], listed["tier"]) == (None, 1, "box")
    site.put()
    handed = site.hand_over(tpm)
    (item,) = handed.items
    opened = open_value(item, tpm.open_wrapped(item, handed.counters))
    assert opened.value == canary
    # the site knows that it was opened, and an older agent says that it is withheld
    assert handed.reply["withheld"] == []
    assert set(handed.reply["digests"]) == {"pos-api-token", "vault-key"}
    assert handed.reply["digests"]["vault-key"] == handed.digest("vault-key", opened.proof)
    assert handed.document["withheld"] == [
        {"name": "vault-key", "reason": "SECRET-WRAPPED", "since": None}
    ]
    forms = (canary, b64u(canary).encode(), canary.hex().encode())
    assert not any(form in handed.plain for form in forms), "not even inside the bundle"
    shown = json.dumps([site.operator(one) for one in ("status", "events", "secret_list")])
    assert not any(form.decode() in shown for form in forms)
    found = [path for path in site.base.rglob("*") if path.is_file()]
    assert any(path.name == "keys.db-wal" for path in found), "held open, so that it is there too"
    assert not [path for path in found if any(form in path.read_bytes() for form in forms)]
    assert not is_in_memory(site.child, *forms)
    # events and audit say which version went, and to whom
    (event,) = (e for e in site.operator("events")["events"] if e["kind"] == "handover")
    assert event["detail"]["secrets"] == {"pos-api-token": 1, "vault-key": 1}


def is_in_memory(pid: int, *forms: bytes) -> bool:
    """Search all that a process can write to."""
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                start, end = (int(number, 16) for number in span.split("-"))
                memory.seek(start)
                content = memory.read(end - start)
                if any(form in content for form in forms):
                    return True
    return False


def test_the_search_in_memory_finds_what_is_there(site: WrapSite, tpm: Tpm) -> None:
    serial = f"S-{token_hex(16)}"
    assert not is_in_memory(site.child, serial.encode())
    site.deliver(2, entry(state(tpm).ek, serial=serial))
    assert site.operator("status")["delivery_note"]["counter"] == 2
    assert is_in_memory(site.child, serial.encode())


def test_another_boot_of_the_box_needs_another_hand_over(site: WrapSite, box: Box) -> None:
    site.send_key()
    assert site.at_site("secret", "import", "--yes", site.wrapped()).exit_code == 0
    box.restart()
    with box.agent() as tpm:
        first = site.hand_over(tpm)
    box.restart()
    with box.agent() as tpm:
        (item,) = first.items
        with pytest.raises(PeerError, match="another boot"):
            tpm.open_wrapped(item, first.counters)
        again = site.hand_over(tpm)
        (item,) = again.items
        assert open_value(item, tpm.open_wrapped(item, again.counters)).value == VALUE


def test_a_newer_version_and_a_revocation_say_what_they_change(site: WrapSite, tpm: Tpm) -> None:
    site.send_key()
    old = site.wrapped().read_bytes()
    signature = site.file.with_name(f"{site.file.name}.minisig")
    old_signature = signature.read_bytes()
    site.at_site("secret", "import", "--yes", site.file)
    assert "nothing changes" in site.at_site("secret", "import", site.file).output
    told = site.at_site("secret", "import", site.wrapped(given=b"second-value-7d"), given="n\n")
    assert "version 2" in told.output and "it replaces version 1" in told.output
    assert told.exit_code == 1, "a person said no"
    assert "it replaces version 1" in site.at_site("secret", "import", "--yes", site.file).output
    assert site.wrap("--revoke", given=b"").exit_code == 0
    told = site.at_site("secret", "import", "--yes", site.file)
    assert "version 3" in told.output and "gets no version of it any more" in told.output
    site.file.write_bytes(old)
    signature.write_bytes(old_signature)
    told = site.at_site("secret", "import", "--yes", site.file)
    assert told.exit_code == 1 and "version 3 was taken for this box" in told.output
    reasons = {one["name"]: one["reason"] for one in site.hand_over(tpm).reply["withheld"]}
    assert reasons["vault-key"] == "SECRET-REVOKED"


def test_a_box_for_which_nothing_was_wrapped_is_told_so(site: WrapSite, tpm: Tpm) -> None:
    handed = site.hand_over(tpm)
    assert handed.items == () and "wrapped" not in handed.document
    reasons = {one["name"]: one["reason"] for one in handed.reply["withheld"]}
    assert reasons["vault-key"] == "SECRET-NOT-WRAPPED"
    listed = {one["name"]: one for one in site.operator("secret_list")["secrets"]}["vault-key"]
    assert listed["reason"] == "SECRET-NOT-WRAPPED"


def test_a_file_that_was_changed_or_not_signed_is_refused(site: WrapSite) -> None:
    site.send_key()
    path = site.wrapped()
    signature = path.with_name(f"{path.name}.minisig")
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"version": 1', b'"version": 9'))
    told = site.at_site("secret", "import", "--yes", path)
    assert told.exit_code == 1 and "not what was signed" in told.output
    path.write_bytes(good)
    signature.unlink()
    told = site.at_site("secret", "import", "--yes", path)
    assert told.exit_code == 2 and "it comes with the file" in told.output
    assert site.operator("secret_list")["secrets"][1]["reason"] == "SECRET-NOT-WRAPPED"


def test_no_service_takes_files_or_gives_the_key(site: WrapSite) -> None:
    for user in ("control", "enroll", "page", "netboot"):
        for method in ("secret_import", "wrap_key"):
            assert code(site.as_user, USERS[user], method) == "FORBIDDEN"
    for params in ({}, {"file": 1, "sig": 2}, {"file": "A" * (1 << 20), "sig": ""}):
        with pytest.raises(RpcError) as refused:
            site.operator("secret_import", **params)
        assert refused.value.code == "MALFORMED"


def test_control_adds_no_wrapped_secret_of_its_own(site: WrapSite, tpm: Tpm) -> None:
    ek = state(tpm).ek
    handoff = {"hostname": "a", "fqdn": "a.b", "wrapped": []}
    assert code(site.control, "handover", **request(ek, handoff=handoff)) == "MALFORMED"


# what headquarters is told


def test_the_key_must_come_from_a_site_of_this_root(site: WrapSite) -> None:
    told = site.wrap("--ek", site.ek_file)
    assert told.exit_code == 2 and "doorstep wrap-key" in told.output
    site.send_key()
    path = site.headquarters / "trust/wrap.json"
    document = json.loads(path.read_text())
    payload = json.loads(unb64u(document["answer"]))
    payload["public"] = b64u(ek_area(ec.generate_private_key(ec.SECP256R1())).encode())
    document["answer"] = b64u(json.dumps(payload).encode())
    path.write_text(json.dumps(document))
    told = site.wrap("--ek", site.ek_file)
    assert told.exit_code == 2 and "no wrap key of this site" in told.output
    path.write_text("{}")
    assert "no wrap key of this site" in site.wrap("--ek", site.ek_file).output
    assert not site.file.exists()


def test_the_ek_must_be_the_one_that_the_note_names(site: WrapSite, tmp_path: Path) -> None:
    site.send_key()
    told = site.wrap()
    assert told.exit_code == 2
    for word in ("give --ek", "EK certificate", "ek.pub", "its hash alone"):
        assert word in told.output
    other = tmp_path / "other.pub"
    other.write_bytes(ek_area(ec.generate_private_key(ec.SECP256R1())).encode())
    told = site.wrap("--ek", other)
    assert told.exit_code == 2 and "not the EK that the note names" in told.output
    other.write_bytes(b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n")
    assert site.wrap("--ek", other).exit_code == 2
    assert not site.file.exists()


def test_a_key_that_is_no_endorsement_key_gets_nothing(site: WrapSite, tmp_path: Path) -> None:
    """A software key that somebody smuggled into the note: whoever made it could decrypt."""
    fake = ek_area(ec.generate_private_key(ec.SECP256R1()))
    site.deliver(2, entry(fake))
    site.send_key()
    path = tmp_path / "fake.pub"
    path.write_bytes(fake.encode())
    told = site.wrap("--ek", path)
    assert told.exit_code == 2 and "no endorsement key" in told.output


def test_the_ek_may_come_from_its_certificate(site: WrapSite, tmp_path: Path) -> None:
    machine = SoftwareTpm(tmp_path / "certified", certificates=True)
    try:
        with machine.open(), Tpm(f"swtpm:path={machine.directory / 's'}") as tpm:
            ek = PublicArea.decode(tpm.load_ek())
            stored = tpm.ek_certificates()[0]
    finally:
        machine.stop()
    site.deliver(2, entry(ek))
    site.send_key()
    path = tmp_path / "ek.der"
    path.write_bytes(stored)
    done = site.wrap("--ek", path)
    assert done.exit_code == 0, done.output
    document = json.loads(site.file.read_bytes())
    assert unb64u(document["ek_name"]) == ek.name()


def test_the_note_must_be_signed_and_name_the_box(site: WrapSite) -> None:
    site.send_key()
    told = site.wrap("--ek", site.ek_file, serial="S9")
    assert told.exit_code == 2 and "no box has the serial 'S9'" in told.output
    bare = note.Entry(serial="S1", model=None, ek_sha256=None, role=None, name=None)
    site.deliver(2, bare)
    told = site.wrap("--ek", site.ek_file)
    assert told.exit_code == 2 and "has no ek_sha256" in told.output
    path = site.headquarters / "delivery.csv"
    path.write_bytes(path.read_bytes().replace(b"S1", b"S2"))
    told = site.wrap("--ek", site.ek_file, serial="S2")
    assert told.exit_code == 2 and "not what was signed" in told.output


def test_values_come_from_standard_input_alone(site: WrapSite) -> None:
    site.send_key()
    told = site.wrap("--ek", site.ek_file, "--", VALUE.decode())
    assert told.exit_code == 2 and "standard input" in told.output
    assert site.wrap("--ek", site.ek_file, given=b"").exit_code == 2
    assert site.wrap("--ek", site.ek_file, given=os.urandom(65537)).exit_code == 2
    assert not site.file.exists()


def test_only_secrets_of_tier_box_are_wrapped(site: WrapSite) -> None:
    site.send_key()
    options = ["--note", str(site.headquarters / "delivery.csv"), "--serial", "S1"]
    options += ["--site", str(site.headquarters), "--ek", str(site.ek_file)]
    for name in ("pos-api-token", "unknown"):
        told = CliRunner().invoke(main, ["wrap", name, *options], input=b"x")
        assert told.exit_code == 2 and "of tier box" in told.output
    assert code(site.operator, "secret_put", name="vault-key", value="AA") == "TIER"


def test_stock_minisign_shows_what_was_signed(site: WrapSite) -> None:
    """The form is minisign's: the comment is readable without us, and of the right purpose."""
    site.send_key()
    path = site.wrapped("--version", "12", "--ttl", "2d")
    text = path.with_name(f"{path.name}.minisig").read_text()
    wanted = "site=shop-0417 secret=vault-key serial=S1 version=12"
    assert f"trusted comment: doorstep/v1/wrapped-secret {wanted}\n" in text
    document = json.loads(path.read_bytes())
    assert document["expires"] - document["issued"] == 2 * 86400
    area = PublicArea.decode(site.ek_file.read_bytes()[2:])
    assert unb64u(document["ek_name"])[2:] == sha256(area.encode()).digest()
