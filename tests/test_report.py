"""What a box says of wrapped secrets that it did not open, and who reads it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from control_site import Box, ControlSite, boot_log, make_tpm
from page_site import box_row

from attest.transcript import opened_data, secret_digest
from bootstrap.agent import protocol, wrapped
from bootstrap.enrolment import Stage
from bootstrap.io import site_dir
from bootstrap.io.report import unopened, wanting
from bootstrap.phonehome import Report, b64u
from bootstrap.rows import SessionRow
from bootstrap.views import UNOPENED
from keys.envelope import unb64u
from keys.secret import Secret
from keys.tpm_public import PublicArea
from keys.wrap import CONTEXT, Label, Randomness, WrappedSecret, wrap

NAME = "vault-key"
TABLE = f'\n[[secret]]\nname = "{NAME}"\ntier = "box"\nttl = "1d"\n'
GOOD = dict.fromkeys(
    ("signature", "opened-in-tpm", "certificate-matches-key", "seed-written"), "ok"
)
DIGESTS = {"token": b64u(b"t" * 32), NAME: b64u(b"v" * 32)}
BOTH = {"token": b"t" * 32, NAME: b"v" * 32}
TOKEN = {"token": b"t" * 32}


def session() -> SessionRow:
    return SessionRow(
        session=b"s" * 16,
        box="b",
        at=0.0,
        address="10.41.7.101",
        body_digest=b"",
        transcript=b"",
        device_public=b"",
        digests=DIGESTS,
    )


@pytest.mark.parametrize(
    ("secrets", "checks", "names", "said"),
    [
        (BOTH, {}, {}, None),
        (TOKEN, {f"wrapped:{NAME}": "BUNDLE-CLOSED"}, {NAME: UNOPENED}, "BUNDLE-CLOSED"),
        (TOKEN, {"wrapped": "HANDOFF"}, {NAME: UNOPENED}, "HANDOFF"),
        (TOKEN, {f"wrapped:{NAME}": "<b>\x1b"}, {NAME: UNOPENED}, ""),
        (TOKEN, {}, {NAME: "SECRET-WRAPPED"}, None),
        # what it did open is not withheld, whatever it says
        (BOTH, {f"wrapped:{NAME}": "BUNDLE-CLOSED"}, {}, None),
        # a plain secret is no excuse
        ({NAME: b"v" * 32}, {"wrapped:token": "BUNDLE-CLOSED"}, {}, None),
    ],
)
def test_what_counts_as_not_opened(
    secrets: dict[str, bytes], checks: dict[str, str], names: dict[str, str], said: str | None
) -> None:
    report = Report(checks=GOOD | checks, secrets=secrets, medium_needed=False)
    found = unopened(report, session(), {NAME, "other"}, 7.5)
    assert {one["name"]: one["reason"] for one in found} == names
    assert [one.get("said") for one in found] == ([said] if names else [])
    assert all(one["since"] == 7 for one in found)


def judged(secrets: dict[str, bytes], checks: dict[str, str]) -> str | None:
    report = Report(checks=GOOD | checks, secrets=secrets, medium_needed=False)
    box = box_row(1, Stage.ENROLLED, 0.0)
    box = replace(box, withheld=unopened(report, session(), {NAME}, 0.0))
    return wanting(report, session(), box)


def test_what_is_said_of_it() -> None:
    closed = {f"wrapped:{NAME}": "BUNDLE-CLOSED"}
    assert judged(BOTH, {}) is None
    assert judged(TOKEN, closed) == (
        f"It runs, but was not given: {NAME} (it could not open it, BUNDLE-CLOSED)"
    )
    assert judged(TOKEN, {}) == f"It runs, but was not given: {NAME}"
    broken = "The box does not hold the secrets that were sealed for it"
    assert judged({NAME: b"v" * 32}, closed) == broken
    assert judged({"token": bytes(32)}, closed) == broken
    assert judged({**TOKEN, "more": b"m" * 32}, closed) == broken
    assert judged({**TOKEN, NAME: bytes(32)}, closed) == broken


# at a site, with the agent's own code and a TPM


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlSite, Box]]:
    site = ControlSite()
    path = site.layout.site / "site.toml"
    text = path.read_text().replace(
        'secrets = ["pos-api-token"]', f'secrets = ["pos-api-token", "{NAME}"]', 1
    )
    site_dir.write(path, (text + TABLE).encode())
    tpm = make_tpm(tmp_path_factory.mktemp("tpm") / "a")
    box = Box(site, tpm, mac="52:54:00:00:00:01", address="10.41.7.101")
    try:
        site.trust(tpm)
        site.deliver(box.entry())
        manifest = site.build()
        site.publish(manifest)
        site.start()
        box.boot(boot_log(site, manifest))
        site.lease(box.mac, box.address)
        yield site, box
    finally:
        box.off()
        site.close()


def sealed(site: ControlSite, box: Box, version: int) -> WrappedSecret:
    ek, now = PublicArea.decode(box.ek), int(time.time())
    label = Label(
        site="shop-0417",
        name=NAME,
        version=version,
        serial=box.serial,
        issued=now,
        expires=now + 86_400,
        ek_name=ek.name(),
        key_name=unb64u(site.operator("keys", "wrap_key")["name"]),
    )
    randomness = Randomness.cut(os.urandom(Randomness.SIZE))
    return wrap(label, Secret(b"value of the vault"), ek=ek, randomness=randomness)


def bring(site: ControlSite, one: WrappedSecret) -> None:
    """Sign and import it, as headquarters and the operator do."""
    data = one.encode()
    signature = site_dir.sign_document(site.layout.site, data, one.label.comment(), CONTEXT)
    site.operator("keys", "secret_import", file=b64u(data), sig=b64u(signature))


def enrol(site: ControlSite, box: Box) -> tuple[protocol.Answer, list[str]]:
    """Do the whole dance with what the agent does about wrapped secrets; gives the receipt."""
    said: list[str] = []
    box.boot(box.log)
    dance, answer = box.attest()
    bundle = answer.bundle
    assert bundle is not None and box.tpm is not None, answer
    share = box.tpm.open_share(bundle.sealed_public, bundle.duplicate, bundle.seed, bundle.counters)
    opened = protocol.open_bundle(
        bundle, dance.dance, dance.x, share=share, ephemeral_private=dance.ephemeral
    )
    tried = wrapped.open_all(box.tpm, dance.dance, bundle, opened, said.append)
    box.tpm.extend_opened(opened_data(dance.x))
    held = {one["name"]: unb64u(one["value"]) for one in json.loads(opened.document)["secrets"]}
    held |= {name: one.proof for name, one in tried.opened.items()}
    secrets = {name: secret_digest(opened.content_key, name, one) for name, one in held.items()}
    body = box.report(dance, opened, checks=tried.checks, secrets=secrets)
    status, receipt = box.post("report", body, dance.session)
    assert status == 200, receipt
    return box.read(dance, receipt, "receipt"), said


def shown(site: ControlSite, box: Box) -> dict[str, Any]:
    return site.card(box.id)


def test_a_box_that_cannot_open_one_is_named_with_reason_and_next_step(
    place: tuple[ControlSite, Box],
) -> None:
    site, box = place
    one, other = sealed(site, box, 1), sealed(site, box, 1)
    assert one.sealed is not None and other.sealed is not None
    # a share that fits the label's policy and opens nowhere: the site cannot know before
    bring(site, replace(one, sealed=replace(one.sealed, seed=other.sealed.seed)))
    receipt, said = enrol(site, box)
    assert (receipt.status, receipt.withheld) == ("enrolled", (NAME,))
    (code,) = {line.partition(":")[0] for line in said}
    card = shown(site, box)
    (withheld,) = card["box"]["withheld"]
    assert (withheld["name"], withheld["reason"], withheld["said"]) == (NAME, UNOPENED, code)
    assert "headquarters must wrap this secret for this box again" in withheld["next_step"]
    assert card["card"]["reasons"] == [UNOPENED]
    assert card["card"]["tone"] == "wait"
    assert f"{NAME} (it could not open it, {code})" in card["card"]["sentence"]
    assert card["card"]["next_step"] == withheld["next_step"]
    text = site.doorstep("box", "show", box.id).output
    assert "secrets that it runs without:" in text
    assert f"  {NAME}: {UNOPENED} (its screen says {code})" in text
    assert text.count("wrap this secret for this box again") == 2
    (event,) = [one for one in card["events"] if one["kind"] == "report"]
    assert NAME in event["sentence"]
    # headquarters wraps it again: the next start is well
    bring(site, sealed(site, box, 2))
    receipt, said = enrol(site, box)
    assert (receipt.status, receipt.withheld, said) == ("ready", (), [])
    card = shown(site, box)
    assert (card["box"]["withheld"], card["card"]["reasons"]) == ([], [])
    assert "runs without" not in site.doorstep("box", "show", box.id).output


def test_an_agent_of_before_says_nothing_and_its_start_files_are_to_blame(
    place: tuple[ControlSite, Box],
) -> None:
    site, box = place
    bring(site, sealed(site, box, 3))
    box.boot(box.log)
    assert box.enrol().withheld == (NAME,)
    (withheld,) = shown(site, box)["box"]["withheld"]
    assert withheld["reason"] == "SECRET-WRAPPED"
    assert "start files of this box are too old" in withheld["next_step"]
