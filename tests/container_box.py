"""A box as a program: the agent's own code with a software TPM that holds a boot.

Run in the boxes' network namespace with one argument, a JSON object of paths and values; it writes
the seed as on a box and prints how the session ended.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from bootstrap.agent.simulate import run_box


def main() -> None:
    """Boot, that is to extend the log's digests, then enrol."""
    given = json.loads(sys.argv[1])
    outcome = run_box(
        f"swtpm:path={given['tpm']}",
        given["url"],
        Path(given["anchor"]),
        Path(given["log"]).read_bytes(),
        Path(given["seed"]),
        known_facts=json.dumps(given["facts"]).encode(),
        extend=True,
        say=lambda text: print(text, file=sys.stderr),
    )
    # what it keeps to renew with is its own
    print(json.dumps(asdict(replace(outcome, kept=None)), default=bytes.hex))


if __name__ == "__main__":
    main()
