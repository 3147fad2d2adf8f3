"""Control and keys as processes: a box is enrolled, and nothing that is wrong passes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time

import pytest
from control_site import CLAIM, Box, ControlSite, boot_log, make_tpm, row
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from forge import Box as SoftwareBox
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootstrap.agent import protocol
from bootstrap.agent.errors import PeerError
from bootstrap.agent.ssh import DRAWN_BYTES, make_host_key
from bootstrap.io import site_dir
from bootstrap.phonehome import from_b64u
from keys import ssh_certificate
from keys.io.rpc import RpcError, call
from netboot.plan import Plan
from netboot.plan_check import check

pytestmark = pytest.mark.boots


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A running site with one set, and three TPMs: listed, not listed, of an unknown maker."""
    base = tmp_path_factory.mktemp("tpms")
    tpms = [make_tpm(base / name) for name in ("a", "b", "c")]
    site = ControlSite()
    boxes = [
        Box(site, tpm, mac=f"52:54:00:00:00:0{number}", address=f"10.41.7.10{number}")
        for number, tpm in enumerate(tpms, 1)
    ]
    site.trust(tpms[0])
    site.trust(tpms[1])
    site.deliver(boxes[0].entry())
    site.manifest = site.build()
    site.publish(site.manifest)
    try:
        site.start()
        site.log_of_boot = boot_log(site, site.manifest)
        for box in boxes:
            site.lease(box.mac, box.address)
        yield site, boxes
    finally:
        for box in boxes:
            box.off()
        site.close()


@pytest.fixture
def site(world):
    """The site."""
    return world[0]


def fresh(site, box):
    """Boot a box as it is delivered."""
    box.memory = 2048
    return box.boot(site.log_of_boot)


@pytest.fixture
def box(world):
    """The listed box, freshly booted."""
    return fresh(world[0], world[1][0])


@pytest.fixture
def unlisted(world):
    return fresh(world[0], world[1][1])


@pytest.fixture
def stranger(world):
    return fresh(world[0], world[1][2])


@pytest.fixture(autouse=True)
def quotas(world):
    """Control counts in memory: a restart forgets."""
    if world[0].posts > 5:
        world[0].restart("control")


def told(status_and_body) -> tuple[int, str]:
    """Give status and reason of an error."""
    status, body = status_and_body
    return status, json.loads(body)["reason"]


def kinds(site, start, box):
    return [
        event["kind"]
        for event in site.events(start)
        if event["box"] == box.id and event["kind"] != "handover"
    ]


# The thin path


def test_a_box_is_enrolled_and_ready(site, box):
    start = site.last()
    dance, answer = box.attest()
    assert answer.status == "enrolled"
    shown = site.card(box.id)
    assert shown["box"]["stage"] == shown["card"]["stage"] == "enrolled"
    opened = box.open(dance, answer)
    document = json.loads(opened.document)
    assert document["hostname"] == "pos-01"
    assert document["network"][0]["address"] == "10.41.7.20/24"
    assert document["network"][0]["mac"] == box.mac
    (secret,) = document["secrets"]
    assert from_b64u(secret["value"], "value", limit=100) == b"token of the tills"
    with pytest.raises(PeerError):
        box.open(dance, answer)
    body = box.report(dance, opened)
    status, receipt = box.post("report", body, dance.session)
    assert (status, box.read(dance, receipt, "receipt").status) == (200, "ready")
    assert box.post("report", body, dance.session) == (200, receipt)
    assert kinds(site, start, box) == ["session", "verified", "enrolled", "ready"]
    assert site.card(box.id)["card"]["stage"] == "ready"


