"""What a file is by its content, what it changes, and that a cut leaves old or new whole."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import make_firmware_vectors as firmware
import make_signed_vectors as make
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.baseline import Baseline
from attest.firmwarefile import encode_baseline
from attest.policy import Policy
from bootstrap import importing
from bootstrap.errors import BootstrapError, PeerError, SiteError
from bootstrap.importing import (
    MAX_LINES,
    SIGNED,
    Sort,
    baseline_changes,
    note_changes,
    recognise,
    text_changes,
)
from bootstrap.io.importing import HANDLERS
from bootstrap.io.stick import MAX_NAMES, Folder, TarFolder, folder_of, shown, walk
from bootstrap.site_plan import SitePlan, make_plan, marked
from keys import note
from keys.approval import SignedApproval
from keys.errors import KeysError
from keys.io.signed_files import (
    RealDisk,
    SignedFile,
    beside,
    previous_of,
    read_bounded,
    read_signed,
    replace_on,
    signature_of,
)
from keys.manifest import PublicKey, sign
from keys.signed import FIRMWARE, KINDS, NOTE, check_either

EXAMPLE = (Path(importing.__file__).parent / "example/site.toml").read_text()
APPROVAL = SignedApproval(
    site="shop-0417",
    ek_name=bytes.fromhex(make.EK),
    role="pos",
    reasons=frozenset({"FIRMWARE-UNKNOWN", "FACTS-DIFFER"}),
    measurements=b"m" * 32,
    sealed=b"s" * 32,
    until=1_800_000_000,
    claim="the label says S-2",
)
BOX = note.Entry(serial="S1", model="M", ek_sha256=b"\1" * 32, role="pos", name=None)
KEY = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n"

# recognising

CONTENT: dict[Sort, bytes] = {
    Sort.NOTE: note.encode((BOX,)),
    Sort.FIRMWARE: encode_baseline(Baseline(entries=(firmware.by_events(),))),
    Sort.POLICY: Policy().to_toml().encode(),
    Sort.APPROVAL: APPROVAL.encode(),
    Sort.PLAN: make_plan(EXAMPLE, {"templates/pos.yaml.j2": "#cloud-config\n"}).encode(),
    Sort.BOOT_SET: b'{"type": "doorstep/boot-set/v1"}',
    Sort.WRAPPED: b'{"type": "doorstep/wrapped/v1"}',
    Sort.REHEARSAL: b'{"type": "doorstep/rehearsal/v1"}',
    Sort.LEASE: b"doorstep-lease-1:AEBAG",
    Sort.SEED: b"age-encryption.org/v1\n-> X25519 abc\n",
    Sort.BACKUP_KEY: b"age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg\n",
    Sort.TRUST: b"Some maker\n-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
    Sort.PRIVATE_KEY: KEY.encode(),
    Sort.BACKUP: b"DOORSTEP-BACKUP-1\n{}\n",
    Sort.SIGNATURE: make.signed(NOTE, b""),
    Sort.BOOT_SET_TAR: bytes(257) + b"ustar\0" + bytes(249),
    Sort.UNKNOWN: b"a letter to the shop\n",
}


@pytest.mark.parametrize("sort", CONTENT, ids=lambda sort: sort.name)
def test_each_sort_is_known_by_its_content(sort: Sort) -> None:
    assert recognise(CONTENT[sort]) is sort
    assert recognise(CONTENT[sort].replace(b"\n", b"\r\n")) is sort


def test_every_sort_that_is_taken_is_recognised() -> None:
    assert set(HANDLERS) | {
        Sort.UNKNOWN,
        Sort.SIGNATURE,
        Sort.PRIVATE_KEY,
        Sort.BACKUP,
        Sort.REHEARSAL,
    } == set(Sort)
    # an intermediate is told from a maker's certificate by who signed it
    assert set(CONTENT) | {Sort.INTERMEDIATE} == set(Sort)
    assert {kind.name for kind in SIGNED.values()} | {"resealed-backup"} == set(KINDS)


@pytest.mark.parametrize("sort", SIGNED, ids=lambda sort: sort.name)
def test_a_damaged_document_is_what_its_signature_claims(sort: Sort) -> None:
    signature = make.signed(SIGNED[sort], b"x")
    assert recognise(b"\xff\x00 damaged", [signature]) is sort
    assert recognise(CONTENT[Sort.NOTE], [signature]) is Sort.NOTE, "content counts for more"


def test_an_archive_with_a_certificate_in_it_is_no_certificate() -> None:
    data = b"070701" + bytes(104) + b"-----BEGIN CERTIFICATE-----\nMA==\n"
    assert recognise(data) is Sort.UNKNOWN


@given(st.binary(max_size=700), st.lists(st.binary(max_size=200), max_size=2))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_of_some_sort(data: bytes, signatures: list[bytes]) -> None:
    assert recognise(data, signatures) in Sort


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_json_is_of_some_sort(value: object) -> None:
    data = json.dumps(value).encode()
    assert recognise(data) in (Sort.UNKNOWN, Sort.LEASE, Sort.SEED, Sort.BACKUP_KEY)


# what changes


def test_a_note_tells_boxes_by_serial() -> None:
    gone = note.Entry(serial="S2", model=None, ek_sha256=None, role=None, name=None)
    moved = note.Entry(serial="S1", model="M", ek_sha256=b"\2" * 32, role="kiosk", name=None)
    new = note.Entry(serial="S3", model="M", ek_sha256=None, role="pos", name="pos-03")
    head, *lines = note_changes((BOX, gone), (moved, new))
    assert head == "2 boxes: 1 added, 1 removed, 1 changed"
    assert lines == [
        "+ S3 M pos pos-03 any TPM",
        "- S2 any TPM",
        "~ S1: S1 M pos EK 010101010101… becomes S1 M kiosk EK 020202020202…",
    ]
    assert note_changes((BOX,), (BOX,)) == ("1 boxes: 0 added, 0 removed, 0 changed",)


def test_a_baseline_tells_its_entries() -> None:
    entry = firmware.by_events()
    head, line = baseline_changes(Baseline(), Baseline(entries=(entry,)))
    assert head == "1 entries: 1 added, 0 removed"
    assert line.startswith("+ ") and entry.machine.model in line
    assert baseline_changes(Baseline(entries=(entry,)), Baseline())[1].startswith("- ")


def test_a_text_tells_its_lines_and_not_more_than_a_person_reads() -> None:
    assert text_changes("a", "x\n", "x\n") == ("a: no line changes",)
    assert text_changes("a", "x\n--y\n", "x\nz\n") == (
        "a: 1 lines added, 1 removed",
        "- --y",
        "+ z",
    )
    many = text_changes("a", "", "".join(f"{number}\n" for number in range(MAX_LINES + 3)))
    assert len(many) == MAX_LINES + 2 and many[-1] == "and 3 more"


# site plans and approvals as documents


def test_a_plan_names_each_template_by_its_content() -> None:
    made = make_plan(EXAMPLE, {"templates/pos.yaml.j2": "one\n"})
    (name,) = made.templates
    assert name == marked("templates/pos.yaml.j2", "one\n") == marked(name, "one\n")
    assert f'"{name}"' in made.site_text and made.site.roles[0].config == name
    assert SitePlan.decode(made.encode()) == made
    again = make_plan(made.site_text, {name: "two\n"})
    assert len(next(iter(again.templates))) == len(name), "a mark takes the place of the one before"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace('"type"', '"typ"'), "no site plan"),
        (lambda text: text.replace("one", "two"), "not of its content"),
        (lambda text: text.replace("templates/pos", "templates/../pos"), "not of its content"),
        (lambda text: text[:-1], "not written as plans are"),
        (lambda text: text[:40], "no site plan"),
        (lambda text: text.replace("doorstep/site-plan/v1", "x"), "no site plan"),
        (lambda text: text.replace('"templates": {', '"templates": {"a": 1, '), "no site plan"),
    ],
)
def test_a_plan_that_is_none(change: Callable[[str], str], said: str) -> None:
    text = make_plan(EXAMPLE, {"templates/pos.yaml.j2": "one\n"}).encode().decode()
    with pytest.raises(PeerError, match=said):
        SitePlan.decode(change(text).encode())


def test_a_plan_has_the_templates_that_its_roles_want_and_no_other() -> None:
    plan = make_plan(EXAMPLE, {"templates/pos.yaml.j2": "one\n"})
    extra = {**plan.templates, marked("templates/x", "two"): "two"}
    with pytest.raises(PeerError, match="no role wants"):
        SitePlan.decode(SitePlan(site_text=plan.site_text, templates=extra).encode())
    with pytest.raises(PeerError, match="lacks the template"):
        SitePlan.decode(SitePlan(site_text=plan.site_text, templates={}).encode())
    with pytest.raises(SiteError, match="names it anew"):
        make_plan(EXAMPLE, {})


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_plan_and_an_approval_or_refused(data: bytes) -> None:
    with pytest.raises(BootstrapError):
        SitePlan.decode(data)
    with pytest.raises(KeysError):
        SignedApproval.decode(data)


WORD = st.from_regex(r"[A-Z0-9][A-Z0-9-]{0,20}", fullmatch=True)


@given(
    st.builds(
        SignedApproval,
        site=st.from_regex(r"[a-z0-9-]{1,30}", fullmatch=True),
        ek_name=st.sampled_from((34, 50, 66)).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
        role=st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True),
        reasons=st.frozensets(WORD, min_size=1, max_size=4),
        measurements=st.binary(min_size=32, max_size=32),
        sealed=st.binary(min_size=32, max_size=32),
        until=st.integers(1, 2**53 - 1),
        claim=st.text(max_size=30).filter(str.isprintable),
    )
)
@settings(max_examples=100, deadline=None)
def test_what_is_written_as_an_approval_is_read(one: SignedApproval) -> None:
    assert SignedApproval.decode(one.encode()) == one


APPROVAL_FIELDS: list[tuple[str, object]] = [
    ("reasons", []),
    ("reasons", ["a b"]),
    ("reasons", "FACTS-DIFFER"),
    ("reasons", ["R"] * 65),
    ("until", 0),
    ("until", True),
    ("until", 1 << 53),
    ("claim", "x" * 501),
    ("claim", "a\nb"),
    ("claim", None),
    ("measurements", "AAAA"),
    ("sealed", "AAAA"),
    ("ek_name", "AAAA"),
    ("role", "POS"),
    ("reasons", "ABC"),
    ("site", ""),
    ("site", "a\nb"),
    ("site", "a" * 64),
    ("type", "doorstep/approval/v2"),
    ("more", 1),
]


@pytest.mark.parametrize(("field", "value"), APPROVAL_FIELDS)
def test_an_approval_with_a_wrong_field_is_none(field: str, value: object) -> None:
    document = json.loads(APPROVAL.encode()) | {field: value}
    data = json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
    with pytest.raises(KeysError, match="no approval of a box, or it is damaged"):
        SignedApproval.decode(data)


def test_an_approval_has_a_size() -> None:
    with pytest.raises(KeysError, match="at most 16 KiB"):
        SignedApproval.decode(APPROVAL.encode() + b" " * 16_384)


def test_an_approval_is_written_in_one_way() -> None:
    document = json.loads(APPROVAL.encode())
    with pytest.raises(KeysError, match="not written as approvals are"):
        SignedApproval.decode(json.dumps(document).encode())


# sticks


def test_a_stick_is_walked_and_not_believed(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / ".hidden").write_text("h")
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "deep/deep/deep/deep").mkdir(parents=True)
    (tmp_path / "deep/a.txt").write_text("a")
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b[2J"))
    strange.mkdir()
    (strange / "c").write_text("c")
    found = {one.shown: one.problem for one in walk(Folder(path=tmp_path, name="stick"))}
    assert {name for name, problem in found.items() if problem is None} == {
        "stick/b.txt",
        "stick/deep/a.txt",
        "stick/??[2J/c",
    }
    assert "link" in str(found["stick/link"]) and "pipe" in str(found["stick/pipe"])
    assert "too deep" in str(found["stick/deep/deep/deep/deep"])
    folder = Folder(path=tmp_path, name="stick")
    for name, said in (("link", "put the file itself"), ("pipe", "no file"), ("deep", "no file")):
        with pytest.raises(PeerError, match=said):
            folder.read(name, 9)
    assert folder.read("../b.txt", 9) is folder.read("none", 9) is folder.open("..") is None
    with pytest.raises(PeerError, match="larger than 0 bytes"):
        folder.read("b.txt", 0)


def test_a_device_is_not_opened(tmp_path: Path) -> None:
    os.mknod(tmp_path / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    (found,) = walk(Folder(path=tmp_path, name="stick"))
    assert "device" in str(found.problem)
    with pytest.raises(PeerError, match="no file"):
        Folder(path=tmp_path, name="stick").read("zero", 10)


def test_a_directory_of_too_many_names_is_left(tmp_path: Path) -> None:
    for number in range(MAX_NAMES + 5):
        (tmp_path / f"{number}").touch()
    found = list(walk(Folder(path=tmp_path, name="stick")))
    assert sum(one.problem is None for one in found) == MAX_NAMES
    (told,) = (one.problem for one in found if one.problem)
    assert "more than 4096 names" in told


def test_a_file_is_named_as_it_was_given(tmp_path: Path) -> None:
    folder, name = folder_of(tmp_path / "x/../y.csv")
    assert (folder.path, name) == (tmp_path, "y.csv")
    assert shown("a\nb" + "c" * 200).startswith("a?bccc") and len(shown("c" * 200)) == 81


def tar_of(**members: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(f"../../etc/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("manifest.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return made.getvalue()


@pytest.fixture
def tar_file(tmp_path: Path) -> Callable[[bytes], TarFolder]:
    def opened(data: bytes) -> TarFolder:
        path = tmp_path / "set.tar"
        path.write_bytes(data)
        return TarFolder(path.open("rb"), "set.tar")

    return opened


def test_a_tar_file_gives_regular_files_by_the_last_part(
    tar_file: Callable[[bytes], TarFolder],
) -> None:
    tar = tar_file(tar_of(a=b"x" * 700, b=b""))
    assert tar.read("a", 700) == b"x" * 700
    assert (tar.read("b", 0), tar.size("a"), tar.size("c"), tar.read("c", 1)) == (
        b"",
        700,
        None,
        None,
    )
    assert tar.read("manifest.json", 99) is None, "a link is no file"
    with pytest.raises(PeerError, match="larger than 699 bytes"):
        tar.read("a", 699)


def test_a_tar_file_cut_at_any_block_is_refused(tar_file: Callable[[bytes], TarFolder]) -> None:
    data = tar_of(a=b"x" * 700, b=b"y")
    whole = data.rstrip(b"\0")
    for end in range(0, len(whole) + 1, 256):
        with pytest.raises(PeerError, match="damaged or cut off"):
            tar_file(data[:end])


def test_a_tar_file_with_a_name_twice_or_too_many_is_refused(
    tar_file: Callable[[bytes], TarFolder],
) -> None:
    one = tar_of(a=b"1")
    with pytest.raises(PeerError, match="two members are named a"):
        tar_file(one[:1024] + one)
    with pytest.raises(PeerError, match="more than 1024 members"):
        tar_file(tar_of(**{f"m{number}": b"" for number in range(1024)}))


@given(st.binary(max_size=2000), st.integers(0, 1535), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_tar_file_or_refused(data: bytes, at: int, flip: int) -> None:
    changed = bytearray(tar_of(a=b"x" * 600))
    changed[at] ^= flip
    for junk in (data, bytes(changed)):
        with io.FileIO(os.memfd_create("tar"), "rb+") as file:
            file.write(junk)
            try:
                tar = TarFolder(file, "t")  # type: ignore[arg-type]
            except PeerError:
                continue
            assert len(tar.read("a", 600) or b"") in (0, 600)


# the disk


class Cut(Exception):  # noqa: N818 - no error: the power is gone
    """The power is cut."""


class CutDisk(RealDisk):
    """The real disk until so many things were done to it."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _count(self) -> None:
        if self.left == 0:
            raise Cut
        self.left -= 1

    def write(self, path: Path, data: bytes) -> None:
        self._count()
        super().write(path, data)

    def rename(self, source: Path, target: Path) -> None:
        self._count()
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._count()
        super().remove(path)


