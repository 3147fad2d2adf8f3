"""The mutation run: which checks it finds, and that each mutant is the module with one less."""

import ast
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from tests.mutants import forks
from tests.mutants.install import Functions, Overlay
from tests.mutants.sites import Mutant, find, mutate

SAMPLE = """
LIMITS = {"low": 1, "high": 9}

def check(value, findings, known=(1, 2)):
    if value < 0 or value > LIMITS["high"]:
        raise ValueError("range")
    if 3 <= value <= 5:
        findings.append("middle")
    findings += ["odd"] if value % 2 else []
    try:
        return [each for each in known if each != value][value]
    except IndexError:
        return None
"""


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, Path]:
    """Load a module of its own from a folder that is called like a package."""
    path = tmp_path / "checked" / "sample.py"
    path.parent.mkdir()
    path.write_text(SAMPLE)
    spec = spec_from_file_location("checked.sample", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "checked.sample", module)
    return module, path


def named(path: Path, part: str) -> Mutant:
    (found,) = [mutant for mutant in find(path) if part in mutant.name]
    return found


def test_every_check_is_found_once_by_a_name_that_stays(sample: tuple[ModuleType, Path]) -> None:
    module, path = sample
    names = [mutant.name.removeprefix("checked.sample.") for mutant in find(path)]
    assert names == [
        "<module>: LIMITS -> without the row 'low'",
        "<module>: LIMITS -> without the row 'high'",
        'check: value < 0 or value > LIMITS["high"] -> never',
        'check: value < 0 or value > LIMITS["high"] -> without value < 0',
        "check: value < 0 or value > LIMITS[\"high\"] -> without value > LIMITS['high']",
        "check: 3 <= value <= 5 -> never",
        "check: 3 <= value <= 5 -> without the first comparison",
        "check: 3 <= value <= 5 -> without the second comparison",
        'check: findings.append("middle") -> left away',
        'check: findings += ["odd"] if value % 2 else [] -> left away',
        'check: ["odd"] if value % 2 else [] -> never',
        'check: ["odd"] if value % 2 else [] -> always',
        "check: each != value -> lets all through",
        "check: each != value -> lets nothing through",
        "check: IndexError -> not caught",
    ]
    path.write_text("# a line more\n" + SAMPLE)
    assert [m.name.removeprefix("checked.sample.") for m in find(path)] == names


def outcome(module: ModuleType, value: int) -> object:
    findings: list[str] = []
    try:
        return module.check(value, findings), findings
    except Exception as error:  # noqa: BLE001 - which one is what is compared
        return type(error).__name__


@pytest.mark.parametrize(
    ("part", "value", "before", "after"),
    [
        ("-> without value < 0", -1, "ValueError", (2, ["odd"])),
        ('LIMITS["high"] -> never', 10, "ValueError", (None, [])),
        ("3 <= value <= 5 -> never", 4, (None, ["middle"]), (None, [])),
        ("without the first comparison", 2, (None, []), (None, ["middle"])),
        ("without the second comparison", 7, (None, ["odd"]), (None, ["middle", "odd"])),
        ('append("middle") -> left away', 4, (None, ["middle"]), (None, [])),
        ('+= ["odd"] if value % 2 else [] -> left away', 7, (None, ["odd"]), (None, [])),
        ("lets all through", 1, "ok", (2, ["odd"])),
        ("lets nothing through", 0, (1, []), (None, [])),
        ("not caught", 8, (None, []), "IndexError"),
        ("row 'high'", 8, (None, []), "KeyError"),
    ],
)
def test_a_mutant_is_what_the_module_does_with_one_check_less(
    sample: tuple[ModuleType, Path], part: str, value: int, before: object, after: object
) -> None:
    module, path = sample
    if before != "ok":
        assert outcome(module, value) == before
    Functions().install(named(path, part))
    assert outcome(module, value) == after
    assert path.read_text() == SAMPLE


def test_a_mutant_stands_in_front_of_an_import(sample: tuple[ModuleType, Path]) -> None:
    _, path = sample
    overlay = Overlay(named(path, "not caught"))
    assert overlay.find_spec("checked.other", None) is None
    spec = overlay.find_spec("checked.sample", None)
    assert spec is not None and spec.loader is not None
    module = ModuleType("checked.sample")
    spec.loader.exec_module(module)
    assert outcome(module, 8) == "IndexError"


def test_every_mutant_of_a_module_compiles_to_something_else() -> None:
    path = Path(__file__).parents[1] / "attest" / "replay.py"
    plain = ast.dump(ast.parse(path.read_text()))
    for mutant in find(path):
        tree = mutate(mutant)
        compile(tree, str(path), "exec")
        assert ast.dump(tree) != plain, mutant.name


def test_a_job_that_is_late_or_dies_is_no_answer() -> None:
    def sleeps() -> None:
        __import__("time").sleep(60)

    def dies() -> None:
        __import__("os")._exit(3)

    def fails() -> None:
        raise ValueError("no")

    answers = {each.job: each for each in forks.run([lambda: [7], sleeps, dies, fails], 1.0)}
    assert (answers[0].value, answers[0].fault, answers[0].late) == ([7], "", False)
    assert answers[1].late and answers[1].value is None
    assert "status" in answers[2].fault and not answers[2].late
    assert "ValueError: no" in answers[3].fault
