"""Each key is named in a document or in the example; docs/netboot.md shows what is printed."""

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import bootstrap
from bootstrap.cli.main import main
from bootstrap.site import decode_netboot_site, known_keys

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "netboot.md").read_text()
BESIDE = [(ROOT / "docs" / name).read_text() for name in ("upstreams.md", "identities.md")]
EXAMPLE = (Path(bootstrap.__file__).parent / "example" / "site.toml").read_text()
LEVELS = ("dhcp", "shared_network", "subnet", "subnet.pool", "class", "reservation")
MATCHES = ("class", "class.not", "boot.rule", "boot.rule.not")
SITE = re.search(r"<!-- site -->\n```toml\n(.*?)^```$", TEXT, re.M | re.S)
SHOWN = re.findall(r"<!-- explain: (.*?) -->\n```\n(.*?)^```$", TEXT, re.M | re.S)


def keys_of(document: object, prefix: str = "") -> set[str]:
    if isinstance(document, list):
        return {key for entry in document for key in keys_of(entry, prefix)}
    if isinstance(document, dict):
        below = (keys_of(value, f"{prefix}{key}.") for key, value in document.items())
        return {prefix + key for key in document}.union(*below)
    return set()


def named() -> set[str]:
    rows = re.findall(r"^\| `([A-Za-z0-9_.]+)` \|", "".join((TEXT, *BESIDE)), re.M)
    found = set()
    for row in rows:
        first, _, rest = row.partition(".")
        prefixes = {"LEVEL": LEVELS, "MATCH": MATCHES}.get(first, (first,))
        found |= {f"{prefix}.{rest}" for prefix in prefixes}
    return found


def test_every_key_of_the_site_file_is_named_here_or_in_the_example() -> None:
    tables = {key.rpartition(".")[0] for key in known_keys()}
    leaves = known_keys() - tables
    assert leaves - named() - keys_of(tomllib.loads(EXAMPLE)) == set()


def test_every_key_that_is_named_here_exists() -> None:
    assert named() - known_keys() == set()


def test_the_site_file_that_is_shown_is_read() -> None:
    assert SITE is not None
    site = decode_netboot_site(SITE[1].encode())
    assert [rule.name for rule in site.boot.rules] == ["menu", "ipxe"]
    for block in re.findall(r"^```toml\n(.*?)^```$", TEXT, re.M | re.S):
        tomllib.loads(block)


@pytest.mark.parametrize(("words", "shown"), SHOWN)
def test_what_explain_prints_is_what_is_shown(words: str, shown: str, tmp_path: Path) -> None:
    assert SITE is not None
    (tmp_path / "site.toml").write_text(SITE[1])
    (tmp_path / "files").mkdir()
    for name in ("menu.ipxe", "ipxe.efi"):
        (tmp_path / "files" / name).write_text("x")
    place = ["--site", str(tmp_path / "site.toml"), "--state", str(tmp_path / "state")]
    done = CliRunner().invoke(main, ["netboot", "explain", *place, *words.split()])
    assert done.output == shown
