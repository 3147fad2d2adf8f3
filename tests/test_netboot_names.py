"""Names as `doorstep netboot run` serves them, asked by real clients, with and without a WAN.

A second server of ours stands for the upstream; both are on the loopback of one namespace.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netboot.io.clock import RELEASED, ClockTrust, is_synchronised

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.boots
ZONE = """$TTL 300
@ SOA ns hostmaster 7 3600 600 604800 30
@ NS ns
ns A 192.0.2.53
www A 192.0.2.10
*.wild TXT "any"
"""
SITE = """
[site]
id = "lab"
domain = "lab.example.net"
[dns]
listen = ["127.0.0.1", "::1"]
[[zone]]
name = "example.org"
file = "example.org.zone"
signed = true
[[record]]
name = "www"
type = "A"
value = "192.0.2.9"
"""
FORWARDING = """
[site]
id = "lab"
domain = "lab.example.net"
[dns]
forward = true
pinned = "licence.example.com"
private = "example.com"
unsigned = "."
[[dns.upstream]]
address = "127.0.0.2"
transport = "plain"
"""
UPSTREAM = """
[site]
id = "wan"
domain = "wan.example.net"
[dns]
listen = "127.0.0.2"
[[zone]]
name = "example.com"
file = "example.com.zone"
"""
OUTSIDE = """$TTL 1
@ SOA ns hostmaster 7 3600 600 604800 1
@ NS ns
ns A 10.9.0.53
licence A 10.9.0.1
www A 10.9.0.2
"""


def run(*command: str | Path, check: bool = True) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


def until(what: Callable[[], object], seconds: float = 30.0) -> object:
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


class Server:
    """One `doorstep netboot run` with its site file."""

    def __init__(self, namespace: str, base: Path, site: str, **zones: str) -> None:
        base.mkdir()
        self.namespace, self.base = namespace, base
        self.file, self.state, self.log = base / "site.toml", base / "state", base / "log"
        self.file.write_text(site)
        for name, text in zones.items():
            (base / f"{name.replace('_', '.')}.zone").write_text(text)
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: tuple[str, ...] = ()

    def start(self, *more: str) -> None:
        words = ["ip", "netns", "exec", self.namespace, "env", *self.environment]
        words += [sys.executable, "-m", "bootstrap.cli"]
        words += ["netboot", "run", "--site", str(self.file), "--state", str(self.state), *more]
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, stderr=log, cwd=ROOT)
        until(lambda: "serving DNS on 127" in self.said())

    def said(self) -> str:
        text = self.log.read_text()
        assert self.process is not None and self.process.poll() is None, text
        return text

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            status, self.process = self.process.wait(30), None
            assert status == (0 if number == signal.SIGTERM else -number)

    def cli(self, *words: str, check: bool = True) -> str:
        places = ("--file", str(self.file), "--state", str(self.state))
        return run(sys.executable, "-m", "bootstrap.cli", "dns", *words, *places, check=check)


class Lab:
    """A namespace with a loopback alone."""

    def __init__(self, base: Path) -> None:
        self.namespace, self.base = f"nn-{os.getpid():x}", base
        self.servers: list[Server] = []
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")

    def server(self, name: str, site: str, **zones: str) -> Server:
        made = Server(self.namespace, self.base / name, site, **zones)
        self.servers.append(made)
        return made

    def inside(self, *words: str | Path) -> str:
        return run("ip", "netns", "exec", self.namespace, *words, check=False)

    def dig(self, *words: str) -> str:
        return self.inside("dig", "+tries=1", "+time=5", *words)

    def end(self) -> None:
        for server in self.servers:
            if server.process is not None:
                server.process.kill()
                server.process.wait()
        run("ip", "netns", "delete", self.namespace, check=False)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def alone(lab: Lab) -> Server:
    """Nothing but zones and records."""
    server = lab.server("us", SITE, example_org=ZONE)
    server.start()
    return server


def test_zones_alone_are_served_over_both_ip_and_change_with_their_file(
    lab: Lab, alone: Server
) -> None:
    assert lab.dig("+short", "@::1", "www.lab.example.net") == "192.0.2.9\n"
    assert lab.dig("+short", "+tcp", "@127.0.0.1", "x.wild.example.org", "TXT") == '"any"\n'
    file = alone.base / "example.org.zone"
    file.write_text(ZONE + "new A 192.0.2.11\n")
    until(lambda: lab.dig("+short", "@127.0.0.1", "new.example.org") == "192.0.2.11\n")
    file.write_text(ZONE + "new A 192.0.2.300\n")
    until(lambda: "example.org.zone: line 7: " in alone.said())
    assert lab.dig("+short", "@127.0.0.1", "new.example.org") == "192.0.2.11\n"


def test_n34_delv_and_ldns_believe_the_printed_anchor_and_the_dumped_zone(
    lab: Lab, alone: Server
) -> None:
    printed = alone.cli("anchor", "--zone", "example.org")
    key = re.search(r"DNSKEY (257 3 13) (.*)", printed)
    assert key is not None
    anchors = lab.base / "anchors"
    anchors.write_text(f'trust-anchors {{ example.org. static-key {key[1]} "{key[2]}"; }};\n')
    for name, kind, told in (
        ("www.example.org", "A", "; fully validated"),
        ("x.wild.example.org", "TXT", "; fully validated"),
        ("none.example.org", "A", "; negative response, fully validated"),
        ("www.example.org", "TXT", "; negative response, fully validated"),
    ):
        words = ("delv", "@127.0.0.1", "-a", anchors, "+root=example.org", name, kind)
        assert told in lab.inside(*words)
    digest = re.search(r"DS (\d+ 13 2) ([0-9A-F]+)", printed)
    assert digest is not None
    dumped = lab.base / "dumped"
    dumped.write_text(alone.cli("dump", "example.org", "--signed"))
    trust = lab.base / "ds"
    trust.write_text(f"example.org. IN DS {digest[1]} {digest[2]}\n")
    assert "Zone is verified and complete" in run("ldns-verify-zone", "-k", trust, dumped)
    again = lab.server("again", SITE, example_org=alone.cli("dump", "example.org"))
    assert again.cli("dump", "example.org") == alone.cli("dump", "example.org")


def test_signing_may_be_for_all_and_for_none(lab: Lab) -> None:
    server = lab.server("us", SITE, example_org=ZONE)
    for more, ours, theirs in (
        ((), False, True),
        (("--sign",), True, True),
        (("--no-sign",), False, False),
    ):
        server.start(*more)
        for name, signed in (("www.lab.example.net", ours), ("www.example.org", theirs)):
            assert ("RRSIG" in lab.dig("+dnssec", "@127.0.0.1", name)) == signed, (more, name)
        server.stop()


def test_the_command_says_what_would_be_answered_and_why(alone: Server) -> None:
    said = alone.cli("lookup", "x.wild.example.org", "TXT").splitlines()
    assert said[:2] == ["NOERROR", 'x.wild.example.org. 300 IN TXT "any"']
    assert "of the master file example.org.zone, by the wildcard *.wild.example.org." in said[3]
    assert "(zone example.org., signed)" in said[3]
    said = alone.cli("lookup", "www.lab.example.net").splitlines()
    assert "www.lab.example.net. A: of the plan (zone lab.example.net., not signed)" in said
    none = alone.cli("lookup", "none.example.org", check=False)
    assert "no such name in zone example.org. (proved by NSEC3)" in none
    other = alone.cli("lookup", "www.example.com", "--json", check=False)
    assert '"code":"REFUSED"' in other and "others are not asked" in other
    wrong = alone.cli("dump", "example.com", check=False)
    assert "example.com. is no zone of this site" in wrong


def test_n29_without_the_wan_pinned_names_go_on_and_the_others_fail_at_once(lab: Lab) -> None:
    wan = lab.server("wan", UPSTREAM, example_com=OUTSIDE)
    us = lab.server("us", FORWARDING)
    wan.start()
    us.start()
    for name, address in (("licence", "10.9.0.1"), ("www", "10.9.0.2")):
        assert lab.dig("+short", "@127.0.0.1", f"{name}.example.com") == f"{address}\n"
    wan.stop(signal.SIGKILL)

    def stale(name: str) -> str:
        text = lab.dig("@127.0.0.1", name)
        return text if "EDE: 3" in text else ""

    assert "10.9.0.1" in str(until(lambda: stale("licence.example.com")))
    assert "s old" in stale("licence.example.com")

    def fails_at_once() -> bool:
        text = lab.dig("@127.0.0.1", "new.example.com")
        took = re.search(r"Query time: (\d+) msec", text)
        is_told = re.search(r"EDE: (22|23|13)", text) is not None
        return "SERVFAIL" in text and is_told and took is not None and int(took[1]) < 50

    until(fails_at_once)
    until(lambda: "DNS upstream 127.0.0.2 (127.0.0.2:53, plain) is silent since" in us.said())
    us.stop()
    us.start()  # a power cut in week two
    assert "10.9.0.1" in str(until(lambda: stale("licence.example.com")))
    wan.start()
    until(lambda: "10.9.0.2" in lab.dig("+short", "@127.0.0.1", "www.example.com"))


def test_names_of_others_are_for_who_belongs_here(lab: Lab) -> None:
    """A site file that says nothing makes no open resolver, wherever it listens."""
    for address in ("192.0.2.1", "192.0.2.9", "192.0.2.10"):
        run("ip", "-n", lab.namespace, "address", "add", f"{address}/32", "dev", "lo")
    wan = lab.server("wan", UPSTREAM, example_com=OUTSIDE)
    listen = '[dns]\nlisten = ["127.0.0.1", "192.0.2.1"]\n'
    us = lab.server("us", FORWARDING.replace("[dns]\n", listen + 'allow = "192.0.2.10/32"\n'))
    wan.start()
    us.start()

    def asked(source: str, *words: str) -> str:
        return lab.dig("@192.0.2.1", "-b", source, "www.example.com", *words)

    for source in ("127.0.0.1", "192.0.2.10"):
        assert "10.9.0.2" in asked(source) and " ra" in asked(source)
    for words in ((), ("+tcp",), ("+norec",)):
        refused = asked("192.0.2.9", *words)
        assert "status: REFUSED" in refused and "EDE: 18" in refused and " ra;" not in refused
    own = lab.dig("@192.0.2.1", "-b", "192.0.2.9", "lab.example.net", "SOA")
    assert "status: NOERROR" in own and " aa" in own and "ANSWER: 1" in own


def test_an_upstream_that_makes_up_names_is_told_of(lab: Lab) -> None:
    liar = UPSTREAM.replace("example.com", "com")
    wan = lab.server("wan", liar, com=OUTSIDE + "* A 203.0.113.9\n")
    us = lab.server("us", FORWARDING)
    wan.start()
    us.start()
    until(lambda: "dns-hijack reason=DNS-HIJACK" in us.said())
    assert "gives addresses to names that do not exist" in us.said()
    assert "203.0.113.9" in us.said()


def test_a_clock_is_judged_by_what_is_known() -> None:
    wall, synchronised = [RELEASED + 10.0], [False]
    clock = ClockTrust(0.0, lambda: wall[0], lambda: synchronised[0])
    assert clock.is_blind()  # nobody told the kernel, and nothing was seen to fit
    synchronised[0] = True
    assert not clock.is_blind()
    synchronised[0] = False
    clock.validated()
    assert not clock.is_blind()
    later = ClockTrust(RELEASED + 5000.0, lambda: wall[0], lambda: True)
    assert later.is_blind()  # an event of this site is newer than now
    later.validated()
    assert later.is_blind()
    wall[0] = RELEASED + 5000.0
    assert not later.is_blind()
    wall[0] = RELEASED - 1000.0
    assert ClockTrust(0.0, lambda: wall[0], lambda: True).is_blind()
    assert is_synchronised() in (True, False)
