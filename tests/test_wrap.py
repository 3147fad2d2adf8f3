"""Wrapped secrets without a TPM: the file, who signed it, and what the site makes of it."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from keys_site import EK, OTHER_EK, SITE_TOML
from wrap_lab import NOW, VALUE

from bootstrap.agent.errors import AgentError
from bootstrap.agent.wrapped import open_value, read_items
from keys.envelope import SEALED_PCRS, Boot, b64u, unb64u
from keys.errors import PeerError
from keys.io.authority import WRAP_KEY, Authority
from keys.io.layout import SERVICES, Layout
from keys.io.ring import FileRing
from keys.io.site_files import SiteFiles
from keys.io.store import Store
from keys.io.vault import Vault
from keys.io.wrapping import Wrapping
from keys.manifest import ManifestError, ManifestReason, PublicKey, sign
from keys.note import CONTEXT as NOTE_CONTEXT
from keys.policy import approved
from keys.secret import Secret
from keys.tpm_public import Attributes, PublicArea, RsaPublic
from keys.wrap import (
    CONTEXT,
    MAX_FILE,
    Label,
    Randomness,
    WrappedSecret,
    approve,
    decode_key,
    for_box,
    key_area,
    revoke,
    wrap,
)

SITE, NAME, DAY = "shop-0417", "vault-key", 86400
KEY = ec.generate_private_key(ec.SECP256R1())
SIGNER = Ed25519PrivateKey.generate()
PUBLIC = PublicKey.of(SIGNER.public_key()).encode()
VECTOR = tomllib.loads((Path(__file__).parent / "vectors/wrap/wrapped.toml").read_text())
BOOT = Boot(
    reset_count=7,
    restart_count=0,
    clock_before=600_000,
    pcrs={index: bytes(32) for index in SEALED_PCRS},
).policy()


def label(ek: PublicArea = EK, key: ec.EllipticCurvePrivateKey = KEY, **changes: Any) -> Label:
    one = Label(
        site=SITE,
        name=NAME,
        version=1,
        serial="S1",
        issued=NOW,
        expires=NOW + DAY,
        ek_name=ek.name(),
        key_name=key_area(key.public_key()).name(),
    )
    return replace(one, **changes)


def wrapped(one: Label, value: bytes = VALUE, ek: PublicArea = EK) -> WrappedSecret:
    drawn = Randomness.cut(os.urandom(Randomness.SIZE))
    return wrap(one, Secret(value), ek=ek, randomness=drawn)


def signed(one: WrappedSecret, **changes: Any) -> bytes:
    how: dict[str, Any] = {"trusted_comment": one.label.comment(), "context": CONTEXT}
    how |= {"key": SIGNER} | changes
    return sign(
        how["key"], one.encode(), trusted_comment=how["trusted_comment"], context=how["context"]
    )


# the form


def test_the_vector_is_made_again_byte_by_byte() -> None:
    ek = PublicArea.decode(bytes.fromhex(VECTOR["ek_public"]))
    key = decode_key(bytes.fromhex(VECTOR["key_public"]))
    names = ("site", "name", "version", "serial", "issued", "expires")
    one = wrap(
        Label(**{name: VECTOR[name] for name in names}, ek_name=ek.name(), key_name=key.name()),
        Secret(VECTOR["value"].encode()),
        ek=ek,
        randomness=Randomness.cut(bytes.fromhex(VECTOR["randomness"])),
    )
    assert one.label.reference.hex() == VECTOR["reference"]
    assert one.label.policy().digest.hex() == VECTOR["policy_digest"]
    assert one.sealed is not None
    assert one.sealed.proof.hex() == VECTOR["proof"]
    assert one.sealed.ciphertext.hex() == VECTOR["ciphertext"]
    assert one.label.comment() == VECTOR["comment"]
    assert sha256(one.encode()).hexdigest() == VECTOR["file"]
    # the box's own code, which shares none with this, comes to the same
    document = json.dumps({"wrapped": [for_box(one, key, bytes(64))]}).encode()
    assert b64u(one.sealed.proof).encode() not in document, "who reports it opened the share"
    (item,) = read_items(document, VECTOR["site"], ek.name())
    assert item.reference.hex() == VECTOR["reference"]
    opened = open_value(item, bytes.fromhex(VECTOR["randomness"])[:32])
    assert (opened.value.decode(), opened.proof.hex()) == (VECTOR["value"], VECTOR["proof"])
    assert VECTOR["value"] not in repr((one, item, opened))


@pytest.mark.parametrize(("algorithm", "size"), [(0x0B, 32), (0x0C, 48), (0x0D, 64)])
def test_names_of_each_hash_that_tpms_have(algorithm: int, size: int) -> None:
    one = revoke(replace(label(), ek_name=algorithm.to_bytes(2, "big") + bytes(size)))
    assert WrappedSecret.decode(one.encode()) == one


def test_what_is_written_is_read_again() -> None:
    for one in (wrapped(label()), wrapped(label(), bytes(64 * 1024)), revoke(label())):
        assert WrappedSecret.decode(one.encode()) == one
        assert len(one.encode()) <= MAX_FILE


@settings(max_examples=100)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_in_a_sentence(data: bytes) -> None:
    with pytest.raises(PeerError):
        WrappedSecret.decode(data)


GOOD = json.loads(wrapped(label()).encode())
PATHS = [(name,) for name in GOOD] + [("sealed", name) for name in GOOD["sealed"]]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=50) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


@settings(max_examples=150)
@given(path=st.sampled_from(PATHS), value=JSON)
def test_any_value_in_any_field_is_refused_or_is_another_label(
    path: tuple[str, ...], value: object
) -> None:
    document = json.loads(json.dumps(GOOD))
    target = document["sealed"] if len(path) == 2 else document
    target[path[-1]] = value
    data = json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
    try:
        found = WrappedSecret.decode(data)
    except PeerError:
        return
    assert found.encode() == data
    # whatever says for whom and what is in the share's policy; the rest is for people
    assert path[-1] in ("serial", "issued", "expires", "sealed", "proof", "nonce", "ciphertext")


def with_password(document: dict[str, Any]) -> str:
    """Let the share open by a password too (userWithAuth)."""
    area = PublicArea.decode(unb64u(document["sealed"]["sealed_public"]))
    return b64u(replace(area, attributes=area.attributes | Attributes.USER_WITH_AUTH).encode())


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "another-type": lambda d: d.update(type="doorstep/wrapped/v2"),
    "a-field-more": lambda d: d.update(more=1),
    "a-field-less": lambda d: d.pop("serial"),
    "version-zero": lambda d: d.update(version=0),
    "version-true": lambda d: d.update(version=True),
    "version-too-large": lambda d: d.update(version=1 << 53),
    "no-name-of-a-secret": lambda d: d.update(name="../x"),
    "a-control-character": lambda d: d.update(serial="S\x1b[2J"),
    "no-tpm-name": lambda d: d.update(ek_name=b64u(b"\0\x0b" + bytes(31))),
    "an-unknown-hash": lambda d: d.update(ek_name=b64u(b"\0\x12" + bytes(32))),
    "another-ek": lambda d: d.update(ek_name=b64u(OTHER_EK.name())),
    "another-key": lambda d: d.update(key_name=b64u(b"\0\x0b" + bytes(32))),
    "another-version": lambda d: d.update(version=2),
    "another-site": lambda d: d.update(site="shop-0418"),
    "another-secret": lambda d: d.update(name="wifi-psk"),
    "a-short-nonce": lambda d: d["sealed"].update(nonce=b64u(bytes(11))),
    "a-short-proof": lambda d: d["sealed"].update(proof=b64u(bytes(31))),
    "a-long-nonce": lambda d: d["sealed"].update(nonce=b64u(bytes(13))),
    "a-long-value": lambda d: d["sealed"].update(ciphertext=b64u(bytes(65536 + 17))),
    "a-password": lambda d: d["sealed"].update(sealed_public=with_password(d)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused(damage: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(json.dumps(GOOD))
    damage(document)
    assert json.dumps(document) != json.dumps(GOOD)
    with pytest.raises(PeerError):
        WrappedSecret.decode(json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "doorstep/wrapped/v2"),
        ("name", "../x"),
        ("name", "A"),
        ("serial", ""),
        ("serial", "x" * 129),
        ("serial", "S\x1b[2J"),
        ("serial", ["S", "1"]),
        ("site", {}),
        ("version", 0),
        ("version", 1.5),
        ("version", True),
        ("issued", -1),
        ("expires", 1 << 53),
        ("ek_name", b64u(b"\0\x0b" + bytes(31))),
        ("ek_name", b64u(b"\0\x12" + bytes(32))),
        ("ek_name", 5),
        ("sealed", {}),
    ],
)
def test_a_revocation_with_a_wrong_field_is_refused(field: str, value: object) -> None:
    """No policy stands beside its label: each field is held by its own check."""
    document = json.loads(revoke(label()).encode())
    data = json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
    assert WrappedSecret.decode(data).sealed is None
    document[field] = value
    with pytest.raises(PeerError):
        WrappedSecret.decode(json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


def test_other_spellings_of_a_good_file_are_refused() -> None:
    with pytest.raises(PeerError, match="not written as"):
        WrappedSecret.decode(json.dumps(GOOD).encode())
    with pytest.raises(PeerError, match="KiB"):
        WrappedSecret.decode(wrapped(label()).encode() + b" " * MAX_FILE)


def test_what_cannot_be_wrapped() -> None:
    for value in (b"", bytes(64 * 1024 + 1)):
        with pytest.raises(ValueError, match="bytes"):
            wrapped(label(), value)
    with pytest.raises(ValueError, match="another EK"):
        wrapped(label(), ek=OTHER_EK)
    with pytest.raises(ValueError, match="random bytes"):
        Randomness.cut(bytes(3))
    with pytest.raises(ValueError, match="revoked"):
        for_box(revoke(label()), key_area(KEY.public_key()), bytes(64))


def test_a_key_of_another_form_is_no_wrap_key() -> None:
    area = key_area(KEY.public_key())
    assert decode_key(area.encode()) == area
    numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    modulus = numbers.n.to_bytes(256)
    rsa_key = RsaPublic(symmetric=None, scheme=None, bits=2048, exponent=0, modulus=modulus)
    for wrong in (
        EK,
        replace(area, key=rsa_key),
        replace(area, attributes=area.attributes | 1 << 16),
    ):
        with pytest.raises(PeerError):
            decode_key(wrong.encode())


def test_an_approval_is_for_one_policy_and_one_label() -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import utils

    from bootstrap.agent.signature import verify_pair

    pair = approve(KEY, BOOT, label())
    der = utils.encode_dss_signature(int.from_bytes(pair[:32]), int.from_bytes(pair[32:]))
    digest = approved(BOOT, label().reference)
    KEY.public_key().verify(der, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    # it signs H(policy ‖ reference), as TPM2_PolicyAuthorize wants: the message is that, once
    assert verify_pair(KEY.public_key(), BOOT.digest + label().reference, pair)
    references = {
        one.reference
        for one in (
            label(),
            label(version=2),
            label(name="other"),
            label(site="shop-0418"),
            label(OTHER_EK),
        )
    }
    assert len(references) == 5


# who signed it


def check(one: WrappedSecret, **changes: Any) -> WrappedSecret:
    how: dict[str, Any] = {"data": one.encode(), "signature": signed(one)}
    how |= {"public_key": PUBLIC, "site_id": SITE} | changes
    return WrappedSecret.verify(
        how["data"], how["signature"], public_key=how["public_key"], site_id=how["site_id"]
    )


def test_what_headquarters_signed_is_taken() -> None:
    one = wrapped(label())
    assert check(one) == one


def reason(one: WrappedSecret, **changes: Any) -> ManifestReason:
    with pytest.raises(ManifestError) as failure:
        check(one, **changes)
    return failure.value.reason


def test_what_headquarters_did_not_sign_is_refused() -> None:
    one = wrapped(label())
    other = Ed25519PrivateKey.generate()
    changed = wrapped(label()).encode()
    assert reason(one, data=changed) is ManifestReason.WRONG
    assert reason(one, signature=signed(one, key=other)) is ManifestReason.OTHER_KEY
    assert reason(one, signature=signed(one, context=NOTE_CONTEXT)) is ManifestReason.CONTEXT
    said = signed(one).replace(b"version=1", b"version=9")
    assert reason(one, signature=said) is ManifestReason.COMMENT
    assert reason(one, signature=b"") is ManifestReason.MALFORMED


def test_a_comment_that_says_another_thing_is_refused() -> None:
    one = wrapped(label())
    with pytest.raises(PeerError, match="trusted comment"):
        check(one, signature=signed(one, trusted_comment=label(version=9).comment()))


def test_another_sites_is_refused() -> None:
    with pytest.raises(PeerError, match="shop-0418"):
        check(wrapped(label(site="shop-0418")))


# what the site makes of it


class Keys:
    """The parts of the keys process that wrapped secrets touch, on a disk, without its socket."""

    def __init__(self, directory: Path) -> None:
        for name in ("site/trust", "state/keys", "run/keys"):
            (directory / name).mkdir(parents=True)
        self.layout = Layout(
            site=directory / "site",
            state=directory / "state",
            run=directory / "run",
            users=dict.fromkeys(SERVICES, os.getuid()),
        )
        (self.layout.site / "site.toml").write_text(SITE_TOML)
        (self.layout.site / "trust/root.pub").write_bytes(PUBLIC)
        self._open(is_new=True)
        self.key = self.vault.key_pair(WRAP_KEY)

    def _open(self, *, is_new: bool) -> None:
        self.store = Store(self.layout.state / "keys/keys.db")
        self.vault = Vault(self.store, FileRing(self.layout, is_new=is_new), SITE)
        authority, files = (
            Authority(self.layout, self.store, self.vault, SITE),
            SiteFiles(self.layout),
        )
        authority.draw()
        self.wrapping = Wrapping(self.layout, self.store, self.vault, authority, files)

    def restart(self) -> None:
        self.store.close()
        self._open(is_new=False)

    def wrapped(self, ek: PublicArea = EK, value: bytes = VALUE, **changes: Any) -> WrappedSecret:
        return wrapped(label(ek, self.key, **changes), value, ek)

    def take(self, one: WrappedSecret, *, now: float = NOW, look: bool = False) -> dict[str, Any]:
        params = {"file": b64u(one.encode()), "sig": b64u(signed(one)), "look": look}
        return dict(self.wrapping.take("operator", params, now))

    def refuses(self, one: WrappedSecret, *, now: float = NOW) -> str:
        with pytest.raises(PeerError) as failure:
            self.take(one, now=now)
        return str(failure.value)

    def why_not(self, ek: PublicArea = EK, *, now: float = NOW) -> str | None:
        """Give the reason why a box gets nothing; None when it gets it."""
        passed = self.wrapping.give([NAME], ek.name(), BOOT, now)
        if passed.items:
            assert (len(passed.items), passed.withheld) == (1, [])
            return None
        assert not passed.proofs and not passed.versions
        (withheld,) = passed.withheld
        assert withheld["name"] == NAME
        return str(withheld["reason"])


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    one = Keys(tmp_path)
    yield one
    one.store.close()


def test_it_is_passed_on_with_an_approval_of_the_boot(keys: Keys) -> None:
    one = keys.wrapped()
    assert keys.why_not() == "SECRET-NOT-WRAPPED"
    looked = keys.take(one, look=True)
    assert (looked["taken"], looked["before"], looked["serial"]) == (False, None, "S1")
    assert keys.why_not() == "SECRET-NOT-WRAPPED", "looking changes nothing"
    taken = keys.take(one)
    assert (taken["taken"], taken["version"], taken["on_note"]) == (True, 1, False)
    passed = keys.wrapping.give([NAME], EK.name(), BOOT, NOW)
    (item,) = passed.items
    assert (passed.versions, item["version"]) == ({NAME: 1}, 1)
    assert one.sealed is not None and passed.proofs[NAME].reveal() == one.sealed.proof
    assert passed.unless_opened() == [{"name": NAME, "reason": "SECRET-WRAPPED", "since": None}]
    assert keys.why_not(OTHER_EK) == "SECRET-NOT-WRAPPED"
    kinds = [event["kind"] for event in keys.store.events(0, 99)]
    assert kinds == ["wrapped-taken"]


def test_the_same_file_again_changes_nothing(keys: Keys) -> None:
    one = keys.wrapped()
    keys.take(one)
    assert keys.take(one)["taken"] is False
    assert len(keys.store.events(0, 99)) == 1


def test_a_newer_version_replaces_and_an_older_never_comes_back(keys: Keys) -> None:
    old = keys.wrapped(version=4)
    keys.take(old)
    assert "version 4 was taken" in keys.refuses(keys.wrapped(version=3))
    assert "--version 5" in keys.refuses(keys.wrapped(version=4)), "another one of that number"
    new = keys.wrapped(version=5)
    assert keys.take(new)["before"] == 4
    assert "version 5 was taken" in keys.refuses(old)
    assert keys.wrapping.give([NAME], EK.name(), BOOT, NOW).versions == {NAME: 5}
    content = (keys.layout.state / "keys/keys.db").read_bytes()
    assert old.sealed is not None and b64u(old.sealed.seed).encode() not in content


def test_versions_of_two_boxes_are_their_own(keys: Keys) -> None:
    keys.take(keys.wrapped(version=4))
    keys.take(keys.wrapped(OTHER_EK, version=1, serial="S2"))
    assert keys.why_not() is keys.why_not(OTHER_EK) is None
    listed = keys.wrapping.listed(NAME, NOW)
    assert (listed["boxes"], listed["reason"], listed["usable_until"]) == (2, None, NOW + DAY)


def test_it_ends_when_its_file_says(keys: Keys) -> None:
    one = keys.wrapped()
    keys.take(one)
    assert keys.why_not(now=NOW + DAY - 1) is None
    assert keys.why_not(now=NOW + DAY) == "SECRET-EXPIRED"
    assert keys.wrapping.listed(NAME, NOW + DAY)["reason"] == "SECRET-EXPIRED"
    assert "has ended" in keys.refuses(keys.wrapped(version=2), now=NOW + DAY)


@pytest.mark.parametrize("how", ["file", "remove", "box"])
def test_what_was_revoked_is_gone_and_stays_a_floor(keys: Keys, how: str) -> None:
    one = keys.wrapped(version=2)
    keys.take(one)
    if how == "file":
        keys.take(revoke(label(EK, keys.key, version=3)))
    elif how == "remove":
        with keys.vault.revoking():
            assert keys.store.remove_secret(NAME)
    else:
        with keys.vault.revoking():
            keys.store.revoke(EK.name(), NOW)
    assert keys.why_not() == "SECRET-REVOKED"
    assert keys.wrapping.listed(NAME, NOW)["reason"] == "SECRET-REVOKED"
    assert "was taken for this box" in keys.refuses(one)
    keys.take(keys.wrapped(version=4))
    assert keys.why_not() is None


def test_a_revocation_may_come_first_and_late(keys: Keys) -> None:
    """It is about every version so far, whichever key they were wrapped for."""
    late = revoke(label(version=7))
    assert keys.take(late, now=NOW + 9 * DAY)["revokes"]
    assert keys.take(late)["taken"] is False
    assert keys.why_not() == "SECRET-REVOKED"
    assert "version 7 was taken" in keys.refuses(keys.wrapped(version=6))


def test_what_is_not_for_this_controller_is_refused(keys: Keys) -> None:
    assert "wrap-key" in keys.refuses(wrapped(label()))
    assert "of tier box" in keys.refuses(keys.wrapped(name="pos-api-token"))
    assert "of tier box" in keys.refuses(keys.wrapped(name="nobody-s"))
    assert "shop-0418" in keys.refuses(keys.wrapped(site="shop-0418"))
    assert not keys.store.events(0, 99)


def test_a_row_that_was_moved_is_not_given(keys: Keys) -> None:
    keys.take(keys.wrapped())
    keys.take(keys.wrapped(OTHER_EK, serial="S2", version=2))
    with keys.store.transaction():
        keys.store.execute(
            "UPDATE wrapped SET file=(SELECT file FROM wrapped WHERE ek_name=?) WHERE ek_name=?",
            OTHER_EK.name(),
            EK.name(),
        )
    assert keys.why_not() == "SECRET-UNREADABLE"
    assert keys.why_not(OTHER_EK) is None
    with keys.store.transaction():
        keys.store.execute("UPDATE wrapped SET file=x'00' WHERE ek_name=?", OTHER_EK.name())
    assert keys.why_not(OTHER_EK) == "SECRET-UNREADABLE"


def test_the_key_is_the_same_after_a_revocation_and_a_restart(keys: Keys) -> None:
    with keys.vault.revoking():
        keys.store.revoke(OTHER_EK.name(), NOW)
    keys.restart()
    assert keys.vault.key_pair(WRAP_KEY).public_key() == keys.key.public_key()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "revoke", "remove", "revoke-box", "restart"]),
        st.sampled_from([0, 1]),
        st.integers(1, 4),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_whatever_comes_in_whatever_order_nothing_revoked_or_older_is_given(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    """Against a model: by box the version floor, and whether a value of it is there."""
    keys, eks = Keys(tmp_path_factory.mktemp("keys")), (EK, OTHER_EK)
    model: dict[int, tuple[int, bool]] = {}
    try:
        for step, box, version in steps:
            floor, is_there = model.get(box, (0, False))
            if step in ("take", "revoke"):
                made = keys.wrapped(eks[box], version=version, serial=f"S{box}")
                one = made if step == "take" else revoke(made.label)
                if version > floor:
                    assert keys.take(one)["taken"]
                    model[box] = (version, step == "take")
                elif (version, step, is_there) == (floor, "revoke", False):
                    assert not keys.take(one)["taken"]
                else:
                    keys.refuses(one)
            elif step == "remove":
                with keys.vault.revoking():
                    keys.store.remove_secret(NAME)
                model = {each: (version, False) for each, (version, _) in model.items()}
            elif step == "revoke-box":
                with keys.vault.revoking():
                    keys.store.revoke(eks[box].name(), NOW)
                if box in model:
                    model[box] = (floor, False)
            else:
                keys.restart()
            for each, ek in enumerate(eks):
                check_model(keys, ek, model.get(each))
    finally:
        keys.store.close()


def check_model(keys: Keys, ek: PublicArea, known: tuple[int, bool] | None) -> None:
    if known is None:
        assert keys.why_not(ek) == "SECRET-NOT-WRAPPED"
    elif not known[1]:
        assert keys.why_not(ek) == "SECRET-REVOKED"
    else:
        assert keys.wrapping.give([NAME], ek.name(), BOOT, NOW).versions == {NAME: known[0]}


# the box's reading


ITEM = for_box(wrapped(label()), key_area(KEY.public_key()), bytes(64))


@settings(max_examples=150)
@given(name=st.sampled_from(sorted(ITEM)), value=JSON)
def test_any_item_is_read_or_refused_by_the_box(name: str, value: object) -> None:
    for item in (ITEM | {name: value}, {k: v for k, v in ITEM.items() if k != name}):
        try:
            document = json.dumps({"wrapped": [item]}).encode()
            assert len(read_items(document, SITE, EK.name())) == 1
        except AgentError:
            continue


@settings(max_examples=100)
@given(value=JSON)
def test_any_list_is_read_or_refused_by_the_box(value: object) -> None:
    try:
        read_items(json.dumps({"wrapped": value}).encode(), SITE, EK.name())
    except AgentError:
        return
    assert value == []


def test_a_hand_off_without_the_field_has_none() -> None:
    assert read_items(b"{}", SITE, EK.name()) == ()


def test_a_box_takes_so_many_and_no_more() -> None:
    document = json.dumps({"wrapped": [ITEM] * 65}).encode()
    with pytest.raises(AgentError):
        read_items(document, SITE, EK.name())