OLD, NEW = make.TEXT, make.OTHER
SIGNED_OLD = make.signed(NOTE, OLD)
SIGNED_NEW = make.signed(NOTE, NEW, f"site={make.SITE} counter=4")


def in_force(path: Path) -> bytes:
    """Read a document as keys and control do."""
    found = read_signed(path, NOTE.max_bytes)
    assert found is not None
    checked = check_either(
        NOTE, found.data, found.signatures, public_key=make.PUBLIC.encode(), site_id=make.SITE
    )
    return checked.data


def put(path: Path, data: bytes, signature: bytes) -> None:
    path.write_bytes(data)
    signature_of(path).write_bytes(signature)


def steps(directory: Path) -> int:
    disk = CutDisk(99)
    path = directory / "count.csv"
    put(path, OLD, SIGNED_OLD)
    replace_on(disk, path, NEW, SIGNED_NEW, read_signed(path, NOTE.max_bytes))
    return 99 - disk.left


def test_a_cut_between_any_two_steps_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    count = steps(tmp_path)
    assert count == 6
    seen = []
    for left in range(count):
        path = tmp_path / f"{left}.csv"
        put(path, OLD, SIGNED_OLD)
        before = read_signed(path, NOTE.max_bytes)
        with pytest.raises(Cut):
            replace_on(CutDisk(left), path, NEW, SIGNED_NEW, before)
        seen.append(in_force(path))
        if previous_of(path).exists() and signature_of(previous_of(path)).exists():
            assert in_force(previous_of(path)) == OLD
        # and again, to its end: as an import does, what verifies comes first
        replace_on(RealDisk(), path, NEW, SIGNED_NEW, sorted_file(path))
        assert in_force(path) == NEW
        assert signature_of(path).read_bytes() == SIGNED_NEW
        assert not beside(path)[2].exists()
    assert seen == [OLD] * 5 + [NEW]


