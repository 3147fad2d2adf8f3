"""Killed at any moment, a service comes back and the same body gets the box through."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3

import pytest
from control_site import carried, row, running
from keys_site import USERS

from bootstrap.io.enroll import ADDRESS_HEADER, MEDIA_TYPE, create_app
from bootstrap.phonehome import from_b64u
from keys.io.rpc import RpcError, RpcUnavailableError

pytestmark = pytest.mark.boots

SESSION = "/v1/sessions/" + "a" * 32


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with running(tmp_path_factory.mktemp("tpms")) as made:
        yield made


@pytest.fixture
def site(world):
    site = world[0]
    if site.posts > 4:
        site.restart("control")
    return site


@pytest.fixture
def box(world, site):
    return world[1][0].boot(site.log_of_boot)


def begin_to_give(site, box, dance):
    """Send evidence and do not wait for the answer."""
    params = carried(dance.body, dance.session, box.address)
    site.courier("enroll").send("control", "evidence", params)


def outcome(site):
    """Give the answer that was waited for: a body, a code, or None when the service is gone."""
    try:
        answer = site.courier("enroll").receive()
    except RpcError as error:
        return error.code
    except RpcUnavailableError:
        return None
    return from_b64u(answer["body"], "body", limit=1 << 20)


def finish(site, box, dance):
    """Send the same body again, open, report; everything that was told must hold."""
    first = box.give(dance)
    answer = box.read(dance, first)
    assert answer.status == "enrolled", answer
    kept = site.layout.state / "keys" / "keys.db"
    stored = row(kept, "SELECT reply FROM handovers WHERE session=?", dance.session)
    assert json.loads(stored[0])["answer"].encode() == first
    body = box.report(dance, box.open(dance, answer))
    status, receipt = box.post("report", body, dance.session)
    assert (status, box.read(dance, receipt, "receipt").status) == (200, "ready")
    numbers = [event["n"] for event in site.events()]
    assert numbers == list(range(1, len(numbers) + 1))
    names = [record["name"] for record in site.plan()["records"]]
    assert "pos-01.shop-0417.example.net" in names
    return first


def stage(site, box):
    found = row(site.layout.state / "site/site.db", "SELECT stage FROM boxes WHERE box=?", box.id)
    return found[0] if found else None


def handed_over(site, dance):
    return row(
        site.layout.state / "keys/keys.db",
        "SELECT 1 FROM handovers WHERE session=?",
        dance.session,
    )


def test_keys_killed_between_the_commit_of_control_and_the_hand_over(site, box):
    dance, start = box.begin(), site.last()
    site.processes["keys"].signal(signal.SIGSTOP)
    begin_to_give(site, box, dance)
    site.until(lambda: stage(site, box) == "verified")
    site.processes["keys"].kill()
    assert outcome(site) == "KEYS-SILENT"
    assert handed_over(site, dance) is None
    # the box is told to try again, and does so while keys is down and when it is back
    begin_to_give(site, box, dance)
    assert outcome(site) == "KEYS-SILENT"
    site.restart("keys")
    finish(site, box, dance)
    # three tries were one session
    assert [one["kind"] for one in site.events(start)].count("session") == 1


def test_control_killed_after_keys_answered(site, box):
    dance = box.begin()
    site.processes["keys"].signal(signal.SIGSTOP)
    begin_to_give(site, box, dance)
    site.until(lambda: stage(site, box) == "verified")
    with_lock = sqlite3.connect(site.layout.state / "site/site.db", isolation_level=None)
    with_lock.execute("BEGIN IMMEDIATE")
    site.processes["keys"].signal(signal.SIGCONT)
    site.until(lambda: handed_over(site, dance))
    assert stage(site, box) == "verified", "control waits for the lock, or the test shows nothing"
    site.processes["control"].kill()
    with_lock.execute("ROLLBACK")
    with_lock.close()
    assert outcome(site) is None
    site.processes["control"].start()
    site.wait_for("control")
    finish(site, box, dance)


def test_control_killed_before_the_receipt_is_kept(site, box):
    dance, answer = box.attest()
    body = box.report(dance, box.open(dance, answer))
    site.processes["keys"].signal(signal.SIGSTOP)
    params = carried(body, dance.session, box.address)
    site.courier("enroll").send("control", "report", params)
    site.processes["control"].kill()
    site.processes["keys"].signal(signal.SIGCONT)
    assert outcome(site) is None
    site.processes["control"].start()
    site.wait_for("control")
    status, receipt = box.post("report", body, dance.session)
    assert (status, box.read(dance, receipt, "receipt").status) == (200, "ready")
    assert box.post("report", body, dance.session) == (200, receipt)


def test_keys_down_when_a_box_reports(site, box):
    dance, answer = box.attest()
    body = box.report(dance, box.open(dance, answer))
    site.processes["keys"].kill()
    with pytest.raises(RpcError) as silent:
        box.post("report", body, dance.session)
    assert silent.value.code == "KEYS-SILENT"
    assert stage(site, box) == "enrolled"
    site.processes["keys"].start()
    site.wait_for("keys")
    status, receipt = box.post("report", body, dance.session)
    assert (status, box.read(dance, receipt, "receipt").status) == (200, "ready")


def test_an_older_session_is_not_taken_up_again(site, box):
    old = box.begin()
    site.processes["keys"].kill()
    begin_to_give(site, box, old)
    assert outcome(site) == "KEYS-SILENT"
    site.processes["keys"].start()
    site.wait_for("keys")
    finish(site, box, box.begin())
    status, body = box.post("evidence", old.body, old.session)
    assert (status, json.loads(body)["reason"]) == (404, "SESSION-UNKNOWN")
    assert stage(site, box) == "ready"


@pytest.mark.parametrize("victim", ["control", "keys"])
def test_killed_at_random(site, box, victim):
    delays = random.Random(417)
    for _ in range(6):
        box.boot(site.log_of_boot)
        dance = box.begin()
        begin_to_give(site, box, dance)
        pause(delays.uniform(0, 0.08))
        site.processes[victim].kill()
        told = outcome(site)
        site.processes[victim].start()
        site.wait_for(victim)
        first = finish(site, box, dance)
        assert told in (None, "KEYS-SILENT", first), "what was acknowledged still holds"
        if victim == "keys":
            site.restart("control")


def pause(seconds):
    signal.sigtimedwait([signal.SIGUSR2], seconds)


def test_a_second_answer_never_comes_of_a_kill(site, box):
    """Killed after the answer left: the next session of the same boot gets nothing."""
    dance = box.begin()
    first = box.give(dance)
    site.restart("control")
    assert box.give(dance) == first
    _, again = box.attest()
    assert (again.status, again.reason) == ("refused", "HANDED-OVER")


def test_sessions_outlive_a_restart(site, box):
    dance = box.begin()
    site.restart("control")
    finish(site, box, dance)


# enroll, as its own user


class Front:
    """The real enroll application in a child under its uid, for one request."""

    def __init__(self, site, path, body, media_type=MEDIA_TYPE, address="10.41.7.101"):
        reader, writer = os.pipe()
        self._reader = reader
        app = create_app(site.layout.socket("control"))
        client = app.test_client()
        client.post("/v1/warm-up")  # what Flask loads late is loaded before the user changes
        self.pid = os.fork()
        if self.pid == 0:
            try:
                uid = USERS["enroll"]
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                headers = {ADDRESS_HEADER: address}
                answer = client.post(path, data=body, headers=headers, content_type=media_type)
                with os.fdopen(writer, "wb") as file:
                    retry = answer.headers.get("Retry-After")
                    file.write(json.dumps([answer.status_code, retry]).encode() + b"\n")
                    file.write(answer.data)
            finally:
                os._exit(0)
        os.close(writer)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        self.result()

    def result(self):
        """Give status, Retry-After and body; None when it died."""
        with os.fdopen(self._reader, "rb") as file:
            line, body = file.readline(), file.read()
        os.waitpid(self.pid, 0)
        return (*json.loads(line), body) if line else None


def test_enroll_carries_a_whole_dance(site, box):
    dance = box.begin()
    status, _, answer = Front(
        site, f"/v1/sessions/{dance.session.hex()}/evidence", dance.body
    ).result()
    assert status == 200
    body = box.report(dance, box.open(dance, box.read(dance, answer)))
    status, _, receipt = Front(site, f"/v1/sessions/{dance.session.hex()}/report", body).result()
    assert (status, box.read(dance, receipt, "receipt").status) == (200, "ready")


def test_enroll_killed_while_control_works(site, box):
    dance = box.begin()
    path = f"/v1/sessions/{dance.session.hex()}/evidence"
    site.processes["control"].signal(signal.SIGSTOP)
    front = Front(site, path, dance.body)
    pause(0.2)
    front.kill()
    site.processes["control"].signal(signal.SIGCONT)
    status, _, answer = Front(site, path, dance.body).result()
    assert status == 200
    assert finish(site, box, dance) == answer


def test_enroll_says_try_again_when_control_is_down(site, box):
    dance = box.begin()
    path = f"/v1/sessions/{dance.session.hex()}/evidence"
    site.processes["control"].kill()
    status, retry, body = Front(site, path, dance.body).result()
    assert (status, retry, json.loads(body)["reason"]) == (503, "2", "SITE-NOT-READY")
    site.processes["control"].start()
    site.wait_for("control")
    site.processes["keys"].kill()
    status, retry, body = Front(site, path, dance.body).result()
    assert (status, retry, json.loads(body)["reason"]) == (503, "5", "SITE-NOT-READY")
    site.processes["keys"].start()
    site.wait_for("keys")
    finish(site, box, dance)


@pytest.mark.parametrize(
    ("path", "body", "media_type", "expected"),
    [
        ("/v1/sessions", b"{}", "application/json", (415, "MALFORMED")),
        ("/v1/sessions", b"x" * 65537, MEDIA_TYPE, (413, "TOO-LARGE")),
        ("/v1/trouble", b"x" * 65537, MEDIA_TYPE, (413, "TOO-LARGE")),
        (f"{SESSION}/report", b"x" * 65537, MEDIA_TYPE, (413, "TOO-LARGE")),
        (
            f"{SESSION}/evidence",
            b"x" * (6 << 20),
            MEDIA_TYPE,
            (400, "MALFORMED"),
        ),
        (
            f"{SESSION}/evidence",
            b"x" * (7 << 20),
            MEDIA_TYPE,
            (413, "TOO-LARGE"),
        ),
        ("/v1/sessions/" + "A" * 32 + "/evidence", b"{}", MEDIA_TYPE, (404, "SESSION-UNKNOWN")),
        ("/v1/sessions/" + "a" * 31 + "/evidence", b"{}", MEDIA_TYPE, (404, "SESSION-UNKNOWN")),
        ("/v1/nothing", b"{}", MEDIA_TYPE, (404, "MALFORMED")),
        ("/v1/sessions", b"{}", MEDIA_TYPE, (400, "MALFORMED")),
    ],
)
def test_enroll_refuses(site, path, body, media_type, expected):
    status, _, answer = Front(site, path, body, media_type).result()
    assert (status, json.loads(answer)["reason"]) == expected
