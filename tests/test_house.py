"""What a stranger looks for first is there, and every dependency is pinned and explained."""

import ast
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
RUNTIME = [*PROJECT["dependencies"], *OPTIONAL["sync"], *OPTIONAL["watch"]]
DEVELOPMENT = PROJECT["optional-dependencies"]["dev"]
DEPENDENCIES = (ROOT / "docs" / "dependencies.md").read_text()
PACKAGES = ("attest", "bootstrap", "keys", "netboot")
IMPORTED_AS = {
    "dnspython": "dns",
    "prometheus-client": "prometheus_client",
    "sqlite-utils": "sqlite_utils",
    "tpm2-pytss": "tpm2_pytss",
}
NOT_IMPORTED = "Not imported by the appliance"


def rows(section: str) -> dict[str, list[str]]:
    """The rows of the table below a heading of docs/dependencies.md, by their first cell."""
    text = DEPENDENCIES.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def imports() -> set[str]:
    """Top-level names that the four packages import anywhere, late imports too."""
    found = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("name", ["LICENSE", "README.md", "CHANGELOG.md"])
def test_it_is_there_and_says_something(name: str) -> None:
    assert len((ROOT / name).read_text()) > 500


def test_the_licence_is_the_one_the_project_names() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


def test_the_changelog_begins_with_what_is_not_released() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]"


@pytest.mark.parametrize("pin", RUNTIME + DEVELOPMENT)
def test_a_pin_names_one_version_and_that_is_what_runs(pin: str) -> None:
    name, exact, wanted = pin.partition("==")
    assert exact, f"{pin}: pin one version with =="
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)*", wanted), f"{pin}: one version, no pattern"
    assert version(name) == wanted


@pytest.mark.parametrize(
    ("section", "pins"), [("On the appliance", RUNTIME), ("For development", DEVELOPMENT)]
)
def test_every_pin_is_explained_and_no_other(section: str, pins: list[str]) -> None:
    explained = rows(section)
    assert {f"{name.strip('`')}=={row[0]}" for name, row in explained.items()} == set(pins)
    for name, row in explained.items():
        assert len(row) == 5 and all(row), f"{name}: a cell is empty"


def test_a_runtime_pin_is_imported_or_said_to_be_not() -> None:
    found = imports()
    for name, row in rows("On the appliance").items():
        plain = name.strip("`")
        is_imported = IMPORTED_AS.get(plain, plain) in found
        assert is_imported != (NOT_IMPORTED in row[3]), f"{plain}: the page says otherwise"


def test_nothing_of_development_is_imported_by_the_appliance() -> None:
    names = {pin.partition("==")[0].replace("-", "_") for pin in DEVELOPMENT}
    assert not names & imports()


def test_every_distribution_package_is_explained() -> None:
    setup = (ROOT / ".ci" / "setup").read_text()
    listed = re.search(r"^packages=\(\n(.*?)^\)", setup, re.M | re.S)
    assert listed
    lines = [line for line in listed[1].splitlines() if not line.strip().startswith("#")]
    text = DEPENDENCIES.partition("\n## Distribution packages\n")[2]
    missing = [name for name in " ".join(lines).split() if f"`{name}`" not in text]
    assert not missing
