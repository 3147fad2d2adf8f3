"""Signed zones: dnspython and ldns-verify-zone as second opinions, each denial proved."""

from __future__ import annotations

import subprocess
from pathlib import Path

import dns.dnssec
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from dns_lab import NOW, ORIGIN, zone, zone_keys

from keys.zone_keys import ds, key_tag
from netboot.dnssec import FRESH_SECONDS, VALID_SECONDS, ZoneSigner
from netboot.names import Labels, labels, text, wire
from netboot.nsec3 import bitmap, hash_of
from netboot.rdata import Rtype, name_of, show
from netboot.zone import RRset, Zones


@pytest.fixture(scope="module")
def signer() -> ZoneSigner:
    return ZoneSigner(zone(), zone_keys())


def as_dns(rrset: RRset) -> dns.rrset.RRset:
    found = dns.rrset.RRset(
        dns.name.from_text(text(rrset.owner)),
        dns.rdataclass.IN,
        dns.rdatatype.RdataType.make(rrset.rtype),
    )
    for data in rrset.rdatas:
        found.add(
            dns.rdata.from_wire(dns.rdataclass.IN, rrset.rtype, data, 0, len(data)), rrset.ttl
        )
    return found


def trusted(signer: ZoneSigner) -> dict[dns.name.Name, dns.rrset.RRset]:
    keys = signer.zone.names[ORIGIN][Rtype.DNSKEY]
    return {dns.name.from_text(text(ORIGIN)): as_dns(keys)}


def test_every_set_verifies_with_another_library(signer: ZoneSigner) -> None:
    records = list(signer.everything(NOW))
    pairs = [
        (one, two)
        for one, two in zip(records, records[1:], strict=False)
        if one.rtype != Rtype.RRSIG and two.rtype == Rtype.RRSIG
    ]
    assert len(pairs) > 40
    for rrset, rrsig in pairs:
        dns.dnssec.validate(as_dns(rrset), as_dns(rrsig), trusted(signer), now=NOW)
    plain = [
        one.owner
        for one, two in zip(records, records[1:], strict=False)
        if Rtype.RRSIG not in (one.rtype, two.rtype)
    ]
    assert {text(one) for one in plain} <= {
        "sub.example.net.",
        "ns.sub.example.net.",
        "signed.example.net.",
    }


def test_a_wildcards_answer_carries_the_wildcards_signature(signer: ZoneSigner) -> None:
    found = Zones([signer.zone]).lookup(labels("any.thing.example.net"), Rtype.TXT)
    answer, rrsig = signer.signed(found.answers, NOW)
    assert rrsig.owner == answer.owner == labels("any.thing.example.net")
    dns.dnssec.validate(as_dns(answer), as_dns(rrsig), trusted(signer), now=NOW)


@pytest.mark.parametrize(
    ("name", "rtype", "records"),
    [
        ("nothing.exact.wild", Rtype.A, 2),
        ("www", Rtype.AAAA, 1),
        ("nothing", Rtype.MX, 3),
        ("nothing", Rtype.TXT, 1),
        ("exact.wild", Rtype.A, 1),
        ("host.sub", Rtype.A, 1),
        ("host.signed", Rtype.A, 0),
    ],
)
def test_each_absence_is_proved(signer: ZoneSigner, name: str, rtype: int, records: int) -> None:
    found = Zones([signer.zone]).lookup(labels(f"{name}.example.net"), rtype)
    proof = [one for one in signer.prove(found, NOW) if one.rtype == Rtype.NSEC3]
    assert len(proof) >= records if records > 1 else len(proof) == records
    for missing in found.missing:
        assert_proved(signer, missing.name, missing.encloser, missing.absence.name, proof)


def assert_proved(
    signer: ZoneSigner, name: Labels, encloser: Labels, absence: str, proof: list[RRset]
) -> None:
    """Check a proof as RFC 5155, 8.4 to 8.8 does, from the records alone."""
    spans = {}
    for one in proof:
        start = bytes.fromhex(_unhex(one.owner[0]))
        spans[start] = one.rdatas[0][6:26]

    def is_matched(one: Labels) -> bool:
        return hash_of(one) in spans

    def is_covered(one: Labels) -> bool:
        wanted = hash_of(one)
        return any(
            start < wanted < end or (end <= start and (wanted > start or wanted < end))
            for start, end in spans.items()
        )

    next_closer = name[len(name) - len(encloser) - 1 :]
    wildcard = (b"*", *encloser)
    rules = {
        "NAME": [(is_matched, encloser), (is_covered, next_closer), (is_covered, wildcard)],
        "TYPE": [(is_matched, name)],
        "DS": [(is_matched, name)],
        "EXACT": [(is_covered, next_closer)],
        "WILDCARD_TYPE": [
            (is_matched, encloser),
            (is_covered, next_closer),
            (is_matched, wildcard),
        ],
    }
    for rule, subject in rules[absence]:
        assert rule(subject), (absence, rule.__name__, text(subject))


def _unhex(label: bytes) -> str:
    import base64

    return base64.b32hexdecode(label.upper()).hex()


def test_signatures_are_kept_while_fresh_and_made_again_in_time(signer: ZoneSigner) -> None:
    rrset = signer.zone.names[labels("www.example.net")][Rtype.A]
    first = signer.signature(rrset, NOW)
    assert signer.signature(rrset, NOW + VALID_SECONDS - FRESH_SECONDS - 30) is first
    again = signer.signature(rrset, NOW + VALID_SECONDS - FRESH_SECONDS)
    assert again != first
    kept = ZoneSigner(zone(), signer._keys, before=signer)
    assert kept.signature(rrset, NOW + VALID_SECONDS - FRESH_SECONDS) is again
    other = ZoneSigner(zone(), zone_keys(), before=signer)
    assert other.signature(rrset, NOW) != first
    assert signer.signature(rrset, NOW - 30 * 86400) != again  # the clock was set back


def test_bitmaps_have_windows() -> None:
    assert bitmap([1, 15, 46, 47]) == bytes.fromhex("000640010000 0003".replace(" ", ""))
    assert bitmap([1, 1234]).hex() == "000140" + "041b" + "00" * 26 + "20"
    assert bitmap([]) == b""


def test_the_ds_is_that_of_another_library(signer: ZoneSigner) -> None:
    key = next(one for one in signer.zone.names[ORIGIN][Rtype.DNSKEY].rdatas if one[1] & 1)
    rdata = dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.DNSKEY, key, 0, len(key))
    made = dns.dnssec.make_ds(dns.name.from_text("example.net"), rdata, "SHA256")
    assert ds(wire(ORIGIN), key) == made.to_digestable()
    assert key_tag(key) == dns.dnssec.key_id(rdata)


def test_n34_the_whole_zone_satisfies_ldns(signer: ZoneSigner, tmp_path: Path) -> None:
    lines = []
    for rrset in signer.everything(NOW):
        kind = name_of(rrset.rtype)
        lines += [
            f"{text(rrset.owner)} {rrset.ttl} IN {kind} {show(rrset.rtype, data)}"
            for data in rrset.rdatas
        ]
    file = tmp_path / "signed.zone"
    file.write_text("\n".join(lines) + "\n")
    command = ["ldns-verify-zone", "-t", "20261118180000", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
