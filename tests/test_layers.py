"""The shape of the house: pure modules touch nothing, the agent stays small, nothing grows big."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("attest", "bootstrap", "keys", "netboot")
IMPURE_FOLDERS = ("io", "cli", "build", "rehearsal", "agent")
"""`io` of each package; of bootstrap also what builds, rehearses, prints, or runs in the box."""
TOUCHES = frozenset(
    {"asyncio", "fcntl", "flask", "logging", "multiprocessing", "os", "pwd", "random", "requests"}
    | {"secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "sqlite_utils"}
    | {"ssl", "subprocess", "tempfile", "threading", "time", "tpm2_pytss"}
)
"""Modules with clocks, randomness, files, sockets, threads or logs in them."""
AGENT_MAY = (
    *("attest", "keys.tpm_public", "keys.errors", "netboot.errors"),
    *("netboot.dhcp_message", "netboot.dhcp_options"),
    *("netboot.dhcp6_message", "netboot.dhcp6_options"),
)
MAX_LINES, MAX_FUNCTION = 500, 60


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def is_pure(path: Path) -> bool:
    return not set(path.relative_to(ROOT).parts) & set(IMPURE_FOLDERS)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [path for path in modules() if is_pure(path)], ids=name)
def test_pure_modules_touch_nothing(path: Path) -> None:
    found = {module for module in imports(path) if module.partition(".")[0] in TOUCHES}
    assert not found
    own = {module for module in imports(path) if ".io" in module and module.startswith(PACKAGES)}
    assert not own


@pytest.mark.parametrize("path", sorted((ROOT / "bootstrap/agent").glob("*.py")), ids=name)
def test_the_agent_knows_wire_types_and_little_else(path: Path) -> None:
    ours = {module for module in imports(path) if module.startswith(PACKAGES)}
    strange = {m for m in ours if not m.startswith(("bootstrap.agent", *AGENT_MAY))}
    assert not strange
    assert not {module for module in ours if ".io" in module}


@pytest.mark.parametrize("path", modules(), ids=name)
def test_nothing_grows_big(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION, node.name


@pytest.mark.parametrize("path", modules(), ids=name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_rules_see_what_they_forbid(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import time\nfrom keys.io.rpc import call\n")
    assert set(imports(bad)) & TOUCHES == {"time"}
    assert any(".io" in module for module in imports(bad))
