"""`doorstep import` with a real keys process: good documents, and each way in which one is bad."""

from __future__ import annotations

import ctypes
import io
import json
import os
import random
import select
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from import_lab import SITE_ID, STRANGER, Document, ImportSite
from keys_site import EK

from attest.firmwarefile import verify_baseline
from bootstrap.io import site_dir
from bootstrap.io.live_settings import LiveSettings
from keys.errors import KeysError
from keys.io.rpc import RpcError
from keys.io.signed_files import read_signed
from keys.note import DeliveryNote
from keys.signed import NOTE, PLAN, POLICY, check_either

KINDS = (
    "delivery-note",
    "firmware-baseline",
    "appraisal-policy",
    "site-plan",
    "backup-key",
    "box-approval",
    "boot-set",
    "wrapped-secret",
    "seed",
)


@pytest.fixture
def site() -> Iterator[ImportSite]:
    one = ImportSite()
    try:
        yield one.start_keys()
    finally:
        one.close()


@pytest.fixture(scope="module")
def untouched() -> Iterator[ImportSite]:
    """A site that no test of this module may change: what is brought to it is bad."""
    one = ImportSite()
    try:
        one.start_keys()
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def documents(untouched: ImportSite) -> dict[str, Document]:
    return {name: untouched.document(name) for name in KINDS}


# bad input

Bad = Callable[[ImportSite, Document], tuple[bytes, bytes]]
"""Gives what is brought: document and signature (empty: none)."""


def cut(part: float) -> Bad:
    def bad(site: ImportSite, one: Document) -> tuple[bytes, bytes]:
        return one.data[: int(len(one.data) * part)], one.signature(site.key)

    return bad


def turned(site: ImportSite, one: Document) -> tuple[bytes, bytes]:
    middle = len(one.data) // 2
    lines = one.data.splitlines(keepends=True)
    data = b"".join([lines[0], *reversed(lines[1:])]) if len(lines) > 2 else b""
    if data in (b"", one.data):
        data = one.data[middle:] + one.data[:middle]
    return data, one.signature(site.key)


def swapped(site: ImportSite, one: Document) -> tuple[bytes, bytes]:
    return one.data, one.signature(site.key, one.data + b"\n")


def other_purpose(site: ImportSite, one: Document) -> tuple[bytes, bytes]:
    other = POLICY if one.kind is NOTE else NOTE
    from keys.manifest import sign

    text = one.comment()
    return one.data, sign(site.key, one.data, trusted_comment=text, context=other.context)


def other_site(site: ImportSite, one: Document) -> tuple[bytes, bytes]:
    return one.data, one.signature(site.key, site="shop-0418")


def altered(site: ImportSite, one: Document) -> tuple[bytes, bytes]:
    return one.data, one.signature(site.key).replace(b"=5", b"=9", 1)


def oversized(site: ImportSite, one: Document) -> tuple[bytes, bytes]:
    data = one.data + one.pad * (one.kind.max_bytes + 1 - len(one.data))
    return data, one.signature(site.key, data)


BAD: dict[str, tuple[Bad, str]] = {
    "cut after a byte": (lambda s, d: (d.data[:1], d.signature(s.key)), "not what was signed"),
    "cut at a third": (cut(1 / 3), "not what was signed"),
    "cut before the end": (lambda s, d: (d.data[:-1], d.signature(s.key)), "not what was signed"),
    "empty": (lambda s, d: (b"", d.signature(s.key)), "not what was signed"),
    "turned": (turned, "not what was signed"),
    "longer": (lambda s, d: (d.data + b"\n", d.signature(s.key)), "not what was signed"),
    "signature missing": (lambda s, d: (d.data, b""), "bring the file with its .minisig"),
    "signature cut": (lambda s, d: (d.data, d.signature(s.key)[:-30]), "copy it again, whole"),
    "signature of another": (swapped, "not what was signed"),
    "re-signed": (lambda s, d: (d.data, d.signature(STRANGER)), "signed by another key"),
    "other purpose": (other_purpose, "signed for another purpose"),
    "other site": (other_site, "is for site shop-0418"),
    "legacy form": (lambda s, d: (d.data, s.legacy(d)), "legacy form"),
    "comment altered": (altered, "the trusted comment is not what was signed"),
    "oversized": (oversized, "larger than"),
}


