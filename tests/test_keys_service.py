"""The keys process under its own uid, called by the real uids of the others."""

import json
import sqlite3
import stat
import subprocess
import time
from uuid import UUID

import dns.dnssec
import dns.name
import dns.rdata
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from keys_site import (
    BOX_KEY,
    EK,
    OTHER_EK,
    SITE_TOML,
    STRANGER,
    THIRD_EK,
    USERS,
    KeysSite,
    code,
    entry,
    request,
)
from software_tpm import SoftwareTpm
from test_keys_envelope import TEMPLATES, Box

from keys import ca
from keys.envelope import (
    Bundle,
    answer_digest,
    b64u,
    bind,
    content_key,
    sealed_digest,
    secret_digest,
    unb64u,
)
from keys.errors import SiteError
from keys.io.boxes import MAX_ALLOWANCE
from keys.io.rpc import RpcError
from keys.io.schema import MIGRATIONS
from keys.io.service import main
from keys.io.store import Allowance, Store
from keys.rules import HANDOVERS_PER_MINUTE
from keys.secret import Secret

TABLE = {
    "status": {"control", "operator"},
    "events": {"control", "operator"},
    "handover": {"control"},
    "answer": {"control"},
    "revoke": {"control", "operator"},
    "secret_put": {"operator"},
    "secret_list": {"operator"},
    "secret_remove": {"operator"},
    "secret_import": {"operator"},
    "wrap_key": {"operator"},
    "allow": {"operator"},
    "disallow": {"operator"},
    "withdraw": {"operator"},
    "ca_requests": {"operator"},
    "ca_install": {"operator"},
    "boot_ca": {"operator"},
    "ca_crl": {"operator"},
    "ssh_ca": {"operator"},
    "ssh_krl": {"operator"},
}
RENAMED = SITE_TOML.replace('"shop-0417"', '"shop-9"')
CALLERS = USERS | {"operator": 0, "stranger": STRANGER}


@pytest.fixture(scope="module")
def shared():
    """One running site for tests that leave nothing behind that others see."""
    site = KeysSite()
    try:
        yield site.ready()
    finally:
        site.close()


@pytest.fixture
def site():
    site = KeysSite()
    yield site
    site.close()


@pytest.mark.parametrize("method", TABLE)
@pytest.mark.parametrize("user", CALLERS)
def test_every_cell_of_the_table(shared, user, method):
    try:
        shared.as_user(CALLERS[user], method)
        said = "ok"
    except RpcError as error:
        said = error.code
    assert (said != "FORBIDDEN") == (user in TABLE[method])


def test_a_method_that_is_in_no_row(shared):
    assert code(shared.operator, "secret_get", name="pos-api-token") == "MALFORMED"


def test_first_start_serves_the_authorities_only(site):
    site.deliver(1)
    site.start()
    status = site.operator("status")
    assert (status["ready"], status["reason"]) == (False, "NO-CA")
    assert "not in a TPM" in status["not_covered"]
    for method in set(TABLE) - {"status", "events", "ca_requests", "ca_install", "boot_ca"}:
        caller = site.control if TABLE[method] == {"control"} else site.operator
        assert code(caller, method) == "NO-CA"
    assert not list((site.layout.run / "tls").iterdir())
    site.sign_authorities()
    assert site.operator("status")["ready"]
    assert site.operator("status")["sentences"] == []


def test_tls_files_for_nginx(shared):
    for name in ("server.key", "server.pem"):
        found = (shared.layout.run / "tls" / name).stat()
        assert stat.S_IMODE(found.st_mode) == 0o640
        assert (found.st_uid, found.st_gid) == (USERS["keys"], USERS["nginx"])
    verify = ["openssl", "verify", "-purpose", "sslserver", "-CAfile"]
    verify += [str(shared.layout.site / "trust/root.pem"), "-untrusted"]
    pem = str(shared.layout.run / "tls/server.pem")
    for name in (
        ["-verify_hostname", "appliance.shop-0417.example.net"],
        ["-verify_ip", "10.41.7.2"],
    ):
        subprocess.run([*verify, pem, *name, pem], check=True, capture_output=True)
    key = (shared.layout.run / "tls/server.key").read_bytes()
    public = subprocess.run(
        ["openssl", "pkey", "-pubout"], input=key, check=True, capture_output=True
    ).stdout
    leaf = x509.load_pem_x509_certificates((shared.layout.run / "tls/server.pem").read_bytes())[0]
    assert leaf.public_key() == load_pem_public_key(public)


