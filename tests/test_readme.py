"""What the documents promise exists: commands, options, keys of the site file, benchmarks."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import bootstrap
from bootstrap.cli.main import main
from bootstrap.site import decode_site, known_keys

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLE = (Path(bootstrap.__file__).parent / "example" / "site.toml").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def code(text: str) -> Iterator[str]:
    """Every code span and every line of a code block."""
    outside = []
    for number, part in enumerate(re.split(r"^```.*\n", text, flags=re.M)):
        if number % 2:
            yield from part.splitlines()
        else:
            outside.append(part)
    yield from re.findall(r"`([^`\n]+)`", "".join(outside))


def doorstep_commands(text: str) -> list[str]:
    """What follows `doorstep` wherever it is called, without comments and redirections."""
    called = [re.sub(r"\s*[<>|#(].*", "", one) for one in code(text)]
    return [one.partition(" ")[2] for one in called if one.startswith("doorstep ")]


def check_command(words: list[str]) -> None:
    """Follow the words through the groups; an option must be the last command's."""
    command: click.Command = main
    context = click.Context(main)
    for word in words:
        if word.startswith("-"):
            known = {option for one in command.params for option in one.opts} | {"--help"}
            assert word.partition("=")[0] in known, word
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            assert found is not None, f"there is no command {word}"
            command = found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_named_exists(path: Path) -> None:
    for line in doorstep_commands(path.read_text()):
        check_command(line.split())


def test_the_readme_names_the_way_to_a_running_site() -> None:
    named = {" ".join(line.split()[:2]) for line in doorstep_commands(README)}
    assert {"check", "bootset build", "bootset publish", "note sign", "ca sign"} <= named
    assert any(line.startswith("init ") for line in doorstep_commands(README))


@pytest.mark.parametrize("words", ["nonsense", "bootset nonsense", "check --nonsense"])
def test_a_command_that_is_not_there_is_found_out(words: str) -> None:
    with pytest.raises(AssertionError):
        check_command(words.split())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {one.split()[1] for one in code(path.read_text()) if re.match(r"make [a-z]", one)}
    assert named <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_linked_exists(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_the_site_file_in_the_readme_is_the_example_and_the_settings_know_it() -> None:
    printed = re.search(r"^<!-- site\.toml -->\n```toml\n(.*?)^```$", README, re.M | re.S)
    assert printed, "the README has no block marked site.toml"
    assert printed[1] == EXAMPLE
    decode_site(printed[1].encode())
    assert keys_of(tomllib.loads(printed[1])) <= known_keys()  # the others: docs/netboot.md


def keys_of(document: object, prefix: str = "") -> set[str]:
    if isinstance(document, list):
        return {key for entry in document for key in keys_of(entry, prefix)}
    if isinstance(document, dict):
        below = (keys_of(value, f"{prefix}{key}.") for key, value in document.items())
        return {prefix + key for key in document}.union(*below)
    return set()


def test_a_figure_names_the_benchmark_that_prints_it() -> None:
    table = README.partition("<!-- figures -->\n")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `([a-z-]+)`", table, re.M)
    assert len(named) == len(table.splitlines()) - 2
    command = [sys.executable, "-m", "tests.bench", "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(named) == set(done.stdout.split())