@pytest.mark.parametrize("how", BAD)
@pytest.mark.parametrize("name", KINDS)
def test_a_bad_document_changes_nothing_and_is_told(
    untouched: ImportSite, documents: dict[str, Document], name: str, how: str
) -> None:
    one, (make, said) = documents[name], BAD[how]
    if (name, how) == ("boot-set", "other site"):
        said = "signed by another key"  # the key is a site's own: nothing else names it
        data, signature = one.data, one.signature(STRANGER)
    else:
        data, signature = make(untouched, one)
    before = untouched.state_of_all()
    path = untouched.bring(one, data, signature)
    if not signature:
        path.with_name(f"{path.name}.minisig").unlink(missing_ok=True)
    told = untouched.take(path)
    assert told.exit_code == 1, told.output
    assert said in told.output
    assert f"refused: {path}" in told.output
    sentence = told.output.splitlines()[1]
    assert sentence.count(": ") >= 1, f"no word of what to do: {sentence}"
    assert untouched.state_of_all() == before


GOOD_TWICE = tuple(name for name in KINDS if name not in ("box-approval",))


@pytest.mark.parametrize("name", GOOD_TWICE)
def test_a_document_is_taken_once_and_nothing_older_after_it(site: ImportSite, name: str) -> None:
    """The same again changes nothing; what is older, or another of its number, is refused."""
    one = site.document(name)
    path = site.bring(one)
    looked = site.doorstep("import", "--dry-run", str(path))
    assert looked.exit_code == 0, looked.output
    assert f"{one.kind.title} 5" in looked.output and "signed by" in looked.output
    before = site.state_of_all()
    assert site.doorstep("import", str(path)).exit_code == 1, "nobody said yes"
    assert site.state_of_all() == before
    told = site.take(path)
    assert told.exit_code == 0 and f"taken: {path}" in told.output, told.output
    after = site.state_of_all()
    assert after != before
    again = site.take(path)
    assert (again.exit_code, "nothing changes" in again.output) == (0, True), again.output
    assert site.state_of_all() == after
    older = site.take(site.bring(one, signature=one.signature(site.key, counter=4)))
    if name in ("boot-set", "wrapped-secret"):  # the document says its number too
        assert older.exit_code == 1, older.output
    else:
        assert (older.exit_code, "counter 4, this site has seen 5" in older.output) == (1, True)
    other = other_content(one)
    if other is not None:
        changed = site.take(site.bring(one, other))
        assert changed.exit_code == 1, changed.output
        assert "with counter 5 was seen before" in changed.output
    assert site.state_of_all() == after


def other_content(one: Document) -> bytes | None:
    """Give another document of the same number, where one can be made of it."""
    if one.kind is PLAN:
        return one.data.replace(b"New ", b"Neu ")
    if one.name.endswith((".toml", ".csv")):
        return one.data.rstrip(b"\n")
    return None


def test_a_note_is_the_notes_of_keys_and_control_and_the_one_before_is_kept(
    site: ImportSite,
) -> None:
    path = site.layout.site / "delivery.csv"
    old = path.read_bytes()
    one = site.document("delivery-note")
    told = site.take(site.bring(one))
    assert "2 boxes: 2 added" in told.output and "control does not run" in told.output
    assert site.operator("keys", "status")["delivery_note"] == {"counter": 5, "entries": 2}
    live = LiveSettings(site.layout.site, rehearsal=True)()
    assert live.note is not None and len(live.note.entries) == 2
    assert path.with_name("delivery.csv.previous").read_bytes() == old
    assert path.with_name("delivery.csv.previous.minisig").exists()
    kinds = [one["kind"] for one in site.operator("keys", "events", after=0)["events"]]
    assert kinds.count("delivery-note") == 2


