"""`python -m tests.bench.http_server DIRECTORY ADDRESS PORT`: our HTTP boot server alone.

DIRECTORY/files holds one file named by its SHA-256, which is served as /image.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address
from pathlib import Path

from netboot.files import FileMap
from netboot.io.files import FileStore
from netboot.io.http import HttpRunner


def main() -> None:
    """Serve until killed."""
    directory, address, port = sys.argv[1:]
    store = Path(directory) / "files"
    (image,) = store.iterdir()
    runner = HttpRunner(FileStore(store), lambda events: None, int(port))
    here = IPv4Address(address)
    runner.replace(FileMap({"/image": bytes.fromhex(image.name)}, [here]), [here])
    while True:
        runner.turn(1.0)


if __name__ == "__main__":
    main()
