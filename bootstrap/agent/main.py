"""Process 1 of the enrolment system: prepares the machine, then enrols it, and never exits.

Only light modules are imported here, so that the first line appears at once; the rest is loaded
while the box waits for its link and its lease. It never prints a secret.
"""

from __future__ import annotations

import sys
import time


def say(text: str) -> None:
    """Print one line for the person at the screen."""
    print(f"doorstep: {text}", flush=True)


def main() -> None:
    """Run as process 1; does not return."""
    say("starting")
    from bootstrap.agent import system

    system.prepare(say)
    from bootstrap.agent import runner

    while True:
        try:
            runner.serve(say)
        except Exception as error:  # noqa: BLE001 - the top of process 1: say it and begin again
            say(f"INTERNAL: {type(error).__name__}: {error}; beginning again in 30 seconds")
            sys.stdout.flush()
            time.sleep(30)
