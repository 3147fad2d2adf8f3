"""The agent renews: when, with what, and against the real control and keys with a software TPM."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from agent_site import Authority, Site
from attest_box import measure
from click.testing import CliRunner
from control_site import KIOSK, Box, ControlSite, boot_log, make_tpm, patiently, row
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from software_tpm import SoftwareTpm

from bootstrap.agent import renew, seeds
from bootstrap.agent.client import Client
from bootstrap.agent.dance import Kept, Outcome, Place, enrol, load_anchor
from bootstrap.agent.errors import AgentError, BoxError, Code, SiteRefusalError
from bootstrap.agent.protocol import Logs, unb64u
from bootstrap.agent.renew import Schedule
from bootstrap.agent.tpm import Tpm
from bootstrap.cli.main import main

HALF_WEEK = 302_400.0
times = st.floats(0, 1e9, allow_nan=False)
draws = st.floats(0, 1, allow_nan=False)


# When


def test_a_box_renews_a_little_early_by_chance() -> None:
    assert Schedule.after(HALF_WEEK, 100, 0).due == 100 + HALF_WEEK
    assert Schedule.after(HALF_WEEK, 100, 1).due == 100 + 0.8 * HALF_WEEK


@given(times, times, draws)
@settings(max_examples=100)
def test_whoever_looks_late_finds_it_due(now: float, late: float, drawn: float) -> None:
    """A box that was suspended, or whose try took long, skips nothing."""
    schedule = Schedule.after(HALF_WEEK, now, drawn)
    assert not schedule.is_due(schedule.due - 1)
    assert schedule.is_due(schedule.due + late)
    assert not schedule.over().is_due(schedule.due + late)


def test_pauses_double_to_ten_minutes_and_never_reach_the_renewal_itself() -> None:
    schedule, pauses = Schedule.after(HALF_WEEK, 0, 0), []
    for _ in range(7):
        schedule = schedule.later(0, 1)
        pauses.append(schedule.due)
    assert pauses == [30, 60, 120, 240, 480, 600, 600]
    assert Schedule.after(HALF_WEEK, 0, 0).later(0, 0).due == 15
    assert Schedule.after(20, 0, 0).later(0, 1).due == 5
    assert Schedule.after(HALF_WEEK, 0, 0).later(0, 1, least=3600).due == 600


def test_a_box_that_never_renews_is_never_due() -> None:
    assert not Schedule.after(0, 5, 0.5).is_due(1e12)


class Turns:
    """Runs turns of a box that stays, by a clock of the test."""

    def __init__(self, seed: Path, *outcomes: Outcome | AgentError) -> None:
        self.kept = Kept(ak=SimpleNamespace(), host_key=SimpleNamespace(), renew=1000)
        self.staying = renew.begin(self.kept, 0, 1)
        self.seed, self.now, self.outcomes = seed, 0.0, list(outcomes)
        self.said: list[str] = []

    def attempt(self, kept: Kept) -> Outcome:
        found = self.outcomes.pop(0)
        if isinstance(found, AgentError):
            raise found
        return found

    def turn(self, now: float) -> None:
        self.now = now
        self.staying = renew.turn(
            self.staying,
            self.attempt,
            self.seed,
            self.said.append,
            clock=lambda: self.now,
            draw=lambda: 1.0,
        )


def outcome(status: str, kept: Kept | None = None, retry: int = 0) -> Outcome:
    return Outcome(status=status, box="b", session=b"s", retry_seconds=retry, kept=kept)


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    directory = tmp_path / "seed"
    for name in ("secrets", "ssh", "identity"):
        (directory / name).mkdir(parents=True)
    (directory / "secrets/token").write_bytes(b"token of the tills")
    (directory / "secrets/empty").write_bytes(b"")
    (directory / "ssh/ssh_host_ed25519_key").write_bytes(b"private")
    (directory / "identity/chain.pem").write_bytes(b"public")
    return directory


def test_a_renewal_plans_the_next_one_by_what_the_site_says_then(seed: Path) -> None:
    turns = Turns(seed)
    turns.outcomes = [outcome("ready", replace(turns.kept, renew=100))]
    turns.turn(799)
    assert turns.said == []
    turns.turn(800)
    assert turns.staying.schedule == Schedule(every=100, due=880)


def test_a_site_that_is_away_takes_nothing_away(seed: Path) -> None:
    away = BoxError(Code.SITE_UNREACHABLE, "10.41.7.2:8443 does not answer")
    revoked = SiteRefusalError(403, "REVOKED", "this box was taken out of service")
    turns = Turns(seed, away, revoked, away)
    turns.turn(5000)
    turns.turn(5029)
    turns.turn(5030)
    turns.turn(5090)
    assert turns.outcomes == []
    assert turns.staying.schedule.due == 5210
    assert (seed / "secrets/token").read_bytes() == b"token of the tills"
    assert turns.said[1] == (
        "SITE-UNREACHABLE: 10.41.7.2:8443 does not answer; trying again in 30 seconds"
    )


def test_held_takes_nothing_away_and_comes_again_when_told(seed: Path) -> None:
    turns = Turns(seed, outcome("held", retry=200))
    turns.turn(1000)
    assert turns.staying.schedule.due == 1200
    assert (seed / "secrets/token").exists()


def test_a_refusal_wipes_what_is_secret_and_is_the_last(seed: Path) -> None:
    turns = Turns(seed, outcome("refused", retry=60))
    with (seed / "secrets/token").open("rb") as before:
        turns.turn(1000)
        assert before.read() == bytes(18)  # overwritten, not only unlinked
    turns.turn(1e9)
    left = {str(path.relative_to(seed)) for path in seed.rglob("*") if path.is_file()}
    assert left == {"identity/chain.pem"}
    assert turns.said[-1] == "this box is not renewed any more: 3 files with secrets were wiped"


def test_a_reader_finds_the_old_or_the_new_seed_whole(seed: Path) -> None:
    """No moment without a seed, and none with parts of two."""
    done, wrong = threading.Event(), list[set[str] | None]()

    def read() -> None:
        while not done.is_set():
            try:
                inside = os.open(seed, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                wrong.append(None)
                return
            try:
                names = {entry.name for entry in os.scandir(inside)}
            finally:
                os.close(inside)
            # while the one before is removed, who has it open sees it shrink
            if {"old", "new"} <= names:
                wrong.append(names)

    (seed / "old").write_bytes(b"")
    reader = threading.Thread(target=read)
    reader.start()
    for count in range(200):
        fresh = seed.with_name("seed.new")
        fresh.mkdir()
        (fresh / ("new" if count % 2 else "old")).write_bytes(b"")
        (fresh / "secrets").mkdir()
        (fresh / "secrets" / "token").write_bytes(b"t")
        seeds.put(fresh, seed)
    done.set()
    reader.join()
    assert wrong == []
    assert not seed.with_name("seed.new").exists()


# Against a site that answers what the test says


def answering(status: str) -> Callable[[str, dict], None]:
    def twist(step: str, things: dict) -> None:
        if step == "answer":
            things["payload"] = {**things["payload"], "status": status}

    return twist


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[Site, Callable[[Kept | None], Outcome]]]:
    """A site whose answers a test twists, and a box that enrols at it or renews."""
    tpm = SoftwareTpm(tmp_path / "tpm", certificates=True)
    site = Site(tmp_path, Authority(datetime.now(UTC)))
    site.handoff = {"after": "stay", "renew": 60}
    anchor = load_anchor(site.authority.write_anchor(tmp_path / "anchor"))

    def run(kept: Kept | None) -> Outcome:
        client = Client(site.url, anchor.root_pem, anchor.server_name, sleep=lambda _: None)
        place = Place(seed=tmp_path / "seed", say=lambda _: None)
        with patiently(lambda: Tpm(f"swtpm:path={tpm.directory / 's'}")) as opened:
            return enrol(opened, client, anchor, b"{}", Logs(event_log=b""), place, kept)

    yield site, run
    site.close()
    tpm.stop()


def test_an_answer_to_an_enrolment_is_none_to_a_renewal_and_the_other_way_round(
    lab: tuple[Site, Callable[[Kept | None], Outcome]], tmp_path: Path
) -> None:
    site, run = lab
    site.twist = answering("renewed")
    with pytest.raises(AgentError, match="status 'renewed'") as refused:
        run(None)
    assert refused.value.code is Code.ANSWER_MALFORMED
    site.twist = lambda step, things: None
    kept = run(None).kept
    assert kept is not None and kept.renew == 60
    with pytest.raises(AgentError, match="status 'enrolled'"):
        run(kept)  # this site says so to everybody
    site.twist = answering("renewed")
    assert run(kept).kept is not None
    first, second = (json.loads(unb64u(json.loads(body)["hello"])) for body in last_two(site))
    assert ("purpose" in first, second["purpose"]) == (True, "renew")
    assert first["ak_public"] == second["ak_public"]
    assert first["box_nonce"] != second["box_nonce"]


def last_two(site: Site) -> list[bytes]:
    return site.posts("/evidence")[-2:]


def test_a_site_of_before_names_no_time_and_the_box_never_renews(
    lab: tuple[Site, Callable[[Kept | None], Outcome]],
) -> None:
    site, run = lab
    site.handoff = {"after": "stay"}
    kept = run(None).kept
    assert kept is not None
    assert not renew.begin(kept, 0, 0).schedule.is_due(1e12)


# Against control and keys


class Carrier:
    """Speaks for the agent to control, as enroll does."""

    def __init__(self, site: ControlSite, address: str) -> None:
        self.site, self.address = site, address
        self.sent: list[tuple[str, bytes]] = []

    def post(self, path: str, body: bytes, *, pauses: object = ()) -> bytes:
        self.sent.append((path, body))
        parts = path.split("/")
        session = bytes.fromhex(parts[3]) if len(parts) > 3 else None
        method = {"sessions": "session"}.get(parts[-1], parts[-1])
        status, answer = self.site.post(method, body, session=session, address=self.address)
        if status not in (200, 202):
            said = json.loads(answer)
            raise SiteRefusalError(status, said["reason"], said["sentence"])
        return answer


class StayingBox(Box):
    """A box whose agent runs whole: only its firmware, network and clock are the test's."""

    def __init__(self, site: ControlSite, directory: Path, number: int) -> None:
        address = f"10.41.7.10{number}"
        super().__init__(
            site, make_tpm(directory / "tpm"), mac=f"52:54:00:00:00:0{number}", address=address
        )
        self.memory = 16384
        self.seed = directory / "seed"
        self.carrier = Carrier(site, address)
        self.said: list[str] = []
        self.place = Place(seed=self.seed, say=self.said.append)

    def power_on(self) -> StayingBox:
        """Start, and measure what was booted."""
        self.swtpm.stop()
        self.swtpm.start()
        self.log = self.site.log_of_boot
        with self.open() as tpm:
            measure(tpm.esys, self.log)
        return self

    def open(self) -> Tpm:
        return patiently(lambda: Tpm(f"swtpm:path={self.swtpm.directory / 's'}"))

    def session(self, kept: Kept | None = None) -> Outcome:
        with self.open() as tpm:
            made = enrol(
                tpm,
                self.carrier,
                self.anchor,
                self.facts(),
                Logs(event_log=self.log),
                self.place,
                kept,
            )
        self.box_id = made.box
        return made

    def renewed(self, kept: Kept) -> Outcome:
        """Renew, through the turn that the runner takes."""
        outcomes = []

        def attempt(kept: Kept) -> Outcome:
            outcomes.append(self.session(kept))
            return outcomes[-1]

        renew.turn(
            renew.begin(kept, 0, 0),
            attempt,
            self.seed,
            self.said.append,
            clock=lambda: 1e12,
            draw=lambda: 0.5,
        )
        return outcomes[0]

    def token(self) -> bytes:
        return (self.seed / "secrets/pos-api-token").read_bytes()

    def shown(self) -> dict:
        return self.site.card(self.box_id)


