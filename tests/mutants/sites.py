"""The checks of a module and how each is taken out: source text in, mutated code out.

It knows nothing of tests. A place is found again by its number in `ast.walk` of the same text.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_GATHERED = ("finding", "workaround", "fault", "told", "note")
"""What lists of findings are called: `findings += …` is a check like any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One check less; `name` is stable while the check's text and function stay."""

    path: Path
    function: str
    first_line: int
    line: int
    place: int
    change: str
    option: int
    source: str
    turn: int

    @property
    def is_row(self) -> bool:
        """Tell whether it is a row of a table less."""
        return self.first_line == 0

    @property
    def module(self) -> str:
        """Give the module's dotted name."""
        return f"{self.path.parent.name}.{self.path.stem}"

    @property
    def name(self) -> str:
        """Give module, function, source and change as one line."""
        turn = f" #{self.turn}" if self.turn else ""
        return f"{self.module}.{self.function}: {self.source}{turn} -> {self.change}"


def find(path: Path) -> list[Mutant]:
    """List the mutants of a module in the order of their lines."""
    text = path.read_text()
    tree = ast.parse(text)
    functions = _functions(tree)
    seen: dict[tuple[str, str, str], int] = {}
    found = []
    tables = {id(node) for node in tree.body}
    for place, node in enumerate(ast.walk(tree)):
        function = functions.get(id(node), ("<module>", 0))
        changes = _changes(node) if id(node) in functions else _rows(node)
        if id(node) not in functions and id(node) not in tables:
            continue
        for option, (change, shown) in enumerate(changes):
            source = _line(ast.get_source_segment(text, shown) or ast.unparse(shown))
            key = function[0], source, change
            seen[key] = seen.get(key, -1) + 1
            found.append(
                Mutant(
                    path=path,
                    function=function[0],
                    first_line=function[1],
                    line=getattr(shown, "lineno", function[1]),
                    place=place,
                    change=change,
                    option=option,
                    source=source,
                    turn=seen[key],
                )
            )
    return sorted(found, key=lambda each: (each.line, each.place, each.option))


def mutate(mutant: Mutant) -> ast.Module:
    """Give the module's tree with that one check taken out."""
    tree = ast.parse(mutant.path.read_text())
    for place, node in enumerate(ast.walk(tree)):
        if place == mutant.place:
            _apply(tree, node, mutant)
            break
    return ast.fix_missing_locations(tree)


def _line(source: str) -> str:
    text = " ".join(source.split())
    return text if len(text) <= 160 else f"{text[:157]}..."


def _functions(tree: ast.Module) -> dict[int, tuple[str, int]]:
    """Map each node inside a function to that function's qualified name and first line."""
    found: dict[int, tuple[str, int]] = {}

    def visit(node: ast.AST, names: tuple[str, ...], owner: tuple[str, int] | None) -> None:
        for child in ast.iter_child_nodes(node):
            inner, inner_owner = names, owner
            if isinstance(child, ast.FunctionDef):
                line = min([child.lineno, *(each.lineno for each in child.decorator_list)])
                inner_owner = ".".join((*names, child.name)), line
                inner = (*names, child.name, "<locals>")
            elif isinstance(child, ast.ClassDef):
                inner = (*names, child.name)
            elif isinstance(child, ast.Lambda):
                inner = (*names, "<lambda>", "<locals>")
                inner_owner = owner or (".".join((*names, "<lambda>")), child.lineno)
            if owner is not None and not isinstance(child, ast.arguments):
                found[id(child)] = owner
            visit(child, inner, inner_owner)

    visit(tree, (), None)
    return found


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Name the ways in which a node can lose a check, with the part that a reader wants to see."""
    yield from _conditions(node)
    yield from _statements(node)


def _rows(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Name the rows of a table of the module; a table of one row is no table."""
    if isinstance(node, ast.Assign | ast.AnnAssign) and not ast.unparse(node).startswith("__all__"):
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        table = _table(node.value)
        for row in _elements(table) if table and isinstance(target, ast.Name) else ():
            yield f"without the row {_line(ast.unparse(row))}", target


