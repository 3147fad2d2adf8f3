"""Signed documents: every reason has a vector, every kind is in the table and in the document."""

from __future__ import annotations

import re
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Any

import make_signed_vectors as make
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import PeerError
from keys.manifest import ManifestError, ManifestReason, sign
from keys.signed import (
    APPROVAL,
    KINDS,
    NOTE,
    Counted,
    Floor,
    Kind,
    SignedError,
    SignedReason,
    Sites,
    check_either,
    check_signed,
    claimed_kind,
    size_text,
    standard_comment,
)

VECTORS = {path.stem: tomllib.loads(path.read_text()) for path in make.FOLDER.glob("*.toml")}
PUBLIC = make.PUBLIC.encode()
DOCUMENT = Path(__file__).parents[1] / "docs/signed-inputs.md"


def check(vector: dict[str, Any]) -> Any:
    """Check a vector as a site does."""
    kind = KINDS[vector["kind"]]
    data = b"x" * vector["fill"] if "fill" in vector else vector["data"].encode()
    asked: list[tuple[str, str]] = []

    def floors(name: str, subject: str) -> Floor | None:
        asked.append((name, subject))
        if "floor_counter" not in vector:
            return None
        digest = bytes.fromhex(vector["floor_digest"])
        return Floor(counter=vector["floor_counter"], digest=digest)

    signatures = [one.encode() for one in vector["signatures"]]
    found = check_either(
        kind, data, signatures, public_key=PUBLIC, site_id=make.SITE, floors=floors
    )
    if kind.counted in (Counted.SITE, Counted.SUBJECT):
        assert asked and set(asked) == {(kind.name, found.subject)}
    return found


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name: str) -> None:
    vector = VECTORS[name]
    if vector["expect"] == "ok":
        found = check(vector)
        assert found.kind.name == vector["kind"]
        assert found.data == vector["data"].encode()
        assert found.signature.decode() == vector["signatures"][-1]
        return
    with pytest.raises((SignedError, ManifestError)) as refused:
        check(vector)
    assert refused.value.reason.value == vector["expect"]
    sentence = str(refused.value)
    assert sentence.count(": ") >= 1, "what, then what to do"
    if vector["expect"].startswith("INPUT"):
        assert KINDS[vector["kind"]].title in sentence and sentence[0].islower()


def test_every_reason_has_a_vector_and_every_kind_a_good_and_a_large_one() -> None:
    seen = {one["expect"] for one in VECTORS.values()}
    assert seen == {"ok"} | {one.value for one in (*SignedReason, *ManifestReason)}
    for wanted in ("ok", "INPUT-TOO-LARGE"):
        told = {one["kind"] for one in VECTORS.values() if one["expect"] == wanted}
        assert set(KINDS) - told <= ({"backup-key", "resealed-backup"} if wanted == "ok" else set())


def test_the_vectors_are_what_their_generator_makes(tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in make.FOLDER.glob("*.toml")}
    folder, make.FOLDER = make.FOLDER, tmp_path
    try:
        make.main()
    finally:
        make.FOLDER = folder
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.toml")} == before


def test_what_is_checked_says_all_that_was_signed() -> None:
    found = check(VECTORS["approval"])
    assert (found.site, found.counter, found.subject) == (make.SITE, 3, make.EK)
    assert found.signer == make.PUBLIC.key_id[::-1].hex().upper()
    assert found.floor == Floor(counter=3, digest=sha256(b"{}").digest())
    assert check(VECTORS["wrapped"]).fields == {
        "secret": "vault-key",
        "serial": "S 1",
        "version": "12",
    }
    assert check(VECTORS["policy-of-all"]).site == check(VECTORS["firmware-of-before"]).site == "*"
    assert check(VECTORS["policy-of-a-site"]).site == check(VECTORS["note"]).site == make.SITE
    assert check(VECTORS["boot-set"]).subject == "enrol"
    assert check(VECTORS["boot-set"]).site is None
    with pytest.raises(ValueError, match="no counter"):
        _ = check(VECTORS["rehearsal"]).floor


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("other-site", "is for site shop-0418, this is shop-0417"),
        ("note-for-all", "is for site *, this is shop-0417"),
        ("firmware-of-one", "is for site shop-0417, it must be for all sites"),
        ("older", "has counter 3, this site has seen 4"),
        ("too-large-delivery-note", "is larger than 4 MiB"),
    ],
)
def test_the_sentence_says_what_differs(name: str, said: str) -> None:
    with pytest.raises(SignedError) as refused:
        check(VECTORS[name])
    assert said in str(refused.value)


def test_of_two_signatures_the_first_is_told_of() -> None:
    good = make.signed(NOTE, make.TEXT)
    cut, strange = good[:-20], make.signed(NOTE, make.TEXT, key=make.STRANGER)
    for signatures, wanted in (
        ((cut, strange), ManifestReason.MALFORMED),
        ((strange, cut), ManifestReason.OTHER_KEY),
    ):
        with pytest.raises(ManifestError) as refused:
            check_either(NOTE, make.TEXT, signatures, public_key=PUBLIC, site_id=make.SITE)
        assert refused.value.reason is wanted


def test_a_size_is_told_in_whole_units() -> None:
    told = [size_text(size) for size in (0, 100, 1024, 1536, 4096, 1 << 20, (1 << 20) + 1024)]
    assert told == ["0 bytes", "100 bytes", "1 KiB", "1536 bytes", "4 KiB", "1 MiB", "1025 KiB"]


def test_every_kind_has_a_purpose_of_its_own() -> None:
    contexts = [kind.context for kind in KINDS.values()]
    assert len(set(contexts)) == len(contexts)
    assert all(re.fullmatch(r"doorstep/v1/[a-z-]+", one) for one in contexts)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
