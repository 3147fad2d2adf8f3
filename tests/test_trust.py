"""The trust store: what is imported is there with its source, and what is removed is gone."""

import base64
import json
import resource
from pathlib import Path

import ek_forge as make
import forge
import pytest

from attest.crl import Crl
from attest.errors import AttestSiteError
from attest.io import trust
from attest.io.trust import (
    MAX_FILE,
    SOURCES,
    Entry,
    Imported,
    Kind,
    Outcome,
    import_trust,
    list_trust,
    load_platform_trust,
    load_trust,
    remove_trust,
)

ROOT, MIDDLE, OTHER = make.ca(), make.between(), make.ca("Other Root", "other")
LIST = make.crl(b"\1")


def pem(*parts: bytes, label: str = "CERTIFICATE") -> bytes:
    return b"".join(
        f"-----BEGIN {label}-----\n".encode()
        + base64.encodebytes(part)
        + f"-----END {label}-----\n".encode()
        for part in parts
    )


def take(store: Path, *data: bytes, **changes: object) -> tuple[Imported, ...]:
    fields: dict = {"source": "maker's site, by hand", "now": forge.NOW}
    return import_trust(
        store, [(f"given-{n}", part) for n, part in enumerate(data)], **(fields | changes)
    )


def titles(entries: tuple[Entry, ...]) -> list[tuple[str, Kind]]:
    return [(entry.title, entry.kind) for entry in entries]


def test_what_is_imported_is_listed_with_its_source(tmp_path: Path) -> None:
    answers = take(tmp_path / "ek", pem(MIDDLE, ROOT), LIST)
    assert [answer.outcome for answer in answers] == [Outcome.STORED] * 3
    assert [answer.told for answer in answers] == [(), (), ()]
    entries = list_trust(tmp_path / "ek")
    assert titles(entries) == [
        ("Maker TPM CA 1", Kind.INTERMEDIATE),
        ("Maker TPM Root CA", Kind.ROOT),
        ("Maker TPM Root CA", Kind.CRL),
    ]
    for entry in entries:
        assert (entry.source, entry.imported) == ("maker's site, by hand", forge.NOW)
        assert entry.file.startswith(entry.fingerprint[:12])
        assert (tmp_path / "ek" / entry.file).stat().st_mode & 0o777 == 0o644
    assert (entries[2].since, entries[2].until) == (make.at(2026, 10, 1), make.at(2027, 1, 1))
    loaded = load_trust(tmp_path / "ek", rehearsal=False)
    assert {each.der for each in loaded.certificates} == {ROOT, MIDDLE}
    assert [each.der for each in loaded.crls] == [LIST]


def test_what_is_there_already_is_told_and_not_stored_twice(tmp_path: Path) -> None:
    take(tmp_path, ROOT)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    answers = take(tmp_path, pem(ROOT), source="elsewhere", now=forge.NOW + 9)
    assert [answer.outcome for answer in answers] == [Outcome.KNOWN]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    twice = take(tmp_path, OTHER, OTHER)
    assert [answer.outcome for answer in twice] == [Outcome.STORED, Outcome.KNOWN]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (make.ek(), "not a CA certificate"),
        (make.ca("swtpm-localca"), "TPMs in software"),
        (make.ca(spki=make.rsa_spki(16384)), "too long"),
        (make.crl(issuer="Nobody"), "import that first"),
        (make.crl(signer="liar"), "not signed by that CA"),
    ],
    ids=["end-entity", "virtual", "key", "list-of-nobody", "list-forged"],
)
def test_each_certificate_is_judged_by_itself(tmp_path: Path, data: bytes, told: str) -> None:
    refused, *rest = sorted(take(tmp_path, data, ROOT, OTHER), key=lambda a: a.outcome.name)
    assert refused.outcome is Outcome.REFUSED
    assert told in refused.told[0]
    assert [answer.outcome for answer in rest] == [Outcome.STORED] * 2
    assert len(list_trust(tmp_path)) == 2