def test_the_certificate_is_for_the_device_key_and_ends_in_the_site_root(site, box):
    dance, answer = box.attest()
    chain = json.loads(box.open(dance, answer).document)["identity"]["chain_pem"]
    leaf, *authorities = x509.load_pem_x509_certificates(chain.encode())
    point = leaf.public_key().public_numbers()
    assert point.x.to_bytes(32, "big") in box.device
    spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    tlsa = {one["value"] for one in site.plan()["records"] if one["type"] == "TLSA"}
    assert f"3 1 1 {hashlib.sha256(spki).hexdigest()}" in tlsa
    for child, issuer in zip([leaf, *authorities], [*authorities, site.root], strict=False):
        child.verify_directly_issued_by(issuer)


def test_the_ssh_host_key_that_was_quoted_is_certified_and_in_the_zone(site, box):
    box.ssh_host_key = make_host_key(os.urandom(DRAWN_BYTES)).public
    dance, answer = box.attest()
    line = json.loads(box.open(dance, answer).document)["identity"]["ssh"]
    found = ssh_certificate.read(line.encode())
    assert found.public == box.ssh_host_key
    assert found.principals == ("pos-01.shop-0417.example.net", "pos-01", "10.41.7.20")
    line = call(site.layout.socket("keys"), "ssh_ca")["public"]
    assert found.authority == base64.b64decode(line.split()[1])
    sshfp = {one["value"] for one in site.plan()["records"] if one["type"] == "SSHFP"}
    assert f"4 2 {hashlib.sha256(box.ssh_host_key).hexdigest()}" in sshfp


def test_the_plan_has_reservation_and_names(site, box):
    box.attest()
    plan = Plan.decode((site.layout.state / "plan/plan.json").read_bytes())
    assert check(plan) == ()
    (mine,) = [one for one in plan.reservations if one.mac == bytes.fromhex("525400000001")]
    assert (str(mine.address), mine.name) == ("10.41.7.20", "pos-01")
    names = {(one.name, one.value) for one in plan.records}
    assert ("pos-01.shop-0417.example.net", "10.41.7.20") in names
    assert ("20.7.41.10.in-addr.arpa", "pos-01.shop-0417.example.net") in names
    assert plan.boot.sets[0].boot_set == site.manifest.digest


def test_everything_that_the_verdict_rests_on_is_kept(site, box):
    dance, _ = box.attest()
    kept = site.layout.state / "evidence" / site.card(box.id)["box"]["evidence"]
    assert (kept / "eventlog.bin").read_bytes() == box.log
    assert json.loads((kept / "result.json").read_text())["verdict"] == "accepted"
    assert kept.stat().st_uid == site.layout.users["control"]


def test_a_platform_certificate_in_the_tpm_is_sent_and_kept(site, box):
    (stored,) = box.tpm.platform_certificates()
    assert box.attest()[1].status == "enrolled", "nobody here trusts makers of machines"
    kept = site.layout.state / "evidence" / site.card(box.id)["box"]["evidence"]
    assert (kept / "platform0.crt").read_bytes() == stored
    shown = site.operator("control", "box", box=box.id, changes=True)["result"]
    assert "no maker of machines is trusted here" in shown["platform"]["checked"]


def test_a_platform_certificate_counts_once_a_maker_of_machines_is_trusted(site, box):
    issuer = box.swtpm.ca / "issuercert.pem"
    folder = site.layout.site / "trust/ek/platform"
    site_dir.write(folder / "maker.pem", issuer.read_bytes())
    try:
        site.reload()
        _, answer = box.attest()
        assert (answer.status, answer.reason) == ("held", "FACTS-DIFFER")
        assert "says model QEMU, the box says M" in answer.sentence
        shown = site.operator("control", "box", box=box.id, changes=True)["result"]
        assert shown["platform"]["model"] == "QEMU"
    finally:
        (folder / "maker.pem").unlink()
        site.reload()


def test_events_have_no_gaps(site, box):
    box.attest()
    numbers = [event["n"] for event in site.events()]
    assert numbers == list(range(1, len(numbers) + 1))


# Sessions


def test_a_lost_reply_is_repeated_byte_by_byte(site, box):
    dance = box.begin()
    first = box.give(dance)
    start = site.last()
    assert box.give(dance) == first
    assert kinds(site, start, box) == []