@pytest.mark.parametrize("other", KINDS.values(), ids=lambda kind: kind.name)
def test_a_signature_serves_one_purpose(kind: Kind, other: Kind) -> None:
    """Each signature of one kind, held beside a document of every other."""
    if kind is other:
        return
    signature = sign(make.KEY, b"{}", trusted_comment=make.STANDARD, context=kind.context)
    assert claimed_kind(signature) is kind
    with pytest.raises(ManifestError) as refused:
        check_signed(other, b"{}", signature, public_key=PUBLIC, site_id=make.SITE)
    assert refused.value.reason is ManifestReason.CONTEXT


GOOD = sign(make.KEY, make.TEXT, trusted_comment=make.STANDARD, context=NOTE.context)


@pytest.mark.parametrize("end", range(len(GOOD)))
def test_a_signature_cut_anywhere_is_refused(end: int) -> None:
    if GOOD[:end] == GOOD.removesuffix(b"\n"):
        return  # a line's end at the end is the writer's taste
    with pytest.raises(ManifestError):
        check_signed(NOTE, make.TEXT, GOOD[:end], public_key=PUBLIC, site_id=make.SITE)


@pytest.mark.parametrize("end", range(len(make.TEXT)))
def test_a_document_cut_anywhere_is_refused(end: int) -> None:
    with pytest.raises(ManifestError) as refused:
        check_signed(NOTE, make.TEXT[:end], GOOD, public_key=PUBLIC, site_id=make.SITE)
    assert refused.value.reason is ManifestReason.WRONG
    assert "copy it again, whole" in str(refused.value)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_any_byte_of_a_signature_that_counts_is_looked_at(at: int, flip: int) -> None:
    """The comment that nobody believes may say anything, in one line."""
    changed = bytearray(GOOD)
    changed[at] ^= flip
    first = GOOD.index(b"\n")
    told = b"untrusted comment: "
    if len(told) <= at < first and changed[at] != ord("\n"):
        check_signed(NOTE, make.TEXT, bytes(changed), public_key=PUBLIC, site_id=make.SITE)
        return
    with pytest.raises((SignedError, ManifestError)):
        check_signed(NOTE, make.TEXT, bytes(changed), public_key=PUBLIC, site_id=make.SITE)


@given(st.binary(max_size=300), st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused_with_a_reason(data: bytes, signature: bytes) -> None:
    for kind in KINDS.values():
        with pytest.raises((SignedError, ManifestError)):
            check_signed(kind, data, signature, public_key=PUBLIC, site_id=make.SITE)
    assert claimed_kind(signature) is None or signature
    assert claimed_kind(GOOD + bytes(4096)) is None


@given(st.text(max_size=60).filter(lambda text: all(ord(char) >= 32 for char in text)))
@settings(max_examples=100, deadline=None)
def test_any_comment_that_headquarters_signed_is_a_document_or_refused(comment: str) -> None:
    for kind in KINDS.values():
        try:
            signature = sign(make.KEY, b"{}", trusted_comment=comment, context=kind.context)
        except UnicodeEncodeError:
            return
        try:
            found = check_signed(kind, b"{}", signature, public_key=PUBLIC, site_id=make.SITE)
        except PeerError:
            continue
        assert found.site in (None, "*", make.SITE)


@given(st.integers(0, 10**18 - 1), st.none() | st.integers(0, 10**18 - 1), st.booleans())
@settings(max_examples=100, deadline=None)
def test_counters_only_grow(counter: int, seen: int | None, same: bool) -> None:
    comment = standard_comment(make.SITE, counter)
    signature = sign(make.KEY, b"a", trusted_comment=comment, context=NOTE.context)
    before = None
    if seen is not None:
        before = Floor(counter=seen, digest=sha256(b"a" if same else b"b").digest())
    try:
        found = check_signed(
            NOTE,
            b"a",
            signature,
            public_key=PUBLIC,
            site_id=make.SITE,
            floors=lambda kind, subject: before,
        )
    except SignedError as error:
        assert seen is not None
        wanted = SignedReason.OLDER if counter < seen else SignedReason.CHANGED
        assert error.reason is wanted
        assert counter < seen or (counter == seen and not same)
        return
    assert found.counter == counter
    assert seen is None or counter > seen or (counter == seen and same)


def test_only_the_check_makes_a_signed_input() -> None:
    """No other module of ours calls the constructor."""
    root = Path(__file__).parents[1]
    callers = [
        path.relative_to(root).as_posix()
        for package in ("attest", "bootstrap", "keys", "netboot")
        for path in (root / package).rglob("*.py")
        if re.search(r"\bSignedInput\(", path.read_text())
    ]
    assert callers == ["keys/signed.py"]


def test_the_document_has_the_table_of_kinds() -> None:
    rows = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `doorstep/v1/"):
            rows[cells[0].strip("`")] = cells[1:]
    assert set(rows) == {kind.context for kind in KINDS.values()}
    for kind in KINDS.values():
        title, comment, sites, counted, size, changes = rows[kind.context]
        assert title == kind.title
        assert comment.strip("`") == kind.shown
        assert (
            sites
            == {
                Sites.ONE: "this site",
                Sites.ALL: "all",
                Sites.EITHER: "this site or all",
                Sites.UNSAID: "not said",
            }[kind.sites]
        )
        assert (
            counted
            == {
                Counted.NOT: "none",
                Counted.SITE: "one for the site",
                Counted.SUBJECT: "one for each " + ("EK" if kind is APPROVAL else "name"),
                Counted.OWN: "`wrapped` in keys.db",
            }[kind.counted]
        )
        assert (size, changes) == (size_text(kind.max_bytes), kind.changes)
