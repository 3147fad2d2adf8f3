"""One mutant in a new interpreter: a JSON request on standard input, the answer as last line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.mutants.install import Overlay
from tests.mutants.options import options
from tests.mutants.session import Session
from tests.mutants.sites import Mutant


def main() -> None:
    """Run the tests asked for until one fails; one that cannot be imported has failed."""
    request = json.load(sys.stdin)
    mutant = Mutant(**{**request["mutant"], "path": Path(request["mutant"]["path"])})
    names = request["tests"]
    answer: list[object] = ["", 0]
    sys.meta_path.insert(0, Overlay(mutant))

    def work(session: Session) -> None:
        items = {item.nodeid: item for item in session.items}
        answer[:] = session.first_failure([items[name] for name in names if name in items])

    session = Session(work)
    files = sorted({name.partition("::")[0] for name in names})
    pytest.main([*options(), *files], plugins=[session])
    if session.not_collected:
        answer[:] = [f"import: {session.not_collected[0]}", 1]
    print("\n" + json.dumps(answer))


if __name__ == "__main__":
    main()