def test_a_note_with_a_role_that_is_none_is_taken_and_told(site: ImportSite) -> None:
    one = site.document("delivery-note")
    told = site.take(site.bring(one, one.data.replace(b"kiosk", b"cafe")))
    assert "site.toml has no role cafe" in told.output and told.exit_code == 0


def test_an_older_file_that_was_put_there_by_hand_is_refused_too(site: ImportSite) -> None:
    """Also after keys and control have been started again."""
    notes = site.document("delivery-note")
    baseline = site.document("firmware-baseline")
    folder = site.layout.site
    site.processes["control"].start()
    site.wait_for("control")
    for one in (notes, baseline):
        assert site.take(site.bring(one)).exit_code == 0
    site_dir.write(folder / "delivery.csv.minisig", notes.signature(site.key, counter=4))
    site_dir.write(folder / "trust/firmware.toml.minisig", baseline.signature(site.key, counter=4))
    for _ in range(2):
        sentences = site.operator("keys", "status")["sentences"]
        assert [one for one in sentences if "counter 4, this site has seen 5" in one], sentences
        site.reload()
        told = " ".join(site.operator("control", "services")["notices"])
        assert "no firmware is known" in told and "has counter 4" in told
        site.restart("keys")
        site.restart("control")


def test_a_newer_file_that_was_put_there_by_hand_raises_the_floor(site: ImportSite) -> None:
    """control shows keys the baseline and the policy that it found."""
    site.processes["control"].start()
    site.wait_for("control")
    folder = site.layout.site
    for name, where in (
        ("firmware-baseline", "trust/firmware.toml"),
        ("appraisal-policy", "policy.toml"),
    ):
        one = site.document(name)
        site_dir.write(folder / f"{where}.minisig", one.signature(site.key, counter=9))
        site_dir.write(folder / where, one.data)
        site.until(lambda name=name: floors(site).get(name) == 9)
        refused = site.take(site.bring(one))
        assert (refused.exit_code, "has seen 9" in refused.output) == (1, True), refused.output


def floors(site: ImportSite) -> dict[str, int]:
    rows = site.operator("keys", "input_floors")["floors"]
    return {one["kind"]: one["counter"] for one in rows}


def test_a_policy_that_headquarters_signed_is_not_replaced_by_one_that_it_did_not(
    site: ImportSite,
) -> None:
    one, path = site.document("appraisal-policy"), site.layout.site / "policy.toml"
    assert site.take(site.bring(one)).exit_code == 0
    site.processes["control"].start()
    site.wait_for("control")
    assert site.reload()["kept"] is None
    for damage, said in (
        (lambda: path.write_bytes(b'type = "doorstep/policy/v1"\n'), "not what was signed"),
        (path.with_name("policy.toml.minisig").unlink, "no signature beside it"),
        (path.unlink, "put it back"),
    ):
        damage()
        assert said in str(site.reload()["kept"])
    assert "put it back" in site.take(site.bring(one)).output or site.reload()["kept"] is None
    assert site.reload()["kept"] is None


def test_a_plan_changes_the_site_at_once_and_keeps_the_one_before(site: ImportSite) -> None:
    folder = site.layout.site
    old = (folder / "site.toml").read_bytes()
    templates = {path: path.read_bytes() for path in (folder / "templates").iterdir()}
    told = site.take(site.bring(site.document("site-plan")))
    assert told.exit_code == 0 and "+ title = " in told.output, told.output
    assert site_dir.load(folder).site.title.startswith("New ")
    assert (folder / "site.toml.previous").read_bytes() == old
    assert {path: path.read_bytes() for path in templates} == templates
    live = LiveSettings(folder, rehearsal=True)()
    assert all("# from headquarters" in text for text in live.templates.values())


