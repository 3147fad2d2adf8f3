"""Headquarters' desk: which requests are an appliance's own, and which lease is signed for them."""

from __future__ import annotations

import json
import struct
from base64 import b32decode, b32encode
from dataclasses import replace

import forge
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from forge import CLOCK, EK_TEMPLATE, Box, private_key, quote_info
from hypothesis import given, settings
from hypothesis import strategies as st

from attest.ak import AK_TEMPLATE, qualified_name, qualified_name_under_ek
from attest.ektemplate import ENDORSEMENT
from attest.wire import Attest, encode_signature
from bootstrap import lease_authority, lease_ledger
from bootstrap.errors import PeerError, SiteError
from bootstrap.lease_desk import (
    HOUR_MS,
    Asked,
    Wanted,
    asked_words,
    check_known,
    check_request,
    draw_up,
    fingerprint,
    lease_words,
    planned_values,
    span,
)
from bootstrap.lease_ledger import Appliance, Ledger
from keys.errors import PeerError as KeysPeerError
from keys.lease import SignedLease, sign
from keys.lease_request import HEADER, MAX_CHALLENGE, MAX_TEXT, QUOTED_PCRS, LeaseRequest
from keys.policy import pcr_digest
from keys.secret import Secret
from keys.tpm_objects import Index
from keys.tpm_public import Attributes, PublicArea

NOW = 1_795_000_000
AUTHORITY = private_key("lease authority")
PCRS = {index: bytes([index]) * 32 for index in QUOTED_PCRS}
WANTED = Wanted(hours=24, starts=3, suspends=1)


def asking(
    label: str = "appliance",
    *,
    ak_template: PublicArea = AK_TEMPLATE,
    quoted: dict[str, dict[int, bytes]] | None = None,
    attest: dict[str, object] | None = None,
    signer: str | None = None,
    signed: dict[str, object] | None = None,
    **changes: object,
) -> str:
    """Write a request as an appliance does; `signed` is what its quote holds instead."""
    box = Box(label=label, ak_template=ak_template)
    blank = LeaseRequest(
        site="shop-0417",
        challenge="7391",
        at=NOW - 60,
        lease_counter=4,
        epoch=2,
        ek=box.ek.encode(),
        ak=box.ak.encode(),
        attest=b"",
        signature=b"",
        escrow=b"e",
        pcrs=PCRS,
    )
    wanted = replace(blank, **changes)  # type: ignore[arg-type]
    fields: dict[str, object] = {
        "qualified_signer": qualified_name(struct.pack(">I", ENDORSEMENT), box.ak.name()),
        "extra_data": replace(wanted, **(signed or {})).quoted(),  # type: ignore[arg-type]
        "clock": CLOCK,
        "firmware_version": 1,
        "attested": quote_info(quoted or {"sha256": PCRS}),
    }
    data = Attest(**(fields | (attest or {}))).encode()  # type: ignore[arg-type]
    key = private_key(f"ak of {signer or label}")
    return replace(wanted, attest=data, signature=encode_signature(forge.sign(key, data))).text()


def known(text: str | None = None, **changes: object) -> Ledger:
    request = LeaseRequest.read(text or asking())
    one = Appliance(site=request.site, ek=request.ek, ak=request.ak, first=NOW)
    return Ledger(appliance=replace(one, **changes))  # type: ignore[arg-type]


def test_a_request_says_what_the_tpm_counts() -> None:
    asked = check_request(asking(), challenge="7391")
    assert asked.counters.clock == CLOCK.clock
    assert (asked.counters.reset_count, asked.counters.restart_count) == (12, 3)
    assert asked.pcrs == PCRS
    said = "\n".join(asked_words(asked, NOW))
    assert "started 12 times" in said
    assert "1 min ago" in said
    assert "'7391'" in said
    assert fingerprint(asked.request) in said


