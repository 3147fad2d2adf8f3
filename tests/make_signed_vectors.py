"""Write tests/vectors/signed: signed documents, and each way in which one is not what it must be.

The key is made of fixed bytes and Ed25519 draws nothing, so that the files are the same each time.
Run it in the project's directory: `python tests/make_signed_vectors.py`.
"""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.manifest import TRUSTED, UNTRUSTED, PublicKey, sign
from keys.signed import (
    APPROVAL,
    BOOT_SET,
    FIRMWARE,
    KINDS,
    NOTE,
    PLAN,
    POLICY,
    REHEARSAL,
    SEED,
    WRAPPED,
    Kind,
)

FOLDER = Path(__file__).parent / "vectors/signed"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STRANGER = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
PUBLIC = PublicKey.of(KEY.public_key())
SITE = "shop-0417"
TEXT = b"serial,model,ek_sha256,role,name\nX1,M,,pos,\nX2,M,,pos,\n"
OTHER = TEXT + b"X3,M,,pos,\n"
SET = json.dumps({"type": "doorstep/boot-set/v1", "name": "enrol"}).encode()
EK = "000b" + "ab" * 32
STANDARD = f"site={SITE} counter=3"
Case = tuple[str, str, Kind, bytes, tuple[bytes, ...], dict[str, object]]


def signed(kind: Kind, data: bytes, comment: str = STANDARD, key: Ed25519PrivateKey = KEY) -> bytes:
    return sign(key, data, trusted_comment=comment, context=kind.context)


def by_hand(
    data: bytes, comment: str, *, algorithm: bytes = b"ED", key_id: bytes, key: Ed25519PrivateKey
) -> bytes:
    """Sign as another tool, or somebody who claims another's key id."""
    from hashlib import blake2b

    message = data if algorithm == b"Ed" else blake2b(data).digest()
    first = key.sign(message)
    second = key.sign(first + comment.encode())
    lines = (
        UNTRUSTED + b"made by hand",
        base64.b64encode(algorithm + key_id + first),
        TRUSTED + comment.encode(),
        base64.b64encode(second),
    )
    return b"\n".join((*lines, b""))


def floor(counter: int, data: bytes) -> dict[str, object]:
    return {"floor_counter": counter, "floor_digest": sha256(data).hexdigest()}


def good() -> list[Case]:
    version = f"version=3 digest={'ab' * 32}"
    secret = f"site={SITE} secret=vault-key serial=S 1 version=12"
    return [
        ("note", "ok", NOTE, TEXT, (signed(NOTE, TEXT),), {}),
        ("same-again", "ok", NOTE, TEXT, (signed(NOTE, TEXT),), floor(3, TEXT)),
        ("newer", "ok", NOTE, TEXT, (signed(NOTE, TEXT),), floor(2, OTHER)),
        (
            "two-signatures",
            "ok",
            NOTE,
            TEXT,
            (signed(NOTE, OTHER, f"site={SITE} counter=2"), signed(NOTE, TEXT)),
            floor(2, OTHER),
        ),
        ("policy-of-a-site", "ok", POLICY, b"a", (signed(POLICY, b"a"),), {}),
        ("policy-of-all", "ok", POLICY, b"a", (signed(POLICY, b"a", "site=* counter=3"),), {}),
        ("firmware", "ok", FIRMWARE, b"a", (signed(FIRMWARE, b"a", "site=* counter=3"),), {}),
        (
            "firmware-of-before",
            "ok",
            FIRMWARE,
            b"a",
            (signed(FIRMWARE, b"a", "firmware counter=3"),),
            floor(2, b"b"),
        ),
        ("plan", "ok", PLAN, b"{}", (signed(PLAN, b"{}"),), {}),
        ("seed", "ok", SEED, b"age", (signed(SEED, b"age"),), {}),
        ("boot-set", "ok", BOOT_SET, SET, (signed(BOOT_SET, SET, version),), {}),
        ("rehearsal", "ok", REHEARSAL, b"{}", (signed(REHEARSAL, b"{}", "boot set x"),), {}),
        ("approval", "ok", APPROVAL, b"{}", (signed(APPROVAL, b"{}", f"{STANDARD} ek={EK}"),), {}),
        ("wrapped", "ok", WRAPPED, b"{}", (signed(WRAPPED, b"{}", secret),), {}),
    ]