def sorted_file(path: Path) -> SignedFile:
    found = read_signed(path, NOTE.max_bytes)
    assert found is not None
    own = [one for one in found.signatures if one == {OLD: SIGNED_OLD, NEW: SIGNED_NEW}[found.data]]
    return SignedFile(
        data=found.data,
        signatures=(*own, *(one for one in found.signatures if one not in own)),
    )


def test_two_cuts_one_after_the_other(tmp_path: Path) -> None:
    """The second import meets what the first left, and is cut itself."""
    third = make.signed(NOTE, b"third", f"site={make.SITE} counter=5")
    for first in range(6):
        for second in range(8):
            path = tmp_path / f"{first}-{second}.csv"
            put(path, OLD, SIGNED_OLD)
            with pytest.raises(Cut):
                replace_on(CutDisk(first), path, NEW, SIGNED_NEW, read_signed(path, NOTE.max_bytes))
            between = in_force(path)
            try:
                replace_on(CutDisk(second), path, b"third", third, sorted_file(path))
            except Cut:
                assert in_force(path) in (between, b"third")
            else:
                assert in_force(path) == b"third"


def test_the_first_document_is_put_there_too(tmp_path: Path) -> None:
    path = tmp_path / "new/first.csv"
    for left in range(3):
        with pytest.raises(Cut):
            replace_on(CutDisk(left), path, NEW, SIGNED_NEW, read_signed(path, 99))
        assert read_signed(path, 99) is None or in_force(path) == NEW
    replace_on(RealDisk(), path, NEW, SIGNED_NEW, None)
    assert in_force(path) == NEW and not previous_of(path).exists()


