"""Writes the vectors of EK certificates, revocation lists and platform certificates.

Run as `python tests/make_ek_vectors.py`; the same bytes every time. A vector holds what the box
sent (`certificates`, as in NV) and its EK, the site's `anchors` and `crls`, the time, and what must
come out: `expect` is the first reason that gates, `notes` what is only told, `unrevoked` what the
lists said, `workarounds` what was borne. A `platform` is judged beside the first certificate, with
`machines` for its anchors. `import` is a part of the sentence that refuses the anchors themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import ek_forge as make  # noqa: E402
import forge  # noqa: E402
from ek_forge import between, ca, crl, ek, tlv  # noqa: E402
from make_vectors import toml  # noqa: E402

from attest.der import decode_certificate  # noqa: E402
from attest.ektemplate import fitting_templates  # noqa: E402

VECTORS = HERE / "vectors" / "ek"
NOW = int(forge.NOW)
ROOT, LEAF = ca(), ek()
LOW = ek(issuer=make.common("Maker TPM CA 1"), signer="maker intermediate")
EK_KEY = forge.private_key("ek of box A")
INVALID, UNKNOWN, EXPIRED = "EK-CERT-INVALID", "EK-UNKNOWN", "EK-CERT-EXPIRED"
REVOKED, STALE, VIRTUAL, MISMATCH = (
    "EK-CERT-REVOKED",
    "CRL-STALE",
    "EK-VIRTUAL",
    "EK-CERT-MISMATCH",
)
PLATFORM = "PLATFORM-CERT"
NO_KEY = make.seq(make.seq(make.oid("2.25.7")), make.bit_string(b"no key"))
NO_EKU = "EK certificate: it has no extended key usage"
NO_KU = "EK certificate: it has no key usage"
CHECKED = "checked on 2026-10-01"


def vector(expect: str, *sent: bytes, **changes: object) -> dict:
    """Give a vector; the lines of the list that it stands for are in `lines`."""
    fields: dict = {
        "expect": expect,
        "lines": changes.pop("lines", [29]),
        "notes": [],
        "now": NOW,
        "ek": forge.Box().ek.encode(),
        "certificates": list(sent) or [LEAF],
        "anchors": [ROOT],
        "crls": [],
        "unrevoked": "no list",
        "workarounds": [],
    }
    return fields | changes


def of_key(spki: bytes, template: str, expect: str = "", **changes: object) -> dict:
    """Give a vector of an EK certificate over another key."""
    leaf = ek(key=spki, **changes)
    areas = {known.name: area for known, area in fitting_templates(decode_certificate(leaf))}
    return vector(expect, leaf, ek=areas[template].encode(), lines=[22, 29])


def keys() -> dict[str, dict]:
    """Give honest keys in each form, and curves that only look like one."""
    p384 = forge.ec.derive_private_key(0x1234567, forge.ec.SECP384R1())
    x9 = (make.Encoding.X962, make.PublicFormat.UncompressedPoint)
    own = EK_KEY.public_key().public_bytes(*x9)
    return {
        "key-rsa-2048": of_key(make.rsa_spki(), "L-1", use=make.key_usage(2)),
        "key-rsa-3072": of_key(make.rsa_spki(3072), "H-6", use=make.key_usage(2)),
        "key-rsa-4096": of_key(make.rsa_spki(4096), "H-7", use=make.key_usage(2)),
        "key-rsaes-oaep": of_key(
            make.rsa_spki(algorithm="1.2.840.113549.1.1.7"), "L-1", use=make.key_usage(2)
        ),
        "key-p384": of_key(make.spki(p384), "H-3"),
        "key-p256-high-range": of_key(make.spki(EK_KEY), "H-2"),
        "key-curve-in-numbers": of_key(make.explicit_spki(EK_KEY), "L-2"),
        "key-compressed-point": of_key(make.compressed_spki(EK_KEY), "L-2"),
        # CVE-2020-0601: with another base point anybody has a private key for a maker's CA.
        "ca-curve-of-another-base": vector(
            UNKNOWN,
            LOW,
            between(spki=make.explicit_spki(forge.private_key("maker intermediate"), own)),
        ),
        "ca-curve-in-numbers": vector(
            "", LOW, between(spki=make.explicit_spki(forge.private_key("maker intermediate")))
        ),
        "key-of-another-box": vector(
            MISMATCH, ek(key=make.spki(forge.private_key("ek of box B"))), lines=[22]
        ),
    }


def shapes() -> dict[str, dict]:
    """Give honest certificates in the odd shapes of makers."""
    nuvoton = make.name(
        (make.COMMON_NAME, "Maker TPM Root CA"),
        ("2.5.4.10", "Maker"),
        ("2.5.4.6", "TW"),
        one_set=True,
    )
    sorted_set = make.name(
        ("2.5.4.6", "TW"),
        ("2.5.4.10", "Maker"),
        (make.COMMON_NAME, "Maker TPM Root CA"),
        one_set=True,
    )
    odd_root = make.certificate(
        issuer=nuvoton,
        subject=nuvoton,
        key=make.spki(forge.private_key("maker root")),
        signer="maker root",
        extensions=(make.basic(ca=True), make.key_usage(5, 6)),
    )
    two_names = make.extension(
        make.SAN,
        make.seq(
            tlv(0xA4, make.name(("2.5.4.10", "Maker"))),
            tlv(0xA4, make.name(*make.TPM)),
            tlv(0x86, b"x"),
        ),
        make.TRUE,
    )
    return {
        "accepted": vector(""),
        "padded-ff": vector("", LEAF + b"\xff" * 900, lines=[33]),
        "padded-00": vector("", LEAF + b"\0" * 900, lines=[33]),
        "padded-11": vector("", LEAF + b"\x11" * 900, lines=[33]),
        "padded-in-front": vector("", b"\xff" * 8 + LEAF, lines=[33]),
        "stored-header": vector("", b"\x10\1\0\3\xb5\x10\2" + LEAF + b"\xff" * 9, lines=[33]),
        "set-order": vector("", ek(issuer=sorted_set), anchors=[odd_root], lines=[32]),
        "san-in-one-set": vector("", ek(names=make.san(*make.TPM, one_set=True)), lines=[31]),
        "san-printable": vector("", ek(names=make.san(*make.TPM, tag=0x13)), lines=[31]),
        "san-not-critical": vector("", ek(names=make.san(*make.TPM, flag=b"")), lines=[31]),
        "san-two-names": vector("", ek(names=two_names), lines=[31]),
        "serial-negative": vector("", ek(serial=b"\xff\x12")),
        "serial-zero": vector("", ek(serial=b"\0")),
        "serial-badly-padded": vector("", ek(serial=b"\0\0\0\6")),
        "subject-as-its-issuer": vector("", ek(subject=make.common("Maker TPM Root CA"))),
        "ca-false-written": vector(
            "", ek(constraints=make.extension(make.BASIC, make.seq(make.FALSE), make.TRUE))
        ),
        "eku-critical-without-key-usage": vector(
            "",
            ek(use=b"", usages=make.extended(make.EK_USAGE, flag=make.TRUE)),
            workarounds=[NO_KU],
        ),
        "subject-named": vector("", ek(subject=make.common("TPM EK"))),
        "critical-false-written": vector("", ek(constraints=make.basic(flag=make.FALSE))),
        "critical-key-identifier": vector(
            "", ek(extra=[make.extension("2.5.29.35", make.seq(), make.TRUE)]), lines=[31]
        ),
        "algorithm-with-extra": vector("", ek(parameters=b"\5\0"), lines=[32]),
        "without-eku": vector("", ek(usages=b""), workarounds=[NO_EKU]),
        "without-key-usage": vector("", ek(use=b""), workarounds=[NO_KU]),
        "without-basic-constraints": vector("", ek(constraints=b"")),
        "eku-and-another": vector("", ek(usages=make.extended("1.3.6.1.5.5.7.3.2", make.EK_USAGE))),
        "date-utc-without-seconds": vector("", ek(since="2001010000Z"), lines=[34]),
        "date-with-zone": vector("", ek(since="200101000000+0200"), lines=[34]),
        "date-9999": vector("", ek(until="99991231235959Z"), lines=[34]),
        "sha1-leaf": vector("", ek(hash_name="sha1"), notes=["EK-CERT-SHA1"]),
        "sha1-intermediate": vector("", LOW, between(hash_name="sha1"), notes=["EK-CERT-SHA1"]),
        # The root vouches for itself by being imported; what signed it does not matter.
        "sha1-root": vector("", anchors=[ca(hash_name="sha1")]),
        "platform-certificate-beside": vector(
            "", ek(usages=make.extended(make.PLATFORM_USAGE)), LEAF, lines=[22]
        ),
    }


def chains() -> dict[str, dict]:
    """Give chains through intermediates, whole and broken, from NV and from the store."""
    middle = between()
    both = middle + b"\xff" * 40 + between(subject="Maker TPM CA 2", key="other")
    old = ca(until="210101000000Z")
    deep = [
        ca(f"CA {n + 1}", f"ca {n + 1}", issuer=f"CA {n}" if n else None, signer=f"ca {n}")
        for n in range(7)
    ]
    below = [ek(issuer=make.common(f"CA {n}"), signer=f"ca {n}") for n in (6, 7)]
    deep[0] = ca("CA 1", "ca 1")
    return {
        "intermediate-from-nv": vector("", LOW, middle),
        "intermediate-first": vector("", middle, LOW),
        "intermediate-padded": vector("", LOW, b"\0" * 3 + middle + b"\xff" * 200, lines=[33]),
        "intermediates-in-one-index": vector("", LOW, both, lines=[33]),
        "intermediate-over-two-indices": vector(
            "", LOW, middle[:200], middle[200:] + b"\xff" * 50, lines=[33]
        ),
        "intermediate-cut-short": vector(UNKNOWN, middle[:200], LOW),
        "intermediate-in-store": vector("", LOW, anchors=[ROOT, middle]),
        "intermediate-alone-in-store": vector("", LOW, anchors=[middle]),
        "intermediate-ca-false-written": vector(
            UNKNOWN,
            LOW,
            between(basic=make.extension(make.BASIC, make.seq(make.FALSE), make.TRUE)),
        ),
        "intermediate-alone": vector(UNKNOWN, middle, lines=[26]),
        "chain-of-seven-in-store": vector("", below[1], anchors=deep[:7]),
        "intermediate-without-ca-flag": vector(UNKNOWN, LOW, between(basic=make.basic())),
        "intermediate-path-length-without-ca-flag": vector(
            UNKNOWN,
            LOW,
            between(basic=make.extension(make.BASIC, make.seq(make.integer(1)), make.TRUE)),
        ),
        "intermediate-without-constraints": vector(
            UNKNOWN, LOW, between(basic=make.key_usage(5, 6), usage=None)
        ),
        "intermediate-may-not-sign": vector(UNKNOWN, LOW, between(usage=(6,))),
        "intermediate-without-key-usage": vector("", LOW, between(usage=None)),
        "intermediate-for-any-usage": vector(
            "", LOW, between(extensions=[make.extended("2.5.29.37.0")])
        ),
        "intermediate-for-other-usage": vector(
            UNKNOWN, LOW, between(extensions=[make.extended("1.3.6.1.5.5.7.3.1")])
        ),
        "intermediate-critical-extension": vector(
            UNKNOWN,
            LOW,
            between(extensions=[make.extension("2.5.29.30", make.seq(), make.TRUE)]),
            lines=[31],
        ),
        "intermediate-critical-policies": vector(
            "",
            LOW,
            between(extensions=[make.extension("2.5.29.32", make.seq(), make.TRUE)]),
            lines=[31],
        ),
        "intermediate-expired": vector(EXPIRED, LOW, between(until="210101000000Z"), lines=[34]),
        "intermediate-renewed": vector("", LOW, between(until="210101000000Z"), middle, lines=[34]),
        "intermediate-short-rsa": vector(UNKNOWN, LOW, between(spki=make.rsa_spki(1024))),
        "root-path-length-0": vector(UNKNOWN, LOW, middle, anchors=[ca(length=0)]),
        "root-path-length-1": vector("", LOW, middle, anchors=[ca(length=1)]),
        "root-path-length-malformed": vector(
            UNKNOWN,
            LOW,
            middle,
            anchors=[
                ca(basic=make.extension(make.BASIC, make.seq(make.TRUE, b"\2\1\0"), make.TRUE))
            ],
        ),
        "root-expired": vector(EXPIRED, anchors=[old], lines=[34]),
        "root-renewed": vector("", anchors=[old, ROOT], lines=[34]),
        "root-expired-above-store": vector(EXPIRED, LOW, anchors=[old, middle], lines=[34]),
        "root-of-another-name": vector(UNKNOWN, anchors=[ca("Other TPM Root CA")]),
        "root-sent-by-the-box": vector(UNKNOWN, LEAF, ROOT, anchors=[], lines=[30]),
        "root-of-the-same-name": vector(UNKNOWN, anchors=[ca(key="liar")]),
        "chain-of-six": vector("", below[0], *deep[1:6], anchors=[deep[0]]),
        "chain-of-seven": vector(UNKNOWN, below[1], *deep[1:7], anchors=[deep[0]]),
        "leaf-not-valid-yet": vector(EXPIRED, ek(since="270101000000Z"), lines=[34]),
        "leaf-renewed": vector("", ek(until="250101000000Z"), LEAF, lines=[34]),
        "leaf-renewed-first": vector("", LEAF, ek(until="250101000000Z"), lines=[34]),
        "leaf-expired": vector(EXPIRED, ek(until="250101000000Z"), lines=[34]),
    }


def platform_leaves() -> dict[str, dict]:
    """Give certificates of the platform over the EK, which are never those of the EK."""
    usages = {"": "2", "-with-attributes": "4", "-delta": "5", "-delta-with-attributes": "6"}
    return {
        f"platform-certificate-alone{name}": vector(
            UNKNOWN, ek(usages=make.extended(f"2.23.133.8.{last}")), lines=[22]
        )
        for name, last in usages.items()
    }


def leaves() -> dict[str, dict]:
    """Give EK certificates that are none, or that lie."""
    changed = LEAF.replace(b"NPCT75x", b"NPCT76x")
    sha256 = make.seq(make.oid(make.ECDSA["sha256"]))
    twice = [make.extension("2.25.7", b"\5\0")] * 2
    long = make.extension("2.25.7", tlv(4, bytes(9000)))
    many = [make.extension(f"2.25.{n}", b"") for n in range(40)]
    pairs = dict(make.TPM)

    def without(left: str) -> bytes:
        return ek(names=make.san(*((k, v) for k, v in pairs.items() if k != left)))

    def named(**changes: str) -> bytes:
        return ek(names=make.san(*((k, changes.get(k[-1:], v)) for k, v in pairs.items())))

    return {
        "none": vector(UNKNOWN, certificates=[], lines=[26]),
        "no-anchors": vector(UNKNOWN, anchors=[], lines=[26]),
        "garbage": vector(INVALID, b"\xff" * 64),
        "cut-short": vector(INVALID, LEAF[:-1]),
        "too-long": vector(INVALID, ek(extra=[long])),
        "many-extensions": vector("", ek(extra=many)),
        "changed-after-signing": vector(UNKNOWN, changed, lines=[32]),
        "signature-of-a-stranger": vector(UNKNOWN, ek(signer="liar"), lines=[32]),
        "two-algorithms": vector(INVALID, ek(hash_name="sha1", inner=sha256)),
        "extension-twice": vector(INVALID, ek(extra=twice)),
        "date-that-is-none": vector(INVALID, ek(until="99991331235959Z")),
        "date-of-another-kind": vector(INVALID, LEAF.replace(b"\x17\x0d2001", b"\x16\x0d2001")),
        "serial-too-long": vector(INVALID, ek(serial=b"\1" * 65)),
        "version-1": vector(INVALID, ek(version=b"", extensions=[]), workarounds=[NO_EKU, NO_KU]),
        "is-a-ca": vector(INVALID, ek(constraints=make.basic(ca=True))),
        "eku-of-an-ak": vector(INVALID, ek(usages=make.extended("2.23.133.8.3"))),
        "eku-any": vector(INVALID, ek(usages=make.extended("2.5.29.37.0"))),
        "eku-malformed": vector(INVALID, ek(usages=make.extension(make.EXTENDED, b"\x30\x05"))),
        "key-usage-signs": vector(INVALID, ek(use=make.key_usage(0))),
        "key-usage-empty": vector(INVALID, ek(use=make.extension(make.KEY_USAGE, b"\3\1\0"))),
        "key-usage-malformed": vector(INVALID, ek(use=make.extension(make.KEY_USAGE, b"\3\5"))),
        "no-usage-at-all": vector(INVALID, ek(use=b"", usages=b""), workarounds=[NO_EKU, NO_KU]),
        "no-eku-and-signs": vector(
            INVALID, ek(use=make.key_usage(0), usages=b""), workarounds=[NO_EKU]
        ),
        "no-san": vector(INVALID, ek(names=make.extension("2.25.7", b"")), lines=[31]),
        "san-malformed": vector(
            INVALID, ek(names=make.extension(make.SAN, b"\x30\x05")), lines=[31]
        ),
        "san-without-maker": vector(INVALID, without(make.MAKER), lines=[31]),
        "san-without-model": vector(INVALID, without(make.MODEL), lines=[31]),
        "san-without-version": vector(INVALID, without(make.VERSION), lines=[31]),
        "critical-extension": vector(
            INVALID, ek(extra=[make.extension("2.25.7", b"", make.TRUE)]), lines=[31]
        ),
        "virtual-maker": vector(VIRTUAL, named(**{"1": "id:564D5700"}), lines=[30]),
        "virtual-maker-small-letters": vector(VIRTUAL, named(**{"1": "id:474f4f47"}), lines=[30]),
        "virtual-maker-swtpm": vector(VIRTUAL, named(**{"1": "id:00001014"}), lines=[30]),
        "virtual-maker-ibm": vector(VIRTUAL, named(**{"1": "id:49424D00"}), lines=[30]),
        "virtual-maker-amazon": vector(VIRTUAL, named(**{"1": "id:414D5A4E"}), lines=[30]),
        "virtual-model": vector(VIRTUAL, named(**{"2": "Virtual TPM"}), lines=[30]),
        "virtual-issuer": vector(
            VIRTUAL,
            ek(issuer=make.common("swtpm-localca"), signer="liar"),
            anchors=[ca("swtpm-localca", "liar")],
            rehearsal=True,
            judged_in_rehearsal=False,
            lines=[30],
        ),
        "virtual-root": vector(
            VIRTUAL,
            LOW,
            between(issuer="swtpm-localca-rootca", signer="liar"),
            anchors=[ca("swtpm-localca-rootca", "liar")],
            rehearsal=True,
            judged_in_rehearsal=False,
            lines=[30],
        ),
        "virtual-in-rehearsal": vector(
            "", named(**{"2": "Virtual TPM"}), rehearsal=True, lines=[30]
        ),
    }


def lists() -> dict[str, dict]:
    """Give revocation lists: what they revoke, how old they are, what they leave out."""
    middle = between()
    here = make.extension("2.5.29.31", make.seq(make.seq(make.point("http://maker/2"))))
    indirect = make.seq(make.extension("2.5.29.29", make.seq(), make.TRUE))

    def judged(expect: str, *crls: bytes, leaf: bytes = LEAF, **changes: object) -> dict:
        return vector(expect, leaf, crls=list(crls), **{"lines": [34], **changes})

    def refused(part: str, *crls: bytes, **changes: object) -> dict:
        return judged("", *crls, **{"import": part, **changes})

    return {
        "crl-clean": judged("", crl(b"\1"), unrevoked=CHECKED),
        "crl-version-1": judged("", crl(b"\1", version=b""), unrevoked=CHECKED),
        "crl-empty": judged("", crl(), unrevoked=CHECKED),
        "crl-of-the-fewest-fields": judged("", crl(next_update=None), unrevoked=CHECKED),
        "crl-generalized-times": judged(
            "",
            crl(this_update="20261001000000Z", next_update="20270101000000Z"),
            unrevoked=CHECKED,
        ),
        "crl-revokes": judged(REVOKED, crl(b"\1", b"\x12\x67")),
        "crl-revokes-intermediate": vector(
            REVOKED, LOW, middle, crls=[crl(b"\x22\x22")], lines=[34]
        ),
        "crl-revokes-intermediate-of-store": vector(
            REVOKED, LOW, anchors=[ROOT, middle], crls=[crl(b"\x22\x22")], lines=[34]
        ),
        "crl-revokes-negative": judged(REVOKED, crl(b"\0\xff\x12"), leaf=ek(serial=b"\xff\x12")),
        "crl-revokes-badly-padded": judged(REVOKED, crl(b"\6"), leaf=ek(serial=b"\0\0\0\6")),
        "crl-of-one-of-two": vector("", LOW, middle, crls=[crl(b"\1")], lines=[34]),
        "crl-of-both": vector(
            "",
            LOW,
            middle,
            crls=[
                crl(b"\1"),
                crl(
                    issuer="Maker TPM CA 1",
                    signer="maker intermediate",
                    this_update="261101000000Z",
                ),
            ],
            anchors=[ROOT, middle],
            unrevoked=CHECKED,
            lines=[34],
        ),
        "crl-past-next-update": judged(STALE, crl(next_update="261101000000Z"), unrevoked=CHECKED),
        "crl-without-next-update": judged("", crl(b"\1", next_update=None), unrevoked=CHECKED),
        "crl-older-than-policy": judged(STALE, crl(), crl_max_age=86_400, unrevoked=CHECKED),
        "crl-as-old-as-policy": judged(
            "", crl(), crl_max_age=NOW - make.at(2026, 10, 1), unrevoked=CHECKED
        ),
        "crl-of-the-future": judged(
            STALE, crl(this_update="270101000000Z"), unrevoked="checked on 2027-01-01"
        ),
        "crl-newer-beside": judged(
            "",
            crl(next_update="261002000000Z", this_update="260901000000Z"),
            crl(),
            unrevoked=CHECKED,
        ),
        "crl-older-revokes": judged(REVOKED, crl(b"\x12\x67", this_update="260901000000Z"), crl()),
        "crl-stale-revokes": judged(REVOKED, crl(b"\x12\x67", next_update="261001000000Z")),
        "crl-of-another-point": judged(
            "", crl(extensions=[make.scope(make.point("http://maker/1"))])
        ),
        "crl-of-a-point-beside-its-own": judged(
            "",
            crl(extensions=[make.scope(make.point("http://maker/1"))]),
            leaf=ek(extra=[here]),
        ),
        "crl-of-the-start-of-its-point": judged(
            "",
            crl(extensions=[make.scope(make.point("http://maker/"))]),
            leaf=ek(extra=[here]),
        ),
        "crl-of-its-point": judged(
            "",
            crl(extensions=[make.scope(make.point("http://maker/2"))]),
            leaf=ek(extra=[here]),
            unrevoked=CHECKED,
        ),
        "crl-of-another-point-revokes": judged(
            REVOKED, crl(b"\x12\x67", extensions=[make.scope(make.point("http://maker/1"))])
        ),
        "crl-of-cas-alone": judged("", crl(extensions=[make.scope(b"\x82\1\xff")])),
        "crl-of-cas-alone-false-written": judged(
            "", crl(extensions=[make.scope(b"\x82\1\0")]), unrevoked=CHECKED
        ),
        "crl-of-users-alone": judged(
            "", crl(extensions=[make.scope(b"\x81\1\xff")]), unrevoked=CHECKED
        ),
        "crl-of-users-alone-for-a-ca": vector(
            "",
            LOW,
            middle,
            crls=[
                crl(extensions=[make.scope(b"\x81\1\xff")]),
                crl(issuer="Maker TPM CA 1", signer="maker intermediate"),
            ],
            anchors=[ROOT, middle],
            lines=[34],
        ),
        "crl-unknown-extension": judged(
            "", crl(extensions=[make.extension("2.25.7", b"")]), unrevoked=CHECKED
        ),
        "crl-indirect-false-written": judged(
            "", crl(extensions=[make.scope(b"\x84\1\0")]), unrevoked=CHECKED
        ),
        "crl-number": judged(
            "", crl(extensions=[make.extension("2.5.29.20", b"\2\1\7")]), unrevoked=CHECKED
        ),
        "crl-number-critical": judged(
            "",
            crl(extensions=[make.extension("2.5.29.20", b"\2\1\7", make.TRUE)]),
            unrevoked=CHECKED,
        ),
        "crl-key-identifier-critical": judged(
            "",
            crl(extensions=[make.extension("2.5.29.35", make.seq(), make.TRUE)]),
            unrevoked=CHECKED,
        ),
        "crl-of-another-ca": judged("", crl(b"\x12\x67", issuer="Other CA", signer="liar")),
        "crl-not-signed": refused("not signed by that CA", crl(b"\1", signer="liar")),
        "crl-by-a-ca-that-may-not": refused(
            "not signed by that CA", crl(b"\1"), anchors=[ca(usage=(5,))]
        ),
        "crl-two-algorithms": refused(
            "two signature algorithms", crl(inner=make.seq(make.oid(make.ECDSA["sha1"])))
        ),
        "crl-delta": refused(
            "delta", crl(extensions=[make.extension("2.5.29.27", b"\2\1\1", make.TRUE)])
        ),
        "crl-indirect": refused("indirect", crl(extensions=[make.scope(b"\x84\1\xff")])),
        "crl-some-reasons": refused("indirect", crl(extensions=[make.scope(b"\x83\2\1\2")])),
        "crl-entry-of-another-issuer": refused("indirect", crl(b"\1", entry=indirect)),
        "crl-critical-extension": refused(
            "critical", crl(extensions=[make.extension("2.25.7", b"", make.TRUE)])
        ),
        "anchor-end-entity": vector("", anchors=[LEAF], lines=[30], **{"import": "not a CA"}),
        # A maker of machines may sign without being a CA, a maker of TPMs may not.
        "anchor-signer": vector(
            "", anchors=[ek(use=make.key_usage(0))], lines=[30], **{"import": "not a CA"}
        ),
        "anchor-virtual": vector(
            "", anchors=[ca("swtpm-localca")], lines=[30], **{"import": "TPMs in software"}
        ),
    }


MACHINE = (
    ("2.23.133.5.1.1", "Maker of boxes"),
    ("2.23.133.5.1.4", "Box 3000"),
    ("2.23.133.5.1.5", "1.0"),
    ("2.23.133.5.1.6", "SN 0815"),
)
COMPONENT_CLASS = make.seq(make.oid("2.23.133.18.3.1"), tlv(4, bytes.fromhex("00090002")))


def component(*front: bytes, text: str = "Intel") -> bytes:
    """Encode a component with all that is optional and short."""
    address = make.seq(make.oid("2.23.133.17.1"), tlv(0x0C, b"02:00:00:00:00:01"))
    return make.seq(
        *front,
        tlv(0x0C, text.encode()),
        tlv(0x0C, b"I210"),
        tlv(0x80, b"serial 7"),
        tlv(0x81, b"rev 3"),
        tlv(0x83, b"\xff"),
        tlv(0xA4, address),
    )


def attribute(number: str, value: bytes) -> bytes:
    """Encode an attribute of one value."""
    return make.seq(make.oid(number), tlv(0x31, value))


def configuration(version: int, *components: bytes) -> bytes:
    """Encode a platform configuration."""
    return attribute(f"2.23.133.5.1.7.{version}", make.seq(tlv(0xA0, *components)))


V1 = configuration(1, component(text="Intel v1"))
V2 = configuration(2, component(COMPONENT_CLASS), component(COMPONENT_CLASS, text="Other"))


def platform(
    *attributes: bytes,
    holder: bytes | None = None,
    ek_issuer: str = "Maker TPM Root CA",
    ek_serial: bytes = b"\x12\x67",
    signer: str = "machine maker",
    issuer: str = "Machine CA",
    since: str = "20200101000000Z",
    until: str = make.EVER,
    names: tuple[tuple[str, str], ...] | None = MACHINE,
    extensions: tuple[bytes, ...] = (),
    hash_name: str = "sha256",
    inner: bytes | None = None,
    serial: bytes = b"\x33\x33",
    issuer_names: tuple[bytes, ...] | None = None,
    version: int = 1,
    unique: bytes = b"",
    algorithm: bytes | None = None,
) -> bytes:
    """Encode an attribute certificate of a machine."""
    algorithm = algorithm or make.seq(make.oid(make.ECDSA[hash_name]))
    directory = tlv(0xA4, make.common(ek_issuer))
    base = tlv(0xA0, make.seq(directory), tlv(2, ek_serial))
    names_of_issuer = (tlv(0xA4, make.common(issuer)),) if issuer_names is None else issuer_names
    body = make.seq(
        make.integer(version),
        make.seq(base if holder is None else holder),
        tlv(0xA0, make.seq(*names_of_issuer)),
        algorithm if inner is None else inner,
        tlv(2, serial),
        make.seq(make.time(since), make.time(until)),
        make.seq(*(attributes or (V2,))),
        unique,
        make.seq(b"" if names is None else make.san(*names, flag=b""), *extensions),
    )
    return make.signed(body, signer, algorithm, hash_name)


def platforms() -> dict[str, dict]:
    """Give platform certificates of both forms beside the EK certificate."""
    maker = ca("Machine CA", "machine maker", usage=(0, 5, 6))

    def signs_for(usage: str) -> bytes:
        usages = [make.extended(usage)]
        return ca("Machine CA", "machine maker", usage=(0, 5, 6), extensions=usages)

    def over(key: bytes) -> bytes:
        return ek(
            key=key,
            issuer=make.common("Machine CA"),
            signer="machine maker",
            usages=make.extended(make.PLATFORM_USAGE),
            names=make.san(*MACHINE),
        )

    def judged(expect: str, data: bytes, **changes: object) -> dict:
        return vector(expect, **{"platform": data, "machines": [maker], "lines": [22], **changes})

    signer = make.certificate(
        issuer=make.common("Machine Root"),
        subject=make.common("Machine signer"),
        key=make.spki(forge.private_key("machine signer")),
        signer="machine root",
        extensions=(make.key_usage(0),),
    )
    by_signer = platform(issuer="Machine signer", signer="machine signer")
    encipherer = signer.replace(make.key_usage(0), make.key_usage(4))
    assert encipherer != signer
    delta = attribute("2.23.133.2.25", make.seq(make.oid("2.23.133.8.5")))
    root = ca("Machine Root", "machine root")
    return {
        "platform-v2": judged("", platform()),
        "platform-v1": judged("", platform(V1)),
        "platform-v1-and-v2": judged("", platform(V1, V2)),
        "platform-padded": judged("", platform() + b"\xff" * 64),
        "platform-stored-header": judged("", b"\x10\1\0\3\xb5\x10\2" + platform()),
        "platform-by-a-signer": judged("", by_signer, certificates=[LEAF, signer], machines=[root]),
        "platform-signer-in-store": judged("", by_signer, machines=[signer]),
        "platform-signer-below-a-signer": judged(
            PLATFORM,
            platform(issuer="Sub signer", signer="sub signer"),
            certificates=[
                LEAF,
                make.certificate(
                    issuer=make.common("Machine signer"),
                    subject=make.common("Sub signer"),
                    key=make.spki(forge.private_key("sub signer")),
                    signer="machine signer",
                    extensions=(make.key_usage(0),),
                ),
            ],
            machines=[signer],
        ),
        "platform-signer-for-other-usage": judged(
            PLATFORM, platform(), machines=[signs_for(make.EK_USAGE)]
        ),
        "platform-signer-may-not-sign": judged(
            PLATFORM,
            by_signer,
            certificates=[
                LEAF,
                make.certificate(
                    issuer=make.common("Machine Root"),
                    subject=make.common("Machine signer"),
                    key=make.spki(forge.private_key("machine signer")),
                    signer="machine root",
                    extensions=(make.key_usage(4),),
                ),
            ],
            machines=[root],
        ),
        "platform-over-the-key": judged("", over(make.spki(EK_KEY))),
        "platform-over-another-key": judged(
            PLATFORM, over(make.spki(forge.private_key("ek of box B")))
        ),
        "platform-over-a-key-that-is-none": judged(PLATFORM, over(NO_KEY)),
        "platform-of-another-serial": judged(PLATFORM, platform(ek_serial=b"\x12\x68")),
        "platform-of-another-issuer": judged(PLATFORM, platform(ek_issuer="Other CA")),
        "platform-without-holder": judged(
            PLATFORM,
            platform(
                holder=tlv(
                    0xA1,
                    make.seq(tlv(0xA4, make.common("Maker TPM Root CA"))),
                    tlv(2, b"\x12\x67"),
                )
            ),
        ),
        "platform-issuer-with-address": judged(
            "",
            platform(issuer_names=(tlv(0x86, b"http://x"), tlv(0xA4, make.common("Machine CA")))),
        ),
        "platform-issuer-empty": judged(PLATFORM, platform(issuer_names=())),
        "platform-version-1": judged(PLATFORM, platform(version=0)),
        "platform-attribute-empty": judged(
            "", platform(V2, make.seq(make.oid("2.25.7"), tlv(0x31)))
        ),
        "platform-signer-for-platforms": judged(
            "", platform(), machines=[signs_for(make.PLATFORM_USAGE)]
        ),
        "platform-signer-for-platforms-with-attributes": judged(
            "", platform(), machines=[signs_for("2.23.133.8.4")]
        ),
        "platform-signer-for-any-usage": judged(
            "", platform(), machines=[signs_for("2.5.29.37.0")]
        ),
        "platform-signer-with-a-key-that-is-none": judged(
            PLATFORM,
            platform(),
            certificates=[LEAF, ca("Machine CA", "machine maker", spki=NO_KEY)],
            machines=[root],
        ),
        "platform-signer-of-another-name": judged(
            PLATFORM, platform(), machines=[ca("Other CA", "machine maker", usage=(0, 5, 6))]
        ),
        "platform-signer-only-certifies": judged(
            "", platform(), machines=[ca("Machine CA", "machine maker")]
        ),
        "platform-without-names": judged(PLATFORM, platform(names=None)),
        "platform-over-the-key-without-names": judged(
            PLATFORM,
            ek(
                issuer=make.common("Machine CA"),
                signer="machine maker",
                usages=make.extended(make.PLATFORM_USAGE),
                names=make.extension("2.25.7", b""),
            ),
        ),
        "platform-without-maker": judged(PLATFORM, platform(names=MACHINE[1:])),
        "platform-without-version": judged(PLATFORM, platform(names=MACHINE[:2])),
        "platform-of-a-stranger": judged(PLATFORM, platform(signer="liar")),
        "platform-no-anchors": judged(PLATFORM, platform(), machines=[]),
        "platform-expired": judged(PLATFORM, platform(until="20210101000000Z")),
        "platform-of-the-future": judged(PLATFORM, platform(since="20270101000000Z")),
        "platform-ca-expired": judged(
            PLATFORM,
            platform(),
            machines=[ca("Machine CA", "machine maker", usage=(0, 5, 6), until="210101000000Z")],
        ),
        "platform-without-model": judged(PLATFORM, platform(names=(MACHINE[0], MACHINE[2]))),
        "platform-delta": judged(PLATFORM, platform(V2, delta)),
        "platform-critical-extension": judged(
            PLATFORM, platform(extensions=(make.extension("2.5.29.55", b"", make.TRUE),))
        ),
        "platform-unknown-extension": judged(
            "", platform(extensions=(make.extension("2.25.7", b""),))
        ),
        "platform-with-unique-id": judged("", platform(unique=tlv(3, b"\0\1"))),
        "platform-revoked-by-another": judged(
            "",
            platform(),
            machines=[
                maker,
                ca("Other CA", "other"),
                crl(b"\x33\x33", issuer="Other CA", signer="other"),
            ],
        ),
        "platform-no-revocation-available": judged(
            "", platform(extensions=(make.extension("2.5.29.56", b"\5\0", make.TRUE),))
        ),
        "platform-revoked": judged(
            PLATFORM,
            platform(),
            machines=[maker, crl(b"\x33\x33", issuer="Machine CA", signer="machine maker")],
        ),
        "platform-signer-revoked": judged(
            PLATFORM,
            by_signer,
            certificates=[LEAF, signer],
            machines=[root, crl(b"\x12\x67", issuer="Machine Root", signer="machine root")],
        ),
        "platform-two-algorithms": judged(
            PLATFORM, platform(hash_name="sha1", inner=make.seq(make.oid(make.ECDSA["sha256"])))
        ),
        "platform-cut-short": judged(PLATFORM, platform()[:-1]),
        "platform-is-an-ek-certificate": judged(PLATFORM, LEAF),
        "platform-garbage": judged(PLATFORM, b"\xff" * 40),
    }


GROUPS: tuple[Callable[[], dict[str, dict]], ...] = (
    keys,
    shapes,
    chains,
    leaves,
    platform_leaves,
    lists,
    platforms,
)


def files() -> dict[Path, bytes]:
    """Give every vector by its path."""
    found: dict[Path, bytes] = {}
    for group in GROUPS:
        for name, fields in group().items():
            path = VECTORS / f"{name}.toml"
            assert path not in found, name
            found[path] = toml(fields).encode()
    return found


def main() -> None:
    """Write what changed, and remove what is no vector any more."""
    VECTORS.mkdir(exist_ok=True)
    made = files()
    for path in set(VECTORS.glob("*.toml")) - set(made):
        path.unlink()
    for path, content in made.items():
        path.write_bytes(content)


if __name__ == "__main__":
    main()
