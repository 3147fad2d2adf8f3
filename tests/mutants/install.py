"""Puts a mutant into a running process, or in front of the import of its module.

Nothing is written: functions get other code, names another table, an import other text.
"""

from __future__ import annotations

import ast
import functools
import gc
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tests.mutants.sites import Mutant, mutate


class Functions:
    """All functions and caches of this process, found once, before any mutant is installed."""

    def __init__(self) -> None:
        """Look through everything that the garbage collector knows."""
        self._by_path: dict[str, list[FunctionType]] = {}
        self._caches = []
        for found in gc.get_objects():
            if isinstance(found, FunctionType):
                self._by_path.setdefault(found.__code__.co_filename, []).append(found)
            elif isinstance(found, functools._lru_cache_wrapper):
                self._caches.append(found)

    def install(self, mutant: Mutant) -> None:
        """Let whoever imported the module before call the mutant.

        ValueError where the mutated code does not fit a function that exists.
        """
        if mutant.is_row:
            _install_table(mutant)
        else:
            self._install_code(mutant)
        self.forget()

    def forget(self) -> None:
        """Empty the caches, so that the next test enters every function that it uses."""
        for cache in self._caches:
            cache.cache_clear()

    def _install_code(self, mutant: Mutant) -> None:
        path = str(mutant.path)
        made = {
            (code.co_qualname, code.co_firstlineno): code
            for code in _codes(compile(mutate(mutant), path, "exec", dont_inherit=True))
        }
        for found in self._by_path.get(path, []):
            code = found.__code__
            found.__code__ = made[code.co_qualname, code.co_firstlineno]


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _install_table(mutant: Mutant) -> None:
    """Compute the table anew and put it wherever a module has the old one."""
    module = import_module(mutant.module)
    statement = list(ast.walk(mutate(mutant)))[mutant.place]
    assert isinstance(statement, ast.Assign | ast.AnnAssign)
    target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
    assert isinstance(target, ast.Name)
    old = vars(module)[target.id]
    expression = ast.Expression(statement.value)
    new = eval(compile(expression, str(mutant.path), "eval"), vars(module))
    for other in list(sys.modules.values()):
        for name, value in list(vars(other).items()) if isinstance(other, ModuleType) else ():
            if value is old:
                setattr(other, name, new)


class Overlay(MetaPathFinder):
    """Finds one module as its mutant, for a process that has not imported it yet."""

    def __init__(self, mutant: Mutant) -> None:
        """Stand in for the module of `mutant`."""
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Give the mutant's spec for its own name alone."""
        if fullname != self._mutant.module:
            return None
        loader = _Loader(fullname, str(self._mutant.path))
        loader.mutant = self._mutant
        return spec_from_file_location(fullname, self._mutant.path, loader=loader)


class _Loader(SourceFileLoader):
    mutant: Mutant

    def get_code(self, fullname: str) -> CodeType:
        """Compile the mutated text, past every cache."""
        code: Any = compile(mutate(self.mutant), self.path, "exec", dont_inherit=True)
        return code
