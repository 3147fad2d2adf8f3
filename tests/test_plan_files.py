"""The operator's boot files: copied by digest, read again when they changed, never by a link."""

import hashlib
import os
from pathlib import Path

import pytest

from bootstrap.errors import SiteError
from bootstrap.io.plan_files import MAX_FILES, PlanFiles, stamps


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    (made / "deep").mkdir(parents=True)
    (made / "a.efi").write_bytes(b"a")
    (made / "deep" / "b").write_bytes(b"b" * 3_000_000)
    return made


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_each_file_is_copied_under_its_digest(source: Path, tmp_path: Path) -> None:
    files = PlanFiles(tmp_path / "store")
    found = files.take(source)
    assert found == {"/a.efi": digest(b"a"), "/deep/b": digest(b"b" * 3_000_000)}
    assert PlanFiles.look(source) == found
    for name, sha256 in found.items():
        copy = tmp_path / "store" / sha256.hex()
        assert copy.read_bytes() == (source / name[1:]).read_bytes()
        assert copy.stat().st_mode & 0o777 == 0o644
    assert len(list((tmp_path / "store").iterdir())) == 2
    assert files.take(None) == PlanFiles.look(None) == {}


def test_what_is_served_does_not_change_with_the_file(source: Path, tmp_path: Path) -> None:
    files = PlanFiles(tmp_path / "store")
    before = files.take(source)["/a.efi"]
    (source / "a.efi").write_bytes(b"other")
    after = files.take(source)["/a.efi"]
    assert after == digest(b"other")
    assert (tmp_path / "store" / before.hex()).read_bytes() == b"a"
    files.keep_only([after])
    assert [path.name for path in (tmp_path / "store").iterdir()] == [after.hex()]
    assert files.take(source) == PlanFiles.look(source)  # a copy that was lost is made again


def test_links_and_hidden_files_are_left_out(source: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    (source / "link").symlink_to(secret)
    (source / "links").symlink_to(tmp_path)
    (source / ".hidden").write_text("x")
    os.mkfifo(source / "pipe")
    assert set(PlanFiles(tmp_path / "store").take(source)) == {"/a.efi", "/deep/b"}


def test_what_cannot_be_read_or_asked_for_is_told(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"none: No such file or directory: correct boot\.files"):
        stamps(tmp_path / "none")
    (source / "a name").write_text("x")
    with pytest.raises(SiteError, match="no client can ask for this name"):
        PlanFiles(tmp_path / "store").take(source)
    (source / "a name").unlink()
    for number in range(MAX_FILES):
        (source / f"n{number}").touch()
    with pytest.raises(SiteError, match="more than 4096 files"):
        stamps(source)
