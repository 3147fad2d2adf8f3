"""Writes the vectors of phone-home and appraisal, the same bytes every time.

Run as `python tests/make_vectors.py`.
A vector is data: what the box sent (files and hex), what the site expects, and `expect`, the reason
that must come first. `tests/test_vectors.py` reads them and knows nothing of how they were made.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import forge  # noqa: E402
from eventlog_forge import encode, with_events  # noqa: E402

from attest import eventlog, transcript  # noqa: E402
from attest.ak import qualified_name  # noqa: E402
from attest.baseline import firmware_digest  # noqa: E402
from attest.bootfacts import FileFacts  # noqa: E402
from attest.eventlog import Event, EventType  # noqa: E402
from attest.evidence import Evidence, Signed  # noqa: E402
from attest.policy import Policy  # noqa: E402
from attest.reasons import Reason  # noqa: E402
from attest.secureboot import key_lists  # noqa: E402
from attest.transcript import Purpose  # noqa: E402
from attest.uefi import (  # noqa: E402
    CERT_SHA256,
    EFI_GLOBAL,
    IMAGE_SECURITY,
    SHIM_LOCK,
    Signature,
    Variable,
)
from attest.variables import variables_from_log  # noqa: E402
from attest.wire import BankSelection, ClockInfo, QuoteInfo, encode_signature  # noqa: E402
from keys.tpm_public import Attributes  # noqa: E402

VECTORS = HERE / "vectors"
LOGS = VECTORS / "eventlog"
BASE_LOG = (LOGS / "debian12-tftp.bin").read_bytes()
WAIVED = frozenset({Reason.FIRMWARE_UNKNOWN})
BOX_FIELDS = tuple(item.name for item in fields(transcript.Enrolment))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# --- phone-home


def phone_home() -> dict[str, str]:
    """Give every vector of the protocol, by file name."""
    box, other = forge.Box(), forge.Box(label="box B")
    session, enrolment = box.session(), box.enrolment()
    q = box.q()
    body = b'{"v":1,"the body of step":2}'
    x = transcript.transcript(q, body)
    device = forge.private_key(f"device key of {box.label}")
    report = b'{"checks":{},"secrets":{},"medium_needed":false}'
    report_data = transcript.report_message(forge.SITE.site_id, session.session, x, report)
    signed = forge.sign(device, report_data)
    quote = forge.evidence(BASE_LOG).quotes[0]
    good = {
        "expect": "",
        "now": int(forge.NOW),
        "site_id": forge.SITE.site_id,
        "root": forge.SITE.root,
        "key": forge.KEY,
        "hello": box.hello(),
        "ek_public": box.ek.encode(),
        "ak_public": box.ak.encode(),
        **{name: getattr(enrolment, name) for name in BOX_FIELDS},
        "session": session.session,
        "server_nonce": session.server_nonce,
        "secret": session.secret,
        "q": q,
        "quote_attest": quote.attest,
        "quote_signature": quote.signature,
        "device_data": transcript.device_data(q),
        "body": body,
        "transcript": x,
        "compare_code": transcript.compare_code(session.secret, x),
        "payload": b'{"status":"held"}',
        "answer_message": transcript.answer_message(
            forge.SITE.site_id, session.session, x, b'{"status":"held"}'
        ),
        "receipt_message": transcript.receipt_message(
            forge.SITE.site_id, session.session, x, b'{"status":"held"}'
        ),
        "report": report,
        "report_message": report_data,
        "report_signature": signed.r + signed.s,
        "box": bytes(range(16)),
        "boot_set": sha256(b"boot set"),
        "expires": int(forge.NOW) + 900,
        "bundle_data": transcript.bundle_data(
            bytes(range(16)), session.session, x, sha256(b"boot set"), int(forge.NOW) + 900
        ),
        "content_key": sha256(b"content key"),
        "secret_name": "pos-api-token",
        "secret_value": b"s3cret",
        "secret_digest": transcript.secret_digest(
            sha256(b"content key"), "pos-api-token", b"s3cret"
        ),
        "opened": transcript.opened_data(x),
    }
    found = {"session.toml": toml(good), "renewal.toml": toml(renewal(box, x))}
    theirs = {
        "site_id": b"shop-0418",
        "root": sha256(b"root of another site"),
        **{name: getattr(other.session(), name) for name in ("session", "server_nonce", "secret")},
        **{name: getattr(other.enrolment(), name) for name in BOX_FIELDS},
    }
    for kind, wrong in (("swapped", Purpose.RENEW), ("renewal-swapped", Purpose.ENROL)):
        for name, value in {**theirs, "purpose": wrong.value.encode()}.items():
            found[f"{kind}-{name.replace('_', '-')}.toml"] = toml(
                {"expect": "QUOTE-NONCE", "field": name, "value": value}
            )
    found |= sessions(other)
    found |= {
        f"trouble-{reason.lower()}.toml": toml(
            {
                "expect": reason,
                "body": json.dumps({"v": 1, "reason": reason, "facts": "e30"}).encode(),
            }
        )
        for reason in ("TPM-NONE", "TPM-OWNED", "EK-NONE")
    }
    found["another-body.toml"] = toml({"expect": "REPLAY", "body": body.replace(b"2", b"3")})
    return found


def renewal(box: forge.Box, enrolled: bytes) -> dict[str, object]:
    """Give a renewal of a box that opened the bundle of the transcript `enrolled`."""
    hello = b'{"v":1,"purpose":"renew",' + box.hello().removeprefix(b'{"v":1,')
    enrolment = box.enrolment(
        hello_digest=transcript.hello_digest(hello),
        box_nonce=sha256(b"nonce of a renewal"),
        ephemeral=sha256(b"ephemeral of a renewal"),
    )
    session = transcript.make_session(
        forge.KEY,
        forge.SITE,
        enrolment.ek_name,
        enrolment.ak_name,
        enrolment.hello_digest,
        transcript.slot(forge.NOW),
    )
    q = transcript.enrol_data(forge.SITE, session, enrolment, Purpose.RENEW)
    body = b'{"v":1,"the body of step":2,"of":"a renewal"}'
    x = transcript.transcript(q, body)
    values = opened_values(enrolled)
    later = replace(forge.CLOCK, clock=forge.CLOCK.clock + 302_400_000)
    quote = box.sign(box.attest(forge.quote_info(values), q, clock=later))
    return {
        "expect": "",
        "now": int(forge.NOW),
        "site_id": forge.SITE.site_id,
        "root": forge.SITE.root,
        "key": forge.KEY,
        "hello": hello,
        "purpose": "renew",
        "ek_public": box.ek.encode(),
        "ak_public": box.ak.encode(),
        **{name: getattr(enrolment, name) for name in BOX_FIELDS},
        "session": session.session,
        "server_nonce": session.server_nonce,
        "secret": session.secret,
        "q": q,
        "quote_attest": quote.attest,
        "quote_signature": quote.signature,
        "device_data": transcript.device_data(q),
        "body": body,
        "transcript": x,
        "enrolled": enrolled,
        "pcr15": {
            bank: transcript.opened_value(bank, bytes(size), enrolled)
            for bank, size in (("sha1", 20), ("sha256", 32), ("sha384", 48))
        },
        "pcr15_after": {
            "sha256": transcript.opened_value("sha256", values["sha256"][15], x),
        },
    }


def opened_values(*transcripts: bytes) -> dict[str, dict[int, bytes]]:
    """Give the PCRs of a boot in which these bundles were opened."""
    values = forge.values_of(BASE_LOG)
    for x in transcripts:
        values["sha256"][15] = transcript.opened_value("sha256", values["sha256"][15], x)
    return values


def sessions(other: forge.Box) -> dict[str, str]:
    """Give the sessions that a site must not know."""
    unknown = {
        "session-of-another-box": {"hello": other.hello(), "ek_public": other.ek.encode()},
        "session-of-another-ak": {"ak_public": other.ak.encode()},
        "session-of-another-site": {"site_id": b"shop-0418"},
        "session-of-another-root": {"root": sha256(b"root of another site")},
        "session-of-another-key": {"key": sha256(b"K of another site")},
        "session-too-old": {"now": int(forge.NOW) + 180},
        "session-of-the-future": {"now": int(forge.NOW) - 60},
    }
    return {
        f"{name}.toml": toml({"expect": "SESSION-UNKNOWN", **changes})
        for name, changes in unknown.items()
    }


# --- appraisal


def changed_log(
    pcr: int,
    place: int,
    *,
    content: bytes | None = None,
    digest: bytes | None = None,
    remove: bool = False,
    insert: bytes | None = None,
    log: bytes = BASE_LOG,
) -> bytes:
    """Change the event at `place` among those of a PCR."""
    decoded = eventlog.decode(log)
    events = list(decoded.events[1:])
    index = [at for at, event in enumerate(events) if event.pcr == pcr][place]
    if insert is not None:
        extra = Event(
            pcr=pcr,
            type=EventType.EFI_BOOT_SERVICES_APPLICATION,
            digests={"sha256": insert},
            data=b"",
        )
        events.insert(index, extra)
    elif remove:
        del events[index]
    else:
        old = events[index]
        digest, data = (digest, old.data) if content is None else (sha256(content), content)
        assert digest is not None
        events[index] = Event(pcr=pcr, type=old.type, digests={"sha256": digest}, data=data)
    return encode(with_events(decoded, events))


def with_text(
    pcr: int, kind: EventType, texts: tuple[bytes, ...], place: int, log: bytes = BASE_LOG
) -> bytes:
    """Insert events over texts before the event at `place` of a PCR."""
    decoded = eventlog.decode(log)
    events = list(decoded.events[1:])
    index = [at for at, event in enumerate(events) if event.pcr == pcr][place]
    events[index:index] = [
        Event(pcr=pcr, type=kind, digests={"sha256": sha256(text)}, data=text) for text in texts
    ]
    return encode(with_events(decoded, events))


def attest() -> tuple[dict[str, dict], dict[str, bytes]]:
    """Give the vectors of appraisal and the logs that they name."""
    good = forge.evidence(BASE_LOG)
    vectors = {"accepted": vector(good, "", verdict="accepted")}
    logs: dict[str, bytes] = {}
    for group in (
        keys,
        quotes,
        device,
        banks,
        counters,
        renewals,
        boots,
        certificates,
        site,
        policies,
    ):
        for name, (made, expect, extra) in group(good).items():
            log = made.event_log
            if log not in (BASE_LOG, b"") and extra.get("log") in (None, f"attest/{name}.bin"):
                logs[f"{name}.bin"] = log
                extra = {**extra, "log": f"attest/{name}.bin"}
            vectors[name] = vector(made, expect, **extra)
    return vectors, logs


def keys(good: Evidence) -> dict:
    """Endorsement and attestation keys that prove nothing."""

    def template(box: forge.Box) -> Evidence:
        return forge.evidence(BASE_LOG, box)

    ek, ak = forge.EK_TEMPLATE, forge.AK_TEMPLATE
    free = replace(ek, attributes=ek.attributes & ~Attributes.RESTRICTED)
    found = {
        "ek-cut-short": (replace(good, ek_public=good.ek_public[:-1]), "EK-STRUCTURE", {}),
        "ek-trailing-byte": (replace(good, ek_public=good.ek_public + b"\0"), "EK-STRUCTURE", {}),
        "ek-unrestricted": (template(forge.Box(ek_template=free)), "EK-TEMPLATE", {}),
        "ek-other-policy": (
            template(forge.Box(ek_template=replace(ek, auth_policy=bytes(32)))),
            "EK-TEMPLATE",
            {},
        ),
        "ak-cut-short": (replace(good, ak_public=good.ak_public[:-1]), "AK-ATTRIBUTES", {}),
        "ak-decrypts-too": (
            template(
                forge.Box(ak_template=replace(ak, attributes=ak.attributes | Attributes.DECRYPT))
            ),
            "AK-ATTRIBUTES",
            {},
        ),
    }
    for name in ("RESTRICTED", "SIGN", "FIXED_TPM", "FIXED_PARENT", "SENSITIVE_DATA_ORIGIN"):
        bits = ak.attributes & ~Attributes[name]
        box = forge.Box(ak_template=replace(ak, attributes=bits))
        found[f"ak-not-{name.lower().replace('_', '-')}"] = (template(box), "AK-ATTRIBUTES", {})
    return found


def quotes(good: Evidence) -> dict:
    """Quotes that are none, or of something else."""
    box, values = forge.Box(), forge.values_of(BASE_LOG)
    info, q = forge.quote_info(values), box.q()
    plain = box.attest(info, q)
    data = plain.encode()

    def signed(data: bytes, key: str = "ak of box A", hash_name: str = "sha256") -> Evidence:
        signature = encode_signature(forge.sign(forge.private_key(key), data, hash_name))
        return replace(good, quotes=(Signed(attest=data, signature=signature),))

    def quoted(info: QuoteInfo, pcrs: object = None, **changes: object) -> Evidence:
        made = signed(box.attest(info, q, **changes).encode())
        return made if pcrs is None else replace(made, pcrs=pcrs)

    owner = qualified_name(qualified_name(b"\x40\0\0\x01", box.ek.name()), box.ak.name())
    primary = qualified_name(b"\x40\0\0\x0b", box.ak.name())
    part = {"sha256": {index: values["sha256"][index] for index in range(15)}}
    beyond = {"sha256": {**values["sha256"], 16: bytes(32)}}
    relabelled = {"sha256": {**values["sha256"], 8: values["sha256"][9], 9: values["sha256"][8]}}
    short = {"sha256": {**values["sha256"], 8: values["sha256"][8][:31]}}
    low = {"sha256": {index: values["sha256"][index] for index in range(8)}}
    high = {"sha256": {index: values["sha256"][index] for index in range(8, 16)}}
    reset = ClockInfo(clock=99_000, reset_count=13, restart_count=0, safe=True)
    two_boots = (
        box.sign(box.attest(forge.quote_info(low), q)),
        box.sign(box.attest(forge.quote_info(high), q, clock=reset)),
    )
    halves = (
        box.sign(box.attest(forge.quote_info(low), q)),
        box.sign(box.attest(forge.quote_info(high), q)),
    )
    signature = good.quotes[0].signature
    zero = signature[:6] + bytes(32) + signature[38:]
    twice = (BankSelection(bank="sha256", indices=tuple(range(16))),) * 2
    nothing = (BankSelection(bank="sha256", indices=()),)
    return {
        "quote-wrong-magic": (signed(b"\0" + data[1:]), "QUOTE-STRUCTURE", {}),
        "quote-is-certify": (replace(good, quotes=(good.device,)), "QUOTE-STRUCTURE", {}),
        "quote-is-time": (signed(data[:4] + b"\x80\x19" + data[6:]), "QUOTE-STRUCTURE", {}),
        "quote-trailing-byte": (signed(data + b"\0"), "QUOTE-STRUCTURE", {}),
        "quote-cut-short": (signed(data[:-1]), "QUOTE-STRUCTURE", {}),
        "quote-bank-twice": (
            quoted(QuoteInfo(selection=twice, digest=info.digest)),
            "QUOTE-STRUCTURE",
            {},
        ),
        "quotes-of-two-boots": (replace(good, quotes=two_boots), "QUOTE-STRUCTURE", {}),
        "quotes-none": (replace(good, quotes=()), "QUOTE-STRUCTURE", {}),
        "quotes-two-halves": (
            replace(good, quotes=halves),
            "",
            {"verdict": "accepted"},
        ),
        "quote-signature-trailing": (
            replace(good, quotes=(Signed(attest=data, signature=signature + b"\0"),)),
            "QUOTE-STRUCTURE",
            {},
        ),
        "quote-changed": (
            replace(good, quotes=(Signed(attest=data[:-1] + b"\0", signature=signature),)),
            "QUOTE-SIGNATURE",
            {},
        ),
        "quote-r-zero": (
            replace(good, quotes=(Signed(attest=data, signature=zero),)),
            "QUOTE-SIGNATURE",
            {},
        ),
        "quote-of-another-ak": (signed(data, "ak of box B"), "QUOTE-SIGNATURE", {}),
        "quote-signed-sha1": (signed(data, hash_name="sha1"), "QUOTE-SIGNATURE", {}),
        "ak-in-owner-hierarchy": (quoted(info, qualified_signer=owner), "AK-NOT-UNDER-EK", {}),
        "ak-primary": (quoted(info, qualified_signer=primary), "AK-NOT-UNDER-EK", {}),
        "quote-stale-nonce": (quoted(info, extra_data=bytes(32)), "QUOTE-NONCE", {}),
        "quote-of-another-session": (
            quoted(info, extra_data=forge.Box(label="box B").q()),
            "QUOTE-NONCE",
            {},
        ),
        "quote-no-nonce": (quoted(info, extra_data=b""), "QUOTE-NONCE", {}),
        "quote-without-pcr-15": (quoted(forge.quote_info(part)), "QUOTE-SELECTION", {}),
        "quote-empty-selection": (
            quoted(QuoteInfo(selection=nothing, digest=sha256(b""))),
            "QUOTE-SELECTION",
            {},
        ),
        "quote-no-selection": (
            quoted(QuoteInfo(selection=(), digest=sha256(b""))),
            "QUOTE-SELECTION",
            {},
        ),
        "quote-pcr-16": (quoted(forge.quote_info(beyond), beyond), "QUOTE-SELECTION", {}),
        "quote-overlap": (replace(good, quotes=good.quotes * 2), "QUOTE-SELECTION", {}),
        "quote-bank-not-quoted": (
            replace(good, pcrs={**values, "sha384": {i: bytes(48) for i in range(16)}}),
            "QUOTE-SELECTION",
            {},
        ),
        "pcrs-relabelled": (replace(good, pcrs=relabelled), "QUOTE-DIGEST", {}),
        "pcrs-short-value": (replace(good, pcrs=short), "QUOTE-DIGEST", {}),
        "pcrs-missing": (replace(good, pcrs=part), "QUOTE-DIGEST", {}),
    }


def device(good: Evidence) -> dict:
    """Device keys that the AK did not vouch for."""
    box = forge.Box()
    theirs = forge.evidence(BASE_LOG, forge.Box(label="box B"))
    wrong = replace(forge.DEVICE_TEMPLATE, attributes=forge.DEVICE_TEMPLATE.attributes & ~2)
    reset = {"clock": ClockInfo(clock=1, reset_count=13, restart_count=0, safe=True)}
    return {
        "device-key-of-another-box": (
            replace(good, device_public=theirs.device_public),
            "DEVICE-KEY",
            {},
        ),
        "device-key-of-another-session": (
            forge.evidence(BASE_LOG, box, device_changes={"extra_data": good.nonce}),
            "DEVICE-KEY",
            {},
        ),
        "device-key-in-software": (
            forge.evidence(BASE_LOG, forge.Box(device_template=wrong)),
            "DEVICE-KEY",
            {},
        ),
        "device-key-not-sent": (replace(good, device=None), "DEVICE-KEY", {}),
        "device-key-by-quote": (replace(good, device=good.quotes[0]), "DEVICE-KEY", {}),
        "device-key-of-another-boot": (
            forge.evidence(BASE_LOG, box, device_changes=reset),
            "DEVICE-KEY",
            {},
        ),
        "device-key-signature": (replace(good, device=theirs.device), "DEVICE-KEY", {}),
    }


def banks(good: Evidence) -> dict:
    """Banks that prove nothing."""
    values = forge.values_of(BASE_LOG)
    sha1 = {"sha1": {index: value[:20] for index, value in values["sha256"].items()}}
    empty = {**values, "sha384": {index: bytes(48) for index in range(16)}}
    hole = {"sha256": {**values["sha256"], 3: bytes(32)}}
    return {
        "bank-sha1-only": (forge.evidence(BASE_LOG, values=sha1), "BANK-SHA1-ONLY", {}),
        "bank-sha384-empty": (forge.evidence(BASE_LOG, values=empty), "BANK-UNEXTENDED", {}),
        "bank-pcr-3-empty": (forge.evidence(BASE_LOG, values=hole), "BANK-UNEXTENDED", {}),
        "bank-no-separator": (
            forge.evidence(changed_log(3, 0, digest=sha256(b"x"))),
            "BANK-UNEXTENDED",
            {},
        ),
    }


def counters(good: Evidence) -> dict:
    """Counters against those last accepted (12 resets, 3 restarts, 90 s in the vectors)."""

    def known(resets: int, restarts: int, clock: int) -> dict:
        return {"record": {"reset_count": resets, "restart_count": restarts, "clock": clock}}

    unsafe = ClockInfo(clock=90_000, reset_count=12, restart_count=3, safe=False)
    cut = forge.evidence(BASE_LOG, clock=unsafe, device_changes={"clock": unsafe})
    accepted = {"verdict": "accepted"}
    return {
        "reset-count-back": (good, "COUNTER-BACK", known(13, 0, 80_000)),
        "clock-back-in-one-boot": (good, "COUNTER-BACK", known(12, 3, 90_001)),
        "restart-count-back": (good, "COUNTER-BACK", known(12, 4, 80_000)),
        "clock-fell-too-far": (cut, "COUNTER-BACK", known(11, 0, 90_001 + (1 << 22))),
        "clock-fell-though-safe": (good, "COUNTER-BACK", known(11, 0, 90_001)),
        "clock-fell-in-power-cut": (
            cut,
            "",
            known(11, 9, 90_000 + (1 << 22)) | accepted | {"notes": ["POWER-CUT"]},
        ),
        "reboot-after-suspend": (good, "", known(11, 9, 80_000) | accepted),
        "tpm-cleared": (good, "TPM-CLEARED", known(40, 3, 9_000_000) | {"verdict": "held"}),
    }


def renewals(good: Evidence) -> dict:
    """PCR 15 of a box that renews: what it opened in this boot, and nothing else."""
    first, second = sha256(b"transcript of a hand-over"), sha256(b"transcript of a renewal")
    after = {"record": {"opened": {"sha256": opened_values(first)["sha256"][15]}}}
    once = forge.evidence(BASE_LOG, values=opened_values(first))
    other = forge.evidence(BASE_LOG, values=opened_values(second))
    twice = forge.evidence(BASE_LOG, values=opened_values(first, second))
    return {
        "renewal": (once, "", after | {"verdict": "accepted"}),
        "renewal-pcr-15-zero": (good, "PCR-MISMATCH", after),
        "renewal-pcr-15-of-another-bundle": (other, "PCR-MISMATCH", after),
        "renewal-pcr-15-one-too-many": (twice, "PCR-MISMATCH", after),
        "renewal-pcr-15-of-another-bank": (
            once,
            "PCR-MISMATCH",
            {"record": {"opened": {"sha384": opened_values(first)["sha256"][15]}}},
        ),
        "enrolment-pcr-15-opened": (once, "PCR-MISMATCH", {}),
    }


def boots(good: Evidence) -> dict:
    """Boots that differ from the one boot set."""
    off = (LOGS / "debian13-tftp-off.bin").read_bytes()
    other = sha256(b"something else")
    pcr4 = {
        "returning": b"Returning from EFI Application from Boot Option",
        "calling": b"Calling EFI Application from Boot Option",
    }
    earlier = with_text(4, EventType.EFI_ACTION, tuple(pcr4.values()), 2)
    silent = changed_log(4, 0, remove=True)
    elsewhere = with_text(5, EventType.EFI_ACTION, (pcr4["calling"],), 0, silent)
    later = with_text(5, EventType.EFI_ACTION, (pcr4["calling"],), 1, silent)
    exits = changed_log(5, -1, remove=True)
    exits = changed_log(5, -1, remove=True, log=exits)
    spoofed = BASE_LOG.replace(b"console=ttyS0", b"console=ttyS1")
    key = changed_log(7, 3, digest=other)
    empty = Variable(guid=IMAGE_SECURITY, name="db", data=b"").encode()
    unknown = Variable(guid=EFI_GLOBAL, name="SecureBoot", data=b"").encode()
    values = forge.values_of(BASE_LOG)
    told = {"debian12-off": off_values()}
    without = forge.evidence(b"", values=told["debian12-off"])
    return {
        "secure-boot-off": (
            forge.evidence(off),
            "SECURE-BOOT-OFF",
            {"sets": ["debian13-tftp-off"], "log": "eventlog/debian13-tftp-off.bin"},
        ),
        "secure-boot-off-and-initrd": (
            forge.evidence(changed_log(9, 2, digest=other, log=off)),
            "SECURE-BOOT-OFF",
            {"sets": ["debian13-tftp-off"]},
        ),
        "secure-boot-off-without-log": (without, "SECURE-BOOT-OFF", {}),
        "initrd-changed": (forge.evidence(changed_log(9, 2, digest=other)), "INITRD-UNKNOWN", {}),
        "kernel-changed": (forge.evidence(changed_log(9, 1, digest=other)), "KERNEL-UNKNOWN", {}),
        "grub-cfg-changed": (
            forge.evidence(changed_log(9, 0, digest=other)),
            "GRUB-CFG-UNKNOWN",
            {},
        ),
        "grub-command-extra": (
            forge.evidence(with_text(8, EventType.IPL, (b"set evil=1",), 1)),
            "GRUB-CFG-UNKNOWN",
            {},
        ),
        "command-line-changed": (
            forge.evidence(changed_log(8, -3, digest=other)),
            "COMMAND-LINE-UNKNOWN",
            {},
        ),
        "loader-changed": (forge.evidence(changed_log(4, 2, digest=other)), "LOADER-UNKNOWN", {}),
        "other-program": (forge.evidence(changed_log(4, 2, insert=other)), "OTHER-PROGRAM", {}),
        "mok-enrolled": (forge.evidence(changed_log(14, 0, digest=other)), "MOK-ENROLLED", {}),
        "authority-changed": (
            forge.evidence(changed_log(7, -1, digest=other)),
            "LOG-EVENT",
            {},
        ),
        "db-without-the-signer": (
            forge.evidence(changed_log(7, 3, content=empty)),
            "SECURE-BOOT-KEYS",
            {},
        ),
        "secure-boot-unknown": (
            forge.evidence(changed_log(7, 0, content=unknown)),
            "SECURE-BOOT-UNPROVED",
            {},
        ),
        "calling-not-measured": (forge.evidence(silent), "", {"verdict": "accepted"}),
        "calling-in-pcr-5": (forge.evidence(elsewhere), "", {"verdict": "accepted"}),
        "calling-in-pcr-5-later": (forge.evidence(later), "", {"verdict": "accepted"}),
        "pcr-12-extended": (forge.evidence(with_pcr_12(other)), "EXTRA-PARAMETERS", {}),
        "log-of-another-boot": (
            replace(good, event_log=(LOGS / "debian13-tftp.bin").read_bytes()),
            "PCR-MISMATCH",
            {"log": "eventlog/debian13-tftp.bin", "sets": ["debian13-tftp"]},
        ),
        "log-replay": (replace(good, event_log=changed_log(0, 0, digest=other)), "LOG-REPLAY", {}),
        "log-text-spoofed": (
            replace(good, event_log=spoofed),
            "",
            {"verdict": "accepted"},
        ),
        "log-variable-spoofed": (forge.evidence(key), "LOG-EVENT", {}),
        "log-malformed": (replace(good, event_log=BASE_LOG[:-3]), "LOG-MALFORMED", {}),
        "log-missing": (replace(good, event_log=b""), "LOG-MISSING", {"verdict": "held"}),
        "earlier-boot-option": (
            forge.evidence(earlier),
            "",
            {"verdict": "accepted"},
        ),
        "exit-events-not-logged": (
            forge.evidence(exits, values=values),
            "",
            {"verdict": "accepted"},
        ),
        "boot-set-withdrawn": (good, "BOOT-SET-WITHDRAWN", {"state": "withdrawn"}),
        "boot-set-older": (good, "BOOT-SET-WITHDRAWN", {"state": "older"}),
        "boot-set-none": (good, "VERIFIER-FAULT", {"sets": []}),
    }


def off_values() -> dict[str, dict[int, bytes]]:
    """Give the values of a captured boot with Secure Boot off, which has no log."""
    import tomllib

    boot = tomllib.loads((LOGS / "boots.toml").read_text())["debian12-tftp-off"]
    held = {int(index): bytes.fromhex(value) for index, value in boot["pcrs"].items()}
    known = forge.values_of(BASE_LOG)["sha256"]
    return {"sha256": {index: held.get(index, known[index]) for index in range(16)}}


def with_pcr_12(digest: bytes) -> bytes:
    decoded = eventlog.decode(BASE_LOG)
    extra = Event(pcr=12, type=EventType.IPL, digests={"sha256": digest}, data=b"")
    return encode(with_events(decoded, [*decoded.events[1:], extra]))


def certificates(good: Evidence) -> dict:
    """EK certificates that a site must not believe, and padding that it must bear."""
    ek = forge.Box().ek
    plain = forge.ek_certificate(ek)

    def sent(*chain: bytes) -> Evidence:
        return replace(good, ek_certificates=chain)

    below = forge.ek_certificate(ek, issuer="Maker TPM CA 1", issuer_key="maker intermediate")
    strange = forge.ek_certificate(ek, issuer="Strange CA", issuer_key="strange root")
    forged = forge.ek_certificate(ek, issuer_key="strange root")
    old = forge.ek_certificate(ek, until=datetime(2025, 1, 1, tzinfo=UTC))
    theirs = forge.ek_certificate(forge.Box(label="box B").ek)
    virtual = forge.ek_certificate(ek, maker="id:00001014", model="swtpm")
    named = forge.ek_certificate(ek, model="vTPM")
    header = b"\x10\x01\x00" + len(plain).to_bytes(2, "big") + b"\x10\x02"
    held, accepted = {"verdict": "held"}, {"verdict": "accepted"}
    return {
        "ek-certificate-none": (sent(), "EK-UNKNOWN", held),
        "ek-certificate-strange-ca": (sent(strange), "EK-UNKNOWN", held),
        "ek-certificate-own-root": (
            sent(strange, forge.root_certificate("Strange CA", "strange root")),
            "EK-UNKNOWN",
            held,
        ),
        "ek-certificate-forged": (sent(forged), "EK-UNKNOWN", held),
        "ek-certificate-no-anchors": (good, "EK-UNKNOWN", held | {"anchors": []}),
        "ek-certificate-changed": (sent(plain[:-1] + b"\0"), "EK-UNKNOWN", held),
        "ek-certificate-expired": (sent(old), "EK-CERT-EXPIRED", held),
        "ek-certificate-of-another-key": (sent(theirs), "EK-CERT-MISMATCH", {}),
        "ek-certificate-virtual": (sent(virtual), "EK-VIRTUAL", {}),
        "ek-certificate-virtual-model": (sent(named), "EK-VIRTUAL", {}),
        "ek-certificate-virtual-in-rehearsal": (
            sent(virtual),
            "",
            accepted | {"rehearsal": True},
        ),
        "ek-certificate-other-usage": (
            sent(forge.ek_certificate(ek, usage="1.3.6.1.5.5.7.3.2")),
            "EK-CERT-INVALID",
            held,
        ),
        "ek-certificate-critical-extension": (
            sent(forge.ek_certificate(ek, critical=True)),
            "EK-CERT-INVALID",
            held,
        ),
        "ek-certificate-no-model": (
            sent(forge.ek_certificate(ek, model=" ")),
            "EK-CERT-INVALID",
            held,
        ),
        "ek-certificate-virtual-maker": (
            sent(forge.ek_certificate(ek, maker="id:474F4F47")),
            "EK-VIRTUAL",
            {},
        ),
        "ek-certificate-issuer-renamed": (
            sent(forge.ek_certificate(ek, issuer="Maker TPM Root CA 2")),
            "EK-UNKNOWN",
            held,
        ),
        "ek-certificate-intermediate-other-usage": (
            sent(below, forge.intermediate_certificate(usage="1.3.6.1.5.5.7.3.1")),
            "EK-UNKNOWN",
            held,
        ),
        "ek-certificate-intermediate-critical": (
            sent(below, forge.intermediate_certificate(critical=True)),
            "EK-UNKNOWN",
            held,
        ),
        "ek-certificate-is-ca": (
            sent(forge.ek_certificate(ek, ca=True)),
            "EK-CERT-INVALID",
            held,
        ),
        "ek-certificate-signs": (
            sent(forge.ek_certificate(ek, key_usage="digital_signature")),
            "EK-CERT-INVALID",
            held,
        ),
        "ek-certificate-without-usage": (
            sent(forge.ek_certificate(ek, key_usage=None, ca=None)),
            "",
            accepted,
        ),
        "ek-certificate-garbage": (sent(b"\xff" * 32), "EK-CERT-INVALID", held),
        "ek-certificate-padded": (sent(plain + b"\xff" * 300), "", accepted),
        "ek-certificate-stored-header": (
            sent(header + plain + b"\0" * 9),
            "",
            accepted,
        ),
        "ek-certificate-intermediate": (
            sent(below, forge.intermediate_certificate()),
            "",
            accepted,
        ),
        "ek-certificate-by-note": (
            sent(),
            "",
            accepted | {"record": {"note_names_ek": True}},
        ),
    }


def site(good: Evidence) -> dict:
    """What the site knows of the box."""
    held = {"verdict": "held"}
    return {
        "box-not-listed": (good, "EK-UNLISTED", held | {"record": {"listed": False}}),
        "facts-differ": (
            good,
            "FACTS-DIFFER",
            held | {"record": {"differences": ["memory_mib is 512"]}},
        ),
        "place-taken": (good, "BOX-REPLACES", held | {"record": {"replaces": "pos-1"}}),
    }


def policies(good: Evidence) -> dict:
    """What a policy demands beside the values."""
    held, accepted = {"verdict": "held"}, {"verdict": "accepted"}
    firmware = 0x2000_1234_0000_0001
    bad = Policy(bad_tpm_firmware=frozenset({f"4E544300:{firmware:016x}"}), waived=WAIVED)
    log = eventlog.decode(BASE_LOG)
    variables = variables_from_log(log, "sha256")
    keys = key_lists(variables).fingerprints
    forbidden = key_lists(variables).forbidden
    listed = Policy(allowed_keys=keys, waived=WAIVED)
    unlisted = Policy(allowed_keys=frozenset(sorted(keys)[1:]), waived=WAIVED)
    minimum = Policy(dbx_minimum=frozenset(sorted(forbidden)[:2]), waived=WAIVED)
    newer = Policy(dbx_minimum=frozenset({sha256(b"a forbidden image")}), waived=WAIVED)
    known = {"record": {"tpm_firmware": firmware - 1}}
    unprotected = with_text(7, EventType.EFI_ACTION, (b"DMA Protection Disabled",), 5)
    lenient = Policy(waived=frozenset({*WAIVED, Reason.DMA_PROTECTION_OFF}))
    values = forge.values_of(BASE_LOG)
    released = firmware_digest(values, (0, 2, 3, 6), keys)
    facts = FileFacts.from_json((LOGS / "facts-debian12-network.json").read_text())
    image = Signature(type=CERT_SHA256, owner=SHIM_LOCK, data=facts.kernel.image["sha256"])
    forbids = Variable(guid=IMAGE_SECURITY, name="dbx", data=image.encode_list())
    broken = Variable(guid=IMAGE_SECURITY, name="db", data=b"no signature list")
    return {
        "tpm-firmware-bad": (good, "TPM-FIRMWARE-BAD", held | {"policy": bad}),
        "tpm-firmware-changed": (good, "", accepted | known | {"notes": ["TPM-FIRMWARE-CHANGED"]}),
        "secure-boot-keys-listed": (good, "", accepted | {"policy": listed}),
        "secure-boot-key-unlisted": (good, "SECURE-BOOT-KEYS", {"policy": unlisted}),
        "dbx-minimum-held": (good, "", accepted | {"policy": minimum}),
        "dbx-too-old": (good, "DBX-OUTDATED", {"policy": newer}),
        "dbx-forbids-what-ran": (
            forge.evidence(changed_log(7, 4, content=forbids.encode())),
            "SECURE-BOOT-KEYS",
            {},
        ),
        "db-that-is-none": (
            forge.evidence(changed_log(7, 3, content=broken.encode())),
            "SECURE-BOOT-UNPROVED",
            {},
        ),
        "firmware-released-with-listed-keys": (
            good,
            "",
            accepted
            | {
                "policy": replace(listed, waived=frozenset()),
                "record": {"firmware": firmware_digest(values, (0, 2, 3, 6), frozenset())},
            },
        ),
        "dma-protection-off": (
            forge.evidence(unprotected),
            "DMA-PROTECTION-OFF",
            held | {"log": "attest/dma-protection-off.bin"},
        ),
        "dma-protection-off-waived": (
            forge.evidence(unprotected),
            "",
            accepted | {"policy": lenient, "log": "attest/dma-protection-off.bin"},
        ),
        "firmware-unknown": (good, "FIRMWARE-UNKNOWN", held | {"policy": Policy()}),
        "firmware-released-for-this-box": (
            good,
            "",
            accepted | {"policy": Policy(), "record": {"firmware": released}},
        ),
    }


def vector(made: Evidence, expect: str, **extra: object) -> dict:
    """Give one vector as plain values."""
    found: dict = {
        "expect": expect,
        "verdict": extra.pop("verdict", "refused"),
        "notes": extra.pop("notes", []),
        "policy": extra.pop("policy", Policy(waived=WAIVED)).to_toml(),
        "log": extra.pop("log", "eventlog/debian12-tftp.bin" if made.event_log else ""),
        "sets": extra.pop("sets", ["debian12-tftp"]),
        "state": extra.pop("state", "served"),
        "rehearsal": extra.pop("rehearsal", False),
        "anchors": extra.pop("anchors", [forge.root_certificate()]),
        "now": int(forge.NOW),
        "nonce": made.nonce,
        "ek_public": made.ek_public,
        "ek_certificates": list(made.ek_certificates),
        "ak_public": made.ak_public,
        "device_public": made.device_public,
        "facts": made.facts,
        "quotes": [[signed.attest, signed.signature] for signed in made.quotes],
        "device": [made.device.attest, made.device.signature] if made.device else [],
    }
    record = {"listed": True, **extra.pop("record", {})}
    assert not extra, extra
    found["record"] = record
    found["pcrs"] = {
        bank: {str(index): value for index, value in values.items()}
        for bank, values in made.pcrs.items()
    }
    return found


# --- files


def plain(value: object) -> str:
    """Give a TOML value; bytes as hexadecimal."""
    if isinstance(value, bytes):
        return f'"{value.hex()}"'
    if isinstance(value, list):
        return "[" + ", ".join(plain(item) for item in value) + "]"
    return json.dumps(value)


def toml(document: dict, prefix: str = "") -> str:
    """Write a document: plain values first, then its tables."""
    lines = [
        f"{name} = {plain(value)}"
        for name, value in document.items()
        if not isinstance(value, dict)
    ]
    for name, value in document.items():
        if isinstance(value, dict):
            title = f"{prefix}{name}"
            lines += ["", f"[{title}]", toml(value, f"{title}.").rstrip("\n")]
    return "\n".join(lines) + "\n"


def files() -> dict[Path, bytes]:
    """Give every file of both directories."""
    vectors, logs = attest()
    found = {Path("phone-home") / name: text.encode() for name, text in phone_home().items()}
    found |= {Path("attest") / f"{name}.toml": toml(v).encode() for name, v in vectors.items()}
    found |= {Path("attest") / name: log for name, log in logs.items()}
    return found


def main() -> None:
    """Write them all."""
    for path, content in files().items():
        target = VECTORS / path
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)


if __name__ == "__main__":
    main()