STAYS = KIOSK.replace("secrets = []", 'secrets = ["pos-api-token"]').replace(
    'after = "stay"\n', 'after = "stay"\nrenew = "12h"\n'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory):
    site = ControlSite(settings=STAYS)
    boxes = [StayingBox(site, tmp_path_factory.mktemp(f"box{n}"), n) for n in (1, 2)]
    for box in boxes:
        site.trust(box.swtpm)
    site.deliver(*(box.entry(role="kiosk") for box in boxes))
    site.manifest = site.build()
    site.publish(site.manifest)
    site.boxes = boxes
    try:
        site.start()
        site.log_of_boot = boot_log(site, site.manifest)
        for box in boxes:
            site.lease(box.mac, box.address)
        yield site
    finally:
        for box in boxes:
            box.swtpm.stop()
        site.close()


@pytest.fixture
def box(site: ControlSite) -> StayingBox:
    site.restart("control")  # it counts in memory who asked how often
    found = site.boxes[0].power_on()
    found.said.clear()
    return found


def serial(box: StayingBox) -> int:
    pem = (box.seed / "identity/chain.pem").read_bytes()
    return x509.load_pem_x509_certificates(pem)[0].serial_number


@pytest.mark.boots
def test_a_box_renews_twice_with_what_the_site_has_by_then(
    site: ControlSite, box: StayingBox
) -> None:
    first = box.session()
    assert (first.status, first.after) == ("ready", "stay")
    assert first.kept.renew == 43200
    known, ssh = serial(box), (box.seed / "ssh/ssh_host_ed25519_key").read_bytes()
    started = box.shown()["card"]["since"]
    for count, value in enumerate((b"a new token", b"and another"), 1):
        site.put_secret(value)
        outcome = box.renewed(first.kept)
        assert outcome.status == "ready", box.said
        assert box.token() == value
        assert serial(box) != known
        shown = box.shown()
        assert (shown["box"]["stage"], shown["box"]["renewals"]) == ("ready", count)
        assert shown["card"]["since"] == started
    assert (box.seed / "ssh/ssh_host_ed25519_key").read_bytes() == ssh
    kinds = [one["kind"] for one in shown["events"]]
    assert kinds.count("renewed") == 2
    assert kinds.count("enrolled") == 1
    assert "a new token" not in "".join(box.said)
    certificate = dict(shown["card"]["facts"])["Certificate"]
    assert certificate.endswith("UTC, renewed 2 times, last less than 1 h ago")