UNRESTRICTED = replace(AK_TEMPLATE, attributes=AK_TEMPLATE.attributes & ~Attributes.RESTRICTED)
FEWER = {index: PCRS[index] for index in range(8)}
LIES = {
    "begins with": "DOORSTEP-LEASE-1:AA",
    "damaged": asking()[:-6],
    "lacks restricted": asking(ak_template=UNRESTRICTED),
    "does not verify": asking(signer="somebody"),
    "extraData differs": asking(signed={"lease_counter": 9}),
    "another selection": asking(quoted={"sha256": FEWER}),
    "do not hash": asking(quoted={"sha256": PCRS | {7: bytes(32)}}),
    "no primary key of the endorsement": asking(
        attest={"qualified_signer": qualified_name(struct.pack(">I", 0x40000001), b"\0\x0b" * 17)}
    ),
}
UNDER_AN_EK = asking(
    attest={
        "qualified_signer": qualified_name_under_ek(
            Box(label="appliance").ek, Box(label="appliance").ak
        )
    }
)


@pytest.mark.parametrize("said", LIES)
def test_a_request_that_no_tpm_quoted_is_refused(said: str) -> None:
    with pytest.raises(PeerError, match=said):
        check_request(LIES[said])


def test_a_key_below_another_is_not_the_appliance_s() -> None:
    """The agent of a box has an AK under its EK: no evidence of a box passes for a request."""
    with pytest.raises(PeerError, match="no primary key"):
        check_request(UNDER_AN_EK)


@pytest.mark.parametrize("name", ["site", "challenge", "at", "lease_counter", "epoch", "escrow"])
def test_every_word_of_a_request_is_quoted(name: str) -> None:
    other = {"site": "shop-9", "challenge": "x", "at": 1, "escrow": b"f"}.get(name, 77)
    with pytest.raises(PeerError, match="extraData"):
        check_request(asking(signed={name: other}))


def test_a_key_that_is_not_its_own_is_quoted_too() -> None:
    other = Box(label="other", ek_template=EK_TEMPLATE).ek.encode()
    with pytest.raises(PeerError, match="extraData"):
        check_request(asking(signed={"ek": other}))


@pytest.mark.parametrize("site", ["", "..", "../../etc", "a/b", "a\0b", "a\n", ".a", "a" * 64])
def test_a_site_that_is_no_site_names_no_directory(site: str) -> None:
    with pytest.raises(PeerError, match="is no site id|damaged"):
        check_request(asking(site=site))


@pytest.mark.parametrize("name", ["site", "challenge"])
@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J"])
def test_words_of_a_request_are_one_line_that_can_be_shown(name: str, text: str) -> None:
    with pytest.raises(PeerError, match="damaged"):
        check_request(asking(**{name: text}))


def test_half_a_surrogate_in_a_request_is_refused() -> None:
    letters = asking(challenge="7391").removeprefix(HEADER)
    fields = b32decode(letters + "=" * (-len(letters) % 8)).replace(b'"7391"', b'"\\ud800"')
    with pytest.raises(PeerError, match="damaged"):
        check_request(HEADER + b32encode(fields).decode().rstrip("="))


def written(**changes: object) -> str:
    """Write a request whose fields are JSON of any kind."""
    letters = asking().removeprefix(HEADER)
    fields = json.loads(b32decode(letters + "=" * (-len(letters) % 8)))
    data = json.dumps(fields | changes).encode()
    return HEADER + b32encode(data).decode().rstrip("=")


@pytest.mark.parametrize("name", ["at", "lease_counter", "epoch"])
@pytest.mark.parametrize("value", [-1, 1 << 63, True, 1.0, "1", None])
def test_what_is_no_number_of_a_request(name: str, value: object) -> None:
    with pytest.raises(KeysPeerError, match="damaged"):
        LeaseRequest.read(written(**{name: value}))


@pytest.mark.parametrize("name", ["site", "challenge"])
@pytest.mark.parametrize("value", ["a" * (MAX_CHALLENGE + 1), 5, None, [], ["a"]])
def test_what_is_no_text_of_a_request(name: str, value: object) -> None:
    with pytest.raises(KeysPeerError, match="damaged"):
        LeaseRequest.read(written(**{name: value}))