def test_another_body_in_the_same_session_is_a_replay(site, box):
    dance = box.begin()
    box.give(dance)
    start = site.last()
    body = json.loads(dance.body) | {"ima_log": "AAAA"}
    answer = box.post("evidence", json.dumps(body).encode(), dance.session)
    assert told(answer) == (409, "REPLAY")
    (event,) = [one for one in site.events(start) if one["kind"] == "replay"]
    assert (event["box"], event["reason"]) == (box.id, "REPLAY")
    assert site.card(box.id)["box"]["stage"] == "enrolled"


def test_replays_do_not_fill_the_disk(site, box):
    site.restart("control")
    dance = box.begin()
    box.give(dance)
    start = site.last()
    for _ in range(20):
        assert told(box.post("evidence", b"{}", dance.session)) == (409, "REPLAY")
    assert len([one for one in site.events(start) if one["kind"] == "replay"]) == 12


def test_a_session_that_nobody_began(site, box):
    dance = box.begin()
    assert told(box.post("evidence", dance.body, os.urandom(16))) == (404, "SESSION-UNKNOWN")
    assert box.read(dance, box.give(dance)).status == "enrolled"


def test_evidence_in_the_session_of_another_box(site, box, unlisted):
    mine, others = box.begin(), unlisted.begin()
    assert told(box.post("evidence", mine.body, others.session)) == (404, "SESSION-UNKNOWN")


def test_evidence_in_an_older_session_of_the_same_box(site, box):
    old, new = box.begin(), box.begin()
    assert told(box.post("evidence", new.body, old.session)) == (404, "SESSION-UNKNOWN")


def test_a_session_that_is_not_hexadecimal(site, box):
    with pytest.raises(RpcError) as refused:
        site.courier("enroll").ask(
            "control", "evidence", {"address": "", "body": "", "session": "AB" * 16}
        )
    assert refused.value.code == "MALFORMED"


def test_quota_of_one_box(site, box):
    site.restart("control")
    hello = box.hello().body
    assert [box.post("session", hello)[0] for _ in range(12)] == [200] * 12
    assert told(box.post("session", hello)) == (429, "TOO-MANY")
    # from wherever it asks
    assert told(site.post("session", hello, address="10.9.9.9")) == (429, "TOO-MANY")


def test_quota_of_one_address(site, box, unlisted):
    site.restart("control")
    hello = box.hello().body
    for _ in range(12):
        box.post("session", hello)
    other = unlisted.hello().body
    assert told(site.post("session", other, address=box.address)) == (429, "TOO-MANY")
    assert site.post("session", other, address="10.9.9.8")[0] == 200


