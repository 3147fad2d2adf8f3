"""`doorstep netboot run` from outside: a table of conversations with the real process.

What public DHCPv4 suites ask (ISC Forge and Kea's documentation for what the RFCs leave open), said
in site files and asked by packets of scapy. A case has a network of its own, 10.77.N.0/24, behind
the relay or on a wire of its own; `@50` is 10.77.N.50, and A, B, C are hardware addresses that no
other case has. RFC 2131, 2132, 3046, 3396, 3397, 3442, 3527, 4039, 4361, 4702, 5107, 6842.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import outside_cases
import outside_levels
import outside_packets
import outside_places
import pytest
from outside_cases import Case, Say, ask
from outside_lab import EVERYBODY, US, Frame, Lab, direct, message, packed, relayed
from outside_options import OPTIONS

pytestmark = pytest.mark.boots

CASES = (
    *outside_cases.CASES,
    *outside_levels.CASES,
    *outside_places.CASES,
    *outside_packets.CASES,
)
_DIRECT = [case for case in CASES if case.direct]
_KEYS = {51: 4, 58: 4, 59: 4}


class Place:
    """Where one case is: its network, its wire, and its tokens' values."""

    def __init__(self, case: Case) -> None:
        self.number = CASES.index(case)
        self.wire = 1 + _DIRECT.index(case) if case.direct else 0

    def mac(self, letter: str) -> bytes:
        return bytes((2, 0x0A, 0, self.number, 0, ord(letter)))

    def text(self, said: str) -> str:
        """Put the tokens' values in: `@50`, `%A` and `%n` and `%dev`."""
        for letter in "ABCD":
            said = said.replace(f"%{letter}", self.mac(letter).hex(":"))
        said = said.replace("%M", self.mac("A")[:4].hex(":"))
        said = said.replace("%n", str(self.number)).replace("%dev", f"n{self.wire}")
        return said.replace("@", f"10.77.{self.number}.")

    def value(self, said: Any) -> Any:
        network = packed(self.text("@0"))
        if said in ("%network", "%link"):
            return network if said == "%network" else b"\x05\x04" + network
        if isinstance(said, bytes):
            return said.replace(b"%n", str(self.number).encode())
        if isinstance(said, str):
            return self.text(said)
        return type(said)(map(self.value, said)) if isinstance(said, tuple | list) else said

    def site(self, case: Case) -> str:
        head = f"""
[[subnet]]
name = "case{self.number}"
interface = "n{self.wire}"
network = "@0/24"
appliance = "{"@2" if case.direct else US}"
"""
        if "\nlease =" not in f"\n{case.subnet}":
            head += 'lease = "4000s"\n'
        if not case.direct:
            head += "relayed = true\n"
        if "pool =" not in case.subnet:
            head += 'pool = "@50-@50"\n'
        return self.text(head + case.subnet + "\n" + case.site + "\n")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("outside"), 1 + len(_DIRECT))
    try:
        places = [(Place(case), case) for case in CASES]
        for place, case in places:
            if case.direct:
                for end, wire, given in (
                    (made.srv, f"n{place.wire}", ("@2/24", *case.more)),
                    (made.cli, f"f{place.wire}", case.far),
                ):
                    words = [f"address add {place.text(one)} dev {wire}" for one in given]
                    made.batch(end, words)
        options = "\n".join(f"{key} = {said}" for key, said, _, _ in OPTIONS)
        site = f"""
[dhcp]
quarantine = "2s"
options = {{ cookie-servers = "10.1.1.1" }}
[[subnet]]
name = "options"
interface = "n0"
network = "10.77.250.0/24"
appliance = "{US}"
relayed = true
pool = "10.77.250.100-10.77.250.110"
[subnet.options]
{options}
"""
        made.start(site + "".join(place.site(case) for place, case in places))
        yield made
    finally:
        made.close()


