"""The box agent against a real software TPM and a real HTTPS site on loopback."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from agent_site import CANARY, Authority, Site, long_ago
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from software_tpm import SoftwareTpm
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR

from attest.eventlog import decode
from attest.replay import replay
from bootstrap.agent import runner, ssh
from bootstrap.agent.client import Client
from bootstrap.agent.dance import Place, load_anchor, tell_trouble
from bootstrap.agent.errors import AgentError, Code, PeerError
from bootstrap.agent.protocol import Logs, b64u, read_challenge, unb64u
from bootstrap.agent.simulate import extend_log, run_box
from bootstrap.agent.tpm import Tpm
from bootstrap.agent.tpm_keys import Counters
from bootstrap.box_keys import sshfp
from bootstrap.build.measure import parse_console
from keys import ssh_certificate


@pytest.fixture(scope="module")
def authority():
    return Authority(datetime.now(UTC))


@pytest.fixture(scope="module")
def swtpm(tmp_path_factory):
    tpm = SoftwareTpm(tmp_path_factory.mktemp("tpm"), certificates=True, banks="sha256,sha384")
    yield tpm
    tpm.stop()


@pytest.fixture
def tpm(swtpm):
    """A TPM that was just switched on: PCR 15 is zero again."""
    swtpm.stop()
    swtpm.start()
    return swtpm


@pytest.fixture
def site(tmp_path, authority):
    served = Site(tmp_path, authority)
    yield served
    served.close()


class Box:
    """Runs the agent and keeps what it said."""

    def __init__(self, tpm, site, directory):
        self.tpm, self.site, self.directory = tpm, site, directory
        self.said, self.slept = [], []
        self.anchor = site.authority.write_anchor(directory / "anchor")
        self.seed = directory / "seed"
        self.tcti = f"swtpm:path={tpm.directory / 's'}"

    def run(self, **changes):
        return run_box(
            self.tcti,
            self.site.url,
            self.anchor,
            b"",
            self.seed,
            say=self.said.append,
            sleep=self.slept.append,
            **changes,
        )

    def fails(self, **changes):
        with pytest.raises(AgentError) as failure:
            self.run(**changes)
        return failure.value.code


@pytest.fixture
def box(tpm, site, tmp_path):
    return Box(tpm, site, tmp_path)


def test_enrols_and_reports(box, site):
    outcome = box.run()
    (known,) = site.sessions.values()
    assert (outcome.status, outcome.after, outcome.box) == ("ready", "power-off", str(known["box"]))
    assert set(known["report"]["checks"].values()) == {"ok"}
    assert unb64u(known["report"]["secrets"]["pos-api-token"]) == known["digest"]
    assert (box.seed / "user-data").read_bytes() == b"#cloud-config\n"
    assert (box.seed / "trust/dns.positive").read_text() == (
        "shop-0417.example.net. IN DS 1 13 2 AB\nshop-0417.example.net. IN DS 2 13 2 CD\n"
    )
    secret = box.seed / "secrets/pos-api-token"
    assert secret.read_text() == CANARY
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert "ready as till-1.shop-0417.example.net" in box.said
    assert f"secret pos-api-token sha256-keyed {known['digest'].hex()[:16]}" in box.said
    assert CANARY not in "".join(box.said)


def test_its_ssh_host_key_is_evidence_and_its_private_half_stays(box, site):
    box.run()
    (known,) = site.sessions.values()
    place = box.seed / "ssh" / "ssh_host_ed25519_key"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    blob = known["ssh_host_key"]
    shown = ssh_keygen("-y", "-f", str(place)).split()  # who has the private half has the public
    assert shown[:2] == ["ssh-ed25519", base64.b64encode(blob).decode()]
    assert place.with_suffix(".pub").read_text().split() == shown[:2]
    fingerprint = ssh_keygen("-l", "-f", str(place)).split()[1]
    assert f"ssh host key {fingerprint}, certified by the site" in box.said
    records = ssh_keygen("-r", "till-1", "-f", f"{place}.pub").splitlines()
    assert f"till-1 IN SSHFP {sshfp(blob)}" in records
    private = place.read_bytes()
    assert serialization.load_ssh_private_key(private, None).private_bytes_raw() not in b"".join(
        body for _, body in site.seen
    )
    box.tpm.stop()
    box.tpm.start()
    box.run()
    first, second = site.sessions.values()
    assert first["ssh_host_key"] != second["ssh_host_key"]


def test_the_site_certifies_that_host_key(box, site):
    box.run()
    place = box.seed / "ssh" / "ssh_host_ed25519_key-cert.pub"
    found = ssh_certificate.read(place.read_bytes())
    (known,) = site.sessions.values()
    assert found.public == known["ssh_host_key"]
    assert found.principals == ("till-1.shop-0417.example.net", "till-1")
    hint = (box.seed / "ssh" / "sshd.conf").read_text().splitlines()
    named = dict(line.split() for line in hint)
    assert Path(named["HostCertificate"]) == place
    assert Path(named["HostKey"]) == place.with_name("ssh_host_ed25519_key")


def test_a_site_that_certifies_none(box, site):
    site.ssh_identity = lambda public: {}
    box.run()
    assert not any("certified" in line for line in box.said)
    written = {one.name for one in (box.seed / "ssh").iterdir()}
    assert written == {"ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "sshd.conf"}
    hint = (box.seed / "ssh" / "sshd.conf").read_text()
    assert hint == f"HostKey {box.seed}/ssh/ssh_host_ed25519_key\n"


OTHER_KEY = ssh.make_host_key(bytes(range(36))).public


@pytest.mark.parametrize(
    "twisted",
    [
        lambda made, public: made(OTHER_KEY)["ssh"],
        lambda made, public: made(public)["ssh"].replace("-cert-v01@openssh.com", "", 1),
        lambda made, public: made(public)["ssh"][:60],
        lambda made, public: "ssh-ed25519 " + base64.b64encode(public).decode(),
        lambda made, public: "",
        lambda made, public: "\ud800 x",
    ],
)
def test_a_certificate_that_does_not_fit_is_not_written(box, site, twisted):
    certify = site.ssh_identity
    site.ssh_identity = lambda public: {"ssh": twisted(certify, public)}
    assert box.fails() is Code.HANDOFF
    assert not box.seed.exists()


CERTIFIED = "ssh-ed25519-cert-v01@openssh.com "


@settings(max_examples=100)
@given(st.text() | st.binary().map(lambda made: CERTIFIED + base64.b64encode(made).decode()))
def test_any_text_is_a_certificate_for_this_key_or_refused(line):
    with contextlib.suppress(PeerError):
        ssh.check_certificate(line, OTHER_KEY)


def ssh_keygen(*words):
    command = ["ssh-keygen", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_facts_are_the_hosts_own(box, site):
    box.run(used={"mac": "52:54:00:00:00:01", "address": "10.41.7.20"})
    (known,) = site.sessions.values()
    facts = json.loads(known["facts"])
    assert facts["kernel"] == os.uname().release
    assert facts["used"]["address"] == "10.41.7.20"
    assert facts["memory_mib"] > 100


def test_every_active_bank_is_quoted(box, site):
    box.run()
    (known,) = site.sessions.values()
    assert set(known["pcrs"]) == {"sha256", "sha384"}


def test_same_box_other_attestation_key_at_the_next_session(box, site):
    site.decide = "held"
    first, second = box.run(), box.run()
    one, two = site.sessions.values()
    assert first.box == second.box
    assert one["keys"].ak != two["keys"].ak
    assert one["device"] == two["device"]


def test_held_shows_the_code_that_the_site_derives(box, site):
    from attest.transcript import compare_code

    site.decide = "held"
    outcome = box.run()
    (known,) = site.sessions.values()
    assert outcome.compare_code == compare_code(known["made"].secret, known["x"])
    assert (outcome.reason, outcome.retry_seconds) == ("PCR-MISMATCH", 7)
    assert f"compare code {outcome.compare_code}" in box.said


def test_refused_shows_no_code(box, site):
    site.decide = "refused"
    assert box.run().compare_code == ""
    assert not box.seed.exists()


def test_dates_of_certificates_are_ignored(tpm, tmp_path):
    old = Site(tmp_path, Authority(long_ago()))
    try:
        assert Box(tpm, old, tmp_path).run().status == "ready"
    finally:
        old.close()


def test_another_sites_server_gets_nothing(box, site, tmp_path):
    other = Authority(datetime.now(UTC))
    box.anchor = other.write_anchor(tmp_path / "other")
    assert box.fails() is Code.SITE_UNTRUSTED
    assert site.seen == []


def test_a_server_with_another_name_gets_nothing(box, site):
    (box.anchor / "server-name").write_text("page.shop-0417.example.net\n")
    assert box.fails() is Code.SITE_UNTRUSTED
    assert site.seen == []


def lie(step, **changes):
    """Change what the site signs, or with what."""

    def twist(at_step, things):
        if at_step == step:
            things |= changes

    return twist


def test_an_answer_signed_by_another_key(box, site):
    from cryptography.hazmat.primitives.asymmetric import ec

    site.twist = lie("answer", key=ec.generate_private_key(ec.SECP256R1()))
    assert box.fails() is Code.ANSWER_SIGNATURE
    assert not box.seed.exists()


@pytest.mark.parametrize("step", ["answer", "receipt"])
def test_a_signature_from_another_context(box, site, step):
    site.twist = lie(step, context="receipt" if step == "answer" else "answer")
    assert box.fails() is Code.ANSWER_SIGNATURE


@pytest.mark.parametrize("name", ["session", "x"])
def test_a_signature_from_another_session(box, site, name):
    site.twist = lie("answer", **{name: bytes(16 if name == "session" else 32)})
    assert box.fails() is Code.ANSWER_SIGNATURE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("session", "A" * 22),
        ("transcript", "A" * 43),
        ("box", "6ba7b812-9dad-11d1-80b4-00c04fd430c8"),
    ],
)
def test_a_payload_for_another(box, site, name, value):
    def twist(step, things):
        if step == "answer":
            things["payload"] = things["payload"] | {name: value}

    site.twist = twist
    assert box.fails() is Code.ANSWER_OTHER


def test_the_tls_certificate_signs_no_answer(box, site):
    authority = site.authority
    chain = [authority.server, authority.appliance.certificate]
    site.twist = lie("answer", key=authority.server_key, chain=chain)
    assert box.fails() is Code.ANSWER_CHAIN


def test_a_chain_of_another_root(box, site):
    other = Authority(datetime.now(UTC))
    chain = [other.answer, other.appliance.certificate]
    site.twist = lie("answer", key=other.answer_key, chain=chain)
    assert box.fails() is Code.ANSWER_CHAIN


def test_a_leaf_is_no_authority(box, site):
    """An answer leaf that signs a leaf of its own."""
    from keys import ca

    authority = site.authority
    fake = ca.Issuer(certificate=authority.answer, key=authority.answer_key)
    leaf = ca.issue_answer_leaf(
        fake, authority.server_key.public_key(), site_id="x", issue=authority.issue
    )
    site.twist = lie("answer", key=authority.server_key, chain=[leaf, authority.answer])
    assert box.fails() is Code.ANSWER_CHAIN


def test_a_credential_for_another_key(box, site):
    def twist(step, fields):
        if step == "hello":
            fields["credential_blob"] = fields["credential_blob"][:-4] + "AAAA"

    site.twist = twist
    assert box.fails() is Code.CREDENTIAL
    assert site.posts("evidence") == []


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("reset_count", 1, Code.BUNDLE_OTHER_BOOT),
        ("restart_count", 1, Code.BUNDLE_OTHER_BOOT),
        ("clock_before", -10_000_000, Code.BUNDLE_EXPIRED),
    ],
)
def test_the_tpm_keeps_the_bundle_shut(box, site, name, change, code):
    def twist(step, boot):
        if step == "boot":
            boot[name] = max(0, boot[name] + change)

    site.twist = twist
    assert box.fails() is code
    assert site.posts("report") == []


def test_other_pcrs_keep_the_bundle_shut(box, site):
    def twist(step, boot):
        if step == "boot":
            boot["pcrs"][8] = bytes(31) + b"\x01"

    site.twist = twist
    assert box.fails() is Code.BUNDLE_OTHER_PCRS


def open_again(box, known):
    bundle = copy.copy(known["bundle"])
    counters = Counters(
        **{name: bundle[name] for name in ("reset_count", "restart_count", "clock_before")}
    )
    parts = [unb64u(bundle[name]) for name in ("sealed_public", "duplicate", "seed")]
    with Tpm(box.tcti) as tpm:
        tpm.load_ek()
        with pytest.raises(AgentError) as failure:
            tpm.open_share(*parts, counters)
    return failure.value.code


def test_a_bundle_opens_once(box, site):
    box.run()
    (known,) = site.sessions.values()
    assert open_again(box, known) is Code.BUNDLE_OTHER_PCRS


def test_a_captured_bundle_does_not_open_after_a_restart(box, site):
    box.run()
    (known,) = site.sessions.values()
    box.tpm.stop()
    box.tpm.start()
    assert open_again(box, known) is Code.BUNDLE_OTHER_BOOT


def test_pcr_15_is_extended_in_every_bank(box):
    box.run()
    with Tpm(box.tcti) as tpm:
        for bank in tpm.active_banks():
            assert any(tpm.read_pcrs(bank, (15,))[15])


@pytest.mark.parametrize("step", ["evidence", "report"])
def test_a_lost_reply_is_asked_for_with_the_same_bytes(box, site, step):
    site.before = lambda path, count: "lose" if path.endswith(step) and count == 1 else None
    assert box.run().status == "ready"
    first, second = site.posts(step)
    assert first == second
    assert box.slept == [1]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_site_is_asked_again(box, site, status):
    site.before = lambda path, count: status if count <= 2 and path.endswith("sessions") else None
    assert box.run().status == "ready"
    assert box.slept == [1, 2]


def test_a_client_error_is_not_tried_again(box, site):
    site.before = lambda path, count: 404 if path.endswith("evidence") else None
    assert box.fails() is Code.SITE_SAYS
    assert len(site.posts("evidence")) == 1


def test_nobody_there(box, site):
    site.close()
    assert box.fails() is Code.SITE_UNREACHABLE
    assert box.slept == [1, 2, 4, 8]


@pytest.mark.parametrize("hierarchy", [ESYS_TR.OWNER, ESYS_TR.ENDORSEMENT])
def test_an_owned_tpm_is_told_to_the_site(site, tmp_path, hierarchy):
    tpm = SoftwareTpm(tmp_path / "owned")
    try:
        with tpm.open() as esys:
            esys.hierarchy_change_auth(auth_handle=hierarchy, new_auth="secret")
        box = Box(tpm, site, tmp_path)
        assert box.fails() is Code.TPM_OWNED
        (body,) = site.posts("trouble")
        assert json.loads(body)["reason"] == "TPM-OWNED"
    finally:
        tpm.stop()


def test_a_tpm_without_certificates_is_shown_all_the_same(site, tmp_path):
    tpm = SoftwareTpm(tmp_path / "bare")
    try:
        assert Box(tpm, site, tmp_path).run().status == "ready"
        assert json.loads(site.posts("sessions")[0])["ek_certificates"] == []
    finally:
        tpm.stop()


def test_no_tpm(box, tmp_path):
    box.tcti = f"swtpm:path={tmp_path / 'nothing'}"
    assert box.fails() is Code.TPM_FAILED


def test_what_somebody_left_in_the_tpm_is_thrown_out(tpm):
    esys = ESAPI(f"swtpm:path={tpm.directory / 's'}")
    for _ in range(3):
        esys.create_primary(in_sensitive=None, in_public="ecc")
    # Its own flushes would come too late: the objects stay when the program is gone.
    esys.close()
    with Tpm(f"swtpm:path={tpm.directory / 's'}") as again:
        assert again.load_ek()


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "shop-0418"},
        {"session": "A" * 22},
        {"box": "6ba7b812-9dad-11d1-80b4-00c04fd430c8"},
        {"after": "burn"},
        {"secrets": [{"name": "../../etc/passwd", "value": "AA"}]},
        {"secrets": [{"name": "a", "value": "AA"}, {"name": "a", "value": "AA"}]},
    ],
)
def test_a_hand_off_that_is_not_for_this_box(box, site, changes):
    site.handoff = changes
    assert box.fails() is Code.HANDOFF
    assert not box.seed.exists()


def test_a_hand_off_that_ended_before_it_began(box, site):
    site.handoff = {"issued": 2_000_000_000, "expires": 1_900_000_000}
    assert box.fails() is Code.BUNDLE_EXPIRED


def test_a_certificate_for_another_key_is_reported(box, site):
    from keys import ca

    other = ca.pem([site.authority.answer])
    site.handoff = {"identity": {"chain_pem": other, "not_after": 1}}
    box.run()
    (known,) = site.sessions.values()
    assert known["report"]["checks"]["certificate-matches-key"] == "failed"


def test_withheld_secrets_are_named(box, site):
    site.handoff = {"withheld": [{"name": "wifi-psk", "reason": "EXPIRED", "since": 1}]}
    assert box.run().withheld == ("wifi-psk",)


def test_the_anchor_must_be_whole(box):
    (box.anchor / "site-id").unlink()
    assert box.fails() is Code.ANCHOR


def test_a_url_that_is_not_https(box):
    anchor = load_anchor(box.anchor)
    with pytest.raises(AgentError) as failure:
        Client("http://127.0.0.1:8443", anchor.root_pem, anchor.server_name)
    assert failure.value.code is Code.SITE_UNREACHABLE


def test_server_certificates_last_but_are_not_looked_at(authority):
    """The premise of the test on dates: those certificates had really ended."""
    old = Authority(long_ago())
    assert old.server.not_valid_after_utc < datetime.now(UTC) - timedelta(days=3650)


def test_a_machine_without_a_tpm_is_told_to_the_site(box, site):
    assert not runner.DEVICE.exists(), "this test wants a host without a TPM"
    anchor = load_anchor(box.anchor)
    client = Client(site.url, anchor.root_pem, anchor.server_name)
    place = Place(seed=box.seed, say=box.said.append)
    with pytest.raises(AgentError) as failure:
        runner.enrol_with_tpm(client, anchor, b"{}", Logs(event_log=b""), place)
    tell_trouble(client, failure.value, b"{}")
    (body,) = site.posts("trouble")
    assert json.loads(body)["reason"] == failure.value.code.value == "TPM-NONE"


def test_measurements_on_the_console_can_be_read_back(tpm):
    log = bytes(range(256)) * 9
    with Tpm(f"swtpm:path={tpm.directory / 's'}") as opened:
        text = "\r\n".join(["noise", *runner.measurement_lines(opened, log), "end", ""])
        wanted = opened.read_pcrs("sha384", tuple(range(24)))
    measured = parse_console(text.encode())
    assert measured.log == log
    assert measured.pcrs["sha384"] == wanted
    assert set(measured.pcrs) == {"sha256", "sha384"}


def test_a_log_is_replayed_into_a_simulated_box(box, site):
    log = (Path(__file__).parent / "vectors/eventlog/debian12-tftp.bin").read_bytes()
    with Tpm(box.tcti) as tpm:
        extend_log(tpm, log)
        expected = replay(decode(log), "sha256")
        assert tpm.read_pcrs("sha256", (0, 4, 7, 8, 9)) == {i: expected[i] for i in (0, 4, 7, 8, 9)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)
CHALLENGE = {
    "v": 1,
    "session": "A" * 22,
    "server_nonce": "A" * 43,
    "credential_blob": "AA",
    "encrypted_secret": "AA",
    "pcrs": list(range(16)),
    "seconds": 120,
}


def test_the_challenge_that_is_spoiled_below_is_good():
    assert read_challenge(json.dumps(CHALLENGE).encode()).seconds == 120


@settings(max_examples=150)
@given(name=st.sampled_from(sorted(CHALLENGE)), value=JSON)
def test_any_challenge_is_read_or_refused(name, value):
    without = {key: old for key, old in CHALLENGE.items() if key != name}
    for fields in (CHALLENGE | {name: value}, value, without):
        with contextlib.suppress(AgentError):
            read_challenge(json.dumps(fields).encode())


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_bytes_are_read_in_one_spelling(data):
    assert unb64u(b64u(data)) == data
    for other in (b64u(data) + "=", b64u(data) + "\n", " " + b64u(data)):
        with pytest.raises(AgentError):
            unb64u(other)


@pytest.mark.parametrize("text", ["AB", "A", "A+/A", None, 7, "é"])
def test_other_spellings_are_refused(text):
    with pytest.raises(AgentError):
        unb64u(text)
