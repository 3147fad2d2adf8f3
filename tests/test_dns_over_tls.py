"""DNS over TLS through the whole process, with unbound as the upstream, and what is counted of it.

unbound answers plainly too, beside its TLS: a way back to port 53 would be seen in what it logs.
"""

from __future__ import annotations

import base64
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_forwarder import NAME, Certificate
from test_netboot_names import Lab, Server, until

pytestmark = pytest.mark.boots
UPSTREAM = "127.0.0.2"
SITE = """
[site]
id = "lab"
domain = "lab.example.net"
[dns]
forward = true
private = "example.com"
unsigned = "."
[[dns.upstream]]
address = "127.0.0.2"
"""
UNBOUND = """
server:
  interface: 127.0.0.2@853
  interface: 127.0.0.2@53
  tls-service-key: "{certificate}"
  tls-service-pem: "{certificate}"
  access-control: 127.0.0.0/8 allow
  username: ""
  chroot: ""
  directory: "{work}"
  pidfile: ""
  logfile: "{work}/unbound.log"
  use-syslog: no
  log-queries: yes
  do-daemonize: no
  module-config: "iterator"
  local-zone: "example.com." static
  local-data: "example.com. 1 SOA ns hostmaster 1 2 3 4 1"
  local-data: "www.example.com. 1 A 192.0.2.7"
  local-data: "old.example.com. 300 A 192.0.2.8"
remote-control:
  control-enable: no
"""


class Unbound:
    """The upstream, as a process of its own."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self.work = lab, lab.base / "unbound"
        self.work.mkdir()
        self.certificate = Certificate(self.work)
        self.log = self.work / "unbound.log"
        (self.work / "unbound.conf").write_text(
            UNBOUND.format(certificate=self.certificate.file, work=self.work)
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pin(self) -> str:
        return base64.b64encode(self.certificate.pin).decode()

    def start(self) -> None:
        words = ["ip", "netns", "exec", self._lab.namespace, "unbound", "-d", "-c"]
        self._process = subprocess.Popen([*words, str(self.work / "unbound.conf")])
        until(lambda: self._lab.dig("+short", f"@{UPSTREAM}", "www.example.com"))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def asked(self, name: str) -> bool:
        return f" {name}. " in self.log.read_text().lower()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def unbound(lab: Lab) -> Iterator[Unbound]:
    made = Unbound(lab)
    made.start()
    yield made
    made.stop()


def us(lab: Lab, *keys: str, ca: Path | None = None) -> Server:
    server = lab.server("us", SITE + "".join(f"{key}\n" for key in keys))
    if ca is not None:
        server.environment = (f"SSL_CERT_FILE={ca}",)
    server.start("--metrics", str(lab.base / "us.prom"))
    return server


def resolved(lab: Lab, name: str) -> str:
    return lab.dig("+short", "@127.0.0.1", name)


def test_n32_a_pin_is_enough_and_the_cache_outlives_upstream_and_process(
    lab: Lab, unbound: Unbound
) -> None:
    server = us(lab, f'pins = "{unbound.pin}"')
    assert resolved(lab, "old.example.com") == "192.0.2.8\n"
    assert resolved(lab, "www.example.com") == "192.0.2.7\n"
    assert "NXDOMAIN" in lab.dig("@127.0.0.1", "none.example.com")
    unbound.stop()

    def is_stale() -> bool:
        said = lab.dig("@127.0.0.1", "www.example.com")
        return "192.0.2.7" in said and "EDE: 3" in said

    until(is_stale)
    for number in (signal.SIGTERM, signal.SIGTERM):
        server.stop(number)
        server.start()
        assert resolved(lab, "old.example.com") == "192.0.2.8\n"  # fresh, though nobody is there
        until(is_stale)
    assert "SERVFAIL" in lab.dig("@127.0.0.1", "new.example.com")
    unbound.start()
    until(lambda: "EDE" not in lab.dig("@127.0.0.1", "www.example.com"))


def test_n32_a_name_must_be_in_the_certificate(lab: Lab, unbound: Unbound) -> None:
    us(lab, f'name = "{NAME}"', ca=unbound.certificate.ca)
    assert resolved(lab, "www.example.com") == "192.0.2.7\n"
    assert unbound.asked("www.example.com")


@pytest.mark.parametrize("wrong", ["pin", "name", "authority"])
def test_n32_who_is_not_the_upstream_is_asked_nothing_over_no_way(
    lab: Lab, unbound: Unbound, wrong: str
) -> None:
    key = {
        "pin": f'pins = "{base64.b64encode(bytes(32)).decode()}"',
        "name": 'name = "other.example"',
        "authority": f'name = "{NAME}"',
    }[wrong]
    server = us(lab, key, ca=unbound.certificate.ca if wrong == "name" else None)
    said = lab.dig("@127.0.0.1", "secret.example.com")
    assert "SERVFAIL" in said and re.search(r"EDE: 2[23]", said), said
    until(lambda: "DNS upstream " in server.said())
    told = "its key is none of those" if wrong == "pin" else "certificate verify failed"
    assert told in server.said()
    assert not unbound.asked("secret.example.com")


def test_what_was_answered_is_counted_for_prometheus(lab: Lab, unbound: Unbound) -> None:
    us(lab, f'pins = "{unbound.pin}"')
    for name in ("old.example.com", "old.example.com", "none.lab.example.net", "none.example.com"):
        resolved(lab, name)
    assert lab.dig("@127.0.0.1", "+noedns", "-b", "127.0.0.1", "version.bind", "CH", "TXT")

    def counted() -> dict[str, float]:
        file = lab.base / "us.prom"
        families = text_string_to_metric_families(file.read_text() if file.exists() else "")
        return {
            f"{one.name}{sorted(one.labels.values())}": one.value
            for family in families
            for one in family.samples
        }

    def is_whole() -> bool:
        found = counted()
        return found.get("doorstep_dns_answers_total['NOERROR', 'full', 'others']") == 2

    until(is_whole, 40)
    found = counted()
    assert found["doorstep_dns_answers_total['NXDOMAIN', 'full', 'others']"] == 1
    assert found["doorstep_dns_answers_total['NXDOMAIN', 'full', 'own']"] == 1
    assert found["doorstep_dns_forwarded_total['cached']"] == 1
    assert found["doorstep_dns_forwarded_total['forwarded']"] == 2
    assert found["doorstep_dns_cache_entries[]"] == 2
    upstream = "['127.0.0.2 (127.0.0.2:853, tls)']"
    assert found[f"doorstep_dns_upstream_answered_total{upstream}"] >= 2
    assert found[f"doorstep_dns_upstream_failures{upstream}"] == 0
    assert found["doorstep_service_state['dns', 'serving']"] == 1