def packet(place: Place, say: Say, lab: Lab, is_direct: bool) -> Any:
    mac = say.mac if isinstance(say.mac, bytes) else place.mac(say.mac)
    header = {key: place.value(value) for key, value in say.header.items()}
    options = [
        (entry[0], *map(place.value, entry[1:])) if isinstance(entry, tuple) else entry
        for entry in say.options
    ]
    sent_by = mac if any(mac) else b"\x02\x0a\xff\xff\xff\xff"
    if is_direct:
        source = header.pop("from", "0.0.0.0")
        target = header.pop("to", EVERYBODY)
        payload = say.raw(message(say.kind, mac, *options, **header))
        return direct(payload, sent_by, source, target)
    header = {"giaddr": place.text("@1"), "hops": 1} | header
    payload = say.raw(message(say.kind, mac, *options, **header))
    return relayed(payload, lab, header["giaddr"])


def found(frame: Frame, key: Any) -> Any:
    """Look up what a case asks about: a field, an option's bytes, or how the reply was sent."""
    if isinstance(key, int):
        return frame.options.get(key)
    special = {
        "to": (frame.destination, frame.port),
        "frame": frame.target,
        "last": list(frame.options)[-1],
        "order": tuple(frame.options),
        "size": len(frame.data),
        "fits": next(size for size in (300, 548, 1472, 65535) if len(frame.data) <= size),
        "kind": frame.kind,
        "source": frame.source,
    }
    if key in special:
        return special[key]
    value = getattr(frame.fields, key)
    if isinstance(value, bytes):
        return value.rstrip(b"\0") if key in ("sname", "file") else value
    return int(value) if key == "flags" else value


def wanted(place: Place, key: Any, value: Any) -> Any:
    if key == "frame" and value == "%A":
        return place.mac("A")
    value = place.value(value)
    if isinstance(key, int) and isinstance(value, str):
        return b"".join(map(packed, value.split()))
    if isinstance(key, int) and isinstance(value, int):
        return value.to_bytes(_KEYS.get(key, 1), "big")
    return value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_server_answers_as_the_standards_say(lab: Lab, case: Case) -> None:
    place = Place(case)
    for number, say in enumerate(case.says):
        sent = packet(place, say, lab, case.direct)
        heard = lab.ask(place.wire, sent, is_answered=say.reply is not None and not say.eventually)
        end = time.monotonic() + 15
        while heard is None and say.eventually and time.monotonic() < end:
            heard = lab.ask(place.wire, sent, is_answered=False)
        where = f"packet {number}"
        if say.reply is None:
            assert heard is None, f"{where}: {heard.kind} {heard.fields.yiaddr}"
            continue
        assert heard is not None, f"{where}: no reply"
        assert heard.kind == say.reply, f"{where}: {heard.kind} {heard.options.get(56)!r}"
        for key, value in say.has.items():
            assert found(heard, key) == wanted(place, key, value), f"{where}: {key}"
        for code in say.lacks:
            assert code not in heard.options, f"{where}: option {code} is there"
    left = lab.silence(place.wire)
    assert left is None, f"one reply too many: {left.kind}"
    lab.said()


@pytest.mark.parametrize("entry", OPTIONS, ids=lambda entry: str(entry[0]))
def test_every_option_is_sent_as_it_is_configured(
    lab: Lab, entry: tuple[str, str, int, bytes]
) -> None:
    _, _, code, data = entry
    mac = b"\x02\x0b\0\0\0\x01"
    for kind, more in ((1, {}), (8, {"ciaddr": "10.77.250.200"})):
        asked = message(kind, mac, ask(code), giaddr="10.77.250.1", **more)
        heard = lab.ask(0, relayed(asked, lab, "10.77.250.1"), is_answered=True)
        assert heard is not None
        assert heard.options.get(code) == data
        if code not in (1, 3, 6, 12, 15):
            others = [other for _, _, other, _ in OPTIONS if other in heard.options]
            assert sorted(others) == sorted({1, 3, 6, 12, 15, code})