def test_a_rehearsal_may_trust_tpms_in_software(tmp_path: Path) -> None:
    data = make.ca("swtpm-localca")
    assert take(tmp_path, data, rehearsal=True)[0].outcome is Outcome.STORED
    assert load_trust(tmp_path, rehearsal=True).certificates
    with pytest.raises(AttestSiteError, match="rehearsal only"):
        load_trust(tmp_path, rehearsal=False)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (make.ca(until="210101000000Z"), "it is expired"),
        (make.ca(since="300101000000Z"), "it is not valid yet"),
        (MIDDLE, "its issuer is not in the trust store"),
    ],
    ids=["expired", "early", "alone"],
)
def test_what_an_operator_should_know_is_said(tmp_path: Path, data: bytes, told: str) -> None:
    (answer,) = take(tmp_path, data)
    assert answer.outcome is Outcome.STORED
    assert told in answer.told[0]


def test_a_forged_issuer_is_no_issuer(tmp_path: Path) -> None:
    answers = take(tmp_path, make.ca(key="liar"), MIDDLE)
    assert "its issuer is not" in answers[1].told[0]


def test_an_old_list_is_told(tmp_path: Path) -> None:
    answers = take(tmp_path, ROOT, make.crl(next_update="261101000000Z"))
    assert "past its next update" in answers[1].told[0]


def test_a_file_of_no_use_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(AttestSiteError, match="given-1: there is no certificate"):
        take(tmp_path / "ek", ROOT, b"-----BEGIN NOTHING-----")
    assert not (tmp_path / "ek").exists()


def test_what_machines_are_signed_with_is_kept_apart(tmp_path: Path) -> None:
    signer = make.certificate(
        issuer=make.common("Machine Root"),
        subject=make.common("Machine signer"),
        key=make.spki(forge.private_key("machine signer")),
        signer="machine root",
        extensions=(make.key_usage(0),),
    )
    assert take(tmp_path, signer)[0].outcome is Outcome.REFUSED
    assert take(tmp_path, signer, platform=True)[0].outcome is Outcome.STORED
    assert load_trust(tmp_path, rehearsal=False).certificates == ()
    loaded = load_platform_trust(tmp_path, rehearsal=False)
    assert [each.title for each in loaded.certificates] == ["Machine signer"]
    assert titles(list_trust(tmp_path / "platform")) == [("Machine signer", Kind.INTERMEDIATE)]


def test_files_put_there_by_hand_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "maker.pem").write_bytes(pem(ROOT, MIDDLE))
    (tmp_path / "notes.txt").write_text("no certificate")
    assert [entry.source for entry in list_trust(tmp_path)] == [None, None]
    assert len(load_trust(tmp_path, rehearsal=False).certificates) == 2
    assert take(tmp_path, ROOT)[0].file == "maker.pem"


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list_trust(tmp_path / "none") == ()
    assert load_trust(tmp_path / "none", rehearsal=False).certificates == ()


def test_removing_by_fingerprint_or_file_takes_the_source_too(tmp_path: Path) -> None:
    take(tmp_path, ROOT, OTHER)
    root, other = (
        next(entry for entry in list_trust(tmp_path) if entry.part.der == der)
        for der in (ROOT, OTHER)
    )
    digits = ":".join(root.fingerprint[at : at + 2] for at in range(0, 16, 2)).upper()
    assert remove_trust(tmp_path, digits).entries == (root,)
    assert remove_trust(tmp_path, other.file).entries == (other,)
    assert list_trust(tmp_path) == ()
    assert json.loads((tmp_path / SOURCES).read_text())["entries"] == {}


def test_removing_says_what_is_left_without_an_issuer(tmp_path: Path) -> None:
    take(tmp_path, ROOT, MIDDLE, LIST, make.between(issuer="Never here", signer="liar"))
    root = next(entry for entry in list_trust(tmp_path) if entry.kind is Kind.ROOT)
    orphans = remove_trust(tmp_path, root.fingerprint).orphans
    assert {entry.part.der for entry in orphans} == {MIDDLE, LIST}


