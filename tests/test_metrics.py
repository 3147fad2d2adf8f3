"""Counts as Prometheus reads them: by its own parser, over netboot's socket, and as a file."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from bootstrap.cli.main import main
from bootstrap.errors import SiteError
from bootstrap.io.metrics_file import MetricsFile, write
from bootstrap.metrics import exposition
from keys.io.layout import OPERATOR, SERVICES, Layout
from keys.io.rpc import Method, RpcServer

UPSTREAM = 'dns "nine"\\ (9.9.9.9:853, tls)'
STATUS = {
    "running": 7,
    "since": 1.5,
    "services": {"dhcp": "serving", "dns": "trouble"},
    "foreign": [{"interface": "eth1"}],
    "sentences": ["one", "two"],
    "last_event": 41,
    "dns": {
        "answered": {"NOERROR": 3},
        "views": {
            "full": {"own": {"NOERROR": 3, "NXDOMAIN": 1}, "others": {"SERVFAIL": 2}},
            "stranger": {"own": {"REFUSED": 4}, "others": {}},
        },
        "dropped": 5,
        "connections": 6,
        "zones": 8,
        "signatures": 9,
        "remembered": 10,
        "blind": True,
        "cached": 11,
        "forwarded": 12,
        "stale": 13,
        "failed": 14,
        "upstreams": [
            {
                "name": UPSTREAM,
                "asked": 15,
                "answered": 16,
                "seconds": 0.017,
                "failures": 18,
                "said": "no",
            }
        ],
    },
}
"""As netboot's `status` has it."""


def samples(text: bytes) -> Mapping[tuple[str, ...], float]:
    families = text_string_to_metric_families(text.decode())
    return {
        (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
        for family in families
        for one in family.samples
    }


def test_every_count_is_there_under_its_name_once() -> None:
    found = samples(exposition(STATUS, 19))
    assert found == {
        ("doorstep_service_state", "dhcp", "serving"): 1,
        ("doorstep_service_state", "dns", "trouble"): 1,
        ("doorstep_plan_number",): 7,
        ("doorstep_start_time_seconds",): 1.5,
        ("doorstep_dhcp_leases",): 19,
        ("doorstep_dhcp_foreign_servers",): 1,
        ("doorstep_sentences",): 2,
        ("doorstep_events_total",): 41,
        ("doorstep_dns_answers_total", "NOERROR", "own", "full"): 3,
        ("doorstep_dns_answers_total", "NXDOMAIN", "own", "full"): 1,
        ("doorstep_dns_answers_total", "SERVFAIL", "others", "full"): 2,
        ("doorstep_dns_answers_total", "REFUSED", "own", "stranger"): 4,
        ("doorstep_dns_dropped_total",): 5,
        ("doorstep_dns_tcp_connections",): 6,
        ("doorstep_dns_zones",): 8,
        ("doorstep_dns_signatures_made_total",): 9,
        ("doorstep_dns_cache_entries",): 10,
        ("doorstep_dns_clock_is_blind",): 1,
        ("doorstep_dns_forwarded_total", "cached"): 11,
        ("doorstep_dns_forwarded_total", "forwarded"): 12,
        ("doorstep_dns_forwarded_total", "stale"): 13,
        ("doorstep_dns_forwarded_total", "failed"): 14,
        ("doorstep_dns_upstream_asked_total", UPSTREAM): 15,
        ("doorstep_dns_upstream_answered_total", UPSTREAM): 16,
        ("doorstep_dns_upstream_delay_seconds", UPSTREAM): 0.017,
        ("doorstep_dns_upstream_failures", UPSTREAM): 18,
    }


def test_what_was_never_said_is_left_out() -> None:
    assert samples(exposition({})) == {}
    waiting = samples(exposition({"running": None, "services": {}, "dns": {"upstreams": []}}))
    assert waiting == {}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    users = {name: 61001 + index for index, name in enumerate(SERVICES)}
    layout = Layout(site=tmp_path, state=tmp_path, run=tmp_path, users=users)
    (tmp_path / "netboot").mkdir()

    def leases(user: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"leases": [{}, {}]}

    callers = frozenset({OPERATOR})
    methods = {
        "status": Method(lambda user, params: STATUS, callers),
        "leases": Method(leases, callers),
    }
    server = RpcServer(layout, "netboot", methods)
    end = threading.Event()

    def serve() -> None:
        while not end.is_set():
            server.turn(0.05)

    thread = threading.Thread(target=serve)
    thread.start()
    yield tmp_path
    end.set()
    thread.join()
    server.close()


def test_the_command_prints_them_or_puts_a_file_in_its_place(run: Path) -> None:
    done = CliRunner().invoke(main, ["metrics", "--run", str(run)])
    assert done.exit_code == 0, done.output
    assert samples(done.output.encode()) == samples(exposition(STATUS, 2))
    out = run / "doorstep.prom"
    done = CliRunner().invoke(main, ["metrics", "--run", str(run), "--out", str(out)])
    assert (done.exit_code, done.output) == (0, "")
    assert out.read_bytes() == exposition(STATUS, 2)
    assert out.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in run.iterdir() if "prom" in path.name] == ["doorstep.prom"]


def test_a_file_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="give a file that can be written"):
        write(tmp_path / "missing" / "a.prom", b"")
    file = MetricsFile(tmp_path / "missing" / "a.prom", lambda: b"# nothing\n")
    file.turn()
    assert file.trouble is not None and "a.prom: No such file" in file.trouble
    (tmp_path / "missing").mkdir()
    again = MetricsFile(tmp_path / "missing" / "a.prom", lambda: b"# nothing\n")
    again.turn()
    assert again.trouble is None
    assert (tmp_path / "missing" / "a.prom").read_bytes() == b"# nothing\n"