HTTPS = (
    SITE_TOML
    + """
[boot]
https = true
[[subnet6]]
appliance = "fd41:7::2"
"""
)


def test_https_boot_has_an_rsa_ca_of_its_own_for_the_firmware(site):
    site.start()
    tls = site.layout.run / "tls"
    assert code(site.operator, "boot_ca") == "HTTPS-OFF"
    assert not (tls / "boot.pem").exists()
    site.write("site.toml", HTTPS)
    site.kill()
    site.start()
    authority = site.base / "boot-ca.pem"
    authority.write_text(site.operator("boot_ca")["pem"])
    pem = tls / "boot.pem"
    verify = ["openssl", "verify", "-purpose", "sslserver", "-CAfile", str(authority)]
    for name in (
        ["-verify_hostname", "appliance.shop-0417.example.net"],
        ["-verify_ip", "10.41.7.2"],
        ["-verify_ip", "fd41:7::2"],
        ["-attime", "1000000000"],
    ):
        subprocess.run([*verify, *name, str(pem)], check=True, capture_output=True)
    key = load_pem_private_key((tls / "boot.key").read_bytes(), None)
    leaf = x509.load_pem_x509_certificate(pem.read_bytes())
    assert isinstance(key, rsa.RSAPrivateKey)
    assert leaf.public_key() == key.public_key()
    assert stat.S_IMODE((tls / "boot.key").stat().st_mode) == 0o640
    site.kill()
    site.start()
    assert site.operator("boot_ca")["pem"] == authority.read_text()
    assert x509.load_pem_x509_certificate(pem.read_bytes()) == leaf


def test_only_certificates_under_the_site_root_are_installed(site):
    site.start()
    requests = {one["kind"]: one["csr_pem"] for one in site.operator("ca_requests")["requests"]}
    good = {f"{kind}_pem": site.sign_request(kind, text) for kind, text in requests.items()}
    swapped = {"appliance_pem": good["box_pem"], "box_pem": good["appliance_pem"]}
    stranger = KeysSite()
    foreign = {f"{kind}_pem": stranger.sign_request(kind, text) for kind, text in requests.items()}
    stranger.close()
    for wrong in (swapped, foreign, {**good, "box_pem": "junk"}, {**good, "box_pem": 5}):
        assert code(site.operator, "ca_install", **wrong) == "MALFORMED"
        assert not site.operator("status")["ready"]
    site.operator("ca_install", **good)
    assert site.operator("status")["ready"]


def read_bundle(document, boot):
    parts = {name: unb64u(document[name]) for name in ("sealed_public", "duplicate", "seed")}
    parts |= {name: unb64u(document[name]) for name in ("ephemeral", "nonce", "ciphertext")}
    return Bundle(**parts, boot=boot, binding=None, content_key=Secret(b""))


def check_answer(site, text, session, transcript, context="answer"):
    """Check an answer as the box does, by the pinned root; gives the payload."""
    answer = json.loads(text)
    leaf, middle = (x509.load_der_x509_certificate(unb64u(der)) for der in answer["chain"])
    middle.verify_directly_issued_by(site.root)
    leaf.verify_directly_issued_by(middle)
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ca.ANSWER_SIGNING]
    payload, signature = unb64u(answer["answer"]), unb64u(answer["signature"])
    r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
    digest = answer_digest(context, "shop-0417", unb64u(session), unb64u(transcript), payload)
    leaf.public_key().verify(encode_dss_signature(r, s), digest, ec.ECDSA(hashes.SHA256()))
    return json.loads(payload)


@pytest.fixture
def tpm(tmp_path):
    tpm = SoftwareTpm(tmp_path)
    yield tpm
    tpm.stop()