def _table(value: ast.expr | None) -> ast.Dict | ast.Set | ast.Tuple | ast.List | None:
    """Find the literal of a table, bare or in `frozenset(…)` and the like."""
    match value:
        case ast.Dict(keys=rows) | ast.Set(elts=rows) | ast.Tuple(elts=rows) | ast.List(elts=rows):
            return value if len(rows) > 1 else None
        case ast.Call(args=[only], keywords=[]):
            return _table(only)
    return None


def _elements(table: ast.Dict | ast.Set | ast.Tuple | ast.List) -> list[ast.expr]:
    if isinstance(table, ast.Dict):
        return [key or value for key, value in zip(table.keys, table.values, strict=True)]
    return table.elts


def _conditions(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.IfExp():
            yield "never", node
            yield "always", node
        case ast.BoolOp():
            for value in node.values:
                yield f"without {_line(ast.unparse(value))}", node
        case ast.Compare() if len(node.ops) == 2:
            yield "without the first comparison", node
            yield "without the second comparison", node
        case ast.comprehension():
            for test in node.ifs:
                yield "lets all through", test
                yield "lets nothing through", test
        case ast.match_case() if node.guard is not None:
            yield "always", node.guard


def _statements(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.If():
            yield "never", node.test
            if node.orelse:
                yield "always", node.test
        case ast.Expr(value=ast.Call() | ast.YieldFrom()):
            yield "left away", node
        case ast.AugAssign() if _gathers(node.target):
            yield "left away", node
        case ast.ExceptHandler() if not _is_bare_raise(node.body):
            yield "not caught", node.type or node


def _gathers(target: ast.expr) -> bool:
    name = ast.unparse(target).rpartition(".")[2]
    return any(part in name for part in _GATHERED)


def _is_bare_raise(body: list[ast.stmt]) -> bool:
    return len(body) == 1 and isinstance(body[0], ast.Raise) and body[0].exc is None


def _said(test: ast.expr, answer: bool) -> ast.expr:
    """Evaluate a condition as before, for what it binds, and give the answer instead."""
    pair = ast.Tuple(elts=[test, ast.Constant(answer)], ctx=ast.Load())
    return ast.Subscript(value=pair, slice=ast.Constant(1), ctx=ast.Load())


def _replace(tree: ast.Module, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list) and any(each is old for each in value):
                setattr(parent, name, [new if each is old else each for each in value])


def _drop_row(table: ast.Dict | ast.Set | ast.Tuple | ast.List | None, number: int) -> None:
    if isinstance(table, ast.Dict):
        del table.keys[number], table.values[number]
    elif table is not None:
        del table.elts[number]


def _drop_comparison(node: ast.Compare, number: int) -> None:
    if number == 0:
        node.left = node.comparators[0]
    del node.ops[number], node.comparators[number]


def _apply(tree: ast.Module, node: ast.AST, mutant: Mutant) -> None:
    option = mutant.option
    match node:
        case ast.Assign() | ast.AnnAssign():
            _drop_row(_table(node.value), option)
        case ast.If() | ast.IfExp():
            node.test = _said(node.test, answer=bool(option))
        case ast.BoolOp():
            del node.values[option]
            if len(node.values) == 1:
                _replace(tree, node, node.values[0])
        case ast.Compare():
            _drop_comparison(node, option)
        case ast.comprehension():
            test = option // 2
            node.ifs[test] = _said(node.ifs[test], answer=option % 2 == 0)
        case ast.match_case(guard=ast.expr() as guard):
            node.guard = _said(guard, answer=True)
        case ast.ExceptHandler():
            node.body = [ast.copy_location(ast.Raise(), node.body[0])]
        case ast.Expr(value=ast.YieldFrom()):
            # Still a generator, with nothing to give.
            node.value = ast.YieldFrom(value=ast.Tuple(elts=[], ctx=ast.Load()))
        case _:
            _replace(tree, node, ast.copy_location(ast.Pass(), node))
