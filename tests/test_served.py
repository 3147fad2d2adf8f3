"""The serve record through real control and command line: which boot set, its files in order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from control_site import ControlSite
from cryptography.hazmat.primitives.serialization import Encoding

from attest.uefi import decode_signatures
from keys import note
from keys.ca import load_certificate
from netboot.files import Entry, ServeRecord, Transport

MAC, ADDRESS = "52:54:00:00:00:51", "10.41.7.151"
BOOT_SET = bytes(range(32))
NAMES = ("/shimx64.efi", "/grubx64.efi", "/grub/grub.cfg", "/f/00/vmlinuz", "/f/00/initrd")


@pytest.fixture(scope="module")
def site() -> Iterator[ControlSite]:
    made = ControlSite()
    try:
        path = made.layout.site / "site.toml"
        path.write_text(path.read_text().replace("[boot]\n", "[boot]\nhttps = true\n"))
        yield made.start()
    finally:
        made.close()


def tell(site: ControlSite) -> None:
    """Tell what netboot's record tells when a box loads all but the end of its initrd."""
    record, now = ServeRecord(), time.time()
    for step, name in enumerate(NAMES):
        entry = Entry(path=name, sha256=bytes([step]) * 32, boot_set=BOOT_SET)
        size = 10 << 20
        sent = size // 4 if name.endswith("initrd") else size
        start = record.start(Transport.TFTP, IPv4Address(ADDRESS), entry, size, now + step)
        end = record.end(
            Transport.TFTP, IPv4Address(ADDRESS), entry, size, now + step + 0.5, sent=sent
        )
        site.heard(
            *(
                {
                    "at": one.at,
                    "kind": one.kind.value,
                    "mac": MAC,
                    "address": ADDRESS,
                    "detail": dict(one.detail),
                }
                for one in (*start, *end)
            )
        )


def test_a_box_s_record_names_the_boot_set_and_its_files_in_order(site: ControlSite) -> None:
    site.lease(MAC, ADDRESS)
    tell(site)

    def record() -> list[dict]:
        return site.operator("control", "box", box=MAC)["served"]

    site.until(lambda: len(record()) == len(NAMES) and record()[-1]["sent"])
    assert [one["name"] for one in record()] == list(NAMES)
    assert {one["boot_set"] for one in record()} == {BOOT_SET.hex()}
    assert [one["done"] for one in record()] == [True, True, True, True, False]
    shown = site.doorstep("box", "show", MAC)
    assert shown.exit_code == 0, shown.output
    assert f"of boot set {BOOT_SET.hex()}:" in shown.output
    places = [shown.output.index(f"{name}: ") for name in NAMES]
    assert places == sorted(places)
    assert "/f/00/initrd: 2621440 of 10485760 bytes by tftp" in shown.output
    answer = site.doorstep("box", "show", MAC, "--json")
    assert json.loads(answer.output)["served"] == record()


def test_the_operator_is_given_the_authority_of_https_boot(
    site: ControlSite, tmp_path: Path
) -> None:
    done = site.doorstep("ca", "boot", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    certificate = load_certificate((tmp_path / "boot-ca.pem").read_bytes())
    assert certificate.issuer == certificate.subject
    (found,) = decode_signatures((tmp_path / "boot-ca.esl").read_bytes())
    assert found.data == certificate.public_bytes(Encoding.DER)
    served = (site.layout.run / "tls" / "boot.pem").read_text()
    load_certificate(served).verify_directly_issued_by(certificate)


def test_a_box_of_the_note_has_a_card_before_it_is_heard(site: ControlSite) -> None:
    ek_sha256 = b"e" * 32
    site.deliver(note.Entry(serial="TB3-9", model="T", ek_sha256=ek_sha256, role="pos", name=None))

    def expected() -> list[dict]:
        cards = site.operator("control", "boxes")["cards"]
        return [card for card in cards if card["stage"] == "expected"]

    site.until(expected)
    (card,) = expected()
    assert card["title"] == "T TB3-9"
    shown = site.doorstep("box", "show", card["key"])
    assert shown.exit_code == 0, shown.output
    assert "It is on the delivery note and was not heard yet" in shown.output