def test_a_hand_over_opens_in_the_box_it_is_for(site, tpm):
    with tpm.open() as esys:
        box = Box(esys, TEMPLATES["rsa-2048"])
        box.boot()
        boot = box.attested(milliseconds=0)
        site.deliver(1, entry(box.ek, role=None))
        site.start()
        site.sign_authorities()
        site.put(value=b"till token")
        asked = request(
            box.ek,
            reset_count=boot.reset_count,
            restart_count=boot.restart_count,
            clock=boot.clock_before,
            pcrs={str(index): b64u(value) for index, value in boot.pcrs.items()},
            handoff={"hostname": "pos-01", "site": "x", "box": "x", "session": "x", "trust": {}},
        )
        given = site.control("handover", **asked)
        payload = check_answer(site, given["answer"], asked["session"], asked["transcript"])
        document = payload["bundle"]
        bundle = read_bundle(document, boot)
        sealed_to = type(boot)(
            reset_count=document["reset_count"],
            restart_count=document["restart_count"],
            clock_before=document["clock_before"],
            pcrs=boot.pcrs,
        )
        share = box.unseal(box.load(bundle), sealed_to)
    assert {key: payload[key] for key in ("status", "session", "box", "transcript")} == {
        "status": "enrolled",
        "session": asked["session"],
        "box": asked["box"],
        "transcript": asked["transcript"],
    }
    transcript = unb64u(asked["transcript"])
    shared = BOX_KEY.exchange(X25519PublicKey.from_public_bytes(bundle.ephemeral))
    key = content_key(share, shared, transcript)
    fields = (UUID(asked["box"]).bytes, unb64u(asked["session"]), transcript)
    aad = bind("doorstep/v1/bundle", *fields, unb64u(document["boot_set"]), document["expires"])
    opened = AESGCM(key.reveal()).decrypt(bundle.nonce, bundle.ciphertext, aad)
    check_handoff(site, json.loads(opened), given, asked)
    digest = secret_digest(key, "pos-api-token", Secret(b"till token"))
    assert given["digests"] == {"pos-api-token": b64u(digest)}


def check_handoff(site, handoff, given, asked):
    assert handoff["hostname"] == "pos-01"
    assert handoff["trust"]["site_root_pem"] == ca.pem([site.root])
    (anchor,) = site.operator("zone_anchors")["anchors"]
    zone, key = dns.name.from_text("shop-0417.example.net"), unb64u(anchor["dnskey"])
    rdata = dns.rdata.from_wire("IN", "DNSKEY", key, 0, len(key))
    ds = dns.dnssec.make_ds(zone, rdata, "SHA256")  # somebody else's word on what a DS is
    assert handoff["trust"]["dns"]["zone"] == zone.to_text()
    assert [one.lower() for one in handoff["trust"]["dns"]["ds"]] == [ds.to_text().lower()]
    assert (handoff["site"], handoff["box"]) == ("shop-0417", asked["box"])
    assert (handoff["session"], handoff["role"]) == (asked["session"], "pos")
    assert handoff["expires"] == handoff["issued"] + 600
    (secret,) = handoff["secrets"]
    assert (secret["name"], unb64u(secret["value"])) == ("pos-api-token", b"till token")
    known = {one["name"]: one for one in site.operator("secret_list")["secrets"]}
    assert secret["expires"] == known["pos-api-token"]["usable_until"]
    missing = [{"name": "wifi-psk", "reason": "SECRET-MISSING", "since": None}]
    assert handoff["withheld"] == given["withheld"] == missing
    leaf, middle = x509.load_pem_x509_certificates(handoff["identity"]["chain_pem"].encode())
    leaf.verify_directly_issued_by(middle)
    middle.verify_directly_issued_by(site.root)
    assert asked["box"] not in leaf.subject.rfc4514_string()
    assert abs(given["certificate_not_after"] - time.time() - 7 * 86400) < 60


def test_the_same_question_gets_the_same_answer_once_a_boot(shared):
    asked = request(reset_count=100)
    first = shared.control("handover", **asked)
    assert shared.control("handover", **asked) == first
    for other in (
        request(reset_count=100),
        asked | {"transcript": b64u(bytes(32))},
        asked | {"transcript": b64u(bytes(32)), "reset_count": 102},
        asked | {"session": b64u(bytes(16))},
    ):
        assert code(shared.control, "handover", **other) == "HANDED-OVER"
    assert shared.control("handover", **request(reset_count=100, restart_count=1))
    assert shared.control("handover", **request(reset_count=101))