PLANS: dict[str, tuple[Callable[[str], str], str]] = {
    "another site": (lambda text: text.replace("shop-0417", "shop-0418"), "site.id is permanent"),
    "no site file": (
        lambda text: text.replace("[[subnet]]", "[[subnetz]]"),
        "plan.json: site.toml",
    ),
    "no TOML": (lambda text: text.replace("[site]", "[site"), "is not TOML"),
    "unfit": (
        lambda text: text.replace("shop-0417.example.net", "shop.example.org"),
        "the site would not start: ",
    ),
}


@pytest.mark.parametrize("how", PLANS)
def test_a_plan_with_which_the_site_would_not_run_is_refused(
    untouched: ImportSite, documents: dict[str, Document], how: str
) -> None:
    one, (change, said) = documents["site-plan"], PLANS[how]
    before = untouched.state_of_all()
    told = untouched.take(untouched.bring(one, change(one.data.decode()).encode()))
    assert told.exit_code == 1 and said in told.output, told.output
    assert untouched.state_of_all() == before


def test_a_template_that_was_changed_at_the_site_is_not_overwritten(site: ImportSite) -> None:
    one = site.document("site-plan")
    name = next(iter(json.loads(one.data)["templates"]))
    site_dir.write(site.layout.site / name, b"changed here")
    told = site.take(site.bring(one))
    assert told.exit_code == 1 and "was changed here: remove it" in told.output


# boot sets


def test_a_boot_set_is_in_the_store_not_published_and_can_be(site: ImportSite) -> None:
    one = site.document("boot-set")
    told = site.take(site.stick)
    assert told.exit_code == 0, told.output
    assert "5 of 5 files are new" in told.output and "it was rehearsed" in told.output
    digest = next(site.store.digests())
    assert site.store.manifest(digest).encode() == one.data
    assert not (site.layout.state / "bootsets/published.json").exists()
    published = site.doorstep("bootset", "publish", "enrol")
    assert published.exit_code == 0, published.output


@pytest.mark.parametrize("damage", ["missing", "short", "other bytes"])
def test_a_boot_set_whose_files_are_not_its_own_is_refused(site: ImportSite, damage: str) -> None:
    site.document("boot-set")
    folder = site.stick / "set"
    kernel = next(path for path in folder.iterdir() if path.stat().st_size > 100_000)
    if damage == "missing":
        kernel.unlink()
    elif damage == "short":
        kernel.write_bytes(kernel.read_bytes()[:-1])
    else:
        kernel.write_bytes(b"x" * kernel.stat().st_size)
    before = site.state_of_all()
    told = site.take(folder / "manifest.json")
    assert (told.exit_code, "copy it again" in told.output) == (1, True), told.output
    after = dict(site.state_of_all())
    # files that were right may be there already: they count for nothing without a manifest
    assert {name: data for name, data in after.items() if "/files/" not in name} == before
    assert not list(site.store.digests())


def test_a_boot_set_comes_in_a_tar_file_too(site: ImportSite) -> None:
    site.document("boot-set")
    folder, path = site.stick / "set", site.base / "set.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(folder, "enrol")
    told = site.take(path)
    assert told.exit_code == 0, told.output
    assert list(site.store.digests())
    for end in (1000, 5000, path.stat().st_size - 10_240):
        cut_off = site.base / "cut.tar"
        cut_off.write_bytes(path.read_bytes()[:end])
        refused = site.take(cut_off)
        assert (refused.exit_code, "cut off" in refused.output) == (1, True), refused.output


def test_a_tar_file_without_a_boot_set_is_refused(site: ImportSite) -> None:
    path = site.base / "other.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("../../etc/passwd")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"root"))
    told = site.take(path)
    assert (told.exit_code, "no boot set" in told.output) == (1, True), told.output