def test_one_of_a_bundle_is_removed_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "maker.pem").write_bytes(pem(ROOT, MIDDLE) + pem(LIST, label="X509 CRL"))
    entry = next(one for one in list_trust(tmp_path) if one.part.der == MIDDLE)
    remove_trust(tmp_path, entry.fingerprint[:8])
    assert {one.part.der for one in list_trust(tmp_path)} == {ROOT, LIST}


@pytest.mark.parametrize("key", ["", "abcdef0", "0000000000000000", "other.pem", "../x"])
def test_what_is_not_there_cannot_be_removed(tmp_path: Path, key: str) -> None:
    take(tmp_path, ROOT)
    with pytest.raises(AttestSiteError, match="trust list"):
        remove_trust(tmp_path, key)
    assert len(list_trust(tmp_path)) == 1


def test_a_start_of_several_fingerprints_removes_nothing(tmp_path: Path) -> None:
    take(tmp_path, ROOT, OTHER)
    with pytest.raises(AttestSiteError, match="several fingerprints"):
        trust._meant(
            tuple(
                Same(
                    part=one.part, file=one.file, kind=one.kind, title="", maker="", since=0,
                    until=None,
                )
                for one in list_trust(tmp_path)
            ),
            "12345678",
        )  # fmt: skip


class Same(Entry):
    """Two certificates whose fingerprints begin alike, which nobody can make."""

    @property
    def fingerprint(self) -> str:
        return "1234567890"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"type":"x","entries":{}}', '{"type":"doorstep/trust-sources/v1"}']
    + ['{"type":"doorstep/trust-sources/v1","entries":{"a":1}}']
    + ['{"type":"doorstep/trust-sources/v1","entries":[]}'],
)
def test_a_damaged_list_of_sources_is_named(tmp_path: Path, text: str) -> None:
    take(tmp_path, ROOT)
    (tmp_path / SOURCES).write_text(text)
    with pytest.raises(AttestSiteError, match=r"sources\.json.*put it back"):
        list_trust(tmp_path)
    assert load_trust(tmp_path, rehearsal=False).certificates


def test_a_disk_that_refuses_leaves_whole_files(tmp_path: Path) -> None:
    take(tmp_path, ROOT)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        with pytest.raises(AttestSiteError, match="File too large"):
            take(tmp_path, OTHER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [entry.part.der for entry in list_trust(tmp_path)] == [ROOT]
    assert take(tmp_path, OTHER)[0].outcome is Outcome.STORED
    assert not list(tmp_path.glob(".new-*"))


def test_a_store_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(AttestSiteError, match="file/ek"):
        take(tmp_path / "file" / "ek", ROOT)


def test_a_file_that_is_too_large_is_told(tmp_path: Path) -> None:
    take(tmp_path, ROOT)
    with next(tmp_path.glob("*.pem")).open("r+b") as file:
        file.truncate(MAX_FILE + 1)
    with pytest.raises(AttestSiteError, match="too large"):
        load_trust(tmp_path, rehearsal=False)


def test_a_list_that_somebody_forged_stops_the_load(tmp_path: Path) -> None:
    take(tmp_path, ROOT)
    (tmp_path / "forged.crl").write_bytes(make.crl(signer="liar"))
    with pytest.raises(AttestSiteError, match=r"forged\.crl.*not signed by that CA"):
        load_trust(tmp_path, rehearsal=False)


def test_a_name_makes_a_file_name_and_nothing_else(tmp_path: Path) -> None:
    (answer,) = take(tmp_path, make.ca("../../etc/passwd\n\x1b[2J" + "x" * 90))
    assert answer.file.count("/") == 0
    assert answer.file.endswith(".pem")
    assert len(answer.file) < 70
    assert (tmp_path / answer.file).exists()
    (nameless,) = take(tmp_path, make.ca("…"))
    assert nameless.file.endswith("-unnamed.pem")
    assert isinstance(list_trust(tmp_path)[0], Entry)
    assert not any(isinstance(entry.part, Crl) for entry in list_trust(tmp_path))
