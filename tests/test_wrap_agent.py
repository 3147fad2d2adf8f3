"""The agent's dance with wrapped secrets: what opens is kept, what does not stops nothing."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from agent_site import CANARY, Authority, Site
from cryptography.hazmat.primitives.asymmetric import ec
from software_tpm import SoftwareTpm
from wrap_lab import NAME, VALUE, State, item

from bootstrap.agent.dance import Outcome
from bootstrap.agent.errors import AgentError, Code
from bootstrap.agent.simulate import run_box
from bootstrap.agent.tpm import Tpm
from keys.envelope import Boot, b64u, secret_digest
from keys.secret import Secret
from keys.wrap import WrappedSecret

KEY = ec.generate_private_key(ec.SECP256R1())
WITHHELD = [{"name": NAME, "reason": "SECRET-WRAPPED", "since": None}]
Lie = Callable[[dict[str, Any], State, WrappedSecret], dict[str, Any]]


@pytest.fixture(scope="module")
def swtpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareTpm]:
    tpm = SoftwareTpm(tmp_path_factory.mktemp("tpm"))
    yield tpm
    tpm.stop()


class Dance:
    """One box and one site that passes a wrapped secret on."""

    def __init__(self, tpm: SoftwareTpm, directory: Path) -> None:
        self.directory, self.said = directory, list[str]()
        self.tcti = f"swtpm:path={tpm.directory / 's'}"
        self.site = Site(directory, Authority(datetime.now(UTC)))
        self.anchor = self.site.authority.write_anchor(directory / "anchor")
        self.seed = directory / "seed"
        self.wrapped: WrappedSecret | None = None

    def run(self, *lies: Lie, field: str = "wrapped") -> Outcome:
        """Enrol; each lie makes one item of the hand-off, without any there is one true item."""
        items: list[dict[str, Any]] = []
        self.site.handoff = {field: items, "withheld": WITHHELD}

        def fill(step: str, boot: dict[str, Any]) -> None:
            if step != "boot":
                return
            (known,) = self.site.sessions.values()
            now = State(ek=known["keys"].ek, boot=Boot(**boot))
            self.wrapped = now.wrapped(now.label(KEY))
            true = item(self.wrapped, KEY, now.boot)
            items.extend(lie(true, now, self.wrapped) for lie in lies)
            if not lies:
                items.append(true)

        self.site.twist = fill
        return run_box(
            self.tcti,
            self.site.url,
            self.anchor,
            b"",
            self.seed,
            say=self.said.append,
            sleep=lambda seconds: None,
        )

    @property
    def checks(self) -> dict[str, str]:
        (known,) = self.site.sessions.values()
        return {n: one for n, one in known["report"]["checks"].items() if one != "ok"}

    @property
    def reported(self) -> dict[str, str]:
        (known,) = self.site.sessions.values()
        return dict(known["report"]["secrets"])


@pytest.fixture
def dance(swtpm: SoftwareTpm, tmp_path: Path) -> Iterator[Dance]:
    swtpm.stop()
    swtpm.start()
    one = Dance(swtpm, tmp_path)
    yield one
    one.site.close()


def test_it_is_opened_written_and_reported_by_its_proof(dance: Dance) -> None:
    outcome = dance.run()
    assert (outcome.status, outcome.withheld) == ("ready", ())
    path = dance.seed / "secrets" / NAME
    assert path.read_bytes() == VALUE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (dance.seed / "secrets/pos-api-token").read_text() == CANARY
    assert set(dance.reported) == {"pos-api-token", NAME}
    assert any(line.startswith(f"secret {NAME} sha256-keyed ") for line in dance.said)
    assert VALUE.decode() not in "".join(dance.said)
    sent = b"".join(body for _, body in dance.site.seen)
    assert VALUE not in sent and b64u(VALUE).encode() not in sent


def test_the_report_shows_the_site_that_the_share_was_opened(dance: Dance) -> None:
    dance.run()
    (known,) = dance.site.sessions.values()
    assert dance.wrapped is not None and dance.wrapped.sealed is not None
    assert dance.reported[NAME] == b64u(
        secret_digest(known["content_key"], NAME, Secret(dance.wrapped.sealed.proof))
    )


LIES: dict[str, Lie] = {
    "another-boot": lambda true, now, one: item(
        one, KEY, replace(now.boot, reset_count=now.boot.reset_count + 1)
    ),
    "another-key": lambda true, now, one: item(
        one, ec.generate_private_key(ec.SECP256R1()), now.boot
    ),
    "another-name": lambda true, now, one: true | {"name": "wifi-psk"},
    "another-version": lambda true, now, one: true | {"version": 2},
    "a-changed-value": lambda true, now, one: true | {"ciphertext": b64u(bytes(40))},
    "no-key": lambda true, now, one: true | {"key": ""},
    "no-share": lambda true, now, one: true | {"duplicate": b64u(b"\0\1\0")},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_one_that_does_not_open_is_withheld_and_stops_nothing(dance: Dance, lie: Lie) -> None:
    outcome = dance.run(lie)
    assert outcome.withheld == (NAME,)
    assert [path.name for path in (dance.seed / "secrets").iterdir()] == ["pos-api-token"]
    assert set(dance.reported) == {"pos-api-token"}
    assert f"secret {NAME} was withheld" in dance.said
    ((name, code),) = dance.checks.items()
    assert name in (f"wrapped:{NAME}", "wrapped:wifi-psk")
    assert any(line.startswith(f"{code}: secret ") for line in dance.said)
    assert any(line.startswith("BUNDLE-") and ": secret " in line for line in dance.said)
    with Tpm(dance.tcti) as tpm:
        assert any(tpm.read_pcrs("sha256", (15,))[15]), "the boot is used up all the same"


def test_a_good_one_beside_a_bad_one_is_kept(dance: Dance) -> None:
    outcome = dance.run(LIES["another-name"], lambda true, now, one: true)
    assert outcome.withheld == ()
    assert (dance.seed / "secrets" / NAME).read_bytes() == VALUE


def test_an_agent_that_does_not_know_the_field_says_that_it_was_withheld(dance: Dance) -> None:
    """N-1: to this agent another field is what `wrapped` is to one of before."""
    outcome = dance.run(field="of-a-later-release")
    assert outcome.withheld == (NAME,)
    assert f"secret {NAME} was withheld" in dance.said
    assert set(dance.reported) == {"pos-api-token"}


def test_what_is_no_list_of_wrapped_secrets_is_told(dance: Dance) -> None:
    assert dance.run(lambda true, now, one: {"name": NAME}).withheld == (NAME,)
    assert any(line.startswith("ANSWER-MALFORMED") for line in dance.said)


def test_a_wrapped_secret_takes_no_other_ones_place(dance: Dance) -> None:
    def lie(true: dict[str, Any], now: State, one: WrappedSecret) -> dict[str, Any]:
        return item(now.wrapped(now.label(KEY, name="pos-api-token")), KEY, now.boot)

    with pytest.raises(AgentError) as failure:
        dance.run(lie)
    assert failure.value.code is Code.HANDOFF
    assert not dance.seed.exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", ""])
def test_a_name_that_is_no_file_name_is_not_written(dance: Dance, name: str) -> None:
    def lie(true: dict[str, Any], now: State, one: WrappedSecret) -> dict[str, Any]:
        return item(now.wrapped(now.label(KEY, name=name)), KEY, now.boot)

    with pytest.raises(AgentError) as failure:
        dance.run(lie)
    assert failure.value.code is Code.HANDOFF
    assert not dance.seed.exists()
