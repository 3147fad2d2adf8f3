"""`python -m tests`: the whole suite, what boots machines beside what does not.

Both halves wait most of their time, so that two cores do them in the time of the longer one. The
output of the half without machines follows when the other has ended; a red one fails the whole.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

HALVES = ("not boots", "boots")


def main() -> int:
    """Run both; gives 0 when both are green."""
    with tempfile.TemporaryFile() as kept:
        command = [sys.executable, "-m", "pytest", "-m"]
        beside = subprocess.Popen(
            [*command, HALVES[0]], stdin=subprocess.DEVNULL, stdout=kept, stderr=kept
        )
        try:
            shown = subprocess.run([*command, HALVES[1]], stdin=subprocess.DEVNULL).returncode
            hidden = beside.wait()
        finally:
            beside.terminate()
            beside.wait()
        kept.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(kept.read())
        sys.stdout.flush()
    for name, code in zip(HALVES, (hidden, shown), strict=True):
        print(f'-m "{name}": {"green" if code == 0 else f"failed, exit {code}"}')
    return 0 if hidden == shown == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