def test_a_software_ek_that_control_never_accepted(shared):
    assert code(shared.control, "handover", **request(OTHER_EK)) == "EK-NOT-ALLOWED"
    last = shared.operator("events")["events"][-1]
    assert (last["kind"], last["reason"]) == ("handover-refused", "EK-NOT-ALLOWED")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"role": "kiosk"}, "ROLE-DIFFERS"),
        ({"role": "nothing"}, "ROLE-DIFFERS"),
        ({"pcrs": {"0": b64u(bytes(32))}}, "MALFORMED"),
        ({"pcrs": request()["pcrs"] | {"15": b64u(b"1" * 32)}}, "MALFORMED"),
        ({"pcrs": request()["pcrs"] | {"4": b64u(b"1" * 20)}}, "MALFORMED"),
        ({"ephemeral": b64u(bytes(32))}, "MALFORMED"),
        ({"reset_count": 1 << 32}, "MALFORMED"),
        ({"reset_count": True}, "MALFORMED"),
        ({"session": "AA"}, "MALFORMED"),
        ({"boot_set": ""}, "MALFORMED"),
        ({"boot_set": 5}, "MALFORMED"),
        ({"pcrs": 5}, "MALFORMED"),
        ({"ek_public": None}, "MALFORMED"),
        ({"ek_public": b64u(b"junk")}, "MALFORMED"),
        ({"device_public": b64u(b"junk")}, "MALFORMED"),
        ({"box": "7"}, "MALFORMED"),
        ({"handoff": []}, "MALFORMED"),
        ({"handoff": {"secrets": []}}, "MALFORMED"),
    ],
)
def test_a_hand_over_that_must_not_be(shared, changes, expected):
    asked = request(reset_count=500) | changes
    assert code(shared.control, "handover", **asked) == expected


def test_revoked_and_withdrawn_get_nothing_also_not_again(site):
    site.ready()
    asked = request()
    site.control("handover", **asked)
    site.operator("withdraw", boot_set=b64u(b"b" * 32))
    assert code(site.control, "handover", **asked) == "BOOT-SET-WITHDRAWN"
    newer = request(boot_set=b64u(b"c" * 32), reset_count=8)
    site.control("handover", **newer)
    site.control("revoke", ek_name=b64u(EK.name()))
    assert code(site.control, "handover", **newer) == "EK-NOT-ALLOWED"
    site.stop()
    site.start()
    assert code(site.control, "handover", **newer) == "EK-NOT-ALLOWED"
    assert code(site.control, "handover", **request()) == "EK-NOT-ALLOWED"


def test_what_published_json_withdrew_stays_withdrawn(site):
    site.ready()
    path = site.layout.state / "bootsets" / "published.json"
    digest = b"b" * 32
    sets = [{"digest": digest.hex(), "state": "withdrawn", "until": None}]
    path.write_text(json.dumps({"type": "doorstep/published/v1", "sets": sets}))
    path.chmod(0o644)
    assert code(site.control, "handover", **request()) == "BOOT-SET-WITHDRAWN"
    path.write_text(json.dumps({"type": "doorstep/published/v1", "sets": []}))
    assert code(site.control, "handover", **request()) == "BOOT-SET-WITHDRAWN"
    assert site.operator("status")["withdrawn"] == [digest.hex()]


def test_an_allowance_serves_once_and_for_its_role(site):
    site.ready()
    for wrong, expected in (
        ({"role": "none"}, "ROLE-DIFFERS"),
        ({"seconds": 0}, "MALFORMED"),
        ({"seconds": MAX_ALLOWANCE + 1}, "MALFORMED"),
        ({"ek_name": "AA"}, "MALFORMED"),
        ({"reasons": []}, "MALFORMED"),
        ({"sealed": "AA"}, "MALFORMED"),
        ({"claim": "x" * 501}, "MALFORMED"),
    ):
        assert code(site.operator, "allow", **ALLOWED | wrong) == expected, wrong
    site.operator("allow", **ALLOWED, claim="the label says S-2")
    (event,) = [one for one in site.operator("events")["events"] if one["kind"] == "allowed"]
    assert event["detail"]["reasons"] == ["BOX-REPLACES", "EK-UNLISTED"]
    assert event["detail"]["claim"] == "the label says S-2"
    assert event["detail"]["sealed"] == SEALED.hex()
    assert code(site.control, "handover", **request(OTHER_EK, reasons=REASONS)) == "ROLE-DIFFERS"
    given = site.control("handover", **KIOSK)
    assert given["withheld"] == []
    again = KIOSK | {"reset_count": 8, "session": b64u(bytes(16))}
    assert code(site.control, "handover", **again) == "EK-NOT-ALLOWED"
    site.operator("allow", **ALLOWED)
    assert site.operator("disallow", ek_name=ALLOWED["ek_name"]) == {"disallowed": True}
    assert code(site.control, "handover", **again) == "EK-NOT-ALLOWED"
    site.operator("allow", **ALLOWED | {"seconds": 1})
    time.sleep(1.1)
    assert code(site.control, "handover", **again) == "EK-NOT-ALLOWED"