def altered(text: str) -> str:
    """Change one bit in the middle of a base64url field."""
    data = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    data[len(data) // 2] ^= 1
    return base64.urlsafe_b64encode(bytes(data)).rstrip(b"=").decode()


def alter(fields, name):
    if name == "quote":
        fields["quotes"][0]["attest"] = altered(fields["quotes"][0]["attest"])
    elif name == "signature":
        fields["quotes"][0]["signature"] = altered(fields["quotes"][0]["signature"])
    elif name == "pcrs":
        fields["pcrs"]["sha256"][4] = altered(fields["pcrs"]["sha256"][4])
    else:
        fields[name] = altered(fields[name])


ALTERED = {
    "hello": {"MALFORMED", "SESSION-UNKNOWN", "EK-TEMPLATE", "EK-STRUCTURE"},
    "quote": {"QUOTE-SIGNATURE", "QUOTE-STRUCTURE"},
    "signature": {"QUOTE-SIGNATURE", "QUOTE-STRUCTURE"},
    "facts": {"QUOTE-NONCE"},
    "ephemeral": {"QUOTE-NONCE"},
    "device_public": {"QUOTE-NONCE"},
}
JUDGED = {
    "pcrs": {"QUOTE-DIGEST"},
    "event_log": {"LOG-EVENT", "LOG-REPLAY", "LOG-MALFORMED"},
    "device_attest": {"DEVICE-KEY"},
    "device_signature": {"DEVICE-KEY"},
}


@pytest.mark.parametrize("name", sorted(ALTERED))
def test_what_does_not_prove_the_keys_is_refused_unsigned(site, box, name):
    dance = box.begin()
    fields = json.loads(dance.body)
    alter(fields, name)
    status, reason = told(box.post("evidence", json.dumps(fields).encode(), dance.session))
    assert status in (400, 404)
    assert reason in ALTERED[name]
    # nothing was written, so the box itself still gets through
    assert box.read(dance, box.give(dance)).status == "enrolled"


@pytest.mark.parametrize("name", sorted(JUDGED))
def test_what_does_not_hold_is_refused_for_its_reason(site, box, name):
    dance = box.begin()
    fields = json.loads(dance.body)
    alter(fields, name)
    body = json.dumps(fields).encode()
    status, answer = box.post("evidence", body, dance.session)
    assert status == 200
    read = box.read(type(dance)(dance=dance.dance, ephemeral=dance.ephemeral, body=body), answer)
    assert read.status == "refused"
    assert read.reason in JUDGED[name]
    card = site.card(box.id)["card"]
    assert (card["stage"], card["reasons"][0]) == ("refused", read.reason)


def test_a_box_in_software_cannot_open_the_credential(site):
    fake = SoftwareBox()
    body = protocol.make_hello(
        ek_public=fake.ek.encode(),
        ak_public=fake.ak.encode(),
        certificates=(),
        box_nonce=bytes(32),
    ).body
    status, answer = site.post("session", body, address="10.41.7.250")
    assert status == 200, "its keys look like a TPM's"
    session = protocol.read_challenge(answer).session
    assert site.post("evidence", b"{}", session=session, address="10.41.7.250")[0] == 400


def test_an_ek_of_no_template_is_refused_before_anything(site, box):
    start = site.last()
    body = json.loads(box.hello().body)
    body["ek_public"] = body["ak_public"]
    assert told(box.post("session", json.dumps(body).encode())) == (400, "EK-TEMPLATE")
    (event,) = [one for one in site.events(start) if one["kind"] == "hello-refused"]
    assert event["reason"] == "EK-TEMPLATE"


# Trouble


@pytest.mark.parametrize("reason", ["TPM-NONE", "TPM-OWNED", "EK-NONE"])
def test_trouble_is_a_claim_beside_a_sighting(site, box, reason):
    start = site.last()
    facts = json.dumps({"smbios": {"product_serial": "S9"}}).encode()
    body = protocol.encode({"reason": reason, "facts": protocol.b64u(facts)})
    assert box.post("trouble", body) == (202, b"{}")
    (event,) = [one for one in site.events(start) if one["kind"] == "trouble"]
    assert (event["mac"], event["box"], event["reason"]) == (box.mac, None, reason)
    assert event["detail"]["claimed_serial"] == "S9"
    database = site.layout.state / "site/site.db"
    assert row(database, "SELECT reason FROM sightings WHERE mac=?", box.mac) == (reason,)


@pytest.mark.parametrize(
    "facts", [b'{"smbios":[1]}', b'{"smbios":"x"}', b"[]", b"", b'{"smbios":{"product_serial":[]}}']
)
def test_trouble_with_facts_of_any_shape(site, box, facts):
    body = protocol.encode({"reason": "TPM-NONE", "facts": protocol.b64u(facts)})
    assert box.post("trouble", body) == (202, b"{}")


def test_trouble_from_an_address_that_nobody_lent(site):
    start = site.last()
    body = protocol.encode({"reason": "TPM-NONE", "facts": ""})
    assert site.post("trouble", body, address="10.9.9.7") == (202, b"{}")
    (event,) = [one for one in site.events(start) if one["kind"] == "trouble"]
    assert (event["mac"], event["address"]) == (None, "10.9.9.7")


def test_refusals_of_strangers_do_not_fill_the_disk(site, box):
    site.restart("control")
    start = site.last()
    body = json.loads(box.hello().body)
    body["ek_public"] = body["ak_public"]
    for _ in range(20):
        assert told(box.post("session", json.dumps(body).encode())) == (400, "EK-TEMPLATE")
    assert len([one for one in site.events(start) if one["kind"] == "hello-refused"]) == 12


def test_trouble_of_another_reason_and_too_much_of_it(site, box):
    site.restart("control")
    body = protocol.encode({"reason": "BORED", "facts": ""})
    assert told(box.post("trouble", body)) == (400, "MALFORMED")
    body = protocol.encode({"reason": "TPM-NONE", "facts": ""})
    assert [box.post("trouble", body)[0] for _ in range(12)] == [202] * 12
    assert told(box.post("trouble", body)) == (429, "TOO-MANY")


# Malformed bodies


BODIES = st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(method=st.sampled_from(["session", "evidence", "report", "trouble"]), body=BODIES)
def test_no_body_stops_control(site, method, body):
    session = bytes(16) if method in ("evidence", "report") else None
    status, answer = site.post(method, body, session=session, address="10.41.7.251")
    assert status in (400, 404), answer
    assert not site.processes["control"].ended()


FACTS = st.fixed_dictionaries(
    {},
    optional={
        name: st.none() | st.integers() | st.just([1]) | st.just({"mac": 1}) | st.just([{}, 5])
        for name in ("smbios", "nics", "used", "memory_mib", "architecture", "release")
    },
)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(facts=FACTS)
def test_no_facts_stop_control(site, box, facts):
    site.restart("control")
    box.facts = lambda: json.dumps(facts).encode()
    try:
        _, answer = box.attest()
    finally:
        del box.facts
    assert answer.reason in ("FACTS-DIFFER", "HANDED-OVER")


@pytest.mark.parametrize(
    "params",
    [{"after": 10**40}, {"after": 1e300}, {"after": "1"}, {"limit": -1}, {"after": None}, {}],
)
def test_no_number_stops_control(site, params):
    line = dict(params)
    try:
        site.courier("page").ask("control", "events", line)
    except RpcError as error:
        assert error.code == "MALFORMED"
    assert not site.processes["control"].ended()
    assert site.operator("control", "services")["services"]


# Decisions


def test_unlisted_boxes_wait_for_a_person_and_pass_once(site, unlisted):
    start = site.last()
    _, answer = unlisted.attest()
    assert (answer.status, answer.reason, answer.retry_seconds) == ("held", "EK-UNLISTED", 10)
    shown = site.card(unlisted.id)
    assert shown["box"]["stage"] == "held"
    assert [one["code"] for one in shown["findings"]][0] == "EK-UNLISTED"
    approved = site.operator("control", "approve", box=unlisted.id, role="pos", claim=CLAIM)
    assert approved["reasons"] == ["EK-UNLISTED"]
    # keys has its own table: control alone cannot let anybody in
    _, answer = unlisted.attest()
    assert (answer.status, answer.reason) == ("held", "EK-UNLISTED")
    assert kinds(site, start, unlisted)[:3] == ["session", "held", "approved"]
    approved = site.approve(unlisted)
    assert approved.exit_code == 0, approved.output
    receipt = unlisted.enrol()
    assert receipt.status == "ready"
    # used up: the next boot is held again
    fresh(site, unlisted)
    _, answer = unlisted.attest()
    assert (answer.status, answer.reason) == ("held", "EK-UNLISTED")


def test_an_approval_is_bound_to_what_was_measured(site, unlisted):
    _, answer = unlisted.attest()
    assert answer.reason == "EK-UNLISTED"
    assert site.approve(unlisted).exit_code == 0
    # the same set with another firmware (PCR 0): verified as before, but not what was approved
    unlisted.boot(with_another_firmware(site.log_of_boot))
    _, answer = unlisted.attest()
    assert (answer.status, answer.reason) == ("held", "EK-UNLISTED")
    unlisted.boot(site.log_of_boot)
    assert unlisted.enrol().status == "ready"


def with_another_firmware(log):
    import eventlog_forge

    from attest import eventlog

    decoded = eventlog.decode(log)
    extra = eventlog.Event(pcr=0, type=1, digests={"sha256": b"f" * 32}, data=b"f")
    return eventlog_forge.encode(eventlog_forge.with_events(decoded, (extra, *decoded.events[1:])))


def test_only_a_held_box_is_approved(site, box):
    box.attest()
    with pytest.raises(RpcError) as refused:
        site.operator("control", "approve", box=box.id, role="pos")
    assert refused.value.code == "NOT-HELD"
    with pytest.raises(RpcError) as refused:
        site.operator("control", "approve", box="nobody", role="pos")
    assert refused.value.code == "UNKNOWN-BOX"


def test_an_unknown_maker_is_for_the_note_to_release(site, stranger):
    _, answer = stranger.attest()
    assert (answer.status, answer.reason) == ("held", "EK-UNKNOWN")
    with pytest.raises(RpcError) as refused:
        site.operator("control", "approve", box=stranger.id, role="pos")
    assert refused.value.code == "NOT-HELD"
    assert "EK-UNKNOWN" in str(refused.value)


def test_what_the_role_demands(site, box):
    box.memory = 512
    _, answer = box.attest()
    assert (answer.status, answer.reason) == ("held", "FACTS-DIFFER")


def test_a_set_that_this_site_does_not_serve(site, box):
    other = site.build(9)
    box.boot(boot_log(site, other))
    _, answer = box.attest()
    assert (answer.status, answer.reason) == ("refused", "INITRD-UNKNOWN")
    assert answer.retry_seconds == 60


def test_a_second_session_of_one_boot(site, box):
    assert box.enrol().status == "ready"
    # a box that opened its bundle is known by PCR 15; one that did not, by keys' own table
    _, answer = box.attest()
    assert answer.status == "refused"
    box.boot(site.log_of_boot)
    _, answer = box.attest()
    assert answer.status == "enrolled"
    _, answer = box.attest()
    assert (answer.status, answer.reason) == ("refused", "HANDED-OVER")
    shown = site.card(box.id)
    assert shown["card"]["reasons"][0] == "HANDED-OVER"
    assert shown["findings"][0]["code"] == "HANDED-OVER"


def test_a_box_keeps_name_and_address(site, box):
    box.enrol()
    fresh(site, box)
    _, answer = box.attest()
    assert answer.status == "enrolled"
    assert site.card(box.id)["box"]["hostname"] == "pos-01"
    assert site.card(box.id)["box"]["address"] == "10.41.7.20"


# Reports


def test_a_report_of_something_wrong(site, box):
    dance, answer = box.attest()
    opened = box.open(dance, answer)
    body = box.report(dance, opened, checks={"seed-written": "failed"})
    status, receipt = box.post("report", body, dance.session)
    assert (status, box.read(dance, receipt, "receipt").status) == (200, "enrolled")
    assert "seed-written" in site.card(box.id)["card"]["sentence"]


@pytest.mark.parametrize("secrets", [{}, {"pos-api-token": bytes(32)}])
def test_a_report_without_the_secrets_that_were_sealed(site, box, secrets):
    dance, answer = box.attest()
    body = box.report(dance, box.open(dance, answer), secrets=secrets)
    status, receipt = box.post("report", body, dance.session)
    assert (status, box.read(dance, receipt, "receipt").status) == (200, "enrolled")


def test_reports_that_are_refused(site, box):
    dance, answer = box.attest()
    opened = box.open(dance, answer)
    good = box.report(dance, opened)
    forged = json.loads(good)
    forged["signature"] = altered(forged["signature"])
    body = json.dumps(forged).encode()
    assert told(box.post("report", body, dance.session)) == (400, "DEVICE-KEY")
    assert told(box.post("report", b"{}", dance.session)) == (400, "MALFORMED")
    assert told(box.post("report", good, os.urandom(16))) == (404, "SESSION-UNKNOWN")
    status, _ = box.post("report", good, dance.session)
    assert status == 200
    other = box.report(dance, opened, checks={"seed-written": "failed"})
    assert told(box.post("report", other, dance.session)) == (409, "REPLAY")
    assert site.card(box.id)["box"]["stage"] == "ready"


def test_a_report_before_a_hand_over_and_of_an_older_session(site, box, unlisted):
    held, answer = unlisted.attest()
    assert answer.status == "held"
    fake = protocol.Opened(document=b'{"secrets":[]}', content_key=bytes(32))
    body = unlisted.report(held, fake)
    assert told(unlisted.post("report", body, held.session)) == (404, "SESSION-UNKNOWN")
    old, _ = box.attest()
    box.boot(site.log_of_boot)
    box.enrol()
    body = box.report(old, fake)
    assert told(box.post("report", body, old.session)) == (404, "SESSION-UNKNOWN")
    assert site.card(box.id)["box"]["stage"] == "ready"


def test_a_withheld_secret(site, box):
    site.operator("keys", "secret_remove", name="pos-api-token")
    try:
        receipt = box.enrol()
        assert receipt.status == "enrolled"
        assert receipt.withheld == ("pos-api-token",)
        shown = site.card(box.id)
        assert shown["box"]["withheld"][0]["name"] == "pos-api-token"
        assert "pos-api-token" in shown["card"]["sentence"]
    finally:
        site.put_secret()


# Services


def test_a_silent_service_is_shown_as_silent_since_when(site):
    before = time.time()
    site.processes["netboot"].kill()
    try:

        def silent():
            services = site.operator("control", "services")["services"]
            (found,) = [one for one in services if one["name"] == "netboot"]
            return None if found["ok"] else found

        site.until(silent)
        assert before <= silent()["since"] <= time.time()
        since = silent()["since"]
        time.sleep(1.2)
        assert silent()["since"] == since
    finally:
        site.processes["netboot"].start()

    def all_that_run_answer():  # these tests run neither watch nor sync
        services = site.operator("control", "services")["services"]
        return all(one["ok"] for one in services if one["name"] not in ("watch", "sync"))

    site.until(all_that_run_answer)


def test_a_service_that_tells_nonsense_costs_its_own_place_only(site):
    path = site.base / "netboot.jsonl"
    good = path.read_text()
    try:
        path.write_text(good + '{"kind": "x", "at": "soon"}\n')
        site.until(
            lambda: any(
                "netboot" in notice for notice in site.operator("control", "services")["notices"]
            )
        )
        assert not site.processes["control"].ended()
    finally:
        path.write_text(good)

    def all_that_run_answer():  # these tests run neither watch nor sync
        services = site.operator("control", "services")["services"]
        return all(one["ok"] for one in services if one["name"] not in ("watch", "sync"))

    site.until(all_that_run_answer)


# What is taken away


def test_a_revoked_box(site, unlisted, box):
    dance = box.begin()
    answer = box.give(dance)
    session, _ = unlisted.attest()
    held = unlisted.give(session)
    refused = site.operator("control", "refuse", box=unlisted.id)
    assert refused["box"] == unlisted.id
    # neither the old answer nor a new session
    assert told(unlisted.post("evidence", session.body, session.session)) == (403, "REVOKED")
    new = unlisted.begin()
    assert told(unlisted.post("evidence", new.body, new.session)) == (403, "REVOKED")
    with pytest.raises(RpcError) as again:
        site.operator("control", "refuse", box=unlisted.id)
    assert again.value.code == "WRONG-STAGE"
    assert unlisted.site.card(unlisted.id)["card"]["reasons"][0] == "REVOKED"
    assert held and box.give(dance) == answer, "the others notice nothing"
