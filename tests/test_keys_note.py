"""The delivery note: signature, site, counter, form."""

from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import PeerError
from keys.manifest import PublicKey, sign
from keys.note import CONTEXT, HEADER, MAX_BYTES, DeliveryNote, Entry, Floor, decode, encode

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = PublicKey.of(KEY.public_key()).encode()
EK = b"the TPMT_PUBLIC of an EK"
ENTRY = Entry(serial="S1", model="M", ek_sha256=sha256(EK).digest(), role="pos", name="pos-01")
TEXT = encode((ENTRY, Entry(serial="S2", model=None, ek_sha256=None, role=None, name=None)))


def verified(comment="site=s counter=3", text=TEXT, context=CONTEXT, floor=None):
    signature = sign(KEY, text, trusted_comment=comment, context=context)
    return DeliveryNote.verify(text, signature, public_key=PUBLIC, site_id="s", floor=floor)


def test_a_good_note():
    note = verified()
    assert note.entry(EK) == ENTRY
    assert note.entry(EK + b"x") is None
    assert set(note.by_ek) == {ENTRY.ek_sha256}, "a box without an EK is found by none"
    assert note.floor == Floor(counter=3, digest=sha256(TEXT).digest())
    assert len(note.entries) == 2


def test_the_floor_holds():
    own = verified().floor
    assert verified(floor=own).floor == own
    assert verified("site=s counter=4", floor=own).floor.counter == 4
    with pytest.raises(PeerError, match="counter 2, this site has seen 3"):
        verified("site=s counter=2", floor=own)
    with pytest.raises(PeerError, match="another delivery note with counter 3"):
        verified(floor=replace(own, digest=bytes(32)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"comment": "site=t counter=3"}, "for site t"),
        ({"comment": "site=s"}, "trusted comment"),
        ({"comment": "site=s counter=-1"}, "trusted comment"),
        ({"comment": "site=s counter=3 more"}, "trusted comment"),
        ({"context": "doorstep/v1/boot-set"}, "another purpose"),
    ],
)
def test_a_note_for_something_else(arguments, sentence):
    with pytest.raises(PeerError, match=sentence):
        verified(**arguments)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (["S1,M,,pos"], "5 columns"),
        ([",M,,pos,"], "serial is missing"),
        (["S1,M,zz,pos,"], "ek_sha256"),
        ([f"S1,M,{'AB' * 32},pos,"], "ek_sha256"),
        (["S1 ,M,,pos,"], "blanks"),
        (["S1,M\x07,,pos,"], "no plain text"),
        (["S1,M,,pos,", "S1,M,,pos,"], "twice"),
        ([f"S1,M,{'ab' * 32},,", f"S2,M,{'ab' * 32},,"], "twice"),
        (['"S1,M,,pos,'], "no CSV"),
    ],
)
def test_a_wrong_line_is_named(rows, sentence):
    with pytest.raises(PeerError, match=sentence):
        decode("\n".join([",".join(HEADER), *rows]).encode())


def test_empty_lines_are_no_entries():
    (one,) = decode(",".join(HEADER).encode() + b"\n\nS1,M,,pos,\n\n")
    assert (one.serial, one.name) == ("S1", None)


def test_a_note_that_is_too_large():
    with pytest.raises(PeerError, match="larger than 4 MiB"):
        decode(",".join(HEADER).encode() + b"\n" * MAX_BYTES)


@pytest.mark.parametrize("text", [b"", b"serial\n", b"\xff\xfe", b"serial;model\n"])
def test_no_note_at_all(text):
    with pytest.raises(PeerError, match="delivery note"):
        decode(text)


@given(st.binary(max_size=120))
@settings(max_examples=60)
def test_any_bytes_are_a_note_or_the_peers_fault(junk):
    for text in (junk, ",".join(HEADER).encode() + b"\n" + junk):
        try:
            decode(text)
        except PeerError as error:
            assert "delivery note" in str(error)


WORD = st.text("abcXYZ09-_,\"' ", min_size=1, max_size=8).map(str.strip).filter(bool)


@given(
    st.lists(
        st.builds(
            Entry,
            serial=WORD,
            model=st.none() | WORD,
            ek_sha256=st.none() | st.binary(min_size=32, max_size=32),
            role=st.none() | WORD,
            name=st.none() | WORD,
        ),
        unique_by=(lambda one: one.serial, lambda one: one.ek_sha256 or one.serial),
        max_size=4,
    )
)
@settings(max_examples=60)
def test_what_is_written_is_read(entries):
    assert decode(encode(tuple(entries))) == tuple(entries)
