"""`python -m tests.mutants [MODULE…]`: see the package's text for what it does.

MODULE is a module of `attest`, `tpm_public`, or one of keys that decides, as `keys.lease`; without
one, all of them.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.mutants.options import options
from tests.mutants.session import Court, Outcome, Session, baseline
from tests.mutants.sites import Mutant, find

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
RESULT = ROOT / "build" / "mutants.json"
KEYS = {
    "approval": ("keys_forms",),
    "ca": ("keys_ca",),
    "ca_proof": ("ca_desk",),
    "ca_request": ("keys_ca",),
    "cache": ("keys_rules", "readable"),
    "crl": ("crl_own", "keys_forms"),
    "dated": ("dated",),
    "lease": ("keys_lease", "lease_desk"),
    "lease_request": ("lease_desk",),
    "manifest": ("keys_manifest",),
    "note": ("keys_note",),
    "parcel": ("parcel", "keys_forms"),
    "policy": ("keys_policy",),
    "rootfs": ("rootfs",),
    "rules": ("keys_rules", "keys_site_rules"),
    "signed": ("signed", "keys_forms"),
    "ssh_certificate": ("ssh_certificate",),
    "upstream": ("upstream_rules", "upstream_words", "upstream_http"),
    "witness": ("witness",),
    "wrap": ("wrap",),
}
"""Modules of keys that decide, and the tests that are theirs."""
MODULES = {
    path.stem: path
    for path in (*sorted((ROOT / "attest").glob("*.py")), ROOT / "keys" / "tpm_public.py")
    if path.stem != "__init__"
} | {f"keys.{name}": ROOT / "keys" / f"{name}.py" for name in KEYS}
TEST_FILES = ("test_attest*", "test_vectors*", "test_reasons*", "test_cli_*")
"""Tests of the verifier whatever they import; beside them each that imports a module in question
and none of the services."""


def main() -> None:
    """Judge the mutants of the modules asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}")
    parser.add_argument("--list", action="store_true", help="name the mutants and end")
    chosen = parser.parse_args()
    names = [name for each in chosen.modules for name in each.split(",") if name] or list(MODULES)
    if unknown := set(names) - set(MODULES):
        parser.error(f"no module {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    try:
        mutants = [mutant for name in names for mutant in find(MODULES[name])]
        files = _test_files(names)
    except SyntaxError as error:
        parser.error(f"{error.filename} is not Python: {error.msg}, line {error.lineno}")
    if chosen.list:
        print("\n".join(f"{mutant.line}: {mutant.name}" for mutant in mutants))
        return
    sys.exit(Run(mutants, complete=len(names) == len(MODULES)).result(files))


def _test_files(names: Iterable[str]) -> list[Path]:
    named = list(names)
    of_keys = {test for name in named for test in KEYS.get(name.removeprefix("keys."), ())}
    verifier = [name for name in named if not name.startswith("keys.")]
    wanted = {f"{MODULES[name].parent.name}.{name}" for name in verifier}
    return [
        path
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        if path.stem.removeprefix("test_") in of_keys or (verifier and _is_verifier(path, wanted))
    ]


def _is_verifier(path: Path, wanted: set[str]) -> bool:
    if any(path.match(f"{pattern}.py") for pattern in TEST_FILES):
        return True
    found = _imports(path)
    return bool(wanted & found) and not any("bootstrap" in name for name in found)


def _imports(path: Path) -> set[str]:
    tree = ast.walk(ast.parse(path.read_text(), str(path)))
    return {node.module or "" for node in tree if isinstance(node, ast.ImportFrom)}


class Run:
    """One run over some mutants."""

    def __init__(self, mutants: list[Mutant], *, complete: bool) -> None:
        self.mutants = mutants
        self.complete = complete
        self.outcomes: list[Outcome] = []
        self.failing: list[str] = []
        self.started = time.monotonic()

    def result(self, files: list[Path]) -> int:
        """Run all of it and give the exit code."""
        session = Session(self._work)
        code = pytest.main([*options(), *map(str, files)], plugins=[session])
        self.failing += [f"not collected: {text}" for text in session.not_collected]
        if not self.outcomes:
            self.failing.append(f"pytest ended with {code!r} before any mutant ran")
        return self._report()

    def _work(self, session: Session) -> None:
        print(f"{len(self.mutants)} mutants; {len(session.items)} tests", flush=True)
        paths = frozenset(map(str, MODULES.values()))
        tests = baseline(session, paths)
        self.failing += [
            f"fails by itself: {name}" for name, test in tests.items() if not test.passed
        ]
        self._say(f"every test once, {len(self.failing)} of them fail")
        for outcome in Court(session, tests).judge(self.mutants):
            if outcome.fault:
                self.failing.append(f"could not try {outcome.mutant.name}: {outcome.fault}")
                continue
            self.outcomes.append(outcome)
            if not outcome.killed_by:
                self._say(f"survived: {outcome.mutant.path.name}:{outcome.mutant.line}")
            elif len(self.outcomes) % 100 == 0:
                self._say(f"{len(self.outcomes)} mutants")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.0f} s  {text}", file=sys.stderr, flush=True)

    def _report(self) -> int:
        known = _equivalent()
        reasons = {
            each.mutant.name: reason
            for each in self.outcomes
            for name, reason in known.items()
            if each.mutant.name == name
            or (name[-1] == "*" and each.mutant.name.startswith(name[:-1]))
        }
        self.outcomes.sort(key=lambda each: (str(each.mutant.path), each.mutant.line))
        survivors = [each for each in self.outcomes if not each.killed_by]
        open_ones = [each for each in survivors if each.mutant.name not in reasons]
        names = {each.mutant.name for each in survivors}
        modules = {_module(each.mutant) for each in self.outcomes}
        stale = [
            name
            for name in known
            if not any(each == name or each.startswith(name.rstrip("*")) for each in names)
            and (self.complete or _named(name) in modules)
        ]
        _write(self.outcomes, reasons)
        _table(self.outcomes, reasons)
        for each in open_ones:
            place = f"{each.mutant.path.relative_to(ROOT)}:{each.mutant.line}"
            tests = f"{each.tests} tests" if each.tests else "no test comes here"
            print(f"SURVIVED {place}: {each.mutant.name} ({tests})")
        for name in stale:
            print(f"STALE {EQUIVALENT.name}: {name}")
        for text in self.failing:
            print(f"NOT USED: {text}")
        print(
            f"{len(open_ones)} survivors without a reason, {time.monotonic() - self.started:.0f} s"
        )
        return 2 if self.failing else int(bool(open_ones or stale))