class LosingDisk:
    """A model of a disk that loses what was not flushed: names and contents, as ext4 may.

    A write is flushed when it returns, as is its name; this checks that nothing counts on less.
    """

    def __init__(self) -> None:
        self.files: dict[Path, bytes] = {}
        self.states: list[dict[Path, bytes]] = [{}]

    def _durable(self) -> None:
        self.states.append(dict(self.files))

    def write(self, path: Path, data: bytes) -> None:
        self.files[path] = data
        self._durable()

    def rename(self, source: Path, target: Path) -> None:
        self.files[target] = self.files.pop(source)
        self._durable()

    def remove(self, path: Path) -> None:
        self.files.pop(path, None)
        self._durable()

    def read(self, path: Path, limit: int) -> bytes | None:
        return self.files.get(path)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_every_state_of_the_disk_has_one_document_that_verifies(numbers: list[int]) -> None:
    path, disk = Path("/site/delivery.csv"), LosingDisk()
    texts = {number: b"%d" % number for number in numbers}
    signatures = {
        number: make.signed(NOTE, text, f"site={make.SITE} counter={number}")
        for number, text in texts.items()
    }
    own = {texts[number]: signatures[number] for number in texts}
    began = 0
    for number in numbers:
        before = read_signed(path, 99, disk)
        if before is not None:
            rest = tuple(one for one in before.signatures if one != own[before.data])
            before = SignedFile(data=before.data, signatures=(own[before.data], *rest))
        replace_on(disk, path, texts[number], signatures[number], before)
        began = began or len(disk.states)
    document, signature, following = beside(path)
    for state in disk.states:
        if document not in state:
            continue
        wanted = own[state[document]]
        assert wanted in (state.get(signature), state.get(following))


def test_a_file_that_is_none_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(KeysError, match="no file"):
            read_bounded(tmp_path / name, 9)
    (tmp_path / "long").write_bytes(b"x" * 10)
    with pytest.raises(KeysError, match="larger than 9 bytes"):
        read_bounded(tmp_path / "long", 9)
    assert read_bounded(tmp_path / "none", 9) is None


def test_what_cannot_be_written_says_so_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "delivery.csv").mkdir()
    with pytest.raises(KeysError, match="what was there before is kept"):
        RealDisk().write(tmp_path / "delivery.csv", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["delivery.csv"]


def test_the_key_of_these_vectors_is_one_of_minisign() -> None:
    assert PublicKey.decode(make.PUBLIC.encode()) == make.PUBLIC
    assert sign(make.KEY, b"", trusted_comment="a", context=FIRMWARE.context)
