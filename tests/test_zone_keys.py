"""Keys that sign zones: rolled weekly by pre-publication, kept while `keys` is silent."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keys.envelope import b64u, unb64u
from keys.io.rpc import RpcUnavailableError
from keys.zone_keys import KEYS_VALID_SECONDS, Span, sign_keys
from netboot.errors import SiteError
from netboot.io.zone_keys import REFRESH_SECONDS, ZoneKeyFile
from netboot.names import labels, wire
from netboot.zone_rolls import PUBLISH_SECONDS, RETIRE_SECONDS, ROLL_SECONDS, DrawnKey, roll

NOW = 1_795_000_000.0
ZONE, OTHER = labels("shop-0417.example.net"), labels("7.41.10.in-addr.arpa")


def key(created: float) -> DrawnKey:
    return DrawnKey(private=b"%d" % created, created=created)


def test_a_key_is_published_before_it_signs_and_after() -> None:
    assert roll([], NOW).draw
    old = key(NOW)
    first = roll([old], NOW)
    assert (first.published, first.signing, first.draw) == ((old,), old, False)
    week = NOW + ROLL_SECONDS
    assert roll([old], week).draw
    new = key(week)
    for after, published, signing in (
        (0, (old, new), old),
        (PUBLISH_SECONDS - 1, (old, new), old),
        (PUBLISH_SECONDS, (old, new), new),
        (PUBLISH_SECONDS + RETIRE_SECONDS - 1, (old, new), new),
        (PUBLISH_SECONDS + RETIRE_SECONDS, (new,), new),
    ):
        found = roll([new, old], week + after)
        assert (found.published, found.signing, found.draw) == (published, signing, False)
    assert roll([old, new], NOW - 9e6).signing == old  # the clock was set back


class Keys:
    """What `keys` does for zones, with a clock that the test sets."""

    def __init__(self) -> None:
        self.ksk = ec.generate_private_key(ec.SECP256R1())
        self.now, self.calls, self.is_silent = NOW, 0, False

    def sign(self, zones: list[str], points: list[str]) -> dict[str, object]:
        self.calls += 1
        if self.is_silent:
            raise RpcUnavailableError("no answer")
        span = Span.starting(self.now, KEYS_VALID_SECONDS)
        signed = {}
        for zone in zones:
            found = sign_keys(wire(labels(zone)), [self.ksk], list(map(unb64u, points)), span)
            signed[zone] = {"dnskeys": [*map(b64u, found[0])], "rrsigs": [*map(b64u, found[1])]}
        return {"signed": signed, "expires": span.expiration}


def test_signed_once_kept_on_disk_and_asked_again_in_time(tmp_path: Path) -> None:
    keys, path = Keys(), tmp_path / "zone-keys.json"
    file = ZoneKeyFile(path, keys.sign)
    first = file.refresh([ZONE, OTHER], NOW)
    assert set(first) == {ZONE, OTHER} and keys.calls == 1
    assert path.stat().st_mode & 0o777 == 0o600
    again = ZoneKeyFile(path, keys.sign)
    kept = again.refresh([OTHER, ZONE], NOW + 60)
    assert keys.calls == 1
    assert kept[ZONE].dnskeys == first[ZONE].dnskeys
    later = NOW + KEYS_VALID_SECONDS - REFRESH_SECONDS + 1
    keys.now = later
    again.refresh([ZONE, OTHER], later)
    assert keys.calls == 2
    again.refresh([ZONE], later)  # a zone went: its set is of no use to anybody
    assert keys.calls == 3


def test_while_keys_is_silent_what_it_signed_goes_on(tmp_path: Path) -> None:
    keys = Keys()
    file = ZoneKeyFile(tmp_path / "zone-keys.json", keys.sign)
    file.refresh([ZONE], NOW)
    keys.is_silent = True
    week = NOW + ROLL_SECONDS
    for now in (week, week + PUBLISH_SECONDS, week + 86400):
        found = file.refresh([ZONE, OTHER], now)
        assert set(found) == {ZONE}  # the old key signs on; what was never signed stays unsigned
        assert file.trouble is not None
    keys.is_silent, keys.now = False, week + 86400
    found = file.refresh([ZONE, OTHER], week + 86400)
    assert set(found) == {ZONE, OTHER} and file.trouble is None


def test_a_key_that_never_was_signed_never_signs(tmp_path: Path) -> None:
    keys = Keys()
    keys.is_silent = True
    file = ZoneKeyFile(tmp_path / "zone-keys.json", keys.sign)
    assert file.refresh([ZONE], NOW) == {}


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"form": "doorstep/zone-keys/v1"}'])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "zone-keys.json"
    path.write_bytes(content)
    with pytest.raises(SiteError, match="remove it"):
        ZoneKeyFile(path, Keys().sign)