def test_the_largest_that_a_request_may_say() -> None:
    found = LeaseRequest.read(
        written(at=(1 << 63) - 1, lease_counter=0, challenge="a" * MAX_CHALLENGE)
    )
    assert (found.at, found.lease_counter) == ((1 << 63) - 1, 0)
    with pytest.raises(KeysPeerError, match="this is no request"):
        LeaseRequest.read(written(more="a" * MAX_TEXT))


def test_the_challenge_of_headquarters_must_be_quoted() -> None:
    with pytest.raises(PeerError, match="not yours"):
        check_request(asking(), challenge="7392")
    assert check_request(asking(challenge=""), challenge="").request.challenge == ""


def test_nobody_else_makes_an_asked() -> None:
    asked = check_request(asking())
    with pytest.raises(TypeError):
        Asked(
            request=asked.request,
            ek_name=asked.ek_name,
            counters=asked.counters,
            pcrs=PCRS,
            maker=None,
        )


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.booleans())
def test_any_text_is_a_request_or_our_error(text: str, is_headed: bool) -> None:
    try:
        check_request("DOORSTEP-LEASE-REQUEST-1:" + text if is_headed else text)
    except PeerError:
        return
    raise AssertionError("no text of that length is a request")


# what was recorded


@pytest.mark.parametrize(
    ("ledger", "said"),
    [
        (known(site="shop-2"), "belongs to the site shop-2"),
        (known(ak=Box(label="other").ak.encode()), "not those recorded"),
        (known(ek=Box(label="other").ek.encode()), "not those recorded"),
        (known().after(5), "has counted to 5 before"),
    ],
)
def test_another_appliance_gets_no_lease(ledger: Ledger, said: str) -> None:
    with pytest.raises(PeerError, match=said):
        draw_up(check_request(asking()), WANTED, ledger, NOW)


def test_a_lease_goes_on_from_what_the_tpm_counts() -> None:
    asked = check_request(asking())
    lease = draw_up(asked, WANTED, known(), NOW)
    terms = lease.terms
    assert terms.clock_before == CLOCK.clock + 24 * HOUR_MS
    assert (terms.resets_at_most, terms.restarts_at_most) == (12 + 3, 3 + 1)
    assert terms.counter == 5
    assert (terms.pcrs, terms.pcr_digest) == (frozenset(), bytes(32))
    assert (lease.issued, lease.ends) == (NOW, NOW + 86400)
    said = " ".join(lease_words(lease, WANTED))
    assert "lease 5 of shop-0417: 1 d switched on" in said
    assert "3 starts and 1 suspend more" in said


def test_a_lease_binds_the_software_of_now_or_of_a_plan() -> None:
    asked = check_request(asking())
    now = replace(WANTED, pcrs=frozenset({0, 7}))
    terms = draw_up(asked, now, known(), NOW).terms
    assert terms.pcr_digest == pcr_digest({0: PCRS[0], 7: PCRS[7]})
    later = replace(now, planned={0: PCRS[0], 7: bytes(32)})
    planned = draw_up(asked, later, known(), NOW).terms
    assert planned.pcr_digest == pcr_digest({0: PCRS[0], 7: bytes(32)})
    assert "as planned" in " ".join(lease_words(draw_up(asked, later, known(), NOW), later))
    with pytest.raises(PeerError, match="what PCR 7 holds"):
        draw_up(asked, replace(later, planned={0: PCRS[0]}), known(), NOW)


@pytest.mark.parametrize(
    "changes", [{"hours": 0}, {"hours": 10**6}, {"starts": -1}, {"suspends": -1}]
)
def test_what_no_lease_says_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(PeerError):
        draw_up(check_request(asking()), replace(WANTED, **changes), known(), NOW)


def issued(ledger: Ledger, wanted: Wanted) -> Ledger:
    asked = check_request(asking())
    lease = draw_up(asked, wanted, ledger, NOW)
    return ledger.after(4, sign(lease, AUTHORITY, Index.LEASE.nv_name))


