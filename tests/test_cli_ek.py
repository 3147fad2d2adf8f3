"""`doorstep ek`: what it says of a box's certificates, offline, and its exit codes."""

import base64
import json
from pathlib import Path

import ek_forge as make
import forge
import make_ek_vectors as vectors
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.cli.main import main
from keys.tpm_public import sized

BOX = forge.Box()
AT = ("--at", "2026-11-18")
GOOD = (make.ek(),)


class Desk:
    """A directory with files, and the command run on them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def file(self, name: str, data: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(data)
        return path

    def run(self, *data: bytes, anchors: tuple[bytes, ...] = (make.ca(),), more=()) -> Result:
        files = [self.file(f"given-{n}", part) for n, part in enumerate(data)]
        trusted = [self.file(f"anchor-{n}", part) for n, part in enumerate(anchors)]
        options = [word for path in trusted for word in ("--anchors", path)]
        arguments = ["ek", *files, *options, *AT, *more]
        return CliRunner().invoke(main, [str(one) for one in arguments])

    def json(self, *data: bytes, code: int, **options) -> dict:
        more = (*options.pop("more", ()), "--json")
        done = self.run(*data, more=more, **options)
        assert done.exit_code == code, done.output
        return json.loads(done.output)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def codes(document: dict) -> list[str]:
    return [finding["reason"] for finding in document["findings"]]


def test_a_chain_that_holds_is_told(desk: Desk) -> None:
    document = desk.json(*GOOD, code=0)
    assert document["findings"] == []
    assert document["key"]["algorithm"] == "ECC"
    assert document["key"]["curve"] == "P-256"
    assert len(document["key"]["spki_sha256"]) == 64
    assert document["tpm"] == {
        "maker": "id:4E544300",
        "maker_name": "Nuvoton Technology",
        "model": "NPCT75x",
        "version": "id:00070002",
    }
    assert document["chain"][1:] == ["Maker TPM Root CA"]
    assert document["chain_holds"]
    assert document["template"] == ["L-2", "H-2"]
    assert document["revocation"]["unrevoked"] == "no list"
    assert document["certificate"]["serial"] == "1267"
    assert document["certificate"]["not_after"] == "9999-12-31"
    assert (document["platform"], document["more"], document["unreadable"]) == ([], [], [])


@pytest.mark.parametrize("pack", [sized, bytes], ids=["TPM2B_PUBLIC", "TPMT_PUBLIC"])
def test_with_the_public_area_the_template_is_known(desk: Desk, pack) -> None:
    document = desk.json(*GOOD, pack(BOX.ek.encode()), code=0)
    assert document["template"] == ["L-2"]
    assert document["ek_name"] == BOX.ek.name().hex()


def test_a_key_of_no_template_is_a_finding(desk: Desk) -> None:
    document = desk.json(*GOOD, BOX.ak.encode(), code=1)
    assert codes(document) == ["EK-TEMPLATE"]
    assert document["template"] == []
    assert document["findings"][0]["releasable_by"] == "nobody"


def test_a_point_off_its_curve_is_a_finding(desk: Desk) -> None:
    area = BOX.ek.encode()
    document = desk.json(*GOOD, area[:-1] + bytes([area[-1] ^ 1]), code=1)
    assert codes(document) == ["EK-STRUCTURE"]


def test_a_certificate_of_another_key_is_a_finding(desk: Desk) -> None:
    document = desk.json(*GOOD, forge.Box(label="box B").ek.encode(), code=1)
    assert codes(document) == ["EK-CERT-MISMATCH"]


def test_a_public_area_alone_is_never_good(desk: Desk) -> None:
    document = desk.json(BOX.ek.encode(), code=1)
    assert codes(document) == ["EK-UNKNOWN"]
    assert document["key"] is None


def test_without_anchors_nothing_is_good(desk: Desk) -> None:
    assert codes(desk.json(*GOOD, code=1, anchors=())) == ["EK-UNKNOWN"]
    shown = desk.run(*GOOD, anchors=())
    assert "no anchors were given" in shown.output
    assert "breaks: issued by Maker TPM Root CA" in shown.output
    assert shown.exit_code == 1


def test_what_is_only_told_does_not_gate(desk: Desk) -> None:
    document = desk.json(make.ek(hash_name="sha1"), code=0)
    assert codes(document) == ["EK-CERT-SHA1"]
    assert not document["findings"][0]["gates"]


def test_a_tpm_in_software_passes_in_a_rehearsal_alone(desk: Desk) -> None:
    leaf = make.ek(issuer=make.common("swtpm-localca"), signer="liar")
    anchors = (make.ca("swtpm-localca", "liar"),)
    assert codes(desk.json(leaf, code=1, anchors=anchors)) == ["EK-VIRTUAL"]
    desk.json(leaf, code=0, anchors=anchors, more=("--rehearsal",))


def test_lists_are_looked_at(desk: Desk) -> None:
    clean = desk.json(*GOOD, code=0, anchors=(make.ca(), make.crl(b"\1")))
    assert clean["revocation"]["unrevoked"] == "checked on 2026-10-01"
    revoked = desk.json(*GOOD, code=1, anchors=(make.ca(), make.crl(b"\x12\x67")))
    assert codes(revoked) == ["EK-CERT-REVOKED"]
    old = (make.ca(), make.crl(b"\1"))
    stale = desk.json(*GOOD, code=1, anchors=old, more=("--crl-max-age", "30"))
    assert codes(stale) == ["CRL-STALE"]


def test_the_time_may_be_given(desk: Desk) -> None:
    leaf = make.ek(until="270101000000Z")
    desk.json(leaf, code=0)
    assert codes(desk.json(leaf, code=1, more=("--at", "2028-01-01"))) == ["EK-CERT-EXPIRED"]


def test_intermediates_and_padding_are_borne(desk: Desk) -> None:
    middle = make.between()
    document = desk.json(vectors.LOW + b"\xff" * 99, middle + b"\0" * 9, code=0)
    assert document["chain"][1:] == ["Maker TPM CA 1", "Maker TPM Root CA"]
    split = desk.json(vectors.LOW, middle[:99], middle[99:], code=0)
    assert split["chain"] == document["chain"]


def test_pem_bundles_are_read(desk: Desk) -> None:
    pem = b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
        for der in (vectors.LOW, make.between())
    )
    assert desk.json(pem, code=0)["chain_holds"]


def test_what_a_maker_s_web_service_answers_is_read(desk: Desk) -> None:
    text = base64.urlsafe_b64encode(make.ek()).decode().replace("=", "%3D")
    answer = json.dumps({"pubhash": "x", "certificate": text}).encode()
    assert desk.json(answer, code=0)["chain_holds"]


def test_every_ek_certificate_has_its_report(desk: Desk) -> None:
    rsa = make.ek(key=make.rsa_spki(), use=make.key_usage(2), until="210101000000Z")
    document = desk.json(make.ek(), rsa, code=1)
    assert document["findings"] == []
    (other,) = document["more"]
    assert other["key"]["bits"] == 2048
    assert other["template"] == ["L-1", "H-1"]
    assert codes(other) == ["EK-CERT-EXPIRED"]


def test_intermediates_alone_are_no_ek(desk: Desk) -> None:
    document = desk.json(make.between(), code=1)
    assert codes(document) == ["EK-UNKNOWN"]
    assert document["key"] is None
    assert desk.run(make.between()).exit_code == 1


def test_a_key_of_an_unknown_kind_is_told(desk: Desk) -> None:
    odd = make.seq(make.seq(make.oid("2.25.1")), make.bit_string(b"x"))
    document = desk.json(make.ek(key=odd), code=0)
    assert document["key"]["algorithm"] is None
    assert document["template"] == []


def test_a_platform_certificate_gives_facts(desk: Desk) -> None:
    anchors = (make.ca(), make.ca("Machine CA", "machine maker"))
    document = desk.json(*GOOD, vectors.platform(), code=0, anchors=anchors)
    (platform,) = document["platform"]
    assert (platform["manufacturer"], platform["serial"]) == ("Maker of boxes", "SN 0815")
    assert platform["components"][0]["model"] == "I210"
    assert platform["components"][0]["addresses"][0]["address"] == "02:00:00:00:00:01"
    assert platform["chain"] == ["Machine CA"]
    shown = desk.run(*GOOD, vectors.platform(), anchors=anchors)
    assert "Box 3000" in shown.output
    other = desk.json(*GOOD, vectors.platform(ek_serial=b"\1"), code=1, anchors=anchors)
    assert codes(other) == ["PLATFORM-CERT"]
    broken = desk.json(*GOOD, vectors.platform(), code=1)
    assert codes(broken) == ["PLATFORM-CERT"]


def test_a_directory_is_a_trust_store(desk: Desk) -> None:
    store = desk.directory / "store"
    (store / "platform").mkdir(parents=True)
    (store / "root.pem").write_bytes(make.ca())
    (store / "platform" / "machine.cer").write_bytes(make.ca("Machine CA", "machine maker"))
    more = ("--anchors", str(store))
    document = desk.json(*GOOD, vectors.platform(), code=0, anchors=(), more=more)
    assert document["platform"][0]["chain"] == ["Machine CA"]


def test_a_site_gives_its_anchors(desk: Desk) -> None:
    site = desk.directory / "site"
    run = CliRunner().invoke
    made = ["init", str(site), "--id", "shop-1", "--network", "10.77.0.0/24"]
    assert run(main, made).exit_code == 0
    (site / "trust" / "ek").mkdir(parents=True, exist_ok=True)
    (site / "trust" / "ek" / "root.pem").write_bytes(make.ca())
    assert desk.json(*GOOD, code=0, anchors=(), more=("--site", str(site)))["chain_holds"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "there is no certificate"),
        (b"\xff" * 99, "there is no certificate"),
        (make.ek()[:-1], "cut short"),
        (b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----", "damaged base64"),
        (b"-----BEGIN CERTIFICATE-----\n", "there is no certificate"),
        (b"{}", "damaged base64"),
        (b'{"certificate": 7}', "damaged base64"),
        (b"{" * 9000, "damaged base64"),
        (bytes(1 << 20) + b"x", "too large"),
        (vectors.platform(), "there is no EK certificate"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(desk: Desk, data: bytes, told: str) -> None:
    done = desk.run(data)
    assert done.exit_code == 2
    assert told in done.output
    assert "given-0" in done.output


def test_an_anchor_that_is_none_is_one_sentence(desk: Desk) -> None:
    done = desk.run(*GOOD, anchors=(make.ek(),))
    assert done.exit_code == 2
    assert "not a CA certificate" in done.output


def test_what_is_unreadable_beside_is_told(desk: Desk) -> None:
    document = desk.json(*GOOD, b"\xff" * 99, code=0)
    assert document["unreadable"] == ["there is no certificate"]


def test_people_read_the_same(desk: Desk) -> None:
    shown = desk.run(make.ek(usages=b"", until="270101000000Z"), more=("--at", "2030-01-01"))
    assert shown.exit_code == 1
    for told in (
        "ECC P-256",
        "Nuvoton Technology (id:4E544300) NPCT75x",
        "Maker TPM Root CA",
        "L-2, H-2",
        "no extended key usage",
        "EK-CERT-EXPIRED: ",
        "[release: headquarters]",
    ):
        assert told in shown.output
    assert "nothing is against it" in desk.run(*GOOD).output


def test_a_certificate_cannot_move_the_terminal(desk: Desk) -> None:
    names = make.san(
        ("2.23.133.2.1", "\x1b[2Jid:1"), ("2.23.133.2.2", "\x9bm"), ("2.23.133.2.3", "\x07")
    )
    leaf = make.ek(
        names=names, issuer=make.common("\x1b]0;x\x07 CA"), subject=make.common("\u202eabc")
    )
    output = desk.run(leaf, anchors=()).output
    assert "id:1" in output
    assert all(char.isprintable() or char == "\n" for char in output)


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=200), st.integers(0, 500))
def test_any_file_gets_an_answer(tmp_path_factory, noise: bytes, place: int) -> None:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    data = make.ek()
    for attempt in (noise, data[:place] + noise + data[place + len(noise) :]):
        done = desk.run(attempt)
        assert done.exit_code in (1, 2) or attempt.startswith(data), done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
