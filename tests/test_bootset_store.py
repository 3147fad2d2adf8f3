"""The store of boot sets on a real disk: damage, signatures, names."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.manifest import ManifestError, PublicKey, sign
from netboot.bootset import SIGNATURE_CONTEXT, BootSetManifest, Role
from netboot.errors import SiteError
from netboot.io.bootsets import MANIFEST, REHEARSAL, BootSetStore

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PublicKey.of(KEY.public_key()).encode()


@pytest.fixture
def store(tmp_path: Path) -> BootSetStore:
    return BootSetStore(tmp_path)


def make_set(store: BootSetStore, *, name: str = "enrol", version: int = 1) -> BootSetManifest:
    names = {
        Role.SHIM: "shimx64.efi",
        Role.GRUB: "grubx64.efi",
        Role.KERNEL: "vmlinuz",
        Role.GENERIC: "generic.img",
        Role.ANCHOR: "anchor.img",
    }
    roles = {r: store.add_file(f"{r} {name} {version}".encode(), n) for r, n in names.items()}
    return BootSetManifest(name=name, version=version, created=1, release="x", roles=roles)


def signed(manifest: BootSetManifest, comment: str | None = None) -> bytes:
    text = manifest.signature_comment if comment is None else comment
    return sign(KEY, manifest.encode(), trusted_comment=text, context=SIGNATURE_CONTEXT)


def test_a_set_is_kept(store: BootSetStore) -> None:
    manifest = make_set(store)
    digest = store.add_set(manifest)
    assert digest == manifest.digest
    assert list(store.digests()) == [digest]
    assert store.manifest(digest) == manifest
    store.put(digest, REHEARSAL, b"{}")
    assert store.get(digest, REHEARSAL) == b"{}"
    assert store.file(manifest.roles[Role.SHIM].sha256).read_bytes() == b"shim enrol 1"


def test_a_set_whose_files_are_damaged_is_not_taken(store: BootSetStore, tmp_path: Path) -> None:
    manifest = make_set(store)
    path = store.file(manifest.roles[Role.KERNEL].sha256)
    path.write_bytes(b"other  enrol 1")
    with pytest.raises(SiteError, match=r"\(kernel\) is damaged"):
        store.add_set(manifest)
    path.unlink()
    with pytest.raises(SiteError, match="is missing"):
        store.add_set(manifest)
    assert list(store.digests()) == []


def test_a_signed_set_verifies(store: BootSetStore) -> None:
    manifest = make_set(store)
    digest = store.add_set(manifest, signed(manifest))
    assert store.verified_manifest(digest, PUBLIC) == manifest


def test_an_unsigned_set_does_not_verify(store: BootSetStore) -> None:
    digest = store.add_set(make_set(store))
    with pytest.raises(SiteError, match="minisig"):
        store.verified_manifest(digest, PUBLIC)


def test_a_signature_with_another_comment_does_not_verify(store: BootSetStore) -> None:
    manifest = make_set(store)
    digest = store.add_set(manifest, signed(manifest, "version=9 digest=00"))
    with pytest.raises(SiteError, match="version=9"):
        store.verified_manifest(digest, PUBLIC)


def test_a_signature_of_another_set_does_not_verify(store: BootSetStore) -> None:
    manifest, other = make_set(store), make_set(store, version=2)
    digest = store.add_set(manifest, signed(other))
    with pytest.raises(ManifestError):
        store.verified_manifest(digest, PUBLIC)


def test_a_manifest_in_the_wrong_place_is_found(store: BootSetStore, tmp_path: Path) -> None:
    digest = store.add_set(make_set(store))
    other = make_set(store, version=2)
    store.add_set(other)
    (tmp_path / "sets" / digest.hex() / MANIFEST).write_bytes(other.encode())
    with pytest.raises(SiteError, match="another digest"):
        store.manifest(digest)


def test_a_set_is_found_by_name_and_by_digest(store: BootSetStore) -> None:
    old, new = store.add_set(make_set(store)), store.add_set(make_set(store, version=2))
    assert store.find("enrol") == new
    assert store.find(old.hex()[:12]) == old
    for text in ("enro", old.hex()[:5], "../x"):
        with pytest.raises(SiteError, match="bootset list"):
            store.find(text)


def test_only_known_documents_lie_beside_a_manifest(store: BootSetStore) -> None:
    digest = store.add_set(make_set(store))
    with pytest.raises(ValueError, match="no document"):
        store.put(digest, "../../published.json", b"")