def test_a_boot_set_with_the_record_of_another_rehearsal_is_refused(site: ImportSite) -> None:
    site.document("boot-set")
    record = site.stick / "set/rehearsal.json"
    record.write_bytes(record.read_bytes().replace(b'"at": 1', b'"at": 2'))
    told = site.take(site.stick / "set/manifest.json")
    assert (told.exit_code, "not what was signed" in told.output) == (1, True), told.output


# what is in no .minisig


def test_certificates_of_the_sites_root_are_installed_and_others_are_not(site: ImportSite) -> None:
    requests = site.operator("keys", "ca_requests")["requests"]
    path = site.stick / "answer.pem"
    path.write_text(site.intermediate("box", requests[1]["csr_pem"]))
    told = site.take(path)
    assert told.exit_code == 0 and "the box CA of this appliance" in told.output, told.output
    path.write_bytes((site.layout.site / "trust/root.pem").read_bytes())
    assert "leave it away" in site.take(path).output
    other = ImportSite()
    try:
        path.write_text(other.intermediate("box", requests[1]["csr_pem"]))
    finally:
        other.close()
    before = site.state_of_all()
    told = site.take(path)
    assert (told.exit_code, "not trust/root.pem" in told.output) == (1, True), told.output
    text = site.intermediate("box", requests[1]["csr_pem"])
    path.write_text(text[: len(text) // 2])
    assert site.take(path).exit_code == 1
    assert site.state_of_all() == before


def test_a_certificate_for_another_appliance_is_refused(site: ImportSite) -> None:
    other = ImportSite()
    try:
        other.start_keys()
        request = other.operator("keys", "ca_requests")["requests"][1]["csr_pem"]
    finally:
        other.close()
    path, before = site.stick / "answer.pem", site.state_of_all()
    path.write_text(site.intermediate("box", request))
    told = site.take(path)
    assert told.exit_code == 1 and "refused: " in told.output, told.output
    assert site.state_of_all() == before


def test_certificates_that_nobody_signs_need_a_persons_word(site: ImportSite) -> None:
    import ek_forge
    from cryptography.x509 import load_der_x509_certificate

    from keys.ca import pem

    path = site.stick / "maker.pem"
    path.write_text(pem([load_der_x509_certificate(ek_forge.ca())]))
    before = site.state_of_all()
    told = site.take(path)
    assert (told.exit_code, "--from" in told.output) == (1, True), told.output
    assert site.state_of_all() == before
    told = site.take(path, "--from", "the maker's page")
    assert told.exit_code == 0, told.output
    assert "nothing changes" in site.take(path).output
    assert list((site.layout.site / "trust/ek").glob("*.pem"))


def test_a_lease_without_a_tpm_is_refused_with_a_sentence(site: ImportSite) -> None:
    path = site.stick / "lease.txt"
    for text in ("DOORSTEP-LEASE-1:", "DOORSTEP-LEASE-1:AEBAG", "doorstep-lease-1:!!"):
        path.write_text(text)
        told = site.take(path)
        assert told.exit_code == 1 and "(lease)" in told.output, told.output


def test_what_is_nothing_of_ours_is_told_by_the_file_and_counted_in_a_directory(
    site: ImportSite,
) -> None:
    one = site.document("delivery-note")
    site.bring(one)
    (site.stick / "letter.txt").write_text("dear shop")
    (site.stick / "key.pem").write_bytes((site.layout.site / "offline/sign.key").read_bytes())
    (site.stick / "link.csv").symlink_to(site.layout.site / "delivery.csv")
    os.mkfifo(site.stick / "pipe")
    (site.stick / "\x1b[2Jscreen").write_text("x")
    with (site.stick / "large.bin").open("wb") as file:
        file.truncate(1 << 40)
    told = site.doorstep("import", str(site.stick), "--dry-run", "--json")
    found = {one["file"].rpartition("/")[2]: one for one in json.loads(told.output)["files"]}
    assert told.exit_code == 1
    assert found["delivery.csv"]["state"] == "new"
    assert "private key" in found["key.pem"]["sentence"]
    assert "link" in found["link.csv"]["sentence"]
    assert "pipe" in found["pipe"]["sentence"]
    assert set(found) == {"delivery.csv", "key.pem", "link.csv", "pipe"}
    assert json.loads(told.output)["others"] == 4, "letter, screen, large file, signature"
    single = site.take(site.stick / "letter.txt")
    assert (single.exit_code, "nothing that Doorstep takes" in single.output) == (1, True)
    assert "the file beside it" in site.take(site.stick / "delivery.csv.minisig").output
    assert "\x1b" not in site.doorstep("import", str(site.stick / "\x1b[2Jscreen")).output
    assert "no such file" in site.take(site.stick / "none").output
    assert "larger than any document" in site.take(site.stick / "large.bin").output


def test_a_stick_is_not_read_for_ever(site: ImportSite) -> None:
    """129 files of 8 MiB, which take no room on the disk."""
    for number in range(129):
        with (site.stick / f"x{number:03}").open("wb") as file:
            file.truncate(8 << 20)
    site.bring(site.document("delivery-note"))
    told = site.doorstep("import", "--dry-run", "--json", str(site.stick))
    answer = json.loads(told.output)
    assert told.exit_code == 1
    assert [one["state"] for one in answer["files"]] == ["new", "refused"]
    assert "more than 1024 MiB to be read" in answer["files"][1]["sentence"]


def test_a_stick_with_everything_is_taken_in_one_go(site: ImportSite) -> None:
    names = [one for one in KINDS if one not in ("box-approval", "boot-set")]
    for one in [site.document(name) for name in names]:
        site.bring(one)
    site.document("boot-set")
    told = site.doorstep("import", str(site.stick), "--yes", "--json")
    assert told.exit_code == 0, told.output
    answer = json.loads(told.output)
    assert len(answer["taken"]) == len(names) + 1
    assert [one["kind"] for one in answer["taken"]][:4] == [
        "site plan",
        "appraisal policy",
        "firmware baseline",
        "delivery note",
    ]
    again = site.doorstep("import", str(site.stick), "--yes", "--json")
    assert again.exit_code == 0 and json.loads(again.output)["taken"] == [], again.output
    assert "--yes or --dry-run" in site.doorstep("import", str(site.stick), "--json").output


def test_two_imports_do_not_run_at_once(site: ImportSite) -> None:
    import fcntl

    path = site.bring(site.document("delivery-note"))
    descriptor = os.open(site.layout.site, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        told = site.take(path)
    finally:
        os.close(descriptor)
    assert (told.exit_code, "another import runs" in told.output) == (2, True)
    assert site.take(path).exit_code == 0


def test_without_keys_nothing_is_taken(site: ImportSite) -> None:
    path = site.bring(site.document("delivery-note"))
    old = (site.layout.site / "delivery.csv").read_bytes()
    site.processes["keys"].kill()
    told = site.take(path)
    assert (told.exit_code, "start the appliance" in told.output) == (2, True), told.output
    assert (site.layout.site / "delivery.csv").read_bytes() == old


# keys' own method


def test_keys_takes_what_is_signed_from_control_too_but_no_approval(site: ImportSite) -> None:
    from keys.envelope import b64u

    control = site.courier("control")
    for name, code in (("appraisal-policy", None), ("box-approval", "FORBIDDEN")):
        one = site.document(name)
        params = {
            "kind": name,
            "file": b64u(one.data),
            "sig": b64u(one.signature(site.key)),
        }
        if code is None:
            assert control.ask("keys", "input_take", params)["taken"]
            continue
        with pytest.raises(RpcError) as refused:
            control.ask("keys", "input_take", params)
        assert refused.value.code == code
    forged = {**params, "kind": "appraisal-policy", "sig": b64u(one.signature(STRANGER))}
    with pytest.raises(RpcError) as refused:
        control.ask("keys", "input_take", forged)
    assert refused.value.code == "SIGNATURE-OTHER-KEY"
    for kind in ("seed", "wrapped-secret", "rehearsal", "none", 7):
        with pytest.raises(RpcError) as refused:
            site.operator("keys", "input_take", **{**params, "kind": kind})
        assert refused.value.code == "MALFORMED"


APPROVALS: dict[str, tuple[dict[str, object], str]] = {
    "ended": ({"until": 1}, "INPUT-ENDED"),
    "too far ahead": ({"until": 1 << 40}, "INPUT-ENDED"),
    "unknown role": ({"role": "cafe"}, "ROLE-DIFFERS"),
    "other box": ({"ek_name": b"\0\x0b" + b"e" * 32}, "INPUT-COMMENT"),
    "other site inside": ({"site": "shop-0418"}, "INPUT-COMMENT"),
}


@pytest.mark.parametrize("how", APPROVALS)
def test_an_approval_that_is_signed_and_of_no_use_is_refused_by_keys(
    untouched: ImportSite, documents: dict[str, Document], how: str
) -> None:
    from dataclasses import replace

    from keys.approval import SignedApproval
    from keys.envelope import b64u

    one, (changes, code) = documents["box-approval"], APPROVALS[how]
    data = replace(SignedApproval.decode(one.data), **changes).encode()  # type: ignore[arg-type]
    before = untouched.state_of_all()
    with pytest.raises(RpcError) as refused:
        untouched.operator(
            "keys",
            "input_take",
            kind="box-approval",
            file=b64u(data),
            sig=b64u(one.signature(untouched.key, data)),
        )
    assert refused.value.code == code
    assert untouched.state_of_all() == before


def test_an_approval_becomes_one_allowance_once(site: ImportSite) -> None:
    from keys.envelope import b64u

    one = site.document("box-approval")
    params = {"kind": one.kind.name, "file": b64u(one.data), "sig": b64u(one.signature(site.key))}
    looked = site.operator("keys", "input_take", **params, look=True)
    assert (looked["new"], looked["taken"], looked["waits"]) == (True, False, False)
    taken = site.operator("keys", "input_take", **params)
    assert (taken["taken"], taken["waits"]) == (True, True)
    site.operator("keys", "disallow", ek_name=b64u(EK.name()))
    again = site.operator("keys", "input_take", **params)
    assert (again["new"], again["taken"], again["waits"]) == (False, False, False)
    site.restart("keys")
    assert not site.operator("keys", "input_take", **params)["taken"]


def test_a_floor_outlives_kill_9(site: ImportSite) -> None:
    assert site.take(site.bring(site.document("appraisal-policy"))).exit_code == 0
    site.restart("keys")
    assert floors(site)["appraisal-policy"] == 5


# cut off at any moment


def in_force(site: ImportSite) -> int:
    """Give the counter of the note that readers believe now."""
    found = read_signed(site.layout.site / "delivery.csv", NOTE.max_bytes)
    assert found is not None
    key = (site.layout.site / "trust/root.pub").read_bytes()
    checked = check_either(NOTE, found.data, found.signatures, public_key=key, site_id=SITE_ID)
    DeliveryNote.of(checked)
    assert checked.counter is not None
    return checked.counter


def importing(site: ImportSite, path: Path) -> int:
    """Start an import in a process of its own, everything loaded already; gives its pidfd.

    It gives way to us on our processor, so that we are there before its next step.
    """
    child = os.fork()
    if child == 0:
        os.nice(10)
        site.take(path)
        os._exit(0)
    return os.pidfd_open(child)


class Watch:
    """Tells each file that appears or goes in a directory, as the kernel does (inotify(7))."""

    def __init__(self, directory: Path) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self.descriptor = library.inotify_init1(os.O_CLOEXEC)
        created, moved, deleted = 0x100, 0x80, 0x200
        mask = created | moved | deleted
        assert library.inotify_add_watch(self.descriptor, os.fsencode(directory), mask) >= 0

    def after(self, events: int, pidfd: int) -> None:
        """Wait until so many things happened, or the process ended."""
        while events > 0:
            ready = select.select([self.descriptor, pidfd], [], [])[0]
            if self.descriptor not in ready:
                return
            data, at = os.read(self.descriptor, 4096), 0
            while at < len(data):
                at += 16 + int.from_bytes(data[at + 12 : at + 16], sys.byteorder)
                events -= 1


def test_killed_at_any_moment_an_import_leaves_the_old_or_the_new(site: ImportSite) -> None:
    """kill -9 right after each thing that imports do to the directory, and at random moments.

    One after the other, each on what the last has left.
    """
    one, draw, counters = site.document("delivery-note"), random.Random(7), [1]
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(ours)})
    try:
        cut_off(site, one, draw, counters)
    finally:
        os.sched_setaffinity(0, ours)
    assert len(set(counters)) > 10, "hardly one was done"
    path = site.bring(one, signature=one.signature(site.key, counter=90))
    assert site.take(path).exit_code == 0
    assert in_force(site) == site.operator("keys", "status")["delivery_note"]["counter"] == 90


def cut_off(site: ImportSite, one: Document, draw: random.Random, counters: list[int]) -> None:
    for counter in range(10, 90):
        data = one.data + b"X%d,M,,pos,\n" % counter
        path = site.bring(one, data, one.signature(site.key, data, counter=counter))
        watch = Watch(site.layout.site)
        pidfd = importing(site, path)
        watch.after(counter % 14, pidfd)
        select.select([pidfd], [], [], draw.choice((0, 0, 0, 0.001, 0.005)))
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        os.close(watch.descriptor)
        now = in_force(site)
        assert now in (counters[-1], counter), "neither the old nor the new"
        counters.append(now)
        shown = site.operator("keys", "status")
        assert shown["delivery_note"]["counter"] == now, shown["sentences"]


def test_a_boot_set_that_is_cut_off_is_not_there_or_whole(site: ImportSite) -> None:
    """kill -9 after each file that appears in the store; the next import finishes it."""
    site.document("boot-set")
    store, path = site.layout.state / "bootsets", site.stick / "set/manifest.json"
    key = (site.layout.site / "trust/root.pub").read_bytes()
    for events in range(14):
        shutil.rmtree(store)
        (store / "files").mkdir(parents=True)
        (store / "sets").mkdir()
        watches = [Watch(store / "files"), Watch(store / "sets")]
        pidfd = importing(site, path)
        watches[events % 2].after(events, pidfd)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        for descriptor in (pidfd, *(one.descriptor for one in watches)):
            os.close(descriptor)
        for digest in site.store.digests():
            manifest = site.store.verified_manifest(digest, key)
            site.store.check_files(manifest)
            assert site.store.has(digest, "rehearsal.json.minisig")
        assert site.doorstep("bootset", "list").exit_code == 0
        assert site.take(path).exit_code == 0
        (digest,) = site.store.digests()
        site.store.check_files(site.store.verified_manifest(digest, key))


def test_the_baseline_of_the_old_comment_is_taken(site: ImportSite) -> None:
    """What headquarters signed before: `firmware counter=<n>`."""
    one = site.document("firmware-baseline")
    from keys.manifest import sign

    old = sign(site.key, one.data, trusted_comment="firmware counter=5", context=one.kind.context)
    told = site.take(site.bring(one, signature=old))
    assert told.exit_code == 0 and "for all sites" in told.output, told.output
    key = (site.layout.site / "trust/root.pub").read_bytes()
    assert verify_baseline(one.data, old, public_key=key).counter == 5
    with pytest.raises(KeysError):
        check_either(NOTE, one.data, (old,), public_key=key, site_id=SITE_ID)