def bad_comments() -> list[Case]:
    cases = {
        "no-counter": f"site={SITE}",
        "no-site": "counter=3",
        "negative": f"site={SITE} counter=-3",
        "hexadecimal": f"site={SITE} counter=0x3",
        "too-many-digits": f"site={SITE} counter={'9' * 19}",
        "reordered": f"counter=3 site={SITE}",
        "a-word-more": f"{STANDARD} counter=9",
        "two-blanks": f"site={SITE}  counter=3",
        "no-words": "",
        "other-digits": f"site={SITE} counter=٣",
    }
    found: list[Case] = [
        (f"comment-{name}", "INPUT-COMMENT", NOTE, TEXT, (signed(NOTE, TEXT, text),), {})
        for name, text in cases.items()
    ]
    no_ek = (signed(APPROVAL, b"{}"),)
    found.append(("comment-no-ek", "INPUT-COMMENT", APPROVAL, b"{}", no_ek, {}))
    version = f"version=3 digest={'ab' * 32}"
    for name, data in (
        ("nameless", b"{}"),
        ("empty", b'{"name":""}'),
        ("no-json", b"{"),
        ("long", b'{"name":"' + b"x" * 201),
    ):
        told = data + (b'"}' if name == "long" else b"")
        signature = (signed(BOOT_SET, told, version),)
        found.append((f"boot-set-{name}", "INPUT-COMMENT", BOOT_SET, told, signature, {}))
    return found


def bad() -> list[Case]:
    for_all, for_other = "site=* counter=3", "site=shop-0418 counter=3"
    own = signed(NOTE, TEXT)
    lines = TEXT.splitlines(keepends=True)
    turned = b"".join((lines[0], lines[2], lines[1]))
    said = f"{NOTE.context} {STANDARD}"
    other_site = "INPUT-OTHER-SITE"
    return [
        ("unsigned", "INPUT-UNSIGNED", NOTE, TEXT, (), {}),
        ("other-site", other_site, NOTE, TEXT, (signed(NOTE, TEXT, for_other),), {}),
        ("note-for-all", other_site, NOTE, TEXT, (signed(NOTE, TEXT, for_all),), {}),
        ("policy-of-other", other_site, POLICY, b"a", (signed(POLICY, b"a", for_other),), {}),
        ("firmware-of-one", other_site, FIRMWARE, b"a", (signed(FIRMWARE, b"a"),), {}),
        ("older", "INPUT-OLDER", NOTE, TEXT, (own,), floor(4, OTHER)),
        ("changed", "INPUT-CHANGED", NOTE, TEXT, (own,), floor(3, OTHER)),
        (
            "older-approval",
            "INPUT-OLDER",
            APPROVAL,
            b"{}",
            (signed(APPROVAL, b"{}", f"{STANDARD} ek={EK}"),),
            floor(4, b"x"),
        ),
        (
            "older-boot-set",
            "INPUT-OLDER",
            BOOT_SET,
            SET,
            (signed(BOOT_SET, SET, f"version=3 digest={'ab' * 32}"),),
            floor(4, b"x"),
        ),
        ("other-purpose", "SIGNATURE-CONTEXT", POLICY, TEXT, (own,), {}),
        ("cut-document", "SIGNATURE-WRONG", NOTE, TEXT[:-1], (own,), {}),
        ("longer-document", "SIGNATURE-WRONG", NOTE, TEXT + b"\n", (own,), {}),
        ("turned-lines", "SIGNATURE-WRONG", NOTE, turned, (own,), {}),
        ("swapped", "SIGNATURE-WRONG", NOTE, TEXT, (signed(NOTE, OTHER),), {}),
        ("comment-altered", "SIGNATURE-COMMENT", NOTE, TEXT, (own.replace(b"=3", b"=9"),), {}),
        ("re-signed", "SIGNATURE-OTHER-KEY", NOTE, TEXT, (signed(NOTE, TEXT, key=STRANGER),), {}),
        (
            "re-signed-our-id",
            "SIGNATURE-WRONG",
            NOTE,
            TEXT,
            (by_hand(TEXT, said, key_id=PUBLIC.key_id, key=STRANGER),),
            {},
        ),
        (
            "legacy",
            "SIGNATURE-LEGACY",
            NOTE,
            TEXT,
            (by_hand(TEXT, said, algorithm=b"Ed", key_id=PUBLIC.key_id, key=KEY),),
            {},
        ),
        ("cut-signature", "SIGNATURE-MALFORMED", NOTE, TEXT, (own[:-20],), {}),
        ("empty-signature", "SIGNATURE-MALFORMED", NOTE, TEXT, (b"",), {}),
    ]


def too_large() -> list[Case]:
    """One for each kind, one byte above its limit; the data is not written into the vector."""
    return [
        (
            f"too-large-{kind.name}",
            "INPUT-TOO-LARGE",
            kind,
            b"",
            (b"",),
            {"fill": kind.max_bytes + 1},
        )
        for kind in KINDS.values()
    ]


def text_of(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.toml"):
        old.unlink()
    for name, expect, kind, data, signatures, more in (
        *good(),
        *bad(),
        *bad_comments(),
        *too_large(),
    ):
        lines = [
            "# Made by tests/make_signed_vectors.py",
            f"expect = {text_of(expect)}",
            f"kind = {text_of(kind.name)}",
            f"data = {text_of(data.decode())}",
            f"signatures = {text_of([one.decode() for one in signatures])}",
            *(f"{key} = {text_of(value)}" for key, value in more.items()),
        ]
        (FOLDER / f"{name}.toml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
