"""The forms of seeds and backups: whatever the bytes, a value or our own error."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyrage import x25519

from bootstrap import backup
from bootstrap.errors import PeerError as BackupError
from bootstrap.lease_ledger import Appliance, Ledger
from keys.errors import PeerError
from keys.parcel import (
    MAX_PLAIN,
    Header,
    Item,
    Part,
    Seed,
    What,
    asked_document,
    backup_digest,
    check_recipient,
    fingerprint,
    gather,
    identity,
    read_asked,
    recipient,
)
from keys.secret import Secret

RECIPIENT = recipient(Secret(bytes(range(32))))
HEADER = Header(
    site="shop-0417",
    ek=b"\0\x0b" + b"e" * 32,
    at=1_795_000_000,
    epoch=7,
    lease_counter=3,
    audit_number=40,
    audit_hash=b"h" * 32,
    secrets=2,
    listing=b"l" * 32,
    recipient=RECIPIENT,
)
ITEM = Item(name="pos-api-token", version=4, not_after=1_800_000_000, value=Secret(b"value"))
QUICK = settings(max_examples=100, deadline=None)

names = st.text(min_size=1, max_size=64)
numbers = st.none() | st.integers(1, (1 << 62) - 1)
items = st.builds(
    Item,
    what=st.sampled_from(What),
    name=names,
    version=numbers,
    not_after=numbers,
    value=st.binary(min_size=1, max_size=200).map(Secret),
)


@QUICK
@given(st.binary(min_size=32, max_size=32))
def test_keys_are_named_as_age_names_them(private: bytes) -> None:
    key = x25519.Identity.from_str(identity(Secret(private)).reveal().decode())
    assert str(key.to_public()) == recipient(Secret(private))
    assert check_recipient(recipient(Secret(private))) == recipient(Secret(private))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "age1",
        RECIPIENT[:-1],
        RECIPIENT + "q",
        RECIPIENT.upper(),
        RECIPIENT[:10] + ("q" if RECIPIENT[10] != "q" else "p") + RECIPIENT[11:],
        "AGE-SECRET-KEY-1" + RECIPIENT[4:],
        None,
        7,
    ],
)
def test_a_recipient_with_a_wrong_letter_is_none(text: object) -> None:
    with pytest.raises(PeerError, match="no age recipient"):
        check_recipient(text)


@QUICK
@given(st.lists(items, min_size=1, max_size=5, unique_by=lambda one: (one.what, one.name)))
def test_seeds_and_parts_are_read_as_they_were_written(some: list[Item]) -> None:
    seed = Seed(site="s", counter=9, items=tuple(some))
    assert Seed.decode(seed.encode()) == seed
    part = Part(site="s", listing=b"l" * 32, number=1, is_last=True, items=tuple(some))
    assert Part.decode(part.encode()) == part


@QUICK
@given(st.binary(max_size=300))
def test_any_bytes_give_a_value_or_our_error(data: bytes) -> None:
    for read in (Seed.decode, Part.decode, Header.decode, read_asked):
        with pytest.raises(PeerError):
            read(data)
    for decode in (backup.read_front, backup.read_trailer, backup.Statement.decode):
        try:
            decode(data)
        except BackupError:
            continue


@QUICK
@given(st.integers(0, 600), st.integers(0, 255))
def test_a_header_says_what_it_is_or_is_none(at: int, byte: int) -> None:
    line = bytearray(HEADER.encode())
    if at < len(line):
        line[at] = byte
    try:
        found = Header.decode(bytes(line))
    except PeerError:
        return
    assert found.encode() == bytes(line)


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one | {"more": 1},
        lambda one: {name: value for name, value in one.items() if name != "version"},
        lambda one: one | {"version": 0},
        lambda one: one | {"version": -1},
        lambda one: one | {"version": True},
        lambda one: one | {"not_after": "tomorrow"},
        lambda one: one | {"name": ""},
        lambda one: one | {"name": "n" * 65},
        lambda one: one | {"value": ""},
        lambda one: one | {"value": "A" * 90_000},
        lambda one: one | {"what": "other"},
    ],
)
def test_an_item_of_another_form_spoils_its_parcel(change: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Item.of(change(ITEM.document()))  # type: ignore[operator]


def test_a_seed_names_each_secret_once_and_something() -> None:
    for some in ((), (ITEM, replace(ITEM, version=5))):
        with pytest.raises(PeerError, match="empty, or names a secret twice"):
            Seed.decode(Seed(site="s", counter=1, items=some).encode())
    many = tuple(
        replace(ITEM, name=f"n{number}", value=Secret(bytes(60_000))) for number in range(80)
    )
    with pytest.raises(ValueError, match="too many for one seed"):
        Seed(site="s", counter=1, items=many).encode()
    assert sum(len(one.value) for one in many) * 4 // 3 > MAX_PLAIN


def parts(count: int = 3) -> list[Part]:
    return [
        Part(
            site=HEADER.site,
            listing=HEADER.listing,
            number=number,
            is_last=number == count,
            items=(replace(ITEM, name=f"n{number}"),),
        )
        for number in range(1, count + 1)
    ]


def test_parts_of_a_backup_are_all_there_in_their_order() -> None:
    assert [one.name for one in gather(parts(), HEADER)] == ["n1", "n2", "n3"]
    first, second, third = parts()
    for wrong in (
        [],
        [first, second],
        [second, third],
        [first, third],
        [second, first, third],
        [first, second, third, third],
        [first, replace(second, listing=b"x" * 32), third],
        [first, replace(second, site="shop-0001"), third],
        [replace(first, is_last=True), second, third],
    ):
        with pytest.raises(PeerError, match="parts of its secrets are missing"):
            gather(wrong, HEADER)


def test_nothing_shows_a_value() -> None:
    seed = Seed(site="s", counter=1, items=(replace(ITEM, value=Secret(b"canary-5512")),))
    assert "canary" not in repr(seed)
    assert "canary" not in f"{seed}{seed.items[0]}"


def test_who_asks_is_read_as_it_was_written() -> None:
    assert read_asked(asked_document("s", RECIPIENT, None)) == ("s", RECIPIENT, None)
    assert read_asked(asked_document("s", RECIPIENT, "text")) == ("s", RECIPIENT, "text")
    with pytest.raises(PeerError):
        read_asked(asked_document("s", "age1x", None))
    assert fingerprint(RECIPIENT) != fingerprint(recipient(Secret(bytes(32))))
    assert len(fingerprint(RECIPIENT)) == 24


def test_what_is_signed_is_bound_to_both_parts() -> None:
    line, payload = HEADER.encode(), b"p" * 32
    others = {
        backup_digest(line, payload),
        backup_digest(replace(HEADER, epoch=8).encode(), payload),
        backup_digest(line, b"q" * 32),
    }
    assert len(others) == 3


def ledger(epoch: int) -> Ledger:
    appliance = Appliance(site="shop-0417", ek=b"", ak=b"", first=0)
    return Ledger(appliance=appliance, epoch=epoch)


def test_a_backup_is_stale_when_headquarters_knows_of_more_revocations() -> None:
    assert backup.stale(HEADER, ledger(7)) is None
    assert backup.stale(HEADER, ledger(6)) is None
    assert "only a backup that counts at least 8" in (backup.stale(HEADER, ledger(8)) or "")
    assert "knows no lease" in (backup.stale(HEADER, None) or "")
    assert backup.stale(replace(HEADER, ek=b""), None) is None


@QUICK
@given(st.text(max_size=60))
def test_no_name_leads_elsewhere(text: str) -> None:
    name = f"site/{text}"
    try:
        assert backup.check_name(name) == name
    except BackupError:
        return
    assert os.path.normpath(name) == name
    assert name.startswith("site/")


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "site/../../x", "site//x", "site/./x", "other/x", "site/a\nb", "site/"],
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(BackupError):
        backup.check_name(name)


@QUICK
@given(st.text("abcé-/.", min_size=1, max_size=300), st.binary(max_size=1500))
def test_tar_reads_what_is_written(text: str, data: bytes) -> None:
    try:
        head = backup.tar_head(f"site/{text}", len(data))
    except BackupError:
        return
    written = head + data + backup.tar_pad(len(data)) + backup.TAR_END
    with tarfile.open(fileobj=io.BytesIO(written)) as tar:
        (member,) = tar.getmembers()
        content = tar.extractfile(member)
        assert content is not None
        assert (member.name, content.read()) == (f"site/{text}", data)
