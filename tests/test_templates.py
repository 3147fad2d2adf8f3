"""Seeds: what a template may know, what it must not reach, how its mistakes are named."""

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bootstrap
from bootstrap.agent.handoff import SEED
from bootstrap.agent.ssh import HINT
from bootstrap.errors import SiteError
from bootstrap.site import decode_site
from bootstrap.templates import BoxNetwork, BoxValues, Seed, render

ROOT = Path(bootstrap.__file__).parent / "example"
SITE = decode_site((ROOT / "site.toml").read_bytes()).site
NETWORK = BoxNetwork(
    mac="52:54:00:12:34:56",
    address=IPv4Interface("10.41.7.20/24"),
    gateway=IPv4Address("10.41.7.1"),
    dns=(IPv4Address("10.41.7.2"),),
)
BOX = BoxValues(
    instance_id="i-1",
    hostname="pos-01",
    fqdn="pos-01.shop-0417.example.net",
    role="pos",
    network=NETWORK,
)


def rendered(text: str, secrets: tuple[str, ...] = ("token",)) -> Seed:
    return render(text, BOX, SITE, secrets, file="templates/t.j2")


def test_the_example_template_gives_the_box_its_values() -> None:
    text = (ROOT / "templates" / "pos.yaml.j2").read_text()
    user_data = rendered(text, ("pos-api-token",)).user_data.decode()
    assert user_data.startswith("#cloud-config\n")
    assert 'hostname: "pos-01"' in user_data
    assert "token_file=/run/doorstep/seed/secrets/pos-api-token" in user_data
    assert f"Include {SEED}/ssh/{HINT}\n" in user_data


def test_the_other_files_are_those_of_cloud_init() -> None:
    seed = rendered("")
    assert json.loads(seed.meta_data) == {"instance-id": "i-1", "local-hostname": "pos-01"}
    network = json.loads(seed.network_config)
    ethernet = network["ethernets"]["site"]
    assert network["version"] == 2
    assert ethernet["match"] == {"macaddress": "52:54:00:12:34:56"}
    assert ethernet["addresses"] == ["10.41.7.20/24"]
    assert ethernet["routes"] == [{"to": "default", "via": "10.41.7.1"}]
    assert ethernet["nameservers"] == {"addresses": ["10.41.7.2"]}


def test_without_a_gateway_there_is_no_route() -> None:
    box = replace(BOX, network=replace(NETWORK, gateway=None))
    seed = render("{{ network.gateway }}", box, SITE, (), file="t")
    assert "routes" not in json.loads(seed.network_config)["ethernets"]["site"]
    assert box.network.document()["gateway"] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ box.address }} {{ box.mac }} {{ box.role }}", "10.41.7.20 52:54:00:12:34:56 pos"),
        ("{{ network.cidr }} {{ network.gateway }}", "10.41.7.20/24 10.41.7.1"),
        ("{% for one in network.dns %}{{ one }}{% endfor %}", "10.41.7.2"),
        ("{{ site.id }} {{ site.domain }}", "shop-0417 shop-0417.example.net"),
        ("{{ site.time_zone | tojson }}", '"Europe/London"'),
        ("a\n", "a\n"),
        ("<&>'", "<&>'"),
    ],
)
def test_what_a_template_knows(text: str, expected: str) -> None:
    assert rendered(text).user_data.decode() == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n\n{{ box.hostnam }}", r"templates/t.j2, line 3: .*hostnam"),
        ("{{ nothing }}", r"'nothing' is undefined"),
        ("\n{% if %}", r"templates/t.j2, line 2: "),
        ('{{ secret_path("other") }}', r"role pos has no such secret"),
        ("{{ secret_path('a', 'b') }}", r"line 1: "),
        ("{% include 'x' %}", r"templates/t.j2"),
        ("{{ box.__class__.__mro__ }}", r"templates/t.j2"),
        ("{{ secret_path.__globals__ }}", r"templates/t.j2"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", r"templates/t.j2"),
        ("{{ box.update({'role': 'x'}) }}", r"templates/t.j2"),
        ("{{ network.dns.append('x') }}", r"templates/t.j2"),
        ("{{ 1 // 0 }}", r"templates/t.j2, line 1"),
        ("{% for a in range(99999) %}{{ 'x' * 99 }}{% endfor %}", r"gives more than"),
        ("{% for a in range(999999999) %}{% endfor %}", r"templates/t.j2"),
        ("x" * 300000, r"larger than"),
    ],
)
def test_what_a_template_must_not_do(text: str, says: str) -> None:
    with pytest.raises(SiteError, match=says):
        rendered(text)


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="{}%#|.()[]'\" \nabxsite_1-+*", max_size=40))
def test_any_template_gives_a_seed_or_our_error(text: str) -> None:
    try:
        rendered(text)
    except SiteError as error:
        assert "templates/t.j2" in str(error)
