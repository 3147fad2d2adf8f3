"""What is wrong with where secrets come from: [[upstream]], and `source` of [[secret]].

Pure. What each key may hold is said by `keys.upstream`, which sync reads the same file with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cryptography import x509

from bootstrap.check_network import twice, worth, wrong
from bootstrap.site import Problem, Site, Upstream
from keys.errors import SiteError
from keys.upstream import Source, UpstreamRule, check_source, upstream_rules


def rule_of(upstream: Upstream) -> UpstreamRule:
    """Give the settings of one upstream; SiteError names the key that is wrong."""
    table = upstream.model_dump(exclude_none=True)
    return upstream_rules({"upstream": [table]})[upstream.name]


def check_upstreams(site: Site, cas: Mapping[str, bytes | None]) -> Iterator[Problem]:
    """List what is wrong; `cas` has the content of each CA file by its path in the site file."""
    yield from twice("upstream", "name", [one.name for one in site.upstreams])
    rules = {}
    for one in site.upstreams:
        try:
            rules[one.name] = rule_of(one)
        except SiteError as error:
            what = str(error).removeprefix("site.toml: upstream.")
            yield wrong(f"upstream.{one.name}", what, "correct it")
        yield from _authority(one, cas.get(one.ca))
    known = {one.name for one in site.upstreams}
    for secret in site.secrets:
        if secret.source is None:
            continue
        key = f"secret.{secret.name}.source"
        if secret.tier == "box":
            what = "a secret of tier box is wrapped at headquarters for each box"
            yield wrong(key, what, "leave it out, or take tier site")
        try:
            source = Source.parse(secret.source)
            if source.upstream in rules or source.upstream not in known:
                check_source(source, rules)
        except SiteError as error:
            yield wrong(key, str(error), "correct it")
    used = {one.source.partition(":")[0] for one in site.secrets if one.source}
    for name in sorted(known - used):
        yield worth(f"upstream.{name}", "no secret comes from it", "name it in a source")


def _authority(upstream: Upstream, pem: bytes | None) -> Iterator[Problem]:
    key = f"upstream.{upstream.name}.ca"
    if pem is None:
        what = f"cannot read {upstream.ca}"
        yield wrong(key, what, "put the certificates of its authority there, as PEM")
        return
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError:
        yield wrong(key, f"{upstream.ca} holds no certificate as PEM", "put it there")
