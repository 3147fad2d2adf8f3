"""Control and keys as processes: a box is enrolled, and nothing that is wrong passes."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from control_site import Box, ControlSite, boot_log, make_tpm
from cryptography import x509

from bootstrap.agent.errors import PeerError
from bootstrap.phonehome import from_b64u

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
    manifest = site.build()
    site.publish(manifest)
    try:
        site.start()
        site.log_of_boot = boot_log(site, manifest)
        for box in boxes:
            site.lease(box.mac, box.address)
        yield site, boxes
    finally:
        for box in boxes:
            box.off()
        site.close()


@pytest.fixture
def site(world):
    return world[0]


@pytest.fixture
def box(world):
    """The listed box, freshly booted."""
    site, (box, *_) = world
    return box.boot(site.log_of_boot)


def test_the_thin_path(site, box):
    start = site.last()
    dance, answer = box.attest()
    assert answer.status == "enrolled"
    assert site.card(box.id)["box"]["stage"] == "enrolled"
    opened = box.open(dance, answer)
    document = json.loads(opened.document)
    assert document["hostname"] == "pos-01"
    (secret,) = document["secrets"]
    assert from_b64u(secret["value"], "value", limit=100) == b"token of the tills"
    with pytest.raises(PeerError):
        box.open(dance, answer)
    body = box.report(dance, opened)
    status, receipt = box.post("report", body, dance.session)
    assert (status, box.read(dance, receipt, "receipt").status) == (200, "ready")
    assert box.post("report", body, dance.session) == (200, receipt)
    kinds = [event["kind"] for event in site.events(start) if event["box"] == box.id]
    assert [kind for kind in kinds if kind != "handover"] == [
        "session",
        "verified",
        "enrolled",
        "ready",
    ]