REASONS = ["BOX-REPLACES", "EK-UNLISTED"]
SEALED = sealed_digest({int(index): unb64u(value) for index, value in request()["pcrs"].items()})
ALLOWED = {
    "ek_name": b64u(OTHER_EK.name()),
    "role": "kiosk",
    "reasons": REASONS,
    "sealed": b64u(SEALED),
    "seconds": MAX_ALLOWANCE,
}
KIOSK = request(OTHER_EK, role="kiosk", reasons=REASONS)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pcrs": request()["pcrs"] | {"0": b64u(b"1" * 32)}}, "EK-NOT-ALLOWED"),
        ({"reasons": [*REASONS, "FACTS-DIFFER"]}, "EK-NOT-ALLOWED"),
        ({"reasons": ["EK-UNLISTED"]}, "EK-NOT-ALLOWED"),
        ({"reasons": []}, "EK-NOT-ALLOWED"),
        ({"ek_public": b64u(THIRD_EK.encode())}, "EK-NOT-ALLOWED"),
        ({"role": "pos"}, "ROLE-DIFFERS"),
    ],
    ids=[
        "other-measurements",
        "a-superset-of-reasons",
        "a-subset-of-reasons",
        "no-reason",
        "another-ek",
        "another-role",
    ],
)
def test_an_allowance_is_for_exactly_what_it_names(allowed, change, expected):
    assert code(allowed.control, "handover", **KIOSK | change) == expected
    # and what it did not serve did not use it up
    assert allowed.operator("disallow", ek_name=ALLOWED["ek_name"]) == {"disallowed": True}


@pytest.fixture
def allowed(shared):
    """The shared site, which allows the other EK."""
    shared.operator("allow", **ALLOWED)
    return shared


def test_an_allowance_ends_after_24_hours_exactly(allowed):
    (event,) = [one for one in allowed.operator("events")["events"] if one["kind"] == "allowed"][
        -1:
    ]
    until = event["detail"]["until"]
    assert until == event["at"] + 86400
    one = Allowance(role="kiosk", reasons=frozenset(REASONS), sealed=SEALED, until=until)
    assert one.covers(frozenset(REASONS), SEALED, until - 0.001)
    assert not one.covers(frozenset(REASONS), SEALED, until)


def test_allowances_of_an_older_schema_are_asked_for_again(tmp_path):
    """They said nothing of what was measured."""
    path = tmp_path / "keys.db"
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript(MIGRATIONS[0] + "PRAGMA user_version=1;")
    database.execute("INSERT INTO allowed VALUES(?,?,?,?)", (EK.name(), "pos", "[]", 2e10))
    database.close()
    store = Store(path)
    assert store.allowance(EK.name()) is None
    one = Allowance(role="pos", reasons=frozenset({"A"}), sealed=SEALED, until=2e10)
    store.allow(EK.name(), one)
    assert store.allowance(EK.name()) == one
    store.close()


def test_hand_overs_are_limited_for_the_whole_site(site):
    site.deliver(1, entry(EK), entry(OTHER_EK, "S2"))
    site.start()
    site.sign_authorities()
    for number in range(HANDOVERS_PER_MINUTE):
        site.control("handover", **request(reset_count=number))
    assert code(site.control, "handover", **request(OTHER_EK)) == "RATE"


def test_notes_only_move_forward(site):
    site.ready()
    site.deliver(5, entry(OTHER_EK, "S2"))
    site.control("handover", **request(OTHER_EK))
    assert code(site.control, "handover", **request()) == "EK-NOT-ALLOWED"
    for counter, ek, why in ((4, EK, "counter 4"), (5, EK, "another delivery note")):
        site.deliver(counter, entry(ek, "S3"))
        (sentence,) = site.operator("status")["sentences"]
        assert why in sentence
        assert code(site.control, "handover", **request()) == "EK-NOT-ALLOWED"
    site.stop()
    site.start()
    assert site.operator("status")["delivery_note"] is None
    site.deliver(6, entry(EK), site="shop-9999")
    assert "for site shop-9999" in site.operator("status")["sentences"][0]
    site.deliver(6, entry(EK))
    assert site.operator("status")["delivery_note"] == {"counter": 6, "entries": 1}
    site.control("handover", **request())