@pytest.mark.boots
def test_its_verdict_can_be_judged_again(site: ControlSite, box: StayingBox) -> None:
    first = box.session()
    box.renewed(first.kept)
    evidence = Path(box.shown()["evidence"])
    assert json.loads((evidence / "transcript.json").read_text())["purpose"] == "renew"
    said = CliRunner().invoke(main, ["verify", str(evidence)])
    assert (said.exit_code, said.output.splitlines()[0][:8]) == (0, "accepted"), said.output
    result = json.loads((evidence / "result.json").read_text())
    assert result["verdict"] == "accepted", result["findings"]
    expectation = json.loads((evidence / "expectation.json").read_text())
    pcrs = json.loads((evidence / "pcrs.json").read_text())
    assert expectation["record"]["opened"] == {bank: pcrs[bank]["15"] for bank in pcrs}


@pytest.mark.boots
def test_after_a_reset_of_its_tpm_it_is_refused_by_the_counters(
    site: ControlSite, box: StayingBox
) -> None:
    first = box.session()
    box.renewed(first.kept)
    box.power_on()
    outcome = box.renewed(first.kept)
    assert (outcome.status, outcome.reason) == ("refused", "RENEWAL-OTHER-BOOT")
    assert not (box.seed / "secrets/pos-api-token").exists()
    assert box.shown()["box"]["stage"] == "refused"
    # and a start as a whole is an enrolment like any other
    box.power_on()
    assert box.session().status == "ready"


@pytest.mark.boots
def test_a_revoked_box_is_told_so_signed_and_wipes(site: ControlSite, tmp_path: Path) -> None:
    site.restart("control")
    box = site.boxes[1].power_on()
    first = box.session()
    assert box.token()
    assert any(first.fqdn in one["name"] for one in site.plan()["records"])
    refused = site.doorstep("box", "refuse", box.box_id, "--yes")
    assert refused.exit_code == 0, refused.output
    outcome = box.renewed(first.kept)
    assert (outcome.status, outcome.reason) == ("refused", "REVOKED")
    assert not (box.seed / "secrets/pos-api-token").exists()
    assert not (box.seed / "ssh/ssh_host_ed25519_key").exists()
    assert "refused: REVOKED: This box was taken out of service." in box.said
    assert "files with secrets were wiped" in box.said[-1]
    assert box.shown()["box"]["stage"] == "revoked"
    # and its name is gone already
    assert not any(first.fqdn in one["name"] for one in site.plan()["records"])
    query = "SELECT count(*) FROM openings WHERE box=?"
    assert row(site.layout.state / "site/site.db", query, box.box_id)[0] == 1