def test_a_number_is_given_once_but_for_other_software() -> None:
    once = issued(known(), replace(WANTED, pcrs=frozenset({7})))
    for again in (
        WANTED,
        replace(WANTED, pcrs=frozenset({7})),
        replace(WANTED, hours=9, pcrs=frozenset({7})),
    ):
        with pytest.raises(PeerError, match="lease 5 of this appliance was issued already"):
            issued(once, again)
    planned = replace(WANTED, pcrs=frozenset({7}), planned={7: bytes(32)})
    assert len(issued(once, planned).of_counter(5)) == 2
    # one for any software leaves no room beside it
    with pytest.raises(PeerError, match="issued already"):
        issued(issued(known(), WANTED), planned)


def test_the_next_number_is_free_once_the_appliance_counted_on() -> None:
    ledger = issued(known(), WANTED)
    asked = check_request(asking(lease_counter=5))
    check_known(asked, ledger)
    assert draw_up(asked, WANTED, ledger, NOW).terms.counter == 6


# the plan


@pytest.mark.parametrize(
    ("counter", "epoch", "said"),
    [
        (5, 2, []),
        (4, 2, []),
        (6, 2, ["it counts leases to 6, the last one known here is 5"]),
        (5, 3, ["its revocations went from 2 to 3"]),
        (9, 7, ["it counts leases to 9", "its revocations went from 2 to 7"]),
    ],
)
def test_what_the_ledger_does_not_know_is_said(counter: int, epoch: int, said: list[str]) -> None:
    """Somebody else issued, or the ledger is an old copy: the appliance is ahead of it."""
    ledger = issued(known(), WANTED).after(4, epoch=2)
    words = ledger.unknown_words(counter, epoch)
    assert len(words) == len(said)
    assert all(part in word for part, word in zip(said, words, strict=True))
    # what was seen there before, after `lease end`, is known
    assert ledger.after(9).unknown_words(9, 2) == ()
    # of an appliance that never had a lease from here nothing is known
    assert known().unknown_words(counter, epoch) == ()


def test_a_plan_is_lines_or_the_request_of_a_twin() -> None:
    assert planned_values(f"sha256:\n  0 : 0x{'AB' * 32}\n  7: {'00' * 32}\n") == {
        0: b"\xab" * 32,
        7: bytes(32),
    }
    assert planned_values(asking("twin")) == PCRS
    for wrong in ("7: 00", f"16: {'00' * 32}", f"7: {'00' * 32}\n7: {'00' * 32}", "sha1:"):
        with pytest.raises(PeerError, match="lines like"):
            planned_values(wrong)


# ledger and key


def test_a_ledger_is_read_again_and_nobody_else_writes_it() -> None:
    ledger = issued(known(), WANTED)
    data = ledger.encode(AUTHORITY)
    assert lease_ledger.decode(data, AUTHORITY.public_key()) == ledger
    assert SignedLease.read(ledger.leases[0].text).lease.terms.counter == 5
    with pytest.raises(SiteError, match="not sealed"):
        lease_ledger.decode(data.replace(b"shop-0417", b"shop-0418"), AUTHORITY.public_key())
    with pytest.raises(SiteError, match="not sealed"):
        lease_ledger.decode(data, ec.generate_private_key(ec.SECP256R1()).public_key())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_ledger_or_our_error(data: bytes) -> None:
    with pytest.raises(SiteError):
        lease_ledger.decode(data, AUTHORITY.public_key())


def test_the_authority_s_key_opens_with_its_passphrase_alone() -> None:
    phrase = Secret(b"correct horse battery")
    data = lease_authority.lock(AUTHORITY, phrase, bytes(range(28)))
    opened = lease_authority.unlock(data, phrase)
    assert opened.private_numbers() == AUTHORITY.private_numbers()
    assert b"PRIVATE" not in data
    with pytest.raises(SiteError, match="wrong passphrase"):
        lease_authority.unlock(data, Secret(b"correct horse battery."))
    with pytest.raises(SiteError, match="too short"):
        lease_authority.lock(AUTHORITY, Secret(b"short"), bytes(28))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_key_file_or_our_error(data: bytes) -> None:
    with pytest.raises(SiteError, match="damaged"):
        lease_authority.unlock(data, Secret(b"correct horse battery"))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "less than a minute"), (90, "1 min"), (3_660, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_times_are_written_in_two_units(seconds: float, said: str) -> None:
    assert span(seconds) == said