def test_a_serial_belongs_to_one_ek_until_that_is_revoked(site):
    site.ready()
    site.control("handover", **request())
    site.deliver(2, entry(OTHER_EK, "S1"))
    assert code(site.control, "handover", **request(OTHER_EK)) == "EK-NOT-ALLOWED"
    site.operator("revoke", ek_name=b64u(EK.name()))
    site.control("handover", **request(OTHER_EK))


def test_a_role_that_the_site_has_not(site):
    site.deliver(1, entry(EK, role="ghost"))
    site.start()
    site.sign_authorities()
    assert code(site.control, "handover", **request(role="ghost")) == "ROLE-DIFFERS"


def test_an_unsigned_note_is_none(site):
    site.ready()
    path = site.layout.site / "delivery.csv"
    path.write_text(path.read_text().replace("pos", "kiosk"))
    assert "not what was signed" in site.operator("status")["sentences"][0]


def test_a_site_file_that_became_wrong_is_not_taken(site):
    site.ready()
    site.write("site.toml", SITE_TOML.replace('tier = "site"', 'tier = "sight"'))
    (sentence,) = site.operator("status")["sentences"]
    assert "'sight'" in sentence
    site.write("site.toml", RENAMED)
    assert "permanent" in site.operator("status")["sentences"][0]
    site.write("site.toml", SITE_TOML.replace("10.41.7.2", "10.41.7.3"))
    assert site.operator("status")["sentences"] == []
    deadline = time.monotonic() + 5
    text = b""
    while "10.41.7.3" not in text.decode() and time.monotonic() < deadline:
        pem = str(site.layout.run / "tls/server.pem")
        command = ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", pem]
        text = subprocess.run(command, check=True, capture_output=True).stdout
    assert "10.41.7.3" in text.decode()


@pytest.mark.parametrize("context", ["answer", "receipt"])
def test_answers_that_control_may_have_signed(shared, context):
    allowed = {"answer": {"held", "refused"}, "receipt": {"ready", "enrolled"}}[context]
    session, transcript = b64u(b"s" * 16), b64u(b"t" * 32)
    bound = {"session": session, "transcript": transcript}
    payload = bound | {"box": "6f1c0a52-5f0e-5b1c-9d53-0f2a1c3b4d5e"}
    for status in ("held", "refused", "ready", "enrolled"):
        asked = bound | {"context": context, "payload": payload | {"status": status}}
        if status not in allowed:
            assert code(shared.control, "answer", **asked) == "MALFORMED"
            continue
        before = shared.operator("status")
        answer = shared.control("answer", **asked)["answer"]
        after = shared.operator("status")
        assert after["audit"]["n"] == before["audit"]["n"] + 1
        assert after["last_event"] == before["last_event"]
        signed = check_answer(shared, answer, session, transcript, context)
        assert signed == payload | {"status": status}
    other = bound | {"context": context, "payload": payload | {"status": min(allowed)}}
    for field in ("session", "transcript"):
        moved = other | {"payload": other["payload"] | {field: b64u(b"o" * 32)}}
        assert code(shared.control, "answer", **moved) == "MALFORMED"
    assert code(shared.control, "answer", **other | {"context": "bundle"}) == "MALFORMED"


def test_events_are_numbered_without_gaps(shared):
    shared.put()
    code(shared.control, "handover", **request(OTHER_EK))
    found = shared.control("events", after=0, limit=1000)
    numbers = [one["n"] for one in found["events"]]
    assert numbers == list(range(1, found["last"] + 1))
    tail = shared.control("events", after=found["last"] - 1, limit=5)
    assert [one["n"] for one in tail["events"]] == [found["last"]]
    assert len(shared.control("events", after=0, limit=-5)["events"]) == 1
    keys = {"n", "at", "kind", "box", "mac", "address", "reason", "detail"}
    assert set(found["events"][0]) == keys


def test_runs_as_its_own_user_only(site):
    with pytest.raises(SiteError, match="not as 0"):
        main(site.layout)
    with pytest.raises(AssertionError, match=f"not as {USERS['enroll']}"):
        site.start("enroll")


def test_stops_when_asked(site):
    site.ready()
    assert site.stop() == 0
