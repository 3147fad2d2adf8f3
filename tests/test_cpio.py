"""The cpio writer and reader; GNU cpio and Linux's own rules are the second opinion."""

import contextlib
import shutil
import stat
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.cpio import (
    CpioEntry,
    CpioError,
    decode_cpio,
    directory_entry,
    encode_cpio,
    file_entry,
    link_entry,
    with_parents,
)

ENTRIES = [
    file_entry("init", b"#!/bin/true\n", executable=True),
    file_entry("a/b/c", b"\xff" * 1001),
    link_entry("lib", "usr/lib"),
    directory_entry("dev"),
    CpioEntry(name="dev/console", mode=stat.S_IFCHR | 0o600, device=(5, 1)),
]

names = st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,3}", fullmatch=True)
entries = st.builds(
    CpioEntry,
    name=names,
    mode=st.sampled_from([stat.S_IFREG | 0o444, stat.S_IFREG | 0o555, stat.S_IFLNK | 0o777]),
    data=st.binary(max_size=64),
)


@given(st.lists(entries, unique_by=lambda e: e.name, max_size=6), st.booleans())
@settings(max_examples=60)
def test_what_is_written_is_read(some: list[CpioEntry], checksums: bool) -> None:
    data = encode_cpio(some, checksums=checksums)
    assert decode_cpio(data) == tuple(sorted(some, key=lambda e: e.name))


@given(st.binary(max_size=300), st.integers(0, 700), st.integers(0, 255))
@settings(max_examples=200)
def test_any_bytes_give_entries_or_our_error(junk: bytes, at: int, value: int) -> None:
    whole = bytearray(encode_cpio(ENTRIES, checksums=True))
    whole[at % len(whole)] = value
    for data in (junk, bytes(whole), bytes(whole[:at])):
        with contextlib.suppress(CpioError):
            decode_cpio(data)


def test_order_of_entries_does_not_matter() -> None:
    assert encode_cpio(ENTRIES) == encode_cpio(list(reversed(ENTRIES)))


def test_a_changed_byte_is_found_by_the_checksum() -> None:
    data = encode_cpio(ENTRIES, checksums=True)
    at = data.index(b"\xff" * 1001)
    changed = data[:at] + b"\xfe" + data[at + 1 :]
    with pytest.raises(CpioError, match="checksum of 'a/b/c'"):
        decode_cpio(changed)
    unchecked = encode_cpio(ENTRIES)
    assert len(decode_cpio(unchecked.replace(b"\xff" * 1001, b"\xfe" * 1001))) == len(ENTRIES)


def test_a_cut_archive_is_refused() -> None:
    data = encode_cpio(ENTRIES)
    for size in (0, 50, 109, 111, data.index(b"\xff" * 1001) + 5):
        with pytest.raises(CpioError):
            decode_cpio(data[:size])


def test_missing_directories_are_added_once() -> None:
    names = sorted(e.name for e in with_parents(ENTRIES))
    assert names == ["a", "a/b", "a/b/c", "dev", "dev/console", "init", "lib"]


@pytest.mark.parametrize("checksums", [False, True])
def test_gnu_cpio_lists_the_same(checksums: bool) -> None:
    cpio = shutil.which("cpio")
    assert cpio, "cpio is missing: apt-get install cpio"
    data = encode_cpio(with_parents(ENTRIES), checksums=checksums)
    done = subprocess.run([cpio, "-t", "--quiet"], input=data, capture_output=True, check=True)
    assert done.stdout.decode().split() == [e.name for e in decode_cpio(data)]
    assert done.stderr == b""