def _module(mutant: Mutant) -> str:
    return next(name for name, path in MODULES.items() if path == mutant.path)


def _named(mutant: str) -> str:
    """Name the module of a mutant as it is asked for."""
    package, module, *_ = mutant.split(".")
    return f"keys.{module}" if package == "keys" and module in KEYS else module


def _equivalent() -> dict[str, str]:
    entries = tomllib.loads(EQUIVALENT.read_text()).get("mutant", [])
    for entry in entries:
        if set(entry) != {"name", "reason"} or len(entry["reason"]) < 10:
            sys.exit(f"{EQUIVALENT}: each [[mutant]] has a name and a reason: {entry}")
    return {entry["name"]: entry["reason"] for entry in entries}


def _write(outcomes: list[Outcome], reasons: dict[str, str]) -> None:
    document = [
        {
            "mutant": each.mutant.name,
            "file": str(each.mutant.path.relative_to(ROOT)),
            "line": each.mutant.line,
            "killed_by": each.killed_by,
            "equivalent": reasons.get(each.mutant.name, "") if not each.killed_by else "",
            "tests": each.tests,
            "seconds": round(each.seconds, 2),
        }
        for each in outcomes
    ]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=1) + "\n")


def _table(outcomes: list[Outcome], reasons: dict[str, str]) -> None:
    print(f"{'module':16} mutants noticed equivalent survived")
    for module in sorted({_module(each.mutant) for each in outcomes}):
        mine = [each for each in outcomes if _module(each.mutant) == module]
        alive = [each for each in mine if not each.killed_by]
        known = sum(each.mutant.name in reasons for each in alive)
        noticed = len(mine) - len(alive)
        print(f"{module:16} {len(mine):7} {noticed:7} {known:10} {len(alive) - known:8}")


if __name__ == "__main__":
    main()
