"""Metrics as Prometheus reads them, made of what netboot's `status` says; nothing listens for it.

Names and units after Prometheus' own rules: `_total` for what only grows, seconds. What a service
never said is left out, so that an older netboot is read too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


def exposition(
    status: Mapping[str, Any],
    leases: int | None = None,
    ends: Iterable[Mapping[str, Any]] = (),
    sync: Mapping[str, Any] | None = None,
) -> bytes:
    """Write metrics in the text format of Prometheus, version 0.0.4.

    `ends` are horizons of the site, as `bootstrap.autonomy` writes them; `sync` is its status.
    """
    registry = CollectorRegistry(auto_describe=False)
    families = (
        *_netboot(status, leases),
        *_dns(status.get("dns", {})),
        *_ends(ends),
        *_secrets((sync or {}).get("upstreams", ())),
    )
    registry.register(_Given(families=families))
    return generate_latest(registry)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Given(Collector):
    """Families that are known already."""

    families: tuple[Metric, ...]

    def collect(self) -> Iterable[Metric]:
        """Give them."""
        return self.families


def _netboot(status: Mapping[str, Any], leases: int | None) -> Iterator[Metric]:
    services = GaugeMetricFamily(
        "doorstep_service_state", "What a service of netboot does: 1.", labels=("service", "state")
    )
    for name, state in status.get("services", {}).items():
        services.add_metric((name, state), 1)
    yield services
    plan = status.get("running")
    for name, said, value in (
        ("doorstep_plan_number", "The plan that netboot runs.", plan),
        ("doorstep_start_time_seconds", "When netboot was started.", status.get("since")),
        ("doorstep_dhcp_leases", "IPv4 leases in force.", leases),
        ("doorstep_dhcp_foreign_servers", "Other DHCP servers seen.", _count(status, "foreign")),
        ("doorstep_sentences", "What a person should know.", _count(status, "sentences")),
    ):
        if value is not None:
            yield GaugeMetricFamily(name, said, value=value)
    if "last_event" in status:
        said = "Events of DHCP, TFTP, HTTP and DNS."
        yield CounterMetricFamily("doorstep_events", said, value=status["last_event"])


def _ends(ends: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    """Give each end; of things of the same name, as lists of one maker, the first one."""
    found: dict[tuple[str, str, str], float] = {}
    for one in ends:
        if one["ends"] is not None:
            found.setdefault((one["kind"], one["name"], one["renewed"]), one["ends"])
    if found:
        said = "When a thing of this site ends without the WAN, and who renews it."
        family = GaugeMetricFamily(
            "doorstep_end_timestamp_seconds", said, labels=("kind", "name", "renewed")
        )
        for labels, at in found.items():
            family.add_metric(labels, at)
        yield family


def _secrets(upstreams: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    """Give what sync knows of the upstreams of secrets; one that never answered has no time."""
    for key, name, said in (
        ("success", "last_answer_timestamp_seconds", "When an upstream of secrets answered last."),
        ("failures", "failures", "Failures in a row: 0 while it answers."),
        ("secrets", "secrets", "Secrets that come from it."),
        ("due", "due_secrets", "Secrets that it is to be asked for now."),
        ("login_ends", "login_end_timestamp_seconds", "When our login there ends."),
    ):
        family = GaugeMetricFamily(f"doorstep_upstream_{name}", said, labels=("upstream",))
        for one in upstreams:
            if one[key] is not None:
                family.add_metric((one["name"],), one[key])
        if family.samples:
            yield family


def _count(status: Mapping[str, Any], key: str) -> int | None:
    return len(status[key]) if key in status else None


def _dns(dns: Mapping[str, Any]) -> Iterator[Metric]:
    answers = CounterMetricFamily(
        "doorstep_dns_answers",
        "Answers by view of who asked, code, and whose zones they are of.",
        labels=("view", "code", "source"),
    )
    for view, said in dns.get("views", {}).items():
        for source, codes in said.items():
            for code, count in codes.items():
                answers.add_metric((view, code, source), count)
    yield answers
    forwarded = CounterMetricFamily(
        "doorstep_dns_forwarded",
        "Answers for names of others: from the cache, asked, stale, or failed.",
        labels=("how",),
    )
    for how in ("cached", "forwarded", "stale", "failed"):
        if how in dns:
            forwarded.add_metric((how,), dns[how])
    yield forwarded
    for key, family in _PLAIN.items():
        if key in dns:
            yield family[0](f"doorstep_dns_{family[1]}", family[2], value=dns[key])
    yield from _upstreams(dns.get("upstreams", ()))


_PLAIN: Mapping[str, tuple[type[CounterMetricFamily | GaugeMetricFamily], str, str]] = {
    "dropped": (CounterMetricFamily, "dropped", "Questions of strangers without answer."),
    "signatures": (CounterMetricFamily, "signatures_made", "Signatures made of zones."),
    "connections": (GaugeMetricFamily, "tcp_connections", "Clients that are connected by TCP."),
    "zones": (GaugeMetricFamily, "zones", "Zones that are served."),
    "remembered": (GaugeMetricFamily, "cache_entries", "Answers of others that are remembered."),
    "blind": (GaugeMetricFamily, "clock_is_blind", "1 while dates of signatures do not count."),
}


def _upstreams(upstreams: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    counters = {
        key: CounterMetricFamily(f"doorstep_dns_upstream_{key}", said, labels=("upstream",))
        for key, said in (
            ("asked", "Questions to an upstream."),
            ("answered", "Answers of an upstream."),
        )
    }
    gauges = {
        key: GaugeMetricFamily(f"doorstep_dns_upstream_{name}", said, labels=("upstream",))
        for key, name, said in (
            ("seconds", "delay_seconds", "Its mean delay, of late."),
            ("failures", "failures", "Failures in a row: 0 while it answers."),
        )
    }
    for one in upstreams:
        for key, counter in counters.items():
            counter.add_metric((one["name"],), one[key])
        for key, gauge in gauges.items():
            gauge.add_metric((one["name"],), one[key])
    yield from (*counters.values(), *gauges.values())
